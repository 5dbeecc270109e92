"""A click in a notebook's picker opens the link page in a tab, and the picker shows the result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.apps import OAuthProvider, register_app, register_provider
from pdkernel.storage import Project
from tests.browser.harness import LINK_SERVER, LabPage
from tests.oauth_provider import CLIENT_ID, CLIENT_SECRET, oauth_provider

FOLDER = "connecting"
KEY = "k-typed-into-the-link-page"
STEP = """%%pdstep send --app my_crm --app my_mail --no-run
def handler(pd):
    return sorted(pd.inputs["my_crm"]["$auth"])
"""


@dataclass
class Notebook:
    """
    A notebook whose step needs a key-based and an OAuth account, with ada's picker.

    Attributes:
        page: The page of the notebook.
        browser: The browser in which tabs open.
        project: The project of the notebook.
    """

    page: LabPage
    browser: BrowserContext
    project: Project

    @property
    def picker(self) -> Locator:
        """The output of the picker's cell."""
        return self.page.output(2)

    def opens(self, button: str, nth: int) -> Page:
        """Click the button of the *nth* listed app; return the new tab."""
        with self.browser.expect_page() as opened:
            self.picker.get_by_role("button", name=button, exact=True).nth(nth).click()
        opened.value.wait_for_load_state()
        return opened.value

    def account(self, app: str) -> dict[str, str]:
        """The credentials and the id of ada's account of *app*."""
        directory = LocalDirectory(self.project)
        account = directory.newest_account("ada", "development", app)
        assert account is not None
        return {**directory.credentials(account.id), "id": account.id}


@pytest.fixture(scope="module")
def opened(lab_page: LabPage, browser: BrowserContext) -> Iterator[Notebook]:
    """A notebook with a project of its own, after Run All."""
    folder = lab_page.lab.root / FOLDER
    folder.mkdir()
    with Project.open(folder / ".pdkernel") as project, oauth_provider() as provider:
        register_app(project, "my_crm", ["subdomain", "api_key"])
        endpoints = (f"{provider.url}/authorize", f"{provider.url}/token")
        register_provider(project, "my_mail", OAuthProvider(*endpoints, CLIENT_ID, CLIENT_SECRET))
        cells = [f"%load_ext pdkernel\n{LINK_SERVER}\n%pduser ada", STEP, "%pduser"]
        lab_page.lab.write_notebook(f"{FOLDER}/work.ipynb", cells)
        with lab_page.alone(f"{FOLDER}/work.ipynb"):
            lab_page.run_all()
            yield Notebook(lab_page, browser, project)


@pytest.fixture
def notebook(opened: Notebook) -> Notebook:
    """The notebook with a new picker, for ada without accounts."""
    LocalDirectory(opened.project).delete_user("ada", "development")
    opened.page.run_cell(2)
    expect(opened.picker.get_by_role("button", name="Connect with Link")).to_have_count(2)
    return opened


def test_a_key_based_account_is_connected(notebook: Notebook) -> None:
    """The tab shows the app's fields; after they are sent the picker has the account, and no cell runs again."""
    tab = notebook.opens("Connect with Link", 0)
    expect(notebook.picker).to_contain_text("Continue in the opened page.")
    notebook.page.screenshot("connecting-1-waiting")
    tab.get_by_label("Subdomain").fill("acme")
    tab.get_by_label("API key").fill(KEY)
    LabPage(notebook.page.lab, tab).screenshot("connecting-2-fields")
    tab.get_by_role("button", name="Connect").click()

    expect(tab.get_by_role("status")).to_contain_text("Your My CRM account is connected.")
    account = notebook.account("my_crm")
    expect(notebook.picker).to_contain_text(f"Connected: {account['id']}.")
    expect(notebook.picker.get_by_role("button", name="Reconnect with Link")).to_have_count(1)
    expect(notebook.picker).to_contain_text(f"My CRM · {account['id']} (ada)")
    assert (account["subdomain"], account["api_key"]) == ("acme", KEY)
    assert tab.evaluate("window.opener") is None
    notebook.page.screenshot("connecting-3-connected")
    tab.close()


def test_an_oauth_account_is_connected(notebook: Notebook) -> None:
    """An app with a provider opens its sign-in page; the notebook reports a refusal, and a second attempt connects."""
    tab = notebook.opens("Connect with Link", 1)
    tab.get_by_role("button", name="Continue to 127.0.0.1").click()
    tab.get_by_role("link", name="Deny").click()
    expect(notebook.picker).to_contain_text("Not connected: My Mail answered: access_denied: No <b>thanks</b>")
    tab.close()
    tab = notebook.opens("Connect with Link", 1)
    tab.get_by_role("button", name="Continue to 127.0.0.1").click()
    tab.get_by_role("link", name="Allow").click()

    expect(notebook.picker).to_contain_text(re.compile(r"Connected: apn_\w+"))
    assert notebook.account("my_mail")["oauth_access_token"].startswith("access-")
    tab.close()


def test_an_account_is_connected_again(notebook: Notebook) -> None:
    """The account keeps its id and has the new key."""
    directory = LocalDirectory(notebook.project)
    directory.add_account(
        app="my_crm", credentials={"api_key": "k-old-0123456789"}, external_user_id="ada", account_id="apn_stays"
    )
    notebook.page.run_cell(2)
    tab = notebook.opens("Reconnect with Link", 0)
    expect(tab.get_by_role("heading")).to_have_text("Connect My CRM again")
    tab.get_by_label("API key").fill(KEY)
    tab.get_by_role("button", name="Connect").click()

    expect(notebook.picker).to_contain_text("Connected: apn_stays.")
    assert notebook.account("my_crm") == {"api_key": KEY, "id": "apn_stays"}
    tab.close()


def test_cancelling(notebook: Notebook) -> None:
    """The notebook reports that the user cancelled in the tab."""
    tab = notebook.opens("Connect with Link", 0)
    tab.get_by_role("button", name="Cancel").click()

    expect(tab.get_by_role("heading")).to_have_text("Cancelled")
    expect(notebook.picker).to_contain_text("Cancelled in the page: My CRM is not connected.")
    tab.close()


def test_the_saved_notebook_holds_no_secret(notebook: Notebook) -> None:
    """The notebook contains neither the typed secret nor the link's token, before and after the account is connected."""
    tab = notebook.opens("Connect with Link", 0)
    expect(notebook.picker).to_contain_text("Continue in the opened page.")
    before = notebook.page.save().read_text(encoding="utf-8")
    tab.get_by_label("API key").fill(KEY)
    tab.get_by_role("button", name="Connect").click()
    expect(notebook.picker).to_contain_text("Connected: apn_")
    expect(notebook.picker).to_contain_text("My CRM apn_")  # the line below, which is drawn after
    after = notebook.page.save().read_text(encoding="utf-8")
    tab.close()

    assert "My CRM apn_" in after
    assert [word for word in ("ctok_", KEY, CLIENT_SECRET) if word in before + after] == []


def test_what_if(notebook: Notebook) -> None:
    """The form previews the lookup of another environment; the choice stays, and no step runs."""
    notebook.picker.get_by_role("button", name="What if …").click()
    fields = notebook.picker.get_by_label("environment")
    fields.last.select_option("production")
    notebook.picker.get_by_role("button", name="Look up").click()

    expect(notebook.picker).to_contain_text("For external user ada in production, the lookup fails. No code was run.")
    expect(notebook.picker).to_contain_text("%pduser ada --environment production --what-if")
    expect(notebook.picker).to_contain_text("%pduser ada --environment development")
    notebook.picker.scroll_into_view_if_needed()
    notebook.page.screenshot("connecting-4-what-if")
