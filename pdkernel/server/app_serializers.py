"""
Apps in the Connect API and in Connect Link: ids, JSON form, and the apps that a user can choose.

The JSON form has every field that the SDKs require.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from pdkernel.accounts.apps import FIELDS_BY_APP, find_provider, list_provider_apps, load_registered_apps
from pdkernel.common.identity import ACCESS_TOKEN_FIELD
from pdkernel.engine.run_context import derive_id
from pdkernel.render.apps import build_app_icon_url, format_app_name, format_credential_name
from pdkernel.server.app_context import LinkContext

_VISIBLE_FIELDS = frozenset({"hostname", "host", "port", "user", "username", "database", "subdomain", "base_url"})
"""Credentials that forms show in plain text."""


@lru_cache(maxsize=10_000)
def derive_app_id(slug: str) -> str:
    """Derive the id of an app from the slug, so that every server uses the same id."""
    return derive_id("app_", slug)


def resolve_slug(text: str, slugs: Callable[[], Iterable[str]]) -> str:
    """Return the slug for *text*, an app's id or slug. An id that matches none of *slugs* is returned unchanged."""
    if not text.startswith("app_"):
        return text
    return next((slug for slug in slugs() if derive_app_id(slug) == text), text)


def list_offered_apps(context: LinkContext) -> Sequence[str]:
    """Return the slugs of the apps that a user of Connect Link can choose."""
    return sorted({*load_registered_apps(context.project), *list_provider_apps(context.project), *FIELDS_BY_APP})


def resolve_link_app(context: LinkContext, text: str) -> str:
    """Return the slug for *text*, the app's id, slug or display name in a link."""
    offered = list_offered_apps(context)
    known = {*offered, *context.directory.connected_apps()}
    slug = resolve_slug(text, lambda: known)
    names = {format_app_name(app).casefold(): app for app in offered}
    return slug if slug in known else names.get(slug.strip().casefold(), slug)


def serialize_app(context: LinkContext, slug: str) -> dict[str, Any]:
    """Serialize an app, with every field that an SDK requires (`scope_profiles` in Python)."""
    names = context.directory.credential_fields(slug)
    is_oauth = find_provider(context.project, slug) is not None or names[:1] == (ACCESS_TOKEN_FIELD,)
    fields = [] if is_oauth else [_serialize_field(field) for field in names]
    return {
        "id": derive_app_id(slug),
        "name_slug": slug,
        "name": format_app_name(slug),
        "auth_type": "oauth" if is_oauth else "keys",
        "description": "",
        "img_src": build_app_icon_url(slug),
        "custom_fields_json": json.dumps(fields),
        "categories": [],
        "featured_weight": 0,
        "scope_profiles": [],
        "oauth_app_id": None,
    }


def _serialize_field(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": format_credential_name(name),
        "description": None,
        "default": None,
        "optional": None,
        "type": "string" if name in _VISIBLE_FIELDS else "password",
    }
