"""Hosts of known APIs and the headers of their requests."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from pdkernel.accounts.app_apis import APP_APIS, default_auth_headers


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
