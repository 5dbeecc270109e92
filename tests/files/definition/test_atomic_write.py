"""Writing files into a folder: all of them, or none."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition.atomic_write import PENDING_FILE, write_files_atomically
from tests.privileges import drop_override

WRITE = """
import resource, sys
from pathlib import Path
from pdkernel.files.definition.atomic_write import write_files_atomically
from pdkernel.errors import RequestError
if {limit}:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    write_files_atomically({{"a/one": b"new", "b/two": b"new" * 1000, "c/new": b"new"}}, Path(sys.argv[1]))
except RequestError as error:
    sys.exit(error.message)
"""


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file under *folder* and its mode."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, one of them a program."""
    for name in ("a/one", "b/two"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "b/two").chmod(0o755)
    (tmp_path / "a/one").chmod(0o644)
    return tmp_path


def test_replaced_files_keep_their_modes(folder: Path) -> None:
    """A replaced file keeps its mode, and a new file is readable by all. No other file is left."""
    write_files_atomically({"a/one": b"1", "b/two": b"2", "new/deep/three": b"3"}, folder)

    assert contents(folder) == {"a/one": (b"1", 0o644), "b/two": (b"2", 0o755), "new/deep/three": (b"3", 0o644)}


def test_a_rename_that_fails_midway_undoes_the_others(folder: Path) -> None:
    """If a rename fails after others, every file is restored and new folders are removed."""
    before = contents(folder)
    # a file cannot take the place of a folder, which the last of the files makes
    files = {"a/one": b"1", "b/two": b"2", "new/deep/three": b"3", "z": b"4", "z/five": b"5"}

    with pytest.raises(RequestError, match="It is unchanged"):
        write_files_atomically(files, folder)

    assert contents(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


class InterruptedFiles(dict[str, bytes]):
    """Files whose writing is interrupted after the last one."""

    def items(self) -> Iterator[tuple[str, bytes]]:  # type: ignore[override]
        """Each file, then an interrupt."""
        yield from super().items()
        raise KeyboardInterrupt


def test_an_interrupt_changes_nothing(folder: Path) -> None:
    """An interrupt is passed on, and no temporary file and no new folder is left."""
    before = contents(folder)

    with pytest.raises(KeyboardInterrupt):
        write_files_atomically(InterruptedFiles({"a/one": b"1", "new/deep/three": b"3"}), folder)

    assert contents(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit for the size of files")
def test_a_full_disk_changes_nothing(folder: Path) -> None:
    """If the disk is full, no file is changed and nothing is left behind."""
    before = contents(folder)

    ended = subprocess.run([sys.executable, "-c", WRITE.format(limit=1000), folder], capture_output=True, text=True)

    assert "cannot be written" in ended.stderr, ended.stderr
    assert contents(folder) == before
    assert not (folder / "c").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_a_read_only_folder_changes_nothing(folder: Path) -> None:
    """If one step's folder is read-only, no file in the other folders is changed."""
    before = contents(folder)
    (folder / "b").chmod(0o555)

    ended = subprocess.run(
        [sys.executable, "-c", WRITE.format(limit=0), folder], capture_output=True, text=True, preexec_fn=drop_override
    )
    (folder / "b").chmod(0o755)

    assert "Permission denied" in ended.stderr, ended.stderr
    assert contents(folder) == before
    assert not (folder / "c").exists()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_kill_between_two_renames_is_completed_by_the_next_write(tmp_path: Path, number: int) -> None:
    """Whichever rename a kill prevents, the next write makes the files those of one write, and says so; then writes work again."""
    folder = tmp_path / "flow"
    names = ("a.txt", "b.txt", "c.txt")
    write_files_atomically(dict.fromkeys(names, b"old"), folder)
    code = (
        "import sys; from pathlib import Path; from tests.durability.faults import kill_at_rename;"
        "from pdkernel.files.definition.atomic_write import write_files_atomically;"
        "kill_at_rename(int(sys.argv[1]), sys.argv[2]);"
        "write_files_atomically(dict.fromkeys(('a.txt', 'b.txt', 'c.txt'), b'new'), Path(sys.argv[2]))"
    )
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", code, str(number), str(folder)], cwd=root, check=False)
    if number > 1:
        with pytest.raises(RequestError, match="complete now"):
            write_files_atomically({"a.txt": b"last"}, folder)
    contents = {(folder / name).read_bytes() for name in names}
    write_files_atomically({"a.txt": b"last"}, folder)

    assert killed.returncode == -signal.SIGKILL
    assert contents == {b"old" if number == 1 else b"new"}
    assert not (folder / PENDING_FILE).exists()
    assert (folder / "a.txt").read_bytes() == b"last"


def test_a_list_of_renames_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A folder of another person cannot let an export move files outside of it."""
    folder, outside = tmp_path / "flow", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    (folder / PENDING_FILE).write_text('[["../outside", "a.txt"]]')

    with pytest.raises(RequestError):
        write_files_atomically({"a.txt": b"new"}, folder)

    assert outside.read_text() == "mine"


def test_a_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files are written into a folder that a person names from the current one."""
    monkeypatch.chdir(tmp_path)

    write_files_atomically({"a.txt": b"1", "deep/b.txt": b"2"}, Path("flow"))

    assert [(tmp_path / "flow" / name).read_bytes() for name in ("a.txt", "deep/b.txt")] == [b"1", b"2"]
    assert not (tmp_path / "flow" / PENDING_FILE).exists()
