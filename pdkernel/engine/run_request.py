"""
What a run is asked to do, as values.

Knows the choices that a caller can make. Knows nothing of how they are carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pdkernel.egress import OutboundPolicy, SentRequestStore
from pdkernel.egress.memory_recording import MemoryRecording
from pdkernel.engine.pauses import PauseMode
from pdkernel.errors import PdkernelError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.identity import DEFAULT_ENVIRONMENT, Environment
from pdkernel.model import JSON, Step, Workflow
from pdkernel.workers import StepDebugger

OnChange = Callable[[Execution], None]


class TriggerableWorkflow(Protocol):
    """Another workflow that a step may trigger."""

    @property
    def workflow(self) -> Workflow:
        """What it is."""
        ...

    @property
    def folder(self) -> Path:
        """Where its steps' imports are looked up."""
        ...


WorkflowFinder = Callable[[str], TriggerableWorkflow | None]
"""The workflow of an id, a name or a path, or None."""


@dataclass(frozen=True)
class RunRequest:
    """
    One run.

    Attributes:
        workflow: What to run.
        event: What on.
        policy: What becomes of outside calls.
        external_user_id: On whose behalf, or None.
        environment: Of the external user.
        variables: Environment variables by name; a step is given those that it names.
        folder: Where Node.js resolves bare imports: the notebook's or the workflow's own folder.
        pinned_exports: Steps whose exports are fixed, and those exports.
        only_steps: Steps to run, or None for all. The others keep *previous_exports*.
        previous_exports: What the steps that do not run have exported before; may hold secret placeholders.
        test: Whether `context.test` is true: a run from a notebook or a terminal.
        idempotency: Remembers unsafe outside calls so that they are made once, or None to make them always.
        resend: Make unsafe outside calls again even where an answer is remembered.
        recording: Takes outside calls down in memory, so that the run can be saved as a test; or None.
        install: Install packages that steps import and that are not there; False refuses the run instead.
        source: What commands call the workflow: the path of its notebook or folder.
        actions_source: Where pre-built actions run, as the workflow's `pdkernel.yaml` says it; None is the project's choice.
        on_progress: Told in short lines what is installed, from the engine's thread.
        debugger: Runs the steps with `--debug`; None runs them like any other.
        on_change: Told the execution as it grows, from the engine's thread.
        on_paused: Told each time that the run pauses, from the engine's thread.
        pause_mode: What becomes of `$.flow.delay`, `suspend` and `rerun`.
        base_url: Where the endpoint answers, for resume and cancel URLs, or None where nothing is served.
        find_workflow: Other workflows that steps may trigger, or None for none.
        depth: Workflows above this one that triggered each other.
        account_overrides: Accounts of the external user by app, in the place of the newest of each.
        workflow_id: `p_...` as callers know it, or None for one made from the name, where nothing is served.
        run_ids: The run's id and trace id, where a caller is told them first; None for new ones.
        on_recorded: Told once that the run is on disk, from the engine's thread.
        on_respond: Told the run's first HTTP response as the step made it, secrets and all, from the engine's thread:
            `{"status", "headers", "body", "immediate"}`, bytes as `{"$base64": ...}`.
        keep_in_journal: Whether the run is kept in the journal.
        refusal: Why nothing of it runs, found out where the request came in; the record says so.
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
    on_respond: Callable[[Mapping[str, Any]], None] | None = None
    keep_in_journal: bool = True
    refusal: PdkernelError | None = None

    @cached_property
    def idempotency_scope(self) -> str:
        """What one unsafe outside call is counted within: this event, external user and environment."""
        return f"{self.event.digest()}/{self.environment}/{self.external_user_id or ''}"

    def is_selected(self, name: str) -> bool:
        """Whether step *name* is to run, going by the choice of steps alone."""
        return self.only_steps is None or name in self.only_steps

    def should_execute(self, step: Step) -> bool:
        """Whether code of *step* is to run: it is chosen, switched on and not pinned."""
        return self.is_selected(step.name) and not step.disabled and step.name not in self.pinned_exports
