"""What an engine needs of a pool of workers: `WorkerPool` implements it with processes, and a simulation without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pdkernel.errors import StepError
from pdkernel.language.expression import Evaluation
from pdkernel.model import JSON, Step
from pdkernel.workers.calls import RunSetup, SourceCall, SourceOutcome, StepCall, StepOutcome
from pdkernel.workers.declarations import ComponentDescription, ComponentFile, PropDeclaration, PropOptionsPage
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.run_places import RunPlace


class PooledRun(Protocol):
    """The workers of one run, which run one step at a time (`RunWorkers`)."""

    @property
    def place(self) -> RunPlace:
        """The run's place among those that execute."""
        ...

    def prepare_steps(self, steps: Sequence[Step]) -> None:
        """Let idle workers prepare *steps*, without running them."""
        ...

    async def run_step(self, call: StepCall, recorder: StepRecorder) -> StepOutcome:
        """
        Run a step to its end, and return its outcome. If the task is cancelled, the step ends first.

        Before the step's code begins, `call.before_start` is awaited, and may raise an error that prevents it.
        """
        ...

    async def describe(self, target: Step | ComponentFile, *, timeout_s: float = ...) -> ComponentDescription:
        """Return what a Node.js step or a component declares. Raises `StepError`."""
        ...

    async def options(self, target: Step | ComponentFile, prop: str, **choices: Any) -> PropOptionsPage:
        """Return a page of the options of *prop*. Raises `StepError`."""
        ...

    async def additional_props(self, target: Step | ComponentFile, **choices: Any) -> tuple[PropDeclaration, ...]:
        """Return the props that values add or change. Raises `StepError`."""
        ...

    async def run_source(self, call: SourceCall, recorder: StepRecorder) -> SourceOutcome:
        """Run an event source, or one of its hooks, to its end."""
        ...

    async def evaluate(
        self, expressions: Sequence[str], steps: Mapping[str, Mapping[str, JSON]], *, timeout_s: float = ...
    ) -> list[Evaluation]:
        """Return the values of JavaScript *expressions*, in order. Raises `StepError`."""
        ...

    def prepare_tmp_outside(self) -> str:
        """Return the path of the working folder for code that runs in this process, in a debugger. Raises `OSError`."""
        ...

    def fail_step(self, error: StepError) -> None:
        """Make the active `run_step` return with *error*."""
        ...

    async def release(self) -> None:
        """Finish the run, and give its place back, even if the caller is cancelled."""
        ...


class StepPool(Protocol):
    """The workers of one process (`WorkerPool`)."""

    @property
    def gateway(self) -> OutboundGateway | None:
        """The gateway for outbound calls, or None."""
        ...

    @property
    def sandbox_kind(self) -> str:
        """The kind of sandbox that stops programs from bypassing the gateway: `redirect`, `landlock` or `none`."""
        ...

    @property
    def expected_places(self) -> int:
        """The number of runs that would begin to execute at once."""
        ...

    def new_place(
        self, external_user: str | None, parent: RunPlace | None = None, *, is_alone: bool = False, deaths: int = 0
    ) -> RunPlace:
        """Return the place of a run of *external_user* among those that execute; see `RunPlaces.new`."""
        ...

    async def open_run(
        self, setup: RunSetup, *, place: RunPlace | None = None, wait_for_place: bool = True
    ) -> PooledRun:
        """Wait for the run's place, unless not *wait_for_place*, and return its workers."""
        ...

    async def close(self) -> None:
        """End every step and worker."""
        ...
