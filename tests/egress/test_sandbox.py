"""TCP connections and datagrams of programs without hooks and proxy variables, in the sandbox."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.sandbox import SandboxKind, can_use_landlock, detect_sandbox
from tests.egress.kit import Ledger, Loop, OutsideServer, node_paths, program, wait_until
from tests.egress.sandboxed import HEAD, PLACE, TCP, own_address, python, run_sandboxed

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the sandbox uses seccomp and Landlock, which only Linux has"
)


def test_the_seccomp_listener_works_in_ci() -> None:
    """On the machines of these tests, the self-test finds the seccomp listener."""
    if os.environ.get("CI") != "true" and detect_sandbox() != "redirect":
        pytest.skip("this system does not permit a seccomp listener")

    assert detect_sandbox() == "redirect"


def test_native_code_is_answered_by_the_gateway(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A program with its own socket gets the gateway's refusal, and the ledger has the call."""
    done = run_sandboxed(gateway, bound, python(TCP))

    assert done.stdout == "HTTP/1.1 403\n"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [("GET", f"http://{PLACE}/", "denied")]


@pytest.mark.parametrize("family", ["AF_INET6", "AF_INET"])
def test_a_non_blocking_socket_is_redirected(gateway: Gateway, bound: str, ledger: Ledger, family: str) -> None:
    """Non-blocking sockets of both families, IPv6-only included, are redirected."""
    host = "2001:db8::7" if family == "AF_INET6" else PLACE
    code = f"""
import select, socket
sock = socket.socket(socket.{family})
if socket.{family} == socket.AF_INET6:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
sock.setblocking(False)
print(sock.connect_ex((HOST, PORT)))
select.select([], [sock], [], 10)
sock.sendall(b"{HEAD}")
select.select([sock], [], [], 10)
print(sock.recv(12).decode())
"""
    done = run_sandboxed(gateway, bound, python(code, host))

    assert done.stdout.splitlines() == ["0", "HTTP/1.1 403"]
    assert [call.url for call in ledger.calls] == [f"http://[{host}]/" if ":" in host else f"http://{host}/"]


def test_the_systems_resolver_gets_an_assigned_address(
    gateway: Gateway, bound: str, ledger: Ledger, outside: OutsideServer
) -> None:
    """The system's resolver gets an assigned address for the name, without a query to an outside server."""
    done = run_sandboxed(gateway, bound, python(TCP, "api.example.test"))

    assert done.stdout == "HTTP/1.1 403\n"
    assert [call.url for call in ledger.calls] == ["http://api.example.test/"]
    assert outside.seen == []


def test_names_of_one_step_have_no_address_of_another(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """Each caller token has addresses of its own, so a step that asks for many names takes no address from another step."""
    other = gateway.issue_token()
    gateway.bind(other, ledger.binding("deny"))
    code = "import socket; print(socket.gethostbyname(HOST))"

    found = [
        run_sandboxed(gateway, token, python(code, name)).stdout
        for token, name in ((bound, "api.example.test"), (other, "other.example.test"))
    ]
    gateway.revoke_token(other)

    assert found == ["198.19.0.1\n", "198.19.0.1\n"]


def test_an_allowed_host_is_reached_by_native_code(
    gateway: Gateway, bound: str, ledger: Ledger, plain_outside: OutsideServer, outside: OutsideServer
) -> None:
    """A request that the mode allows arrives, and has its row."""
    gateway.bind(bound, ledger.binding("allow=api.example.test"))

    done = run_sandboxed(gateway, bound, python(TCP, "api.example.test"))

    assert done.stdout == "HTTP/1.1 200\n"
    assert len(plain_outside.seen) == 1
    assert [call.outcome for call in ledger.calls] == ["sent"]


def test_a_program_that_is_interrupted_is_connected_once(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A signal during the system call repeats the call; the gateway gets one correct connection."""
    code = f"""
import signal, socket
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, False)  # as Go, Node.js and libc's `signal` have it
signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
said = []
for _ in range(50):
    with socket.create_connection((HOST, PORT), timeout=None) as sock:
        sock.sendall(b"{HEAD}")
        said.append(sock.recv(12))
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(said), set(said))
"""
    done = run_sandboxed(gateway, bound, python(code))

    assert done.stderr == ""
    assert done.stdout == "50 {b'HTTP/1.1 403'}\n"
    assert len(ledger.calls) == 50


def test_a_call_through_a_proxy_of_the_step_is_refused(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A call through a proxy that a Bash step sets is redirected to the gateway and refused: the proxy hides the target."""
    command = [program("curl"), "-s", "-o", "/dev/null", "-w", "%{http_connect}", "-x", f"http://{PLACE}:3128"]

    done = run_sandboxed(gateway, bound, [*command, "https://a.test/"])

    assert done.stdout == "403"
    assert [(call.method, call.outcome) for call in ledger.calls] == [("CONNECT", "denied")]
    assert "uses its own proxy" in ledger.refused[0]


def test_dev_tcp_of_bash_is_redirected(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """`/dev/tcp` of Bash is redirected, also in a grandchild."""
    script = f"(exec 3<>/dev/tcp/{PLACE}/80; printf '{HEAD}' >&3; head -c 12 <&3)"

    done = run_sandboxed(gateway, bound, ["bash", "-c", f"bash -c {script!r}; echo"])

    assert done.stdout.strip() == "HTTP/1.1 403"
    assert len(ledger.calls) == 1


def test_a_node_child_without_variables_is_redirected(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """Node.js with an empty environment, without hook and proxy variables, is redirected."""
    node = next(iter(node_paths().values()))
    code = f"fetch('http://{PLACE}/').then((r) => console.log(r.status))"

    done = run_sandboxed(gateway, bound, [str(node), "-e", code])

    assert done.stdout == "403\n"
    assert len(ledger.calls) == 1


def test_a_static_program_is_redirected(gateway: Gateway, bound: str, ledger: Ledger, tmp_path: Path) -> None:
    """A statically linked program, which cannot preload a library, is redirected."""
    compiler = program("cc")
    source = tmp_path / "static.c"
    source.write_text(
        "#include <arpa/inet.h>\n#include <stdio.h>\n#include <string.h>\n#include <unistd.h>\n#include <sys/socket.h>\n"
        "int main(void) { struct sockaddr_in to = {0}; char got[13] = {0}; int sock = socket(AF_INET, SOCK_STREAM, 0);\n"
        f'to.sin_family = AF_INET; to.sin_port = htons(80); inet_pton(AF_INET, "{PLACE}", &to.sin_addr);\n'
        "if (connect(sock, (struct sockaddr *)&to, sizeof to)) { perror(0); return 1; }\n"
        f'const char *head = "{HEAD}"; write(sock, head, strlen(head)); read(sock, got, 12); puts(got); return 0; }}\n'
    )
    built = subprocess.run([compiler, "-static", "-o", tmp_path / "static", source], capture_output=True, check=False)
    if built.returncode:
        pytest.skip("the C compiler has no static C library")

    done = run_sandboxed(gateway, bound, [str(tmp_path / "static")])

    assert done.stdout == "HTTP/1.1 403\n"
    assert len(ledger.calls) == 1


def test_this_machine_is_reached_directly(
    gateway: Gateway, bound: str, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """Loopback by TCP and UDP, and Unix sockets, work in the sandbox and have no rows."""
    code = f"""
{TCP}
one, two = socket.socketpair()
one.sendmsg([b"unix"])
print(two.recv(4).decode())
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"udp", server.getsockname())
print(server.recv(3).decode())
"""
    done = run_sandboxed(gateway, bound, python(code, "127.0.0.1", plain_outside.port))

    assert done.stdout.splitlines() == ["HTTP/1.1 200", "unix", "udp"]
    assert ledger.calls == []


def test_a_program_calls_its_own_server_with_the_mark(
    gateway: Gateway, bound: str, ledger: Ledger, plain_outside: OutsideServer
) -> None:
    """A program that connects to the port of its server without the gateway is led there, so that the server recognizes it."""
    gateway.own_server.announce(f"http://127.0.0.1:{plain_outside.port}", b"mark")
    plain_outside.seen.clear()
    code = """
import socket
sock = socket.create_connection((HOST, PORT), 20)
sock.sendall(b"GET /-/runs HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
print(sock.recv(12).decode())
"""
    try:
        done = run_sandboxed(gateway, bound, python(code, "127.0.0.1", plain_outside.port))
    finally:
        gateway.own_server.local_port = None

    assert done.stdout.splitlines() == ["HTTP/1.1 200"]
    assert [seen.headers["x-pdkernel-caller"].partition(".")[0] for seen in plain_outside.seen] == ["mark"]
    assert ledger.calls == []


def test_a_program_that_outlives_the_gateway_gets_no_connection(loop: Loop, tmp_path: Path) -> None:
    """A process without a supervisor cannot connect."""
    gateway = loop.run(Gateway.start(tmp_path, environ={}))
    if gateway.sandbox_kind != "redirect":
        loop.run(gateway.close())
        pytest.skip("this system does not permit a seccomp listener")
    code = "input()\nimport socket\ntry:\n    socket.create_connection((HOST, PORT), 5)\nexcept OSError as e:\n    print(e.strerror)"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={})

    process = gateway.start_sandboxed(gateway.issue_token(), start)
    loop.run(gateway.close())
    out, _ = process.communicate("\n", timeout=60)

    assert out == "Function not implemented\n"


def test_listeners_are_closed(gateway: Gateway, bound: str) -> None:
    """After the end of a process tree, its listener is closed."""
    before = open_descriptors()
    for _ in range(5):
        run_sandboxed(gateway, bound, ["true"])

    wait_until(lambda: open_descriptors() <= before)
    assert open_descriptors() <= before


def open_descriptors() -> int:
    """The number of open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


# ── datagrams ───────────────────────────────────────────────────────────────────────────────────────────


SENDING = {
    "connected": "sock.connect((HOST, PORT)); sock.send(b'x')",
    "sendto": "sock.sendto(b'x', (HOST, PORT))",
    "sendmsg": "sock.sendmsg([b'x'], [], 0, (HOST, PORT))",
}


@pytest.mark.parametrize("how", SENDING)
def test_udp_is_refused(gateway: Gateway, bound: str, ledger: Ledger, how: str) -> None:
    """A datagram is refused for every system call; the ledger has one row for each target."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))
        server.setblocking(False)
        port = server.getsockname()[1]
        code = f"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3):
    try:
        {SENDING[how]}
    except PermissionError:
        print("refused")
"""
        unguarded = run_sandboxed(gateway, bound, python(code, address, port), guard=False)
        arrived = server.recv(10)
        while arrived and _waits(server):
            server.recv(10)

        done = run_sandboxed(gateway, bound, python(code, address, port))

        assert (unguarded.stdout, arrived) == ("", b"x"), "without the guard it would arrive"
        assert done.stdout.splitlines() == ["refused"] * 3
        assert not _waits(server)
    assert [(call.url, call.outcome) for call in ledger.calls] == [(f"udp://{address}:{port}", "denied")]
    assert f"udp://{address}:{port}" in ledger.refused[0]


def test_the_probe_of_a_browser_is_not_a_call(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """Chromium asks the system for a route to an IPv6 address: it finds none, and the ledger has no row."""
    code = "import socket\nprint(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect_ex((HOST, PORT)) == 101)"

    done = run_sandboxed(gateway, bound, python(code, "2001:4860:4860::8888", 443))

    assert done.stdout == "True\n"
    assert ledger.calls == []


def test_the_probe_of_a_resolver_is_not_a_call(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A resolver connects a datagram socket to an address to sort the addresses of a name: that works, and has no row."""
    if own_address() is None:
        pytest.skip("this machine has no route to another")
    code = "import socket\nprint(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex((HOST, PORT)))"

    done = run_sandboxed(gateway, bound, python(code, PLACE, 9))

    assert done.stdout == "0\n"
    assert ledger.calls == []


def _waits(server: socket.socket) -> bool:
    try:
        return bool(server.recv(10, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_many_datagrams_at_once_are_refused(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """`sendmmsg`, which has no Python function, is refused too."""
    code = """
import ctypes, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
name = ctypes.create_string_buffer(struct.pack("=H", socket.AF_INET) + struct.pack("!H", PORT) + socket.inet_aton(HOST) + bytes(8), 16)
data = ctypes.create_string_buffer(b"x", 1)
piece = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(data), 1), 16)
local = struct.pack("=QIIQQQQiIII", 0, 0, 0, ctypes.addressof(piece), 1, 0, 0, 0, 0, 0, 0)[:64]
there = struct.pack("=QIIQQQQiIII", ctypes.addressof(name), 16, 0, ctypes.addressof(piece), 1, 0, 0, 0, 0, 0, 0)[:64]
messages = ctypes.create_string_buffer(local.ljust(64, bytes(1)) + there.ljust(64, bytes(1)), 128)
print(libc.sendmmsg(sock.fileno(), messages, 2, 0), os.strerror(ctypes.get_errno()))
"""
    done = run_sandboxed(gateway, bound, python(code, PLACE, 514))

    assert done.stdout.split(" ", 1) == ["-1", "Permission denied\n"]
    assert [call.url for call in ledger.calls] == [f"udp://{PLACE}:514"]


def test_a_query_to_a_name_server_is_refused(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A DNS datagram is refused: its name could carry data to an outside server."""
    code = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 20, (HOST, PORT))"

    done = run_sandboxed(gateway, bound, python(code, PLACE, 53))

    assert "PermissionError" in done.stderr
    assert [call.url for call in ledger.calls] == [f"udp://{PLACE}:53"]


# ── systems without a seccomp listener ──────────────────────────────────────────────────────────────────


def test_a_program_runs_without_a_sandbox(loop: Loop, plain_outside: OutsideServer, tmp_path: Path) -> None:
    """On a system without a sandbox, programs start as they are, and a process has no plan to sandbox itself."""
    kind: SandboxKind = "none"
    gateway = loop.run(Gateway.start(tmp_path, environ={}, sandbox_kind=kind))
    try:
        caller_token = gateway.issue_token()
        done = run_sandboxed(gateway, caller_token, python(TCP, "127.0.0.1", plain_outside.port))
        plan = gateway.plan_sandbox(caller_token)
    finally:
        loop.run(gateway.close())

    assert (done.stdout, plan) == ("HTTP/1.1 200\n", None)


@pytest.fixture
def locking(loop: Loop, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway on a system without a seccomp listener."""
    if not can_use_landlock():
        pytest.skip("this system has no Landlock for TCP")
    guard: SandboxKind = "landlock"
    gateway = loop.run(Gateway.start(tmp_path, environ={}, sandbox_kind=guard))
    yield gateway
    loop.run(gateway.close())


REFUSED = """
import socket
for make in MAKE:
    try:
        make()
    except PermissionError:
        print("refused")
"""


def test_landlock_refuses_every_other_port(locking: Gateway, plain_outside: OutsideServer) -> None:
    """Without a listener, a program without proxy variables reaches no port, also not on this machine."""
    make = f"[lambda: socket.create_connection((HOST, 80), 5), lambda: socket.create_connection(('127.0.0.1', {plain_outside.port}), 5)]"

    done = run_sandboxed(locking, locking.issue_token(), python(f"import socket\nMAKE = {make}\n{REFUSED}"))

    assert done.stdout.splitlines() == ["refused", "refused"]


def test_landlock_refuses_udp(locking: Gateway) -> None:
    """Datagrams, raw sockets and other protocols are refused; Unix sockets and TCP sockets are not."""
    make = (
        "[lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).sendto(b'x', 0x20000000, (HOST, 80)),"
        " lambda: socket.socket(socket.AF_INET), lambda: socket.socketpair(), lambda: print('fine')]"
    )
    done = run_sandboxed(locking, locking.issue_token(), python(f"import socket\nMAKE = {make}\n{REFUSED}"))

    assert done.stdout.splitlines() == ["refused"] * 5 + ["fine"]


def test_landlock_allows_the_gateway(locking: Gateway, ledger: Ledger) -> None:
    """The gateway answers a program that uses the proxy variables."""
    caller_token = locking.issue_token()
    locking.bind(caller_token, ledger.binding("deny"))
    preamble = f'PDK1 {{"host": "api.example.test", "port": 80, "token": "{caller_token}"}}\\n'
    code = f"import socket\nsock = socket.create_connection((HOST, PORT), 5)\nsock.sendall(b'''{preamble}{HEAD}''')\nprint(sock.recv(12).decode())"

    done = run_sandboxed(locking, caller_token, python(code, "127.0.0.1", locking.port))

    assert done.stdout == "HTTP/1.1 403\n"
