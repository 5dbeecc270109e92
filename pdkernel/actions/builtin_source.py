"""
The built-in actions: flow, state, HTTP requests and responses, email, and two helpers. They need no account.

They reimplement the documented and observed behaviour of the platform's actions and share no code with them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from pdkernel.actions.component import Component, build_component_file, parse_header

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
BUILTIN_SOURCE_LABEL = "built in"
_LIMITATIONS_BY_APP = {
    "email": "sent by SMTP if the project's settings name a server, else only shown",
}
"""The limitations of built-in actions, by app."""


@functools.cache
def load_builtin_actions() -> Mapping[str, Component]:
    """The built-in actions, by key."""
    found = {}
    for path in sorted(BUILTIN_FOLDER.glob("*.mjs")):
        header = parse_header(path.read_text(encoding="utf-8"))
        if header is not None:
            found[header.key] = Component(
                key=header.key,
                version=header.version,
                app=None,
                name=header.name,
                description=header.description,
                source=BUILTIN_SOURCE_LABEL,
                file=build_component_file(header, path, "builtin"),
                kind=header.kind,
                limitations=_LIMITATIONS_BY_APP.get(header.key.partition("-")[0], ""),
            )
    return found


def can_replace_version(component: Component, version: str | None) -> bool:
    """
    Whether the built-in *component* can run for a step that uses *version* of the action.

    The platform keeps the names of props within a major version. If a step sets a prop that the built-in action does not have,
    the run is refused before its first step.
    """
    # parity[built-in-versions]: the platform runs the exact version; a built-in action runs for its whole major version
    return version is None or version.partition(".")[0] == component.version.partition(".")[0]
