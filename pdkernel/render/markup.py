"""
Escaped HTML, the styles that all views share, and a view as text and as HTML (`RichOutput`).

`tag` and `join` escape all text that is not `Html`. Only inline styles that survive JupyterLab's sanitizer are used.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

Tone = Literal["good", "bad", "warn", "busy", "quiet"]

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# JupyterLab's sanitizer drops declarations with var(). So each color is written twice: a plain color for light and
# dark themes, then the theme's color.
_LINE = "rgba(127,127,127,0.35)"
BORDER_STYLE: Final = f"border:1px solid {_LINE};border-color:var(--jp-border-color2,{_LINE})"
CONTAINER_STYLE: Final = (
    f"{BORDER_STYLE};border-radius:4px;padding:8px 12px;max-width:1100px;line-height:1.5;overflow-wrap:break-word"
)
MUTED_STYLE: Final = "opacity:0.75"
ROW_STYLE: Final = "display:flex;flex-wrap:wrap;align-items:center"
CELL_STYLE: Final = "padding:2px 8px;text-align:left;vertical-align:top"
BODY_STYLE: Final = "margin:2px 0 6px 24px"
# Without the font, nbconvert shows `pre` in the font of the text.
CODE_STYLE: Final = (
    "font-family:monospace;font-family:var(--jp-code-font-family,monospace);"
    "margin:2px 0;padding:4px 8px;max-height:320px;overflow:auto;white-space:pre-wrap;overflow-wrap:break-word;"
    "background-color:rgba(127,127,127,0.1);font-size:90%"
)
ERROR_MARGIN_STYLE: Final = "border-left:3px solid #cf222e;padding-left:8px"
WARNING_MARGIN_STYLE: Final = "border-left:3px solid #9a6700;padding-left:8px"

_PILL: dict[Tone, str] = {"good": "#1a7f37", "bad": "#cf222e", "warn": "#9a6700", "busy": "#0969da", "quiet": "#636c76"}
_MAX_NOWRAP = 24
"""Longest label that does not wrap, in characters: a longer one would leave a narrow window."""


class Html(str):
    """A string that is safe HTML."""

    __slots__ = ()


def tag(name: str, *children: str, style: str = "", **attributes: str) -> Html:
    """Build an element; children that are not `Html` are escaped. Pass `class_` for `class`, `open="open"` for a flag."""
    all_attributes = {**attributes, "style": style} if style else attributes
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(escape_control_characters(value))}"'
        for key, value in all_attributes.items()
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def scrolling_region(label: str) -> dict[str, str]:
    """Return the attributes of a view whose tables may be wider than a narrow window: the arrow keys scroll the view."""
    return {"style": f"{CONTAINER_STYLE};overflow-x:auto", "tabindex": "0", "role": "region", "aria_label": label}


def join(children: Iterable[str]) -> Html:
    """Concatenate *children*; children that are not `Html` are escaped."""
    return Html(
        "".join(
            child if isinstance(child, Html) else html.escape(escape_control_characters(child)) for child in children
        )
    )


def join_lines(children: Iterable[Html]) -> Html:
    """Join *children* with newlines, for a readable source."""
    return Html("\n".join(child for child in children if child))


def multiline(text: str, *, style: str = "", **attributes: str) -> Html:
    """Return a `div` with a `div` for each line of *text*: a Git host removes the style that would keep line breaks."""
    lines = text.split("\n")
    if len(lines) == 1:
        return tag("div", text, style=f"white-space:pre-wrap;{style}", **attributes)
    return tag(
        "div", *(tag("div", line or "\u00a0") for line in lines), style=f"white-space:pre-wrap;{style}", **attributes
    )


def inline_code(text: str) -> Html:
    """Return *text* with the parts between backticks as `<code>`."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return join([text])
    return join(tag("code", part) if number % 2 else part for number, part in enumerate(parts))


def escape_control_characters(text: str) -> str:
    """Remove color codes and escape other control characters, so that *text* cannot move a cursor."""
    text = _ANSI.sub("", text.replace("\r\n", "\n"))
    return _CONTROL.sub(
        lambda match: f"\\x{ord(match[0]):02x}" if match[0] < "\x80" else f"\\u{ord(match[0]):04x}", text
    )


def pill(text: str, tone: Tone) -> Html:
    """Return a short label on a colored background; it is readable without the color."""
    style = (
        f"display:inline-block;background-color:{_PILL[tone]};color:#ffffff;border-radius:3px;"
        f"padding:0 6px;margin-right:8px;font-size:85%{';white-space:nowrap' if len(text) <= _MAX_NOWRAP else ''}"
    )
    return tag("span", text, style=style)


def badge(text: str) -> Html:
    """Return a short label in a frame, shown beside a name."""
    return tag("span", text, style=f"{BORDER_STYLE};border-radius:3px;padding:0 5px;margin-right:8px;font-size:85%")


def muted(text: str) -> Html:
    """Return a text of secondary importance."""
    return tag("span", text, style=f"{MUTED_STYLE};margin-right:8px")


def code_block(text: str, *, style: str = "") -> Html:
    """Return a preformatted text in a scrolling block."""
    return tag("pre", text, style=f"{CODE_STYLE};{style}" if style else CODE_STYLE)


def copyable(shown: str, text: str, *, style: str = "", kind: str = "") -> Html:
    """
    *shown*, which copies *text* at a click or a key press.

    The Lab extension copies the title after "Copy ", and labels an element of the class *kind* that shows no text. Without the
    extension, the title shows the text.
    """
    classes = f"pd-k {kind}" if kind else "pd-k"
    return tag("code", shown, style=style, class_=classes, title=f"Copy {text}")


def breakable(name: str) -> Html:
    """Return a step's name that may wrap at underscores, for narrow columns."""
    return Html("_<wbr>".join(join([part]) for part in name.split("_")))


def collapsible(summary: Html, body: Html, *, open_: bool = False) -> Html:
    """Return a collapsible element: *summary* is always visible, *body* after a click."""
    attributes = {"open": "open"} if open_ else {}
    return tag("details", tag("summary", summary, style="cursor:pointer"), body, **attributes)


@dataclass(frozen=True, slots=True, repr=False)
class RichOutput:
    """
    A rendered output for `text/plain` and `text/html`; `+` joins two outputs. Control characters of the text are escaped.

    Attributes:
        metadata: The metadata of the saved output.
    """

    text: str
    html: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", escape_control_characters(self.text))  # a terminal would obey them

    @classmethod
    def from_message(cls, text: str, *, metadata: Mapping[str, Any] | None = None) -> Self:
        """Return the output of a plain message; the HTML keeps line breaks and spaces."""
        return cls(text, multiline(text, style="margin:2px 0", class_="pd-view pd-note"), metadata or {})

    def __repr__(self) -> str:
        return self.text

    @property
    def bundle(self) -> dict[str, str]:
        """The output by MIME type. In the HTML, a front end takes no text between two `$` for mathematics, as in `steps.a.$return_value`."""
        return {"text/plain": self.text, "text/html": f'<div class="mathjax_ignore tex2jax_ignore">{self.html}</div>'}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        return self.bundle, dict(self.metadata)

    def __add__(self, other: RichOutput) -> RichOutput:
        return RichOutput(f"{self.text}\n{other.text}", self.html + other.html, {**self.metadata, **other.metadata})
