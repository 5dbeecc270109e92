"""The texts of the journal's columns, and texts that earlier versions wrote."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given

from pdkernel.errors import ProjectError
from pdkernel.execution import (
    AccountUse,
    ErrorRecord,
    Execution,
    Log,
    OutboundCall,
    OutboundPolicyRecord,
    RunTrigger,
    StepResult,
)
from pdkernel.journal.text_columns import (
    RunRow,
    build_execution,
    build_summary,
    decode_retention,
    encode_definition,
    encode_event,
    encode_output,
    encode_step,
    hash_definition,
)
from pdkernel.model import JSON, AppBinding, Step, StoreBinding, Workflow
from tests.journal.conftest import WORKFLOW
from tests.test_execution import RUN, RUN_JSON, steps


def row(
    *, event: str = '{"event":{},"context":{}}', output: str | None = None, definition: str | None = None
) -> RunRow:
    """The row of a run that succeeded."""
    return RunRow("run", "trace", "Greet", definition, event, None, "development", "success", 1, 1, 0.0, 1.0, output)


def test_text_of_a_step() -> None:
    """A step is stored as its compact JSON; a number of more than 64 bits and half a surrogate pair keep their value."""
    step = StepResult("one", "success", duration_ms=1.25, exports={"n": 2**70, "s": "\ud83d"})

    assert encode_step(StepResult("one", "success", duration_ms=1.25, exports={"é": [1.5, None]})) == (
        '{"name":"one","status":"success","started_at":null,"duration_ms":1.2,"attempt":1,"path":"one","iteration":1,"exports":{"é":[1.5,null]},'
        '"logs":[],"accounts":[],"requests":[],"error":null}'
    )
    assert '"exports":{"n":1180591620717411303424,"s":"\\ud83d"}' in encode_step(step)


def test_text_of_an_event() -> None:
    """Only a replay has `replay_of`, only a run whose outbound policy is not the default has `outbound_policy`."""
    assert encode_event({"body": 1}, {"id": "x"}) == '{"event":{"body":1},"context":{"id":"x"}}'
    assert encode_event({}, {}) == '{"event":{},"context":{}}'
    assert encode_event(None, {}, replay_of="run", outbound_policy=OutboundPolicyRecord("deny", guard="none")) == (
        '{"context":{},"replay_of":"run","outbound_policy":{"policy":"deny","guard":"none"}}'
    )


def test_text_of_an_output() -> None:
    """The account lookup is left out if there is none."""
    whole = encode_output(response=RUN.response, error=RUN.error, steps={"two": "skipped"}, lookup=RUN.lookup)

    assert encode_output() == '{"response":null,"error":null,"steps":{}}'
    assert json.dumps(json.loads(whole)) == json.dumps(
        {
            "response": RUN_JSON["response"],
            "error": RUN_JSON["error"],
            "steps": {"two": "skipped"},
            "lookup": RUN_JSON["lookup"],
        }
    )


@given(steps)
def test_step_is_read_from_its_text(step: StepResult) -> None:
    """A step's result equals the one that is read from its row."""
    assert build_execution(row(), [encode_step(step)]).steps == (step,)


def test_texts_of_the_first_versions_are_read() -> None:
    """Keys that were added later may be absent from a row."""
    call = '{"method":"GET","url":"u","status":200,"duration_ms":1,"safe":true,"outcome":"sent"}'
    text = (
        '{"name":"one","status":"error","started_at":"t","duration_ms":1.5,"attempt":1,"exports":{},'
        '"logs":[{"stream":"stdout","text":"hi"}],"accounts":[{"prop":"p","app":"a","id":"i","owner":"own"}],'
        f'"requests":[{call}],"error":{{"code":"c","name":"n","message":"m","step":null,"line":null,"stack":null}}}}'
    )
    output = '{"response":{"status":200,"headers":{},"body":null},"error":null,"steps":{"two":"skipped"}}'

    execution = build_execution(
        row(output=output, definition='{"name":"Greet","steps":[{"name":"one","disabled":false,"language":"python"}]}'),
        [text],
    )

    assert execution.steps == (
        StepResult(
            "one",
            "error",
            "t",
            1.5,
            logs=(Log("stdout", "hi"),),
            accounts=(AccountUse("p", "a", "i", "own"),),
            requests=(OutboundCall("GET", "u", 200, 1, safe=True, outcome="sent"),),
            error=ErrorRecord("c", "n", "m"),
        ),
    )
    assert (execution.sends, execution.lookup, execution.outbound_policy) == ((), None, None)


def test_version_of_a_workflow_is_the_hash_of_its_stored_definition() -> None:
    """A stored definition and `Workflow.version` do not change between releases: old runs name their version."""
    step = Step("one", source="def handler(pd):\n    return 1\n", props={"b": 1.5, "a": ["é", None]}, timeout_s=3.0)

    assert Workflow("Greet", steps=(step,), settings={"lambda_timeout": 40}, variables=("A",)).version == "df0bcc299b35"
    assert WORKFLOW.version == "ea2cbb570cbf"


def test_row_that_is_complete() -> None:
    """An execution has the columns of its row, the parts of its texts, and its messages."""
    event = encode_event({"body": 1}, {"id": "x"}, replay_of="first", outbound_policy=RUN.outbound_policy)
    output = encode_output(response=RUN.response, lookup=RUN.lookup)
    sends = [json.dumps(each) for each in RUN_JSON["sends"]]

    assert build_execution(row(event=event, output=output), [], sends) == Execution(
        id="run",
        trace_id="trace",
        workflow="Greet",
        version="",
        status="success",
        external_user=None,
        environment="development",
        started_at="1970-01-01T00:00:00.000Z",
        finished_at="1970-01-01T00:00:01.000Z",
        attempt=1,
        replay_of="first",
        trigger=RunTrigger({"body": 1}, {"id": "x"}),
        steps=(),
        error=None,
        response=RUN.response,
        sends=RUN.sends,
        outbound_policy=RUN.outbound_policy,
        lookup=RUN.lookup,
    )


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (row(event='{"event":{}}'), "its event cannot be read (Object missing required field `context`)"),
        (row(event='{"event":[],"context":{}}'), "its event cannot be read (Expected `object`, got `array`"),
        (row(output="{"), "its output cannot be read"),
        (row(output='{"response":null,"error":{},"steps":{}}'), "its output cannot be read (Object missing"),
        (row(output='{"response":null,"error":null,"steps":{"a":"gone"}}'), "its output cannot be read (Invalid enum"),
        (row(definition='{"steps":[{}]}'), "its definition cannot be read"),
        (row(event="[" * 100_000), "its event cannot be read"),
    ],
)
def test_damaged_row_is_refused(damaged: RunRow, reason: str) -> None:
    """A text of a run's row that does not fit is an error that names the run and the column."""
    with pytest.raises(ProjectError, match=re.escape(f"The record of the run run is damaged: {reason}")) as refused:
        build_execution(damaged, [])

    assert refused.value.fix


@pytest.mark.parametrize("text", ["", "null", '{"name":"one"}', '{"name":"one","status":"unknown"}'])
def test_damaged_step_is_refused(text: str) -> None:
    """A step's row that does not fit is an error that names the run."""
    with pytest.raises(ProjectError, match="The record of the run run is damaged: its steps cannot be read"):
        build_execution(row(), [text])


@pytest.mark.parametrize("text", ["", "null", '{"step":"one"}', '{"step":"one","kind":"http","outcome":"gone"}'])
def test_damaged_message_is_refused(text: str) -> None:
    """A message's row that does not fit is an error that names the run."""
    with pytest.raises(ProjectError, match="The record of the run run is damaged: its outbox cannot be read"):
        build_execution(row(), [], [text])


def test_definition_is_read_from_its_text() -> None:
    """A workflow that is read from its stored definition has the same version and the same stored definition."""
    step = Step(
        "one",
        "node",
        "export default 1",
        apps=(AppBinding("slack", "slack", "apn_1"),),
        stores=(StoreBinding("store", "data"),),
        props={"b": 1.5, "a": ["é", None, "\ud83d"]},
        timeout_s=3.0,
        disabled=True,
    )
    workflow = Workflow("Greet", steps=(step, Step("two")), settings={"memory": 512}, variables=("A",))
    text = encode_definition(workflow)

    found = Workflow.from_versioned_content(json.loads(text))

    assert (found.name, found.steps, found.settings, found.variables) == (
        workflow.name,
        workflow.steps,
        workflow.settings,
        workflow.variables,
    )
    assert encode_definition(found) == text
    assert found.version == workflow.version == hash_definition(text)[:12]


def test_text_of_a_later_version_is_read() -> None:
    """Keys that this version does not have are ignored: hosts of two versions may share a journal."""
    step = encode_step(StepResult("one", "success"))[:-1] + ',"later":1}'

    assert build_execution(row(), [step]).steps == (StepResult("one", "success"),)


@pytest.mark.parametrize(
    ("settings", "days"), [({"retention": 7}, 7), ({"retention": True}, None), ({"retention": "7"}, None), ({}, None)]
)
def test_retention_of_a_definition(settings: dict[str, JSON], days: int | None) -> None:
    """Only a whole number is a number of days; a damaged definition has none."""
    assert decode_retention(json.dumps({"steps": [], "settings": settings})) == days
    assert decode_retention("{") is None


def test_duration_of_a_summary() -> None:
    """A finished run has a duration in milliseconds, 0 if the clock was set back during the run; an unfinished run has none."""
    durations = [
        build_summary("run", "Greet", None, "development", "success", 1, 1, 10.0, ended, None).duration_ms
        for ended in (10.25, 9.0, None)
    ]

    assert durations == [250, 0, None]
