"""The extension in a real IPython shell: messages, help and loading."""

from __future__ import annotations

import pytest

from tests.kit.magics.conftest import Notebook, Run


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("%%pdstep my-step\n", "my_step"),
        ("%%pdstep a --lang ruby\n", "ruby"),
        ("%%pdstep a --colour red\n", "--colour"),
        ("%%pdworkflow\nname: [\n", "line"),
        ("%pdevent nowhere", "hello"),
        ("%pdpin nowhere", "no step"),
        ("%pdegress sometimes", "not an outbound policy"),
        ("%pdrun", "No event is chosen"),
        ("%pdrun nowhere", "nowhere"),
        ("%pdenv set A=b", "must not be part of the line"),
    ],
)
def test_errors_are_messages(notebook: Notebook, run: Run, cell: str, words: str) -> None:
    """An error in a cell is one message with a fix, without a traceback of pdkernel."""
    shown = run(cell)

    assert notebook.error is not None
    assert words in shown
    assert "Traceback" not in shown


def test_every_magic_has_help(run: Run, notebook: Notebook) -> None:
    """Each magic has a help text."""
    for name in ("pduser", "pdevent", "pdrun", "pdpin", "pdshape", "pdenv", "pdegress", "pdexport"):
        assert notebook.shell.find_line_magic(name).__doc__
    assert "--lang LANGUAGE" in notebook.shell.find_cell_magic("pdstep").__doc__


def test_second_load_changes_nothing(run: Run, notebook: Notebook) -> None:
    """Loading the extension again is silent, registers nothing twice, and keeps the session with its steps and event."""
    run("%pdevent hello")
    run("%%pdstep one\ndef handler(pd):\n    return 1\n")
    matchers, session = len(notebook.shell.Completer.custom_matchers), notebook.session

    shown = run("%load_ext pdkernel").strip()

    assert shown == ""
    assert len(notebook.shell.Completer.custom_matchers) == matchers
    assert notebook.session is session
    assert [step.name for step in session.workflow.steps] == ["one"]
    assert session.get_result("one") is not None
