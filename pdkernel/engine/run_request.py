"""The request for a run: workflow, event, external user, outbound policy and further choices of the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pdkernel.egress import OutboundPolicy, SentRequestStore
from pdkernel.egress.recording import MemoryRecording
from pdkernel.engine.account_lookup import Interface
from pdkernel.engine.http_response import HttpResponse
from pdkernel.engine.pauses import PauseMode
from pdkernel.errors import PdkernelError
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, Execution
from pdkernel.identity import DEFAULT_ENVIRONMENT, Environment
from pdkernel.model import JSON, Step, Workflow
from pdkernel.redaction import Secret
from pdkernel.workers import RunSetup, StepCall, StepOutcome, StepRecorder

OnChange = Callable[[Execution], None]


class TriggerableWorkflow(Protocol):
    """Another workflow that a step may trigger."""

    @property
    def workflow(self) -> Workflow:
        """The workflow."""
        ...

    @property
    def folder(self) -> Path:
        """The folder in which imports of its steps are resolved."""
        ...


class StepDebugger(Protocol):
    """Runs Python steps in the kernel, where a debugger can stop them."""

    async def run_step(self, call: StepCall, setup: RunSetup, recorder: StepRecorder) -> StepOutcome:
        """Run a step as `workers.RunWorkers.run_step` does, without a time limit."""
        ...


WorkflowFinder = Callable[[str], TriggerableWorkflow | None]
"""Returns the workflow with an id, a name or a path, or None."""


def build_pinned_exports(value: JSON) -> Mapping[str, JSON]:
    """The exports of a pin: an object holds the exports; another value, or an empty object, is the return value."""
    return value if isinstance(value, dict) and value else {RETURN_VALUE: value}


@dataclass(frozen=True, slots=True)
class RequestRefusal:
    """An error by which the caller refuses the run, and the response that the caller sends."""

    error: PdkernelError
    response: HttpResponse


@dataclass(frozen=True)
class RunRequest:
    """
    The request for one run. Callbacks are called from the engine's thread.

    Attributes:
        workflow: The workflow.
        event: The event.
        policy: The policy for outbound calls.
        external_user_id: The external user of the run, or None.
        environment: The external user's environment.
        variables: Environment variables by name; steps only get those that the workflow names.
        folder: The folder of the notebook or the workflow; Node.js resolves bare imports in it.
        pinned_exports: Fixed exports by step; such steps do not run.
        only_steps: Steps to run, or None for all. The others use *previous_exports*.
        previous_exports: Earlier exports of steps that do not run; may contain placeholders for secrets.
        test: The value of `context.test`: True for a run from a notebook or a terminal.
        idempotency: Stores responses to unsafe outbound calls so that each is sent once; None always sends.
        resend: Whether to send unsafe outbound calls again although a response is stored.
        recording: Records outbound calls in memory, so that the run can be saved as a test; or None.
        install: Whether to install missing packages of steps; False refuses the run instead.
        source: The path of the notebook or folder, for commands in messages.
        interface: The interface that starts the run, for the fixes in messages.
        actions_source: Where pre-built actions run, as set in the workflow's `pdkernel.yaml`; None is the project's
            setting.
        on_progress: Receives lines about the installation of packages.
        debugger: Runs the steps with `--debug`; None runs them in workers.
        on_change: Receives the execution after each change.
        on_paused: Called each time that the run pauses.
        pause_mode: The treatment of `$.flow.delay`, `suspend` and `rerun`.
        base_url: The URL of the endpoint, for resume and cancel URLs, or None if the workflow is not served.
        find_workflow: Finds other workflows that steps may trigger, or None.
        depth: The number of workflows in the chain of triggers above this run.
        account_overrides: Account ids by app, used instead of the external user's newest account of the app.
        workflow_id: The workflow's public id `p_...`; None derives one from the name.
        run_ids: The run's id and trace id, for a caller that needs them before the run; None creates new ids.
        on_recorded: Called once when the run is on disk.
        on_respond: Called once with the response to the caller, without redaction, if `has_response`: at the end, at the
            first pause, or at once for an immediate response.
        keep_in_journal: Whether the run is recorded in the journal.
        refusal: Refuses the run; the record has the error and the response. None runs the steps.
    """

    workflow: Workflow
    event: Event
    policy: OutboundPolicy
    external_user_id: str | None = None
    environment: Environment = DEFAULT_ENVIRONMENT
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    folder: Path = field(default_factory=Path.cwd)
    pinned_exports: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    only_steps: frozenset[str] | None = None
    previous_exports: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    test: bool = True
    idempotency: SentRequestStore | None = None
    resend: bool = False
    recording: MemoryRecording | None = None
    install: bool = True
    source: str = "SOURCE"
    interface: Interface = "terminal"
    actions_source: str | None = None
    on_progress: Callable[[str], None] | None = None
    on_change: OnChange | None = None
    on_paused: Callable[[], None] | None = None
    debugger: StepDebugger | None = None
    pause_mode: PauseMode = "skip"
    base_url: str | None = None
    find_workflow: WorkflowFinder | None = None
    depth: int = 0
    account_overrides: Mapping[str, str] = field(default_factory=dict)
    workflow_id: str | None = None
    run_ids: tuple[str, str] | None = None
    on_recorded: Callable[[], None] | None = None
    on_respond: Callable[[HttpResponse], None] | None = None
    keep_in_journal: bool = True
    refusal: RequestRefusal | None = None

    @cached_property
    def idempotency_scope(self) -> str:
        """The scope in which an unsafe outbound call is sent once: event, external user and environment."""
        return f"{self.event.digest()}/{self.environment}/{self.external_user_id or ''}"

    @property
    def has_response(self) -> bool:
        """Whether the caller gets the run's own response. Otherwise the caller gets the default response at once."""
        responds = self.workflow.trigger.response == "custom" and self.only_steps != frozenset()
        return responds or self.refusal is not None

    def is_selected(self, name: str) -> bool:
        """Return whether *only_steps* includes the step."""
        return self.only_steps is None or name in self.only_steps

    def should_execute(self, step: Step) -> bool:
        """Return whether the run executes the code of *step*: it is selected, not disabled and not pinned."""
        return self.is_selected(step.name) and not step.disabled and step.name not in self.pinned_exports


def collect_request_secrets(request: RunRequest) -> list[Secret]:
    """Return the values of the project's variables and of the event's secret headers as secrets."""
    variables = [Secret(f"env/{name}", value) for name, value in request.variables.items()]
    return [*variables, *(Secret(f"event/{name}", value) for name, value in request.event.header_secrets().items())]
