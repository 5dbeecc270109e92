"""The pages where a user connects an account: with credentials, with a sign-in, and behind a proxy."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.apps import ClientAuth, OAuthProvider, register_app, register_provider
from pdkernel.common.clock import RANDOM_IDS, ManualClock
from pdkernel.egress import parse_policy
from pdkernel.render.apps import format_app_name
from pdkernel.server import ServeSettings
from pdkernel.server.app import create_link_app
from pdkernel.server.app_context import LinkOnlyContext
from pdkernel.server.link.tokens import create_link
from pdkernel.storage import Project
from tests.oauth_provider import APP, CLIENT_ID, CLIENT_SECRET, Provider, connect_account, oauth_provider, register
from tests.server.link.visitor import PAGE, SAME_ORIGIN, Page, Visitor, make
from tests.server.served import Served, served


async def test_an_account_is_connected(site: Served, visitor: Visitor) -> None:
    """The form asks for the app's credentials; the account belongs to the token's user and environment."""
    register_app(site.project, "my_crm", ["subdomain", "api_key"])

    page = await visitor.start("my_crm")
    done = await visitor.fill(page, subdomain="acme", api_key="k-0123456789")

    account = site.directory.newest_account("ada", "development", "my_crm")
    assert account is not None
    assert dict(site.directory.credentials(account.id)) == {"subdomain": "acme", "api_key": "k-0123456789"}
    assert page.inputs == {"field:subdomain": "text", "field:api_key": "password"}
    assert page.html.count('autocomplete="new-password"') == 1  # the browser offers no saved password
    assert (done.status, "Your My CRM account is connected." in done.words) == (200, True)
    assert "k-0123456789" not in done.html


async def test_the_page_names_the_user_as_text(visitor: Visitor) -> None:
    """User and environment are shown, and HTML in the user's id is escaped."""
    page = await visitor.start("slack", user="<img src=x onerror=alert(1)>")

    assert "For <img src=x onerror=alert(1)>, in development." in page.words
    assert "<img src=x" not in page.html


async def test_fields_with_the_same_title_are_told_apart(site: Served, visitor: Visitor) -> None:
    """Fields whose titles are the same are shown with their names."""
    register_app(site.project, "my_crm", ["api_key", "apiKey", "subdomain"])

    page = await visitor.start("my_crm")

    assert [title in page.html for title in (">api_key<", ">apiKey<", ">Subdomain<", ">API key<")] == [True] * 3 + [
        False
    ]


async def test_a_link_without_an_app_asks_for_the_app(site: Served, visitor: Visitor) -> None:
    """The page offers the known apps and goes on with the same token."""
    register_app(site.project, "my_crm", ["api_key"])
    made = await make(site)

    page = await visitor.open(made["connect_link_url"])
    without_close = await visitor.open(made["connect_link_url"], hideClose="true", framed="true")

    assert page.inputs == without_close.inputs == {"app": "input"}
    assert page.hidden == {"token": made["token"], "connectLink": "true"}
    assert without_close.hidden == {**page.hidden, "hideClose": "true"}
    assert 'value="My CRM"' in page.html


async def test_a_token_connects_one_account(site: Served, visitor: Visitor) -> None:
    """After an account was connected, the token connects no other account."""
    page = await visitor.start()
    await visitor.fill(page, api_key="k-0123456789")

    again = await visitor.fill(page, api_key="k-other")
    opened = await visitor.open(page.url)

    assert len(site.directory.accounts()) == 1
    for each in (again, opened):
        assert (each.status, "This session has expired." in each.words) == (400, True)


async def test_concurrent_forms_connect_one_account(site: Served, visitor: Visitor) -> None:
    """Of eight forms with the same token, sent at the same time, one succeeds."""
    page = await visitor.start("slack")

    ends = await asyncio.gather(*(visitor.fill(page, api_key=f"k-{number}") for number in range(8)))

    assert sorted(end.status for end in ends) == [200] + [400] * 7
    assert len(site.directory.accounts()) == 1


async def test_an_empty_form_is_shown_again(visitor: Visitor) -> None:
    """The token stays unused, and the next form connects the account."""
    page = await visitor.start("slack")

    empty = await visitor.fill(page, api_key="")
    done = await visitor.fill(empty, api_key="k-0123456789")

    assert (empty.status, "Fill in at least one field." in empty.words) == (400, True)
    assert done.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:4000"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
async def test_a_form_from_another_site_is_rejected(site: Served, visitor: Visitor, headers: dict[str, str]) -> None:
    """A form that another site's page sends is shown again, and does not connect an account."""
    page = await visitor.start("slack")

    forged = await visitor.fill(page, headers=headers, api_key="k-0123456789")

    assert (forged.status, "sent from another page" in forged.words) == (400, True)
    assert site.directory.accounts() == []


@pytest.mark.parametrize("headers", [{}, {"origin": "http://127.0.0.1:4000"}], ids=["no-browser", "plain-http"])
async def test_a_form_without_the_header_of_its_site_is_accepted(visitor: Visitor, headers: dict[str, str]) -> None:
    """A product tests its links over HTTP; to plain HTTP on another machine, browsers send Origin without Sec-Fetch-Site."""
    done = await visitor.fill(await visitor.start(), headers=headers, api_key="k-0123456789")

    assert done.status == 200


async def test_cancelling_leaves_the_link_valid(site: Served, visitor: Visitor) -> None:
    """No account is connected, the product's frame gets `close`, and the link can be opened again."""
    page = await visitor.start(allowed_origins=["https://app.example.com"])

    cancelled = await visitor.send({**page.hidden, "cancel": "true"})
    again = await visitor.open(page.url)

    assert (cancelled.status, "No account was connected." in cancelled.words) == (200, True)
    assert json.loads(cancelled.body["data-message"] or "") == {"type": "close"}
    assert again.status == 200
    assert site.directory.accounts() == []


async def test_an_account_is_reconnected(site: Served, visitor: Visitor) -> None:
    """With `accountId` the account keeps its id, name and creation time, and gets the new credentials."""
    site.connect("ada", "slack", {"api_key": "k-old"}, account_id="apn_old", name="Ada's")
    (old,) = site.directory.accounts()
    site.project.accounts.mark_unhealthy("apn_old")
    page = await visitor.start("slack", query={"accountId": "apn_old"})

    done = await visitor.fill(page, api_key="k-new")

    [account] = site.directory.accounts()
    assert "Connect Slack again" in page.words
    assert done.status == 200
    assert (account.id, account.name, account.created_at, account.healthy) == ("apn_old", "Ada's", old.created_at, True)
    assert dict(site.directory.credentials("apn_old")) == {"api_key": "k-new"}


@pytest.mark.parametrize(
    ("user", "app", "account"),
    [
        ("bob", "slack", "apn_old"),
        ("ada", "github", "apn_old"),
        ("ada", "slack", "apn_own"),
        ("ada", "slack", "apn_live"),
        ("ada", "slack", "x<b>"),
    ],
)
async def test_only_the_users_own_account_is_reconnected(
    site: Served, visitor: Visitor, user: str, app: str, account: str
) -> None:
    """Another user's account, another app's, one of your own, one of production and an unknown one get the same message."""
    site.connect("ada", "slack", {"api_key": "k-old"}, account_id="apn_old")
    site.connect(None, "slack", {"api_key": "k-own"}, account_id="apn_own")
    site.connect("ada", "slack", {"api_key": "k-live"}, account_id="apn_live", environment="production")
    made = await make(site, user=user)
    page = await visitor.open(made["connect_link_url"], app=app)
    page.hidden["accountId"] = account

    shown = await visitor.open(made["connect_link_url"], app=app, accountId=account)
    sent = await visitor.fill(page, api_key="k-stolen")

    message = f"There is no {format_app_name(app)} account {account} of this user to reconnect."
    assert (shown.status, message in shown.words) == (404, True)
    assert (sent.status, message in sent.words) == (400, True)
    assert "<b>" not in shown.html
    kept = [site.directory.credentials(each)["api_key"] for each in ("apn_old", "apn_own", "apn_live")]
    assert kept == ["k-old", "k-own", "k-live"]


async def test_hide_close_removes_the_buttons_that_close_the_frame(visitor: Visitor) -> None:
    """With `hideClose` the page has no cancel button, because the product has its own."""
    with_it, without = await visitor.start(), await visitor.start(query={"hideClose": "true"})

    assert ("Cancel" in with_it.words, "Cancel" in without.words) == (True, False)
    assert without.hidden["hideClose"] == "true"


@pytest.mark.parametrize("query", [{"token": "ctok_0", "app": "slack"}, {}], ids=["unknown", "missing"])
async def test_a_link_with_an_unknown_token(visitor: Visitor, query: dict[str, str]) -> None:
    """A link without a token or with an unknown token shows the platform's message."""
    page = await visitor.open(PAGE, **query)

    assert (page.status, "The Pipedream Connect token is invalid." in page.words) == (400, True)


async def test_an_expired_link(site: Served, visitor: Visitor) -> None:
    """An expired token opens no form, and a form that was open before is rejected."""
    page = await visitor.start(expires_in=60)
    site.clock.advance(61)

    opened = await visitor.open(page.url)
    sent = await visitor.fill(page, api_key="k-0123456789")

    assert ["This link has expired." in each.words for each in (opened, sent)] == [True, True]
    assert site.directory.accounts() == []


@pytest.mark.parametrize("app", ["google_sheets", "Google Sheets", " GOOGLE sheets "])
async def test_an_app_is_named_by_slug_or_name(visitor: Visitor, app: str) -> None:
    """A link may have the app's slug or its name, in any case."""
    page = await visitor.start(app)

    assert (page.status, page.hidden["app"]) == (200, "google_sheets")


async def test_an_invalid_app_is_not_found(visitor: Visitor) -> None:
    """A text that is not a slug is answered 404, and is not shown as HTML."""
    page = await visitor.start("<script>alert(1)</script>")

    assert (page.status, "App not found." in page.words) == (404, True)
    assert "alert(1)" not in page.html


async def test_the_pages_headers_allow_no_foreign_content(visitor: Visitor) -> None:
    """The policy allows only the page's own script and style; no frame, cache, referrer or cookie."""
    page = await visitor.start("slack")

    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "form-action 'self'; base-uri 'none'; frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "same-origin")
    assert "set-cookie" not in page.headers


async def test_allowed_origins_may_frame_the_page(site: Served, visitor: Visitor) -> None:
    """The product's origins may frame the page and get the result; other origins do not."""
    page = await visitor.start("slack", allowed_origins=["https://app.example.com/settings", "http://localhost:3000"])

    done = await visitor.fill(page, api_key="k-0123456789")

    account = site.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert page.headers["content-security-policy"].endswith(
        "frame-ancestors https://app.example.com http://localhost:3000"
    )
    assert json.loads(done.body["data-origins"] or "") == ["https://app.example.com", "http://localhost:3000"]
    assert json.loads(done.body["data-message"] or "") == {"type": "success", "authProvisionId": account.id}


async def test_a_redirect_after_success(visitor: Visitor) -> None:
    """After success the page redirects to the product's URL."""
    page = await visitor.start("slack", success_redirect_uri="https://example.com/ok?a=1&b='2'")

    done = await visitor.fill(page, api_key="k-0123456789")

    assert done.refresh == "https://example.com/ok?a=1&b='2'"
    assert done.links == ["https://example.com/ok?a=1&b='2'"]


async def test_a_large_form_is_refused(site: Served, visitor: Visitor) -> None:
    """A form of more than a megabyte is answered 413."""
    page = await visitor.start("slack")

    refused = await visitor.fill(page, api_key="x" * (1 << 20))

    assert refused.status == 413
    assert site.directory.accounts() == []


async def test_a_key_file_keeps_its_lines(site: Served, visitor: Visitor) -> None:
    """A private key of several lines is entered in a text area, which keeps line breaks."""
    register_app(site.project, "my_crm", ["private_key"])
    page = await visitor.start("my_crm")
    key = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"

    await visitor.fill(page, private_key=key)

    account = site.directory.newest_account("ada", "development", "my_crm")
    assert page.inputs == {"field:private_key": "textarea"}
    assert account is not None
    assert site.directory.credentials(account.id)["private_key"] == key


async def test_the_limit_of_users_in_development(tmp_path: Path) -> None:
    """
    If the platform's limit is set, a new user above the limit is rejected, without another form.

    A known user, and those of production, are accepted.
    """
    async with served(tmp_path, max_development_users=1) as site:
        visitor = Visitor(site)
        first, second, again = await make(site, "ada"), await make(site, "bob"), await make(site, "ada")
        others = [
            (await site.call("POST", "/tokens", json={"external_user_id": user}, environment="production")).json()
            for user in ("bob", "eve")
        ]

        ends = [
            await visitor.fill(await visitor.open(made["connect_link_url"], app="slack"), api_key="k-0123456789")
            for made in (first, second, again, *others)
        ]
        users = [user.external_id for user in site.directory.users("development")]

    assert [end.status for end in ends] == [200, 400, 200, 200, 200]
    assert "You've hit your limit on the number of external users you can connect." in ends[1].words
    assert ends[1].inputs == {}
    assert users == ["ada"]


async def test_concurrent_users_do_not_exceed_the_limit(tmp_path: Path) -> None:
    """Of ten users who connect at the same time, the limit's three succeed."""
    async with served(tmp_path, max_development_users=3) as site:
        visitor = Visitor(site)
        made = [await make(site, f"user{number}") for number in range(10)]
        pages = [await visitor.open(each["connect_link_url"], app="slack") for each in made]

        ends = await asyncio.gather(*(visitor.fill(page, api_key="k-0123456789") for page in pages))
        users = list(site.directory.users("development"))

    assert sorted(end.status for end in ends) == [200] * 3 + [400] * 7
    assert len(users) == 3


@pytest.fixture
def provider(site: Served) -> Iterator[Provider]:
    """An app's OAuth provider, registered in the project."""
    with oauth_provider() as running:
        register(site.project, running)
        yield running


async def sign_in(page: Page, choice: str = "Allow") -> str:
    """Sign in at the app and choose; returns the URL of the callback."""
    assert page.refresh is not None
    async with httpx.AsyncClient(timeout=60) as http:
        shown = Page(await http.get(page.refresh))
        link = shown.links[0 if choice == "Allow" else 1]
        if choice != "Allow":
            return link
        return (await http.get(urljoin(page.refresh, link))).headers["location"]


@pytest.mark.parametrize("client_auth", ["post", "basic"])
async def test_a_sign_in_connects_an_account(
    site: Served, visitor: Visitor, provider: Provider, client_auth: ClientAuth
) -> None:
    """The account has an access token that the app's API accepts, and no other credential."""
    register(site.project, provider, client_auth=client_auth)

    page = await visitor.start(APP)
    away = await visitor.fill(page)
    done = await visitor.open(await sign_in(away))

    account = site.directory.newest_account("ada", "development", APP)
    assert account is not None
    credentials = dict(site.directory.credentials(account.id))
    assert page.inputs == {}
    assert (done.status, "Your My CRM account is connected." in done.words) == (200, True)
    assert set(credentials) == {"oauth_access_token"}
    me = httpx.get(
        f"{provider.url}/api/me", headers={"authorization": f"Bearer {credentials['oauth_access_token']}"}, timeout=60
    )
    assert me.json() == {"name": "Ada"}


async def test_the_authorization_request_uses_pkce(site: Served, visitor: Visitor, provider: Provider) -> None:
    """The URL has PKCE with S256, a state and the scopes, and not the client's secret or the Connect token."""
    made = await make(site)

    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))

    assert away.refresh is not None
    query = httpx.URL(away.refresh).params
    assert query["code_challenge_method"] == "S256"
    assert len(query["code_challenge"]) == 43
    assert len(query["state"]) == 43
    assert query["scope"] == "contacts.read offline"
    assert query["redirect_uri"] == "http://127.0.0.1:4000/_static/connect/callback"
    assert made["token"] not in away.refresh
    assert CLIENT_SECRET not in away.html


@pytest.mark.usefixtures("provider")
async def test_a_declined_sign_in_shows_the_apps_reason(visitor: Visitor) -> None:
    """The reason is shown as text, and the token stays valid."""
    page = await visitor.start(APP)

    back = await visitor.open(await sign_in(await visitor.fill(page), "Deny"))
    again = await visitor.open(page.url)

    assert (back.status, "My CRM answered: access_denied: No <b>thanks</b>" in back.words) == (400, True)
    assert "<b>" not in back.html
    assert again.status == 200


@pytest.mark.usefixtures("provider")
async def test_a_callback_in_another_browser_is_rejected(site: Served, visitor: Visitor) -> None:
    """
    An attacker who has a victim finish the attacker's sign-in does not get the victim's account.

    The callback is not used up: one that the preview of a link has opened still connects the account of its own browser.
    """
    back = await sign_in(await visitor.fill(await visitor.start(APP, "mallory")))

    victim = await Visitor(site).open(back)
    before = site.directory.accounts()
    await visitor.open(back)

    assert (victim.status, "not started in this browser" in victim.words, before) == (400, True, [])
    assert [account.external_user_id for account in site.directory.accounts()] == ["mallory"]


@pytest.mark.usefixtures("provider")
async def test_a_callback_in_a_browser_with_another_sign_in_is_rejected(site: Served, visitor: Visitor) -> None:
    """A browser that has started a sign-in of its own does not finish that of another browser."""
    back = await sign_in(await visitor.fill(await visitor.start(APP, "mallory")))
    victim = Visitor(site)
    await victim.fill(await victim.start(APP))

    opened = await victim.open(back)

    assert (opened.status, "not started in this browser" in opened.words) == (400, True)
    assert site.directory.accounts() == []


async def test_a_callback_is_valid_once(site: Served, visitor: Visitor, provider: Provider) -> None:
    """A repeated callback and a callback with an unknown state are rejected."""
    away = await visitor.fill(await visitor.start(APP))
    back = await sign_in(away)
    await visitor.open(back)

    again = await visitor.open(back)
    made_up = await visitor.open("/_static/connect/callback?state=abc&code=def")

    assert (again.status, made_up.status) == (400, 400)
    assert len(site.directory.accounts()) == 1


@pytest.mark.parametrize(("seconds", "status"), [(899, 200), (900, 400)])
async def test_a_sign_in_takes_at_most_fifteen_minutes(
    site: Served, visitor: Visitor, provider: Provider, seconds: int, status: int
) -> None:
    """A callback that arrives later connects no account."""
    back = await sign_in(await visitor.fill(await visitor.start(APP)))
    site.clock.advance(seconds)

    assert (await visitor.open(back)).status == status
    assert len(site.directory.accounts()) == (status == 200)


async def test_a_link_that_expires_during_the_sign_in(site: Served, visitor: Visitor, provider: Provider) -> None:
    """A callback after the end of the Connect token connects no account, and does not redeem the code."""
    back = await sign_in(await visitor.fill(await visitor.start(APP, expires_in=60)))
    site.clock.advance(60)

    page = await visitor.open(back)

    assert (page.status, "This link has expired." in page.words) == (400, True)
    assert site.directory.accounts() == []
    assert provider.requests == []


async def test_a_rejected_client_is_shown(site: Served, visitor: Visitor, provider: Provider) -> None:
    """The page shows the provider's reason without the client's secret."""
    register(site.project, provider, secret="not-the-secret")
    away = await visitor.fill(await visitor.start(APP))

    back = await visitor.open(await sign_in(away))

    assert back.status == 400
    assert "issued no token (401): invalid_client" in back.words
    assert "not-the-secret" not in back.html


async def test_a_reason_shows_no_secret(visitor: Visitor, provider: Provider) -> None:
    """If the provider repeats the request in its reason, code, verifier and secret are masked."""
    provider.echoes_request = True
    away = await visitor.fill(await visitor.start(APP))

    back = await visitor.open(await sign_in(away))

    [form] = provider.requests
    assert "'grant_type': 'authorization_code'" in back.words
    assert [name for name in ("code", "code_verifier", "client_secret") if form[name] in back.html] == []


async def test_a_sign_in_reconnects_an_account(site: Served, visitor: Visitor, provider: Provider) -> None:
    """Signing in again gives the account new tokens; its id stays."""
    account = connect_account(site.project, provider)
    first = site.directory.credentials(account)["oauth_access_token"]
    site.project.accounts.mark_unhealthy(account)

    away = await visitor.fill(await visitor.start(APP, query={"accountId": account}))
    done = await visitor.open(await sign_in(away))

    [found] = site.directory.accounts()
    assert done.status == 200
    assert (found.id, found.healthy) == (account, True)
    assert site.directory.credentials(account)["oauth_access_token"] != first
    site.clock.advance(3590)
    assert site.directory.credentials(account)["oauth_access_token"] in provider.tokens
    assert [form["grant_type"] for form in provider.requests][-1] == "refresh_token"


async def test_a_sign_in_from_a_frame_ends_in_a_popup(site: Served, visitor: Visitor, provider: Provider) -> None:
    """From a frame, the last page is a popup that reports to the frame, also if redirects are set."""
    leads: dict[str, Any] = {
        "success_redirect_uri": "https://example.com/ok",
        "error_redirect_uri": "https://example.com/no",
    }
    ends = []
    for choice in ("Deny", "Allow"):
        page = await visitor.start(APP, allowed_origins=["https://app.example.com"], **leads)
        away = await visitor.send({**page.hidden, "framed": "true"})
        ends.append((await visitor.open(await sign_in(away, choice))).body)

    account = site.directory.newest_account("ada", "development", APP)
    assert account is not None
    assert [end["data-window"] for end in ends] == ["sign-in", "sign-in"]
    assert [json.loads(end["data-message"] or "") for end in ends] == [
        {"type": "error", "error": "My CRM answered: access_denied: No <b>thanks</b>"},
        {"type": "success", "authProvisionId": account.id},
    ]


@pytest.mark.parametrize("framed", ["true", ""])
async def test_a_sign_in_for_a_deleted_account(site: Served, visitor: Visitor, provider: Provider, framed: str) -> None:
    """If the account to reconnect was deleted, no sign-in starts; the window of a frame reports the reason and closes."""
    account = connect_account(site.project, provider)
    page = await visitor.start(APP, allowed_origins=["https://app.example.com"], query={"accountId": account})
    site.directory.remove_account(account)

    end = await visitor.send({**page.hidden, "framed": framed})

    message = f"There is no My CRM account {account} of this user to reconnect."
    assert (end.status, end.refresh) == (400, None)
    assert json.loads(end.body["data-message"] or "") == {"type": "error", "error": message}
    assert end.body.get("data-window") == ("sign-in" if framed else None)


async def test_a_long_reason_of_an_app_is_shortened(visitor: Visitor, provider: Provider) -> None:
    """Of an app's reason, which anyone can write into the URL, the page has three hundred characters."""
    away = await visitor.fill(await visitor.start(APP))
    assert away.refresh is not None
    state = httpx.URL(away.refresh).params["state"]

    back = await visitor.open("/_static/connect/callback", state=state, error="e" * 400)

    assert "My CRM answered: " + "e" * 300 in back.words
    assert "e" * 301 not in back.html


async def test_the_browsers_cookie(visitor: Visitor, provider: Provider) -> None:
    """The cookie is hidden from scripts and limited to the site and the path of the pages."""
    away = await visitor.fill(await visitor.start(APP))

    cookie = away.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/_static" in cookie


async def test_a_malformed_cookie_is_replaced(visitor: Visitor, provider: Provider) -> None:
    """A valid id of the browser stays, so that two sign-ins may be open; another value gets a new id."""
    ids = []
    for cookie in ("x", "x" * 43, "a b" * 20):
        page = await visitor.start(APP)
        visitor.http.cookies.clear()
        away = await visitor.fill(page, headers={**SAME_ORIGIN, "cookie": f"pdkernel_link={cookie}"})
        ids.append(away.headers["set-cookie"].partition("=")[2].partition(";")[0])

    assert ids[1] == "x" * 43
    assert [len(each) for each in ids] == [43] * 3


async def test_redirects_after_a_sign_in(visitor: Visitor, provider: Provider) -> None:
    """Success and failure redirect to the product's two URLs."""
    leads: dict[str, Any] = {
        "success_redirect_uri": "https://example.com/ok",
        "error_redirect_uri": "https://example.com/no",
    }
    ends = []
    for choice in ("Allow", "Deny"):
        away = await visitor.fill(await visitor.start(APP, **leads))
        answer = await visitor.http.get(await sign_in(away, choice))
        ends.append((answer.status_code, answer.headers["location"]))

    assert ends == [(303, "https://example.com/ok"), (303, "https://example.com/no")]


@pytest.mark.parametrize("withdrawn", [False, True], ids=["renewed", "refused"])
async def test_a_reconnection_during_a_refresh(
    site: Served, visitor: Visitor, provider: Provider, withdrawn: bool
) -> None:
    """The provider's answer to the old refresh token does not change the reconnected account."""
    account = connect_account(site.project, provider)
    site.clock.advance(3590)
    away = await visitor.fill(await visitor.start(APP, query={"accountId": account}))
    back = await sign_in(away)
    provider.refresh_gate = threading.Event()

    asking = asyncio.create_task(asyncio.to_thread(site.directory.credentials, account))
    while not provider.requests:
        await asyncio.sleep(0.01)
    done = await visitor.open(back)
    connected_anew = site.project.accounts.credentials(account)
    if withdrawn:
        provider.refresh_tokens = {f"{site.project.grants.find(account).refresh_token}"}  # type: ignore[union-attr]
    provider.refresh_gate.set()
    got = await asking

    found, grant = site.directory.find_account(account), site.project.grants.find(account)
    assert "Your My CRM account is connected." in done.words
    assert site.project.accounts.credentials(account) == connected_anew == got
    assert found is not None
    assert found.healthy
    assert grant is not None
    assert (grant.error, grant.refresh_token in provider.refresh_tokens) == (None, True)


PUBLIC = "https://hub.example/user/ada/proxy/4000"


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[LinkOnlyContext]:
    """The link pages alone, behind a proxy at a path, as with jupyter-server-proxy; the app `my_mail` has a sign-in."""
    clock = ManualClock()
    with Project.open(tmp_path / ".pdkernel", clock=clock) as project:
        mail = OAuthProvider("https://mail.example/authorize", "https://mail.example/token", CLIENT_ID)
        register_provider(project, "my_mail", mail)
        settings = ServeSettings(base_url=PUBLIC, policy=parse_policy("deny"))
        yield LinkOnlyContext(project, LocalDirectory(project), settings, clock, RANDOM_IDS)


async def visit(pages: LinkOnlyContext, app: str, **fields: str) -> tuple[str, Page, Page]:
    """Open a link for ada and send its form; the proxy removes its path. Returns the link, the page and the next page."""
    link = create_link(pages, external_user_id="ada", environment="development", app=app).url
    path = urlsplit(link).path.removeprefix(urlsplit(PUBLIC).path)
    transport = httpx.ASGITransport(create_link_app(pages))
    async with httpx.AsyncClient(transport=transport, base_url="http://hub.example") as http:
        page = Page(await http.get(f"{path}?{urlsplit(link).query}"))
        headers = {"origin": "https://hub.example"}
        return link, page, Page(await http.post(path, data={**page.hidden, **fields}, headers=headers))


async def test_an_account_is_connected_behind_a_proxy(pages: LinkOnlyContext) -> None:
    """The link has the proxy's address, and the browser sends the form relative to the page."""
    link, page, done = await visit(pages, "slack", **{"field:api_key": "k-0123456789"})

    assert link.startswith(f"{PUBLIC}/_static/connect.html?token=ctok_")
    assert 'action="connect.html"' in page.html
    assert done.status == 200
    assert [account.app for account in pages.directory.accounts()] == ["slack"]


async def test_a_sign_in_behind_a_proxy(pages: LinkOnlyContext) -> None:
    """The app redirects to the proxy's address; the cookie is limited to the path of the pages there."""
    _, _, away = await visit(pages, "my_mail")

    assert away.refresh is not None
    assert httpx.URL(away.refresh).params["redirect_uri"] == f"{PUBLIC}/_static/connect/callback"
    cookie = away.headers["set-cookie"]
    assert "Path=/user/ada/proxy/4000/_static" in cookie
    assert "Secure" in cookie
