"""Parsing of accounts in responses of Connect's API, in every form that SDK releases and the documentation use."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pdkernel.connect.sdk import JsonObject, to_json_object
from pdkernel.identity import ACCESS_TOKEN_FIELD, Account, Environment

_UNKNOWN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def unwrap_account(item: Any) -> JsonObject:
    """Return the account in *item*; older documentation puts the account into `data`."""
    account = to_json_object(item)
    inner = account.get("data")
    return inner if isinstance(inner, dict) else account


def parse_account(
    item: JsonObject,
    environment: Environment,
    *,
    app: str | None = None,
    external_user_id: str | None = None,
    fields: tuple[str, ...] = (),
) -> Account:
    """
    Parse an account.

    Args:
        item: The JSON object of the API.
        environment: The environment of the request.
        app: The app's slug, if *item* has none.
        external_user_id: The external user, if *item* has none.
        fields: Names of the account's credentials, if known.
    """
    owner = str(item.get("external_id") or external_user_id or "")
    app_object = item.get("app") or {}
    return Account(
        id=str(item["id"]),
        app=str(app_object.get("name_slug") or app or ""),
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
    """The credentials in *item*."""
    return {name: _text(value) for name, value in (item.get("credentials") or {}).items() if value is not None}


def has_withheld_credentials(item: JsonObject) -> bool:
    """Whether Connect withholds the account's credentials; *item* is a response to a request that includes credentials."""
    given = parse_credentials(item)
    return ACCESS_TOKEN_FIELD not in given if is_oauth(item) else not given


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_time(value: Any) -> datetime:
    """Parse a time stamp, a `datetime` or ISO 8601 text; 1970-01-01 if *value* is neither."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except ValueError:
        return _UNKNOWN_TIME
