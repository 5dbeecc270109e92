"""
Messages of a simulation: hosts that receive them, hang, refuse or are slow, and the promises about deliveries.

A run of `Sender` sends to the hosts that its event names, and emits one event. Failed runs of all workflows are reported to a host
and to the workflow `Errors`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx

from pdkernel.common.clock import ManualClock
from pdkernel.model import JSON, Trigger, Workflow
from pdkernel.storage import Project, TriggerState
from pdkernel.workers import RunSetup, StepRecorder
from pdkernel.workers.replies import Effect as Message
from tests.builders import a_workflow, python_step
from tests.simulation.loop import EPOCH, PROCESS, SimLoop, SimProcess
from tests.simulation.operations import STORY_S, Operation, Run

STEADY = "steady"
"""The host that always answers."""
HOSTS = (STEADY, "unsteady", "other")
ALERTS = "alerts"
"""The host that receives notifications about failed runs."""
OUTAGES = ("hang", "refuse", "slow")
POISON_CHANCE = 0.15
"""The share of these scenarios with a run that is given up, which is told as each failed run is."""
HANGING_CHANCE = 0.4
"""The share of these scenarios in which runs send to a host that hangs and to one that answers."""
SLOW_S = 4.0
"""The time of an answer of a slow host, in virtual seconds; below the time limit of a message."""
PROMPT_S = 4.5
"""The longest time until a message to a host that answers arrives: less than one message to a host that hangs takes."""


@dataclass
class Try:
    """
    A request that a host has received.

    Attributes:
        host: The host.
        body: The body.
        at: The virtual time.
        process: The process that has sent it.
        is_answered: Whether it was answered.
    """

    host: str
    body: Mapping[str, JSON]
    at: float
    process: SimProcess
    is_answered: bool = False


class Network(httpx.AsyncBaseTransport):
    """
    The hosts outside.

    Attributes:
        tries: All requests, in order.
    """

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._outages: dict[str, tuple[str, float]] = {}
        self.tries: list[Try] = []

    def fail(self, host: str, outage: str, seconds: float) -> None:
        """Let *host* hang, refuse or be slow for some time."""
        self._outages[host] = (outage, self._loop.time() + seconds)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request as its host does now."""
        host = request.url.host.partition(".")[0]
        received = Try(host, json.loads(await request.aread()), self._loop.time(), PROCESS.get())
        outage, until = self._outages.get(host, ("", 0.0))
        outage = outage if self._loop.time() < until else ""
        if outage != "refuse":
            self.tries.append(received)
        match outage:
            case "hang":
                await asyncio.sleep(request.extensions["timeout"]["read"])
                raise httpx.ReadTimeout("The host did not answer.", request=request)
            case "refuse":
                raise httpx.ConnectError("Connection refused.", request=request)
            case "slow":
                await asyncio.sleep(SLOW_S)
        await asyncio.sleep(self._loop.random.expovariate(1 / 0.05))
        received.is_answered = True
        return httpx.Response(204, request=request)


def send(setup: RunSetup, recorder: StepRecorder) -> None:
    """Queue the messages of a step of `Sender`."""
    event, run_id = setup.trigger["event"], setup.run_id
    body = event.get("body") if isinstance(event, dict) else None
    hosts = body.get("to") if isinstance(body, dict) else None
    for position, host in enumerate(hosts if isinstance(hosts, list) else ()):
        data = {"run": run_id, "position": position}
        recorder.add_reply(Message("http", {"method": "POST", "url": f"http://{host}.example/", "data": data}))
    recorder.add_reply(Message("emit", {"channel": "sent", "event": {"run": run_id}}))


def _listener(name: str, **settings: JSON) -> Workflow:
    trigger = Trigger("errors" if name == "Errors" else "emit", config=settings)
    return replace(a_workflow(python_step("work1", "return 1"), name=name), triggers=(trigger,))


WORKFLOWS = (
    a_workflow(python_step("work1", "return 1"), python_step("send1", "return 1"), name="Sender"),
    _listener("Listener", channel="sent", workflows=["Sender"]),
    _listener("Errors", workflows=["Failing", "Poison"]),
)


def draw(chance: random.Random) -> list[Operation]:
    """Return runs that send, and outages of hosts."""
    found, times = [Operation(0.0, "listen")], []
    for _ in range(chance.randint(0, 3)):
        host, outage = chance.choice([*HOSTS[1:], ALERTS]), chance.choice(["hang", *OUTAGES])
        at, seconds = chance.uniform(0, STORY_S), chance.uniform(1, 40)
        times.append(partial(chance.uniform, at, at + seconds))
        found.append(Operation(at, outage, host, seconds))
    times.append(partial(chance.uniform, 1, STORY_S))
    for _ in range(chance.randint(1, 6)):
        hosts = ",".join(chance.choice(HOSTS) for _ in range(chance.randint(1, 6)))
        found.append(Operation(chance.choice(times)(), "send", hosts, chance.choice([1, 1, 3])))
    found += [Operation(chance.choice(times)(), "event", "Failing") for _ in range(chance.randint(0, 2))]
    if chance.random() < POISON_CHANCE:
        found.append(Operation(chance.uniform(0, STORY_S / 2), "event", "Poison"))
    if chance.random() < HANGING_CHANCE:
        found += _draw_hanging(chance)
    return found


def _draw_hanging(chance: random.Random) -> list[Operation]:
    """Return runs that send to a host that hangs and to one that answers."""
    host, at = chance.choice(HOSTS[1:]), chance.uniform(0, STORY_S - 20)
    to = f"{host},{host},{STEADY},{host},{STEADY}"
    return [
        Operation(at, "hang", host, 40),
        *(Operation(at + chance.uniform(0, 15), "send", to, chance.choice([1, 3])) for _ in range(2)),
    ]


class Deliveries:
    """
    The messages of one world.

    Args:
        world: The world.
    """

    kinds: Collection[str] = ("listen", "send", *OUTAGES)

    def __init__(self, world: Any) -> None:
        self._world = world
        self._listens = False
        self._clients: list[asyncio.Task[Any]] = []

    def begin(self, operation: Operation) -> None:
        """Let an operation of `draw` happen."""
        if operation.kind == "listen":
            self._listens = True
            self._listen()
        elif operation.kind == "send":
            body = {"to": operation.what.split(",")}
            for _ in range(int(operation.amount)):
                self._clients.append(self._world.loop.create_task(self._world.call("Sender", body)))
        else:
            self._world.network.fail(operation.what, operation.kind, operation.amount)

    def _listen(self) -> None:
        """Enable the triggers of the listening workflows, and the notifications."""
        with Project.open(self._world.folder / ".pdkernel", clock=ManualClock(EPOCH), ids=self._world.ids) as project:
            project.settings.set("error_notification", f"http://{ALERTS}.example/")
            states = []
            for workflow in WORKFLOWS[1:]:
                name, trigger = workflow.name, workflow.triggers[0]
                path = str(self._world.folder / f"{name}.ipynb")
                states.append(
                    TriggerState(
                        f"p_{name.lower()}", trigger.type, name, path, trigger.config, True, EPOCH, type=trigger.type
                    )
                )
            project.workflow_triggers.save(states)

    def is_settled(self, _runs: Sequence[Run]) -> bool:
        """Return whether no message and no event waits."""
        if not all(each.done() for each in self._clients):
            return False
        with closing(sqlite3.connect(self._world.folder / ".pdkernel" / "project.db")) as connection:
            waiting = "select 1 from trigger_events union all select 1 from outbox where due is not null"
            return connection.execute(waiting).fetchone() is None

    def check(self, runs: Sequence[Run]) -> Iterator[str]:
        """Yield the messages that were lost, repeated, reversed or late, and the events that started not one run."""
        if not self._listens:
            return
        runs = [each for each in runs if each.record.replay_of is None]  # a replay sends nothing
        tries = self._world.network.tries
        yield from self._check_messages(runs, [each for each in tries if each.host in HOSTS])
        told = Counter(each.body["run"] for each in tries if each.host == ALERTS and each.is_answered)
        sent = Counter(str(each.event["run"]) for each in runs if each.record.workflow == "Listener")
        errors = [each.event["original_context"] for each in runs if each.record.workflow == "Errors"]
        failed = Counter(str(each["id"]) for each in errors if isinstance(each, dict))
        for run in (each.record for each in runs):
            if run.workflow in ("Failing", "Poison") and run.status == "error" and not self._is_unaccepted(run.error):
                # an unexpected exception where the messages are queued is in the log only
                is_silent = self._world.has_bugs and not told[run.id] and not failed[run.id]
                if (not told[run.id] and not is_silent) or (told[run.id] > 1 and not self._world.faults_at):
                    yield f"the failed run {run.id} of {run.workflow} was told {told[run.id]} times"
                if failed[run.id] != 1 and not is_silent:
                    yield f"the failed run {run.id} of {run.workflow} has started {failed[run.id]} runs of Errors"
            elif run.status == "success" and (told[run.id] or failed[run.id]):
                yield f"the run {run.id} of {run.workflow} has not failed, but was told"
            if run.workflow == "Sender" and run.status == "success" and sent[run.id] != 1:
                yield f"the event of the run {run.id} of Sender has started {sent[run.id]} runs"

    @staticmethod
    def _is_unaccepted(error: Any) -> bool:
        """Whether nothing of the run could be written: then its caller knows."""
        return error is not None and error.name == "ProjectError"

    def _check_messages(self, runs: Sequence[Run], tries: Sequence[Try]) -> Iterator[str]:
        begun = defaultdict[tuple[str, str], list[Try]](list)
        for each in tries:
            begun[str(each.body["run"]), each.host].append(each)
        queued = {
            each.run: each.at for each in self._world.watch.effects if each.step == "send1" and each.kind == "end"
        }
        for run in (each.record for each in runs):
            if run.workflow != "Sender" or run.status != "success":
                continue
            body = run.event["body"]
            assert isinstance(body, dict)
            hosts = body["to"]
            assert isinstance(hosts, list)
            for host in sorted({str(each) for each in hosts}):
                expected = [position for position, each in enumerate(hosts) if each == host]
                answered = [each for each in begun[run.id, host] if each.is_answered]
                arrived = Counter(each.body["position"] for each in answered)
                for position in expected:
                    if not arrived[position] or (arrived[position] > 1 and not self._world.faults_at):
                        yield f"the message {position} of {run.id} has arrived {arrived[position]} times at {host}"
                if host != STEADY:
                    continue
                first = list(dict.fromkeys(each.body["position"] for each in begun[run.id, host]))
                if first != expected:
                    yield f"the messages {expected} of {run.id} were sent to {host} as {first}"
                at = queued[run.id]
                late = max(each.at for each in answered) - at
                disturbed = any(begin < at + PROMPT_S and at < end for begin, end in self._world.faults_at)
                if late > PROMPT_S and not disturbed:
                    yield f"messages of {run.id} arrived {late:.3f} s after the end of their step at {host}"
