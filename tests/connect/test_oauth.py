"""What a provider of OAuth 2 may say, or not say, when it is asked for tokens."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import quote_plus

import pytest

from pdkernel.connect.oauth import ProviderError, refresh_tokens
from pdkernel.connect.oauth_providers import OAuthProvider

SECRET = "secret/of=ours +0123456789"
REFRESH = "refresh-token-0123456789"


@contextmanager
def provider(*pieces: bytes) -> Iterator[OAuthProvider]:
    """A provider that takes one request, and says a piece every tenth of a second; nothing for two seconds if there is none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                caller, _ = server.accept()
                with caller:
                    caller.recv(65536)
                    for piece in pieces:
                        caller.sendall(piece)
                        time.sleep(0.1)
                    if not pieces:
                        time.sleep(2)

        Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield OAuthProvider(f"{url}/authorize", f"{url}/token", "client", SECRET)


def answer(body: bytes, status: str = "200 OK") -> bytes:
    """What a provider says."""
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status.encode(),
        len(body),
        body,
    )


HANGING = {
    "silent": (),
    "in its headers": (b"HTTP/1.1 200 OK\r\n", *(b"x: y\r\n" for _ in range(40))),
    "in its body": (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", *(b" " for _ in range(40))),
}


@pytest.mark.parametrize("pieces", HANGING.values(), ids=HANGING)
def test_provider_that_hangs(pieces: tuple[bytes, ...]) -> None:
    """It is waited for no longer than its time in all, and that is said; asking again may help."""
    began = time.monotonic()
    with (
        provider(*pieces) as hanging,
        pytest.raises(ProviderError, match=r"did not answer within 0\.5 s") as caught,
    ):
        refresh_tokens(hanging, REFRESH, timeout_s=0.5)

    assert time.monotonic() - began < 2
    assert caught.value.is_permanent is False


@pytest.mark.parametrize(
    ("said", "final"),
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
def test_whether_asking_again_is_of_use(said: bytes, final: bool) -> None:
    """It is not where the provider says that the refresh token is no good; a page that is out of order says nothing of it."""
    with provider(said) as refusing, pytest.raises(ProviderError, match="issued no token") as caught:
        refresh_tokens(refusing, REFRESH)

    assert caught.value.is_permanent is final


@pytest.mark.parametrize("lasting", [b"1" + b"0" * 400, b"Infinity", b"-1", b'"soon"', b"null"])
def test_odd_lifetime(lasting: bytes) -> None:
    """A token whose life is said in a way that nobody understands is taken as one of unknown life."""
    with provider(answer(b'{"access_token": "access-0123456789", "error": null, "expires_in": %s}' % lasting)) as odd:
        tokens = refresh_tokens(odd, REFRESH)

    assert (tokens.access_token, tokens.expires_in) == ("access-0123456789", None)


@pytest.mark.parametrize("shown", [quote_plus(SECRET), REFRESH, "x" * 265 + REFRESH])
def test_reason_shows_no_secret(shown: str) -> None:
    """Neither encoded as it was sent, nor the first half of it where the reason is cut short."""
    said = answer(f'{{"error": "invalid_grant", "error_description": "{shown}"}}'.encode(), "400 Bad Request")
    with provider(said) as telling, pytest.raises(ProviderError, match="invalid_grant") as caught:
        refresh_tokens(telling, REFRESH)

    assert not any(secret in str(caught.value) for secret in (quote_plus(SECRET), "refresh-token"))
