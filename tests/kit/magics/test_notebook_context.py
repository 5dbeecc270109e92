"""The notebook's file, as a kernel finds it, and its cells as written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from comm.base_comm import BaseComm, CommManager

from pdkernel.errors import RequestError
from pdkernel.kit.magics.notebook_context import (
    COMM_TARGET,
    MAX_CACHED_CELLS,
    CellSourceCache,
    DirectiveTransformer,
    close_session,
    find_directive,
    get_cell_source,
    get_live_notebook,
    register_comm_target,
    remove_added_newline,
    unregister_comm_target,
)
from tests.kit.magics.conftest import Notebook


@pytest.mark.parametrize(
    ("name", "text", "is_known"),
    [("work.ipynb", None, True), ("work.py", "# %%\n# %%pdstep one\nreturn 1\n", True), ("tool.py", "x = 1\n", False)],
)
def test_file_of_jupyters_session(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str | None, *, is_known: bool
) -> None:
    """A session on a notebook, also one in percent format, has the file; a console on another Python file has none."""
    if text is not None:
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("JPY_SESSION_NAME", name)

    assert notebook.session.notebook == (tmp_path / name if is_known else None)


@pytest.mark.parametrize("name", ["PDKERNEL_NOTEBOOK", "JPY_SESSION_NAME"])
def test_the_named_file_is_the_notebook(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """The file that PDKERNEL_NOTEBOOK names wins over that of VS Code, and that over the name of Jupyter's session."""
    notebook.shell.user_ns["__vsc_ipynb_file__"] = str(tmp_path / "code.ipynb")
    monkeypatch.setenv(name, "named.ipynb")

    expected = "named.ipynb" if name == "PDKERNEL_NOTEBOOK" else "code.ipynb"
    assert notebook.session.notebook == tmp_path / expected


def test_a_closed_session_is_not_used_again(notebook: Notebook) -> None:
    """After the end of a session, the next use of the shell creates another one; a second end has no effect."""
    closed = notebook.session
    for _ in range(2):
        close_session(notebook.shell)

    assert notebook.session is not closed


@pytest.mark.parametrize(
    ("sent", "text", "source"),
    [("a = 1", "a = 1\n", "a = 1"), ("a = 1\n", "a = 1\n", "a = 1\n"), ("run()", "%%pdstep a\n1\n", "%%pdstep a\n1\n")],
)
def test_only_the_newline_that_was_added_is_removed(sent: str, text: str, source: str) -> None:
    """A cell's text loses the newline that the front end did not send; the text of another call in the cell stays."""
    shell: Any = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: {"content": {"code": sent}}))

    assert remove_added_newline(shell, text) == source


class FrontEndComm(BaseComm):
    """A comm that keeps what the kernel sends."""

    def __init__(self, **options: Any) -> None:
        self.sent: list[Any] = []
        super().__init__(**options)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        """Keep the message."""
        if msg_type == "comm_msg":
            self.sent.append(data)


def receive(comm: FrontEndComm, data: object) -> None:
    """Deliver *data* of the front end to the kernel."""
    comm.handle_msg({"content": {"data": data}})


def test_the_messages_of_a_front_end() -> None:
    """The cells of a page count until the page leaves; a request to run the stale steps is answered with its error."""
    shell: Any = SimpleNamespace(kernel=SimpleNamespace(comm_manager=CommManager()))
    requests: list[int] = []

    def run_stale() -> None:
        requests.append(1)
        if len(requests) > 1:
            raise RequestError("No step is stale.")

    register_comm_target(shell, run_stale)
    opened, comm = shell.kernel.comm_manager.targets[COMM_TARGET], FrontEndComm(target_name=COMM_TARGET)
    cell = {"index": 0, "id": "c", "type": "code", "source": "%%pdstep a", "pdkernel": {}}
    live = get_live_notebook(shell)

    opened(comm, {"content": {"data": {"page": "p", "revision": 0, "cells": [cell]}}})
    shown = live.document
    receive(comm, {"page": "p", "revision": 1, "cells": None})
    receive(comm, {"run": "stale"})
    silent = list(comm.sent)
    receive(comm, {"run": "stale"})

    assert shown is not None
    assert [each.source for each in shown.cells] == ["%%pdstep a"]
    assert live.document is None
    assert (len(requests), silent, comm.sent) == (2, [], [{"error": "No step is stale."}])
    unregister_comm_target(shell)
    assert COMM_TARGET not in shell.kernel.comm_manager.targets


@pytest.mark.parametrize(
    ("text", "magic", "line", "body", "above"),
    [
        ("%%pdstep a\nx\n", "pdstep", "a", "x\n", ""),
        ("%%pdstep", "pdstep", "", "", ""),
        ("%%pdstep\ta  \n", "pdstep", "a", "", ""),
        ("# one\n\n  // two\n%%pdstep a --lang node\n\nx", "pdstep", "a --lang node", "\nx", "# one\n\n  // two\n"),
        ("  %%pdstep a\n  x", "pdstep", "a", "  x", ""),
        ("\n%%pdworkflow\nname: x", "pdworkflow", "", "name: x", "\n"),
    ],
)
def test_directive_is_found(text: str, magic: str, line: str, body: str, above: str) -> None:
    """A directive is on the first line that is neither a comment nor blank."""
    cell = find_directive(text)

    assert cell is not None
    assert (cell.magic, cell.line, cell.body, cell.preamble) == (magic, line, body, above)
    assert text[cell.start : cell.end].startswith(f"%%{magic}")


@pytest.mark.parametrize("text", ["", "x = 1\n%%pdstep a", "%%pdstepx", "%%pdstep?", "%pdstep a", "# only"])
def test_no_directive(text: str) -> None:
    """Code above the magic, another magic's name and a question mark after the name are not directives."""
    assert find_directive(text) is None


def test_cell_below_a_comment_runs(shell: Any) -> None:
    """A comment above the directive does not turn the cell into Python."""
    calls: list[tuple[str, str]] = []
    shell.register_magic_function(lambda line, cell: calls.append((line, cell)), "cell", "pdstep")
    text = "# what it does\n%%pdstep build --lang node\nexport default 1\n"

    result = shell.run_cell(text)

    assert result.success
    assert calls == [("build --lang node", "export default 1\n")]
    assert get_cell_source("pdstep", *calls[0]) == text


def test_code_is_not_cleaned_up(shell: Any) -> None:
    """Blanks on empty lines, prompts and a common indent reach the step unchanged."""
    calls: list[str] = []
    shell.register_magic_function(lambda line, cell: calls.append(cell), "cell", "pdstep")
    body = "  `a\n   \n  b`\n>>> x\nIn [1]: y\n"

    shell.run_cell("\n%%pdstep build\n" + body)

    assert calls == [body]


def test_only_the_last_cells_are_kept() -> None:
    """Stored texts do not accumulate in a long session."""
    texts = CellSourceCache()
    lift = DirectiveTransformer(texts)
    for number in range(MAX_CACHED_CELLS + 1):
        lift(["# c\n", f"%%pdstep s{number}\n", "x"])

    assert texts.get_source("pdstep", "s0", "x") == "%%pdstep s0\nx"
    assert texts.get_source("pdstep", "s1", "x") == "# c\n%%pdstep s1\nx"
    lift(["# again\n", "%%pdstep s1\n", "x"])
    lift(["# c\n", "%%pdstep last\n", "x"])
    assert texts.get_source("pdstep", "s1", "x") == "# again\n%%pdstep s1\nx"
