"""
What the steps of a workflow read: other steps, environment variables.

Knows which module reads which language. Reads literal names only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pdkernel.analysis import bash_code, go_code, node_code, python_code
from pdkernel.analysis.environment_variables import VariableReferences
from pdkernel.errors import ExpressionError
from pdkernel.expression import ValuePath, iter_templates
from pdkernel.model import Step, Workflow

STANDARD_VARIABLES = frozenset({"HOME", "LANG", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER"})
"""Variables that a step has without anyone setting them; so are all that start with `PIPEDREAM_`."""


def find_step_references(step: Step) -> dict[str, int | None]:
    """
    Names that *step* reads as `steps.NAME`, `trigger` among them, each with the line of the cell, or None where there is no cell.

    Raises:
        ExpressionError: A prop's expression cannot be read.
    """
    lines: dict[str, int | None] = {name: line + step.line_offset for name, line in _code_reads(step).items()}
    for path, source in _expressions(step):
        for name in node_code.find_step_references(source):
            lines.setdefault(name, step.locate_prop(*path)[0])
    return lines


def _code_reads(step: Step) -> dict[str, int]:
    if step.uses:
        return {}
    match step.language:
        case "python":
            return python_code.find_step_references(step.source)
        case "node":
            return node_code.find_step_references(step.source)
        case "go":
            return go_code.find_step_references(step.source)
    return {}


def find_step_variables(step: Step) -> VariableReferences:
    """
    Environment variables that *step*'s code and props read, without those that are always there.

    Raises:
        ExpressionError: A prop's expression cannot be read.
    """
    found = _code_variables(step)
    for _, source in _expressions(step):
        found |= node_code.find_variables(source)
    names = found.required | found.optional
    return found.without({name for name in names if name in STANDARD_VARIABLES or name.startswith("PIPEDREAM_")})


def _code_variables(step: Step) -> VariableReferences:
    if step.uses:
        return VariableReferences()
    match step.language:
        case "python":
            return python_code.find_variables(step.source)
        case "node":
            return node_code.find_variables(step.source)
        case "bash":
            return bash_code.find_variables(step.source)
        case "go":
            return go_code.find_variables(step.source)


def _expressions(step: Step) -> Iterator[tuple[ValuePath, str]]:
    try:
        for path, template in iter_templates(step.props):
            yield from ((path, expression.source) for expression in template.expressions)
    except ExpressionError as error:
        line, where = step.locate_prop(*error.path)
        raise ExpressionError(
            f"Step {step.name}{where}: the prop {error.message}",
            fix=error.fix,
            step=step.name,
            line=line,
            path=error.path,
        ) from None


def _find_code_or_step_variables(step: Step) -> VariableReferences:
    try:
        return find_step_variables(step)
    except ExpressionError:
        return find_step_variables(replace(step, props={}))


def find_workflow_variables(
    workflow: Workflow, *, include_optional: bool = False, ignore_bad_props: bool = False
) -> dict[str, list[str]]:
    """
    Environment variables that the enabled steps need, sorted, each with the steps that read it.

    Args:
        workflow: The workflow.
        include_optional: True adds those that steps read with a default or look for first.
        ignore_bad_props: True reads the code alone of a step of which a prop's expression cannot be read.

    Raises:
        ExpressionError: A prop's expression cannot be read.
    """
    readers: dict[str, list[str]] = {}
    for step in workflow.steps:
        if not step.disabled:
            found = _find_code_or_step_variables(step) if ignore_bad_props else find_step_variables(step)
            for name in found.required | (found.optional if include_optional else frozenset()):
                readers.setdefault(name, []).append(step.name)
    return dict(sorted(readers.items()))
