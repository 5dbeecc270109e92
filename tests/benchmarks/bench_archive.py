"""
The time of an import of Pipedream's archive: 100 workflows of 20 steps, and one of 100 and of 1,000 steps.

Compared with ruamel.yaml's load and dump of the `workflow.yaml` files of the same workflows. Prints figures and ratios of one run.
`python tests/benchmarks/bench_archive.py`
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pdkernel.actions import Catalog
from pdkernel.files.definition import read_folder_workflow
from pdkernel.model import Step
from pdkernel.operations.importer import ImportOptions, import_archive
from tests.benchmarks.bench_definitions import make, no_answers, ruamel_alone
from tests.files.definition.archives import action, manifest, pack, step, workflow

WORKFLOWS = 100
RUNS = 3


def convert(folder: Path, number: int) -> dict[str, Any]:
    """The workflow in *folder* as the archive has it."""
    found = read_folder_workflow(folder, assumed_account="own")
    return workflow(found.name, [_convert(each) for each in found.steps], workflow_id=f"p_{number:07}")


def _convert(found: Step) -> dict[str, Any]:
    props = {
        **{app.prop: {"authProvisionId": app.account} for app in found.apps},
        **{store.prop: {"storeId": store.store} for store in found.stores},
        **found.props,
    }
    if found.uses:
        key, _, version = found.uses.partition("@")
        return action(found.name, key, version, props=props)
    return step(
        found.name, found.source, props=props, lang="python3.12" if found.language == "python" else "nodejs20.x"
    )


def write(root: Path, sizes: list[int]) -> tuple[Path, list[Path]]:
    """An archive with a workflow for each number of steps, and the same as synced folders."""
    folders = [root / "repo" / f"flow-{number}-p_{number:07}" for number in range(len(sizes))]
    for number, (folder, size) in enumerate(zip(folders, sizes, strict=True)):
        make(folder, number, size // 4)
    items = {f"flow-{number}.json": convert(folder, number) for number, folder in enumerate(folders)}
    listed = manifest(*({"id": item["id"], "name": item["name"], "status": "exported"} for item in items.values()))
    return pack(root / "export.zip", items, listed=listed), folders


def import_all(archive: Path, target: Path) -> float:
    """Seconds for the import of an archive into a new folder."""
    options = ImportOptions(
        build_catalog=lambda _, __: Catalog.without_project(archive.parent, environ={}),
        ask_accounts=no_answers,
        ask_trigger=None,
        force=False,
    )
    began = time.perf_counter()
    result = import_archive(archive, target, options)
    took = time.perf_counter() - began
    assert all(one.state == "new" for one in result.workflows), [str(one.error) for one in result.workflows]
    assert all(line.notebook for line in result.lines)
    return took


def median(archive: Path, root: Path, name: str) -> float:
    """Median seconds of several imports."""
    return statistics.median(import_all(archive, root / f"{name}-{run}") for run in range(RUNS))


def main() -> None:
    """Measure and print the figures."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        archive, folders = write(root / "many", [20] * WORKFLOWS)
        ruamel_alone(folders[:3])
        import_all(archive, root / "warm")
        alone, imported = ruamel_alone(folders), median(archive, root, "to")
        small, large = (median(write(root / str(size), [size])[0], root, f"of-{size}") for size in (100, 1000))
        plain = sum(len(json.dumps(convert(folder, 0))) for folder in folders)
        print(f"ruamel.yaml load and dump, {WORKFLOWS} files     {alone:7.2f} s")
        print(
            f"import of an archive, {WORKFLOWS} x 20 steps     {imported:7.2f} s   {imported / alone:.2f} x ruamel.yaml (goal <= 2), {plain / 1e6:.1f} MB of JSON"
        )
        print(
            f"import of a workflow of 1,000 steps     {large:7.2f} s   {large / small:.1f} x one of 100 steps (goal <= 12)"
        )


if __name__ == "__main__":
    main()
