"""The notebook about end users in a real JupyterLab: a second user connects an account through the printed link."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from pdkernel.project import Project
from tests import end_users_notebook
from tests.browser.harness import Lab, LabPage
from tests.lab_files import CHECKOUT
from tests.notebooks import TOKEN

FOLDER = "end-users"
AFTER_THE_LINK = ("matrix_now", "invoke_now", "snippets", "stop", "back", "remove")


class Notebook:
    """The notebook in a page, its cells by id."""

    def __init__(self, page: LabPage) -> None:
        self.page = page

    def output(self, cell: str) -> Locator:
        """The output of the cell with this id."""
        return self.page.output(self.page.index_of(cell))

    def run(self, cell: str) -> None:
        """Run one cell."""
        self.page.run_cell(self.page.index_of(cell))


@pytest.fixture(scope="module")
def stopped(browser: BrowserContext, lab: Lab) -> Iterator[Notebook]:
    """The notebook after Run All, in its own folder; ada has an account."""
    ours = shutil.ignore_patterns("exported", ".pdkernel", ".ipynb_checkpoints")
    shutil.copytree(CHECKOUT / "notebooks", lab.root / FOLDER, ignore=ours)
    with Project.open(lab.root / FOLDER / ".pdkernel") as project:
        end_users_notebook.prepare(project)
    page = LabPage(lab, browser.new_page())
    page.watch()
    page.open_notebook(f"{FOLDER}/{end_users_notebook.NAME}.ipynb")
    page.menu("Edit", "Clear Outputs of All Cells")
    page.run_all()
    yield Notebook(page)
    page.page.close()
    lab.end_sessions()
    assert page.external == []
    assert page.errors == []


@pytest.fixture(scope="module")
def connected(stopped: Notebook, browser: BrowserContext) -> Notebook:
    """The notebook after Grace connected an account through the link in another tab, and the cells below ran."""
    with browser.expect_page() as opened:
        stopped.output("link").get_by_role("link").click()
    page = opened.value
    page.locator("input[type=password]").first.fill(f"{TOKEN}-grace")
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_role("status")).to_contain_text("Your slack account is connected.")
    page.close()
    for cell in AFTER_THE_LINK:
        stopped.run(cell)
    return stopped


@pytest.fixture(scope="module")
def saved(connected: Notebook) -> str:
    """The text of the notebook's file afterwards."""
    return connected.page.save().read_text(encoding="utf-8")


def test_run_all_stops_below_the_link(stopped: Notebook) -> None:
    """Ada's call succeeds, grace's call is refused with the platform's message; the cell below the link stops Run All."""
    expect(stopped.output("invoke")).to_contain_text("200 OK")
    expect(stopped.output("refused")).to_contain_text("No matching external user ID: grace in development")
    expect(stopped.output("link")).to_contain_text("/_static/connect.html?token=")
    expect(stopped.output("matrix_now")).to_contain_text("1 of 1 external user can run it")
    expect(stopped.output("invoke_now")).to_contain_text("The endpoint answered 400 Bad Request.")
    expect(stopped.output("snippets").locator(".jp-OutputArea-output")).to_have_count(0)
    stopped.output("link").scroll_into_view_if_needed()
    stopped.page.screenshot("end-users-1-stopped")


def test_the_link_connects_the_account(connected: Notebook) -> None:
    """Grace's call succeeds after she used the link, and the serving cell lists the requests."""
    expect(connected.output("matrix_now")).to_contain_text("2 of 2 external users can run it")
    expect(connected.output("invoke_now")).to_contain_text("200 OK")
    expect(connected.output("serve")).to_contain_text(re.compile(r"as ada\s+success.*as grace\s+error", re.DOTALL))
    expect(connected.output("serve")).to_contain_text(re.compile(r"as grace\s+success"))
    connected.output("serve").scroll_into_view_if_needed()
    connected.page.screenshot("end-users-2-connected")


def test_each_request_has_its_own_button(connected: Notebook, saved: str) -> None:
    """A click on the button of an older request makes its event the test event; the saved notebook has the line form."""
    output = connected.output("serve")
    buttons = output.get_by_role("button", name=re.compile("POST . as (ada|grace)$"))
    expect(buttons).to_have_count(4)  # one of ada, three of grace
    buttons.first.click()
    expect(output).to_contain_text(re.compile(r"The test event is now request \w{6}\. As a line: %pdserve use \w{27}"))
    output.scroll_into_view_if_needed()
    connected.page.screenshot("end-users-3-used")

    assert "Use as the test event: %pdserve use RUN" in saved


def test_requests_are_logged_in_the_terminal_only(connected: Notebook, saved: str) -> None:
    """The log line of a request is in no cell."""
    assert "POST /v1/oauth/token 200" not in saved
    assert "POST /v1/oauth/token 200" in (connected.page.lab.folder / "lab.log").read_text(encoding="utf-8")


def test_no_secret_is_saved(connected: Notebook, saved: str) -> None:
    """The saved notebook contains neither the client's secret nor the typed credentials, and the client is removed."""
    with Project.open(connected.page.lab.root / FOLDER / ".pdkernel") as project:
        left = project.oauth_clients.list_clients()

    assert TOKEN not in saved
    assert re.findall(r"\bpds_\w+", saved) == []
    assert list(left) == []
