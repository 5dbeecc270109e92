"""
View of the shape of events as a tree of paths that can be copied, and of the difference of two events.

A key copies its path in the language of the cell below. For each other language of the workflow there is a button beside the key.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, islice

from pdkernel.errors import format_count
from pdkernel.language.shape import (
    ANY_KEY,
    EVENT_PATH,
    Change,
    ChangeKind,
    Difference,
    Segment,
    Shape,
    StepKind,
    format_node_path,
    format_path,
    format_python_path,
)
from pdkernel.render import formatting
from pdkernel.render.markup import (
    CONTAINER_STYLE,
    MUTED_STYLE,
    Html,
    RichOutput,
    Tone,
    collapsible,
    copyable,
    escape_control_characters,
    join,
    join_lines,
    pill,
    tag,
)

MAX_CHILDREN = 200
MAX_NODES = 2000
PREVIEW_LINES = 10
"""Lines of a preview: the whole value is folded below them."""
MAX_LISTED_CHANGES = 300
_LIST = "margin:0;padding:0;padding-left:16px;list-style-type:none"
_REQUEST_KEYS = frozenset({"query", "headers"})
_RARELY_READ = frozenset({"client_ip", "url"})
_MARKS: Mapping[ChangeKind, str] = {"added": "+", "removed": "-", "type": "!", "value": "~"}
_TONES: Mapping[ChangeKind, Tone] = {"added": "good", "removed": "bad", "type": "warn", "value": "busy"}


def render_output(
    shape: Shape,
    *,
    kinds: Iterable[StepKind] = (),
    more: str | None = None,
    title: str = "",
    max_nodes: int = MAX_NODES,
) -> RichOutput:
    """
    Render *shape* for a notebook: HTML whose first lines are open, and text.

    Args:
        shape: The shape of an event, or of several.
        kinds: As for `render_html`.
        more: The line that shows the rest of the text, such as `%pdshape --full`; None shows the whole text.
        title: What has the shape, if that is not the chosen event.
        max_nodes: About the number of paths in the HTML, which is saved in the notebook.
    """
    text = render_text(shape) if more is None else render_text(shape, max_lines=PREVIEW_LINES, more=more)
    html = render_html(shape, kinds=kinds, max_nodes=max_nodes)
    return RichOutput.from_message(title) + RichOutput(text, html) if title else RichOutput(text, html)


def render_text(
    shape: Shape,
    *,
    max_lines: int | None = None,
    more: str = "",
) -> str:
    """
    Render *shape* as an indented tree: key, types, presence, samples.

    Args:
        shape: The shape.
        max_lines: The number of lines of a preview; None for the whole tree.
        more: The command that shows the whole tree, for the last line of a preview.
    """
    total = _count(shape)
    is_preview = max_lines is not None and total > max_lines + 1
    shown = _select_first(shape, max_lines or 0) if is_preview else _shown(shape)
    events = _events(shape)
    lines = list(
        _text_lines(shape, format_node_path((*EVENT_PATH, *shape.path)), 0, shown, events, is_preview=is_preview)
    )
    width = min(48, max(len(name) for name, _ in lines))
    columns = formatting.TEXT_COLUMNS - width - 2
    written = [f"{name:<{width}}  {formatting.truncate_line(text, columns)}".rstrip() for name, text in lines]
    if is_preview:
        written.append(f"… {format_count(total - len(shown), 'more field')}: {more}")
    if summary := _summarize(shape):
        written.insert(0, summary)
    return escape_control_characters("".join(f"{line}\n" for line in written))


def render_html(
    shape: Shape,
    *,
    max_nodes: int = MAX_NODES,
    kinds: Iterable[StepKind] = (),
) -> str:
    """
    Render *shape* as HTML whose first lines are open, and the rest folded; each key can be copied as a path.

    Args:
        shape: The shape.
        max_nodes: About the number of paths that are shown.
        kinds: The kinds of the steps below, in order: a key copies a path for the first. Node.js and Python by default.
    """
    view = _HtmlView(
        _shown(shape, max_nodes),
        _select_first(shape, PREVIEW_LINES) if _count(shape) > PREVIEW_LINES + 1 else None,
        _events(shape),
        tuple(dict.fromkeys(kinds)) or ("node", "python"),
    )
    summary = _summarize(shape)
    parts = [tag("div", summary, style=MUTED_STYLE)] if summary else []
    return tag("div", *parts, view.node(shape), style=CONTAINER_STYLE, class_="pd-view pd-shape")


def _count(shape: Shape) -> int:
    return 1 + sum(map(_count, shape.children))


def _shown(shape: Shape, max_nodes: int = MAX_NODES) -> set[tuple[Segment, ...]]:
    """Return the paths to show, level by level, so that a large branch does not hide the others."""
    shown: set[tuple[Segment, ...]] = set()
    level = deque([shape])
    while level and len(shown) < max_nodes:
        node = level.popleft()
        shown.add(node.path)
        level.extend(node.children[:MAX_CHILDREN])
    return shown


def _select_first(shape: Shape, lines: int) -> set[tuple[Segment, ...]]:
    """Return the paths of a preview: level by level, the body before the headers, because steps read mostly the body."""
    shown: set[tuple[Segment, ...]] = set()
    order = count()
    waiting = [(0, next(order), shape)]
    while waiting and len(shown) < lines:
        rank, _, node = heappop(waiting)
        shown.add(node.path)
        for child in islice(node.children, lines):
            step = 10 if not node.path and child.path[-1] in _RARELY_READ else 1
            if len(node.path) == 1 and node.path[0] in _REQUEST_KEYS:
                step = 20
            heappush(waiting, (rank + step, next(order), child))
    return shown


def _left_out(shape: Shape, shown: set[tuple[Segment, ...]]) -> str:
    hidden = sum(child.path not in shown for child in shape.children)
    return f"… {format_count(hidden, 'more key')} not shown" if hidden else ""


def _types(shape: Shape) -> str:
    if len(shape.types) == 1:
        return shape.types[0][0]
    return ", ".join(f"{name} ×{count:,}" for name, count in shape.types)


def _events(shape: Shape) -> int:
    """Return the number of merged events if *shape* is a whole event; 1 for a part of an event."""
    return 1 if shape.path else shape.possible_count


def _is_repeated(shape: Shape) -> bool:
    """Return whether *shape* is in a list or in a map, so that an event may have it several times."""
    return any(isinstance(segment, int) or segment == ANY_KEY for segment in shape.path)


def _summarize(shape: Shape) -> str:
    """Return how many fields are in all events, in some, and of several types; empty for a single event."""
    events = _events(shape)
    if events == 1:
        return ""
    fields = [field for field in _iter_fields(shape) if not _is_repeated(field)]
    always = sum(field.present_count == events for field in fields)
    varying = sum(len(set(field.type_names) - {"null"}) > 1 for field in fields)
    varied = f", {varying:,} of varying type" if varying else ""
    return f"{format_count(events, 'event')}: {format_count(always, 'field')} always there, {len(fields) - always:,} in some{varied}"


def _iter_fields(shape: Shape) -> Iterator[Shape]:
    for child in shape.children:
        yield child
        yield from _iter_fields(child)


def _presence(shape: Shape, events: int) -> str:
    if events > 1 and not _is_repeated(shape):
        # relative to all events, not only those with the parent key: this decides whether a step can rely on the key
        missing = shape.present_count < events
        return (
            f"in {shape.present_count:,} of {events:,} events ({_format_share(shape.present_count, events)})"
            if missing
            else ""
        )
    return f"in {shape.present_count:,} of {shape.possible_count:,}" if shape.is_optional else ""


def _format_share(present: int, total: int) -> str:
    """Return the share in percent; a field that is missing or present once in thousands of events is neither in all nor in none."""
    share = present / total
    return ">99%" if share > 0.995 else "<1%" if share < 0.005 else f"{share:.0%}"


def _describe_node(shape: Shape, events: int) -> str:
    counted = ""
    if shape.keys:
        examples = ", ".join(map(_quote, shape.keys))
        counted = f"{format_count(shape.possible_count, 'key')}, such as {examples}"
    elif shape.path and isinstance(shape.path[-1], int):
        counted = format_count(shape.possible_count, "item")
    elif not shape.path and events > 1:
        counted = format_count(events, "event")
    return ", ".join(part for part in (counted, _types(shape), _presence(shape, events)) if part)


def _quote(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def _key(shape: Shape) -> str:
    return f"[{shape.path[-1]}]" if isinstance(shape.path[-1], int) else shape.path[-1]


def _describe_children(shape: Shape) -> str:
    """Return what is folded below a line of a preview."""
    fields = [child for child in shape.children if isinstance(child.path[-1], str) and not child.keys]
    others = [
        format_count(child.possible_count, "key" if child.keys else "item")
        for child in shape.children
        if child.keys or isinstance(child.path[-1], int)
    ]
    return ", ".join([*([format_count(len(fields), "field")] if fields else []), *others])


def _text_lines(
    shape: Shape, name: str, level: int, shown: set[tuple[Segment, ...]], events: int, *, is_preview: bool
) -> Iterator[tuple[str, str]]:
    description = ": ".join(part for part in (_describe_node(shape, events), ", ".join(shape.samples)) if part)
    below = [child for child in shape.children if child.path in shown]
    if is_preview and shape.children and not below:
        description = f"{description}, {_describe_children(shape)}"
    yield f"{'  ' * level}{formatting.truncate_line(name, 40)}", description
    for child in below:
        yield from _text_lines(child, _key(child), level + 1, shown, events, is_preview=is_preview)
    if not is_preview and (left_out := _left_out(shape, shown)):
        yield f"{'  ' * (level + 1)}{left_out}", ""


@dataclass(frozen=True, slots=True)
class _HtmlView:
    """The HTML of a shape; the attributes are explained at `render_html`, *first* has the open paths, or None for all."""

    shown: set[tuple[Segment, ...]]
    first: set[tuple[Segment, ...]] | None
    events: int
    kinds: tuple[StepKind, ...]

    def node(self, shape: Shape) -> Html:
        """Return a key and, below it, the keys that it contains."""
        if not shape.children:
            return tag("div", self._head(shape), style="padding-left:16px")
        below = [child for child in shape.children if child.path in self.shown]
        first = below if self.first is None else [child for child in below if child.path in self.first]
        rest = [child for child in below if child not in first] if first else below
        items = [self.node(child) for child in rest]
        if left_out := _left_out(shape, self.shown):
            items.append(tag("div", left_out, style=f"padding-left:16px;{MUTED_STYLE}"))
        if not first:
            return collapsible(self._head(shape, _describe_children(shape)), _list(items))
        folded = [collapsible(tag("span", _more(len(rest)), style=MUTED_STYLE), _list(items))] if rest else items
        return collapsible(self._head(shape), _list([*map(self.node, first), *folded]), open_=True)

    def _head(self, shape: Shape, folded: str = "") -> Html:
        path = (*EVENT_PATH, *shape.path)
        name = _key(shape) if shape.path else format_node_path(EVENT_PATH)
        first, *others = self.kinds
        parts = [
            copyable(name or '""', format_path(path, first), style="font-weight:bold"),
            tag("span", ", ".join(filter(None, (_describe_node(shape, self.events), folded))), style=MUTED_STYLE),
            *(tag("code", sample) for sample in shape.samples),
            *(copyable("", format_path(path, kind), kind=f"pd-for-{kind}") for kind in others),
        ]
        return join([piece for part in parts for piece in (part, Html(" "))][:-1])


def _list(items: Sequence[Html]) -> Html:
    rows = [tag("li", item, style="margin:0;list-style-type:none") for item in items]
    return tag("ul", join_lines(rows), style=_LIST)


def _more(count: int) -> str:
    return f"… {format_count(count, 'more field')}"


def render_difference(difference: Difference, names: tuple[str, str], *, more: str | None = None) -> RichOutput:
    """
    Render the difference of two events.

    Args:
        difference: The difference.
        names: The names of the events.
        more: The line that shows the whole text; None shows all listed changes.
    """
    counts = difference.counts
    counted = [
        f"{counts['added']:,} added" if counts["added"] else "",
        f"{counts['removed']:,} removed" if counts["removed"] else "",
        f"{counts['type']:,} of another type" if counts["type"] else "",
        f"{counts['value']:,} with another value" if counts["value"] else "",
    ]
    title = f"{names[0]} → {names[1]}: {', '.join(filter(None, counted)) or 'no difference'}"
    changes = difference.changes[:MAX_LISTED_CHANGES]
    shown = changes if more is None or len(changes) <= PREVIEW_LINES + 1 else changes[:PREVIEW_LINES]
    total = sum(counts.values())
    lines = [title, *(f"  {_MARKS[change.kind]} {_format_change(change)}" for change in shown)]
    if len(shown) < len(changes):
        lines.append(f"… {format_count(total - len(shown), 'more difference')}: {more}")
    elif total > len(changes):
        lines.append(f"… {format_count(total - len(changes), 'more difference')} not shown")
    return RichOutput("\n".join(lines), _difference_html(title, changes, total))


def _format_change(change: Change) -> str:
    path = formatting.truncate_line(format_node_path(change.path) or "the event", 60)
    return f"{path}  {_format_values(change)}"


def _format_values(change: Change) -> str:
    return " → ".join(filter(None, (change.before, change.after)))


def _difference_html(title: str, changes: Sequence[Change], total: int) -> Html:
    rows = [
        tag(
            "div",
            pill(change.kind if change.kind in ("added", "removed") else f"other {change.kind}", _TONES[change.kind]),
            copyable(format_node_path(change.path) or "the event", format_node_path((*EVENT_PATH, *change.path))),
            Html(" "),
            tag("span", _format_values(change), style=MUTED_STYLE),
        )
        for change in changes
    ]
    first = rows if len(rows) <= PREVIEW_LINES + 1 else rows[:PREVIEW_LINES]
    parts = [tag("strong", title), *first]
    if rest := rows[len(first) :]:
        if total > len(rows):
            rest = [*rest, tag("div", f"… {format_count(total - len(rows), 'more difference')} not shown")]
        head = tag("span", f"… {format_count(total - len(first), 'more difference')}", style=MUTED_STYLE)
        parts.append(collapsible(head, join_lines(rest)))
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-shape")


def build_change_rows(difference: Difference) -> dict[str, object]:
    """Build the JSON of a difference: the number of changes by kind, and the changes with their paths."""
    return {
        **{str(kind): number for kind, number in difference.counts.items()},
        "changes": [
            {
                "kind": change.kind,
                "path": format_node_path((*EVENT_PATH, *change.path)),
                "python": format_python_path((*EVENT_PATH, *change.path)),
                "before": change.before or None,
                "after": change.after or None,
            }
            for change in difference.changes
        ],
    }


def build_rows(shape: Shape) -> list[dict[str, object]]:
    """Build rows for JSON: the path in both languages, types with counts, samples, presence."""
    return [
        {
            "path": format_node_path((*EVENT_PATH, *shape.path)),
            "python": format_python_path((*EVENT_PATH, *shape.path)),
            "types": dict(shape.types),
            "samples": list(shape.samples),
            "present": shape.present_count,
            "total": shape.possible_count,
            **({"keys": list(shape.keys)} if shape.keys else {}),
        },
        *(row for child in shape.children for row in build_rows(child)),
    ]
