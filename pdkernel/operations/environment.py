"""Environment variables and secret props of the project. `storage` encrypts and stores the values."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from pdkernel.errors import RequestError, did_you_mean
from pdkernel.language.analysis import SecretProp
from pdkernel.language.analysis.secret_props import iter_secret_props
from pdkernel.model import Workflow

if TYPE_CHECKING:
    from pdkernel.storage import Project


def set_variable(project: Project, name: str, read_value: Callable[[], str]) -> None:
    """
    Set the variable *name* to the value that *read_value* returns, such as the answer to a prompt.

    Raises:
        RequestError: *name* includes a value, or the name or the value is invalid. *read_value* is not called for a
            name with a value.
    """
    name, separator, _ = name.partition("=")
    if separator:
        raise RequestError(
            "The value of a variable must not be part of the line: others can read a command line and a saved notebook.",
            fix=f"Pass {name} without a value; pdkernel prompts for the value.",
        )
    if "." in name:
        raise RequestError(
            f"{name} is not the name of an environment variable.",
            fix="To give the value of a secret prop: pdkernel secrets set SOURCE STEP PROP",
        )
    project.variables.set(
        name, _read(name, read_value, f"To remove the variable: pdkernel env remove {shlex.quote(name)}")
    )


def set_secret_prop(project: Project, workflow: Workflow, step: str, prop: str, read_value: Callable[[], str]) -> str:
    """
    Give the secret prop *prop* of *step* the value that *read_value* returns; return the name under which it is stored.

    Raises:
        RequestError: The step has no such secret prop, or the value is empty or too long. *read_value* is not called for
            an unknown prop.
    """
    if "=" in prop:
        raise RequestError(
            "The value of a secret must not be part of the line: others can read a command line and a saved notebook.",
            fix=f"Pass {prop.partition('=')[0]} without a value; pdkernel prompts for the value.",
        )
    found = _find_secret_prop(workflow, step, prop)
    project.variables.set(found.key, _read(found.name, read_value, "To remove the value: pdkernel secrets remove NAME"))
    return found.key


def _find_secret_prop(workflow: Workflow, step: str, prop: str) -> SecretProp:
    """Find the secret prop *prop* of *step*. Raises `RequestError`, which lists the secret props of the workflow."""
    props = [each for other in workflow.steps for each in iter_secret_props(other)]
    for each in props:
        if (each.step, each.prop) == (step, prop):
            return each
    workflow.step(step)  # raises an error for an unknown step
    names = [each.name for each in props]
    raise RequestError(
        f"Step {step} has no secret prop {prop!r}. {did_you_mean(f'{step}.{prop}', names) if names else ''}".rstrip(),
        fix="To list secret props: pdkernel secrets list SOURCE" if names else "This workflow has no secret props.",
    )


def find_stored_secret(project: Project, name: str) -> str:
    """
    Find the stored secret *name*: a name of `pdkernel secrets list`, or `STEP.PROP` if only one has it.

    Raises:
        RequestError: There is no such secret, or there are several.
    """
    stored = project.variables.list_secret_props()
    found = [each for each in stored if name in (each, each.partition("#")[0])]
    if len(found) == 1:
        return found[0]
    if found:
        raise RequestError(
            f"{len(found)} secrets are called {name}.", fix=f"Use one of these names: {', '.join(found)}."
        )
    raise RequestError(f"There is no secret {name!r}.", fix="See: pdkernel secrets list")


def _read(name: str, read_value: Callable[[], str], removal: str) -> str:
    value = read_value()
    if not value:
        raise RequestError(
            f"The value of {name} is empty; nothing was changed.", fix=f"Type or pipe a value. {removal}"
        )
    return value
