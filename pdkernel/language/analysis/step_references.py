"""
What steps, and conditions of blocks, refer to by literal names: other steps, environment variables, and apps.

The module of the step's language analyses the code. An app prop that the directive does not name gets the account of the
external user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import or_

from pdkernel.errors import ExpressionError
from pdkernel.language.analysis import bash_code, go_code, node_code, python_code
from pdkernel.language.analysis.imported_files import iter_sources
from pdkernel.language.analysis.python_code import VariableReferences
from pdkernel.language.expression import (
    EXPRESSION_KEY,
    ValuePath,
    get_condition_template,
    get_switch_template,
    iter_templates,
)
from pdkernel.model import JSON, AppBinding, Block, Entry, Language, Step, Workflow

UNKNOWN_APP = "unknown"
"""The app of an app prop that neither the definition nor known code names."""


def find_declared_apps(step: Step) -> tuple[AppBinding, ...]:
    """
    App props that the code of *step* declares with literals, in order, each with the external user's account.

    Node.js code declares app props. Go code has no props and names an app by reading `pd.Accounts["slack"]`.
    """
    if step.uses:
        return ()
    if step.language == "go":
        return tuple(AppBinding(app, app) for app in go_code.find_apps(step.source))
    if step.language != "node":
        return ()
    return tuple(AppBinding(prop, app) for prop, app in node_code.find_apps(step.source).items())


def find_app_bindings(step: Step) -> tuple[AppBinding, ...]:
    """Return all app props of *step*: those of the directive, then those that only the code declares."""
    return merge_app_bindings(step.apps, find_declared_apps(step))


def merge_app_bindings(directive: tuple[AppBinding, ...], declared: tuple[AppBinding, ...]) -> tuple[AppBinding, ...]:
    """
    Return the app props of *directive*, then the other *declared* app props. Props match by name, else by app.

    So `--app slack` sets the account of a prop `chat` that the code declares for the app slack.
    """
    named = {binding.prop for binding in directive}
    by_app = {binding.app: binding for binding in directive if binding.prop == binding.app}
    merged = list(directive)
    for binding in declared:
        if binding.prop in named:
            continue
        alias = by_app.pop(binding.app, None)
        if alias is None:
            merged.append(binding)
        else:
            merged[merged.index(alias)] = replace(alias, prop=binding.prop)
    return tuple(merged)


STANDARD_VARIABLES = frozenset({"HOME", "LANG", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER"})
"""Variables that every step has, besides those that start with `PIPEDREAM_`."""

_NOT_LITERAL_KEY = r"""(?!\s*(?:\?\.|\.)\s*[A-Za-z_$]|\s*\[\s*['"`])"""
_DYNAMIC_STEPS_ACCESS: Mapping[Language, re.Pattern[str]] = {
    "python": re.compile(rf"""\.\s*steps\b{_NOT_LITERAL_KEY}|["']steps["']"""),
    "node": re.compile(rf"\bsteps\b{_NOT_LITERAL_KEY}"),
    "bash": re.compile("PIPEDREAM_STEPS"),
    "go": re.compile(rf"\.\s*Steps\b{_NOT_LITERAL_KEY}"),
}
_PARAMETERS = re.compile(r"\brun\s*(?::\s*(?:async\s*)?)?\(\s*\{[^}]*\}\s*\)")
_COMMENTS = re.compile(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", re.DOTALL)


def build_condition_step(block: Block) -> Step:
    """Return the conditions of *block* as the props of a step, as analyses read them; conditions that are not JavaScript are left out."""
    props: dict[str, JSON] = {}
    with suppress(ExpressionError):
        if block.type == "switch":
            props[EXPRESSION_KEY] = get_switch_template(block)
    for branch in block.branches:
        with suppress(ExpressionError):
            props[branch.name] = get_condition_template(block, branch)
    return Step(
        block.name,
        "node",
        uses="conditions@0.0.0",
        props=props,
        line_offset=block.line_offset,
        cell_index=block.cell_index,
        execution_count=block.execution_count,
        file=block.file,
        file_line=block.file_line,
        prop_lines=block.lines,
    )


def find_step_references(step: Entry) -> dict[str, int | None]:
    """
    Names that *step*, or a block, reads as `steps.NAME`, with `trigger`, each with the line of the cell or None without a cell.

    Raises:
        ExpressionError: An expression of a prop is invalid.
    """
    if isinstance(step, Block):
        step = build_condition_step(step)
    lines: dict[str, int | None] = {name: line + step.line_offset for name, line in _code_reads(step).items()}
    for path, source in _expressions(step):
        for name in node_code.find_step_references(source):
            lines.setdefault(name, step.locate_prop(*path)[0])
    return lines


def needs_step(step: Step, name: str) -> bool:
    """Return whether *step* may read `steps.NAME`: it names the step, or reads `steps` without a literal name."""
    try:
        if name in find_step_references(step):
            return True
    except ExpressionError:
        return True
    if step.uses is not None:
        return False
    code = _PARAMETERS.sub("", _COMMENTS.sub("", step.source)) if step.language == "node" else step.source
    return _DYNAMIC_STEPS_ACCESS[step.language].search(code) is not None


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
    Environment variables that the code and props of *step* read, without those that every step has.

    Raises:
        ExpressionError: An expression of a prop is invalid.
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
        case "python" | "node":
            find = python_code.find_variables if step.language == "python" else node_code.find_variables
            return reduce(or_, (find(source) for _, source in iter_sources(step)))
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


def find_workflow_variables(workflow: Workflow, *, ignore_bad_props: bool = False) -> dict[str, list[str]]:
    """
    Environment variables that the enabled steps and the blocks need, sorted, each with those that read it.

    Args:
        workflow: The workflow.
        ignore_bad_props: True reads only the code of a step if an expression of its props is invalid.

    Raises:
        ExpressionError: An expression of a prop is invalid.
    """
    readers: dict[str, list[str]] = {}
    for step in workflow.steps:
        if not step.disabled:
            found = _find_code_or_step_variables(step) if ignore_bad_props else find_step_variables(step)
            for name in found.required:
                readers.setdefault(name, []).append(step.name)
    for block in workflow.blocks:
        for name in _find_code_or_step_variables(build_condition_step(block)).required:
            readers.setdefault(name, []).append(block.name)
    return dict(sorted(readers.items()))
