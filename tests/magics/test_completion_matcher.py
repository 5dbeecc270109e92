"""The matcher inside a real IPython shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
from IPython.core.completer import provisionalcompleter

from pdkernel.magics.completion import Vocabulary, register_matchers
from pdkernel.magics.notebook_context import get_session
from pdkernel.model import JSON

STEPS: dict[str, JSON] = {"trigger": {"event": {"body": {"title": "x", "a-b": 1}}}}


def completions(shell: Any, text: str) -> list[str]:
    """The completions of the shell at the end of *text*, as whole lines' ends."""
    with provisionalcompleter():
        return [
            f"{text[: found.start]}{found.text}".rsplit("\n", 1)[-1]
            for found in shell.Completer.completions(text, len(text))
        ]


def test_paths_come_from_the_provider(shell: Any) -> None:
    """The registered provider supplies the completions, with odd keys in brackets and with types."""
    register_matchers(shell, lambda: STEPS)

    assert completions(shell, "# c\n%%pdstep a --lang node\nsteps.trigger.event.body.") == [
        "steps.trigger.event.body.title",
        'steps.trigger.event.body["a-b"]',
    ]


def test_python_names_stay_out_of_bash(shell: Any) -> None:
    """A Bash body gets no Python name, magic or file."""
    assert completions(shell, "%%pdstep a --lang bash\nimp") == []
    assert completions(shell, "%%pdstep a --lang bash\nls /et") == []


def test_python_names_are_offered_in_python(shell: Any) -> None:
    """A Python body has IPython's own completion."""
    assert "import" in completions(shell, "%%pdstep a\nimpor")


def test_options_come_from_the_directive(shell: Any) -> None:
    """The options of the directive are offered once the extension is loaded."""
    assert completions(shell, "%%pdstep a --la") == ["%%pdstep a --lang"]


def test_failing_provider_is_silent(shell: Any, capsys: Any) -> None:
    """A failing provider adds no words and prints nothing."""

    def broken() -> NoReturn:
        raise RuntimeError("no")

    register_matchers(shell, broken, broken)

    assert completions(shell, "%%pdstep a --lang node\nsteps.") == []
    assert completions(shell, "%%pdstep a --lang n") == ["%%pdstep a --lang node"]
    assert capsys.readouterr() == ("", "")


def test_providers_are_called_only_if_needed(shell: Any) -> None:
    """Plain cells call no provider; a step's body does not call the directive's provider."""
    asked: list[str] = []

    def steps() -> dict[str, JSON]:
        asked.append("steps")
        return STEPS

    def words() -> Vocabulary:
        asked.append("words")
        return Vocabulary()

    register_matchers(shell, steps, words)

    completions(shell, "import o")
    completions(shell, "%%pdstep a --lang node\nsteps.")
    assert asked == ["steps"]


def test_registering_again_replaces(shell: Any) -> None:
    """Only the provider registered last is called."""
    register_matchers(shell, lambda: STEPS)
    register_matchers(shell, lambda: {"other": {}})

    assert completions(shell, "%%pdstep a --lang node\nsteps.") == ["steps.other"]


def test_steps_above_are_offered_before_they_run(shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extension's provider offers the steps of registered cells."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second", "third"):
        get_session(shell).record_cell(f"%%pdstep {name}\ndef handler(pd): ...", cell_id=None)

    assert completions(shell, "%%pdstep second --lang node\nsteps.") == ["steps.trigger", "steps.first"]
