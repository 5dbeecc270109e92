"""`pdkernel source`: events from a workflow's event source, of every kind."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.conftest import Ended, Shell
from tests.cli.kiosk import Kiosk, open_kiosk, write_kiosk

SOURCE = """
export default {
  key: "depot-new-parcel", name: "New Parcel", version: "0.1.0", type: "source", dedupe: "unique", props: { db: "$.service.db" },
  async run() { console.log("looking"); this.$emit({ parcel: 7 }, { id: 7, summary: "Parcel 7" }) },
};
"""
HEADER = """%%pdworkflow
name: Parcels
trigger:
  type: source
  uses: depot-new-parcel@0.1.0
"""
STEP = "%%pdstep show --lang node\nexport default { run({ steps }) { return steps.trigger.event.parcel + 1 } }"


def a_folder(pdkernel: Shell) -> str:
    """A notebook with an event source of a component folder as its trigger."""
    place = pdkernel.folder / "components" / "depot" / "sources" / "new-parcel"
    place.mkdir(parents=True)
    place.joinpath("new-parcel.mjs").write_text(SOURCE)
    place.parents[1].joinpath("depot.app.mjs").write_text('export default { type: "app", app: "depot" };')
    assert pdkernel("project", "set", "actions", str(pdkernel.folder / "components")).status == 0
    return pdkernel.notebook(HEADER, STEP)


def test_a_polled_event_is_saved_and_run(pdkernel: Shell) -> None:
    """The new event is listed, saved beside the notebook and starts the workflow; the next poll finds no event."""
    notebook = a_folder(pdkernel)

    polled = pdkernel("source", "poll", notebook, "--save", "parcel")
    again = pdkernel("source", "poll", notebook)
    ran = pdkernel("run", notebook, "--event", "events/parcel-1.json", "--json")

    assert polled.status == 0, polled.stderr
    assert polled.stdout.splitlines()[:3] == ["looking", "1. Parcel 7", "1 new event, 0 emitted before."]
    assert json.loads((pdkernel.folder / "events" / "parcel-1.json").read_text()) == {"parcel": 7}
    assert "0 new events, 1 emitted before." in again.stdout
    assert ran.json["steps"][0]["exports"]["$return_value"] == 8


def test_forgetting_and_polling_as_json(pdkernel: Shell) -> None:
    """After `forget` the same event is new again."""
    notebook = a_folder(pdkernel)
    pdkernel("source", "poll", notebook)

    asked = pdkernel("source", "forget", notebook)
    forgotten = pdkernel("source", "forget", notebook, "--yes")
    again = pdkernel("source", "forget", notebook, "--yes")
    polled = pdkernel("source", "poll", notebook, "--json")

    assert (asked.status, "not confirmed" in asked.stderr) == (2, True)
    assert forgotten.stdout == "Removed the source's state: every event is new again.\n"
    assert again.stdout == "The source has no stored state.\n"
    assert polled.json["events"] == [{"event": {"parcel": 7}, "id": 7, "summary": "Parcel 7", "ts": None}]
    assert polled.json["repeated"] == 0


def test_a_source_that_cannot_be_loaded_is_an_error(pdkernel: Shell) -> None:
    """The error is shown, and nothing about a hook."""
    notebook = a_folder(pdkernel)
    module = next(pdkernel.folder.rglob("new-parcel.mjs"))
    module.write_text(module.read_text() + "\nthrow new Error('broken on load');\n")

    ended = pdkernel("source", "poll", notebook)

    assert ended.status == 1
    assert "broken on load" in ended.stderr
    assert "does not have this hook" not in ended.stdout


def test_a_workflow_without_a_source_is_refused(pdkernel: Shell) -> None:
    """The status is 2, with an example of a source trigger."""
    notebook = pdkernel.notebook(STEP)

    polled = pdkernel("source", "poll", notebook)
    hooked = pdkernel("source", "poll", notebook, "--hook", "install")

    assert (hooked.status, "'install' is not a hook of a source" in hooked.stderr) == (2, True)
    assert polled.status == 2
    assert "is of type http, not an event source" in polled.stderr


# ── event sources of every kind ─────────────────────────────────────────────────────────────────────────


KEY = "kiosk-key-5ab1c0"
SHOW = "%%pdstep show --lang node\nexport default { run({ steps }) { return steps.trigger.event } }"

Poll = Callable[..., Ended]


@pytest.fixture
def kiosk() -> Iterator[Kiosk]:
    """The app's API."""
    with open_kiosk() as kiosk:
        yield kiosk


@pytest.fixture
def poll(pdkernel: Shell, kiosk: Kiosk) -> Poll:
    """Polls the source of a workflow as ada: `poll("each-sale@0.0.1", "--hook", "deploy")`."""
    write_kiosk(pdkernel.folder)
    assert pdkernel("project", "set", "actions", ".").status == 0
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "kiosk", "--credential", "api_key=-", stdin=KEY)

    def run(source: str, *options: str, stdin: str = "") -> Ended:
        trigger = f"  type: source\n  uses: kiosk-{source}\n"
        props = "" if source.startswith(("called", "opens")) else "  props:\n    street: Main\n"
        pdkernel.notebook(f"%%pdworkflow\nname: Sales\ntrigger:\n{trigger}{props}", SHOW)
        egress = ("--egress", f"stand-in={kiosk.url}")
        return pdkernel("source", "poll", "work.ipynb", "--external-user", "ada", *egress, *options, stdin=stdin)

    return run


def found(ended: Ended) -> list[Any]:
    """The ids of the new events."""
    assert ended.status == 0, ended.stderr
    return [event["id"] for event in ended.json["events"]]


def test_a_polling_source_from_deployment_to_run(poll: Poll, pdkernel: Shell, kiosk: Kiosk) -> None:
    """The deploy hook emits the newest past events, a tick emits new events, and a saved event starts the workflow."""
    kiosk.sell(1, "paper", 2)
    kiosk.sell(2, "gum", 1)
    kiosk.sell(3, "map", 9)
    deployed = poll("each-sale@0.0.1", "--hook", "deploy", "--json")
    kiosk.sell(4, "pen", 5)
    ticked = poll("each-sale@0.0.1", "--save", "sale")
    ran = pdkernel("run", "work.ipynb", "--event", "events/sale-2.json", "--external-user", "ada", "--json")

    assert found(deployed) == [2, 3]
    assert ticked.stdout.splitlines()[:4] == [
        "tick number 300 300", "1. paper for 2", "2. pen for 5", "2 new events, 2 emitted before.",
    ]  # fmt: skip
    assert ran.json["steps"][0]["exports"]["$return_value"] == kiosk.sales[3]
    assert [path for _, path, _ in kiosk.asked] == [
        "/sales?street=Main&since=0",
        "/sales?street=Main&since=1700000000003",
    ]
    assert kiosk.keys == {f"Bearer {KEY}"}


def test_a_source_of_another_environment(poll: Poll, pdkernel: Shell, kiosk: Kiosk) -> None:
    """A poll uses the account of --environment, and `forget` removes the state of that environment only."""
    kiosk.sell(1, "paper", 2)
    account = ("accounts", "add", "--external-user", "ada", "--app", "kiosk", "--environment", "production")
    pdkernel(*account, "--credential", "api_key=-", stdin="key-of-production-1")
    user = ("--external-user", "ada")

    there = [poll("each-sale@0.0.1", "--environment", "production", "--json") for _ in range(2)]
    here = poll("each-sale@0.0.1", "--json")
    gone = [pdkernel("source", "forget", "work.ipynb", *user, "--environment", "production", "--yes", "--json").json for _ in range(2)]  # fmt: skip

    assert [*map(found, there), found(here)] == [[1], [], [1]]
    assert kiosk.keys == {"Bearer key-of-production-1", f"Bearer {KEY}"}
    assert gone == [{"forgotten": True}, {"forgotten": False}]
    assert found(poll("each-sale@0.0.1", "--json")) == []


def test_a_source_is_not_installed_on_request(pdkernel: Shell) -> None:
    """With --no-install, no registry is asked for a source that is not installed."""
    pdkernel("project", "set", "actions", "npm", "--accept-licence")
    pdkernel.notebook("%%pdworkflow\nname: Repos\ntrigger:\n  type: source\n  uses: github-new-star@0.0.1\n", SHOW)

    refused = pdkernel("source", "poll", "work.ipynb", "--no-install", npm_config_registry="http://127.0.0.1:9")

    assert refused.status == 2
    assert "github-new-star@0.0.1 is not installed in this project, and --no-install" in refused.stderr


def test_events_can_be_saved(poll: Poll, kiosk: Kiosk) -> None:
    """The output names the option that saves events, or the command that runs a saved one; control characters are text."""
    kiosk.sell(1, "\x1b]0;owned\a", 2)
    shown = poll("each-sale@0.0.1")
    kiosk.sell(2, "gum", 1)
    saved = poll("each-sale@0.0.1", "--save", "sale")
    none = poll("each-sale@0.0.1")

    assert "1. \\x1b]0;owned\\x07 for 2" in shown.lines
    assert shown.stdout.splitlines()[-1] == "To save them as test events, pass --save NAME."
    assert saved.stdout.splitlines()[-1].startswith("Run one: pdkernel run work.ipynb --event ")
    assert none.stdout.splitlines()[-1] == "0 new events, 2 emitted before."


def test_a_webhook_is_registered_and_removed(poll: Poll, kiosk: Kiosk) -> None:
    """`activate` registers the given address at the service, which it requires; `deactivate` reads the stored id."""
    without = poll("called@0.1.0", "--hook", "activate")
    on = poll("called@0.1.0", "--hook", "activate", "--endpoint", "https://tunnel.example/in", "--json")
    off = poll("called@0.1.0", "--hook", "deactivate", "--json")
    lacks = poll("opens@0.1.0", "--hook", "activate")

    assert (without.status, "--endpoint URL" in without.stderr) == (1, True)
    assert (on.status, off.status) == (0, 0), (on.stdout, off.stdout)
    assert kiosk.asked == [("POST", "/hooks", {"url": "https://tunnel.example/in"}), ("DELETE", "/hooks/hook_1", None)]
    assert (lacks.status, lacks.stdout) == (0, "kiosk-opens@0.1.0 does not have this hook.\n")


def test_a_request_has_its_raw_body(poll: Poll) -> None:
    """A source verifies the signature of the raw body, responds and emits; a request with a wrong signature emits nothing."""
    sent = {"number": 7, "name": "Zoë"}
    raw = json.dumps(sent, ensure_ascii=False, separators=(",", ":"))
    signature = hmac.new(KEY.encode(), raw.encode(), hashlib.sha256).hexdigest()

    right = poll("called@0.1.0", "--event", "-", "--json", stdin=json.dumps({"headers": {"X-Kiosk-Signature": signature}, "body": sent}))  # fmt: skip
    wrong = poll("called@0.1.0", "--event", "-", "--json", stdin=json.dumps({"headers": {}, "body": sent}))
    said = poll("called@0.1.0", "--event", "-", stdin=json.dumps({"headers": {}, "body": sent}))
    as_sent = poll("called@0.1.0", "--event", "-", "--json", stdin=json.dumps({"headers": {"x-kiosk-signature": signature}, "bodyRaw": raw}))  # fmt: skip

    assert right.json["events"][0]["event"] == {**sent, "method": "POST"}
    assert right.json["response"]["body"] == {"thanks": True}
    assert (wrong.json["events"], wrong.json["response"]["status"]) == ([], 401)
    assert "The source answered the request with status 401." in said.stdout
    assert (as_sent.json["events"], as_sent.json["repeated"]) == ([], 1)


def test_a_folder_with_sources_only_is_accepted(pdkernel: Shell) -> None:
    """A component folder may have no app module and no action."""
    place = write_kiosk(pdkernel.folder) / "components" / "kiosk"
    place.joinpath("kiosk.app.mjs").unlink()

    assert pdkernel("project", "set", "actions", ".").status == 0
