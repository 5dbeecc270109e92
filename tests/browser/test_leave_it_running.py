"""The notebook about served runs in a real JupyterLab: a person resumes a test."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.harness import LabPage

FOLDER = "running"
NAME = "05_leave_it_running"
CELLS = ("load", "account", "header", "egress", "user", "event", "write", "approve", "send", "run")


def test_a_paused_test_is_resumed_by_its_button(lab_page: LabPage) -> None:
    """The paused run of a cell has buttons; the typed data resumes it, its timeline ends, and the buttons are gone."""
    lab_page.lab.copy_notebooks(FOLDER)
    with lab_page.alone(f"{FOLDER}/{NAME}.ipynb"):
        lab_page.menu("Edit", "Clear Outputs of All Cells")
        for cell in CELLS:
            lab_page.run_cell(lab_page.index_of(cell))
        output = lab_page.output(lab_page.index_of("run"))
        expect(output).to_contain_text("‖ paused")
        lab_page.screenshot("running-paused")
        output.get_by_label("$resume_data").fill('{"approved": true, "note": "by hand"}')
        output.get_by_role("button", name="Resume now").click()

        expect(output).to_contain_text('"note": "by hand"')
        expect(output).to_contain_text("✓ success")
        expect(output.get_by_role("button", name="Resume now")).to_be_hidden()
