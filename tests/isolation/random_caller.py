"""
A hostile user whose steps send random requests to the server that runs them, while others use it.

The server is a `pdkernel serve` of its own. Each request of an attacker contains a token of theirs, so the runs that it starts are known.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.execution import Execution
from pdkernel.journal import ExecutionQuery, JournalReader, open_journal_reader
from pdkernel.server.host_names import build_console_host
from pdkernel.storage import Project
from tests.http_servers import AnsweringServer
from tests.isolation.attacks import new_token
from tests.isolation.findings import FOUND, Findings
from tests.notebook_files import notebook_of
from tests.ports import free_ports
from tests.serve_process import serving

CALLS_PER_STEP = 8
MALLORIES = ("mallorya", "malloryb")
HONEST = ("ada", "bob")
CALLER = (
    r'''%%pdstep call
import http.client, os, random, re, socket, subprocess, urllib.request

FOUND = re.compile(rb"'''
    + FOUND
    + r'''")


class Caller:
    def __init__(self, pd, body):
        self.pd, self.random, self.targets, self.token = pd, random.Random(body["seed"]), body["targets"], body["token"]
        self.found, self.done, self.kept = set(), [], []
        proxy = os.environ.get("HTTP_PROXY") or os.environ.get("http_proxy") or ""
        place = re.search(r"(?:([^/@]*)@)?([\w.]+):(\d+)", proxy)
        self.gateway = place and (place[2], int(place[3]))
        self.login = place and place[1] or ""

    def pick(self, *values): return self.random.choice(values)
    def note(self, data): self.found.update(each.decode() for each in FOUND.findall(data))
    def other(self): return self.pick("ada", "bob", "", "ADA", " ada", "ada\t", "ada,mallory", "%61da", "a\u0064a")

    def path(self):
        key, project = self.random.choice(self.targets["keys"]), self.targets["project_id"]
        plain = self.pick(f"/{key}", f"/{key}/x", f"/{key}?x-pd-upload-body=1&x-pd-external-user-id=ada", f"/{key.upper()}", f"//{key}", f"/x/../{key}", f"/%2e/{key}",
            f"/{key}/../-/runs", "/", "/-/", "/-/runs", "/-/users", "/-/live", "/-/login", "/-/login/code", "/-/events/runs", "/-/static/../../../../etc/passwd",
            f"/-/runs/{self.targets['run']}", f"/-/runs/{self.targets['run']}/{self.pick('replay', 'cancel', 'approve', 'resume')}",
            "/v1/oauth/token", f"/v1/connect/{project}/tokens", f"/v1/connect/{project}/accounts?include_credentials=true&external_user_id=ada",
            f"/v1/connect/{project}/users", f"/v1/connect/{project}/actions/run", f"/v1/connect/{project}/triggers/deploy", f"/v1/connect/{project}/proxy/aHR0cDovL3g",
            f"/v1/connect/{project}/deployed-triggers", f"/v1/workflows/{self.targets['ids'][0]}", "/_static/connect.html", "/api/runs")
        return plain if self.random.random() < 0.8 else self.pick(f"http://{self.host()}{plain}", f"http:/127.0.0.1{plain}", f"https://{self.targets['console']}{plain}", plain[1:])

    def host(self):
        port, key = self.targets["port"], self.random.choice(self.targets["keys"])
        names = (f"127.0.0.1:{port}", f"127.0.0.1:{port}", f"localhost:{port}", f"{key}.m.pipedream.net", f"[::1]:{port}", f"[::ffff:127.0.0.1]:{port}", f"{self.targets['console']}:{port}",
            self.targets["console"], f"127.1:{port}", f"0.0.0.0:{port}", f"2130706433:{port}", f"127.0.0.1:{port}, ada", "", f"LOCALHOST.:{port}", f"x@127.0.0.1:{port}", "evil.example", "127.0.0.1:99999")
        return self.random.choice(names)

    def headers(self, host=None):
        lines = [("Host", host or self.host())]
        for _ in range(self.random.randrange(1, 5)):
            user = self.pick("x-pd-external-user-id", "X-PD-External-User-ID", "x-pd-external-user-id ", "x_pd_external_user_id", "x-pd-external-user-id\t", "x-pd-external_user-id")
            lines.append(self.pick((user, self.other()), (user, "ada"), ("x-pd-environment", self.pick("production", "Production", "development", "x")),
                ("x-pd-notrigger", self.pick("1", "true", "")), ("x-pd-upload-body", "1"), ("x-pdkernel-caller", self.pick("x", "." * 40, "AA.WyJhZGEiLCJwcm9kdWN0aW9uIl0=")),
                ("Connection", self.pick("x-pdkernel-caller", "x-pd-external-user-id, close", "keep-alive, x-pdkernel-caller, host", "Upgrade", "close")), ("Upgrade", "websocket"),
                ("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Host", self.host()), ("X-Forwarded-Proto", "https"), ("Forwarded", f"for=10.0.0.1;host={self.host()}"),
                ("Authorization", self.pick("Bearer x", "Basic eDp4", f"Bearer {self.token}")), ("Proxy-Authorization", self.pick("Basic eDp4", "Bearer x")), ("Cookie", "pdkernel_session=x; session=1"),
                ("x-pdkernel-token", "0" * 32), ("Origin", "null"), ("Expect", "100-continue"), ("Content-Encoding", "gzip"), ("X", "a\r\n x-pd-external-user-id: ada"), ("X", "a\nx-pd-external-user-id: ada"),
                ("X", "a\rx-pd-external-user-id: ada"), ("X-HTTP-Method-Override", "DELETE"), ("Trailer", "x-pd-external-user-id"), ("Keep-Alive", "timeout=9")))
        return lines

    def body(self):
        return self.pick(b'{"token": "%s"}', b"%s", b'{"external_user_id": "ada", "token": "%s", "headers": {"x-pd-external-user-id": "ada"}}', b"token=%s&x-pd-external-user-id=ada",
            b'{"token": "%s", "id": "depot-put-thing", "external_user_id": "bob"}') % self.token.encode()

    def message(self, target=None, host=None):
        """A request as bytes, often with a second one where another program may see it."""
        lines, body = self.headers(host), self.body()
        if self.random.random() < 0.5:
            hidden = [*self.headers(), ("x-pd-external-user-id", "ada"), ("Content-Length", str(len(body)))]
            second = f"{self.pick('POST', 'GET')} {self.path()} HTTP/1.1\r\n".encode() + b"".join(f"{name}: {value}\r\n".encode() for name, value in hidden) + b"\r\n" + body
        else:
            second = b""
        whole = body + second
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) + second
        framing, sent = self.pick(
            ([("Content-Length", str(len(body)))], whole), ([("Content-Length", str(len(whole)))], whole), ([("Content-Length", "0")], whole), ([], whole),
            ([("Transfer-Encoding", "chunked")], chunked), ([("Content-Length", str(len(body))), ("Transfer-Encoding", "chunked")], chunked),
            ([("Transfer-Encoding", "chunked"), ("Content-Length", str(len(chunked)))], chunked), ([("Content-Length", "3"), ("Content-Length", str(len(body)))], whole),
            ([("Transfer-Encoding", self.pick("xchunked", "chunked, identity", "identity", "\tchunked", "chunked\x0b", "Chunked"))], chunked), ([("Transfer-Encoding ", "chunked")], chunked),
            ([("Content-Length", f"+{len(body)}")], whole), ([("Content-Length", f"{len(body)}, {len(body)}")], whole), ([("Content-Length", "9999999999999999999")], whole),
            ([("Transfer-Encoding", "chunked")], b"%x;x=\n\r\n%s\r\n0\r\nx-pd-external-user-id: ada\r\n\r\n" % (len(body), body) + second), ([("Transfer-Encoding", "chunked")], b"-1\r\n" + chunked))
        lines += framing
        self.random.shuffle(lines)
        version = self.pick("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1", "HTTP/1.1 ")
        method = self.pick("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "PRI", "post")
        head = f"{method} {target or self.path()} {version}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
        return (head + "\r\n").encode("utf-8") + sent

    def exchange(self, client, data):
        client.settimeout(0.3)
        client.sendall(data)
        for _ in range(self.random.randrange(1, 4)):
            got = client.recv(1 << 16)
            self.note(got)
            if not got:
                break
        if self.random.random() < 0.2:
            self.kept.append(client)  # others would get an answer for it
        else:
            client.close()

    def act(self):
        name = self.random.choice([each for each in dir(self) if each.startswith("do_")])
        try:
            getattr(self, name)()
        except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError):
            self.done.append(f"{name} refused")
        else:
            self.done.append(name)

    def do_past_the_gateway(self): self.exchange(socket.create_connection((self.pick("127.0.0.1", "::1", "localhost", "127.0.0.2", "::ffff:127.0.0.1"), self.targets["port"]), timeout=0.3), self.message())
    def do_close_at_once(self):
        client = socket.create_connection(("127.0.0.1", self.targets["port"]), timeout=0.3)
        client.sendall(self.message())
        client.close()
    def do_gateway(self):
        place = self.pick(f"http://127.0.0.1:{self.targets['port']}", self.targets["receiver"])
        target = f"{place}{self.pick(self.path(), '/' + self.targets['keys'][0])}"
        login = self.pick(f"Proxy-Authorization: Basic {self.login}\r\n", "")
        data = self.message(target)
        self.exchange(socket.create_connection(self.gateway, timeout=0.3), data.replace(b"\r\n", b"\r\n" + login.encode(), 1))
    def do_tunnel(self):
        client = socket.create_connection(self.gateway, timeout=0.3)
        port = self.pick(self.targets["port"], int(self.targets["receiver"].rpartition(":")[2]))
        client.sendall(f"CONNECT {self.pick('127.0.0.1', 'localhost', '[::1]')}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.settimeout(0.3)
        self.note(client.recv(1000))
        self.exchange(client, self.message())
    def do_client(self):
        host = self.pick("127.0.0.1", "localhost", "::1", self.targets["console"])
        client = http.client.HTTPConnection(host, self.targets["port"], timeout=0.5)
        fields = {name.strip() or "X": re.sub(r"[\r\n].*", "", value) for name, value in self.headers() if self.random.random() < 0.8}
        client.request(self.pick("POST", "POST", "GET", "PUT"), f"/{self.random.choice(self.targets['keys'])}", self.body(), fields)
        self.note(client.getresponse().read())
        client.close()
    def do_urllib(self):
        fields = {"x-pd-external-user-id": self.other(), "x-pd-environment": self.pick("production", "development")}
        request = urllib.request.Request(f"http://{self.pick('127.0.0.1', 'localhost')}:{self.targets['port']}{self.pick('/' + self.random.choice(self.targets['keys']), self.path())}", self.body(), fields)
        with urllib.request.urlopen(request, timeout=0.5) as answer:
            self.note(answer.read())
    def do_program(self):
        options = [self.pick("--http1.0", "--http1.1", "--path-as-is", "--compressed"), *self.pick([], ["--noproxy", "*"], ["--proxy", ""], ["--connect-to", f"::127.0.0.1:{self.targets['port']}"])]
        environ = self.pick(dict(os.environ), {}, {"PATH": os.environ["PATH"]})
        fields = ["-H", f"x-pd-external-user-id: {self.pick('ada', 'bob')}", "-H", f"x-pd-environment: {self.pick('production', 'development')}"]
        url = f"http://127.0.0.1:{self.targets['port']}/{self.random.choice(self.targets['keys'])}"
        self.note(subprocess.run(["/usr/bin/curl", "-s", "-m", "0.5", *options, *fields, "-d", self.body(), url], env=environ, capture_output=True, timeout=3).stdout)
    def do_other_port(self): self.exchange(socket.create_connection(("127.0.0.1", self.random.choice(self.targets["others"])), timeout=0.2), self.message())
    def do_listen(self):
        server = socket.socket(self.pick(socket.AF_INET, socket.AF_INET6))
        server.setsockopt(socket.SOL_SOCKET, self.pick(socket.SO_REUSEADDR, socket.SO_REUSEPORT), 1)
        server.bind((self.pick("127.0.0.1", "127.0.0.2", "0.0.0.0") if server.family == socket.AF_INET else "::1", self.pick(0, self.targets["port"], self.targets["port"])))
        server.listen()
        self.kept.append(server)
    def do_trigger(self):
        name = self.pick("Who", "Who", *self.targets["keys"], *self.targets["ids"], "../who", "who.ipynb", "/etc", "", "Call", self.targets["base"], f"{self.targets['base']}/who.ipynb")
        payload = self.pick({"token": self.token}, self.token, {"headers": {"x-pd-external-user-id": "ada", "x-pd-environment": "production"}, "token": self.token},
            {"token": self.token, "context": {"external_user_id": "ada"}, "trigger": {"context": {"external_user": "ada"}}, "__proto__": {"externalUserId": "ada"}})
        options = self.pick(None, None, {"externalUserId": "ada"}, {"external_user_id": "ada"}, {"environment": "production"}, {"externalUserId": "ada", "environment": "production"}, {"headers": {"x-pd-external-user-id": "ada"}})
        try:
            self.note(repr(self.pd.flow.trigger(name, payload, options)).encode())
        except Exception as error:
            self.note(repr(error).encode())
            raise ValueError from None


def handler(pd):
    body = pd.steps["trigger"]["event"]["body"]
    caller = Caller(pd, body)
    for _ in range(body["count"]):
        caller.act()
    pd.respond({"status": 200, "body": {"found": sorted(caller.found), "done": caller.done}})
'''
)
WHO = """%%pdstep who
import json, urllib.request

def handler(pd):
    body = pd.steps["trigger"]["event"].get("body") or {}
    token = body.get("token", "") if isinstance(body, dict) else ""
    reply = ""
    if isinstance(body, dict) and body.get("asks"):
        with urllib.request.urlopen(urllib.request.Request("RECEIVER/who", headers={"x-token": token}), timeout=20) as answer:
            reply = json.load(answer)["token"]
    pd.respond({"status": 200, "body": {"token": token, "reply": reply}})
    return {"token": token}
"""
_CELL = "%%pdworkflow\nname: {name}\ntrigger: {{type: http, auth: none, response: custom}}\n"


@dataclass
class CallerWorld:
    """
    A served project, and what attackers and others do there.

    Attributes:
        findings: Where results are added.
    """

    findings: Findings
    targets: dict[str, Any]
    _http: httpx.AsyncClient
    _urls: dict[str, str]
    _log: Path
    _reader: JournalReader
    _random: random.Random
    _newest: str = ""

    @classmethod
    @asynccontextmanager
    async def start(
        cls, base: Path, receiver: AnsweringServer, findings: Findings, seed: int
    ) -> AsyncIterator[CallerWorld]:
        """Serve a project in *base*, with another policy for root, whose server recognizes connections past the gateway."""
        folder = base / "served"
        folder.mkdir()
        notebook_of(folder / "call.ipynb", _CELL.format(name="Call"), CALLER)
        notebook_of(folder / "who.ipynb", _CELL.format(name="Who"), WHO.replace("RECEIVER", receiver.url))
        egress = "live" if os.geteuid() == 0 else "deny"
        with pytest.MonkeyPatch.context() as patch, Project.open(folder / ".pdkernel") as project:
            patch.setenv(STEP_PATHS_VARIABLE, "")
            patch.setenv("PLANTED", new_token("server"))
            directory = LocalDirectory(project)
            for user in (*HONEST, *MALLORIES):
                directory.add_account(
                    external_user_id=user,
                    environment="development",
                    app="slack",
                    credentials={"oauth_access_token": f"xoxb-{user}-0123456789"},
                )
            with (
                serving(folder, "call.ipynb", "who.ipynb", "--egress", egress) as (line, _),
                closing(open_journal_reader(project)) as reader,
                socket.create_server(("127.0.0.1", 0)) as silent,  # accepts no connection
            ):
                url, served = line["url"], {each["name"]: each for each in line["workflows"]}
                port = int(url.rpartition(":")[2])
                who = served["Who"]
                targets = {
                    "port": port,
                    "keys": [who["endpoint"]],
                    "ids": [who["id"]],
                    "project_id": project.project_id,
                    "console": build_console_host(project),
                    "receiver": receiver.url,
                    "others": [port, receiver.server_port, silent.getsockname()[1], *free_ports(3)],
                    "base": str(folder),
                    "run": "run",
                }
                urls = {name: f"{url}/{each['endpoint']}" for name, each in served.items()}
                [log] = folder.glob("serve*.log")
                async with httpx.AsyncClient(timeout=60) as http:
                    yield cls(findings, targets, http, urls, log, reader, random.Random(seed))
                    written = log.read_text()
                    if "Traceback" in written:
                        findings.wrong.append(("the server", written[written.index("Traceback") :][:3000]))

    async def attack(self, user: str) -> None:
        """Let a step of *user* send random requests."""
        token = new_token(user)
        body = {
            "token": token,
            "seed": self._random.randrange(1 << 30),
            "targets": self.targets,
            "count": CALLS_PER_STEP,
        }
        answer = await self._post("Call", user, body)
        self.findings.rounds += CALLS_PER_STEP
        if answer.status_code != 200 or not isinstance(answer.json(), dict):
            self.findings.errors[f"call: {answer.status_code} {answer.text[:100]}"] += 1
            return
        result = answer.json()
        self.findings.done.update(f"call {name.removeprefix('do_')}" for name in result["done"])
        own = rf"tok-{user}-|xoxb-{user}-"
        self.findings.seen += [(f"{user} by a request", each) for each in result["found"] if not re.match(own, each)]

    async def work(self, user: str) -> None:
        """Use the server as *user*, whose step calls another server."""
        token = new_token(user)
        answer = await self.start_run(user, token)
        if answer.status_code != 200 or answer.json() != {"token": token, "reply": token}:
            self.findings.wrong.append((f"{user} by a request", [answer.status_code, answer.text[:500]]))
        self.findings.seen += [(user, each) for each in set(re.findall(FOUND, answer.text)) - {token}]

    async def start_run(self, user: str, token: str) -> httpx.Response:
        """Start a run for *user* that responds with *token*, also as the response of another server to its step."""
        return await self._post("Who", user, {"token": token, "asks": True})

    async def _post(self, name: str, user: str, body: Any) -> httpx.Response:
        headers = {"x-pd-external-user-id": user, "x-pd-environment": "development"}
        return await self._http.post(self._urls[name], json=body, headers=headers)

    async def check_runs(self) -> int:
        """Check for whom the runs since the last check are; return their number. The runs of a batch are fewer than 1,000."""
        until = asyncio.get_running_loop().time() + 60
        while True:
            runs = await self._reader.executions(ExecutionQuery(limit=1000))
            new = [*self._iter_new(runs)]
            if all(each.finished_at for each in new) or asyncio.get_running_loop().time() > until:
                break
            await asyncio.sleep(0.05)
        for run in new:
            event = json.dumps(run.event, default=str)
            writers = {user for user in (*HONEST, *MALLORIES) if f"tok-{user}-" in event} or {*MALLORIES}
            if run.external_user not in writers or run.environment != "development":
                who = ", ".join(sorted(writers))
                self.findings.runs.append((who, f"{run.external_user}, {run.environment}: {event[:600]}"))
        self.findings.done["runs of attackers' requests"] += sum(
            run.workflow == "Who" and run.external_user in MALLORIES for run in new
        )
        if runs:
            self._newest = runs[0].id
            self.targets["run"] = runs[0].id
        return len(new)

    def _iter_new(self, runs: list[Execution]) -> list[Execution]:
        ids = [each.id for each in runs]
        return runs[: ids.index(self._newest)] if self._newest in ids else runs
