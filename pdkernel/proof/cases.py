"""
The events of a proof, where their recordings stand, and whom each is run for.

Knows the event library's folder, and when it matters who the external user is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pdkernel.analysis import find_app_bindings
from pdkernel.errors import EventError
from pdkernel.event import Event
from pdkernel.identity import DEFAULT_ENVIRONMENT, Directory, Environment, parse_environment
from pdkernel.model import Step, Workflow

MAX_USERS_PER_EVENT = 5
"""Of those that nobody has named."""

_NAMES_USER = re.compile(r"external[-_]?user", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProofCase:
    """
    One event, run for one external user.

    Attributes:
        name: What the event is called.
        file: It.
        event: What it holds.
        external_user: On whose behalf, or None.
        environment: Theirs.
    """

    name: str
    file: Path
    event: Event
    external_user: str | None
    environment: Environment = DEFAULT_ENVIRONMENT

    @property
    def recording_path(self) -> Path:
        """Where its outside calls are recorded."""
        return resolve_recording_path(self.file)


def resolve_recording_path(event: Path) -> Path:
    """The file of recorded calls that belongs to the file of an event: `NAME.recorded.jsonl` beside `NAME.json`."""
    return event.with_name(f"{event.stem}.recorded.jsonl")


def find_cases(
    events: Path, workflow: Workflow, directory: Directory, *, users: Sequence[str] = ()
) -> tuple[list[ProofCase], list[str]]:
    """
    Each saved event with whom it is run for, and sentences on what is left out.

    Args:
        events: The library's folder; there need be none.
        workflow: What is run.
        directory: Says which users there are, where none is named.
        users: Test users. Without any, the first of the directory's in development.
    """
    cases: list[ProofCase] = []
    notes: list[str] = []
    known: Sequence[str] | None = users or None
    matters = _user_matters(workflow)
    for file in sorted(events.glob("*.json")) if events.is_dir() else ():
        try:
            event = Event.parse(file.read_bytes(), label=file.name, is_http=workflow.trigger.type == "http")
            environment = parse_environment(event.environment)
        except (EventError, OSError) as fault:
            notes.append(f"Not an event, and left out: {fault}")
            continue
        if event.external_user_id is not None or not matters:
            cases.append(ProofCase(file.stem, file, event, event.external_user_id, environment))
            continue
        if known is None:
            known = [user.external_id for user in directory.users(DEFAULT_ENVIRONMENT, limit=MAX_USERS_PER_EVENT)]
        cases += [ProofCase(file.stem, file, event, user, environment) for user in known or (None,)]
    if not cases:
        notes.append(
            f"There is no saved event in {events.name}/, so nothing was run: only the workflows' texts were compared. "
            "Save one: %pdevent FILE --save NAME"
        )
    return cases, notes


def _user_matters(workflow: Workflow) -> bool:
    return any(not step.disabled and _asks_for_user(step) for step in workflow.steps)


def _asks_for_user(step: Step) -> bool:
    if step.uses is not None or any(app.account is None for app in find_app_bindings(step)):
        return True
    return any(map(_NAMES_USER.search, (step.source, str(dict(step.props)))))
