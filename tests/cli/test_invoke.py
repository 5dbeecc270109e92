"""`pdkernel invoke` and its snippets, against `pdkernel serve` in another process."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.packages.npm_packages import NpmPackages, NpmSpec
from pdkernel.workers import find_node
from tests.cli.conftest import Ended, Shell
from tests.cli.fork_server import ForkServer
from tests.cli.test_serve import serving
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.ports import free_port

FLOW = (
    "%%pdworkflow\nname: Echo\ntrigger:\n  type: http\n  auth: oauth\n  response: custom\n",
    """%%pdstep answer --app slack
def handler(pd):
    event = pd.steps["trigger"]["event"]
    received = {name: event[name] for name in ("method", "query", "body")}
    pd.respond({"status": 200, "headers": {"x-pd-seen": "yes", "x-other": "no"}, "body": received})
""",
)
STRICT_CALL = ("GET", {"q": "a b&c", "n": ["1", "2"]}, None, "ada")
TOKEN = "xoxb-planted-in-a-test"
OWN_TOKEN = "a-token-of-the-endpoint"
STRICT = """%%pdstep answer
def handler(pd):
    event = pd.steps["trigger"]["event"]
    received = (event["method"], event["query"], event.get("body"), event["headers"]["x-pd-external-user-id"])
    assert received == {expected!r}, received
    pd.respond({{"status": 200, "body": "as asked"}})
"""


class Endpoint:
    """A served workflow, and a client with permission to call it."""

    def __init__(self, shell: Shell, url: str, client: dict[str, str]) -> None:
        self.shell = shell
        self.url = url
        self.credentials = client
        self.client = {"PDKERNEL_CLIENT_ID": client["client_id"], "PDKERNEL_CLIENT_SECRET": client["client_secret"]}

    def invoke(self, *args: str, url: str | None = None, **environ: str) -> Ended:
        """Call the endpoint as that client."""
        variables: dict[str, Any] = {**self.client, **environ}
        return self.shell("invoke", url or self.url, *args, **variables)


def new_project(shell: Shell) -> dict[str, str]:
    """Write the echo workflow and an account of ada, which it requires; return a new client."""
    shell.notebook(*FLOW)
    add_account(shell, "ada")
    client: dict[str, str] = shell("clients", "create", "--json").json
    return client


def add_account(shell: Shell, user: str) -> str:
    """Add the account that *user* requires, and return its id."""
    words = ("accounts", "add", "--external-user", user, "--app", "slack", "--credential", "oauth_access_token=-")
    account: str = shell(*words, "--json", stdin=TOKEN).json["id"]
    return account


@pytest.fixture(scope="module")
def endpoint(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The served echo workflow; ada has the required account."""
    shell = Shell(tmp_path_factory.mktemp("echo"), fork_server)
    client = new_project(shell)
    with serving(shell, "work.ipynb") as (said, _):
        yield Endpoint(shell, said["workflows"][0]["url"], client)


@pytest.fixture(scope="module")
def secure(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Endpoint]]:
    """
    Three workflows served with --tls, by name; ada has the account that `work` requires.

    `strict` fails for any other call than `STRICT_CALL`; `own` has a token of its own.
    """
    shell = Shell(tmp_path_factory.mktemp("tls"), fork_server)
    client = new_project(shell)
    shell.notebook(FLOW[0].replace("Echo", "strict"), STRICT.format(expected=STRICT_CALL), name="strict.ipynb")
    header = FLOW[0].replace("Echo", "own").replace("oauth", "bearer\n  token_env: OWN")
    shell.notebook(header, STRICT.format(expected=("POST", {}, {}, "ada")), name="own.ipynb")
    shell("env", "set", "OWN", stdin=OWN_TOKEN)
    with serving(shell, "work.ipynb", "strict.ipynb", "own.ipynb", "--tls") as (said, _):
        yield {each["name"]: Endpoint(shell, each["url"], client) for each in said["workflows"]}


@pytest.fixture(scope="module")
def tls(secure: dict[str, Endpoint]) -> Endpoint:
    """The echo workflow served with --tls, at `localhost`; ada has the required account."""
    echo = secure["Echo"]
    return Endpoint(echo.shell, echo.url.replace("127.0.0.1", "localhost"), echo.credentials)


def test_a_missing_token_is_reported_with_a_fix(endpoint: Endpoint) -> None:
    """An endpoint that requires a token refuses the call; the command names the variables for a token."""
    ended = endpoint.shell("invoke", endpoint.url, "--external-user", "ada")

    assert ended.status == 2
    assert "No token was sent: set PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET." in ended.stderr


def test_the_body_arrives_as_json_and_the_query_whole(endpoint: Endpoint) -> None:
    """The workflow receives the typed body; the queries of the URL and of the options are both sent."""
    body = {"n": 1, "deep": {"a": [None, "ä"]}}

    ended = endpoint.invoke(
        "--external-user", "ada", "--body", json.dumps(body), "--query", "q=1&2", "--json", url=f"{endpoint.url}?here=1"
    )

    assert ended.status == 0, ended.stderr
    assert list(ended.json) == ["status", "headers", "body", "duration_ms"]
    assert ended.json["status"] == 200
    assert ended.json["duration_ms"] == round(ended.json["duration_ms"], 1)
    assert ended.json["body"] == {"method": "POST", "query": {"here": "1", "q": "1&2"}, "body": body}


def test_status_headers_and_body_are_shown(endpoint: Endpoint) -> None:
    """Status, informative headers and body are shown, without the client's secret or a token."""
    ended = endpoint.invoke("--external-user", "ada", "--body", '{"message": "Hello"}')

    assert ended.status == 0
    assert ended.stdout.startswith("200 OK")
    assert "x-pd-seen: yes" in ended.lines
    assert not any(line.startswith("x-other") for line in ended.lines)
    assert '"message": "Hello"' in ended.stdout
    assert endpoint.client["PDKERNEL_CLIENT_SECRET"] not in ended.stdout + ended.stderr
    assert "Bearer" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "No external user ID passed, but one or more steps require it"),
        (("--external-user", "grace"), "No matching external user ID: grace in development"),
        (("--external-user", "ada", "--environment", "production"), "No matching external user ID: ada in production"),
    ],
)
def test_an_end_user_error_ends_with_status_2(endpoint: Endpoint, args: tuple[str, ...], words: str) -> None:
    """An end-user error is a 400 with its text, sent once, and ends with status 2."""
    ended = endpoint.invoke(*args, "--body", "{}")

    assert (ended.status, ended.stdout[:3]) == (2, "400")
    assert words in ended.stdout


def test_a_wrong_secret_is_refused_by_name(endpoint: Endpoint) -> None:
    """The error names the client and not its secret, and no workflow runs."""
    ended = endpoint.invoke("--external-user", "ada", PDKERNEL_CLIENT_SECRET="a-wrong-secret")

    assert ended.status == 2
    assert endpoint.client["PDKERNEL_CLIENT_ID"] in ended.stderr
    assert "a-wrong-secret" not in ended.stdout + ended.stderr


def test_a_call_without_a_client_is_refused(endpoint: Endpoint) -> None:
    """A trigger with OAuth answers 401 to a call without a token."""
    ended = endpoint.shell("invoke", endpoint.url, "--external-user", "ada", "--json")

    assert (ended.status, ended.json["status"]) == (2, 401)


def test_options_are_parts_of_the_request(pdkernel: Shell) -> None:
    """Method, query, headers and body of the options are sent; a token wins over a client, whose token has its own endpoint."""
    with serve(AnsweringServer(lambda request: (200, {"access_token": "issued"}, {}))) as server:
        url = f"{server.url}/eo1"
        environ = {"PDKERNEL_CLIENT_ID": "id", "PDKERNEL_CLIENT_SECRET": "a-secret", "PDKERNEL_TOKEN_URL": f"{server.url}/t"}  # fmt: skip
        put = ("--method", "put", "--query", "q= a ", "--header", "X-Kind:  k ", "--environment", "production")
        done = pdkernel("invoke", url, *put, "--body", "7", "--token", "own", **environ)
        with_client = pdkernel("invoke", url, "--external-user", "ada", **environ)
        plain = pdkernel("invoke", url)

    assert (done.status, with_client.status, plain.status) == (0, 0, 0)
    sent = [(each.method, each.path, each.headers.get("authorization")) for each in server.requests]
    assert sent == [
        ("PUT", "/eo1?q=+a+", "Bearer own"),
        ("POST", "/t", None),
        ("POST", "/eo1", "Bearer issued"),
        ("GET", "/eo1", None),
    ]
    first, _, second, _ = server.requests
    assert (first.headers["x-kind"], first.headers["x-pd-environment"], first.json()) == ("k", "production", 7)
    assert (second.headers["x-pd-external-user-id"], second.body) == ("ada", b"")


def test_the_time_limit_of_a_call(pdkernel: Shell) -> None:
    """An endpoint that does not answer within --timeout ends the command."""
    released = threading.Event()

    def wait(_: SentRequest) -> Answer:
        released.wait(30)
        return 200, {}

    with serve(AnsweringServer(wait)) as server:
        call = ("invoke", f"{server.url}/eo1", "--external-user", "ada", "--timeout", "0.2")
        ended = pdkernel(*call)
        released.set()

    assert (ended.status, "did not respond in time" in ended.stderr, "--timeout" in ended.stderr) == (3, True, True)


def test_snippets_are_printed_without_a_call(pdkernel: Shell) -> None:
    """The programs are printed with status 0; they need an external user."""
    url = "http://127.0.0.1:9/eo1"
    shown = pdkernel("invoke", url, "--external-user", "ada", "--snippets")
    lower = pdkernel("invoke", url, "--external-user", "ada", "--snippets", "--method", "post")
    without_user = pdkernel("invoke", url, "--snippets")

    assert (shown.status, lower.stdout) == (0, shown.stdout)
    assert (without_user.status, "Pass --external-user ID." in without_user.stderr) == (2, True)


def test_an_unreachable_endpoint_ends_with_status_3(pdkernel: Shell) -> None:
    """An address without a server ends with status 3 and a fix."""
    ended = pdkernel("invoke", f"http://127.0.0.1:{free_port()}/eoabc123", "--json")

    assert ended.status == 3
    assert ended.json["error"]["code"] == "endpoint_unreachable"
    assert "pdkernel serve" in ended.json["error"]["message"]


@pytest.mark.parametrize("url", ["eoabc123", "ftp://127.0.0.1/x", "http://", "http://[::1"])
def test_an_invalid_url_is_refused(pdkernel: Shell, url: str) -> None:
    """Only a complete http or https URL is called."""
    assert pdkernel("invoke", url).status == 2


@pytest.mark.parametrize(("option", "text"), [("--query", "n"), ("--query", "=1"), ("--header", "X-Kind k")])
def test_an_option_without_its_parts_is_refused(pdkernel: Shell, option: str, text: str) -> None:
    """A query is NAME=VALUE, a header NAME: VALUE."""
    ended = pdkernel("invoke", "http://127.0.0.1:1/eo1", option, text)

    form = {"--query": "--query NAME=VALUE", "--header": "--header 'NAME: VALUE'"}[option]
    assert (ended.status, f"Write {form}." in ended.stderr) == (2, True)


def test_an_unknown_authority_is_named_by_its_option(tls: Endpoint) -> None:
    """For an unknown certificate authority the error names the option, and does not report an unreachable server."""
    ended = tls.invoke("--external-user", "ada", "--body", "{}")

    assert ended.status == 3
    assert "--ca-file FILE" in ended.stderr
    assert "the workflow is not served" not in ended.stderr


KINDS = ["curl", "python", pytest.param("typescript-3", marks=pytest.mark.network)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_printed_program_makes_the_call(
    secure: dict[str, Endpoint], kind: str, tmp_path: Path, sdk: Callable[[], Path]
) -> None:
    """A program calls with the client's token; without the user's account it fails with the status of the response."""
    echo = secure["Echo"]
    echo.shell("accounts", "remove", add_account(echo.shell, "bob"), "--yes")

    ran, refused = (
        run_program(kind, echo, tmp_path / user, sdk, "--external-user", user, "--body", '{"it\'s": 1}')
        for user in ("ada", "bob")
    )

    assert ran.returncode == 0, ran.stderr
    assert refused.returncode
    assert "400" in refused.stdout + refused.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_printed_program_keeps_method_and_query(
    secure: dict[str, Endpoint], kind: str, tmp_path: Path, sdk: Callable[[], Path]
) -> None:
    """A program sends the method and the whole query."""
    strict = secure["strict"]
    asked = ("--external-user", "ada", "--method", "GET", "--query", "n=1", "--query", "n=2")

    ran = run_program(
        kind, Endpoint(strict.shell, f"{strict.url}?q=a+b%26c", strict.credentials), tmp_path, sdk, *asked
    )

    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_printed_program_for_an_endpoint_with_its_own_token(
    secure: dict[str, Endpoint], kind: str, tmp_path: Path, sdk: Callable[[], Path]
) -> None:
    """A program reads the token from the environment, and its text does not contain it."""
    ran = run_program(kind, secure["own"], tmp_path, sdk, "--external-user", "ada", PDKERNEL_TOKEN=OWN_TOKEN)

    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Returns the folder of the unmodified SDK for Node.js, which the first call installs."""

    @functools.cache
    def install() -> Path:
        folder = tmp_path_factory.mktemp("sdk")
        packages = NpmPackages(folder, lock=folder / "lock.json", node=find_node, environ=dict(os.environ))
        spec = NpmSpec("@pipedream/sdk", "3.1.6")
        tree = asyncio.run(packages.ensure([spec], progress=lambda _: None))
        return tree.folder / "node_modules" / tree.aliases[str(spec)]

    return install


def run_program(
    kind: str, endpoint: Endpoint, folder: Path, sdk: Callable[[], Path], *args: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the program of *kind* that `pdkernel invoke` prints for a call of *endpoint* with *args*."""
    url = endpoint.url.replace("127.0.0.1", "localhost")
    shown = endpoint.shell("invoke", url, *args, "--snippets", "--json", **environ)
    code = next(each["code"] for each in shown.json if each["kind"] == kind)
    assert OWN_TOKEN not in code
    node = folder / "node_modules" / "@pipedream"
    node.mkdir(parents=True)
    if kind == "typescript-3":
        (node / "sdk").symlink_to(sdk(), target_is_directory=True)
    # the TypeScript snippet uses no TypeScript syntax: Node.js runs it as it is
    file = folder / {"curl": "call.sh", "python": "call.py", "typescript-3": "call.mjs"}[kind]
    file.write_text(code)
    program = {"curl": "bash", "python": sys.executable, "typescript-3": str(find_node())}[kind]
    authority = str(_authority(endpoint.shell.folder))
    names = dict.fromkeys(("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), authority)
    credentials = {"PIPEDREAM_CLIENT_ID": endpoint.credentials["client_id"], "PIPEDREAM_CLIENT_SECRET": endpoint.credentials["client_secret"]}  # fmt: skip
    variables = {
        "PATH": os.environ["PATH"],
        "NO_PROXY": "localhost",
        "WORKFLOW_TOKEN": OWN_TOKEN,
        **names,
        **credentials,
    }
    return subprocess.run(
        [program, file], cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False
    )


def _authority(folder: Path) -> Any:
    return next((folder / ".pdkernel" / "egress").glob("*ca*.pem"))


def test_a_refused_connection_is_named_in_words(pdkernel: Shell) -> None:
    """The message of an unreachable server has no number of the operating system."""
    refused = pdkernel("invoke", "http://127.0.0.1:9/eo1")

    assert refused.status == 3
    assert "Cannot reach http://127.0.0.1:9: Connection refused." in refused.stderr
