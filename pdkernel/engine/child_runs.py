"""
Implements `$.flow.trigger`: a step runs another workflow and waits for its result.

The run's request resolves names of workflows. A child run has the external user and the environment of its parent, whatever the
headers of its event are: a workflow that passes an event on does not let its caller choose the user.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock
from pdkernel.common.identity import check_external_user_id
from pdkernel.common.redaction import Secret, find_contained_secrets
from pdkernel.engine.emitted_events import handles_errors
from pdkernel.engine.queue_turns import queue_limits
from pdkernel.engine.record_writes import retry_unreachable
from pdkernel.engine.run_request import NO_OPTIONS, RunRequest
from pdkernel.errors import RequestError, StepError
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, Execution
from pdkernel.files.source import WorkflowSource, is_workflow_called
from pdkernel.model import JSON

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


class ChildRuns:
    """
    The runs that one run of a step triggers. A repeated step finds those that its interrupted attempts have started.

    A call finds an earlier run by workflow, payload and external user, not by its position, because a repeated step may trigger
    in another order, or first look up what it did before. The earlier requests are stored in full, so they are compared
    themselves: a stored fingerprint would not fit any more after `pdkernel keys rotate`.

    Args:
        run_id: The run of the step.
        path: The path of the step.
        number: The number of the step's run: a step that runs again after a pause or an error triggers new runs.
        load_earlier: Loads the requests of all runs of the journal whose ids begin with a prefix, for a step of which an
            attempt was interrupted; None for another step.
    """

    def __init__(
        self,
        run_id: str,
        path: str,
        number: int,
        load_earlier: Callable[[str, str], Awaitable[Sequence[RunRequest]]] | None,
    ) -> None:
        self.run_id = run_id
        self._prefix = f"{run_id}:{path}:1.{number}:"
        self._load_earlier = load_earlier
        self._loading = asyncio.Lock()
        self._unclaimed: list[RunRequest] = []
        self._count = 0

    async def claim(self, request: RunRequest) -> RunRequest | None:
        """
        Return the request of the first earlier run that equals *request* and that no call has claimed; None if there is none.

        Raises:
            StepError: The rest of the earlier runs has another one of the workflow: its result belongs to another call.
        """
        async with self._loading:
            if self._load_earlier is not None:
                earlier = await self._load_earlier(self.run_id, self._prefix)
                self._load_earlier = None
                self._unclaimed = sorted(earlier, key=self._number)
                self._count = max(map(self._number, earlier), default=0)
        similar = [each for each in self._unclaimed if each.queue == request.queue]
        if not similar:
            return None
        equal = next((each for each in similar if _is_equal(each, request)), None)
        if equal is None:
            differs = "payload" if similar[0].external_user_id == request.external_user_id else "external user"
            raise StepError(
                f"The workflow {request.workflow.name!r} was not started: the interrupted attempt at this step started it with "
                f"a different {differs}, as run {_id(similar[0])}, so the result of that run belongs to another call.",
                name="RepeatedCallDiffers",
                fix="Let a step above make what differs between attempts (a time, a random value), because the results of a finished "
                f"step stay the same. `pdkernel runs show {_id(similar[0])}` shows what the earlier run did.",
            )
        self._unclaimed.remove(equal)
        return equal

    def new_id(self) -> str:
        """Return an id that no run has: `<run>:<path>:<iteration>.<number>:<n>`."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    def _number(self, request: RunRequest) -> int:
        return int(_id(request).removeprefix(self._prefix))


def _id(request: RunRequest) -> str:
    assert request.run_ids is not None, "a child run has an id"
    return request.run_ids[0]


def _is_equal(one: RunRequest, other: RunRequest) -> bool:
    return (one.external_user_id, one.event.digest()) == (other.external_user_id, other.event.digest())


class ChildRunService:
    """
    Runs other workflows for the steps of a run.

    Args:
        request: The request of the run whose step triggers.
        run: Runs the other workflow. Its arguments are the request, `exists` (whether an interrupted attempt at the step has started
            the run) and `hands_over`.
        children: The runs that the step triggers.
        hands_over: As in `RunWatcher`, for the run of the step.
        secrets: Returns the secrets of the run of the step so far; the other run does not show those that the payload contains.
        on_secrets: Called with the secrets of the other run that its result contains, before the step gets the result.
        clock: For the time between two tries to read the database.
    """

    def __init__(
        self,
        request: RunRequest,
        run: Callable[..., Awaitable[ExecutedRun]],
        *,
        children: ChildRuns,
        hands_over: Callable[[], bool],
        secrets: Callable[[], Sequence[Secret]],
        on_secrets: Callable[[Sequence[Secret]], None],
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._children = children
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

        def find() -> Awaitable[RunRequest]:
            return run_blocking(self._callee, name, payload or {}, named)

        made = await (retry_unreachable(find, self._clock) if self._request.waits_for_database else find())
        earlier = await self._children.claim(made)
        child = self._children.new_id() if earlier is None else _id(earlier)
        ended = await self._run(
            made.with_changes(run_ids=(child, child)), exists=earlier is not None, hands_over=self._hands_over
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
            options=NO_OPTIONS,
            is_only_recorded=False,
            account_overrides={},
            workflow_id=found.served_id,
            emitter_id=None,
            dedupe_key=None,
            batch=None,
            run_ids=None,
            parent=self._children.run_id,
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
        """Return whether *name* is the id or the name of the workflow of this run."""
        request = self._request
        path = request.source_path
        return name == request.workflow_id or (path is not None and is_workflow_called(path, name))


def _result(exports: Mapping[str, Mapping[str, JSON]], options: JSON) -> JSON:
    if isinstance(options, dict) and options.get("result_type") == "all_exports":
        return {**{step: dict(values) for step, values in exports.items()}, "$context": None}
    returned = [values[RETURN_VALUE] for values in exports.values() if RETURN_VALUE in values]
    return returned[-1] if returned else None
