"""The form of `%pdactions` in a real JupyterLab: from a search to a step that ran."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.harness import LabPage

TEXT = "{{ steps.trigger.event.body.note }}"
CELLS = ["%pdevent note", "%pdactions"]


@pytest.fixture
def notebook(page: LabPage) -> LabPage:
    """A notebook with a test event and the form of `%pdactions`."""
    events = page.lab.root / "actions" / "events"
    events.mkdir(parents=True, exist_ok=True)
    (events / "note.json").write_text('{"method": "POST", "path": "/", "headers": {}, "body": {"note": "milk"}}')
    page.new_notebook(CELLS, name="actions/work.ipynb")
    page.run_cell(0)
    page.run_cell(1)
    return page


def test_search_fill_in_write_run(notebook: LabPage) -> None:
    """Typed words find an action; its fields are filled in; Enter writes the step's cell below, which runs."""
    form = notebook.output(1)
    expect(form.get_by_role("button", name="Use").first).to_be_visible()
    form.get_by_role("textbox", name="search").fill("add update record")
    expect(form.get_by_role("button", name="Use")).to_have_count(2)
    notebook.screenshot("actions-search")

    form.locator(".widget-hbox", has_text="data_stores-add-update-record@").get_by_role("button", name="Use").click()
    form.get_by_role("button", name="Write cell").click()
    expect(form).to_contain_text("No cell was written: ")
    notebook.screenshot("actions-problems")
    form.get_by_label("Key *").fill("shopping")
    form.get_by_label("Value *").fill(TEXT)
    form.get_by_label("Value *").press("Enter")

    expect(form.get_by_text("The cell is written. Run it with Shift+Enter.")).to_be_visible()
    expect(notebook.editor(2)).to_contain_text("--uses data_stores-add-update-record@")
    expect(notebook.editor(2)).to_have_attribute("data-language", "yaml")
    notebook.page.keyboard.press("Shift+Enter")
    notebook.wait_idle()
    expect(notebook.output(2)).to_contain_text("success")
    expect(notebook.output(2)).to_contain_text("milk")
    notebook.screenshot("actions-ran")
