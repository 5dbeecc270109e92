"""Connected accounts: the check of typed credentials, and the connection. The directory stores the accounts."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.accounts import LocalDirectory
from pdkernel.common.identity import Account, Directory, Environment, check_external_user_id
from pdkernel.errors import RequestError

SANDBOX_NAME = "sandbox"
"""The display name of an account with made-up credentials."""


def connect_account(
    directory: Directory,
    app: str,
    credentials: Sequence[tuple[str, str]],
    *,
    external_user_id: str | None,
    environment: Environment,
    account_id: str | None = None,
    name: str | None = None,
) -> Account:
    """
    Connect an account of *app*; an external user is created with their first account.

    Args:
        directory: Users and accounts.
        app: The app's slug.
        credentials: Names and values as a person typed them.
        external_user_id: The owner, or None for an account of your own.
        environment: The environment of the owner.
        account_id: The account's id, or None for a new id.
        name: The display name, or None.

    Raises:
        RequestError: The owner's id or a credential is invalid. A message contains no value.
        AccountExistsError: *account_id* is taken.
    """
    if external_user_id is not None:
        check_external_user_id(external_user_id)
    _check_credentials(credentials)
    return directory.add_account(
        app=app,
        credentials=dict(credentials),
        external_user_id=external_user_id,
        environment=environment,
        account_id=account_id,
        name=name,
    )


def connect_sandbox_account(
    directory: Directory, app: str, *, external_user_id: str, environment: Environment
) -> Account | None:
    """
    Connect an account of *app* with made-up credentials, which only a stand-in accepts.

    Returns:
        The account, or None if the external user has an account of *app* already.

    Raises:
        RequestError: The project is a real one, whose accounts are at Pipedream, or the external user's id is invalid.
    """
    check_external_user_id(external_user_id)
    if not isinstance(directory, LocalDirectory):
        raise RequestError(
            "A sandbox account is for a local project, and the accounts of this project are at Pipedream.",
            fix="Connect an account in the form of %pduser.",
        )
    if directory.newest_account(external_user_id, environment, app) is not None:
        return None
    names = directory.credential_fields(app) or ("api_key",)
    return directory.add_account(
        app=app,
        credentials={name: f"sandbox-{name}" for name in names},
        external_user_id=external_user_id,
        environment=environment,
        name=SANDBOX_NAME,
    )


def _check_credentials(credentials: Sequence[tuple[str, str]]) -> None:
    names = [name for name, _ in credentials]
    for name, value in credentials:
        if not name:
            raise RequestError("A credential has no name.", fix="Name each credential, for example api_key.")
        if names.count(name) > 1:
            raise RequestError(f"The credential {name} is given twice.", fix="Give each credential once.")
        if not value.strip():
            raise RequestError(f"The value of {name} is blank.", fix="Give a value that is not blank.")
