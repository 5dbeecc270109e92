"""The stand-ins for GitHub, Google Sheets and OpenAI, with the services' own checks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pdkernel.egress import ReceivedRequest, parse_policy
from pdkernel.egress.outbound_policy import EgressModeError
from pdkernel.egress.stand_ins import (
    GitHubStandIn,
    GoogleSheetsStandIn,
    OpenAIStandIn,
    SlackStandIn,
    StandIn,
    select_stand_in,
)

GITHUB, SHEETS, OPENAI = "api.github.com", "sheets.googleapis.com", "api.openai.com"
TOKEN = {"authorization": "Bearer a-token", "user-agent": "test"}
ROWS = "/v4/spreadsheets/sheet_1/values/Leads!A1:append"


def ask(
    stand_in: StandIn, method: str, url: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, str | None]:
    """Status, body and note of the response to a JSON request of `HOST/PATH?QUERY`."""
    host, _, rest = url.partition("/")
    path, _, query = f"/{rest}".partition("?")
    sent = b"" if body is None else json.dumps(body).encode()
    given = stand_in.answer(ReceivedRequest(method, host, path, query, TOKEN if headers is None else headers, sent))
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
