"""Accounts connected through the page of Connect Link, in Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from playwright.sync_api import BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pdkernel.accounts import LocalDirectory
from tests.browser.harness import find_barriers
from tests.browser.link_site import Site, link_site
from tests.oauth_provider import running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A project with a key-based app and an OAuth app."""
    with link_site(tmp_path_factory.mktemp("link")) as site:
        yield site


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A separate page; the test fails if the page violates the content policy or a script fails."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(f"Content Security Policy or not: {error}"))
    yield page
    page.close()
    assert [problem for problem in problems if "Content Security Policy" in problem] == []


def test_a_key_based_account_is_connected(site: Site, page: Page) -> None:
    """The page confirms the account after the form is sent, and has its own style."""
    page.goto(site.link("my_crm", "ada"))
    page.get_by_label("Subdomain").fill("acme")
    page.get_by_label("API key").fill("k-0123456789")
    hidden = page.get_by_label("API key").get_attribute("type")
    width = page.locator("main").bounding_box()
    page.get_by_role("button", name="Connect").click()

    expect(page.get_by_role("status")).to_have_text("Your My CRM account is connected. You can close this page.")
    assert site.credentials("my_crm", "ada") == {"subdomain": "acme", "api_key": "k-0123456789"}
    assert hidden == "password"
    assert width is not None
    assert 400 <= width["width"] <= 420  # the page's own style is in force


def test_an_oauth_account_is_connected(site: Site, page: Page) -> None:
    """The person signs in at the app, allows the access, and returns."""
    page.goto(site.link("my_mail", "ada"))
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    page.get_by_role("link", name="Allow").click()

    expect(page.get_by_role("heading")).to_have_text("Connected")
    assert site.credentials("my_mail", "ada")["oauth_access_token"].startswith("access-")


def test_a_refused_sign_in_can_be_repeated(site: Site, page: Page) -> None:
    """The page shows the app's refusal, and the same link still works."""
    link = site.link("my_mail", "bob")
    page.goto(link)
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    page.get_by_role("link", name="Deny").click()
    expect(page.get_by_role("alert")).to_contain_text("My Mail answered: access_denied: No <b>thanks</b>")
    page.goto(link)
    page.get_by_role("button", name="Continue to 127.0.0.1").click()
    page.get_by_role("link", name="Allow").click()

    expect(page.get_by_role("heading")).to_have_text("Connected")


def test_the_user_returns_to_the_product(site: Site, page: Page) -> None:
    """After a form the page leads to the product's own page."""
    page.goto(site.link("my_crm", "eve", success_redirect_uri=site.url + "/-/live"))
    page.get_by_label("API key").fill("k-0123456789")
    page.get_by_role("button", name="Connect").click()

    page.wait_for_url("**/-/live")
    assert page.url == site.url + "/-/live"


def test_no_page_has_a_barrier(site: Site, page: Page, axe: str) -> None:
    """On a phone no page of a link scrolls sideways, and axe-core finds nothing serious in it, in the light and the dark theme."""
    page.set_viewport_size({"width": 390, "height": 800})
    token = site.connect_token("ada")["connect_link_url"]
    pages = {
        "app": token,
        "credentials": site.link("my_crm", "ada"),
        "sign-in": site.link("my_mail", "ada"),
        "invalid": f"{token}x",
    }
    found = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for name, url in pages.items():
            page.goto(url)
            found[f"{name}, {scheme}"] = find_barriers(page, axe)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name

    assert {name: barriers for name, barriers in found.items() if barriers} == {}


def test_an_app_is_chosen_by_its_name(site: Site, page: Page) -> None:
    """The page offers apps by name; the next page has the name in its title, and the titles of the credentials."""
    page.goto(site.connect_token("ada")["connect_link_url"])
    offered = page.locator("datalist option").evaluate_all("options => options.map(each => each.value)")
    page.get_by_label("App").fill("my crm")
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading")).to_have_text("Connect My CRM")
    expect(page.get_by_label("API key")).to_be_visible()
    assert {"My CRM", "My Mail", "Google Sheets"} <= set(offered)


@pytest.fixture
def product() -> Iterator[str]:
    """A page of the product that shows the link in a frame and records the messages of the frame."""

    async def shown(request: Request) -> Response:
        return HTMLResponse(
            "<p id='messages'></p><iframe width=600 height=500></iframe><script>"
            "document.querySelector('iframe').src = new URLSearchParams(location.search).get('link');"
            "const messages = [];"
            "addEventListener('message', (event) => {"
            " messages.push(event.data); document.querySelector('#messages').textContent = JSON.stringify(messages); });</script>"
        )

    with running(Starlette(routes=[Route("/", shown)])) as url:
        yield url


def test_an_allowed_origin_may_frame_the_page(site: Site, page: Page, product: str) -> None:
    """With an allowed origin, the product's page shows the form in a frame and receives the account."""
    link = site.link("my_crm", "kim", allowed_origins=[product])
    page.goto(f"{product}/?{urlencode({'link': link})}")
    frame = page.frame_locator("iframe")
    frame.get_by_label("API key").fill("k-0123456789")
    frame.get_by_role("button", name="Connect").click()

    expect(page.locator("#messages")).to_contain_text("authProvisionId")
    account = LocalDirectory(site.project).newest_account("kim", "development", "my_crm")
    assert account is not None
    expect(page.locator("#messages")).to_contain_text("close")
    messages = json.loads(page.locator("#messages").inner_text())
    assert messages == [{"type": "success", "authProvisionId": account.id}, {"type": "close"}]


def test_only_the_sign_in_window_reports_to_the_frame(site: Site, page: Page, product: str) -> None:
    """A message of another window, also of one of this server, does not reach the product; that of the sign-in window does."""
    link = site.link("my_mail", "kim", allowed_origins=[product])
    page.goto(f"{product}/?{urlencode({'link': link})}")
    frame = page.frame_locator("iframe")
    with page.expect_popup() as opened:
        frame.get_by_role("button", name="Continue to 127.0.0.1").click()
    forged = {"type": "success", "authProvisionId": "apn_forged"}
    frame.locator("body").evaluate("(_, message) => window.postMessage(message, window.location.origin)", forged)
    opened.value.get_by_role("link", name="Deny").click()

    expect(page.locator("#messages")).to_contain_text("access_denied")
    (message,) = json.loads(page.locator("#messages").inner_text())
    assert message["type"] == "error"


def test_other_origins_may_not_frame_the_page(site: Site, browser: BrowserContext, product: str) -> None:
    """Without an allowed origin the browser does not show the page in the frame."""
    page = browser.new_page()
    with page.expect_console_message(lambda message: "frame-ancestors 'none'" in message.text):
        page.goto(f"{product}/?{urlencode({'link': site.link('my_crm', 'lee')})}")

    expect(page.frame_locator("iframe").get_by_label("API key")).to_have_count(0)
    page.close()
