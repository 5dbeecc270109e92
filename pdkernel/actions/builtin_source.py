"""
The actions that come with pdkernel: flow, state, HTTP answers and email, which need no account.

Knows where their modules are and which versions of an action one of ours stands for. They are written from what is
documented and observed of the platform's, and share no code with them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from pdkernel.actions.component import Component, build_component_file, parse_header

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
BUILTIN_SOURCE_LABEL = "built in"
_LIMITATIONS_BY_APP = {
    "email": "sent by SMTP where the settings name a server, else only shown",
}
"""What ours cannot do, by app."""


@functools.cache
def load_builtin_actions() -> Mapping[str, Component]:
    """Our actions by key."""
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
    Whether our *component* runs where a step asks for *version* of it.

    Within one first number the platform kept the props' names; a prop that ours does not know is refused before the
    run, so a version that differs more is told and not guessed at.
    """
    # parity[built-in-versions]: the platform runs the exact version; ours stands for all with the same first number
    return version is None or version.partition(".")[0] == component.version.partition(".")[0]
