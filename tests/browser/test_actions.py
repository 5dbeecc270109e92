"""The form of `%pdactions` in a real JupyterLab: from a search to a step that ran."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from pdkernel.actions.source_settings import ActionSettings
from pdkernel.storage import Project
from tests.browser.harness import LabPage

TEXT = "{{ steps.trigger.event.body.note }}"
CELLS = ["%pdevent note", "%pdactions"]
ACTION = """
export default {
  key: "KEY",
  name: "NAME",
  description: "Returns what it gets.",
  version: "0.0.1",
  type: "action",
  props: { title: { type: "string", label: "Title" }, text: { type: "string", label: "Text" } },
  async run() {
    return { [this.title]: this.text };
  },
};
"""


@pytest.fixture
def notebook(page: LabPage) -> LabPage:
    """A notebook with a test event and the form of `%pdactions`."""
    folder = page.lab.root / "actions"
    events = folder / "events"
    events.mkdir(parents=True, exist_ok=True)
    for word in ("note", "tag"):
        action = folder / "checkout" / "components" / "notes" / "actions" / f"add-{word}" / f"add-{word}.mjs"
        action.parent.mkdir(parents=True)
        action.write_text(ACTION.replace("KEY", f"notes-add-{word}").replace("NAME", f"Add {word}"))
    with Project.open(folder / ".pdkernel") as project:
        ActionSettings(project.settings).set_sources(["checkout"], base=folder)
    (events / "note.json").write_text('{"method": "POST", "path": "/", "headers": {}, "body": {"note": "milk"}}')
    page.new_notebook(CELLS, name="actions/work.ipynb")
    page.run_cell(0)
    page.run_cell(1)
    return page


def test_search_fill_in_write_run(notebook: LabPage) -> None:
    """Typed words find an action; its fields are filled in; Enter writes the step's cell below, which runs."""
    form = notebook.output(1)
    expect(form.get_by_role("button", name="Use").first).to_be_visible()
    form.get_by_role("textbox", name="search").fill("returns what it gets")
    expect(form.get_by_role("button", name="Use")).to_have_count(2)
    notebook.screenshot("actions-search")

    form.locator(".widget-hbox", has_text="notes-add-note@").get_by_role("button", name="Use").click()
    form.get_by_role("button", name="Write cell").click()
    expect(form).to_contain_text("No cell was written: ")
    notebook.screenshot("actions-problems")
    form.get_by_label("Title *").fill("shopping")
    form.get_by_label("Text *").fill(TEXT)
    form.get_by_label("Text *").press("Enter")

    expect(form.get_by_text("The cell is written. Run it with Shift+Enter.")).to_be_visible()
    expect(notebook.editor(2)).to_contain_text("--uses notes-add-note@")
    expect(notebook.editor(2)).to_have_attribute("data-language", "yaml")
    notebook.page.keyboard.press("Shift+Enter")
    notebook.wait_idle()
    expect(notebook.output(2)).to_contain_text("success")
    expect(notebook.output(2)).to_contain_text("milk")
    notebook.screenshot("actions-ran")
