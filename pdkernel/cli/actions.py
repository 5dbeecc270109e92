"""
`pdkernel actions` and `packages`: what steps import, searched and installed.

Output of the commands. The operations are in `operations.actions` and `engine.step_packages`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from pdkernel.cli.app import AUTHOR, EXIT_STATUSES, CliContext, command, encode_error, group, json_option, print_error
from pdkernel.cli.run_output import Progress
from pdkernel.cli.terminal import print_json
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.actions import Catalog, Component
    from pdkernel.workers import ComponentDescription


@group(section=AUTHOR)
def actions() -> None:
    """
    Search and install pre-built actions.

    Actions are built in, or come from npm, a folder or Pipedream: see `pdkernel project set --help`.
    """


@command(actions, name="search", examples=("pdkernel actions search send message --app slack",))
@cloup.argument("words", nargs=-1)
@cloup.option("--app", metavar="SLUG", help="Only actions of this app.")
@json_option
def search_actions(state: CliContext, words: tuple[str, ...], app: str | None, as_json: bool) -> int:
    """Search actions by WORDS in their key, name and description."""
    from pdkernel.actions.action_view import build_action_view
    from pdkernel.operations.actions import search_actions
    from pdkernel.render import actions as action_view

    found = asyncio.run(search_actions(open_catalog(state), " ".join(words), app=app, progress=_print_progress))
    if as_json:
        print_json([_json(component) for component in found.components])
    elif found.components:
        views = [build_action_view(component) for component in found.components]
        click.echo(action_view.render_list_text(views), nl=False)
    else:
        click.echo(found.advice)
    return 0


@command(actions, name="show", examples=("pdkernel actions show slack-send-message",))
@cloup.argument("key", metavar="KEY[@VERSION]")
@json_option
def show_action(state: CliContext, key: str, as_json: bool) -> int:
    """
    Show the props of an action, and a cell that uses it.

    Installs the action if necessary.
    """
    from pdkernel.actions.action_view import build_action_cell, build_action_view
    from pdkernel.render import actions as action_view

    component, description = asyncio.run(_describe(state, key))
    if as_json:
        print_json(
            {
                **_json(component),
                "apps": [{"prop": app.prop, "app": app.app} for app in description.apps],
                "props": [
                    {
                        "name": prop.name,
                        "type": prop.type,
                        "optional": prop.optional,
                        "definition": dict(prop.definition),
                    }
                    for prop in description.props
                ],
                "additional_props": description.additional,
                "cell": build_action_cell(component, description),
            }
        )
    else:
        click.echo(action_view.render_text(build_action_view(component, description)), nl=False)
    return 0


@command(
    actions,
    name="add",
    examples=(
        "pdkernel actions add slack-send-message",
        "pdkernel actions add slack-send-message@0.1.4 --instead-of slack-send-message@0.1.2",
    ),
)
@cloup.argument("key", metavar="KEY[@VERSION]")
@cloup.option(
    "--instead-of", metavar="KEY[@VERSION]", help="Run the installed action in steps that name this version, or none."
)
@json_option
def add_action(state: CliContext, key: str, instead_of: str | None, as_json: bool) -> int:
    """
    Install an action.

    Runs install missing actions too; an installed action needs no network. With --instead-of, steps that name an old
    version run the installed version from now on.
    """
    from pdkernel.actions import ActionReference

    catalog, uses = open_catalog(state), ActionReference.parse(key)
    replaced = ActionReference.parse(instead_of) if instead_of else None
    if replaced is not None and replaced.key != uses.key:
        raise RequestError(
            f"{instead_of} is not a version of {uses.key}.", fix=f"Write --instead-of {uses.key}[@VERSION]."
        )
    component = asyncio.run(catalog.resolve_or_install(uses, progress=_print_progress))
    if replaced is not None:
        catalog.lock.override_version(str(replaced), component.version)
    if as_json:
        print_json({**_json(component), "instead_of": str(replaced) if replaced else None})
    elif replaced is not None:
        click.echo(f"{component.uses} runs where a step requires {replaced}; the record of the step names the version.")
    else:
        click.echo(f"{component.uses} is ready ({component.source_summary}).")
    return 0


def open_catalog(state: CliContext) -> Catalog:
    """Open the catalog of the project's actions."""
    from pdkernel.actions import Catalog

    return Catalog.for_project(state.open_project(), environ=os.environ)


async def _describe(state: CliContext, key: str) -> tuple[Component, ComponentDescription]:
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.operations.actions import describe_action

    async with await WorkflowEngine.start(state.open_project(), state.open_directory(), max_active_runs=1) as engine:
        return await describe_action(engine, key, progress=_print_progress)


def _json(component: Component) -> dict[str, Any]:
    return {
        "key": component.key,
        "version": component.version,
        "app": component.app,
        "name": component.name,
        "description": component.description,
        "source": component.source,
        "limits": component.limitations,
        "installed": component.file is not None,
    }


def _print_progress(line: str) -> None:
    click.echo(line, err=True)


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
