"""
Which apps an account can be connected of, and which of them a link names.

Knows where the project was told of apps, and those that need no telling.
"""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.connect.apps import told_apps
from pdkernel.connect.fields import FIELDS
from pdkernel.connect.providers import provided_apps
from pdkernel.server.app_shapes import slug_among
from pdkernel.server.serving import Linking


def apps_offered(serving: Linking) -> Sequence[str]:
    """The apps that a person can choose from."""
    return sorted({*told_apps(serving.project), *provided_apps(serving.project), *FIELDS})


def app_of(serving: Linking, text: str) -> str:
    """The slug of the app that *text* names by its slug or its id."""
    return slug_among(text, lambda: {*apps_offered(serving), *(each.app for each in serving.directory.accounts())})
