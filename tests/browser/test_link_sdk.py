"""
`connectAccount` of the official SDKs for browsers, unmodified, against `pdkernel serve --tls`.

The product's page is on another site than the link, as in real life: the link's frame has no cookie of ours.
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

from pdkernel.connect import LocalDirectory
from tests.browser.harness import LabPage
from tests.browser.link_site import Site, link_site
from tests.conformance.sdks import GATE, Sdk
from tests.oauth_provider import running

pytestmark = pytest.mark.registry

ENTRIES = {"3.1.6": "dist/esm/browser/index.mjs", "1.8.0": "dist/browser.js"}
DRIVEN = [sdk for sdk in GATE if sdk.version in ENTRIES]
PAGE = """<!DOCTYPE html><title>The product</title><p id="told">[]</p><button disabled>Connect</button><script type="module">
const asked = Object.fromEntries(new URLSearchParams(location.search));
const { createFrontendClient } = await import(asked.sdk);
const told = [];
const tell = (...words) => {
  told.push(words);
  document.querySelector('#told').textContent = JSON.stringify(told);
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
    """A project, served over TLS: the SDKs know no other way to the page."""
    with link_site(tmp_path_factory.mktemp("link-sdk"), "--tls") as site:
        yield site


@dataclass
class Product:
    """
    A page of the product with the SDK in it.

    Attributes:
        page: It.
        site: Where accounts are connected.
        url: The product's.
        sdk: The SDK in it.
    """

    page: Page
    site: Site
    url: str
    sdk: Sdk

    @property
    def frame(self) -> FrameLocator:
        """The frame that the SDK makes."""
        return self.page.frame_locator("iframe[title='Pipedream Connect']")

    def connect(self, app: str, **more: str) -> None:
        """Open the page and press its button."""
        entry = f"/sdk/{ENTRIES[self.sdk.version]}"
        asked = {"sdk": entry, "host": urlsplit(self.site.url).netloc, "app": app, **more}
        self.page.goto(f"{self.url}/?{urlencode(asked)}")
        self.page.get_by_role("button", name="Connect").click()

    def told(self, last: str) -> list[Any]:
        """What the SDK called, once it has called *last*."""
        expect(self.page.locator("#told")).to_contain_text(f'["{last}"')
        told: list[Any] = json.loads(self.page.locator("#told").inner_text())
        return told

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
    """A browser that trusts the project's authority."""
    assert browser.browser is not None
    context = browser.browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def product(trusting: BrowserContext, served: tuple[str, Sdk], site: Site) -> Iterator[Product]:
    """The product's page."""
    url, sdk = served
    page = trusting.new_page()
    yield Product(page, site, url, sdk)
    page.close()


def statuses(told: list[Any]) -> list[str]:
    """The names of what was called."""
    return [name for name, *_ in told]


def test_an_account_by_its_key(product: Product) -> None:
    """The frame's form is filled in; the SDK is told the account and takes the frame away."""
    product.connect("my_crm")
    product.frame.get_by_label("api_key").fill("k-0123456789")
    LabPage(None, product.page).screenshot("link-3-frame")  # type: ignore[arg-type]  # no Lab is behind this page
    product.frame.get_by_role("button", name="Connect").click()

    told = product.told("close")
    assert statuses(told) == ["success", "close"]
    assert told[0] == ["success", product.account("my_crm")]
    expect(product.page.locator("iframe")).to_have_count(0)


def test_an_account_by_signing_in(product: Product) -> None:
    """The app's page opens in a window of its own, which closes once the app has sent the person back."""
    product.connect("my_mail")
    with product.page.expect_popup() as opened:
        product.frame.get_by_role("button", name="Continue to 127.0.0.1").click()
    expect(product.frame.get_by_role("status")).to_have_text("Continue in the window that has opened.")
    opened.value.get_by_role("link", name="Allow").click()

    told = product.told("close")
    assert statuses(told) == ["success", "close"]
    assert told[0] == ["success", product.account("my_mail")]
    assert opened.value.is_closed()


def test_who_declines_at_the_app(product: Product) -> None:
    """The SDK is told why; the frame stays, a second attempt connects, and only then it is closed."""
    product.connect("my_mail")
    with product.page.expect_popup() as opened:
        product.frame.get_by_role("button", name="Continue to 127.0.0.1").click()
    opened.value.get_by_role("link", name="Deny").click()
    told = product.told("error")
    expect(product.frame.get_by_role("status")).to_contain_text("No <b>thanks</b>")
    with product.page.expect_popup() as opened:
        product.frame.get_by_role("button", name="Continue to 127.0.0.1").click()
    opened.value.get_by_role("link", name="Allow").click()

    assert told == [["error", "my_mail answered: access_denied: No <b>thanks</b>"]]
    assert statuses(product.told("close")) == ["error", "success", "close"]


def test_cancelling(product: Product) -> None:
    """The SDK is told that the person closed it, and nothing was connected."""
    product.connect("my_crm")
    product.frame.get_by_role("button", name="Cancel").click()

    [[name, how]] = product.told("close")
    assert (name, how) in [("close", {"successful": False, "completed": False}), ("close", None)]
    expect(product.page.locator("iframe")).to_have_count(0)


def test_a_wrong_app(product: Product) -> None:
    """The SDK is told the platform's words; the frame says the same until it is closed."""
    product.connect("No-App")
    assert product.told("error") == [["error", "App not found. Please check your app id."]]
    product.frame.get_by_role("button", name="Close").click()

    assert statuses(product.told("close")) == ["error", "close"]


@pytest.mark.parametrize("served", [sdk for sdk in DRIVEN if not sdk.version.startswith("1.")], ids=str, indirect=True)
def test_an_account_is_connected_again(product: Product) -> None:
    """With `accountId`, which SDK 1.x does not know, the account keeps its id."""
    directory = LocalDirectory(product.site.project)
    directory.delete_user("ada", "development")
    account = directory.add_account(app="my_crm", credentials={"api_key": "k-old-0123456"}, external_user_id="ada")
    product.connect("my_crm", account=account.id)
    product.frame.get_by_label("api_key").fill("k-new-0123456")
    product.frame.get_by_role("button", name="Connect").click()

    assert product.told("close")[0] == ["success", account.id]
    assert product.site.credentials("my_crm", "ada") == {"api_key": "k-new-0123456"}
