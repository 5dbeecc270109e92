"""
Apps that a project was told of: a slug, and the names of the credentials that an account of it holds.

Knows where they are kept. Apps that need no telling are those of accounts, workflows and installed components.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pdkernel.errors import RequestError
from pdkernel.project import Project

APPS_SETTING = "apps"
_APP = re.compile(r"[a-z0-9_]+\Z")


def check_app_slug(app: str) -> str:
    """Return *app* if it is a slug. Raises `RequestError`."""
    if not _APP.match(app):
        raise RequestError(
            f"{app!r} is not an app's slug.", fix="A slug is lower case, for example slack or google_sheets."
        )
    return app


def load_registered_apps(project: Project) -> dict[str, tuple[str, ...]]:
    """The apps that *project* was told of, each with its credentials' names, best first."""
    kept = project.settings.get(APPS_SETTING)
    return {str(app): tuple(map(str, fields)) for app, fields in kept.items()} if isinstance(kept, dict) else {}


def register_app(project: Project, app: str, fields: Sequence[str]) -> None:
    """
    Tell *project* of an app; what it knew of the app before is replaced.

    Raises:
        RequestError: Not a slug, or no field.
    """
    check_app_slug(app)
    named = [field.strip() for field in fields]
    if not named or not all(named):
        raise RequestError(
            f"What does an account of {app} hold?",
            fix=f"Name at least one credential: pdkernel apps add {app} --field api_key",
        )
    known = {slug: list(names) for slug, names in load_registered_apps(project).items()}
    project.settings.set(APPS_SETTING, {**known, app: named})
