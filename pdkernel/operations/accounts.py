"""Connected accounts: the check of typed credentials, and the connection. The directory stores the accounts."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.errors import RequestError
from pdkernel.identity import Account, Directory, Environment, check_external_user_id


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


def _check_credentials(credentials: Sequence[tuple[str, str]]) -> None:
    names = [name for name, _ in credentials]
    for name, value in credentials:
        if not name:
            raise RequestError("A credential has no name.", fix="Name each credential, for example api_key.")
        if names.count(name) > 1:
            raise RequestError(f"The credential {name} is given twice.", fix="Give each credential once.")
        if not value.strip():
            raise RequestError(f"The value of {name} is blank.", fix="Give a value that is not blank.")
