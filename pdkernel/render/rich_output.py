"""An output for Jupyter as text and HTML. Unlike a widget, it is visible in saved and untrusted notebooks and on Git hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from pdkernel.render.markup import multiline


@dataclass(frozen=True, slots=True, repr=False)
class RichOutput:
    """A rendered output for `text/plain` and `text/html`; `+` joins two outputs."""

    text: str
    html: str

    @classmethod
    def from_message(cls, text: str) -> Self:
        """The output of a plain message; the HTML keeps line breaks and spaces."""
        return cls(text, multiline(text, style="margin:2px 0", class_="pd-view pd-note"))

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self.text, "text/html": self.html}

    def __add__(self, other: RichOutput) -> RichOutput:
        return RichOutput(f"{self.text}\n{other.text}", self.html + other.html)
