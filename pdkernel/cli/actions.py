"""
`pdkernel actions`: looking pre-built actions up and installing them.

Knows how that is printed. Finding is `actions`' work, describing an action the engine's.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from pdkernel.cli.app import State, command, json_option, option, pdkernel, print_json


@pdkernel.group()
def actions() -> None:
    """Pre-built actions: built in, from npm, a folder or Pipedream (see `pdkernel project set actions`)."""


@command(actions, name="search")
@click.argument("words", nargs=-1)
@option("--app", metavar="SLUG", help="Only actions of this app.")
@json_option
def search_actions(state: State, words: tuple[str, ...], app: str | None, as_json: bool) -> int:
    """Search actions by WORDS in their key, name and description."""
    from pdkernel.actions.show import view_of
    from pdkernel.render import actions as draw

    catalog = catalog_of(state)
    found = asyncio.run(catalog.search(" ".join(words), app=app, progress=_say))
    if as_json:
        print_json([_json(component) for component in found])
    elif found:
        click.echo(draw.list_text([view_of(component) for component in found]), nl=False)
    else:
        click.echo(_nothing(catalog, app))
    return 0


@command(actions, name="show")
@click.argument("key", metavar="KEY[@VERSION]")
@json_option
def show_action(state: State, key: str, as_json: bool) -> int:
    """Show an action's props, with types and descriptions, and a cell that uses it. Installs it if need be."""
    from pdkernel.actions.show import cell_of, view_of
    from pdkernel.render import actions as draw

    component, description = asyncio.run(_described(state, key))
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
                "cell": cell_of(component, description),
            }
        )
    else:
        click.echo(draw.text(view_of(component, description)), nl=False)
    return 0


@command(actions, name="add")
@click.argument("key", metavar="KEY[@VERSION]")
@option("--instead-of", metavar="KEY@VERSION", help="Run it from now on where a step asks for that version.")
@json_option
def add_action(state: State, key: str, instead_of: str | None, as_json: bool) -> int:
    """Install an action, so that runs need no network; or choose the version that runs for another."""
    from pdkernel.actions import Uses
    from pdkernel.errors import RequestError

    catalog, uses = catalog_of(state), Uses.parse(key)
    asked = Uses.parse(instead_of) if instead_of else None
    if asked is not None and (asked.key != uses.key or asked.version is None):
        raise RequestError(
            f"{instead_of} is not a version of {uses.key}.", fix=f"Write --instead-of {uses.key}@VERSION."
        )
    component = asyncio.run(catalog.obtain(uses, progress=_say))
    if asked is not None:
        catalog.lock.use_instead(str(asked), component.version)
    if as_json:
        print_json({**_json(component), "instead_of": str(asked) if asked else None})
    elif asked is not None:
        click.echo(f"{component.uses} runs where a step asks for {asked}; the step's record says so.")
    else:
        click.echo(f"{component.uses} is ready ({component.told}).")
    return 0


def catalog_of(state: State) -> Any:
    """The catalogue of the project's actions."""
    from pdkernel.actions import Catalog

    return Catalog.of(state.project(), environ=os.environ)


async def _described(state: State, key: str) -> tuple[Any, Any]:
    from pdkernel.actions import Uses
    from pdkernel.engine.runtime import Runtime

    uses = Uses.parse(key)
    async with await Runtime.start(state.project(), state.directory(), size=1) as runtime:
        return await runtime.forms.describe(uses, progress=_say)


def _json(component: Any) -> dict[str, Any]:
    return {
        "key": component.key,
        "version": component.version,
        "app": component.app,
        "name": component.name,
        "description": component.description,
        "source": component.source,
        "limits": component.limits,
        "installed": component.file is not None,
    }


def _nothing(catalog: Any, app: str | None) -> str:
    from pdkernel.actions.choices import ACCEPT_COMMAND
    from pdkernel.actions.npm import KNOWN_APPS

    if catalog.choices.where.source == "builtin" or catalog.choices.lacks_licence:
        more = f"npm has {app}: {ACCEPT_COMMAND}" if app in KNOWN_APPS else f"For more: {ACCEPT_COMMAND}"
        return f"No built-in action matches. {more}"
    if app is None:
        return "Nothing that is known here matches. Name an app to look further: --app SLUG"
    return "Nothing matches."


def _say(line: str) -> None:
    click.echo(line, err=True)
