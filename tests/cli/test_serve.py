"""`pdkernel serve`."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from pdkernel.cli.serve import ServeOptions, build_settings
from pdkernel.egress import parse_policy
from pdkernel.errors import RequestError
from pdkernel.server import ServeSettings
from pdkernel.server.console_sessions import hash_admin_token
from tests.cli.conftest import Shell
from tests.cli.fork_server import ForkedCommand
from tests.ports import free_port
from tests.privileges import CAP_SYS_ADMIN

ANSWER = (
    "%%pdstep answer\ndef handler(pd):\n    pd.respond({'status': 200, 'body': pd.steps['trigger']['event']['body']})\n"
)
CUSTOM = "%%pdworkflow\nname: Answer\ntrigger:\n  type: http\n  response: custom\n"
GUARDED = CUSTOM.replace("http\n", "http\n  auth: oauth\n")


@contextmanager
def serving(shell: Shell, *args: str, port: int = 0) -> Iterator[tuple[dict[str, Any], ForkedCommand]]:
    """The command with --json, and the line that it prints when it is ready."""
    with shell.start("serve", *args, "--port", str(port), "--json") as process:
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline()), process
        finally:
            process.kill()


def test_the_json_line(pdkernel: Shell) -> None:
    """The line has the project and the working URL of each workflow; stdout has nothing else."""
    pdkernel.notebook(CUSTOM, ANSWER)
    with serving(pdkernel) as (said, process):
        (workflow,) = said["workflows"]
        answer = httpx.post(workflow["url"] + "?key=hidden-value", json={"a": 1}, timeout=60)
        process.send_signal(signal.SIGTERM)
        rest, lines = process.communicate(timeout=60)

    assert sorted(said) == ["database", "not_served", "project_id", "url", "workflows"]
    assert (workflow["name"], workflow["url"]) == ("Answer", f"{said['url']}/{workflow['endpoint']}")
    assert said["project_id"].startswith("proj_")
    assert said["database"] == f"sqlite:///{pdkernel.folder / '.pdkernel' / 'project.db'}"
    assert answer.json() == {"a": 1}
    assert (process.returncode, rest) == (0, "")
    assert "POST /* 200 " in lines
    assert "hidden-value" not in lines


def test_memory_budget_is_shown(pdkernel: Shell) -> None:
    """With -v, the server reports which memory its workers may use."""
    pdkernel.notebook(CUSTOM, ANSWER)
    with serving(pdkernel, "-v", "--memory", "1.5GB") as (_, process):
        process.send_signal(signal.SIGTERM)
        _, lines = process.communicate(timeout=60)

    assert "Idle workers end when the workers of this process use more than 1536 MB (--memory)." in lines


def test_a_saved_notebook_is_reloaded(pdkernel: Shell) -> None:
    """The next request runs the saved notebook, and the terminal reports the change."""
    pdkernel.notebook(CUSTOM, ANSWER)
    with serving(pdkernel, "work.ipynb") as (said, process):
        url = said["workflows"][0]["url"]
        before = httpx.post(url, json={"a": 1}, timeout=60)
        pdkernel.notebook(CUSTOM, ANSWER.replace("['body']", "['method']"))
        time.sleep(1.1)
        after = httpx.post(url, json={"a": 1}, timeout=60)
        process.send_signal(signal.SIGTERM)
        _, lines = process.communicate(timeout=60)

    assert before.json() == {"a": 1}
    assert after.text == "POST"
    assert lines.count("was reloaded") == 1


def test_tls(pdkernel: Shell) -> None:
    """With --tls the server speaks HTTPS, trusted by clients with the printed certificate."""
    pdkernel.notebook(CUSTOM, ANSWER)
    with serving(pdkernel, "work.ipynb", "--tls") as (said, process):
        assert process.stderr
        printed = [process.stderr.readline() for _ in range(3)]
        paths = [line.split("=", 1)[1].split()[0] for line in printed if line.startswith("export ")]
        answers = [
            httpx.post(
                said["workflows"][0]["url"].replace("127.0.0.1", host),
                json=1,
                verify=ssl.create_default_context(cafile=path),
                timeout=60,
            ).json()
            for path in paths
            for host in ("127.0.0.1", "localhost")
        ]
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.post(said["workflows"][0]["url"], json=1, timeout=60)

    assert said["url"].startswith("https://127.0.0.1:")
    assert answers == [1, 1, 1, 1]


def test_public_url(pdkernel: Shell) -> None:
    """Printed URLs have the public base; the server accepts its host only, and prints its own address and a warning."""
    pdkernel.notebook(ANSWER)
    port = free_port()
    with serving(pdkernel, "work.ipynb", "--public-url", "https://flows.example.com/", port=port) as (said, process):
        path = said["workflows"][0]["url"].removeprefix("https://flows.example.com")
        statuses = [
            httpx.post(f"http://127.0.0.1:{port}{path}", headers={"host": host}, timeout=60)
            for host in ("flows.example.com", "evil.example")
        ]
        process.send_signal(signal.SIGTERM)
        _, lines = process.communicate(timeout=60)

    assert said["url"] == "https://flows.example.com"
    assert [answer.status_code for answer in statuses] == [200, 421]
    assert statuses[0].json()["inspect"].startswith("https://flows.example.com/-/runs/")
    assert f"Listening at http://127.0.0.1:{port}\n" in lines
    assert "Every client that reaches https://flows.example.com can start 'work'" in lines
    assert ("This server runs as root" in lines) == (os.geteuid() == 0)


def test_tls_behind_a_public_url(pdkernel: Shell) -> None:
    """The certificate is valid for the host of the public URL; the local address and the settings of clients are printed."""
    pdkernel.notebook(ANSWER)
    port = free_port()
    with serving(pdkernel, "--tls", "--public-url", "https://flows.example.com", port=port) as (_, process):
        (authority,) = (pdkernel.folder / ".pdkernel" / "egress").glob("*ca*.pem")
        trusting = ssl.create_default_context(cafile=authority)
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            trusting.wrap_socket(plain, server_hostname="flows.example.com") as secure,
        ):
            certificate = secure.getpeercert()
        process.send_signal(signal.SIGTERM)
        _, lines = process.communicate(timeout=60)

    assert certificate
    assert ("DNS", "flows.example.com") in certificate["subjectAltName"]
    assert f"Listening at https://127.0.0.1:{port}\n" in lines
    assert f"export NODE_EXTRA_CA_CERTS={authority}" in lines


OPTIONS = ServeOptions(
    host="::",
    port=0,
    tls=False,
    public_url="https://flows.example.com",
    proxies=("10.0.0.0/8", "192.0.2.1"),
    max_active_runs=8,
    server_processes=1,
    memory=None,
    require_isolation=False,
    accept_missing_isolation=False,
    egress=None,
    via=("http://proxy.test:3128",),
    user_cap=3,
    rate_limits=True,
)


def test_options_are_settings_of_the_server() -> None:
    """Each option of requests and outbound calls reaches the server; the token of the console has no blanks around it."""
    environ = {"PDKERNEL_ADMIN_TOKEN": " 7QmV2kXwP9tRb4ZsYc6LhN8d\n", "PDKERNEL_EGRESS": "allow=api.example.com"}

    assert build_settings(OPTIONS, "https://flows.example.com", environ) == ServeSettings(
        base_url="https://flows.example.com",
        policy=parse_policy("allow=api.example.com", via=OPTIONS["via"]),
        allowed_hosts=("flows.example.com",),
        trusted_proxies=("10.0.0.0/8", "192.0.2.1"),
        max_development_users=3,
        applies_rate_limits=True,
        admin_token_hash=hash_admin_token("7QmV2kXwP9tRb4ZsYc6LhN8d"),
    )


def test_settings_without_options() -> None:
    """Without a token, the console opens with a code only; `--egress` precedes the variable; hosts are those of the address."""
    options = OPTIONS | {"host": "0.0.0.0", "egress": "deny", "via": (), "proxies": (), "user_cap": None, "rate_limits": False}  # fmt: skip
    environ = {"PDKERNEL_ADMIN_TOKEN": "  ", "PDKERNEL_EGRESS": "live"}

    settings = build_settings(options, "http://hooks.test:8765", environ)

    assert settings == ServeSettings("http://hooks.test:8765", parse_policy("deny"), ("hooks.test",))


def test_an_empty_outbound_policy_is_refused() -> None:
    """An empty `--egress`, such as that of a variable that is not set, does not become the default."""
    with pytest.raises(RequestError, match="'' is not an outbound policy"):
        build_settings(OPTIONS | {"egress": ""}, "http://hooks.test:8765", {})


def test_active_runs_are_limited(pdkernel: Shell) -> None:
    """With `--max-active-runs 1`, a run begins when the one before has ended."""
    log = pdkernel.folder / "log"
    step = f"import time\ndef handler(pd):\n    for mark in '+-':\n        open({str(log)!r}, 'a').write(mark)\n        time.sleep(0.1)\n"
    pdkernel.notebook(CUSTOM, f"%%pdstep one\n{step}", ANSWER)
    with serving(pdkernel, "--max-active-runs", "1") as (said, _), ThreadPoolExecutor(4) as threads:
        url = said["workflows"][0]["url"]
        statuses = list(threads.map(lambda body: httpx.post(url, json=body, timeout=60).status_code, range(4)))

    assert statuses == [200] * 4
    assert log.read_text() == "+-" * 4


def test_other_addresses_require_authorization(pdkernel: Shell) -> None:
    """A non-loopback address is refused with an open endpoint or without a client, and is served otherwise."""
    pdkernel.notebook(CUSTOM, ANSWER)
    open_endpoint = pdkernel("serve", "work.ipynb", "--host", "0.0.0.0", "--port", "0", "--json")
    pdkernel.notebook(GUARDED, ANSWER)
    without_client = pdkernel("serve", "work.ipynb", "--host", "0.0.0.0", "--port", "0")
    pdkernel("clients", "create")
    with serving(pdkernel, "work.ipynb", "--host", "0.0.0.0") as (said, _):
        answer = httpx.post(said["workflows"][0]["url"], timeout=60)

    assert (open_endpoint.status, open_endpoint.json["error"]["code"]) == (2, "request")
    assert (without_client.status, "pdkernel clients create" in without_client.stderr) == (2, True)
    assert answer.status_code == 401


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start a process without the capability that namespaces need"
)
def test_missing_isolation(pdkernel: Shell) -> None:
    """Where namespaces are not permitted, serve warns, and refuses to start if isolation is required or other machines can call."""
    without_mounts = ["tests.privileges:drop_capabilities", CAP_SYS_ADMIN]
    pdkernel.notebook(GUARDED, ANSWER)
    pdkernel("clients", "create")
    required = pdkernel("serve", "--require-isolation", "--port", "0", before=without_mounts)
    exposed = pdkernel("serve", "--host", "0.0.0.0", "--port", "0", "--json", before=without_mounts)
    accepted = ("--host", "0.0.0.0", "--accept-missing-isolation", "--trusted-proxy", "not an address")
    later = pdkernel("serve", "--port", "0", *accepted, before=without_mounts)

    assert (
        required.status,
        "A step can see the processes, or the files in `/tmp`, of other runs. --require-isolation is set."
        in required.stderr,
    ) == (2, True)
    assert (exposed.status, exposed.json["error"]["code"]) == (2, "request")
    assert "--accept-missing-isolation" in exposed.json["error"]["message"]
    assert "not a network" in later.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing.ipynb"], "nothing.ipynb does not exist"),
        (["--egress", "sometimes"], "not an outbound policy"),
        (["--public-url", "flows.example.com"], "is not a valid public URL"),
        (["--trusted-proxy", "proxy"], "is not a network"),
        (["--host", "256.0.0.1.example.invalid"], "no"),
        (["--memory", "lots"], "'lots' is not a size. Write a number with a unit, such as 512M or 4G."),
    ],
)
def test_invalid_options_are_refused(pdkernel: Shell, args: list[str], words: str) -> None:
    """An invalid option or source ends with status 2 and the reason."""
    pdkernel.notebook(ANSWER)
    ended = pdkernel("serve", *args, "--port", "0")

    assert ended.status == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_notebook_with_a_policy_needs_an_explicit_one(pdkernel: Shell) -> None:
    """Before it listens, the command asks whether calls are sent; the message has the cell and both command lines, also for a folder."""
    source = pdkernel.notebook("x = 1", "%pdegress stand-in=slack", ANSWER)
    ended = pdkernel("serve", source, "--port", "0", "--json", PDKERNEL_EGRESS="")
    pdkernel.notebook("if True:\n    %pdegress deny", ANSWER)
    pdkernel.notebook(ANSWER, name="other.ipynb")
    folder = pdkernel("serve", ".", "--port", "0", PDKERNEL_EGRESS="")

    said = ended.json["error"]["message"]
    assert (ended.status, folder.status) == (2, 2)
    assert "stand-in=slack in cell 2" in said
    assert "pdkernel serve work.ipynb --egress live" in said
    assert "pdkernel serve work.ipynb --egress stand-in=slack" in said
    assert "work.ipynb sets an outbound policy with %pdegress (by code in cell 1)" in folder.stderr


def test_a_notebook_with_a_policy_is_served_under_the_named_one(pdkernel: Shell) -> None:
    """`PDKERNEL_EGRESS` of these tests names the policy; the record of a run says so."""
    pdkernel.notebook("%pdegress deny", ANSWER)
    with serving(pdkernel) as (said, _):
        answer = httpx.post(said["workflows"][0]["url"], json={}, timeout=60)
        (run,) = pdkernel("runs", "list", "--json").json

    assert answer.status_code == 200
    assert run["outbound_policy"] == {"policy": "stand-in=slack", "origin": "PDKERNEL_EGRESS"}


def test_a_notebook_that_gets_a_policy_is_not_reloaded(pdkernel: Shell) -> None:
    """A server whose policy is not named serves the previous version of a notebook that now has a `%pdegress` cell."""
    pdkernel.notebook(ANSWER)
    pdkernel.environ["PDKERNEL_EGRESS"] = ""
    with serving(pdkernel) as (said, process):
        url = said["workflows"][0]["url"]
        httpx.post(url, json={}, timeout=60)
        pdkernel.notebook("%pdegress deny", ANSWER)
        time.sleep(1.1)
        answer = httpx.post(url, json={}, timeout=60)
        process.send_signal(signal.SIGTERM)
        _, lines = process.communicate(timeout=60)

    assert answer.status_code == 200
    assert "work.ipynb has changed but could not be reloaded" in lines


def test_a_test_server_has_a_scratch_copy_for_each_user(pdkernel: Shell) -> None:
    """Requests of one external user share a copy as long as the server runs; another user and the project do not see it."""
    pdkernel.notebook(
        CUSTOM,
        "%%pdstep count --data-store data=counter\ndef handler(pd):\n"
        '    pd.inputs["data"]["n"] = pd.inputs["data"].get("n", 0) + 1\n'
        '    pd.respond({"status": 200, "body": str(pd.inputs["data"]["n"])})\n',
    )
    pdkernel("store", "set", "counter", "n", "5")
    for user in ("ada", "bob"):
        account = ("--external-user", user, "--app", "slack", "--credential", "oauth_access_token=xoxb-made-up")
        pdkernel("accounts", "add", *account)
    with serving(pdkernel) as (said, _):
        url = said["workflows"][0]["url"]
        answers = [
            httpx.post(url, json={}, headers={"x-pd-external-user-id": user}, timeout=60).text
            for user in ("ada", "ada", "bob", "ada")
        ]
        kept = pdkernel("store", "get", "counter", "n").stdout

    assert (answers, kept) == (["6", "7", "6", "8"], "5\n")


def test_a_port_in_use(pdkernel: Shell) -> None:
    """A port in use ends with status 2 and a fix."""
    pdkernel.notebook(ANSWER)
    with serving(pdkernel) as (said, _):
        ended = pdkernel("serve", "--port", said["url"].rpartition(":")[2])

    assert ended.status == 2
    assert "--port 0" in ended.stderr


def test_a_folder_without_workflows_is_served(pdkernel: Shell) -> None:
    """A folder without workflows is served: the Connect API requires none."""
    with serving(pdkernel) as (said, _):
        answer = httpx.get(f"{said['url']}/-/ready", timeout=60)

    assert (said["workflows"], answer.status_code) == ([], 200)


@contextmanager
def serving_on_terminal(shell: Shell, *args: str) -> Iterator[tuple[Callable[[str], str], ForkedCommand]]:
    """The command with standard error on a terminal; reads the terminal until a text appears."""
    main, terminal = pty.openpty()
    process = shell.start("serve", *args, "--port", "0", stderr=terminal)
    os.close(terminal)
    shown = ""

    def read_until(text: str) -> str:
        nonlocal shown
        until = time.monotonic() + 60
        while text not in shown and time.monotonic() < until:
            if select.select([main], [], [], 0.2)[0]:
                try:
                    shown += os.read(main, 65536).decode(errors="replace")
                except OSError:  # the terminal is closed
                    break
        return shown

    try:
        yield read_until, process
    finally:
        process.kill()
        process.communicate()
        os.close(main)


def test_a_terminal_shows_the_login_of_the_console(pdkernel: Shell) -> None:
    """The URL with the code opens the console once; a login by the code leaves no trace of it in the output."""
    with serving_on_terminal(pdkernel) as (read_until, process):
        found = re.search(r"Console: http://(\S+)/-/login\?code=(\S+)", read_until("valid once"))
        assert found
        port = found[1].rpartition(":")[2]
        # browsers, but not all systems, lead the name to this machine
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": found[1]}, timeout=60) as http:
            statuses = [
                http.get("/-/login", params={"code": found[2]}).status_code,
                http.post("/-/login", data={"secret": found[2]}).status_code,
                http.get("/-/runs", headers={"accept": "application/json"}).status_code,
                http.post("/-/login", data={"secret": found[2]}).status_code,
            ]
        process.send_signal(signal.SIGTERM)
        shown = read_until("the end of the terminal")

    assert re.fullmatch(r"console-[a-z2-7]{26}\.localhost:[0-9]+", found[1])
    assert statuses == [200, 303, 200, 401]
    assert "POST /-/login 303" in shown
    assert shown.count(found[2]) == 1


def test_json_has_no_login_code(pdkernel: Shell) -> None:
    """With --json, no code is printed, on a terminal either; without a terminal there is none."""
    with serving_on_terminal(pdkernel, "--json") as (read_until, process):
        assert process.stdout
        url = json.loads(process.stdout.readline())["url"]
        page = httpx.get(f"{url}/-/login", timeout=60).text
        process.send_signal(signal.SIGTERM)
        shown = read_until("the end of the terminal")
    with pdkernel.start("serve", "--port", "0") as other:
        assert other.stderr
        lines = [other.stderr.readline() for _ in range(2)]
        other.send_signal(signal.SIGTERM)
        lines.append(other.communicate(timeout=60)[1])

    assert "This server has no terminal" in page
    assert "login?code" not in shown + "".join(lines)
    assert "Serving at" in "".join(lines)
