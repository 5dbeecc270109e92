"""
The limits of a run: the platform's limits on sizes (its limits and troubleshooting pages), and those that settings set; and integers that JavaScript rounds.

`workers` enforces the time and memory limits of a running step.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from pdkernel.common.encode import DIGITS_TO_ZERO, encode_json
from pdkernel.errors import DefinitionError, ExportNotJSONError, StepError, format_count
from pdkernel.execution import Log
from pdkernel.language.directive.step_line import MAX_TIMEOUT_S
from pdkernel.language.directive.workflow_header import SETTING_RULES
from pdkernel.language.shape import Segment, format_node_path
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
        """Add the bytes of a step; return an error above the limit or None, and a warning near it or None."""
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


_LONG = b"0" * 16  # 2^53 has 16 digits


def describe_inexact_number(exports: Mapping[str, JSON]) -> str | None:
    """Return a warning on the first integer in *exports*, which JavaScript reads, that it would round."""
    if not _has_long_number(dict(exports)):
        return None
    found = list(_iter_inexact_numbers((), dict(exports)))
    if not found:
        return None
    path, number = found[0]
    others = f" (and {format_count(len(found) - 1, 'other')})" if len(found) > 1 else ""
    return (
        f"{format_node_path(path)}{others} is {_digits(number)}. Node.js steps and expressions read it as "
        f"{_as_javascript(number)}. Export the number as text to keep every digit."
    )


def _has_long_number(exports: dict[str, JSON]) -> bool:
    """Return whether the JSON text has 16 digits in a row: a quick check that is False for most exports."""
    return _LONG in encode_json(exports).translate(DIGITS_TO_ZERO)


def _iter_inexact_numbers(
    path: tuple[Segment, ...], value: dict[str, Any]
) -> Iterator[tuple[tuple[Segment, ...], int]]:
    pending = [(path, _items(value))]
    while pending:
        path, items = pending[-1]
        for key, inner in items:
            if isinstance(inner, int):
                if not _is_exact(inner):
                    yield (*path, key), inner
            elif isinstance(inner, dict | list):
                pending.append(((*path, key), _items(inner)))
                break
        else:
            pending.pop()


def _items(value: dict[str, Any] | list[Any]) -> Iterator[tuple[Segment, Any]]:
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


def _is_exact(number: int) -> bool:
    try:
        return int(float(number)) == number
    except OverflowError:
        return False


def _as_javascript(number: int) -> str:
    try:
        nearest = float(number)
    except OverflowError:
        return "Infinity" if number > 0 else "-Infinity"
    return str(int(nearest)) if abs(nearest) < 1e21 else repr(nearest)


def _digits(number: int) -> str:
    written = str(number)
    return written if len(written) <= 40 else f"{written[:30]}... ({len(written)} digits)"
