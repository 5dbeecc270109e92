"""Responses of OAuth 2 providers to requests for tokens."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from threading import Event, Thread
from urllib.parse import parse_qsl, quote_plus, urlsplit

import pytest

from pdkernel.accounts.oauth import ProviderError, authorize_url, refresh_tokens
from pdkernel.accounts.oauth_providers import OAuthProvider
from tests.http_servers import AnsweringServer, serve

SECRET = "secret/of=ours +0123456789"
REFRESH = "refresh-token-0123456789"


@contextmanager
def provider(pieces: Iterable[bytes]) -> Iterator[OAuthProvider]:
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
        provider(pieces) as hanging,
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
    with provider([response]) as refusing, pytest.raises(ProviderError, match="issued no token") as caught:
        refresh_tokens(refusing, REFRESH)

    assert caught.value.is_permanent is is_permanent


@pytest.mark.parametrize(("given", "kept"), [(b'"again-0123456789"', "again-0123456789"), (b'""', None), (b"5", None)])
def test_an_invalid_refresh_token_is_ignored(given: bytes, kept: str | None) -> None:
    """An empty refresh token, and one that is not a text, counts as missing."""
    with provider([answer(b'{"access_token": "access-0123456789", "refresh_token": %s}' % given)]) as odd:
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
    with provider([answer(b'{"access_token": "access-0123456789", "error": null, "expires_in": %s}' % lasting)]) as odd:
        tokens = refresh_tokens(odd, REFRESH)

    assert (tokens.access_token, tokens.expires_in) == ("access-0123456789", None)


@pytest.mark.parametrize("shown", [quote_plus(SECRET), REFRESH, "x" * 265 + REFRESH])
def test_the_reason_has_no_secret(shown: str) -> None:
    """The provider's reason is masked, also where a secret is encoded or cut off."""
    response = answer(f'{{"error": "invalid_grant", "error_description": "{shown}"}}'.encode(), "400 Bad Request")
    with provider([response]) as refusing, pytest.raises(ProviderError, match="invalid_grant") as caught:
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

    with provider([start, token, b" " * 1000]) as endless, pytest.raises(ProviderError) as caught:
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
