"""Values of records as text: durations, accounts, calls, deliveries, responses, and truncated texts."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from pdkernel.execution import AccountUse, Delivery, OutboundCall, Response
from pdkernel.render import formatting


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0.0 ms"),
        (99.94, "99.9 ms"),
        (100, "100 ms"),
        (999.4, "999 ms"),
        (1000, "1.00 s"),
        (59_990, "59.99 s"),
        (60_000, "1 min 0 s"),
        (119_600, "2 min 0 s"),
        (3_661_000, "61 min 1 s"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    """Each duration has the unit that suits it."""
    assert formatting.format_duration(milliseconds) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(7, "7 ms"), (999, "999 ms"), (1500, "1.50 s"), (3_720_000, "1 h 2 min"), (273_600_000, "3 d 4 h")],
)
def test_durations_of_runs(milliseconds: float, text: str) -> None:
    """A run is as long as its pauses, so it has hours and days, too."""
    assert formatting.format_run_duration(milliseconds) == text


def test_times() -> None:
    """Times are in UTC; a text that is not a time stays."""
    iso = "2026-11-24T10:32:05.123Z"

    assert formatting.format_timestamp(iso) == "2026-11-24 10:32:05 UTC"
    assert [formatting.format_hour_minute(each) for each in (iso, "earlier")] == ["10:32", "earlier"]


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (AccountUse("slack", "slack", "apn_1", "external_user"), "Slack apn_1 (external user's)"),
        (AccountUse("chat", "slack", "apn_1", "own"), "chat: Slack apn_1 (your own)"),
    ],
)
def test_accounts(use: AccountUse, text: str) -> None:
    """A prop with another name than its app is named."""
    assert formatting.format_account(use) == text


@pytest.mark.parametrize(
    ("outcome", "same_as", "text", "tone", "response"),
    [
        ("sent", None, "", "warn", "200, 2.0 ms"),
        ("not_sent", "2026-11-24T10:32:05.123Z", "NOT SENT AGAIN: answer of 10:32", "warn", "stored 200"),
        ("not_sent", None, "NOT SENT AGAIN: earlier answer", "warn", "stored 200"),
        ("stand_in", None, "STAND-IN answered, nothing was sent", "busy", "200, 2.0 ms"),
        ("replayed", None, "NOT SENT: answered from recorded calls", "warn", "stored 200"),
        ("denied", None, "DENIED", "bad", "200, 2.0 ms"),
        ("failed", None, "FAILED", "bad", "200, 2.0 ms"),
    ],
)
def test_outbound_calls(outcome: Any, same_as: str | None, text: str, tone: str, response: str) -> None:
    """Each outcome has its words and tone; the response of a call that was not sent is the stored one."""
    call = OutboundCall("GET", "https://a/", 200, 2.0, safe=True, outcome=outcome, same_as=same_as)

    assert formatting.format_outcome(call) == text
    assert formatting.select_outcome_tone(call) == tone
    assert formatting.format_call_response(call) == response


def test_a_call_without_a_response() -> None:
    """A missing status is named."""
    call = OutboundCall("GET", "https://a/", None, 2.0, safe=True, outcome="failed")

    assert formatting.format_call_response(call) == "no response, 2.0 ms"


def test_a_call_whose_answer_was_not_seen() -> None:
    """The attempt that sent it is named; if that attempt was interrupted, its duration is not known."""
    timed_out = OutboundCall("POST", "https://a/", None, 2.0, safe=False, outcome="failed", attempt=2)
    interrupted = replace(timed_out, duration_ms=0.0)

    assert formatting.format_outcome(timed_out) == "UNKNOWN, attempt 2"
    assert formatting.select_outcome_tone(timed_out) == "bad"
    assert [formatting.format_call_response(call) for call in (timed_out, interrupted)] == [
        "no response, 2.0 ms",
        "no response",
    ]


@pytest.mark.parametrize(
    ("delivery", "text"),
    [
        (Delivery("a", "http", "sent", "POST https://a/", status=200), "HTTP request POST https://a/: status 200"),
        (Delivery("a", "http", "sent", "POST https://a/", status=500, note="Failed"), "HTTP request POST https://a/: status 500. Failed"),
        (Delivery("a", "email", "sent", "me@a", note="Queued"), "e-mail to me@a: Queued"),
        (Delivery("a", "emit", "sent", ""), "event"),
        (Delivery("a", "s3", "sent", "bucket"), "S3 object to bucket"),
        (Delivery("a", "sse", "sent", "channel"), "server-sent event to channel"),
    ],
)  # fmt: skip
def test_deliveries(delivery: Delivery, text: str) -> None:
    """A delivery has its kind, target, status and note, as far as it has them."""
    assert formatting.format_delivery(delivery) == text


@pytest.mark.parametrize(
    ("response", "refused", "text"),
    [
        (None, False, "200, the default response"),
        (None, True, "200, the default response, sent at once: the caller does not see the refusal"),
        (Response(201, {}, "ok"), False, "201, sent by the workflow"),
        (Response(400, {}, "ok"), True, "400, because the workflow sent no response"),
        (Response(400, {}, "No $.respond called in the workflow"), False, "400, because the workflow sent no response"),
        (Response(400, {}, "Pipedream Connect Error: x"), False, "400, because the workflow sent no response"),
        (Response(200, {}, {"a": 1}), False, "200, sent by the workflow"),
    ],
)
def test_responses(response: Response | None, refused: bool, text: str) -> None:
    """A response has its status and its sender."""
    assert formatting.format_response(response, refused=refused) == text


@pytest.mark.parametrize(
    ("text", "lines", "characters", "shown"),
    [
        ("a\nb", 2, 3, "a\nb"),
        ("a\nb\nc", 2, 5, "a\nb… 2 characters more not shown"),
        ("a\nb\nc\nd", 2, 7, "a\nb\n… 2 lines more not shown"),
        ("abcd", 2, 3, "abc… 1 character more not shown"),
        ("abcd", 2, 4, "abcd"),
    ],
)
def test_truncated_texts(text: str, lines: int, characters: int, shown: str) -> None:
    """A truncated text ends with the length of the hidden part."""
    assert formatting.truncate_text(text, max_lines=lines, max_characters=characters) == shown


def test_json() -> None:
    """JSON is indented and keeps letters; of a very large value only the beginning is encoded."""
    large = ["x" * 10] * 10_000

    assert formatting.format_json({"é": [1]}) == '{\n  "é": [\n    1\n  ]\n}'
    assert formatting.format_json_line({"é": [1]}) == '{"é": [1]}'
    assert formatting.format_json(large, max_lines=3, max_characters=40) == (
        '[\n  "xxxxxxxxxx",\n  "xxxxxxxxxx",\n… the rest of 130,001 bytes not shown'
    )
    assert (formatting.MAX_LINES, formatting.MAX_CHARACTERS) == (40, 4000)


@pytest.mark.parametrize(("count", "shown"), [(4, 4), (5, 4), (40, 4), (3, 3)])
def test_the_middle_of_many_lines(count: int, shown: int) -> None:
    """More than one hidden line is replaced by the number of hidden lines."""
    lines = [str(number) for number in range(count)]

    found = formatting.elide_middle(lines, head=1, tail=2)

    if count <= 4:
        assert found == lines
    else:
        assert found == ["0", f"… {count - 3} lines not shown …", *lines[-2:]]
    assert len(found) == shown


@pytest.mark.parametrize(
    ("text", "width", "line"),
    [("a  b\nc", 5, "a b c"), ("abcdef", 6, "abcdef"), ("abcdefg", 6, "abcde…"), ("ab", 0, "…")],
)
def test_one_line(text: str, width: int, line: str) -> None:
    """A line has no line breaks, and at most the given columns."""
    assert formatting.truncate_line(text, width) == line


def test_lists() -> None:
    """Names are joined as in a sentence."""
    assert [formatting.format_list(list(names)) for names in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]  # fmt: skip
