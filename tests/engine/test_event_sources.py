"""Event sources of workflows, run by the engine from a local folder of components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from pdkernel.egress import parse_policy
from pdkernel.engine.event_sources import (
    SourceEvent,
    SourceRequest,
    drop_repeated_events,
    require_source_trigger,
    timer_setting,
)
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ExternalUserRequiredError, PdkernelError, ProjectError, RequestError, UnsupportedError
from pdkernel.model import JSON, Trigger
from pdkernel.storage import Project
from pdkernel.workers import Emitted, PropDeclaration
from tests.builders import a_step, node_step
from tests.engine.conftest import Run
from tests.http_servers import AnsweringServer, serve

TOKEN = "tok-8c1f4a6e0b"
SOURCE = """
const depot = { type: "app", app: "depot", methods: { token() { return this.$auth.api_key } } };
export default {
  key: "depot-new-parcel", name: "New Parcel", version: "0.1.0", type: "source", dedupe: "unique",
  props: { depot, db: "$.service.db", timer: { type: "$.interface.timer", default: { intervalSeconds: 60 } }, size: { type: "integer", default: 1 } },
  hooks: { async deploy() { this.$emit({ past: true }, { id: "past" }) } },
  async run(event) {
    const seen = this.db.get("seen") ?? 0;
    this.db.set("seen", seen + this.size);
    this.db.set("token", this.depot.token());
    console.log("using", this.depot.token());
    this.$emit({ parcel: seen, every: event.interval_seconds, tick: event, by: this.depot.token() }, { id: seen, summary: event.fail ? `By ${this.depot.token()}` : `Parcel ${seen}` });
    this.$emit({ parcel: 0 }, { id: 0 });
    if (event.fail) throw new Error(`no more for ${this.depot.token()}`);
  },
};
"""
WEBHOOK = """
export default {
  key: "depot-new-call", name: "New Call", version: "0.1.0", type: "source",
  props: { http: { type: "$.interface.http", customResponse: true }, key: { type: "string", secret: true, optional: true } },
  async run(event) { this.http.respond({ status: 202 });
    if (event.path === "/call") return this.$emit({ status: (await fetch(event.body)).status });
    if (event.path === "/where") return this.$emit(this.http.endpoint);
    if (event.path === "/refused") throw new Error(`refused: ${event.headers.authorization}, not ${this.key}`);
    if (event.path === "/slow") await new Promise((done) => setTimeout(done, 5_000));
    this.$emit({ "/echo": event, "/text": "text" }[event.path] ?? { got: event.headers["x-depot"] }, { id: 1, ts: 5 }) },
};
"""
ACTION = 'export default { key: "depot-look", name: "Look", version: "0.1.0", type: "action", run() {} };'


@pytest.fixture
def request_of(project: Project, tmp_path: Path, connect: Callable[..., str]) -> Callable[..., SourceRequest]:
    """Returns a function that makes a request for the source, for ada, who has an account."""
    for kind, name, text in (
        ("sources", "new-parcel", SOURCE),
        ("sources", "new-call", WEBHOOK),
        ("actions", "look", ACTION),
    ):
        path = tmp_path / "components" / "depot" / kind / name
        path.mkdir(parents=True)
        path.joinpath(f"{name}.mjs").write_text(text)
    project.settings.set("actions", str(tmp_path / "components"))
    connect(app="depot", credentials={"api_key": TOKEN})

    def make(uses: str = "depot-new-parcel@0.1.0", props: Any = None, **choices: Any) -> SourceRequest:
        choices.setdefault("external_user_id", "ada")
        trigger = Trigger("source", config={"uses": uses, "props": props or {}})
        return SourceRequest(trigger, "work.ipynb", parse_policy("deny"), folder=tmp_path, **choices)

    return make


async def test_event_is_new_once(runtime: WorkflowEngine, request_of: Callable[..., SourceRequest]) -> None:
    """A source gets its database of the last run, and an id that it emitted before is not new; a hook runs by its name, and a missing one is reported."""
    first = await runtime.source_runner.run(request_of(props={"size": 5}))
    second = await runtime.source_runner.run(request_of(props={"size": 5}))
    deployed = await runtime.source_runner.run(request_of(act="deploy"))
    none = await runtime.source_runner.run(request_of(act="activate"))

    assert [(event.id, event.summary) for event in first.events] == [(0, "Parcel 0")]
    assert [event.id for event in second.events] == [5]
    assert (first.repeated_count, second.repeated_count) == (1, 1)
    assert second.events[0].event.data["every"] == 60
    assert [event.event.data for event in deployed.events] == [{"past": True}]
    assert (deployed.had_hook, none.had_hook) == (True, False)


async def test_a_value_that_a_source_removes_is_gone(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest], tmp_path: Path
) -> None:
    """A value that a source has removed from its database is not there at its next run."""
    place = tmp_path / "components" / "depot" / "sources" / "new-turn"
    place.mkdir(parents=True)
    place.joinpath("new-turn.mjs").write_text("""
export default {
  key: "depot-new-turn", name: "New Turn", version: "0.1.0", type: "source",
  props: { db: "$.service.db", timer: { type: "$.interface.timer", default: { intervalSeconds: 60 } } },
  async run() {
    const seen = this.db.get("seen");
    this.db.set("seen", seen === undefined ? 1 : undefined);
    this.$emit({ seen: seen ?? null });
  },
};
""")
    request = request_of("depot-new-turn@0.1.0", external_user_id=None)

    runs = [await runtime.source_runner.run(request) for _ in range(3)]

    assert [event.event.data["seen"] for ran in runs for event in ran.events] == [None, 1, None]


TREE = {
    "acme/package.json": '{"name": "@pipedream/acme", "main": "acme.app.mjs"}',
    "acme/acme.app.mjs": """
import constants from "./common/constants.mjs";
export default { type: "app", app: "acme", methods: { url: () => constants.URL } };
""",
    "acme/common/constants.mjs": 'export default { URL: "https://api.acme.example" };',
    "acme/common/regions.json": '[{"id": "eu"}, {"id": "us"}]',
    "acme/common/utils.mjs": 'import { upper } from "../../other/common/text.mjs"; export const clean = (text) => upper(text.trim());',
    "other/common/text.mjs": "export const upper = (text) => text.toUpperCase();",
    "acme/actions/do-it/do-it.mjs": """
import acme from "../../acme.app.mjs";
import { clean } from "../../common/utils.mjs";
import regions from "../../common/regions.json" assert { type: "json" };
export default {
  key: "acme-do-it", name: "Do It", version: "0.0.1", type: "action", props: { acme, what: { type: "string" } },
  run() { return [clean(this.what), regions.length, this.acme.url()]; },
};
""",
    "acme/sources/common/base.mjs": """
import acme from "../../acme.app.mjs";
import regions from "../../common/regions.json";
export default {
  props: { acme, timer: { type: "$.interface.timer", default: { intervalSeconds: 60 } } },
  methods: { ids: () => regions.map(({ id }) => id) },
};
""",
    "acme/sources/new-thing/new-thing.mjs": """
import common from "../common/base.mjs";
import sampleEmit from "./test-event.mjs";
export default {
  ...common,
  key: "acme-new-thing", name: "New Thing", version: "0.0.1", type: "source", dedupe: "unique", sampleEmit,
  async run() { for (const id of this.ids()) this.$emit({ id, url: this.acme.url() }, { id, summary: id }); },
};
""",
    "acme/sources/new-thing/test-event.mjs": 'export default { id: "eu" };',
}
"""A tree of components in the layout of Pipedream's repository: common files, JSON, and imports of another app."""


async def test_components_of_a_tree_run_with_their_common_files(
    runtime: WorkflowEngine, run: Run, connect: Callable[..., str], tmp_path: Path
) -> None:
    """An action and a source of a tree that `pdkernel.yaml` names import common files, with old and without attributes for JSON."""
    for path, text in TREE.items():
        (tmp_path / "components" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "components" / path).write_text(text)
    connect(app="acme", credentials={"api_key": TOKEN})
    user: dict[str, Any] = {"external_user_id": "ada", "action_sources": ("components",)}
    trigger = Trigger("source", config={"uses": "acme-new-thing@0.0.1"})

    polled = await runtime.source_runner.run(SourceRequest(trigger, "w", parse_policy("deny"), folder=tmp_path, **user))
    ran = await run(a_step("%%pdstep act --uses acme-do-it@0.0.1\nwhat: ' hi '\n"), **user)

    assert polled.record.error is None
    assert [event.event.data for event in polled.events] == [
        {"id": "eu", "url": "https://api.acme.example"},
        {"id": "us", "url": "https://api.acme.example"},
    ]
    assert ran.error is None
    assert ran.step("act").return_value == ["HI", 2, "https://api.acme.example"]


async def test_each_external_user_has_separate_state(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest], connect: Callable[..., str]
) -> None:
    """Each external user has separate state: an event is new for one and repeated for the other."""
    connect("bob", app="depot", credentials={"api_key": "tok-of-bob-1"})

    await runtime.source_runner.run(request_of())
    bobs = await runtime.source_runner.run(request_of(external_user_id="bob"))

    assert [event.id for event in bobs.events] == [0]


async def test_results_have_no_credential(runtime: WorkflowEngine, request_of: Callable[..., SourceRequest]) -> None:
    """Logs, events and the error have a placeholder; the database has the value, encrypted."""
    request = request_of(event={"fail": True})

    ran = await runtime.source_runner.run(request)

    assert ran.record.error is not None
    assert TOKEN not in repr((ran.record, ran.events[0]))
    assert str(ran.events[0].summary).startswith("By ⟦secret:depot/")
    assert "⟦secret:depot/" in str(ran.events[0].event.data["by"])
    assert "⟦secret:depot/" in ran.record.error.message


async def test_events_before_a_failure_count(runtime: WorkflowEngine, request_of: Callable[..., SourceRequest]) -> None:
    """Events emitted before a failure are returned, and are not new in the next run."""
    failed = await runtime.source_runner.run(request_of(event={"fail": True}))
    again = await runtime.source_runner.run(request_of(event={"fail": True}, props={"size": 0}))

    assert [event.id for event in failed.events] == [0]
    assert [event.id for event in again.events] == [1]


async def test_events_are_stored_with_the_state(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest]
) -> None:
    """If the events cannot be stored, the state is not stored either, and the events are new in the next run."""
    stored: list[Any] = []

    def fail(_: Connection, events: Sequence[SourceEvent]) -> None:
        stored.append([event.id for event in events])
        raise ProjectError("The disk is full.")

    with pytest.raises(ProjectError):
        await runtime.source_runner.run(request_of(store_events=fail))
    again = await runtime.source_runner.run(request_of())

    assert stored == [[0]]
    assert [event.id for event in again.events] == [0]


async def test_deleted_state_makes_every_event_new(
    runtime: WorkflowEngine, project: Project, request_of: Callable[..., SourceRequest]
) -> None:
    """After its state is deleted, every event of a source is new."""
    await runtime.source_runner.run(request_of())

    forgotten = project.source_states.remove(request_of().state_key)
    ran = await runtime.source_runner.run(request_of())

    assert forgotten
    assert [event.id for event in ran.events] == [0]


async def test_emitted_event_is_unchanged_in_the_workflow(
    runtime: WorkflowEngine, run: Run, request_of: Callable[..., SourceRequest]
) -> None:
    """`steps.trigger.event` is the emitted event, without added headers."""
    emitted = (await runtime.source_runner.run(request_of(act="deploy"))).events[0].event

    execution = await run(
        node_step("look", "return steps.trigger.event"), event=emitted.with_identity("ada", "development")
    )

    assert execution.step("look").return_value == {"past": True}


@pytest.mark.parametrize(
    ("choices", "error", "message", "fix"),
    [
        ({"external_user_id": None}, ExternalUserRequiredError, "No external user ID passed", ""),
        ({"uses": "depot-look@0.1.0"}, UnsupportedError, "is an action", "%%pdstep NAME --uses depot-look@0.1.0"),
        (
            {"uses": "depot-new-call@0.1.0"},
            RequestError,
            "needs an HTTP request to run, and the event is missing",
            "--event FILE",
        ),
    ],
    ids=["an account without an external user", "an action as a trigger", "no request and no timer"],
)
async def test_source_that_cannot_run_is_refused(
    runtime: WorkflowEngine,
    request_of: Callable[..., SourceRequest],
    choices: dict[str, Any],
    error: type[PdkernelError],
    message: str,
    fix: str,
) -> None:
    """A source without what it needs is refused, and the fix explains how to write or run it."""
    with pytest.raises(error, match=message) as caught:
        await runtime.source_runner.run(request_of(**choices))

    assert fix in caught.value.fix


def test_http_trigger_is_not_a_source() -> None:
    """A workflow with an HTTP trigger is refused; the message shows a source trigger."""
    with pytest.raises(RequestError, match="trigger is of type http") as caught:
        require_source_trigger(Trigger())

    assert "uses: KEY@VERSION" in caught.value.fix


def test_state_belongs_to_a_workflow_and_a_source(request_of: Callable[..., SourceRequest]) -> None:
    """The state belongs to a workflow and a source, not to a version of the source."""
    request = request_of()

    assert request.state_key != replace(request, owner_key="other.ipynb").state_key
    assert request.state_key != replace(request, environment="production").state_key
    assert request.state_key == request_of("depot-new-parcel@0.2.0").state_key


@pytest.mark.parametrize(
    ("definition", "props", "setting"),
    [
        ({"static": {"cron": "1"}, "default": {"cron": "2"}}, {"timer": {"cron": "3"}}, {"cron": "3"}),
        ({"static": {"cron": "1"}, "default": {"cron": "2"}}, {}, {"cron": "1"}),
        ({"default": {"cron": "2"}}, {"timer": None}, {"cron": "2"}),
        ({}, {"other": 1}, {}),
    ],
)
def test_the_setting_of_a_timer(definition: dict[str, JSON], props: dict[str, JSON], setting: JSON) -> None:
    """A timer has the configured value, else the one that the source fixes, else its default."""
    assert timer_setting(PropDeclaration("timer", "$.interface.timer", definition=definition), props) == setting


@pytest.mark.parametrize(
    ("timer", "tick"),
    [
        ({"cron": "0 9 * * *", "timezone": "Asia/Kolkata"}, {"cron": "0 9 * * *", "timezone": "Asia/Kolkata"}),
        ({"cron": "0 9 * * *"}, {"cron": "0 9 * * *"}),
        ({"intervalSeconds": 30}, {"interval_seconds": 30}),
        ({}, {"interval_seconds": 60}),
    ],
)
async def test_a_tick_names_its_schedule(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest], timer: JSON, tick: dict[str, JSON]
) -> None:
    """The event of a timer has its time in seconds, and the cron expression with its time zone, or the interval."""
    ran = await runtime.source_runner.run(request_of(props={"timer": timer}))

    event = ran.events[0].event.data["tick"]
    assert isinstance(event, dict)
    assert isinstance(event.pop("timestamp"), int)
    assert event == tick


async def test_http_source_gets_the_request(runtime: WorkflowEngine, request_of: Callable[..., SourceRequest]) -> None:
    """A source with an HTTP interface reads the request, with what an HTTP server adds, responds and emits."""
    request = request_of("depot-new-call@0.1.0", event={"headers": {"x-depot": "seven"}})

    ran = await runtime.source_runner.run(request)

    assert [found.event.data for found in ran.events] == [{"got": "seven"}]
    assert ran.response is not None
    assert ran.response.status == 202
    echo = {"path": "/echo", "headers": {}, "query": {}}
    for given, expected in (
        (
            {"headers": {"X-Depot": "a"}, "body": {"n": 1}},
            {"headers": {"x-depot": "a"}, "body": {"n": 1}, "bodyRaw": '{"n":1}'},
        ),
        ({"method": "PUT", "body": "text"}, {"method": "PUT", "body": "text", "bodyRaw": "text"}),
        ({"bodyRaw": '{"n": 1}'}, {"body": {"n": 1}, "bodyRaw": '{"n": 1}'}),
        ({"bodyRaw": "text"}, {"body": "text", "bodyRaw": "text"}),
        ({"bodyRaw": "[" * 100_000}, {"body": "[" * 100_000, "bodyRaw": "[" * 100_000}),
        ({"bodyRaw": "1", "body": "2"}, {"body": "2", "bodyRaw": "1"}),
        ({}, {"method": "GET", "body": None, "bodyRaw": None}),
    ):
        ran = await runtime.source_runner.run(replace(request, event={"path": "/echo", **given}))
        assert [found.event.data for found in ran.events] == [{"method": "POST", **echo, **expected}]
    ran = await runtime.source_runner.run(replace(request, event={"path": "/text", "headers": {}}))
    assert [(found.event.data, found.ts) for found in ran.events] == [({"value": "text"}, 5)]


async def test_the_record_of_a_source_shows_no_secret_header_and_prop(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest]
) -> None:
    """The error of a source, which the server logs and stores, has placeholders for secrets of the request and of props."""
    event = {"path": "/refused", "headers": {"Authorization": f"Bearer {TOKEN}-other"}}
    request = request_of("depot-new-call@0.1.0", {"key": "key-0123456789"}, event=event, external_user_id=None)

    ran = await runtime.source_runner.run(request)

    assert ran.record.error is not None
    assert ran.record.error.message == ("refused: Bearer ⟦secret:event/authorization⟧, not ⟦secret:prop/source/key⟧")


async def test_http_source_knows_its_endpoint_and_has_a_time_limit(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest]
) -> None:
    """A source reads the public URL of its HTTP interface; a source that runs longer than its time limit is ended."""
    where = request_of("depot-new-call@0.1.0", event={"path": "/where"}, endpoint_url="https://hooks.example/depot")
    slow = request_of("depot-new-call@0.1.0", event={"path": "/slow"}, timeout_s=0.3)

    found, ended = await runtime.source_runner.run(where), await runtime.source_runner.run(slow)

    assert [each.event.data for each in found.events] == [{"value": "https://hooks.example/depot"}]
    assert ended.record.error is not None
    assert (ended.record.error.code, ended.events) == ("timeout", ())


@pytest.mark.parametrize("public_only", [False, True])
async def test_source_keeps_to_public_addresses(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest], public_only: bool
) -> None:
    """A source whose policy allows public addresses only does not reach this machine."""
    with serve(AnsweringServer(lambda _: (200, b""))) as server:
        request = request_of("depot-new-call@0.1.0", event={"path": "/call", "body": server.url})
        policy = replace(request.policy, public_only=public_only)
        ran = await runtime.source_runner.run(replace(request, policy=policy))

    assert len(server.requests) == (0 if public_only else 1)
    assert [found.event.data for found in ran.events] == [{"status": 403 if public_only else 200}]
    calls = [(call.outcome, call.external_user) for call in ran.record.requests]
    assert calls == ([("denied", "ada")] if public_only else [])
    assert ("may call public addresses only" in ran.record.output) is public_only


async def test_source_uses_a_chosen_account(
    runtime: WorkflowEngine, request_of: Callable[..., SourceRequest], connect: Callable[..., str]
) -> None:
    """A source uses the account that the request names, and otherwise the newest account."""
    newest = connect(app="depot", credentials={"api_key": "tok-of-newest-1"})
    accounts = [(await runtime.source_runner.run(request_of())).record.accounts]
    chosen = connect(app="depot", credentials={"api_key": "tok-of-another-1"})
    request = request_of(account_overrides={"depot": newest})

    accounts.append((await runtime.source_runner.run(request)).record.accounts)

    assert chosen != newest
    assert [[use.id for use in each] for each in accounts] == [[newest], [newest]]


def ids(strategy: str | None, *batches: list[Any]) -> list[list[Any]]:
    """Ids of the new events of each batch, in order."""
    state: dict[str, Any] = {}
    return [
        [e.id for e in drop_repeated_events(strategy, [Emitted({}, id=i) for i in batch], state)] for batch in batches
    ]


@pytest.mark.parametrize(
    ("strategy", "batches", "new"),
    [
        (None, [[1, 1], [1]], [[1, 1], [1]]),
        ("unique", [[1, 2, 1], [2, "1", 3]], [[1, 2], [3]]),
        ("unique", [[None, None]], [[None, None]]),
        ("greatest", [[3, 1, 5], [5, 6, 4]], [[3, 5], [6]]),
        ("greatest", [["10"], ["9", "11"]], [["10"], ["11"]]),
        ("greatest", [[0], [0, -1, 1]], [[0], [1]]),
        ("greatest", [["no number"], ["no number"]], [["no number"], ["no number"]]),
        ("greatest", [[10**400, 1]], [[10**400, 1]]),
        ("last", [[1, 2], [1, 2, 3]], [[1, 2], [3]]),
        ("last", [[1, 2], [7, 8]], [[1, 2], [7, 8]]),
        ("last", [[1, 2], [2]], [[1, 2], []]),
        ("last", [[1, 2], [2, 3, 2, 4], [3, 4, 5]], [[1, 2], [4], [5]]),
        ("greatest", [["Infinity", 1], [2]], [["Infinity", 1], [2]]),
    ],
)
def test_each_strategy(strategy: str | None, batches: list[list[Any]], new: list[list[Any]]) -> None:
    """`unique` compares ids, `greatest` numbers, `last` positions; without a strategy every event is new."""
    assert ids(strategy, *batches) == new


def test_unique_remembers_a_hundred_ids() -> None:
    """`unique` stores a hundred ids and drops the oldest first."""
    first, again, newest = ids("unique", list(range(101)), [0], [100])

    assert (len(first), again, newest) == (101, [0], [])


def test_events_are_sorted_by_time() -> None:
    """Events are sorted by time, oldest first; events without a time follow in the order of emission."""
    emitted = [Emitted("c"), Emitted("b", ts=2), Emitted("a", ts=1), Emitted("d")]

    assert [event.event for event in drop_repeated_events(None, emitted, {})] == ["a", "b", "c", "d"]
