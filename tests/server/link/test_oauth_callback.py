"""Accounts of apps that people sign in to, against a provider on a socket."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from pdkernel.connect import oauth_providers
from pdkernel.connect.oauth_providers import register_provider
from tests.oauth_provider import CLIENT_ID, CLIENT_SECRET, Provider, oauth_provider
from tests.server.link.conftest import Visitor, make
from tests.server.link.reading import Page
from tests.server.served import Served, served

APP = "my_crm"


@pytest.fixture
def provider() -> Iterator[Provider]:
    """An app's OAuth provider."""
    with oauth_provider() as provider:
        yield provider


def tell(site: Served, provider: Provider, **more: str) -> None:
    """Have the project know it."""
    register_provider(
        site.project,
        APP,
        oauth_providers.OAuthProvider(
            f"{provider.url}/authorize",
            f"{provider.url}/token",
            CLIENT_ID,
            more.get("secret", CLIENT_SECRET),
            ("contacts.read", "offline"),
            "basic" if more.get("auth") == "basic" else "post",
        ),
    )


async def sign_in(page: Page, choice: str = "Allow") -> str:
    """Sign in at the app and choose; where that leads back to."""
    assert page.refresh is not None
    async with httpx.AsyncClient() as http:
        shown = Page(await http.get(page.refresh))
        link = shown.links[0 if choice == "Allow" else 1]
        if choice != "Allow":
            return link
        return (await http.get(urljoin(page.refresh, link))).headers["location"]


@pytest.mark.parametrize("auth", ["post", "basic"])
async def test_an_account_is_connected(site: Served, visitor: Visitor, provider: Provider, auth: str) -> None:
    """The person signs in at the app; the account holds a token that the app's API takes, and nothing else."""
    tell(site, provider, auth=auth)
    made = await make(site)

    page = await visitor.open(made["connect_link_url"], app=APP)
    away = await visitor.fill(page)
    done = await visitor.open(await sign_in(away))

    account = site.directory.newest_account("ada", "development", APP)
    assert account is not None
    credentials = dict(site.directory.credentials(account.id))
    assert page.asked == {}
    assert (done.status, "Your my_crm account is connected." in done.words) == (200, True)
    assert set(credentials) == {"oauth_access_token"}
    me = httpx.get(f"{provider.url}/api/me", headers={"authorization": f"Bearer {credentials['oauth_access_token']}"})
    assert me.json() == {"name": "Ada"}


async def test_what_the_app_is_asked(site: Served, visitor: Visitor, provider: Provider) -> None:
    """PKCE with S256, a state, the scopes; the client's secret is not in the browser."""
    tell(site, provider)
    made = await make(site)

    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))

    assert away.refresh is not None
    asked = httpx.URL(away.refresh).params
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    assert len(asked["state"]) == 43
    assert asked["scope"] == "contacts.read offline"
    assert asked["redirect_uri"] == "http://127.0.0.1:4000/_static/connect/callback"
    assert made["token"] not in away.refresh
    assert CLIENT_SECRET not in away.html


async def test_who_declines_is_told(site: Served, visitor: Visitor, provider: Provider) -> None:
    """The app's refusal is shown as text; the token stays good."""
    tell(site, provider)
    made = await make(site)
    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))

    back = await visitor.open(await sign_in(away, "Deny"))
    again = await visitor.open(made["connect_link_url"], app=APP)

    assert (back.status, "my_crm answered: access_denied: No <b>thanks</b>" in back.words) == (400, True)
    assert "<b>" not in back.html
    assert again.status == 200


async def test_another_browser_cannot_come_back(site: Served, visitor: Visitor, provider: Provider) -> None:
    """Who makes a victim finish a sign-in that they began does not get the victim's account."""
    tell(site, provider)
    made = await make(site, user="mallory")
    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))
    back = await sign_in(away)

    victim = await Visitor(site).open(back)

    assert (victim.status, "not started in this browser" in victim.words) == (400, True)
    assert site.directory.accounts() == []


async def test_a_state_comes_back_once(site: Served, visitor: Visitor, provider: Provider) -> None:
    """The same way back does nothing a second time, nor does one that nobody began."""
    tell(site, provider)
    made = await make(site)
    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))
    back = await sign_in(away)
    await visitor.open(back)

    again = await visitor.open(back)
    made_up = await visitor.open("/_static/connect/callback?state=abc&code=def")

    assert (again.status, made_up.status) == (400, 400)
    assert len(site.directory.accounts()) == 1


async def test_a_wrong_client_is_shown(site: Served, visitor: Visitor, provider: Provider) -> None:
    """What the provider says about our client is shown, without the secret; the product's page is told."""
    tell(site, provider, secret="not-the-secret")
    made = await make(site)
    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))

    back = await visitor.open(await sign_in(away))

    assert back.status == 400
    assert "issued no token (401): invalid_client" in back.words
    assert "not-the-secret" not in back.html


async def test_a_reason_shows_no_secret(site: Served, visitor: Visitor, provider: Provider) -> None:
    """A provider that repeats what it was sent does not make us show it."""
    tell(site, provider)
    made = await make(site)
    provider.tells_all = True
    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))

    back = await visitor.open(await sign_in(away))

    [form] = provider.asked
    assert "'grant_type': 'authorization_code'" in back.words
    assert [name for name in ("code", "code_verifier", "client_secret") if form[name] in back.html] == []


async def test_an_account_is_connected_again(site: Served, visitor: Visitor, provider: Provider) -> None:
    """Signing in again gives the account new tokens and leaves its id."""
    account = await connected(site, visitor, provider)
    first = site.directory.credentials(account)["oauth_access_token"]
    site.project.accounts.mark_unhealthy(account)
    made = await make(site)

    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP, accountId=account))
    done = await visitor.open(await sign_in(away))

    [found] = site.directory.accounts()
    assert done.status == 200
    assert (found.id, found.healthy) == (account, True)
    assert site.directory.credentials(account)["oauth_access_token"] != first
    site.context.clock.advance(3590)  # type: ignore[attr-defined]
    assert site.directory.credentials(account)["oauth_access_token"] in provider.tokens
    assert [form["grant_type"] for form in provider.asked][-1] == "refresh_token"


async def test_a_window_beside_a_frame(site: Served, visitor: Visitor, provider: Provider) -> None:
    """Sent away from a frame, the person ends on a page that tells the frame, whatever redirects were agreed."""
    tell(site, provider)
    leads = {"success_redirect_uri": "https://example.com/ok", "error_redirect_uri": "https://example.com/no"}
    ends = []
    for choice in ("Deny", "Allow"):
        made = await make(site, allowed_origins=["https://app.example.com"], **leads)
        page = await visitor.open(made["connect_link_url"], app=APP)
        away = await visitor.send({**page.hidden, "framed": "true"})
        ends.append((await visitor.open(await sign_in(away, choice))).body)

    account = site.directory.newest_account("ada", "development", APP)
    assert account is not None
    assert [end["data-window"] for end in ends] == ["sign-in", "sign-in"]
    assert [json.loads(end["data-message"] or "") for end in ends] == [
        {"type": "error", "error": "my_crm answered: access_denied: No <b>thanks</b>"},
        {"type": "success", "authProvisionId": account.id},
    ]


async def test_what_marks_the_browser(site: Served, visitor: Visitor, provider: Provider) -> None:
    """It is marked as it is sent away, by a cookie that scripts do not see and other sites' requests do not bring."""
    tell(site, provider)
    made = await make(site)

    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))

    cookie = away.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/_static" in cookie


async def test_redirects(site: Served, visitor: Visitor, provider: Provider) -> None:
    """Success and refusal each lead to the product's own page."""
    tell(site, provider)
    leads = {"success_redirect_uri": "https://example.com/ok", "error_redirect_uri": "https://example.com/no"}
    ends = []
    for choice in ("Allow", "Deny"):
        made = await make(site, **leads)
        away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))
        answer = await visitor.http.get(await sign_in(away, choice))
        ends.append((answer.status_code, answer.headers["location"]))

    assert ends == [(303, "https://example.com/ok"), (303, "https://example.com/no")]


async def connected(site: Served, visitor: Visitor, provider: Provider) -> str:
    """An account that was connected; its id."""
    tell(site, provider)
    made = await make(site)
    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP))
    await visitor.open(await sign_in(away))
    account = site.directory.newest_account("ada", "development", APP)
    assert account is not None
    return account.id


async def test_a_token_is_renewed_before_it_ends(site: Served, visitor: Visitor, provider: Provider) -> None:
    """Five minutes before its end, with the newest refresh token each time."""
    account = await connected(site, visitor, provider)
    first = site.directory.credentials(account)["oauth_access_token"]

    site.context.clock.advance(3299)  # type: ignore[attr-defined]
    early = site.directory.credentials(account)["oauth_access_token"]
    site.context.clock.advance(2)  # type: ignore[attr-defined]
    second = site.directory.credentials(account)["oauth_access_token"]
    site.context.clock.advance(3600)  # type: ignore[attr-defined]
    third = site.directory.credentials(account)["oauth_access_token"]

    assert early == first
    assert len({first, second, third}) == 3
    assert [form["grant_type"] for form in provider.asked] == ["authorization_code", "refresh_token", "refresh_token"]


async def test_a_refused_token_is_renewed(site: Served, visitor: Visitor, provider: Provider) -> None:
    """After a 401 the next to ask gets a new token; accounts that cannot be renewed say so."""
    account = await connected(site, visitor, provider)
    first = site.directory.credentials(account)["oauth_access_token"]

    assert site.directory.report_unauthorized(account, site.context.clock.now())
    second = site.directory.credentials(account)["oauth_access_token"]

    assert second != first
    assert site.directory.credentials(account)["oauth_access_token"] == second
    assert not site.directory.report_unauthorized("apn_unknown", site.context.clock.now())


async def test_two_who_were_refused_the_same_token(site: Served, visitor: Visitor, provider: Provider) -> None:
    """It is renewed once; the second is told that there are other credentials, and gets those."""
    account = await connected(site, visitor, provider)
    since = site.context.clock.now()
    site.context.clock.advance(1)  # type: ignore[attr-defined]

    assert site.directory.report_unauthorized(account, since)
    first = site.directory.credentials(account)["oauth_access_token"]
    assert site.directory.report_unauthorized(account, since)
    second = site.directory.credentials(account)["oauth_access_token"]

    assert first == second
    assert len(provider.asked) == 2


async def test_many_at_once_renew_once(site: Served, visitor: Visitor, provider: Provider) -> None:
    """A refresh token that comes twice is taken for stolen: eight who ask at once send it once."""
    account = await connected(site, visitor, provider)
    site.context.clock.advance(3590)  # type: ignore[attr-defined]

    asked = (asyncio.to_thread(site.directory.credentials, account) for _ in range(8))
    got = {credentials["oauth_access_token"] for credentials in await asyncio.gather(*asked)}

    assert len(got) == 1
    assert got <= provider.tokens
    assert len(provider.asked) == 2


async def test_a_provider_that_is_down_changes_nothing(site: Served, visitor: Visitor, provider: Provider) -> None:
    """The token that there is stays, and the next to ask tries again."""
    account = await connected(site, visitor, provider)
    first = site.directory.credentials(account)["oauth_access_token"]
    site.context.clock.advance(3590)  # type: ignore[attr-defined]

    provider.down = True
    meanwhile = site.directory.credentials(account)["oauth_access_token"]
    provider.down = False
    after = site.directory.credentials(account)["oauth_access_token"]

    found = site.directory.find_account(account)
    assert found is not None
    assert found.healthy
    assert meanwhile == first
    assert after != first


async def test_many_at_once_wait_for_one_refusal(site: Served, visitor: Visitor, provider: Provider) -> None:
    """Those who wait for a renewal go on as soon as the provider has failed, with the token that there is."""
    account = await connected(site, visitor, provider)
    site.context.clock.advance(3590)  # type: ignore[attr-defined]
    provider.down, provider.slowly = True, None

    began = time.monotonic()
    asked = (asyncio.to_thread(site.directory.credentials, account) for _ in range(8))
    got = {credentials["oauth_access_token"] for credentials in await asyncio.gather(*asked)}

    assert len(got) == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("withdrawn", [False, True], ids=["renewed", "refused"])
async def test_connected_again_while_it_is_renewed(
    site: Served, visitor: Visitor, provider: Provider, withdrawn: bool
) -> None:
    """What the provider says of the old refresh token changes nothing of the account that was connected anew."""
    account = await connected(site, visitor, provider)
    site.context.clock.advance(3590)  # type: ignore[attr-defined]
    made = await make(site)
    away = await visitor.fill(await visitor.open(made["connect_link_url"], app=APP, accountId=account))
    back = await sign_in(away)
    provider.slowly = threading.Event()

    asking = asyncio.create_task(asyncio.to_thread(site.directory.credentials, account))
    while len(provider.asked) < 2:
        await asyncio.sleep(0.01)
    done = await visitor.open(back)
    connected_anew = site.project.accounts.credentials(account)
    if withdrawn:
        provider._refresh_tokens = {f"{site.project.grants.find(account).refresh_token}"}  # type: ignore[union-attr]
    provider.slowly.set()
    got = await asking

    found, grant = site.directory.find_account(account), site.project.grants.find(account)
    assert "Your my_crm account is connected." in done.words
    assert site.project.accounts.credentials(account) == connected_anew == got
    assert found is not None
    assert found.healthy
    assert grant is not None
    assert (grant.error, grant.refresh_token in provider._refresh_tokens) == (None, True)


async def test_a_wrong_client_is_mended(site: Served, visitor: Visitor, provider: Provider) -> None:
    """A secret that the provider takes no more is not the account's fault: with the right one its token is renewed."""
    account = await connected(site, visitor, provider)
    first = site.directory.credentials(account)["oauth_access_token"]
    site.context.clock.advance(3590)  # type: ignore[attr-defined]

    tell(site, provider, secret="an-old-secret")
    meanwhile = site.directory.credentials(account)["oauth_access_token"]
    found = site.directory.find_account(account)
    tell(site, provider)
    after = site.directory.credentials(account)["oauth_access_token"]

    assert found is not None
    assert found.healthy
    assert meanwhile == first
    assert after != first


async def test_a_withdrawn_grant_marks_the_account(site: Served, visitor: Visitor, provider: Provider) -> None:
    """A provider that takes the refresh token no more is asked once; the account counts as unhealthy."""
    account = await connected(site, visitor, provider)
    provider._refresh_tokens.clear()
    site.context.clock.advance(3590)  # type: ignore[attr-defined]

    site.directory.credentials(account)
    site.directory.credentials(account)

    found = site.directory.find_account(account)
    assert found is not None
    assert not found.healthy
    assert len(provider.asked) == 2


async def test_removing_an_account_forgets_its_grant(site: Served, visitor: Visitor, provider: Provider) -> None:
    """The refresh token goes with the account, and with its user."""
    one = await connected(site, visitor, provider)
    two = await connected(site, visitor, provider)
    assert site.project.grants.find(one) is not None

    site.directory.remove_account(one)
    site.directory.delete_user("ada", "development")

    assert (site.project.grants.find(one), site.project.grants.find(two)) == (None, None)


async def test_the_proxy_renews_a_refused_token(tmp_path: Path, provider: Provider) -> None:
    """A call that the app answers with 401 is made again with a new token; the caller sees only the second answer."""
    async with served(tmp_path, egress=f"stand-in={provider.url}") as site:
        account = await connected(site, Visitor(site), provider)
        provider.tokens.clear()
        url = base64.urlsafe_b64encode(b"https://api.my-crm.example/api/me").decode()
        asked = {"external_user_id": "ada", "account_id": account}

        answer = await site.call("GET", f"/proxy/{url}", params=asked)

    assert (answer.status_code, answer.json()) == (200, {"name": "Ada"})
    assert [form["grant_type"] for form in provider.asked] == ["authorization_code", "refresh_token"]


async def test_the_proxy_hands_on_a_401_that_stays(tmp_path: Path, provider: Provider) -> None:
    """Where no new token can be had, the app's own answer arrives."""
    async with served(tmp_path, egress=f"stand-in={provider.url}") as site:
        account = await connected(site, Visitor(site), provider)
        provider.tokens.clear()
        provider._refresh_tokens.clear()
        url = base64.urlsafe_b64encode(b"https://api.my-crm.example/api/me").decode()
        asked = {"external_user_id": "ada", "account_id": account}

        answer = await site.call("GET", f"/proxy/{url}", params=asked)

    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_token"})
