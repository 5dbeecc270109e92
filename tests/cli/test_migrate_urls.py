"""`pdkernel migrate urls`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.accounts.upstream import Upstream
from tests.cli.conftest import Shell
from tests.files.definition.archives import HTTP, pack, step, workflow
from tests.files.definition.builders import synced
from tests.serve_process import serving

OLD = "https://eo1.m.pipedream.net"
BASE = "https://flows.example.com"


def write_caller(folder: Path) -> None:
    """Two workflows in `project`: Caller calls Orders, and the endpoint of an unknown workflow."""
    head = "schema: workflow/2022.04\nname: {name}\ntriggers:\n- id: hi_1\nsteps:\n- namespace: work\n  uses: ./work/entry.js\n"
    code = (
        f'export default {{ run() {{ return ["{OLD}/a?token=s3cret", "https://eozzz.m.pipedream.net/s3cret"]; }} }};\n'
    )
    synced(folder / "project/orders-p_Order1", head.format(name="Orders"), work__entry_DOT_js="export default {};\n")
    synced(folder / "project/caller-p_Call01", head.format(name="Caller"), work__entry_DOT_js=code)


def test_a_dry_run_lists_urls_and_writes_nothing(pdkernel: Shell) -> None:
    """The table has place, step, URL, workflow and new URL, or why a URL stays; the exit status says that one is left."""
    write_caller(pdkernel.folder)
    entry = pdkernel.folder / "project/caller-p_Call01/work/entry.js"
    before = entry.read_bytes()
    words = ("migrate", "urls", "project", "--public-url", f"{BASE}/", "--endpoint", f"{OLD}=Orders")

    text = pdkernel(*words)
    data = pdkernel(*words, "--json")

    rewritten, left = data.json["urls"]
    assert (text.status, data.status, entry.read_bytes()) == (1, 1, before)
    assert (data.json["base_url"], data.json["written"], "s3cret" in text.stdout + data.stdout) == (BASE, False, False)
    assert (rewritten["line"], rewritten["step"], rewritten["old"], rewritten["workflow"]) == (1, "work", OLD, "Orders")
    assert rewritten["new"].startswith(f"{BASE}/eo")
    assert (left["state"], left["old"], left["new"]) == ("unknown", "https://eozzz.m.pipedream.net", None)
    assert f"  project/caller-p_Call01/work/entry.js:1  work  {OLD}" in text.stdout
    assert "No workflow is known by this URL." in text.stdout


def test_an_applied_rewrite_is_undone(pdkernel: Shell) -> None:
    """`--apply` writes the listed URL, `--undo` restores the file, and refuses after an edit."""
    write_caller(pdkernel.folder)
    entry = pdkernel.folder / "project/caller-p_Call01/work/entry.js"
    before = entry.read_text()
    words = ("migrate", "urls", "project", "--public-url", BASE, "--endpoint", f"{OLD}=p_Order1", "--apply")

    done = pdkernel(*words)
    written = entry.read_text()
    undone = pdkernel("migrate", "urls", "--undo")
    restored = entry.read_text()
    pdkernel(*words)
    entry.write_text("// mine\n")
    refused = pdkernel("migrate", "urls", "--undo", "--json")

    assert (done.status, undone.status, restored) == (1, 0, before)
    assert OLD not in written
    assert f'"{BASE}/eo' in written
    assert "in 1 place." in undone.stdout
    assert (refused.status, str(entry) in refused.json["error"]["message"]) == (2, True)


def test_the_api_tells_whose_a_url_is(pdkernel: Shell, upstream: Upstream) -> None:
    """The id of a workflow in a folder is enough: the API has the URL of its endpoint."""
    write_caller(pdkernel.folder)
    trigger = {**HTTP, "endpoint_url": OLD}
    upstream.workflows["p_Order1"] = workflow("Orders", [step("s")], workflow_id="p_Order1", triggers=[trigger])
    environ: Any = upstream.environ

    done = pdkernel("migrate", "urls", "project", "p_Order1", "--public-url", BASE, "--json", **environ)

    assert [(each["workflow"], each["state"]) for each in done.json["urls"]] == [
        ("Orders", "rewrite"),
        (None, "unknown"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["project"], "The base of the new URLs is not known"),
        (["project", "--public-url", "flows.example.com"], "is not a valid public URL"),
        (["project", "--public-url", 'https://x/"y'], "cannot be written into code"),
        (["project", "--public-url", BASE, "--endpoint", OLD], "--endpoint needs a URL and a workflow"),
        ([], "SOURCE is missing"),
        (["project", "--undo"], "--undo takes the last rewrite back"),
        (["--undo"], "There is no rewrite to take back"),
    ],
)
def test_wrong_arguments_are_refused(pdkernel: Shell, words: list[str], message: str) -> None:
    """An unknown base, a base that code cannot hold, and options that do not fit are refused with exit status 2."""
    write_caller(pdkernel.folder)

    done = pdkernel("migrate", "urls", *words)

    assert (done.status, message in done.stderr) == (2, True), done.stderr


def test_the_base_is_that_of_the_last_server(pdkernel: Shell) -> None:
    """A project that was served with `--public-url` remembers it; the new URL is the one that the server prints."""
    write_caller(pdkernel.folder)
    with serving(pdkernel.folder, "project", "--public-url", f"{BASE}/pd/") as (ready, _):
        urls = {each["name"]: each["url"] for each in ready["workflows"]}

    done = pdkernel("migrate", "urls", "project", "--endpoint", f"{OLD}=Orders", "--json")

    assert done.json["urls"][0]["new"] == urls["Orders"]
    assert urls["Orders"].startswith(f"{BASE}/pd/eo")


# ── a pipeline, moved and served ───────────────────────────────────────────────────

_STEP = "- namespace: {name}\n  uses: ./{name}/{file}\n"
_WORKER = "https://eoworker1.m.pipedream.net"
_PIPELINE = "https://eopipeline1.m.pipedream.net"
_ASK = """\
import { send } from "./send.mjs";
export default defineComponent({
  async run({ steps, $ }) {
    const { resume_url } = $.flow.suspend(60_000);
    await send({ resume_url, order: steps.trigger.event.body.order });
  },
});
"""
_SEND = f"""\
export const send = (body) =>
  fetch("{_WORKER}/jobs?kind=price", {{ method: "POST", headers: {{ "content-type": "application/json" }}, body: JSON.stringify(body) }});
"""
_CHECK = """\
def handler(pd: "pipedream"):
    answer = pd.steps["ask"]["$resume_data"]
    if answer["price"] < 0:
        raise ValueError(f"no price for {answer['order']}")
    return answer
"""
_PRICE = """\
import json
import urllib.request
from prices import find_price

def handler(pd: "pipedream"):
    event = pd.steps["trigger"]["event"]
    answer = {"order": event["body"]["order"], "price": find_price(event["body"]["order"]), "kind": event["query"]["kind"]}
    request = urllib.request.Request(event["body"]["resume_url"], json.dumps(answer).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request).read()
    return event["path"]
"""
_NIGHTLY = """\
export default defineComponent({
  async run() {
    const body = JSON.stringify({ order: "nightly" });
    return (await fetch(process.env.PIPELINE_URL, { method: "POST", headers: { "content-type": "application/json" }, body })).status;
  },
});
"""


def write_pipeline(folder: Path) -> None:
    """A pipeline that suspends, a worker that resumes it over HTTP, a schedule that starts it, and a workflow for errors."""

    def head(name: str, trigger: str, *steps: tuple[str, str]) -> str:
        entries = "".join(_STEP.format(name=step_name, file=file) for step_name, file in steps)
        return f"schema: workflow/2022.04\nname: {name}\ntriggers:\n- id: {trigger}\nsteps:\n{entries}"

    pipeline = head("Pipeline", "hi_1", ("ask", "entry.mjs"), ("check", "entry.py"))
    synced(
        folder / "pipeline-p_Pipe01",
        pipeline,
        ask__entry_DOT_mjs=_ASK,
        ask__send_DOT_mjs=_SEND,
        check__entry_DOT_py=_CHECK,
    )
    prices = "def find_price(order):\n    return -1 if order == 'unknown' else 5\n"
    worker = head("Worker", "hi_2", ("price", "entry.py"))
    synced(folder / "worker-p_Work01", worker, price__entry_DOT_py=_PRICE, price__prices_DOT_py=prices)
    every = "triggers:\n- {type: schedule, interval_seconds: 2}\n"
    nightly = head("Nightly", "ti_1", ("start", "entry.mjs"))
    synced(folder / "nightly-p_Night1", nightly, start__entry_DOT_mjs=_NIGHTLY, pdkernel_DOT_yaml=every)
    failed = 'def handler(pd: "pipedream"):\n    return pd.steps["trigger"]["event"]["error"]["message"]\n'
    errors = head("Errors", "dc_1", ("note", "entry.py"))
    listens = "triggers:\n- {type: errors, workflows: [Pipeline]}\n"
    synced(folder / "errors-p_Error1", errors, note__entry_DOT_py=failed, pdkernel_DOT_yaml=listens)


def wait_for(find: Callable[[], Any]) -> Any:
    """What *find* returns as soon as that is true."""
    ends = time.monotonic() + 60
    while not (found := find()):
        assert time.monotonic() < ends
        time.sleep(0.3)
    return found


def test_a_moved_pipeline_runs_end_to_end(pdkernel: Shell) -> None:
    """
    Workflows that called each other at Pipedream call each other here after the rewrite, without a network.

    The schedule starts the pipeline at a URL in a variable; the pipeline suspends and hands its `resume_url` to the worker at a URL in
    a file that a step imports; the worker resumes it; a failure starts the workflow for errors.
    """
    write_pipeline(pdkernel.folder / "flows")
    owners = {"Pipeline": ("p_Pipe01", _PIPELINE), "Worker": ("p_Work01", _WORKER)}
    files = {
        f"{name}.json": workflow(name, [step("s")], workflow_id=own_id, triggers=[{**HTTP, "endpoint_url": url}])
        for name, (own_id, url) in owners.items()
    }
    pack(pdkernel.folder / "project_export.zip", files)
    pdkernel("env", "set", "PIPELINE_URL", stdin=f"{_PIPELINE}/nightly\n")

    def runs(name: str, status: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(pdkernel("runs", "list", "--json").stdout)
        return [run for run in listed if (run["workflow"], run["status"]) == (name, status)]

    with serving(pdkernel.folder, "flows", "--egress", "deny") as (ready, _):
        words = ("migrate", "urls", "flows", "project_export.zip", "--public-url", ready["url"], "--apply", "--json")
        moved = pdkernel(*words)
        for name in ("nightly-p_Night1", "errors-p_Error1"):
            assert pdkernel("triggers", "enable", f"flows/{name}").status == 0
        urls = {each["name"]: each["url"] for each in ready["workflows"]}
        sent = httpx.post(urls["Pipeline"], json={"order": "unknown"})
        nightly = wait_for(lambda: runs("Pipeline", "success"))
        noted = wait_for(lambda: runs("Errors", "success"))

    assert (moved.status, [each["state"] for each in moved.json["urls"]]) == (0, ["rewrite"] * 2), moved.stdout
    shown = json.loads(pdkernel("runs", "show", nightly[0]["id"], "--json").stdout)
    note = json.loads(pdkernel("runs", "show", noted[0]["id"], "--json").stdout)
    assert sent.status_code == 200
    assert shown["trigger"]["event"]["path"] == "/nightly"
    assert shown["steps"][-1]["exports"]["$return_value"] == {"order": "nightly", "price": 5, "kind": "price"}
    assert note["steps"][0]["exports"]["$return_value"] == "no price for unknown"
