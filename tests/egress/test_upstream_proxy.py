"""Calls through an upstream proxy."""

from __future__ import annotations

import socket
from pathlib import Path

from pdkernel.egress import Gateway
from tests.egress.hosts import gateway_to, host
from tests.egress.kit import Ledger, Loop, OutsideServer, issue_bound_token, knock, read_all, read_until


def test_calls_go_through_the_upstream_proxy(loop: Loop, tmp_path: Path, ledger: Ledger) -> None:
    """With `via`, the gateway connects to the proxy and not to the host."""
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with host(proxy) as port, gateway_to(loop, tmp_path, port, meant=1) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding("live", via=f"http://127.0.0.1:{port}"))
        with knock(gateway, caller_token, "nowhere.invalid", 80, secure=False) as sock:
            sock.sendall(b"GET /a%2Fb HTTP/1.1\r\nHost: nowhere.invalid\r\nConnection: close\r\n\r\n")
            answer = read_all(sock)

    assert answer.endswith(b"ok")
    assert asked[0].startswith(b"GET http://nowhere.invalid:80/a%2Fb HTTP/1.1")


def test_two_gateways_in_a_row(
    loop: Loop, gateway: Gateway, outside: OutsideServer, ledger: Ledger, tmp_path: Path
) -> None:
    """An upstream proxy with a name and a password gets https calls too, and no caller token of the first gateway."""
    behind = Ledger()
    second = issue_bound_token(gateway, behind)
    ca = Path(gateway.build_environment(second, "python")["NODE_EXTRA_CA_CERTS"])
    first = loop.run(Gateway.start(tmp_path, extra_ca_file=ca, environ={}))
    caller_token = first.issue_token()
    first.bind(caller_token, ledger.binding("live", via=f"http://{second}:x@127.0.0.1:{gateway.port}"))
    with knock(first, caller_token, "api.example.test", 443, secure=True) as sock:
        sock.sendall(b"GET /far HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)
    loop.run(first.close())

    assert answer.startswith(b"HTTP/1.1 200")
    assert [seen.path for seen in outside.seen] == ["/far"]
    assert ([call.outcome for call in ledger.calls], [call.outcome for call in behind.calls]) == (["sent"], ["sent"])
