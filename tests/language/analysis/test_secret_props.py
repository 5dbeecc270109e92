"""Secret props: encrypted values in the props of steps."""

from __future__ import annotations

from dataclasses import replace

from pdkernel.language.analysis import fill_secret_props, find_missing_secrets, find_secret_props
from pdkernel.language.analysis.secret_props import SecretProp
from pdkernel.model import JSON, Step
from tests.builders import a_workflow

PROPS: dict[str, JSON] = {
    "key": {"_enc": "a"},
    "plain": "{{ 1 }}",
    "request": {"headers": {"X": {"_enc": "b"}}, "items": ["x", {"_enc": "c"}]},
}


def test_nested_secret_props() -> None:
    """Encrypted values inside of objects and lists are found, and those of disabled steps are not."""
    step = Step("ask", "node", props=PROPS)

    found = find_secret_props(a_workflow(step, replace(step, name="off", disabled=True)))

    assert [prop.name for prop in found] == ["ask.key", "ask.request.headers.X", "ask.request.items.1"]


def test_a_changed_secret_has_another_key() -> None:
    """The key contains a digest of the encrypted value, so that an earlier value is not used for a changed secret."""
    keys = {SecretProp("ask", ("key",), {"_enc": text}).key for text in ("a", "b")}

    assert len(keys) == 2
    assert all(key.startswith("ask.key#") for key in keys)


def test_values_replace_encrypted_values() -> None:
    """The value of a key or of `STEP.PROP` replaces the encrypted value at its path; a prop without a value stays."""
    step = Step("ask", "node", props=PROPS)
    key, header, item = find_secret_props(a_workflow(step))
    variables = {key.key: "{{ 2 }}", header.name: "h"}

    filled = fill_secret_props(step, {**PROPS, "plain": 1}, variables)

    assert filled == {"key": "{{ 2 }}", "plain": 1, "request": {"headers": {"X": "h"}, "items": ["x", {"_enc": "c"}]}}
    assert PROPS["request"] == {"headers": {"X": {"_enc": "b"}}, "items": ["x", {"_enc": "c"}]}
    assert find_missing_secrets(a_workflow(step), variables) == (item,)


def test_a_given_value_wins_over_the_stored_value() -> None:
    """A variable `STEP.PROP` of a caller replaces the value that the project stores under the prop's key."""
    (secret,) = find_secret_props(a_workflow(Step("ask", "node", props={"key": {"_enc": "a"}})))

    assert secret.find_value({secret.key: "stored", secret.name: "given"}) == "given"
    assert secret.find_value({secret.key: "stored"}) == "stored"
    assert secret.find_value({f"{secret.name}#0": "of another text"}) is None
