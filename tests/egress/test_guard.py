"""
The guard: programs that know nothing of hooks and proxy variables, in real processes.

None of them has our environment. "Somewhere else" is an address of this machine that is not loopback where there is one, so that
a hole would be seen at the other end.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.egress import Gateway
from pdkernel.egress.guard.choice import Guard, available, landlock_works
from tests.egress.kit import Ledger, Loop, OutsideServer, node_paths, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux's")

PLACE = "192.0.2.77"  # set aside for documentation: nobody is there
HEAD = "GET / HTTP/1.1\\r\\nHost: api.example.test\\r\\nConnection: close\\r\\n\\r\\n"
TCP = f"""
import socket
sock = socket.create_connection((HOST, PORT), timeout=10)
sock.sendall(b"{HEAD}")
print(sock.recv(12).decode())
"""


def own_address() -> str | None:
    """An address of this machine that other machines would use, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = str(sock.getsockname()[0])
    return None if address.startswith("127.") else address


def run(gateway: Gateway, ticket: str, command: list[str], guard: bool = True) -> subprocess.CompletedProcess[str]:
    """Run *command* under the guard, with nothing of ours in its environment."""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    process = gateway.guarded(ticket, start) if guard else start()
    out, error = process.communicate(timeout=30)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def python(code: str, host: str = PLACE, port: int = 80) -> list[str]:
    """A Python without the hook, as C code would behave."""
    return [sys.executable, "-I", "-S", "-c", f"HOST, PORT = {host!r}, {port}\n{code}"]


@pytest.fixture
def bound(gateway: Gateway, ledger: Ledger) -> Iterator[str]:
    """A ticket whose step's mode is deny; the guard works here."""
    if gateway.guard != "redirect":
        pytest.skip(f"this system has no seccomp listener for us (guard: {gateway.guard})")
    ticket = gateway.open_ticket()
    gateway.bind(ticket, ledger.binding("deny"))
    yield ticket
    gateway.close_ticket(ticket)


def test_here_the_best_guard_works() -> None:
    """On the machines that these tests are for, the self-test finds the seccomp listener."""
    if os.environ.get("CI") != "true" and available() != "redirect":
        pytest.skip("this system has no seccomp listener for us")

    assert available() == "redirect"


def test_native_code_is_answered_by_the_gateway(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A program that opens a socket of its own gets the gateway's refusal, and the ledger has the call."""
    done = run(gateway, bound, python(TCP))

    assert done.stdout == "HTTP/1.1 403\n"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [("GET", f"http://{PLACE}/", "denied")]


@pytest.mark.parametrize("family", ["AF_INET6", "AF_INET"])
def test_a_socket_that_does_not_wait_is_led_to_the_gateway(
    gateway: Gateway, bound: str, ledger: Ledger, family: str
) -> None:
    """Sockets of either family, IPv6 alone too, that are told not to wait are connected all the same."""
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
    done = run(gateway, bound, python(code, host))

    assert done.stdout.splitlines() == ["0", "HTTP/1.1 403"]
    assert [call.url for call in ledger.calls] == [f"http://[{host}]/" if ":" in host else f"http://{host}/"]


def test_a_name_that_a_program_looks_up_itself_is_heard(
    gateway: Gateway, bound: str, ledger: Ledger, outside: OutsideServer
) -> None:
    """The system's own resolver gets an address that stands for the name; nobody outside is asked."""
    done = run(gateway, bound, python(TCP, "api.example.test"))

    assert done.stdout == "HTTP/1.1 403\n"
    assert [call.url for call in ledger.calls] == ["http://api.example.test/"]
    assert outside.seen == []


def test_an_allowed_host_is_reached_by_native_code(
    gateway: Gateway, bound: str, ledger: Ledger, plain_outside: OutsideServer, outside: OutsideServer
) -> None:
    """What the mode lets out is not stopped: the request arrives, with its row."""
    gateway.bind(bound, ledger.binding("allow=api.example.test"))

    done = run(gateway, bound, python(TCP, "api.example.test"))

    assert done.stdout == "HTTP/1.1 200\n"
    assert len(plain_outside.seen) == 1
    assert [call.outcome for call in ledger.calls] == ["sent"]


def test_bash_opens_no_connection_of_its_own(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """`/dev/tcp` of Bash is caught, in a child of a child."""
    script = f"(exec 3<>/dev/tcp/{PLACE}/80; printf '{HEAD}' >&3; head -c 12 <&3)"

    done = run(gateway, bound, ["bash", "-c", f"bash -c {script!r}; echo"])

    assert done.stdout.strip() == "HTTP/1.1 403"
    assert len(ledger.calls) == 1


def test_a_node_child_without_our_variables_is_caught(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """Node.js without hook and variables, as a child that was given an empty environment."""
    node = next(iter(node_paths().values()))
    code = f"fetch('http://{PLACE}/').then((r) => console.log(r.status))"

    done = run(gateway, bound, [str(node), "-e", code])

    assert done.stdout == "403\n"
    assert len(ledger.calls) == 1


def test_a_static_program_is_caught(gateway: Gateway, bound: str, ledger: Ledger, tmp_path: Path) -> None:
    """A program that is linked to no library has nothing that could be preloaded, and is caught."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
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
        pytest.skip("the C compiler makes no static programs here")

    done = run(gateway, bound, [str(tmp_path / "static")])

    assert done.stdout == "HTTP/1.1 403\n"
    assert len(ledger.calls) == 1


SENDING = {
    "connected": "sock.connect((HOST, PORT)); sock.send(b'x')",
    "sendto": "sock.sendto(b'x', (HOST, PORT))",
    "sendmsg": "sock.sendmsg([b'x'], [], 0, (HOST, PORT))",
}


@pytest.mark.parametrize("how", SENDING)
def test_udp_is_refused(gateway: Gateway, bound: str, ledger: Ledger, how: str) -> None:
    """A datagram does not leave, however it is sent; the ledger has one row for a place."""
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
        unguarded = run(gateway, bound, python(code, address, port), guard=False)
        arrived = server.recv(10)
        while arrived and _waits(server):
            server.recv(10)

        done = run(gateway, bound, python(code, address, port))

        assert (unguarded.stdout, arrived) == ("", b"x"), "without the guard it would arrive"
        assert done.stdout.splitlines() == ["refused"] * 3
        assert not _waits(server)
    assert [(call.url, call.outcome) for call in ledger.calls] == [(f"udp://{address}:{port}", "denied")]
    assert f"udp://{address}:{port}" in ledger.refused[0]


def _waits(server: socket.socket) -> bool:
    try:
        return bool(server.recv(10, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_many_datagrams_at_once_are_refused(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """`sendmmsg`, which Python has no function for, is looked into as well."""
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
    done = run(gateway, bound, python(code, PLACE, 514))

    assert done.stdout.split(" ", 1) == ["-1", "Permission denied\n"]
    assert [call.url for call in ledger.calls] == [f"udp://{PLACE}:514"]


def test_a_question_sent_straight_to_a_name_server_is_refused(gateway: Gateway, bound: str, ledger: Ledger) -> None:
    """A datagram with a name of the step's choice would tell it to whoever answers for it."""
    code = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 20, (HOST, PORT))"

    done = run(gateway, bound, python(code, PLACE, 53))

    assert "PermissionError" in done.stderr
    assert [call.url for call in ledger.calls] == [f"udp://{PLACE}:53"]


def test_this_machine_is_left_alone(gateway: Gateway, bound: str, ledger: Ledger, plain_outside: OutsideServer) -> None:
    """Loopback by TCP and UDP, and Unix sockets, work under the guard and have no rows."""
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
    done = run(gateway, bound, python(code, "127.0.0.1", plain_outside.port))

    assert done.stdout.splitlines() == ["HTTP/1.1 200", "unix", "udp"]
    assert ledger.calls == []


def test_a_program_that_outlives_the_gateway_gets_no_connection(loop: Loop, tmp_path: Path) -> None:
    """Nobody answers for it any more, so nothing is let out."""
    gateway = loop.run(Gateway.start(tmp_path, environ={}))
    if gateway.guard != "redirect":
        loop.run(gateway.close())
        pytest.skip("this system has no seccomp listener for us")
    code = "input()\nimport socket\ntry:\n    socket.create_connection((HOST, PORT), 5)\nexcept OSError as e:\n    print(e.strerror)"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={})

    process = gateway.guarded(gateway.open_ticket(), start)
    loop.run(gateway.close())
    out, _ = process.communicate("\n", timeout=20)

    assert out == "Function not implemented\n"


def test_listeners_are_let_go(gateway: Gateway, bound: str) -> None:
    """A process tree that has ended holds no descriptor of ours."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        run(gateway, bound, ["true"])

    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208


@pytest.fixture
def locking(loop: Loop, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway on a system without a seccomp listener."""
    if not landlock_works():
        pytest.skip("this system has no Landlock for TCP")
    guard: Guard = "landlock"
    gateway = loop.run(Gateway.start(tmp_path, environ={}, guard=guard))
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
    """Without a listener, a program that is not led to the gateway reaches no port at all, on this machine neither."""
    make = f"[lambda: socket.create_connection((HOST, 80), 5), lambda: socket.create_connection(('127.0.0.1', {plain_outside.port}), 5)]"

    done = run(locking, locking.open_ticket(), python(f"import socket\nMAKE = {make}\n{REFUSED}"))

    assert done.stdout.splitlines() == ["refused", "refused"]


def test_landlock_comes_with_a_refusal_of_udp(locking: Gateway) -> None:
    """Datagrams, raw sockets and other protocols are refused by their sockets; Unix sockets and TCP's are not."""
    make = (
        "[lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),"
        " lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).sendto(b'x', 0x20000000, (HOST, 80)),"
        " lambda: socket.socket(socket.AF_INET), lambda: socket.socketpair(), lambda: print('fine')]"
    )
    done = run(locking, locking.open_ticket(), python(f"import socket\nMAKE = {make}\n{REFUSED}"))

    assert done.stdout.splitlines() == ["refused"] * 5 + ["fine"]


def test_landlock_leaves_the_gateway_open(locking: Gateway, ledger: Ledger) -> None:
    """A program that is led to the gateway by its variables is answered there."""
    ticket = locking.open_ticket()
    locking.bind(ticket, ledger.binding("deny"))
    preamble = f'PDK1 {{"host": "api.example.test", "port": 80, "ticket": "{ticket}"}}\\n'
    code = f"import socket\nsock = socket.create_connection((HOST, PORT), 5)\nsock.sendall(b'''{preamble}{HEAD}''')\nprint(sock.recv(12).decode())"

    done = run(locking, ticket, python(code, "127.0.0.1", locking.port))

    assert done.stdout == "HTTP/1.1 403\n"
