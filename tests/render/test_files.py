"""The files of an export, in text and in HTML."""

from __future__ import annotations

import pytest

from pdkernel.files.definition.folder_write import FileChange, FileState
from pdkernel.files.definition.lint import Finding
from pdkernel.render import files
from tests.render.reading import EVIL, Page, assert_view

DIFF = "--- a/workflow.yaml\n+++ b/workflow.yaml\n@@ -1,3 +1,3 @@\n org_id: o_1\n-name: Old\n+name: New\n steps:\n"
FILES = (
    FileChange("workflow.yaml", "changed", DIFF),
    FileChange("check/entry.py", "new", "--- /dev/null\n+++ b/check/entry.py\n+def handler(pd):\n+    return 1\n"),
    FileChange("send/entry.js", "unchanged"),
    FileChange("README.md", "left alone"),
)
CHECKLIST = ("Set the environment variable CHANNEL in the workflow's settings.", "Choose OAuth for the trigger.")


@pytest.mark.parametrize("form", ["txt", "html"])
def test_files_match_the_golden_file(form: str) -> None:
    """The report of an export has the state and diff of each file, and the manual steps."""
    draw = files.render_text if form == "txt" else files.render_html

    assert_view(f"files.{form}", draw("build/open-issue", FILES, checklist=CHECKLIST, note="Pins are ignored: build."))


def test_a_long_diff_is_shortened() -> None:
    """A very long diff is cut, and the number of hidden lines is shown."""
    change = FileChange("a/entry.py", "changed", "".join(f"+line {number}\n" for number in range(1000)))

    drawn = files.render_html("build", [change])

    assert "… 700 lines more not shown" in Page(drawn).text


def test_markup_in_a_field_is_shown_as_text() -> None:
    """Markup, quotes and control characters in a field are escaped."""
    drawn = files.render_html(EVIL, [FileChange(EVIL, "new", EVIL)], checklist=[EVIL], note=EVIL)

    assert "<b>bold</b></script>" in Page(drawn).text
    assert "\x1b" not in drawn


@pytest.mark.parametrize("form", ["text", "html"])
def test_the_serving_command_ends_the_report(form: str) -> None:
    """The end of a report has what to do first, then the command, which a click copies; markup is shown as text."""
    drawn = files.build_serving_output("pdkernel serve 'my flow'", [EVIL])
    alone = files.build_serving_output("pdkernel serve flow")

    assert alone.text == "To serve the folder: pdkernel serve flow"
    if form == "text":
        assert drawn.text.splitlines()[-1] == "To serve the folder: pdkernel serve 'my flow'"
        assert drawn.text.startswith("Before you serve the folder:\n  <b>bold</b>")
    else:
        page = Page(drawn.html)
        assert page.lines.splitlines()[-1] == "To serve the folder: pdkernel serve 'my flow'"
        assert [each["title"] for each in page.attributes if "title" in each] == ["Copy pdkernel serve 'my flow'"]


@pytest.mark.parametrize(("count", "hidden"), [(301, None), (302, "… 2 lines more not shown")])
def test_one_line_is_not_hidden(count: int, hidden: str | None) -> None:
    """The last line of a diff is shown instead of a note about one hidden line."""
    change = FileChange("a/entry.py", "changed", "".join(f"+line {number}\n" for number in range(count)))

    for drawn in (files.render_text("build", [change]), Page(files.render_html("build", [change])).text):
        assert ("+line 300" in drawn) is (hidden is None)
        assert hidden is None or hidden in drawn


@pytest.mark.parametrize(
    ("state", "count", "is_open"), [("changed", 40, True), ("changed", 41, False), ("new", 1, False)]
)
def test_a_short_change_is_open(state: FileState, count: int, is_open: bool) -> None:
    """The diff of a changed file is open up to 40 lines; a new file is closed, and has no diff in the text."""
    change = FileChange("a/entry.py", state, "".join(f"+line {number}\n" for number in range(count)))

    assert ("<details open" in files.render_html("build", [change])) is is_open
    assert ("+line 0" in files.render_text("build", [change])) is (state == "changed")


def test_findings_have_their_place_and_fix() -> None:
    """A finding names its step, file and line; a fix of several lines does not fit into the list."""
    findings = [
        Finding("sync", "send", 3, 2, "The step\nis new.", "Rename it."),
        Finding("code", None, None, None, "It fails.", "if a:\n    b()", file="pdkernel.yaml"),
        Finding("plan", None, None, None, "It is old."),
    ]

    assert files.format_findings(findings) == [
        "Check before a deployment:",
        "  sync         step send, line 2: The step is new. Rename it.",
        "  code         pdkernel.yaml: It fails.",
        "  plan         It is old.",
    ]
    text = Page(files.render_html("build", [], findings=findings)).text
    assert "step send, line 2: The step is new. Rename it." in text
    assert "build: no files" in text
