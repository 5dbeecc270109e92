"""Public addresses only: the targets of a process that a Connect token starts."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.public_addresses import NotPublicError, is_inside, is_public, public_addresses
from pdkernel.egress.tls.client_hello import parse_client_hello
from tests.egress.hosts import client_context, host
from tests.egress.kit import (
    ClientProcess,
    Ledger,
    Loop,
    OutsideServer,
    SentMemory,
    knock,
    node_paths,
    node_process,
    read_all,
    read_until,
    wait_until,
)
from tests.egress.sandboxed import TCP, python, run_sandboxed

PUBLIC = "203.0.114.7"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Names:
    """A name server under the test's control: each name's answers in order; the last answer repeats."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Sequence[str]]] = {}
        self.asked: list[str] = []

    async def lookup(self, host: str, port: int) -> Sequence[str]:
        """The next answer; an address is its own answer."""
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            return [host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def names() -> Names:
    """A name server without names."""
    return Names()


@pytest.fixture
def public(loop: Loop, plain_outside: OutsideServer, names: Names, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with the test's name server and the outside server at a public address."""
    plain_outside.seen.clear()
    resolve = {(PUBLIC, 80): ("127.0.0.1", plain_outside.port)}
    started = loop.run(Gateway.start(tmp_path, host_overrides=resolve, environ={}, lookup=names.lookup))
    yield started
    loop.run(started.close())


@pytest.fixture
def caller_token(public: Gateway, ledger: Ledger) -> str:
    """A caller token for public addresses only, in the mode live."""
    caller_token = public.issue_token(public_only=True)
    public.bind(caller_token, ledger.binding("live", public_only=True))
    return caller_token


@pytest.fixture(params=[False, True], ids=["hook", "guard"])
def process(public: Gateway, ledger: Ledger, request: pytest.FixtureRequest) -> Iterator[ClientProcess]:
    """A Node.js process for public addresses only, with either the hook or the sandbox."""
    if request.param and public.sandbox_kind != "redirect":
        pytest.skip("this system does not permit a seccomp listener")
    started = node_process(public, node_paths()["wheel"], guarded=request.param, public_only=True)
    started.bind(ledger.binding("live", public_only=True))
    yield started
    started.stop()


def ask(gateway: Gateway, caller_token: str, name: str, port: int = 80) -> bytes:
    """The response to a request for *name*."""
    with knock(gateway, caller_token, name, port, secure=False) as sock:
        sock.sendall(REQUEST)
        return read_all(sock)


def code_of(answer: bytes) -> str:
    """The code of a refusal."""
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])


def is_called(service: socket.socket) -> bool:
    """Whether a client waits at *service*."""
    return bool(select.select([service], [], [], 0)[0])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
        "169.254.169.254", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "[::1]", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "2002:7f00:1::",
        "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, reserved and multicast addresses are not public, also as mapped IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "203.0.114.7", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    """Addresses of the public internet are public, also an IPv4 address that NAT64 or a mapped address carries."""
    assert is_public(address)


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "[::1]", "10.0.0.1"])
def test_hosts_that_need_no_lookup(name: str) -> None:
    """This machine's own names and addresses that are not public are inside without a lookup."""
    assert is_inside(name)


def test_other_names_need_a_lookup() -> None:
    """A name that only ends like a name of this machine requires a lookup."""
    assert not is_inside("evillocalhost")


async def test_one_private_address_is_enough(names: Names) -> None:
    """A name with a public and a private address is refused as a whole."""
    names.answers["both.test"] = [[PUBLIC, "10.0.0.1"]]

    with pytest.raises(NotPublicError):
        await public_addresses("both.test", 80, names.lookup)


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::ffff:127.0.0.1", "10.0.0.1"])
@pytest.mark.parametrize("mode", ["live", "deny", "stand-in=slack"])
def test_the_gateway_refuses_this_machine(public: Gateway, ledger: Ledger, mode: str, target: str) -> None:
    """A request to an address that is not public is answered 403 in each mode, and is in the ledger."""
    caller_token = public.issue_token(public_only=True)
    public.bind(caller_token, ledger.binding(mode, public_only=True))

    answer = ask(public, caller_token, target)

    assert answer.startswith(b"HTTP/1.1 403")
    assert code_of(answer) == "egress_not_public"
    assert [call.outcome for call in ledger.calls] == ["denied"]
    assert "public addresses only" in ledger.refused[0]


def test_a_name_with_a_private_address_is_refused(
    public: Gateway, names: Names, caller_token: str, plain_outside: OutsideServer
) -> None:
    """The addresses of a name are checked when the connection is made."""
    names.answers["inside.test"] = [["127.0.0.1"]]

    answer = ask(public, caller_token, "inside.test", plain_outside.port)

    assert code_of(answer) == "egress_not_public"
    assert plain_outside.seen == []


def test_the_checked_address_is_connected(
    public: Gateway, names: Names, caller_token: str, plain_outside: OutsideServer
) -> None:
    """A changed answer of the name server has no effect on a connection; the next lookup is refused."""
    names.answers["moves.test"] = [[PUBLIC], ["127.0.0.1"]]

    first = ask(public, caller_token, "moves.test")
    asked = list(names.asked)
    second = ask(public, caller_token, "moves.test", plain_outside.port)

    assert first.startswith(b"HTTP/1.1 200")
    assert asked == ["moves.test"]
    assert code_of(second) == "egress_not_public"
    assert len(plain_outside.seen) == 1


def test_connections_of_workflows_are_not_used(
    public: Gateway, names: Names, caller_token: str, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """A workflow's connection to a private host is not reused for a process with public addresses only."""
    workflow = public.issue_token()
    public.bind(workflow, ledger.binding("live"))
    names.answers["localhost.localdomain"] = [["127.0.0.1"]]
    port = plain_outside.port
    assert ask(public, workflow, "127.0.0.1", port).startswith(b"HTTP/1.1 200")

    assert code_of(ask(public, caller_token, "localhost.localdomain", port)) == "egress_not_public"


@pytest.mark.parametrize("target", ["127.0.0.1", "inside.test"])
def test_other_protocols_are_refused(
    public: Gateway, names: Names, caller_token: str, ledger: Ledger, target: str
) -> None:
    """Bytes of another protocol do not reach this machine."""
    names.answers["inside.test"] = [["127.0.0.1"]]
    with socket.create_server(("127.0.0.1", 0)) as service:
        with (
            knock(public, caller_token, target, service.getsockname()[1], secure=False) as sock,
            contextlib.suppress(ConnectionResetError),
        ):
            sock.sendall(b"\x00binary\n")
            read_all(sock)
        assert not is_called(service)

    wait_until(lambda: [call.outcome for call in ledger.calls] == ["denied"])


@pytest.mark.parametrize("target", ["127.0.0.1", "inside.test"])
def test_a_websocket_is_refused(public: Gateway, names: Names, caller_token: str, ledger: Ledger, target: str) -> None:
    """A WebSocket to this machine is answered 403."""
    names.answers["inside.test"] = [["127.0.0.1"]]
    with socket.create_server(("127.0.0.1", 0)) as service:
        with knock(public, caller_token, target, service.getsockname()[1], secure=False) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            head = read_until(sock, b"\r\n")
        assert not is_called(service)

    assert head == b"HTTP/1.1 403 Forbidden\r\n"
    assert [call.outcome for call in ledger.calls] == ["denied"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_with_a_private_address_is_refused_inside_tls(
    public: Gateway, names: Names, ledger: Ledger, method: str
) -> None:
    """A client with its own TLS gets the refusal for its request; a request that is sent once is not stored as sent."""
    names.answers["inside.test"] = [["10.0.0.1"]]
    sent = SentMemory()
    caller_token = public.issue_token(public_only=True)
    public.bind(caller_token, ledger.binding("live", public_only=True, sent_requests=sent))
    ca = public.build_environment(caller_token, "python")["NODE_EXTRA_CA_CERTS"]
    with (
        knock(public, caller_token, "inside.test", 443, secure=False) as plain,
        client_context(Path(ca), "http/1.1").wrap_socket(plain, server_hostname="inside.test") as sock,
    ):
        sock.sendall(f"{method} /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi".encode())
        answer = read_all(sock)

    assert code_of(answer) == "egress_not_public"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [
        (method, "https://inside.test/x", "denied")
    ]
    assert sent.kept == {}


def test_an_upstream_proxy_is_given_the_address(public: Gateway, names: Names, ledger: Ledger) -> None:
    """The upstream proxy gets the address instead of the name, and may be on this machine."""
    names.answers["far.test"] = [[PUBLIC]]
    names.answers["inside.test"] = [["10.0.0.1"]]
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    caller_token = public.issue_token(public_only=True)
    with host(proxy) as port:
        public.bind(caller_token, ledger.binding("live", via=f"http://127.0.0.1:{port}", public_only=True))
        answer, refused = ask(public, caller_token, "far.test"), ask(public, caller_token, "inside.test")

    assert answer.endswith(b"ok")
    assert code_of(refused) == "egress_not_public"
    assert [each.partition(b" HTTP")[0] for each in asked] == [f"GET http://{PUBLIC}:80/".encode()]
    assert b"Host: x" in asked[0]


def test_tls_through_an_upstream_proxy_has_the_name(public: Gateway, names: Names, ledger: Ledger) -> None:
    """The upstream proxy gets the address, and TLS with the host still asks for the host's name."""
    names.answers["far.test"] = [[PUBLIC]]
    asked: list[bytes] = []

    def proxy(sock: socket.socket) -> None:
        asked.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        asked.append(sock.recv(1 << 16))

    caller_token = public.issue_token(public_only=True)
    with host(proxy) as port:
        public.bind(caller_token, ledger.binding("live", via=f"http://127.0.0.1:{port}", public_only=True))
        with (
            knock(public, caller_token, "far.test", 443, secure=True) as sock,
            contextlib.suppress(ConnectionResetError),
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: far.test\r\n\r\n")
            read_all(sock)

    assert asked[0].startswith(f"CONNECT {PUBLIC}:443 ".encode())
    assert parse_client_hello(asked[1]).server_name == "far.test"


def test_a_process_does_not_reach_this_machine(process: ClientProcess, plain_outside: OutsideServer) -> None:
    """Node.js gets the gateway's refusal for a service of this machine, by each of its addresses."""
    port = plain_outside.port
    answers = [
        process.request("http.request", "GET", f"http://{name}:{port}/") for name in ("127.0.0.1", "localhost", "127.1")
    ]
    child = process.request("child", "GET", f"http://127.0.0.1:{port}/")

    assert [answer.status for answer in (*answers, child)] == [403] * 4
    assert plain_outside.seen == []


def test_a_redirect_to_this_machine_is_refused(
    process: ClientProcess, names: Names, plain_outside: OutsideServer, public: Gateway
) -> None:
    """A redirect of a public host to this machine is refused."""
    names.answers["away.test"] = [[PUBLIC]]
    port = plain_outside.port

    answer = process.request("fetch", "GET", f"http://away.test/away?http://127.0.0.1:{port}/secret")

    assert answer.status == 403
    assert [seen.path.partition("?")[0] for seen in plain_outside.seen] == ["/away"]


def test_a_process_reaches_public_hosts(process: ClientProcess, names: Names) -> None:
    """A public host is reached."""
    names.answers["far.test"] = [[PUBLIC]]

    assert process.request("fetch", "GET", "http://far.test/").status == 200


def test_unix_sockets_are_refused(process: ClientProcess, tmp_path: Path) -> None:
    """A service of this machine that listens at a Unix socket is not reached."""
    path = str(tmp_path / "service")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        answer = process.ask("unix", "GET", path)

        assert "EACCES" in answer["error"]
        assert not is_called(server)


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox uses seccomp and Landlock, which only Linux has")
def test_native_code_does_not_reach_this_machine(
    public: Gateway, caller_token: str, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """A program with its own sockets gets the refusal by TCP, and cannot send datagrams."""
    if public.sandbox_kind != "redirect":
        pytest.skip("this system does not permit a seccomp listener")
    code = f"""
{TCP}
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"udp", ("127.0.0.1", 9))
except PermissionError:
    print("refused")
"""
    done = run_sandboxed(public, caller_token, python(code, "127.0.0.1", plain_outside.port))

    assert done.stdout.splitlines() == ["HTTP/1.1 403", "refused"]
    assert plain_outside.seen == []
    assert [call.outcome for call in ledger.calls] == ["denied", "denied"]


def test_a_token_and_its_binding_agree(public: Gateway, ledger: Ledger) -> None:
    """A step with public addresses only is not bound to a process without the limit, and vice versa."""
    for public_only in (True, False):
        caller_token = public.issue_token(public_only=not public_only)
        with pytest.raises(ValueError, match="must agree on public_only"):
            public.bind(caller_token, ledger.binding("live", public_only=public_only))


async def test_leads_inside(names: Names, tmp_path: Path) -> None:
    """`leads_inside` is true for a name with an address that is not public, and false for a name without an address."""
    names.answers |= {"far.test": [[PUBLIC]], "inside.test": [["10.0.0.1"]]}

    async def lookup(host: str, port: int) -> Sequence[str]:
        if host == "none.test":
            raise OSError("no address")
        return await names.lookup(host, port)

    gateway = await Gateway.start(tmp_path, environ={}, lookup=lookup)
    found = [await gateway.leads_inside(name, 80) for name in ("far.test", "inside.test", "none.test")]
    await gateway.close()

    assert found == [False, True, False]
