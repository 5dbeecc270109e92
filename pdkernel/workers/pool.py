"""
The pool of workers: keeps workers warm and limits how many runs execute at once.

A warm slot serves one run at a time, always of the same `WorkerKey`. A worker that a step left dirty is not reused.

`StepPool` and `PooledRun` are what an engine needs of a pool: `WorkerPool` implements them with processes, and a simulation without.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pdkernel.common.blocking import run_blocking, run_blocking_in
from pdkernel.common.safe_files import SCRATCH_PREFIX
from pdkernel.errors import InternalError, InterpreterMissingError, StepError
from pdkernel.language.analysis import find_python_requirements
from pdkernel.language.expression import Evaluation
from pdkernel.model import JSON, Step
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers.calls import Determinism, RunSetup, SourceCall, SourceOutcome, StepCall, StepOutcome, WorkerKey
from pdkernel.workers.child_process import base_environment
from pdkernel.workers.declarations import ComponentDescription, ComponentFile, PropDeclaration, PropOptionsPage
from pdkernel.workers.go_build import GoBuildCache
from pdkernel.workers.import_ahead import ImportAhead
from pdkernel.workers.interpreters import WorkerLanguage, build_worker_command, find_node
from pdkernel.workers.isolation import Isolation, StepAccess, make_scratch_folder
from pdkernel.workers.isolation_plan import (
    AccessPlan,
    CodeCopies,
    component_folder,
    node_modules_above,
    plan_access,
    program_folders,
)
from pdkernel.workers.process_memory import proportional_bytes
from pdkernel.workers.protocols import OutboundGateway
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.run_places import MachineSpare, RunPlace, RunPlaces, StepSequence
from pdkernel.workers.run_workers import RunWorkers
from pdkernel.workers.slot_cache import SlotCache, WorkerSlot
from pdkernel.workers.slot_folder import SlotFolder
from pdkernel.workers.warden_client import WARDEN
from pdkernel.workers.worker import Worker
from pdkernel.workers.zygote import ZYGOTES, Zygotes


class PooledRun(Protocol):
    """The workers of one run, which run one step at a time (`RunWorkers`)."""

    @property
    def sequence(self) -> StepSequence:
        """The steps that these workers run, those of a branch or those outside of parallel branches; with the run's place."""
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

    def open_branch(self, sequence: StepSequence) -> PooledRun:
        """Return workers for a branch of the run that runs beside others, in the place of the run; `release` finishes them."""
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
        self, external_user_id: str | None, parent: RunPlace | None = None, *, is_alone: bool = False, deaths: int = 0
    ) -> RunPlace:
        """Return the place of a run of *external_user_id* among those that execute; see `RunPlaces.new`."""
        ...

    async def open_run(
        self, setup: RunSetup, *, place: RunPlace | None = None, wait_for_place: bool = True
    ) -> PooledRun:
        """Wait for the run's place, unless not *wait_for_place*, and return its workers."""
        ...

    async def close(self) -> None:
        """End every step and worker."""
        ...


MIN_ACTIVE_RUNS, MAX_ACTIVE_RUNS = 8, 128
"""The runs that execute at once, unless their number is set: always, and at most."""

_SPARE_SETS = 3  # how many different sets of visible paths have spares, for one set of Python packages
_SPARE_INTERVAL_S = 0.01  # a start takes the event loop about a millisecond
_MAX_PLANS = 500  # of kinds of runs: a workflow, or a version of its packages
_MAX_MODULES = 50  # that the spares of one set of Python packages import


class WorkerPool:
    """
    All workers of this process. Belongs to one event loop.

    Attributes:
        gateway: The gateway for outbound calls, or None.
        determinism: A fixed clock and fixed random numbers for steps, or None for those of the system.
        zygotes: Start the processes, or None.
    """

    def __init__(
        self,
        *,
        gateway: OutboundGateway | None = None,
        max_active_runs: int | None = None,
        spares: int = 0,
        memory_budget: int | None = None,
        measure_memory: Callable[[Sequence[int]], int] = proportional_bytes,
        python: Path | None = None,
        node: Path | None = None,
        go_cache: GoBuildCache | None = None,
        access: StepAccess = StepAccess(),  # noqa: B008 - a frozen value
        requires_isolation: bool = False,
        determinism: Determinism | None = None,
        zygotes: Zygotes | None = ZYGOTES,
    ) -> None:
        """
        Create a pool. It starts a worker when a step needs that worker.

        Args:
            gateway: The gateway for outbound calls; with None, steps use the network directly.
            max_active_runs: The number of runs that execute at once; None for 8, and more as long as the machine permits it (`RunPlaces`).
            spares: The number of slots whose workers are started ahead, for each kind of slot that runs have needed.
            memory_budget: The bytes that all workers may use before idle workers end; half of this process's limit by default.
            measure_memory: Returns the bytes that processes and their children use. Called in a thread.
            python: The interpreter for all Python steps. It overrides the interpreter of a run's setup. If neither is set,
                `sys.executable` runs the steps.
            node: The interpreter for Node.js steps; `find_node()` by default.
            go_cache: Compiled Go steps; with None, this pool compiles its own.
            access: What all workers may see, besides the system's programs and what a run's setup names.
            requires_isolation: Refuse a run whose steps would keep the user of this process although others are available.
            determinism: Fixes clock and random numbers in Python and Node.js steps, not in Bash and Go steps.
            zygotes: Start the processes; with None, this process starts them, without namespaces of their own.
        """
        self.zygotes = zygotes
        self.gateway = gateway
        self._go_cache = go_cache
        self.determinism = determinism
        self._descriptions: dict[object, ComponentDescription] = {}  # of components, by file
        self._python = python
        self._node = node
        self._spares = spares
        self._spare_languages: dict[WorkerKey, set[WorkerLanguage]] = {}
        self._modules: dict[WorkerKey, dict[str, bool]] = {}  # that runs import, and whether spares may import them
        self._imports: dict[WorkerSlot, ImportAhead] = {}  # of spares that are not ready yet
        self._creating: dict[asyncio.Future[SlotFolder], tuple[WorkerKey, StepAccess]] = {}  # folders of spares
        self._slots = SlotCache(memory_budget=memory_budget, measure=measure_memory)
        self._places = _open_places(max_active_runs, self._slots)
        self._access = access
        self._folder: Path | None = None  # the parent of the slots' folders
        self._slot_count = 0
        self._plans: OrderedDict[StepAccess, AccessPlan] = OrderedDict()  # the one that was used last is the last
        # plans that are not ready; all runs wait for the same
        self._making: dict[StepAccess, asyncio.Future[AccessPlan]] = {}
        self._requires_isolation = requires_isolation
        self._closed = False
        self._runs: set[RunWorkers] = set()
        self._branches: set[RunWorkers] = set()

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
        """Return the place of a run of *external_user_id* among those that execute; see `RunPlaces.new`."""
        return self._places.new(external_user_id, parent, is_alone=is_alone, deaths=deaths)

    async def open_run(
        self, setup: RunSetup, *, place: RunPlace | None = None, wait_for_place: bool = True
    ) -> RunWorkers:
        """
        Return the workers for one run.

        Waits while as many runs execute as may; external users take turns.

        Args:
            setup: The run's setup.
            place: The place of the run, from `new_place`; None for a new one.
            wait_for_place: False for calls that a person waits for at a form: they do not count.

        Raises:
            InternalError: The steps would keep the user of this process, and isolation is required.
            RequestError: As `plan_access`.
        """
        with contextlib.suppress(OSError):  # the run reports it
            await self._prepare_code(self._needed_access(setup))
        place = place or self.new_place(setup.external_user_id)
        if wait_for_place:
            await place.take()
        run = RunWorkers(setup, self, place.steps)
        self._runs.add(run)
        return run

    async def describe_component(
        self, component: ComponentFile, setup: RunSetup, *, timeout_s: float
    ) -> ComponentDescription:
        """
        Return what *component* declares, for a run of *setup* and all others: a file is described once.

        A process that has run no other code makes the description, and then ends. It has no user, event, variables and file store, so
        neither a step nor another component has a share in what all users see.

        Raises:
            StepError: The component cannot be loaded.
            InterpreterMissingError: Node.js is not installed.
        """
        key = _describe_file(component.path)
        found = self._descriptions.get(key)
        if found is None:
            run = await self.open_run(setup.for_nobody(), wait_for_place=False)
            try:
                found = await run.describe_here(component, timeout_s=timeout_s)
            finally:
                run.discard()
            self._descriptions[key] = found
        return found

    async def close(self) -> None:
        """End every process."""
        for run in (*self._runs, *self._branches):
            run.kill()
        for slot, imports in self._imports.items():
            imports.close()
            self._slots.discard(slot)
        self._imports = {}
        self._slots.close()
        self._closed = True
        if self._creating:
            await asyncio.wait([*self._creating])
        if self._folder is not None:
            await run_blocking(remove_tree, self._folder)
            WARDEN.unregister_folder(self._folder)

    @property
    def active_runs(self) -> int:
        """The number of runs that execute."""
        return len(self._runs)

    @property
    def sandbox_kind(self) -> str:
        """The kind of sandbox that stops programs from bypassing the gateway: `redirect`, `landlock` or `none`."""
        return self.gateway.sandbox_kind if self.gateway else "none"

    def acquire_slot(self, setup: RunSetup) -> WorkerSlot:
        """
        Return a slot for a run of *setup*: a warm slot of its key, else a new slot.

        Raises:
            OSError: The folder of the slot cannot be created.
        """
        warm = self.acquire_warm_slot(setup)
        if warm is not None:
            return warm
        needed = self._needed_access(setup)
        spare = self._slots.take(setup.worker_key.spare, needed)
        if spare is not None:
            spare.key = setup.worker_key
            asyncio.get_running_loop().call_soon(self._start_spare, spare.key.spare, needed)
            return spare
        slot = self._create_slot(setup.worker_key, needed)
        self._slots.add(slot)
        return slot

    def acquire_warm_slot(self, setup: RunSetup) -> WorkerSlot | None:
        """Return a slot that is kept warm for the key of *setup*, or None."""
        slot = self._slots.take(setup.worker_key, self._needed_access(setup))
        if slot is not None and slot.key == slot.key.spare:
            slot.end_worker("python")  # beside a description for all users, no code of a package runs
        return slot

    def get_worker(self, slot: WorkerSlot, language: WorkerLanguage, *, variables: Collection[str] = ()) -> Worker:
        """
        Return the worker of *language* in *slot* for a run that sets *variables*: the warm worker, else a new worker.

        Raises:
            InterpreterMissingError: The interpreter of the language is not installed.
        """
        warm = self.find_warm_worker(slot, language, variables=variables)
        if warm is not None:
            return warm
        slot.end_worker(language)
        command = build_worker_command(
            language,
            python=self._python or slot.key.python,
            node=self._node,
            ignore_environment=self.determinism is None,
        )
        environment = base_environment("/", "") | (self.determinism.interpreter_variables if self.determinism else {})
        key = slot.key
        worker = Worker(
            language,
            command,
            environment,
            self.gateway,
            zygotes=self.zygotes,
            plan=slot.plan,
            variables=variables,
            is_sandboxed=key.is_sandboxed,
            public_only=key.public_only,
        )
        slot.workers[language] = worker
        self._spare_languages.setdefault(key.spare, set()).add(language)
        return worker

    @staticmethod
    def find_warm_worker(
        slot: WorkerSlot, language: WorkerLanguage, *, variables: Collection[str] = ()
    ) -> Worker | None:
        """Return the warm worker of *language* in *slot* for a run that sets *variables*, or None."""
        worker = slot.workers.get(language)
        fits = worker is not None and worker.is_alive and worker.read_variables.isdisjoint(variables)
        return worker if fits else None

    def release_slot(self, slot: WorkerSlot, *, is_clean: bool) -> None:
        """Keep *slot* for the next run of its key, or close it if it is not clean: its run has ended, but left files."""
        if self._spares and not self._closed:
            self._learn_modules(slot)
            if slot.runs == 0:
                asyncio.get_running_loop().call_soon(self._start_spare, slot.key.spare, slot.access)
        if not is_clean or self._closed:
            self._slots.discard(slot)
        else:
            self._slots.put_back(slot)

    async def _prepare_code(self, access: StepAccess) -> None:
        """
        Plan for *access* once, and copy code that has changed, in a thread.

        Raises:
            InternalError: As `open_run`.
            OSError: The plan cannot be made.
        """
        if access not in self._plans:
            making = self._making.get(access)
            if making is None:
                isolation, slots = self._isolation, self._ensure_folder()
                making = run_blocking(plan_access, isolation, access, slots=slots, copies=self._copies)
                self._making[access] = making
                making.add_done_callback(lambda _: self._making.pop(access, None))
            self._keep_plan(access, await asyncio.shield(making))
        obstacle = self._plans[access].obstacle
        if obstacle and self._requires_isolation:
            raise InternalError(
                f"This run did not start: its steps would have the user id of the server, because {obstacle}. "
                "The server requires isolation (--require-isolation).",
                fix="Let other users read the code, or make it small enough for a copy.",
            )
        if self._copies.is_update_due():
            await run_blocking(self._copies.update)

    def _keep_plan(self, access: StepAccess, made: AccessPlan) -> None:
        self._plans[access] = made
        if len(self._plans) > _MAX_PLANS:
            self._plans.popitem(last=False)

    @property
    def _isolation(self) -> Isolation:
        return self.zygotes.isolation() if self.zygotes else Isolation()

    @functools.cached_property
    def _copies(self) -> CodeCopies:
        return CodeCopies(self._ensure_folder() / "code")

    def discard_slot(self, slot: WorkerSlot) -> None:
        """Close *slot*, whose run has ended."""
        self._slots.discard(slot)

    def _create_slot(self, key: WorkerKey, access: StepAccess) -> WorkerSlot:
        return WorkerSlot(key, self._plan_folder(access)(), access)

    def _plan_folder(self, access: StepAccess) -> Callable[[], SlotFolder]:
        """Return a function that creates the folder of a new slot, in any thread; it raises `OSError`."""
        self._slot_count += 1
        slots, number = self._ensure_folder(), self._slot_count
        if access not in self._plans:  # not made in advance, or forgotten
            self._keep_plan(access, plan_access(self._isolation, access, slots=slots, copies=self._copies))
        self._plans.move_to_end(access)
        return functools.partial(SlotFolder, slots, number, self._plans[access].of_slot(number))

    def _start_spare(self, key: WorkerKey, access: StepAccess) -> None:
        """Start the workers of a slot that a run of any external user can take, unless enough such slots wait."""
        languages = self._spare_languages.get(key, set())
        idle = self._slots.idle_slots(key)
        waiting = [*idle, *(slot for slot in self._imports if slot.key == key)]
        accesses = [
            *(slot.access for slot in waiting),
            *(of_new for of_key, of_new in self._creating.values() if of_key == key),
        ]
        missing = self._spares - sum(each.covers(access) for each in accesses)
        if self._closed or missing <= 0:
            return
        if idle and len(waiting) >= _SPARE_SETS * self._spares:
            self._slots.discard_idle(idle[0])  # what its processes may see is needed no more, or seldom
        if not self._slots.has_room(key.python, languages):
            return
        with contextlib.suppress(OSError):  # a run that needs the same reports the error
            create = self._plan_folder(access)
            # in a thread: on a disk that is written to, a folder takes longer to create than processes to start
            creating = run_blocking_in(None, create)
            self._creating[creating] = key, access
            creating.add_done_callback(self._fill_spare)
            if missing > 1:
                asyncio.get_running_loop().call_later(_SPARE_INTERVAL_S, self._start_spare, key, access)

    def _fill_spare(self, creating: asyncio.Future[SlotFolder]) -> None:
        """Start the workers of a spare, whose folder was created."""
        key, access = self._creating.pop(creating)
        if self._closed or creating.cancelled() or creating.exception() is not None:
            return
        slot = WorkerSlot(key, creating.result(), access)
        self._slots.add(slot)
        try:
            for language in sorted(self._spare_languages.get(key, set())):
                self.get_worker(slot, language)
            self._prepare_spare(slot, [name for name, fits in self._modules.get(key, {}).items() if fits])
        except (OSError, InterpreterMissingError):  # a run that needs the same reports the error
            self._slots.discard(slot)
        except BaseException:
            self._slots.discard(slot)
            raise

    def _learn_modules(self, slot: WorkerSlot) -> None:
        """Let spares of the kind of *slot* import what the steps of its run have imported: those that wait, and later ones."""
        worker, key = slot.workers.get("python"), slot.key.spare
        sources = worker.take_new_sources() if worker is not None and self.determinism is None else ()
        if not sources:
            return
        known = self._modules.setdefault(key, {})
        found = {need.module for source in sources for need in find_python_requirements(source)} - {"", *known}
        new = sorted(found)[: _MAX_MODULES - len(known)]
        known.update(dict.fromkeys(new, True))
        for spare, imports in self._imports.items():
            if spare.key == key:
                imports.add(new)
        for spare in self._slots.idle_slots(key) if new else ():
            self._slots.hold(spare)
            self._prepare_spare(spare, new)

    def _prepare_spare(self, slot: WorkerSlot, modules: Sequence[str]) -> None:
        """Let the Python worker of a spare import *modules*, and then keep the spare: no run takes it before."""
        worker = slot.workers.get("python")
        if not modules or worker is None or not worker.is_alive:
            self._slots.add_spare(slot)
            return
        self._imports[slot] = ImportAhead(
            worker, modules, folder=slot.folder.working_folder, on_end=functools.partial(self._end_imports, slot)
        )

    def _end_imports(self, slot: WorkerSlot, culprit: str | None) -> None:
        """Keep the spare *slot*, or replace it by one that does not import *culprit*."""
        if self._imports.pop(slot, None) is None:  # the pool was closed
            return
        if culprit is None:
            self._slots.add_spare(slot, has_imported=True)
            return
        self._modules[slot.key][culprit] = False
        self._slots.discard(slot, wait=False)
        self._start_spare(slot.key, slot.access)

    def open_branch(self, run: RunWorkers) -> None:
        """Add *run*, the workers of a branch, which has the place of its run."""
        self._branches.add(run)

    def finish_run(self, run: RunWorkers) -> None:
        """Remove *run* from the active runs and free its place; a branch has none of its own."""
        self._branches.discard(run)
        if run in self._runs:
            self._runs.discard(run)
            run.sequence.place.give_back()

    @functools.cached_property
    def go_cache(self) -> GoBuildCache:
        """Compiled Go steps."""
        if self._go_cache is not None:
            return self._go_cache
        folder = self._ensure_folder() / "go"
        folder.mkdir()
        return GoBuildCache(folder, lock=folder / "go.mod")

    @functools.cached_property
    def _common_access(self) -> StepAccess:
        """Return what all workers of this pool may see."""
        found = set(self._access.read)
        with contextlib.suppress(InterpreterMissingError):
            found |= program_folders(self._node or find_node())
        if self._python is not None:
            found |= program_folders(self._python)
        with contextlib.suppress(OSError):  # a build reports it
            self.go_cache.create_programs_folder()
        found.add(self.go_cache.programs)
        return replace(self._access, read=frozenset(found))

    def _needed_access(self, setup: RunSetup) -> StepAccess:
        """Return what the processes of a run of *setup* may see."""
        trees = tuple(tree.folder for tree in setup.node_packages.values())
        folders = (setup.import_folder, *trees)
        return _extend(
            self._common_access,
            folders,
            setup.extra_code_folders,
            setup.python,
            setup.file_store_folder,
            setup.listen_ports,
        )

    def _ensure_folder(self) -> Path:
        if self._folder is None:
            self._folder = make_scratch_folder(SCRATCH_PREFIX)
            self._folder.chmod(0o711)  # workers with users of their own go through it to their slots
            WARDEN.register_folder(self._folder)  # a notebook's kernel is often killed without a chance to clean up
        return self._folder


def _open_places(max_active_runs: int | None, slots: SlotCache) -> RunPlaces:
    if max_active_runs is not None:
        return RunPlaces(max_active_runs)
    return RunPlaces(MIN_ACTIVE_RUNS, most=MAX_ACTIVE_RUNS, spare=MachineSpare(slots.has_memory))


@functools.lru_cache(maxsize=1000)
def _extend(
    access: StepAccess,
    folders: tuple[Path, ...],
    components: tuple[Path, ...],
    python: Path | None,
    file_store: Path | None,
    ports: tuple[int, ...],
) -> StepAccess:
    """Add what one kind of runs may use: the project's and its packages' *folders*, *components*, the interpreter, *ports*."""
    read = {*folders, *node_modules_above(folders[0]), *map(component_folder, components)}
    if python is not None:
        read |= program_folders(python)
    extended = access.extend(read, {file_store} if file_store else ())
    return replace(extended, ports=ports) if ports else extended


def _describe_file(path: Path) -> object:
    """Return what changes when the file at *path* changes."""
    try:
        found = path.stat()
    except OSError:
        return path
    return path, found.st_mtime_ns, found.st_size
