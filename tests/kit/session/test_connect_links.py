"""Connect links of a notebook's session, opened over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, ManualClock
from pdkernel.errors import RequestError
from pdkernel.kit.session import Session, connect_links
from pdkernel.kit.session.engine_thread import LazyProject
from pdkernel.server.app_context import LinkEvent
from tests.accounts.upstream import Upstream
from tests.server.link.visitor import SAME_ORIGIN, Page
from tests.waiting import wait_until


class LinkEvents:
    """The events of links."""

    def __init__(self) -> None:
        self.news: list[LinkEvent] = []

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events, in order."""
        return [news.status for news in self.news]

    def wait(self, kinds: str, seconds: float = 60) -> LinkEvent:
        """The event of the given kind, after it has arrived."""
        wait_until(lambda: kinds in self.kinds, seconds)
        return next(news for news in self.news if news.status == kinds)


@pytest.fixture
def link_events() -> LinkEvents:
    """The listener of the tests."""
    return LinkEvents()


def opened(session: Session, link_events: LinkEvents, **more: object) -> str:
    """A link for ada's slack account."""
    return session.links.create(
        "slack",
        external_user_id="ada",
        environment="development",
        on_event=link_events.news.append,
        **more,  # type: ignore[arg-type]
    )


def fill(url: str, **fields: str) -> Page:
    """Open the page and send its form."""
    page = Page(httpx.get(url, timeout=60))
    typed = {f"field:{name}": value for name, value in fields.items()}
    return Page(httpx.post(url.partition("?")[0], data={**page.hidden, **typed}, headers=SAME_ORIGIN, timeout=60))


def test_an_account_is_connected(session: Session, link_events: LinkEvents) -> None:
    """This machine serves the page; the session reports that the link was opened, and the new account."""
    url = opened(session, link_events)
    httpx.get(url, timeout=60)
    session.links.handle_event(replace(link_events.wait("opened"), status="failed"))  # the link can be used again
    done = fill(url, oauth_access_token="a-token-of-a-test")

    account = session.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert urlsplit(url).hostname == "127.0.0.1"
    assert done.status == 200
    assert link_events.kinds == ["opened", "failed", "opened", "connected"]
    assert link_events.news[-1].detail == account.id


def test_cancelling(session: Session, link_events: LinkEvents) -> None:
    """A cancellation in the page is reported once."""
    url = opened(session, link_events)
    page = Page(httpx.get(url, timeout=60))
    for _ in range(2):
        httpx.post(url.partition("?")[0], data={**page.hidden, "cancel": "true"}, headers=SAME_ORIGIN, timeout=60)

    assert link_events.kinds == ["opened", "cancelled"]


def test_a_link_expires(session: Session, link_events: LinkEvents) -> None:
    """An expired link is reported and opens no page."""
    url = opened(session, link_events, lifetime_s=0.2)
    link_events.wait("expired")

    assert "This link has expired." in Page(httpx.get(url, timeout=60)).words
    assert link_events.kinds == ["expired"]


def test_an_account_is_connected_again(session: Session, link_events: LinkEvents) -> None:
    """With the account's id the account stays the same."""
    old = session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "an-old-token-of-a-test"}, external_user_id="ada"
    )
    fill(opened(session, link_events, account_id=old.id), oauth_access_token="a-token-of-a-test")

    assert link_events.wait("connected").detail == old.id
    assert session.directory.credentials(old.id)["oauth_access_token"] == "a-token-of-a-test"


def test_the_server_of_links_serves_nothing_else(session: Session, link_events: LinkEvents) -> None:
    """The server has no API and no endpoint, and accepts only the host name of this machine."""
    base = opened(session, link_events).partition("/_static")[0]

    assert [
        httpx.get(f"{base}{path}", timeout=60).status_code for path in ("/", "/v1/connect/apps", "/v1/oauth/token")
    ] == [404] * 3
    assert httpx.get(f"{base}/_static/connect.html", headers={"host": "evil.example"}, timeout=60).status_code == 421


def test_the_server_ends_with_the_session(make_session: Callable[..., Session], link_events: LinkEvents) -> None:
    """After the end of a kernel no server is left."""
    session = make_session()
    url = opened(session, link_events)
    assert httpx.get(url, timeout=60).status_code == 200
    session.close()

    with pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=60)


def test_a_served_draft_serves_the_links(session: Session, link_events: LinkEvents) -> None:
    """While the draft is served, links lead to its server, with the same events."""
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    endpoint = session.server.start(on_run=lambda _: None, log_line=lambda _: None)
    url = opened(session, link_events)
    fill(url, oauth_access_token="a-token-of-a-test")
    session.server.stop()
    other = opened(session, link_events)

    assert urlsplit(url).port == urlsplit(endpoint).port
    assert urlsplit(other).port != urlsplit(endpoint).port
    assert link_events.kinds == ["opened", "connected"]


def test_a_public_url_is_used(tmp_path: Path, link_events: LinkEvents) -> None:
    """If the environment has a public URL, links and the draft's URL use it."""
    environ = {"PDKERNEL_PUBLIC_URL": "https://hub.example/user/ada/proxy/{port}/"}
    session = Session(folder=tmp_path, environ=environ)
    url = opened(session, link_events)
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    endpoint = session.server.start(on_run=lambda _: None, log_line=lambda _: None)
    here = session.server.local_url
    session.close()

    assert url.startswith("https://hub.example/user/ada/proxy/")
    assert urlsplit(url).path.endswith("/_static/connect.html")
    assert endpoint.startswith("https://hub.example/user/ada/proxy/")
    assert here is not None
    assert here.startswith("http://127.0.0.1:")


def test_an_invalid_public_url_is_refused(tmp_path: Path, link_events: LinkEvents) -> None:
    """An invalid public URL raises an error before the server of the draft or of links starts."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_PUBLIC_URL": "http://[hub"})
    session.record_cell("%%pdstep one\ndef handler(pd):\n    return 1\n", cell_id="a")
    with pytest.raises(RequestError, match="is not a valid public URL"):
        session.server.start(on_run=lambda _: None, log_line=lambda _: None)
    with pytest.raises(RequestError, match="is not a valid public URL"):
        opened(session, link_events)
    session.close()


def test_an_invalid_user_id_is_refused(session: Session, link_events: LinkEvents) -> None:
    """An invalid id makes no link."""
    with pytest.raises(RequestError, match="blank"):
        session.links.create("slack", external_user_id=" ", environment="development", on_event=link_events.news.append)


def test_a_real_project_has_its_own_links(tmp_path: Path, upstream: Upstream, link_events: LinkEvents) -> None:
    """The link is Pipedream's, for the app; an account that appears there is reported, and at once among the user's accounts."""
    (tmp_path / "page").mkdir()
    session, page = (Session(folder=folder, environ=upstream.environ) for folder in (tmp_path, tmp_path / "page"))
    url = session.links.create(
        "openai", external_user_id="ada", environment="development", on_event=link_events.news.append
    )
    while not any(path.endswith("/accounts") for path in upstream.answered):  # existing accounts are loaded first
        time.sleep(0.02)
    session.directory.accounts(external_user_id="ada")
    made = page.directory.add_account(
        app="openai", credentials={"api_key": "sk-a-key-of-a-test"}, external_user_id="ada"
    )
    news = link_events.wait("connected")
    known = session.directory.accounts(external_user_id="ada", app="openai")
    again = session.links.create(
        "openai", external_user_id="ada", environment="development", account_id=made.id, on_event=lambda _: None
    )
    session.close()
    page.close()

    assert known[0].id == made.id
    assert dict(parse_qsl(urlsplit(again).query))["accountId"] == made.id
    assert "accountId" not in url
    assert url.startswith("https://pipedream.com/_static/connect.html?token=ctok_")
    assert dict(parse_qsl(urlsplit(url).query))["app"] == "openai"
    assert news.detail == made.id


def test_a_query_that_fails_is_repeated(tmp_path: Path, upstream: Upstream, link_events: LinkEvents) -> None:
    """If Pipedream does not answer a query for the account, the next query finds it; without an account, the link expires."""
    local = LazyProject(tmp_path, project=None, environ=upstream.environ, clock=SYSTEM_CLOCK, ids=RANDOM_IDS)
    links = connect_links.ConnectLinks(local, app_context=lambda: None, poll_interval_s=0.05)
    upstream.set(fault={"kind": "status", "path": "/accounts", "status": 403})

    links.create(
        "openai", external_user_id="ada", environment="development", on_event=link_events.news.append, lifetime_s=0.1
    )
    link_events.wait("expired")
    failed = [request for request in upstream.asked if request["path"].endswith("/accounts")]
    upstream.set()
    links.create("openai", external_user_id="ada", environment="development", on_event=link_events.news.append)
    asked = len(failed)
    while asked < len(failed) + 2:  # a second query follows the answer to the first, which has the existing accounts
        time.sleep(0.02)
        asked = len([request for request in upstream.asked if request["path"].endswith("/accounts")])
    made = local.directory.add_account(
        app="openai", credentials={"api_key": "sk-a-key-of-a-test"}, external_user_id="ada"
    )

    assert link_events.wait("connected").detail == made.id
    assert len(failed) > 1
    links.close()
    local.close()


def test_the_queries_of_a_link_leave_cached_responses(
    tmp_path: Path, upstream: Upstream, link_events: LinkEvents
) -> None:
    """While a link is open, its queries for the account do not make runs request other accounts again."""
    session = Session(folder=tmp_path, environ=upstream.environ, clock=ManualClock())
    session.directory.accounts(external_user_id="grace", environment="development")
    before = len(upstream.asked)
    session.links.create("openai", external_user_id="ada", environment="development", on_event=link_events.news.append)
    while not any(request["path"].endswith("/accounts") for request in upstream.asked[before:]):
        time.sleep(0.02)

    session.directory.accounts(external_user_id="grace", environment="development")

    # the link goes on with its own queries, which are for ada
    assert [each for each in upstream.asked[before:] if each["query"].get("external_user_id") == "grace"] == []
    session.close()
