"""The proxy: requests to apps' APIs with a user's account, sent to a server on this machine."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from pdkernel.accounts.apps import OAuthProvider, register_provider
from pdkernel.accounts.oauth import OAuthTokens, store_grant
from pdkernel.egress import Gateway
from pdkernel.server import create_app
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.oauth_provider import connect_account, oauth_provider
from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served, served

TOKEN = "xoxb-4e8d21b7c9"
HOST = "127.0.0.1:4000"
URL = "https://slack.com/api/chat.postMessage?q=a%20b"


def respond(request: SentRequest) -> Answer:
    """Responds with the received request; some paths have other responses."""
    match request.path.rpartition("/")[2]:
        case "token":
            return _shown(200, {"access_token": "renewed-token-1", "token_type": "Bearer", "expires_in": 3600})
        case "guarded" if request.headers["authorization"] != "Bearer renewed-token-1":
            return _shown(401, {"error": "expired"})
        case "away":
            return 302, b"", {"location": "https://elsewhere.example/"}
        case "unchanged":
            return 304, b"", {"content-length": "100"}
        case "marked":
            return 403, b"of the app", {"X-Pdkernel-Egress": "denied"}
        case "broken":
            return 200, b"half", {"content-length": "100"}
    return _shown(201, {**asdict(request), "body": request.body.decode()})


def _shown(status: int, value: dict[str, Any]) -> Answer:
    return status, value, {"x-depot": "yes", "set-cookie": "mine=1"}


@pytest.fixture(scope="module")
def outside() -> Iterator[str]:
    """A server in place of every host."""
    with serve(AnsweringServer(respond)) as server:
        yield server.url


@pytest.fixture
async def site(tmp_path: Path, outside: str) -> AsyncIterator[Served]:
    """A project whose outbound calls go to the stand-in; ada and grace have a Slack account each."""
    async with served(tmp_path, egress=f"stand-in={outside}") as site:
        add_accounts(site)
        yield site


def add_accounts(site: Served) -> None:
    """Connect the accounts of ada and grace."""
    for user in ("ada", "grace"):
        site.connect(user, "slack", {"oauth_access_token": f"{TOKEN}-{user}"}, account_id=f"apn_{user}")


def encoded(url: str = URL) -> str:
    """The URL as the Python SDK encodes it."""
    return base64.urlsafe_b64encode(url.encode()).decode()


async def send(site: Served, url: str = URL, *, method: str = "POST", account: str = "apn_ada", **kwargs: Any) -> Any:
    """Send a request of the user of the account."""
    params = {"external_user_id": "grace" if account == "apn_grace" else "ada", "account_id": account}
    return await site.call(method, f"/proxy/{encoded(url)}", params={**params, **kwargs.pop("params", {})}, **kwargs)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_the_app_gets_the_request_with_the_users_token(site: Served, method: str) -> None:
    """The app gets method, path, query, headers and body; the caller's own Authorization is replaced."""
    body = b"" if method in ("GET", "DELETE") else b'{"a": 1}'
    answer = await send(
        site,
        method=method,
        content=body,
        headers={"Content-Type": "application/json", "x-pd-proxy-X-Foo": "1", "x-pd-proxy-authorization": "mine"},
    )

    seen = answer.json()
    headers = httpx.Headers(seen["headers"])
    assert answer.status_code == 201
    assert (seen["method"], seen["path"], seen["body"]) == (method, "/api/chat.postMessage?q=a%20b", body.decode())
    assert headers["authorization"] == f"Bearer {TOKEN}-ada"
    assert headers["x-foo"] == "1"
    assert headers["content-type"] == "application/json"
    assert headers["x-forwarded-host"] == "slack.com"
    assert not any(name.startswith("x-pd") for name in headers)
    assert answer.headers["x-depot"] == "yes"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "text",
    [
        base64.urlsafe_b64encode(URL.encode()).decode().rstrip("="),
        base64.b64encode(URL.encode()).decode().replace("/", "%2F").replace("=", "%3D").replace("+", "%2B"),
        base64.b64encode(b"https://slack.com/api/" + b"?>?>?>").decode(),
    ],
)
async def test_both_alphabets_of_base64(site: Served, text: str) -> None:
    """The URL may be in either alphabet of base64, with or without padding and escapes."""
    answer = await site.call("GET", f"/proxy/{text}?external_user_id=ada&account_id=apn_ada")

    assert answer.status_code == 201


async def test_responses_of_the_app(site: Served) -> None:
    """A redirect is not followed with the token, a 304 has no length, and the gateway's mark of a refusal is the app's own."""
    away, unchanged, marked = [
        await send(site, f"https://slack.com/api/{name}", method="GET") for name in ("away", "unchanged", "marked")
    ]

    assert (away.status_code, away.headers["location"]) == (302, "https://elsewhere.example/")
    assert (unchanged.status_code, "content-length" in unchanged.headers) == (304, False)
    assert (marked.status_code, marked.text) == (403, "of the app")


async def test_only_hosts_of_the_app_get_the_token(site: Served) -> None:
    """Another host or port, plain HTTP, and addresses of this machine or a private network are rejected."""
    for url in (
        "https://slack.com.evil.example/",
        "https://evil.example/?https://slack.com/",
        "https://slack.com@evil.example/",
        "https://evilslack.com/",
        "http://slack.com/api",
        "https://slack.com:8443/api",
        *("http://127.0.0.1:80/", "http://localhost/", "https://[::1]/", "https://10.0.0.7/", "https://2130706433/"),
        *("https://169.254.169.254/latest/meta-data", "https://0x7f.1/", "file:///etc/passwd"),
        *("/relative", "https://", "https://slack.com:99999/", "not a url"),
    ):
        answer = await send(site, url, method="GET")

        assert answer.status_code in (400, 403), url
        assert TOKEN not in answer.text
        assert "path" not in answer.json()


async def test_an_invalid_host_is_rejected(site: Served) -> None:
    """Invalid labels and ports, and user names in the URL, are answered 400; nothing is sent."""
    labels = (".", "a..", "-a.", f"{'a' * 64}.", f"{'.'.join(['a' * 60] * 5)}.", "xn--.", "xn--a.", "*.", "ü\0.")
    for host in (
        *(f"{label}slack.com" for label in labels),
        *("slack.com..", "sl%61ck.com", "slack.com:99999", "ada@slack.com", "@slack.com", "[slack.com]"),
    ):
        answer = await send(site, f"https://{host}/", method="GET")

        assert answer.status_code == 400, host
        assert "is not an absolute http or https URL" in answer.json()["error"]


async def test_an_internationalized_host_name(site: Served) -> None:
    """A name that IDNA can encode is called, also with a dot at its end."""
    answer = await send(site, "https://müller.slack.com./api", method="GET")

    assert httpx.Headers(answer.json()["headers"])["x-forwarded-host"] == "xn--mller-kva.slack.com."


async def test_only_the_users_account_is_used(site: Served) -> None:
    """Another user's account, an unknown account and the other environment are answered 404."""
    assert (await send(site, account="apn_grace", params={"external_user_id": "ada"})).status_code == 404
    assert (await send(site, account="apn_nobody")).status_code == 404
    assert (await send(site, environment="production")).status_code == 404
    assert (await site.call("GET", f"/proxy/{encoded()}", params={"external_user_id": "ada"})).status_code == 400
    assert (await site.call("GET", f"/proxy/{encoded()}", params={"account_id": "apn_ada"})).status_code == 400
    assert (await site.call("GET", "/proxy/%25%25?external_user_id=ada&account_id=apn_ada")).status_code == 400


@pytest.mark.parametrize(
    ("egress", "status", "reason"),
    [
        ("deny", 403, "the outbound policy is deny"),
        ("stand-in=http://127.0.0.1:9", 502, "got no response: 127.0.0.1:9 refused the connection (ECONNREFUSED)."),
    ],
)
async def test_a_request_that_gets_no_response(tmp_path: Path, egress: str, status: int, reason: str) -> None:
    """If outbound calls are denied, or the host cannot be reached, the caller gets the reason, and not the token."""
    async with served(tmp_path, egress=egress) as site:
        add_accounts(site)
        answer = await send(site)

    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert TOKEN not in answer.text


async def test_an_app_without_known_hosts(site: Served, tmp_path: Path) -> None:
    """The account is sent to the stand-in of every call; if calls are denied, the request is rejected."""
    async with served(tmp_path / "deny", egress="deny") as other:
        for each in (site, other):
            each.directory.add_account(
                app="depot", credentials={"api_key": "dk-123456"}, external_user_id="ada", account_id="apn_depot"
            )

        there = await send(site, "https://depot.example/x", account="apn_depot")
        refused = await send(other, "https://depot.example/x", account="apn_depot")

    assert httpx.Headers(there.json()["headers"])["authorization"] == "Bearer dk-123456"
    assert refused.status_code == 400


async def test_an_account_without_the_apps_credential(site: Served) -> None:
    """An account that lacks the credential of its app's API is answered 400 with the name of the credential."""
    site.connect("ada", "slack", {"other": "x-0123456789"}, account_id="apn_odd")

    answer = await send(site, account="apn_odd")

    assert answer.status_code == 400
    assert answer.json()["error"] == "The slack account apn_odd has no credential 'oauth_access_token'."


async def test_a_header_with_a_forbidden_character(site: Served) -> None:
    """A header that HTTP cannot send to the app is answered 400."""
    sent = [(name.encode(), value.encode()) for name, value in site.headers().items()]
    answer = await site.http.get(
        f"/v1/connect/{site.project.project_id}/proxy/{encoded()}?external_user_id=ada&account_id=apn_ada",
        headers=[*sent, (b"x-pd-proxy-x-name", b"M\xc3\xbcller")],
    )

    assert answer.status_code == 400
    assert "a header contains a forbidden character" in answer.json()["error"]


async def test_a_rejected_token_is_refreshed_once(site: Served, outside: str) -> None:
    """An account with a refresh token is sent again with a new token; an account without one is not."""
    register_provider(site.project, "slack", OAuthProvider(f"{outside}/authorize", f"{outside}/token", "client-1"))
    store_grant(site.project, "apn_ada", OAuthTokens("old", "refresh-token-1", 3600.0))

    renewed = await send(site, "https://slack.com/api/guarded")
    other = await send(site, "https://slack.com/api/guarded", account="apn_grace")

    assert renewed.status_code == 201
    assert httpx.Headers(renewed.json()["headers"])["authorization"] == "Bearer renewed-token-1"
    assert other.status_code == 401


async def test_a_rejected_request_ends_its_connection(tmp_path: Path, outside: str) -> None:
    """Before a request is sent again with a new token, its first connection is closed, although the 401's body was not read."""
    is_closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"renewed-token-1" in await reader.readuntil(b"\r\n\r\n"):
            async with asyncio.timeout(60):
                await is_closed.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 9\r\n\r\n")
            await reader.read()
            is_closed.set()
        writer.close()

    app = await asyncio.start_server(answer, "127.0.0.1")
    host, port = app.sockets[0].getsockname()
    async with app, served(tmp_path, egress=f"allow={host}") as there:
        register_provider(there.project, "depot", OAuthProvider(f"{outside}/authorize", f"{outside}/token", "client-1"))
        there.connect("ada", "depot", {"oauth_access_token": TOKEN}, account_id="apn_ada")
        store_grant(there.project, "apn_ada", OAuthTokens("old", "refresh-token-1", 3600.0))

        found = await send(there, f"http://{host}:{port}/guarded")

    assert found.status_code == 204


async def test_a_token_that_was_renewed_meanwhile_is_used(tmp_path: Path) -> None:
    """If the token was renewed while the app rejected the old one, the request is repeated without another refresh."""

    def answer(request: SentRequest) -> Answer:
        if request.path.endswith("guarded") and request.headers["authorization"] != "Bearer renewed-token-1":
            there.clock.advance(1)
            there.directory.report_unauthorized("apn_ada", there.clock.now())
            there.directory.credentials("apn_ada")  # another request renews the token
            there.clock.advance(1)
        return respond(request)

    with serve(AnsweringServer(answer)) as app:
        async with served(tmp_path, egress=f"stand-in={app.url}") as there:
            add_accounts(there)
            register_provider(
                there.project, "slack", OAuthProvider(f"{app.url}/authorize", f"{app.url}/token", "client-1")
            )
            store_grant(there.project, "apn_ada", OAuthTokens("old", "refresh-token-1", 3600.0))
            found = await send(there, "https://slack.com/api/guarded")

    assert found.status_code == 201
    assert [request.path for request in app.requests].count("/token") == 1


async def test_a_truncated_response(site: Served) -> None:
    """The caller gets the data so far without an end; the server raises no error."""
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0 if not sent else 60)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    path = f"/v1/connect/{site.project.project_id}/proxy/{encoded('https://slack.com/broken')}"
    headers = [(name.lower().encode(), value.encode()) for name, value in {**site.headers(), "host": HOST}.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    await create_app(site.context)({**scope, "query_string": b"external_user_id=ada&account_id=apn_ada"}, receive, send)

    assert [message.get("status") for message in sent if message["type"] == "http.response.start"] == [200]
    assert b"".join(message.get("body", b"") for message in sent) == b"half"
    assert all(message.get("more_body", True) for message in sent)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "inside.test"])
async def test_a_connect_token_does_not_reach_this_machine(tmp_path: Path, outside: str, host: str) -> None:
    """An allowed host is called for an OAuth client; with a Connect token the host must be public."""

    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    port = int(outside.rpartition(":")[2])
    resolve = {} if host != "inside.test" else {(host, port + 1): ("127.0.0.1", port)}
    gateway = await Gateway.start(tmp_path / "egress", environ={}, host_overrides=resolve, lookup=lookup)
    async with served(tmp_path, egress=f"allow={host}", gateway=gateway) as site:
        site.connect("ada", "depot", {"api_key": TOKEN}, account_id="apn_ada")
        url = f"http://{host}:{port}/x"
        refused = await send(site, url, headers=bearer(connect_token(site)))
        answered = await send(site, url if not resolve else f"http://{host}:{port + 1}/x")

    assert refused.status_code == 403
    assert "public address" in refused.json()["error"]
    assert answered.status_code == 201


@pytest.mark.parametrize(("can_refresh", "status"), [(True, 200), (False, 401)])
async def test_a_rejected_token_of_an_oauth_provider(tmp_path: Path, can_refresh: bool, status: int) -> None:
    """The caller gets the app's second response after a refresh, or the app's 401 if the refresh fails."""
    with oauth_provider() as provider:
        async with served(tmp_path, egress=f"stand-in={provider.url}") as site:
            account = connect_account(site.project, provider)
            provider.tokens.clear()
            if not can_refresh:
                provider.refresh_tokens.clear()
            answer = await send(site, "https://api.my-crm.example/api/me", method="GET", account=account)

    assert answer.status_code == status
    assert answer.json() == ({"name": "Ada"} if can_refresh else {"error": "invalid_token"})
    assert [form["grant_type"] for form in provider.requests] == ["refresh_token"]


@pytest.mark.parametrize(
    ("app", "credentials", "host"),
    [
        ("salesforce_rest_api", {"instance_url": "https://acme.my.salesforce.com/"}, "acme.my.salesforce.com"),
        ("pipedrive", {"api_domain": "acme.pipedrive.com"}, "acme.pipedrive.com"),
        ("notion", {}, "api.notion.com"),
    ],
)
async def test_a_relative_url_has_the_domain_of_the_account(
    site: Served, app: str, credentials: dict[str, str], host: str
) -> None:
    """A relative URL goes to the account's own domain, or to the only host of the app."""
    token = {"oauth_access_token": TOKEN}
    site.connect("ada", app, token | credentials, account_id="apn_rel")

    answer = await send(site, "/services/data?q=1", account="apn_rel", method="GET")

    seen = answer.json()
    assert (seen["path"], httpx.Headers(seen["headers"])["x-forwarded-host"]) == ("/services/data?q=1", host)


async def test_the_domain_of_an_account_is_a_host_of_its_app(site: Served) -> None:
    """A relative URL does not take the credentials to a host that is not the app's, whatever the account's domain is."""
    for domain in ("https://evil.example", "127.0.0.1:4000", "https://x.salesforce.com@evil.example"):
        account = site.connect("ada", "salesforce_rest_api", {"oauth_access_token": TOKEN, "instance_url": domain})
        answer = await send(site, "/services", account=account)

        assert answer.status_code in (400, 403)
        assert TOKEN not in answer.text
