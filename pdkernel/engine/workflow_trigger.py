"""
Implements `$.flow.trigger`: a step runs another workflow and waits for its result.

The run's request resolves names of workflows. A child run has the external user and the environment of its parent, whatever the
headers of its event are: a workflow that passes an event on does not let its caller choose the user.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pdkernel.engine.emitted_events import handles_errors
from pdkernel.engine.limits import queue_limits
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import RequestError, StepError
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, Execution
from pdkernel.identity import check_external_user_id
from pdkernel.model import JSON
from pdkernel.redaction import Secret, find_contained_secrets
from pdkernel.source import WorkflowSource, is_workflow_called

MAX_TRIGGER_DEPTH = 10
"""Maximum length of a chain of triggered workflows; a longer chain is treated as a cycle."""
_SHOWN = 100
"""Maximum number of characters of an unknown name in an error message."""


@dataclass(frozen=True)
class ExecutedRun:
    """
    A run that has ended or paused.

    Attributes:
        execution: The record.
        exports: The exports by step, without redaction.
        secrets: The secrets of the run, which *exports* may contain.
    """

    execution: Execution
    exports: Mapping[str, Mapping[str, JSON]] = field(repr=False)
    secrets: Sequence[Secret] = ()


class WorkflowRunner(Protocol):
    """Runs a workflow that a step triggers."""

    async def __call__(self, request: RunRequest, *, may_exist: bool, hands_over: Callable[[], bool]) -> ExecutedRun:
        """
        Run *request*.

        Args:
            request: The request.
            may_exist: Whether an earlier attempt at the step may have started the run.
            hands_over: As in `RunWatcher`.
        """
        ...


@dataclass
class ChildIds:
    """
    The ids of the runs that one attempt at a step triggers: a repeated step finds the runs of its earlier attempt.

    Attributes:
        run_id: The run of the step.
        path: The path of the step.
        number: The number of the step's run: a step that runs again after a pause or an error triggers new runs.
        is_repeat: Whether an interrupted attempt at the same run of the step may have triggered runs.
        count: The number of ids so far.
    """

    run_id: str
    path: str
    number: int
    is_repeat: bool
    count: int = 0

    def new(self) -> str:
        """Return the next id: `<run>:<path>:<iteration>.<number>:<n>`."""
        self.count += 1
        return f"{self.run_id}:{self.path}:1.{self.number}:{self.count}"


class WorkflowTriggerService:
    """
    Runs other workflows for the steps of a run.

    Args:
        request: The request of the run whose step triggers.
        run: Runs the other workflow.
        child_ids: The ids of the runs.
        hands_over: As in `RunWatcher`, for the run of the step.
        secrets: Returns the secrets of the run of the step so far; the other run does not show those that the payload contains.
        on_secrets: Called with the secrets of the other run that its result contains, before the step gets the result.
    """

    def __init__(
        self,
        request: RunRequest,
        run: WorkflowRunner,
        *,
        child_ids: ChildIds,
        hands_over: Callable[[], bool],
        secrets: Callable[[], Sequence[Secret]],
        on_secrets: Callable[[Sequence[Secret]], None],
    ) -> None:
        self._child_ids = child_ids
        self._hands_over = hands_over
        self._secrets = secrets
        self._on_secrets = on_secrets
        self._request = request
        self._run = run

    async def answer(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """
        Run the workflow and return its result: the last return value, or all exports.

        Raises:
            RequestError: There is no such workflow, its `.env` cannot be read, the payload is not an object, or the step names
                an external user and may not.
            StepError: The workflow failed.
        """
        name = args.get("workflow")
        if operation != "trigger" or not isinstance(name, str) or not name:
            raise RequestError(
                "The first argument of $.flow.trigger is the id of a workflow.",
                fix="await $.flow.trigger('p_...', { ... })",
            )
        payload = args.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise RequestError(
                "The payload of $.flow.trigger must be an object: the payload is the event of the other workflow."
            )
        options = args.get("options")
        named = options.get("externalUserId") if isinstance(options, dict) else None
        if named is not None and not isinstance(named, str):
            raise RequestError(
                "The option externalUserId of $.flow.trigger must be the id of an external user, a text.",
                fix="await $.flow.trigger('p_...', { ... }, { externalUserId: 'ada' })",
            )
        ended = await self._run(
            self._callee(name, payload or {}, named), may_exist=self._child_ids.is_repeat, hands_over=self._hands_over
        )
        execution = ended.execution
        if execution.status not in ("success", "exited"):
            reason = execution.error.message if execution.error else f"its status is {execution.status}."
            raise StepError(
                f"The workflow {execution.workflow!r} did not finish: {reason}", name="TriggeredWorkflowError"
            )
        result = _result(ended.exports, options)
        if returned_secrets := find_contained_secrets(ended.secrets, result):
            self._on_secrets(returned_secrets)
        return result

    def _callee(self, name: str, payload: dict[str, JSON], named_user: str | None) -> RunRequest:
        request = self._request
        if request.depth >= MAX_TRIGGER_DEPTH:
            raise RequestError(
                f"The workflow {name} was not started: a chain of triggered workflows has at most {MAX_TRIGGER_DEPTH} workflows."
            )
        found = request.find_workflow(name, request.source_path)
        if found is None:
            raise RequestError(
                f"There is no workflow {name[:_SHOWN]!r} that this workflow can start.",
                fix="Name the workflow by its id (p_...), or by the name of its folder or notebook, not by a path. A server starts "
                "workflows that it serves; another run starts those in the folder of its own workflow and the folders below.",
            )
        # parity[trigger-user]: the external user of a triggered workflow is not documented; it is that of the run that triggers it
        user = request.external_user_id if named_user is None else self._check_named_user(named_user, found)
        child = self._child_ids.new()
        event = Event(payload).with_inherited_identity(user, request.environment)
        folder = found.folder.resolve()
        made = replace(
            request,
            workflow=found.workflow,
            folder=folder,
            variables=request.load_variables(folder) if request.load_variables else request.variables,
            source=shlex.quote(str(found.path)),
            source_path=found.path.resolve(),
            action_sources=found.sidecar.actions if found.sidecar else (),
            event=event,
            secrets=(*request.secrets, *find_contained_secrets(self._secrets(), payload)),
            external_user_id=user,
            pinned_exports={},
            only_steps=None,
            previous_exports={},
            account_overrides={},
            workflow_id=found.served_id,
            emitter_id=None,
            dedupe_key=None,
            run_ids=(child, child),
            parent=self._child_ids.run_id,
            replay_of=None,
            done_steps=frozenset(),
            package_lock=None,
            depth=request.depth + 1,
            below_error_handler=handles_errors(request),
        )
        own_limits = queue_limits(request.workflow, request.queue)
        if own_limits is not None and own_limits.concurrency is not None:
            made = replace(made, held_queues=(*request.held_queues, request.queue))
        if made.queue in made.held_queues:
            raise RequestError(
                f"The workflow {found.workflow.name!r} was not started: its setting `concurrency` limits how many of its runs "
                "execute, and one of them waits for this step, so the new run could wait for ever.",
                fix="Remove `concurrency` from its settings, or let the step send an event that starts it without waiting for the "
                "result: $.send.emit with an `emit` trigger, or $.send.http to its endpoint.",
            )
        return made

    def _check_named_user(self, named: str, found: WorkflowSource) -> str:
        """
        Return the external user that the step names for a run of *found*.

        Raises:
            RequestError: The run is for another external user, and the `pdkernel.yaml` of *found* does not name its workflow.
        """
        request = self._request
        callers = found.sidecar.naming_callers if found.sidecar is not None else ()
        if request.external_user_id not in (None, named) and not any(map(self._is_own_name, callers)):
            raise RequestError(
                f"The workflow {found.workflow.name!r} was not started: this run is for an external user, so its steps cannot "
                "name another one for it.",
                fix="Leave out externalUserId, so that the other run has the user of this run. To permit it, write "
                "`child_runs: {may_name_external_user: [...]}` with the id or the name of this workflow in the pdkernel.yaml of "
                "the other workflow.",
            )
        return check_external_user_id(named)

    def _is_own_name(self, name: str) -> bool:
        """Whether *name* is the id or the name of the workflow of this run."""
        request = self._request
        path = request.source_path
        return name == request.workflow_id or (path is not None and is_workflow_called(path, name))


def _result(exports: Mapping[str, Mapping[str, JSON]], options: JSON) -> JSON:
    if isinstance(options, dict) and options.get("result_type") == "all_exports":
        return {**{step: dict(values) for step, values in exports.items()}, "$context": None}
    returned = [values[RETURN_VALUE] for values in exports.values() if RETURN_VALUE in values]
    return returned[-1] if returned else None
