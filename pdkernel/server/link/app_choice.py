"""Apps that Connect Link offers, and the app that a link names."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.connect.credential_fields import FIELDS_BY_APP
from pdkernel.connect.oauth_providers import list_provider_apps
from pdkernel.connect.registered_apps import load_registered_apps
from pdkernel.server.app_context import LinkContext
from pdkernel.server.app_serializers import resolve_slug


def list_offered_apps(context: LinkContext) -> Sequence[str]:
    """Slugs of the apps that a user can choose."""
    return sorted({*load_registered_apps(context.project), *list_provider_apps(context.project), *FIELDS_BY_APP})


def resolve_app(context: LinkContext, text: str) -> str:
    """The slug of the app for *text*, a slug or an id."""
    return resolve_slug(
        text, lambda: {*list_offered_apps(context), *(each.app for each in context.directory.accounts())}
    )
