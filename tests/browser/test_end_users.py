"""The notebook about end users in a real JupyterLab: Run All serves the draft, connects a second user, and cleans up."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from pdkernel.accounts import LocalDirectory
from pdkernel.common.secret_patterns import CREDENTIAL_FORMS
from pdkernel.storage import Project
from tests.browser.harness import LabPage, ran_notebook

FOLDER = "end-users"
NAME = "03_end_users"


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
def ran(lab_page: LabPage) -> Iterator[Notebook]:
    """The notebook after Run All, in its own folder."""
    with ran_notebook(lab_page, NAME, FOLDER) as page:
        yield Notebook(page)


@pytest.fixture(scope="module")
def saved(ran: Notebook) -> str:
    """The text of the notebook's file afterwards."""
    return ran.page.save().read_text(encoding="utf-8")


def test_run_all_reaches_the_end(ran: Notebook) -> None:
    """Grace's first call is refused with the platform's message; after the link, her call succeeds, and its programs are shown."""
    expect(ran.output("matrix")).to_contain_text("1 of 2 external users can run it")
    expect(ran.output("invoke")).to_contain_text("200 OK")
    expect(ran.output("refused")).to_contain_text("No matching external user ID: grace in development")
    expect(ran.output("page")).to_contain_text("Your Slack account is connected.")
    expect(ran.output("matrix_now")).to_contain_text("2 of 2 external users can run it")
    expect(ran.output("invoke_now")).to_contain_text("200 OK")
    expect(ran.output("snippets")).to_contain_text("TypeScript, @pipedream/sdk 3.x")
    expect(ran.output("remove")).to_contain_text("The client is removed.")
    for cell in ("matrix", "refused", "snippets"):
        ran.output(cell).scroll_into_view_if_needed()
        ran.page.screenshot(f"end-users-{cell}")


def test_the_serving_cell_lists_the_requests(ran: Notebook) -> None:
    """The serving cell lists Ada's call, Grace's refused call and her successful calls."""
    expect(ran.output("serve")).to_contain_text(re.compile(r"as ada\s+✓ success.*as grace\s+✗ error", re.DOTALL))
    expect(ran.output("serve")).to_contain_text(re.compile(r"as grace\s+✓ success"))


def test_each_request_has_its_own_button(ran: Notebook, saved: str) -> None:
    """A click on the button of an older request makes its event the test event; the saved notebook has the line form."""
    output = ran.output("serve")
    buttons = output.get_by_role("button", name=re.compile("POST . as (ada|grace)$"))
    expect(buttons).to_have_count(6)  # one of ada; of grace: two calls, and three programs
    buttons.first.click()
    expect(output).to_contain_text(re.compile(r"The test event is now request \w{6}\. As a line: %pdserve use \w{27}"))
    output.scroll_into_view_if_needed()
    ran.page.screenshot("end-users-3-used")

    assert "Use as the test event: %pdserve use RUN" in saved


def test_requests_are_logged_in_the_terminal_only(ran: Notebook, saved: str) -> None:
    """The log line of a request is in no cell."""
    assert "POST /v1/oauth/token 200" not in saved
    assert "POST /v1/oauth/token 200" in (ran.page.lab.folder / "lab.log").read_text(encoding="utf-8")


def test_no_secret_is_saved(saved: str) -> None:
    """The saved notebook has no text in the form of a credential."""
    assert [name for name, form in CREDENTIAL_FORMS if form.search(saved)] == []


def test_what_the_notebook_made_is_removed(ran: Notebook) -> None:
    """The client and the second user are removed, so that the notebook can run again from the top."""
    with Project.open(ran.page.lab.root / FOLDER / ".pdkernel") as project:
        clients = project.oauth_clients.list_clients()
        users = LocalDirectory(project).users("development")

    assert list(clients) == []
    assert [user.external_id for user in users] == ["ada"]
