"""
A project that `pdkernel serve` serves in another process, and checks of the server after thousands of requests.

The project has users, accounts, clients, tokens, a deployed trigger and workflows. All its secrets are known, so that the server's
output can be searched for them.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import psutil

from pdkernel.accounts import LocalDirectory
from pdkernel.common.blocking import FORBID_VARIABLE
from pdkernel.common.identity import Environment
from pdkernel.storage import DeployedTrigger, Project, Webhook
from tests.actions.checkout import write_checkout
from tests.notebook_files import notebook_of
from tests.serve_process import ROOT, line_of
from tests.server.fuzz.openapi import Values

REQUESTS = int(os.environ.get("PDKERNEL_FUZZ", "1000"))
"""Number of requests: nine of twenty are generated from the description of the routes, the others are sent over raw sockets."""
LASTS_S = 200 + REQUESTS // 10
"""Timeout in seconds; 1,000 requests take about 15 s on two idle cores."""
GROWTH = 64 * 1024**2
"""Bytes by which the server may grow after its first requests."""
SEEN = "live/ready/live"
"""Positive control of the search in the log: words of routes, which the log shows, in a path that no other request has."""

USERS = ("ada", "bob", "user/with ä")
ENVIRONMENTS: tuple[Environment, ...] = ("development", "production")
SLACK, DEPOT = "xoxb-fuzzed-secret-of-", "depot-fuzzed-secret-of-"
BEARER, ADMIN, SIGNING = "bearer-fuzzed-secret", "admin-fuzzed-secret-7QmV2kXwP9", "whsec_fuzzed-secret"
QUERY = "query-fuzzed-secret"
TRACES = (b"Traceback (most recent call last)", b"Exception in ASGI", b'File "')

CELL = "%%pdworkflow\nname: {name}\ntrigger: {{type: http, auth: {auth}, response: {response}, token_env: {env}}}\n"
ECHO = "%%pdstep echo\ndef handler(pd):\n    pd.respond({'status': 200, 'body': pd.steps['trigger']['event']})\n"
ONE = "%%pdstep one\ndef handler(pd):\n    return 1\n"
WHOSE = (
    "%%pdstep whose --app slack\ndef handler(pd):\n"
    "    pd.respond({'status': 200, 'body': len(pd.inputs['slack']['$auth']['oauth_access_token'])})\n"
)
WORKFLOWS = {
    "Echo": ("none", "custom", ECHO),
    "Default": ("none", "default", ONE),
    "Whose": ("oauth", "custom", WHOSE),
    "Guarded": ("bearer", "custom", ECHO),
}


@dataclass
class Target:
    """
    A served project.

    Attributes:
        url: URL of the server.
        project: The project's tables.
        process: Process of the server.
        log: File with the server's stderr.
        keys: Endpoint keys by the workflow's name.
        values: Valid values of parameters.
        credentials: `Authorization` headers by name.
        secrets: Texts that must not be in the log.
    """

    url: str
    project: Project
    process: psutil.Process
    log: Path
    keys: Mapping[str, str]
    values: Values
    credentials: Mapping[str, str]
    secrets: list[str]
    warm: int = 0
    sent: int = 0
    accounts: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def refill(self) -> None:
        """Add accounts and the deployed trigger that requests have deleted."""
        refill(self.project)

    def resident(self) -> int:
        """Memory of the server in bytes."""
        return int(self.process.memory_info().rss)

    def start_measuring(self) -> None:
        """Store the current memory, above which the server may grow by `GROWTH`."""
        self.warm = self.resident()

    def check(self, capsys: Any = None) -> None:
        """Check that the server responds, has not grown, and has logged neither a traceback nor a secret."""
        live = httpx.get(f"{self.url}/-/live", timeout=60)
        httpx.get(f"{self.url}/{SEEN}", params={"token": QUERY}, timeout=60)
        until = time.monotonic() + 60
        while SEEN.encode() not in self.log.read_bytes() and time.monotonic() < until:
            time.sleep(0.02)
        now = self.resident()
        files = self.process.num_fds()
        written = self.log.read_bytes()
        if capsys is not None:
            with capsys.disabled():
                grown = (now - self.warm) / 1024**2
                print(
                    f"\n{self.sent} requests: the server has {now / 1024**2:.0f} MB, {grown:+.1f} MB since the first"
                    f" ones; {files} open files; {len(written.splitlines())} lines in its log"
                )

        assert live.json() == {"status": "live"}
        assert SEEN.encode() in written
        places = [written.find(trace) for trace in TRACES if trace in written]
        assert not places, written[min(places) :][:6000].decode(errors="replace")
        assert [secret for secret in self.secrets if secret.encode() in written] == []
        assert now - self.warm < GROWTH
        assert files < 200


@contextmanager
def target(folder: Path) -> Iterator[Target]:
    """Create a project in *folder* and serve it."""
    for name, (auth, response, step) in WORKFLOWS.items():
        cell = CELL.format(name=name, auth=auth, response=response, env="BEARER" if auth == "bearer" else "null")
        notebook_of(folder / f"{name.lower()}.ipynb", cell, step)
    with Project.open(folder / ".pdkernel") as project, Project.open(folder / "other" / ".pdkernel") as other:
        project.settings.set("actions", str(write_checkout(folder / "checkout")))
        project.variables.set("BEARER", BEARER)
        refill(project)
        credentials, client_id, secret = _credentials(project, other)
        log = folder / "serve.log"
        with log.open("wb") as errors, _served(folder, errors) as (process, line):
            url = line["url"]
            keys = {each["name"]: each["endpoint"] for each in line["workflows"]}
            ids = [each["id"] for each in line["workflows"]]
            links, single = (_connect_tokens(url, project.project_id, credentials["full"]) for _ in range(2))
            known = _known(project, client_id, secret) | _served_values(url, keys, ids)
            known |= {"token": links, "connect_token": single}
            for number, token in enumerate(links):
                credentials[f"connect {number}"] = f"Bearer {token}"
            secrets = [
                SLACK,
                DEPOT,
                BEARER,
                ADMIN,
                SIGNING,
                QUERY,
                secret,
                *links,
                *single,
                *(value.partition(" ")[2] for name, value in credentials.items() if name not in ("none", "odd")),
            ]
            yield Target(url, project, psutil.Process(process.pid), log, keys, Values(known), credentials, secrets)


@contextmanager
def _served(folder: Path, errors: IO[bytes]) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PDKERNEL_", "PYTEST_"))}
    # the memory permits few idle workers, which have open files of the server
    options = ["--port", "0", "--max-active-runs", "2", "--egress", "deny", "--memory", "256M"]
    notebooks = [f"{name.lower()}.ipynb" for name in WORKFLOWS]
    # glibc returns freed memory to the system: without a fixed threshold it keeps the space of large bodies, up to 60 MB
    allocator = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pdkernel", "serve", *notebooks, "--json", *options],
        cwd=folder,
        env={**environ, **allocator, "PYTHONPATH": str(ROOT), "PDKERNEL_ADMIN_TOKEN": ADMIN, FORBID_VARIABLE: "1"},
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    try:
        yield process, line_of(process, Path(errors.name))
    finally:
        process.terminate()
        process.communicate(timeout=60)


def refill(project: Project) -> None:
    """Add accounts and a deployed trigger if they are missing."""
    directory = LocalDirectory(project)
    for environment in ENVIRONMENTS:
        for number, user in enumerate(USERS):
            for app, name, start in (("slack", "oauth_access_token", SLACK), ("depot", "api_key", DEPOT)):
                account = f"apn_{app}{number}{environment}"
                if directory.find_account(account) is None:
                    directory.add_account(
                        app=app,
                        credentials={name: f"{start}{number}-{environment}"},
                        external_user_id=user,
                        environment=environment,
                        account_id=account,
                    )
        trigger = _trigger(project, environment)
        found = project.deployed_triggers.find(trigger.id)
        if found is None:
            project.deployed_triggers.add(trigger)
        elif found.webhooks != trigger.webhooks:
            project.deployed_triggers.remove(trigger.id)
            project.deployed_triggers.add(trigger)


def _trigger(project: Project, environment: Environment) -> DeployedTrigger:
    now = project.clock.now()
    hook = Webhook(f"wh_{environment}", "http://127.0.0.1:9/hook", SIGNING, now.timestamp(), now.timestamp())
    return DeployedTrigger(
        id=f"dc_{environment}",
        external_user_id=USERS[0],
        environment=environment,
        key="depot-new-thing",
        version="0.0.1",
        name="New Thing",
        props={},
        accounts={},
        active=True,
        created_at=now,
        updated_at=now,
        webhooks=(hook,),
    )


def _credentials(project: Project, other: Project) -> tuple[dict[str, str], str, str]:
    full, limited = (
        project.oauth_clients.create("full"),
        project.oauth_clients.create("limited", ("connect:accounts:read",)),
    )
    stranger = other.oauth_clients.create("stranger")
    issued = {
        "full": project.access_tokens.issue(full.client.id, ("*",)),
        "limited": project.access_tokens.issue(limited.client.id, ("connect:accounts:read",)),
        "another project's": other.access_tokens.issue(stranger.client.id, ("*",)),
    }
    held = {name: f"Bearer {token}" for name, token in issued.items()}
    held |= {"none": "", "odd": "Bearer ey.ey.\u00e4", "bearer": f"Bearer {BEARER}"}
    return held, full.client.id, full.secret


def _connect_tokens(url: str, project_id: str, authorization: str) -> list[str]:
    """Connect tokens of two users, one for each environment."""
    made = []
    for user, environment in zip(USERS, ENVIRONMENTS, strict=False):
        answer = httpx.post(
            f"{url}/v1/connect/{project_id}/tokens",
            json={"external_user_id": user, "expires_in": 14_400},
            headers={"Authorization": authorization, "x-pd-environment": environment},
            timeout=60,
        )
        made.append(str(answer.json()["token"]))
    return made


def _served_values(url: str, keys: Mapping[str, str], ids: list[str]) -> dict[str, list[str]]:
    """Values that exist only after requests: a run, a file, and paths of endpoints."""
    run = httpx.post(f"{url}/{keys['Default']}", json={}, timeout=60).json()["event_id"]
    kept = httpx.post(f"{url}/{keys['Echo']}", files={"f": b"x"}, timeout=60).json()["body"]["f"]["url"]
    return {
        "run_id": [run],
        "name": [kept.rpartition("/")[2]],
        "path": [*keys.values(), f"http:/127.0.0.1/{keys['Echo']}", f"https:/{keys['Default']}.m.pipedream.net"],
        "workflow_id": ids,
    }


def _known(project: Project, client_id: str, secret: str) -> dict[str, list[Any]]:
    accounts = [f"apn_{app}{n}{each}" for app in ("slack", "depot") for n in range(len(USERS)) for each in ENVIRONMENTS]
    flags = ["true", "false", "1", "0"]
    urls = ["https://slack.com/api/chat.postMessage?a=1", "http://127.0.0.1:9/", "/relative", "https://depot.example/"]
    return {
        "project_id": [project.project_id],
        "requested_id": [project.project_id],
        "external_user_id": list(USERS),
        "account_id": accounts,
        "app": ["slack", "depot"],
        "app_id": ["slack", "depot", "app_1"],
        "app_slug": ["depot", "slack"],
        "cfmap_json": ['{"api_key": "typed-by-the-user"}', '{"oauth_access_token": "typed"}', "[]"],
        "url": ["https://hooks.example/x", "http://127.0.0.1:9/hook"],
        "expires_in": [14_400, 1, 0, -1, 10**12],
        "version": ["0.1.2", "0.0.1"],
        "prop_name": ["shelf", "thing", "depot"],
        "configured_props": [
            {"shelf": "s00", "thing": "a", "count": "3", "depot": {"authProvisionId": f"apn_depot0{ENVIRONMENTS[0]}"}},
            {"shelf": "{{process.env}}", "thing": [], "columns": 5, "depot": "apn_depot1production"},
            {"depot": {"authProvisionId": 1}, "timer": {"cron": "* * * * *"}, "__proto__": {"a": 1}},
        ],
        "source": ["depot-new-thing", "depot-put-thing"],
        "source_version": ["0.0.1", "9"],
        "source_props": [{}, {"timer": {"intervalSeconds": 1e9}}, {"a": None}],
        "key": ["depot-put-thing", "depot-fill-form", "depot-new-thing", "depot-broken", "@pipedream/depot-put-thing"],
        "trigger_id": [f"dc_{each}" for each in ENVIRONMENTS],
        "webhook_id": [f"wh_{each}" for each in ENVIRONMENTS],
        "url_64": [base64.urlsafe_b64encode(each.encode()).decode().rstrip("=") for each in urls],
        "include_credentials": flags,
        "ignore_hook_errors": flags,
        **{f"has_{each}": flags for each in ("actions", "triggers", "components")},
        "limit": ["100", "1", "0"],
        "n": ["1", "100"],
        "registry": ["public", "private", "all"],
        "component_type": ["action", "trigger"],
        "emitter_type": ["source", "http"],
        "sort_key": ["name", "name_slug", "featured_weight"],
        "sort_direction": ["asc", "desc"],
        "grant_type": ["client_credentials"],
        "client_id": [client_id],
        "client_secret": [secret],
        "scope": ["*", "connect:accounts:read"],
        "rest": ["/x", "/y/z"],
    }


def shows_internals(body: bytes) -> bool:
    """Whether a response shows a traceback or a file of the server."""
    return any(trace in body for trace in TRACES[:2]) or bool(re.search(rb"pdkernel/\w+\.py", body))
