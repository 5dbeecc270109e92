"""The picker of a project with 5,000 external users."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from pdkernel.storage import Project
from tests.browser.harness import LabPage
from tests.many_users import add_failed_runs, add_users

FOLDER = "many-users"
USERS = 5_000
STEP = "%%pdstep send --app slack --no-run\ndef handler(pd):\n    return 1\n"
CELLS = ("%load_ext pdkernel", STEP, "%pduser", "%pdevent", "print('the cell', 'has run')")
PICKER, COMPOSER, CELL = 2, 3, 4


@pytest.fixture(scope="module")
def shown(lab_page: LabPage) -> Iterator[LabPage]:
    """A notebook with a picker in a project with many users."""
    folder = lab_page.lab.root / FOLDER
    folder.mkdir()
    with Project.open(folder / ".pdkernel") as project:
        add_users(project, USERS)
        add_failed_runs(project, {"user-04001": "/failed"}, at=project.clock.now())
    lab_page.lab.write_notebook(f"{FOLDER}/work.ipynb", CELLS)
    with lab_page.alone(f"{FOLDER}/work.ipynb"):
        lab_page.run_all()
        yield lab_page


def users(page: LabPage) -> Locator:
    """The buttons of the users in the list."""
    return page.output(PICKER).get_by_role("button", name=re.compile(r"^user-\d{5}$"))


def test_the_most_recently_active_users_are_shown_at_first(shown: LabPage) -> None:
    """The cell has ended; its form shows twenty users with their marks, first the user with a run, and the number of the others."""
    expect(users(shown)).to_have_count(20)
    expect(users(shown).nth(0)).to_have_text("user-04001")
    expect(users(shown).nth(1)).to_have_text("user-00000")
    picker = shown.output(PICKER)
    expect(picker).to_contain_text("4,980 more, type to narrow.")
    expect(picker).to_contain_text("✓ ready")
    expect(picker).to_contain_text("✗ missing Slack")
    expect(picker.get_by_text("! failed today")).to_have_count(1)
    picker.scroll_into_view_if_needed()
    shown.screenshot("user-search-1-first")


def test_typing_narrows_the_list_and_blocks_no_cell(shown: LabPage) -> None:
    """The list follows each key, also to the name of an account; a cell that is run meanwhile ends."""
    field = shown.output(PICKER).get_by_label("search", exact=True)
    field.click()
    shown.page.keyboard.type("company 123")
    shown.run_cell(CELL)
    expect(shown.output(CELL)).to_contain_text("the cell has run")
    expect(users(shown)).to_have_count(11)
    expect(shown.output(PICKER)).to_contain_text("11 external users whose id or account name contains 'company 123'")
    shown.screenshot("user-search-2-typed")
    field.fill("user-0123")
    expect(users(shown)).to_have_count(10)
    field.fill("")
    expect(users(shown)).to_have_count(20)


def test_one_click_uses_the_failed_event(shown: LabPage) -> None:
    """The button of a failed user makes the event of the run the test event, and picks the user."""
    picker = shown.output(PICKER)
    picker.get_by_role("button", name="Use the failed event").click()
    expect(picker).to_contain_text("external user: user-04001")
    expect(picker).to_contain_text("%pdevent --run run-user-04001")
    expect(shown.output(COMPOSER).get_by_label("path", exact=True)).to_have_value("/failed")
    shown.screenshot("user-search-3-failed")


def test_a_click_picks_the_user(shown: LabPage) -> None:
    """A press of a user's button makes steps run as the user, and the readable output says so."""
    field = shown.output(PICKER).get_by_label("search", exact=True)
    field.fill("user-04992")
    expect(users(shown)).to_have_count(1)
    users(shown).first.click()
    expect(shown.output(PICKER)).to_contain_text("Steps run as user-04992 in development. Accounts: Slack apn_4992")
    shown.screenshot("user-search-4-picked")
