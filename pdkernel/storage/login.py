"""
The login of a local project: its Connect project at Pipedream and an OAuth client.

Environment variables take precedence over the stored login. The client secret is stored in the operating system's keyring; on a
machine without a keyring, it is stored encrypted in the project's settings.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import urlsplit

from sqlalchemy import Connection, select, update

from pdkernel.common.identity import DEFAULT_ENVIRONMENT, PIPEDREAM_API_URL, Environment, parse_environment
from pdkernel.errors import ConnectSettingsError, RequestError
from pdkernel.model import JSON
from pdkernel.storage.schema import settings
from pdkernel.storage.settings import SettingsTable
from pdkernel.storage.vault import Vault

LOGIN_SETTING = "login"
KEYRING_SERVICE = "pdkernel"
"""The service name of pdkernel's entries in the keyring."""
_VAULT_CONTEXT = "settings/login/client_secret"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})

SecretLocation = Literal["keyring", "project"]


@dataclass(frozen=True)
class Login:
    """
    A Connect project and an OAuth client of its workspace.

    Attributes:
        client_id: The OAuth client's id.
        client_secret: The OAuth client's secret.
        project_id: `proj_...`.
        environment: The default environment.
        base_url: The API's URL, without a slash at its end.
    """

    client_id: str
    client_secret: str = field(repr=False)
    project_id: str
    environment: Environment = DEFAULT_ENVIRONMENT
    base_url: str = PIPEDREAM_API_URL


def read_setting(environ: Mapping[str, str], name: str) -> str | None:
    """Return the value of `PDKERNEL_<name>` in *environ*, else of `PIPEDREAM_<name>` (as the SDK reads it), else None."""
    return environ.get(f"PDKERNEL_{name}") or environ.get(f"PIPEDREAM_{name}") or None


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Return the environment in *environ*; the default is development."""
    return parse_environment(read_setting(environ, "PROJECT_ENVIRONMENT") or read_setting(environ, "ENVIRONMENT"))


def check_base_url(url: str) -> str:
    """
    Return *url* without a slash at its end if a client secret may be sent there.

    Raises:
        RequestError: The URL is invalid, or neither https nor on this machine.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment:
        raise RequestError(
            f"{url!r} is not the URL of an API.", fix=f"For Pipedream's API ({PIPEDREAM_API_URL}), omit the URL."
        )
    if parts.scheme == "http" and host not in LOOPBACK_HOSTS:
        raise RequestError(f"The client secret would be sent to {url!r} without encryption.", fix="Use an https URL.")
    return url.rstrip("/")


class LoginTable:
    """
    The login of one project.

    Args:
        settings: Stores the login without the secret.
        vault: Encrypts the secret on a machine without a keyring.
        keyring_user: The local project's id, which is the user name of its entry in the keyring.
    """

    def __init__(self, settings: SettingsTable, vault: Vault, keyring_user: str) -> None:
        self._settings = settings
        self._vault = vault
        self._owner = keyring_user

    def load(self, environ: Mapping[str, str]) -> Login | None:
        """
        Return the login, or None if the project works without Pipedream.

        `PDKERNEL_PROJECT_ID` in *environ*, together with the client's id and secret, takes precedence over the stored login.

        Raises:
            ConnectSettingsError: The secret is not in the keyring any more.
            RequestError: The environment or the URL in *environ* is invalid.
        """
        project_id = environ.get("PDKERNEL_PROJECT_ID")
        client_id, secret = read_setting(environ, "CLIENT_ID"), read_setting(environ, "CLIENT_SECRET")
        if project_id and client_id and secret:
            base_url = check_base_url(read_setting(environ, "BASE_URL") or PIPEDREAM_API_URL)
            return Login(client_id, secret, project_id, read_environment(environ), base_url)
        stored = self._kept()
        if stored is None:
            return None
        return Login(
            str(stored["client_id"]),
            self._secret(stored),
            str(stored["project_id"]),
            parse_environment(str(stored["environment"])),
            str(stored["base_url"]),
        )

    def save(self, login: Login) -> SecretLocation:
        """Store *login*, in place of an earlier login. Returns where the secret is stored."""
        self.remove()
        location: SecretLocation = "keyring" if _into_keyring(self._owner, login.client_secret) else "project"
        value: dict[str, JSON] = {
            "client_id": login.client_id,
            "project_id": login.project_id,
            "environment": login.environment,
            "base_url": login.base_url,
            "kept": location,
        }
        if location == "project":
            value["secret"] = _seal_secret(self._vault, login.client_secret)
        self._settings.set(LOGIN_SETTING, value)
        return location

    def remove(self) -> bool:
        """Remove the login and its secret; False if there was no login."""
        stored = self._kept()
        if stored is None:
            return False
        if stored.get("kept") == "keyring":
            _out_of_keyring(self._owner)
        return self._settings.remove(LOGIN_SETTING)

    def _kept(self) -> dict[str, JSON] | None:
        stored = self._settings.get(LOGIN_SETTING)
        return stored if isinstance(stored, dict) else None

    def _secret(self, stored: Mapping[str, JSON]) -> str:
        if stored.get("kept") == "project":
            return _unseal_secret(self._vault, stored)
        secret = _from_keyring(self._owner)
        if secret is None:
            raise ConnectSettingsError(
                f"The secret of the OAuth client {stored['client_id']} is not in this machine's keyring any more.",
                fix="Log in again: pdkernel login. To work without Pipedream: pdkernel logout",
            )
        return secret


# a keyring that fails (locked, no session, not installed, any other error) is treated as a missing keyring


def _into_keyring(owner: str, secret: str) -> bool:
    """Store *secret* in the keyring; False if the keyring is missing or fails."""
    with contextlib.suppress(Exception):
        import keyring  # the import searches for the system's services

        if keyring.get_keyring().priority <= 0:
            return False
        keyring.set_password(KEYRING_SERVICE, owner, secret)
        return keyring.get_password(KEYRING_SERVICE, owner) == secret
    return False


def _from_keyring(owner: str) -> str | None:
    with contextlib.suppress(Exception):
        import keyring

        return keyring.get_password(KEYRING_SERVICE, owner)
    return None


def _out_of_keyring(owner: str) -> None:
    with contextlib.suppress(Exception):
        import keyring

        keyring.delete_password(KEYRING_SERVICE, owner)


def reseal_login(connection: Connection, old: Vault, new: Vault) -> int:
    """Encrypt the stored client secret for another key, in the caller's transaction. Returns the number of values: 0 or 1."""
    text = connection.execute(select(settings.c.value).where(settings.c.name == LOGIN_SETTING)).scalar_one_or_none()
    stored = None if text is None else json.loads(text)
    if not isinstance(stored, dict) or stored.get("kept") != "project":
        return 0
    stored["secret"] = _seal_secret(new, _unseal_secret(old, stored))
    connection.execute(update(settings).where(settings.c.name == LOGIN_SETTING).values(value=json.dumps(stored)))
    return 1


def _seal_secret(vault: Vault, secret: str) -> str:
    return base64.b64encode(vault.seal(secret, _VAULT_CONTEXT)).decode()


def _unseal_secret(vault: Vault, stored: Mapping[str, JSON]) -> str:
    return vault.unseal(base64.b64decode(cast("str", stored["secret"])), _VAULT_CONTEXT)
