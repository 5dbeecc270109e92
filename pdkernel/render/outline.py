"""The outline of a workflow with blocks: its steps and branches in order, as text and as HTML, with one block marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pdkernel.language.expression import describe_condition
from pdkernel.model import LANGUAGE_NAMES, Block, Branch, Entry, Step, Workflow
from pdkernel.render.markup import CONTAINER_STYLE, Html, RichOutput, inline_code, join, muted, pill, tag

_INDENT = 2
_MAX_DETAIL_CHARS = 100
_MARK = "▸"


class _Line(NamedTuple):
    """
    A line of the outline.

    Attributes:
        depth: The number of blocks and branches around it.
        name: The step, block or branch.
        detail: A step's language or action, a block's type, or when a branch runs.
        is_branch: Whether the line is a branch, whose name is followed by a colon.
        problem: A word about why the step or block does not run, or empty text.
        below: For a branch of the marked block, the step or block after which a new step is written; else empty text.
    """

    depth: int
    name: str
    detail: str
    is_branch: bool = False
    problem: str = ""
    below: str = ""


def render_outline(workflow: Workflow, block: str | None = None) -> RichOutput:
    """Render the outline of *workflow*; *block* is the name of the block to mark, or None."""
    lines = list(_iter_lines(workflow, block))
    return RichOutput(text=_render_text(lines, block), html=_render_html(lines, block))


def _iter_lines(workflow: Workflow, marked: str | None) -> Iterator[_Line]:
    waiting: list[tuple[int, Entry | tuple[Block, Branch]]] = [(0, entry) for entry in reversed(workflow.entries())]
    while waiting:
        depth, item = waiting.pop()
        if isinstance(item, tuple):
            block, branch = item
            inner = workflow.entries(f"{block.name}.{branch.name}")
            detail = _shorten(describe_condition(block, branch)) + ("" if inner else " (no steps)")
            below = _find_last(workflow, block, branch) if block.name == marked else ""
            yield _Line(depth, branch.name, detail, is_branch=True, below=below)
            waiting += [(depth + 1, entry) for entry in reversed(inner)]
        elif isinstance(item, Step):
            problem = "cannot be read" if item.problem else "disabled" if item.disabled else ""
            yield _Line(depth, item.name, item.uses or LANGUAGE_NAMES[item.language], problem=problem)
        else:
            detail = f"{item.type} {item.expression}" if item.type == "switch" else item.type
            problem = "cannot be read" if item.problem else ""
            yield _Line(depth, item.name, _shorten(" ".join(detail.split())), problem=problem)
            waiting += [(depth + 1, (item, branch)) for branch in reversed(item.branches)]


def _find_last(workflow: Workflow, block: Block, branch: Branch) -> str:
    """Return the name of the last cell of *branch*; without steps, that of the nearest branch above that has some, else *block*."""
    place = block.branches.index(branch)
    name = block.name
    for above in reversed(block.branches[: place + 1]):
        if inner := workflow.entries(f"{block.name}.{above.name}"):
            name = inner[-1].name
            break
    while name != block.name and isinstance(last := workflow.entry(name), Block):
        inside = [entry for each in last.branches for entry in workflow.entries(f"{name}.{each.name}")]
        if not inside:
            break
        name = inside[-1].name
    return name


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_DETAIL_CHARS else f"{text[: _MAX_DETAIL_CHARS - 3]}..."


def _render_text(lines: list[_Line], block: str | None) -> str:
    width = max((line.depth * _INDENT + len(line.name) + line.is_branch for line in lines), default=0)
    written = []
    for line in lines:
        is_marked = line.name == block and not line.is_branch
        label = " " * (line.depth * _INDENT) + line.name + (":" if line.is_branch else "")
        detail = line.detail + (f" ({line.problem})" if line.problem else "")
        written.append(f"{_MARK if is_marked else ' '} {label:<{width}}  {detail}".rstrip())
    return "".join(f"{line}\n" for line in written)


def _render_html(lines: list[_Line], block: str | None) -> Html:
    rows = []
    for line in lines:
        is_marked = line.name == block and not line.is_branch
        name = muted(f"{line.name}:") if line.is_branch else inline_code(line.name)
        parts = [tag("strong", name) if is_marked else name, " ", muted(line.detail)]
        parts += [" ", pill(line.problem, "warn")] if line.problem else []
        if is_marked:
            parts += [" ", _action("pd-rename", f"Rename the block {line.name}")]
        elif line.below:
            parts += [" ", _action("pd-add", f"Add a step to {block}.{line.name} below {line.below}")]
        style = f"margin-left:{line.depth * 18}px;padding:1px 6px"
        if is_marked:
            style += ";border-left:3px solid #0969da;background-color:rgba(9,105,218,0.1)"
        current = {"aria_current": "true"} if is_marked else {}
        rows.append(tag("div", *parts, style=style, **current))
    return tag("div", join(rows), style=CONTAINER_STYLE, role="group", aria_label="Outline of the workflow")


def _action(class_name: str, title: str) -> Html:
    """Return a button that the JupyterLab extension shows and serves; it reads *title*."""
    return tag("code", class_=class_name, title=title, style="display:none")
