"""The notebook about synced workflows in a real JupyterLab: Run All takes the project from import to a proven export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.harness import LabPage, ran_notebook
from tests.lab_files import CHECKOUT

FOLDER = "bring"
NAME = "04_bring_your_workflows"


@pytest.fixture(scope="module")
def ran(lab_page: LabPage) -> Iterator[LabPage]:
    """The notebook after Run All, in its own folder."""
    with ran_notebook(lab_page, NAME, FOLDER) as page:
        yield page


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("import", "2 of 2 workflows imported."),
        ("step-send_message", "New bug report from lin@example.com"),
        ("run", "grace"),
        ("contract", "body.report.title"),
        ("export", "New bug report from"),
        ("export", "4 runs, steps: 12 same, 8 not run."),
        ("weekly", "lin@example.com: 1"),
    ],
)
def test_each_cell_shows_its_result(ran: LabPage, cell: str, said: str) -> None:
    """Each part of the notebook shows its result."""
    output = ran.output(ran.index_of(cell))
    expect(output).to_contain_text(said)
    output.scroll_into_view_if_needed()
    ran.screenshot(f"bring-{cell}")


def test_the_synced_folder_is_unchanged(ran: LabPage) -> None:
    """Import and export have written only to the copy."""
    assert _files(ran.lab.root / FOLDER / "synced") == _files(CHECKOUT / "notebooks" / "synced")
