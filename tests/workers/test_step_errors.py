"""Errors of steps: what a worker reported, a signal, an exit status, a time limit."""

from __future__ import annotations

import signal

import pytest

from pdkernel.errors import (
    ExportNotJSONError,
    OutboundCallRefusedError,
    StepError,
    StepProcessExitedError,
    StepTimeoutError,
    StoreValueError,
)
from pdkernel.workers.replies import Fault
from pdkernel.workers.step_errors import (
    StepConfigurationError,
    StepEntryPointError,
    StepUnsupportedError,
    build_process_died_error,
    build_timeout_error,
    parse_step_error,
)


def fault(code: str, *, line: int | None = None, prop: str | None = None) -> Fault:
    """A report without a name and with an empty stack."""
    return Fault(code=code, name="", message="m", line=line, stack="", fix="f", prop=prop)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("step_failed", StepError),
        ("step_died", StepProcessExitedError),
        ("timeout", StepTimeoutError),
        ("export_not_json", ExportNotJSONError),
        ("entry_point", StepEntryPointError),
        ("unsupported", StepUnsupportedError),
        ("configuration", StepConfigurationError),
        ("egress_refused", OutboundCallRefusedError),
        ("store_value", StoreValueError),
        ("unheard_of", StepError),
    ],
)
def test_a_reported_error_has_the_class_of_its_code(code: str, kind: type[StepError]) -> None:
    """The code of a report decides on the class; an unknown code is an error of the step."""
    assert type(parse_step_error(fault(code=code))) is kind


@pytest.mark.parametrize(("line", "shown"), [(1, 1), (0, None), (-3, None), (None, None)])
def test_the_line_of_a_reported_error(line: int | None, shown: int | None) -> None:
    """A line counts from 1; an error without a name is an `Error`, and an empty stack counts as missing."""
    error = parse_step_error(fault(code="step", line=line))

    assert (error.line, error.name, error.stack, error.fix) == (shown, "Error", None, "f")


def test_the_prop_of_a_configuration_error() -> None:
    """An error of configuration names its prop, if the report does."""
    found = [parse_step_error(fault(code="configuration", prop=prop)) for prop in ("channel", "")]

    assert all(isinstance(error, StepConfigurationError) for error in found)
    assert [getattr(error, "prop", "?") for error in found] == ["channel", None]


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "longer than 1 second and"), (1.5, "1.5 seconds and"), (30.0, "30 seconds and")]
)
def test_a_time_limit_in_words(seconds: float, text: str) -> None:
    """The message names the limit without needless digits."""
    assert text in build_timeout_error(seconds).message


@pytest.mark.parametrize(
    ("exit_code", "tail", "message"),
    [
        (None, "", "The step's process ended before the step finished."),
        (3, "", "The step ended its own process with exit status 3."),
        (0, "", "The step ended its own process with exit status 0."),
        (3, "last line", "exit status 3. The end of its stderr:\nlast line"),
        (-signal.SIGKILL, "", "was ended by SIGKILL before the step finished. It may have run out of memory."),
        (-signal.SIGABRT, "", "was ended by SIGABRT before the step finished. It may have run out of memory."),
        (-signal.SIGSEGV, "", "was ended by SIGSEGV before the step finished."),
        (-99, "", "was ended by signal 99 before the step finished."),
    ],
)
def test_the_reason_of_a_process_that_ended(exit_code: int | None, tail: str, message: str) -> None:
    """The message names the exit status or the signal, memory for two signals only, and the end of stderr."""
    error = build_process_died_error(exit_code, tail)

    assert error.message.endswith(message)
    assert bool(error.fix) == (exit_code is not None)
