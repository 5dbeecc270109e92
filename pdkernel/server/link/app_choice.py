"""
Which apps an account can be connected of, and which of them a link names.

Knows where the project was told of apps, and those that need no telling.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.connect.credential_fields import FIELDS_BY_APP
from pdkernel.connect.oauth_providers import list_provider_apps
from pdkernel.connect.registered_apps import load_registered_apps
from pdkernel.server.app_context import LinkContext
from pdkernel.server.app_serializers import resolve_slug


def list_offered_apps(context: LinkContext) -> Sequence[str]:
    """The apps that a person can choose from."""
    return sorted({*load_registered_apps(context.project), *list_provider_apps(context.project), *FIELDS_BY_APP})


def resolve_app(context: LinkContext, text: str) -> str:
    """The slug of the app that *text* names by its slug or its id."""
    return resolve_slug(
        text, lambda: {*list_offered_apps(context), *(each.app for each in context.directory.accounts())}
    )
