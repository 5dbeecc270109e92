"""
`pdkernel secrets`: values of secret props, which Git holds only encrypted.

Values are read from a prompt or standard input and never printed.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import cloup

from pdkernel.cli.app import PROJECT, CliContext, command, group, json_option, yes_option
from pdkernel.cli.terminal import confirm, print_json, print_text, read_hidden


@group(section=PROJECT)
def secrets() -> None:
    """
    Give the values of secret props.

    Pipedream writes a secret prop to Git as {_enc: ...}, which only Pipedream can read. Give its value once: it is encrypted in
    the project, passed to its step only, redacted like a credential, and never exported.
    """


@command(
    secrets,
    name="set",
    examples=(
        "pdkernel secrets set sync/notify-p_Ab12Cd3 notify api_key",
        "pdkernel secrets set notify.ipynb notify headers.Authorization <token.txt",
    ),
)
@cloup.argument("source", type=click.Path(path_type=Path))
@cloup.argument("step")
@cloup.argument("prop")
@json_option
def set_secret(state: CliContext, source: Path, step: str, prop: str, as_json: bool) -> int:
    """
    Set PROP of STEP to a value from a prompt or standard input.

    SOURCE is a notebook or a workflow's folder. PROP may be a path into an object or a list: headers.Authorization.
    """
    from pdkernel.files.source import load_source
    from pdkernel.operations.environment import set_secret_prop

    workflow = load_source(source, unanswered="keep").workflow
    name = set_secret_prop(state.open_project(), workflow, step, prop, lambda: read_hidden(f"{step}.{prop}"))
    if as_json:
        print_json({"name": name, "step": step, "prop": prop, "set": True})
    else:
        click.echo(f"Set {prop} of step {step}.")
    return 0


@command(secrets, name="list", examples=("pdkernel secrets list sync/ --json",))
@cloup.argument("source", required=False, type=click.Path(path_type=Path))
@json_option
def list_secrets(state: CliContext, source: Path | None, as_json: bool) -> int:
    """
    List secret props of SOURCE, or all that have a value.

    SOURCE is a notebook, a workflow's folder, or a folder of them. Values are not shown.
    """
    stored = state.open_project().variables.list_secret_props()
    if source is None:
        if as_json:
            print_json([{"name": name, "set": True} for name in stored])
        else:
            print_text("\n".join(stored) or "No secrets. To give a value: pdkernel secrets set SOURCE STEP PROP")
        return 0
    rows = _collect_rows(state, source)
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        line = f"{row['source']}  {row['step']}.{row['prop']}"
        quoted = shlex.quote(str(row["source"]))
        command_line = f"pdkernel secrets set {quoted} {row['step']} {shlex.quote(row['prop'])}"
        print_text(f"{line}  set" if row["set"] else f"{line}  NOT SET: {command_line}")
    if not rows:
        click.echo("No secret props.")
    return 0


@command(secrets, name="remove", examples=("pdkernel secrets remove notify.api_key --yes",))
@cloup.argument("name")
@yes_option
@json_option
def remove_secret(state: CliContext, name: str, yes: bool, as_json: bool) -> int:
    """
    Remove the value NAME.

    NAME is a name that `pdkernel secrets list` shows, or STEP.PROP.
    """
    from pdkernel.operations.environment import find_stored_secret

    project = state.open_project()
    found = find_stored_secret(project, name)
    confirm(f"Remove the value of {found}", yes=yes)
    project.variables.remove(found)
    if as_json:
        print_json({"name": found, "removed": True})
    else:
        click.echo(f"Removed the value of {found}.")
    return 0


def _collect_rows(state: CliContext, source: Path) -> list[dict[str, Any]]:
    """The secret props of every workflow in *source*; a workflow that cannot be read is reported and left out."""
    from pdkernel.engine.variables import load_variables
    from pdkernel.errors import PdkernelError
    from pdkernel.files.source import find_sources, load_source
    from pdkernel.language.analysis import find_secret_props

    rows: list[dict[str, Any]] = []
    places = find_sources(source)
    for place in places:
        try:
            opened = load_source(place, unanswered="keep")
            variables = load_variables(state.open_project(), opened.folder)
        except PdkernelError as error:
            if len(places) == 1:
                raise
            state.print_note(f"Cannot read {place}: {error}")
            continue
        rows += [
            {
                "source": str(place),
                "workflow": opened.workflow.name,
                "step": prop.step,
                "prop": prop.prop,
                "name": prop.key,
                "set": prop.find_value(variables) is not None,
            }
            for prop in find_secret_props(opened.workflow)
        ]
    return rows
