"""Secrets are recognised by their names and forms."""

from __future__ import annotations

import pytest

from pdkernel.common.secret_patterns import (
    CREDENTIAL_FORMS,
    REDACTED,
    SecretPatternRedactor,
    is_credential_prop,
    is_masked_header,
    is_secret_field,
    is_secret_input,
    redact_url,
)
from tests.growth import assert_linear

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
    ("name", "expected"),
    [
        *((name, True) for name in ("apiKey", "api-key", "API_KEY", "privateKey", "token", "passwd")),
        *((name, False) for name in ("token_type", "key", "api_key_id")),
    ],
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
    """A server that returns a secret under another name, or decoded, does not reveal it; a longer one is redacted whole."""
    redactor = SecretPatternRedactor()
    redactor.redact('{"password": "made-up-value", "secret": "made-up-value-and-more"}')
    redactor.redact("a=1&password=of+a%20form%2F")

    assert redactor.redact("echo made-up-value made-up-value-and-more") == f"echo {REDACTED} {REDACTED}"
    assert redactor.redact("echo of a form/") == f"echo {REDACTED}"


def test_a_secret_part_of_a_form_is_redacted() -> None:
    """In a form of several parts, the content of a part with a secret name is redacted, and is not revealed later."""
    redactor = SecretPatternRedactor()
    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\nContent-Type: text/plain\r\n\r\n{}\r\n'
    body = part.format("password", "made-up-value") + part.format("note", "stays") + "--b--"

    assert redactor.redact(body) == body.replace("made-up-value", REDACTED)
    assert redactor.redact("echo made-up-value") == f"echo {REDACTED}"
    assert redactor.redact(part.format("password", "short")) == part.format("password", REDACTED)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (SIGNED, "a signed token"),
        (f"https://host.test/connect.html?token=ctok_{'4e62b869' * 4}&app=slack", "a Connect token"),
        (f"secret: pds_{'a-_9' * 10}", "a client's secret"),
        (f"xoxb-{'1a-' * 7}", "a Slack token"),
        (f"xapp-1-{'A1' * 10}", "a Slack token"),
        (f"ghp_{'a1' * 18}", "a GitHub token"),
        (f"github_pat_{'a_' * 20}", "a GitHub token"),
        (f"AKIA{'A1' * 8}", "an AWS access key"),
        (f"ASIA{'A1' * 8}", "an AWS access key"),
        (f"AIza{'a_-B1' * 7}", "a Google API key"),
        (f"sk_live_{'a1' * 10}", "a Stripe key"),
        (f"rk_test_{'a1' * 10}", "a Stripe key"),
        (f"sk-{'a1' * 16}", "an API key"),
        (f"sk-proj-{'a_' * 16}", "an API key"),
        (f"SG.{'a1' * 8}.{'b-' * 16}", "a SendGrid key"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
    ],
)
def test_a_credential_is_named_by_its_form(text: str, name: str) -> None:
    """The table names the form of each well-known credential, anywhere in a text."""
    assert [known for known, form in CREDENTIAL_FORMS if form.search(f"x {text}")] == [name]


@pytest.mark.parametrize(
    "text",
    [
        f"xoxb-{'1' * 19}",
        f"ghp_{'a' * 35}",
        f"AKIA{'A' * 15}",
        f"AIza{'a' * 34}",
        f"sk_live_{'a' * 19}",
        f"sk-{'a' * 31}",
        f"task-{'a' * 40}",
        f"ctok_{'a' * 19}",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_a_shorter_text_is_not_a_credential(text: str) -> None:
    """A text that is one character too short, or has a word before it, has no known form."""
    assert [known for known, form in CREDENTIAL_FORMS if form.search(f"x {text}")] == []


def test_a_short_value_is_redacted_under_its_name_only() -> None:
    """A value of fewer than eight characters is mostly a word, which occurs elsewhere."""
    redactor = SecretPatternRedactor()

    assert redactor.redact('{"token": "general"}') == '{"token": "{{redacted}}"}'
    assert redactor.redact("in general") == "in general"
    assert redactor.redact('{"token": "generals"}') == '{"token": "{{redacted}}"}'
    assert redactor.redact("of generals") == "of {{redacted}}"


@pytest.mark.parametrize(
    "item",
    [
        "name=token;",
        "name=token\r\na\r\n",
        "name=token\r\n",
        "name=token; filename=a\r\nb: c\r\n\r\n",
        '"token":"',
        '"token":"a',
        '\\"token\\":\\"',
        "token=a&",
        '"token"   ',
        "name=token\t",
    ],
)
def test_the_time_of_redaction_grows_with_the_size(item: str) -> None:
    """Four times the text takes about four times as long, also if its names begin no value."""
    assert_linear(lambda text: SecretPatternRedactor().redact(text), lambda size: item * (size // len(item)))


@pytest.mark.parametrize("form", ["token=abcdefgh{}&", '"token":"abcdefgh{}",'])
def test_many_values_take_linear_time(form: str) -> None:
    """The number of values that are searched again is limited."""
    assert_linear(
        lambda text: SecretPatternRedactor().redact(text),
        lambda size: "".join(form.format(number) for number in range(size // len(form))),
    )


def test_the_latest_values_are_redacted_everywhere() -> None:
    """After many values, the last ones are still redacted under other names, and each value under its own."""
    redactor = SecretPatternRedactor()
    redactor.redact("".join(f"token=abcdefgh{number:04}&" for number in range(1000)))

    assert redactor.redact("shown abcdefgh0999") == f"shown {REDACTED}"
    assert redactor.redact("token=abcdefgh0000") == f"token={REDACTED}"
