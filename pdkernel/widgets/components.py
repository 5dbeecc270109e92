"""
Small pieces that the forms share: messages, texts to copy, a button that asks once, the field for a secret.

Knows ipywidgets and escaping. Knows nothing of sessions.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as ipw
import traitlets

DESCRIPTION_STYLE = {"description_width": "110px"}
"""Style that lines the fields of a form up."""
WIDE_LAYOUT = {"width": "calc(100% - 8px)", "max_width": "1000px"}
"""Layout of a field that takes the form's width."""
FIELD_MARGIN = "0 0 0 118px"
"""Margin of what stands below a field, without a name of its own: the name's 110 px and the gap after it."""
FIELD_LEFT_MARGIN = "120px"
"""Where fields begin: left margin of what has none of its own."""
ROW_LAYOUT = {"flex_flow": "row wrap", "align_items": "center"}
"""Layout of what stands side by side where there is room."""

_STYLES = {
    "error": "color: var(--jp-error-color1, #b3261e)",
    "success": "color: var(--jp-success-color1, #1b7f3b)",
    # Lab's warning colour cannot be read as text on white
    "warn": "color: var(--jp-ui-font-color1, #212121); border-left: 3px solid var(--jp-warn-color1, #b26a00); padding-left: 6px",
    "muted": "color: var(--jp-ui-font-color2, #616161)",
}


def build_field_layout(width_px: int, *, min_width_px: int | None = None) -> dict[str, str]:
    """Layout of a field *width_px* pixels wide, or as wide as there is room; in a `row` it wraps only below *min_width_px*."""
    narrower = {} if min_width_px is None else {"flex": f"1 1 {min_width_px}px", "min_width": f"{min_width_px}px"}
    return {"width": f"{width_px}px", "max_width": f"min({width_px}px, calc(100% - 8px))", **narrower}


def build_field_row(first: Any, *others: Any, name_px: int = 110) -> Any:
    """
    A row that starts with a named field; what does not fit continues below that field, not below its name.

    Without room those become narrower first whose `field` says how narrow they may be.

    Args:
        first: The field; its margin and greatest width are set here.
        others: What stands beside it.
        name_px: The width of its name.
    """
    # Into the padding, which a box does not clip, reaches the first one's name.
    first.layout.margin = f"2px 2px 2px -{name_px + 6}px"
    first.layout.max_width = f"min({first.layout.width}, calc(100% + {name_px + 4}px))"
    return ipw.HBox([first, *others], layout={**ROW_LAYOUT, "padding": f"0 0 0 {name_px + 8}px"})


def format_message_html(text: str, *, kind: str = "muted") -> str:
    """*text* escaped, in the style of *kind* (`error`, `success`, `warn`, `muted`), its line ends kept."""
    if not text:
        return ""
    role = ' role="alert"' if kind == "error" else ""
    style = f"{_STYLES[kind]}; white-space: pre-wrap; line-height: 1.4"
    return f'<div{role} style="{style}">{html.escape(text)}</div>'


def build_copyable_html(text: str) -> str:
    """*text* as code that can be selected, or copied with a click where the Lab extension is installed."""
    safe = html.escape(text)
    return f'<code class="pd-k" role="button" tabindex="0" title="Copy {safe}">{safe}</code>'


def build_copyable_block_html(text: str) -> str:
    """*text* of several lines as a block of code that is copied like `copy_html`'s."""
    safe = html.escape(text)
    look = "display:block;padding:4px 8px;white-space:pre-wrap;background-color:rgba(127,127,127,0.1)"
    kind = 'class="pd-k pd-block" role="button" tabindex="0"'
    return f'<code {kind} style="{look}" title="Copy {safe}">{safe}</code>'


def create_message() -> Any:
    """An empty place for a message; fill it with `say`."""
    return ipw.HTML(layout={"display": "none", **WIDE_LAYOUT})


def show_message(widget: Any, text: str, *, kind: str = "muted") -> None:
    """Put *text* into *widget*; an empty one hides it."""
    show_message_html(widget, format_message_html(text, kind=kind))


def show_message_html(widget: Any, markup: str) -> None:
    """Put *markup*, escaped by its maker, into *widget*; an empty one hides it."""
    if widget.value != markup:
        widget.value = markup
    set_visible(widget, visible=bool(markup))


def set_visible(widget: Any, *, visible: bool) -> None:
    """Show or hide *widget*."""
    display = None if visible else "none"
    if widget.layout.display != display:
        widget.layout.display = display


def set_value(widget: Any, value: object, name: str = "value") -> None:
    """Set the value of *widget*, or its trait of that *name*, sending nothing if it has it."""
    if getattr(widget, name) != value:
        setattr(widget, name, value)


def set_children(box: Any, children: Iterable[Any]) -> None:
    """Give *box* these children, sending nothing if it has them; a view that stays keeps its focus."""
    wanted = tuple(children)
    if box.children != wanted:
        box.children = wanted


def close_tree(widget: Any) -> None:
    """Close *widget*, what it holds, and their layouts and styles."""
    for child in getattr(widget, "children", ()):
        close_tree(child)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, ipw.Widget):
            part.close()
    widget.close()


class ConfirmButton:
    """
    A button that does something only at the second click.

    Args:
        description: What it says at first.
        act: Called at the second click, or at the first where nothing needs asking.
        question: What it says after the first click; an empty answer means that nothing needs asking.
    """

    def __init__(
        self, description: str, *, act: Callable[[], None], question: Callable[[], str], **options: Any
    ) -> None:
        self._description = description
        self._style = options.get("button_style", "")
        self._act = act
        self._question = question
        self._asked = ""
        self.view = ipw.Button(description=description, **options)
        self.view.on_click(self._clicked)

    def reset(self) -> None:
        """Ask again next time."""
        self._asked = ""
        if self.view.description != self._description:
            self.view.description = self._description
            self.view.button_style = self._style

    def _clicked(self, _button: object) -> None:
        question = self._question()
        if question and question != self._asked:
            self._asked = question
            self.view.description = question
            self.view.button_style = "danger"
            return
        self.reset()
        self._act()


class SecretField(ipw.Password):
    """
    A password field whose value stays in no front end and leaves the kernel never.

    What is typed arrives when the field is left. It is taken out of the widget at once, and the field on the screen
    emptied, so that a notebook saved with its widgets' state does not hold what was typed and not yet used. It is not
    echoed to other front ends and stands in no state. `take_value` hands it over and forgets it; *came* is told that there is
    something to take.
    """

    value = traitlets.Unicode(help="What arrives from the field; blank a moment later").tag(
        sync=True, echo_update=False
    )
    # keystrokes would queue behind a running cell and a click would overtake them: the whole text comes at once
    continuous_update = traitlets.Bool(default_value=False).tag(sync=True)

    def __init__(self, *, came: Callable[[], None] = lambda: None, **options: Any) -> None:
        self._typed_value = ""
        self._on_input = came
        self._asks = options.get("placeholder", "")
        super().__init__(**options)
        self.observe(self._arrived, "value")

    @property
    def has_value(self) -> bool:
        """Whether something was typed and not yet taken."""
        return bool(self._typed_value)

    def take_value(self) -> str:
        """What was typed; it is forgotten here."""
        taken, self._typed_value = self._typed_value, ""
        self.placeholder = self._asks
        return taken

    def close(self) -> None:
        """Forget what was typed, and take the field off the screen."""
        self._typed_value = ""
        super().close()

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state that front ends and saved notebooks get: without the value."""
        state: dict[str, Any] = super().get_state(key=key, drop_defaults=drop_defaults)
        if "value" in state:
            state["value"] = ""
        return state

    def _arrived(self, change: Any) -> None:
        if change["new"]:
            self._typed_value = change["new"]
            self.value = ""
            self.placeholder = "typed (hidden); type again to replace it"
            self._on_input()
