"""Fixtures of the tests of outbound calls: one outside server, one gateway and one process per language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pdkernel.egress import Gateway
from tests.egress.kit import (
    HOSTS,
    ClientProcess,
    Ledger,
    Loop,
    OutsideServer,
    node_paths,
    node_process,
    outside_context,
    python_process,
)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The outside's certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def outside_ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate authority's certificate, as a file."""
    file = tmp_path_factory.mktemp("outside") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


@pytest.fixture(scope="session")
def secure_outside(authority: trustme.CA) -> Iterator[OutsideServer]:
    """The outside server on port 443."""
    server = OutsideServer(outside_context(authority))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def plain_outside() -> Iterator[OutsideServer]:
    """The outside server on port 80."""
    server = OutsideServer(None)
    yield server
    server.stop()


@pytest.fixture
def outside(secure_outside: OutsideServer, plain_outside: OutsideServer) -> OutsideServer:
    """The outside server on port 443; the received requests on both ports are reset."""
    secure_outside.seen.clear()
    plain_outside.seen.clear()
    secure_outside.go_on.clear()
    return secure_outside


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    """A running event loop."""
    running = Loop()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def gateway(
    loop: Loop,
    secure_outside: OutsideServer,
    plain_outside: OutsideServer,
    outside_ca: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway that resolves the outside hosts to this machine."""
    resolve = {(host, 443): ("127.0.0.1", secure_outside.port) for host in HOSTS}
    resolve |= {(host, 80): ("127.0.0.1", plain_outside.port) for host in HOSTS}
    folder = tmp_path_factory.mktemp("project") / "egress"
    started = loop.run(Gateway.start(folder, host_overrides=resolve, extra_ca_file=outside_ca, environ={}))
    yield started
    loop.run(started.close())


@pytest.fixture(scope="session")
def python(gateway: Gateway) -> Iterator[ClientProcess]:
    """A Python step's process."""
    process = python_process(gateway)
    yield process
    process.stop()


@pytest.fixture(scope="session", params=sorted(node_paths()))
def node(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[ClientProcess]:
    """A Node.js step's process, for each available Node.js."""
    process = node_process(gateway, node_paths()[request.param])
    yield process
    process.stop()


@pytest.fixture
def ledger() -> Ledger:
    """An empty ledger."""
    return Ledger()


@pytest.fixture
def bound(gateway: Gateway, ledger: Ledger) -> Iterator[str]:
    """A caller token bound to a step with the mode deny; skips without a sandbox."""
    if gateway.sandbox_kind != "redirect":
        pytest.skip(f"this system does not permit a seccomp listener (guard: {gateway.sandbox_kind})")
    caller_token = gateway.issue_token()
    gateway.bind(caller_token, ledger.binding("deny"))
    yield caller_token
    gateway.revoke_token(caller_token)
