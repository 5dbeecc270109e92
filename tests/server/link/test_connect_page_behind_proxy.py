"""The pages alone, below a path of a proxy's (as jupyter-server-proxy has them): forms, cookies and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from pdkernel.clock import RANDOM_IDS, ManualClock
from pdkernel.connect import LocalDirectory, oauth_providers
from pdkernel.connect.oauth_providers import register_provider
from pdkernel.egress import parse_policy
from pdkernel.project import Project
from pdkernel.server import ServeSettings
from pdkernel.server.app import create_link_app
from pdkernel.server.app_context import LinkOnlyContext
from pdkernel.server.link.tokens import create_link
from tests.server.link.reading import Page

PUBLIC = "https://hub.example/user/ada/proxy/4000"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LinkOnlyContext]:
    """A project with an app that people sign in to."""
    clock = ManualClock()
    with Project.open(tmp_path / ".pdkernel", clock=clock) as project:
        told = oauth_providers.OAuthProvider(
            "https://mail.example/authorize", "https://mail.example/token", "client-of-ours"
        )
        register_provider(project, "my_mail", told)
        settings = ServeSettings(base_url=PUBLIC, policy=parse_policy("deny"))
        yield LinkOnlyContext(project, LocalDirectory(project), settings, clock, RANDOM_IDS)


async def visit(site: LinkOnlyContext, app: str, **fields: str) -> tuple[str, Page, Page]:
    """A link for ada, its page, and what follows when its form is sent, the proxy having cut its own path off."""
    link = create_link(site, external_user_id="ada", environment="development", app=app).url
    path = urlsplit(link).path.removeprefix(urlsplit(PUBLIC).path)
    transport = httpx.ASGITransport(create_link_app(site))
    async with httpx.AsyncClient(transport=transport, base_url="http://hub.example") as http:
        page = Page(await http.get(f"{path}?{urlsplit(link).query}"))
        says = {"origin": "https://hub.example"}
        return link, page, Page(await http.post(path, data={**page.hidden, **fields}, headers=says))


async def test_an_account_by_its_key(site: LinkOnlyContext) -> None:
    """The link is the proxy's, and the form goes to where the page came from."""
    link, page, done = await visit(site, "slack", **{"field:api_key": "k-0123456789"})

    assert link.startswith(f"{PUBLIC}/_static/connect.html?token=ctok_")
    assert 'action="connect.html"' in page.html
    assert done.status == 200
    assert [account.app for account in site.directory.accounts()] == ["slack"]


async def test_signing_in(site: LinkOnlyContext) -> None:
    """The app sends people back to the proxy; the browser brings its mark there, and only there."""
    _, _, away = await visit(site, "my_mail")

    assert away.refresh is not None
    assert httpx.URL(away.refresh).params["redirect_uri"] == f"{PUBLIC}/_static/connect/callback"
    cookie = away.headers["set-cookie"]
    assert "Path=/user/ada/proxy/4000/_static" in cookie
    assert "Secure" in cookie
