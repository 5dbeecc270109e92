"""
Events that the platform's REST API still has, as saved events of a workflow.

The API has three lists: the events of a workflow's sources, the events of runs that failed, and the events that a workflow
emitted. It has no list of the requests that started a workflow without an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pdkernel.accounts.workflow_api import EventListKind, WorkflowApi
from pdkernel.event import Event
from pdkernel.model import JSON, Workflow
from pdkernel.operations.events import EventLibrary

EventOrigin = Literal["failed", "source", "emitted"]
_ORIGINS: Mapping[EventListKind, EventOrigin] = {"errors": "failed", "source": "source", "emits": "emitted"}
_HTTP_KEYS = frozenset({"method", "path", "headers"})
"""Keys that the event of an HTTP request has."""


@dataclass(frozen=True, slots=True)
class RescuedEvent:
    """
    An event of the API.

    Attributes:
        name: The name of the saved event, made of its origin and its id at Pipedream.
        origin: Whether its run failed, a source emitted the event, or the workflow did.
        event: The event, or None if it is not an object.
        error: The message of the failed run's error, or the empty string.
    """

    name: str
    origin: EventOrigin
    event: Event | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class SavedEvents:
    """
    The result for a workflow.

    Attributes:
        added: Events that were saved by this call.
        known: Events that an earlier call had saved.
        skipped: Events that are not objects, which an event file must be.
    """

    added: tuple[RescuedEvent, ...]
    known: tuple[RescuedEvent, ...]
    skipped: tuple[RescuedEvent, ...]


def find_source_ids(workflow: Workflow | None) -> tuple[str, ...]:
    """The ids of the triggers of *workflow* that are sources (`dc_...`), whose events the API keeps."""
    ids = [str(trigger.config.get("id") or "") for trigger in workflow.triggers] if workflow else []
    return tuple(trigger_id for trigger_id in ids if trigger_id.startswith("dc_"))


def fetch_events(api: WorkflowApi, workflow_id: str, source_ids: Sequence[str]) -> Iterator[RescuedEvent]:
    """
    The events of a workflow, the newest of each list first.

    Args:
        api: Sends the requests.
        workflow_id: Pipedream's id of the workflow.
        source_ids: Its sources.
    """
    lists: list[tuple[EventListKind, str]] = [("errors", workflow_id), *(("source", each) for each in source_ids)]
    for kind, owner_id in [*lists, ("emits", workflow_id)]:
        for item in api.iter_events(kind, owner_id):
            yield _read_event(item, kind)


def save_events(events: Sequence[RescuedEvent], library: EventLibrary) -> SavedEvents:
    """
    Save *events* with masked headers; an event whose name is saved is left as it is.

    Raises:
        EventError: A file cannot be written.
    """
    names = set(library.names())
    added, known, skipped = [], [], []
    for each in events:
        if each.event is None:
            skipped.append(each)
        elif each.name in names:
            known.append(each)
        else:
            library.save(each.name, each.event)
            names.add(each.name)
            added.append(each)
    return SavedEvents(tuple(added), tuple(known), tuple(skipped))


def _read_event(item: Mapping[str, Any], kind: EventListKind) -> RescuedEvent:
    origin = _ORIGINS[kind]
    content = item.get("event")
    error = ""
    if kind == "errors" and isinstance(content, dict):
        error = _read_error(content.get("error"))
        content = content.get("original_event")
    elif kind == "emits" and isinstance(content, dict) and content.keys() == {"raw_event"}:
        content = content["raw_event"]
    name = f"{origin}-{re.sub('[^A-Za-z0-9_-]+', '_', str(item.get('id') or 'unknown'))}"
    return RescuedEvent(name, origin, _to_event(content), error)


def _to_event(content: JSON) -> Event | None:
    if not isinstance(content, dict):
        return None
    masked = {key: _mask_nested(value) for key, value in content.items()}
    is_http = masked.keys() >= _HTTP_KEYS and isinstance(masked["headers"], dict)
    return Event(masked, is_http=is_http)


def _mask_nested(value: JSON) -> JSON:
    """*value* with masked headers of requests inside: the event of an error contains the event of the failed run."""
    match value:
        case dict():
            inner = {key: _mask_nested(item) for key, item in value.items()}
            return dict(Event(inner).with_masked_headers().data)
        case list():
            return [_mask_nested(item) for item in value]
    return value


def _read_error(error: object) -> str:
    if not isinstance(error, dict):
        return ""
    words = [str(error[key]) for key in ("name", "code", "message") if error.get(key)]
    return ": ".join(dict.fromkeys(words))
