"""A person connects an account through the page of Connect Link, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from pdkernel.connect import LocalDirectory, providers
from pdkernel.connect.apps import tell_app
from pdkernel.connect.providers import tell_provider
from pdkernel.project import Project
from tests.oauth_provider import CLIENT_ID, CLIENT_SECRET, oauth_provider
from tests.serve_process import serving


@dataclass
class Site:
    """
    A project, served in another process.

    Attributes:
        project: It, opened here too.
        url: Where it is served.
        token: An access token of a client.
    """

    project: Project
    url: str
    token: str = field(repr=False)

    def link(self, app: str, user: str, **fields: str) -> str:
        """A link for *user*."""
        answer = httpx.post(
            f"{self.url}/v1/connect/{self.project.project_id}/tokens",
            headers={"authorization": f"Bearer {self.token}"},
            json={"external_user_id": user, **fields},
        )
        return f"{answer.json()['connect_link_url']}&app={app}"

    def credentials(self, app: str, user: str) -> dict[str, str]:
        """What the newest account of *user* holds."""
        directory = LocalDirectory(self.project)
        account = directory.newest_account(user, "development", app)
        return {} if account is None else dict(directory.credentials(account.id))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A project with a key-based app and one that people sign in to."""
    folder: Path = tmp_path_factory.mktemp("link")
    with Project.open(folder / ".pdkernel") as project, oauth_provider() as provider:
        tell_app(project, "my_crm", ["subdomain", "api_key"])
        authorize, token = f"{provider.url}/authorize", f"{provider.url}/token"
        tell_provider(project, "my_mail", providers.Provider(authorize, token, CLIENT_ID, CLIENT_SECRET))
        client = project.clients.create("tests")
        with serving(folder) as (told, _):
            asked = {"client_id": client.client.id, "client_secret": client.secret, "grant_type": "client_credentials"}
            access = httpx.post(f"{told['url']}/v1/oauth/token", json=asked).json()["access_token"]
            yield Site(project, told["url"], access)


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A page of its own, whose console must stay empty: a breach of the content policy would show there."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.close()
    # the status of a page that says what went wrong is none of them, nor is the icon that a provider does not have
    assert [problem for problem in problems if not problem.startswith("Failed to load resource")] == []


def test_an_account_by_its_key(site: Site, page: Page) -> None:
    """The person fills the form in and is told that the account is connected; the page looks as it should."""
    page.goto(site.link("my_crm", "ada"))
    page.get_by_label("subdomain").fill("acme")
    page.get_by_label("api_key").fill("k-0123456789")
    hidden = page.get_by_label("api_key").get_attribute("type")
    width = page.locator("main").bounding_box()
    page.get_by_role("button", name="Connect").click()

    expect(page.get_by_role("status")).to_have_text("Your my_crm account is connected. You can close this page.")
    assert site.credentials("my_crm", "ada") == {"subdomain": "acme", "api_key": "k-0123456789"}
    assert hidden == "password"
    assert width is not None
    assert 400 <= width["width"] <= 420  # the page's own style is in force


def test_an_account_by_signing_in(site: Site, page: Page) -> None:
    """The person is led to the app, allows it there, and comes back."""
    page.goto(site.link("my_mail", "ada"))
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    page.get_by_role("link", name="Allow").click()

    expect(page.get_by_role("heading")).to_have_text("Connected")
    assert site.credentials("my_mail", "ada")["oauth_access_token"].startswith("access-")


def test_who_declines_can_try_again(site: Site, page: Page) -> None:
    """The app's refusal is shown, and the same link still works."""
    link = site.link("my_mail", "bob")
    page.goto(link)
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    page.get_by_role("link", name="Deny").click()
    expect(page.get_by_role("alert")).to_contain_text("my_mail answered: access_denied: No <b>thanks</b>")
    page.goto(link)
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    page.get_by_role("link", name="Allow").click()

    expect(page.get_by_role("heading")).to_have_text("Connected")


def test_the_product_gets_its_user_back(site: Site, page: Page) -> None:
    """After a form the person arrives at the product's own page by itself."""
    page.goto(site.link("my_crm", "eve", success_redirect_uri=site.url + "/-/live"))
    page.get_by_label("api_key").fill("k-0123456789")
    page.get_by_role("button", name="Connect").click()

    page.wait_for_url("**/-/live")
