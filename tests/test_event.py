"""Events: the library of events, events of schedules, and numbers in the JSON of an event."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import EventError
from pdkernel.event import EVENT_KEYS, Event, parse_json
from tests.growth import assert_linear

FOLDER = Path(__file__).parents[1] / "notebooks" / "events"
INVENTED = [FOLDER / "report.json", FOLDER / "report-question.json"]
FILES = sorted(set(FOLDER.glob("*.json")) - set(INVENTED))


def test_the_library() -> None:
    """The library has an opened issue, a push and two pull requests of GitHub, one of them large."""
    assert [path.name for path in FILES] == [
        "issues-opened.json",
        "pull-request-labeled.json",
        "pull-request-opened.json",
        "push.json",
    ]


@pytest.mark.parametrize("path", INVENTED, ids=lambda path: path.stem)
def test_an_invented_event_has_known_keys(path: Path) -> None:
    """An invented event has keys of an event only, and names no external user."""
    event = Event.parse(path.read_bytes(), label=path.name)

    assert set(event.data) <= set(EVENT_KEYS)
    assert not [name for name in event.headers if name.startswith("x-pd-")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_is_a_complete_event(path: Path) -> None:
    """Each file has exactly the keys of an event and GitHub's headers, and names no external user."""
    event = Event.parse(path.read_bytes(), label=path.name)

    assert tuple(event.data) == EVENT_KEYS
    assert event.data["method"] == "POST"
    assert (event.header("User-Agent") or "").startswith("GitHub-Hookshot/")
    assert event.header("X-GitHub-Event") in ("issues", "push", "pull_request")
    assert len(event.header("X-GitHub-Delivery") or "") == 36
    assert not [name for name in event.headers if name.startswith("x-pd-")]
    assert event.with_masked_headers() == event


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_readme_describes_each_event(path: Path) -> None:
    """The README of the library describes each event."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")

    assert f"`{path.name}`" in page


@pytest.mark.parametrize("name", ["issues-opened.json", "LICENSE"])
def test_the_package_has_the_same_event(name: str) -> None:
    """The installed package contains the library's event for new notebooks, with its licence."""
    packaged = resources.files("pdkernel.cli") / "templates" / "events" / name

    assert packaged.read_bytes() == (FOLDER / name).read_bytes()


def test_the_events_can_be_generated(tmp_path: Path) -> None:
    """The script writes the four files from the index of the source package, with unchanged payloads."""
    bodies = {path.name: Event.parse(path.read_bytes()).data["body"] for path in FILES}
    pulls = [bodies["pull-request-opened.json"], bodies["pull-request-labeled.json"]]
    index: list[dict[str, Any]] = [
        {"name": "issues", "examples": [{"action": "edited"}, bodies["issues-opened.json"]]},
        {"name": "push", "examples": [{"commits": []}, bodies["push.json"]]},
        {"name": "pull_request", "examples": pulls},
    ]
    (tmp_path / "index.json").write_text(json.dumps(index), encoding="utf-8")
    script = tmp_path / "make.py"
    script.write_bytes((FOLDER / "make.py").read_bytes())

    subprocess.run([sys.executable, script, tmp_path / "index.json"], check=True)

    for path in FILES:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_event_of_a_schedule() -> None:
    """A schedule's event has the time stamp, the schedule's settings, and the time in its zone and in UTC."""
    event = Event.from_schedule(
        {"id": "ti_1", "cron": "0 9 * * *", "timezone": "Europe/Berlin"}, datetime(2026, 3, 2, 23, 30, tzinfo=UTC)
    )

    assert not event.is_http
    assert event.data == {
        "cron": "0 9 * * *",
        "timestamp": 1772494200,
        "timezone_configured": {"iso8601": {"timestamp": "2026-03-03T00:30:00.000+01:00", "date": "2026-03-03"}},
        "timezone_utc": {"iso8601": {"timestamp": "2026-03-02T23:30:00.000+00:00", "date": "2026-03-02"}},
    }


def test_time_zone_that_does_not_exist() -> None:
    """A schedule with an unknown time zone is refused by name."""
    with pytest.raises(EventError, match="time zone 'Mars/Olympus' does not exist"):
        Event.from_schedule({"timezone": "Mars/Olympus"}, datetime(2026, 3, 2, tzinfo=UTC))


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", ["1e400", "-1E+999", "9" * 400 + ".5", "9" * 210 + "e99"])
def test_a_number_beyond_every_double_is_refused(number: str) -> None:
    """A number that every language reads as Infinity is refused with its position."""
    with pytest.raises(EventError, match="is not a JSON value at line 2, column 7"):
        parse_json(f'{{\n "a": {number}}}')


def test_the_position_of_a_word_that_is_not_json() -> None:
    """The position in the message is that of the word, also if a text before it has the same word."""
    with pytest.raises(EventError, match="NaN is not a JSON value at line 2, column 21"):
        parse_json('{"NaN": 1,\n "a": "\\"NaN", "b": NaN}')


def test_large_numbers_are_read() -> None:
    """The largest double and whole numbers of any length are numbers."""
    assert parse_json(f"[1.7976931348623157e308, 1e-400, {'9' * 400}]") == [1.7976931348623157e308, 0.0, int("9" * 400)]


@pytest.mark.parametrize("number", ["9" * 4301, "-" + "9" * 400_000])
def test_a_whole_number_beyond_pythons_limit_is_refused(number: str) -> None:
    """A whole number with more digits than Python converts is refused with its position; the message shortens the number."""
    with pytest.raises(EventError, match="is too long at line 2, column 7") as caught:
        parse_json(f'{{\n "a": {number}}}')

    assert len(str(caught.value)) < 200


def test_a_long_number_that_is_refused_is_not_repeated_in_full() -> None:
    """The message shows only the beginning of a refused number."""
    with pytest.raises(EventError) as caught:
        parse_json("9" * 400 + ".5")

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": "\xff"}', r"^the file is not JSON: it is not UTF-8 text \(byte 8\)\.$"),
        ("[" * 100_000, r"^the file is nested too deeply\.$"),
    ],
)
def test_a_text_that_cannot_be_decoded(text: str | bytes, message: str) -> None:
    """Bytes that are not UTF-8, and a value that is nested too deeply, are refused with the reason."""
    with pytest.raises(EventError, match=message):
        parse_json(text, label="the file")


def test_identity_headers_are_read_without_blanks() -> None:
    """Blanks around the values of the headers that name the external user and the environment are not part of them."""
    event = Event({"headers": {"X-PD-External-User-ID": " ada ", "x-pd-environment": " production\t"}})

    assert (event.external_user_id, event.environment) == ("ada", "production")


def test_an_identity_replaces_headers_of_any_case() -> None:
    """One header of each name is left, and None leaves a header as it is."""
    event = Event({"headers": {"X-PD-External-User-ID": "ada", "X-Pd-Environment": "production", "X-Other": "1"}})

    assert event.with_identity("grace", None).headers == {
        "X-Pd-Environment": "production",
        "X-Other": "1",
        "x-pd-external-user-id": "grace",
    }
    assert event.with_identity(None, "development").headers == {
        "X-PD-External-User-ID": "ada",
        "X-Other": "1",
        "x-pd-environment": "development",
    }


def test_an_event_that_is_not_a_request_has_no_identity() -> None:
    """The event of a schedule or a source gets no headers."""
    event = Event({"cron": "0 9 * * *"}, is_http=False)

    assert event.with_identity("ada", "production").data == {"cron": "0 9 * * *"}


def test_secrets_of_headers() -> None:
    """A secret header's value is a secret without its scheme, unless it is empty or masked already."""
    event = Event(
        {"headers": {"Authorization": "Bearer abc123", "x-api-key": "***", "cookie": " ", "content-type": "text/plain"}}
    )

    assert event.header_secrets() == {"authorization": "abc123"}


def test_a_word_like_a_scheme_inside_a_secret_is_part_of_it() -> None:
    """Only the beginning of a header's value is a scheme."""
    event = Event({"headers": {"cookie": "token a; basic b", "authorization": "  Basic   c"}})

    assert event.header_secrets() == {"cookie": "a; basic b", "authorization": "c"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"orders": [1], "total": 2}, "it has 'orders', 'total'"),
        ([1], "it is a list"),
        (None, "it is null"),
        ({"body": 1, "headers": ["a"]}, "its headers are a list"),
    ],
)
def test_a_value_that_is_not_an_event(value: Any, message: str) -> None:
    """A payload is refused with its keys or its type; an object with one key of an event is an event, whatever else it has."""
    with pytest.raises(EventError, match=f"^the file is not an event: {message}"):
        Event.from_value(value, label="the file")

    assert Event.from_value({"body": 1, "more": 2}).data == {"body": 1, "more": 2}


@pytest.mark.parametrize("item", ["9", '"\\"",', "{},", "1e999,", "NaN,", "9" * 209 + ",", '"NaN",', "[", '"\\ud800",'])
def test_the_time_of_parsing_grows_with_the_size(item: str) -> None:
    """Four times the text takes about four times as long, also to find the position of an error."""

    def parse(text: str) -> None:
        with suppress(EventError):
            parse_json(text)

    assert_linear(parse, lambda size: "[" + item * (size // len(item)) + "NaN]")
