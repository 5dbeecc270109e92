"""Copies of code that the users of steps may not read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.workers import code_copy
from pdkernel.workers.code_copy import CodeCopies, CodeNotCopiedError, check_size

NOTHING: frozenset[Path] = frozenset()


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def copies(tmp_path: Path, clock: Clock) -> CodeCopies:
    """Copies in an empty folder."""
    return CodeCopies(tmp_path / "copies", clock=clock)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A folder of code that the group of its owner may read."""
    folder = tmp_path / "project"
    (folder / "lib").mkdir(parents=True, mode=0o750)
    (folder / "code.py").write_text("code")
    (folder / "lib" / "tool").write_text("tool")
    (folder / "code.py").chmod(0o640)
    (folder / "lib" / "tool").chmod(0o750)
    folder.chmod(0o750)
    yield folder
    folder.chmod(0o700)


def listed(folder: Path) -> set[str]:
    """The names in *folder* and below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_copy_may_be_read_by_the_group(copies: CodeCopies, project: Path) -> None:
    """The group may read files, enter folders and execute programs, and change nothing; others may do nothing."""
    copy = copies.provide(project, os.getgid(), NOTHING)

    paths = (copy, copy / "lib", copy / "code.py", copy / "lib" / "tool")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in paths]
    assert modes == [0o750, 0o750, 0o440, 0o550]
    assert {path.stat().st_gid for path in paths} == {os.getgid()}
    assert (copy / "code.py").read_text() == "code"
    assert (copy / "code.py").stat().st_mtime_ns == (project / "code.py").stat().st_mtime_ns


def test_folder_is_copied_once(copies: CodeCopies, project: Path) -> None:
    """A second request returns the same copy."""
    assert copies.provide(project, os.getgid(), NOTHING) == copies.provide(project, os.getgid(), NOTHING)


def test_what_is_skipped_is_empty(copies: CodeCopies, project: Path) -> None:
    """The folder of the project's secrets is a place for a mount, without its content; so is a file."""
    (project / ".pdkernel").mkdir()
    (project / ".pdkernel" / "key").write_text("secret")
    (project / "own.key").write_text("secret")

    copy = copies.provide(project, os.getgid(), frozenset({project / ".pdkernel", project / "own.key"}))

    assert listed(copy) == {"code.py", "lib", "lib/tool", ".pdkernel", "own.key"}
    assert (copy / "own.key").read_bytes() == b""


@pytest.mark.parametrize(("mode", "is_copied"), [(0o750, False), (0o700, True)])
def test_file_that_its_owner_closed_is_not_copied(
    copies: CodeCopies, project: Path, mode: int, *, is_copied: bool
) -> None:
    """Where the group may read the folder, a file that it may not read stays closed; a folder of the owner is copied whole."""
    (project / ".env").write_text("TOKEN=secret")
    (project / ".env").chmod(0o600)
    project.chmod(mode)

    copy = copies.provide(project, os.getgid(), NOTHING)

    assert (".env" in listed(copy)) == is_copied


def test_links_are_not_followed(copies: CodeCopies, project: Path, tmp_path: Path) -> None:
    """A link in the copy leads to where that of the folder leads; nothing outside of the folder is copied."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_text("secret")
    (project / "link").symlink_to(tmp_path / "outside")
    (project / "file link").symlink_to("../outside/key")
    os.mkfifo(project / "pipe")

    copy = copies.provide(project, os.getgid(), NOTHING)

    assert (copy / "link").readlink() == tmp_path / "outside"
    assert str((copy / "file link").readlink()) == "../outside/key"
    assert not (copy / "pipe").exists()


def test_changes_are_copied(copies: CodeCopies, project: Path, clock: Clock) -> None:
    """A changed, new, removed or replaced file is so in the copy after an update, which keeps its place."""
    copy = copies.provide(project, os.getgid(), NOTHING)
    (project / "code.py").write_text("changed")
    (project / "code.py").chmod(0o640)
    (project / "new").mkdir()
    (project / "new" / "file").write_text("new")
    (project / "lib" / "tool").unlink()
    (project / "lib").rmdir()
    (project / "lib").write_text("a file now")

    before = listed(copy)
    copies.update()
    too_early = listed(copy)
    clock.now += 100
    copies.update()

    assert too_early == before
    assert listed(copy) == {"code.py", "new", "new/file", "lib"}
    assert (copy / "code.py").read_text() == "changed"
    assert (copy / "lib").read_text() == "a file now"


def test_update_is_due_after_a_while(copies: CodeCopies, project: Path, clock: Clock) -> None:
    """Without copies nothing is due, and a copy is not checked at each run."""
    without = copies.is_update_due()
    copies.provide(project, os.getgid(), NOTHING)
    at_once = copies.is_update_due()
    clock.now += 2

    assert (without, at_once, copies.is_update_due()) == (False, False, True)


def test_large_folder_is_not_copied(copies: CodeCopies, project: Path, tmp_path: Path) -> None:
    """A folder beyond the limit is refused before its content is read, with the reason, and leaves no file."""
    with (project / "large").open("wb") as file:
        file.truncate(code_copy.MAX_COPIED_BYTES + 1)
    (project / "large").chmod(0o640)

    with pytest.raises(CodeNotCopiedError, match="more than 1,024 MB"):
        copies.provide(project, os.getgid(), NOTHING)

    assert "more than 1,024 MB" in (check_size(project, NOTHING) or "")
    assert check_size(project, frozenset({project / "large"})) is None
    assert listed(tmp_path / "copies") == set()
