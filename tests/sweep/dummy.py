"""Values for empty props that let a component start."""

from __future__ import annotations

from typing import Any

from pdkernel.model import JSON
from pdkernel.workers import PropDeclaration

_FIELDS = """oauth_access_token oauth_refresh_token oauth_client_id oauth_client_secret oauth_uid api_key api_token
  access_token bot_token token key secret password user username email account_id shop_id store_name domain subdomain
  database environment_url company_id realm_id accessKeyId secretAccessKey region project_key privateKey"""

CREDENTIALS = {field: f"dummy-{field}" for field in _FIELDS.split()} | {
    "host": "stand-in.example",
    "port": "5432",
    "base_api_url": "stand-in.example",
    "base_url": "https://stand-in.example",
}


def values_for(props: tuple[PropDeclaration, ...]) -> dict[str, JSON]:
    """A value for each required prop."""
    return {prop.name: _value(prop) for prop in props if not prop.optional}


def _value(prop: PropDeclaration) -> JSON:
    given = prop.definition.get("options")
    if isinstance(given, list) and given:
        first: Any = given[0]
        value = first.get("value") if isinstance(first, dict) else first
        return [value] if prop.type.endswith("[]") else value
    least = prop.definition.get("min")
    match prop.type.removesuffix("[]"):
        case "integer":
            value = least if isinstance(least, int) else 1
        case "boolean":
            value = True
        case "object":
            value = {"a": "1"}
        case "sql":
            value = {"query": "select 1", "params": []}
        case "http_request":
            value = {"method": "GET", "url": "https://stand-in.example/"}
        case _:
            value = "1"
    return [value] if prop.type.endswith("[]") else value
