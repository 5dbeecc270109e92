"""Real workers, run as the engine runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON, Language, Step
from pdkernel.packages import NpmTree
from pdkernel.workers import GoBuildCache, RunSetup, RunWorkers, StepCall, StepOutcome, StepRecorder, WorkerPool
from pdkernel.workers.isolation import StepAccess
from pdkernel.workers.isolation_plan import plan_access
from pdkernel.workers.zygote import ZYGOTES


class Bench:
    """A run whose steps are written in a test."""

    def __init__(self, workers: RunWorkers) -> None:
        self.workers = workers
        self.recorder = StepRecorder()
        self.steps: dict[str, Mapping[str, JSON]] = {}

    @property
    def tmp_folder(self) -> Path:
        """The working folder of the run's steps, as the tests see it."""
        return Path(self.workers.prepare_tmp_outside())

    async def run(self, language: Language, source: str, *, name: str = "work", **call: Any) -> StepOutcome:
        """Run a step on the exports of the steps before; `self.recorder` records the step."""
        self.recorder = call.pop("recorder", None) or StepRecorder(name)
        step = call.pop("step", None) or Step(name, language, source, line_offset=call.pop("line_offset", 0))
        outcome = await self.workers.run_step(StepCall(step, steps=dict(self.steps), **call), self.recorder)
        self.steps[step.name] = outcome.exports
        return outcome

    async def value(self, language: Language, source: str, **call: Any) -> JSON:
        """Return the return value of a step that is expected to succeed."""
        outcome = await self.run(language, source, **call)
        assert outcome.error is None, outcome.error
        return outcome.exports["$return_value"]

    async def fail(self, language: Language, source: str, **call: Any) -> StepError:
        """Return the error of a step that is expected to fail."""
        outcome = await self.run(language, source, **call)
        assert outcome.error is not None
        return outcome.error

    def printed(self, stream: Stream = "stdout") -> str:
        """Return the output of the last step on *stream*."""
        return printed(self.recorder, stream)


def printed(recorder: StepRecorder, stream: Stream = "stdout") -> str:
    """Return the step's recorded output on *stream*, without notes of pdkernel."""
    return "".join(log.text for log in recorder.logs if log.stream == stream and not log.is_note)


OpenRun = Callable[..., Awaitable[Bench]]


@pytest.fixture
def go_programs(go_cache: Path) -> GoBuildCache:
    """Compiled Go steps."""
    return GoBuildCache(go_cache, lock=go_cache / "go.mod")


@pytest.fixture
async def pool(go_programs: GoBuildCache) -> AsyncIterator[WorkerPool]:
    """A pool for this test only."""
    pool = WorkerPool(max_active_runs=4, go_cache=go_programs)
    yield pool
    await pool.close()


@pytest.fixture
async def open_run(pool: WorkerPool, tmp_path: Path) -> OpenRun:
    """A factory of runs: event, variables, context, workflow and external user are its arguments."""
    folder = tmp_path / "project"
    folder.mkdir(exist_ok=True)
    return opener(pool, folder)


def opener(pool: WorkerPool, folder: Path) -> OpenRun:
    """Return a factory of runs in *pool* of workflows in *folder*."""
    opened = 0

    async def open_one(
        *,
        event: JSON = None,
        variables: Mapping[str, str] | None = None,
        context: Mapping[str, JSON] | None = None,
        workflow: str = "demo",
        version: str = "1",
        external_user_id: str | None = None,
        environment: str = "development",
        share_workers: bool = False,
        python: Path | None = None,
        node_packages: Mapping[str, NpmTree] | None = None,
        of: WorkerPool = pool,
        guarded: bool = False,
        public_only: bool = False,
    ) -> Bench:
        nonlocal opened
        opened += 1
        setup = RunSetup(
            run_id=f"run{opened}",
            workflow=workflow,
            workflow_version=version,
            external_user_id=external_user_id,
            environment=environment,
            share_workers=share_workers,
            python=python,
            trigger={"event": {} if event is None else event, "context": dict(context or {"id": "ctx1"})},
            variables=variables or {},
            import_folder=folder,
            node_packages=node_packages or {},
            is_sandboxed=guarded,
            public_only=public_only,
        )
        return Bench(await of.open_run(setup))

    return open_one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_runs(go_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenRun]:
    """The factory of runs of a module, in one pool and folder, so that a run has the warm processes of the test before."""
    pool = WorkerPool(max_active_runs=4, go_cache=GoBuildCache(go_cache, lock=go_cache / "go.mod"))
    yield opener(pool, tmp_path_factory.mktemp("shared"))
    await pool.close()


@pytest_asyncio.fixture(loop_scope="module")
async def warm_bench(shared_runs: OpenRun) -> AsyncIterator[Bench]:
    """A run as `bench`, for a test that does not need new processes."""
    bench = await shared_runs(event={"n": 7, "name": "Ada"}, variables={"TOKEN": "tok-123456"})
    yield bench
    await bench.workers.release()


@pytest.fixture
def names_in_tmp(tmp_path: Path) -> frozenset[str]:
    """Names in the private `/tmp` of every run: if pdkernel or an interpreter is in `/tmp`, the folder that contains it."""
    (tmp_path / "slots").mkdir()
    return plan_access(ZYGOTES.isolation(), StepAccess(), slots=tmp_path / "slots").of_slot(1).tmp_names


@pytest.fixture
async def bench(open_run: OpenRun) -> Bench:
    """One run with an event of `{"n": 7, "name": "Ada"}` and a variable TOKEN."""
    return await open_run(event={"n": 7, "name": "Ada"}, variables={"TOKEN": "tok-123456"})
