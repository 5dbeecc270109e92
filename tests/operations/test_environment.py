"""Environment variables of the project."""

from __future__ import annotations

import pytest

from pdkernel.errors import RequestError
from pdkernel.operations.environment import set_variable
from pdkernel.project import Project


def test_the_value_is_read_and_stored(project: Project) -> None:
    """The value comes from the given function."""
    set_variable(project, "TOKEN", lambda: "abc")

    assert project.variables.values() == {"TOKEN": "abc"}


def test_a_value_on_the_line_is_refused(project: Project) -> None:
    """NAME=VALUE is an error without the value, and no value is read."""

    def read_value() -> str:
        raise AssertionError("the value was read")

    with pytest.raises(RequestError, match="must not be part of the line") as caught:
        set_variable(project, "TOKEN=abc-0123", read_value)

    assert "abc-0123" not in str(caught.value)
    assert project.variables.values() == {}


def test_a_secret_prop_is_not_a_variable(project: Project) -> None:
    """`STEP.PROP` is refused with the command for secret props."""
    with pytest.raises(RequestError, match="pdkernel secrets set SOURCE STEP PROP"):
        set_variable(project, "ask.key", lambda: "abc")
