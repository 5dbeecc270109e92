"""
Hosts of the APIs of known apps, and the headers that authenticate a request to each API.

For an app that is not listed, the caller has to name the host that receives the credentials.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pdkernel.accounts.credential_fields import API_KEY_FIELD
from pdkernel.common.identity import ACCESS_TOKEN_FIELD

BuildAuthHeaders = Callable[[Mapping[str, str]], dict[str, str]]
"""Builds authentication headers from credentials. Raises `KeyError` if a credential is missing."""


@dataclass(frozen=True, slots=True)
class AppApi:
    """
    The API of an app.

    Attributes:
        hosts: Hosts that may receive the credentials: names, or `*.name` for subdomains.
        build_headers: Builds the authentication headers.
        domain_field: For an app whose accounts have their own domain, the credential with its URL or host; else empty.
    """

    hosts: tuple[str, ...]
    build_headers: BuildAuthHeaders
    domain_field: str = ""

    def has_host(self, host: str) -> bool:
        """Whether *host* belongs to the app."""
        return any(
            host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern for pattern in self.hosts
        )

    def find_base_url(self, credentials: Mapping[str, str]) -> str | None:
        """The URL that a relative URL starts from, without a slash at its end; None if the account and the app have no single host."""
        domain = credentials.get(self.domain_field, "").strip().rstrip("/")
        if not domain and len(self.hosts) == 1 and not self.hosts[0].startswith("*."):
            domain = self.hosts[0]
        return (domain if "://" in domain else f"https://{domain}") if domain else None


def bearer_auth(field: str) -> BuildAuthHeaders:
    """Return a function that builds `Authorization: Bearer` with the credential *field*."""
    return lambda credentials: {"Authorization": f"Bearer {credentials[field]}"}


def _header(name: str, field: str) -> BuildAuthHeaders:
    return lambda credentials: {name: credentials[field]}


def _basic(user: str, password: str) -> BuildAuthHeaders:
    def headers(credentials: Mapping[str, str]) -> dict[str, str]:
        pair = f"{credentials[user]}:{credentials[password]}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}

    return headers


def _token_or_header(name: str) -> BuildAuthHeaders:
    """The access token as a bearer token; for an account that has none, the API key in the header *name*."""
    token, key = bearer_auth(ACCESS_TOKEN_FIELD), _header(name, API_KEY_FIELD)
    return lambda credentials: (token if ACCESS_TOKEN_FIELD in credentials else key)(credentials)


_TOKEN = bearer_auth(ACCESS_TOKEN_FIELD)
_KEY = bearer_auth(API_KEY_FIELD)
_GOOGLE = AppApi(("*.googleapis.com",), _TOKEN)
_GRAPH = AppApi(("graph.microsoft.com",), _TOKEN)
_SLACK = AppApi(("slack.com", "*.slack.com"), _TOKEN)

APP_APIS: Mapping[str, AppApi] = {
    "airtable_oauth": AppApi(("api.airtable.com",), _TOKEN),
    "anthropic": AppApi(("api.anthropic.com",), _header("x-api-key", API_KEY_FIELD)),
    "asana": AppApi(("app.asana.com",), _TOKEN),
    "clickup": AppApi(("api.clickup.com",), _token_or_header("Authorization")),
    "discord": AppApi(("discord.com",), _TOKEN),
    "dropbox": AppApi(("*.dropboxapi.com",), _TOKEN),
    "github": AppApi(("api.github.com", "uploads.github.com"), _TOKEN),
    "gitlab": AppApi(("gitlab.com",), _TOKEN),
    "gmail": _GOOGLE,
    "google_calendar": _GOOGLE,
    "google_docs": _GOOGLE,
    "google_drive": _GOOGLE,
    "google_sheets": _GOOGLE,
    "hubspot": AppApi(("api.hubapi.com", "api.hubspot.com"), _TOKEN),
    "jira": AppApi(("api.atlassian.com",), _TOKEN),
    "linear_app": AppApi(("api.linear.app",), _TOKEN),
    "linkedin": AppApi(("api.linkedin.com",), _TOKEN),
    "microsoft_outlook": _GRAPH,
    "microsoft_teams": _GRAPH,
    "notion": AppApi(("api.notion.com",), _TOKEN),
    "openai": AppApi(("api.openai.com",), _KEY),
    "pipedrive": AppApi(("api.pipedrive.com", "*.pipedrive.com"), _token_or_header("x-api-token"), "api_domain"),
    "salesforce_rest_api": AppApi(("*.salesforce.com",), _TOKEN, "instance_url"),
    "sendgrid": AppApi(("api.sendgrid.com",), _KEY),
    "slack": _SLACK,
    "slack_v2": _SLACK,
    "spotify": AppApi(("api.spotify.com",), _TOKEN),
    "stripe": AppApi(("api.stripe.com",), _KEY),
    "twilio": AppApi(("*.twilio.com",), _basic("AccountSid", "AuthToken")),
    "xero_accounting_api": AppApi(("api.xero.com",), _TOKEN),
    "zoom": AppApi(("api.zoom.us",), _TOKEN),
}
"""APIs by app slug. Source: the public API documentation of each app."""


def default_auth_headers(credentials: Mapping[str, str]) -> dict[str, str]:
    """Headers for an app that is not listed: its access token or API key as a bearer token. Raises `KeyError` without both."""
    return bearer_auth(ACCESS_TOKEN_FIELD if ACCESS_TOKEN_FIELD in credentials else API_KEY_FIELD)(credentials)
