"""Input and output of commands: bodies, confirmations and colors."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from pdkernel.cli.terminal import color_statuses, confirm, is_interactive, read_body, read_input
from pdkernel.errors import EventError, RequestError


class Terminal(io.StringIO):
    """A stream of a person."""

    def isatty(self) -> bool:
        """It is a terminal."""
        return True


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": 1}', {"a": 1}), ("7", 7), ('"x"', "x"), ("null", None), ("body.json", {"file": True}), ("x" * 5000, None)],
)
def test_a_body_is_json_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: Any) -> None:
    """A file comes before JSON; a text that is too long for a file name is not a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "body.json").write_text('{"file": true}')

    if text.startswith("xx"):
        with pytest.raises(EventError, match="there is no such file"):
            read_body(text)
    else:
        assert read_body(text) == value


@pytest.mark.parametrize(
    ("text", "message"), [("nope.json", "--body nope.json is neither a file nor JSON"), ("{nope", "--body is not JSON")]
)
def test_a_body_that_is_neither_is_named(text: str, message: str) -> None:
    """A text that looks like a file name is a missing file, any other text is broken JSON."""
    with pytest.raises(EventError, match=message):
        read_body(text)


def test_a_body_of_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`-` is standard input; a file that cannot be read is named."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1]")))

    assert read_body("-") == [1]
    with pytest.raises(EventError, match=r"Cannot read .*gone: No such file"):
        read_input(str(tmp_path / "gone"))


def test_an_act_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--yes` asks nothing; a terminal asks, and anything else needs the option."""
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    confirm("Remove it", yes=True)
    with pytest.raises(RequestError, match="Remove it: not confirmed") as refused:
        confirm("Remove it", yes=False)
    assert "--yes" in refused.value.fix
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    confirm("Remove it", yes=False)
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    with pytest.raises(click.Abort):
        confirm("Remove it", yes=False)


def test_a_question_cannot_control_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters of a name in a question are shown as text."""
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))

    confirm("Remove \x1b]0;owned\a", yes=False)

    assert capsys.readouterr().err.startswith("Remove \\x1b]0;owned\\x07? ")


def test_a_cell_of_a_notebook_is_not_interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal of a notebook's cell has no person who answers."""
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    assert is_interactive(Terminal())
    assert not is_interactive(io.StringIO())
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert not is_interactive(Terminal())


def test_statuses_have_colors() -> None:
    """The status of the title and of each step is colored, and no other text."""
    text = "Greet: ✓ success, run 1\n  ✓ success  one\n  ✗ error    two\n    ✓ success in a log\n✓ success"

    colored = color_statuses(text)

    assert click.unstyle(colored) == text
    assert colored.split("\n") == [
        f"Greet: {click.style('✓ success', fg='green')}, run 1",
        f"  {click.style('✓ success', fg='green')}  one",
        f"  {click.style('✗ error', fg='red')}    two",
        "    ✓ success in a log",
        "✓ success",
    ]
