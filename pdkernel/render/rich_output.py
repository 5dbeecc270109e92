"""An output for Jupyter as text and HTML. Unlike a widget, it is visible in saved and untrusted notebooks and on Git hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pdkernel.render.markup import escape_control_characters, multiline


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
        """The output of a plain message; the HTML keeps line breaks and spaces."""
        return cls(text, multiline(text, style="margin:2px 0", class_="pd-view pd-note"), metadata or {})

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        return {"text/plain": self.text, "text/html": self.html}, dict(self.metadata)

    def __add__(self, other: RichOutput) -> RichOutput:
        return RichOutput(f"{self.text}\n{other.text}", self.html + other.html, {**self.metadata, **other.metadata})
