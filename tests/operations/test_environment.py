"""Environment variables and secret props of the project."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.errors import PdkernelError, RequestError
from pdkernel.model import Step
from pdkernel.operations.environment import find_stored_secret, set_secret_prop, set_variable
from pdkernel.storage import Project
from tests.builders import a_workflow, python_step


def test_the_value_is_read_and_stored(project: Project) -> None:
    """The value comes from the given function."""
    set_variable(project, "TOKEN", lambda: "abc")

    assert project.variables.values() == {"TOKEN": "abc"}


@pytest.mark.parametrize("name", ["TOKEN", "token"])
def test_a_value_on_the_line_is_refused(project: Project, name: str) -> None:
    """NAME=VALUE is an error without the value, and no value is read."""

    def read_value() -> str:
        raise AssertionError("the value was read")

    with pytest.raises(RequestError, match="must not be part of the line") as caught:
        set_variable(project, f"{name}=abc-0123", read_value)

    assert "abc-0123" not in str(caught.value)
    assert project.variables.values() == {}


def test_a_secret_prop_is_not_a_variable(project: Project) -> None:
    """`STEP.PROP` is refused with the command for secret props."""
    with pytest.raises(RequestError, match="pdkernel secrets set SOURCE STEP PROP"):
        set_variable(project, "ask.key", lambda: "abc")


def test_an_empty_value_changes_nothing(project: Project) -> None:
    """An empty answer is refused, and the earlier value stays."""
    set_variable(project, "TOKEN", lambda: "abc")

    with pytest.raises(RequestError, match="The value of TOKEN is empty"):
        set_variable(project, "TOKEN", lambda: "")

    assert project.variables.values() == {"TOKEN": "abc"}


WORKFLOW = a_workflow(
    *(Step(name, "node", source="export default {}", props={"key": {"_enc": name}}) for name in ("first", "second")),
    Step("plain", "node", source="export default {}"),
)


def test_the_secret_of_a_step_is_stored(project: Project) -> None:
    """Of two steps with a secret prop of one name, the named step gets the value."""
    stored = set_secret_prop(project, WORKFLOW, "second", "key", lambda: "abc")

    assert project.variables.values() == {stored: "abc"}
    assert stored.startswith("second.key#")


@pytest.mark.parametrize(
    ("step", "prop", "message"),
    [
        ("second", "key=abc-0123", "Pass key without a value"),
        ("plain", "key", r"has no secret prop 'key'\. Known: first\.key, second\.key"),
        ("gone", "key", "has no step 'gone'"),
    ],
)
def test_a_wrong_secret_prop_is_refused(project: Project, step: str, prop: str, message: str) -> None:
    """A value on the line, a prop without a secret and an unknown step are errors; no value is read or shown."""

    def read_value() -> str:
        raise AssertionError("the value was read")

    with pytest.raises(PdkernelError, match=message) as caught:
        set_secret_prop(project, WORKFLOW, step, prop, read_value)

    assert "abc-0123" not in str(caught.value)


def test_a_workflow_without_secrets_says_so(project: Project) -> None:
    """The error does not point to an empty list."""
    with pytest.raises(RequestError, match="This workflow has no secret props"):
        set_secret_prop(project, a_workflow(python_step("plain")), "plain", "key", lambda: "abc")


def test_a_stored_secret_is_found_by_its_short_name(project: Project) -> None:
    """`STEP.PROP` names the only secret of that name; of several, the whole name is needed."""
    stored = set_secret_prop(project, WORKFLOW, "first", "key", lambda: "abc")

    assert find_stored_secret(project, "first.key") == find_stored_secret(project, stored) == stored
    with pytest.raises(RequestError, match=r"There is no secret 'second\.key'"):
        find_stored_secret(project, "second.key")
    changed = a_workflow(replace(WORKFLOW.steps[0], props={"key": {"_enc": "changed"}}))
    other = set_secret_prop(project, changed, "first", "key", lambda: "def")
    with pytest.raises(RequestError, match=r"2 secrets are called first\.key") as several:
        find_stored_secret(project, "first.key")
    assert {stored, other} <= {word.strip(",.") for word in several.value.fix.split()}
    assert find_stored_secret(project, other) == other
