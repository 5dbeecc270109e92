"""The files of an export, in text and in HTML."""

from __future__ import annotations

import pytest

from pdkernel.render import files
from pdkernel.render.files import FileChange
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
