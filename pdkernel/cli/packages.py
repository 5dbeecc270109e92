"""
`pdkernel packages`: install and list the packages that steps import.

Output of the commands. `engine.step_packages` and `packages` install them.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click
import cloup

from pdkernel.cli.app import AUTHOR, CliContext, command, encode_error, group, json_option, print_error
from pdkernel.cli.command_help import EXIT_STATUSES
from pdkernel.cli.run_output import Progress
from pdkernel.cli.terminal import print_json


@group(section=AUTHOR)
def packages() -> None:
    """Install and list packages that steps import."""


@command(
    packages,
    name="install",
    examples=("pdkernel packages install greet.ipynb",),
    exit_statuses={**EXIT_STATUSES, 1: "a package could not be installed"},
)
@cloup.argument("source", type=click.Path(path_type=Path))
@json_option
def install_packages(state: CliContext, source: Path, as_json: bool) -> int:
    """
    Install the packages of SOURCE.

    These are the packages that its steps import, in the versions of the project's lock file.
    """
    from pdkernel.engine.run_packages import PreparedPackages
    from pdkernel.engine.step_packages import StepPackages
    from pdkernel.files.source import load_source
    from pdkernel.language.analysis import check_packages

    opened = load_source(source, unanswered="keep")
    check_packages(opened.workflow)
    steps = [step for step in opened.workflow.steps if not step.disabled]

    async def install() -> PreparedPackages:
        found = StepPackages.for_project(state.open_project().folder, os.environ)
        with Progress(state) as progress:
            ready = await found.prepare(
                steps, opened.folder.resolve(), on_progress=lambda _step, line: progress.print_line(line)
            )
        await found.finish()
        return ready

    ready = asyncio.run(install())
    python = ready.python_environment.packages() if ready.python_environment else {}
    if as_json:
        failures: list[dict[str, Any]] = [
            {**encode_error(error), "step": name} for name, error in ready.failures.items()
        ]
        node = {name: list(tree.aliases) for name, tree in ready.node_packages.items()}
        print_json({"steps": node, "python": python, "errors": failures})
    else:
        for name, tree in ready.node_packages.items():
            click.echo(f"{name}: {', '.join(tree.aliases)}")
        if python:
            click.echo(f"Python: {', '.join(f'{name} {version}' for name, version in python.items())}")
        if not ready.node_packages and not python and not ready.failures:
            click.echo("The steps import no packages.")
        for name, error in ready.failures.items():
            print_error(error.code, f"{name}: {error}")
    return max((error.exit_status for error in ready.failures.values()), default=0)


@command(packages, name="list", examples=("pdkernel packages list",))
@json_option
def list_packages(state: CliContext, as_json: bool) -> int:
    """List the packages of the lock file by import name."""
    from pdkernel.engine.step_packages import npm_packages, python_packages

    found = {
        (imported, locked.version(imported)): is_installed
        for locked, is_installed in sorted(
            npm_packages(state.open_project().folder, os.environ).locked(), key=lambda each: each[1]
        )
        for imported in locked.imports
    }
    rows = [
        {"language": "node", "import": imported, "version": version, "installed": found[imported, version]}
        for imported, version in sorted(found)
    ]
    python: dict[tuple[str, str], bool] = {}
    for pin, is_installed in python_packages(state.open_project().folder, os.environ).locked():
        python[pin.name, pin.version] = is_installed or python.get((pin.name, pin.version), False)
    rows += [
        {"language": "python", "import": name, "version": version, "installed": python[name, version]}
        for name, version in sorted(python)
    ]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['import']}  {row['version']}{'' if row['installed'] else '  (not installed)'}")
        if not rows:
            click.echo("No packages. The first run of a step installs the packages that it imports.")
    return 0
