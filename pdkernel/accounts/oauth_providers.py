"""
OAuth 2 providers of apps. Requests to providers are in `oauth`.

The client's secret is stored encrypted, the rest in the project's settings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

from pdkernel.accounts.registered_apps import check_app_slug
from pdkernel.errors import RequestError
from pdkernel.storage import Project

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
    """The provider of *app*, or None: users then enter the credentials of that app."""
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
    """The apps that have a provider."""
    return frozenset(_load_setting(project))


def format_origin(url: str) -> str:
    """Scheme, host and port of *url*, as a browser writes them."""
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
