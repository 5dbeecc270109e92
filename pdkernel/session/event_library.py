"""Test events and their files: `events/*.json` beside the notebook."""

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
    A test event, with the views that a notebook shows.

    Every view masks the values of headers that carry secrets.
    """

    __test__ = False  # pytest must not collect this class

    def frame(self, at: str | None = None) -> pd.DataFrame:
        """The event as a table with lists of records expanded; *at* is the path of a list whose records become the rows."""
        return shapes.build_data_frame(dict(self.with_masked_headers().data), list_path=at)

    def schema(self) -> dict[str, Any]:
        """The event's JSON Schema, inferred by genson."""
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
        folder: The notebook's folder; the events are in its `events/`.
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
        Load the saved event *name*, or the event of a file; *http* as `Event.parse` takes it.

        Returns:
            The event's name, and the event.

        Raises:
            EventError: There is no such event, or the file is not an event.
        """
        for path in (self.folder / f"{name}.json", Path(name), self.folder.parent / name):
            if path.is_file():
                return path.stem, TestEvent.parse(path.read_bytes(), label=path.name, is_http=http)
        known = ", ".join(self.names()) or "none"
        raise EventError(
            f"There is no event {name!r}. Saved events: {known}.",
            fix=f"Give the path of a file, or save an event in {self.folder.name}/: %pdevent --save NAME",
        )

    def save(self, name: str, event: Event) -> Path:
        """
        Save *event* with masked headers as *name*; returns the file.

        Raises:
            EventError: The name is invalid, or the file cannot be written.
        """
        if not re.match(r"[A-Za-z0-9][A-Za-z0-9 ._-]*\Z", name) or ".." in name:
            raise EventError(f"{name!r} is not a valid event name.", fix="Use letters, digits, dots and dashes.")
        path = self.folder / f"{name.removesuffix('.json')}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps(event.with_masked_headers().data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as fault:
            raise EventError(f"Cannot save the event as {path.name}: {fault.strerror}.") from None
        return path
