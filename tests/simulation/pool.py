"""Workers without processes: the name of a step says what it does, and everything that it does is noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pdkernel.egress import CallContext
from pdkernel.egress.own_server import OwnServer
from pdkernel.errors import PdkernelError, StepError
from pdkernel.language.expression import Evaluation, evaluate_plain_paths
from pdkernel.model import JSON, Step
from pdkernel.workers import (
    ComponentDescription,
    ComponentFile,
    OutboundGateway,
    PropDeclaration,
    PropOptionsPage,
    RunSetup,
    SourceCall,
    SourceOutcome,
    StepCall,
    StepOutcome,
    StepRecorder,
)
from pdkernel.workers.replies import Export, Pause, Respond, StepResponse
from pdkernel.workers.run_places import RunPlace, RunPlaces, StepSequence
from tests.simulation import deliveries, sources
from tests.simulation.deliveries import Network
from tests.simulation.loop import InjectedBug, SimLoop, SimProcess


@dataclass(frozen=True)
class Effect:
    """
    What a step did: `start` and `end` of its code.

    Attributes:
        kind: `start`; `end` if the code ended or was ended; `stop` if the task of its run was cancelled; `bug` if an unexpected
            exception came instead of the start; `release` if the run executes no further step; `decide` if the block `DECIDED` is
            evaluated.
        run: The run's id.
        step: The step's name.
        workflow: The workflow's name.
        process: Where it ran.
        at: The virtual time.
        text: The text of the step.
    """

    kind: str
    run: str
    step: str
    workflow: str
    process: SimProcess
    at: float
    text: str = ""


CALLS = {"call": (("Plain", 1), ("Single", 1)), "twins": (("Echo", 1), ("Echo", 2), ("Plain", 1))}
"""The workflows that a step calls, with the number in the payload, by the kind of the step."""
DECIDED = "coin1"
"""The block whose conditions are evaluated."""
RESULTS = {"Plain": "work3", "Single": "work2"}
"""What the called workflows return; Echo returns the number."""
CHANGED_CHANCE = 0.1
"""The share of repeated calls that have another payload than the first time."""
CHANGED = 3
"""The number in such a payload."""
COLD_S = 6.0, 9.9
"""The shortest and longest time in which the worker of a cold step starts, in virtual seconds; nothing is written meanwhile."""


class SimGateway:
    """A gateway whose calls go to simulated hosts; implements `ServerGateway`."""

    def __init__(self, network: Network) -> None:
        self.own_server = OwnServer()
        self._network = network

    def issue_token(self, *, public_only: bool = False) -> str:
        """Return the token of all callers."""
        return "token"

    def bind(self, token: str, context: CallContext) -> None:
        """Do nothing."""

    def unbind(self, token: str) -> None:
        """Do nothing."""

    def revoke_token(self, token: str) -> None:
        """Do nothing."""

    def open_transport(self, token: str) -> Network:
        """Return the network."""
        return self._network

    async def leads_inside(self, host: str, port: int) -> bool:
        """Every host is public."""
        return False

    async def close(self) -> None:
        """Do nothing."""


class SimPool:
    """
    The workers of one process; implements `StepPool`.

    Args:
        loop: The loop.
        process: The process.
        note: Notes what a step does.
        resume_urls: The URLs of steps that suspend their run.
        kill: Ends the process: the step of a run that no process survives.
        max_active_runs: The number of runs that execute at once.
    """

    gateway: OutboundGateway | None = None
    sandbox_kind = "none"

    def __init__(
        self,
        loop: SimLoop,
        process: SimProcess,
        note: Callable[[Effect], object],
        resume_urls: list[str],
        kill: Callable[[], None],
        *,
        max_active_runs: int,
    ) -> None:
        self.loop, self.process, self.note, self.resume_urls, self.kill = loop, process, note, resume_urls, kill
        self._places = RunPlaces(max_active_runs)

    @property
    def expected_places(self) -> int:
        """The number of runs that would begin to execute at once."""
        return self._places.expected

    def new_place(
        self,
        external_user_id: str | None,
        parent: RunPlace | None = None,
        *,
        is_alone: bool = False,
        deaths: int = 0,
    ) -> RunPlace:
        """Return the place of a run among those that execute."""
        return self._places.new(external_user_id, parent, is_alone=is_alone, deaths=deaths)

    async def open_run(self, setup: RunSetup, *, place: RunPlace | None = None, wait_for_place: bool = True) -> SimRun:
        """Wait for a place, and return the workers of a run."""
        place = place or self.new_place(setup.external_user_id)
        if wait_for_place:
            await place.take()
        return SimRun(self, setup, place.steps)

    async def close(self) -> None:
        """Do nothing: there are no processes."""


class SimRun:
    """The workers of one run; implements `PooledRun`."""

    def __init__(self, pool: SimPool, setup: RunSetup, sequence: StepSequence, *, is_branch: bool = False) -> None:
        self.sequence = sequence
        self._pool, self._setup, self._is_branch = pool, setup, is_branch
        self._failed: asyncio.Future[StepError] | None = None

    def prepare_steps(self, steps: Sequence[Step]) -> None:
        """Do nothing."""

    async def describe(self, target: Step | ComponentFile, *, timeout_s: float = 30.0) -> ComponentDescription:
        """Return what a source declares."""
        assert isinstance(target, ComponentFile)
        return sources.describe(target)

    async def options(self, target: Step | ComponentFile, prop: str, **choices: Any) -> PropOptionsPage:
        """Fail, because no simulated source or step has it."""
        raise AssertionError("not simulated")

    async def additional_props(self, target: Step | ComponentFile, **choices: Any) -> tuple[PropDeclaration, ...]:
        """Fail, because no simulated source or step has it."""
        raise AssertionError("not simulated")

    async def run_source(self, call: SourceCall, recorder: StepRecorder) -> SourceOutcome:
        """Run a source."""
        return await sources.run(call, recorder, self._pool.loop, self._note)

    def open_branch(self, sequence: StepSequence) -> SimRun:
        """Return the workers of a branch, which has the place of the run."""
        return SimRun(self._pool, self._setup, sequence, is_branch=True)

    def prepare_tmp_outside(self) -> str:
        """Fail, because no simulated source or step has it."""
        raise AssertionError("not simulated")

    async def evaluate(
        self, expressions: Sequence[str], steps: Mapping[str, Mapping[str, JSON]], *, timeout_s: float = 30.0
    ) -> list[Evaluation]:
        """Return the values of paths, and note the decision of a block."""
        if self._setup.workflow == "Branched":
            self._note("decide", DECIDED)
        values: dict[str, object] = {"trigger": self._setup.trigger, **steps}
        found = evaluate_plain_paths(expressions, values, self._setup.variables)
        assert found is not None
        return found

    async def run_step(self, call: StepCall, recorder: StepRecorder) -> StepOutcome:
        """Do what the step's name says."""
        name, loop, process = call.step.name, self._pool.loop, self._pool.process
        if name.startswith("cold"):
            await asyncio.sleep(loop.random.uniform(*COLD_S))
        if call.before_start is not None:
            await call.before_start()
        if process.step_bugs:
            process.step_bugs -= 1
            self._note("bug", name)
            raise InjectedBug
        self._failed = loop.create_future()
        self._note("start", name, call.step.source)
        error: StepError | None = None
        doing = asyncio.ensure_future(self._do(name.rstrip("0123456789"), call, recorder))
        try:
            await asyncio.wait({doing, cast("asyncio.Future[Any]", self._failed)}, return_when=asyncio.FIRST_COMPLETED)
            error = doing.result() if doing.done() else self._failed.result()
        except PdkernelError as refused:  # of a service, which the code does not catch
            error = refused if isinstance(refused, StepError) else StepError(str(refused), name="Refused")
        except BaseException:
            self._note("stop", name)
            raise
        finally:
            doing.cancel()
        self._note("end", name)
        recorder.set_usage(seconds=0.01, memory_mb=1.0)
        return recorder.outcome(error)

    async def _do(self, kind: str, call: StepCall, recorder: StepRecorder) -> StepError | None:
        chance = self._pool.loop.random
        longest = {"long": (2.0, 6.0), "slow": (15.0, 40.0)}  # the slow one outlives a lease
        await asyncio.sleep(chance.uniform(*longest[kind]) if kind in longest else chance.expovariate(1 / 0.05))
        result: Any = call.step.name
        match kind:
            case "fail":
                return StepError("The step failed.", name="Failed")
            case "poison":
                self._pool.kill()
                await asyncio.sleep(1e9)
            case "delay":
                recorder.add_reply(Pause("delay", 3000))
            case "ask":
                recorder.add_reply(Pause("suspend", 3_600_000))
                self._pool.resume_urls.append(call.flow_urls["resume_url"])
            case "respond":
                recorder.add_reply(Respond(StepResponse(201, {}, "early", immediate=True)))
            case "send":
                deliveries.send(self._setup, recorder)
            case "echo":
                event = self._setup.trigger["event"]
                assert isinstance(event, dict)
                result = event.get("number")
            case "toss":
                result = chance.random() < 0.7
            case "call" | "twins":
                result = await self._call_others(kind, call)
        recorder.add_reply(Export("$return_value", result))
        return None

    async def _call_others(self, kind: str, call: StepCall) -> Any:
        """Call other workflows, in another order each time; a repeated step changes a payload now and then."""
        assert call.services is not None
        chance, result = self._pool.loop.random, None
        is_repeated = "attempt" in call.context
        are_equal = self._setup.run_id[-1].isdigit()  # two calls of some runs have the same payload
        for child, number in chance.sample(CALLS[kind], len(CALLS[kind])):
            sent = CHANGED if is_repeated and chance.random() < CHANGED_CHANCE else 1 if are_equal else number
            result = await call.services.call(
                "flow.trigger", {"workflow": f"p_{child.lower()}", "payload": {"number": sent}}
            )
            if result != RESULTS.get(child, sent):
                self._note(f"got {result} of {child} for {sent}", call.step.name)
        return result

    def _note(self, kind: str, step: str, text: str = "") -> None:
        pool = self._pool
        pool.note(Effect(kind, self._setup.run_id, step, self._setup.workflow, pool.process, pool.loop.time(), text))

    def fail_step(self, error: StepError) -> None:
        """End the running step."""
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(error)

    async def release(self) -> None:
        """Finish the run, or a branch of it."""
        if not self._is_branch:
            self._note("release", "")
            self.sequence.place.give_back()
