"""
Accepted Host names of the server, and host names of endpoints.

A page on another site can point its own name at this machine (DNS rebinding), so unknown names are rejected. Addresses and
loopback names are safe.
"""

from __future__ import annotations

import base64
import hmac
from urllib.parse import urlsplit

from pdkernel.common.identity import PIPEDREAM_ENDPOINT_DOMAIN
from pdkernel.errors import RequestError
from pdkernel.server.app_context import ServeSettings
from pdkernel.server.client_address import is_address
from pdkernel.storage import Project

PUBLIC_URL_SETTING = "public_url"
"""The setting of a project with the public URL at which it was last served."""


def parse_public_url(url: str) -> str:
    """
    Return *url* as the base of all URLs in responses, without a slash at its end.

    Raises:
        RequestError: *url* is not a valid base URL.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an address, an invalid port
        fits = False
    if not fits or not url.isprintable() or " " in url or parts.query or parts.fragment or "@" in parts.netloc:
        shown = "A URL with a name or a password in it" if "@" in url else repr(url)
        raise RequestError(
            f"{shown} is not a valid public URL (--public-url, or PDKERNEL_PUBLIC_URL).",
            fix="Use https://host[/path], for example https://flows.example.com",
        )
    return url.rstrip("/")


def parse_host_name(host: str) -> str:
    """Parse the name in a Host header: lower case, without port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def build_console_host(project: Project) -> str:
    """
    Build the host name of the console of a server that only this machine reaches, the same after each start.

    Browsers send a cookie to all ports of a host, so every program that listens on another port of 127.0.0.1 would receive the
    console's. Browsers lead each name below `localhost` to this machine, and take it for a site of its own. The name
    cannot be guessed, because it has 128 bits of a signature of the project.
    """
    label = base64.b32encode(project.vault.sign("console host")[:16]).decode().rstrip("=").lower()
    return f"console-{label}.localhost"


def build_console_url(base_url: str, console_host: str | None, port: int | None = None) -> str:
    """Build the base of the console's URLs: *base_url*, at *console_host* and *port* if they are not None."""
    if console_host is None:
        return base_url
    parts = urlsplit(base_url)
    port = port or parts.port
    return f"{parts.scheme}://{console_host}{f':{port}' if port else ''}{parts.path}"


class HostNames:
    """
    Host names of one server.

    Attributes:
        base_path: Path of the public URL, or "".
    """

    def __init__(self, settings: ServeSettings) -> None:
        public = urlsplit(settings.base_url).hostname
        self.base_path = urlsplit(settings.base_url).path
        self._console = settings.console_host
        self._names = {name.lower() for name in (*settings.allowed_hosts, *((public,) if public else ()))}

    def is_allowed(self, host: str) -> bool:
        """Return whether the server accepts a request with that Host header."""
        name = parse_host_name(host)
        if not name or name in self._names or self.find_endpoint_key(host) is not None:
            return True
        return name == "localhost" or name.endswith(".localhost") or is_address(name)

    @property
    def has_console_host(self) -> bool:
        """Whether the console has a host name that nothing else has."""
        return self._console is not None

    def is_console(self, host: str) -> bool:
        """Return whether a request with that Host header is for the console's own host name."""
        return self._console is not None and hmac.compare_digest(parse_host_name(host).encode(), self._console.encode())

    def find_endpoint_key(self, host: str) -> str | None:
        """Find the endpoint's key in `{key}.m.pipedream.net`, `{key}.localhost`, or `{key}.` before a name of this server."""
        key, dot, domain = parse_host_name(host).partition(".")
        return key if dot and (domain in (PIPEDREAM_ENDPOINT_DOMAIN, "localhost") or domain in self._names) else None


def build_base_url(port: int, public_url: str | None) -> str:
    """
    Build the base URL of a server on *port* of this machine: *public_url* with `{port}` replaced, else the loopback address.

    Raises:
        RequestError: *public_url* is not a base URL.
    """
    return parse_public_url(public_url.replace("{port}", str(port))) if public_url else f"http://127.0.0.1:{port}"
