"""Errors of steps: built from the reports of workers, and for failures that a worker cannot report itself (timeout, exit)."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import ClassVar

from pdkernel.errors import (
    ExportNotJSONError,
    OutboundCallRefusedError,
    StepError,
    StepProcessExitedError,
    StepTimeoutError,
    StoreValueError,
)
from pdkernel.execution import STDERR_INTRODUCTION
from pdkernel.model import MAX_PAYLOAD_BYTES
from pdkernel.workers.replies import Fault

MAX_EXPORT_LINE_BYTES = 3 * MAX_PAYLOAD_BYTES
"""The longest line of an export in bytes, which is not parsed above it: escapes triple the bytes of an export at most."""


STARTED_AGAIN_NOTE = "The step was started again in another process."
"""The end of the note about a process that was lost."""
_SIGNALS_OF_FULL_MEMORY = (signal.SIGKILL, signal.SIGABRT)
_FULL_MEMORY = " It may have run out of memory."


class StepEntryPointError(StepError):
    """A code step has no `handler(pd)` or no default export."""

    code: ClassVar[str] = "entry_point"


class StepUnsupportedError(StepError):
    """A step used a feature that this version does not support."""

    code: ClassVar[str] = "unsupported"


class StepCompileError(StepError):
    """A Go step does not compile."""

    code: ClassVar[str] = "compile"


class PayloadLimitError(StepError):
    """The event, the exports and the logs of a run together exceed the limit."""

    code: ClassVar[str] = "payload_limit"


class ProcessLostError(StepProcessExitedError):
    """The process of a step ended before code of the step ran, so another process can run the step."""

    def __init__(self, exit_code: int | None = None, stderr_tail: str = "") -> None:
        """
        Describe how the process ended.

        Args:
            exit_code: The exit code as `subprocess` reports it: negative for a signal; None if the process ended with its zygote.
            stderr_tail: The last lines of its stderr.
        """
        if exit_code is None:
            what = "The step's process ended before the step began, with the process that had started it."
        elif exit_code < 0:
            what = f"The step's process was ended by {_signal_name(-exit_code)} before the step began."
        else:
            what = f"The step's process ended with exit status {exit_code} before the step began."
        if exit_code is None or -exit_code in _SIGNALS_OF_FULL_MEMORY:
            what += _FULL_MEMORY
        super().__init__(f"{what}{STDERR_INTRODUCTION}{stderr_tail}" if stderr_tail else what, name="ProcessDied")


class StepConfigurationError(StepError):
    """
    A prop of a step is missing, or its value is invalid.

    Attributes:
        prop: The name of the prop, or None.
    """

    code: ClassVar[str] = "configuration"
    prop: str | None = None


_BY_CODE: Mapping[str, type[StepError]] = {
    kind.code: kind
    for kind in (
        StepError,
        StepProcessExitedError,
        StepTimeoutError,
        ExportNotJSONError,
        StepEntryPointError,
        StepUnsupportedError,
        StepConfigurationError,
        OutboundCallRefusedError,
        StoreValueError,
    )
}


def parse_step_error(data: Fault) -> StepError:
    """Build the error that a worker reported."""
    error = _BY_CODE.get(data.code, StepError)(
        data.message,
        name=data.name or "Error",
        line=data.line if data.line and data.line > 0 else None,
        stack=data.stack or None,
        fix=data.fix,
    )
    if isinstance(error, StepConfigurationError):
        error.prop = data.prop or None
    return error


def build_timeout_error(timeout_s: float) -> StepTimeoutError:
    """Build the error of a step that exceeded its time limit."""
    return StepTimeoutError(
        f"Timeout: the step ran longer than {timeout_s:g} second{'' if timeout_s == 1 else 's'} and was stopped.",
        name="TimeoutError",
        fix="Raise the limit: --timeout on the step, or settings.lambda_timeout for the workflow.",
    )


def build_payload_error(what: str) -> PayloadLimitError:
    """Build the error of a step that exceeded the limit of a run; *what* names the part of the run and its bytes."""
    return PayloadLimitError(
        f"Function Payload Limit Exceeded: {what}, and the limit is {MAX_PAYLOAD_BYTES / (1 << 20):.1f} MB.",
        name="FunctionPayloadLimitExceeded",
        fix="Keep large data in a file in the temporary folder ($TMPDIR; on Pipedream, /tmp) or in a data store, and "
        "export where it is.",
    )


def build_still_running_error() -> StepProcessExitedError:
    """Build the error of a step whose processes do not end although the system was asked to end them."""
    return StepProcessExitedError(
        "Processes of the step do not end, so its exports were not read: the system waits for a device or a network file system.",
        name="ProcessesStillRun",
        fix="List the processes in state D with `ps`, and find out what they wait for.",
    )


def build_process_died_error(exit_code: int | None, stderr_tail: str) -> StepProcessExitedError:
    """
    Build the error of a step whose process ended early.

    Args:
        exit_code: The exit code as `subprocess` reports it: negative for a signal; None if it is unknown.
        stderr_tail: The last lines of its stderr.
    """
    if exit_code is None:
        what = "The step's process ended before the step finished."
    elif exit_code < 0:
        what = f"The step's process was ended by {_signal_name(-exit_code)} before the step finished."
        if -exit_code in _SIGNALS_OF_FULL_MEMORY:
            what += _FULL_MEMORY
    else:
        what = f"The step ended its own process with exit status {exit_code}."
    message = f"{what}{STDERR_INTRODUCTION}{stderr_tail}" if stderr_tail else what
    return StepProcessExitedError(
        message,
        name="ProcessDied",
        fix="Return from the step or raise an error; do not end the process." if exit_code is not None else "",
    )


def build_process_not_started_error(reason: str) -> StepProcessExitedError:
    """Build the error of a step whose process could not be started; *reason* is the system's."""
    return StepProcessExitedError(f"The step's process could not be started: {reason}.", name="ProcessNotStarted")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
