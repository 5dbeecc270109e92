"""
What happens in a simulation, and the promises that must hold.

A scenario is a list of operations, each with its time, that a seed decides. A failed one is made shorter by leaving out operations
as long as it still fails.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from pdkernel.execution import BlockChoice, Execution
from pdkernel.journal import open_reader
from pdkernel.journal.sqlite import SqliteBackend
from pdkernel.journal.text_columns import ExecutionQuery
from tests.simulation import commands, deliveries, moments, sources
from tests.simulation.health import Health
from tests.simulation.operations import FAULT_S, STORY_S, Operation, Part, PromiseError, Run
from tests.simulation.pool import CALLS, Effect
from tests.simulation.world import NOT_STORED, Host, Server, World, a_world

START_S = 1.0
"""The longest time between the start of a run and that of its first step, in virtual seconds."""
EVENTS = (
    "Plain",
    "Long",
    "Single",
    "Throttled",
    "Delayed",
    "Approved",
    "Caller",
    "Twins",
    "Failing",
    "Early",
    "Branched",
)
DRAWS = (sources.draw, deliveries.draw, commands.draw)
CALLERS = {"Caller": "call", "Twins": "twins", "Branched": "call"}
"""The workflows that call others, with the kind of the step."""
DIFFERS = "RepeatedCallDiffers"
"""The error of a repeated step whose call differs from those of the interrupted attempt."""
TEXTS = frozenset((*EVENTS, "Echo", "Slow", "Cold"))
"""The workflows whose text says its version."""
LIMITED = ("Single", "Throttled")
"""The workflows with limits, which hold for runs that are not recorded, too."""
BACKLOG_CHANCE = 0.12
"""The share of scenarios whose servers end again and again while many runs wait for few slots."""
PART_CHANCE = 0.2
"""The share of scenarios that have the operations of one of `DRAWS`."""
FAULTS = ("kill", "restart", "deploy", "freeze", "clock", "full", "fail", "lose", "stall", "bug")
SHARED_EVENTS = (*EVENTS, "Slow")
SHARED_FAULTS = (*FAULTS, "silence", "refusal", "cut", "outage", "crash")
"""
What befalls one of several hosts, or the database that they share.

`silence` and `refusal`: one host cannot reach the database, and gets no answer, or is refused at once. `cut`: so does one host
after its next commit, before it knows. `outage` and `crash`: the same for all hosts.
"""
PATIENCE_S = 60.0
"""Virtual seconds for which a run may wait after the last fault, beside the time of all runs that wait with it: see `_check_waits`."""
WORK_S = {"Long": 8.0, "Slow": 45.0, "Cold": 12.0, "Delayed": 5.0, "Branched": 8.0, "Poison": 120.0}
"""The longest time of a run of a workflow, in virtual seconds, if nothing befalls it; that of Poison includes ten restarts, on several hosts each after the end of a lease."""
OTHER_WORK_S = 3.0
"""The time of a run of any other workflow, with its share of the period of a throttle."""
ANSWER_S = 15.0
"""The longest time until an event is answered, in virtual seconds: a write is tried again for as long as a lease."""
BELIEVED_S = 35.0
"""The virtual seconds for which a clock that was set has effects."""
SETTLE_S = 900.0
"""The longest time until messages and timers are done after the last fault: they are tried again after long pauses."""
QUIET_S = 8.0
"""The virtual seconds in which nothing may begin any more after everything has ended: longer than the intervals of a server."""
MOMENT_CHANCE = 0.2
"""The share of scenarios with an operation of `moments`."""
CHECK_CHANCE = 0.2
"""The share of scenarios with health checks at any time."""


@dataclass(frozen=True)
class Scenario:
    """
    What happens in a simulation.

    Attributes:
        seed: Decides everything else.
        operations: What happens, in order.
        hosts: The number of hosts, each with a server.
        slots: The number of runs that execute at once in a server.
    """

    seed: int
    operations: Sequence[Operation]
    hosts: int = 1
    slots: int = 3


def make_scenario(seed: int, hosts: int = 1) -> Scenario:
    """Return the scenario of *seed* on so many *hosts*. It is mostly small, and about few kinds of workflows and faults."""
    chance = random.Random(seed)
    all_events = EVENTS if hosts == 1 else SHARED_EVENTS
    events = chance.sample(all_events, chance.choice([1, 2, 3, 5, len(all_events)]))
    operations = []
    for _ in range(round(2 * 10 ** chance.random())):
        at, what = chance.uniform(0, STORY_S), chance.choice(events)
        kind = "unstored" if what in LIMITED and chance.random() < 0.5 else "event"
        operations.append(Operation(at, kind, what, chance.choice([1, 1, 1, 2, 8])))
    if chance.random() < 0.2:
        operations.append(Operation(chance.uniform(0, STORY_S / 2), "event", "Poison"))
    if "Approved" in events or "Branched" in events:
        operations += [Operation(chance.uniform(0, STORY_S), "resume") for _ in range(chance.randint(0, 4))]
    amounts: dict[str, Callable[[], float]] = {
        "freeze": lambda: chance.uniform(0.1, 30),
        "clock": lambda: chance.choice([-3600.0, -5.0, 5.0, 3600.0]),
        "full": lambda: chance.uniform(0.1, 10),
        "fail": lambda: chance.randint(1, 5),
        "bug": lambda: chance.randint(1, 3),
        "stall": lambda: chance.uniform(0.1, 20),
    }
    amounts |= dict.fromkeys(("silence", "refusal", "cut", "outage", "crash"), lambda: chance.uniform(0.1, 30))
    kinds = chance.sample(FAULTS if hosts == 1 else SHARED_FAULTS, chance.randint(1, 4))
    for _ in range(chance.randint(0, 10)):
        kind = chance.choice(kinds)
        at, amount = chance.uniform(0, STORY_S), amounts.get(kind, lambda: 1.0)()
        host = chance.randrange(hosts) if hosts > 1 else 0
        clock = Operation(at, kind, amount=amount, host=host)
        is_corrected = kind == "clock" and chance.random() < 0.7
        operations += _draw_correction(chance, clock) if is_corrected else [clock]
    added = []
    for number, draw in enumerate(DRAWS):
        part = random.Random(f"{seed} {number}")
        if part.random() < PART_CHANCE:
            added += draw(part)
    if added:  # fewer events of other workflows, so that no seed costs much more time
        operations = [
            replace(each, amount=1) if each.kind == "event" else each
            for number, each in enumerate(operations)
            if each.kind != "event" or number % 3 == 0
        ]
    operations += added
    rare = random.Random(f"{seed} rare")
    if rare.random() < MOMENT_CHANCE:
        operations += moments.draw(rare, hosts)
    if rare.random() < CHECK_CHANCE:
        checks = (Operation(rare.uniform(1, STORY_S), "check", host=rare.randrange(hosts)) for _ in range(4))
        operations += checks
    slots = 3
    if chance.random() < BACKLOG_CHANCE:
        slots, operations = 1, _draw_backlog(chance)
    return Scenario(seed, sorted(operations, key=lambda each: each.at), hosts=hosts, slots=slots)


def _draw_correction(chance: random.Random, clock: Operation) -> list[Operation]:
    """Return an hour for which a clock is wrong for some seconds, and runs of a limited workflow before and after its end."""
    wrong = replace(clock, amount=chance.choice([3600.0, 3600.0, -3600.0]))
    back = replace(wrong, at=clock.at + chance.uniform(2, 20), amount=-wrong.amount)
    times = chance.uniform(clock.at, back.at), back.at + chance.uniform(0, 3)
    return [wrong, back, *(Operation(at, "event", "Throttled", chance.choice([2, 4])) for at in times)]


def _draw_backlog(chance: random.Random) -> list[Operation]:
    """Return many events for few slots, and more ends of servers than those after which a run is given up."""
    found = [Operation(chance.uniform(0, 2), "event", "Long", 2) for _ in range(chance.randint(4, 6))]
    at = 2.0
    for _ in range(chance.randint(11, 13)):
        at += chance.uniform(1.5, 5)
        found.append(Operation(at, "kill" if chance.random() < 0.85 else "restart"))
    return found


def run_scenario(scenario: Scenario, template: Path) -> None:
    """Let a scenario happen. Raises `PromiseError`."""
    with a_world(scenario.seed, template, hosts=scenario.hosts, slots=scenario.slots) as world:
        try:
            world.loop.run_until_complete(_Story(world).tell(scenario.operations))
        finally:
            asyncio.set_event_loop(None)


def find_failure(scenario: Scenario, template: Path) -> str | None:
    """Return how the scenario fails, or None."""
    try:
        run_scenario(scenario, template)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def kind_of(failure: str) -> str:
    """Return *failure* without what differs from seed to seed."""
    return re.sub(r"\b(?:[\w-]{27}|[\d.]+)\b|/\S+", "*", failure)


def shrink(scenario: Scenario, template: Path, failure: str) -> tuple[Scenario, str]:
    """Return the scenario with the fewest operations found that fails in the same way, and how."""
    kept, message = list(scenario.operations), failure

    def breaks(some: Sequence[Operation]) -> str | None:
        found = find_failure(replace(scenario, operations=some), template)
        return found if found is not None and kind_of(found) == kind_of(failure) else None

    size = max(1, len(kept) // 2)
    while size:
        position = 0
        while position < len(kept):
            fewer = kept[:position] + kept[position + size :]
            found = breaks(fewer)
            if found is None:
                position += size
            else:
                kept, message = fewer, found
        size //= 2
    return replace(scenario, operations=kept), message


class _Story:
    """The operations of a scenario as they happen in *world*."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clients: list[asyncio.Task[Any]] = []
        self._health = Health(world)
        self._parts: Sequence[Part] = (
            sources.Sources(world),
            deliveries.Deliveries(world),
            world.commands,
            self._health,
        )
        self._used = set[Part]()

    async def tell(self, operations: Sequence[Operation]) -> None:
        """Let *operations* happen, and wait until all runs have ended. Raises `PromiseError`."""
        world = self._world
        supervisors = [world.loop.create_task(self._supervise(host)) for host in world.hosts]
        for operation in operations:
            await asyncio.sleep(max(0.0, operation.at - world.loop.time()))
            world.note(str(operation))
            if operation.kind in (*SHARED_FAULTS, "defect"):
                seconds = {"clock": BELIEVED_S - FAULT_S, "fail": 0.0}.get(operation.kind, operation.amount)
                ends = math.inf if operation.kind in ("bug", "defect") else world.loop.time() + seconds + FAULT_S
                world.faults_at.append((world.loop.time(), ends))
            self._begin(operation)
            if operation.kind in ("restart", "deploy"):
                if operation.kind == "deploy":
                    world.version += 1
                await world.hosts[operation.host].stop()
        await self._settle()
        for supervisor in supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        runs = await read_runs(world.folder)
        check_promises(world, runs)
        for part in self._parts:
            for problem in part.check(runs):
                raise PromiseError(problem)

    async def _supervise(self, host: Host) -> None:
        """Start the server of *host* again after its end."""
        while True:
            if host.server is None and not host.is_stopping:
                await host.start()
            await asyncio.sleep(self._world.loop.random.uniform(0.05, 1))

    def _begin(self, operation: Operation) -> None:
        for part in self._parts:
            if operation.kind in part.kinds:
                self._used.add(part)
                part.begin(operation)
                return
        world, amount = self._world, operation.amount
        self._fail_disk(operation)
        self._fail_database(operation)
        match operation.kind:
            case "event":
                self._call(operation, {})
            case "unstored":
                self._call(operation, {NOT_STORED: "1"})
            case "resume" if world.resume_urls:
                url = world.loop.random.choice(world.resume_urls)
                self._clients.append(world.loop.create_task(world.resume(url)))
            case "edit":
                world.version += 1
            case "clock":
                world.hosts[operation.host].clock_ahead_s += amount
                world.has_changed_clock = True
            case _ if (server := world.hosts[operation.host].server) is not None:
                self._befall(server, operation)

    def _call(self, operation: Operation, headers: Mapping[str, str]) -> None:
        call = partial(self._world.call, operation.what, headers=headers)
        self._clients += [self._world.loop.create_task(call()) for _ in range(int(operation.amount))]

    def _fail_disk(self, operation: Operation) -> None:
        world, disk, amount = self._world, self._world.disk, operation.amount
        match operation.kind:
            case "full":
                disk.is_full = True
                world.loop.call_later(amount, setattr, disk, "is_full", False)
            case "fail":
                disk.failing += int(amount)
            case "lose":
                disk.is_losing = True
            case "stall":
                disk.stall_s = amount

    def _fail_database(self, operation: Operation) -> None:
        world, amount = self._world, operation.amount
        match operation.kind:
            case "outage" | "crash" if world.database is not None:
                world.database.stop(amount, hangs=operation.kind == "outage")
                for host in world.hosts:
                    self._health.follow(host, amount)
            case "silence" | "refusal" if (link := world.hosts[operation.host].link) is not None:
                link.cut(amount, hangs=operation.kind == "silence")
                self._health.follow(world.hosts[operation.host], amount)
            case "cut" if (link := world.hosts[operation.host].link) is not None:
                link.cut_after_commit_s = amount

    def _befall(self, server: Server, operation: Operation) -> None:
        match operation.kind:
            case "kill":
                server.host.kill(server)
            case "freeze":
                self._world.loop.freeze(server.process, operation.amount)
            case "bug":
                server.process.bugs += int(operation.amount)
                server.process.step_bugs += int(operation.amount)
                self._world.has_bugs = True
            case "defect":
                server.process.defect_until = self._world.loop.time() + operation.amount
                self._world.has_bugs = True

    async def _settle(self) -> None:
        """Heal everything, and wait until all that was begun has ended, and nothing begins any more."""
        world, disk = self._world, self._world.disk
        disk.is_full, disk.failing, disk.is_losing, disk.stall_s = False, 0, False, 0.0
        world.heal_links()
        began = world.loop.time()
        quiet_at = max([began, *(end for _, end in world.faults_at if end < math.inf)])
        seen: dict[str, tuple[str, float]] = {}
        settled_at: float | None = None
        while settled_at is None or world.loop.time() < settled_at + QUIET_S:
            await asyncio.sleep(1 + (world.loop.time() - began) / 10)
            for url in tuple(world.resume_urls):
                answer = await world.resume(url)
                if answer.status is not None and answer.status < 500:  # else the server has not handled it
                    world.resume_urls.remove(url)
            unfinished = world.watch.find_unfinished()
            for run, workflow in unfinished.items():
                seen.setdefault(run, (workflow, max(world.loop.time(), quiet_at)))
            _check_waits(seen, unfinished, world.loop.time())
            unsettled = [] if unfinished or world.resume_urls else await self._find_unsettled()
            if unfinished or world.resume_urls or unsettled:
                settled_at = None
                if world.loop.time() > quiet_at + SETTLE_S:
                    raise PromiseError(f"these do not end: {world.resume_urls} {unsettled}")
            elif settled_at is None:
                settled_at = world.loop.time()

    async def _find_unsettled(self) -> list[str]:
        if not all(each.done() for each in self._clients):
            return ["clients"]
        runs = await read_runs(self._world.folder) if self._used else ()
        return [type(part).__name__ for part in self._parts if part in self._used and not part.is_settled(runs)]


def _check_waits(seen: Mapping[str, tuple[str, float]], unfinished: Collection[str], now: float) -> None:
    """
    Raise `PromiseError` for runs that wait for longer than their rules say.

    After the last fault, a run that is due starts and ends: at the latest after all others, one after another. *seen* are all runs
    since then, with their workflow and the time at which they were seen first.
    """
    longest_s = PATIENCE_S + sum(WORK_S.get(workflow, OTHER_WORK_S) for workflow, _ in seen.values())
    late = Counter(seen[run][0] for run in unfinished if now > seen[run][1] + longest_s)
    if late:
        raise PromiseError(f"these do not end within {longest_s:g} s after the last fault: {dict(late)}")


async def read_runs(folder: Path) -> list[Run]:
    """Return all runs in the order in which they were recorded, whatever the clocks showed."""
    reader = open_reader(SqliteBackend(folder / ".pdkernel" / "project.db"))
    try:
        rows = "select id, parent from runs order by rowid"
        parents = dict(await reader.read(lambda connection: list(connection.execute(rows))))
        records = await reader.executions(ExecutionQuery(limit=100_000))
    finally:
        reader.close()
    known = {each.id: each for each in records}
    # servers may still start and remove runs between the two reads
    return [Run(known[run_id], parent) for run_id, parent in parents.items() if run_id in known]


def check_promises(world: World, runs: Sequence[Run]) -> None:
    """Raise `PromiseError` for the first promise that does not hold."""
    for problem in world.watch.problems:
        raise PromiseError(problem)
    for check in (
        _check_accepted,
        _check_answered,
        _check_early,
        _check_ends,
        _check_repeats,
        _check_limits,
        _check_order,
        _check_children,
        _check_branches,
        _check_bugs,
        _check_texts,
    ):
        for problem in check(world, runs):
            raise PromiseError(problem)


def _check_accepted(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """A response of 2xx means that the run is recorded."""
    known = {each.record.id for each in runs}
    for answer in world.answers:
        if (
            answer.status is not None
            and answer.status < 300
            and answer.run_id is not None
            and answer.run_id not in known
            and answer.is_stored
            and not world.commands.may_be_removed(answer.workflow)
        ):
            yield f"the run {answer.run_id} of {answer.workflow} was accepted at {answer.sent_at:.3f}, and is not recorded"
        is_source = answer.workflow in sources.SOURCES  # whose own failure is a 500
        if answer.status is not None and (
            (answer.status >= 500 and answer.status != 503 and not is_source)
            or answer.status == 429  # no queue is full, and no server has too many runs
            or (answer.status == 503 and "retry-after" not in answer.headers)
        ):
            yield f"{answer.workflow} answered {answer.status} at {answer.sent_at:.3f}"


def _check_answered(world: World, _runs: Sequence[Run]) -> Iterator[str]:
    """An event for a workflow that sends no response is answered soon, or soon after the end of a fault."""
    for answer in world.answers:
        if answer.workflow not in TEXTS or answer.workflow == "Early" or not answer.is_stored:
            continue
        due = answer.sent_at + ANSWER_S
        for begin, end in sorted(world.faults_at):
            if begin <= due and end < math.inf:
                due = max(due, end + ANSWER_S)
        if answer.answered_at > due:
            yield f"{answer.workflow} was called at {answer.sent_at:.3f}, and answered {answer.status} at {answer.answered_at:.3f}"


def _check_early(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """Each response that a workflow sends early is that of a run that ends well."""
    answered = sum(answer.workflow == "Early" and answer.status == 201 for answer in world.answers)
    well = {"success", "cancelled", *(["error"] if world.has_bugs else [])}
    ended = sum(each.record.workflow == "Early" and each.record.status in well for each in runs)
    if ended < answered:
        yield f"{answered} requests to Early got its response, and {ended} of its runs have ended well"


def _check_ends(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """Each accepted run ends as its workflow does: neither a server's end nor a disk that fails for a while is a reason to fail."""
    accepted = {answer.run_id for answer in world.answers if answer.status is not None and answer.status < 300}
    unwritten = "error", "ProjectError"
    expired = "cancelled", "WaitExpired"
    expected = defaultdict(lambda: ("success", None)) | {"Failing": ("error", "Failed")}
    broken = {each.record.id for each in runs if each.record.workflow == "Branched" and each.record.status == "error"}
    for each in runs:
        run = each.record
        found = run.status, None if run.error is None else run.error.name
        if world.commands.may_end(each, found):
            continue
        if run.workflow == "Poison":
            if run.status != "error":
                yield f"a run of Poison has ended as {found}"
        elif run.status == "cancelled" and each.parent in broken:
            continue  # an unexpected exception in one branch ended the call in another one
        elif found == unwritten and run.id not in accepted:
            continue  # its caller knows; a response of "Early" has no id of a run, but `_check_accepted` counts them
        elif (run.status == "error" and world.has_bugs) or (
            found == expired and run.workflow in ("Approved", "Branched") and world.has_changed_clock
        ):
            continue
        elif found == ("error", DIFFERS) and run.workflow in CALLERS and _is_repeated(world, run.id):
            continue  # its step calls in another order, or with another payload
        elif found != expected[run.workflow]:
            message = "" if run.error is None else run.error.message
            yield f"the run {run.id} of {run.workflow} has ended as {found}: {message}"


def _is_repeated(world: World, run: str) -> bool:
    """Whether a step of a run has begun again."""
    begun = Counter(each.step for each in world.watch.effects if each.run == run and each.kind == "start")
    return any(count > 1 for count in begun.values())


def _check_repeats(world: World, _runs: Sequence[Run]) -> Iterator[str]:
    """A step of the only host begins again only after the end of the process in which it began, or of its run's task."""
    if world.database is not None:
        return  # `StepWatch` checks it: a process that loses its lease lives
    begun: dict[tuple[str, str], Effect] = {}
    for effect in world.watch.effects:
        key = effect.run, effect.step
        if effect.kind == "start":
            before = begun.get(key)
            has_lost_task = before is not None and before.process.defect_until >= before.at  # then it is started again
            if before is not None and before.process.ended_at > effect.at and not has_lost_task:
                where = (
                    "the same process"
                    if before.process is effect.process
                    else "another process, while the first one lives"
                )
                yield f"the step {effect.step} of {effect.workflow} began at {before.at:.3f}, and at {effect.at:.3f} again in {where}"
            begun[key] = effect


def _check_limits(world: World, _runs: Sequence[Run]) -> Iterator[str]:
    """The limit of starts holds at each moment; `StepWatch` checks that of concurrency."""
    starts: dict[str, float] = {}
    for effect in world.watch.effects:
        if effect.workflow == "Throttled" and effect.kind == "start" and effect.step == "work1":
            starts.setdefault(effect.run, effect.at)
    times = sorted(starts.values())
    for first, fourth in zip(times, times[3:], strict=False):
        if fourth - first < 2 - START_S:
            yield f"four runs of Throttled began within {fourth - first:.3f} s at {first:.3f}"


def _check_order(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """Runs of a queue with one place begin in the order in which they were accepted."""
    begun: dict[str, float] = {}
    for effect in world.watch.effects:
        if effect.workflow == "Single" and effect.kind == "start":
            begun.setdefault(effect.run, effect.at)
    queue = [each for each in runs if each.parent is None and each.record.id in begun]
    for first, second in pairwise(queue):
        if begun[second.record.id] < begun[first.record.id]:
            yield f"the run {second.record.id} of Single began before {first.record.id}, which had waited for longer"


def _check_children(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """Each call of another workflow starts one run, and gets its result."""
    for effect in world.watch.effects:
        if effect.kind.startswith("got"):
            yield f"the step {effect.step} of {effect.workflow} {effect.kind}"
    children = Counter((each.parent, each.record.workflow) for each in runs if each.parent)
    for run in (each.record for each in runs):
        calls = Counter(child for child, _ in CALLS[CALLERS[run.workflow]]) if run.workflow in CALLERS else {}
        for workflow, most in calls.items():
            count = children[run.id, workflow]
            if count > most or (count < most and run.status == "success" and not _has_tossed_else(run)):
                yield f"the run {run.id} of {run.workflow} has {count} runs of {workflow}"


def _has_tossed_else(run: Execution) -> bool:
    """Whether the call of a run of Branched is in the branch that was not taken."""
    return any(isinstance(step.choice, BlockChoice) and step.choice.taken == ("else",) for step in run.steps)


def _check_branches(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """A run of Branched that ends well has executed the steps of the recorded branch and those around, and no other step."""
    begun = defaultdict[str, set[str]](set)
    for effect in world.watch.effects:
        if effect.kind == "start" and effect.workflow == "Branched":
            begun[effect.run].add(effect.step)
    for run in (each.record for each in runs if each.record.workflow == "Branched"):
        taken = {"work5"} if _has_tossed_else(run) else {"work1", "work2", "work3", "work4", "delay1", "ask1", "call1"}
        expected = {"toss1", "work6"} | taken
        found = begun[run.id]
        if not found <= expected or (run.status == "success" and found != expected):
            yield f"the run {run.id} of Branched, {run.status}, has executed {sorted(found)} of {sorted(expected)}"


def _check_bugs(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """A run that meets an unexpected exception in a step ends with it: it does not begin again in its process."""
    if world.database is not None:
        return  # commits are blocking calls there, so that the end may have an exception, too
    records = {each.record.id: each.record for each in runs}
    for number, effect in enumerate(world.watch.effects):
        if effect.kind != "bug" or effect.process.defect_until >= effect.at:
            continue
        what = f"the step {effect.step} of {effect.workflow} had an unexpected exception at {effect.at:.3f}"
        later = next(
            (each for each in world.watch.effects[number:] if each.run == effect.run and each.kind == "start"), None
        )
        if later is not None and later.process is effect.process:
            yield f"{what}, and the step {later.step} of its run began at {later.at:.3f} in the same process"
        record = records.get(effect.run)
        if later is None and record is not None and record.status not in ("error", "cancelled"):
            yield f"{what}, and its run has ended as {record.status}"


def _check_texts(world: World, runs: Sequence[Run]) -> Iterator[str]:
    """A run has one text: that which was deployed when it was accepted."""
    texts = defaultdict[str, set[str]](set)
    for effect in world.watch.effects:
        if effect.kind == "start" and effect.workflow in TEXTS:
            texts[effect.run].add(effect.text)
    versions = {run: {int(text.rpartition("return ")[2]) for text in some} for run, some in texts.items()}
    for each in (each.record for each in runs):
        if len(found := versions.get(each.id, set())) > 1:
            yield f"the run {each.id} of {each.workflow} has executed the versions {sorted(found)} of its text"
    for answer in world.answers:
        if answer.run_id in versions and answer.status is not None:
            first, last = answer.versions
            earliest = 0 if world.has_bugs else first  # an unexpected error leaves the earlier text served
            for version in versions[answer.run_id]:
                if not earliest <= version <= last:
                    yield (
                        f"the run {answer.run_id} of {answer.workflow} has the version {version} of its text, although that was "
                        f"{first} when it was sent at {answer.sent_at:.3f}, and {last} when it was answered"
                    )
