"""
Event sources of a simulation: what their code does, and the promises of their endpoints and timers.

A source has an endpoint and a timer. It emits two events for a request or a tick, each with the number of the request and the
count that the source stores: so a lost, repeated or half-stored run of the source is visible in the events of runs.
"""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pdkernel.common.clock import ManualClock
from pdkernel.errors import StepError, StepProcessExitedError
from pdkernel.model import JSON, Trigger, Workflow
from pdkernel.server.source_turns import MAX_TICK_TRIES
from pdkernel.storage import DeployedTrigger, Project, Schedule, TriggerState, Webhook
from pdkernel.workers import (
    ComponentDescription,
    ComponentFile,
    PropDeclaration,
    SourceCall,
    SourceOutcome,
    StepRecorder,
)
from pdkernel.workers.replies import Emitted, Respond, StepResponse, StoreWrite
from tests.builders import a_workflow, python_step
from tests.simulation.loop import EPOCH, SimLoop
from tests.simulation.operations import STORY_S, Operation, Run

DAY_S = 86400
"""The interval of all timers, so that each ticks once in a simulation."""
HOOK = "hook"
"""The host of the webhook that receives the events of a deployed source."""
TICK = 0
"""The number of a tick; requests count from 1."""


@dataclass(frozen=True)
class Source:
    """
    A source, whose events start the workflow of its name.

    Attributes:
        name: The name.
        is_deployed: Whether the Connect API has deployed it. Else it is the trigger of the workflow.
        responds: Whether it responds itself, before it emits (`customResponse`).
    """

    name: str
    is_deployed: bool
    responds: bool

    @property
    def uses(self) -> str:
        """Its component."""
        return f"{'depot-responding' if self.responds else 'depot-called'}@0.1.0"

    @property
    def workflow(self) -> Workflow:
        """The workflow of its events."""
        flow = a_workflow(python_step("work1", "return 1"), name=self.name)
        return flow if self.is_deployed else replace(flow, triggers=(Trigger("source", config={"uses": self.uses}),))


SOURCES = {
    each.name: each
    for each in (
        Source("Deployed", is_deployed=True, responds=False),
        Source("DeployedEarly", is_deployed=True, responds=True),
        Source("Triggered", is_deployed=False, responds=False),
        Source("TriggeredEarly", is_deployed=False, responds=True),
    )
}


def write_components(folder: Path) -> Path:
    """Write the components of all sources into *folder*, a checkout, which is returned. Only their heads are ever read."""
    for key in ("called", "responding"):
        header = f'key: "depot-{key}", name: "Called", description: "d", version: "0.1.0", type: "source"'
        place = folder / "components" / "depot" / "sources" / key
        place.mkdir(parents=True)
        (place / f"{key}.mjs").write_text(f"export default {{ {header} }};\n")
    return folder


def draw(chance: random.Random) -> list[Operation]:
    """Return the deployment of a source, and requests to it."""
    name, tick = chance.choice(list(SOURCES)), chance.uniform(1, STORY_S)
    found = [Operation(0.0, "deploy source", name, tick)]
    if chance.random() < 0.3:
        found.append(Operation(tick + chance.uniform(0, 2), "kill"))
    return found + [
        Operation(chance.uniform(1, STORY_S), "call source", name, number + 1) for number in range(chance.randint(1, 8))
    ]


def describe(component: ComponentFile) -> ComponentDescription:
    """Return what a source declares."""
    http = {"customResponse": True} if "responding" in component.key else {}
    return ComponentDescription(
        props=(
            PropDeclaration("http", "$.interface.http", definition=http),
            PropDeclaration("timer", "$.interface.timer", definition={"default": {"intervalSeconds": DAY_S}}),
        ),
        key=component.key,
        version=component.version,
        type="source",
    )


def _fails(number: JSON) -> bool:
    """Whether the code fails between its two events."""
    return isinstance(number, int) and number % 4 == 3


async def run(
    call: SourceCall, recorder: StepRecorder, loop: SimLoop, note: Callable[[str, str], object]
) -> SourceOutcome:
    """Run a source, or a hook, which does nothing. One process in ten of a source is ended before its first event."""
    recorder.service_db = dict(call.service_db)
    if call.operation != "run":
        note(call.operation, "")
        return SourceOutcome(is_implemented=False, service_db=recorder.service_db)
    chance, event = loop.random, call.event
    assert isinstance(event, dict)
    body = event.get("body")
    number = body["n"] if isinstance(body, dict) else TICK
    note("source begins", str(number))
    await asyncio.sleep(chance.expovariate(1 / (1.0 if number == TICK else 0.05)))
    if "responding" in call.component.key and number != TICK:
        recorder.add_reply(Respond(StepResponse(202, {}, "early", immediate=True)))
        await asyncio.sleep(chance.expovariate(1 / 0.3))
    error: StepError | None = None
    if chance.random() < 0.1:
        note("source dies", str(number))
        error = StepProcessExitedError("The worker was killed.")
    else:
        before = recorder.service_db.get("count", 0)
        assert isinstance(before, int)
        count = before + 1
        recorder.add_reply(StoreWrite("count", count))
        for part in (1,) if _fails(number) else (1, 2):
            recorder.add_reply(Emitted({"n": number, "part": part, "count": count}))
            await asyncio.sleep(chance.expovariate(1 / 0.01))
        if _fails(number):
            error = StepError("The source failed.", name="Failed")
    outcome = recorder.outcome(error)
    note("source ends", str(number))
    return SourceOutcome(
        emitted_events=tuple(recorder.emitted_events),
        service_db=recorder.service_db,
        response=outcome.response,
        error=error,
    )


class Sources:
    """
    The sources of one world.

    Args:
        world: The world.
    """

    kinds: Collection[str] = ("deploy source", "call source")

    def __init__(self, world: Any) -> None:
        self._world = world
        self._paths: dict[str, str] = {}
        self._due_s: dict[str, float] = {}
        self._calls: list[tuple[str, int, asyncio.Task[Any]]] = []

    def begin(self, operation: Operation) -> None:
        """Let an operation of `draw` happen."""
        if operation.kind == "deploy source":
            self._paths[operation.what] = self._deploy(SOURCES[operation.what], operation.amount)
            self._due_s[operation.what] = operation.amount
        elif operation.what in self._paths:
            number, path = int(operation.amount), self._paths[operation.what]
            call = self._world.loop.create_task(self._world.post(operation.what, path, {"n": number}))
            self._calls.append((operation.what, number, call))

    def _deploy(self, source: Source, due_s: float) -> str:
        """Store a source whose timer ticks at a virtual time; return the path of its endpoint."""
        since = EPOCH + timedelta(seconds=due_s - DAY_S)
        with Project.open(self._world.folder / ".pdkernel", clock=ManualClock(since), ids=self._world.ids) as project:
            if not source.is_deployed:
                state = _build_state(source, self._world.folder, since)
                project.workflow_triggers.save([state])
                return "/" + project.endpoint_keys.ensure_trigger_key(state.id)
            key, _, version = source.uses.partition("@")
            own_id = f"dc_{source.name.lower()}"
            endpoint = project.endpoint_keys.ensure_trigger_key(own_id)
            project.deployed_triggers.add(
                DeployedTrigger(
                    own_id, "ada", "development", key, version, source.name, {}, {}, True, since, since, Schedule(DAY_S),
                    endpoint=endpoint, workflows=(f"p_{source.name.lower()}",),
                    webhooks=(Webhook("wh_hook", f"http://{HOOK}.example/", "key", 0.0, 0.0),),
                )
            )  # fmt: skip
            return f"/{endpoint}"

    def is_settled(self, runs: Sequence[Run]) -> bool:
        """Return whether the timer of each source has ticked if it must, and nothing waits."""
        if not all(call.done() for *_, call in self._calls):
            return False
        ticked = {each.record.workflow for each in runs if each.event.get("n") == TICK}
        ticked |= {name for name in self._paths if self._has_no_tick(name)}
        with closing(sqlite3.connect(self._world.folder / ".pdkernel" / "project.db")) as connection:
            waiting = connection.execute("select 1 from trigger_events union all select 1 from answered_requests")
            is_behind = any(host.clock_ahead_s < 0 for host in self._world.hosts)
            return waiting.fetchone() is None and (is_behind or ticked >= self._paths.keys())

    def _has_no_tick(self, name: str) -> bool:
        """Whether the tick was given up because its process died too often, or took place before the source was active."""
        of_source = [each for each in self._world.watch.effects if each.workflow == f"source {SOURCES[name].uses}"]
        deaths: int = sum(each.kind == "source dies" and each.step == str(TICK) for each in of_source)
        active_at: float = max((each.at for each in of_source if each.kind == "activate"), default=-math.inf)
        ahead_s: float = max(0.0, *(host.clock_ahead_s for host in self._world.hosts))
        return deaths >= MAX_TICK_TRIES or active_at + ahead_s >= self._due_s[name]

    def check(self, runs: Sequence[Run]) -> Iterator[str]:
        """What is stored is emitted once, in order; a 2xx response means stored."""
        for name in self._paths:
            found = [each.event for each in runs if each.record.workflow == name and each.record.replay_of is None]
            parts: list[Any] = [(each["count"], each["part"], each["n"]) for each in found]
            for event, times in Counter((each, part) for _, part, each in parts).items():
                if times > 1:
                    yield f"the event {event} of {name} has started {times} runs"
            for _, number, call in self._calls:
                answer = call.result()
                if answer.status == 500 and not (_fails(number) or self._world.has_bugs):
                    yield f"{name} answered 500 for the request {number}"
                if answer.status is not None and answer.status < 300:
                    missing = {(number, 1), (number, 2)} - {(each, part) for _, part, each in parts}
                    if missing - ({(number, 2)} if _fails(number) else set()):
                        yield f"{name} answered {answer.status} for the request {number}, and its events {sorted(missing)} are lost"
            numbers = defaultdict[Any, set[Any]](set)
            for each in parts:
                numbers[each[0]].add(each[2])
            if sorted(numbers) != list(range(1, len(numbers) + 1)) or any(len(each) > 1 for each in numbers.values()):
                yield f"the state of {name} and its events differ: {dict(numbers)}"
            if SOURCES[name].is_deployed:
                yield from self._check_webhook(name, parts)
            if parts != sorted(parts):
                yield f"the runs of {name} began in another order than its events: {parts}"

    def _check_webhook(self, name: str, parts: Sequence[Any]) -> Iterator[str]:
        """The webhook gets each event once, in order; again only after a fault."""
        bodies = [each.body for each in self._world.network.tries if each.host == HOOK]
        sent = [(each["count"], each["part"], each["n"]) for each in bodies]
        first = list(dict.fromkeys(sent))
        if first != sorted(parts):
            yield f"the webhook of {name} got {first}, and its workflow {parts}"
        if len(first) < len(sent) and not self._world.faults_at:
            yield f"the webhook of {name} got an event twice: {sent}"


def _build_state(source: Source, folder: Path, since: datetime) -> TriggerState:
    settings = {"uses": source.uses}
    return TriggerState(
        f"p_{source.name.lower()}", "source", source.name, str(folder / f"{source.name}.ipynb"), settings, True, since,
        type="source",
    )  # fmt: skip
