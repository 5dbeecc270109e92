"""`pdkernel invoke` and its snippets, against `pdkernel serve` in another process."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def ticked(tls: Endpoint) -> Ended:
    """The snippets of the echo workflow, which ran with a relative path of the certificate authority."""
    return _run_snippets(tls, authority=_authority(tls.shell.folder).relative_to(tls.shell.folder))


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
    """An endpoint that does not answer within --timeout ends the command and each of its snippets."""
    released = threading.Event()

    def wait(_: SentRequest) -> Answer:
        released.wait(30)
        return 200, {}

    with serve(AnsweringServer(wait)) as server:
        call = ("invoke", f"{server.url}/eo1", "--external-user", "ada", "--timeout", "0.2")
        ended = pdkernel(*call)
        snippets = pdkernel(*call, "--snippets", "--run", "--json").json
        released.set()

    assert (ended.status, "did not respond in time" in ended.stderr, "--timeout" in ended.stderr) == (3, True, True)
    said = {each["kind"]: each["said"] for each in snippets}
    assert said["curl"] == said["python"] == "The program took longer than 0.2 seconds."


def test_snippets_are_printed_without_a_call(pdkernel: Shell) -> None:
    """Without --run no program is marked, and the status is 0; snippets need an external user."""
    url = "http://127.0.0.1:9/eo1"
    shown = pdkernel("invoke", url, "--external-user", "ada", "--snippets")
    lower = pdkernel("invoke", url, "--external-user", "ada", "--snippets", "--method", "post")
    without_user = pdkernel("invoke", url, "--snippets")

    assert (shown.status, lower.stdout) == (0, shown.stdout)
    assert not {"✓", "✗"} & {*shown.stdout}
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


def test_programs_run_only_as_snippets(pdkernel: Shell) -> None:
    """`--run` runs the programs of `--snippets`; alone, it is refused before a call."""
    ended = pdkernel("invoke", "http://127.0.0.1:1/eo1", "--run")

    assert (ended.status, "--run has no effect without --snippets." in ended.stderr) == (2, True)


def test_snippets_that_ran_are_ticked(endpoint: Endpoint) -> None:
    """The programs for curl and Python run against the endpoint; SDK 1.x, which requires HTTPS, has an explanation instead."""
    ended = endpoint.shell("invoke", endpoint.url, "--external-user", "ada", "--body", '{"it\'s": 1}', "--snippets", "--run", "--json")  # fmt: skip

    works = {each["kind"]: (each["works"], each["said"]) for each in ended.json}
    assert works["curl"] == (True, "")
    assert works["python"] == (True, "")
    assert works["typescript-1"][0] is None
    assert "--tls" in works["typescript-1"][1]
    assert endpoint.shell("clients", "list", "--json").json[0]["client_id"] == endpoint.client["PDKERNEL_CLIENT_ID"]


def test_failed_snippets_have_no_tick(endpoint: Endpoint) -> None:
    """Without the user's account, the same programs have no tick and show the reason."""
    endpoint.shell("accounts", "remove", add_account(endpoint.shell, "bob"), "--yes")

    ended = endpoint.shell("invoke", endpoint.url, "--external-user", "bob", "--body", "{}", "--snippets", "--run")

    assert ended.status == 1
    assert "✓" not in ended.stdout
    assert len(re.findall(r"^── ✗ (curl|Python)", ended.stdout, re.MULTILINE)) == 2
    assert "400" in ended.stdout


def test_an_unknown_authority_is_named_by_its_option(tls: Endpoint) -> None:
    """For an unknown certificate authority the error names the option, and does not report an unreachable server."""
    ended = tls.invoke("--external-user", "ada", "--body", "{}")

    assert ended.status == 3
    assert "--ca-file FILE" in ended.stderr
    assert "the workflow is not served" not in ended.stderr


@pytest.mark.network
def test_both_sdks_are_ticked_over_tls(ticked: Ended) -> None:
    """With --tls every snippet runs, including those of the unmodified SDKs 1.x and 3.x."""
    assert [(each["kind"], each["works"], each["said"]) for each in ticked.json] == [
        (kind, True, "") for kind in ("curl", "python", "typescript-1", "typescript-3")
    ]


@pytest.mark.network
def test_an_authority_may_be_a_relative_path(ticked: Ended) -> None:
    """A relative path of the authority works for programs that run in another folder."""
    assert [each["works"] for each in ticked.json] == [True] * 4, ticked.stdout


@pytest.mark.network
def test_failed_sdk_snippets_have_no_tick(tls: Endpoint) -> None:
    """Without the user's account, no snippet has a tick, and each shows the reason."""
    tls.shell("accounts", "remove", add_account(tls.shell, "bob"), "--yes")

    ended = _run_snippets(tls, user="bob")

    assert ended.status == 1
    assert [(each["kind"], each["works"]) for each in ended.json] == [
        (kind, False) for kind in ("curl", "python", "typescript-1", "typescript-3")
    ]
    assert [each["said"] for each in ended.json if "400" not in each["said"]] == []


@pytest.mark.network
def test_snippets_keep_method_and_query(secure: dict[str, Endpoint]) -> None:
    """Each snippet makes the requested call; SDK 1.x, which drops a query, has an explanation instead of a tick."""
    strict = secure["strict"]
    asked = ("--method", "GET", "--query", "n=1", "--query", "n=2")

    ended = _run_snippets(Endpoint(strict.shell, f"{strict.url}?q=a+b%26c", strict.credentials), *asked)

    assert [(each["kind"], each["works"], each["said"]) for each in ended.json] == [
        ("curl", True, ""),
        ("python", True, ""),
        ("typescript-1", None, "this SDK drops the query"),
        ("typescript-3", True, ""),
    ]


@pytest.mark.network
@pytest.mark.parametrize(("token", "works"), [(OWN_TOKEN, True), ("another-token", False)])
def test_snippets_for_an_endpoint_with_its_own_token(secure: dict[str, Endpoint], token: str, works: bool) -> None:
    """Each snippet sends the token from the environment without naming it, and has a tick if the token is valid."""
    ended = _run_snippets(secure["own"], PDKERNEL_TOKEN=token)

    assert [each["works"] for each in ended.json] == [works] * 4, ended.stdout
    assert token not in ended.stdout


def _run_snippets(
    tls: Endpoint, *asked: str, user: str = "ada", authority: Path | None = None, **environ: str
) -> Ended:
    npm: Any = {
        name: value for name, value in os.environ.items() if name == "NODE_EXTRA_CA_CERTS" or "npm" in name.lower()
    }
    trusted = str(authority or _authority(tls.shell.folder))
    return tls.shell("invoke", tls.url, "--external-user", user, *(asked or ("--body", "{}")), "--snippets", "--run", "--json", "--ca-file", trusted, **{"HOME": str(Path.home()), **npm, **environ})  # fmt: skip


def _authority(folder: Path) -> Any:
    return next((folder / ".pdkernel" / "egress").glob("*ca*.pem"))


def test_a_refused_connection_is_named_in_words(pdkernel: Shell) -> None:
    """The message of an unreachable server has no number of the operating system."""
    refused = pdkernel("invoke", "http://127.0.0.1:9/eo1")

    assert refused.status == 3
    assert "Cannot reach http://127.0.0.1:9: Connection refused." in refused.stderr
