"""
Accounts as Connect's API writes them, read.

Knows what releases of the SDK and ages of the documentation make of an account. Asks nobody.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pdkernel.connect.sdk import JsonObject, to_json_object
from pdkernel.identity import Account, Environment

ACCESS_TOKEN_FIELD = "oauth_access_token"  # noqa: S105  # its name, not a token
_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def unwrap_account(item: Any) -> JsonObject:
    """An account; older documentation puts it into `data`."""
    made = to_json_object(item)
    inner = made.get("data")
    return inner if isinstance(inner, dict) else made


def parse_account(
    item: JsonObject,
    environment: Environment,
    *,
    app: str | None = None,
    external_user_id: str | None = None,
    fields: tuple[str, ...] = (),
) -> Account:
    """
    The account that *item* tells of.

    Args:
        item: As the API writes it.
        environment: Where it was asked for.
        app: Of which app it is, where the item does not say.
        external_user_id: Whose it is, where the item does not say.
        fields: Names of its credentials, where they are known.
    """
    owner = str(item.get("external_id") or external_user_id or "")
    told = item.get("app") or {}
    return Account(
        id=str(item["id"]),
        app=str(told.get("name_slug") or app or ""),
        name=str(item.get("name") or owner),
        external_user_id=owner,
        environment=environment,
        created_at=parse_time(item.get("created_at")),
        healthy=item.get("healthy") is not False and not item.get("dead"),
        credential_fields=fields,
    )


def is_oauth(item: JsonObject) -> bool:
    """Whether the account's app is connected by OAuth."""
    kind = (item.get("app") or {}).get("auth_type")
    return str(getattr(kind, "value", kind)).lower() == "oauth"


def parse_credentials(item: JsonObject) -> dict[str, str]:
    """The credentials that Connect gives out."""
    return {name: _text(value) for name, value in (item.get("credentials") or {}).items() if value is not None}


def has_withheld_credentials(item: JsonObject) -> bool:
    """Whether Connect keeps the account's credentials to itself; *item* was asked for with them."""
    given = parse_credentials(item)
    return ACCESS_TOKEN_FIELD not in given if is_oauth(item) else not given


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_time(value: Any) -> datetime:
    """A time, as a release of the SDK has it; long ago if it is none."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except ValueError:
        return _UNKNOWN_TIME
