"""The cases of a proof: each saved event with its recording, for each relevant external user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pdkernel.common.identity import DEFAULT_ENVIRONMENT, Directory, Environment, parse_environment
from pdkernel.errors import EventError
from pdkernel.event import Event
from pdkernel.language.analysis import find_app_bindings
from pdkernel.model import Step, Workflow

MAX_USERS_PER_EVENT = 5
"""Maximum number of users from the directory, if no test users are named."""

_NAMES_USER = re.compile(r"external[-_]?user", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProofCase:
    """
    One event, run for one external user.

    Attributes:
        name: Name of the event.
        file: File of the event.
        event: The parsed event.
        external_user: Id of the external user, or None.
        environment: Environment of the external user.
    """

    name: str
    file: Path
    event: Event
    external_user: str | None
    environment: Environment = DEFAULT_ENVIRONMENT

    @property
    def recording_path(self) -> Path:
        """File of the recorded outbound calls."""
        return resolve_recording_path(self.file)


def resolve_recording_path(event: Path) -> Path:
    """Return the recording for the file of an event: `NAME.recorded.jsonl` beside `NAME.json`."""
    return event.with_name(f"{event.stem}.recorded.jsonl")


def find_cases(
    events: Path, workflow: Workflow, directory: Directory, *, users: Sequence[str] = (), names: Sequence[str] = ()
) -> tuple[list[ProofCase], list[str]]:
    """
    Find the cases of a proof.

    Args:
        events: Folder of saved events; may be missing.
        workflow: The workflow to run.
        directory: Source of external users, if *users* is empty.
        users: Test users; default: the first `MAX_USERS_PER_EVENT` users in development.
        names: Names of the saved events that belong to the workflow; default: all.

    Returns:
        The cases, and notes about files that were skipped.
    """
    cases: list[ProofCase] = []
    notes: list[str] = []
    known: Sequence[str] | None = users or None
    depends_on_user = _depends_on_user(workflow)
    files = sorted(events.glob("*.json")) if events.is_dir() else []
    missing = [name for name in names if name not in {file.stem for file in files}]
    notes += [f"The test event {name} is not in {events.name}/." for name in missing]
    for file in files if not names else [file for file in files if file.stem in names]:
        try:
            event = Event.parse(file.read_bytes(), label=file.name, is_http=workflow.trigger.type == "http")
            environment = parse_environment(event.environment)
        except (EventError, OSError) as fault:
            notes.append(f"Skipped, not an event: {fault}")
            continue
        if event.external_user_id is not None or not depends_on_user:
            cases.append(ProofCase(file.stem, file, event, event.external_user_id, environment))
            continue
        if known is None:
            known = [user.external_id for user in directory.users(DEFAULT_ENVIRONMENT, limit=MAX_USERS_PER_EVENT)]
        cases += [ProofCase(file.stem, file, event, user, environment) for user in known or (None,)]
    if not cases:
        notes.append(f"There is no saved event in {events.name}/: the proof compared only the workflow definitions.")
    return cases, notes


def _depends_on_user(workflow: Workflow) -> bool:
    return any(not step.disabled and _uses_external_user(step) for step in workflow.steps)


def _uses_external_user(step: Step) -> bool:
    if step.uses is not None or any(app.account is None for app in find_app_bindings(step)):
        return True
    return any(map(_NAMES_USER.search, (step.source, str(dict(step.props)))))
