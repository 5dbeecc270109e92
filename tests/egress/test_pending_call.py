"""The ledger's row of a call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.egress.pending_call import CallResult, PendingCall
from pdkernel.egress.refusals import denied
from tests.egress.kit import TOKEN, ClientProcess, Ledger, OutsideServer

HOST = "api.example.test"

URL = f"https://{HOST}"

GET_EVENTS = b"GET /events HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n"

_CHARACTERS = "abcXYZ019-._~!$'()*+,;=:@/%"


def test_the_credential_determines_the_app(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """A call belongs to the app whose credential it contains: in a header, the URL or the body."""
    python.bind(ledger.binding("live"))
    python.request("http.client", "GET", f"{URL}/", headers={"authorization": f"Bearer {TOKEN}"})
    python.request("http.client", "GET", f"{URL}/?auth={TOKEN}")
    python.request("http.client", "POST", f"{URL}/", json.dumps({"auth": TOKEN}))
    python.request("http.client", "GET", f"{URL}/")

    assert [call.app for call in ledger.calls] == ["slack", "slack", "slack", None]
    assert TOKEN not in repr(ledger.calls)
    assert TOKEN in outside.seen[1].path


def test_a_value_under_a_secret_name_is_redacted_in_the_ledger(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """A token that is not a known secret is redacted in the ledger's URL."""
    python.bind(ledger.binding("live"))

    python.request("requests", "GET", f"{URL}/?access_token=abc123&page=2")

    assert ledger.calls[0].url == f"{URL}/?access_token={{{{redacted}}}}&page=2"
    assert "access_token=abc123" in outside.seen[0].path


def test_a_failed_call_is_recorded_once(ledger: Ledger) -> None:
    """The row has the milliseconds, whether the method is safe, and the cause, which the run gets too; both without secrets."""
    failed: list[str] = []
    clock = ManualClock()
    call = PendingCall(ledger.binding("live", on_failed=failed.append), "GET", URL, clock)
    clock.advance(0.25)

    call.fail(f"{TOKEN} is not a host.")
    call.finish(CallResult("sent", 200))
    call.fail("This is not recorded.", status=200)

    (row,) = ledger.calls
    assert (row.duration_ms, row.safe, row.outcome, row.status) == (250, True, "failed", None)
    assert row.note is not None
    assert row.note.startswith("no response: ⟦secret:")
    assert failed == [f"GET {URL} got {row.note}"]


def test_a_refused_call_is_recorded(ledger: Ledger) -> None:
    """The row has the first line of the refusal, the run and the step have all of it."""
    refusal = denied("POST", URL, "deny")

    response = PendingCall(ledger.binding("deny"), "POST", URL, ManualClock()).refuse(refusal)

    (row,) = ledger.calls
    assert (row.note, row.safe, row.status) == (refusal.message.splitlines()[0], False, 403)
    assert ledger.refused == [refusal.message]
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["error"] == {
        "code": "egress_denied", "message": refusal.message, "method": "POST", "url": URL
    }  # fmt: skip


def test_only_listed_hosts_are_allowed(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """With a list of hosts, other hosts are refused."""
    python.bind(ledger.binding("allow=api.example.test"))

    statuses = [python.request("httpx", "GET", f"https://{host}/").status for host in (HOST, "other.example.test")]

    assert statuses == [200, 403]
    assert [call.outcome for call in ledger.calls] == ["sent", "denied"]
    assert "allow=api.example.test" in ledger.refused[0]


def test_a_row_as_json(python: ClientProcess, outside: OutsideServer, ledger: Ledger) -> None:
    """The row's JSON has step, external user, app, method, URL, status, time, safety and the length of the response."""
    python.bind(ledger.binding("live", step="notify", external_user_id="ada"))

    python.request("requests", "POST", f"{URL}/big/500", "hello", {"authorization": f"Bearer {TOKEN}"})

    row = ledger.calls[0].to_json()
    assert row.pop("duration_ms") > 0
    assert row.pop("at")
    assert row == {
        "step": "notify",
        "external_user": "ada",
        "app": "slack",
        "method": "POST",
        "url": f"{URL}/big/500",
        "status": 200,
        "safe": False,
        "outcome": "sent",
        "same_as": None,
        "note": None,
        "bytes": 500,
    }


@pytest.mark.parametrize(("path", "size"), [("/chunked", 13), ("/status/204", 0), ("/big/70000", 70_000)])
@pytest.mark.parametrize("mode", ["live", "record={}/calls.jsonl"])
def test_the_length_of_a_response_is_counted(
    node: ClientProcess, outside: OutsideServer, ledger: Ledger, tmp_path: Path, mode: str, path: str, size: int
) -> None:
    """The row has the length of the body, for every kind of response."""
    node.bind(ledger.binding(mode.format(tmp_path)))

    node.request("fetch", "GET", URL + path)

    assert [call.bytes for call in ledger.calls] == [size]
