"""
Test events: the saved events of a workflow, their shape, and their check against the workflow's contract.

`shape` infers shapes, and `analysis` derives contracts.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pdkernel.common.clock import SYSTEM_CLOCK
from pdkernel.common.encode import JsonStruct
from pdkernel.common.safe_files import is_file, read_file
from pdkernel.errors import EventError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.files.source import EVENTS_FOLDER, WorkflowSource
from pdkernel.language import shape as shapes
from pdkernel.language.analysis.contract import (
    Contract,
    EventComparison,
    build_example_event,
    compare_event,
    derive_contract,
)
from pdkernel.model import JSON, Workflow
from pdkernel.render import shape as shape_view

if TYPE_CHECKING:
    import pandas as pd

EventLike = Event | Mapping[str, JSON] | str | os.PathLike[str]
"""An event, its JSON object, an event file, or the name of a saved event."""
MAX_COMPARED_EVENTS = 50
"""Number of saved events that are compared: the newest."""
MAX_EVENT_BYTES = 2_000_000
"""Largest size of an event file that is compared, in bytes."""


class TestEvent(Event):
    """
    A test event, with the views that a notebook shows.

    Every view masks the values of headers that carry secrets.
    """

    __test__ = False  # pytest must not collect this class

    def frame(self, at: str | None = None) -> pd.DataFrame:
        """Return the event as a table with lists of records expanded; *at* is the path of a list whose records become the rows."""
        return shapes.build_data_frame(dict(self.with_masked_headers().data), list_path=at)

    def schema(self) -> dict[str, Any]:
        """Return the event's JSON Schema, inferred by genson."""
        return shapes.infer_schema(dict(self.with_masked_headers().data))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return shape_view.render_output(self.shape(), more="%pdshape --full").bundle

    def shape(self) -> shapes.Shape:
        """Return every path of the event with its types and sample values."""
        return infer_event_shape([self])


class EventLibrary:
    """
    The saved events of a workflow.

    Args:
        folder: The folder of the notebook, or the workflow's folder; the events are in its `events/`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / EVENTS_FOLDER

    def names(self) -> list[str]:
        """Return the names of the saved events, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def load(self, name: str, *, http: bool = True) -> tuple[str, TestEvent]:
        """
        Load the saved event *name*, or the event of a file; *http* as `Event.from_json` takes it.

        Returns:
            The event's name, and the event.

        Raises:
            EventError: There is no such event, or the file is not an event.
        """
        for path in (self.folder / f"{name}.json", Path(name), self.folder.parent / name):
            if is_file(path):
                return path.stem, TestEvent.parse(path.read_bytes(), label=path.name, is_http=http)
        known = ", ".join(self.names()) or "none"
        raise EventError(
            f"There is no event {name!r}. Saved events: {known}.",
            fix=f"Give the path of a file, or save an event as {self.folder.name}/NAME.json.",
        )

    def load_newest(self, *, http: bool = True) -> dict[str, Mapping[str, JSON]]:
        """Return the masked data of the newest saved events by name, the newest first; unreadable files are left out."""
        if not self.folder.is_dir():
            return {}
        files = [(path.stat().st_mtime_ns, path) for path in self.folder.glob("*.json")]
        newest = sorted(files, key=lambda pair: (-pair[0], pair[1].name))[:MAX_COMPARED_EVENTS]
        found = {path.stem: _read_masked(path, time, http) for time, path in newest}
        return {name: data for name, data in found.items() if data is not None}

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
            raise EventError(
                f"Cannot save the event as {path.name}: {fault.strerror}.",
                fix=f"Make {self.folder.name}/ a writable folder, or choose another name.",
            ) from None
        return path


@lru_cache(maxsize=4 * MAX_COMPARED_EVENTS)
def _read_masked(path: Path, _modified_ns: int, http: bool) -> Mapping[str, JSON] | None:
    try:
        if path.stat().st_size > MAX_EVENT_BYTES:
            return None
        return _masked(Event.parse(read_file(path), label=path.name, is_http=http))
    except (EventError, OSError):
        return None


def _masked(event: Event) -> dict[str, JSON]:
    return dict(event.with_masked_headers().data)


def infer_event_shape(events: Iterable[Event], *, size: int = 0) -> shapes.Shape:
    """
    Every path of *events* with its types and sample values; secret values are masked.

    Args:
        events: The events; an iterator that reads them needs the memory of one batch.
        size: About the size of each event in bytes; 0 if they are in memory anyway.
    """
    builder = shapes.ShapeBuilder()
    for event in events:
        builder.add(_masked(event), size=size)
    return builder.build()


def compare_events(before: Event, after: Event) -> shapes.Difference:
    """Return the difference of two events; secret values are compared, but not shown."""
    return shapes.compare_values(before.data, after.data)


def expand_event_names(names: Iterable[str], folder: Path) -> list[str]:
    """
    Return the names of events with a folder replaced by its event files, and a pattern (`*`, `?`) by the files that match.

    Args:
        names: Files, names of saved events, folders, or patterns.
        folder: The folder to which relative paths are relative.

    Raises:
        EventError: A folder has no event file, or no file matches a pattern.
    """
    found: list[str] = []
    for name in names:
        if (folder / name).is_dir():
            inside = sorted(str(path) for path in (folder / name).glob("*.json"))
        elif any(letter in name for letter in "*?"):
            saved = folder / EVENTS_FOLDER
            # a pattern may be absolute, which `Path.glob` does not take
            files = glob.glob(name, root_dir=folder)  # noqa: PTH207
            saved_files = [] if files else glob.glob(f"{name}.json", root_dir=saved)  # noqa: PTH207
            inside = sorted([*(str(folder / path) for path in files), *(str(saved / path) for path in saved_files)])
        else:
            inside = [name]
        if not inside:
            raise EventError(f"There is no event file at {name}.", fix="Pass event files, or a folder of them.")
        found += inside
    return found


def check_shape_options(
    events: Sequence[str],
    *,
    runs: bool,
    diff: bool,
    contract: bool,
    all_users: bool,
    **filters: object,
) -> None:
    """
    Check the options of a command that shows a shape.

    Args:
        events: The named events.
        runs: Whether recorded runs are read.
        diff: Whether two events are compared.
        contract: Whether the contract is shown.
        all_users: Whether the runs of all users are read.
        filters: The options that select runs, by name; None if one is not given.

    Raises:
        RequestError: The options exclude each other.
    """
    given = ["--all"] if all_users else []
    given += [f"--{name.replace('_', '-')}" for name, value in filters.items() if value is not None]
    if given and not runs:
        raise RequestError(
            f"{given[0]} selects recorded runs, which --runs reads.", fix=f"Add --runs, or leave out {given[0]}."
        )
    if all_users and "--user" in given:
        raise RequestError("--user and --all exclude each other.", fix="Leave out one of them.")
    if runs and events:
        raise RequestError(
            "--runs reads the events of recorded runs, and events are named, too.", fix="Leave out one of them."
        )
    chosen = [name for name, is_chosen in (("--runs", runs), ("--diff", diff), ("--contract", contract)) if is_chosen]
    if len(chosen) > 1:
        raise RequestError(f"{' and '.join(chosen)} exclude each other.", fix="Leave out one of them.")


def resolve_event(source: WorkflowSource, event: EventLike | None, body: JSON) -> Event:
    """
    Return the event of a run of *source*.

    Args:
        source: The workflow; a name of an event is that of an event saved beside the workflow.
        event: The event, or None.
        body: A payload, which is wrapped as a POST, or None.

    Returns:
        The event; without *event* and *body*, the event of a schedule now.

    Raises:
        EventError: There is no event or both, or what is given is not an event.
    """
    trigger = source.workflow.trigger
    if event is not None and body is not None:
        raise EventError("An event and a body exclude each other.", fix="Leave out one of them.")
    if body is not None:
        return Event.from_body(_copy_json(body, "The body"))
    if isinstance(event, Event):
        return event
    is_http = trigger.type == "http"
    if isinstance(event, Mapping):
        return Event.from_value(_copy_json(dict(event), "The event"), is_http=is_http)
    if event is not None:
        return EventLibrary(source.folder).load(os.fspath(event), http=is_http)[1]
    if trigger.type == "schedule":
        return Event.from_schedule(trigger.config, SYSTEM_CLOCK.now())
    raise EventError("The event is missing.", fix="Pass event=EVENT, or a bare payload with body=VALUE.")


def find_error_event(workflow: Workflow, execution: Execution) -> Event | None:
    """Return the event that a failed run of another workflow emits for *workflow*; None if its first trigger is not an errors trigger."""
    from pdkernel.engine.emitted_events import build_error_event

    if workflow.trigger.type != "errors" or execution.workflow == workflow.name or execution.error is None:
        return None
    return Event(build_error_event(execution, execution.id), is_http=False)


def _copy_json(value: JSON, label: str) -> JSON:
    try:
        return cast("JSON", json.loads(json.dumps(value, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as fault:
        raise EventError(f"{label} is not JSON: {fault}.", fix="Convert the value to JSON types first.") from None


class ContractReport(JsonStruct, frozen=True):
    """
    The contract of a workflow, checked against events.

    Attributes:
        workflow: The workflow's name.
        contract: The event fields that the steps read.
        comparisons: The checked events.
        example: An event that fulfils the contract, with values of the saved events where possible.
    """

    workflow: str
    contract: Contract
    comparisons: tuple[EventComparison, ...]
    example: dict[str, JSON]

    @property
    def is_fulfilled(self) -> bool:
        """Whether every checked event fulfils the contract."""
        return all(each.is_compatible for each in self.comparisons)

    def json_form(self) -> object:
        """Return `{"workflow", "events", "example"}` with the keys of the contract."""
        comparisons = [each.json_form() for each in self.comparisons]
        return {"workflow": self.workflow, **self.contract.to_json(), "events": comparisons, "example": self.example}


def check_contract(
    workflow: Workflow,
    library: EventLibrary,
    events: Mapping[str, Event],
    *,
    include_saved: bool,
    test_events: Collection[str] = (),
) -> ContractReport:
    """
    Derive the contract of *workflow*, and check events against it.

    Args:
        workflow: The workflow.
        library: The saved events; *events* are also compared with them.
        events: Events by name.
        include_saved: Whether to check the saved events too.
        test_events: Names of the saved events that belong to the workflow; default: all.
    """
    http = workflow.trigger.type == "http"
    contract = derive_contract(workflow)
    saved = library.load_newest(http=http)
    if test_events:
        saved = {name: data for name, data in saved.items() if name in test_events}
    comparisons = [compare_event(contract, name, _masked(event), saved) for name, event in events.items()]
    if include_saved:
        # the order in which events were saved is unknown, so the saved events are not compared with each other
        comparisons += [compare_event(contract, name, data, {}) for name, data in saved.items() if name not in events]
    example = build_example_event(contract, list(saved.values()), is_http=http)
    return ContractReport(workflow.name, contract, tuple(comparisons), example)


def compare_with_saved_events(
    workflow: Workflow, library: EventLibrary, event: Event, *, name: str | None = None
) -> EventComparison:
    """Check *event* against the contract of *workflow*, and compare it with the saved events."""
    saved = library.load_newest(http=event.is_http)
    return compare_event(derive_contract(workflow), name or "the event", _masked(event), saved)
