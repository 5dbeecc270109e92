"""The stand-ins for GitHub, Google Sheets, OpenAI and Slack, with the services' own checks."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from pdkernel.egress import Gateway, ReceivedRequest, parse_policy
from pdkernel.egress.outbound_policy import EgressModeError
from pdkernel.egress.stand_ins import (
    GitHubStandIn,
    GoogleSheetsStandIn,
    OpenAIStandIn,
    SlackStandIn,
    StandIn,
    select_stand_in,
)
from tests.egress.kit import TOKEN, ClientProcess, Ledger, OutsideServer

GITHUB, SHEETS, OPENAI = "api.github.com", "sheets.googleapis.com", "api.openai.com"
HEADERS = {"authorization": "Bearer a-token", "user-agent": "test"}
ROWS = "/v4/spreadsheets/sheet_1/values/Leads!A1:append"


def ask(
    stand_in: StandIn, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, str | None]:
    """Status, body and note of the response to a JSON request of `HOST/PATH?QUERY`."""
    host, _, rest = url.partition("/")
    path, _, query = f"/{rest}".partition("?")
    sent = b"" if body is None else json.dumps(body).encode()
    given = stand_in.answer(ReceivedRequest(method, host, path, query, HEADERS if headers is None else headers, sent))
    return given.status, given.body, given.note


class TestGitHub:
    """Issues, comments, labels."""

    def test_a_comment_is_created(self) -> None:
        """The response is 201 with id, URL and text; the note has the text."""
        status, body, note = ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues/7/comments", {"body": "Thanks"})
        assert (status, body["body"]) == (201, "Thanks")
        assert body["html_url"].startswith("https://github.com/o/r/issues/7#issuecomment-")
        assert note == 'GitHub comment on o/r#7: "Thanks"'

    def test_an_issue_is_opened_with_its_labels(self) -> None:
        """The response is 201, with a number and the labels as objects."""
        status, body, _ = ask(
            GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues", {"title": "Broken", "labels": ["bug"]}
        )
        assert (status, body["state"], [label["name"] for label in body["labels"]]) == (201, "open", ["bug"])

    def test_labels_are_added(self) -> None:
        """The response is 200, with the labels."""
        status, body, _ = ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues/7/labels", {"labels": ["bug"]})
        assert (status, body[0]["name"]) == (200, "bug")

    def test_an_issue_is_read(self) -> None:
        """The response is 200, with the issue's number."""
        assert ask(GitHubStandIn(), "GET", f"{GITHUB}/repos/o/r/issues/7")[1]["number"] == 7

    @pytest.mark.parametrize(
        ("headers", "status"), [({"authorization": "Bearer x"}, 403), ({"user-agent": "t"}, 401), ({}, 403)]
    )
    def test_a_user_agent_and_a_token_are_required(self, headers: dict[str, str], status: int) -> None:
        """Without a user agent the status is 403, without a token 401."""
        assert ask(GitHubStandIn(), "GET", f"{GITHUB}/repos/o/r/issues/7", headers=headers)[0] == status

    def test_a_missing_field_is_named(self) -> None:
        """The response is 422, with resource and field."""
        status, body, _ = ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues/7/comments", {"text": "Thanks"})
        assert status == 422
        assert body["errors"] == [{"resource": "IssueComment", "code": "missing_field", "field": "body"}]

    def test_an_unknown_method_is_refused(self) -> None:
        """A PUT of a comment is refused."""
        status, _, note = ask(GitHubStandIn(), "PUT", f"{GITHUB}/repos/o/r/issues/7/comments", {"body": "Thanks"})
        assert status == 404
        assert "not supported" in (note or "")


class TestGoogleSheets:
    """Rows of a spreadsheet."""

    def test_appended_rows_can_be_read_back(self) -> None:
        """The second append goes below the first, and `values.get` gives both."""
        sheets = GoogleSheetsStandIn()
        ask(sheets, "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["Ada", 1]]})
        status, body, _ = ask(sheets, "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["Grace", 2]]})
        assert (status, body["updates"]["updatedRange"]) == (200, "Leads!A2:B2")
        assert body["updates"]["updatedCells"] == 2
        read = ask(sheets, "GET", f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads!A1:B10")[1]
        assert read["values"] == [["Ada", 1], ["Grace", 2]]

    @pytest.mark.parametrize(
        ("query", "body"), [("", {"values": [["a"]]}), ("?valueInputOption=RAW", {}), ("?valueInputOption=X", {"values": [["a"]]})]
    )  # fmt: skip
    def test_required_arguments(self, query: str, body: Any) -> None:
        """Without an input option or rows the response is 400 INVALID_ARGUMENT."""
        status, answer, _ = ask(GoogleSheetsStandIn(), "POST", f"{SHEETS}{ROWS}{query}", body)
        assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")

    def test_a_token_is_required(self) -> None:
        """Without a token the response is 401 UNAUTHENTICATED."""
        status, answer, _ = ask(GoogleSheetsStandIn(), "POST", f"{SHEETS}{ROWS}", {}, {})
        assert (status, answer["error"]["status"]) == (401, "UNAUTHENTICATED")

    def test_append_is_a_post(self) -> None:
        """Another method is 404."""
        assert ask(GoogleSheetsStandIn(), "PUT", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["a"]]})[0] == 404


class TestOpenAI:
    """Answers to questions."""

    def test_a_chat_is_completed(self) -> None:
        """The response has one choice of the assistant, with usage; the note has the question."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Is it a bug?"}]}
        status, answer, note = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/chat/completions", body)
        assert (status, answer["object"]) == (200, "chat.completion")
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["usage"]["total_tokens"] > 0
        assert "Is it a bug?" in (note or "")

    def test_a_response_is_created(self) -> None:
        """The Responses API has its own form."""
        status, answer, _ = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/responses", {"model": "m", "input": "Hello"})
        assert (status, answer["output"][0]["content"][0]["type"]) == (200, "output_text")

    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            ({"type": "string", "enum": ["wish", "bug"]}, "bug"),
            ({"type": "string", "enum": ["low", "high"]}, "low"),
            ({"type": "array", "items": {"type": "integer"}}, [0]),
            ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
            ({"type": ["string", "null"]}, "Is it a bug?"),
            ({"type": "object", "properties": {"sure": {"const": True}}}, {"sure": True}),
        ],
    )
    def test_an_answer_fits_the_schema(self, schema: Any, said: Any) -> None:
        """Structured Outputs in both forms: of several choices the first that the question names, else the first."""
        format_ = {"name": "report", "strict": True, "schema": schema}
        chat = {"messages": [{"role": "user", "content": "Is it a bug?"}]}
        chat["response_format"] = {"type": "json_schema", "json_schema": format_}  # type: ignore[assignment]
        newer = {"input": "Is it a bug?", "text": {"format": {"type": "json_schema", **format_}}}

        completed = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/chat/completions", {"model": "m", **chat})[1]
        responded = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/responses", {"model": "m", **newer})[1]

        assert json.loads(completed["choices"][0]["message"]["content"]) == said
        assert json.loads(responded["output"][0]["content"][0]["text"]) == said

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"messages": []}, "model parameter"),
            ({"model": "m"}, "'messages'"),
            ({"model": "m", "messages": [{"content": "x"}]}, "role"),
        ],
    )
    def test_missing_arguments_are_named(self, body: Any, said: str) -> None:
        """The response is 400, with OpenAI's kind of error."""
        status, answer, _ = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/chat/completions", body)
        assert status == 400
        assert answer["error"]["type"] == "invalid_request_error"
        assert said in answer["error"]["message"]

    def test_a_key_is_required(self) -> None:
        """Without a key the response is 401."""
        assert ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/responses", {"model": "m", "input": "x"}, {})[0] == 401


class TestSeveral:
    """Stand-ins by name."""

    def test_the_host_selects_the_stand_in(self) -> None:
        """Of several stand-ins, the one for the request's host responds."""
        several = select_stand_in({"slack": SlackStandIn(), "openai": OpenAIStandIn()}, "slack,openai")
        assert ask(several, "POST", "slack.com/api/auth.test")[1]["ok"] is True
        assert ask(several, "POST", f"{OPENAI}/v1/responses", {"model": "m", "input": "x"})[0] == 200

    def test_an_unknown_host_is_refused(self) -> None:
        """The refusal lists the known hosts."""
        several = select_stand_in({"slack": SlackStandIn(), "openai": OpenAIStandIn()}, "slack,openai")
        status, _, note = ask(several, "GET", "example.com/")
        assert status == 404
        assert "slack.com" in (note or "")

    def test_the_mode_takes_several_names(self) -> None:
        """Names are separated by commas; an unknown name is refused."""
        assert parse_policy("stand-in=slack, github").stand_in_names == "slack,github"
        with pytest.raises(EgressModeError, match="neither a URL nor"):
            parse_policy("stand-in=slack,hub")


# ── Slack ───────────────────────────────────────────────────────────────────────────────────────────────


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
    call(slack, "chat.postMessage", channel="#ops", text="deploy later")

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
