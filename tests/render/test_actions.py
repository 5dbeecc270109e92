"""Lists of pre-built actions, and one action with its props, in text and in HTML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.actions.action_view import ActionView, PropRow
from pdkernel.render import actions
from tests.render.reading import EVIL, Page

SEND = ActionView(
    uses="slack-send-message@0.0.20",
    name="Send Message",
    description="Send a message. [See the docs](https://api.slack.com/chat.postMessage)\n\nMore about it.",
    source="npm @pipedream/slack 0.10.3",
    apps=("slack",),
    props=(
        PropRow("text", "string", required=True, label="Text.", description="The text.", default='"ignored"'),
        PropRow("mrkdwn", "boolean", required=False, default="true"),
        PropRow("channel", "string", required=False, choices="To list the values: %pdactions options."),
    ),
    cell="%%pdstep send --uses slack-send-message@0.0.20\ntext: Hi\n",
    note="The version 0.0.18 does not exist.",
)


def test_an_action_as_text() -> None:
    """The text has name, source, first paragraph, accounts, a line or more for each prop, the note and a cell."""
    assert actions.render_text(SEND) == (
        "slack-send-message@0.0.20  Send Message\n"
        "  from: npm @pipedream/slack 0.10.3\n"
        "  Send a message. See the docs: https://api.slack.com/chat.postMessage\n"
        "  accounts: slack (the external user's, unless the cell names one of your own)\n"
        "  text: string, required\n"
        "      Text. The text\n"
        "  mrkdwn: boolean, default true\n"
        "  channel: string\n"
        "      To list the values: %pdactions options.\n"
        "  ! The version 0.0.18 does not exist.\n"
        "\n"
        "%%pdstep send --uses slack-send-message@0.0.20\n"
        "text: Hi\n"
    )


def test_an_action_as_html() -> None:
    """The HTML has the same facts; `required` is a label."""
    lines = Page(actions.render_html(SEND)).lines

    for part in (
        "Send Message slack-send-message@0.0.20 npm @pipedream/slack 0.10.3",
        "See the docs: https://api.slack.com/chat.postMessage",
        "accounts: slack",
        "text required string",
        "mrkdwn  boolean, default true",
        "To list the values: %pdactions options.",
        "The version 0.0.18 does not exist.",
        "text: Hi",
    ):
        assert part in lines
    assert "More about it." not in lines
    assert lines.count("required") == 1


def test_an_action_without_props() -> None:
    """An action without description, apps, props, note and cell has two lines."""
    bare = ActionView("a-b@1.0.0", "B", "", "built in")

    assert actions.render_text(bare) == "a-b@1.0.0  B\n  from: built in\n"
    assert "accounts" not in Page(actions.render_html(bare)).text


def test_a_list() -> None:
    """Each result has a line, and its description a second line that fits a terminal."""
    long = replace(SEND, uses="b-c@1.0.0", name="C", description="word " * 60)

    lines = actions.render_list_text([SEND, replace(long, description=""), long]).splitlines()

    assert lines[:3] == [
        "slack-send-message@0.0.20  Send Message  [npm @pipedream/slack 0.10.3]",
        "    Send a message. See the docs: https://api.slack.com/chat.postMessage",
        "b-c@1.0.0  C  [npm @pipedream/slack 0.10.3]",
    ]
    assert (len(lines), len(lines[-1]), lines[-1][-1]) == (5, 100, "…")


@pytest.mark.parametrize(("count", "said"), [(50, False), (51, True)])
def test_a_long_list_is_cut(count: int, said: bool) -> None:
    """The first 50 results are shown, and the others counted."""
    found = [replace(SEND, uses=f"a-{number}@1.0.0") for number in range(count)]

    text, html = actions.render_list_text(found), Page(actions.render_list_html(found, hint="A hint.")).text

    for drawn in (text, html):
        assert "a-49@1.0.0" in drawn
        assert "a-50@1.0.0" not in drawn
        assert ("... and 1 more." in drawn) is said
    assert "A hint." in html


def test_markup_of_an_action_is_shown_as_text() -> None:
    """Texts of a package are escaped, and do not control the terminal."""
    prop = PropRow(EVIL, EVIL, required=False, label=EVIL, description=EVIL, choices=EVIL, default=EVIL)
    evil = ActionView(EVIL, EVIL, EVIL, EVIL, (EVIL,), (prop,), EVIL, EVIL)
    drawn = [actions.render_html(evil), actions.render_list_html([evil], hint=EVIL)]

    assert all("<b>bold</b></script>" in Page(each).text for each in drawn)
    assert "\x1b" not in "".join([*drawn, actions.render_text(evil), actions.render_list_text([evil])])
