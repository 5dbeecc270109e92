"""A notebook's run saved as a snapshot test, for `%pdrun --save-test` and the save button."""

from __future__ import annotations

import re
from collections.abc import Collection

from pdkernel.errors import RequestError
from pdkernel.execution import Execution
from pdkernel.session.session import Session
from pdkernel.snapshot_tests.saver import save_test


def save_snapshot_test(
    session: Session, execution: Execution, name: str, *, non_secret_names: Collection[str] = ()
) -> str:
    """
    Save *execution*, a run of *session*, as the test *name*; returns a summary of the written files.

    Args:
        session: The session of the run; its notebook must be saved with the code that ran.
        execution: One of the latest runs of this kernel.
        name: The test's name.
        non_secret_names: Names of variables and credentials that are not secret.

    Raises:
        RequestError: The run cannot be saved as a test; no file was written.
    """
    if session.notebook is None or not session.notebook.is_file():
        raise RequestError(
            "A test runs the notebook's file, and the file of this notebook is unknown.",
            fix="Save the notebook. Outside Jupyter, set PDKERNEL_NOTEBOOK to its path.",
        )
    request = session.get_request(execution.id)
    saved = save_test(
        request,
        execution,
        name=name,
        source=session.notebook,
        directory=session.directory,
        non_secret_names=non_secret_names,
    )
    return saved.format_summary(session.folder)


def suggest_test_name(session: Session) -> str:
    """A name for a test, made from the name of the chosen event."""
    return re.sub(r"[^A-Za-z0-9]+", "_", session.event_name or "").strip("_").lower() or "run"
