"""
The notebook of a shell: its session, its file, the cells that its front end shows, and the running cell as written.

IPython recognizes a cell magic only in a cell's first line. It passes a body that its clean-up has changed (whitespace
lines emptied, prompts removed), without the lines above. A step's code must stay byte for byte as written, and its line
numbers must be the cell's. The input transformer therefore runs before all others, moves the directive above leading
comments and blank lines, and stores the whole source.
"""

from __future__ import annotations

import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell

from pdkernel.errors import PdkernelError

if TYPE_CHECKING:
    from pdkernel.kit.session import LiveNotebook, Session
    from pdkernel.language.shape import StepKind

DIRECTIVE_PATTERN = re.compile(
    r"(?P<above>(?:[ \t]*(?:(?:\#|//)[^\n]*)?\n)*)"
    r"[ \t]*(?P<whole>%%(?P<magic>pdstep|pdworkflow|pdif|pdswitch|pdparallel)(?:[ \t]+(?P<line>[^\n]*))?)(?P<body>\n.*)?\Z",
    re.DOTALL,
)
MAX_CACHED_CELLS = 32
"""Number of stored sources: a running cell needs one, the others are for cells checked in between."""


@dataclass(frozen=True, slots=True)
class DirectiveCell:
    """
    The parts of a cell with a directive.

    Attributes:
        magic: `pdstep`, `pdworkflow`, or the magic of a block: `pdif`, `pdswitch`, `pdparallel`.
        line: The text after the magic's name, without surrounding blanks.
        body: The text below the directive's line, unchanged.
        preamble: Comment and blank lines above the directive's line, unchanged.
        start: Offset of the directive's first character.
        end: Offset of the end of the directive's line, without the newline.
    """

    magic: str
    line: str
    body: str
    preamble: str
    start: int
    end: int


def find_directive(text: str) -> DirectiveCell | None:
    """Return the directive of a cell's *text*, below comment (`#`, `//`) and blank lines only; else None."""
    found = DIRECTIVE_PATTERN.match(text)
    if found is None:
        return None
    return DirectiveCell(
        magic=found["magic"],
        line=(found["line"] or "").strip(),
        body=(found["body"] or "")[1:],
        preamble=found["above"],
        start=found.start("whole"),
        end=found.end("whole"),
    )


class CellSourceCache:
    """
    The sources of the latest cells, by the arguments of their magic calls.

    Two cells that differ only above the directive have the same key. The later cell wins: a cell is transformed directly
    before it runs.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def store(self, cell: DirectiveCell, text: str) -> None:
        """Store *text* for the magic call of *cell*."""
        key = (cell.magic, cell.line, build_magic_body(cell))
        self._texts[key] = text
        self._texts.move_to_end(key)
        while len(self._texts) > MAX_CACHED_CELLS:
            self._texts.popitem(last=False)

    def get_source(self, magic: str, line: str, body: str) -> str:
        """
        Return the source of the cell that became the call `%%magic line` with *body*.

        For a direct call (`ip.run_cell_magic(...)`) the source is built from the arguments.
        """
        return self._texts.get((magic, line, body), f"%%{magic} {line}".rstrip() + "\n" + body)


class DirectiveTransformer:
    """The input transformer: turns a cell with a directive into a call of its magic."""

    has_side_effects = True
    """IPython does not call the transformer when it checks whether a cell is complete."""

    def __init__(self, texts: CellSourceCache) -> None:
        self.texts = texts

    def __call__(self, lines: list[str]) -> list[str]:
        """Return the magic call for a cell with a directive; other cells unchanged."""
        text = "".join(lines)
        cell = find_directive(text)
        if cell is None:
            return lines
        self.texts.store(cell, text)
        return [f"get_ipython().run_cell_magic({cell.magic!r}, {cell.line!r}, {build_magic_body(cell)!r})\n"]


def build_magic_body(cell: DirectiveCell) -> str:
    """Return the body argument of the magic call: a newline if empty, because IPython rejects an empty body itself."""
    return cell.body or "\n"


CELL_SOURCES = CellSourceCache()
"""One cache per process, as each kernel has one shell."""


def get_cell_source(magic: str, line: str, body: str) -> str:
    """Return the source, as written, of the cell that IPython passed to a magic as *line* and *body*."""
    return CELL_SOURCES.get_source(magic, line, body)


_ATTRIBUTE = "_pdkernel_session"
_LIVE_ATTRIBUTE = "_pdkernel_live"
COMM_TARGET = "pdkernel.notebook"
"""The comm on which the Lab extension sends the cells that it shows, and requests to run the stale steps."""


def get_session(shell: InteractiveShell) -> Session:
    """Return the session of *shell*'s notebook; created at first use, without disk access."""
    from pdkernel.kit.session import Session

    session = getattr(shell, _ATTRIBUTE, None)
    if session is None:
        notebook = find_notebook_path(shell)
        session = Session(
            folder=notebook.parent if notebook else Path.cwd(),
            notebook=notebook,
            environ=dict(os.environ),
            live=get_live_notebook(shell),
            code_name=lambda cell: shell.compile.get_code_name(cell, cell, shell.execution_count),
        )
        setattr(shell, _ATTRIBUTE, session)
    assert isinstance(session, Session)
    return session


def list_step_kinds(session: Session) -> list[StepKind]:
    """Return the kinds of the notebook's steps, in order; none while the draft has an error, which its own cell reports."""
    from pdkernel.language.shape import get_step_kind

    with suppress(PdkernelError):
        return [get_step_kind(step) for step in session.workflow.steps]
    return []


def close_session(shell: InteractiveShell) -> None:
    """Close the session of *shell*, if any."""
    session = getattr(shell, _ATTRIBUTE, None)
    if session is not None:
        delattr(shell, _ATTRIBUTE)
        session.close()


def get_live_notebook(shell: InteractiveShell) -> LiveNotebook:
    """Return the cells that *shell*'s front end shows; they outlive a reload of the extension."""
    from pdkernel.kit.session import LiveNotebook

    live = getattr(shell, _LIVE_ATTRIBUTE, None)
    if not isinstance(live, LiveNotebook):
        live = LiveNotebook()
        setattr(shell, _LIVE_ATTRIBUTE, live)
    return live


def register_comm_target(shell: Any, run_stale: Callable[[], object]) -> None:
    """
    Receive the cells that a front end shows; has no effect in a shell without a kernel.

    Args:
        shell: The kernel's shell.
        run_stale: Runs the stale steps.
    """
    if getattr(shell, "kernel", None) is None:
        return

    def receive(comm: Any, message: dict[str, Any]) -> None:
        data = message["content"]["data"]
        if "cells" in data:
            get_live_notebook(shell).show(data, at=time.time())
        elif data.get("run") == "stale":
            try:
                run_stale()
            except PdkernelError as fault:
                comm.send({"error": str(fault)})

    def open_comm(comm: Any, message: dict[str, Any]) -> None:
        comm.on_msg(lambda later: receive(comm, later))
        receive(comm, message)

    shell.kernel.comm_manager.register_target(COMM_TARGET, open_comm)


def unregister_comm_target(shell: Any) -> None:
    """Accept no more comms of front ends. Open comms stay open: the extension may be loaded again."""
    if getattr(shell, "kernel", None) is not None:
        shell.kernel.comm_manager.targets.pop(COMM_TARGET, None)


def find_notebook_path(shell: InteractiveShell) -> Path | None:
    """
    Return the notebook's file, or None if the file is unknown.

    Jupyter sets JPY_SESSION_NAME for its kernels. VS Code sets a variable in the namespace. For a headless run, set
    PDKERNEL_NOTEBOOK.
    """
    from pdkernel.files.notebook import is_notebook_file

    for value in (
        os.environ.get("PDKERNEL_NOTEBOOK"),
        shell.user_ns.get("__vsc_ipynb_file__"),
        os.environ.get("JPY_SESSION_NAME"),
    ):
        if value:
            path = Path.cwd() / str(value)
            if path.suffix == ".ipynb" or is_notebook_file(path):
                return path
    return None


def get_cell_metadata(shell: InteractiveShell) -> dict[str, Any]:
    """Return the front end's metadata of the running cell, such as `cellId` and `deletedCells`; else empty."""
    metadata = _parent_message(shell).get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def get_cell_number(shell: InteractiveShell) -> int | None:
    """
    Return the number that JupyterLab shows beside the running cell.

    It is not `execution_count`, which IPython increases before the cell runs since version 9, and after the cell before that.
    """
    history = shell.history_manager
    return None if history is None else len(history.input_hist_raw) - 1


def remove_added_newline(shell: InteractiveShell, text: str) -> str:
    """
    Return a running cell's *text* without the newline that IPython appends.

    The step's file and the saved notebook hold exactly the cell's text: with the newline, saving would change the step.
    Without a front end's message, the text does not change.
    """
    content = _parent_message(shell).get("content")
    sent = content.get("code") if isinstance(content, dict) else None
    return sent if isinstance(sent, str) and text == f"{sent}\n" else text


def _parent_message(shell: InteractiveShell) -> dict[str, Any]:
    """Return the front end's message that the kernel is processing; else empty."""
    kernel = getattr(shell, "kernel", None)
    return (kernel.get_parent() or {}) if kernel is not None else {}
