"""
Runs of recorded events: a replay of a whole run, and a fork from one of its steps.

A replay is prepared first, which refuses what cannot run. Then it is started: in this process, or by the project's server.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import check_external_user_id
from pdkernel.common.redaction import Secret, find_redacted_values, get_redactor
from pdkernel.egress import OutboundPolicy, choose_policy, parse_policy
from pdkernel.egress.outbound_policy import MODE_VARIABLE
from pdkernel.engine.blocks import collect_exports
from pdkernel.engine.queue_turns import QueueFullError, queue_limits
from pdkernel.engine.restored_run import RestoredRun
from pdkernel.engine.run_context import derive_emitter_id, fired_by, trigger_keys
from pdkernel.engine.run_request import UNWATCHED, RunRequest, RunWatcher, TestOptions
from pdkernel.errors import InternalError, PdkernelError, RequestError
from pdkernel.execution import BlockChoice, Execution
from pdkernel.files.source import WorkflowSource, load_source
from pdkernel.journal import ClaimedRun
from pdkernel.model import JSON, Step, Workflow, require_object, split_inside
from pdkernel.operations.runs import pin_steps

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine

DefinitionChoice = Literal["current", "recorded", "given"]
"""`current` is the workflow of the run's source as it is now, `recorded` is the run's own, `given` is another source."""


@dataclass(frozen=True, slots=True)
class Replay:
    """
    A new run on the event of a recorded run, before it starts.

    Attributes:
        original: The record of the run that is run again.
        request: The request for the new run.
        definition: Where the workflow comes from.
        is_queued: Whether the project's server runs it. Otherwise this process does.
        is_fork: Whether the new run begins at a step of the original.
    """

    original: Execution
    request: RunRequest
    definition: DefinitionChoice
    is_queued: bool = False
    is_fork: bool = False


def choose_replay_policy(egress: str | None, environ: Mapping[str, str], *, sends: bool) -> OutboundPolicy | None:
    """
    Choose the outbound policy of a replay or a fork: *egress*, else `PDKERNEL_EGRESS`; None for that of *sends*.

    Raises:
        RequestError: *egress* is not an outbound policy, or excludes *sends*.
    """
    if egress is not None and sends:
        raise RequestError(
            "--send and --egress exclude each other: --send sends calls under the outbound policy of the recorded run.",
            fix="Leave out one of them.",
        )
    if sends or (egress is None and not environ.get(MODE_VARIABLE, "").strip()):
        return None
    return choose_policy(egress, environ)


async def prepare_replay(
    engine: WorkflowEngine,
    run_id: str,
    *,
    source: WorkflowSource | None = None,
    external_user_id: str | None = None,
    sends: bool = False,
    policy: OutboundPolicy | None = None,
) -> Replay:
    """
    Prepare a new run on the event of a run, as the external user of that run.

    The workflow is the current one of the run's source; if the source does not exist any more, the recorded one.

    Args:
        engine: The engine of this process.
        run_id: The id of the run.
        source: The workflow of an open notebook, which is used instead of the notebook's file if the run is from it.
        external_user_id: Another external user; None is that of the run.
        sends: Whether outbound calls are sent as by the recorded run, also those that were sent before. Otherwise they are refused.
        policy: Another outbound policy, see `choose_replay_policy`; None leaves it to *sends*.

    Raises:
        RequestError: There is no such run, or its request is not stored.
        DefinitionError: The source has no valid workflow any more.
        ProjectError: The request is damaged, or was encrypted with another key.
    """
    execution, claimed, request = await _load(engine, run_id)
    current = await run_blocking(_find_source, request, source)
    if current is not None:
        request = await run_blocking(_with_source, request, current)
    request = replace(
        request, is_only_recorded=False
    )  # all steps, also on an event that was only recorded (`x-pd-notrigger`)
    secrets = _find_event_secrets(execution, request)
    request = await _renew(
        engine, execution, request, secrets, external_user_id=external_user_id, sends=sends, policy=policy
    )
    choice: DefinitionChoice = "recorded" if current is None else "current"
    return await _place(engine, claimed, Replay(execution, request, choice))


async def prepare_fork(
    engine: WorkflowEngine,
    run_id: str,
    first: str,
    *,
    source: WorkflowSource | None = None,
    pins: Mapping[str, JSON] | None = None,
    external_user_id: str | None = None,
    sends: bool = False,
    policy: OutboundPolicy | None = None,
) -> Replay:
    """
    Prepare a new run that begins at the step or block *first* of a run; the steps above keep their recorded exports.

    Blocks around *first* keep their decisions, and blocks above it do not run again.

    Args:
        engine: The engine of this process.
        run_id: The id of the run.
        first: The name of the first step that runs, or of a block.
        source: An edited workflow, which runs in this process; None for the recorded definition.
        pins: Exports by step, as for `pin_steps`, instead of recorded ones; such steps do not run.
        external_user_id: As for `prepare_replay`.
        sends: As for `prepare_replay`.
        policy: As for `prepare_replay`.

    Raises:
        UnknownStepError: The workflow has no such step.
        RequestError, ProjectError: As for `prepare_replay`; or the run has no exports of a step above *first*, or a block around
            *first* has run another branch.
    """
    execution, claimed, request = await _load(engine, run_id)
    if source is not None:
        request = await run_blocking(_with_source, request, source)
    workflow, state = request.workflow, engine.restore_state(claimed)
    pinned = pin_steps(workflow, pins or {})
    recorded = _collect_recorded(workflow, state)
    branches = _find_choices(run_id, workflow, first, state)
    above = _find_kept(workflow, first, branches)
    if lacking := next((name for name in above if name not in recorded and name not in pinned), None):
        raise RequestError(
            f"The run {run_id} has no exports of the step {lacking}, which is above {first}.",
            fix=f"Fork from {lacking}, or give its exports: --pin {lacking}=FILE",
        )
    kept = {name: exports for name, exports in request.options.pinned_exports.items() if name != first}
    kept |= {name: recorded[name] for name in above if name in recorded}
    request = replace(
        request,
        options=TestOptions(pinned_exports={**kept, **pinned}, resend=request.options.resend, branches=branches),
        is_only_recorded=False,
        package_lock=None if source is not None else claimed.package_lock,
    )
    secrets = (*_find_event_secrets(execution, request), *state.secrets)
    request = await _renew(
        engine, execution, request, secrets, external_user_id=external_user_id, sends=sends, policy=policy
    )
    fork = Replay(execution, request, "recorded" if source is None else "given", is_fork=True)
    return fork if source is not None else await _place(engine, claimed, fork)


def _collect_recorded(workflow: Workflow, state: RestoredRun) -> Mapping[str, Mapping[str, JSON]]:
    """Return the exports of the recorded steps, and of the blocks, by name, as pins."""
    found = {name: step.exports for name, step in state.steps.items() if step.result.status in ("success", "pinned")}
    for block in reversed(workflow.blocks):  # inner blocks first
        choice = state.steps[block.name].result.choice if block.name in found else None
        if isinstance(choice, BlockChoice) and {branch.name for branch in block.branches}.issuperset(choice.taken):
            found[block.name] = collect_exports(workflow, block, choice, found)
    # the new run restores pins, and these exports have no placeholders: their text that looks like one is escaped
    return {name: require_object(get_redactor().redact_value(dict(exports))) for name, exports in found.items()}


def _find_choices(run_id: str, workflow: Workflow, first: str, state: RestoredRun) -> Mapping[str, BlockChoice]:
    """Return the decisions of the blocks around *first*. Raises `RequestError` if the run has not run its branch."""
    found: dict[str, BlockChoice] = {}
    for block, branch in workflow.branches_around(workflow.entry(first).name):
        known = state.steps.get(block.name)
        choice = None if known is None or not isinstance(known.result.choice, BlockChoice) else known.result.choice
        if choice is None or branch not in choice.taken:
            ran = f"has run {', '.join(choice.taken)}" if choice is not None and choice.taken else "has run no branch"
            raise RequestError(
                f"The run {run_id} cannot be forked from {first}: it is in the branch {branch} of {block.name}, which {ran}.",
                fix=f"Fork from {block.name}, which decides again, or from a step that has run.",
            )
        found[block.name] = choice
    return found


def _find_kept(workflow: Workflow, first: str, branches: Mapping[str, BlockChoice]) -> Sequence[str]:
    """Return the steps and blocks above *first* whose exports a fork keeps; *branches* are the decisions of the blocks around it."""
    kept: list[str] = []
    for entry in workflow.all_entries:
        if entry.name == first:
            break
        block, branch = split_inside(entry.inside or "")
        is_reached = not block or (block in branches and branch in branches[block].taken)
        if is_reached and entry.name not in branches and not (isinstance(entry, Step) and entry.disabled):
            kept.append(entry.name)
    return kept


async def prepare_replays(
    engine: WorkflowEngine,
    run_ids: Sequence[str],
    *,
    source: WorkflowSource | None = None,
    sends: bool = False,
    policy: OutboundPolicy | None = None,
) -> tuple[Sequence[Replay], Sequence[tuple[str, PdkernelError]]]:
    """Prepare a replay of each run. Returns the replays, and each run that cannot run again with the reason."""
    replays, refused = [], []
    for run_id in run_ids:
        try:
            replays.append(await prepare_replay(engine, run_id, source=source, sends=sends, policy=policy))
        except PdkernelError as fault:
            refused.append((run_id, fault))
    return replays, refused


def describe_replay(replay: Replay) -> str:
    """Return the replay in one line: the run, the definition and the process."""
    definition = {
        "current": f"the current workflow of {replay.request.source}",
        "recorded": "the recorded definition",
        "given": f"the workflow of {replay.request.source}",
    }[replay.definition]
    gone = " (its source does not exist any more)" if replay.definition == "recorded" and not replay.is_fork else ""
    place = "in its server" if replay.is_queued else "here"
    return f"Run {replay.original.id} again with {definition}{gone}, {place}."


async def start_replay(engine: WorkflowEngine, replay: Replay, watcher: RunWatcher = UNWATCHED) -> Execution:
    """
    Start the run of *replay*, and return its record: at the end of the run, or at once if the project's server runs it.

    Raises:
        QueueFullError: Too many runs wait for the limits of the workflow.
        ProjectError: The run cannot be recorded.
    """
    request = replay.request
    if not replay.is_queued:
        return await engine.run(request, watcher)
    limits = queue_limits(request.workflow, request.queue)
    if not await engine.enqueue(request, limits, watcher, origin="serve") and limits is not None:
        raise QueueFullError(limits)
    assert request.run_ids is not None, "a replay has its ids"
    queued = await engine.journal.get_execution(request.run_ids[0])
    if queued is None:
        raise InternalError(f"The record of the run {request.run_ids[0]} is gone.")
    return queued


async def _load(engine: WorkflowEngine, run_id: str) -> tuple[Execution, ClaimedRun, RunRequest]:
    found = await engine.journal.load_run(run_id)
    if found is None:
        raise RequestError(f"There is no run {run_id!r} in this project.", fix="See: pdkernel runs list")
    execution, claimed = found
    if claimed.request is None:
        raise RequestError(
            f"The run {run_id} cannot run again: its event is not stored, because an earlier version recorded the run.",
            fix="Run the workflow on the event: pdkernel run SOURCE --event FILE",
        )
    return execution, claimed, await run_blocking(engine.restore_request, claimed)


def _find_source(request: RunRequest, opened: WorkflowSource | None) -> WorkflowSource | None:
    """Return the current workflow of the run's source; None if the source does not exist any more."""
    path = request.source_path
    if path is not None and opened is not None and opened.path.resolve() == path:
        return opened
    return None if path is None or not path.exists() else load_source(path)


def _with_source(request: RunRequest, source: WorkflowSource) -> RunRequest:
    workflow, folder = source.workflow, source.folder.resolve()
    names = {entry.name for entry in workflow.all_entries}
    emitter_id = request.emitter_id or derive_emitter_id(request.workflow)
    for key, trigger in trigger_keys(workflow).items():
        if derive_emitter_id(workflow, key) == emitter_id:
            workflow = fired_by(workflow, trigger)
            break
    pins = {name: pin for name, pin in request.options.pinned_exports.items() if name in names}
    return replace(
        request,
        workflow=workflow,
        variables=request.load_variables(folder) if request.load_variables else request.variables,
        folder=folder,
        source=shlex.quote(os.path.relpath(source.path)),
        source_path=source.path.resolve(),
        action_sources=source.sidecar.actions if source.sidecar else (),
        options=replace(request.options, pinned_exports=pins),
    )


def _find_event_secrets(execution: Execution, request: RunRequest) -> list[Secret]:
    """Return the credentials in the event that the record hides: another user's accounts, or today's, need not have them."""
    return [] if execution.trigger.sealed else find_redacted_values(dict(request.event.data), dict(execution.event))


async def _renew(
    engine: WorkflowEngine,
    original: Execution,
    request: RunRequest,
    secrets: tuple[Secret, ...] | list[Secret],
    *,
    external_user_id: str | None,
    sends: bool,
    policy: OutboundPolicy | None,
) -> RunRequest:
    """Return the request for a new run instead of the recorded one."""
    if external_user_id is not None and external_user_id != request.external_user_id:
        user = check_external_user_id(external_user_id)
        event = request.event.with_identity(user, request.environment)
        request = replace(request, external_user_id=user, event=event, account_overrides={})
    if policy is not None:
        sends = not policy.is_test
    elif sends:
        policy = await _find_sending_policy(engine, request)
    else:
        policy = parse_policy("deny", origin="replay")
    return replace(
        request,
        policy=replace(policy, public_only=request.policy.public_only),
        options=replace(request.options, resend=sends),
        run_ids=(engine.ids.new_in_order(), original.trace_id),
        replay_of=original.id,
        secrets=tuple(dict.fromkeys((*request.secrets, *secrets))),
        parent=None,
        depth=0,
        held_queues=(),
        below_error_handler=False,
        is_silent=not sends,
    )


async def _find_sending_policy(engine: WorkflowEngine, request: RunRequest) -> OutboundPolicy:
    """Return the policy of a recorded run; that of a replay which was refused its calls is the policy of the run that it repeats."""
    while request.policy.mode == "deny" and request.replay_of is not None:
        found = await engine.journal.load_run(request.replay_of)
        if found is None or found[1].request is None:  # it was removed
            break
        request = await run_blocking(engine.restore_request, found[1])
    return request.policy


async def _place(engine: WorkflowEngine, claimed: ClaimedRun, replay: Replay) -> Replay:
    """Decide which process runs *replay*: the project's server for a served run, else this process."""
    if engine.continues_runs or (claimed.origin == "serve" and await engine.journal.has_executor("serve")):
        return replace(replay, is_queued=True)
    # without a server, resume and cancel URLs of the new run would not work
    return replace(replay, request=replace(replay.request, base_url=engine.base_url))
