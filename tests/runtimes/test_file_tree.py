"""Removing folders that a step could write to."""

from __future__ import annotations

import logging
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pdkernel.runtimes.file_tree import make_readable, remove_tree, temporary_folder
from tests.privileges import run_unprivileged

ROOT = Path(__file__).parents[2]
REMOVE = """
import logging, sys
from pathlib import Path
from pdkernel.runtimes.file_tree import remove_tree
logging.basicConfig(level=logging.WARNING, format="%(message)s")
print(remove_tree(Path(sys.argv[1])))
"""


def tree(folder: Path, *files: str) -> Path:
    """*folder* with *files* in it."""
    for name in files:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("kept")
    return folder


def names(folder: Path) -> list[str]:
    """The names in *folder*."""
    return sorted(path.name for path in folder.iterdir())


def removed_apart(apart: tuple[str, ...], mounts: str, work: Path, outside: Path) -> tuple[str, str]:
    """Whether *work* was removed after the shell made *mounts* (`$1` is *work*, `$2` *outside*), and the log."""
    script = f'set -e\n{mounts}\nexec "$3" -c "$4" "$1"\n'
    done = subprocess.run(
        [*apart, "sh", "-c", script, "sh", str(work), str(outside), sys.executable, REMOVE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr.strip()


MOUNTS = {
    "folder": 'mount --bind "$2" "$1/deep"',
    "file": 'mount --bind "$2/file" "$1/deep/file"',
    "nested": 'mount --bind "$2" "$1/deep"; mount --bind "$2/sub" "$1/deep/sub"; mount --bind "$2" "$1/deep/sub/sub"',
    "other device": 'mount -t tmpfs none "$1/deep"; mkdir "$1/deep/in"; mount --bind "$2" "$1/deep/in"',
    "whole": 'mount --bind "$2" "$1"',
    "twice": 'mount --bind "$2" "$1/deep"; mount --bind "$2" "$1/deep"',
    "itself": 'mount --bind "$1/deep" "$1/deep"; mount --bind "$2" "$1/deep/empty"',
    "shared": 'mount --make-shared --bind "$2" "$2"; mount --rbind "$2" "$1/deep"',
}


@pytest.mark.parametrize("mounts", MOUNTS.values(), ids=MOUNTS.keys())
def test_mounted_files_stay(tmp_path: Path, apart: tuple[str, ...], mounts: str) -> None:
    """A folder or file that is mounted below the folder, from the same device or another, is unchanged."""
    outside = tree(tmp_path / "outside", "file", "sub/file", "sub/sub/file")
    work = tree(tmp_path / "work", "deep/file", "other/file")
    (work / "deep" / "empty").mkdir()

    said, log = removed_apart(apart, mounts, work, outside)

    assert said == "False"
    assert sorted(path.relative_to(outside) for path in outside.rglob("file")) == [
        Path("file"),
        Path("sub/file"),
        Path("sub/sub/file"),
    ]
    assert log.startswith(f"{work} was not removed: something is mounted in it")


def test_files_beside_a_mount_are_removed(tmp_path: Path, apart: tuple[str, ...]) -> None:
    """Only the mount and its parent folders stay."""
    outside = tree(tmp_path / "outside", "file")
    work = tree(tmp_path / "work", "a/file", "deep/x/file", "z/file")
    (work / "deep" / "mounted").mkdir()

    removed_apart(apart, 'mount --bind "$2" "$1/deep/mounted"', work, outside)

    assert sorted(path.relative_to(work) for path in work.rglob("*")) == [Path("deep"), Path("deep/mounted")]


def test_a_folder_on_a_mounted_volume_is_removed(tmp_path: Path, apart: tuple[str, ...]) -> None:
    """If the parent folder is on the same mount, as in a container's volume, the folder is removed."""
    volume = tree(tmp_path / "volume", "work/deep/file")
    place = tmp_path / "place"
    place.mkdir()

    said, log = removed_apart(apart, 'mount --bind "$2" "$1"; set -- "$1/work" "$2" "$3" "$4"', place, volume)

    assert (said, log) == ("True", "")
    assert list(volume.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """The targets of links stay: folders, files, the folder itself; a broken link is removed."""
    outside = tree(tmp_path / "outside", "file", "sub/file")
    work = tree(tmp_path / "work", "deep/file")
    for name, target in {"folder": outside, "link": outside / "file", "loop": work, "broken": tmp_path / "no"}.items():
        (work / "deep" / name).symlink_to(target)
    os.link(outside / "file", work / "hard")

    done = remove_tree(work)

    assert done
    assert not work.exists()
    assert (outside / "sub" / "file").read_text() == (outside / "file").read_text() == "kept"


def test_a_link_in_the_place_of_the_folder_is_removed(tmp_path: Path) -> None:
    """Only the link is removed."""
    outside = tree(tmp_path / "outside", "file")
    (tmp_path / "work").symlink_to(outside)

    done = remove_tree(tmp_path / "work")

    assert done
    assert names(tmp_path) == ["outside"]
    assert names(outside) == ["file"]


def test_files_of_every_kind_are_removed(tmp_path: Path) -> None:
    """Pipes, sockets, unusual names and a file in the place of the folder are removed; a folder that is gone is not an error."""
    work = tree(tmp_path / "work", "line\nend", "-rf", "a b/c")
    os.mkfifo(work / "pipe")
    (work / os.fsdecode(b"\xff\xfe")).touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(work / "socket"))
    tree(tmp_path, "file")

    places = (work, tmp_path / "file", tmp_path / "file", tmp_path / "gone" / "work")

    done = [remove_tree(place) for place in places]

    assert done == [True, True, True, True]
    assert names(tmp_path) == []


SWAPPED = """
import os, sys
from pathlib import Path
from pdkernel.runtimes.file_tree import remove_tree
work, outside, opened = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
victim, left = work / "victim", list(range(int(sys.argv[4])))

def swap(event, args):
    if event == "open" and args[0] == opened and left:
        left.pop()
        if left:
            return
        victim.rename(work / "aside")
        victim.symlink_to(outside)

sys.addaudithook(swap)
remove_tree(work)
print(not left)
"""


@pytest.mark.parametrize(("opened", "time"), [("victim", 1), (".", 2), ("sub", 1), ("..", 1)])
def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path: Path, opened: str, time: int) -> None:
    """A folder becomes a link before it is opened, read, descended into, or left."""
    outside = tree(tmp_path / "outside", "file", "sub/file")
    work = tree(tmp_path / "work", "victim/file", "victim/sub/file")

    argv = [sys.executable, "-c", SWAPPED, str(work), str(outside), opened, str(time)]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert said.strip() == "True"
    assert (outside / "file").exists()
    assert (outside / "sub" / "file").exists()


MOVED = """
import os, sys
from pathlib import Path
from pdkernel.runtimes.file_tree import remove_tree
work, outside, left = Path(sys.argv[1]), Path(sys.argv[2]), [1]

def move(event, args):
    if event == "open" and args[0] == ".." and left:
        left.clear()
        (work / "a" / "b").rename(outside / "b2")

sys.addaudithook(move)
print(remove_tree(work))
"""


def test_a_folder_that_is_moved_meanwhile(tmp_path: Path) -> None:
    """The parent of a moved folder is not entered."""
    outside = tree(tmp_path / "outside", "file")
    (outside / "b").mkdir()
    work = tree(tmp_path / "work", "a/b/file")

    said = subprocess.run(
        [sys.executable, "-c", MOVED, work, outside], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert said.stdout.strip() == "False"
    assert "another process moved a folder in it" in said.stderr
    assert names(outside) == ["b", "b2", "file"]


def test_folders_without_permissions_are_removed(tmp_path: Path) -> None:
    """A step may have removed every permission from its folders."""
    work = tree(tmp_path / "work", "none/deep/file", "read/deep/file", "enter/deep/file")
    for name, mode in {"none/deep": 0, "none": 0, "read": stat.S_IRUSR, "enter": stat.S_IXUSR, ".": 0}.items():
        (work / name).chmod(mode)

    done = run_unprivileged(sys.executable, "-c", REMOVE, work, cwd=ROOT)

    assert (done.stdout.strip(), done.stderr) == ("True", "")
    assert not work.exists()


def test_a_folder_that_cannot_be_removed_is_logged(tmp_path: Path) -> None:
    """The log has the folder, the reason and a fix."""
    work = tree(tmp_path / "work", "file")
    tmp_path.chmod(0o500)

    done = run_unprivileged(sys.executable, "-c", REMOVE, work, cwd=ROOT)
    tmp_path.chmod(0o700)

    assert done.stdout.strip() == "False"
    assert (
        done.stderr.strip() == f"{work} was not removed: Permission denied. Correct the cause, then remove the folder."
    )


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    """The depth may exceed Python's stack, the number of open files and the maximum length of a path."""
    work = tmp_path / "work"
    work.mkdir()
    here = os.open(work, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    program = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))\n{REMOVE}"

    done = subprocess.run([sys.executable, "-c", program, work], cwd=ROOT, capture_output=True, text=True, check=True)

    assert (done.stdout.strip(), done.stderr) == ("True", "")
    assert not work.exists()


def test_a_temporary_folder_is_removed_after_a_failure(tmp_path: Path) -> None:
    """The folder exists inside the block only."""
    found: list[Path] = []

    def fail() -> None:
        with temporary_folder("test-", inside=tmp_path) as folder:
            found.extend(tree(folder, "deep/file").parent.iterdir())
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()

    assert len(found) == 1
    assert names(tmp_path) == []


def test_no_descriptor_is_left_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After success and failure no descriptor is open."""
    before = len(names(Path("/proc/self/fd")))
    with caplog.at_level(logging.ERROR):
        remove_tree(tree(tmp_path / "work", "a/b/c/file", "d/file"))
        remove_tree(tmp_path / "nowhere" / "work")
        remove_tree(Path("/proc/self/ns"))

    assert len(names(Path("/proc/self/fd"))) <= before


def test_folder_is_made_readable_without_following_links(tmp_path: Path) -> None:
    """All users may read a folder and enter its subfolders; programs stay programs, and what a link leads to stays closed."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True, mode=0o700)
    for file in (folder / "sub" / "program", folder / "text", outside):
        file.write_text("x")
        file.chmod(0o700 if file.name == "program" else 0o600)
    folder.chmod(0o700)
    (folder / "link").symlink_to(outside)

    make_readable(folder)

    modes = {
        path.name: oct(path.stat().st_mode & 0o777) for path in (folder, *folder.rglob("*")) if path.name != "link"
    }
    assert modes == {"folder": "0o755", "sub": "0o755", "program": "0o755", "text": "0o644"}
    assert outside.stat().st_mode & 0o777 == 0o600


def test_link_is_not_made_readable(tmp_path: Path) -> None:
    """A link in place of the folder is an error."""
    (tmp_path / "outside").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "outside")

    with pytest.raises(OSError, match="link"):
        make_readable(tmp_path / "link")

    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o700
