"""Credentials in plain text must not get into the files of a workflow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pdkernel.errors import DefinitionError
from pdkernel.files.definition.credential_check import (
    check_no_credentials,
    find_credential_errors,
    find_credential_named_props,
)
from pdkernel.model import Step
from tests.builders import a_workflow, node_step, python_step

TOKEN = "xoxb-" + "1234567890-abcdefghij"
OTHER = "ghp_" + "a" * 36


def with_props(**props: Any) -> Step:
    """A step with *props*."""
    return replace(node_step("send"), props=props)


def test_a_credential_in_code_is_refused_with_its_line() -> None:
    """The message has the step, the kind and the line of the cell, and not the credential."""
    step = python_step("send", f"a = 1\ntoken = '{TOKEN}'\nreturn a")

    with pytest.raises(DefinitionError, match="Step send: its code holds what looks like a Slack token") as caught:
        check_no_credentials(a_workflow(step))

    assert f"(line {2 + step.line_offset + 1})" in caught.value.message
    assert (caught.value.step, caught.value.line) == ("send", 2 + step.line_offset + 1)
    assert TOKEN not in str(caught.value)


def test_a_credential_in_a_prop_is_refused_with_its_path() -> None:
    """Props are searched at any depth; so are the files of a step, whose lines begin at 1."""
    steps = (
        with_props(a={"b": ["x", f"Bearer {TOKEN}"]}),
        replace(node_step("more"), files={"lib.mjs": f"\n\nexport const key = '{OTHER}';"}),
    )

    messages = [error.message for error in find_credential_errors(a_workflow(*steps))]

    assert len(messages) == 2
    assert "Step send: the prop a.b.1 holds what looks like a Slack token" in messages[0]
    assert "Step more: its file lib.mjs holds what looks like a GitHub token (line 3)" in messages[1]


def test_each_place_has_an_error() -> None:
    """A place with two credentials is one error; a workflow without one passes."""
    steps = (with_props(a=f"{TOKEN} {OTHER}", b=TOKEN), python_step("clean"))

    assert len(list(find_credential_errors(a_workflow(*steps)))) == 2
    check_no_credentials(a_workflow(python_step("clean")))


def test_a_credential_of_the_folder_is_not_refused() -> None:
    """A text that is in Git already may stay, also in another place; a new one beside it is refused."""
    existing = a_workflow(with_props(a=f"Bearer {TOKEN}"))

    check_no_credentials(a_workflow(with_props(b=f"token {TOKEN}")), existing=existing)
    with pytest.raises(DefinitionError, match="a GitHub token"):
        check_no_credentials(a_workflow(with_props(a=f"{TOKEN} {OTHER}")), existing=existing)


def test_another_private_key_is_refused() -> None:
    """The first line of a private key does not identify the key."""
    key = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"
    existing = a_workflow(with_props(a=key.format("one")))

    check_no_credentials(a_workflow(with_props(a=key.format("one"))), existing=existing)
    with pytest.raises(DefinitionError, match="a private key"):
        check_no_credentials(a_workflow(with_props(a=key.format("two"))), existing=existing)


@pytest.mark.parametrize(
    ("props", "paths"),
    [
        ({"api_key": "12345678"}, [("api_key",)]),
        ({"api_key": "1234567"}, []),
        ({"api_key": "{{process.env.KEY}}"}, []),
        ({"api_key": TOKEN}, []),
        ({"text": "12345678"}, []),
        ({"auth": {"password": "correct horse"}, "list": [{"secret": "battery staple"}]}, [("auth", "password"), ("list", 0, "secret")]),
    ],
)  # fmt: skip
def test_a_prop_named_like_a_credential(props: dict[str, Any], paths: list[tuple[str | int, ...]]) -> None:
    """A plain text of eight characters or more is found by the name of its prop, unless its form is found anyway."""
    assert list(find_credential_named_props(with_props(**props))) == paths
