"""The gateway: its start and files, every client in every mode, and the hooks in a step's process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trustme

from pdkernel.egress import CallContext, Gateway
from pdkernel.egress.certificates import _MAX_CACHED_CONTEXTS, CertificateAuthority, _write_new
from pdkernel.egress.gateway import NODE_HOOK
from pdkernel.egress.message import Request
from pdkernel.egress.protocol_sniff import hello_is_complete, parse_client_hello
from pdkernel.errors import ProjectError
from tests.egress.kit import (
    NODE_CLIENTS,
    PYTHON_CLIENTS,
    PYTHON_HOOK,
    TOKEN,
    ClientProcess,
    Ledger,
    Loop,
    OutsideServer,
    bare_python_process,
    closed_port,
    issue_bound_token,
    knock,
    node_paths,
    node_process,
    program,
    python_process,
    read_all,
)

MAX_CONNECTIONS = 24
START = """
import asyncio, sys
from pathlib import Path
from pdkernel.egress import Gateway, parse_policy
async def main():
    gateway = await Gateway.start(Path(sys.argv[1]))
    gateway.issue_token()
    print(sorted({"httpx", "httpcore", "h11", "trustme", "cryptography", "certifi", "pdkernel.egress.router"} & set(sys.modules)))
    await gateway.close()
asyncio.run(main())
"""


def test_an_unused_gateway_loads_no_heavy_library(tmp_path: Path) -> None:
    """HTTP and certificates are loaded with the first connection, and no file is created before."""
    command = [sys.executable, "-c", START, str(tmp_path / "egress")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])

    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "egress").exists()


async def test_the_authoritys_key_has_private_modes(tmp_path: Path) -> None:
    """Only the owner can read the key and its folder."""
    gateway = await Gateway.start(tmp_path / "egress", environ={})
    gateway.build_environment(gateway.issue_token(), "node")
    await gateway.close()

    assert stat.S_IMODE((tmp_path / "egress").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "egress" / "authority.pem").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (tmp_path / "egress" / "ca.pem").read_bytes()
    assert b"PRIVATE" not in (tmp_path / "egress" / "bundle.pem").read_bytes()


def shake_hands(authority: CertificateAuthority, host: str) -> ssl.SSLObject:
    """The client's side of a connection to *host*, whose server has a certificate of *authority*."""
    client = ssl.create_default_context(cafile=str(authority.bundle_file))
    client.set_alpn_protocols(["h2", "http/1.1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    other = authority.server_context(host).wrap_bio(to_server, to_client, server_side=True)
    for side in (one, other, one, other):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return one


@pytest.mark.parametrize("host", ["slack.com", "my_bucket.example.com"])
def test_a_host_certificate_is_trusted_by_the_bundle(tmp_path: Path, host: str) -> None:
    """A client with the project's bundle accepts the gateway's certificate for a host, also with an underscore in its name, and gets HTTP/1.1."""
    client = shake_hands(CertificateAuthority(tmp_path, environ={}), host)

    assert client.getpeercert() is not None
    assert client.selected_alpn_protocol() == "http/1.1"


def test_certificates_of_many_hosts_are_not_all_kept(tmp_path: Path) -> None:
    """The authority keeps the certificates of the hosts that were called last; another one is issued again."""
    authority = CertificateAuthority(tmp_path, environ={})
    first, second = authority.server_context("first.test"), authority.server_context("second.test")
    for number in range(_MAX_CACHED_CONTEXTS - 1):
        authority.server_context(f"host{number}.test")
        assert authority.server_context("first.test") is first

    assert authority.server_context("second.test") is not second
    assert shake_hands(authority, "second.test").getpeercert() is not None


def test_the_users_own_roots_are_in_the_bundle(tmp_path: Path) -> None:
    """Steps still trust a company's root in SSL_CERT_FILE."""
    own = trustme.CA().cert_pem.bytes()
    (tmp_path / "own.pem").write_bytes(own)

    bundle = CertificateAuthority(
        tmp_path / "e", environ={"SSL_CERT_FILE": str(tmp_path / "own.pem")}
    ).bundle_file.read_bytes()

    assert own.strip() in bundle
    assert bundle.count(b"BEGIN CERTIFICATE") > 50


def test_roots_may_lack_a_line_break(tmp_path: Path) -> None:
    """Certificates of a file without a line break at its end stay apart, and a missing file is not an error."""
    own = trustme.CA().cert_pem.bytes()
    (tmp_path / "own.pem").write_bytes(b"# the company\n" + own.strip())

    for name in ("own.pem", "missing.pem"):
        bundle = CertificateAuthority(tmp_path / name[:3], environ={"SSL_CERT_FILE": str(tmp_path / name)}).bundle_file

        ssl.create_default_context(cafile=str(bundle))
        assert b"END CERTIFICATE----------BEGIN" not in bundle.read_bytes()
        assert b"# the company" not in bundle.read_bytes()


def test_processes_that_start_together_use_one_authority(tmp_path: Path) -> None:
    """Authorities of one folder that are created at the same time have one certificate; no temporary file stays."""
    with ThreadPoolExecutor(4) as threads:
        authorities = [CertificateAuthority(tmp_path, environ={}) for _ in range(4)]
        found = list(threads.map(lambda each: each.certificate_file.read_bytes(), authorities))

    assert len(set(found)) == 1
    assert found[0] in (tmp_path / "authority.pem").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["authority.pem", "bundle.pem", "ca.pem", "wgetrc"]


def test_the_authority_of_the_first_process_stays(tmp_path: Path) -> None:
    """A process that finds the file of another one when it writes its own leaves that file, and no temporary one."""
    file = tmp_path / "authority.pem"

    _write_new(file, b"first")
    _write_new(file, b"second")

    assert file.read_bytes() == b"first"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_other_users_can_read_the_certificates(tmp_path: Path) -> None:
    """Steps may run as another user: only the key is private."""
    authority = CertificateAuthority(tmp_path, environ={})

    for file in (authority.certificate_file, authority.bundle_file, authority.wgetrc_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o644


async def test_the_environment_routes_every_client_to_the_gateway(tmp_path: Path) -> None:
    """The environment has proxy variables in both cases, certificates under every name, and the hook for Node.js."""
    gateway = await Gateway.start(tmp_path / "a folder", environ={})
    caller_token = gateway.issue_token()
    environment = gateway.build_environment(caller_token, "bash")
    await gateway.close()

    proxy = f"http://{caller_token}:x@127.0.0.1:{gateway.port}"
    assert {environment[name] for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "all_proxy")} == {proxy}
    assert "127.0.0.1" in environment["no_proxy"]
    assert environment["NODE_OPTIONS"].startswith("--use-openssl-ca --import file:///")
    assert environment["PDK_EGRESS"] == f"127.0.0.1:{gateway.port}"
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "WGETRC"):
        assert Path(environment[name]).is_file()
    assert Path(environment["WGETRC"]).read_text() == f"ca_certificate = {environment['SSL_CERT_FILE']}\n"


async def test_closing_ends_every_connection(tmp_path: Path) -> None:
    """After close, the port is free and no connection is open."""
    gateway = await Gateway.start(tmp_path, environ={})
    caller_token = gateway.issue_token()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f'PDK1 {{"host": "a.test", "port": 443, "tls": true, "token": "{caller_token}"}}\n'.encode())
    writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    await reader.readuntil(b"no-token")

    await gateway.close()

    assert (await reader.read()).endswith(b"}")
    writer.close()
    try:
        await asyncio.open_connection("127.0.0.1", gateway.port)
    except ConnectionRefusedError:
        refused = True
    else:
        refused = False
    assert refused


def hello(name: str | None, protocols: list[str]) -> bytes:
    """A ClientHello as OpenSSL makes one."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError


def test_a_hello_names_its_host_and_protocols() -> None:
    """Name and ALPN are read from OpenSSL's ClientHello; an incomplete one is recognised."""
    data = hello("api.example.test", ["h2", "http/1.1"])

    assert hello_is_complete(data)
    assert not hello_is_complete(data[:-1])
    said = parse_client_hello(data)
    assert (said.server_name, said.protocols, said.speaks_http1) == ("api.example.test", ("h2", "http/1.1"), True)


def test_a_hello_may_be_in_several_records() -> None:
    """A ClientHello that its client splits into records is complete with the last one, and is read as a whole."""
    data = hello("api.example.test", ["h2"])
    message = data[5:]
    records = [data[:3] + len(part).to_bytes(2, "big") + part for part in (message[:50], message[50:])]

    assert [hello_is_complete(seen) for seen in (records[0], b"".join(records))] == [False, True]
    assert parse_client_hello(b"".join(records)) == parse_client_hello(data)
    assert parse_client_hello(data).server_name == "api.example.test"


def test_a_hello_without_alpn() -> None:
    """No ALPN means HTTP/1.1; h2 alone does not."""
    assert parse_client_hello(hello("a.test", [])).speaks_http1
    assert not parse_client_hello(hello("a.test", ["h2"])).speaks_http1
    assert parse_client_hello(b"\x16\x03\x01\x00\x02\x01\x00").server_name is None


def test_a_damaged_authority_is_reported_with_a_fix(tmp_path: Path) -> None:
    """A file without a key or without a certificate is named with a fix."""
    CertificateAuthority(tmp_path / "whole", environ={}).server_context("a.test")
    whole = (tmp_path / "whole" / "authority.pem").read_text()
    key, separator, certificate = whole.partition("-----BEGIN CERTIFICATE-----")

    for text in ("nothing", key, separator + certificate):
        (tmp_path / "authority.pem").write_text(text)
        with pytest.raises(ProjectError, match="is damaged") as caught:
            _ = CertificateAuthority(tmp_path, environ={}).bundle_file
        assert "Delete the file" in caught.value.fix


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    """If certificates cannot be stored, the message names the folder and the reason."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ProjectError, match="cannot be written"):
        _ = CertificateAuthority(tmp_path / "file" / "egress", environ={}).bundle_file


# ── every client in every mode ──────────────────────────────────────────────────────────────────────────


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
        pytest.skip("this system does not permit a seccomp listener")
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


def test_a_stand_in_gets_no_password(gateway: Gateway, plain_outside: OutsideServer, ledger: Ledger) -> None:
    """A user name and a password in the URL of a stand-in are neither in the request nor in the record."""
    plain_outside.seen.clear()
    there = f"127.0.0.1:{plain_outside.port}"
    caller_token = issue_bound_token(gateway, ledger, f"stand-in=http://ada:pw-4712@{there}")
    with knock(gateway, caller_token, "api.example.test", 443, secure=True) as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)

    assert answer.startswith(b"HTTP/1.1 200")
    assert plain_outside.seen[0].headers["host"] == there
    assert [call.note for call in ledger.calls] == [f"answered by the stand-in at http://{there}"]
    assert "pw-4712" not in str(plain_outside.seen)


def test_a_stand_in_gets_the_port_that_the_step_called(
    gateway: Gateway, plain_outside: OutsideServer, ledger: Ledger
) -> None:
    """The original host has its port, if it is not the port of the scheme."""
    plain_outside.seen.clear()
    caller_token = issue_bound_token(gateway, ledger, f"stand-in=http://127.0.0.1:{plain_outside.port}")

    for port in (443, 8443):
        with knock(gateway, caller_token, "api.example.test", port, secure=True) as sock:
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: api.example.test\r\nConnection: close\r\n\r\n")
            read_all(sock)

    hosts = [seen.headers["x-forwarded-host"] for seen in plain_outside.seen]
    assert hosts == ["api.example.test", "api.example.test:8443"]


class Watch:
    """Notes what it sees of calls; implements `CallWatch`."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def leaving(self, context: CallContext, request: Request) -> None:
        """A call leaves."""
        self.seen.append(f"{context.step}: {request.method} {request.target.decode()} leaves")

    async def answered(self, context: CallContext, request: Request) -> None:
        """A call is answered."""
        self.seen.append(f"{context.step}: {request.method} {request.target.decode()} is answered")


async def test_a_watch_sees_the_calls_that_leave(plain_outside: OutsideServer, ledger: Ledger, tmp_path: Path) -> None:
    """A watch sees a call before its first byte leaves and when its answer is known, and a refused call not at all."""
    watch = Watch()
    gateway = await Gateway.start(tmp_path / "egress", environ={}, watch=watch)

    async def call(mode: str, path: str) -> int:
        token = gateway.issue_token()
        gateway.bind(token, ledger.binding(mode))
        async with httpx.AsyncClient(transport=gateway.open_transport(token), trust_env=False) as client:
            return (await client.post(f"https://api.example.test{path}")).status_code

    statuses = [await call("deny", "/a"), await call(f"stand-in=http://127.0.0.1:{plain_outside.port}", "/b")]
    await gateway.close()

    assert statuses == [403, 200]
    assert watch.seen == [f"{ledger.binding('deny').step}: POST /b {what}" for what in ("leaves", "is answered")]


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


# ── the hooks in a step's process ───────────────────────────────────────────────────────────────────────


LOAD_HOOK = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("egress_hook", {str(PYTHON_HOOK)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""


def run_python(code: str, environment: dict[str, str]) -> str:
    """The output of *code* in a process with the hook."""
    command = [sys.executable, "-c", LOAD_HOOK + code]
    environment = {"PATH": os.environ["PATH"]} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def run_node(node: Path, code: str, environment: dict[str, str]) -> str:
    """The output of *code* in a process with the hook."""
    command = [str(node), "--input-type=module", "-e", code]
    environment = {"PATH": os.environ["PATH"]} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


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


@pytest.mark.parametrize("is_own", [True, False])
def test_calls_to_the_own_server_go_to_the_gateway(plain_outside: OutsideServer, node_path: Path, is_own: bool) -> None:
    """Of the ports of this machine, only that of the server of the workflow is not reached without the gateway."""
    port = plain_outside.port
    environment = lost_gateway() | {"PDK_OWN_PORT": str(port if is_own else port + 1)}
    python = f"""
import socket
for host in ("127.0.0.1", "localhost", "::ffff:127.0.0.1"):
    try:
        socket.create_connection((host, {port}), timeout=5).close()
        print("direct")
    except ConnectionRefusedError:
        print("refused")
with socket.socket() as sock:
    print("refused" if sock.connect_ex(("127.0.0.1", {port})) else "direct")
"""
    node = f"""
import net from "node:net";
for (const host of ["127.0.0.1", "localhost", "::ffff:127.0.0.1", undefined]) await new Promise((resolve) => {{
  const socket = net.connect({{ port: {port}, host }});
  for (const [event, word] of [["connect", "direct"], ["error", "refused"]]) {{
    socket.once(event, () => {{ console.log(word); socket.destroy(); resolve(); }});
  }}
}});
"""

    found = run_python(python, environment).split(), run_node(node_path, node, environment).split()

    assert found == (["refused" if is_own else "direct"] * 4,) * 2


def test_python_resolves_no_name(gateway: Gateway, ledger: Ledger) -> None:
    """A name becomes a fixed assigned address and is not resolved; it is its own canonical name, and not a numeric host."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    code = """
import socket
one = socket.getaddrinfo("api.example.test", "https", type=socket.SOCK_STREAM)
again = socket.getaddrinfo("api.example.test", 443, socket.AF_INET, socket.SOCK_STREAM)
print(one == again, one[0][4][1], one[0][4][0].startswith("198.18."), socket.gethostbyname("api.example.test") == one[0][4][0])
six = socket.getaddrinfo("api.example.test", 443, socket.AF_INET6, socket.SOCK_STREAM)
print(six[0][4][0].startswith("::ffff:"), socket.getaddrinfo("other.example.test", 1)[0][4][0] != one[0][4][0])
print(socket.getaddrinfo("api.example.test", 443, flags=socket.AI_CANONNAME)[0][3])
try:
    socket.getaddrinfo("api.example.test", 443, flags=socket.AI_NUMERICHOST)
except socket.gaierror:
    print("name")
"""
    out = run_python(code, gateway.build_environment(caller_token, "python")).split()

    assert out == ["True", "443", "True", "True", "True", "True", "api.example.test", "name"]


def test_python_sockets_of_either_family_reach_the_gateway(
    gateway: Gateway, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """IPv6 sockets, non-blocking sockets and `connect_ex` send the original destination; a socket stays non-blocking."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    code = """
import socket
def ask(sock, connect):
    with sock:
        connect(sock)
        print(sock.getblocking())
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

    assert out.splitlines() == [line for blocks in (True, False, True) for line in (str(blocks), "HTTP/1.1 403")]
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


def test_secure_socket_of_node_has_its_options(gateway: Gateway, ledger: Ledger, node_path: Path) -> None:
    """A secure socket calls its callback, has a timeout, and offers the protocols of a list or a buffer."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    code = """
import tls from "node:tls";
const names = ["h2", "http/1.1"];
const buffer = Buffer.concat(names.map((name) => Buffer.concat([Buffer.from([name.length]), Buffer.from(name)])));
for (const ALPNProtocols of [names, buffer, ["h3"], undefined]) {
  const socket = await new Promise((resolve) => {
    const made = tls.connect({ host: "a.example.test", port: 443, ALPNProtocols }, () => resolve(made));
  });
  console.log(socket.alpnProtocol, socket.getPeerCertificate().subjectaltname);
  socket.destroy();
}
const silent = tls.connect({ host: "a.example.test", port: 443, timeout: 10 });
const ended = new Promise((resolve) => setTimeout(resolve, 10_000, "no timeout").unref());
console.log(await Promise.race([ended, new Promise((resolve) => silent.once("timeout", () => resolve("timeout")))]));
process.exit();
"""
    out = run_node(node_path, code, gateway.build_environment(caller_token, "node"))

    protocols = ["http/1.1", "http/1.1", "h3", "false"]
    assert out.splitlines()[:4] == [f"{each} DNS:a.example.test" for each in protocols]
    assert out.splitlines()[4:] == ["timeout"]


def test_names_of_python_share_no_address(gateway: Gateway, ledger: Ledger) -> None:
    """Of more names than there are addresses, the last ones have different addresses, which lead to them, and an early one gets another."""
    caller_token = issue_bound_token(gateway, ledger, "deny")
    code = """
import socket
names = [f"{number}.example.test" for number in range(65_010)]
assign = socket.gethostbyname.__globals__["_assign_address"]
for name in names:
    assign(name)
for name in (names[0], names[-1], names[-2]):
    address = socket.gethostbyname(name)
    with socket.create_connection((address, 80)) as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        sock.recv(12)
    print(address)
"""
    out = run_python(code, gateway.build_environment(caller_token, "python")).split()

    assert len(set(out)) == 3
    assert [call.url for call in ledger.calls] == [f"http://{n}.example.test/" for n in (0, 65_009, 65_008)]


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
        ["bash", "-c", script, str(node_path)], env=environment, capture_output=True, text=True, check=True, timeout=60
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

    subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)

    assert [(call.method, call.outcome) for call in ledger.calls] == [("GET", "denied")]
    assert outside.seen == []


@pytest.mark.parametrize("opening", [b"", b"PDK1 {", b"GET http://", "PDK1 {line}\n", "request"])
def test_one_client_with_many_connections_does_not_hold_up_others(
    loop: Loop, tmp_path: Path, ledger: Ledger, opening: str | bytes
) -> None:
    """Beyond the limit, a connection of the client with the most ends, whether it is silent, incomplete or has a token."""
    gateway = loop.run(Gateway.start(tmp_path / "egress", environ={}, max_connections=MAX_CONNECTIONS))
    hostile, honest = issue_bound_token(gateway, ledger, "deny"), issue_bound_token(gateway, ledger, "deny")
    line = json.dumps({"host": "a.example", "port": 80, "token": hostile})
    login = base64.b64encode(f"{hostile}:".encode()).decode()
    request = f"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nProxy-Authorization: Basic {login}\r\n\r\n"
    text = opening if isinstance(opening, bytes) else (request if opening == "request" else f"PDK1 {line}\n").encode()
    with contextlib.ExitStack() as opened:
        for _ in range(3 * MAX_CONNECTIONS):
            sock = opened.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=30))
            with contextlib.suppress(ConnectionError):
                sock.sendall(text)
        with knock(gateway, honest, "b.example", 80, secure=False) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n")
            answer = read_all(sock)
        held = len(gateway._connections)
    loop.run(gateway.close())

    assert answer.startswith(b"HTTP/1.1 403")
    assert held <= MAX_CONNECTIONS
