"""`pdkernel serve` with a real project: it serves endpoints itself and passes the Connect API on to Pipedream."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.accounts.upstream import CLIENT_ID, CLIENT_SECRET, PROJECT, TOKEN, Upstream, running_upstream
from tests.cli.fork_server import ForkServer
from tests.cli.real_server import STEP, WORKFLOW, Server, serving
from tests.notebook_files import notebook_of


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The API of the real project."""
    with running_upstream() as api:
        yield api


@pytest.fixture(scope="module")
def server(fork_server: ForkServer, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a project whose environment names the real project."""
    folder = tmp_path_factory.mktemp("served")
    notebook_of(folder / "greet.ipynb", WORKFLOW, STEP)
    with serving(fork_server, folder, "greet.ipynb", **upstream.environ, PDKERNEL_EGRESS="deny") as running:
        yield running


@pytest.fixture
def http(server: Server, upstream: Upstream) -> Iterator[httpx.Client]:
    """A caller with a token of Pipedream."""
    upstream.set()
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        yield client


def test_the_line_names_the_real_project(server: Server) -> None:
    """The JSON line has the id of Pipedream's project."""
    assert server.said["project_id"] == PROJECT


def test_token_of_pipedreams_client(http: httpx.Client) -> None:
    """The token endpoint passes a token of Pipedream on to a client of Pipedream."""
    body = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}

    answers = [
        http.post("/v1/oauth/token", json=body),
        http.post("/v1/oauth/token", json={**body, "client_secret": "other"}),
    ]

    assert answers[0].json() == {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}
    assert (answers[1].status_code, answers[1].json()) == (401, {"error": "invalid_client"})


def test_route_is_passed_on_unchanged(http: httpx.Client, server: Server, upstream: Upstream) -> None:
    """Method, path, query, headers and body arrive unchanged; headers of the connection do not."""
    url = base64.b64encode(b"https://api.github.com/a?b=1").decode().replace("=", "%3D")
    answer = http.patch(
        f"/v1/connect/{PROJECT}/anything/{url}?q=a%20b&q=c",
        content=b'{"a": 1}',
        headers={
            "x-pd-environment": "development",
            "content-type": "application/json",
            "connection": "keep-alive, x-hop",
            "x-hop": "1",
        },
    )

    seen = answer.json()["echo"]
    assert (seen["method"], seen["path"]) == ("PATCH", f"/v1/connect/{PROJECT}/anything/{url}")
    assert seen["query"] == {"q": "a b"}
    assert seen["body"] == '{"a": 1}'
    assert seen["headers"]["authorization"] == f"Bearer {TOKEN}"
    assert seen["headers"]["x-pd-environment"] == "development"
    assert seen["headers"]["host"] == upstream.url.removeprefix("http://")
    assert "x-hop" not in seen["headers"]


def test_responses_are_passed_on(http: httpx.Client, server: Server) -> None:
    """Pages, errors and empty responses of Pipedream are passed on."""
    headers = {"x-pd-environment": "development"}
    listed = http.get(f"/v1/connect/{PROJECT}/users", headers=headers)
    missing = http.get(f"/v1/connect/{PROJECT}/accounts/apn_none", headers=headers)
    foreign = http.get("/v1/connect/proj_other/users", headers=headers)
    unauthorized = httpx.get(f"{server.url}/v1/connect/{PROJECT}/users", timeout=60)

    assert [user["external_id"] for user in listed.json()["data"]] == ["ada", "bob"]
    assert [each.status_code for each in (missing, foreign, unauthorized)] == [404, 404, 401]
    assert missing.json() == {"error": "no account"}


def test_a_response_is_streamed(http: httpx.Client, upstream: Upstream) -> None:
    """A response in chunks is passed on chunk by chunk, with its headers."""
    with http.stream("GET", f"/v1/connect/{PROJECT}/events") as answer:
        pieces = answer.iter_raw()
        first = next(pieces)
        upstream.proceed.set()  # Pipedream sends the second chunk only now
        rest = b"".join(pieces)

    assert (first, rest) == (b"one", b"two")
    assert answer.headers["x-of-pipedream"] == "kept"


def test_body_without_a_length(http: httpx.Client) -> None:
    """A chunked request arrives complete."""
    answer = http.post(f"/v1/connect/{PROJECT}/anything", content=iter([b"one,", b"two"]))

    assert answer.json()["echo"]["body"] == "one,two"


def test_cookies_of_callers_are_separate(http: httpx.Client, upstream: Upstream) -> None:
    """A cookie that Pipedream sets for one caller is not sent with another caller's request."""
    fault = {"kind": "status", "status": 200, "path": "cookie", "headers": {"Set-Cookie": "mine=1; Path=/"}}
    upstream.set(fault=fault)
    first = http.get(f"/v1/connect/{PROJECT}/cookie")
    upstream.set()
    with httpx.Client(base_url=http.base_url, headers=http.headers, timeout=60) as other:
        second = other.get(f"/v1/connect/{PROJECT}/anything")

    assert first.headers["set-cookie"] == "mine=1; Path=/"
    assert "cookie" not in second.json()["echo"]["headers"]


def test_an_endpoint_accepts_a_token_of_pipedream(server: Server, http: httpx.Client) -> None:
    """The workflow runs locally for a caller with a token of Pipedream, with the user's account at Pipedream."""
    headers = {"x-pd-external-user-id": "ada", "x-pd-environment": "development"}

    answer = http.post(server.endpoint, json={}, headers=headers)

    assert (answer.status_code, answer.json()) == (200, {"user": "ada", "length": 34})


def test_an_endpoint_accepts_a_token_of_a_local_client(server: Server) -> None:
    """A client of the local project gets a token from the server."""
    client = json.loads(server.run("clients", "create", "--json"))
    body = {"grant_type": "client_credentials", **{name: client[name] for name in ("client_id", "client_secret")}}
    token = httpx.post(f"{server.url}/v1/oauth/token", json=body, timeout=60).json()["access_token"]
    headers = {"authorization": f"Bearer {token}", "x-pd-external-user-id": "bob"}

    answer = httpx.post(server.endpoint, json={}, headers=headers, timeout=60)

    assert answer.status_code == 400
    assert answer.text.startswith("Pipedream Connect Error: Required account for slack not found")


@pytest.mark.parametrize("token", ["of-another-project", "ctok_0123456789abcdef"])
def test_an_endpoint_refuses_other_tokens(server: Server, token: str) -> None:
    """A token that Pipedream does not accept for the project, or a Connect token, starts no run."""
    headers = {"authorization": f"Bearer {token}", "x-pd-external-user-id": "ada"}

    answer = httpx.post(server.endpoint, json={}, headers=headers, timeout=60)

    assert answer.status_code == 401
    assert token not in answer.text


def test_pipedream_is_unreachable(fork_server: ForkServer, tmp_path: Path) -> None:
    """If Pipedream cannot be reached, the caller gets the address and the reason."""
    environ = {
        "PDKERNEL_CLIENT_ID": "c",
        "PDKERNEL_CLIENT_SECRET": CLIENT_SECRET,
        "PDKERNEL_PROJECT_ID": PROJECT,
        "PDKERNEL_BASE_URL": "http://127.0.0.1:9",
    }
    notebook_of(tmp_path / "greet.ipynb", WORKFLOW, STEP)
    with serving(fork_server, tmp_path, "greet.ipynb", **environ) as running:
        answer = httpx.get(f"{running.url}/v1/connect/{PROJECT}/users", timeout=60)

    assert answer.status_code == 502
    assert answer.json()["error"] == "Pipedream Connect at 127.0.0.1:9 does not respond (ConnectError). Try again."


def test_unmodified_sdk_with_one_base_url(server: Server, http: httpx.Client) -> None:
    """The official SDK with another base URL gets token, accounts and a Connect token of Pipedream, and runs the local workflow."""
    code = f"""
import json, httpx
from pipedream import Pipedream
client = Pipedream(client_id={CLIENT_ID!r}, client_secret={CLIENT_SECRET!r}, project_id={PROJECT!r},
                   project_environment="development", base_url={server.url!r})
accounts = [account.id for account in client.accounts.list(external_user_id="ada")]
link = client.tokens.create(external_user_id="ada").connect_link_url
run = client.workflows.invoke_for_external_user({server.endpoint!r}, external_user_id="ada")
print(json.dumps([accounts, link, run.json()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr
    accounts, link, run = json.loads(done.stdout)
    assert accounts == ["apn_old", "apn_new", "apn_held"]
    assert link.startswith("https://pipedream.com/_static/connect.html")
    assert run == {"user": "ada", "length": 34}


@pytest.fixture(scope="module")
def real(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second server in the place of Pipedream: a project with Ada's account and a client."""
    folder = tmp_path_factory.mktemp("real")
    with serving(fork_server, folder) as running:
        for token in ("xoxb-older-0123456789", "xoxb-planted-newer-0123456789"):
            (folder / "token").write_text(token)
            running.run(
                "accounts",
                "add",
                "--external-user",
                "ada",
                "--app",
                "slack",
                "--credential",
                "oauth_access_token=@token",
            )
        client = json.loads(running.run("clients", "create", "--json"))
        running.environ.update(
            PDKERNEL_CLIENT_ID=client["client_id"],
            PDKERNEL_CLIENT_SECRET=client["client_secret"],
            PDKERNEL_PROJECT_ID=running.said["project_id"],
            PDKERNEL_BASE_URL=running.url,
        )
        yield running


def login_of(real: Server) -> dict[str, str]:
    """The environment variables that make *real* the real project."""
    names = ("CLIENT_ID", "CLIENT_SECRET", "PROJECT_ID", "BASE_URL")
    return {f"PDKERNEL_{name}": real.environ[f"PDKERNEL_{name}"] for name in names}


def test_pdkernel_as_the_real_project(fork_server: ForkServer, real: Server, tmp_path: Path) -> None:
    """A second server runs workflows itself and passes other requests on to the first server."""
    notebook_of(tmp_path / "greet.ipynb", WORKFLOW, STEP)
    login = login_of(real)
    with serving(fork_server, tmp_path, "greet.ipynb", **login, PDKERNEL_EGRESS="deny") as running:
        client = {name: login[f"PDKERNEL_{name.upper()}"] for name in ("client_id", "client_secret")}
        issued = httpx.post(
            f"{running.url}/v1/oauth/token", json={"grant_type": "client_credentials", **client}, timeout=60
        )
        headers = {"authorization": f"Bearer {issued.json()['access_token']}", "x-pd-environment": "development"}
        users = httpx.get(f"{running.url}/v1/connect/{login['PDKERNEL_PROJECT_ID']}/users", headers=headers, timeout=60)
        run = httpx.post(running.endpoint, json={}, headers={**headers, "x-pd-external-user-id": "ada"}, timeout=60)
        unknown_user = httpx.post(
            running.endpoint, json={}, headers={**headers, "x-pd-external-user-id": "eve"}, timeout=60
        )

    assert [user["external_id"] for user in users.json()["data"]] == ["ada"]
    assert run.json() == {"user": "ada", "length": len("xoxb-planted-newer-0123456789")}
    assert unknown_user.text.startswith("Pipedream Connect Error: No matching external user ID: eve in development")


def test_accounts_are_stored_at_the_first_server(real: Server, tmp_path: Path) -> None:
    """A logged-in project connects and removes accounts at the first server."""
    (tmp_path / "key").write_text("sk-planted-0123456789")
    used = Server("", "", {}, {**real.environ, "HOME": str(tmp_path)}, tmp_path, real.fork_server)
    words = ("accounts", "add", "--external-user", "bob", "--app", "openai", "--credential", "api_key=@key", "--json")

    made = json.loads(used.run(*words))
    there = httpx_accounts(real)
    used.run("users", "remove", "bob", "--yes")

    assert made["id"] in there
    assert made["id"] not in httpx_accounts(real)


def httpx_accounts(real: Server) -> list[str]:
    """The ids of the first server's accounts."""
    local = {name: value for name, value in real.environ.items() if not name.startswith("PDKERNEL_")}
    there = Server("", "", {}, local, real.folder, real.fork_server)
    return [account["id"] for account in json.loads(there.run("accounts", "list", "--json"))]
