"""The stand-ins for GitHub, Google Sheets, OpenAI and Slack, with the services' own checks."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from pdkernel.egress import Gateway, ReceivedRequest, parse_policy
from pdkernel.egress.outbound_policy import EgressModeError
from pdkernel.egress.recording import MAX_RECORDED_BODY_BYTES
from pdkernel.egress.stand_ins import (
    GitHubStandIn,
    GoogleSheetsStandIn,
    OpenAIStandIn,
    SlackStandIn,
    StandIn,
    select_stand_in,
)
from tests.egress.kit import TOKEN, ClientProcess, Ledger, OutsideServer, issue_bound_token, knock, read_all

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

    def test_an_issue_is_read(self) -> None:
        """The response is 200, with the issue's number."""
        assert ask(GitHubStandIn(), "GET", f"{GITHUB}/repos/o/r/issues/7")[1]["number"] == 7

    @pytest.mark.parametrize(
        ("headers", "status"), [({"authorization": "Bearer x"}, 403), ({"user-agent": "t"}, 401), ({}, 403)]
    )
    def test_a_user_agent_and_a_token_are_required(self, headers: dict[str, str], status: int) -> None:
        """Without a user agent the status is 403, without a token 401."""
        assert ask(GitHubStandIn(), "GET", f"{GITHUB}/repos/o/r/issues/7", headers=headers)[0] == status

    @pytest.mark.parametrize(
        ("path", "body", "resource", "field"),
        [("/7/comments", {"text": "Thanks"}, "IssueComment", "body"), ("", {"body": "Broken"}, "Issue", "title")],
    )
    def test_a_missing_field_is_named(self, path: str, body: Any, resource: str, field: str) -> None:
        """The response is 422, with resource and field."""
        status, answer, _ = ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues{path}", body)
        assert status == 422
        assert answer["errors"] == [{"resource": resource, "code": "missing_field", "field": field}]

    def test_an_unknown_method_is_refused(self) -> None:
        """A PUT of a comment is refused."""
        status, _, note = ask(GitHubStandIn(), "PUT", f"{GITHUB}/repos/o/r/issues/7/comments", {"body": "Thanks"})
        assert status == 404
        assert "not supported" in (note or "")

    @pytest.mark.parametrize("body", [None, {"body": ""}, {"body": 5}, ["Thanks"]])
    def test_a_comment_needs_a_text(self, body: Any) -> None:
        """A missing, empty or other body is 422, as GitHub refuses blank comments."""
        assert ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues/7/comments", body)[0] == 422

    def test_two_comments_have_two_ids(self) -> None:
        """Comments with other texts, and of other issues, have other ids; an equal comment has the same id."""
        ids = [
            ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues/{number}/comments", {"body": text})[1]["id"]
            for number, text in ((7, "Thanks"), (7, "Thank you"), (8, "Thanks"), (7, "Thanks"))
        ]

        assert len(set(ids)) == 3
        assert ids[0] == ids[3]

    @pytest.mark.parametrize(
        ("body", "names"), [(["bug", "urgent"], ["bug", "urgent"]), ({"labels": ["bug"]}, ["bug"]), ([], None)]
    )
    def test_labels_are_added(self, body: Any, names: list[str] | None) -> None:
        """GitHub accepts labels with a name and as a list without a name; the note has all labels; an empty list is refused."""
        status, answer, note = ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues/7/labels", body)
        if names is None:
            assert status == 422
        else:
            assert (status, [each["name"] for each in answer]) == (200, names)
            assert note == f"GitHub labels on o/r#7: {', '.join(names)}"

    @pytest.mark.parametrize("labels", ["bug", 5, True, {"name": "bug"}])
    def test_labels_that_are_not_a_list_are_refused(self, labels: Any) -> None:
        """An issue and its labels get GitHub's 422, and the letters of a text do not become labels."""
        for path, body in (("issues", {"title": "Broken", "labels": labels}), ("issues/7/labels", {"labels": labels})):
            status, answer, _ = ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/{path}", body)
            assert (status, "is not an array" in answer["message"]) == (422, True)

    def test_the_older_scheme_of_a_token_is_accepted(self) -> None:
        """`Authorization: token ...` is as good as `Bearer`; the scheme alone is refused."""
        url = f"{GITHUB}/repos/o/r/issues/7"
        answers = [
            ask(GitHubStandIn(), "GET", url, headers={"user-agent": "t", "authorization": given})[0]
            for given in ("token x", "BEARER x", "Bearer ", "Basic x")
        ]

        assert answers == [200, 200, 401, 401]


class TestGoogleSheets:
    """Rows of a spreadsheet."""

    def test_appended_rows_can_be_read_back(self) -> None:
        """The second append goes below the first, and `values.get` gives both."""
        sheets = GoogleSheetsStandIn()
        ask(sheets, "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["Ada", 1]]})
        status, body, _ = ask(sheets, "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["Grace", 2]]})
        assert (status, body["updates"]["updatedRange"]) == (200, "Leads!A2:B2")
        assert body["updates"]["updatedCells"] == 2
        assert body["tableRange"] == "Leads!A1:B1"
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
        """Another method, and a POST that does not append, are 404."""
        url = f"{SHEETS}{ROWS.removesuffix(':append')}?valueInputOption=RAW"
        assert [ask(GoogleSheetsStandIn(), method, url, {"values": [["a"]]})[0] for method in ("POST", "DELETE")] == [
            404
        ] * 2
        assert ask(GoogleSheetsStandIn(), "PUT", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["a"]]})[0] == 404

    def test_rows_of_different_lengths_are_counted(self) -> None:
        """The range is as wide as the widest row, also beyond column Z; only written cells count."""
        body = ask(
            GoogleSheetsStandIn(), "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["a"], ["x"] * 28]}
        )[1]

        assert body["updates"]["updatedRange"] == "Leads!A1:AB2"
        assert [body["updates"][name] for name in ("updatedRows", "updatedColumns", "updatedCells")] == [2, 28, 29]
        assert "tableRange" not in body

    def test_an_update_replaces_rows_and_keeps_the_others(self) -> None:
        """`values.update` writes over the first row; the row below stays."""
        sheets = GoogleSheetsStandIn()
        ask(sheets, "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["Ada"], ["Grace"]]})
        url = f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads!A1"

        status, body, note = ask(sheets, "PUT", f"{url}?valueInputOption=USER_ENTERED", {"values": [["Edith"]]})

        assert (status, body["updatedRange"], note) == (200, "Leads!A1:A1", "Google Sheets row 1 of Leads: Edith")
        assert ask(sheets, "GET", f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads")[1]["values"] == [
            ["Edith"],
            ["Grace"],
        ]

    @pytest.mark.parametrize(
        ("cells", "values"),
        [
            ("A1:C3", [["a", "b", "c"], ["d", "e"], ["", "f"]]),
            ("A2:C", [["d", "e"], ["", "f"]]),
            ("A2:C2", [["d", "e"]]),
            ("B:B", [["b"], ["e"], ["f"]]),
            ("C1:C9", [["c"]]),
            ("2:3", [["d", "e"], ["", "f"]]),
            ("B2", [["e"]]),
            ("C2:D9", None),
            ("AA1:AB2", None),
        ],
    )
    def test_a_part_of_a_sheet_is_read(self, cells: str, values: Any) -> None:
        """A range without a header row, or of some columns, has its cells only; an empty one has no values."""
        sheets = GoogleSheetsStandIn()
        rows = [["a", "b", "c"], ["d", "e", ""], ["", "f"]]
        ask(sheets, "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": rows})

        found = ask(sheets, "GET", f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads!{cells}")[1]

        assert (found["range"], found.get("values")) == (f"Leads!{cells}", values)
        assert ask(sheets, "GET", f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads")[1]["values"][1] == ["d", "e"]

    def test_cells_are_written_where_the_range_begins(self) -> None:
        """An update begins at the first cell of its range, and keeps the cells around it."""
        sheets = GoogleSheetsStandIn()
        url = f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads"
        ask(sheets, "POST", f"{SHEETS}{ROWS}?valueInputOption=RAW", {"values": [["a", "b", "c"], ["d"]]})

        body = ask(sheets, "PUT", f"{url}!B2:C3?valueInputOption=RAW", {"values": [["X", "Y"], ["Z"]]})[1]

        assert (body["updatedRange"], body["updatedCells"]) == ("Leads!B2:C3", 3)
        assert ask(sheets, "GET", url)[1]["values"] == [["a", "b", "c"], ["d", "X", "Y"], ["", "Z"]]

    def test_columns_after_z_have_two_letters(self) -> None:
        """Column AB is the 28th, in the range that is read and in the range that was written."""
        sheets = GoogleSheetsStandIn()
        url = f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads"

        body = ask(sheets, "PUT", f"{url}!Z1?valueInputOption=RAW", {"values": [["z", "aa", "ab"]]})[1]

        assert body["updatedRange"] == "Leads!Z1:AB1"
        assert ask(sheets, "GET", f"{url}!AA1:AB1")[1]["values"] == [["aa", "ab"]]
        assert ask(sheets, "GET", f"{url}!AB1")[1]["values"] == [["ab"]]

    @pytest.mark.parametrize("cells", ["A0", "a1", "A1:B2:C3", "1A", "AAAA1", "A100000"])
    def test_a_malformed_range_is_refused(self, cells: str) -> None:
        """The response is 400 INVALID_ARGUMENT, with the range."""
        status, answer, _ = ask(GoogleSheetsStandIn(), "GET", f"{SHEETS}/v4/spreadsheets/sheet_1/values/Leads!{cells}")

        assert (status, answer["error"]["message"]) == (400, f"Unable to parse range: Leads!{cells}")

    @pytest.mark.parametrize(
        "named", ["Leads%20%C3%A4", "Leads%20%C3%A4!A1:Z", "'Leads%20%C3%A4'!A1", "%27Leads%20%C3%A4%27"]
    )
    def test_a_sheet_is_found_by_every_form_of_its_name(self, named: str) -> None:
        """The name may be quoted and percent-encoded, with cells or without."""
        sheets = GoogleSheetsStandIn()
        url = f"{SHEETS}/v4/spreadsheets/sheet_1/values"
        ask(sheets, "POST", f"{url}/Leads%20%C3%A4!A1:append?valueInputOption=RAW", {"values": [["Ada"]]})

        assert ask(sheets, "GET", f"{url}/{named}")[1]["values"] == [["Ada"]]

    def test_cells_alone_are_in_the_first_sheet(self) -> None:
        """`A1:B` without a sheet reads `Sheet1`; another spreadsheet has other rows."""
        sheets = GoogleSheetsStandIn()
        url = f"{SHEETS}/v4/spreadsheets"
        ask(sheets, "POST", f"{url}/one/values/A1:append?valueInputOption=RAW", {"values": [["Ada"]]})

        assert ask(sheets, "GET", f"{url}/one/values/Sheet1!A1:B")[1]["values"] == [["Ada"]]
        assert ask(sheets, "GET", f"{url}/two/values/A1:B")[1].get("values", []) == []


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

    def test_the_last_message_is_the_question(self) -> None:
        """The answer repeats the last message, whose content may be a list of parts; the usage adds up."""
        parts = [{"type": "text", "text": "Is it"}, {"type": "image_url"}, {"type": "text", "text": "a bug?"}]
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
        model = {"model": "m", "messages": messages}

        answer = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/chat/completions", model)[1]
        newer = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/responses", {"model": "m", "input": messages})[1]

        assert answer["choices"][0]["message"]["content"].endswith("answers) Is it a bug?")
        assert newer["output"][0]["content"][0]["text"].endswith("Is it a bug?")
        for usage, names in (
            (answer["usage"], ("prompt_tokens", "completion_tokens")),
            (newer["usage"], ("input_tokens", "output_tokens")),
        ):
            assert usage["total_tokens"] == sum(usage[name] for name in names) > 2

    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("GET", "/v1/responses", None, 405),
            ("POST", "/v1/embeddings", {"model": "m", "input": "x"}, 404),
            ("POST", "/v1/responses", None, 400),
            ("POST", "/v1/responses", {"model": "", "input": "x"}, 400),
            ("POST", "/v1/responses", {"model": "m", "input": []}, 400),
        ],
    )
    def test_an_unsupported_request_is_refused(self, method: str, path: str, body: Any, status: int) -> None:
        """Another method, path, or body gets the status of OpenAI."""
        assert ask(OpenAIStandIn(), method, f"{OPENAI}{path}", body)[0] == status

    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            ({"type": "string", "enum": ["wish", "bug"]}, "bug"),
            ({"type": "string", "enum": ["low", "high"]}, "low"),
            ({"type": "array", "items": {"type": "integer"}}, [0]),
            ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
            ({"type": ["string", "null"]}, "Is it a bug?"),
            ({"enum": ["Wish", "Bug"]}, "Bug"),
            ({"type": "number", "minimum": 3}, 3),
            ({"type": "null"}, None),
            ({"type": "object", "properties": {"sure": {"const": True}}}, {"sure": True}),
            ({"type": "object", "properties": {"any": True}}, {"any": None}),
            ({"type": "object", "properties": 5}, {}),
            ({"type": "boolean", "enum": 5, "anyOf": {"type": "string"}}, False),
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

    @pytest.mark.parametrize("kind", ["text", "json_object"])
    def test_a_schema_of_another_format_is_ignored(self, kind: str) -> None:
        """Only the format `json_schema` has a schema."""
        schema = {"name": "report", "schema": {"const": 5}}
        chat = {
            "messages": [{"role": "user", "content": "Hi"}],
            "response_format": {"type": kind, "json_schema": schema},
        }
        newer = {"input": "Hi", "text": {"format": {"type": kind, **schema}}}

        completed = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/chat/completions", {"model": "m", **chat})[1]
        responded = ask(OpenAIStandIn(), "POST", f"{OPENAI}/v1/responses", {"model": "m", **newer})[1]

        assert completed["choices"][0]["message"]["content"].endswith("Hi")
        assert responded["output"][0]["content"][0]["text"].endswith("Hi")

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"messages": []}, "model parameter"),
            ({"model": "m"}, "'messages'"),
            ({"model": "m", "messages": [{"content": "x"}]}, "role"),
            ({"model": "m", "messages": [{"role": "robot", "content": "x"}]}, "role"),
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

    def test_a_host_is_a_name_or_a_subdomain(self) -> None:
        """Case and a dot at the end have no meaning; a name that only ends alike is another host."""
        several = select_stand_in({"slack": SlackStandIn(), "openai": OpenAIStandIn()}, "slack,openai")
        answers = [
            ask(several, "POST", f"{host}/api/auth.test")[0]
            for host in ("SLACK.com.", "files.slack.com", "notslack.com", "slack.com.example")
        ]

        assert answers == [200, 200, 404, 404]
        assert ask(several, "POST", f"my{OPENAI}/v1/responses", {"model": "m", "input": "x"})[0] == 404

    @pytest.mark.parametrize(("length", "is_cut"), [(300, False), (301, True)])
    def test_a_note_is_one_line_of_300_characters(self, length: int, is_cut: bool) -> None:
        """A longer text is cut, and ends with an ellipsis; line breaks become blanks."""
        text = "a\n b".ljust(length + 1, "x")
        note = ask(GitHubStandIn(), "POST", f"{GITHUB}/repos/o/r/issues/7/comments", {"body": text})[2]

        assert note is not None
        shown = note.partition('"')[2][:-1]
        assert shown.startswith("a bx")
        assert (len(shown), shown.endswith("…")) == (300, is_cut)

    def test_the_latest_requests_are_kept(self) -> None:
        """A stand-in in a long run holds the latest 200 requests, for assertions."""
        slack = SlackStandIn()
        for number in range(201):
            ask(slack, "POST", f"slack.com/api/auth.test?n={number}")

        assert [slack.received[0].query, slack.received[-1].query, len(slack.received)] == ["n=1", "n=200", 200]

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


def test_a_huge_request_to_a_stand_in_is_refused(gateway: Gateway, ledger: Ledger) -> None:
    """A body that is longer than a stand-in reads gets 413, with the limit in the row."""
    size = MAX_RECORDED_BODY_BYTES + 1
    caller_token = issue_bound_token(gateway, ledger, "stand-in=slack")
    with knock(gateway, caller_token, "slack.com", 443, secure=True) as sock:
        head = f"POST /api/files.upload HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode() + bytes(size))
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 413")
    assert [(call.status, call.note) for call in ledger.calls] == [(413, "the stand-in reads bodies up to 32 MB")]


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


@pytest.mark.parametrize(
    ("name", "part"), [("blocks", {"type": "section", "text": {"text": "Hi"}}), ("attachments", {"text": "Hi"})]
)
def test_a_form_is_read_like_json(name: str, part: object) -> None:
    """The arguments may be a form, with blocks and attachments as JSON text."""
    form = urlencode({"channel": "C0123456789", name: json.dumps([part])})

    answer = SlackStandIn().answer(received(form, **{"content-type": "application/x-www-form-urlencoded"}))

    assert isinstance(answer.body, dict)
    assert answer.body["channel"] == "C0123456789"
    assert answer.body["message"][name] == [part]
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
    """Ids and time stamps depend only on the request, so that saved outputs stay the same; another text or channel has another time stamp."""
    message = received({"channel": "#general", "text": "Hi"})
    slack = SlackStandIn()

    posted = [
        call(slack, "chat.postMessage", channel=channel, text=text)
        for channel, text in (("#general", "Hi"), ("#general", "Ho"), ("#dev", "Hi"))
    ]

    assert SlackStandIn().answer(message) == SlackStandIn().answer(message)
    assert len({each["ts"] for each in posted}) == 3
    assert len(call(slack, "conversations.history", channel=posted[2]["channel"])["messages"]) == 1


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("PUT", "https://slack.com/api/chat.postMessage", 404),
        ("POST", "https://slack.com/chat.postMessage", 404),
        ("POST", "https://api.example.test/api/chat.postMessage", 404),
        ("POST", "https://notslack.com/api/chat.postMessage", 404),
        ("POST", "https://slack.com/api/chat.shout", 200),
    ],
)
def test_an_unknown_target_is_404(python: ClientProcess, ledger: Ledger, method: str, url: str, status: int) -> None:
    """Another verb, path or host does not get an `ok` response; an unknown method has status 200 and Slack's error, so clients do not retry."""
    python.bind(ledger.binding("stand-in=slack"))

    got = python.request("requests", method, url, None, AUTH)

    assert (got.status, got.json()["ok"]) == (status, False)
    if status == 200:
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
    """The id in the response finds the named channel, which `#ops` and `ops` name."""
    slack = SlackStandIn()

    posted, again = (call(slack, "chat.postMessage", channel=name, text="Hi") for name in ("#ops", "ops"))

    channel = call(slack, "conversations.info", channel=posted["channel"])["channel"]
    assert posted["channel"] == again["channel"]
    assert (channel["id"], channel["name"], channel["is_im"]) == (posted["channel"], "ops", False)


def test_a_message_to_a_user_opens_a_direct_conversation() -> None:
    """As on Slack, the response names the conversation, which names the user."""
    slack = SlackStandIn()
    posted = call(slack, "chat.postMessage", channel="U0123456789", text="Hi")

    channel = call(slack, "conversations.info", channel=posted["channel"])["channel"]
    profile = call(slack, "users.profile.get", user=channel["user"])["profile"]

    assert posted["channel"].startswith("D")
    assert (channel["is_im"], channel["user"], profile["real_name"]) == (True, "U0123456789", "u0123456789")


def test_a_message_to_a_direct_conversation_is_in_it() -> None:
    """The id of a direct conversation, `D...`, is one also if the conversation was not opened before."""
    slack = SlackStandIn()

    posted = call(slack, "chat.postMessage", channel="D0123456789", text="hi")

    channel = call(slack, "conversations.info", channel="D0123456789")["channel"]
    assert (posted["channel"], channel["id"], channel["is_im"]) == ("D0123456789", "D0123456789", True)
    assert [each["text"] for each in call(slack, "conversations.history", channel="D0123456789")["messages"]] == ["hi"]


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


def test_a_page_has_at_least_one_item() -> None:
    """A limit of 0 counts as 1, so that a client that follows cursors ends."""
    slack = SlackStandIn()

    page = call(slack, "conversations.list", limit=0)

    assert [len(page["channels"]), page["response_metadata"]["next_cursor"] != ""] == [1, True]


def test_matches_are_the_newest_first_and_by_pages() -> None:
    """`search.messages` sorts by time, and reports the pages; `sort_dir` turns the order; all words must match."""
    slack = SlackStandIn()
    for text in ("deploy one", "deploy two", "deploy three", "other"):
        call(slack, "chat.postMessage", channel="#ops", text=text)

    found = call(slack, "search.messages", query="DEPLOY", count=2)["messages"]
    newest = [match["ts"] for match in call(slack, "search.messages", query="deploy")["messages"]["matches"]]
    oldest = [
        match["ts"] for match in call(slack, "search.messages", query="deploy", sort_dir="asc")["messages"]["matches"]
    ]

    assert found["paging"] == {"count": 2, "total": 3, "page": 1, "pages": 2}
    assert len(found["matches"]) == 2
    assert newest == sorted(newest, reverse=True)
    assert oldest == sorted(newest)
    assert call(slack, "search.messages", query="deploy", count=3)["messages"]["paging"]["pages"] == 1
    assert call(slack, "search.messages", query="deploy", count=500)["messages"]["paging"]["count"] == 100
    assert call(slack, "search.messages", query="one two")["messages"]["matches"] == []


def test_a_deleted_message_is_gone() -> None:
    """`conversations.history` has the message until `chat.delete`."""
    slack = SlackStandIn()
    posted = call(slack, "chat.postMessage", channel="#ops", text="Hi")

    deleted = call(slack, "chat.delete", channel=posted["channel"], ts=posted["ts"])

    assert (deleted["channel"], deleted["ts"]) == (posted["channel"], posted["ts"])
    assert call(slack, "conversations.history", channel=posted["channel"])["messages"] == []


def test_a_change_keeps_the_rest_of_the_message() -> None:
    """A changed message keeps its thread and its sender, and is marked as edited."""
    slack = SlackStandIn()
    first = call(slack, "chat.postMessage", channel="#ops", text="one")
    reply = call(slack, "chat.postMessage", channel="#ops", text="two", thread_ts=first["ts"], username="bot")

    message = call(slack, "chat.update", channel="#ops", ts=reply["ts"], text="three")["message"]

    assert (message["text"], message["thread_ts"], message["username"]) == ("three", first["ts"], "bot")
    assert message["edited"]["ts"] == reply["ts"]


def test_a_scheduled_message_is_not_in_the_channel() -> None:
    """The response has the time and an id; the note reports that the message is scheduled."""
    slack = SlackStandIn()
    body = json.dumps({"channel": "ops", "text": "Hi", "post_at": 1_700_000_060}).encode()

    answer = slack.answer(ReceivedRequest("POST", "slack.com", "/api/chat.scheduleMessage", headers=AUTH, body=body))

    assert isinstance(answer.body, dict)
    assert answer.body["post_at"] == 1_700_000_060
    assert str(answer.body["scheduled_message_id"]).startswith("Q")
    assert answer.note == 'Slack message to #ops, scheduled: "Hi"'
    assert call(slack, "conversations.history", channel=answer.body["channel"])["messages"] == []


def test_a_private_channel_is_a_group() -> None:
    """An id with G is a private channel, which only `types=private_channel` lists."""
    slack = SlackStandIn()
    posted = call(slack, "chat.postMessage", channel="G0123456789", text="Hi")

    info = call(slack, "conversations.info", channel=posted["channel"])["channel"]
    listed = call(slack, "conversations.list", types="private_channel")["channels"]

    assert (info["is_private"], info["is_group"], info["is_channel"]) == (True, True, False)
    assert [each["id"] for each in listed] == ["G0123456789"]
    assert all(each["id"] != "G0123456789" for each in call(slack, "conversations.list")["channels"])


def test_the_oldest_messages_are_dropped() -> None:
    """A workspace keeps the latest 200 messages, so that a long run does not grow."""
    slack = SlackStandIn()
    for number in range(201):
        posted = call(slack, "chat.postMessage", channel="#ops", text=f"message {number}")

    kept = call(slack, "conversations.history", channel=posted["channel"], limit=300)["messages"]

    assert [kept[0]["text"], kept[-1]["text"], len(kept)] == ["message 200", "message 1", 200]


def test_arguments_may_be_in_the_query() -> None:
    """A GET has its arguments in the query, and so may a POST without a body."""
    slack = SlackStandIn()
    found = [
        ask(slack, method, "slack.com/api/chat.postMessage?channel=ops&text=Hi", headers={"authorization": "bearer x"})
        for method in ("GET", "POST")
    ]

    assert [(body["ok"], note) for _, body, note in found] == [(True, 'Slack message to #ops: "Hi"')] * 2


def test_a_note_has_the_first_visible_text() -> None:
    """The note of a message without text has the text of its blocks, else of its attachments."""
    slack = SlackStandIn()
    blocks = [{"type": "divider"}, {"type": "section", "text": {"type": "mrkdwn", "text": "In a block"}}]
    notes = [
        slack.answer(received({"channel": "#ops", **content})).note
        for content in (
            {"blocks": blocks},
            {"attachments": [{"fallback": "In an attachment"}]},
            {"blocks": [{"type": "divider"}]},
        )
    ]

    assert [(note or "").partition('"')[2][:-1] for note in notes] == [
        "In a block",
        "In an attachment",
        "(blocks without text)",
    ]


def test_users_and_members() -> None:
    """A user is created with their id, has a profile, and is listed; the members of a conversation are its user and the own one."""
    slack = SlackStandIn()
    tested = call(slack, "auth.test")
    own = tested["user_id"]
    general = call(slack, "conversations.list")["channels"][0]["id"]
    direct = call(slack, "chat.postMessage", channel="U0123456789", text="Hi")["channel"]

    user = call(slack, "users.info", user="U9876543210")["user"]
    profile = call(slack, "users.profile.get", user="U9876543210")["profile"]
    listed = [each["id"] for each in call(slack, "users.list")["members"]]
    members = [call(slack, "conversations.members", channel=each)["members"] for each in (direct, general)]

    assert (tested["ok"], tested["team"]) == (True, "Stand-in")
    assert (user["id"], user["profile"]) == ("U9876543210", profile)
    assert {own, "U0123456789", "U9876543210"} <= set(listed)
    assert members == [[own, "U0123456789"], [own]]
    assert call(slack, "users.profile.get")["profile"] != profile


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("conversations.info", {"channel": "general"}, "channel_not_found"),
        ("chat.update", {"channel": "C0123456789", "ts": "yesterday", "text": "Hi"}, "message_not_found"),
        ("chat.scheduleMessage", {"channel": "general", "text": "Hi", "post_at": "soon"}, "invalid_time"),
        ("chat.scheduleMessage", {"channel": "general", "text": "Hi"}, "invalid_time"),
        ("reactions.add", {"channel": "general", "name": ":", "timestamp": "1700000000.000001"}, "invalid_name"),
        ("reactions.add", {"channel": "general", "name": "eyes"}, "message_not_found"),
        ("search.messages", {}, "no_query"),
        ("conversations.list", {"types": "secret"}, "invalid_types"),
        ("conversations.list", {"cursor": "***"}, "invalid_cursor"),
        ("users.info", {"user": "ada"}, "user_not_found"),
        ("users.profile.get", {"user": "ada"}, "user_not_found"),
        ("chat.postMessage", {"channel": "general", "blocks": "[not json"}, "no_text"),
        ("conversations.replies", {"channel": "C0123456789", "ts": "1700000000.000001"}, "thread_not_found"),
    ],
)
def test_invalid_calls_are_refused(method: str, arguments: dict[str, str], error: str) -> None:
    """The error is Slack's own error code."""
    assert call(SlackStandIn(), method, **arguments) == {"ok": False, "error": error}
