"""
The notebooks and events that the package ships for people to start from.

Never overwrites an event; whoever writes a notebook looks first whether one is there.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from pdkernel.errors import RequestError


def write_templates(notebook: Path, *, template: str) -> list[Path]:
    """
    Write a notebook template and its event beside it; an event that exists already is left alone.

    Raises:
        RequestError: The folder cannot be written to.
    """
    source = resources.files("pdkernel") / "templates"
    event = notebook.parent / "events" / "issues-opened.json"
    try:
        event.parent.mkdir(parents=True, exist_ok=True)
        notebook.write_bytes((source / template).read_bytes())
        if not event.exists():
            event.write_bytes((source / "events" / event.name).read_bytes())
    except OSError as fault:
        raise RequestError(
            f"{notebook} cannot be made: {fault.strerror} ({fault.filename}).",
            fix="Choose a folder that you may write to.",
        ) from None
    return [notebook, event]
