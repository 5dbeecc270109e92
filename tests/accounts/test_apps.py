"""Hosts of known APIs and the headers of their requests."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pdkernel.accounts.apps import (
    APP_APIS,
    OAuthProvider,
    default_auth_headers,
    find_provider,
    format_origin,
    list_provider_apps,
    register_provider,
)
from pdkernel.errors import RequestError
from pdkernel.storage import Project


@pytest.mark.parametrize(
    ("app", "host", "belongs"),
    [
        ("slack", "slack.com", True),
        ("slack", "files.slack.com", True),
        ("slack", "evilslack.com", False),
        ("slack", "slack.com.evil.example", False),
        ("gmail", "gmail.googleapis.com", True),
        ("gmail", "googleapis.com", False),
        ("gmail", "evilgoogleapis.com", False),
        ("github", "uploads.github.com", True),
        ("github", "gist.github.com", False),
        ("stripe", "www.api.stripe.com", False),
    ],
)
def test_the_hosts_that_may_get_the_credentials(app: str, host: str, belongs: bool) -> None:
    """A credential goes to the API's own hosts, and to subdomains only where the app has them."""
    assert APP_APIS[app].has_host(host) == belongs


@pytest.mark.parametrize(
    ("app", "credentials", "headers"),
    [
        ("slack", {"oauth_access_token": "t", "api_key": "k"}, {"Authorization": "Bearer t"}),
        ("openai", {"api_key": "k"}, {"Authorization": "Bearer k"}),
        ("anthropic", {"api_key": "k"}, {"x-api-key": "k"}),
        ("clickup", {"api_key": "k"}, {"Authorization": "k"}),
        ("pipedrive", {"api_key": "k"}, {"x-api-token": "k"}),
        (
            "twilio",
            {"AccountSid": "a", "AuthToken": "b"},
            {"Authorization": f"Basic {base64.b64encode(b'a:b').decode()}"},
        ),
    ],
)
def test_the_headers_of_an_app(app: str, credentials: Mapping[str, str], headers: Mapping[str, str]) -> None:
    """Each app has the header that its API documents."""
    assert APP_APIS[app].build_headers(credentials) == headers


@pytest.mark.parametrize(
    ("credentials", "header"),
    [({"api_key": "k", "oauth_access_token": "t"}, "Bearer t"), ({"api_key": "k"}, "Bearer k")],
)
def test_an_app_that_is_not_listed(credentials: Mapping[str, str], header: str) -> None:
    """The access token comes before the API key; without both there are no headers."""
    assert default_auth_headers(credentials) == {"Authorization": header}
    with pytest.raises(KeyError):
        default_auth_headers({"password": "p"})


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://App.Example.com:443/settings?a=1", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80/", "http://[::1]"),
        ("https://user:pw@example.com:8443", "https://example.com:8443"),
    ],
)
def test_the_origin_of_a_url(given: str, origin: str) -> None:
    """An origin has the form that browsers use; the path and credentials of a URL are dropped."""
    assert format_origin(given) == origin


PROVIDER = OAuthProvider(
    authorize_url="https://example.com/authorize",
    token_url="https://example.com/token",
    client_id="client",
    client_secret="a-secret-0123456789",
    scopes=("write", "read"),
    client_auth="basic",
)


def test_a_provider_is_stored(home: Project) -> None:
    """Every field of a provider is read back, the scopes in their order; a second registration replaces the first, its secret included."""
    other = OAuthProvider("http://localhost/a", "http://[::1]:8000/t", "other", None)
    register_provider(home, "one", PROVIDER)
    register_provider(home, "two", PROVIDER)
    register_provider(home, "two", other)

    assert (find_provider(home, "one"), find_provider(home, "two")) == (PROVIDER, other)
    assert find_provider(home, "three") is None
    assert list_provider_apps(home) == {"one", "two"}
    assert (other.scopes, other.client_auth) == ((), "post")


@pytest.mark.parametrize("field", ["authorize_url", "token_url"])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://exa!mple.com/", None),
        ("http://127.0.0.1:1/", None),
        ("https://exa mple.com/", "is not a URL"),
        ("https://a;b/", "is not a URL"),
        ("https://a,b/", "is not a URL"),
        ("https://a'b/", "is not a URL"),
        ('https://a"b/', "is not a URL"),
        ("https://user@example.com/", "is not a URL"),
        ("https://example.com:x/", "is not a URL"),
        ("https:///path", "is not a URL"),
        ("", "is not a URL"),
        ("http://example.com/", "must begin with https"),
        ("ftp://localhost/", "must begin with https"),
    ],
)
def test_urls_of_a_provider(home: Project, field: str, url: str, message: str | None) -> None:
    """A URL is https, or http on this machine, without a user and without characters of a policy."""
    changed = replace(PROVIDER, authorize_url=url) if field == "authorize_url" else replace(PROVIDER, token_url=url)

    with contextlib.nullcontext() if message is None else pytest.raises(RequestError, match=message):
        register_provider(home, "one", changed)

    assert find_provider(home, "one") == (changed if message is None else None)


@pytest.mark.parametrize(
    ("app", "changes"), [("one", {"client_id": " "}), ("one", {"client_auth": "body"}), ("../one", {})]
)
def test_an_incomplete_provider_is_refused(home: Project, app: str, changes: dict[str, Any]) -> None:
    """A provider needs the id of a client, a known way to send its secret, and the slug of an app."""
    with pytest.raises(RequestError):
        register_provider(home, app, replace(PROVIDER, **changes))

    assert list_provider_apps(home) == frozenset()
