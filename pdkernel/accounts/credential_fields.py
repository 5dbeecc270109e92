"""
The names of an app's credentials, for forms: those that the app's components read from `$auth`.

Without the app's components on this machine, the usual names are suggested. An account may have credentials with other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from pdkernel.common.identity import ACCESS_TOKEN_FIELD
from pdkernel.storage import Project

if TYPE_CHECKING:
    from pdkernel.actions import Catalog

API_KEY_FIELD = "api_key"
DEFAULT_FIELDS = (ACCESS_TOKEN_FIELD, API_KEY_FIELD)
"""Names for an app that is not listed."""

FIELDS_BY_APP: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "airtable_oauth",
            "asana",
            "clickup",
            "discord",
            "dropbox",
            "github",
            "gitlab",
            "gmail",
            "google_calendar",
            "google_docs",
            "google_drive",
            "google_sheets",
            "hubspot",
            "jira",
            "linear_app",
            "linkedin",
            "microsoft_outlook",
            "microsoft_teams",
            "notion",
            "slack",
            "slack_v2",
            "spotify",
            "xero_accounting_api",
            "zoom",
        ),
        (ACCESS_TOKEN_FIELD,),
    ),
    **dict.fromkeys(("anthropic", "openai", "sendgrid", "stripe"), (API_KEY_FIELD,)),
    "aws": ("accessKeyId", "secretAccessKey"),
    "mongodb": ("hostname", "username", "password", "database"),
    "mysql": ("host", "port", "username", "password", "database"),
    "pipedrive": (ACCESS_TOKEN_FIELD, "api_domain"),
    "postgresql": ("host", "port", "user", "password", "database"),
    "salesforce_rest_api": (ACCESS_TOKEN_FIELD, "instance_url"),
    "supabase": ("subdomain", "service_key"),
    "telegram_bot_api": ("token",),
    "twilio": ("AccountSid", "AuthToken", "Sid", "Secret"),
}


def guess_credential_fields(app: str) -> tuple[str, ...]:
    """Usual names of the credentials of an *app* account, most likely first."""
    return FIELDS_BY_APP.get(app, DEFAULT_FIELDS)


class ComponentFields:
    """The credentials that an app's components read, of the components that *project* has on this machine."""

    def __init__(self, project: Project) -> None:
        self._project = project

    @cached_property
    def _catalog(self) -> Catalog:
        from pdkernel.actions import Catalog  # takes time, and most processes never show a form

        return Catalog.for_project(self._project, environ={})

    def find(self, app: str) -> tuple[str, ...]:
        """The names of the credentials, the access token first; none without components of *app*."""
        return self._catalog.find_credential_fields(app)
