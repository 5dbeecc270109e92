"""Connections that the processes of steps open themselves, as a server of root sees them."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.runtimes.isolation import find_step_users
from pdkernel.server.step_connections import is_step_connection
from tests.builders import a_workflow, bash_step
from tests.server.site import site_of

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root has other users for its steps"
)

STEP_USER = find_step_users().start + 7
SERVICE_USER = 61_500
"""A user id that systemd gives to services (`DynamicUser`), and that steps have only where no larger ids are available."""
CONNECT = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); sys.stdin.read()"
"""A program that connects to an address, and keeps the connection until its input ends."""


def accept(listener: socket.socket, user: int | None) -> bool:
    """Whether the connection of a process of *user* is a step's."""
    address = listener.getsockname()
    command = [sys.executable, "-S", "-E", "-c", CONNECT, address[0], str(address[1])]
    if user is not None:
        command = [
            "setpriv",
            "--reuid",
            str(user),
            "--regid",
            str(user),
            "--clear-groups",
            "/usr/bin/python3",
            *command[1:],
        ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/") as process:
        connection, peer = listener.accept()
        with connection:
            found = is_step_connection(connection.getsockname(), peer)
        process.communicate(timeout=60)
    return found


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize(("user", "is_step"), [(STEP_USER, True), (SERVICE_USER, False), (65534, False), (None, False)])
def test_the_user_of_a_connection(family: socket.AddressFamily, host: str, user: int | None, *, is_step: bool) -> None:
    """A connection of a step's user is a step's; that of another user or of this one is not."""
    with socket.create_server((host, 0), family=family) as listener:
        assert accept(listener, user) == is_step


@pytest.mark.parametrize("resets", [False, True])
def test_a_connection_that_is_closed_may_be_a_steps(*, resets: bool) -> None:
    """A step could send its request and close before the server asks whose connection it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", resets, 0))
        connection, peer = listener.accept()
        with connection:
            assert is_step_connection(connection.getsockname(), peer)


def test_a_client_of_another_machine_is_not_a_step() -> None:
    """Only steps of this machine have the user ids of steps."""
    assert not is_step_connection(("192.0.2.1", 80), ("192.0.2.2", 4000))


CALL = r"""
set -f
url=$(grep -oE 'http://[^"]*/called/[a-z]+' "$PIPEDREAM_STEPS" | head -1)
for options in "" "--noproxy *" "--noproxy * --http1.0"; do
  code=$(curl -s -m 20 -o /dev/null -w '%{http_code}' $options -H "x-pd-external-user-id: ${url##*/}" "$url")
  codes="$codes$code "
done
echo "codes=$codes" >> "$PIPEDREAM_EXPORTS"
"""


@pytest.mark.parametrize(("user", "codes"), [("bob", "403 403 403 "), ("ada", "200 403 403 ")])
async def test_a_program_of_a_step_cannot_name_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, codes: str
) -> None:
    """Not past the gateway either, as the policy `live` permits; with the usual options it calls as the user of its run."""
    monkeypatch.delenv(STEP_PATHS_VARIABLE)  # with it, steps have the user of the server
    call = a_workflow(bash_step("call", CALL), name="Call")
    async with site_of(tmp_path, a_workflow(name="Who"), call, egress="live") as site:
        body = {"url": f"{site.url}{site.path('Who')}/called/{user}"}
        await site.http.post(site.path("Call"), json=body, headers={"x-pd-external-user-id": "ada"})
        runs = await site.runs()

    (run,) = (each for each in runs if each.workflow == "Call")
    assert run.step("call").exports == {"codes": codes}
    assert {each.external_user for each in runs} == {"ada"}
