"""
Programs without hooks and proxy variables.

The programs have none of the environment variables of pdkernel. A Python without the hook represents C code, static
programs and children with an empty environment.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from pdkernel.egress import Gateway

PLACE = "192.0.2.77"  # reserved for documentation: no host has this address


HEAD = "GET / HTTP/1.1\\r\\nHost: api.example.test\\r\\nConnection: close\\r\\n\\r\\n"


TCP = f"""
import socket
sock = socket.create_connection((HOST, PORT), timeout=60)
sock.sendall(b"{HEAD}")
print(sock.recv(12).decode())
"""


def own_address() -> str | None:
    """A non-loopback address of this machine, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = str(sock.getsockname()[0])
    return None if address.startswith("127.") else address


def run_sandboxed(
    gateway: Gateway, caller_token: str, command: list[str], guard: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run *command* in the sandbox, without variables of pdkernel in its environment."""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    process = gateway.start_sandboxed(caller_token, start) if guard else start()
    out, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def python(code: str, host: str = PLACE, port: int = 80) -> list[str]:
    """A Python without the hook, which behaves like C code."""
    return [sys.executable, "-I", "-S", "-c", f"HOST, PORT = {host!r}, {port}\n{code}"]
