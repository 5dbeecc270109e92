"""References to actions: parsing, the step's name, the order of versions."""

from __future__ import annotations

import pytest

from pdkernel.actions.action_reference import ActionReference, suggest_step_name, version_sort_key
from pdkernel.errors import RequestError


@pytest.mark.parametrize(
    ("text", "key", "version", "app"),
    [
        ("slack-send-message@0.0.20", "slack-send-message", "0.0.20", "slack"),
        ("slack-send-message", "slack-send-message", None, "slack"),
        ("@acme/send", "@acme/send", None, ""),
        ("@acme/send@1.0.0-rc.1", "@acme/send", "1.0.0-rc.1", ""),
    ],
)
def test_a_reference(text: str, key: str, version: str | None, app: str) -> None:
    """The version may be missing; a private key has a workspace and names no app."""
    found = ActionReference.parse(text)

    assert (found.key, found.version, found.app) == (key, version, app)
    assert (str(found), found.is_private) == (text, text.startswith("@"))


@pytest.mark.parametrize(
    "text", ["", "send", "slack-send@", "slack-send@1.0", "slack-send@latest", "Slack-Send", "@acme", "a-b c"]
)
def test_what_is_not_a_reference(text: str) -> None:
    """A key has a hyphen or a workspace, and a version has three numbers."""
    with pytest.raises(RequestError, match="is not an action's key"):
        ActionReference.parse(text)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("slack-send-message", "send_message"),
        ("@acme/slack-send.it", "send_it"),
        ("helper-2fa-code", "step_2fa_code"),
        ("slack", "step"),
        ("slack--", "step"),
    ],
)
def test_the_name_of_a_step(key: str, name: str) -> None:
    """A step is named after the key without its app; a name does not start with a digit."""
    assert suggest_step_name(key) == name


def test_versions_are_ordered_by_value() -> None:
    """Numbers compare by value, and a pre-release comes before the number that it precedes."""
    versions = ["0.10.0", "0.9.0", "1.0.0", "0.9.10", "0.9.0.1"]

    assert sorted(versions, key=version_sort_key) == ["0.9.0", "0.9.0.1", "0.9.10", "0.10.0", "1.0.0"]
    assert version_sort_key("1.0.rc") < version_sort_key("1.0.0")
