"""The Slack stand-in: what a step gets, and what the user would have received."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from pdkernel.egress import Gateway, ReceivedRequest, SlackStandIn
from tests.egress.kit import TOKEN, ClientProcess, Ledger, OutsideServer

POST = "https://slack.com/api/chat.postMessage"
AUTH = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json; charset=utf-8"}


def received(body: object, **headers: str) -> ReceivedRequest:
    """A call of chat.postMessage with a token."""
    text = body if isinstance(body, str) else json.dumps(body)
    kept = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"} | headers
    return ReceivedRequest("POST", "slack.com", "/api/chat.postMessage", headers=kept, body=text.encode())


def test_a_message_is_answered_as_slack_does(node: ClientProcess, gateway: Gateway, ledger: Ledger) -> None:
    """A posted message gets channel, time stamp and message; the ledger shows what the user would have read."""
    node.bind(ledger.binding("stand-in=slack"))
    body = json.dumps({"channel": "#general", "text": "New issue: it is broken"})

    got = node.request("fetch", "POST", POST, body, AUTH).json()

    assert got["ok"] is True
    assert got["message"]["text"] == "New issue: it is broken"
    assert got["channel"].startswith("C")
    assert ledger.calls[0].note == 'Slack message to #general: "New issue: it is broken"'
    assert (ledger.calls[0].outcome, ledger.calls[0].app) == ("stand_in", "slack")


def test_the_token_arrives_and_is_written_nowhere(
    python: ClientProcess, gateway: Gateway, ledger: Ledger, outside: OutsideServer
) -> None:
    """The stand-in receives the user's token; the ledger never holds it, not even when the text does."""
    python.bind(ledger.binding("stand-in=slack"))
    python.request("requests", "POST", POST, json.dumps({"channel": "general", "text": f"my {TOKEN}"}), AUTH)
    slack = gateway.stand_ins["slack"]

    assert slack.received[-1].token == TOKEN
    assert TOKEN not in repr(ledger.calls)
    assert TOKEN not in repr(slack.received)
    assert outside.seen == []


def test_a_form_is_read_like_json() -> None:
    """The arguments may come as a form, with blocks as JSON text."""
    form = urlencode({"channel": "C0123456789", "blocks": json.dumps([{"type": "section", "text": {"text": "Hi"}}])})

    answer = SlackStandIn().answer(received(form, **{"content-type": "application/x-www-form-urlencoded"}))

    assert isinstance(answer.body, dict)
    assert answer.body["channel"] == "C0123456789"
    assert answer.note == 'Slack message to C0123456789: "Hi"'


@pytest.mark.parametrize(
    ("body", "headers", "error"),
    [
        ({"channel": "#general", "text": "Hi"}, {"authorization": ""}, "not_authed"),
        ({"text": "Hi"}, {}, "channel_not_found"),
        ({"channel": "#general"}, {}, "no_text"),
        ("not json", {}, "channel_not_found"),
    ],
)
def test_an_incomplete_call_gets_slacks_error(body: object, headers: dict[str, str], error: str) -> None:
    """What Slack refuses with `ok: false`, the stand-in refuses with the same word."""
    answer = SlackStandIn().answer(received(body, **headers))

    assert (answer.status, answer.body) == (200, {"ok": False, "error": error})


def test_the_same_message_gets_the_same_answer() -> None:
    """Ids and time stamps follow from the request, so that saved outputs stay the same."""
    call = received({"channel": "#general", "text": "Hi"})

    assert SlackStandIn().answer(call) == SlackStandIn().answer(call)


def test_two_messages_get_two_time_stamps() -> None:
    """Another text has another time stamp."""
    slack = SlackStandIn()

    one, two = (slack.answer(received({"channel": "#general", "text": text})).body for text in ("Hi", "Ho"))

    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert one["ts"] != two["ts"]


def test_auth_test_answers() -> None:
    """`auth.test` says who the stand-in is."""
    call = ReceivedRequest("GET", "slack.com", "/api/auth.test", headers={"authorization": "Bearer x"})

    body = SlackStandIn().answer(call).body

    assert isinstance(body, dict)
    assert (body["ok"], body["team"]) == (True, "Stand-in")


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", "https://slack.com/api/chat.delete"),
        ("GET", "https://slack.com/api/chat.postMessage"),
        ("POST", "https://slack.com/chat.postMessage"),
        ("POST", "https://api.example.test/api/chat.postMessage"),
        ("POST", "https://notslack.com/api/chat.postMessage"),
    ],
)
def test_what_it_does_not_know_is_404(python: ClientProcess, ledger: Ledger, method: str, url: str) -> None:
    """Another method, path or host is never answered with ok."""
    python.bind(ledger.binding("stand-in=slack"))

    got = python.request("requests", method, url, None, AUTH)

    assert got.status == 404
    assert got.json() == {"ok": False, "error": "unknown_method"}
    assert "not known to the Slack stand-in" in (ledger.calls[0].note or "")
