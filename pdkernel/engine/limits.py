"""
The limits of a run: the platform's limits on sizes (its limits and troubleshooting pages), and those that settings set.

`workers` enforces the time and memory limits of a running step.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from pdkernel.common.encode import encode_json
from pdkernel.errors import DefinitionError, ExportNotJSONError, RequestError, StepError, format_count
from pdkernel.execution import Log
from pdkernel.language.directive.option_values import MAX_TIMEOUT_S
from pdkernel.language.directive.setting_rules import SETTING_RULES
from pdkernel.model import JSON, MAX_PAYLOAD_BYTES, MAX_PROP_BYTES, Step, Workflow
from pdkernel.workers import PayloadLimitError, StepOutcome, build_payload_error

MAX_EXPORT_DEPTH = 256
"""Nesting levels of an export."""
DEFAULT_MEMORY_MB = 256
_BIND_REFUSED = re.compile(r"listen EACCES|bind on address .*permission denied|bind: permission denied", re.IGNORECASE)
_MAX_MESSAGE = 1 << 16  # characters of a message or stack that are searched
_BIND_CALL = re.compile(r"\bbind\(|create_server\(|HTTPServer\(")
WARNING_SHARE = 0.8
"""The share of a limit at which a step logs a warning."""
DEFAULT_QUEUE_SIZE = 100
"""Runs that wait for a limited workflow, unless `settings: queue` sets another number (the platform's smallest queue)."""
DEFAULT_BUCKET_SIZE_S = 1
"""The period of `rate_limit` in seconds, if `workflow.yaml` does not have it."""


def check_props(workflow: Workflow) -> None:
    """
    Refuse a prop whose value is too large.

    Raises:
        DefinitionError: A value is too large; the message names the step, the prop and the size.
    """
    for step in workflow.steps:
        if step.disabled:
            continue
        for name, value in step.props.items():
            size = json_size(value)
            if size > MAX_PROP_BYTES:
                line, where = step.locate_prop(name)
                raise DefinitionError(
                    f"The prop {name} of step {step.name!r}{where} has {size:,} bytes; the limit for a prop is {MAX_PROP_BYTES:,}.",
                    fix="Use an expression that reads the value from a step above, or store the value in a data store.",
                    step=step.name,
                    line=line,
                )


def memory_limit_mb(workflow: Workflow) -> int | None:
    """Return the memory limit of a step in megabytes, or None."""
    # parity[memory-default]: only a limit that the workflow sets ends a step; for the platform's 256 MB there is a warning
    given = workflow.settings.get("lambda_memory", workflow.settings.get("memory"))
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def listen_ports(workflow: Workflow) -> tuple[int, ...]:
    """Return the ports on which steps may listen, besides free ports that the system chooses."""
    # parity[listen-ports]: a step that takes the port of a server or database which restarts would get what is sent there
    given = workflow.settings.get("listen")
    return tuple(given) if isinstance(given, list) and SETTING_RULES["listen"].is_valid(given) else ()


def explain_bind(error: StepError) -> str | None:
    """Return the fix for *error* of a step that may not listen on its port; None for another error."""
    if not _BIND_REFUSED.search(f"{error.name}: {error.message[:_MAX_MESSAGE]}"):
        is_of_python = (
            error.name == "PermissionError" and _BIND_CALL.search((error.stack or "")[-_MAX_MESSAGE:]) is not None
        )
        if not is_of_python:
            return None
    return (
        "A step listens on a free port that the system chooses (port 0), or on ports that the workflow names: "
        "`settings: {listen: [8080]}` in %%pdworkflow, or `limits: {listen: [8080]}` in pdkernel.yaml."
    )


def suggest_longer_timeout(workflow: Workflow, step: Step) -> str:
    """Return the fix for a timeout of *step*: where its limit is set."""
    most = f"at most {MAX_TIMEOUT_S} seconds"
    if step.timeout_s is not None:
        return f"The step sets this limit: raise --timeout {step.timeout_s:g} on its %%pdstep line, {most}."
    if "lambda_timeout" in workflow.settings:
        return (
            f"The workflow sets this limit: raise `settings: {{lambda_timeout: ...}}` in %%pdworkflow, {most}, "
            "or set a limit for the step: --timeout SECONDS."
        )
    return (
        f"This limit is the default for the trigger (type: {workflow.trigger.type}): set --timeout SECONDS on the step, or "
        f"`settings: {{lambda_timeout: ...}}` in %%pdworkflow, {most}."
    )


class PayloadCounter:
    """
    Counts the bytes of a run's event, exports and logs.

    Attributes:
        last_exports_bytes: The bytes of the exports that were added last.
    """

    # parity[payload-limit]: pdkernel counts JSON bytes; the platform counts compressed bytes and may allow 12 to 18 MB
    def __init__(self, event: Mapping[str, JSON]) -> None:
        self._size = json_size(dict(event))
        self.last_exports_bytes = 0

    def add(self, exports: Mapping[str, JSON], logs: Iterable[Log]) -> tuple[PayloadLimitError | None, str | None]:
        """Add the bytes of a step; return an error above the limit, or a warning near it."""
        self.last_exports_bytes = json_size(dict(exports))
        self._size += self.last_exports_bytes + sum(json_size(log.text) for log in logs)
        share = self._size / MAX_PAYLOAD_BYTES
        if share > 1:
            what = f"the event, the exports and the logs of this run have {_mb(self._size)} together"
            return build_payload_error(what), None
        if share >= WARNING_SHARE:
            return None, (
                f"The event, the exports and the logs so far have {_mb(self._size)}: "
                f"{share:.0%} of the limit of {_mb(MAX_PAYLOAD_BYTES)} for a run."
            )
        return None, None


def warn_near_limits(outcome: StepOutcome, *, timeout_s: float, memory_mb: int | None) -> Iterator[str]:
    """Yield a warning for each limit that a step came near, or exceeded without being ended."""
    share = outcome.duration_s / timeout_s
    if share >= WARNING_SHARE and outcome.error is None:
        yield f"The step used {min(share, 1):.0%} of the time limit ({outcome.duration_s:.1f} of {timeout_s:g} s)."
    used_mb = outcome.peak_memory_mb
    if memory_mb is not None:
        if WARNING_SHARE <= used_mb / memory_mb <= 1:
            yield f"The step used {used_mb / memory_mb:.0%} of the memory limit ({used_mb:,.0f} of {memory_mb:,} MB)."
    elif used_mb > DEFAULT_MEMORY_MB:
        yield (
            f"The step used {used_mb:,.0f} MB of memory. The platform's limit is {DEFAULT_MEMORY_MB} MB, unless "
            "`settings: {lambda_memory: ...}` in %%pdworkflow sets another limit."
        )


def check_export_depth(step: Step, exports: Mapping[str, JSON]) -> StepError | None:
    """Return an error for an export of more than `MAX_EXPORT_DEPTH` levels; Node.js and Python check this themselves."""
    if step.language in ("node", "python"):
        return None
    for name, value in exports.items():
        if exceeds_depth(value):
            return ExportNotJSONError(
                f"JSON Nested Property Limit Exceeded: {name} is nested more than {MAX_EXPORT_DEPTH} deep.",
                name="ExportNotJSONError",
            )
    return None


def json_size(value: JSON) -> int:
    """Return the bytes of *value* as JSON in UTF-8; a text counts without quotes and escapes."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    return len(encode_json(value))


def exceeds_depth(value: JSON) -> bool:
    """Return whether *value* has more than `MAX_EXPORT_DEPTH` levels of lists and objects."""
    with contextlib.suppress(
        TypeError
    ):  # nested too deeply for orjson, or with a number or text that it does not encode
        orjson.dumps(value)  # ten times as fast as a visit to each level
        return False
    pending = [iter([value])]
    while pending:
        found = next((inner for inner in pending[-1] if isinstance(inner, dict | list)), None)
        if found is None:
            pending.pop()
        elif len(pending) > MAX_EXPORT_DEPTH:
            return True
        else:
            pending.append(iter(found.values() if isinstance(found, dict) else found))
    return False


def _mb(size: int) -> str:
    return f"{size / (1 << 20):.1f} MB"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """
    The limits of a workflow, which its runs share in one queue.

    Attributes:
        queue: The name of the queue.
        concurrency: Runs that execute at once, or None. A paused run does not execute.
        max_starts: Runs that start within *period_s* seconds, or None.
        period_s: The length of the period, or None.
        size: Runs of one external user that wait if no others do; a further run is refused. All users have twice as many together.
            None for any number.
        outer: The limits of the workflow for the runs of a batch, which have a queue of their own within the workflow's; or None.
    """

    queue: str
    concurrency: int | None
    max_starts: int | None
    period_s: float | None
    size: int | None
    outer: QueueLimits | None = None

    @property
    def start_queue(self) -> str:
        """The queue for which starts are recorded."""
        return self.queue if self.outer is None else self.outer.queue


def queue_limits(workflow: Workflow, workflow_id: str) -> QueueLimits | None:
    """Return the limits that the settings `concurrency` and `throttle`, or `rate_limit`, set, or None."""
    settings = workflow.settings
    throttle = settings.get("throttle")
    if not isinstance(throttle, dict):
        throttle = {
            "limit": settings.get("rate_limit"),
            "interval": settings.get("rate_limit_bucket_size_seconds", DEFAULT_BUCKET_SIZE_S),
        }
    concurrency = _read_concurrency(settings.get("concurrency"))
    limit, interval = map(_as_count, map(throttle.get, ("limit", "interval")))
    if limit is None or not interval:
        limit = interval = None
    if concurrency is None and limit is None:
        return None
    size = _as_count(settings.get("queue", settings.get("max_event_queue_size")))
    return QueueLimits(workflow_id, concurrency, limit, interval, DEFAULT_QUEUE_SIZE if size is None else size)


def batch_limits(workflow: Workflow, workflow_id: str, trigger_id: str, at_once: int) -> QueueLimits:
    """
    Return the limits of the runs that one tick of a schedule starts for each external user.

    They have a queue of the schedule, in which any number waits, so that they take no place of other events. They keep the
    limits of the workflow as well.
    """
    outer = queue_limits(workflow, workflow_id) or QueueLimits(workflow_id, None, None, None, DEFAULT_QUEUE_SIZE)
    return QueueLimits(f"{workflow_id}/{trigger_id}", at_once, outer.max_starts, outer.period_s, None, outer)


def _read_concurrency(value: object) -> int | None:
    """The number of runs at once: itself, or the one number of a mapping; synced files have `{default: true}` for no limit."""
    if isinstance(value, dict):
        numbers = [number for number in map(_as_count, value.values()) if number is not None]
        value = numbers[0] if len(numbers) == 1 and value.get("default") is not True else None
    return _as_count(value) or None


def _as_count(value: object) -> int | None:
    """*value* if it is a number that a limit can have, else None: an unknown form in a synced file limits nothing."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class QueueFullError(RequestError):
    """The queue of a limited workflow is full (the platform's "Event Queue Full")."""

    code = "queue_full"

    def __init__(self, limits: QueueLimits) -> None:
        super().__init__(
            f"Event Queue Full: the limits of this workflow let {format_count(limits.size or 0, 'run')} wait.",
            fix="Set a larger number of waiting runs (settings: queue), or raise concurrency or throttle.",
        )
