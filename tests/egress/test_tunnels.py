"""Protocols other than HTTP: passed through unread in live, refused in other modes."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from pdkernel.egress import Gateway
from tests.egress.hosts import client_context, echo, gateway_to, greet, host
from tests.egress.kit import (
    TOKEN,
    Ledger,
    Loop,
    issue_bound_token,
    knock,
    outside_context,
    read_all,
    read_until,
    wait_until,
)


def test_a_database_is_reached_in_live(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """Bytes that are not HTTP pass in both directions; the ledger has host and port."""
    with host(echo) as port, gateway_to(loop, tmp_path, port, meant=5432) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock(gateway, caller_token, "db.example.test", 5432, secure=False) as sock:
            sock.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            answer = sock.recv(100)

    assert answer == b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [
        ("CONNECT", "tcp://db.example.test:5432", "sent")
    ]


def test_a_host_that_sends_first_is_reached_in_live(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """A client that waits for the host's greeting gets the greeting."""
    with host(greet) as port, gateway_to(loop, tmp_path, port, meant=25) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live"))
        with knock(gateway, caller_token, "db.example.test", 25, secure=False) as sock:
            greeting = read_until(sock, b"\n")
            sock.sendall(b"QUIT\r\n")

    assert greeting == b"220 ready\r\n"


@pytest.mark.parametrize("mode", ["deny", "allow=slack.com", "stand-in=slack", "record={}/calls.jsonl"])
@pytest.mark.parametrize("first", [b"\x00\x00\x00\x08", b""])
def test_a_database_is_refused_in_other_modes(
    gateway: Gateway, ledger: Ledger, tmp_path: Path, mode: str, first: bytes
) -> None:
    """In other modes, the connection is closed, and the reason is reported to the run."""
    caller_token = issue_bound_token(gateway, ledger, mode.format(tmp_path))
    with knock(gateway, caller_token, "db.example.test", 5432, secure=False) as sock:
        sock.sendall(first)
        try:
            answer = read_all(sock)
        except ConnectionResetError:
            answer = b""

    assert answer == b""
    assert [call.outcome for call in ledger.calls] == ["denied"]
    assert "tcp://db.example.test:5432" in ledger.refused[0]


def test_a_host_can_be_left_unopened(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """A client that pins the host's certificate gets that certificate; the ledger has host and port only."""
    with (
        host(echo, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=443, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live", unopened=("slack.com",)))
        with (
            knock(gateway, caller_token, "slack.com", 443, secure=False) as plain,
            client_context(outside_ca, "http/1.1").wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            sock.sendall(TOKEN.encode())
            answer = sock.recv(100)

    assert answer == TOKEN.encode()
    assert [(call.method, call.url) for call in ledger.calls] == [("CONNECT", "https://slack.com")]


@pytest.mark.parametrize(("mode", "outcome"), [("live", "failed"), ("deny", "denied")])
def test_a_rejected_certificate_is_reported(
    gateway: Gateway, ledger: Ledger, outside_ca: Path, mode: str, outcome: str
) -> None:
    """The ledger has the host and a fix."""
    caller_token = issue_bound_token(gateway, ledger, mode)
    with knock(gateway, caller_token, "slack.com", 443, secure=False) as plain, pytest.raises(ssl.SSLError):
        client_context(outside_ca, "http/1.1").wrap_socket(plain, server_hostname="slack.com")
    wait_until(lambda: bool(ledger.calls))

    assert [(call.url, call.outcome) for call in ledger.calls] == [("https://slack.com", outcome)]
    assert "does not accept the project's certificate" in (ledger.calls[0].note or "")


def test_tls_without_http_is_passed_on(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, outside_ca: Path
) -> None:
    """A mail client's TLS ends at the gateway, which connects to the mail server by TLS."""
    with (
        host(greet, outside_context(authority)) as port,
        gateway_to(loop, tmp_path, port, meant=993, ca=outside_ca) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding("live"))
        project_ca = gateway.build_environment(caller_token, "python")["NODE_EXTRA_CA_CERTS"]
        context = ssl.create_default_context(cafile=project_ca)
        with (
            knock(gateway, caller_token, "slack.com", 993, secure=False) as plain,
            context.wrap_socket(plain, server_hostname="slack.com") as sock,
        ):
            greeting = read_until(sock, b"\n")
            sock.sendall(b"QUIT\r\n")

    assert greeting == b"220 ready\r\n"
