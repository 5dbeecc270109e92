"""The lock file of npm packages."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import ProjectError
from pdkernel.packages.npm_lock import LockedSet, NpmLock


def a_set(*imports: str, version: str = "1.0.0", **more: Any) -> LockedSet:
    """A set of packages of one version, each in the folder of its name."""
    folders = {each: each.partition("@")[0] for each in imports}
    packages = {f"node_modules/{folder}": {"version": version, **more} for folder in folders.values()}
    return LockedSet(folders, packages)


@pytest.fixture
def lock(tmp_path: Path) -> NpmLock:
    """A lock file that does not exist yet."""
    return NpmLock(tmp_path / "lock.json")


def imports(lock: NpmLock) -> list[list[str]]:
    """The imports of each set."""
    return [sorted(each.imports) for each in lock.sets()]


def test_a_set_holds_its_imports() -> None:
    """A set serves every subset of its imports, and no other package."""
    both = a_set("axios", "zod")

    assert both.holds(["axios"])
    assert both.holds([])
    assert not both.holds(["axios", "lodash"])
    assert both.version("zod") == "1.0.0"
    assert both.key != a_set("axios", "zod", version="1.0.1").key


def test_a_larger_set_replaces_its_subsets(lock: NpmLock) -> None:
    """Sets are the smallest first; a set that another set contains is removed, and a version is that of the smallest."""
    lock.add(a_set("axios", version="1.0.0"))
    lock.add(a_set("lodash", "zod", version="2.0.0"))
    lock.add(a_set("zod", version="3.0.0"))
    before = imports(lock)
    lock.add(a_set("axios", "zod", version="4.0.0"))

    assert (sorted(before[:2]), before[2]) == ([["axios"], ["zod"]], ["lodash", "zod"])
    assert sorted(imports(lock)) == [["axios", "zod"], ["lodash", "zod"]]
    assert (lock.version("axios"), lock.version("lodash"), lock.version("gone")) == ("4.0.0", "2.0.0", None)


def test_facts_stay_beside_the_sets(lock: NpmLock) -> None:
    """A further fact outlives new sets and other facts, and its keys are sorted."""
    lock.set_extra("first", lambda: {"b": 1, "a": 2})
    lock.add(a_set("zod"))
    lock.set_extra("second", dict)

    assert lock.load_extra() == {"first": {"a": 2, "b": 1}, "second": {}}
    assert imports(lock) == [["zod"]]
    assert lock.path.read_text().index('"a"') < lock.path.read_text().index('"b"')


def test_a_writer_keeps_other_processes_out(lock: NpmLock) -> None:
    """While a fact is built and written, no other process can write: its fact would be lost."""

    def is_locked() -> bool:
        descriptor = os.open(lock.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    lock.set_extra("fact", lambda: {"is locked": is_locked()})

    assert lock.load_extra() == {"fact": {"is locked": True}}
    assert not is_locked()


def test_sets_are_written_in_the_order_of_their_names(lock: NpmLock) -> None:
    """The order of additions does not change the file, which a person commits."""
    sets = [a_set("zod"), a_set("axios", "bluebird", "lodash"), a_set("ms", "nanoid")]
    for each in sets:
        lock.add(each)
    other = NpmLock(lock.path.with_name("other.json"))
    for each in reversed(sets):
        other.add(each)

    assert lock.path.read_bytes() == other.path.read_bytes()
    assert [next(iter(each["imports"])) for each in json.loads(lock.path.read_text())["sets"]] == ["axios", "ms", "zod"]


def test_a_change_of_another_process_is_read(lock: NpmLock) -> None:
    """The file is read again if it was replaced, also by one of the same size and time, or moved back; without it there are no sets."""
    lock.add(a_set("zod", version="1.0.0"))
    assert lock.version("zod") == "1.0.0"
    times = lock.path.stat().st_mtime_ns
    NpmLock(lock.path).add(a_set("zod", version="2.0.0"))
    os.utime(lock.path, ns=(times, times))

    assert lock.version("zod") == "2.0.0"
    aside = lock.path.rename(lock.path.with_suffix(".aside"))
    assert (lock.sets(), lock.load_extra()) == ((), {})
    aside.rename(lock.path)
    assert lock.version("zod") == "2.0.0"


@pytest.mark.parametrize(
    "change",
    [
        {"lockVersion": 2},
        {"lockVersion": 0},
        {"sets": "none"},
        {"sets": [{"imports": {"zod": "zod"}, "packages": {}}]},
        {"sets": [{"imports": {"zod": "../zod"}, "packages": {"node_modules/../zod": {"version": "1"}}}]},
        {"sets": [{"imports": {"zod": "Z od"}, "packages": {"node_modules/Z od": {"version": "1"}}}]},
        {"sets": [{"imports": {}, "packages": {"elsewhere/zod": {"version": "1"}}}]},
        {"sets": [{"imports": {}, "packages": {"node_modules/a/../../x": {"version": "1"}}}]},
        {"sets": [{"imports": {}, "packages": {"node_modules/zod": {"version": "1", "link": True}}}]},
    ],
)
def test_a_file_that_is_not_a_lock_file_is_refused(lock: NpmLock, change: dict[str, Any]) -> None:
    """A newer version, a set without its packages, a folder outside of the set and a link are refused; the file stays."""
    lock.add(a_set("zod"))
    lock.path.write_text(json.dumps({**json.loads(lock.path.read_text()), **change}))
    before = lock.path.read_bytes()

    with pytest.raises(ProjectError, match="is not a lock file that this version"):
        NpmLock(lock.path).sets()
    with pytest.raises(ProjectError):
        NpmLock(lock.path).add(a_set("axios"))

    assert lock.path.read_bytes() == before
