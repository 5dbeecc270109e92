"""
How a request to an app's API carries an account: at which hosts, in which headers.

Knows the apps that are listed. Of any other app neither is known here, and its credentials go nowhere by themselves.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Auth = Callable[[Mapping[str, str]], dict[str, str]]
"""From an account's credentials to the headers that carry them. Raises `KeyError` if one is missing."""


@dataclass(frozen=True, slots=True)
class AppCalls:
    """
    Requests to an app's API.

    Attributes:
        hosts: Where the account may be sent: names, or `*.name` for those below it.
        headers: What carries it.
    """

    hosts: tuple[str, ...]
    headers: Auth

    def reaches(self, host: str) -> bool:
        """Whether *host* is one of the app's."""
        return any(
            host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern for pattern in self.hosts
        )


def bearer(field: str) -> Auth:
    """`Authorization: Bearer`."""
    return lambda credentials: {"Authorization": f"Bearer {credentials[field]}"}


def _header(name: str, field: str) -> Auth:
    return lambda credentials: {name: credentials[field]}


def _basic(user: str, password: str) -> Auth:
    def headers(credentials: Mapping[str, str]) -> dict[str, str]:
        pair = f"{credentials[user]}:{credentials[password]}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}

    return headers


_TOKEN = bearer("oauth_access_token")
_KEY = bearer("api_key")
_GOOGLE = AppCalls(("*.googleapis.com",), _TOKEN)
_GRAPH = AppCalls(("graph.microsoft.com",), _TOKEN)
_SLACK = AppCalls(("slack.com", "*.slack.com"), _TOKEN)

APPS: Mapping[str, AppCalls] = {
    "airtable_oauth": AppCalls(("api.airtable.com",), _TOKEN),
    "anthropic": AppCalls(("api.anthropic.com",), _header("x-api-key", "api_key")),
    "asana": AppCalls(("app.asana.com",), _TOKEN),
    "clickup": AppCalls(("api.clickup.com",), _header("Authorization", "api_key")),
    "discord": AppCalls(("discord.com",), _TOKEN),
    "dropbox": AppCalls(("*.dropboxapi.com",), _TOKEN),
    "github": AppCalls(("api.github.com", "uploads.github.com"), _TOKEN),
    "gitlab": AppCalls(("gitlab.com",), _TOKEN),
    "gmail": _GOOGLE,
    "google_calendar": _GOOGLE,
    "google_docs": _GOOGLE,
    "google_drive": _GOOGLE,
    "google_sheets": _GOOGLE,
    "hubspot": AppCalls(("api.hubapi.com", "api.hubspot.com"), _TOKEN),
    "jira": AppCalls(("api.atlassian.com",), _TOKEN),
    "linear_app": AppCalls(("api.linear.app",), _TOKEN),
    "linkedin": AppCalls(("api.linkedin.com",), _TOKEN),
    "microsoft_outlook": _GRAPH,
    "microsoft_teams": _GRAPH,
    "notion": AppCalls(("api.notion.com",), _TOKEN),
    "openai": AppCalls(("api.openai.com",), _KEY),
    "pipedrive": AppCalls(("api.pipedrive.com", "*.pipedrive.com"), _header("x-api-token", "api_key")),
    "salesforce_rest_api": AppCalls(("*.salesforce.com",), _TOKEN),
    "sendgrid": AppCalls(("api.sendgrid.com",), _KEY),
    "slack": _SLACK,
    "slack_v2": _SLACK,
    "spotify": AppCalls(("api.spotify.com",), _TOKEN),
    "stripe": AppCalls(("api.stripe.com",), _KEY),
    "twilio": AppCalls(("*.twilio.com",), _basic("AccountSid", "AuthToken")),
    "xero_accounting_api": AppCalls(("api.xero.com",), _TOKEN),
    "zoom": AppCalls(("api.zoom.us",), _TOKEN),
}
"""By slug; hosts and headers are those of the apps' public API documentation."""


def any_bearer(credentials: Mapping[str, str]) -> dict[str, str]:
    """For an app that is not listed: its token or key as a bearer token. Raises `KeyError` if it has neither."""
    field = "oauth_access_token" if "oauth_access_token" in credentials else "api_key"
    return bearer(field)(credentials)
