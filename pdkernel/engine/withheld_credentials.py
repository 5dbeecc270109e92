"""
Placeholders for credentials that Connect withholds.

A placeholder is random and new for each run, so that `egress` recognises requests that carry it and sends them through
Connect's proxy.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from pdkernel.identity import Account, Credentials, ProxyAccess, WithheldCredentials


def insert_placeholders(account: Account, credentials: Credentials) -> tuple[Credentials, Mapping[str, ProxyAccess]]:
    """
    Add a placeholder to *credentials* for each withheld credential.

    Returns:
        The credentials for the step, and access to the proxy by secret reference.
    """
    if not isinstance(credentials, WithheldCredentials):
        return credentials, {}
    # parity[withheld-credentials]: on the platform a step has the account's credentials
    placeholders = {name: f"withheld-{secrets.token_hex(16)}" for name in credentials.withheld_names}
    proxies = {format_credential_ref(account, name): credentials.proxy for name in placeholders}
    return Credentials({**credentials, **placeholders}), proxies


def format_credential_ref(account: Account, name: str) -> str:
    """Return the reference that replaces a credential's value in redacted text: `APP/ACCOUNT/NAME`."""
    return f"{account.app}/{account.id}/{name}"
