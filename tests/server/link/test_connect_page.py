"""The page where a person connects an account by its credentials."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pdkernel.clock import ManualClock
from pdkernel.connect.registered_apps import register_app
from tests.server.link.conftest import PAGE, Visitor, make
from tests.server.served import Served, served


async def test_an_account_is_connected(site: Served, visitor: Visitor) -> None:
    """The form asks for the app's credentials; the account is the token's user's, in the token's environment."""
    register_app(site.project, "my_crm", ["subdomain", "api_key"])
    made = await make(site)

    page = await visitor.open(made["connect_link_url"], app="my_crm")
    done = await visitor.fill(page, subdomain="acme", api_key="k-0123456789")

    account = site.directory.newest_account("ada", "development", "my_crm")
    assert account is not None
    assert dict(site.directory.credentials(account.id)) == {"subdomain": "acme", "api_key": "k-0123456789"}
    assert page.asked == {"field:subdomain": "text", "field:api_key": "password"}
    assert (done.status, "Your my_crm account is connected." in done.words) == (200, True)
    assert "k-0123456789" not in done.html


async def test_the_page_says_for_whom(site: Served, visitor: Visitor) -> None:
    """User and environment are named, as text."""
    made = await make(site, user="<img src=x onerror=alert(1)>")

    page = await visitor.open(made["connect_link_url"], app="slack")

    assert "For <img src=x onerror=alert(1)>, in development." in page.words
    assert "<img" not in page.html


async def test_the_app_can_be_chosen(site: Served, visitor: Visitor) -> None:
    """A link without an app asks for it and goes on with the same token."""
    register_app(site.project, "my_crm", ["api_key"])
    made = await make(site)

    page = await visitor.open(made["connect_link_url"])

    assert page.asked == {"app": "input"}
    assert page.hidden["token"] == made["token"]
    assert 'value="my_crm"' in page.html


async def test_a_token_connects_one_account(site: Served, visitor: Visitor) -> None:
    """Once an account came of it the token is good for nothing more."""
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack")
    await visitor.fill(page, api_key="k-0123456789")

    again = await visitor.fill(page, api_key="k-other")
    opened = await visitor.open(made["connect_link_url"], app="slack")

    assert len(site.directory.accounts()) == 1
    assert (again.status, opened.status) == (400, 400)
    assert "This session has expired." in again.words
    assert "This session has expired." in opened.words


async def test_two_forms_at_once_connect_one_account(site: Served, visitor: Visitor) -> None:
    """A token that is sent many times in the same moment is used once."""
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack")

    ends = await asyncio.gather(*(visitor.fill(page, api_key=f"k-{number}") for number in range(8)))

    assert sorted(end.status for end in ends) == [200] + [400] * 7
    assert len(site.directory.accounts()) == 1


async def test_an_empty_form_is_asked_again(site: Served, visitor: Visitor) -> None:
    """The token stays good."""
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack")

    empty = await visitor.fill(page, api_key="")
    done = await visitor.fill(empty, api_key="k-0123456789")

    assert (empty.status, "Fill in at least one field." in empty.words) == (400, True)
    assert done.status == 200


@pytest.mark.parametrize(
    "says",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:4000"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
async def test_a_form_of_another_site_connects_nothing(site: Served, visitor: Visitor, says: dict[str, str]) -> None:
    """What a page elsewhere has the browser send is shown as a form to fill in here, and no account comes of it."""
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack")

    forged = await visitor.fill(page, says=says, api_key="k-0123456789")

    assert (forged.status, "sent from another page" in forged.words) == (400, True)
    assert site.directory.accounts() == []


async def test_a_program_may_fill_the_form_in(site: Served, visitor: Visitor) -> None:
    """Who says nothing of a page is no browser: a test of a product's own can connect an account over HTTP."""
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack")

    done = await visitor.fill(page, says={}, api_key="k-0123456789")

    assert done.status == 200


async def test_a_browser_that_names_the_page_only(site: Served, visitor: Visitor) -> None:
    """To plain http on another machine browsers say no more than the page's origin."""
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack")

    done = await visitor.fill(page, says={"origin": "http://127.0.0.1:4000"}, api_key="k-0123456789")

    assert done.status == 200


async def test_cancelling(site: Served, visitor: Visitor) -> None:
    """Nothing is connected, the product's frame is told to close, and the link stays good."""
    made = await make(site, allowed_origins=["https://app.example.com"])
    page = await visitor.open(made["connect_link_url"], app="slack")

    cancelled = await visitor.send({**page.hidden, "cancel": "true"})
    again = await visitor.open(made["connect_link_url"], app="slack")

    assert (cancelled.status, "No account was connected." in cancelled.words) == (200, True)
    assert json.loads(cancelled.body["data-message"] or "") == {"type": "close"}
    assert again.status == 200
    assert site.directory.accounts() == []


async def test_an_account_is_connected_again(site: Served, visitor: Visitor) -> None:
    """With `accountId` the account keeps its id, name and age, and has the new credentials."""
    old = site.directory.add_account(
        app="slack", credentials={"api_key": "k-old"}, external_user_id="ada", name="Ada's", account_id="apn_old"
    )
    site.project.accounts.mark_unhealthy("apn_old")
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack", accountId="apn_old")

    done = await visitor.fill(page, api_key="k-new")

    [account] = site.directory.accounts()
    assert "Connect your slack account again" in page.words
    assert done.status == 200
    assert (account.id, account.name, account.created_at, account.healthy) == ("apn_old", "Ada's", old.created_at, True)
    assert dict(site.directory.credentials("apn_old")) == {"api_key": "k-new"}


@pytest.mark.parametrize(
    ("user", "app", "account"),
    [("bob", "slack", "apn_old"), ("ada", "github", "apn_old"), ("ada", "slack", "apn_own"), ("ada", "slack", "x<b>")],
)
async def test_what_is_not_the_users_is_not_connected_again(
    site: Served, visitor: Visitor, user: str, app: str, account: str
) -> None:
    """Another user's account, another app's, one of your own or none: all the same answer, shown and sent."""
    site.directory.add_account(
        app="slack", credentials={"api_key": "k-old"}, external_user_id="ada", account_id="apn_old"
    )
    site.directory.add_account(
        app="slack", credentials={"api_key": "k-own"}, external_user_id=None, account_id="apn_own"
    )
    made = await make(site, user=user)
    page = await visitor.open(made["connect_link_url"], app=app)
    page.hidden["accountId"] = account

    shown = await visitor.open(made["connect_link_url"], app=app, accountId=account)
    sent = await visitor.fill(page, api_key="k-stolen")

    said = f"There is no {app} account {account} of this user to reconnect."
    assert (shown.status, said in shown.words) == (404, True)
    assert (sent.status, said in sent.words) == (400, True)
    assert "<b>" not in shown.html
    assert {site.directory.credentials(each)["api_key"] for each in ("apn_old", "apn_own")} == {"k-old", "k-own"}


async def test_the_buttons_that_end_it(site: Served, visitor: Visitor) -> None:
    """A product that has a button of its own to close the frame asks for none here."""
    made = await make(site)

    with_it = await visitor.open(made["connect_link_url"], app="slack")
    without = await visitor.open(made["connect_link_url"], app="slack", hideClose="true")

    assert "Cancel" in with_it.words
    assert "Cancel" not in without.words
    assert without.hidden["hideClose"] == "true"


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"token": "ctok_0", "app": "slack"}, 400, "The Pipedream Connect token is invalid."),
        ({}, 400, "The Pipedream Connect token is invalid."),
    ],
)
async def test_a_wrong_link(visitor: Visitor, query: dict[str, str], status: int, words: str) -> None:
    """A link whose token nobody made says so."""
    page = await visitor.open(PAGE, **query)

    assert (page.status, words in page.words) == (status, True)


async def test_a_wrong_app(site: Served, visitor: Visitor) -> None:
    """What is no slug is no app."""
    made = await make(site)

    page = await visitor.open(made["connect_link_url"], app="<script>alert(1)</script>")

    assert (page.status, "App not found." in page.words) == (404, True)
    assert "alert(1)" not in page.html


async def test_an_old_link(site: Served, visitor: Visitor) -> None:
    """A token whose time is over opens no form, and sends none that was open."""
    made = await make(site, expires_in=60)
    page = await visitor.open(made["connect_link_url"], app="slack")
    assert isinstance(site.context.clock, ManualClock)
    site.context.clock.advance(61)

    opened = await visitor.open(made["connect_link_url"], app="slack")
    sent = await visitor.fill(page, api_key="k-0123456789")

    assert "This link has expired." in opened.words
    assert "This link has expired." in sent.words
    assert site.directory.accounts() == []


async def test_the_page_lets_nothing_in(site: Served, visitor: Visitor) -> None:
    """No script but ours by its digest, no frame, no cache, no referrer elsewhere, and no cookie for nothing."""
    made = await make(site)

    page = await visitor.open(made["connect_link_url"], app="slack")

    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "form-action 'self'; base-uri 'none'; frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "same-origin")
    assert "set-cookie" not in page.headers


async def test_allowed_origins_may_frame_it(site: Served, visitor: Visitor) -> None:
    """The product's own page may show it in a frame and is told how it ended; nobody else is."""
    made = await make(site, allowed_origins=["https://app.example.com/settings", "http://localhost:3000"])
    page = await visitor.open(made["connect_link_url"], app="slack")

    done = await visitor.fill(page, api_key="k-0123456789")

    account = site.directory.newest_account("ada", "development", "slack")
    assert account is not None
    assert page.headers["content-security-policy"].endswith(
        "frame-ancestors https://app.example.com http://localhost:3000"
    )
    assert json.loads(done.body["data-origins"] or "") == ["https://app.example.com", "http://localhost:3000"]
    assert json.loads(done.body["data-message"] or "") == {"type": "success", "authProvisionId": account.id}


async def test_a_redirect_after_success(site: Served, visitor: Visitor) -> None:
    """The person is led back to the product."""
    made = await make(site, success_redirect_uri="https://example.com/ok?a=1&b='2'")
    page = await visitor.open(made["connect_link_url"], app="slack")

    done = await visitor.fill(page, api_key="k-0123456789")

    assert done.refresh == "https://example.com/ok?a=1&b='2'"
    assert done.links == ["https://example.com/ok?a=1&b='2'"]


async def test_a_large_form_is_refused(site: Served, visitor: Visitor) -> None:
    """More than a megabyte is not read to its end."""
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="slack")

    refused = await visitor.fill(page, api_key="x" * (1 << 20))

    assert refused.status == 413
    assert site.directory.accounts() == []


async def test_a_key_file_keeps_its_lines(site: Served, visitor: Visitor) -> None:
    """A private key of many lines is asked for in a field that keeps them."""
    register_app(site.project, "my_crm", ["private_key"])
    made = await make(site)
    page = await visitor.open(made["connect_link_url"], app="my_crm")
    key = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"

    await visitor.fill(page, private_key=key)

    account = site.directory.newest_account("ada", "development", "my_crm")
    assert page.asked == {"field:private_key": "textarea"}
    assert account is not None
    assert site.directory.credentials(account.id)["private_key"] == key


async def test_the_limit_of_users(tmp_path: Path) -> None:
    """Where the platform's limit is applied, one user too many is refused, and a known one is not."""
    async with served(tmp_path, max_development_users=1) as site:
        visitor = Visitor(site)
        first, second, again = await make(site, "ada"), await make(site, "bob"), await make(site, "ada")

        ends = [
            await visitor.fill(await visitor.open(made["connect_link_url"], app="slack"), api_key="k-0123456789")
            for made in (first, second, again)
        ]
        users = [user.external_id for user in site.directory.users("development")]

    assert [end.status for end in ends] == [200, 400, 200]
    assert "You've hit your limit on the number of external users you can connect." in ends[1].words
    assert users == ["ada"]


async def test_users_at_once_under_the_limit(tmp_path: Path) -> None:
    """Of ten who connect in the same moment as many get through as may."""
    async with served(tmp_path, max_development_users=3) as site:
        visitor = Visitor(site)
        made = [await make(site, f"user{number}") for number in range(10)]
        pages = [await visitor.open(each["connect_link_url"], app="slack") for each in made]

        ends = await asyncio.gather(*(visitor.fill(page, api_key="k-0123456789") for page in pages))
        users = list(site.directory.users("development"))

    assert sorted(end.status for end in ends) == [200] * 3 + [400] * 7
    assert len(users) == 3
