"""
What a step is given in the place of a credential that Connect keeps to itself.

Knows that it is a word nobody can guess, new for each run, so that a request which carries it is known for the account's.
Sending such a request is for `egress` to know.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from pdkernel.identity import Account, Credentials, ProxyAccess, WithheldCredentials


def insert_placeholders(account: Account, credentials: Credentials) -> tuple[Credentials, Mapping[str, ProxyAccess]]:
    """
    *credentials* with a word in the place of each that is kept back.

    Returns:
        What the step is given, and for each such word the ref of the secret that it is, with the way to send it.
    """
    if not isinstance(credentials, WithheldCredentials):
        return credentials, {}
    # parity[withheld-credentials]: on the platform a step has the account's credentials
    words = {name: f"withheld-{secrets.token_hex(16)}" for name in credentials.withheld_names}
    refs = {format_credential_ref(account, name): credentials.proxy for name in words}
    return Credentials({**credentials, **words}), refs


def format_credential_ref(account: Account, name: str) -> str:
    """What a credential of *account* is called where its value may not stand."""
    return f"{account.app}/{account.id}/{name}"
