"""
What forms are built from: messages, copyable text, a confirm button, the field for a secret, and the saved output.

A widget's own output is unreadable without a kernel, and its alternative text never changes. The saved output beside it
is text and HTML with a display id, drawn again after changes: the saved notebook holds its last state.
"""

from __future__ import annotations

import html
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import ipywidgets as ipw
import traitlets
from IPython.display import display, update_display
from ipywidgets import DOMWidget

from pdkernel.render.markup import BORDER_STYLE, RichOutput, join_lines, multiline, tag

_PICTURE_STYLE: Final = "border-collapse:separate;border-spacing:6px 4px;margin:4px 0"
_NAME_STYLE: Final = "padding:3px 2px;text-align:right;vertical-align:top;font-weight:normal"
_FIELD_STYLE: Final = f"{BORDER_STYLE};padding:3px 8px;text-align:left;vertical-align:top;min-width:200px"


DESCRIPTION_STYLE = {"description_width": "110px"}
"""Style that aligns the fields of a form."""
HIDDEN_NAME_STYLE = {"description_width": "0px"}
"""Style that shows no name of a field; screen readers read the name. The gap after the name (8 px) stays."""
WIDE_LAYOUT = {"width": "calc(100% - 8px)", "max_width": "1000px"}
"""Layout of a field as wide as the form."""
FIELD_MARGIN = "0 0 0 118px"
"""Margin of a widget below a field: the width of the field's name (110 px) and the gap after it."""
FIELD_LEFT_MARGIN = "120px"
"""Left margin that aligns a widget with the fields."""
ROW_LAYOUT = {"flex_flow": "row wrap", "align_items": "center"}
"""Layout of a row that wraps if the space is too narrow."""

_STYLES = {
    "error": "color: var(--jp-error-color1, #b3261e)",
    "success": "color: var(--jp-success-color1, #1b7f3b)",
    # Lab's warning colour is unreadable as text on white
    "warn": "color: var(--jp-ui-font-color1, #212121); border-left: 3px solid var(--jp-warn-color1, #b26a00); padding-left: 6px",
    "muted": "color: var(--jp-ui-font-color2, #616161)",
}


def build_field_layout(width_px: int, *, min_width_px: int | None = None) -> dict[str, str]:
    """Return the layout of a field at most *width_px* pixels wide; in a row the field wraps only below *min_width_px* pixels."""
    least = f"min({min_width_px}px, calc(100% - 8px))"  # on a phone a row is narrower
    narrower = {} if min_width_px is None else {"flex": f"1 1 {min_width_px}px", "min_width": least}
    return {"width": f"{width_px}px", "max_width": f"min({width_px}px, calc(100% - 8px))", **narrower}


def build_field_row(first: Any, *others: Any, name_px: int = 110) -> Any:
    """
    Return a row that starts with a named field; widgets that do not fit wrap below the field, not below its name.

    Fields with a `min_width_px` shrink first.

    Args:
        first: The named field; its margin and maximum width are set here.
        others: The widgets beside the field.
        name_px: The width of the field's name in pixels.
    """
    # The name of the first field extends into the padding, which a box does not clip.
    first.layout.margin = f"2px 2px 2px -{name_px + 6}px"
    first.layout.max_width = f"min({first.layout.width}, calc(100% + {name_px + 4}px))"
    return ipw.HBox([first, *others], layout={**ROW_LAYOUT, "padding": f"0 0 0 {name_px + 8}px"})


def build_named_field(name: str, width_px: int, *, min_width_px: int | None = None) -> dict[str, Any]:
    """Return the name, style and layout of a field whose name is as wide as its text; the width includes the name."""
    layout = build_field_layout(width_px, min_width_px=min_width_px)
    return {"description": name, "style": {"description_width": "initial"}, "layout": layout}


def press(button: Any, *, unless: bool = False) -> None:
    """Press *button* for the user; a disabled button does nothing, and no button does anything if *unless* is True."""
    if not (button.disabled or unless):
        button.click()


def press_on_enter(field: Any, button: Any) -> None:
    """Let Enter in the text *field* press *button*."""
    on_enter(field, lambda: press(button))


def on_enter(field: Any, act: Callable[[], None]) -> None:
    """Call *act* when a person presses Enter in the text *field*."""
    field.on_msg(lambda _, content, __: act() if content.get("event") == "submit" else None)


def format_message_html(text: str, *, kind: str = "muted") -> str:
    """Return *text* as escaped HTML in the style of *kind* (`error`, `success`, `warn`, `muted`); keeps line breaks."""
    if not text:
        return ""
    role = ' role="alert"' if kind == "error" else ""
    style = f"{_STYLES[kind]}; white-space: pre-wrap; line-height: 1.4"
    return f'<div{role} style="{style}">{html.escape(text)}</div>'


def quote_magic_argument(text: str) -> str:
    """Return *text* as an argument of a magic's line, in quotes if it needs them; a magic does not read escapes."""
    if text and text[0] not in "-'\"" and not any(letter.isspace() for letter in text):
        return text
    return f'"{text}"' if "'" in text else f"'{text}'"


def build_copyable_html(text: str) -> str:
    """Return *text* as code; with the Lab extension, a button that copies the code."""
    safe = html.escape(text)
    return f'<code class="pd-k" title="Copy {safe}">{safe}</code>'


def build_copyable_block_html(text: str) -> str:
    """Return *text* of several lines as a block of code; with the Lab extension a click copies the code."""
    safe = html.escape(text)
    look = "display:block;padding:4px 8px;white-space:pre-wrap;background-color:rgba(127,127,127,0.1)"
    kind = 'class="pd-k pd-block"'
    return f'<code {kind} style="{look}" title="Copy {safe}">{safe}</code>'


def create_message() -> Any:
    """Return a hidden widget for a message; `show_message` fills it."""
    return ipw.HTML(layout={"display": "none", **WIDE_LAYOUT})


def show_message(widget: Any, text: str, *, kind: str = "muted") -> None:
    """Show *text* in *widget*; an empty text hides the widget."""
    show_message_html(widget, format_message_html(text, kind=kind))


def show_message_html(widget: Any, markup: str) -> None:
    """Show the trusted *markup* in *widget*; an empty text hides the widget."""
    if widget.value != markup:
        widget.value = markup
    set_visible(widget, visible=bool(markup))


def set_visible(widget: Any, *, visible: bool) -> None:
    """Show or hide *widget*."""
    display = None if visible else "none"
    if widget.layout.display != display:
        widget.layout.display = display


def set_value(widget: Any, value: object, name: str = "value") -> None:
    """Set the trait *name* of *widget*; sends no message if the value is unchanged."""
    if getattr(widget, name) != value:
        setattr(widget, name, value)


def set_children(box: Any, children: Iterable[Any]) -> None:
    """Set the children of *box*; sends no message if unchanged, so that the focus stays."""
    wanted = tuple(children)
    if box.children != wanted:
        box.children = wanted


def close_tree(widget: Any) -> None:
    """Close *widget* and its descendants, with their layouts and styles."""
    for child in getattr(widget, "children", ()):
        close_tree(child)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, ipw.Widget):
            part.close()
    widget.close()


class ConfirmButton:
    """
    A button that acts on the second click.

    Args:
        description: The initial label.
        act: Called on the second click, or on the first if no confirmation is necessary.
        question: Returns the label after the first click; an empty text skips the confirmation.
        field: The field that the action is about: Enter in the field presses the button, and a change of its value
            requires a confirmation again.
    """

    def __init__(
        self,
        description: str,
        *,
        act: Callable[[], None],
        question: Callable[[], str],
        field: Any = None,
        **options: Any,
    ) -> None:
        self._description = description
        self._style = options.get("button_style", "")
        self._act = act
        self._question = question
        self._asked = ""
        self.view = ipw.Button(description=description, **options)
        self.view.on_click(self._clicked)
        if field is not None:
            press_on_enter(field, self.view)
            field.observe(lambda _: self.reset(), "value")

    def reset(self) -> None:
        """Require a confirmation again."""
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
    A password field whose value never leaves the kernel and is in no saved state.

    The typed value arrives when the field loses focus. It is removed from the widget at once, and the field on the screen
    is emptied: a notebook saved with its widget state does not contain the value. The value is not echoed to other front
    ends. `take_value` returns the value and forgets it. *on_input* is called when a value has arrived.
    """

    value = traitlets.Unicode(help="The typed value on arrival; blank a moment later").tag(sync=True, echo_update=False)
    # send the whole text at once: single keystrokes would wait behind a running cell, and a click would overtake them
    continuous_update = traitlets.Bool(default_value=False).tag(sync=True)

    def __init__(self, *, on_input: Callable[[], None] = lambda: None, **options: Any) -> None:
        self._typed_value = ""
        self._on_input = on_input
        self._placeholder = options.get("placeholder", "")
        super().__init__(**options)
        self.observe(self._on_value, "value")

    @property
    def has_value(self) -> bool:
        """Whether a typed value has not been taken yet."""
        return bool(self._typed_value)

    def take_value(self) -> str:
        """Return the typed value and forget it."""
        taken, self._typed_value = self._typed_value, ""
        self.placeholder = self._placeholder
        return taken

    def close(self) -> None:
        """Forget the typed value and close the field."""
        self._typed_value = ""
        super().close()

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """Return the state for front ends and saved notebooks, without the value."""
        state: dict[str, Any] = super().get_state(key=key, drop_defaults=drop_defaults)
        if "value" in state:
            state["value"] = ""
        return state

    def _on_value(self, change: Any) -> None:
        if change["new"]:
            self._typed_value = change["new"]
            self.value = ""
            self.placeholder = "typed (hidden); type again to replace it"
            self._on_input()


def build_line_output(text: str, line: str, fields: Sequence[tuple[str, str]] = ()) -> RichOutput:
    """
    *text* with the equivalent magic line and, as HTML, a picture of the form.

    Args:
        text: The choice as a sentence.
        line: The magic line.
        fields: Names and values of the form's fields. The Lab extension hides their picture beside a form that works.
    """
    return RichOutput(
        f"{text}\n{line}",
        f'<div class="pd-view">{html.escape(text)} {build_copyable_html(line)}{build_picture(fields)}</div>',
    )


def build_picture(fields: Sequence[tuple[str, str]]) -> str:
    """Return the names and values of fields as a table, which the Lab extension hides beside a form that works; empty without a field."""
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row", style=_NAME_STYLE),
            tag("td", multiline(value), style=_FIELD_STYLE),
            style="background:none",  # themes color every second row
        )
        for name, value in fields
    ]
    return tag("table", join_lines(rows), style=_PICTURE_STYLE, class_="pd-picture") if rows else ""


def build_fallback_bundle(bundle: Mapping[str, Any], text: str, shown: str) -> dict[str, Any]:
    """
    Return the output of a widget with a text for readers without its kernel.

    JupyterLab shows a widget without its model as an error message, and never the other formats of the output. The Lab
    extension shows the HTML in this place, which it finds by the class.

    Args:
        bundle: The widget's own formats.
        text: The text.
        shown: The text as HTML.
    """
    return {**bundle, "text/plain": text, "text/html": f'<div class="pd-fallback">{shown}</div>'}


def display_with_line(widget: DOMWidget, title: str, line: str) -> None:
    """Display *widget*, with *title* and the equivalent magic *line* for readers without its kernel, where it does not work."""
    shown = f"<small>{html.escape(title)} {build_copyable_html(line)}</small>"
    display(build_fallback_bundle(widget._repr_mimebundle_(), f"{title} {line}", shown), raw=True)


class SavedOutput:
    """An output that can be drawn again from any thread; sends no message before `display`."""

    def __init__(self) -> None:
        self.output = RichOutput("", "")
        self._id = uuid.uuid4().hex
        self._displayed = False
        self._lock = threading.Lock()

    def display(self) -> None:
        """Show the output in the running cell."""
        with self._lock:
            self._displayed = True
            display(self.output, display_id=self._id)

    def update(self, view: RichOutput) -> None:
        """Replace the output with *view* wherever it is shown."""
        with self._lock:
            if view == self.output:
                return
            self.output = view
            if self._displayed:
                update_display(view, display_id=self._id)
