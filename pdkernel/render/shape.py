"""
View of an event's shape: a tree of paths that can be copied.

A key copies its path in the language of the cell below. For each other language of the workflow there is a button beside the key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pdkernel.errors import format_count
from pdkernel.render import formatting
from pdkernel.render.markup import (
    CONTAINER_STYLE,
    MUTED_STYLE,
    Html,
    collapsible,
    copyable,
    escape_control_characters,
    join,
    join_lines,
    tag,
)
from pdkernel.shape import EVENT_PATH, Segment, Shape, StepKind, format_node_path, format_path, format_python_path

MAX_CHILDREN = 200
MAX_NODES = 2000
_OPEN_LEVELS = 2
_LIST = "margin:0;padding:0;padding-left:16px;list-style-type:none"


def render_text(shape: Shape, *, root: Sequence[Segment] = EVENT_PATH, max_children: int = MAX_CHILDREN) -> str:
    """Render *shape* as an indented tree: key, types, presence, samples."""
    shown = _shown(shape, max_children)
    lines = list(_text_lines(shape, format_node_path((*root, *shape.path)), 0, shown, _events(shape)))
    width = min(48, max(len(name) for name, _ in lines))
    columns = formatting.TEXT_COLUMNS - width - 2
    return escape_control_characters(
        "".join(
            f"{f'{name:<{width}}  {formatting.truncate_line(description, columns)}'.rstrip()}\n"
            for name, description in lines
        )
    )


def render_html(
    shape: Shape,
    *,
    root: Sequence[Segment] = EVENT_PATH,
    max_children: int = MAX_CHILDREN,
    kinds: Iterable[StepKind] = (),
) -> str:
    """
    Render *shape* as collapsible HTML; each key can be copied as a path.

    Args:
        shape: The shape.
        root: The path of the shape.
        max_children: The number of keys of one object that are shown.
        kinds: The kinds of the steps below, in order: a key copies a path for the first. Node.js and Python by default.
    """
    shown = _shown(shape, max_children)
    view = _HtmlView(tuple(root), shown, _events(shape), tuple(dict.fromkeys(kinds)) or ("node", "python"))
    return tag("div", view.node(shape, 0), style=CONTAINER_STYLE, class_="pd-view pd-shape")


def _shown(shape: Shape, max_children: int) -> set[tuple[Segment, ...]]:
    """The paths to show, level by level, so that a large branch does not hide the others."""
    shown: set[tuple[Segment, ...]] = set()
    level = deque([shape])
    while level and len(shown) < MAX_NODES:
        node = level.popleft()
        shown.add(node.path)
        level.extend(node.children[:max_children])
    return shown


def _left_out(shape: Shape, shown: set[tuple[Segment, ...]]) -> str:
    hidden = sum(child.path not in shown for child in shape.children)
    return f"… {format_count(hidden, 'more key')} not shown" if hidden else ""


def _types(shape: Shape) -> str:
    if len(shape.types) == 1:
        return shape.types[0][0]
    return ", ".join(f"{name} ×{count:,}" for name, count in shape.types)


def _events(shape: Shape) -> int:
    """The number of merged events if *shape* is a whole event; 1 for a part of an event."""
    return 1 if shape.path else shape.possible_count


def _presence(shape: Shape, events: int) -> str:
    if events > 1 and not any(isinstance(segment, int) for segment in shape.path):
        # relative to all events, not only those with the parent key: this decides whether a step can rely on the key
        missing = shape.present_count < events
        return (
            f"in {shape.present_count:,} of {events:,} events ({shape.present_count / events:.0%})" if missing else ""
        )
    return f"in {shape.present_count:,} of {shape.possible_count:,}" if shape.is_optional else ""


def _describe_node(shape: Shape, events: int) -> str:
    counted = ""
    if shape.path and isinstance(shape.path[-1], int):
        counted = format_count(shape.possible_count, "item")
    elif not shape.path and events > 1:
        counted = format_count(events, "event")
    return ", ".join(part for part in (counted, _types(shape), _presence(shape, events)) if part)


def _key(shape: Shape) -> str:
    return f"[{shape.path[-1]}]" if isinstance(shape.path[-1], int) else shape.path[-1]


def _text_lines(
    shape: Shape, name: str, level: int, shown: set[tuple[Segment, ...]], events: int
) -> Iterator[tuple[str, str]]:
    description = ": ".join(part for part in (_describe_node(shape, events), ", ".join(shape.samples)) if part)
    yield f"{'  ' * level}{formatting.truncate_line(name, 40)}", description
    for child in shape.children:
        if child.path in shown:
            yield from _text_lines(child, _key(child), level + 1, shown, events)
    if left_out := _left_out(shape, shown):
        yield f"{'  ' * (level + 1)}{left_out}", ""


@dataclass(frozen=True, slots=True)
class _HtmlView:
    """The HTML of a shape; the attributes are explained at `render_html`."""

    root: tuple[Segment, ...]
    shown: set[tuple[Segment, ...]]
    events: int
    kinds: tuple[StepKind, ...]

    def node(self, shape: Shape, level: int) -> Html:
        """A key and, below it, the keys that it contains."""
        head = self._head(shape)
        if not shape.children:
            return tag("div", head, style="padding-left:16px")
        below = [self.node(child, level + 1) for child in shape.children if child.path in self.shown]
        if left_out := _left_out(shape, self.shown):
            below.append(tag("div", left_out, style=f"padding-left:16px;{MUTED_STYLE}"))
        items = [tag("li", node, style="margin:0;list-style-type:none") for node in below]
        return collapsible(head, tag("ul", join_lines(items), style=_LIST), open_=level < _OPEN_LEVELS)

    def _head(self, shape: Shape) -> Html:
        path = (*self.root, *shape.path)
        name = _key(shape) if shape.path else format_node_path(self.root)
        first, *others = self.kinds
        parts = [
            copyable(name or '""', format_path(path, first), style="font-weight:bold"),
            tag("span", _describe_node(shape, self.events), style=MUTED_STYLE),
            *(tag("code", sample) for sample in shape.samples),
            *(copyable("", format_path(path, kind), kind=f"pd-for-{kind}") for kind in others),
        ]
        return join([piece for part in parts for piece in (part, Html(" "))][:-1])


def build_rows(shape: Shape, *, root: Sequence[Segment] = EVENT_PATH) -> list[dict[str, object]]:
    """Build rows for JSON: the path in both languages, types with counts, samples, presence."""
    return [
        {
            "path": format_node_path((*root, *shape.path)),
            "python": format_python_path((*root, *shape.path)),
            "types": dict(shape.types),
            "samples": list(shape.samples),
            "present": shape.present_count,
            "total": shape.possible_count,
        },
        *(row for child in shape.children for row in build_rows(child, root=root)),
    ]
