"""Secrets are recognised by their names and forms."""

from __future__ import annotations

import pytest

from pdkernel.redaction.secret_patterns import (
    CREDENTIAL_FORMS,
    REDACTED,
    SecretPatternRedactor,
    is_credential_prop,
    is_masked_header,
    is_secret_field,
    is_secret_input,
    redact_url,
)

SIGNED = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.made-up-signature"


@pytest.mark.parametrize("name", ["api_key", "oauth_access_token", "client_secret", "Password", "db_passwd"])
def test_a_credential_field_with_a_secret_name_is_secret(name: str) -> None:
    """A field whose name contains key, secret, token, password or passwd is secret, for redaction and for forms."""
    assert is_secret_field(name)
    assert is_secret_input(name)


def test_a_form_hides_more_fields_than_redaction() -> None:
    """A field with `auth` or `credential` in its name is hidden in a form, and is not secret in a key file (`auth_uri`)."""
    assert is_secret_input("auth_uri")
    assert not is_secret_field("auth_uri")


@pytest.mark.parametrize("name", ["host", "username", "base_url"])
def test_other_credential_fields_are_not_secret(name: str) -> None:
    """A host, a user name and a URL are not secret by their names."""
    assert not is_secret_field(name)
    assert not is_secret_input(name)


@pytest.mark.parametrize(
    ("name", "expected"), [("apiKey", True), ("token", True), ("passwd", True), ("token_type", False), ("key", False)]
)
def test_a_prop_is_named_like_a_credential(name: str, expected: bool) -> None:
    """`token_type` and `key` are common names of props that are not secret."""
    assert is_credential_prop(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Authorization", True), ("X-Hub-Signature-256", True), ("X-Shop-Secret", True), ("Content-Type", False)],
)
def test_a_header_with_a_secret_is_masked(name: str, expected: bool) -> None:
    """Headers with credentials or signatures are masked, in any case of letters."""
    assert is_masked_header(name) is expected


def test_a_secret_parameter_of_a_url_is_redacted() -> None:
    """The value of a secret parameter is redacted; other parameters stay."""
    assert redact_url("https://h.test/?token=abc&page=2") == f"https://h.test/?token={REDACTED}&page=2"


def test_a_value_that_was_redacted_once_is_redacted_everywhere() -> None:
    """A server that returns a secret under another name does not reveal it."""
    redactor = SecretPatternRedactor()
    redactor.redact('{"password": "made-up-value"}')

    assert redactor.redact("echo made-up-value") == f"echo {REDACTED}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (SIGNED, "a signed token"),
        (f"https://host.test/connect.html?token=ctok_{'4e62b869' * 4}&app=slack", "a Connect token"),
        (f"secret: pds_{'a-_9' * 10}", "a client's secret"),
    ],
)
def test_a_credential_is_named_by_its_form(text: str, name: str) -> None:
    """The table names the form of a JSON Web Token, of a Connect token and of a client's secret."""
    assert [known for known, form in CREDENTIAL_FORMS if form.search(f"x {text}")] == [name]


def test_a_short_value_is_redacted_under_its_name_only() -> None:
    """A value of fewer than eight characters is mostly a word, which occurs elsewhere."""
    redactor = SecretPatternRedactor()

    assert redactor.redact('{"token": "general"}') == '{"token": "{{redacted}}"}'
    assert redactor.redact("in general") == "in general"
    assert redactor.redact('{"token": "generals"}') == '{"token": "{{redacted}}"}'
    assert redactor.redact("of generals") == "of {{redacted}}"
