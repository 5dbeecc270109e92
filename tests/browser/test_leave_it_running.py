"""The notebook about served runs in a real JupyterLab: Run All resumes, approves, recovers and replays; a person resumes a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.harness import LabPage, ran_notebook

FOLDER = "running"
NAME = "05_leave_it_running"


@pytest.fixture(scope="module")
def ran(lab_page: LabPage) -> Iterator[LabPage]:
    """The notebook after Run All, in its own folder."""
    with ran_notebook(lab_page, NAME, FOLDER) as page:
        yield page


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("run", "✓ success"),
        ("invoke", "grace 200"),
        ("runs", "Pipedream Connect Error: No matching external"),
        ("kill", "finished: True"),
        ("approve_all", "success"),
        ("fork", "again with the recorded definition, in its server."),
        ("stop", "stopped, exit status 0"),
    ],
)
def test_each_cell_shows_its_result(ran: LabPage, cell: str, said: str) -> None:
    """Each part of the notebook shows its result."""
    output = ran.output(ran.index_of(cell))
    expect(output).to_contain_text(said)
    output.scroll_into_view_if_needed()
    ran.screenshot(f"running-{cell}")


def test_a_paused_test_is_resumed_by_its_button(ran: LabPage) -> None:
    """The paused run of a cell has buttons; the typed data resumes it, its timeline ends, and the buttons are gone."""
    ran.run_cell(ran.index_of("run"))
    output = ran.output(ran.index_of("run"))
    expect(output).to_contain_text("‖ paused")
    ran.screenshot("running-paused")
    output.get_by_label("$resume_data").fill('{"approved": true, "note": "by hand"}')
    output.get_by_role("button", name="Resume now").click()

    expect(output).to_contain_text('"note": "by hand"')
    expect(output).to_contain_text("✓ success")
    expect(output.get_by_role("button", name="Resume now")).to_be_hidden()
