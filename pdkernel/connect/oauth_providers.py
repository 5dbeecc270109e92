"""
OAuth 2 providers of apps, as a project was told of them.

Knows where they are kept: the client's secret sealed, the rest among the settings. What is said to a provider is `oauth`'s.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

from pdkernel.connect.registered_apps import check_app_slug
from pdkernel.errors import RequestError
from pdkernel.project import Project

PROVIDERS_SETTING = "oauth_apps"
ClientAuth = Literal["post", "basic"]


@dataclass(frozen=True, slots=True)
class OAuthProvider:
    """
    How accounts of an app are connected by OAuth 2.

    Attributes:
        authorize_url: Where people sign in at the app.
        token_url: Where codes and refresh tokens become access tokens.
        client_id: Our client's.
        client_secret: Its secret; None for a public client.
        scopes: What is asked for.
        client_auth: Whether the client names itself in the body (`post`) or by HTTP Basic (`basic`).
    """

    authorize_url: str
    token_url: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] = ()
    client_auth: ClientAuth = "post"


def register_provider(project: Project, app: str, provider: OAuthProvider) -> None:
    """
    Tell *project* how accounts of *app* are connected; what it knew of that before is replaced.

    Raises:
        RequestError: Not a slug, not URLs, plain http to another machine, or no client.
    """
    check_app_slug(app)
    _check_url(provider.authorize_url, "--oauth-authorize-url")
    _check_url(provider.token_url, "--oauth-token-url")
    if not provider.client_id.strip():
        raise RequestError("An OAuth client has an id.", fix="Give it: --oauth-client-id ID")
    if provider.client_auth not in get_args(ClientAuth):
        raise RequestError(f"{provider.client_auth!r} is no way to send a client's secret.", fix="Use post or basic.")
    public = {key: value for key, value in asdict(provider).items() if key != "client_secret"}
    if provider.client_secret is None:
        project.secrets.remove(_secret_name(app))
    else:
        project.secrets.set(_secret_name(app), provider.client_secret)
    project.settings.set(
        PROVIDERS_SETTING, {**_load_setting(project), app: {**public, "scopes": list(provider.scopes)}}
    )


def find_provider(project: Project, app: str) -> OAuthProvider | None:
    """The provider of *app*, or None: its accounts are connected by their credentials."""
    kept = _load_setting(project).get(app)
    if not isinstance(kept, dict):
        return None
    return OAuthProvider(
        authorize_url=str(kept["authorize_url"]),
        token_url=str(kept["token_url"]),
        client_id=str(kept["client_id"]),
        client_secret=project.secrets.get(_secret_name(app)),
        scopes=tuple(map(str, kept["scopes"])),
        client_auth="basic" if kept["client_auth"] == "basic" else "post",
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
    kept = project.settings.get(PROVIDERS_SETTING)
    return dict(kept) if isinstance(kept, dict) else {}


def _check_url(url: str, option: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    local = host in ("localhost", "127.0.0.1", "::1")
    if not host or parts.username is not None or any(ord(letter) < 33 or letter in ";,'\"" for letter in parts.netloc):
        raise RequestError(f"{option} is not the URL of a page.", fix="Write all of it: https://host/path")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise RequestError(f"{option} has to begin with https://.", fix="Plain http is for providers on this machine.")


def _secret_name(app: str) -> str:
    return f"oauth_client/{app}"
