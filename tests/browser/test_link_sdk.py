"""
`connectAccount` of the official SDKs for browsers, unmodified, against `pdkernel serve --tls`.

The product's page is on another site than the link, as in production, so the link's frame has no cookie of pdkernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import BrowserContext, FrameLocator, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pdkernel.accounts import LocalDirectory
from tests.browser.harness import LabPage
from tests.browser.link_site import Site, link_site
from tests.conformance.sdks import GATE, Sdk
from tests.oauth_provider import running

pytestmark = pytest.mark.network

ENTRIES = {"3.1.6": "dist/esm/browser/index.mjs", "1.8.0": "dist/browser.js"}
DRIVEN = [sdk for sdk in GATE if sdk.version in ENTRIES]
PAGE = """<!DOCTYPE html><title>The product</title><p id="callbacks">[]</p><button disabled>Connect</button><script type="module">
const asked = Object.fromEntries(new URLSearchParams(location.search));
const { createFrontendClient } = await import(asked.sdk);
const callbacks = [];
const tell = (...words) => {
  callbacks.push(words);
  document.querySelector('#callbacks').textContent = JSON.stringify(callbacks);
};
const tokenCallback = async () => {
  const made = await (await fetch('/token')).json();
  return { token: made.token, expiresAt: new Date(made.expires_at), connectLinkUrl: made.connect_link_url };
};
const client = createFrontendClient({ externalUserId: 'ada', environment: 'development',
  frontendHost: asked.host, tokenCallback });
const button = document.querySelector('button');
button.onclick = async () => client.connectAccount({
  app: asked.app,
  token: asked.token ?? (await tokenCallback()).token,
  ...(asked.account ? { accountId: asked.account } : {}),
  onSuccess: (account) => tell('success', account.id),
  onError: (error) => tell('error', error.message),
  onClose: (how) => tell('close', how ?? null),
});
button.disabled = false;
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A project served over TLS, which the SDKs require."""
    with link_site(tmp_path_factory.mktemp("link-sdk"), "--tls") as site:
        yield site


@dataclass
class Product:
    """
    A page of the product with the SDK in it.

    Attributes:
        page: The page of the product.
        site: The server that connects accounts.
        url: The address of the product.
        sdk: The SDK in the page.
    """

    page: Page
    site: Site
    url: str
    sdk: Sdk

    @property
    def frame(self) -> FrameLocator:
        """The frame that the SDK creates."""
        return self.page.frame_locator("iframe[title='Pipedream Connect']")

    def connect(self, app: str, **more: str) -> None:
        """Open the page and press its button."""
        entry = f"/sdk/{ENTRIES[self.sdk.version]}"
        asked = {"sdk": entry, "host": urlsplit(self.site.url).netloc, "app": app, **more}
        self.page.goto(f"{self.url}/?{urlencode(asked)}")
        self.page.get_by_role("button", name="Connect").click()

    def callbacks(self, last: str) -> list[Any]:
        """The callbacks of the SDK, after the callback *last*."""
        try:
            expect(self.page.locator("#callbacks")).to_contain_text(f'["{last}"')
        except AssertionError as fault:
            frames = [frame.evaluate("document.body.innerText") for frame in self.page.frames]
            raise AssertionError(f"{fault}\nThe frames show: {frames}") from None
        callbacks: list[Any] = json.loads(self.page.locator("#callbacks").inner_text())
        return callbacks

    def account(self, app: str) -> str:
        """The id of ada's newest account."""
        account = LocalDirectory(self.site.project).newest_account("ada", "development", app)
        assert account is not None
        return account.id


@pytest.fixture(scope="module", params=DRIVEN, ids=str)
def served(request: pytest.FixtureRequest, site: Site) -> Iterator[tuple[str, Sdk]]:
    """The product, with each SDK: its URL."""
    sdk: Sdk = request.param
    sdk.install()
    made: list[str] = []

    async def token(_: Request) -> Response:
        return JSONResponse(site.connect_token("ada", allowed_origins=made))

    async def shown(_: Request) -> Response:
        return HTMLResponse(PAGE)

    files = StaticFiles(directory=Path(sdk.folder) / "node_modules" / sdk.package)
    with running(Starlette(routes=[Route("/", shown), Route("/token", token), Mount("/sdk", files)])) as url:
        made.append(url.replace("127.0.0.1", "localhost"))
        yield made[0], sdk


@pytest.fixture(scope="module")
def trusting(browser: BrowserContext) -> Iterator[BrowserContext]:
    """A browser that trusts the project's certificate authority."""
    assert browser.browser is not None
    context = browser.browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def product(trusting: BrowserContext, served: tuple[str, Sdk], site: Site) -> Iterator[Product]:
    """The product's page."""
    url, sdk = served
    page = trusting.new_page()
    yield Product(page, site, url, sdk)
    page.close()


def statuses(callbacks: list[Any]) -> list[str]:
    """The names of the callbacks."""
    return [name for name, *_ in callbacks]


def test_a_key_based_account_is_connected(product: Product) -> None:
    """The frame's form is filled in; the SDK receives the account and removes the frame."""
    product.connect("my_crm")
    product.frame.get_by_label("API key").fill("k-0123456789")
    LabPage(None, product.page).screenshot("link-3-frame")  # type: ignore[arg-type]  # no Lab is behind this page
    product.frame.get_by_role("button", name="Connect").click()

    callbacks = product.callbacks("close")
    assert statuses(callbacks) == ["success", "close"]
    assert callbacks[0] == ["success", product.account("my_crm")]
    expect(product.page.locator("iframe")).to_have_count(0)


def test_an_oauth_account_is_connected(product: Product) -> None:
    """The app's page opens in a new window, which closes after the redirect back."""
    product.connect("my_mail")
    with product.page.expect_popup() as opened:
        product.frame.get_by_role("button", name="Continue to 127.0.0.1").click()
    expect(product.frame.get_by_role("status")).to_have_text("Continue in the window that has opened.")
    opened.value.get_by_role("link", name="Allow").click()

    callbacks = product.callbacks("close")
    if not opened.value.is_closed():
        opened.value.wait_for_event("close")
    assert statuses(callbacks) == ["success", "close"]
    assert callbacks[0] == ["success", product.account("my_mail")]


def test_a_refused_sign_in_can_be_repeated(product: Product) -> None:
    """The SDK receives the refusal; a second attempt in the same frame connects and closes the frame."""
    product.connect("my_mail")
    with product.page.expect_popup() as opened:
        product.frame.get_by_role("button", name="Continue to 127.0.0.1").click()
    opened.value.get_by_role("link", name="Deny").click()
    callbacks = product.callbacks("error")
    expect(product.frame.get_by_role("status")).to_contain_text("No <b>thanks</b>")
    with product.page.expect_popup() as opened:
        product.frame.get_by_role("button", name="Continue to 127.0.0.1").click()
    opened.value.get_by_role("link", name="Allow").click()

    assert callbacks == [["error", "My Mail answered: access_denied: No <b>thanks</b>"]]
    assert statuses(product.callbacks("close")) == ["error", "success", "close"]


def test_cancelling(product: Product) -> None:
    """The SDK reports that the person closed the frame, and no account is connected."""
    product.connect("my_crm")
    product.frame.get_by_role("button", name="Cancel").click()

    [[name, how]] = product.callbacks("close")
    assert (name, how) in [("close", {"successful": False, "completed": False}), ("close", None)]
    expect(product.page.locator("iframe")).to_have_count(0)


def test_an_unknown_app(product: Product) -> None:
    """The SDK receives the platform's message, and the frame shows the message until it is closed."""
    product.connect("No-App")
    assert product.callbacks("error") == [["error", "App not found. Please check your app id."]]
    product.frame.get_by_role("button", name="Close").click()

    assert statuses(product.callbacks("close")) == ["error", "close"]


@pytest.mark.parametrize("served", [sdk for sdk in DRIVEN if not sdk.version.startswith("1.")], ids=str, indirect=True)
def test_an_account_is_connected_again(product: Product) -> None:
    """With `accountId`, an option that SDK 1.x lacks, the account keeps its id."""
    directory = LocalDirectory(product.site.project)
    directory.delete_user("ada", "development")
    account = directory.add_account(app="my_crm", credentials={"api_key": "k-old-0123456"}, external_user_id="ada")
    product.connect("my_crm", account=account.id)
    product.frame.get_by_label("API key").fill("k-new-0123456")
    product.frame.get_by_role("button", name="Connect").click()

    assert product.callbacks("close")[0] == ["success", account.id]
    assert product.site.credentials("my_crm", "ada") == {"api_key": "k-new-0123456"}
