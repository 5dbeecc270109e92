"""Environment variables and values of secret props of a project."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.errors import RequestError
from pdkernel.storage import Project
from pdkernel.storage.settings import MAX_VALUE_BYTES, check_variable, format_variable_ref

KEY = "send.headers.Authorization#0123456789ab"


def test_variables_and_secret_props_have_lists_of_their_own(tmp_path: Path) -> None:
    """Names are sorted; both kinds have values; a removed name is gone."""
    with Project.open(tmp_path / ".pdkernel") as project:
        for name in ("B", KEY, "A"):
            project.variables.set(name, f"value of {name}")
        lists = (project.variables.list(), project.variables.list_secret_props())
        values = project.variables.values()
        removed = (project.variables.remove("A"), project.variables.remove("A"))

        assert lists == (["A", "B"], [KEY])
        assert values == {name: f"value of {name}" for name in ("A", "B", KEY)}
        assert (removed, project.variables.list()) == ((True, False), ["B"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("A", ""), ("_a1", "x"), (KEY, "x"), ("A", "x" * MAX_VALUE_BYTES), ("A", "é" * (MAX_VALUE_BYTES // 2)), ("PIPEDREAMX", "x")],
)  # fmt: skip
def test_a_variable_that_is_allowed(name: str, value: str) -> None:
    """A value has 64 KiB in UTF-8 at most."""
    check_variable(name, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("1A", "secret-1", "is not a valid name"),
        ("A B", "secret-1", "is not a valid name"),
        ("A\n", "secret-1", "is not a valid name"),
        (".b", "secret-1", "is not a valid name"),
        ("PIPEDREAM_X", "secret-1", "the platform reserves names"),
        ("pipedream_x", "secret-1", "the platform reserves names"),
        ("A", "secret-1\0", "contains a NUL character"),
        ("A", "secret-1" + "x" * (MAX_VALUE_BYTES - 7), f"has {MAX_VALUE_BYTES + 1} bytes"),
        ("A", "é" * (MAX_VALUE_BYTES // 2 + 1), f"has {MAX_VALUE_BYTES + 2} bytes"),
    ],
)
def test_a_variable_that_is_refused(name: str, value: str, message: str) -> None:
    """The message has the rule, and never the value."""
    with pytest.raises(RequestError, match=message) as refused:
        check_variable(name, value)

    assert "secret-1" not in str(refused.value)


def test_the_reference_in_redacted_text() -> None:
    """A variable is named as one of the environment; a secret prop by its step and its path."""
    assert format_variable_ref("TOKEN") == "env/TOKEN"
    assert format_variable_ref(KEY) == "prop/send/headers/Authorization"
