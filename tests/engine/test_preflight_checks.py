"""Checks before the first step: which steps count, and what their errors name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.egress import parse_policy
from pdkernel.engine.preflight_checks import VariableMissingError, check_request, check_supported, check_variables
from pdkernel.engine.run_request import RunRequest, TestOptions
from pdkernel.errors import UnsupportedError
from pdkernel.model import Language, Step, StoreBinding
from tests.builders import a_workflow, an_event, python_step

POLICY = parse_policy("live")


def request(*steps: Step) -> RunRequest:
    """A request to run *steps*."""
    return RunRequest(a_workflow(*steps), an_event(), POLICY)


def test_a_variable_of_a_step_that_does_not_run() -> None:
    """A variable is needed by steps that run: not by disabled, pinned, unselected and finished steps."""
    step = python_step("a", 'import os; return os.environ["NEEDED"]')
    other = python_step("b", "return 1")
    needs = request(step, other)
    with pytest.raises(VariableMissingError, match=r"NEEDED \(read by a\) is not set"):
        check_request(needs)

    check_request(replace(needs, variables={"NEEDED": ""}))
    check_request(request(replace(step, disabled=True), other))
    check_request(replace(needs, options=TestOptions(pinned_exports={"a": {}})))
    check_request(replace(needs, options=TestOptions(only_steps=frozenset({"b"}))))
    check_request(replace(needs, done_steps=frozenset({"a"})))
    with pytest.raises(VariableMissingError):
        check_request(needs)


def test_all_missing_variables_are_named() -> None:
    """The error names every missing variable, sorted, with the steps that read it and the command that sets it."""
    with pytest.raises(VariableMissingError) as caught:
        check_variables({"B": ["one", "two"], "A": ["two"], "SET": ["one"]}, {"SET": ""})

    assert caught.value.message == "The environment variables A (read by two); B (read by one, two) are not set."
    assert caught.value.fix == "Set it: pdkernel env set A\nSet it: pdkernel env set B"


@pytest.mark.parametrize("language", ["bash", "go"])
def test_a_data_store_in_bash_and_go(language: Language) -> None:
    """The platform has no data stores for Bash and Go; a disabled step is not refused."""
    step = Step("a", language, stores=(StoreBinding("db", None),))

    with pytest.raises(UnsupportedError, match="has no data stores"):
        check_supported(a_workflow(step))
    check_supported(a_workflow(replace(step, disabled=True), replace(step, name="b", language="node")))


@pytest.mark.parametrize(
    ("mode", "via", "is_refused"), [("live", (), False), ("deny", (), True), ("live", ("http://p:1",), True)]
)
def test_a_step_is_debugged_only_if_calls_are_live(mode: str, via: tuple[str, ...], is_refused: bool) -> None:
    """In the kernel no policy and no proxy applies, so `--debug` needs live calls; a run without a debugger does not."""
    debugged = replace(python_step("a"), debug=True)
    asked = replace(request(debugged), policy=parse_policy(mode, via=via))
    check_request(asked)

    if is_refused:
        with pytest.raises(UnsupportedError, match="has --debug"):
            check_request(asked, has_debugger=True)
    else:
        check_request(asked, has_debugger=True)
    check_request(replace(asked, workflow=a_workflow(replace(debugged, disabled=True))), has_debugger=True)
