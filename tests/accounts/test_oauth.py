"""Responses of OAuth 2 providers to requests for tokens."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from threading import Event, Thread
from urllib.parse import parse_qsl, quote_plus, urlsplit

import pytest

from pdkernel.accounts import LocalDirectory, oauth
from pdkernel.accounts.apps import PROVIDERS_SETTING, OAuthProvider
from pdkernel.accounts.oauth import ProviderError, authorize_url, refresh_tokens
from pdkernel.common.clock import ManualClock
from pdkernel.common.identity import AccountGoneError
from pdkernel.storage import Project
from tests.http_servers import AnsweringServer, serve
from tests.oauth_provider import Provider, connect_account, oauth_provider, register

SECRET = "secret/of=ours +0123456789"
REFRESH = "refresh-token-0123456789"


@contextmanager
def slow_provider(pieces: Iterable[bytes]) -> Iterator[OAuthProvider]:
    """A provider that accepts one request, sends *pieces* slowly, and keeps the connection until the end of the block."""
    ended = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                caller, _ = server.accept()
                with caller:
                    caller.recv(65536)
                    for piece in pieces:
                        caller.sendall(piece)
                        if ended.wait(0.02):
                            break
                    ended.wait()

        thread = Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        try:
            yield OAuthProvider(f"{url}/authorize", f"{url}/token", "client", SECRET)
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)  # the provider may not have been called yet
            thread.join()


def answer(body: bytes, status: str = "200 OK") -> bytes:
    """An HTTP response of a provider."""
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status.encode(),
        len(body),
        body,
    )


HANGING = {
    "silent": (),
    "in its headers": chain([b"HTTP/1.1 200 OK\r\n"], repeat(b"x: y\r\n")),
    "in its body": chain([b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"], repeat(b" ")),
}
"""Responses without an end."""


@pytest.mark.parametrize("pieces", HANGING.values(), ids=HANGING)
def test_the_timeout_is_for_the_whole_response(pieces: Iterable[bytes]) -> None:
    """A provider that is silent, or sends without an end, is given up after the timeout; a retry may succeed."""
    with (
        slow_provider(pieces) as hanging,
        pytest.raises(ProviderError, match=r"did not answer within 0\.5 s") as caught,
    ):
        refresh_tokens(hanging, REFRESH, timeout_s=0.5)

    assert caught.value.is_permanent is False


@pytest.mark.parametrize(
    ("response", "is_permanent"),
    [
        (answer(b'{"error": "invalid_grant"}', "400 Bad Request"), True),
        (answer(b'{"status": "BAD_REFRESH_TOKEN"}', "400 Bad Request"), True),
        (answer(b'{"error": "bad_refresh_token"}'), True),
        (answer(b'{"error": "invalid_client"}', "401 Unauthorized"), False),
        (answer(b'{"error": "incorrect_client_credentials"}'), False),
        (answer(b"<h1>Maintenance</h1>"), False),
        (answer(b"<h1>Who are you?</h1>", "403 Forbidden"), False),
        (answer(b'{"error": "no such page"}', "404 Not Found"), False),
        (answer(b'{"error": "rate"}', "429 Too Many Requests"), False),
        (answer(b'{"access_token": ""}'), False),
        (answer(b"[" * 100_000), False),
    ],
    ids=lambda each: each.rpartition(b"\r\n")[2][:30].decode() if isinstance(each, bytes) else "",
)
def test_which_errors_are_permanent(response: bytes, is_permanent: bool) -> None:
    """An error is permanent only if the provider rejects the refresh token itself."""
    with slow_provider([response]) as refusing, pytest.raises(ProviderError, match="issued no token") as caught:
        refresh_tokens(refusing, REFRESH)

    assert caught.value.is_permanent is is_permanent


@pytest.mark.parametrize(("given", "kept"), [(b'"again-0123456789"', "again-0123456789"), (b'""', None), (b"5", None)])
def test_an_invalid_refresh_token_is_ignored(given: bytes, kept: str | None) -> None:
    """An empty refresh token, and one that is not a text, counts as missing."""
    with slow_provider([answer(b'{"access_token": "access-0123456789", "refresh_token": %s}' % given)]) as odd:
        assert refresh_tokens(odd, REFRESH).refresh_token == kept


def test_the_url_to_sign_in_keeps_its_query() -> None:
    """Parameters of the provider's URL come before those of the request; without scopes there is no scope."""
    own = OAuthProvider("https://app.example/authorize?access_type=offline#x", "https://app.example/token", "client")
    whole = authorize_url(own, state="s t", verifier="v" * 43, redirect_uri="https://here.example/callback?a=b")
    query = parse_qsl(urlsplit(whole).query)

    assert whole.startswith("https://app.example/authorize?access_type=offline&")
    assert urlsplit(whole).fragment == ""
    assert [name for name, _ in query] == [
        "access_type", "response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method"
    ]  # fmt: skip
    assert dict(query)["redirect_uri"] == "https://here.example/callback?a=b"


@pytest.mark.parametrize("lasting", [b"1" + b"0" * 400, b"Infinity", b"-1", b"0", b'"soon"', b"null"])
def test_an_invalid_lifetime_is_ignored(lasting: bytes) -> None:
    """A token with an invalid `expires_in` has an unknown lifetime."""
    with slow_provider(
        [answer(b'{"access_token": "access-0123456789", "error": null, "expires_in": %s}' % lasting)]
    ) as odd:
        tokens = refresh_tokens(odd, REFRESH)

    assert (tokens.access_token, tokens.expires_in) == ("access-0123456789", None)


@pytest.mark.parametrize("shown", [quote_plus(SECRET), REFRESH, "x" * 265 + REFRESH])
def test_the_reason_has_no_secret(shown: str) -> None:
    """The provider's reason is masked, also where a secret is encoded or cut off."""
    response = answer(f'{{"error": "invalid_grant", "error_description": "{shown}"}}'.encode(), "400 Bad Request")
    with slow_provider([response]) as refusing, pytest.raises(ProviderError, match="invalid_grant") as caught:
        refresh_tokens(refusing, REFRESH)

    assert not any(secret in str(caught.value) for secret in (quote_plus(SECRET), "refresh-token"))


def test_unreadable_certificates_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the variable with the user's own certificates names a missing file, the error names the variable; a later try may succeed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))

    app = OAuthProvider("https://app.example/authorize", "https://app.example/token", "client", SECRET)

    with pytest.raises(ProviderError) as refused:
        refresh_tokens(app, REFRESH)

    assert "was not asked for a token. The certificates cannot be read (No such file" in str(refused.value)
    assert "SSL_CERT_FILE" in str(refused.value)
    assert not refused.value.is_permanent


def test_a_huge_response_is_not_read_to_its_end() -> None:
    """A response is read up to a limit; a longer one has no token, and a retry may succeed."""
    start = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b" " * (1 << 18)
    token = b'{"access_token": "access-0123456789"}'

    with slow_provider([start, token, b" " * 1000]) as endless, pytest.raises(ProviderError) as caught:
        refresh_tokens(endless, REFRESH)

    assert "issued no token (200): no reason given." in str(caught.value)
    assert caught.value.is_permanent is False


def test_a_redirect_is_not_followed() -> None:
    """The client's secret and the refresh token are sent to the token endpoint only."""
    with serve(AnsweringServer(lambda _: (307, {}, {"location": "/elsewhere"}))) as server:
        app = OAuthProvider(f"{server.url}/authorize", f"{server.url}/token", "client", SECRET)

        with pytest.raises(ProviderError, match=r"issued no token \(307\)"):
            refresh_tokens(app, REFRESH)

    assert [request.path for request in server.requests] == ["/token"]


def test_an_unreachable_provider_is_named() -> None:
    """The error names the host and the kind of failure; a retry may succeed."""
    closed = OAuthProvider("http://127.0.0.1:9/authorize", "http://127.0.0.1:9/token", "client", SECRET)

    with pytest.raises(ProviderError, match=r"127\.0\.0\.1:9 is unreachable: ConnectError") as caught:
        refresh_tokens(closed, REFRESH)

    assert caught.value.is_permanent is False


DUE_S = 3590
"""Seconds after which the first access token, which lasts an hour, is due for a refresh."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """An app's OAuth provider."""
    with oauth_provider() as running:
        yield running


@pytest.fixture
def account(home: Project, provider: Provider) -> str:
    """The id of an account that ada connected by OAuth."""
    return connect_account(home, provider)


@pytest.fixture
def directory(home: Project) -> LocalDirectory:
    """The directory of the project."""
    return LocalDirectory(home)


def token_of(directory: LocalDirectory, account: str) -> str:
    """The account's current access token."""
    return directory.credentials(account)["oauth_access_token"]


def tokens_of_eight_callers(directory: LocalDirectory, account: str) -> set[str]:
    """The access tokens that eight threads get at the same time."""
    with ThreadPoolExecutor(8) as threads:
        return set(threads.map(lambda _: token_of(directory, account), range(8)))


def grant_types(provider: Provider) -> list[str]:
    """The grant types of the requests to the provider."""
    return [form["grant_type"] for form in provider.requests]


def test_a_token_is_refreshed_five_minutes_before_it_expires(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """Each refresh uses the newest refresh token."""
    first = token_of(directory, account)

    moving.advance(3299)
    early = token_of(directory, account)
    moving.advance(2)
    second = token_of(directory, account)
    moving.advance(3600)
    third = token_of(directory, account)

    assert early == first
    assert len({first, second, third}) == 3
    assert grant_types(provider) == ["refresh_token", "refresh_token"]


def test_a_refresh_token_that_is_not_replaced_is_used_again(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """Many providers issue one refresh token for good (RFC 6749, section 6)."""
    provider.rotates = False
    tokens = [token_of(directory, account)]
    for _ in range(2):
        moving.advance(3600)
        tokens.append(token_of(directory, account))

    assert len(set(tokens)) == 3
    assert len({form["refresh_token"] for form in provider.requests}) == 1


def test_a_token_with_a_short_lifetime_is_refreshed_in_the_last_fifth(
    home: Project, directory: LocalDirectory, provider: Provider, moving: ManualClock
) -> None:
    """A lifetime of ten minutes has a margin of two minutes instead of five."""
    provider.expires_in = 600
    account = connect_account(home, provider)
    first = token_of(directory, account)

    moving.advance(479)
    early = token_of(directory, account)
    moving.advance(2)

    assert early == first
    assert token_of(directory, account) != first


def test_a_token_that_an_app_rejected_is_refreshed(
    directory: LocalDirectory, account: str, moving: ManualClock
) -> None:
    """After a reported 401 the next call gets a new token; the report of an account without a grant returns False."""
    first = token_of(directory, account)

    assert directory.report_unauthorized(account, moving.now())
    second = token_of(directory, account)

    assert second != first
    assert token_of(directory, account) == second
    assert not directory.report_unauthorized("apn_unknown", moving.now())


def test_two_reports_of_the_same_token_cause_one_refresh(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """The second report returns True, and the second caller gets the new token of the first refresh."""
    since = moving.now()
    moving.advance(1)

    assert directory.report_unauthorized(account, since)
    first = token_of(directory, account)
    assert directory.report_unauthorized(account, since)
    second = token_of(directory, account)

    assert first == second
    assert len(provider.requests) == 1


@pytest.mark.parametrize("is_down", [False, True])
def test_concurrent_callers_send_one_refresh(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock, is_down: bool
) -> None:
    """A provider takes a repeated refresh token for stolen: eight concurrent callers send it once, and continue with the old token as soon as the provider has failed."""
    moving.advance(DUE_S)
    provider.down = is_down
    began = time.monotonic()

    found = tokens_of_eight_callers(directory, account)

    assert len(found) == 1
    assert time.monotonic() - began < oauth._MAX_WAIT_S  # the time that they wait for a refresh without an end
    if not is_down:
        assert found <= provider.tokens
        assert len(provider.requests) == 1


@pytest.mark.parametrize("fault", ["the provider is down", "the client secret is wrong"])
def test_a_refresh_that_fails_leaves_the_token(
    directory: LocalDirectory, account: str, home: Project, provider: Provider, moving: ManualClock, fault: str
) -> None:
    """The old token stays, the account stays healthy, and the next call after the fault refreshes the token."""
    first = token_of(directory, account)
    moving.advance(DUE_S)
    provider.down = fault == "the provider is down"
    if not provider.down:
        register(home, provider, secret="an-old-secret")
    meanwhile = token_of(directory, account)
    found = directory.find_account(account)
    provider.down = False
    register(home, provider)

    after = token_of(directory, account)

    assert found is not None
    assert found.healthy
    assert meanwhile == first
    assert after != first


def test_a_rejected_refresh_token_marks_the_account_unhealthy(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """The provider gets one request; later calls do not repeat it."""
    provider.refresh_tokens.clear()
    moving.advance(DUE_S)

    token_of(directory, account)
    token_of(directory, account)

    found = directory.find_account(account)
    assert found is not None
    assert not found.healthy
    assert directory.reconnect_account(account, {"oauth_access_token": "new"}).healthy
    renewed = directory.find_account(account)
    assert renewed is not None
    assert renewed.healthy
    assert len(provider.requests) == 1


def test_a_token_that_is_not_due_any_more_is_left(home: Project, account: str, provider: Provider) -> None:
    """A process that finds the token already refreshed sends nothing, and leaves the next refresh to any process."""
    before = home.accounts.credentials(account)

    assert oauth.refresh_credentials(home, account, before) == before
    assert not home.grants.is_renewing(account)
    assert provider.requests == []


def test_a_token_of_an_app_without_a_client_is_left(
    home: Project, directory: LocalDirectory, account: str, moving: ManualClock
) -> None:
    """If the project has no OAuth client of the app any more, the token stays, and no other process waits for a refresh."""
    before = token_of(directory, account)
    home.settings.remove(PROVIDERS_SETTING)

    moving.advance(DUE_S)

    assert token_of(directory, account) == before
    assert not home.grants.is_renewing(account)


def test_credentials_that_a_person_enters_are_not_refreshed(
    directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """Credentials in place of those of a sign-in stay, also when the token of the sign-in would be due."""
    directory.reconnect_account(account, {"oauth_access_token": "entered"})

    moving.advance(DUE_S)

    assert token_of(directory, account) == "entered"
    assert provider.requests == []


def test_removing_an_account_removes_its_refresh_token(
    directory: LocalDirectory, account: str, home: Project, provider: Provider
) -> None:
    """The refresh token is deleted with the account, and with the external user."""
    other = connect_account(home, provider)
    assert home.grants.find(account) is not None

    directory.remove_account(account)
    directory.delete_user("ada", "development")

    assert (home.grants.find(account), home.grants.find(other)) == (None, None)


def test_a_refresh_of_a_removed_account_reports_that(
    home: Project, directory: LocalDirectory, account: str, provider: Provider
) -> None:
    """If the account is removed after its credentials were read, the refresh sends no request and names the account."""
    before = directory.credentials(account)
    directory.remove_account(account)

    with pytest.raises(AccountGoneError, match=account):
        oauth.refresh_credentials(home, account, before)

    assert provider.requests == []


def test_a_crash_between_token_and_refresh_token_leaves_both(
    home: Project, directory: LocalDirectory, account: str, provider: Provider, moving: ManualClock
) -> None:
    """If the new refresh token cannot be stored, the new access token is not stored either."""
    before = token_of(directory, account)
    moving.advance(DUE_S)
    with home.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql(
            "create trigger crash before update of sealed_refresh_token on account_grants"
            " begin select raise(rollback, 'crash'); end"
        )
    with pytest.raises(Exception, match="crash"):
        token_of(directory, account)

    assert home.accounts.credentials(account)["oauth_access_token"] == before


def test_a_crash_of_a_reconnection_leaves_the_earlier_account(
    home: Project, directory: LocalDirectory, account: str
) -> None:
    """If the new credentials cannot be stored, the account keeps its credentials and its refresh token."""
    before = token_of(directory, account)
    with home.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql(
            "create trigger crash before update of sealed_credentials on accounts begin select raise(rollback, 'crash'); end"
        )
    with pytest.raises(Exception, match="crash"):
        directory.reconnect_account(account, {"api_key": "another"})

    grant = home.grants.find(account)
    assert home.accounts.credentials(account)["oauth_access_token"] == before
    assert grant is not None
    assert grant.refresh_token is not None
