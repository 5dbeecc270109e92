"""
What persons do with the runs of a simulation: they replay and cancel runs, remove old ones and replace the project's key.

Replays, cancellations and removals take place in a server, as from its console. The key is replaced while no server lives.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import PdkernelError, ProjectError
from pdkernel.execution import UNFINISHED_STATUSES, Execution
from pdkernel.model import Workflow
from pdkernel.operations.keys import rotate_encryption_key
from pdkernel.operations.run_history import cancel_run, remove_expired
from pdkernel.operations.run_replay import prepare_replay, start_replay
from pdkernel.server.app_state import AppState, get_state
from pdkernel.storage import Project
from tests.builders import a_workflow, python_step
from tests.simulation.loop import InjectedBug, SimClock
from tests.simulation.operations import STORY_S, Operation, Run

DAY_S = 86400
RETENTION_S = 8.0
"""The seconds for which ended runs of `Brief` are kept."""
BRIEF = "Brief"
WORKFLOWS: tuple[Workflow, ...] = (
    a_workflow(
        python_step("work1", "return 1"), python_step("work2", "return 1"), name=BRIEF, retention=RETENTION_S / DAY_S
    ),
)
RECENT = 12
"""A person deals with one of so many runs that have begun last."""
_PARENTS = ("Caller", "Twins", "Branched")


@dataclass
class Command:
    """
    A command about a run.

    Attributes:
        run: The run's id.
        at: When it began, in virtual time.
        is_done: Whether it was carried out; None if its server died, or could not write.
        done_at: When that was known.
        before: The record of the run before a replay, or None.
        new: The id of the run that a replay has started, or None.
    """

    run: str
    at: float
    is_done: bool | None = None
    done_at: float = 0.0
    before: Execution | None = None
    new: str | None = None


def draw(chance: random.Random) -> list[Operation]:
    """Return commands, and runs with a short retention."""
    kinds = chance.sample(("replay", "cancel", "expire", "rotate"), chance.randint(1, 3))
    found = [Operation(chance.uniform(1, STORY_S), "rotate")] if "rotate" in kinds else []
    others = [each for each in kinds if each != "rotate"]
    for _ in range(chance.randint(1, 8) if others else 0):
        kind = chance.choice(others)
        found.append(Operation(chance.uniform(1, STORY_S), kind, amount=chance.choice([1, 1, 2])))
    if "expire" in kinds:
        found += [Operation(chance.uniform(0, STORY_S / 2), "event", BRIEF, 2) for _ in range(3)]
    return found


class Commands:
    """
    The commands of one world.

    Args:
        world: The world.
    """

    kinds: Collection[str] = ("replay", "cancel", "expire", "rotate")

    def __init__(self, world: Any) -> None:
        self._world = world
        self._replays: list[Command] = []
        self._cancellations: list[Command] = []
        self._tasks: list[asyncio.Task[Any]] = []

    def begin(self, operation: Operation) -> None:
        """Let an operation of `draw` happen; `amount` persons do the same at once."""
        loop = self._world.loop
        if operation.kind == "rotate":
            self._tasks.append(loop.create_task(self._rotate()))
            return
        server = self._world.hosts[operation.host].server
        recent = list(dict.fromkeys(each.run for each in reversed(self._world.watch.effects) if each.kind == "start"))
        if server is None or server.app is None:
            return
        state = get_state(server.app)
        if operation.kind == "expire":
            self._tasks.append(loop.create_task(self._expire(server.process, state)))
        elif recent:
            run_id = loop.random.choice(recent[:RECENT])
            act = self._replay if operation.kind == "replay" else self._cancel
            for _ in range(int(operation.amount)):
                self._tasks.append(loop.create_task(self._command(server.process, act, state, run_id)))

    async def _command(
        self,
        process: Any,
        act: Callable[[AppState, Command], Awaitable[None]],
        state: AppState,
        run_id: str,
    ) -> None:
        command = Command(run_id, self._world.loop.time())
        (self._replays if act == self._replay else self._cancellations).append(command)
        await self._world.within(process, lambda: act(state, command))
        if process.is_dead:
            command.is_done = None

    async def _replay(self, state: AppState, command: Command) -> None:
        engine: WorkflowEngine = state.context.engine
        try:
            command.before = await engine.journal.get_execution(command.run)
            command.new = (await start_replay(engine, await prepare_replay(engine, command.run))).id
            state.runs.dispatch.notify()
            command.is_done = True
        except (ProjectError, InjectedBug):
            return
        except PdkernelError:
            command.is_done = False

    async def _cancel(self, state: AppState, command: Command) -> None:
        try:
            await cancel_run(state.context.engine.journal, command.run, by="a person")
            await state.runs.cancel(command.run)
            command.is_done = True
        except (ProjectError, InjectedBug):
            return
        except PdkernelError:
            command.is_done = False
        command.done_at = self._world.loop.time()

    async def _expire(self, process: Any, state: AppState) -> None:
        async def expire() -> None:
            try:
                await remove_expired(state.context.engine.journal)
            except (PdkernelError, InjectedBug) as fault:
                self._world.note(f"runs were not removed: {fault}")

        await self._world.within(process, expire)

    async def _rotate(self) -> None:
        """Stop all servers, replace the key, and let them start again."""
        world = self._world
        if world.database is not None or any(host.is_stopping for host in world.hosts):
            return  # several hosts would all have to be stopped
        for host in world.hosts:
            await host.stop()
            host.is_stopping = True
        try:
            clock = SimClock(world.loop, world.hosts[0])
            with Project.open(world.folder / ".pdkernel", clock=clock, ids=world.ids) as project:
                await rotate_encryption_key(project, access_tokens=False, on_progress=lambda _done, _all: None)
        finally:
            for host in world.hosts:
                host.is_stopping = False

    def is_settled(self, _runs: Sequence[Run]) -> bool:
        """Return whether all commands have ended."""
        return all(each.done() for each in self._tasks)

    def may_end(self, run: Run, found: tuple[str, str | None]) -> bool:
        """Return whether a run may have ended like that because it, or a run above or below it, was cancelled."""
        cancelled = {each.run for each in self._cancellations if each.is_done is not False}
        return (found[0] == "cancelled" and (run.record.id in cancelled or run.parent in cancelled)) or (
            run.record.workflow in _PARENTS and found[0] in ("cancelled", "error") and bool(cancelled)
        )

    def may_be_removed(self, workflow: str | None) -> bool:
        """Return whether the runs of a workflow are removed soon after their end."""
        return workflow == BRIEF

    def check(self, runs: Sequence[Run]) -> Iterator[str]:
        """Yield the commands that did not what they said, or did it twice."""
        for task in self._tasks:
            if (fault := task.exception()) is not None:
                raise fault
        records = {each.record.id: each.record for each in runs}
        yield from self._check_cancellations(records)
        yield from self._check_replays(records)
        last = {each.run: each for each in self._world.watch.effects if each.workflow == BRIEF}
        for run_id, effect in last.items():
            is_whole = effect.kind == "end" and effect.step == "work2"
            if run_id not in records and not is_whole and not self._world.has_changed_clock:
                yield f"the run {run_id} of {BRIEF} was removed before its end"

    def _check_cancellations(self, records: dict[str, Execution]) -> Iterator[str]:
        by_run = defaultdict[str, list[Command]](list)
        for each in self._cancellations:
            by_run[each.run].append(each)
        for run_id, commands in [*by_run.items()]:
            record = records.get(run_id)
            done = [each for each in commands if each.is_done]
            if len(done) > 1:
                yield f"the run {run_id} was cancelled {len(done)} times"
            if record is None:
                continue
            if done and record.status != "cancelled":
                yield f"the run {run_id} of {record.workflow} was cancelled at {done[0].done_at:.3f}, and has ended as {record.status}"
            if (
                all(each.is_done is False for each in commands)
                and record.status == "cancelled"
                and record.workflow != "Approved"
                and not any(each.is_done for each in by_run[run_id.partition(":")[0]])  # with its parent
            ):
                yield f"the run {run_id} of {record.workflow} was cancelled, although it was said to have ended"
            for effect in self._world.watch.effects:
                if done and effect.run == run_id and effect.kind == "start" and effect.at > done[0].done_at:
                    yield f"the step {effect.step} of the cancelled run {run_id} began at {effect.at:.3f}"

    def _check_replays(self, records: dict[str, Execution]) -> Iterator[str]:
        counts = Counter(each.replay_of for each in records.values() if each.replay_of)
        asked = Counter(each.run for each in self._replays if each.is_done is not False)
        for command in self._replays:
            if (
                command.is_done
                and command.new not in records
                and not self.may_be_removed(None if command.before is None else command.before.workflow)
            ):
                yield f"the replay {command.new} of {command.run} is not recorded"
            if command.is_done and command.new == command.run:
                yield f"the replay of {command.run} is that run itself"
            before, after = command.before, records.get(command.run)
            if before is None or after is None or before.status in UNFINISHED_STATUSES:
                continue
            if (before.status, before.finished_at, before.steps) != (after.status, after.finished_at, after.steps):
                yield f"the replay of {command.run} has changed its record"
        for run_id, count in counts.items():
            if count > asked[run_id]:
                yield f"{asked[run_id]} replays of {run_id} have started {count} runs"
