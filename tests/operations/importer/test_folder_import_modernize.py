"""The import with `--modernize`: old steps are rewritten in the notebook, and the folder stays as it is."""

from __future__ import annotations

from pathlib import Path

from pdkernel.operations.importer.folder_import import modernize_steps
from pdkernel.operations.importer.notebook_texts import read_for_import
from tests.files.definition.builders import synced

YAML = """schema: workflow/2022.04
name: W
triggers:
- id: hi_1
steps:
- namespace: old
  uses: ./old/entry.js
- namespace: new
  uses: ./new/entry.js
- namespace: left
  uses: ./left/entry.js
"""
NEW = "export default defineComponent({ async run() {} })"
LEFT = "async (event, steps) => { this.$checkpoint = 1 }"


def test_old_steps_are_rewritten(tmp_path: Path) -> None:
    """Only old steps change, each with its difference and what is left, and the folder is unchanged."""
    old = "async (event, steps) => {\n  $respond({ status: 200 });\n}\n"
    folder = synced(tmp_path / "flow", YAML, old__entry_DOT_js=old, new__entry_DOT_js=NEW, left__entry_DOT_js=LEFT)
    read = read_for_import(folder)

    modern, rewrites = modernize_steps(read)

    workflow = modern.workflow
    assert [rewrite.step for rewrite in rewrites] == ["old", "left"]
    assert "await $.respond({ status: 200 });" in workflow.step("old").source
    assert workflow.step("new").source == NEW
    assert "-  $respond({ status: 200 });\n+  await $.respond({ status: 200 });\n" in "".join(
        line for line in rewrites[0].difference.splitlines(keepends=True) if "respond" in line
    )
    assert (rewrites[0].left, rewrites[1].left.partition(",")[0]) == ("", "line 3")
    assert (folder / "old" / "entry.js").read_text() == old
