"""The cache of declarations: which changes of a file make an entry useless."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.actions.catalog import DescriptionCache
from pdkernel.workers import ComponentDescription, ComponentFile

DESCRIPTION = ComponentDescription(key="a-b", name="B")


@pytest.fixture
def file(tmp_path: Path) -> ComponentFile:
    """A component in a folder of components, beside its app's module."""
    path = tmp_path / "components" / "a" / "actions" / "b" / "b.mjs"
    path.parent.mkdir(parents=True)
    path.write_text("export default {}")
    (path.parents[2] / "a.app.mjs").write_text("export default {}")
    return ComponentFile(path, "a-b", "1.0.0", "action", "npm")


def test_an_entry_outlives_its_process(file: ComponentFile, tmp_path: Path) -> None:
    """Another cache of the folder finds the entry; a cache elsewhere does not."""
    DescriptionCache(tmp_path / "cache").put(file, DESCRIPTION)

    assert DescriptionCache(tmp_path / "cache").get(file) == DESCRIPTION
    assert DescriptionCache(tmp_path / "other").get(file) is None
    assert DescriptionCache(tmp_path / "cache").get(replace(file, key="a-c")) is None


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_changed_file_is_described_again(file: ComponentFile, tmp_path: Path, change: str) -> None:
    """An entry counts for one time and one size of the module."""
    cache = DescriptionCache(tmp_path / "cache")
    cache.put(file, DESCRIPTION)
    found = file.path.stat()
    if change == "size":
        file.path.write_text("export default {};")
        os.utime(file.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        os.utime(file.path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))

    assert cache.get(file) is None


@pytest.mark.parametrize(("origin", "is_known"), [("folder", False), ("npm", True)])
def test_a_changed_app_module(file: ComponentFile, tmp_path: Path, origin: str, is_known: bool) -> None:
    """In a folder of components, an entry counts for every module of the app too; a package does not change."""
    cache = DescriptionCache(tmp_path / "cache")
    file = replace(file, origin=origin)  # type: ignore[arg-type]  # a parameter of the test is a text
    cache.put(file, DESCRIPTION)
    (file.path.parents[2] / "a.app.mjs").write_text("export default { props: {} }")

    assert (cache.get(file) is not None) == is_known


def test_modules_of_packages_do_not_count(file: ComponentFile, tmp_path: Path) -> None:
    """A module that npm installs in the app's folder leaves the entry."""
    cache, file = DescriptionCache(tmp_path / "cache"), replace(file, origin="folder")
    cache.put(file, DESCRIPTION)
    package = file.path.parents[2] / "node_modules" / "x"
    package.mkdir(parents=True)
    (package / "x.mjs").write_text("")

    assert cache.get(file) == DESCRIPTION


def test_an_unreadable_entry_is_described_again(file: ComponentFile, tmp_path: Path) -> None:
    """An entry of another version of pdkernel counts as missing."""
    DescriptionCache(tmp_path / "cache").put(file, DESCRIPTION)
    for entry in (tmp_path / "cache").iterdir():
        entry.write_text("{")

    assert DescriptionCache(tmp_path / "cache").get(file) is None


def test_an_entry_is_complete_while_it_is_stored_again(file: ComponentFile, tmp_path: Path) -> None:
    """Several processes may store the same entry at once: each read finds a complete entry, and no draft is left."""
    large = replace(DESCRIPTION, description="x" * 2_000_000)
    folder = tmp_path / "cache"
    DescriptionCache(folder).put(file, large)

    def store() -> None:
        for _ in range(40):
            DescriptionCache(folder).put(file, large)

    with ThreadPoolExecutor(4) as threads:
        stored = [threads.submit(store) for _ in range(4)]
        found = [DescriptionCache(folder).get(file) for _ in iter(lambda: all(each.done() for each in stored), True)]

    assert {each == large for each in found} == {True}
    assert len(list(folder.iterdir())) == 1


def test_an_entry_that_cannot_be_stored_leaves_no_file(file: ComponentFile, tmp_path: Path) -> None:
    """If the file of an entry cannot be replaced, the process keeps the description, and the folder no draft."""
    cache = DescriptionCache(tmp_path / "cache")
    cache.put(file, DESCRIPTION)
    [entry] = (tmp_path / "cache").iterdir()
    entry.unlink()
    entry.mkdir()

    cache.put(file, replace(DESCRIPTION, name="C"))

    assert list((tmp_path / "cache").iterdir()) == [entry]
    assert cache.get(file) == replace(DESCRIPTION, name="C")
