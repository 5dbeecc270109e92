"""
Every importable action of the apps on npm, described and started.

    python -m tests.sweep.sweep FOLDER [APP...]

installs the apps into FOLDER, without those already installed, and prints a table. The exit status is 1 if an action
was not described or entered, if an action requires an unsupported feature, or if the number of importable actions is
not the known one.

The licence of the packages excludes commercial use, so no part of them is in this repository.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdkernel.errors import StepError
from pdkernel.model import Step
from pdkernel.packages.npm_command import find_npm
from pdkernel.workers import (
    ComponentFile,
    RunSetup,
    RunWorkers,
    StepAccess,
    StepCall,
    StepOutcome,
    StepRecorder,
    WorkerPool,
    find_node,
)
from tests.sweep.apps import APPS, UNDECLARED
from tests.sweep.dummy import CREDENTIALS, values_for
from tests.sweep.stand_in import StandIn

ENTRY_POINTS = Path(__file__).parent / "entry_points.mjs"
STEP_S = 8.0
AT_ONCE = 2
_LACKING = {"unsupported", "protocol", "entry_point", "internal", "configuration"}


@dataclass
class Row:
    """The results of the actions of one app."""

    app: str
    importable: int = 0
    sources: int = 0
    described: int = 0
    entered: int = 0
    lacking: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every importable action was described and started, and their number is the known one."""
        known = APPS[self.app]
        return (
            self.importable == known.actions == self.described == self.entered
            and self.sources == known.sources
            and not self.lacking
        )


def install(folder: Path, apps: Iterable[str]) -> None:
    """Install the missing *apps* by npm, all into one folder as in a user's project."""
    missing = [app for app in apps if not _package(folder, app).is_dir()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "package.json").exists():
        folder.joinpath("package.json").write_text('{"private": true}')
    packages = [f"@pipedream/{app}@{APPS[app].version}" for app in missing]
    packages += [package for app in missing for package in UNDECLARED.get(app, ())]
    node = find_node()
    npm = [str(node), str(find_npm(node, os.environ))]
    command = [*npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=900)


def _package(folder: Path, app: str) -> Path:
    return folder / "node_modules" / "@pipedream" / app


def entry_points(package: Path) -> list[dict[str, Any]]:
    """The components that plain Node.js imports from *package*; see `entry_points.mjs`."""
    command = [str(find_node()), "--no-warnings", str(ENTRY_POINTS), str(package)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


async def sweep(folder: Path, app: str) -> Row:
    """Describe and start every importable action of *app*, which is installed in *folder*."""
    return await sweep_package(Row(app), _package(folder, app), folder, step_s=STEP_S)


async def sweep_package(row: Row, package: Path, folder: Path, *, step_s: float) -> Row:
    """Describe and start every importable action of *package*, each for *step_s* seconds at most; fills *row*."""
    found = await asyncio.to_thread(entry_points, package)
    row.sources = sum(1 for one in found if one["kind"] == "source" and "error" not in one)
    with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        marks = Path(scratch) / "marks"
        async with StandIn(marks) as gateway:
            pool = WorkerPool(gateway=gateway, max_active_runs=1, access=StepAccess(write=frozenset({Path(scratch)})))
            setup = RunSetup("sweep", row.app, {"event": {}, "context": {"id": "1"}}, {}, folder)
            workers = await pool.open_run(setup)
            try:
                for one in found:
                    if one["kind"] == "action" and "error" not in one:
                        row.importable += 1
                        await _try(workers, one, marks, row, step_s)
            finally:
                await workers.release()
                await pool.close()
    return row


async def _try(workers: RunWorkers, one: dict[str, Any], marks: Path, row: Row, step_s: float) -> None:
    file = ComponentFile(Path(one["path"]), one["key"], one["version"], "action", "npm")
    try:
        described = await workers.describe(file)
    except StepError as error:
        row.lacking.append(f"{file.key} is not described: {error.message}")
        return
    if (described.key, described.version) != (file.key, file.version):
        row.trouble.append(f"{file.key} is described as {described.key}@{described.version}")
        return
    row.described += 1
    auth = {name: CREDENTIALS for app in described.apps for name in (app.prop, app.app)}
    values = values_for(described.props)
    if described.additional:
        try:
            values |= values_for(
                await workers.additional_props(file, values=values, credentials=auth, timeout_s=step_s)
            )
        except StepError as error:
            row.trouble.append(f"{file.key} adds no props: {error.message.splitlines()[0]}")
    marks.write_text("")
    step = Step("work", "node", uses=f"{file.key}@{file.version}")
    call = StepCall(step, component=file, props=values, credentials=auth, timeout_s=step_s)
    outcome = await workers.run_step(call, StepRecorder())
    if was_entered(one["run"], marks):
        row.entered += 1
    else:
        row.trouble.append(f"{file.key} was not entered: {outcome.error}")
    if lacks(outcome):
        row.lacking.append(f"{file.key}: {outcome.error}")


def was_entered(run: str, marks: Path) -> bool:
    """Whether V8 counted a call of the function whose text is *run*."""
    counted = [json.loads(line)["text"] for line in marks.read_text().splitlines()]
    # V8 counts a method from its parameters on: `({ $ }) { ... }` of `async run({ $ }) { ... }`
    return any(text and run.endswith(text) for text in counted)


def lacks(outcome: StepOutcome) -> bool:
    """Whether the step failed because of an unsupported feature."""
    error = outcome.error
    if error is None:
        return False
    # a ConfigurationError of the component's own code has no error code of pdkernel
    return error.code in _LACKING or error.name == "UnsupportedError"


async def sweep_all(folder: Path, apps: Iterable[str]) -> list[Row]:
    """Sweep *apps*, some of them concurrently."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(app: str) -> Row:
        async with places:
            return await sweep(folder, app)

    return await asyncio.gather(*(one(app) for app in apps))


def table(rows: list[Row]) -> str:
    """The rows as text."""
    lines = [f"{'app':<20}{'importable':>12}{'described':>12}{'entered':>10}{'lacking a feature':>20}"]
    for row in rows:
        known = APPS[row.app]
        mark = "" if row.importable == known.actions else f"   (expected {known.actions} importable)"
        lines.append(
            f"{row.app:<20}{row.importable:>12}{row.described:>12}{row.entered:>10}{len(row.lacking):>20}{mark}"
        )
    total = [sum(getattr(row, name) for row in rows) for name in ("importable", "described", "entered")]
    lines.append(f"{'all':<20}{total[0]:>12}{total[1]:>12}{total[2]:>10}{sum(len(row.lacking) for row in rows):>20}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Run from the command line."""
    if not arguments or any(app not in APPS for app in arguments[1:]):
        print(__doc__)
        return 2
    folder, apps = Path(arguments[0]).resolve(), arguments[1:] or list(APPS)
    install(folder, apps)
    rows = asyncio.run(sweep_all(folder, apps))
    for row in rows:
        for said in (*row.lacking, *row.trouble):
            print(f"{row.app}: {said.splitlines()[0]}")
    print(table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
