"""Keys of an output, which copy their path, in a real JupyterLab."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.harness import LabPage

KEY_HTML = '<code class="pd-k" title="Copy steps.trigger.event.body.issue.title">title</code>'
KEY = f"from IPython.display import HTML\nHTML('{KEY_HTML}')"
TWO_KEYS = KEY.replace("</code>", "</code>" + KEY_HTML)
SUMMARY = KEY.replace(
    KEY_HTML, f"<details><summary>{KEY_HTML} {KEY_HTML.replace('issue.title', 'action')}</summary>x</details>"
)


@pytest.fixture(scope="module")
def keys(lab_page: LabPage) -> Iterator[LabPage]:
    """A notebook with a key, two keys, and two keys in a summary."""
    lab_page.lab.write_notebook("keys.ipynb", [KEY, TWO_KEYS, SUMMARY])
    with lab_page.alone("keys/keys.ipynb"):
        lab_page.run_all()
        yield lab_page


def test_path_is_copied_by_click(keys: LabPage) -> None:
    """A click on a key copies its path and reports the copy visibly and to a screen reader."""
    page = keys
    key = page.output(0).locator("code.pd-k")

    key.evaluate(
        "key => new MutationObserver(() => (window.marks ??= []).push(key.className)).observe(key, { attributes: true })"
    )
    key.click()

    page.page.wait_for_function("window.marks?.includes('pd-k pd-copied')")
    page.screenshot("copied")
    page.expect_copied("steps.trigger.event.body.issue.title")
    expect(page.page.locator("#pdkernel-announcer")).to_have_text("Copied steps.trigger.event.body.issue.title")
    expect(key).to_have_class("pd-k")


def test_path_is_copied_by_keyboard(keys: LabPage) -> None:
    """Enter and Space on a key copy its path and do not start editing the cell."""
    page = keys
    focusable = page.output(1).locator("code.pd-k")

    for index, pressed in enumerate(["Enter", "Space"]):
        focusable.nth(index).focus()
        page.page.keyboard.press(pressed)

        page.expect_copied("steps.trigger.event.body.issue.title")
        expect(page.page.locator(".jp-Notebook")).not_to_contain_class("jp-mod-editMode")


def test_keys_of_a_collapsible_part_are_copied_by_shortcut(keys: LabPage) -> None:
    """In a focused summary, which is a button itself, C copies the first key and Shift+C the second; Enter opens the part."""
    page = keys
    summary = page.output(2).locator("summary")
    expect(summary).to_have_attribute("aria-keyshortcuts", "c")
    summary.focus()

    for pressed, path in (("c", "issue.title"), ("Shift+C", "action")):
        page.page.keyboard.press(pressed)
        page.expect_copied(f"steps.trigger.event.body.{path}")
    page.page.keyboard.press("Enter")

    expect(page.output(2).locator("details")).to_have_attribute("open", "")
    assert summary.locator("code.pd-k").first.get_attribute("tabindex") is None


def test_key_of_an_untrusted_notebook_is_a_button(page: LabPage) -> None:
    """In an untrusted notebook, where Lab strips roles, a key can be focused and copied by keyboard."""
    path = page.lab.write_notebook("untrusted.ipynb", [KEY])
    notebook = json.loads(path.read_text())
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/html": KEY_HTML, "text/plain": "title"}}
    notebook["cells"][0]["outputs"] = [output]
    path.write_text(json.dumps(notebook))

    page.open_notebook("untrusted/untrusted.ipynb")
    key = page.output(0).locator("code.pd-k")

    expect(key).to_have_attribute("role", "button")
    expect(key).to_have_attribute("tabindex", "0")
    key.focus()
    page.page.keyboard.press("Enter")
    page.expect_copied("steps.trigger.event.body.issue.title")


def test_path_is_copied_without_a_clipboard(new_page: LabPage) -> None:
    """Copying works on a page without a clipboard API (plain http from another machine)."""
    page = new_page
    page.page.add_init_script("Object.defineProperty(navigator, 'clipboard', {get: () => undefined})")
    page.new_notebook([KEY, "pass"], name="plain.ipynb")
    page.run_cell(0)
    page.output(0).locator("code.pd-k").click()
    expect(page.page.locator("#pdkernel-announcer")).to_have_text("Copied steps.trigger.event.body.issue.title")

    page.editor(1).click()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.press("Control+v")

    expect(page.editor(1)).to_have_text("steps.trigger.event.body.issue.title")
