"""
A notebook's contract with its callers, and what it says of the chosen event.

Knows where earlier events are kept. What a contract is, is `contract`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdkernel.contract import Compared, Contract, compare, contract_of, example, example_body
from pdkernel.errors import DefinitionError, EventError
from pdkernel.event import Event
from pdkernel.files import read_file
from pdkernel.model import JSON
from pdkernel.session.events import EventLibrary

if TYPE_CHECKING:
    from pdkernel.session.session import Session

MAX_EVENTS = 50
"""Saved events that are looked at: the newest."""
MAX_SIZE = 2_000_000
"""Bytes of an event's file; a bigger one is not looked at."""


def saved_events(library: EventLibrary, *, http: bool = True) -> dict[str, Mapping[str, JSON]]:
    """The data of the saved events by name, masked; the newest first. One that cannot be read is none."""
    if not library.folder.is_dir():
        return {}
    files = [(path.stat().st_mtime_ns, path) for path in library.folder.glob("*.json")]
    newest = sorted(files, key=lambda pair: (-pair[0], pair[1].name))[:MAX_EVENTS]
    found = {path.stem: _read(path, time, http) for time, path in newest}
    return {name: data for name, data in found.items() if data is not None}


@lru_cache(maxsize=4 * MAX_EVENTS)
def _read(path: Path, _: int, http: bool) -> Mapping[str, JSON] | None:
    try:
        if path.stat().st_size > MAX_SIZE:
            return None
        return dict(Event.parse(read_file(path), name=path.name, http=http).masked().data)
    except (EventError, OSError):
        return None


def contract_now(session: Session) -> Contract | None:
    """The contract of the notebook as it is, or None while its workflow cannot be read."""
    try:
        return contract_of(session.workflow)
    except DefinitionError:
        return None


def said_of_the_event(session: Session) -> Compared | None:
    """What the contract says of the chosen event; None without one, or while the workflow cannot be read."""
    contract, event = contract_now(session), session.event
    if contract is None or event is None:
        return None
    earlier = saved_events(session.events, http=event.http)
    return compare(contract, session.event_name or "the event", dict(event.data), earlier)


def example_event(session: Session) -> dict[str, JSON] | None:
    """An event that keeps the contract, from the saved events where these have what it needs."""
    contract = contract_now(session)
    if contract is None:
        return None
    http = session.workflow.trigger.type == "http"
    return example(contract, list(saved_events(session.events, http=http).values()), http=http)


def body_for_callers(session: Session) -> JSON:
    """The chosen event's body with what it lacks of the contract; without an event, the example's."""
    contract, event = contract_now(session), session.event
    body = event.data.get("body") if event is not None else None
    if contract is None or not contract.fields:
        return body
    made = example_body(contract, list(saved_events(session.events).values()), required=True)
    return made if body is None else completed(body, made)


def completed(value: JSON, made: JSON) -> JSON:
    """*value* with the keys of *made* that it lacks, in objects that both have."""
    if not isinstance(value, dict) or not isinstance(made, dict):
        return value
    whole: dict[str, Any] = dict(value)
    for key, each in made.items():
        whole[key] = completed(whole[key], each) if key in whole else each
    return whole
