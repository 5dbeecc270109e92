"""
Places in the code for error messages: lines, names of cells, and one error from several steps.

If there are several candidates for a line, no line is returned.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from tree_sitter import Node

from pdkernel.errors import DefinitionError
from pdkernel.language.analysis import python_code
from pdkernel.language.expression import javascript
from pdkernel.model import Entry, Step

_MAX_LISTED_ERRORS = 10
"""Maximum number of errors that one message lists, so that a message has at most 15 lines."""


def describe_place(step: Entry, line: int | None) -> str:
    """Return the cell of *step*, or of a block, and *line* for a message: ` (cell [3], line 12)` or ` (work.py:12)`; empty if neither is known."""
    if step.file is not None and step.file_line is not None and (line is not None or step.cell_index is not None):
        return f" ({step.file}:{step.file_line + (line or 1) - 1})"
    parts = [name_cell(step), f"line {line}" if line is not None else ""]
    return f" ({', '.join(filter(None, parts))})" if any(parts) else ""


def name_cell(step: Entry) -> str:
    """`cell [3]`, by the number beside the cell of *step*, else `cell 5`, by its position; empty without a notebook."""
    if step.execution_count is not None:
        return f"cell [{step.execution_count}]"
    return f"cell {step.cell_index + 1}" if step.cell_index is not None else ""


def describe_error_place(step: Entry | None, name: str, line: int | None) -> str:
    """
    Return the place of an error: `line 4 of cell [3]`, `line 4 of cell [3] of work.ipynb`, or `work.py:27`.

    Args:
        step: The step, or None if only its name is known.
        name: The name of the step, for a cell without a number.
        line: The line of the cell, or None.
    """
    if step is not None and step.file is not None and step.file_line is not None:
        return f"{step.file}:{step.file_line + line - 1}" if line is not None else step.file
    cell = (name_cell(step) if step is not None else "") or f"the cell `{name}`"
    where = f"{cell} of {step.file}" if step is not None and step.file is not None else cell
    return f"line {line} of {where}" if line is not None else where


def translate_places(step: Step, text: str) -> str:
    """Return *text* of an error or stack of *step* with `cell [3]`, or lines of its file, for the places that the language reports."""
    name, file = re.escape(step.name), step.file
    python, other = rf'File "<step {name}>", line (\d+)', rf"(?:<step {name}>|(?<![\w/]){name}\.go):(\d+)"
    if file is not None and (first := step.file_line) is not None:
        text = re.sub(python, lambda found: f'File "{file}", line {first + int(found[1]) - 1}', text)
        return re.sub(other, lambda found: f"{file}:{first + int(found[1]) - 1}", text)
    if not (cell := name_cell(step)):
        return text
    text = re.sub(python, lambda found: f"{cell.capitalize()}, line {found[1]}", text)
    return re.sub(other, lambda found: f"{cell}:{found[1]}", text)


def with_message(
    error: DefinitionError, message: str, *, fix: str | None = None, line: int | None = None
) -> DefinitionError:
    """Return a copy of *error* with another message, fix and line."""
    fix, line = error.fix if fix is None else fix, error.line if line is None else line
    return type(error)(message, fix=fix, step=error.step, line=line)


def raise_combined(problems: Sequence[DefinitionError]) -> None:
    """
    Raise *problems* as one error; return if there are none.

    Raises:
        DefinitionError: A single problem unchanged; for several problems, the class of the first with all messages.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    lines = [f"- {_on_one_line(problem)}" for problem in problems[:_MAX_LISTED_ERRORS]]
    if len(problems) > _MAX_LISTED_ERRORS:
        lines.append(f"- and {len(problems) - _MAX_LISTED_ERRORS} more")
    raise with_message(problems[0], "\n".join([f"{len(problems)} problems:", *lines]), fix="")


def _on_one_line(problem: DefinitionError) -> str:
    fix = "" if "\n" in problem.fix else problem.fix  # a list has no space for code
    return " ".join(f"{problem.message} {fix}".split())


def find_return_line(step: Step) -> int | None:
    """Return the line of the only `return` with a value in the function that *step* runs; None if there are several."""
    if step.uses:
        return None
    if step.language == "python":
        lines = set(_python_returns(step.source))
    elif step.language == "node":
        lines = set(_node_returns(step.source))
    else:
        return None
    return lines.pop() + step.line_offset if len(lines) == 1 else None


def locate_missing_prop(step: Step, prop: str) -> tuple[int | None, str]:
    """
    Return the place to set a value of *prop*, in the form of `Step.locate_prop`.

    For code of a synced folder, this is the line of its entry file that declares the prop.
    """
    line, where = step.locate_prop(prop)
    if step.props_file is not None and not step.uses and step.language == "node":
        line = _declaration_line(step.source, prop)
    return line, where


def _python_returns(source: str) -> Iterator[int]:
    tree = python_code.parse_source(source)
    for statement in tree.body if tree else ():
        if (
            isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
            and statement.name == python_code.ENTRY_FUNCTION
        ):
            yield from _returns_in(statement.body)


def _returns_in(body: list[ast.stmt]) -> Iterator[int]:
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.lineno
        waiting.extend(ast.iter_child_nodes(node))


def _node_returns(source: str) -> Iterator[int]:
    run = find_run_function(javascript.parse_source(source))
    body = None if run is None else run.child_by_field_name("body")
    if body is None:
        return
    if body.type != "statement_block":  # run: async () => value
        yield body.start_point[0] + 1
        return
    waiting = [body]
    while waiting:
        node = waiting.pop()
        if node.type == "return_statement" and node.named_children:
            yield node.start_point[0] + 1
        waiting.extend(child for child in node.named_children if child.type not in javascript.FUNCTION_NODE_TYPES)


def find_run_function(root: Node) -> Node | None:
    """Return the first function called `run` that is a member of an object in the tree of *root*."""
    return next((function for node in javascript.iter_nodes(root) if (function := _run_of(node))), None)


def _run_of(node: Node) -> Node | None:
    """Return the function of *node*, a member of an object, if its name is `run`."""
    if node.type == "method_definition" and javascript.get_key(node) == "run":
        return node
    if node.type == "pair" and javascript.get_key(node) == "run":
        value = node.child_by_field_name("value")
        return value if value is not None and value.type in javascript.FUNCTION_NODE_TYPES else None
    return None


def _declaration_line(source: str, prop: str) -> int | None:
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        if node.type == "pair" and javascript.get_key(node) == "props":
            props = node.child_by_field_name("value")
            for member in props.named_children if props is not None else ():
                if member.type in {"pair", "shorthand_property_identifier"} and _name_of(member) == prop:
                    return member.start_point[0] + 1
    return None


def _name_of(member: Node) -> str | None:
    return javascript.get_key(member) if member.type == "pair" else javascript.get_source(member)
