"""The extension in a real IPython shell: messages, help and loading."""

from __future__ import annotations

import pytest

from pdkernel import unload_ipython_extension
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
        ("%pduser ''", "An external user's id cannot be blank."),
        ("%pduser ada --search a", "An id and --search exclude each other."),
        ("%pdevent --emit", "is of type http, not an event source"),
        ("%pdevent {nothing}", "There is no event '{nothing}'"),
        ("%pdserve sometimes", "%pdserve stop"),
        ("%pdinvoke", "%pdserve"),
        ("%pdruns a b", "More than one run is named."),
        ("%pdruns --event", "The run whose event is taken over is not named."),
        ("%pdruns fork a", "The first step is missing."),
        ("%pdruns resume", "Exactly one run must be named."),
    ],
)
def test_errors_are_messages(notebook: Notebook, run: Run, cell: str, words: str) -> None:
    """An error in a cell is one message with a fix, without a traceback of pdkernel."""
    shown = run(cell)

    assert notebook.error is not None
    assert words in shown
    assert "Traceback" not in shown


def test_second_load_changes_nothing(run: Run, notebook: Notebook) -> None:
    """Loading the extension again is silent, registers nothing twice, and keeps the session with its steps and event."""

    def registered() -> tuple[int, int]:
        return len(shell.Completer.custom_matchers), len(shell.input_transformers_cleanup)

    run("%pdevent hello")
    run("%%pdstep one\ndef handler(pd):\n    return 1\n")
    shell, session = notebook.shell, notebook.session
    before = registered()

    shown = run("%load_ext pdkernel").strip()

    assert (shown, registered()) == ("", before)
    assert notebook.session is session
    assert [step.name for step in session.workflow.steps] == ["one"]
    assert session.get_result("one") is not None
    unload_ipython_extension(shell)
    assert registered() == (before[0] - 1, before[1] - 1)
