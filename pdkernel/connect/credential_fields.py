"""
Usual names of an app's credentials, as suggestions for forms.

Components read credentials under these names from `$auth`. An account may have credentials with other names.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.identity import ACCESS_TOKEN_FIELD

API_KEY_FIELD = "api_key"
DEFAULT_FIELDS = (ACCESS_TOKEN_FIELD, API_KEY_FIELD)
"""Names for an app that is not listed."""

FIELDS_BY_APP: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "airtable_oauth",
            "asana",
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
            "salesforce_rest_api",
            "slack",
            "slack_v2",
            "spotify",
            "xero_accounting_api",
            "zoom",
        ),
        (ACCESS_TOKEN_FIELD,),
    ),
    **dict.fromkeys(("anthropic", "clickup", "openai", "pipedrive", "sendgrid", "stripe"), (API_KEY_FIELD,)),
    "aws": ("accessKeyId", "secretAccessKey"),
    "mongodb": ("hostname", "username", "password", "database"),
    "mysql": ("host", "port", "username", "password", "database"),
    "postgresql": ("host", "port", "user", "password", "database"),
    "supabase": ("subdomain", "service_key"),
    "telegram_bot_api": ("token",),
    "twilio": ("AccountSid", "AuthToken"),
}


def guess_credential_fields(app: str) -> tuple[str, ...]:
    """Usual names of the credentials of an *app* account, most likely first."""
    return FIELDS_BY_APP.get(app, DEFAULT_FIELDS)
