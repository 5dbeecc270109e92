"""
Input and output types of the workers: the setup of a run, the call of a step or source, and its outcome.

All values are unredacted. The caller redacts secrets before it stores or shows a value.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import DEFAULT_ENVIRONMENT
from pdkernel.errors import StepError
from pdkernel.model import JSON, Step
from pdkernel.packages import NpmTree
from pdkernel.workers.declarations import ComponentFile
from pdkernel.workers.go_build import GoLock
from pdkernel.workers.protocols import StepServices
from pdkernel.workers.replies import Effect, Emitted, Pause


class Determinism(JsonStruct, frozen=True):
    """
    The clock and the random seed of steps.

    Attributes:
        clock_start: The time at which each step begins, in whole seconds. The clock advances every ten seconds, so that code
            that waits for a later time ends.
        seed: The seed of the random numbers, combined with the step's name.
    """

    clock_start: datetime
    seed: str

    def json_form(self) -> object:
        """Return `{"ms", "seed"}`: the form that a worker receives when a run begins."""
        return {"ms": int(self.clock_start.timestamp()) * 1000, "seed": self.seed}

    @property
    def interpreter_variables(self) -> dict[str, str]:
        """Environment variables for the start of an interpreter: they fix the order of Python's sets of strings."""
        return {"PYTHONHASHSEED": "0"}


@dataclass(frozen=True, slots=True)
class WorkerKey:
    """
    What the runs that one worker may serve have in common. So a worker never serves two external users.

    Attributes:
        environment: The external user's environment.
        external_user_id: The external user; None for runs without an external user, and for *shared_workflow*.
        python: The interpreter of the Python steps, which belongs to a set of packages.
        is_sandboxed: The operating system stops outbound calls that bypass the gateway.
        public_only: Steps reach public addresses only.
        shared_workflow: The workflow with `share_workers: always` whose runs of all external users share workers, or None.
    """

    environment: str
    external_user_id: str | None
    python: Path | None
    is_sandboxed: bool
    public_only: bool
    shared_workflow: str | None = None

    @property
    def spare(self) -> WorkerKey:
        """The key of slots that no run has used and that a run of this key can take."""
        return WorkerKey("", None, self.python, self.is_sandboxed, self.public_only)

    def describe(self) -> str:
        """Return whose runs these are, as a phrase for logs."""
        if self.shared_workflow is not None:
            return f"workflow {self.shared_workflow!r} in {self.environment} (share_workers: always)"
        if not self.environment:
            return "no external user yet"
        if self.external_user_id is None:
            return f"runs without an external user in {self.environment}"
        return f"external user {self.external_user_id!r} in {self.environment}"


@dataclass(frozen=True)
class RunSetup:
    """
    Settings that all steps of one run share.

    Attributes:
        run_id: The execution's id.
        workflow: The workflow's name.
        trigger: `{"event": ..., "context": ...}`.
        variables: The workflow's environment variables.
        import_folder: The folder from which Node.js resolves imports that are not in *node_packages*.
        install: Whether missing packages may be downloaded.
        file_store_folder: The folder of the project's file store (`$.files`), or None if there is no store.
        python: The interpreter of the environment with the packages of the workflow's Python steps.
        node_packages: The installed packages of each Node.js step that imports packages, by step.
        go_lock: The modules of Go steps; None for those of the project's lock file.
        is_sandboxed: The operating system stops outbound calls that bypass the gateway. True for every policy but live, and
            for *public_only*.
        public_only: Steps reach public addresses only, neither this machine nor a private network.
        extra_code_folders: More folders from which steps read code.
        workflow_version: The workflow's version. Python imports files beside the workflow again for another version.
        environment: The environment of *external_user_id*.
        external_user_id: The external user of the run, or None.
        share_workers: Runs of this workflow for other external users may use the same workers (`share_workers: always`).
        listen_ports: Ports on which steps may listen, besides free ones.
    """

    run_id: str
    workflow: str
    trigger: Mapping[str, JSON]
    variables: Mapping[str, str]
    import_folder: Path
    install: bool = True
    file_store_folder: Path | None = None
    python: Path | None = None
    node_packages: Mapping[str, NpmTree] = field(default_factory=dict)
    go_lock: GoLock | None = None
    is_sandboxed: bool = False
    public_only: bool = False
    extra_code_folders: tuple[Path, ...] = ()
    workflow_version: str = ""
    environment: str = DEFAULT_ENVIRONMENT
    external_user_id: str | None = None
    share_workers: bool = False
    listen_ports: tuple[int, ...] = ()

    @cached_property
    def worker_key(self) -> WorkerKey:
        """The key of the workers that may serve this run."""
        return WorkerKey(
            self.environment,
            None if self.share_workers else self.external_user_id,
            self.python,
            self.is_sandboxed,
            self.public_only,
            self.workflow if self.share_workers else None,
        )

    def for_nobody(self) -> RunSetup:
        """
        Return a setup for code of components that reads the same files, and has nothing of a run or a user.

        It has no environment, so its key is that of slots that no run has used.
        """
        return RunSetup(
            "description",
            "description",
            {"event": {}, "context": {}},
            {},
            self.import_folder,
            is_sandboxed=self.is_sandboxed,
            public_only=self.public_only,
            extra_code_folders=self.extra_code_folders,
            environment="",
        )

    def build_worker_settings(self) -> dict[str, Any]:
        """Build the settings that the workers of the run receive."""
        return {
            "workflow": f"{self.workflow}@{self.workflow_version}",
            "variables": dict(self.variables),
            "folder": str(self.import_folder),
            "files": str(self.file_store_folder) if self.file_store_folder else None,
            "packages": {
                name: {"folder": str(tree.folder), "aliases": dict(tree.aliases)}
                for name, tree in self.node_packages.items()
            },
        }


class StepCall(msgspec.Struct, frozen=True):
    """
    One step to run.

    Attributes:
        step: The step.
        steps: The complete exports of the steps above. Each worker receives a value once, as long as the object is the same.
        props: Prop name to value; expressions are evaluated.
        credentials: App prop name to the fields of `$auth`.
        context: Additional fields of `$.context` and `pd.context`, besides `steps.trigger.context`.
        timeout_s: The time limit in seconds.
        memory_limit_mb: The memory limit in megabytes, or None.
        call_context: The rules for the step's outbound calls; None without a gateway.
        store_names: Data store prop to the store's name.
        services: The services of the step; None refuses every service call.
        flow_urls: `resume_url` and `cancel_url` of this step in this run.
        component: A component that runs in place of the step's source, or None.
        service_db: The content of a `$.service.db` prop.
        before_start: Awaited when the worker is ready, before the step's code starts. An exception from it cancels the step.
        on_begun: Called some milliseconds after the worker has read the request, or at the end of the step; None costs nothing.
    """

    step: Step
    steps: Mapping[str, Mapping[str, JSON]] = {}
    props: Mapping[str, JSON] = {}
    credentials: Mapping[str, Mapping[str, str]] = {}
    context: Mapping[str, JSON] = {}
    timeout_s: float = 30.0
    memory_limit_mb: int | None = None
    call_context: Any = None
    store_names: Mapping[str, str] = {}
    services: StepServices | None = None
    flow_urls: Mapping[str, str] = {}
    component: ComponentFile | None = None
    service_db: Mapping[str, JSON] = {}
    before_start: Callable[[], Awaitable[None]] | None = None
    on_begun: Callable[[], None] | None = None


class StepOutcome(msgspec.Struct, frozen=True):
    """
    The result of a step, unredacted.

    Attributes:
        exports: Name to value, in order, including exports before a failure. `$return_value` is absent if the step returned
            nothing.
        has_exited: The step ended the run (`$.flow.exit`).
        exit_reason: The reason that the step gave for the exit.
        response: The first response, or None. A body of bytes that are not text is `{"$base64": TEXT}`.
        warnings: Sentences for people.
        queued_sends: Messages that are sent when the run is over, in order.
        pause_request: The pause that the step requested, or None.
        duration_s: The duration in seconds, without the start of the process.
        peak_memory_mb: The highest measured memory of its processes in megabytes; 0 if it was not measured.
        service_db: The new content of the `$.service.db` prop, or None if the step did not write to it.
        error: The error of the step, or None.
    """

    exports: dict[str, JSON] = {}
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
        id: The component's id (`PD_COMPONENT`).
        operation: `run`, or the name of a hook.
        event: For `run`: the event from its interface, such as `{"timestamp": ...}` from a timer.
        props: Prop name to value.
        credentials: App prop name to the fields of `$auth`.
        service_db: The content of its `$.service.db`.
        endpoint: The URL of its HTTP interface, or None.
        timeout_s: The time limit in seconds.
        call_context: The rules for its outbound calls; None without a gateway.
    """

    component: ComponentFile
    id: str
    operation: Literal["run", "deploy", "activate", "deactivate"] = "run"
    event: JSON = None
    props: Mapping[str, JSON] = field(default_factory=dict)
    credentials: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    service_db: Mapping[str, JSON] = field(default_factory=dict)
    endpoint: str | None = None
    timeout_s: float = 60.0
    call_context: Any = None


@dataclass(frozen=True)
class SourceOutcome:
    """
    The result of a run of a source, unredacted.

    Attributes:
        emitted_events: The emitted events in order, including those before a failure.
        is_implemented: Whether the source implements the operation.
        service_db: The new content of its `$.service.db`.
        response: The response from its HTTP interface, or None.
        warnings: Sentences for people.
        error: The error of the source, or None.
    """

    emitted_events: tuple[Emitted, ...] = ()
    is_implemented: bool = True
    service_db: Mapping[str, JSON] = field(default_factory=dict)
    response: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    error: StepError | None = None


def build_step_input(call: StepCall, setup: RunSetup) -> dict[str, Any]:
    """Build the input of a step's code, besides the exports of the steps above."""
    return {
        "props": dict(call.props),
        "auth": {prop: dict(fields) for prop, fields in call.credentials.items()},
        "stores": dict(call.store_names),
        "context": {**cast("Mapping[str, JSON]", setup.trigger.get("context") or {}), **call.context},
        "flow": dict(call.flow_urls),
        "configured": [*call.step.props, *call.props],
        "db": dict(call.service_db),
    }
