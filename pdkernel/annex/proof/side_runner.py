"""
One side of a proof: the written folder as a workflow, the cases, and a run of each case.

A run has replayed calls, a fixed clock and seed, a scratch copy of the stores, a copy of the files, and the answers about users and
accounts that the other side got. It does not change the project's journal, stores, files or accounts. It uses the project's packages
and actions and installs none. A step is excluded because of a call that was not recorded or an action that is not installed, and so
is each step that depends on its exports; a step that accesses `steps` without a literal name depends on all steps above.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from shutil import copytree
from types import MappingProxyType, TracebackType
from typing import Any, Self, cast

from pdkernel.actions import Catalog
from pdkernel.actions.component import ActionReference
from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import DEFAULT_ENVIRONMENT, Credentials, Directory, Environment, parse_environment
from pdkernel.egress import Gateway
from pdkernel.egress.outbound_policy import OutboundPolicy
from pdkernel.engine.interpreter import Interpreter
from pdkernel.engine.run_deliveries import RunDeliveries
from pdkernel.engine.run_request import RunRequest, TestOptions, VariableLoader
from pdkernel.engine.step_packages import StepPackages, go_programs, step_access
from pdkernel.errors import EventError, OutboundCallRefusedError, PdkernelError
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult
from pdkernel.files.definition import (
    SIDECAR_FILE_NAME,
    DefinitionFile,
    Sidecar,
    get_entry_path,
    read_folder_workflow,
    read_sidecar,
)
from pdkernel.files.definition.file_plan import SIDECAR_SETTINGS, WORKFLOW_FILE
from pdkernel.journal import UnrecordedRuns
from pdkernel.language.analysis import find_app_bindings, find_workflow_variables, needs_step
from pdkernel.language.directive import parse_yaml
from pdkernel.model import JSON, AppBinding, Step, Trigger, Workflow
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.storage import Project, ScratchCopy
from pdkernel.storage.data_stores import DEFAULT_DATA_STORE
from pdkernel.workers import WARDEN, Determinism, WorkerPool, make_scratch_folder

NO_SIDECAR_NOTE = (
    f"There is no {SIDECAR_FILE_NAME} in the folder: settings of triggers, owners of accounts and limits were not written. "
    "Both sides use the notebook's."
)


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """
    An exported folder, read back.

    Attributes:
        folder: Path of the folder.
        workflow: The workflow; settings missing for lack of a `pdkernel.yaml` come from the notebook.
        sidecar: The folder's `pdkernel.yaml`, or None.
        files: The files of the workflow.
        unquoted_texts: Keys and values in `workflow.yaml` that the platform does not read as text for lack of quotes.
    """

    folder: Path
    workflow: Workflow
    sidecar: Sidecar | None
    files: tuple[DefinitionFile, ...]
    unquoted_texts: tuple[tuple[str, str], ...] = ()


def read_exported_folder(folder: Path, notebook: Workflow, sidecar: Sidecar | None) -> ExportedFolder:
    """
    Read *folder*, written by an export of *notebook* with *sidecar*.

    Raises:
        DefinitionError: The folder cannot be read as a workflow.
        RequestError: The folder's `pdkernel.yaml` does not name the owner of an account.
    """
    folder_sidecar = read_sidecar(folder / SIDECAR_FILE_NAME)
    # a missing file is a step without code: on both sides, or a difference
    workflow = read_folder_workflow(
        folder, require_code=False, assumed_account="external_user" if folder_sidecar else "own"
    )
    if folder_sidecar is None:
        workflow = _complete_workflow(workflow, notebook, sidecar or Sidecar())
    files = tuple(_files(folder, workflow))
    return ExportedFolder(folder, workflow, folder_sidecar, files, tuple(_unquoted(files[0].text)))


def _unquoted(text: str) -> Iterator[tuple[str, str]]:
    located = parse_yaml(text, allow_expressions=False, document_name=WORKFLOW_FILE, as_psych=True)
    for path in located.ambiguous_paths:
        value: Any = located.value
        for key in path:
            value = value[key]
        yield (
            f"{WORKFLOW_FILE}: " + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:],
            value,
        )


def _files(folder: Path, workflow: Workflow) -> list[DefinitionFile]:
    paths = [WORKFLOW_FILE, SIDECAR_FILE_NAME]
    paths += [posixpath.normpath(get_entry_path(step)) for step in workflow.steps if not step.uses]
    existing = [path for path in dict.fromkeys(paths) if (folder / path).is_file()]
    return [DefinitionFile(path, (folder / path).read_bytes().decode("utf-8")) for path in existing]


def _complete_workflow(workflow: Workflow, notebook: Workflow, sidecar: Sidecar) -> Workflow:
    """Return *workflow* with the settings of *notebook* that the folder cannot hold."""
    notebook_steps = {step.name: step for step in notebook.steps}
    limits = {key: notebook.settings[key] for key in SIDECAR_SETTINGS if key in notebook.settings}
    return replace(
        workflow,
        triggers=_complete_triggers(workflow.triggers, notebook.triggers),
        settings={**limits, **workflow.settings},
        variables=notebook.variables,
        steps=tuple(
            _complete_step(step, notebook_steps[step.name], sidecar) if step.name in notebook_steps else step
            for step in workflow.steps
        ),
    )


def _complete_triggers(triggers: Sequence[Trigger], notebook: Sequence[Trigger]) -> tuple[Trigger, ...]:
    """Return the *notebook*'s triggers, except for lost ones, then other *triggers* of the folder. Git holds only the ids of triggers."""
    written, known = ({trigger.config.get("id") for trigger in each} - {None} for each in (triggers, notebook))
    if not known:
        return tuple(notebook)
    kept = (trigger for trigger in notebook if trigger.config.get("id") in {None, *written})
    return (*kept, *(trigger for trigger in triggers if trigger.config.get("id") not in known))


def _complete_step(step: Step, notebook_step: Step, sidecar: Sidecar) -> Step:
    read = {app.prop: app for app in find_app_bindings(step)}
    settings = sidecar.steps.get(step.name)
    choices = settings.accounts if settings is not None else {}
    apps = dict(read)
    for app in find_app_bindings(notebook_step):
        choice = choices.get(app.prop)
        account = read[app.prop].account if app.prop in read else None
        synced = choice.synced if choice is not None else None
        # the file has the synced id or none; the notebook names the owner of the account
        if account in (app.account, synced) or app.account is None:
            apps[app.prop] = AppBinding(app.prop, app.app, app.account)
    stores = {store.prop: store for store in (*notebook_step.stores, *(each for each in step.stores if each.store))}
    return replace(step, apps=tuple(apps.values()), stores=tuple(stores.values()), timeout_s=notebook_step.timeout_s)


def normalize_for_run(workflow: Workflow, notebook: Workflow) -> Workflow:
    """
    Normalize *workflow* for a run, so that equivalent workflows become equal.

    Steps get the line numbers of *notebook*'s cells, so that messages name the same lines. Notes and notification
    settings are removed. Names of variables are derived from the code.
    """
    cells = {step.name: step for step in notebook.steps}
    return replace(
        workflow,
        origin=None,
        extra=notebook.extra,
        settings={key: value for key, value in workflow.settings.items() if key != "error_notification"},
        variables=tuple(sorted({*workflow.variables, *find_workflow_variables(workflow)})),
        steps=tuple(_step_as_run(step, cells.get(step.name, step)) for step in workflow.steps),
    )


def _step_as_run(step: Step, cell: Step) -> Step:
    return replace(
        step,
        apps=tuple(sorted(find_app_bindings(step), key=lambda app: app.prop)),
        stores=tuple(sorted(step.stores, key=lambda store: store.prop)),
        notes=None,
        debug=False,
        line_offset=cell.line_offset,
        cell_index=cell.cell_index,
        prop_lines=cell.prop_lines,
        props_file=cell.props_file,
    )


def find_unavailable_actions(workflow: Workflow, catalog: Catalog) -> dict[str, str]:
    """Return the steps whose action is not installed, each with the reason: a proof does not run actions at Pipedream."""
    found: dict[str, str] = {}
    for step in workflow.steps:
        if step.uses is None or step.disabled:
            continue
        uses = ActionReference.parse(step.uses)
        try:
            component = catalog.resolve(uses.key, uses.version)
        except PdkernelError as fault:
            remote = catalog.find_remote_sources(uses)
            is_remote = bool(remote) and remote[0].source == "connect"
            found[step.name] = f"{uses} runs at Pipedream, and a proof sends no request." if is_remote else str(fault)
            continue
        if component.file is None:
            found[step.name] = f"{uses} is not installed. Install it: pdkernel actions add {uses}"
    return found


def has_unrecorded_call(result: StepResult) -> bool:
    """Return whether the step made an outbound call without a recorded response."""
    if result.error is not None and result.error.code == OutboundCallRefusedError.code:
        return True
    return any(call.outcome == "denied" for call in result.requests)


def describe_unrecorded_call(result: StepResult, recording: Path, command: str) -> str:
    """Explain why a refused step is not compared, with the command that records its call."""
    request = next((f"{call.method} {call.url}" for call in result.requests if call.outcome == "denied"), "a call")
    return f"{request} is not in events/{recording.name}. Record the call: {command}"


def add_dependents(workflow: Workflow, excluded: Mapping[str, str]) -> dict[str, str]:
    """Return *excluded*, and every later step that depends on one of them."""
    found = dict(excluded)
    for step in workflow.steps:
        if step.name in found or step.disabled:
            continue
        above = [other.name for other in workflow.steps_before(step.name) if other.name in found]
        needed = [name for name in above if needs_step(step, name)]
        if needed:
            found[step.name] = f"The step depends on {needed[0]}, which is not compared."
    return found


def cache_directory(directory: Directory, project: Project) -> Directory:
    """Wrap *directory* in a cache; accounts stored in *project* return the stored credentials."""
    return cast("Directory", _CachedDirectory(directory, project))


class _CachedDirectory:
    def __init__(self, directory: Directory, project: Project) -> None:
        self._directory = directory
        self._project = project
        self._answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._directory, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._cached(f"{name} {args!r} {sorted(kwargs.items())!r}", lambda: found(*args, **kwargs))

        return call

    def nonblocking(self) -> AbstractContextManager[None]:
        """None: a first request may block."""
        return nullcontext()

    def credentials(self, account_id: str) -> Credentials:
        """Return the account's `$auth`, possibly with an expired access token: a proof does not send the token."""
        stored = self._project.accounts
        source = stored if stored.find(account_id) is not None else self._directory
        found: Credentials = self._cached(f"credentials {account_id}", lambda: source.credentials(account_id))
        return found

    def report_unauthorized(self, account_id: str, since: datetime) -> bool:  # noqa: ARG002 - the signature of `Directory`
        """False: a recorded 401 does not describe the account's present state."""
        return False

    def _cached(self, key: str, load: Callable[[], Any]) -> Any:
        if key not in self._answers:
            self._answers[key] = load()
        return self._answers[key]


MAX_USERS_PER_EVENT = 5
"""Maximum number of users from the directory, if no test users are named."""

_NAMES_USER = re.compile(r"external[-_]?user", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProofCase:
    """
    One event, run for one external user.

    Attributes:
        name: Name of the event.
        file: File of the event.
        event: The parsed event.
        external_user_id: Id of the external user, or None.
        environment: Environment of the external user.
    """

    name: str
    file: Path
    event: Event
    external_user_id: str | None
    environment: Environment = DEFAULT_ENVIRONMENT

    @property
    def recording_path(self) -> Path:
        """File of the recorded outbound calls."""
        return resolve_recording_path(self.file)


def resolve_recording_path(event: Path) -> Path:
    """Return the recording for the file of an event: `NAME.recorded.jsonl` beside `NAME.json`."""
    return event.with_name(f"{event.stem}.recorded.jsonl")


def find_cases(
    events: Path, workflow: Workflow, directory: Directory, *, users: Sequence[str] = (), names: Sequence[str] = ()
) -> tuple[list[ProofCase], list[str]]:
    """
    Find the cases of a proof.

    Args:
        events: Folder of saved events; may be missing.
        workflow: The workflow to run.
        directory: Source of external users, if *users* is empty.
        users: Test users; default: the first `MAX_USERS_PER_EVENT` users in development.
        names: Names of the saved events that belong to the workflow; default: all.

    Returns:
        The cases, and notes about files that were skipped.
    """
    cases: list[ProofCase] = []
    notes: list[str] = []
    known: Sequence[str] | None = users or None
    depends_on_user = _depends_on_user(workflow)
    files = sorted(events.glob("*.json")) if events.is_dir() else []
    missing = [name for name in names if name not in {file.stem for file in files}]
    notes += [f"The test event {name} is not in {events.name}/." for name in missing]
    for file in files if not names else [file for file in files if file.stem in names]:
        try:
            event = Event.parse(file.read_bytes(), label=file.name, is_http=workflow.trigger.type == "http")
            environment = parse_environment(event.environment)
        except (EventError, OSError) as fault:
            notes.append(f"Skipped, not an event: {fault}")
            continue
        if event.external_user_id is not None or not depends_on_user:
            cases.append(ProofCase(file.stem, file, event, event.external_user_id, environment))
            continue
        if known is None:
            known = [user.external_id for user in directory.users(DEFAULT_ENVIRONMENT, limit=MAX_USERS_PER_EVENT)]
        cases += [ProofCase(file.stem, file, event, user, environment) for user in known or (None,)]
    if not cases:
        notes.append(f"There is no saved event in {events.name}/: the proof compared only the workflow definitions.")
    return cases, notes


def _depends_on_user(workflow: Workflow) -> bool:
    return any(not step.disabled and _uses_external_user(step) for step in workflow.steps)


def _uses_external_user(step: Step) -> bool:
    if step.uses is not None or any(app.account is None for app in find_app_bindings(step)):
        return True
    return any(map(_NAMES_USER.search, (step.source, str(dict(step.props)))))


RANDOM_SEED = "pdkernel proof"


@dataclass(frozen=True)
class ProofSide:
    """
    One side of a proof: the notebook or the files.

    Attributes:
        workflow: The workflow to run.
        folder: The folder where imports of steps are resolved.
        actions: The sources of its actions; empty for the project's setting.
        load_variables: Loads the variables of the workflow and of those that its steps trigger.
        source: The notebook's name in commands.
        source_path: The notebook, beside which other workflows are found.
    """

    workflow: Workflow
    folder: Path
    actions: tuple[str, ...]
    load_variables: VariableLoader
    source: str
    source_path: Path


@dataclass(frozen=True)
class SideRun:
    """A run of one side: its execution, and the content of the data stores that it wrote."""

    execution: Execution
    stores: Mapping[str, Mapping[str, Any]]


class ProofRunner:
    """Resources that the runs of one proof share. Create it with `start`, inside a running loop."""

    def __init__(
        self,
        project: Project,
        directory: Directory,
        environ: Mapping[str, str],
        *,
        gateway: Gateway,
        at: datetime,
        seed: str,
    ) -> None:
        self._project = project
        self._directory = directory
        self._gateway = gateway
        self._at = at
        self._scratch = make_scratch_folder("pdkernel-proof-")
        WARDEN.register_folder(self._scratch)
        self._packages = StepPackages.for_project(project.folder, environ)
        self._workers = WorkerPool(
            gateway=gateway,
            max_active_runs=1,
            go_cache=go_programs(project.folder, environ),
            access=step_access(project.folder, gateway.certificate_files, project=project),
            determinism=Determinism(at, seed),
        )
        self.catalog = Catalog.for_project(project, environ=environ)

    @classmethod
    async def start(
        cls,
        project: Project,
        directory: Directory,
        environ: Mapping[str, str],
        *,
        frozen_time: datetime,
        seed: str = RANDOM_SEED,
    ) -> Self:
        """
        Prepare the runs; worker processes start with the first step.

        Args:
            project: The project with packages, actions, stores and files; it is not changed.
            directory: Users and accounts.
            environ: Environment variables with settings of package registries.
            frozen_time: The fixed time that both sides see, in whole seconds.
            seed: The seed of the random numbers of steps.
        """
        gateway = await Gateway.start(project.folder / "egress", clock=ManualClock(frozen_time))
        try:
            return cls(project, directory, environ, gateway=gateway, at=frozen_time, seed=seed)
        except BaseException:
            await gateway.close()
            raise

    def has_records(self, stores: Iterable[str | None]) -> bool:
        """Return whether one of the project's data *stores* has a record."""
        names = {store or DEFAULT_DATA_STORE for store in stores}
        return any(each.record_count > 0 and each.name in names for each in self._project.data_stores.list_stores())

    async def run(
        self,
        side: ProofSide,
        case: ProofCase,
        *,
        only: frozenset[str] | None = None,
        pins: Mapping[str, Mapping[str, JSON]] = MappingProxyType({}),
        empty_stores: bool = False,
        policy: OutboundPolicy | None = None,
    ) -> SideRun:
        """
        Run *side* on *case*.

        Args:
            side: The workflow.
            case: The event.
            only: The steps to run; None for all.
            pins: Fixed exports by step; such steps do not run.
            empty_stores: Whether the data stores are empty instead of a copy of the project's.
            policy: The outbound policy; None replays the recording of the event, and refuses every other call.
        """
        files = await run_blocking(self._copy_files)
        clock, ids = ManualClock(self._at), SequentialIds()
        stores = ScratchCopy(self._project.data_stores, clock)
        if empty_stores:
            for name in await run_blocking(self._project.data_stores.names):
                await run_blocking(stores.clear, name)
        journal = UnrecordedRuns()
        interpreter = Interpreter(
            directory=self._directory,
            stores=self._project.data_stores,
            workers=self._workers,
            catalog=self.catalog,
            packages=self._packages,
            journal=journal,
            clock=clock,
            ids=ids,
            vault=None,
            root=self._scratch,
            deliveries=RunDeliveries(directory=self._directory, journal=journal, gateway=self._gateway, clock=clock),
            file_store=files,
        )
        execution = await interpreter.run(
            RunRequest(
                workflow=side.workflow,
                event=case.event.with_identity(case.external_user_id, case.environment),
                # without a recording, every outbound call is refused
                policy=policy
                or OutboundPolicy(
                    "replay", f"replay={case.recording_path.name}", recording_file=case.recording_path.absolute()
                ),
                external_user_id=case.external_user_id,
                environment=case.environment,
                variables=await run_blocking(side.load_variables, side.folder),
                load_variables=side.load_variables,
                folder=side.folder,
                options=TestOptions(only_steps=only, pinned_exports=pins),
                install=False,
                source=side.source,
                action_sources=side.actions,
                pause_mode="skip",
                source_path=side.source_path,
                keep_in_journal=False,
                data_stores=stores,
            )
        )
        return SideRun(execution, await run_blocking(_read_written_stores, stores))

    async def close(self) -> None:
        """Stop every worker process and remove the scratch folder."""
        await self._workers.close()
        await self._gateway.close()
        await run_blocking(remove_tree, self._scratch)
        WARDEN.unregister_folder(self._scratch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _copy_files(self) -> Path:
        """Copy the project's file store into the scratch folder."""
        copy = self._scratch / "files"
        remove_tree(copy)
        original = self._project.folder / "files"
        if original.is_dir():
            copytree(original, copy, symlinks=True)
        return copy


def _read_written_stores(stores: ScratchCopy) -> dict[str, dict[str, Any]]:
    return {
        name: {
            record.key: record.value
            if record.expires is None
            else {"value": record.value, "expires": record.expires.isoformat()}
            for record in stores.iter_records(name)
        }
        for name in stores.changed_stores()
    }
