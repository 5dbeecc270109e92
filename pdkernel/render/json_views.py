"""Views of a JSON value, and of a run's event, as HTML: a tree, a table and its JSON. A click on a part copies its path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from pdkernel.errors import format_count
from pdkernel.execution import RunTrigger
from pdkernel.language.shape import Segment, format_path
from pdkernel.model import JSON
from pdkernel.render import formatting
from pdkernel.render.markup import (
    CELL_STYLE,
    MUTED_STYLE,
    Html,
    code_block,
    collapsible,
    copyable,
    join,
    join_lines,
    muted,
    tag,
)

MAX_NODES = 100
MAX_KEYS = 50
MAX_ITEMS = 10
"""Items of a list that a tree shows: fewer than keys, because items are mostly alike."""
MAX_ROWS = 10
MAX_COLUMNS = 8
_MAX_COUNTED_VALUES = 10_000
_MAX_VALUE_CHARACTERS = 200
_MAX_CELL_CHARACTERS = 60
_OPEN_NODES = 20
"""A tree with more parts is shown with its first level only."""
_LIST_STYLE = "margin:0;padding-left:16px;list-style-type:none"

Path: TypeAlias = tuple[Segment, ...]
FormatPath = Callable[[Path], str]
"""Returns the expression that reads the part of the value at a path."""


def render_views(value: JSON, format_path: FormatPath | None) -> Html:
    """
    Render an object or a list as a tree and, closed below it, as a table and as JSON.

    Args:
        value: The value.
        format_path: For the paths that are copied; None for a value that no expression reads.
    """
    json = code_block(formatting.format_json(value, max_lines=200, max_characters=8000))
    return join_lines(
        [
            _render_tree(value, format_path),
            collapsible(muted("as a table"), _render_table(value, format_path)),
            collapsible(muted("as JSON"), json),
        ]
    )


def render_part(shown: str, path: Path, format_path: FormatPath | None, *, style: str = "") -> Html:
    """Render a part of a value that copies its path, if it has one."""
    return tag("code", shown, style=style) if format_path is None else copyable(shown, format_path(path), style=style)


def _render_tree(value: JSON, format_path: FormatPath | None) -> Html:
    shown = _select(value)
    return _children(value, (), shown, format_path, is_open=len(shown) <= _OPEN_NODES)


def _select(value: JSON) -> set[Path]:
    """Return the paths to show, level by level, so that a large part does not hide the others."""
    shown: set[Path] = set()
    level: deque[tuple[Path, JSON]] = deque([((), value)])
    while level and len(shown) < MAX_NODES:
        path, part = level.popleft()
        shown.add(path)
        level.extend(((*path, key), item) for key, item in _first_items(part))
    return shown


def _children(value: JSON, path: Path, shown: set[Path], format_path: FormatPath | None, *, is_open: bool) -> Html:
    below = [
        _node(item, (*path, key), shown, format_path, is_open=is_open)
        for key, item in _first_items(value)
        if (*path, key) in shown
    ]
    if len(below) < _count(value):
        hidden = format_count(_count(value) - len(below), "more item" if isinstance(value, list) else "more key")
        below.append(tag("div", f"… {hidden} not shown", style=f"padding-left:16px;{MUTED_STYLE}"))
    return tag("ul", *(tag("li", each) for each in below), style=_LIST_STYLE)


def _node(value: JSON, path: Path, shown: set[Path], format_path: FormatPath | None, *, is_open: bool) -> Html:
    key = path[-1]
    name = f"[{key}]" if isinstance(key, int) else key
    if not _count(value):
        short = formatting.truncate_line(formatting.format_json_line(value), _MAX_VALUE_CHARACTERS)
        return render_part(f"{name}: {short}", path, format_path)
    head = join([render_part(name, path, format_path), Html(" "), tag("span", _describe(value), style=MUTED_STYLE)])
    return collapsible(head, _children(value, path, shown, format_path, is_open=is_open), open_=is_open)


def _describe(value: JSON) -> str:
    return format_count(_count(value), "item" if isinstance(value, list) else "key")


def _count(value: JSON) -> int:
    return len(value) if isinstance(value, Mapping | list) else 0


def _iter_items(value: JSON) -> Iterator[tuple[Segment, JSON]]:
    if isinstance(value, Mapping):
        return iter(value.items())
    return enumerate(value) if isinstance(value, list) else iter(())


def _first_items(value: JSON) -> Iterator[tuple[Segment, JSON]]:
    """Yield the items that a tree may show: lists and objects may have millions."""
    return islice(_iter_items(value), MAX_ITEMS if isinstance(value, list) else MAX_KEYS)


def _render_table(value: JSON, format_path: FormatPath | None) -> Html:
    """Return a row for each record of a list of objects; of any other value, a row for each leaf."""
    records = value if isinstance(value, list) and all(isinstance(item, Mapping) and item for item in value) else []
    rows = _record_rows(records, format_path) if records else _leaf_rows(value, format_path)
    total, is_exact = (len(records), True) if records else _count_leaves(value)
    hidden = total - MAX_ROWS
    least = "" if is_exact else "at least "
    left_out = [tag("div", f"… {least}{format_count(hidden, 'more row')} not shown", style=MUTED_STYLE)]
    table = tag("table", join_lines(rows), style="border-collapse:collapse;margin:4px 0 4px 16px")
    return join_lines([table, *(left_out if hidden > 0 else [])])


def _record_rows(records: Sequence[JSON], format_path: FormatPath | None) -> list[Html]:
    found = dict.fromkeys(key for record in records[:MAX_ROWS] if isinstance(record, Mapping) for key in record)
    columns = [*found][:MAX_COLUMNS]
    more = [f"… {format_count(len(found) - len(columns), 'more column')}"] if len(found) > MAX_COLUMNS else []
    rows = [_row("th", [join([name]) for name in (*columns, *more)])]
    for index, record in enumerate(records[:MAX_ROWS]):
        assert isinstance(record, Mapping), "the caller passes records"
        cells = [_cell(record[name], (index, name), format_path) if name in record else Html("") for name in columns]
        rows.append(_row("td", cells))
    return rows


def _leaf_rows(value: JSON, format_path: FormatPath | None) -> list[Html]:
    rows = [_row("th", [Html("path"), Html("value")])]
    for path, leaf in islice(_leaves((), value), MAX_ROWS):
        name = ".".join(map(str, path))
        rows.append(_row("td", [join([name]), _cell(leaf, path, format_path)]))
    return rows


def _leaves(path: Path, value: JSON) -> Iterator[tuple[Path, JSON]]:
    pending = [iter([(path, value)])]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
        elif _count(found[1]):
            pending.append(_below(*found))
        else:
            yield found


def _count_leaves(value: JSON) -> tuple[int, bool]:
    """Return the number of leaves, and whether it is exact: of a very large value, only the first parts are counted."""
    count = 0
    pending: list[Iterator[tuple[Segment, JSON]]] = [iter([("", value)])]
    for _ in range(_MAX_COUNTED_VALUES):
        while pending and (found := next(pending[-1], None)) is None:
            pending.pop()
        if not pending:
            return count, True
        assert found is not None, "the loop has found a part"
        if _count(found[1]):
            pending.append(_iter_items(found[1]))
        else:
            count += 1
    return count, False


def _below(path: Path, value: JSON) -> Iterator[tuple[Path, JSON]]:
    return (((*path, key), item) for key, item in _iter_items(value))


def _cell(value: JSON, path: Path, format_path: FormatPath | None) -> Html:
    short = formatting.truncate_line(formatting.format_json_line(value), _MAX_CELL_CHARACTERS)
    return render_part(short, path, format_path)


def _row(kind: str, cells: Sequence[Html]) -> Html:
    return tag("tr", *(tag(kind, cell, style=CELL_STYLE) for cell in cells))


_EVENT = ("steps", "trigger", "event")
_REQUEST_KEYS = frozenset({"method", "path", "query", "headers", "client_ip", "url"})
"""Keys of an event that describe its HTTP request."""


def render_event(trigger: RunTrigger) -> str:
    """Render the event of a run: the body, or an event without a request, as a tree; below it the request, closed."""
    event = trigger.event
    if trigger.sealed:
        return tag("div", muted("The event is sealed: it is shown once the accounts of the run are known."))
    if not event:
        return tag("div", muted("The event is empty."))
    request = {key: value for key, value in event.items() if key in _REQUEST_KEYS}
    rest = {key: value for key, value in event.items() if key not in _REQUEST_KEYS and key != "body"}
    parts = []
    if "body" in event or not rest:
        parts.append(_render_value(event.get("body"), "body"))
    parts += [_render_value(value, key) for key, value in rest.items()]
    if request:
        summary = f"request: {_describe_request(request)}"
        parts.append(collapsible(muted(summary), render_views(request, _format_path())))
    return tag("div", join_lines(parts))


def _render_value(value: JSON, key: str) -> Html:
    name = render_part(key, (), _format_path(key))
    if isinstance(value, dict | list) and value:
        return tag("div", name, render_views(value, _format_path(key)), style="margin-bottom:6px")
    if value is None:
        return tag("div", name, Html(" "), muted("empty"), style="margin-bottom:6px")
    text = value if isinstance(value, str) else formatting.format_json(value, max_lines=200, max_characters=8000)
    shown = formatting.truncate_text(text, max_lines=200, max_characters=8000)
    return tag("div", name, code_block(shown), style="margin-bottom:6px")


def _describe_request(request: Mapping[str, JSON]) -> str:
    words = " ".join(str(request[key]) for key in ("method", "path") if request.get(key))
    return formatting.truncate_line(words or "without a method", 120)


def _format_path(*keys: str) -> FormatPath:
    """Return the function that formats a path below *keys* of the event."""
    return lambda path: format_path((*_EVENT, *keys, *path), "node")
