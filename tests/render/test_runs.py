"""The list of recorded runs as text."""

from __future__ import annotations

from pdkernel.render.runs import render_text
from tests.render.builders import an_execution


def test_control_characters_are_escaped() -> None:
    """A name with control characters does not control the terminal."""
    shown = render_text([an_execution(workflow="Gre\x1b[31met", external_user="a\nb")])

    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


def test_columns_are_aligned() -> None:
    """Columns are as wide as their widest cell, and a long name is cut."""
    shown = render_text([an_execution(workflow="x" * 80), an_execution(external_user=None, workflow="Short")])

    first, second = shown.splitlines()[1:]
    assert first.index("xxx") == second.index("Short")
    assert len(first) < 140
