"""Caller tokens: the step of a call, and calls without a step."""

from __future__ import annotations

import base64
import contextlib
import socket

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.caller_tokens import CallerToken, CallerTokens, StepBinding, binding_of
from pdkernel.egress.recording import MemoryRecording
from tests.egress.kit import ClientProcess, Ledger, OutsideServer, issue_bound_token, knock, read_all, read_until

URL = "https://api.example.test/things"


@pytest.mark.parametrize("client", ["requests", "httpx"])
def test_a_kept_connection_follows_the_binding(
    client: str, python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """Two requests of one connection belong to the two steps that made them."""
    second = Ledger()
    python.bind(ledger.binding("live", step="one"))
    python.request(client, "GET", URL)
    python.bind(second.binding("deny", step="two"))
    refused = python.request(client, "GET", URL)

    assert ([call.outcome for call in ledger.calls], [call.outcome for call in second.calls]) == (["sent"], ["denied"])
    assert refused.status == 403


def test_a_kept_connection_of_node_follows_the_binding(
    node: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """A kept-alive connection of Node.js follows the binding too."""
    second = Ledger()
    node.bind(ledger.binding("live", step="one"))
    node.request("https.agent", "GET", URL)
    node.bind(second.binding("live", step="two"))
    node.request("https.agent", "GET", URL)

    assert (len(ledger.calls), len(second.calls)) == (1, 1)


def test_two_processes_are_separate(
    python: ClientProcess, node: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """Calls of each process belong to its own step, with that step's mode."""
    other = Ledger()
    python.bind(ledger.binding("live"))
    node.bind(other.binding("deny"))
    python.request("requests", "GET", URL)
    node.request("fetch", "GET", URL)

    assert ([call.outcome for call in ledger.calls], [call.outcome for call in other.calls]) == (["sent"], ["denied"])


def test_a_call_after_its_step_is_refused(python: ClientProcess, gateway: Gateway, outside: OutsideServer) -> None:
    """Code that continues after its step cannot send."""
    gateway.unbind(python.caller_token)

    got = python.request("requests", "POST", URL, "late")

    assert (got.status, got.headers["x-pdkernel-egress"]) == (403, "no-token")
    assert outside.seen == []


@pytest.mark.parametrize(
    "first",
    [
        b"CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    ],
    ids=["proxy", "websocket", "database"],
)
def test_a_connection_after_its_step_is_refused(gateway: Gateway, plain_outside: OutsideServer, first: bytes) -> None:
    """Between steps, a proxy and a WebSocket get 403, another protocol is closed, and the host gets nothing."""
    plain_outside.seen.clear()
    with knock(gateway, gateway.issue_token(), "api.example.test", 80, secure=False) as sock:
        sock.sendall(first)
        try:
            answer = read_until(sock, b"\r\n\r\n")
        except ConnectionResetError:
            answer = b""

    assert answer == b"" if first.startswith(b"\0") else answer.startswith(b"HTTP/1.1 403")
    assert plain_outside.seen == []


def test_an_unknown_token_behind_the_hook_is_refused(gateway: Gateway, outside: OutsideServer) -> None:
    """An unknown caller token gets 403: a response, so that clients do not retry."""
    with knock(gateway, "guessed", "api.example.test", 443, secure=True) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 403")
    assert b"x-pdkernel-egress: no-token" in answer
    assert outside.seen == []


@pytest.mark.parametrize("target", ["http://api.example.test/", "/"])
def test_an_unknown_token_in_absolute_form_is_refused(
    gateway: Gateway, plain_outside: OutsideServer, target: str
) -> None:
    """A request without a caller token gets 403 for any target."""
    plain_outside.seen.clear()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n".encode())
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 403")
    assert plain_outside.seen == []


def test_connect_is_challenged_and_may_answer_on_the_same_connection(
    gateway: Gateway, outside: OutsideServer, ledger: Ledger
) -> None:
    """An unknown caller token gets 407; git answers it without a new connection."""
    caller_token = issue_bound_token(gateway, ledger)
    user = base64.b64encode(f"{caller_token}:x".encode()).decode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.sendall(b"CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443\r\n\r\n")
        challenge = read_until(sock, b"\r\n\r\n")
        sock.sendall(f"CONNECT api.example.test:443 HTTP/1.1\r\nProxy-Authorization: Basic {user}\r\n\r\n".encode())
        established = read_until(sock, b"\r\n\r\n")

    assert challenge.startswith(b"HTTP/1.1 407")
    assert established.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("first", [b"PDK1 not json\n", b"CONNECT nowhere HTTP/1.1\r\n\r\n"])
def test_an_invalid_first_line_is_a_bad_request(gateway: Gateway, first: bytes) -> None:
    """An invalid first line is answered with 400, and the gateway continues."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.sendall(first)
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("first", [b"\x00\x01\x02\x03\x04\x05\x06\x07\x08", b"\x16\x03\x01\x00\x05hello", b""])
def test_an_unknown_protocol_is_closed(gateway: Gateway, first: bytes) -> None:
    """Bytes of none of the three protocols get no response."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.sendall(first)
        try:
            sock.shutdown(socket.SHUT_WR)
            answer = read_all(sock)
        except OSError:
            answer = b""

    assert answer == b""


def test_a_first_line_in_pieces_is_joined(gateway: Gateway, outside: OutsideServer, ledger: Ledger) -> None:
    """The first line may arrive in several parts, with the request behind it."""
    caller_token = issue_bound_token(gateway, ledger)
    line = f'PDK1 {{"host": "api.example.test", "port": 443, "tls": true, "token": "{caller_token}"}}\n'.encode()
    request = b"GET /pieces HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (line[:3], line[3:20], line[20:] + request[:4], request[4:]):
            sock.sendall(part)
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 200")
    assert outside.seen[0].path == "/pieces"


def test_revoking_a_token_ends_its_connections(gateway: Gateway, ledger: Ledger) -> None:
    """After its token is revoked, a process has no connection."""
    caller_token = issue_bound_token(gateway, ledger)
    with knock(gateway, caller_token, "api.example.test", 443, secure=True) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(sock, b"\r\n\r\n")
        gateway.revoke_token(caller_token)
        rest = read_all(sock)

    assert b"HTTP/1.1" not in rest


def test_binding_a_revoked_token_is_an_error(gateway: Gateway, ledger: Ledger) -> None:
    """A revoked caller token has no step."""
    caller_token = gateway.issue_token()
    gateway.revoke_token(caller_token)

    with pytest.raises(KeyError):
        gateway.bind(caller_token, ledger.binding("live"))
    gateway.unbind(caller_token)
    gateway.revoke_token(caller_token)


@pytest.mark.parametrize("of_token", [False, True])
@pytest.mark.parametrize("of_policy", [False, True])
def test_token_and_policy_agree_on_public_addresses(ledger: Ledger, of_token: bool, of_policy: bool) -> None:
    """A token is bound only to a policy with the same limit to public addresses; by default there is no limit."""
    tokens = CallerTokens()
    token = tokens.issue(public_only=True) if of_token else tokens.issue()

    with contextlib.nullcontext() if of_token == of_policy else pytest.raises(ValueError, match="public_only"):
        tokens.bind(token, ledger.binding("live", public_only=of_policy))

    assert (binding_of(tokens.find(token)) is not None) == (of_token == of_policy)
    tokens.unbind(token)
    assert binding_of(tokens.find(token)) is None
    assert tokens.revoke(token) is not None
    assert [tokens.find(each) for each in (token, "", None)] == [None] * 3


def test_causes_of_dropped_connections_are_limited() -> None:
    """The causes of the last 256 dropped connections are stored by port, until a new connection uses the port."""
    caller = CallerToken("token", public_only=False)
    for port in range(1, 258):
        caller.add_failure(port, {"n": port})

    caller.forget_failure(3)
    caller.forget_failure(3)

    assert [caller.failure(port) for port in (1, 2, 3, 257)] == [{}, {"n": 2}, {}, {"n": 257}]


def test_requests_of_a_binding_are_counted(ledger: Ledger) -> None:
    """Equal requests are numbered from zero, and a blocked URL is new once; a new binding starts again."""
    for _ in range(2):
        binding = StepBinding(ledger.binding("live"))
        assert [binding.next_ordinal(each) for each in ("a", "b", "a", "a")] == [0, 0, 1, 2]
        assert [binding.is_first_block(each) for each in ("a", "b", "a")] == [True, True, False]


@pytest.mark.parametrize(("mode", "in_memory", "recorded"), [("live", False, False), ("live", True, True), ("record=calls.jsonl", False, True), ("deny", False, False)])  # fmt: skip
def test_recorded_calls(ledger: Ledger, mode: str, in_memory: bool, recorded: bool) -> None:
    """Calls are recorded in the mode `record`, and in each mode if the run has a recording in memory."""
    context = ledger.binding(mode, memory_recording=MemoryRecording() if in_memory else None)

    assert context.is_recorded == recorded


@pytest.mark.parametrize("mode", ["live", "deny"])
def test_a_proxy_of_the_step_is_refused(gateway: Gateway, ledger: Ledger, outside: OutsideServer, mode: str) -> None:
    """A CONNECT request behind the hook is refused, because it hides the target."""
    caller_token = issue_bound_token(gateway, ledger, mode)
    with knock(gateway, caller_token, "other.example.test", 80, secure=False) as sock:
        sock.sendall(b"CONNECT api.example.test:443 HTTP/1.1\r\nHost: api.example.test:443\r\n\r\n")
        answer = read_until(sock, b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 403")
    assert "CONNECT api.example.test:443 was not sent" in ledger.refused[0]
    assert "uses its own proxy (http://other.example.test)" in ledger.refused[0]
    assert "--via http://HOST:PORT" in ledger.refused[0]


def test_an_internationalized_name_is_reached_by_its_ascii_form(gateway: Gateway, ledger: Ledger) -> None:
    """The gateway converts a name that the hook passes on unchanged to its DNS form."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    with knock(gateway, caller_token, "münchen.example", 443, secure=True) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        read_all(sock)

    assert [call.url for call in ledger.calls] == ["https://xn--mnchen-3ya.example/"]
