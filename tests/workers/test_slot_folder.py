"""The folder of a slot and the files of a step: what a step leaves there is never followed."""

from __future__ import annotations

import ast
import gc
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import pdkernel
from pdkernel.workers.isolation import NO_PLAN, IsolationPlan, Mount
from pdkernel.workers.slot_folder import SlotFolder, StepFileError, StepFiles

OTHER_USER = 65534
IS_ROOT = os.geteuid() == 0
PACKAGE = Path(pdkernel.__file__).parent
SECRET = b"a secret of the server"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the server that steps must not get."""
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    return file


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[SlotFolder]:
    """A slot for processes of this user."""
    (tmp_path / "slots").mkdir()
    folder = SlotFolder(tmp_path / "slots", 1, NO_PLAN)
    yield folder
    folder.remove()


@pytest.fixture
def files(slot: SlotFolder) -> Iterator[StepFiles]:
    """The files of a step, with the file `exports`."""
    created = slot.create_step_files()
    created.write("exports", b"a=1\n")
    created.give_to_step()
    yield created
    created.remove()


def replace_by(make: Callable[[Path], object], files: StepFiles) -> None:
    """Replace the file of exports, as a step does."""
    exports = Path(files.path, "exports")
    exports.unlink()
    make(exports)


def test_file_of_a_step_is_read(files: StepFiles) -> None:
    """What the step has appended is read."""
    with Path(files.path, "exports").open("ab") as opened:
        opened.write(b"b=2\n")

    assert files.read("exports", 100) == (b"a=1\nb=2\n", 8)


def test_file_that_the_step_replaced_is_read(files: StepFiles) -> None:
    """A file that the step has moved there, as `sed -i` does, is read."""
    new = Path(files.path, "new")
    new.write_bytes(b"c=3\n")
    new.replace(Path(files.path, "exports"))

    assert files.read("exports", 100) == (b"c=3\n", 4)


def test_file_that_the_step_removed_is_none(files: StepFiles) -> None:
    """A file that is not there is not an error."""
    Path(files.path, "exports").unlink()

    assert files.read("exports", 100) is None


REPLACEMENTS: dict[str, tuple[Callable[[Path], Callable[[Path], object]], str]] = {
    "link": (lambda secret: lambda exports: exports.symlink_to(secret), "symbolic link"),
    "link to a descriptor": (lambda _: lambda exports: exports.symlink_to("/proc/self/fd/0"), "symbolic link"),
    "link to the environment": (lambda _: lambda exports: exports.symlink_to("/proc/self/environ"), "symbolic link"),
    "hard link": (lambda secret: lambda exports: os.link(secret, exports), "more than one name"),
    "FIFO": (lambda _: os.mkfifo, "not a regular file"),
    "folder": (lambda _: Path.mkdir, "not a regular file"),
    "socket": (lambda _: lambda exports: listen_at(exports), "not a regular file"),
}


def listen_at(path: Path) -> None:
    """Make a Unix socket at *path*, whatever its length."""
    before = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_what_is_not_a_file_of_the_step_is_an_error(files: StepFiles, secret: Path, replacement: str) -> None:
    """Neither a link nor a hard link leads to a file of the server, and nothing else blocks the server."""
    make, reason = REPLACEMENTS[replacement]
    replace_by(make(secret), files)
    began = time.monotonic()

    with pytest.raises(StepFileError, match=reason):
        files.read("exports", 100)

    assert time.monotonic() - began < 1


@pytest.mark.skipif(not IS_ROOT, reason="only root can make a device or give a file to another user")
def test_device_is_an_error(files: StepFiles) -> None:
    """A device is not read."""
    replace_by(lambda exports: os.mknod(exports, 0o666 | stat.S_IFCHR, os.makedev(1, 5)), files)

    with pytest.raises(StepFileError, match="not a regular file"):
        files.read("exports", 100)


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a file to another user")
def test_file_of_another_user_is_an_error(files: StepFiles) -> None:
    """A file that is not the step's is not read, even if it has one name."""
    os.chown(Path(files.path, "exports"), OTHER_USER, OTHER_USER)

    with pytest.raises(StepFileError, match="another user"):
        files.read("exports", 100)


def test_closed_file_is_an_error(files: StepFiles) -> None:
    """A file that the step has closed to its own user is not read; root reads it."""
    Path(files.path, "exports").chmod(0)

    if IS_ROOT:
        assert files.read("exports", 100) == (b"a=1\n", 4)
    else:
        with pytest.raises(StepFileError, match="cannot be read"):
            files.read("exports", 100)


def test_growing_file_is_read_up_to_the_limit(files: StepFiles) -> None:
    """A file that grows while it is read ends at the limit, and a sparse file of any size, too."""
    os.truncate(Path(files.path, "exports"), 1 << 40)
    ended = threading.Event()

    def grow() -> None:
        with Path(files.path, "exports").open("ab") as opened:
            while not ended.is_set():
                opened.write(b"x" * 1000)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        read = files.read("exports", 5_000_000)
    finally:
        ended.set()
        thread.join()

    assert read is not None
    assert len(read.data) == 5_000_000
    assert read.size >= 1 << 40


@pytest.mark.parametrize("planted", ["link to a folder", "link to a file", "file"])
def test_file_of_a_step_is_made_only_where_nothing_is(slot: SlotFolder, secret: Path, planted: str) -> None:
    """Writing a file of a step follows no link that a step has left, and changes no existing file."""
    files = slot.create_step_files()
    place = Path(files.path, "exports")
    if planted == "file":
        place.write_bytes(b"other")
    else:
        place.symlink_to(secret if planted == "link to a file" else secret.parent)

    with pytest.raises(OSError, match="exists"):
        files.write("exports", b"new")

    files.remove()
    assert secret.read_bytes() == SECRET


@pytest.mark.parametrize("name", ["/etc/own", "../own", "a/own"])
def test_name_of_a_file_is_not_a_path(slot: SlotFolder, name: str) -> None:
    """A name with a slash would leave the folder."""
    files = slot.create_step_files()

    with pytest.raises(ValueError, match="own"):
        files.write(name)

    files.remove()


def test_folder_of_a_step_is_used_by_descriptor(slot: SlotFolder, tmp_path: Path) -> None:
    """A link in place of the folder changes nothing: files are made in, read in and removed from the folder that was created."""
    files = slot.create_step_files()
    Path(files.path).rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "exports").write_bytes(SECRET)
    Path(files.path).symlink_to(tmp_path / "elsewhere")

    files.write("steps.json", b"{}")
    read = files.read("exports", 100)
    files.give_to_step()
    files.remove()

    assert read is None
    assert (tmp_path / "moved" / "steps.json").read_bytes() == b"{}"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["exports"]


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a file to another user")
def test_step_owns_its_own_folders_only(tmp_path: Path) -> None:
    """A step with a user of its own owns its working folder and its files; the folder around them is the server's."""
    folder = SlotFolder(tmp_path, 1, IsolationPlan(uid=OTHER_USER, gid=OTHER_USER, namespaces=True))
    files = folder.create_step_files()
    files.write("exports")
    files.give_to_step()

    found = {
        path.name: path.stat() for path in (tmp_path / "1", *(tmp_path / "1").iterdir(), Path(files.path, "exports"))
    }
    owners = {name: each.st_uid for name, each in found.items() if not name.startswith("step-")}

    assert owners == {"1": 0, "tmp": OTHER_USER, "passwd": 0, "exports": OTHER_USER}
    assert Path(files.path).stat().st_uid == OTHER_USER
    assert {stat.S_IMODE(found[name].st_mode) for name in ("tmp",)} == {0o700}
    assert stat.S_IMODE(found["1"].st_mode) == 0o711
    files.remove()


def test_plan_of_a_step_shows_its_own_folder(tmp_path: Path) -> None:
    """A process sees the files of its step at their path, by the inode that was created; those of the slot see none."""
    tmp = Mount("/tmp", f"{tmp_path}/1/tmp", writable=True)
    folder = SlotFolder(tmp_path, 1, IsolationPlan(namespaces=True, mounts=(tmp, Mount("/run", None))))
    files = folder.create_step_files()

    inodes = {each.target: each.inode for each in files.plan.mounts}

    made, own = (tmp_path / "1" / "tmp").stat(), Path(files.path).stat()
    assert inodes == {"/tmp": (made.st_dev, made.st_ino), "/run": None, files.path: (own.st_dev, own.st_ino)}
    assert files.plan.write == (files.path,)
    assert [each.target for each in folder.plan.mounts] == ["/tmp", "/run"]
    files.remove()


@pytest.mark.parametrize("in_its_place", ["folder", "link", "file", "nothing"])
def test_replaced_tmp_folder_is_not_used_again(tmp_path: Path, in_its_place: str) -> None:
    """Workers with a private `/tmp` keep the folder that they have mounted: a slot with another one is not clean."""
    slot = SlotFolder(tmp_path, 1, IsolationPlan(namespaces=True))
    before = slot.is_empty()
    folder = tmp_path / "1" / "tmp"

    folder.rename(tmp_path / "moved")
    if in_its_place == "folder":
        slot.ensure_tmp()
    elif in_its_place == "link":
        folder.symlink_to(tmp_path / "moved")
    elif in_its_place == "file":
        folder.touch()

    assert before
    assert not slot.is_empty()
    assert not slot.clear()


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o4755])
def test_permissions_of_tmp_are_restored_for_the_next_run(tmp_path: Path, mode: int) -> None:
    """A step may close its `/tmp`: the slot is not clean then, and its next run gets a folder in which it can write."""
    slot = SlotFolder(tmp_path, 1, IsolationPlan(namespaces=True))
    folder = tmp_path / "1" / "tmp"

    folder.chmod(mode)
    is_clean = slot.is_empty()
    is_restored = slot.clear()

    assert not is_clean
    assert is_restored or not IS_ROOT  # another user cannot open the folder, so the slot is not used again
    assert not is_restored or stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["tmp", "tmp/inner"])
def test_link_in_a_slot_is_not_followed_when_it_is_emptied(slot: SlotFolder, secret: Path, name: str) -> None:
    """What a link leads to stays."""
    place = Path(slot.working_folder).parent / name
    if name == "tmp":
        place.rmdir()
    place.symlink_to(secret.parent)

    slot.clear()

    assert secret.read_bytes() == SECRET


def count_descriptors() -> int:
    """The number of files that this process has open, without those of objects that nothing refers to."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closed_slot_leaves_no_file(tmp_path: Path) -> None:
    """The folder of a slot and the accounts that its processes see are removed with the slot, and no descriptor is left."""
    before = count_descriptors()
    slot = SlotFolder(tmp_path, 1, IsolationPlan(namespaces=True, uid=os.getuid(), gid=os.getgid()))
    during = sorted(path.name for path in (tmp_path / "1").iterdir())

    slot.remove()

    assert during == ["passwd", "tmp"]
    assert list(tmp_path.iterdir()) == []
    assert count_descriptors() == before


def test_forgotten_slot_closes_its_descriptor(tmp_path: Path) -> None:
    """A slot that is not removed, because its pool removes all, keeps no file open."""
    before = count_descriptors()
    slot = SlotFolder(tmp_path, 1, NO_PLAN)

    del slot

    assert count_descriptors() == before


PATHS_OF_STEPS = {"path", "working_folder", "working_folder_outside"}
"""The properties of `SlotFolder` and `StepFiles` with paths, which are for steps."""


def parse_module(name: str) -> ast.Module:
    """The syntax tree of the module *name* of `pdkernel.workers`."""
    return ast.parse((PACKAGE / "workers" / f"{name}.py").read_text(encoding="utf-8"))


def test_type_yields_no_path() -> None:
    """No attribute, argument or result of the types is a `Path`, but for the folder of the pool that creates a slot."""
    tree = parse_module("slot_folder")
    found = []
    for each in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in ast.walk(each):
            if isinstance(node, ast.FunctionDef):
                hints = [node.returns, *(argument.annotation for argument in node.args.args)]
                found += [(each.name, node.name) for hint in hints if hint and "Path" in ast.unparse(hint)]
            elif isinstance(node, ast.AnnAssign) and "Path" in ast.unparse(node.annotation):
                found.append((each.name, ast.unparse(node.target)))

    assert found == [("SlotFolder", "__init__")]


def test_nothing_else_names_what_is_in_a_slot() -> None:
    """Only the module of the type, and the plan of mounts, use the names of a slot's files; only a step's caller takes their paths."""
    names: set[tuple[str, str]] = set()
    opened: list[tuple[str, str]] = []
    for file in PACKAGE.rglob("*.py"):
        module, text = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        if not re.search(r"TMP_NAME|ACCOUNTS_NAME|working_folder|files\.path", text):
            continue  # which takes less time than its syntax tree
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name) and node.id in {"TMP_NAME", "ACCOUNTS_NAME"}:
                names.add((module, node.id))
            elif isinstance(node, ast.Attribute) and node.attr in PATHS_OF_STEPS - {"path"}:
                names.add((module, node.attr))
            elif isinstance(node, ast.Call) and module.startswith(("workers/", "engine/", "session/")):
                function = ast.unparse(node.func)
                arguments = {ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                if function.startswith(("os.", "Path", "open", "shutil.", "remove_", "stat.")) and any(
                    text.endswith((".working_folder", ".working_folder_outside", "files.path")) for text in arguments
                ):
                    opened.append((module, ast.unparse(node)))

    assert names == {
        ("workers/slot_folder.py", "TMP_NAME"),
        ("workers/slot_folder.py", "ACCOUNTS_NAME"),
        ("workers/isolation_plan.py", "TMP_NAME"),
        ("workers/isolation_plan.py", "ACCOUNTS_NAME"),
        ("workers/pool.py", "working_folder"),
        ("workers/run_workers.py", "working_folder"),
        ("workers/run_workers.py", "working_folder_outside"),
    }
    assert opened == []


def test_folders_of_steps_are_strings_where_they_are_used() -> None:
    """The modules that pass paths of a slot on neither open files nor make paths."""
    for name in ("run_workers", "subprocess_runner", "slot_cache"):
        tree = parse_module(name)
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not {call for call in calls if call in {"open", "Path", "remove_tree"} or call.startswith("os.path")}
        with suppress(StopIteration):
            assert not next(
                call for call in calls if call.endswith((".read_bytes", ".read_text", ".write_text", ".iterdir"))
            )
