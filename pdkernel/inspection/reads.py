"""
What the steps of a workflow read: other steps, environment variables.

Knows which module reads which language. Reads literal names only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pdkernel.errors import ExpressionError
from pdkernel.expression import Path, templates_in
from pdkernel.inspection import bash_code, go_code, node_code, python_code
from pdkernel.inspection.variables import Variables
from pdkernel.model import Step, Workflow

STANDARD_VARIABLES = frozenset({"HOME", "LANG", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER"})
"""Variables that a step has without anyone setting them; so are all that start with `PIPEDREAM_`."""


def steps_read(step: Step) -> dict[str, int | None]:
    """
    Names that *step* reads as `steps.NAME`, `trigger` among them, each with the line of the cell, or None where there is no cell.

    Raises:
        ExpressionError: A prop's expression cannot be read.
    """
    lines: dict[str, int | None] = {name: line + step.line_offset for name, line in _code_reads(step).items()}
    for path, source in _expressions(step):
        for name in node_code.steps_read(source):
            lines.setdefault(name, step.place_of_prop(*path)[0])
    return lines


def _code_reads(step: Step) -> dict[str, int]:
    if step.uses:
        return {}
    match step.language:
        case "python":
            return python_code.steps_read(step.source)
        case "node":
            return node_code.steps_read(step.source)
        case "go":
            return go_code.steps_read(step.source)
    return {}


def variables_of(step: Step) -> Variables:
    """
    Environment variables that *step*'s code and props read, without those that are always there.

    Raises:
        ExpressionError: A prop's expression cannot be read.
    """
    found = _code_variables(step)
    for _, source in _expressions(step):
        found |= node_code.variables(source)
    names = found.required | found.optional
    return found.without({name for name in names if name in STANDARD_VARIABLES or name.startswith("PIPEDREAM_")})


def _code_variables(step: Step) -> Variables:
    if step.uses:
        return Variables()
    match step.language:
        case "python":
            return python_code.variables(step.source)
        case "node":
            return node_code.variables(step.source)
        case "bash":
            return bash_code.variables(step.source)
        case "go":
            return go_code.variables(step.source)


def _expressions(step: Step) -> Iterator[tuple[Path, str]]:
    try:
        for path, template in templates_in(step.props):
            yield from ((path, expression.source) for expression in template.expressions)
    except ExpressionError as error:
        line, where = step.place_of_prop(*error.path)
        raise ExpressionError(
            f"Step {step.name}{where}: the prop {error.message}",
            fix=error.fix,
            step=step.name,
            line=line,
            path=error.path,
        ) from None


def _variables(step: Step) -> Variables:
    try:
        return variables_of(step)
    except ExpressionError:
        return variables_of(replace(step, props={}))


def variables_read(workflow: Workflow, *, optional: bool = False, lenient: bool = False) -> dict[str, list[str]]:
    """
    Environment variables that the enabled steps need, sorted, each with the steps that read it.

    Args:
        workflow: The workflow.
        optional: True adds those that steps read with a default or look for first.
        lenient: True reads the code alone of a step of which a prop's expression cannot be read.

    Raises:
        ExpressionError: A prop's expression cannot be read.
    """
    readers: dict[str, list[str]] = {}
    for step in workflow.steps:
        if not step.disabled:
            found = _variables(step) if lenient else variables_of(step)
            for name in found.required | (found.optional if optional else frozenset()):
                readers.setdefault(name, []).append(step.name)
    return dict(sorted(readers.items()))
