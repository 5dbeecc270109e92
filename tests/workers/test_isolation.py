"""What this machine permits, and what is missing."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.workers.isolation import Isolation, StepAccess, make_scratch_folder

EVERYTHING = Isolation(namespaces=True, landlock=True)
WHY = (
    ("namespaces", "Operation not permitted"),
    ("landlock", "the kernel does not provide it"),
    ("ports", "the kernel does not provide it"),
    ("user", "not root"),
)


def test_report_of_a_zygote() -> None:
    """What a zygote reports becomes the protections, and the reasons for those that are missing."""
    report = b'{"namespaces": "Operation not permitted", "landlock": 1, "user_ids": null}'

    assert Isolation.parse(b'{"namespaces": null, "landlock": 4, "user_ids": 2000000000}') == Isolation(
        namespaces=True, landlock=True, first_uid=2_000_000_000
    )
    assert dict(Isolation.parse(report).reasons)["landlock"] == "the kernel is too old"
    assert Isolation.parse(report).namespaces is False
    found = [Isolation.parse(report.replace(b'"landlock": 1', b'"landlock": %d' % version)) for version in (0, 2)]
    assert [each.landlock for each in found] == [False, True]
    assert dict(found[0].reasons)["landlock"] == "the kernel does not provide it"
    assert dict(found[1].reasons)["ports"] == "the kernel is older than Linux 6.7"


@pytest.mark.parametrize(
    ("isolation", "missing_as_root", "missing"),
    [
        (EVERYTHING, 0, 0),
        (replace(EVERYTHING, landlock=False, first_uid=2_000_000_000), 0, 0),
        (replace(EVERYTHING, landlock=False, reasons=WHY), 1, 0),
        (Isolation(landlock=True, reasons=WHY[:1]), 1, 1),
        (Isolation(reasons=WHY), 10, 9),
    ],
)
def test_walls_that_keep_users_apart(isolation: Isolation, missing_as_root: int, missing: int) -> None:
    """A wall that lets a run reach another one does not hold if the system lacks what it needs, and its sentence has the reason."""
    found = [
        [wall for wall in isolation.list_walls(is_root=is_root) if wall.missing is not None and wall.separates_users]
        for is_root in (True, False)
    ]

    assert [len(each) for each in found] == [missing_as_root, missing]
    assert all(any(why in str(wall.missing) for _, why in WHY) for wall in found[0])


def test_ports_of_servers_are_a_wall_that_does_not_keep_users_apart() -> None:
    """Without Landlock's rules for ports, that wall is missing, and a server may be reached by other machines all the same."""
    isolation = replace(EVERYTHING, reasons=(("ports", "the kernel is older than Linux 6.7"),))

    (wall,) = [wall for wall in isolation.list_walls(is_root=False) if wall.missing is not None]

    assert (wall.cannot, wall.separates_users) == ("listen at the port of a server that restarts", False)
    assert wall.to_json()["holds"] is False


def test_missing_walls_are_described_by_reason() -> None:
    """The walls that are missing for one reason are one text, which begins with the reason."""
    isolation = Isolation(landlock=True, reasons=(WHY[0], ("ports", "the kernel is older than Linux 6.7")))

    first, second = isolation.describe_missing_walls()

    assert first == (
        "Isolation is incomplete: namespaces are not available (Operation not permitted). A step can see the processes, or the "
        "files in `/tmp`, of other runs."
    )
    assert second.startswith(
        "Isolation is incomplete: Landlock has no rules for ports (the kernel is older than Linux 6.7)."
    )
    assert EVERYTHING.describe_missing_walls() == ()


def test_what_is_in_force_is_described() -> None:
    """Each protection has a sentence, with the reason if it is missing."""
    missing = Isolation(reasons=WHY).describe()

    assert replace(EVERYTHING, first_uid=2_000_000_000).describe() == {
        "isolation_processes": "own processes, mounts and /tmp",
        "isolation_files": "Landlock permits the system's programs, packages, the project's code and /tmp",
        "isolation_ports": "steps listen on free ports, and on those of `settings: listen`",
        "isolation_user": "workers have a user id of their own, per slot",
    }
    assert missing == {
        "isolation_processes": "not in force: Operation not permitted",
        "isolation_files": "not in force: the kernel does not provide it",
        "isolation_ports": "not in force, steps listen on any port: the kernel does not provide it",
        "isolation_user": "workers have the user of this process: not root",
    }
    assert Isolation.unavailable("no reason").describe()["isolation_files"] == "not in force: no reason"


def test_code_that_other_users_may_not_read_is_a_gap() -> None:
    """Where steps of a server of root keep its user because of the code, this is reported as a gap and not as a user of their own."""
    isolation = replace(EVERYTHING, first_uid=2_000_000_000).without_user("other users may not read /srv/code")

    (wall,) = [wall for wall in isolation.list_walls(is_root=True) if wall.missing is not None]

    assert wall.describe() == "A step can have the user id or the rights of root."
    assert wall.missing == "steps have the user id of root, without its rights: other users may not read /srv/code"
    assert isolation.describe()["isolation_user"] == (
        "workers have the user of this process: other users may not read /srv/code"
    )
    assert isolation.describe_root() == []


def test_server_of_root_says_who_runs_its_steps() -> None:
    """The line names the user of the steps; a server of another user has no line."""
    lines = [isolation.describe_root() for isolation in (Isolation(reasons=WHY), replace(EVERYTHING, first_uid=60_000))]

    if os.geteuid() != 0:
        assert lines == [[], []]
    else:
        assert lines[0] == ["This server runs as root, and so do steps, without its rights: not root."]
        assert lines[1][0].startswith("This server runs as root. Steps run as other users")


@pytest.mark.parametrize(("temporary", "parent"), [("/tmp", "/var/tmp"), (None, None)])
def test_scratch_folder_is_outside_of_tmp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, temporary: str | None, parent: str | None
) -> None:
    """Processes with a `/tmp` of their own see the folder; another temporary folder that the user has chosen is used."""
    monkeypatch.setattr(tempfile, "tempdir", temporary or str(tmp_path))

    folder = make_scratch_folder("pdkernel-test-")
    folder.rmdir()

    assert str(folder.parent) == (parent or str(tmp_path))
    assert folder.name.startswith("pdkernel-test-")


def test_a_process_serves_runs_that_need_no_more() -> None:
    """Another path to read or to change needs another process, and so does another path to hide."""
    a, b = Path("/a"), Path("/b")
    access = StepAccess(read=frozenset({a, b}), write=frozenset({a}), hide=frozenset({b}))

    assert access.covers(StepAccess())
    assert access.covers(replace(access, read=frozenset({a})))
    for wider in (
        replace(access, read=frozenset({a, b, Path("/c")})),
        replace(access, write=frozenset({a, b})),
        replace(access, hide=frozenset({a, b})),
    ):
        assert wider.covers(access)
        assert not access.covers(wider)


def test_paths_of_an_access_are_absolute() -> None:
    """A relative path would be another one in the processes, whose working folder is another one."""
    code = frozenset({Path("code")})

    for change in ({"read": code}, {"write": code}, {"hide": code}):
        with pytest.raises(ValueError, match="'code' is not an absolute path"):
            replace(StepAccess(), **change)  # type: ignore[arg-type]  # of paths only


def test_access_is_extended_by_what_it_does_not_show() -> None:
    """A path below one that can be read is shown, unless it is below a hidden one."""
    access = StepAccess(read=frozenset({Path("/a"), Path("/a/b/c")}), hide=frozenset({Path("/a/b")}))

    assert access.extend([Path("/a"), Path("/a/x/y"), Path("/a/b/c/d")], []) is access
    more = access.extend([Path("/a/b/x"), Path("/d")], [Path("/a/x")])
    assert more.read - access.read == {Path("/a/b/x"), Path("/d")}
    assert (more.write, more.hide) == (frozenset({Path("/a/x")}), access.hide)
    assert more.extend([Path("/d/e")], [Path("/a/x")]) is more
