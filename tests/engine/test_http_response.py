"""Building a step's response, and its redacted record. `tests/server/endpoint/test_responses.py` compares both over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.common.redaction import Redactor, Secret, get_redactor
from pdkernel.engine.http_response import (
    NO_RESPONSE,
    CallerResponse,
    HttpResponse,
    build_refusal_response,
    build_response,
)
from pdkernel.errors import ExternalUserNotFoundError, RequestError


@pytest.mark.parametrize(
    "raw",
    [
        {"status": 101, "headers": {}, "body": "x"},
        {"status": 200, "headers": {}, "body": {"$base64": "a"}},
        {"status": 200, "headers": {}, "body": {"$base64": "é"}},
    ],
    ids=["informational status", "wrong length", "not ASCII"],
)
def test_a_response_that_cannot_be_sent_is_the_platforms_400(raw: dict[str, Any]) -> None:
    """An informational status and invalid base64 count as no response."""
    assert build_response(raw) is NO_RESPONSE


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_without_a_body(status: int) -> None:
    """A response with the status has neither a body nor a media type; the response before it in number has both."""
    raw = {"status": status, "headers": {}, "body": "x"}
    bare, full = build_response(raw), build_response({**raw, "status": status - 2})

    assert (bare.status, bare.body, bare.content, bare.media_type) == (status, None, b"", None)
    assert (full.body, full.content, full.media_type) == ("x", b"x", "text/plain; charset=utf-8")


def test_headers_that_are_not_sent_are_not_recorded() -> None:
    """Headers of the connection, invalid names and empty lists are dropped; the last of two equal names wins."""
    headers = {
        "X-A": "first",
        "x-a": "a\r\nb",
        "X-None": [],
        "bad name": "1",
        "X-Line\n": "1",
        "Content-Length": "99",
        "Connection": "X-Hop",
        "X-Hop": "1",
        "Transfer-Encoding": "chunked",
    }
    response = build_response({"status": 200, "headers": headers, "body": None})

    assert response.headers == ((b"x-a", b"ab"),)
    assert build_response({"status": 200, "headers": {"Content-TYPE": "a/b"}, "body": "x"}).media_type is None
    assert response.to_record(get_redactor()).headers == {"x-a": "ab"}


def test_a_record_is_redacted() -> None:
    """Body and headers of the record have placeholders for secrets; the content has the values."""
    response = build_response(
        {"status": 200, "headers": {"X-Key": ["a", "key-0123456789"]}, "body": ["key-0123456789"]}
    )
    record = response.to_record(Redactor([Secret("env/KEY", "key-0123456789")]))

    assert response.content == b'["key-0123456789"]'
    assert (record.headers, record.body) == ({"X-Key": "a, ⟦secret:env/KEY⟧"}, ["⟦secret:env/KEY⟧"])


def test_a_lone_surrogate_is_recorded_as_it_is_sent() -> None:
    """UTF-8 cannot encode a lone surrogate: the caller and the record get a question mark."""
    text, value = (build_response({"status": 200, "headers": {}, "body": body}) for body in ("\ud800", ["\ud800"]))

    assert (text.content, text.body) == (b"?", "?")
    assert (value.content, value.body) == (b'["?"]', ["?"])


def test_the_caller_gets_only_the_first_line_of_an_end_user_error() -> None:
    """The other lines may name other users; another refusal counts as no response."""
    refused = build_refusal_response(
        ExternalUserNotFoundError("Ada", fix=""),
        "First.\nUsers: Bob.",
    )

    assert (refused.status, refused.body) == (400, "First.")
    assert build_refusal_response(RequestError("x"), "x") is NO_RESPONSE


class TestCallerResponse:
    """The response of a run to its caller."""

    def test_the_caller_gets_one_response(self) -> None:
        """The first response is passed on once, also if it is immediate; later responses and defaults are ignored."""
        given: list[HttpResponse] = []
        response = CallerResponse(None, is_expected=True, is_sent=False, on_respond=given.append)

        response.set({"status": 201, "headers": {}, "body": "first", "immediate": True})
        response.set({"status": 500, "headers": {}, "body": "second", "immediate": True})
        response.send(NO_RESPONSE)

        assert [(each.status, each.body) for each in given] == [(201, "first")]

    def test_the_caller_waits_for_a_response_that_is_not_immediate(self) -> None:
        """The response of a step is passed on at the end of the run, in place of the default."""
        given: list[HttpResponse] = []
        response = CallerResponse(None, is_expected=True, is_sent=False, on_respond=given.append)

        response.set({"status": 201, "headers": {}, "body": "x"})
        before = list(given)
        response.send(NO_RESPONSE)

        assert (before, [each.status for each in given]) == ([], [201])
        assert response.settle(NO_RESPONSE, get_redactor()) == given[0].to_record(get_redactor())

    def test_a_step_that_does_not_respond_gives_the_default(self) -> None:
        """Without a response of a step the caller gets the default, and the record has the same."""
        given: list[HttpResponse] = []
        response = CallerResponse(None, is_expected=True, is_sent=False, on_respond=given.append)

        settled = response.settle(NO_RESPONSE, get_redactor())
        response.send(build_response({"status": 200, "headers": {}, "body": "late"}))

        assert given == [NO_RESPONSE]
        assert settled == NO_RESPONSE.to_record(get_redactor())

    @pytest.mark.parametrize(("expected", "sent"), [(False, False), (True, True)])
    def test_nothing_is_sent_without_a_waiting_caller(self, expected: bool, sent: bool) -> None:
        """A caller of a default response, and a caller that has its response, get nothing."""
        given: list[HttpResponse] = []
        response = CallerResponse(None, is_expected=expected, is_sent=sent, on_respond=given.append)

        response.set({"status": 200, "headers": {}, "body": "x", "immediate": True})
        response.send(NO_RESPONSE)

        assert given == []

    def test_a_new_response_is_taken_once(self) -> None:
        """The response is new for the step that made it, and not for the next one; a restored one is not new."""
        response = CallerResponse(None, is_expected=True, is_sent=True, on_respond=None)
        restored = CallerResponse(NO_RESPONSE, is_expected=True, is_sent=True, on_respond=None)
        for each in (response, restored):
            each.set({"status": 200, "headers": {}, "body": "x"})

        taken = response.take_new()

        assert taken is not None
        assert (taken.status, response.take_new(), restored.take_new()) == (200, None, None)
