"""Escaped HTML, and texts without control characters."""

from __future__ import annotations

import pytest

from pdkernel.render import markup
from pdkernel.render.markup import Html, RichOutput


def test_a_child_is_escaped_unless_it_is_html() -> None:
    """Texts and attributes are escaped; HTML stays."""
    drawn = markup.tag("div", "a < b & 'c'", Html("<b>d</b>"), class_="x", aria_hidden='"y"', style="margin:0")

    assert drawn == (
        '<div class="x" aria-hidden="&quot;y&quot;" style="margin:0">a &lt; b &amp; &#x27;c&#x27;<b>d</b></div>'
    )
    assert markup.tag("div") == "<div></div>"
    assert markup.join_lines([Html("a"), Html(""), Html("b")]) == "a\nb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[?25lhidden cursor", "hidden cursor"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("one\r\ntwo\tthree\n", "one\ntwo\tthree\n"),
        ("over\rwritten", "over\\x0dwritten"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\u009b"),
        ("right\u202eleft", "right\\u202eleft"),
        ("lone \ud800", "lone \\ud800"),
        ("é 日本 😀", "é 日本 😀"),
    ],
)
def test_control_characters(text: str, shown: str) -> None:
    """Colors are removed; line breaks and tabs stay; each other control character is written out."""
    assert markup.escape_control_characters(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Set `A`, then `B`.", "Set <code>A</code>, then <code>B</code>."),
        ("`<b>` first", "<code>&lt;b&gt;</code> first"),
        ("an odd ` sign", "an odd ` sign"),
        ("", ""),
    ],
)
def test_code_in_a_sentence(text: str, shown: str) -> None:
    """Parts between backticks are code; a backtick without its pair stays a character."""
    assert markup.inline_code(text) == shown


def test_lines_stay_apart_without_styles() -> None:
    """Each line is an element, and an empty line keeps its height."""
    assert markup.multiline("a <").count("<div") == 1
    drawn = markup.multiline("a\n\nb", role="alert")

    assert ">a</div><div>\u00a0</div><div>b</div></div>" in drawn
    assert 'role="alert"' in drawn


@pytest.mark.parametrize(("length", "wraps"), [(24, False), (25, True)])
def test_a_long_label_may_wrap(length: int, wraps: bool) -> None:
    """A label of more than 24 characters would leave a narrow window."""
    assert ("nowrap" not in markup.pill("x" * length, "good")) is wraps


def test_a_name_wraps_at_underscores() -> None:
    """A step's name is escaped, and keeps its underscores."""
    assert markup.breakable("send_to_<all>") == "send_<wbr>to_<wbr>&lt;all&gt;"


def test_a_collapsible_part_is_closed() -> None:
    """The body is hidden until a click, unless the caller opens it."""
    drawn = [markup.collapsible(Html("head"), Html("body"), open_=opened) for opened in (False, True)]

    assert [part.startswith("<details open") for part in drawn] == [False, True]
    assert all("head</summary>body</details>" in part for part in drawn)
    assert markup.collapsible(Html("head"), Html("body")) == drawn[0]


def test_two_outputs_are_joined() -> None:
    """The joined output has both texts, both HTML forms and the metadata of both; the second one's metadata win."""
    first, second = RichOutput("a", "<p>a</p>", {"x": 1, "y": 1}), RichOutput("b", "<p>b</p>", {"y": 2})

    joined = first + second
    assert (joined.text, joined.html, joined.metadata) == ("a\nb", "<p>a</p><p>b</p>", {"x": 1, "y": 2})


def test_a_text_cannot_control_a_terminal() -> None:
    """Control characters of a foreign name are shown as text, in a message too; the lines stay."""
    output = RichOutput.from_message("one\n\x1b]0;owned\x07") + RichOutput("\x1b[2J", "")

    assert repr(output) == "one\n\\x1b]0;owned\\x07\n"


def test_a_message_keeps_its_lines() -> None:
    """The HTML of a message has a line of its own for each line, as text."""
    output = RichOutput.from_message("one\n<b>two</b>")

    assert repr(output) == "one\n<b>two</b>"
    assert "<div>one</div><div>&lt;b&gt;two&lt;/b&gt;</div>" in output.html
