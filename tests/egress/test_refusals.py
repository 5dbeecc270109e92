"""Refused calls: status, mark, and what a person reads."""

from __future__ import annotations

import json

import pytest

from pdkernel.egress import refusals
from pdkernel.egress.refusals import REFUSAL_HEADER, Refusal

CALL = ("GET", "https://a.test/x")


@pytest.mark.parametrize(
    ("refusal", "kind", "code", "words"),
    [
        (refusals.denied(*CALL, "allow=b.test"), "denied", "egress_denied", ["the outbound policy is allow=b.test.", "`%pdegress live`", "`--egress live`", "stand-in=URL"]),
        (refusals.not_recorded(*CALL, "replay=replay=x.jsonl", "No call is equal."), "miss", "egress_miss", ["(replay=replay=x.jsonl): No call is equal.", "Record it with record=replay=x.jsonl."]),
        (refusals.opaque_protocol("A WebSocket", CALL[1], "deny"), "upgrade", "egress_upgrade", ["A WebSocket to https://a.test/x was not made", "Only `live`, or `allow="]),
        (refusals.blocked_by_sandbox("A datagram", CALL[1], "deny"), "denied", "egress_stopped", ["supports TCP only", "Only `live` allows it."]),
        (refusals.not_public(*CALL), "denied", "egress_not_public", ["public addresses only", "an OAuth client"]),
        (refusals.step_uses_proxy(*CALL, "http://proxy.test:3128"), "proxy", "egress_proxy", ["the step uses its own proxy (http://proxy.test:3128)", "--via"]),
        (refusals.withheld(*CALL, "it is a WebSocket."), "proxy", "egress_withheld", ["and it is a WebSocket.", "your own OAuth client"]),
        (refusals.no_step(), "no-token", "egress_no_step", ["has ended"]),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(refusal: Refusal, kind: str, code: str, words: list[str]) -> None:
    """Each refusal has its own mark and code; the message has the call, the mode and a way out."""
    assert (refusal.kind, refusal.code) == (kind, code)
    assert all(word in refusal.message for word in words)
    if kind != "no-token":
        assert CALL[1] in refusal.message


def test_a_refusal_is_a_response() -> None:
    """A client gets a 403, which it does not retry, with a mark and the message as JSON."""
    refusal = Refusal("denied", "egress_denied", "No é.")
    response = refusal.to_response(url="x")
    headers = dict(response.headers)

    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {"error": {"code": "egress_denied", "message": "No é.", "url": "x"}}
    assert (response.status, headers[REFUSAL_HEADER]) == (403, b"denied")
    assert headers[b"content-length"] == str(len(response.body)).encode()
    assert headers[b"content-type"].startswith(b"application/json")
