"""
A notebook's run, saved as a test: the same for the magic and for the button.

Knows sessions. What is written and whether it can be is `save`'s.
"""

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
    Save *execution*, a run of *session*, as the test *name*; what was written, in words.

    Args:
        session: Whose notebook is saved as a file, with the text that has run.
        execution: One of the latest runs of this kernel.
        name: Of the test.
        non_secret_names: Variables and credentials that are no secrets.

    Raises:
        RequestError: It cannot be saved, and why; nothing was written.
    """
    if session.notebook is None or not session.notebook.is_file():
        raise RequestError(
            "A test runs the notebook's file, and this notebook's file is not known.",
            fix="Save the notebook; outside Jupyter, name its file in PDKERNEL_NOTEBOOK.",
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
    """A name for a test of a run on the chosen event."""
    return re.sub(r"[^A-Za-z0-9]+", "_", session.event_name or "").strip("_").lower() or "run"
