"""The hooks in a step's process: which connections they route to the gateway."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.gateway import NODE_HOOK
from tests.egress.kit import PYTHON_HOOK, Ledger, OutsideServer, issue_bound_token, node_paths, program

LOAD_HOOK = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("egress_hook", {str(PYTHON_HOOK)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""


def closed_port() -> int:
    """A port without a listener."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run_python(code: str, environment: dict[str, str]) -> str:
    """The output of *code* in a process with the hook."""
    command = [sys.executable, "-c", LOAD_HOOK + code]
    environment = {"PATH": os.environ["PATH"]} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout


def run_node(node: Path, code: str, environment: dict[str, str]) -> str:
    """The output of *code* in a process with the hook."""
    command = [str(node), "--input-type=module", "-e", code]
    environment = {"PATH": os.environ["PATH"]} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.fixture(params=sorted(node_paths()))
def node_path(request: pytest.FixtureRequest) -> Path:
    """Each available Node.js."""
    return node_paths()[request.param]


def lost_gateway() -> dict[str, str]:
    """The hooks' variables of a stopped gateway."""
    return {
        "PDK_EGRESS": f"127.0.0.1:{closed_port()}",
        "PDK_TOKEN": "t",
        "NODE_OPTIONS": f"--import {NODE_HOOK.as_uri()}",
    }


def test_python_without_a_gateway_cannot_connect() -> None:
    """Without the gateway, a connection is refused and does not go out directly."""
    code = """
import socket
for address in (("api.example.test", 443), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=5)
    except ConnectionRefusedError as error:
        print("refused")
"""
    assert run_python(code, lost_gateway()).split() == ["refused", "refused"]


def test_node_without_a_gateway_cannot_connect(node_path: Path) -> None:
    """In Node.js, plain and secure connections are refused without the gateway."""
    code = """
import net from "node:net"; import tls from "node:tls";
for (const open of [() => net.connect(80, "192.0.2.1"), () => tls.connect({ host: "api.example.test", port: 443 })]) {
  const socket = open();
  await new Promise((resolve) => socket.on("error", (error) => { console.log(error.code); resolve(); }));
}
"""
    assert run_node(node_path, code, lost_gateway()).split() == ["ECONNREFUSED", "ECONNREFUSED"]


def test_python_reaches_this_machine_directly(plain_outside: OutsideServer) -> None:
    """Loopback and Unix sockets are not routed, in every notation."""
    code = f"""
import socket, tempfile, os, urllib.request
port = {plain_outside.port}
for host in ("localhost", "127.0.0.1", "::ffff:127.0.0.1"):
    with socket.create_connection((host, port), timeout=5) as sock:
        print("tcp")
with socket.socket() as sock:
    print(sock.connect_ex(("127.0.0.1", port)))
path = os.path.join(tempfile.mkdtemp(), "s")
with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
    server.bind(path); server.listen()
    client.connect(path)
    print("unix")
"""
    assert run_python(code, lost_gateway()).split() == ["tcp", "tcp", "tcp", "0", "unix"]


def test_node_reaches_this_machine_directly(node_path: Path, plain_outside: OutsideServer, tmp_path: Path) -> None:
    """Loopback and Unix sockets are not routed in Node.js."""
    code = f"""
import net from "node:net";
const opened = (socket) => new Promise((resolve, reject) => {{
  socket.on("connect", () => {{ socket.destroy(); resolve(); }}); socket.on("error", reject);
}});
await opened(net.connect({plain_outside.port}, "127.0.0.1"));
await opened(net.connect({{ port: {plain_outside.port} }}));
console.log((await fetch("http://127.0.0.1:{plain_outside.port}/")).status);
const server = net.createServer((socket) => socket.end()).listen({json.dumps(str(tmp_path / "s"))});
await new Promise((resolve) => server.on("listening", resolve));
await opened(net.connect({json.dumps(str(tmp_path / "s"))}));
console.log("unix");
server.close();
"""
    assert run_node(node_path, code, lost_gateway()).split() == ["200", "unix"]


def test_python_resolves_no_name(gateway: Gateway, ledger: Ledger) -> None:
    """A name becomes a fixed assigned address and is not resolved."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    code = """
import socket
one = socket.getaddrinfo("api.example.test", "https", type=socket.SOCK_STREAM)
again = socket.getaddrinfo("api.example.test", 443, socket.AF_INET, socket.SOCK_STREAM)
print(one == again, one[0][4][1], one[0][4][0].startswith("198.18."), socket.gethostbyname("api.example.test") == one[0][4][0])
six = socket.getaddrinfo("api.example.test", 443, socket.AF_INET6, socket.SOCK_STREAM)
print(six[0][4][0].startswith("::ffff:"), socket.getaddrinfo("other.example.test", 1)[0][4][0] != one[0][4][0])
"""
    assert run_python(code, gateway.build_environment(caller_token, "python")).split() == [
        "True",
        "443",
        "True",
        "True",
        "True",
        "True",
    ]


def test_python_sockets_of_either_family_reach_the_gateway(
    gateway: Gateway, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """IPv6 sockets, non-blocking sockets and `connect_ex` send the original destination."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    code = """
import socket
def ask(sock, connect):
    with sock:
        connect(sock)
        sock.setblocking(True)
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        print(sock.recv(12).decode())
address = socket.getaddrinfo("api.example.test", 80, socket.AF_INET6, socket.SOCK_STREAM)[0][4]
ask(socket.socket(socket.AF_INET6), lambda sock: sock.connect(address))
waiting_not = socket.socket()
waiting_not.setblocking(False)
ask(waiting_not, lambda sock: sock.connect_ex(("api.example.test", 80)))
ask(socket.socket(), lambda sock: sock.connect(("203.0.113.9", 80)))
"""
    out = run_python(code, gateway.build_environment(caller_token, "python"))

    assert out.splitlines() == ["HTTP/1.1 403"] * 3
    hosts = [call.url for call in ledger.calls]
    assert hosts == ["http://api.example.test/", "http://api.example.test/", "http://203.0.113.9/"]


def test_node_forms_of_connect_reach_the_gateway(gateway: Gateway, ledger: Ledger, node_path: Path) -> None:
    """Every form of a connect call is routed to the gateway, and early data follows the first line."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    code = """
import net, { Socket, connect as named } from "node:net"; import tls, { connect as namedSecure } from "node:tls";
const request = "GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n";
const ask = (socket) => new Promise((resolve, reject) => {
  let text = ""; socket.on("data", (data) => { text += data; }); socket.on("error", reject);
  socket.on("close", () => { console.log(text.slice(0, 12)); resolve(); });
  socket.write(request);
});
await ask(net.connect(80, "a.example.test"));
await ask(named({ port: 80, host: "b.example.test" }));
await ask(new Socket().connect(80, "c.example.test", () => {}));
await ask(tls.connect(443, "d.example.test", { servername: "d.example.test" }, () => {}));
await ask(namedSecure({ port: 443, host: "e.example.test" }));
const secure = tls.connect({ port: 443, host: "f.example.test", ALPNProtocols: ["http/1.1"] });
await new Promise((resolve) => secure.once("secureConnect", resolve));
console.log(secure.encrypted, secure.authorized, secure.alpnProtocol, secure.getProtocol());
secure.destroy();
"""
    environment = gateway.build_environment(caller_token, "node")

    out = run_node(node_path, code, environment)

    assert out.splitlines() == ["HTTP/1.1 403"] * 5 + ["true true http/1.1 TLSv1.3"]
    assert [call.url for call in ledger.calls][:5] == [
        "http://a.example.test/",
        "http://b.example.test/",
        "http://c.example.test/",
        "https://d.example.test/",
        "https://e.example.test/",
    ]


def test_a_process_without_the_variables_is_unchanged(plain_outside: OutsideServer) -> None:
    """Importing the hook changes nothing if no gateway is set."""
    code = "import socket; print(socket.getaddrinfo.__module__, socket.socket.connect.__qualname__)"

    assert run_python(code, {}).strip() == "socket socket.connect"


def test_children_of_bash_are_routed(gateway: Gateway, ledger: Ledger, node_path: Path, outside: OutsideServer) -> None:
    """Node.js and curl in a Bash step are routed to the gateway."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    script = 'curl -s -o /dev/null -w "%{http_code}\\n" https://api.example.test/; "$0" -e "fetch(\'https://api.example.test/\').then((r) => console.log(r.status))"'
    environment = {"PATH": os.environ["PATH"]} | gateway.build_environment(caller_token, "bash")

    out = subprocess.run(
        ["bash", "-c", script, str(node_path)], env=environment, capture_output=True, text=True, check=True, timeout=30
    ).stdout

    assert out.split() == ["403", "403"]
    assert len(ledger.calls) == 2


@pytest.mark.parametrize(
    "command",
    [
        ["wget", "-q", "--content-on-error", "-O", "-", "https://api.example.test/"],
        ["git", "-c", "credential.helper=", "ls-remote", "https://api.example.test/repository.git"],
    ],
    ids=lambda command: command[0],
)
def test_a_program_with_proxy_support_is_routed(
    gateway: Gateway, ledger: Ledger, outside: OutsideServer, command: list[str], tmp_path: Path
) -> None:
    """A program that reads the proxy variables is routed, in a step of any language, and trusts the gateway's certificate."""
    program(command[0])
    caller_token = issue_bound_token(gateway, ledger, "deny")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | gateway.build_environment(caller_token, "bash")

    subprocess.run(command, env=environment, capture_output=True, check=False, timeout=30)

    assert [(call.method, call.outcome) for call in ledger.calls] == [("GET", "denied")]
    assert outside.seen == []
