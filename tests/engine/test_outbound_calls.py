"""Outbound calls in whole runs: programs that bypass the gateway, refused and failed calls, and steps that call the APIs of apps."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, unquote_plus, urlsplit

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from pdkernel.common.identity import ProxyAccess
from pdkernel.common.redaction import Redactor, Secret
from pdkernel.egress import StoredResponse, connection_owner, detect_sandbox, parse_policy
from pdkernel.egress.recording import MemoryRecording
from pdkernel.engine import outbound_calls
from pdkernel.engine.account_resolution import AccountResolution
from pdkernel.engine.outbound_calls import StepCallsInFlight, build_call_binding, with_calls_explained
from pdkernel.engine.run_request import RunRequest, RunWatcher, TestOptions
from pdkernel.engine.run_state import RunState
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import OutboundCallRefusedError, StepError
from pdkernel.execution import OutboundCall, OutboundPolicyRecord
from pdkernel.journal import WaitKey
from pdkernel.model import Step
from pdkernel.storage import Project
from pdkernel.workers import StepOutcome
from tests.builders import Gate, a_step, a_workflow, an_event, bash_step, node_step, python_step, skip_time
from tests.egress.kit import SentMemory
from tests.engine.conftest import Run, error_of
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.render.builders import a_call

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

UNREACHABLE = {
    "node": node_step("call", "await fetch('http://nowhere.invalid/things');"),
    "python": python_step("call", "import urllib.request; urllib.request.urlopen('http://nowhere.invalid/things')"),
    "bash": bash_step("call", "curl -sS http://nowhere.invalid/things\necho status=$? >> $PIPEDREAM_EXPORTS"),
    "python that catches the error": python_step(
        "call",
        "import urllib.request\ntry:\n    urllib.request.urlopen('https://nowhere.invalid/things')\n"
        "except urllib.error.URLError as error:\n    pd.export('status', str(error.reason))",
    ),
}


@pytest.mark.parametrize("language", UNREACHABLE)
async def test_unreachable_host_fails_the_step(shared_run: Run, language: str) -> None:
    """A step that does not catch its client's error fails; the error and the call name the host and the cause. Curl's exit status fails no step, as on the platform, and the error of a later step does not name the call."""
    done = await shared_run(UNREACHABLE[language], python_step("after", "raise ValueError('mine')"), egress="live")

    error, (call,) = done.step("call").error, done.step("call").requests
    assert done.error is not None
    if language in ("node", "python"):
        assert error is not None
        assert "GET http://nowhere.invalid/things got no response: nowhere.invalid " in error.message
    else:
        assert error is None
        assert done.step("call").exports["status"] not in ("0", "")
        assert (done.error.step, done.error.message) == ("after", "mine")
    assert (call.outcome, call.status) == ("failed", None)
    assert (call.note or "").startswith("no response: nowhere.invalid ")


AROUND = {
    "bash": bash_step(
        "call",
        "env -i bash -c 'exec 3<>/dev/tcp/192.0.2.7/81; echo never >&3; cat <&3'; echo out=$? >> $PIPEDREAM_EXPORTS",
    ),
    "python": python_step(
        "call",
        "import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', "
        '\'import socket; s = socket.create_connection(("192.0.2.7", 81), 5); s.sendall(b"never"); s.recv(1)\'], env={})',
    ),
}


@dataclass
class CallsOfRun:
    """What a run knows of the refused and failed calls of its steps."""

    request: RunRequest
    failed_calls: dict[str, list[str]] = field(default_factory=dict)
    first_refusals: dict[str, OutboundCallRefusedError] = field(default_factory=dict)

    def explain(self, error: StepError | None = None) -> StepOutcome:
        """Return the explained outcome of the step `call`."""
        return with_calls_explained(cast("RunState", self), "call", StepOutcome(warnings=("before",), error=error))


def calls_of_run(mode: str) -> CallsOfRun:
    """A run with that outbound policy."""
    return CallsOfRun(RunRequest(a_workflow(python_step("call")), an_event(), parse_policy(mode)))


def test_failed_calls_explain_the_error_of_their_step() -> None:
    """The last three failed calls that the error does not name are in its fix; a later attempt does not name them."""
    run = calls_of_run("live")
    run.failed_calls["call"] = ["a failed", "b failed", "c failed", "d failed"]
    run.failed_calls["other"] = ["x failed"]

    first, second = run.explain(StepError("c failed", fix="Look.")), run.explain(StepError("no"))

    assert first.error is not None
    assert first.error.fix == "Look.\nb failed\nd failed"
    assert second.error is not None
    assert second.error.fix == ""
    assert run.failed_calls == {"other": ["x failed"]}
    assert calls_of_run("live").explain() == StepOutcome(warnings=("before",))


def test_a_refusal_explains_the_outcome_of_its_step(tmp_path: Path) -> None:
    """A refusal is in the fix of an error that does not name it; without an error it is a warning, in a replay the error."""
    refusal = OutboundCallRefusedError("refused", name="OutboundCallRefused")
    recording = tmp_path / "calls.jsonl"
    recording.touch()
    denied, replayed = calls_of_run("deny"), calls_of_run(f"replay={recording}")
    for run in (denied, replayed):
        run.first_refusals["call"] = refusal

    outcomes = [denied.explain(error) for error in (StepError("403", fix="Look."), StepError("it was refused"), None)]

    assert [outcome.error and outcome.error.fix for outcome in outcomes] == ["Look.\nrefused", "", None]
    assert [outcome.warnings for outcome in outcomes] == [("before",), ("before",), ("before", "refused")]
    assert replayed.explain().error is refusal


class NothingSent:
    """A store of sent requests that is empty."""

    def find(self, key: str) -> StoredResponse | None:
        """Return nothing."""
        return None

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Store nothing."""

    def remove(self, key: str) -> None:
        """Remove nothing."""


@pytest.mark.parametrize("sends_once", [True, False])
def test_the_calls_of_a_step_belong_to_its_run(sends_once: bool) -> None:
    """The context of a step's calls has the user, the accounts and the choices of its run; only a run that sends once has a scope."""
    sent = NothingSent() if sends_once else None
    request = RunRequest(
        a_workflow(python_step("call"), network="net_a"),
        an_event(),
        parse_policy("live", via=("net_a=http://proxy.test:1",)),
        external_user_id="ada",
        idempotency=sent,
        options=TestOptions(resend=True, recording=MemoryRecording()),
    )
    access = ProxyAccess("https://api.test/proxy", "apn_1", "ada", "development", lambda: "token")
    run = SimpleNamespace(
        request=request,
        resolution=AccountResolution(app_by_secret={"slack/a/t": "slack"}, proxy_by_secret={"github/b/t": access}),
        record=SimpleNamespace(redactor=Redactor([Secret("slack/a/t", "xoxb-0123456789")]), run_id="run_1"),
    )
    calls: list[OutboundCall] = []

    context = build_call_binding(cast("RunState", run), "call", calls.append)

    assert (context.step, context.external_user_id, context.policy.via) == ("call", "ada", "http://proxy.test:1")
    assert (
        context.owner
        == connection_owner("ada", "development", "run_1")
        != connection_owner(None, "development", "run_1")
    )
    assert context.redactor is run.record.redactor
    assert (context.app_by_secret_ref, context.proxy_by_secret_ref) == ({"slack/a/t": "slack"}, {"github/b/t": access})
    assert (context.sent_requests, context.send_again, context.memory_recording) == (
        sent,
        True,
        request.options.recording,
    )
    assert context.send_once_scope == (request.idempotency_scope if sends_once else "")
    context.on_call_finished(a_call())
    assert calls == [a_call()]


@pytest.mark.skipif(detect_sandbox() != "redirect", reason="this system does not permit a seccomp listener")
@pytest.mark.parametrize("language", AROUND)
async def test_call_of_a_bypassing_program_is_recorded(shared_run: Run, language: str) -> None:
    """A program that ignores the proxy variables is redirected to the gateway, and the record has its call."""
    done = await shared_run(AROUND[language])

    calls = done.step("call").requests
    assert [(call.url, call.outcome, call.step) for call in calls] == [("tcp://192.0.2.7:81", "denied", "call")]


async def test_record_has_the_guard(run: Run, runtime: WorkflowEngine) -> None:
    """The record of a run that was not live has the mode and the guard."""
    done = await run(python_step("one"))

    kept = await runtime.journal.get_execution(done.id)

    assert kept is not None
    assert kept.outbound_policy == done.outbound_policy == OutboundPolicyRecord("deny", guard=detect_sandbox())


REQUESTS = {
    "node": a_step("""
        %%pdstep call --lang node
        import { createReadStream, createWriteStream } from "node:fs";
        import { readFile, stat } from "node:fs/promises";
        import { Readable } from "node:stream";
        import { pipeline } from "node:stream/promises";

        const API = "https://api.shop.test";

        export default defineComponent({
          async run({ $ }) {
            await fetch(`${API}/search?${new URLSearchParams({ q: "blue shoes" })}`, { headers: { "X-Api-Key": "k1" } });
            await fetch(`${API}/orders`, {
              method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id: 1, tags: ["é"] }),
            });
            await fetch(`${API}/form`, { method: "POST", body: new URLSearchParams({ name: "Ada", note: "a&b" }) });
            const basic = Buffer.from("ada:s p").toString("base64");
            await fetch(`${API}/orders/1`, { method: "DELETE", headers: { Authorization: `Basic ${basic}` } });
            const download = await fetch("https://files.shop.test/photo.bin");
            await pipeline(Readable.fromWeb(download.body), createWriteStream("/tmp/photo.bin"));
            const form = new FormData();
            form.set("file", new Blob([await readFile("/tmp/photo.bin")]), "photo.bin");
            await fetch(`${API}/upload`, { method: "POST", body: form });
            await fetch(`${API}/raw`, {
              method: "PUT", body: createReadStream("/tmp/photo.bin"), duplex: "half",
              headers: { "Content-Type": "application/octet-stream" },
            });
            const items = [];
            for (let page = 1; page; ) {
              const { found, next } = await (await fetch(`${API}/items?page=${page}`)).json();
              items.push(...found);
              page = next;
            }
            const missing = await fetch(`${API}/missing`);
            $.export("items", items);
            $.export("missing", missing.status);
            $.export("size", (await stat("/tmp/photo.bin")).size);
          },
        });
    """),
    "python": a_step("""
        %%pdstep call
        import os
        import requests

        API = "https://api.shop.test"

        def handler(pd: "pipedream"):
            requests.get(f"{API}/search", params={"q": "blue shoes"}, headers={"X-Api-Key": "k1"})
            requests.post(f"{API}/orders", json={"id": 1, "tags": ["é"]})
            requests.post(f"{API}/form", data={"name": "Ada", "note": "a&b"})
            requests.delete(f"{API}/orders/1", auth=("ada", "s p"))
            with requests.get("https://files.shop.test/photo.bin", stream=True) as download, open("/tmp/photo.bin", "wb") as file:
                for chunk in download.iter_content(chunk_size=8192):
                    file.write(chunk)
            with open("/tmp/photo.bin", "rb") as file:
                requests.post(f"{API}/upload", files={"file": file})
            with open("/tmp/photo.bin", "rb") as file:
                requests.put(f"{API}/raw", data=file, headers={"Content-Type": "application/octet-stream"})
            items, page = [], 1
            while page:
                answer = requests.get(f"{API}/items", params={"page": page}).json()
                items += answer["found"]
                page = answer["next"]
            pd.export("items", items)
            pd.export("missing", requests.get(f"{API}/missing").status_code)
            pd.export("size", os.path.getsize("/tmp/photo.bin"))
    """),
    "bash": a_step("""
        %%pdstep call --lang bash
        api=https://api.shop.test
        curl -s -G "$api/search" --data-urlencode "q=blue shoes" -H "X-Api-Key: k1" > /dev/null
        curl -s "$api/orders" -H "Content-Type: application/json" -d '{"id": 1, "tags": ["é"]}' > /dev/null
        curl -s "$api/form" -d name=Ada --data-urlencode "note=a&b" > /dev/null
        curl -s -X DELETE -u "ada:s p" "$api/orders/1" > /dev/null
        curl -s https://files.shop.test/photo.bin --output /tmp/photo.bin
        curl -s "$api/upload" -F file=@/tmp/photo.bin > /dev/null
        curl -s -T - -H "Content-Type: application/octet-stream" "$api/raw" < /tmp/photo.bin > /dev/null
        page=1
        while [ "$page" != null ]; do
          answer=$(curl -s "$api/items?page=$page")
          items="$items${items:+,}$(grep -o '"found": *\\[[^]]*' <<< "$answer" | sed 's/.*\\[//')"
          page=$(grep -o '"next": *[a-z0-9]*' <<< "$answer" | sed 's/.*: *//')
        done
        echo "items:json=[$items]" >> $PIPEDREAM_EXPORTS
        echo "missing:json=$(curl -s -o /dev/null -w '%{http_code}' "$api/missing")" >> $PIPEDREAM_EXPORTS
        echo "size:json=$(wc -c < /tmp/photo.bin)" >> $PIPEDREAM_EXPORTS
    """),
}
"""The kinds of requests in the platform's documentation of each language, as one step."""

PHOTO = bytes(range(256)) * 100


def answer_as_shop(request: SentRequest) -> Answer:
    """A file, two pages of items, and 404 for what is missing."""
    url = urlsplit(request.path)
    if url.path == "/photo.bin":
        return 200, PHOTO, {"content-type": "application/octet-stream"}
    if url.path == "/items":
        return 200, {"found": [1, 2], "next": 2} if url.query == "page=1" else {"found": [3], "next": None}
    return (404, {"error": "missing"}) if url.path == "/missing" else (200, {"ok": True})


def content_of(request: SentRequest) -> Any:
    """The body of a request by its content type; a part of `multipart/form-data` by its name."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    match kind:
        case "application/json":
            return request.json()
        case "application/x-www-form-urlencoded":
            return parse_qs(request.body.decode())
        case "multipart/form-data":
            head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
            parts = email.message_from_bytes(head + request.body, policy=email.policy.HTTP).iter_parts()
            return {
                each.get_param("name", header="content-disposition"): each.get_payload(decode=True) for each in parts
            }
    return request.body


@pytest.mark.parametrize("language", REQUESTS)
async def test_kinds_of_requests(shared_run: Run, language: str) -> None:
    """
    A step sends queries, headers, JSON, forms, credentials and files, and reads files, pages and errors.

    Every language sends the same requests; the gateway changes none of them.
    """
    with serve(AnsweringServer(answer_as_shop)) as api:
        done = await shared_run(REQUESTS[language], egress=f"stand-in={api.url}")

    assert done.step("call").error is None
    assert done.step("call").exports == {"items": [1, 2, 3], "missing": 404, "size": len(PHOTO)}
    seen = [(call.method, unquote_plus(call.path), content_of(call)) for call in api.requests]
    assert seen == [
        ("GET", "/search?q=blue shoes", b""),
        ("POST", "/orders", {"id": 1, "tags": ["é"]}),
        ("POST", "/form", {"name": ["Ada"], "note": ["a&b"]}),
        ("DELETE", "/orders/1", b""),
        ("GET", "/photo.bin", b""),
        ("POST", "/upload", {"file": PHOTO}),
        ("PUT", "/raw", PHOTO),
        ("GET", "/items?page=1", b""),
        ("GET", "/items?page=2", b""),
        ("GET", "/missing", b""),
    ]
    assert api.requests[0].headers["x-api-key"] == "k1"
    assert api.requests[3].headers["authorization"] == "Basic YWRhOnMgcA=="
    assert api.requests[4].headers["x-forwarded-host"] == "files.shop.test"
    assert [call.status for call in done.step("call").requests] == [200] * 9 + [404]


@pytest.mark.skipif(detect_sandbox() != "redirect", reason="this system does not permit a seccomp listener")
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_browser_of_a_step_loads_a_page(shared_run: Run, scheme: str) -> None:
    """A browser reads neither a proxy's credentials nor the variables for certificates; it loads the page of the stand-in."""
    step = node_step(
        "call",
        f"""
        const {{ promisify }} = await import("node:util");
        const {{ execFile }} = await import("node:child_process");
        const options = ["--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=/tmp/profile",
          "--disable-background-networking", "--disable-component-update"];
        const found = await promisify(execFile)("{CHROMIUM}", [...options, "--dump-dom", "{scheme}://shop.test/page"]);
        return found.stdout;
        """,
    )
    with serve(AnsweringServer(lambda _: (200, b"<h1>Shop</h1>", {"content-type": "text/html"}))) as api:
        done = await shared_run(step, egress=f"stand-in={api.url}")

    assert done.step("call").error is None
    assert "<h1>Shop</h1>" in str(done.step("call").return_value)
    assert (f"{scheme}://shop.test/page", 200) in [(call.url, call.status) for call in done.step("call").requests]


async def test_live_run_has_no_guard(shared_run: Run) -> None:
    """The record of a live run has no guard."""
    done = await shared_run(python_step("one"), egress="live")

    assert done.outbound_policy is None


async def test_error_after_a_refused_call_names_the_refusal(shared_run: Run) -> None:
    """An error after a refused call names the refusal, not only the client's "403: Forbidden"."""
    step = python_step("call", "import urllib.request; urllib.request.urlopen('http://api.example.com/v1/things')")

    error = error_of(await shared_run(step), "call")

    assert error.name.endswith("HTTPError")
    assert "GET http://api.example.com/v1/things was not sent: the outbound policy is deny." in error.message


async def test_step_that_goes_on_after_a_refused_call_is_ended(run: Run, tmp_path: Path) -> None:
    """A step that has caught a refusal and does not end is ended with the refusal as its error."""
    gate = Gate(tmp_path)
    caught = (
        "import urllib.request\ntry:\n    urllib.request.urlopen('http://api.example.com/')\nexcept OSError:\n    pass"
    )
    running = asyncio.ensure_future(run(python_step("call", f"{caught}\n{gate.code}", options="--timeout 300")))
    await gate.wait_until_reached()

    await skip_time(outbound_calls.REFUSED_STEP_GRACE_S)
    error = error_of(await running, "call")

    assert (error.code, error.name) == ("egress_refused", "OutboundCallRefused")
    assert "GET http://api.example.com/ was not sent" in error.message


IN_FLIGHT = {
    "python": python_step(
        "call",
        "import urllib.request; urllib.request.urlopen('http://api.example.com/pay', b'{}')",
        options="--timeout 9",
    ),
    "node": node_step(
        "call", "await fetch('http://api.example.com/pay', { method: 'POST', body: '{}' })", options="--timeout 9"
    ),
    "bash": bash_step("call", "curl -sS -d '{}' http://api.example.com/pay", options="--timeout 9"),
}


@pytest.mark.parametrize(("language", "sends_once"), [*((language, False) for language in IN_FLIGHT), ("python", True)])
async def test_a_call_in_flight_at_the_time_limit(shared_run: Run, language: str, sends_once: bool) -> None:
    """The record of a step that ran into its time limit has its POST as unknown, also where calls are always made."""
    requests: list[bytes] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read(1 << 16)  # the body
        await reader.read(1)  # until the gateway closes
        writer.close()

    silent = await asyncio.start_server(hang, "127.0.0.1", 0)
    stand_in = f"stand-in=http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with silent:
        sent = SentMemory() if sends_once else None
        running = asyncio.ensure_future(shared_run(IN_FLIGHT[language], egress=stand_in, idempotency=sent))
        while not requests:
            await asyncio.sleep(0.01)
        await skip_time(9)
        first = await running

    (call,) = first.step("call").requests
    assert len(requests) == 1
    assert (call.method, call.outcome, call.safe) == ("POST", "failed", False)
    assert (call.note or "").startswith("unknown: sent, answer not seen.")


class PaymentHost:
    """
    A host that answers a POST unless it has to hang; a GET calls *on_get*.

    Attributes:
        posts: The paths of POST requests.
        hangs: Whether the next POST gets no answer.
    """

    def __init__(self, on_get: Callable[[], object] = lambda: None) -> None:
        self.posts: list[str] = []
        self.hangs = False
        self._on_get = on_get

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                if method == "POST":
                    await reader.readexactly(2)
                    self.posts.append(path)
                    if self.hangs:
                        await reader.read(1)  # until the gateway closes
                else:
                    self._on_get()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Listen; yields the outbound policy whose calls reach this host."""
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            yield f"stand-in=http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


POST = "request = urllib.request.Request('https://pay.example.com/{}', b'{{}}', headers={})\nurllib.request.urlopen(request, timeout={})\n"


def posting_step(*paths: str, headers: str = "{}", timeout_s: float = 60) -> Step:
    """A step that sends a POST to each path."""
    return python_step(
        "pay", "import urllib.request\n" + "".join(POST.format(path, headers, timeout_s) for path in paths)
    )


def shown(call: OutboundCall) -> tuple[str, str, object, str]:
    """What a person sees of a call: path, outcome, attempt and the beginning of its note."""
    return call.url.rpartition("/")[2], call.outcome, call.attempt, (call.note or "").partition(".")[0]


UNSEEN, AGAIN = "unknown: sent, answer not seen", "sent again: an earlier attempt sent it, answer not seen"


@pytest.mark.parametrize("headers", ["{}", "{'Idempotency-Key': 'order-1'}"], ids=["no key", "key"])
async def test_calls_of_an_interrupted_attempt(
    runtime: WorkflowEngine, project: Project, tmp_path: Path, headers: str
) -> None:
    """
    An unsafe call is in the journal when its first byte arrives, and the next attempt repeats it.

    Its record has the calls of the interrupted attempt, marks what is repeated without a key, and replaces the rows.
    """
    host = PaymentHost()
    workflow = a_workflow(posting_step("a", "a", "b", headers=headers))
    stored = "select path, attempt, number from calls_in_flight"
    async with host.open() as egress:
        host.hangs = True
        request = RunRequest(workflow, an_event(), parse_policy(egress), folder=tmp_path, pause_mode="park")
        running = asyncio.ensure_future(runtime.run(request, RunWatcher(hands_over=lambda: True)))
        while not host.posts:
            await asyncio.sleep(0.01)
        in_flight = rows_of(project, stored)
        running.cancel()
        left = await running
        recorded = await runtime.journal.get_execution(left.id)
        host.hangs = False
        (claimed,) = await runtime.journal.claim_next()
        execution = await runtime.continue_run(claimed)

    assert in_flight == [("pay", 1, 1)]
    assert recorded is not None
    assert [shown(call) for call in recorded.step("pay").requests] == [("a", "failed", 1, UNSEEN)]
    assert (execution.status, host.posts) == ("success", ["/a", "/a", "/a", "/b"])
    answered = "answered by the stand-in at http://127"
    assert [shown(call) for call in execution.step("pay").requests] == [
        ("a", "failed", 1, UNSEEN),
        ("a", "stand_in", UNSET, AGAIN if headers == "{}" else answered),
        ("a", "stand_in", UNSET, answered),
        ("b", "stand_in", UNSET, answered),
    ]
    assert await runtime.journal.get_execution(left.id) == execution
    assert rows_of(project, stored) == []


async def test_a_retry_marks_calls_that_timed_out(runtime: WorkflowEngine, project: Project, tmp_path: Path) -> None:
    """The step's own time limit for a call leaves the call as unknown, and the retry of the failed step marks the repetition."""
    host = PaymentHost()
    workflow = a_workflow(posting_step("a", timeout_s=0.5), auto_retry=True)
    async with host.open() as egress:
        host.hangs = True
        request = RunRequest(workflow, an_event(), parse_policy(egress), folder=tmp_path, pause_mode="park")
        paused = await runtime.run(request)
        left = rows_of(project, "select * from calls_in_flight")
        host.hangs = False
        assert await runtime.resolve_wait(WaitKey(paused.id, "pay"), "resume") == "done"
        (claimed,) = await runtime.journal.claim_next()
        execution = await runtime.continue_run(claimed)

    assert (paused.status, left) == ("paused", [])
    assert [shown(call) for call in execution.step("pay").requests] == [
        ("a", "failed", 1, UNSEEN),
        ("a", "stand_in", UNSET, AGAIN),
    ]


async def test_a_call_of_a_lost_run_is_not_sent(runtime: WorkflowEngine, project: Project, tmp_path: Path) -> None:
    """If another executor has claimed the run, the call is not sent, and the step ends."""

    def claim() -> None:
        with project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql("update runs set fence = fence + 1")

    host = PaymentHost(claim)
    step = python_step(
        "pay",
        "import time, urllib.request\nurllib.request.urlopen('http://pay.example.com/')\n"
        "try:\n    urllib.request.urlopen('http://pay.example.com/', b'{}')\nexcept OSError:\n    time.sleep(60)",
    )
    async with host.open() as egress:
        request = RunRequest(a_workflow(step), an_event(), parse_policy(egress), folder=tmp_path, pause_mode="park")
        execution = await asyncio.wait_for(runtime.run(request), 30)

    assert host.posts == []
    assert execution.error is not None
    assert (execution.status, execution.error.code) == ("error", "run_lost")
    assert rows_of(project, "select * from calls_in_flight") == []


def test_repeated_calls_are_counted_once_an_attempt() -> None:
    """A call is marked at most as often as one earlier attempt has sent it: attempts repeat one another."""
    sent = [replace(a_call(method="POST", url="u"), attempt=attempt) for attempt in (1, 2, 2)]
    calls = StepCallsInFlight(cast("RunState", None), "pay", [*sent, a_call(method="POST", url="u")])

    assert [calls.is_repeated("POST", "u") for _ in range(3)] == [True, True, False]
    assert not calls.is_repeated("PUT", "u")


def rows_of(project: Project, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of *query* in the project's database."""
    with project.sqlalchemy_engine.begin() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]
