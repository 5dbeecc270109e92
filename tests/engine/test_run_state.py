"""Errors of the operating system while a run prepares or executes a step."""

from __future__ import annotations

import errno
import os

import pytest

from pdkernel.engine.run_state import build_system_error


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "The files of the run cannot be written: No space left on device."),
        (errno.EMFILE, "The operating system refused an operation of the run: [Errno 24] Too many open files."),
    ],
)
def test_an_error_of_the_system_has_its_cause(code: int, message: str) -> None:
    """Only an error of the run's files is reported as one, with a fix for each."""
    error = build_system_error(OSError(code, os.strerror(code)))

    assert error.message == message
    assert error.fix is not None
    assert ("TMPDIR" in error.fix) == (code == errno.ENOSPC)
