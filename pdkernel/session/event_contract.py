"""
The contract of a notebook's workflow, compared with the chosen event and the saved events.

The contract itself is derived in `pdkernel.analysis`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdkernel.analysis import (
    Contract,
    EventComparison,
    build_example_body,
    build_example_event,
    compare_event,
    derive_contract,
)
from pdkernel.errors import DefinitionError, EventError
from pdkernel.event import Event
from pdkernel.files import read_file
from pdkernel.model import JSON
from pdkernel.session.event_library import EventLibrary

if TYPE_CHECKING:
    from pdkernel.session.notebook_state import NotebookState

MAX_COMPARED_EVENTS = 50
"""Number of saved events that are compared: the newest."""
MAX_EVENT_BYTES = 2_000_000
"""Largest size of an event file that is compared, in bytes."""


def load_saved_events(library: EventLibrary, *, http: bool = True) -> dict[str, Mapping[str, JSON]]:
    """The masked data of the saved events by name, the newest first; unreadable files are left out."""
    if not library.folder.is_dir():
        return {}
    files = [(path.stat().st_mtime_ns, path) for path in library.folder.glob("*.json")]
    newest = sorted(files, key=lambda pair: (-pair[0], pair[1].name))[:MAX_COMPARED_EVENTS]
    found = {path.stem: _read(path, time, http) for time, path in newest}
    return {name: data for name, data in found.items() if data is not None}


@lru_cache(maxsize=4 * MAX_COMPARED_EVENTS)
def _read(path: Path, _: int, http: bool) -> Mapping[str, JSON] | None:
    try:
        if path.stat().st_size > MAX_EVENT_BYTES:
            return None
        return dict(Event.parse(read_file(path), label=path.name, is_http=http).with_masked_headers().data)
    except (EventError, OSError):
        return None


def build_contract(state: NotebookState) -> Contract | None:
    """The contract of the draft, or None while the draft has an error."""
    try:
        return derive_contract(state.workflow)
    except DefinitionError:
        return None


def compare_chosen_event(state: NotebookState) -> EventComparison | None:
    """The chosen event compared with the contract; None without an event, or while the draft has an error."""
    contract, event = build_contract(state), state.event
    if contract is None or event is None:
        return None
    earlier = load_saved_events(state.events, http=event.is_http)
    return compare_event(contract, state.event_name or "the event", dict(event.data), earlier)


def build_contract_example(state: NotebookState) -> dict[str, JSON] | None:
    """An event that satisfies the contract, with values of the saved events where possible."""
    contract = build_contract(state)
    if contract is None:
        return None
    http = state.workflow.trigger.type == "http"
    return build_example_event(contract, list(load_saved_events(state.events, http=http).values()), is_http=http)


def build_request_body(state: NotebookState) -> JSON:
    """The chosen event's body, completed with the fields of the contract; without an event, an example body."""
    contract, event = build_contract(state), state.event
    body = event.data.get("body") if event is not None else None
    if contract is None or not contract.fields:
        return body
    made = build_example_body(contract, list(load_saved_events(state.events).values()), only_required=True)
    return made if body is None else fill_missing_keys(body, made)


def fill_missing_keys(value: JSON, defaults: JSON) -> JSON:
    """*value* with the missing keys of *defaults*, in all objects that both contain."""
    if not isinstance(value, dict) or not isinstance(defaults, dict):
        return value
    whole: dict[str, Any] = dict(value)
    for key, each in defaults.items():
        whole[key] = fill_missing_keys(whole[key], each) if key in whole else each
    return whole
