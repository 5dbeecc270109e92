"""A user's actions in a front end, sent as widget messages: typing, clicking, reading."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import ipywidgets as ipw

NEEDS_SLACK = "%%pdstep send --app slack\ndef handler(pd):\n    return 'sent'\n"


def inside(widget: Any) -> Iterator[Any]:
    """*widget* and all its visible children."""
    if widget.layout.display == "none":
        return
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def screen(widget: Any) -> str:
    """All visible text of *widget*, except the content of fields."""
    seen = []
    for each in inside(widget):
        if isinstance(each, ipw.HTML):
            seen.append(html.unescape(re.sub(r"<[^>]+>", " ", each.value)))
        elif isinstance(each, ipw.Button):
            seen.append(each.description)
    return "\n".join(re.sub(r" +", " ", text).strip() for text in seen if text)


def button(widget: Any, description: str) -> Any:
    """The only button labelled *description*."""
    found = [each for each in inside(widget) if isinstance(each, ipw.Button) and each.description == description]
    assert len(found) == 1, f"{len(found)} buttons say {description!r}:\n{screen(widget)}"
    return found[0]


def press(widget: Any, description: str) -> None:
    """Click the button labelled *description*; a disabled button does nothing."""
    pressed = button(widget, description)
    if not pressed.disabled:
        pressed._handle_msg({"content": {"data": {"method": "custom", "content": {"event": "click"}}}, "buffers": []})


def enter(field: Any) -> None:
    """Press Enter in *field*."""
    field._handle_msg({"content": {"data": {"method": "custom", "content": {"event": "submit"}}}, "buffers": []})


def type_into(field: Any, text: str) -> None:
    """Replace the text of *field*, as a front end reports it."""
    message = {"method": "update", "state": {"value": text}, "buffer_paths": []}
    field._handle_msg({"content": {"data": message}, "buffers": []})


def pick(dropdown: Any, value: str) -> None:
    """Pick the option of *value* by its position, as a front end reports it."""
    values = [each[1] if isinstance(each, tuple) else each for each in dropdown.options]
    message = {"method": "update", "state": {"index": values.index(value)}, "buffer_paths": []}
    dropdown._handle_msg({"content": {"data": message}, "buffers": []})


def secrets(widget: Any) -> list[Any]:
    """The password fields on the screen."""
    return [each for each in inside(widget) if isinstance(each, ipw.Password)]


def everything_in_state() -> str:
    """Every widget's state, as front ends receive it and as notebooks save it."""
    widgets = list(ipw.widgets.widget._instances.values())  # a search in the background makes and closes widgets
    live = [each.get_state() for each in widgets]
    return json.dumps([live, ipw.Widget.get_manager_state(widgets=widgets)], default=repr)
