"""A person connects an account through the page of Connect Link, in Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pdkernel.connect import LocalDirectory, providers
from pdkernel.connect.apps import tell_app
from pdkernel.connect.providers import tell_provider
from pdkernel.project import Project
from tests.oauth_provider import CLIENT_ID, CLIENT_SECRET, oauth_provider, running
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

    def link(self, app: str, user: str, **fields: Any) -> str:
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
    """A page of its own, in which nothing breaks the content policy, and no script fails."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(f"Content Security Policy or not: {error}"))
    yield page
    page.close()
    assert [problem for problem in problems if "Content Security Policy" in problem] == []


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


@pytest.fixture
def product() -> Iterator[str]:
    """A page of the product that shows the link in a frame and writes down what the frame tells it."""

    async def shown(request: Request) -> Response:
        return HTMLResponse(
            "<p id='told'></p><iframe width=600 height=500></iframe><script>"
            "document.querySelector('iframe').src = new URLSearchParams(location.search).get('link');"
            "addEventListener('message', (event) => {"
            " document.querySelector('#told').textContent = JSON.stringify(event.data); });</script>"
        )

    with running(Starlette(routes=[Route("/", shown)])) as url:
        yield url


def test_the_product_may_frame_the_page(site: Site, page: Page, product: str) -> None:
    """With its origin allowed, the product's page shows the form in a frame and is told which account came of it."""
    link = site.link("my_crm", "kim", allowed_origins=[product])
    page.goto(f"{product}/?{urlencode({'link': link})}")
    frame = page.frame_locator("iframe")
    frame.get_by_label("api_key").fill("k-0123456789")
    frame.get_by_role("button", name="Connect").click()

    expect(page.locator("#told")).to_contain_text("authProvisionId")
    account = LocalDirectory(site.project).newest_account("kim", "development", "my_crm")
    assert account is not None
    assert json.loads(page.locator("#told").inner_text()) == {"type": "success", "authProvisionId": account.id}


def test_nobody_else_may_frame_the_page(site: Site, browser: BrowserContext, product: str) -> None:
    """Without it the browser shows nothing of ours in the frame."""
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(f"{product}/?{urlencode({'link': site.link('my_crm', 'lee')})}")

    expect(page.frame_locator("iframe").get_by_label("api_key")).to_have_count(0)
    page.wait_for_timeout(300)
    page.close()
    assert any("frame-ancestors 'none'" in text for text in refused)
