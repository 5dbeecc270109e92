"""The redactor replaces secrets in every encoding and in every split of a text, and restores the exact text."""

from __future__ import annotations

import base64
import itertools
import json
import re
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pdkernel.common.redaction import (
    Redactor,
    Secret,
    StreamRedactor,
    find_contained_secrets,
    find_redacted_values,
    iter_encoded_forms,
    mask_values,
)
from pdkernel.model import JSON
from tests.growth import assert_fast, assert_linear

TOKEN = "xoxb-" + "4815162342-made-up-for-tests"
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQ==\n-----END KEY-----\n"
SERVICE_ACCOUNT = json.dumps({"type": "service", "key": PEM, "note": 'he said "ключ"'})
SECRETS = (
    Secret("slack/apn_1/oauth_access_token", TOKEN),
    Secret("google/apn_2/service_account", SERVICE_ACCOUNT),
    Secret("env/PEM", PEM),
    Secret("env/PASSPHRASE", "ключ от дома & ~100%"),
)
ODD = "a ~key('of') &\n\"Ädä\"/+=*! in lines\n"

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "url": lambda value: urllib.parse.quote(value, safe=""),
    "url path": urllib.parse.quote,
    "url form": urllib.parse.quote_plus,
    "json": json.dumps,
    "json, unicode kept": lambda value: json.dumps(value, ensure_ascii=False),
    "json in json": lambda value: json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False),
    "python repr": repr,
    "hex": lambda value: value.encode().hex(),
    "hex, upper case": lambda value: value.encode().hex().upper(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 after one byte": lambda value: base64.b64encode(b"u" + value.encode() + b"!").decode(),
    "base64 after two bytes": lambda value: base64.b64encode(b"u:" + value.encode() + b"!!").decode(),
    "base64url": lambda value: base64.urlsafe_b64encode(b"\xff" + value.encode()).decode(),
    "base64 in rows": lambda value: base64.encodebytes(value.encode()).decode(),
}

secret_texts = st.one_of(
    st.text(st.characters(exclude_characters="⟦⟧", exclude_categories=["Cs"]), min_size=8, max_size=40),
    st.from_regex(r"xoxb-[0-9]{6}-[A-Za-z0-9]{8}", fullmatch=True),
).filter(lambda text: len(text.strip()) >= 8)
secret_lists = st.lists(secret_texts, min_size=1, max_size=4, unique=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def named(values: list[str]) -> list[Secret]:
    """A secret for each of *values*."""
    return [Secret(f"env/S{number}", value) for number, value in enumerate(values)]


def fed(stream: StreamRedactor, text: str, cuts: list[int]) -> str:
    """The output of *stream* for *text* split at *cuts*."""
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    return "".join(map(stream.feed, pieces)) + stream.close()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret.ref)
def test_no_encoding_of_a_secret_survives(secret: Secret, encoding: str) -> None:
    """A secret is redacted in every encoding, and its placeholder is restored to the exact text."""
    redactor = Redactor(SECRETS)
    encoded = ENCODINGS[encoding](secret.value)
    text = f"before {encoded} after"

    hidden = redactor.redact_text(text)

    assert encoded not in hidden
    assert secret.ref in hidden
    assert len(hidden) < len("before  after") + 60 + len(secret.ref)
    assert redactor.restore(hidden) == text
    assert secret.ref in redactor.find_secrets(text)


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("url", "p%C3%A4%20ss~w%28o%29r%27d%21%2A%26%25%2F%2B%3D"),
        ("url-lower", "p%c3%a4%20ss~w%28o%29r%27d%21%2a%26%25%2f%2b%3d"),
        ("url-path", "p%C3%A4%20ss~w%28o%29r%27d%21%2A%26%25/%2B%3D"),
        ("url-component", "p%C3%A4%20ss~w(o)r'd!*%26%25%2F%2B%3D"),
        ("url-query", "p%C3%A4%20ss~w(o)r%27d!*&%/+="),
        ("url-form", "p%C3%A4+ss~w%28o%29r%27d%21%2A%26%25%2F%2B%3D"),
        ("url-params", "p%C3%A4+ss%7Ew%28o%29r%27d%21*%26%25%2F%2B%3D"),
    ],
)
def test_every_spelling_in_a_url_is_found(form: str, written: str) -> None:
    """The whole encoded secret is redacted for Python's `quote` and `quote_plus`, `encodeURIComponent`, `URL`, `URLSearchParams`."""
    redactor = Redactor([Secret("env/S", "pä ss~w(o)r'd!*&%/+=")])

    hidden = redactor.redact_text(f"https://api.test/{written}&x")

    assert hidden == f"https://api.test/⟦secret:env/S|{form}⟧&x"


@pytest.mark.parametrize(("form", "text"), list(iter_encoded_forms(ODD)), ids=lambda part: part.strip()[:16] or "plain")
def test_a_split_encoding_is_redacted(form: str, text: str) -> None:
    """Every encoding of a secret is redacted as a whole when a stream splits it, at any position."""
    redactor = Redactor([Secret("env/S", ODD)])
    whole = redactor.redact_text(text)

    streamed = {fed(redactor.open_stream(), text, [cut]) for cut in range(1, len(text))}

    assert text not in whole, form
    assert whole.startswith("⟦secret:env/S")
    assert streamed == {whole}


@given(st.data(), secret_lists)
def test_a_stream_redacts_like_a_text(data: st.DataObject, values: list[str]) -> None:
    """A stream returns the same as the whole text, without a secret, for every split."""
    redactor = Redactor(named(values))
    encoded = st.builds(
        lambda value, encode: encode(value), st.sampled_from(values), st.sampled_from([*ENCODINGS.values()])
    )
    text = "".join(data.draw(st.lists(encoded | st.text(max_size=8), max_size=6)))

    streamed = fed(redactor.open_stream(), text, data.draw(st.lists(st.integers(0, 500), max_size=8)))

    assert streamed == redactor.redact_text(text)
    assert not redactor.find_secrets(streamed)
    assert not any(value in streamed for value in values)


@given(
    st.lists(st.text("ab", min_size=8, max_size=12), min_size=1, max_size=4, unique=True), st.text("ab", max_size=60)
)
def test_overlapping_secrets_are_redacted(values: list[str], text: str) -> None:
    """Overlapping secrets are redacted and restored, with the same result for every split."""
    redactor = Redactor(named(values))

    hidden = redactor.redact_text(text)

    assert not any(value in hidden for value in values)
    assert redactor.restore(hidden) == text
    assert fed(redactor.open_stream(), text, [*range(61)]) == hidden


@given(st.data(), secret_lists)
def test_restore_reverses_value(data: st.DataObject, values: list[str]) -> None:
    """Redacting and restoring returns the same value, also for a value with text that looks like a placeholder."""
    assume("|literal" not in values)  # placeholders contain it
    redactor = Redactor([*named(values), Secret("env/PIN", "0123"), Secret("env/NUMBER", "1234567890")])
    encoded = st.builds(
        lambda value, encode: encode(value), st.sampled_from(values), st.sampled_from([*ENCODINGS.values()])
    )
    odd = st.sampled_from(
        ["⟦secret:env/S0⟧", "⟦secret:|literal⟧", "⟦secret:", "⟧", 1234567890, "0123", "⟦secret:env/PIN|number⟧"]
    )
    export = {
        data.draw(encoded): data.draw(json_values),
        data.draw(st.text()): [data.draw(encoded), data.draw(odd)],
        "PIN": data.draw(odd),
    }

    hidden = redactor.redact_value(export)

    assert redactor.restore(hidden) == export
    assert not any(value in json.dumps(hidden, ensure_ascii=False) for value in values)


@given(st.text("abcdefghijklmnopqrstuvwxyz \n"))
def test_a_text_without_secrets_is_unchanged(text: str) -> None:
    """A value without a secret does not change."""
    redactor = Redactor([Secret("env/TOKEN", TOKEN)])

    streamed = fed(redactor.open_stream(), text, [3, 5])

    assert redactor.redact_text(text) == text
    assert streamed == text


def test_placeholder_names_the_secret_and_its_form() -> None:
    """A placeholder names the secret and its encoding."""
    redactor = Redactor(SECRETS)

    hidden = redactor.redact_text(f"token={TOKEN} basic {base64.b64encode(b'u:' + TOKEN.encode()).decode()}")

    assert hidden.startswith(
        "token=⟦secret:slack/apn_1/oauth_access_token⟧ basic dTp⟦secret:slack/apn_1/oauth_access_token|base64+2⟧"
    )


def test_redacting_a_text_twice_changes_nothing() -> None:
    """A redacted text does not change when it is redacted again."""
    redactor = Redactor(SECRETS)
    once = redactor.redact_text(f"{TOKEN} {TOKEN.encode().hex()}")

    twice = redactor.redact_text(once)

    assert twice == once


def test_a_forged_placeholder_restores_no_secret() -> None:
    """A placeholder in an event is restored to its own text, not to the secret that it names."""
    redactor = Redactor(SECRETS)
    forged = {"body": "⟦secret:slack/apn_1/oauth_access_token⟧"}

    restored = redactor.restore(redactor.redact_value(forged))

    assert restored == forged


def test_the_longest_secret_wins() -> None:
    """A secret that begins with another secret is redacted as a whole."""
    redactor = Redactor([Secret("env/SHORT", "password"), Secret("env/LONG", "password-of-ada")])

    hidden = redactor.redact_text("password-of-ada, password")

    assert hidden == "⟦secret:env/LONG⟧, ⟦secret:env/SHORT⟧"


def test_the_rest_of_an_overlapping_secret_is_redacted() -> None:
    """No part of two overlapping secrets stays in the text."""
    redactor = Redactor([Secret("env/ONE", "abcdefgh"), Secret("env/TWO", "ghijklmnop")])

    hidden = redactor.redact_text("<abcdefghijklmnop>")

    assert hidden == "<⟦secret:env/ONE⟧⟦secret:env/TWO[2:]⟧>"
    assert redactor.restore(hidden) == "<abcdefghijklmnop>"


def test_short_values_are_redacted_under_their_own_key_only() -> None:
    """A short secret is redacted only under a key with the name of its field."""
    redactor = Redactor([Secret("bank/apn_1/pin", "4711")])

    hidden = redactor.redact_value({"Pin": "4711", "count": "4711", "nested": [{"pin": 4711}]})

    assert hidden == {
        "Pin": "⟦secret:bank/apn_1/pin⟧",
        "count": "4711",
        "nested": [{"pin": "⟦secret:bank/apn_1/pin|number⟧"}],
    }
    assert redactor.redact_text("4711") == "4711"


def test_a_short_secret_with_a_decimal_point_is_redacted_as_a_number() -> None:
    """A short secret that an export has as a number with a decimal point is redacted under its key, and restored."""
    redactor = Redactor([Secret("bank/apn_1/limit", "12.5")])

    hidden = redactor.redact_value({"limit": 12.5, "count": 12.5})

    assert hidden == {"limit": "⟦secret:bank/apn_1/limit|number⟧", "count": 12.5}
    assert redactor.restore(hidden) == {"limit": 12.5, "count": 12.5}


@pytest.mark.parametrize(
    "number", ["12345678", "123456789012345678901234567890", "1.234567e+20", "1.23e+21", "1.23e-07", "-1.25e-300"]
)
def test_a_secret_number_is_redacted_in_every_notation(number: str) -> None:
    """A secret number is redacted in every JSON notation, 1.5e-07 and 1.5e-7, wherever it begins in the text."""
    redactor = Redactor([Secret("env/NUMBER", number)])

    for key in ("a", "ab", "abc", "abcd"):
        assert redactor.redact_value({key: [json.loads(number)]}) == {key: ["⟦secret:env/NUMBER|number⟧"]}


def test_a_number_that_is_a_secret_keeps_its_type() -> None:
    """A secret number in an export is redacted, and restored as a number."""
    redactor = Redactor([Secret("env/CLIENT_NUMBER", "1234567890")])

    hidden = redactor.redact_value({"client": 1234567890})

    assert hidden == {"client": "⟦secret:env/CLIENT_NUMBER|number⟧"}
    assert redactor.restore(hidden) == {"client": 1234567890}


def test_a_value_of_two_secrets_has_the_name_of_the_first() -> None:
    """Of two secrets with one value, long or short, the placeholder names the first."""
    redactor = Redactor(
        [
            Secret("bank/apn_1/pin", "4711"),
            Secret("bank/apn_2/pin", "4711"),
            Secret("env/A", TOKEN),
            Secret("env/B", TOKEN),
        ]
    )

    hidden = redactor.redact_value({"pin": "4711", "text": TOKEN})

    assert hidden == {"pin": "⟦secret:bank/apn_1/pin⟧", "text": "⟦secret:env/A⟧"}
    assert redactor.restore(hidden) == {"pin": "4711", "text": TOKEN}


def test_restore_leaves_foreign_placeholders() -> None:
    """A placeholder of an unknown secret stays."""
    text = "⟦secret:github/apn_9/oauth_access_token⟧"

    restored = Redactor(SECRETS).restore([text])

    assert restored == [text]


def test_a_placeholder_contains_no_secret() -> None:
    """A secret that is part of another secret's name is not in the placeholder."""
    redactor = Redactor([Secret("slack/apn_1234567/token", TOKEN), Secret("env/ACCOUNT", "apn_1234567")])

    hidden = redactor.redact_text(TOKEN)

    assert hidden == "⟦secret:#1⟧"
    assert redactor.restore(hidden) == TOKEN


@pytest.mark.parametrize("length", [8, 9, 10, 33])
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_every_letter_that_base64_makes_of_a_secret_is_redacted(offset: int, length: int) -> None:
    """A letter that stays around the placeholder has a bit of a byte beside the secret."""
    secret = "k7Qz-84fL_1xYw0pRt3Nn6Vb2Hs9Jd5Mc"[:length]
    encoded = base64.b64encode(b"u" * offset + secret.encode() + b"!!!").decode()

    before, _, rest = Redactor([Secret("env/TOKEN", secret)]).redact_text(encoded).partition("⟦")
    after = rest.partition("⟧")[2]

    assert 6 * (len(before) - 1) < 8 * offset
    assert 6 * (len(encoded) - len(after) + 1) > 8 * (offset + length)


def test_two_secrets_of_one_name_are_distinguished() -> None:
    """Two values of one name are both redacted, and each is restored to itself."""
    redactor = Redactor([Secret("env/TOKEN", "first-value"), Secret("env/TOKEN", "second-value")])
    export: JSON = ["first-value", "second-value"]

    hidden = redactor.redact_value(export)

    assert hidden == ["⟦secret:env/TOKEN⟧", "⟦secret:env/TOKEN#2⟧"]
    assert redactor.restore(hidden) == export
    assert redactor.find_secrets("second-value") == ["env/TOKEN"]
    assert redactor.secret_refs == ["env/TOKEN", "env/TOKEN#2"]


def test_each_line_of_a_key_is_redacted() -> None:
    """Every line of a key of several lines is redacted, as Node.js prints a key line by line."""
    redactor = Redactor(SECRETS)
    printed = " +\n".join(f"  '{line}\\n'" for line in PEM.splitlines())

    hidden = redactor.redact_text(printed)

    assert "MIIEvQIBADANBgkqhkiG9w0BAQ" not in hidden
    assert "BEGIN KEY" in hidden
    words = Redactor([Secret("env/TEXT", f"a short line ab\n{'k' * 16}\n")])
    assert words.redact_text(f"a short line ab, {'k' * 16}") == "a short line ab, ⟦secret:env/TEXT|line2⟧"


def test_a_value_read_from_a_file_is_found_without_its_last_newline() -> None:
    """A secret without its surrounding white space is redacted."""
    redactor = Redactor([Secret("env/TOKEN", f"{TOKEN}\n")])

    hidden = redactor.redact_text(f"Bearer {TOKEN}")

    assert hidden == "Bearer ⟦secret:env/TOKEN|trimmed⟧"
    encoded = base64.b64encode(b"u:" + TOKEN.encode() + b"!!").decode()
    assert "⟦secret:env/TOKEN|trimmed-base64+" in redactor.redact_text(f"Basic {encoded}")


def test_a_trimmed_secret_of_eight_characters_is_redacted() -> None:
    """Without its surrounding white space, a secret of `MIN_SECRET_CHARS` characters is still redacted."""
    redactor = Redactor([Secret("env/CODE", "pa$$w0rd\n")])

    assert redactor.redact_text("log in with pa$$w0rd") == "log in with ⟦secret:env/CODE|trimmed⟧"


def test_a_secret_with_a_lone_surrogate_is_redacted() -> None:
    """A secret with a lone surrogate, which JSON may contain, is redacted."""
    redactor = Redactor([Secret("env/TOKEN", "half \ud83d letter")])

    hidden = redactor.redact_value({"text": "a half \ud83d letter, and \ud83d"})

    assert hidden == {"text": "a ⟦secret:env/TOKEN⟧, and \ud83d"}


def test_a_stream_holds_back_only_what_may_become_a_secret() -> None:
    """A stream returns text at once if it cannot be the start of a secret."""
    stream = Redactor(SECRETS).open_stream()

    pieces = [stream.feed("connected\n"), stream.feed("token: xoxb-4"), stream.feed("711\n"), stream.close()]

    assert pieces == ["connected\n", "token: ", "xoxb-4711\n", ""]
    assert Redactor([Secret("env/TOKEN", TOKEN)]).open_stream().feed(f"is {TOKEN}") == "is ⟦secret:env/TOKEN⟧"


def test_no_repr_shows_a_value() -> None:
    """The repr of a secret and of a redactor contains no value."""
    secret = Secret("env/TOKEN", TOKEN)
    redactor = Redactor([secret])

    shown = f"{secret!r} {secret} {redactor!r} {redactor.open_stream()!r}"

    assert TOKEN not in shown
    assert "env/TOKEN" in shown


def test_short_secrets_are_contained_where_they_are_redacted() -> None:
    """A value contains a secret of a few characters if a key names its field."""
    pin, other, long = Secret("slack/apn_1/pin", "1234"), Secret("slack/apn_1/code", "1234"), SECRETS[0]

    found = find_contained_secrets([pin, other, long], {"items": [{"pin": 1234}], "text": f"1234 {long.value}"})

    assert found == (pin, long)


def test_a_forged_placeholder_of_a_run_without_secrets_restores_none() -> None:
    """What a run without secrets has exported is text for a later run, which may have the secret that it names."""
    forged = {"body": "⟦secret:slack/apn_1/oauth_access_token⟧"}

    restored = Redactor(SECRETS).restore(Redactor().redact_value(forged))

    assert restored == forged


def test_without_secrets_nothing_is_done() -> None:
    """A redactor without secrets returns the same objects."""
    redactor = Redactor()
    export: dict[str, JSON] = {"text": "⟦env/TOKEN⟧"}

    assert redactor.redact_value(export) is export
    assert redactor.restore(export) == export
    assert redactor.open_stream().feed("text") == "text"
    assert redactor.find_secrets("text") == []


def test_redacted_values_are_found_again() -> None:
    """Whatever a record of a value hides is found in the value, also inside of texts, in several lines and as a number."""
    secrets = (
        Secret("slack/apn_1/token", TOKEN),
        Secret("env/NUMBER", "1234567890"),
        Secret("env/PIN", "1234"),
        Secret("env/PEM", PEM),
    )
    value: JSON = {
        "a": f"Bearer {TOKEN}!",
        "b": [{"pin": "1234"}, 1234567890, "plain"],
        "c": "⟦secret:made-up⟧",
        "d": f"key: {PEM} end",
    }
    found = find_redacted_values(value, Redactor(secrets).redact_value(value))

    assert set(found) == set(secrets)
    assert TOKEN not in json.dumps(Redactor(found).redact_value(value))
    assert find_redacted_values(value, value) == []


def test_a_value_that_does_not_fit_hides_nothing() -> None:
    """A record of another value, such as one that was edited since, has no values to find."""
    shown = Redactor([Secret("env/TOKEN", TOKEN)]).redact_value({"a": f"x {TOKEN} y", "b": TOKEN})

    assert find_redacted_values({"a": "other", "c": 1}, shown) == []


def test_values_of_a_message_are_masked() -> None:
    """A message has `***` for each value of four or more characters, and for an encoding of a longer one."""
    text = "abc abcd a-longer-one YS1sb25nZXItb25l"

    assert mask_values(text, ["abc", "abcd", "a-longer-one"]) == "abc *** *** ***"


@pytest.mark.parametrize(
    "item", ["k" * 99 + "-", "k" * 50 + "-", "k", "-" + "k" * 8, "a2tra2tr", "%6B", "shh-42-secret"]
)
def test_the_time_of_redaction_grows_with_the_size(item: str) -> None:
    """Four times the text takes about four times as long, also if it is full of beginnings of secrets."""
    redactor = Redactor([Secret("app/apn_1/key", "k" * 100), Secret("env/WORD", "shh-42-secret")])

    assert_linear(redactor.redact_text, lambda size: item * (size // len(item)))


def test_a_text_of_beginnings_is_searched_fast() -> None:
    """A megabyte of beginnings of a secret takes a fraction of a second: each pattern is searched in C."""
    redactor = Redactor([Secret("app/apn_1/key", "k" * 100)])

    assert_fast(redactor.redact_text, ("k" * 99 + "-") * 10_000, 0.5)


LONG_SECRETS = ["k" * 16_384, "k-" * 8192, "k" * 15_000 + "x", "x" + "k" * 15_000, "k" * 8000 + "x" + "k" * 8000]


@pytest.mark.parametrize(
    "encode", [str, lambda text: base64.b64encode(text.encode()).decode()], ids=["plain", "base64"]
)
@pytest.mark.parametrize(
    ("value", "item"),
    list(zip(LONG_SECRETS, ["k", "k-", "k", "k" * 8000 + "x", "k" * 8000 + "x"], strict=True)),
    ids=lambda part: f"{part[:2]}{len(part)}{part[-2:]}",
)
def test_a_periodic_secret_is_redacted_fast(value: str, item: str, encode: Callable[[str], str]) -> None:
    """A megabyte that repeats a part of a periodic secret takes a fraction of a second, as a whole and in chunks."""
    redactor = Redactor([Secret("app/apn_1/key", value)])
    text = encode(item * ((1 << 20) // len(item)))
    cuts = [*range(0, len(text), 65_536)]

    assert_fast(redactor.redact_text, text, 0.5)
    assert_fast(lambda each: fed(redactor.open_stream(), each, cuts), text, 1)


def test_secrets_that_overlap_themselves_are_redacted_to_the_end() -> None:
    """No rest of a text that repeats a secret stays, and of several overlapping secrets the furthest are named."""
    redactor = Redactor([Secret("env/ONE", "abababab"), Secret("env/TWO", "babababababa")])

    hidden = redactor.redact_text(f"<{'ab' * 10}>")

    assert hidden == "<⟦secret:env/ONE⟧⟦secret:env/TWO[1:]⟧⟦secret:env/ONE[7:]⟧>"
    assert redactor.restore(hidden) == f"<{'ab' * 10}>"


@given(
    st.lists(
        st.builds(lambda text, count: text * count, st.text("ab", min_size=1, max_size=4), st.integers(8, 12)),
        max_size=3,
    ),
    st.lists(
        st.builds(lambda text, count: text * count, st.text("abc", min_size=1, max_size=4), st.integers(1, 20)),
        max_size=6,
    ),
    st.lists(st.integers(0, 300), max_size=12),
)
@example(values=["a" * 8], parts=["a" * 10], cuts=[8])
def test_periodic_secrets_are_redacted(values: list[str], parts: list[str], cuts: list[int]) -> None:
    """Each character of each occurrence of a periodic secret is redacted, with the same result for every split."""
    redactor = Redactor(named(values))
    text = "".join(parts)
    covered = {
        position
        for value in values
        for start in range(len(text))
        if text.startswith(value, start)
        for position in range(start, start + len(value))
    }

    hidden = redactor.redact_text(text)

    assert "".join(re.split("⟦[^⟧]*⟧", hidden)) == "".join(char for at, char in enumerate(text) if at not in covered)
    assert redactor.restore(hidden) == text
    assert fed(redactor.open_stream(), text, cuts) == hidden


@pytest.mark.parametrize("first", ["\ud800", "⟦secret:", 2**70], ids=["surrogate", "placeholder", "integer"])
def test_numbers_of_a_value_are_skipped_fast(first: JSON) -> None:
    """A million numbers beside a text that is redacted, or that has half of a character, take a fraction of a second."""
    redactor = Redactor([Secret("env/TOKEN", TOKEN)])
    value: JSON = [first, *[1] * 1_000_000]

    assert_fast(redactor.redact_value, value, 0.5)
    assert redactor.restore(redactor.redact_value(value)) == value


@pytest.mark.parametrize("secrets", [[], [Secret("env/TOKEN", TOKEN)]], ids=["no secret", "a secret"])
@pytest.mark.parametrize(
    "value",
    [
        "⟦secret:" * 3,
        ["⟦secret:a⟧", [], {"⟦secret:": {"x": "⟦⟦secret:|literal⟧"}}],
        ["⟦secret:", 2**70, 1e300, -0.0, 1.5e20, True, None],
        ["⟦secret:", "\ud800", '"\\\n\x00', "\U0001f600"],
    ],
    ids=["text", "keys", "numbers", "characters"],
)
def test_texts_like_placeholders_are_escaped_as_in_single_texts(secrets: list[Secret], value: JSON) -> None:
    """A value without a secret is escaped as each of its texts is, and restored to an equal value."""
    redactor = Redactor(secrets)

    redacted = redactor.redact_value(value)

    assert repr(redacted) == repr(Redactor([*secrets, Secret("a/b", "short")]).redact_value(value))
    assert repr(redactor.restore(redacted)) == repr(value)


@pytest.mark.parametrize("unit", ["⟦secret:", "⟦secret:a⟧", "⟦"], ids=["starts", "placeholders", "brackets"])
@pytest.mark.parametrize("secrets", [[], [Secret("env/TOKEN", TOKEN)]], ids=["no secret", "a secret"])
def test_the_time_of_texts_like_placeholders_grows_linearly(unit: str, secrets: list[Secret]) -> None:
    """A text, or many texts, of the starts of placeholders take a time that grows with the size."""
    redactor = Redactor(secrets)

    assert_linear(redactor.redact_value, lambda size: unit * size)
    assert_linear(redactor.redact_value, lambda size: [[unit] for _ in range(size)])
