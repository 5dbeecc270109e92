"""
Test events and the library that keeps them: `events/*.json` beside the notebook.

Knows files of events and the views of one (frame, schema, shape). Knows nothing of runs or widgets.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdkernel import shape as shapes
from pdkernel.errors import EventError
from pdkernel.event import Event
from pdkernel.render import shape as draw
from pdkernel.source import EVENTS_FOLDER

if TYPE_CHECKING:
    import pandas as pd


class TestEvent(Event):
    """
    An event kept for development, with the views that a notebook shows.

    Values of secret-bearing headers are masked in every view.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    def frame(self, at: str | None = None) -> pd.DataFrame:
        """The event as a table, lists of records unrolled; *at* names a list whose records become the rows."""
        return shapes.build_data_frame(dict(self.with_masked_headers().data), list_path=at)

    def schema(self) -> dict[str, Any]:
        """The event's JSON Schema, as genson infers it."""
        return shapes.infer_schema(dict(self.with_masked_headers().data))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        shape = self.shape()
        return {"text/plain": draw.render_text(shape), "text/html": draw.render_html(shape)}

    def shape(self) -> shapes.Shape:
        """Every path of the event with its types and sample values."""
        return shapes.infer_shape(dict(self.with_masked_headers().data))


class EventLibrary:
    """
    The events beside a notebook.

    Args:
        folder: The notebook's folder; events live in its `events/`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / EVENTS_FOLDER

    def names(self) -> list[str]:
        """Names of the saved events, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def load(self, name: str, *, http: bool = True) -> tuple[str, TestEvent]:
        """
        The event called *name*: one of the library's, or a file's path; *http* as `Event.from_json` takes it.

        Returns:
            Its name, and the event.

        Raises:
            EventError: No such event (those that exist are named), or the file is not an event.
        """
        for path in (self.folder / f"{name}.json", Path(name), self.folder.parent / name):
            if path.is_file():
                return path.stem, TestEvent.parse(path.read_bytes(), label=path.name, is_http=http)
        known = ", ".join(self.names()) or "none yet"
        raise EventError(
            f"There is no event {name!r}. Saved events: {known}.",
            fix=f"Give a file's path, or save one with %pdevent --save NAME; events are kept in {self.folder.name}/.",
        )

    def save(self, name: str, event: Event) -> Path:
        """
        Save *event*, masked, as *name*.

        Raises:
            EventError: The name is no file name, or the folder cannot be written.
        """
        if not re.match(r"[A-Za-z0-9][A-Za-z0-9 ._-]*\Z", name) or ".." in name:
            raise EventError(f"{name!r} cannot name an event.", fix="Use letters, digits, dots and dashes.")
        path = self.folder / f"{name.removesuffix('.json')}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps(event.with_masked_headers().data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as fault:
            raise EventError(f"The event cannot be saved as {path.name}: {fault.strerror}.") from None
        return path
