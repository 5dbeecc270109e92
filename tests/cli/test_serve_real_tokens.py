"""Tokens that open endpoints of a server with a real project: tokens of Pipedream, and tokens of local clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.accounts.upstream import CLIENT_ID, CLIENT_SECRET, PROJECT, Upstream, running_upstream
from tests.cli.fork_server import ForkServer
from tests.cli.real_server import STEP, WORKFLOW, Server, serving
from tests.notebook_files import notebook_of

INVOKE = "connect:workflow:invoke"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The API of the real project."""
    with running_upstream() as api:
        yield api


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a workflow."""
    folder = tmp_path_factory.mktemp("served")
    notebook_of(folder / "greet.ipynb", WORKFLOW, STEP)
    return folder


@pytest.fixture(scope="module")
def server(fork_server: ForkServer, upstream: Upstream, folder: Path) -> Iterator[Server]:
    """The project, served."""
    with serving(fork_server, folder, "greet.ipynb", **upstream.environ, PDKERNEL_EGRESS="deny") as running:
        yield running


def token(base: str, client: str = CLIENT_ID, *, secret: str = CLIENT_SECRET, scope: str = "") -> str:
    """A token from the token endpoint at *base*."""
    asked = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret}
    answer = httpx.post(f"{base}/v1/oauth/token", json={**asked, "scope": scope} if scope else asked, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def invoke(server: Server, bearer: str) -> httpx.Response:
    """Call the workflow as Ada."""
    headers = {"authorization": f"Bearer {bearer}", "x-pd-external-user-id": "ada", "x-pd-environment": "development"}
    return httpx.post(server.endpoint, json={}, headers=headers, timeout=30)


@pytest.mark.parametrize(
    ("client", "scope", "status"),
    [
        (CLIENT_ID, "", 200),
        (CLIENT_ID, INVOKE, 200),
        (CLIENT_ID, f"connect:accounts:read {INVOKE}", 200),
        (CLIENT_ID, "connect:accounts:read", 401),
        ("client-of-ours", "", 200),
        ("client-of-ours", INVOKE, 200),
        ("client-of-others", "", 401),
        ("client-of-others", INVOKE, 401),
    ],
)
def test_a_token_from_the_local_token_endpoint(server: Server, client: str, scope: str, status: int) -> None:
    """The token opens endpoints if its client is of the project's workspace and the scope allows workflows."""
    assert invoke(server, token(server.url, client, scope=scope)).status_code == status


@pytest.mark.parametrize(
    ("client", "scope", "status"),
    [("client-of-ours", "", 200), (CLIENT_ID, "connect:accounts:read", 401), ("client-of-others", "", 401)],
)
def test_a_token_from_pipedream(server: Server, upstream: Upstream, client: str, scope: str, status: int) -> None:
    """The token opens endpoints if Pipedream shows its holder the project and the scope allows workflows."""
    assert invoke(server, token(upstream.url, client, scope=scope)).status_code == status


def test_a_token_is_known_after_a_restart(fork_server: ForkServer, upstream: Upstream, tmp_path: Path) -> None:
    """A token issued through one process opens the endpoints of the next process of the same project."""
    notebook_of(tmp_path / "greet.ipynb", WORKFLOW, STEP)
    with serving(fork_server, tmp_path, "greet.ipynb", **upstream.environ, PDKERNEL_EGRESS="deny") as first:
        bearer = token(first.url, scope=INVOKE)

    with serving(fork_server, tmp_path, "greet.ipynb", **upstream.environ, PDKERNEL_EGRESS="deny") as second:
        assert invoke(second, bearer).status_code == 200


def test_a_token_revoked_at_the_local_endpoint(server: Server) -> None:
    """The token is revoked at Pipedream and opens no endpoint."""
    bearer = token(server.url, scope=INVOKE)
    before = invoke(server, bearer).status_code

    httpx.post(
        f"{server.url}/v1/oauth/revoke", json={"client_id": CLIENT_ID, "token": bearer}, timeout=60
    ).raise_for_status()

    assert (before, invoke(server, bearer).status_code) == (200, 401)


def test_pipedream_is_asked_once(server: Server, upstream: Upstream) -> None:
    """Further calls with a known token cause no request to Pipedream."""
    bearer = token(upstream.url, "client-of-ours")
    invoke(server, bearer)
    before = [asked["query"] for asked in upstream.asked].count({"limit": "1"})

    invoke(server, bearer)

    assert [asked["query"] for asked in upstream.asked].count({"limit": "1"}) == before


def test_pipedream_is_unreachable(server: Server, upstream: Upstream) -> None:
    """The caller gets a temporary error, and the result is not cached."""
    bearer = token(upstream.url, "client-of-ours")
    upstream.set(fault={"path": "/accounts", "kind": "status", "status": 500})
    failed = invoke(server, bearer)
    upstream.set()

    assert (failed.status_code, failed.headers["retry-after"]) == (503, "2")
    assert "Pipedream does not respond" in failed.text
    assert invoke(server, bearer).status_code == 200


def test_local_credentials_are_not_sent_to_pipedream(server: Server, upstream: Upstream) -> None:
    """Neither a token nor a mistyped secret of a local client is sent to Pipedream."""
    client = json.loads(server.run("clients", "create", "--json"))
    bearer = token(server.url, client["client_id"], secret=client["client_secret"])

    refused = httpx.get(
        f"{server.url}/v1/connect/{PROJECT}/accounts", headers={"authorization": f"Bearer {bearer}"}, timeout=60
    )
    mistyped = httpx.post(
        f"{server.url}/v1/oauth/token",
        json={
            "grant_type": "client_credentials",
            "client_id": client["client_id"],
            "client_secret": f"{client['client_secret']}x",
        },
        timeout=60,
    )

    sent = json.dumps(upstream.asked)
    assert (refused.status_code, mistyped.status_code) == (401, 401)
    assert "opens workflow endpoints only" in refused.json()["error"]
    assert bearer not in sent
    assert client["client_secret"] not in sent
    assert CLIENT_SECRET in sent
