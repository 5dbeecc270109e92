"""
How a request to an app's API carries an account: at which hosts, in which headers.

Knows the apps that are listed. Of any other app neither is known here, and its credentials go nowhere by themselves.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

BuildAuthHeaders = Callable[[Mapping[str, str]], dict[str, str]]
"""From an account's credentials to the headers that carry them. Raises `KeyError` if one is missing."""


@dataclass(frozen=True, slots=True)
class AppApi:
    """
    Requests to an app's API.

    Attributes:
        hosts: Where the account may be sent: names, or `*.name` for those below it.
        build_headers: What carries it.
    """

    hosts: tuple[str, ...]
    build_headers: BuildAuthHeaders

    def has_host(self, host: str) -> bool:
        """Whether *host* is one of the app's."""
        return any(
            host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern for pattern in self.hosts
        )


def bearer_auth(field: str) -> BuildAuthHeaders:
    """`Authorization: Bearer`."""
    return lambda credentials: {"Authorization": f"Bearer {credentials[field]}"}


def _header(name: str, field: str) -> BuildAuthHeaders:
    return lambda credentials: {name: credentials[field]}


def _basic(user: str, password: str) -> BuildAuthHeaders:
    def headers(credentials: Mapping[str, str]) -> dict[str, str]:
        pair = f"{credentials[user]}:{credentials[password]}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}

    return headers


_TOKEN = bearer_auth("oauth_access_token")
_KEY = bearer_auth("api_key")
_GOOGLE = AppApi(("*.googleapis.com",), _TOKEN)
_GRAPH = AppApi(("graph.microsoft.com",), _TOKEN)
_SLACK = AppApi(("slack.com", "*.slack.com"), _TOKEN)

APP_APIS: Mapping[str, AppApi] = {
    "airtable_oauth": AppApi(("api.airtable.com",), _TOKEN),
    "anthropic": AppApi(("api.anthropic.com",), _header("x-api-key", "api_key")),
    "asana": AppApi(("app.asana.com",), _TOKEN),
    "clickup": AppApi(("api.clickup.com",), _header("Authorization", "api_key")),
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
    "pipedrive": AppApi(("api.pipedrive.com", "*.pipedrive.com"), _header("x-api-token", "api_key")),
    "salesforce_rest_api": AppApi(("*.salesforce.com",), _TOKEN),
    "sendgrid": AppApi(("api.sendgrid.com",), _KEY),
    "slack": _SLACK,
    "slack_v2": _SLACK,
    "spotify": AppApi(("api.spotify.com",), _TOKEN),
    "stripe": AppApi(("api.stripe.com",), _KEY),
    "twilio": AppApi(("*.twilio.com",), _basic("AccountSid", "AuthToken")),
    "xero_accounting_api": AppApi(("api.xero.com",), _TOKEN),
    "zoom": AppApi(("api.zoom.us",), _TOKEN),
}
"""By slug; hosts and headers are those of the apps' public API documentation."""


def default_auth_headers(credentials: Mapping[str, str]) -> dict[str, str]:
    """For an app that is not listed: its token or key as a bearer token. Raises `KeyError` if it has neither."""
    field = "oauth_access_token" if "oauth_access_token" in credentials else "api_key"
    return bearer_auth(field)(credentials)
