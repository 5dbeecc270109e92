"""The Slack stand-in: the response for a step, and the note for the user."""

from __future__ import annotations

import json
from typing import Any
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
    """The response has channel, time stamp and message; the ledger shows the text for the receiver."""
    node.bind(ledger.binding("stand-in=slack"))
    body = json.dumps({"channel": "#general", "text": "New issue: it is broken"})

    got = node.request("fetch", "POST", POST, body, AUTH).json()

    assert got["ok"] is True
    assert got["message"]["text"] == "New issue: it is broken"
    assert got["channel"].startswith("C")
    assert ledger.calls[0].note == 'Slack message to #general: "New issue: it is broken"'
    assert (ledger.calls[0].outcome, ledger.calls[0].app) == ("stand_in", "slack")


def test_the_token_is_not_in_the_ledger(
    python: ClientProcess, gateway: Gateway, ledger: Ledger, outside: OutsideServer
) -> None:
    """The stand-in receives the user's token; the ledger does not contain the token, also if the text does."""
    python.bind(ledger.binding("stand-in=slack"))
    python.request("requests", "POST", POST, json.dumps({"channel": "general", "text": f"my {TOKEN}"}), AUTH)
    slack = gateway.stand_ins["slack"]

    assert slack.received[-1].token == TOKEN
    assert TOKEN not in repr(ledger.calls)
    assert TOKEN not in repr(slack.received)
    assert outside.seen == []


def test_a_form_is_read_like_json() -> None:
    """The arguments may be a form, with blocks as JSON text."""
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
    """The response is `ok: false` with Slack's error code."""
    answer = SlackStandIn().answer(received(body, **headers))

    assert (answer.status, answer.body) == (200, {"ok": False, "error": error})


def test_the_same_message_gets_the_same_response() -> None:
    """Ids and time stamps depend only on the request, so that saved outputs stay the same."""
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
    """`auth.test` returns the stand-in's identity."""
    call = ReceivedRequest("GET", "slack.com", "/api/auth.test", headers={"authorization": "Bearer x"})

    body = SlackStandIn().answer(call).body

    assert isinstance(body, dict)
    assert (body["ok"], body["team"]) == (True, "Stand-in")


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("PUT", "https://slack.com/api/chat.postMessage"),
        ("POST", "https://slack.com/chat.postMessage"),
        ("POST", "https://api.example.test/api/chat.postMessage"),
        ("POST", "https://notslack.com/api/chat.postMessage"),
    ],
)
def test_an_unknown_target_is_404(python: ClientProcess, ledger: Ledger, method: str, url: str) -> None:
    """Another verb, path or host does not get an `ok` response."""
    python.bind(ledger.binding("stand-in=slack"))

    got = python.request("requests", method, url, None, AUTH)

    assert got.status == 404
    assert got.json()["ok"] is False
    assert "not supported by the Slack stand-in" in (ledger.calls[0].note or "")


def test_an_unknown_method_is_refused_as_slack_does(python: ClientProcess, ledger: Ledger) -> None:
    """An unknown method has status 200 and an error, so clients do not retry."""
    python.bind(ledger.binding("stand-in=slack"))

    got = python.request("requests", "POST", "https://slack.com/api/chat.shout", None, AUTH)

    assert got.status == 200
    assert got.json() == {"ok": False, "error": "unknown_method", "req_method": "chat.shout"}
    assert "not supported by the Slack stand-in" in (ledger.calls[0].note or "")


def call(slack: SlackStandIn, method: str, **arguments: Any) -> Any:
    """The response to a call with a token, as a form."""
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/x-www-form-urlencoded"}
    body = urlencode(arguments).encode()
    answer = slack.answer(ReceivedRequest("POST", "slack.com", f"/api/{method}", headers=headers, body=body))
    assert answer.status == 200
    return answer.body


def test_a_message_to_a_name_is_in_the_channel_of_that_name() -> None:
    """The id in the response finds the named channel."""
    slack = SlackStandIn()
    posted = call(slack, "chat.postMessage", channel="#ops", text="Hi")

    channel = call(slack, "conversations.info", channel=posted["channel"])["channel"]

    assert (channel["id"], channel["name"], channel["is_im"]) == (posted["channel"], "ops", False)


def test_a_message_to_a_user_opens_a_direct_conversation() -> None:
    """As on Slack, the response names the conversation, which names the user."""
    slack = SlackStandIn()
    posted = call(slack, "chat.postMessage", channel="U0123456789", text="Hi")

    channel = call(slack, "conversations.info", channel=posted["channel"])["channel"]
    profile = call(slack, "users.profile.get", user=channel["user"])["profile"]

    assert posted["channel"].startswith("D")
    assert (channel["is_im"], channel["user"], profile["real_name"]) == (True, "U0123456789", "u0123456789")


def test_a_changed_message_is_found_with_its_new_text() -> None:
    """`search.messages` finds the text of `chat.update`; the page after the last is empty."""
    slack = SlackStandIn()
    posted = call(slack, "chat.postMessage", channel="#ops", text="deploy started")
    updated = call(slack, "chat.update", channel=posted["channel"], ts=posted["ts"], text="deploy done")

    found = call(slack, "search.messages", query="deploy done")["messages"]

    assert (updated["ts"], updated["text"]) == (posted["ts"], "deploy done")
    assert [(match["text"], match["channel"]["name"]) for match in found["matches"]] == [("deploy done", "ops")]
    assert call(slack, "search.messages", query="started")["messages"]["total"] == 0
    assert call(slack, "search.messages", query="deploy", page=2)["messages"]["matches"] == []


def test_a_reply_is_in_its_thread_and_not_in_the_channel() -> None:
    """`conversations.replies` returns the thread, `conversations.history` its first message."""
    slack = SlackStandIn()
    first = call(slack, "chat.postMessage", channel="#ops", text="one")
    call(slack, "chat.postMessage", channel="#ops", text="two", thread_ts=first["ts"])

    thread = call(slack, "conversations.replies", channel=first["channel"], ts=first["ts"])["messages"]
    top = call(slack, "conversations.history", channel=first["channel"])["messages"]

    assert [each["text"] for each in thread] == ["one", "two"]
    assert [each["text"] for each in top] == ["one"]


def test_channels_are_listed_by_pages() -> None:
    """The cursor of a page returns the next page; the last page has no cursor."""
    slack = SlackStandIn()

    one = call(slack, "conversations.list", limit=1)
    two = call(slack, "conversations.list", limit=1, cursor=one["response_metadata"]["next_cursor"])

    assert [one["channels"][0]["name"], two["channels"][0]["name"]] == ["general", "random"]
    assert two["response_metadata"]["next_cursor"] == ""


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("conversations.info", {"channel": "general"}, "channel_not_found"),
        ("chat.update", {"channel": "C0123456789", "ts": "yesterday", "text": "Hi"}, "message_not_found"),
        ("chat.scheduleMessage", {"channel": "general", "text": "Hi", "post_at": "soon"}, "invalid_time"),
        ("search.messages", {}, "no_query"),
        ("conversations.list", {"types": "secret"}, "invalid_types"),
        ("conversations.list", {"cursor": "***"}, "invalid_cursor"),
        ("users.info", {"user": "ada"}, "user_not_found"),
        ("conversations.replies", {"channel": "C0123456789", "ts": "1700000000.000001"}, "thread_not_found"),
    ],
)
def test_invalid_calls_are_refused(method: str, arguments: dict[str, str], error: str) -> None:
    """The error is Slack's own error code."""
    assert call(SlackStandIn(), method, **arguments) == {"ok": False, "error": error}
