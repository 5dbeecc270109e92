"""
What we know of the notebook around us: its file, the running cell, its session.

Knows IPython's and Jupyter's ways of telling. Knows nothing of workflows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from pdkernel.session import Session

_ATTRIBUTE = "_pdkernel_session"


def get_session(shell: InteractiveShell) -> Session:
    """The session of *shell*'s notebook; made at first use, which touches no disk."""
    session = getattr(shell, _ATTRIBUTE, None)
    if session is None:
        notebook = find_notebook_path(shell)
        session = Session(
            folder=notebook.parent if notebook else Path.cwd(),
            notebook=notebook,
            environ=dict(os.environ),
            code_name=lambda cell: shell.compile.get_code_name(cell, cell, shell.execution_count),
        )
        setattr(shell, _ATTRIBUTE, session)
    assert isinstance(session, Session)
    return session


def close_session(shell: InteractiveShell) -> None:
    """End the session of *shell*, if there is one."""
    session = getattr(shell, _ATTRIBUTE, None)
    if session is not None:
        delattr(shell, _ATTRIBUTE)
        session.close()


def find_notebook_path(shell: InteractiveShell) -> Path | None:
    """
    The notebook's file, or None where nothing tells.

    Jupyter sets JPY_SESSION_NAME for kernels that it starts; VS Code puts a name into the namespace;
    PDKERNEL_NOTEBOOK says it for a headless run.
    """
    for told in (
        os.environ.get("PDKERNEL_NOTEBOOK"),
        shell.user_ns.get("__vsc_ipynb_file__"),
        os.environ.get("JPY_SESSION_NAME"),
    ):
        if told and str(told).endswith(".ipynb"):
            path = Path(str(told))
            return path if path.is_absolute() else Path.cwd() / path
    return None


def get_cell_metadata(shell: InteractiveShell) -> dict[str, Any]:
    """What the front end says of the running cell: `cellId`, `deletedCells`; empty where it says nothing."""
    metadata = _parent_message(shell).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def remove_added_newline(shell: InteractiveShell, text: str) -> str:
    """
    A running cell's *text* without the newline that IPython has put at its end.

    The step's file holds exactly what the cell holds, and so does the saved notebook: with the newline, saving would
    change the step. Where no front end tells what it sent, the text stays as it is.
    """
    content = _parent_message(shell).get("content")
    sent = content.get("code") if isinstance(content, dict) else None
    return sent if isinstance(sent, str) and text == f"{sent}\n" else text


def _parent_message(shell: InteractiveShell) -> dict[str, Any]:
    """The front end's message that the kernel works on; empty where there is none."""
    kernel = getattr(shell, "kernel", None)
    return (kernel.get_parent() or {}) if kernel is not None else {}
