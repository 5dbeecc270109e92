"""
What a caller hands to a process of steps and what comes back, as values.

Knows shapes only. Everything here is raw: who calls looks for secrets before anything is kept or shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pdkernel.errors import StepError
from pdkernel.model import JSON, Step
from pdkernel.packages import NpmTree
from pdkernel.workers.declarations import ComponentFile
from pdkernel.workers.protocols import StepServices
from pdkernel.workers.replies import Effect, Emitted, Pause

WORKING_FOLDER_NAME = "tmp"
"""The name of the steps' working folder in a run's scratch folder, where steps have no `/tmp` of their own."""


@dataclass(frozen=True)
class RunSetup:
    """
    What all steps of one run share.

    Attributes:
        run_id: The execution's id.
        reuse_key: Processes are used again only by runs with the same word: the workflow's name and version.
        trigger: `{"event": ..., "context": ...}`.
        variables: The workflow's environment variables.
        import_folder: Where Node.js resolves imports from that are not in *node_packages*.
        scratch_folder: A folder of this run, removed by the caller and made when something is first put there
            (`ensure_scratch_folder`): most runs have no use for it. Steps work in `tmp` inside it where they cannot have a `/tmp` of
            their own.
        install: Whether packages that a step needs may be downloaded.
        file_store_folder: The folder of the project's file store (`$.files`), or None for none.
        python: The interpreter of the environment that has the packages of the workflow's Python steps.
        node_packages: The installed packages of each Node.js step that imports some, by step.
        is_sandboxed: The operating system stops outside calls that go around the gateway: every mode but live, and *public_only*.
        public_only: Steps reach public addresses only, neither this machine nor a private network.
        extra_code_folders: More folders that steps' code is read from.
    """

    run_id: str
    reuse_key: str
    trigger: Mapping[str, JSON]
    variables: Mapping[str, str]
    import_folder: Path
    scratch_folder: Path
    install: bool = True
    file_store_folder: Path | None = None
    python: Path | None = None
    node_packages: Mapping[str, NpmTree] = field(default_factory=dict)
    is_sandboxed: bool = False
    public_only: bool = False
    extra_code_folders: tuple[Path, ...] = ()

    def ensure_scratch_folder(self) -> Path:
        """`scratch`, which is there now. Raises `OSError` if it cannot be made."""
        self.scratch_folder.mkdir(mode=0o700, exist_ok=True)
        return self.scratch_folder


@dataclass(frozen=True)
class StepCall:
    """
    One step to run.

    Attributes:
        step: The step.
        steps: Exports of the steps above, complete. A step's value is sent once to each language as long
            as the same object is passed.
        props: Prop name to value, expressions evaluated.
        account_fields: App prop name to the fields of `$auth`.
        context: What `$.context` and `pd.context` hold besides `steps.trigger.context`.
        timeout_s: Seconds that it may run.
        memory_limit_mb: Megabytes that it may hold, or None for any number.
        call_context: How its outside calls are treated; None where there is no gateway.
        store_names: Data store prop to the store's name.
        services: Answers what the step asks for; None refuses everything.
        flow_urls: `resume_url` and `cancel_url` of this step in this run.
        component: Runs in place of the step's source.
        service_db: What a `$.service.db` prop holds.
        before_start: Waited for when all is ready, before the step's code begins; what it raises refuses the step.
    """

    step: Step
    steps: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    props: Mapping[str, JSON] = field(default_factory=dict)
    account_fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    context: Mapping[str, JSON] = field(default_factory=dict)
    timeout_s: float = 30.0
    memory_limit_mb: int | None = None
    call_context: Any = None
    store_names: Mapping[str, str] = field(default_factory=dict)
    services: StepServices | None = None
    flow_urls: Mapping[str, str] = field(default_factory=dict)
    component: ComponentFile | None = None
    service_db: Mapping[str, JSON] = field(default_factory=dict)
    before_start: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class StepOutcome:
    """
    What a step did; raw.

    Attributes:
        exports: Name to value, in order; `$return_value` among them unless nothing was returned. Those made
            before a failure are kept.
        has_exited: The step asked to end the run.
        exit_reason: What it gave as the reason.
        response: Its first response, or None. A body of bytes that are not text is
            `{"$base64": TEXT}`.
        warnings: Sentences for people.
        queued_sends: What is to be sent when the run is over, in order.
        pause_request: How the run is to pause after this step, or None.
        duration_s: How long it ran, without the start of its process.
        peak_memory_mb: The most memory that was seen in its processes, in megabytes; 0 where nobody looked.
        service_db: What a `$.service.db` prop now holds, or None if nothing was written to it.
        error: Why it failed, or None.
    """

    exports: dict[str, JSON] = field(default_factory=dict)
    has_exited: bool = False
    exit_reason: str | None = None
    response: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    queued_sends: tuple[Effect, ...] = ()
    pause_request: Pause | None = None
    duration_s: float = 0.0
    peak_memory_mb: float = 0.0
    service_db: Mapping[str, JSON] | None = None
    error: StepError | None = None


@dataclass(frozen=True)
class SourceCall:
    """
    One run of an event source, or of one of its hooks.

    Attributes:
        component: The source.
        id: By which it is known to itself (`PD_COMPONENT`).
        operation: What to run.
        event: For `run`: what its interface got, such as `{"timestamp": ...}` from a timer.
        props: Prop name to value.
        account_fields: App prop name to the fields of `$auth`.
        service_db: What its `$.service.db` holds.
        endpoint: Where its HTTP interface is reached, or None.
        timeout_s: Seconds that it may run.
        call_context: How its outside calls are treated; None where there is no gateway.
    """

    component: ComponentFile
    id: str
    operation: Literal["run", "deploy", "activate", "deactivate"] = "run"
    event: JSON = None
    props: Mapping[str, JSON] = field(default_factory=dict)
    account_fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    service_db: Mapping[str, JSON] = field(default_factory=dict)
    endpoint: str | None = None
    timeout_s: float = 60.0
    call_context: Any = None


@dataclass(frozen=True)
class SourceOutcome:
    """
    What a source did; raw.

    Attributes:
        emitted_events: In order; those before a failure are kept.
        is_implemented: Whether the source has what was to be run.
        service_db: What its `$.service.db` now holds.
        response: What it answered by its HTTP interface, or None.
        warnings: Sentences for people.
        error: Why it failed, or None.
    """

    emitted_events: tuple[Emitted, ...] = ()
    is_implemented: bool = True
    service_db: Mapping[str, JSON] = field(default_factory=dict)
    response: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    error: StepError | None = None
