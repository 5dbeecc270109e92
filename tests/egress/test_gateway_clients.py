"""
Every client in every mode: the requests that arrive outside, the client's response, and the ledger.

The rows named `guard` have no hooks and no proxy variables: only the operating system redirects their sockets to the
gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from tests.egress.kit import (
    NODE_CLIENTS,
    PYTHON_CLIENTS,
    TOKEN,
    ClientProcess,
    Ledger,
    OutsideServer,
    bare_python_process,
    node_paths,
    node_process,
    python_process,
)

Caller = tuple[str, ClientProcess]
ROWS = [("python", client) for client in PYTHON_CLIENTS]
ROWS += [(f"node-{name}", client) for name in sorted(node_paths()) for client in NODE_CLIENTS]
GUARDED = {"python-guard": (*PYTHON_CLIENTS, "uvloop"), "node-guard": NODE_CLIENTS}
ROWS += [(runtime, client) for runtime, clients in GUARDED.items() for client in clients]


@pytest.fixture(scope="module")
def processes(gateway: Gateway) -> Iterator[dict[str, ClientProcess]]:
    """One process for each runtime."""
    found = {"python": python_process(gateway)}
    found |= {f"node-{name}": node_process(gateway, path) for name, path in node_paths().items()}
    if gateway.sandbox_kind == "redirect":  # neither hooks nor proxy variables: the operating system alone
        found["python-guard"] = bare_python_process(gateway)
        found["node-guard"] = node_process(gateway, node_paths()["wheel"], guarded=True)
    yield found
    for process in found.values():
        process.stop()


@pytest.fixture(params=ROWS, ids=lambda row: "-".join(row))
def caller(request: pytest.FixtureRequest, processes: dict[str, ClientProcess]) -> Caller:
    """A client and its process."""
    runtime, client = request.param
    if runtime not in processes:
        pytest.skip("this system has no seccomp listener for us")
    return client, processes[runtime]


HEADERS = {"authorization": f"Bearer {TOKEN}"}
URL = "https://api.example.test/things?id=7"


def test_live(caller: Caller, outside: OutsideServer, ledger: Ledger) -> None:
    """In live, the host answers and the ledger has the call."""
    client, process = caller
    process.bind(ledger.binding("live"))

    got = process.request(client, "GET", URL, headers=HEADERS)

    assert got.status == 200
    assert [(seen.method, seen.path) for seen in outside.seen] == [("GET", "/things?id=7")]
    assert [(call.method, call.url, call.status, call.outcome) for call in ledger.calls] == [("GET", URL, 200, "sent")]
    assert "proxy-authorization" not in outside.seen[0].headers


def test_deny(caller: Caller, outside: OutsideServer, ledger: Ledger) -> None:
    """In deny, nothing is sent, the client gets a marked 403, and the refusal is reported to the run."""
    client, process = caller
    process.bind(ledger.binding("deny"))

    got = process.request(client, "GET", URL, headers=HEADERS)

    assert (got.status, got.headers["x-pdkernel-egress"]) == (403, "denied")
    assert got.json()["error"]["code"] == "egress_denied"
    assert outside.seen == []
    assert [(call.outcome, call.status) for call in ledger.calls] == [("denied", 403)]
    assert len(ledger.refused) == 1
    assert URL in ledger.refused[0]


def test_stand_in(caller: Caller, outside: OutsideServer, plain_outside: OutsideServer, ledger: Ledger) -> None:
    """A stand-in receives the call with its path, query and original host."""
    client, process = caller
    process.bind(ledger.binding(f"stand-in=http://127.0.0.1:{plain_outside.port}/base"))

    got = process.request(client, "GET", URL, headers=HEADERS)

    assert got.status == 200
    assert outside.seen == []
    seen = plain_outside.seen[0]
    assert seen.path == "/base/things?id=7"
    assert (seen.headers["x-forwarded-host"], seen.headers["x-forwarded-proto"]) == ("api.example.test", "https")
    assert [call.outcome for call in ledger.calls] == ["stand_in"]


def test_record_then_replay(caller: Caller, outside: OutsideServer, ledger: Ledger, tmp_path: Path) -> None:
    """A recorded call is answered from the file, with the same bytes, and nothing leaves."""
    client, process = caller
    process.bind(ledger.binding(f"record={tmp_path / 'calls.jsonl'}"))
    recorded = process.request(client, "GET", URL, headers=HEADERS)
    process.bind(ledger.binding(f"replay={tmp_path / 'calls.jsonl'}"))

    replayed = process.request(client, "GET", URL, headers=HEADERS)

    assert (replayed.status, replayed.body) == (recorded.status, recorded.body)
    assert len(outside.seen) == 1
    assert [call.outcome for call in ledger.calls] == ["sent", "replayed"]


def test_loopback(caller: Caller, plain_outside: OutsideServer, ledger: Ledger) -> None:
    """Every client reaches this machine, in deny too, and the ledger has no row."""
    client, process = caller
    if client.startswith("https."):
        client = "http.request"
    process.bind(ledger.binding("deny"))

    statuses = {
        process.request(client, "GET", f"http://{host}:{plain_outside.port}/").status
        for host in ("localhost", "127.0.0.1")
    }

    assert statuses == {200}
    assert ledger.calls == []
