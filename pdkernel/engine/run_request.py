"""
The request for a run, the callbacks of a run, and the text of a request in the journal.

The journal stores the `RunRequest`, so that another executor can continue the run. A `RunWatcher` exists in one process only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from pdkernel.common.encode import JsonStruct, decode_json, encode_json
from pdkernel.common.identity import DEFAULT_ENVIRONMENT, Environment
from pdkernel.common.redaction import Secret
from pdkernel.egress import OutboundPolicy, SentRequestStore
from pdkernel.egress.recording import MemoryRecording
from pdkernel.engine.account_lookup import Interface, RunIdentity
from pdkernel.engine.http_response import HttpResponse
from pdkernel.engine.pauses import PauseMode
from pdkernel.engine.prepared_workflow import PreparedWorkflow
from pdkernel.errors import PdkernelError
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, BlockChoice, Execution
from pdkernel.files.source import WorkflowSource, find_sibling_workflow
from pdkernel.journal import StoredLock
from pdkernel.language.analysis import find_blocked_steps
from pdkernel.model import JSON, Entry, Step, Workflow
from pdkernel.storage import StepStores
from pdkernel.storage.settings import format_variable_ref
from pdkernel.workers import RunSetup, StepCall, StepOutcome, StepRecorder

OnChange = Callable[[Execution], None]


class StepDebugger(Protocol):
    """Runs Python steps in the kernel, where a debugger can stop them."""

    async def run_step(self, call: StepCall, setup: RunSetup, folder: str, recorder: StepRecorder) -> StepOutcome:
        """Run a step in the working *folder* as `workers.PooledRun.run_step` does, without a time limit."""
        ...


WorkflowFinder = Callable[[str, Path | None], WorkflowSource | None]
"""Returns the workflow with an id or a name that a step of the workflow at the second path names, or None."""

VariableLoader = Callable[[Path], Mapping[str, str]]
"""Returns the variables and values of secret props of a workflow in a folder, by name."""


def build_pinned_exports(value: JSON) -> Mapping[str, JSON]:
    """Return the exports of a pin: an object holds the exports; another value, or an empty object, is the return value."""
    return value if isinstance(value, dict) and value else {RETURN_VALUE: value}


@dataclass(frozen=True, slots=True)
class RequestRefusal:
    """An error by which the caller refuses the run, and the response that the caller sends."""

    error: PdkernelError
    response: HttpResponse


@dataclass(frozen=True)
class TestOptions:
    """
    What a person may ask of a run: a test in a notebook or a terminal, a replay or a fork. The run of an event has none of it.

    Attributes:
        pinned_exports: Fixed exports by step or block, which then does not run.
        only_steps: Steps to run and blocks to decide, or None for all. The others use *previous_exports*.
        previous_exports: Earlier exports of steps that do not run; may contain placeholders for secrets.
        resend: Whether to send unsafe outbound calls again although a response is stored.
        recording: Records outbound calls in memory, so that the run can be saved as a test; or None.
        branches: Fixed decisions by block, which the run does not make again.
    """

    __test__ = False  # no test of pytest

    pinned_exports: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict, repr=False)
    only_steps: frozenset[str] | None = None
    previous_exports: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict, repr=False)
    resend: bool = False
    recording: MemoryRecording | None = None
    branches: Mapping[str, BlockChoice] = field(default_factory=dict, repr=False)


NO_OPTIONS = TestOptions()


@dataclass(frozen=True)
class RunRequest:
    """
    The request for one run.

    Attributes:
        workflow: The workflow.
        event: The event.
        policy: The policy for outbound calls, before the workflow's network is applied: see `outbound_policy`.
        external_user_id: The external user of the run, or None.
        environment: The external user's environment.
        variables: Environment variables, of which steps only get those that the workflow names, and secret props, by name.
        folder: The folder of the notebook or the workflow; Node.js resolves bare imports in it.
        options: What a person asks of the run.
        is_only_recorded: Whether the run has no steps: its event is recorded (`x-pd-notrigger`).
        test: The value of `context.test`: True for a run from a notebook or a terminal.
        idempotency: Stores responses to unsafe outbound calls so that each is sent once; None always sends.
        install: Whether to install missing packages of steps; False refuses the run instead.
        source: The path of the notebook or folder, for commands in messages.
        source_path: The path of the notebook or folder, from which *find_workflow* searches; or None.
        interface: The interface that starts the run, for the fixes in messages.
        action_sources: Where pre-built actions run, as set in the workflow's `pdkernel.yaml`; empty for the project's
            setting.
        pause_mode: The treatment of `$.flow.delay`, `suspend` and `rerun`.
        base_url: The URL of the endpoint, for resume and cancel URLs, or None if the workflow is not served.
        find_workflow: Finds other workflows that steps trigger.
        load_variables: Loads the variables of a workflow that a step triggers; None for those of this run.
        depth: The number of workflows in the chain of triggers above this run.
        held_queues: The limited workflows (`concurrency`) of the runs above this run, by `queue`: these runs have not ended.
        account_overrides: Account ids by app, used instead of the external user's newest account of the app.
        workflow_id: The workflow's public id `p_...`; None derives one from the name.
        run_ids: The run's id and trace id, for a caller that needs them before the run; None creates new ids.
        parent: The id of the run whose step triggers this run, or None.
        replay_of: The id of the run whose event is run again, or None.
        secrets: Secrets in *event* and *options* that this run's accounts and variables need not have.
        done_steps: Steps that an earlier executor has run, for a continued run.
        keep_in_journal: Whether the run is recorded in the journal.
        refusal: Refuses the run; the record has the error and the response. None runs the steps.
        emitter_id: The id of the trigger that fired; None derives one from the workflow's name.
        dedupe_key: A second run with the same key is refused; or None. A replay has no key.
        batch: The id of the batch to which the run belongs, or None. Its schedule limits how many of its runs execute at once.
        package_lock: The packages of the earlier run that a fork continues; None for those of the project.
        below_error_handler: Whether a run that handles errors (`emitted_events`) has triggered this run.
        is_silent: Whether the run is a replay that sends nothing, or is triggered by one: its events start no workflows.
        data_stores: Where the run reads and writes data stores, and the workflows that it triggers, too; None for those of the
            project, or under a policy that sends nothing for a scratch copy.
    """

    workflow: Workflow
    event: Event
    policy: OutboundPolicy
    external_user_id: str | None = None
    environment: Environment = DEFAULT_ENVIRONMENT
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    folder: Path = field(default_factory=Path.cwd)
    options: TestOptions = NO_OPTIONS
    is_only_recorded: bool = False
    test: bool = True
    idempotency: SentRequestStore | None = None
    install: bool = True
    source: str = "SOURCE"
    source_path: Path | None = None
    interface: Interface = "terminal"
    action_sources: tuple[str, ...] = ()
    pause_mode: PauseMode = "skip"
    base_url: str | None = None
    find_workflow: WorkflowFinder = find_sibling_workflow
    load_variables: VariableLoader | None = None
    depth: int = 0
    held_queues: tuple[str, ...] = ()
    account_overrides: Mapping[str, str] = field(default_factory=dict)
    workflow_id: str | None = None
    run_ids: tuple[str, str] | None = None
    parent: str | None = None
    replay_of: str | None = None
    secrets: tuple[Secret, ...] = field(default=(), repr=False)
    done_steps: frozenset[str] = frozenset()
    keep_in_journal: bool = True
    refusal: RequestRefusal | None = None
    emitter_id: str | None = None
    dedupe_key: str | None = None
    batch: str | None = None
    package_lock: StoredLock | None = None
    below_error_handler: bool = False
    is_silent: bool = False
    data_stores: StepStores | None = None

    def with_changes(self, **changes: Any) -> RunRequest:
        """Return a copy with other values of fields, as `dataclasses.replace`, which takes ten times as long: every run needs copies."""
        made = object.__new__(RunRequest)
        values = self.__dict__  # with cached properties, which may depend on what changes
        made.__dict__.update({name: values[name] for name in _FIELDS}, **changes)
        return made

    @cached_property
    def idempotency_scope(self) -> str:
        """The scope in which an unsafe outbound call is sent once: event, external user and environment."""
        return f"{self.event.digest()}/{self.environment}/{self.external_user_id or ''}"

    @cached_property
    def prepared(self) -> PreparedWorkflow:
        """What the run needs of its workflow, and shares with the other runs."""
        return self.workflow.derive(PreparedWorkflow)

    @cached_property
    def executed_steps(self) -> tuple[Step, ...]:
        """The steps whose code the run executes."""
        return tuple(step for step in self.workflow.steps if self.should_execute(step))

    @property
    def identity(self) -> RunIdentity:
        """The external user of the run, with the values of the event's headers."""
        return RunIdentity(
            self.external_user_id,
            self.environment,
            header=self.event.external_user_id,
            environment_header=self.event.environment,
            interface=self.interface,
        )

    @cached_property
    def outbound_policy(self) -> OutboundPolicy:
        """The policy for outbound calls, with the proxy of the workflow's network."""
        return self.policy.for_network(self.workflow.settings.get("network"))

    @property
    def queue(self) -> str:
        """The name of the queue in which the runs of the workflow wait for its limits."""
        return self.workflow_id or str(self.source_path or self.workflow.name)

    @property
    def has_response(self) -> bool:
        """Whether the caller gets the run's own response. Otherwise the caller gets the default response at once."""
        responds = self.workflow.trigger.response == "custom" and not self.is_only_recorded
        return responds or self.refusal is not None

    @property
    def is_served(self) -> bool:
        """Whether a server has accepted the run and must finish it, whatever happens to the server."""
        return self.interface == "http" and self.keep_in_journal

    @property
    def waits_for_database(self) -> bool:
        """Whether the run waits while the database cannot be reached or written; another run fails."""
        return self.is_served and self.pause_mode == "park"

    def is_selected(self, name: str) -> bool:
        """Return whether the run is to run the step, or to decide the block, unless it is disabled or pinned."""
        only = self.options.only_steps
        return not self.is_only_recorded and (only is None or name in only)

    def should_execute(self, entry: Entry) -> bool:
        """
        Return whether the run executes the code of the step, or evaluates the conditions of the block, if it reaches it.

        Then it is selected, not disabled, not pinned, not in a pinned block, not done, and a block has no fixed decision.
        """
        name, pins = entry.name, self.options.pinned_exports
        return (
            self.is_selected(name)
            and not (isinstance(entry, Step) and entry.disabled)
            and name not in pins
            and name not in self.done_steps
            and name not in self.blocked_steps
            and name not in self.options.branches
            and not (pins and any(block.name in pins for block, _ in self.workflow.branches_around(name)))
        )

    @cached_property
    def blocked_steps(self) -> Mapping[str, tuple[str, int | None]]:
        """
        The steps and blocks that cannot run because of a cell that cannot be read, each with the reason and the line.

        An unreadable step or block that is pinned, or not selected and has earlier exports, blocks no step.
        """
        unreadable = {
            name
            for name in self.prepared.unreadable
            if name not in self.options.pinned_exports
            and (self.is_selected(name) or name not in self.options.previous_exports)
        }
        return find_blocked_steps(self.workflow, unreadable) if unreadable else {}


@dataclass(frozen=True)
class RunWatcher:
    """
    The callbacks of a run, for the interface that watches it. The engine's thread calls them.

    Attributes:
        on_progress: Receives lines about the installation of packages.
        on_change: Receives the execution after each change.
        on_recorded: Called once when the run is on disk.
        on_respond: Called once with the response to the caller, without redaction, if `has_response`: at the end, at the
            first pause, or at once for an immediate response.
        on_paused: Called each time that the run pauses.
        debugger: Runs the steps with `--debug`; None runs them in workers.
        hands_over: Returns whether this process ends, so that a cancelled run is left to the next one.
    """

    on_progress: Callable[[str], None] | None = None
    on_change: OnChange | None = None
    on_recorded: Callable[[], None] | None = None
    on_respond: Callable[[HttpResponse], None] | None = None
    on_paused: Callable[[], None] | None = None
    debugger: StepDebugger | None = None
    hands_over: Callable[[], bool] = lambda: False


UNWATCHED = RunWatcher()


class _StoredRequest(JsonStruct, frozen=True, omit_defaults=True):
    """The text of a request in the journal; the run's row and the definition hold the rest."""

    event: Mapping[str, JSON]
    is_http: bool
    policy: Mapping[str, JSON]
    folder: str
    pinned_exports: Mapping[str, Mapping[str, JSON]] = {}
    only_steps: tuple[str, ...] | None = None
    previous_exports: Mapping[str, Mapping[str, JSON]] = {}
    test: bool = True
    sends_once: bool = False
    resend: bool = False
    branches: Mapping[str, BlockChoice] = {}
    install: bool = True
    source: str = "SOURCE"
    source_path: str | None = None
    interface: Interface = "terminal"
    action_sources: tuple[str, ...] = ()
    pause_mode: PauseMode = "skip"
    base_url: str | None = None
    depth: int = 0
    held_queues: tuple[str, ...] = ()
    account_overrides: Mapping[str, str] = {}
    workflow_id: str | None = None
    parent: str | None = None
    replay_of: str | None = None
    secrets: tuple[tuple[str, str], ...] = ()
    emitter_id: str | None = None
    below_error_handler: bool = False
    is_silent: bool = False
    batch: str | None = None


_UNCHANGED = (
    "test",
    "install",
    "source",
    "interface",
    "action_sources",
    "pause_mode",
    "base_url",
    "depth",
    "held_queues",
    "account_overrides",
    "workflow_id",
    "parent",
    "replay_of",
    "emitter_id",
    "below_error_handler",
    "is_silent",
    "batch",
)
"""Fields that a stored request has as the request has them."""
_get_unchanged = attrgetter(*_UNCHANGED)
_FIELDS = tuple(item.name for item in fields(RunRequest))
_POLICY_FIELDS = tuple(item.name for item in fields(OutboundPolicy))
_get_policy = attrgetter(*_POLICY_FIELDS)
_POLICY_PATHS, _POLICY_TUPLES = ("recording_file",), ("allowed_hosts", "network_vias", "unopened")


def encode_request(request: RunRequest, root: Path) -> str:
    """
    Encode what another process needs to continue the run of *request*. The text holds the event without redaction.

    Paths inside of *root*, the project's place on this host, are relative, because the project may be elsewhere on another.
    """
    options = request.options
    return encode_json(
        _StoredRequest(
            event=request.event.data,
            is_http=request.event.is_http,
            policy=dict(zip(_POLICY_FIELDS, _get_policy(request.policy), strict=True)),
            folder=_relative(request.folder, root),
            only_steps=_list_steps(request),
            pinned_exports=options.pinned_exports,
            previous_exports=options.previous_exports,
            resend=options.resend,
            branches=options.branches,
            sends_once=request.idempotency is not None,
            source_path=None if request.source_path is None else _relative(request.source_path, root),
            secrets=tuple((secret.ref, secret.value) for secret in request.secrets),
            **dict(zip(_UNCHANGED, _get_unchanged(request), strict=True)),
        )
    ).decode()


def _list_steps(request: RunRequest) -> tuple[str, ...] | None:
    if request.is_only_recorded:
        return ()
    only = request.options.only_steps
    return None if only is None else tuple(sorted(only))


@lru_cache(maxsize=256)
def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def decode_request(
    text: str,
    root: Path,
    *,
    workflow: Workflow,
    external_user_id: str | None,
    environment: Environment,
    run_ids: tuple[str, str],
) -> tuple[RunRequest, bool]:
    """
    Decode a text of `encode_request`; *root* is the project's place on this host.

    Returns:
        The request, without variables, `idempotency`, `find_workflow` and `load_variables`; and whether it sends unsafe calls once.

    Raises:
        ValueError: The text does not fit.
    """
    stored = decode_json(text, _StoredRequest)
    policy: dict[str, Any] = dict(stored.policy)
    policy |= {name: tuple(policy.get(name, ())) for name in _POLICY_TUPLES}
    policy |= {name: Path(policy[name]) for name in _POLICY_PATHS if policy[name] is not None}
    return RunRequest(
        workflow=workflow,
        event=Event(stored.event, is_http=stored.is_http),
        policy=OutboundPolicy(**policy),
        external_user_id=external_user_id,
        environment=environment,
        folder=root / stored.folder,
        options=_decode_options(stored),
        is_only_recorded=stored.only_steps == (),
        source_path=None if stored.source_path is None else root / stored.source_path,
        run_ids=run_ids,
        secrets=tuple(Secret(*each) for each in stored.secrets),
        **{name: getattr(stored, name) for name in _UNCHANGED},
    ), stored.sends_once


def _decode_options(stored: _StoredRequest) -> TestOptions:
    only = frozenset(stored.only_steps) if stored.only_steps else None
    if only is None and not (stored.pinned_exports or stored.previous_exports or stored.resend or stored.branches):
        return NO_OPTIONS
    return TestOptions(stored.pinned_exports, only, stored.previous_exports, stored.resend, branches=stored.branches)


def collect_request_secrets(request: RunRequest) -> list[Secret]:
    """Return the values of variables, secret props and the event's secret headers, and the request's own secrets."""
    return [
        *(Secret(format_variable_ref(name), value) for name, value in request.variables.items()),
        *request.secrets,
        *(Secret(f"event/{name}", value) for name, value in request.event.header_secrets().items()),
    ]
