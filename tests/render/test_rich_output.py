"""An output with a text and an HTML form."""

from __future__ import annotations

from pdkernel.render.rich_output import RichOutput


def test_two_outputs_are_joined() -> None:
    """The joined output has both texts, both HTML forms and the metadata of both; the second one's metadata win."""
    first, second = RichOutput("a", "<p>a</p>", {"x": 1, "y": 1}), RichOutput("b", "<p>b</p>", {"y": 2})

    assert (first + second)._repr_mimebundle_() == (
        {"text/plain": "a\nb", "text/html": "<p>a</p><p>b</p>"},
        {"x": 1, "y": 2},
    )


def test_a_text_cannot_control_a_terminal() -> None:
    """Control characters of a foreign name are shown as text, in a message too; the lines stay."""
    output = RichOutput.from_message("one\n\x1b]0;owned\x07") + RichOutput("\x1b[2J", "")

    assert repr(output) == "one\n\\x1b]0;owned\\x07\n"


def test_a_message_keeps_its_lines() -> None:
    """The HTML of a message has a line of its own for each line, as text."""
    output = RichOutput.from_message("one\n<b>two</b>")

    assert repr(output) == "one\n<b>two</b>"
    assert "<div>one</div><div>&lt;b&gt;two&lt;/b&gt;</div>" in output.html
