"""Mail by SMTP with STARTTLS: a connection that the gateway cannot read."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.egress.hosts import Play, gateway_to, host
from tests.egress.kit import PYTHON_HOOK, Ledger, Loop, node_paths, outside_context, read_until

PYTHON = f"""
import importlib.util, smtplib, ssl, sys
spec = importlib.util.spec_from_file_location("egress_hook", {str(PYTHON_HOOK)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
try:
    with smtplib.SMTP("slack.com", 587, timeout=10) as mail:
        mail.starttls(context=ssl.create_default_context(cafile=sys.argv[1]))
        print(mail.ehlo()[0])
except (OSError, smtplib.SMTPException) as error:
    print(type(error).__name__)
"""
NODE = """
import net from "node:net"; import tls from "node:tls"; import fs from "node:fs";
const said = (socket) => new Promise((resolve, reject) => {
  socket.once("data", (data) => resolve(String(data))); socket.once("error", reject); socket.once("close", () => reject(new Error("closed")));
});
try {
  const plain = net.connect(587, "slack.com");
  await said(plain);
  plain.write("STARTTLS\\r\\n");
  await said(plain);
  plain.removeAllListeners();
  const secure = tls.connect({ socket: plain, servername: "slack.com", ca: fs.readFileSync(process.argv[1]) });
  await new Promise((resolve, reject) => { secure.once("secureConnect", resolve); secure.once("error", reject); });
  secure.write("EHLO me\\r\\n");
  console.log((await said(secure)).slice(0, 3));
  secure.end("QUIT\\r\\n");
} catch (error) { console.log(error.message); }
"""


def mail_server(context: ssl.SSLContext) -> Play:
    """A mail server for one client: greeting, STARTTLS, and a greeting by name inside."""

    def play(sock: socket.socket) -> None:
        sock.sendall(b"220 ready\r\n")
        while b"STARTTLS" not in (line := read_until(sock, b"\n").upper()):
            if not line:
                return
            sock.sendall(b"250-hello\r\n250 STARTTLS\r\n")
        sock.sendall(b"220 go ahead\r\n")
        with context.wrap_socket(sock, server_side=True) as secure:
            while (line := read_until(secure, b"\n").upper()) and not line.startswith(b"QUIT"):
                secure.sendall(b"250 hello, in private\r\n")
            secure.sendall(b"221 bye\r\n")

    return play


@pytest.fixture(params=["python", "node"])
def client(request: pytest.FixtureRequest, outside_ca: Path) -> list[str]:
    """A program that sends mail."""
    if request.param == "python":
        return [sys.executable, "-c", PYTHON, str(outside_ca)]
    return [str(node_paths()["wheel"]), "--input-type=module", "-e", NODE, str(outside_ca)]


@pytest.mark.parametrize("mode", ["live", "allow=slack.com"])
def test_mail_is_sent_in_live(
    loop: Loop, tmp_path: Path, ledger: Ledger, authority: trustme.CA, client: list[str], mode: str
) -> None:
    """The client's TLS has the mail server's own certificate; the ledger has host and port, and a note that the content was not read."""
    with (
        host(mail_server(outside_context(authority))) as port,
        gateway_to(loop, tmp_path, port, meant=587) as (gateway, caller_token),
    ):
        gateway.bind(caller_token, ledger.binding(mode))
        environment = {"PATH": os.environ["PATH"]} | gateway.build_environment(caller_token, "node")
        done = subprocess.run(client, env=environment, capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.strip() == "250"
    assert [(call.method, call.url, call.outcome) for call in ledger.calls] == [
        ("CONNECT", "tcp://slack.com:587", "sent")
    ]
    assert "passed through unread" in (ledger.calls[0].note or "")


@pytest.mark.parametrize(
    "mode", ["deny", "allow=api.example.test", "record={}/a.jsonl", "replay={}/b.jsonl", "stand-in=slack"]
)
def test_mail_is_refused_in_other_modes(
    loop: Loop, tmp_path: Path, ledger: Ledger, client: list[str], mode: str
) -> None:
    """Mail cannot be recorded or answered by a stand-in: the connection closes before the greeting, and the run gets the refusal."""
    (tmp_path / "b.jsonl").touch()
    with gateway_to(loop, tmp_path, 9, meant=587) as (gateway, caller_token):
        gateway.bind(caller_token, ledger.binding(mode.format(tmp_path)))
        environment = {"PATH": os.environ["PATH"]} | gateway.build_environment(caller_token, "node")
        done = subprocess.run(client, env=environment, capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.strip() in ("SMTPServerDisconnected", "ConnectionResetError", "closed", "read ECONNRESET")
    assert [(call.url, call.outcome) for call in ledger.calls] == [("tcp://slack.com:587", "denied")]
    assert "tcp://slack.com:587" in ledger.refused[0]
