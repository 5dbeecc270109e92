"""
`steps.trigger.context`: the event's metadata, in the platform's keys and order.

Knows the nineteen keys (observed on platform 3.56-3.59). Knows nothing of the event's data.
"""

from __future__ import annotations

import functools
import hashlib

from pdkernel.clock import Clock, IdGenerator, format_iso
from pdkernel.engine.run_request import RunRequest
from pdkernel.model import JSON
from pdkernel.version import VERSION

_EMITTER_ID_PREFIXES = {"schedule": "ti_", "email": "ei_", "source": "dc_"}
"""How ids of triggers start; those of HTTP with `hi_`."""


def build_trigger_context(
    request: RunRequest, *, project_id: str, trace_id: str, run_id: str, clock: Clock
) -> dict[str, JSON]:
    """
    The context of a new run.

    Ids of the trigger, and of a workflow that is not served, are derived from its name: a saved test has the same ones
    elsewhere. They open nothing.
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
        "replay": False,
        "owner_id": derive_id("o_", project_id),
        # parity[platform-version]: the platform's own release; here ours, since code may log it but must not mistake us for it
        "platform_version": f"pdkernel-{VERSION}",
        "workflow_name": workflow.name,
        "resume": None,
        "emitter_id": derive_id(_EMITTER_ID_PREFIXES.get(workflow.trigger.type, "hi_"), workflow.name),
        "external_user_id": user,
        "external_user_environment": request.environment if user is not None else None,
        "trace_id": trace_id,
        "project_id": project_id,
    }


def build_step_context(
    request: RunRequest, clock: Clock, *, timeout_s: float, run_number: int = 1, rerun_context: JSON = None
) -> dict[str, JSON]:
    """
    What `$.context` holds besides `steps.trigger.context` (platform documentation of `$.context`).

    Args:
        request: The run.
        clock: Says when the step began.
        timeout_s: Seconds that the step may run.
        run_number: Which run of the step this is, counted from 1.
        rerun_context: The context that the step's last `rerun` was given.
    """
    return {
        "deadline": int((clock.now().timestamp() + timeout_s) * 1000),
        "JIT": request.test,
        "run": {"runs": run_number, "context": rerun_context, "callback_request": None},
    }


@functools.lru_cache(maxsize=1024)
def derive_id(prefix: str, text: str) -> str:
    """An id in the platform's shape (prefix and seven letters) that is the same for the same text."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = int.from_bytes(hashlib.sha256(f"{prefix}{text}".encode()).digest()[:8])
    letters = []
    for _ in range(7):
        number, index = divmod(number, len(alphabet))
        letters.append(alphabet[index])
    return prefix + "".join(letters)


def new_run_ids(ids: IdGenerator) -> tuple[str, str]:
    """A run's own id and the trace id that its retries and resumes share."""
    return ids.new("", 27), ids.new("", 27)
