"""Links where a person connects an account, made from a notebook's session and opened over HTTP."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from pdkernel.errors import InternalError, RequestError
from pdkernel.server.app_context import LinkEvent
from pdkernel.session import Session, connect_links
from tests.connect.upstream import Upstream, running_upstream
from tests.server.link.conftest import SAME_ORIGIN
from tests.server.link.reading import Page


class Heard:
    """What became of links."""

    def __init__(self) -> None:
        self.news: list[LinkEvent] = []

    @property
    def what(self) -> list[str]:
        """The kinds, in their order."""
        return [news.status for news in self.news]

    def wait(self, what: str, seconds: float = 10) -> LinkEvent:
        """The news of that kind, once it has come."""
        until = time.monotonic() + seconds
        while what not in self.what and time.monotonic() < until:
            time.sleep(0.02)
        return next(news for news in self.news if news.status == what)


@pytest.fixture
def heard() -> Heard:
    """Who listens."""
    return Heard()


def opened(session: Session, heard: Heard, **more: object) -> str:
    """A link for ada's slack account."""
    return session.links.create(
        "slack",
        external_user_id="ada",
        environment="development",
        on_event=heard.news.append,
        **more,  # type: ignore[arg-type]
    )


def fill(url: str, **fields: str) -> Page:
    """Open the page and send its form."""
    page = Page(httpx.get(url))
    typed = {f"field:{name}": value for name, value in fields.items()}
    return Page(httpx.post(url.partition("?")[0], data={**page.hidden, **typed}, headers=SAME_ORIGIN))


def test_an_account_comes_of_it(session: Session, heard: Heard) -> None:
    """The page is served at this machine; who made the link hears that it was opened, and which account came of it."""
    url = opened(session, heard)
    done = fill(url, oauth_access_token="a-token-of-a-test")

    account = session.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert urlsplit(url).hostname == "127.0.0.1"
    assert done.status == 200
    assert heard.what == ["opened", "connected"]
    assert heard.news[-1].detail == account.id


def test_giving_up(session: Session, heard: Heard) -> None:
    """Who cancels in the page is heard, once."""
    url = opened(session, heard)
    page = Page(httpx.get(url))
    for _ in range(2):
        httpx.post(url.partition("?")[0], data={**page.hidden, "cancel": "true"}, headers=SAME_ORIGIN)

    assert heard.what == ["opened", "cancelled"]


def test_a_link_ends(session: Session, heard: Heard) -> None:
    """Its time over, it is heard of, and opens nothing."""
    url = opened(session, heard, lifetime_s=0.2)
    heard.wait("expired")

    assert "This link has expired." in Page(httpx.get(url)).words
    assert heard.what == ["expired"]


def test_an_account_is_connected_again(session: Session, heard: Heard) -> None:
    """With the account's id it stays the same account."""
    old = session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "an-old-token-of-a-test"}, external_user_id="ada"
    )
    fill(opened(session, heard, account_id=old.id), oauth_access_token="a-token-of-a-test")

    assert heard.wait("connected").detail == old.id
    assert session.directory.credentials(old.id)["oauth_access_token"] == "a-token-of-a-test"


def test_the_server_of_links_serves_nothing_else(session: Session, heard: Heard) -> None:
    """No API, no endpoint; and it answers to no name but this machine's."""
    base = opened(session, heard).partition("/_static")[0]

    assert [httpx.get(f"{base}{path}").status_code for path in ("/", "/v1/connect/apps", "/v1/oauth/token")] == [
        404
    ] * 3
    assert httpx.get(f"{base}/_static/connect.html", headers={"host": "evil.example"}).status_code == 421


def test_it_ends_with_the_session(make_session: Callable[..., Session], heard: Heard) -> None:
    """A kernel that ends leaves no server behind."""
    session = make_session()
    url = opened(session, heard)
    assert httpx.get(url).status_code == 200
    session.close()

    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_the_draft_that_is_served_has_the_links(session: Session, heard: Heard) -> None:
    """While the draft is served, links lead to its server, and are heard of in the same way."""
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    endpoint = session.server.start(on_run=lambda _: None, log_line=lambda _: None)
    url = opened(session, heard)
    fill(url, oauth_access_token="a-token-of-a-test")
    session.server.stop()
    other = opened(session, heard)

    assert urlsplit(url).port == urlsplit(endpoint).port
    assert urlsplit(other).port != urlsplit(endpoint).port
    assert heard.what == ["opened", "connected"]


def test_a_browser_elsewhere(tmp_path: Path, heard: Heard) -> None:
    """Where the environment says what browsers elsewhere call us, links and the draft's URL say so, too."""
    environ = {"PDKERNEL_PUBLIC_URL": "https://hub.example/user/ada/proxy/{port}/"}
    session = Session(folder=tmp_path, environ=environ)
    url = opened(session, heard)
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    endpoint = session.server.start(on_run=lambda _: None, log_line=lambda _: None)
    here = session.server.local_url
    session.close()

    assert url.startswith("https://hub.example/user/ada/proxy/")
    assert urlsplit(url).path.endswith("/_static/connect.html")
    assert endpoint.startswith("https://hub.example/user/ada/proxy/")
    assert here is not None
    assert here.startswith("http://127.0.0.1:")


def test_an_address_for_browsers_that_is_none(tmp_path: Path, heard: Heard) -> None:
    """An invalid public URL raises an error before the server of the draft or of links starts."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_PUBLIC_URL": "http://[hub"})
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    with pytest.raises(RequestError, match="is not a valid public URL"):
        session.server.start(on_run=lambda _: None, log_line=lambda _: None)
    with pytest.raises(RequestError, match="is not a valid public URL"):
        opened(session, heard)
    session.close()


def test_a_user_who_cannot_be(session: Session, heard: Heard) -> None:
    """An id that cannot be used makes no link."""
    with pytest.raises(RequestError, match="blank"):
        session.links.create("slack", external_user_id=" ", environment="development", on_event=heard.news.append)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A real project's API."""
    with running_upstream() as api:
        yield api


def test_a_real_project_has_links_of_its_own(tmp_path: Path, upstream: Upstream, heard: Heard) -> None:
    """The link is Pipedream's, for the app; the account that appears there is heard of."""
    session = Session(folder=tmp_path, environ=upstream.environ)
    url = session.links.create("openai", external_user_id="ada", environment="development", on_event=heard.news.append)
    time.sleep(1)  # what is there at first is seen
    made = session.directory.add_account(
        app="openai", credentials={"api_key": "sk-a-key-of-a-test"}, external_user_id="ada"
    )
    news = heard.wait("connected", 3 * connect_links.ACCOUNT_POLL_INTERVAL_S)
    session.close()

    assert url.startswith("https://pipedream.com/_static/connect.html?token=ctok_")
    assert dict(parse_qsl(urlsplit(url).query))["app"] == "openai"
    assert news.detail == made.id


def test_a_link_server_that_cannot_start_raises_the_reason(
    session: Session, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the event loop cannot listen on the port, the error has the reason; the next link starts the server."""

    async def fail_to_listen(*_: object, **_options: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.BaseEventLoop, "create_server", fail_to_listen)
        with pytest.raises(InternalError, match=r"The server did not start: .*Address already in use"):
            opened(session, heard)

    assert httpx.get(opened(session, heard)).status_code == 200
