"""
The notebooks and events that the package ships for people to start from.

Never overwrites an event; whoever writes a notebook looks first whether one is there.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def write_templates(notebook: Path, *, template: str) -> list[Path]:
    """Write a notebook template and its event beside it; what exists already is left alone."""
    source = resources.files("pdkernel") / "templates"
    notebook.parent.mkdir(parents=True, exist_ok=True)
    notebook.write_text((source / template).read_text(encoding="utf-8"), encoding="utf-8")
    event = notebook.parent / "events" / "issues-opened.json"
    if not event.exists():
        event.parent.mkdir(exist_ok=True)
        event.write_bytes((source / "events" / "issues-opened.json").read_bytes())
    return [notebook, event]
