"""The text of a saved test, and the expectations of several runs."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pdkernel.annex.snapshot_tests.code_generation import (
    RunExpectation,
    SnapshotScenario,
    _literal,
    build_expectation,
    generate_test_code,
)
from pdkernel.annex.snapshot_tests.run_inputs import AccountInput, RunInputs
from pdkernel.common.redaction import Redactor
from pdkernel.execution import Delivery, ErrorRecord, Execution, Log, Response, StepResult
from tests.render.builders import an_execution

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NO_INPUTS = RunInputs((), {}, Redactor(), ())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values | st.text(min_size=90))
def test_a_value_is_written_as_python(value: Any) -> None:
    """The lines of a value, however long, are Python that has the value."""
    found: dict[str, Any] = {}

    exec("\n".join(_literal("value = ", value, "")), found)

    assert repr(found["value"]) == repr(value)


def expected(*runs: Execution) -> RunExpectation:
    """The expectations of equal or differing runs."""
    return build_expectation(runs, now=NOW, known_text="")


def written(expectation: RunExpectation, **scenario: Any) -> str:
    """The text of a test, which is valid Python."""
    given: dict[str, Any] = {
        "name": "run",
        "workflow": "Work",
        "source": "../work.ipynb",
        "event": "../events/run.json",
        "recorded": None,
        "external_user": None,
        "environment": "development",
        "inputs": NO_INPUTS,
    }
    text = generate_test_code(SnapshotScenario(**{**given, **scenario}), expectation)
    ast.parse(text)
    return text


def a_run(**step: Any) -> Execution:
    """A run of one step."""
    return an_execution(steps=(StepResult("one", "success", **step),))


def test_runs_that_differ() -> None:
    """A value that differs is compared by its type and listed with its step."""
    first, second = (a_run(exports={"n": number, "same": "x"}) for number in (1, 2))

    text = written(expected(first, second))

    assert expected(first, second).unstable_paths == ("one.n",)
    assert "#   one.n" in text
    assert "{'n': differs(int, float), 'same': 'x'}" in text
    assert "from pdkernel.testing import differs" in text
    assert "differs" not in written(expected(first, first))


@pytest.mark.parametrize(
    ("step", "has_output"),
    [
        ({"logs": (Log("stdout", "hello\n"),)}, True),
        ({}, False),
        ({"logs": (Log("stdout", "hello\n"),), "exports": {"n": 1}}, False),
        ({"logs": (Log("stdout", "hello\n"),), "error": ErrorRecord("step_failed", "ValueError", "no")}, False),
    ],
)
def test_the_output_counts_if_nothing_else_does(step: dict[str, Any], has_output: bool) -> None:
    """The printed text is compared for a step without exports, calls and error."""
    assert ("assert step.output == 'hello\\n'" in written(expected(a_run(**step)))) is has_output


def test_the_error_of_a_run_that_was_refused() -> None:
    """An error of the run, and of a step, are compared by name and message."""
    error = ErrorRecord("package_missing", "PackageMissing", "Install it.")

    text = written(
        expected(replace(a_run(error=ErrorRecord("step_failed", "ValueError", "no")), status="error", error=error))
    )

    assert "assert [execution.error.name, execution.error.message] == ['PackageMissing', 'Install it.']" in text
    assert "assert [step.error.name, step.error.message] == ['ValueError', 'no']" in text
    assert "assert execution.response is None" in text


def test_what_a_run_sends_is_compared() -> None:
    """Response and sent payloads are compared; a part that differs is listed."""

    def answered(number: int) -> Execution:
        sends = (Delivery("one", "http", outcome="sent", to="GET https://a.test/", payload={"n": number}),)
        return replace(a_run(), response=Response(200, {}, f"answer {number}"), sends=sends)

    same, differing = written(expected(answered(1), answered(1))), expected(answered(1), answered(2))

    assert "assert [[s.step, s.kind, s.to, s.payload] for s in execution.sends] == " in same
    assert "answer 1" in same
    assert differing.unstable_paths == ("response.body", "sends[0][3].n")


def test_a_step_that_did_not_run_has_a_status_only() -> None:
    """Exports and calls of a step that did not run are not compared."""
    text = written(expected(an_execution(steps=(StepResult("one", "not_run"), StepResult("two", "success")))))

    assert text.count("step.status") == 2
    assert text.count("step.exports") == 1


def test_accounts_and_variables_are_set_before_the_run() -> None:
    """The test connects each account with its id, user and environment, and sets the variables, with fake values."""
    account = AccountInput("ada", "slack", "production", "apn_1", {"oauth_access_token": "made-up-token"})
    inputs = RunInputs((account,), {"NAME": "made-up-name", "ask.key": "made-up-key"}, Redactor(), ())

    text = written(
        expected(a_run()),
        inputs=inputs,
        external_user="ada",
        environment="production",
        recorded="recorded/run.jsonl",
        pins={"zero": {"$return_value": 1}},
        only=["one"],
    )

    called = "".join(text.split("def test_run", 1)[1].split("execution = pd_run", 1)[0].split())
    assert called.endswith(
        "pd_project.connect('ada','slack',environment='production',account_id='apn_1',"
        "credentials={'oauth_access_token':'made-up-token'},)"
        "pd_project.set_variables(**{'NAME':'made-up-name','ask.key':'made-up-key'})"
    )
    for line in (
        "    external_user='ada',",
        "    environment='production',",
        "    egress=f\"replay={HERE / 'recorded/run.jsonl'}\",",
        "    only=['one'],",
        "    pins={'zero': {'$return_value': 1}},",
    ):
        assert f"    {line}\n" in text
    assert "as ada in production, saved as a test." in text


def test_a_name_cannot_end_the_text_of_the_test() -> None:
    """Quotes, backslashes and line ends of a workflow's name stay in the first line of the test."""
    text = written(expected(a_run()), workflow='Says """ in C:\\new\nline')

    assert text.count('"""') == 4  # of the test, and of its function
