"""Apps that a user registered in the project, with the names of their credentials. The project's settings store them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.storage import Project

APPS_SETTING = "apps"
_APP_SLUG = re.compile(r"[a-z0-9_]+\Z")


def check_app_slug(app: str) -> str:
    """Return *app* if it is a valid slug; raise `RequestError` otherwise."""
    if not _APP_SLUG.match(app):
        raise RequestError(
            f"{app!r} is not an app's slug.",
            fix="Use lower-case letters, digits and underscores, for example google_sheets.",
        )
    return app


def load_registered_apps(project: Project) -> dict[str, tuple[str, ...]]:
    """Registered apps with the names of their credentials."""
    stored = project.settings.get(APPS_SETTING)
    return {str(app): tuple(map(str, fields)) for app, fields in stored.items()} if isinstance(stored, dict) else {}


def register_app(project: Project, app: str, fields: Sequence[str]) -> None:
    """
    Register *app* in *project*; replaces an earlier registration.

    Raises:
        RequestError: *app* is not a slug, or *fields* is empty.
    """
    check_app_slug(app)
    named = [field.strip() for field in fields]
    if not named or not all(named):
        raise RequestError(
            f"The app {app} has no credential fields.",
            fix=f"Name at least one credential: pdkernel apps add {app} --field api_key",
        )
    project.settings.set_item(APPS_SETTING, app, list[JSON](named))
