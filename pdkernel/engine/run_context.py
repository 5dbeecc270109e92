"""Builds `steps.trigger.context`, the event's metadata: nineteen keys in the platform's order (observed on 3.56-3.59)."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from pdkernel.common.clock import Clock, IdGenerator, format_iso
from pdkernel.common.version import VERSION
from pdkernel.engine.pauses import RerunState
from pdkernel.engine.run_request import RunRequest
from pdkernel.model import JSON, Trigger, Workflow

_EMITTER_ID_PREFIXES = {"schedule": "ti_", "email": "ei_", "source": "dc_", "errors": "sub_", "emit": "sub_"}
"""Prefixes of trigger ids; the prefix for HTTP is `hi_`."""


def build_trigger_context(
    request: RunRequest, *, project_id: str, trace_id: str, run_id: str, clock: Clock
) -> dict[str, JSON]:
    """
    Build the context of a new run.

    The ids of the trigger, and of a workflow that is not served, are derived from the workflow's name, so that a
    snapshot test has the same ids on every machine. The ids give no access.
    """
    workflow = request.workflow
    user = request.external_user_id
    return {
        "id": run_id,
        "ts": format_iso(clock.now()),
        "pipeline_id": None,
        "workflow_id": request.workflow_id or derive_id("p_", workflow.name),
        "deployment_id": derive_id("d_", workflow.version),
        "source_type": "TRACE" if request.test else "COMPONENT",
        "verified": False,
        "hops": None,
        "test": request.test,
        "replay": request.replay_of is not None,
        "owner_id": derive_id("o_", project_id),
        # parity[platform-version]: the platform writes its own release; pdkernel's version must not look like one
        "platform_version": f"pdkernel-{VERSION}",
        "workflow_name": workflow.name,
        "resume": None,
        "emitter_id": request.emitter_id or derive_emitter_id(workflow),
        "external_user_id": user,
        "external_user_environment": request.environment if user is not None else None,
        "trace_id": trace_id,
        "project_id": project_id,
    }


def build_step_context(
    request: RunRequest, clock: Clock, *, timeout_s: float, rerun_state: RerunState, attempt: int
) -> dict[str, JSON]:
    """
    Build the keys of `$.context` that `steps.trigger.context` does not have (platform documentation of `$.context`).

    Args:
        request: The run.
        clock: The clock for the start of the step.
        timeout_s: The step's time limit in seconds.
        rerun_state: The state of a step that reruns itself.
        attempt: 2 or more if a crash has interrupted the step; its earlier attempt may have had effects.
    """
    return {
        "deadline": int((clock.now().timestamp() + timeout_s) * 1000),
        "JIT": request.test,
        "run": {
            "runs": rerun_state.runs,
            "context": rerun_state.context,
            "callback_request": rerun_state.callback,
        },
        # parity[attempt]: on the platform a step cannot read whether an attempt was interrupted
        **({"attempt": attempt} if attempt > 1 else {}),
    }


def trigger_keys(workflow: Workflow) -> Mapping[str, Trigger]:
    """Return the triggers by key: the trigger's `id`, or its type with its number among those without id (`schedule-2`)."""
    found: dict[str, Trigger] = {}
    counts: Counter[str] = Counter()
    for trigger in workflow.triggers:
        key = trigger.config.get("id")
        if not isinstance(key, str):
            counts[trigger.type] += 1
            count = counts[trigger.type]
            key = trigger.type if count == 1 else f"{trigger.type}-{count}"
        found[key] = trigger
    return found


def fired_by(workflow: Workflow, trigger: Trigger) -> Workflow:
    """Return *workflow* with *trigger*, which fired, as its first trigger."""
    if workflow.trigger is trigger:
        return workflow
    return replace(workflow, triggers=(trigger, *(each for each in workflow.triggers if each is not trigger)))


def derive_emitter_id(workflow: Workflow, trigger_key: str | None = None) -> str:
    """Return the id of the trigger with that key, or of the first trigger: its own `id`, or one derived from the workflow's name."""
    triggers = trigger_keys(workflow)
    key = trigger_key or next(iter(triggers), workflow.trigger.type)
    trigger = triggers.get(key, workflow.trigger)
    own = trigger.config.get("id")
    if isinstance(own, str):
        return own
    is_first = key == trigger.type
    prefix = _EMITTER_ID_PREFIXES.get(trigger.type, "hi_")
    return derive_id(prefix, workflow.name if is_first else f"{workflow.name}/{key}")


@functools.lru_cache(maxsize=1024)
def derive_id(prefix: str, text: str) -> str:
    """Derive an id in the platform's form (prefix and seven letters or digits) from *text*; equal texts give equal ids."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = int.from_bytes(hashlib.sha256(f"{prefix}{text}".encode()).digest()[:8])
    letters = []
    for _ in range(7):
        number, index = divmod(number, len(alphabet))
        letters.append(alphabet[index])
    return prefix + "".join(letters)


def new_run_ids(ids: IdGenerator) -> tuple[str, str]:
    """Return a new run id and a new trace id, which retries and resumes of the run share."""
    return ids.new_in_order(), ids.new_in_order()
