"""
What is known of an app: its registration in the project, the names of its credentials, its OAuth 2 provider, and the host of its API.

The project's settings store registrations and providers; the secret of an OAuth client is stored encrypted. The names of credentials are
those that the app's components read from `$auth`, or the usual ones. Without a known host, the caller has to name the host that
receives the credentials.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import urlsplit

from pdkernel.common.identity import ACCESS_TOKEN_FIELD
from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.storage import Project

if TYPE_CHECKING:
    from pdkernel.actions import Catalog

APPS_SETTING = "apps"
_APP_SLUG = re.compile(r"[a-z0-9_]+\Z")


def check_app_slug(app: str) -> str:
    """Return *app* if it is a valid slug; raise `RequestError` otherwise."""
    if not _APP_SLUG.match(app):
        raise RequestError(
            f"{app!r} is not an app's slug.",
            fix="Use lower-case letters, digits and underscores, for example google_sheets.",
        )
    return app


def load_registered_apps(project: Project) -> dict[str, tuple[str, ...]]:
    """Return the registered apps with the names of their credentials."""
    stored = project.settings.get(APPS_SETTING)
    return {str(app): tuple(map(str, fields)) for app, fields in stored.items()} if isinstance(stored, dict) else {}


def register_app(project: Project, app: str, fields: Sequence[str]) -> None:
    """
    Register *app* in *project*; replaces an earlier registration.

    Raises:
        RequestError: *app* is not a slug, or *fields* is empty.
    """
    check_app_slug(app)
    named = [field.strip() for field in fields]
    if not named or not all(named):
        raise RequestError(
            f"The app {app} has no credential fields.",
            fix=f"Name at least one credential: pdkernel apps add {app} --field api_key",
        )
    project.settings.set_item(APPS_SETTING, app, list[JSON](named))


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
    """Return the usual names of the credentials of an *app* account, most likely first."""
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
        """Return the names of the credentials, the access token first; none without components of *app*."""
        return self._catalog.find_credential_fields(app)


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
        """Return whether *host* belongs to the app."""
        return any(
            host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern for pattern in self.hosts
        )

    def find_base_url(self, credentials: Mapping[str, str]) -> str | None:
        """Return the URL that a relative URL starts from, without a slash at its end; None if the account and the app have no single host."""
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
    """Return the access token as a bearer token; for an account that has none, the API key in the header *name*."""
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
    """Return the headers for an app that is not listed: its access token or API key as a bearer token. Raises `KeyError` without both."""
    return bearer_auth(ACCESS_TOKEN_FIELD if ACCESS_TOKEN_FIELD in credentials else API_KEY_FIELD)(credentials)


PROVIDERS_SETTING = "oauth_apps"
ClientAuth = Literal["post", "basic"]


@dataclass(frozen=True, slots=True)
class OAuthProvider:
    """
    How accounts of an app are connected by OAuth 2.

    Attributes:
        authorize_url: The app's page where the user signs in.
        token_url: The endpoint that exchanges codes and refresh tokens for access tokens.
        client_id: Id of the OAuth client.
        client_secret: Secret of the OAuth client; None for a public client.
        scopes: Requested scopes.
        client_auth: Sends the client's credentials in the body (`post`) or by HTTP Basic (`basic`).
    """

    authorize_url: str
    token_url: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] = ()
    client_auth: ClientAuth = "post"


def register_provider(project: Project, app: str, provider: OAuthProvider) -> None:
    """
    Register the OAuth 2 provider of *app* in *project*; replaces an earlier registration.

    Raises:
        RequestError: *app* is not a slug, a URL is invalid or plain http to another machine, or the client id is empty.
    """
    check_app_slug(app)
    _check_url(provider.authorize_url, "--oauth-authorize-url")
    _check_url(provider.token_url, "--oauth-token-url")
    if not provider.client_id.strip():
        raise RequestError("The id of the OAuth client is empty.", fix="Pass it: --oauth-client-id ID")
    if provider.client_auth not in get_args(ClientAuth):
        raise RequestError(
            f"{provider.client_auth!r} is not a way to send a client's secret.", fix="Use post or basic."
        )
    public = {key: value for key, value in asdict(provider).items() if key != "client_secret"}
    if provider.client_secret is None:
        project.secrets.remove(_secret_name(app))
    else:
        project.secrets.set(_secret_name(app), provider.client_secret)
    project.settings.set_item(PROVIDERS_SETTING, app, {**public, "scopes": list(provider.scopes)})


def find_provider(project: Project, app: str) -> OAuthProvider | None:
    """Return the provider of *app*, or None: users then enter the credentials of that app."""
    stored = _load_setting(project).get(app)
    if not isinstance(stored, dict):
        return None
    return OAuthProvider(
        authorize_url=str(stored["authorize_url"]),
        token_url=str(stored["token_url"]),
        client_id=str(stored["client_id"]),
        client_secret=project.secrets.get(_secret_name(app)),
        scopes=tuple(map(str, stored["scopes"])),
        client_auth="basic" if stored["client_auth"] == "basic" else "post",
    )


def list_provider_apps(project: Project) -> frozenset[str]:
    """Return the apps that have a provider."""
    return frozenset(_load_setting(project))


def format_origin(url: str) -> str:
    """Return the scheme, host and port of *url*, as a browser writes them."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, default) else "")


def _load_setting(project: Project) -> dict[str, object]:
    stored = project.settings.get(PROVIDERS_SETTING)
    return dict(stored) if isinstance(stored, dict) else {}


def _check_url(url: str, option: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    local = host in ("localhost", "127.0.0.1", "::1")
    if not host or parts.username is not None or any(ord(letter) < 33 or letter in ";,'\"" for letter in parts.netloc):
        raise RequestError(f"{option} is not a URL.", fix="Write the whole URL: https://host/path")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise RequestError(
            f"{option} must begin with https://.", fix="Use plain http only for a provider on this machine."
        )


def _secret_name(app: str) -> str:
    return f"oauth_client/{app}"
