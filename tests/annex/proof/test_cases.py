"""The cases of a proof: events and external users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.proof.cases import MAX_USERS_PER_EVENT, find_cases, resolve_recording_path
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import Directory
from pdkernel.model import Step
from pdkernel.storage import Project
from tests.builders import a_step, a_workflow, an_event, python_step

USER = python_step("say", options="--app slack")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    """A directory with more users than a proof runs."""
    with Project.open(tmp_path / ".pdkernel", clock=ManualClock(), ids=SequentialIds()) as project:
        directory = LocalDirectory(project)
        for number in range(MAX_USERS_PER_EVENT + 1):
            directory.add_account(app="slack", credentials={"token": "x"}, external_user_id=f"user{number}")
        yield directory


def save(folder: Path, name: str, **headers: str) -> None:
    """Save an event with *headers*."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(an_event(headers=headers).data))


def found(directory: Directory, folder: Path, step: Step, **named: list[str]) -> list[tuple[str, str | None, str]]:
    """The name, user and environment of each case."""
    cases, _ = find_cases(folder, a_workflow(step), directory, **named)
    return [(case.name, case.external_user, case.environment) for case in cases]


def test_each_event_is_run_for_each_user(directory: Directory, tmp_path: Path) -> None:
    """Without named users the first users of the directory are taken; a user in the event has precedence."""
    save(tmp_path / "events", "b")
    save(tmp_path / "events", "a", **{"x-pd-external-user-id": "ada", "x-pd-environment": "production"})

    assert found(directory, tmp_path / "events", USER) == [
        ("a", "ada", "production"),
        *(("b", f"user{number}", "development") for number in range(MAX_USERS_PER_EVENT)),
    ]
    assert found(directory, tmp_path / "events", USER, users=["eve"], names=["b"]) == [("b", "eve", "development")]


@pytest.mark.parametrize(
    ("step", "count"),
    [
        (python_step("say"), 1),
        (python_step("say", options="--app slack=apn_1"), 1),
        (replace(USER, disabled=True), 1),
        (python_step("say", "return pd.steps['trigger']['event']['headers']['x-pd-external-user-id']"), 5),
        (python_step("say", "externalUser = 1"), 5),
        (python_step("say", options="--prop 'id={{ steps.trigger.context.external_user_id }}'"), 5),
        (a_step("%%pdstep say --uses slack-send@1.0.0\ntext: Hi\n"), 5),
        (USER, 5),
    ],
)
def test_only_a_workflow_of_users_is_run_for_each(directory: Directory, tmp_path: Path, step: Step, count: int) -> None:
    """A workflow that uses no external user runs once for an event, without a user."""
    save(tmp_path / "events", "a")

    cases = found(directory, tmp_path / "events", step)

    assert len(cases) == count
    assert (cases[0][1] is None) is (count == 1)


def test_an_empty_directory_has_a_case_without_a_user(tmp_path: Path) -> None:
    """Both sides refuse a caller without a user, which is compared too."""
    save(tmp_path / "events", "a")
    with Project.open(tmp_path / ".pdkernel") as project:
        assert found(LocalDirectory(project), tmp_path / "events", USER) == [("a", None, "development")]


def test_files_that_are_not_events_are_noted(directory: Directory, tmp_path: Path) -> None:
    """A broken file and a missing test event have a note; without any case the note has a command."""
    save(tmp_path / "events", "a")
    (tmp_path / "events" / "bad.json").write_text("[")
    (tmp_path / "events" / "a.recorded.jsonl").write_text("")

    cases, notes = find_cases(tmp_path / "events", a_workflow(python_step()), directory)
    none, missing = find_cases(tmp_path / "events", a_workflow(python_step()), directory, names=["gone"])

    assert [case.name for case in cases] == ["a"]
    assert [note.startswith("Skipped, not an event: ") for note in notes] == [True]
    assert none == []
    assert missing[0] == "The test event gone is not in events/."
    assert "compared only the workflow definitions" in missing[1]
    assert find_cases(tmp_path / "nothing", a_workflow(), directory)[0] == []


def test_the_recording_of_an_event() -> None:
    """The recording of an event is in the folder of the event."""
    assert resolve_recording_path(Path("events/a.b.json")) == Path("events/a.b.recorded.jsonl")
