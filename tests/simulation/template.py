"""The project that each simulation copies."""

from __future__ import annotations

from pathlib import Path

from pdkernel.journal import open_journal_reader
from pdkernel.storage import Project
from tests.simulation.sources import write_components


def make_template(folder: Path) -> Path:
    """Make a project with all tables in *folder*, and return its folder."""
    made = folder / "template"
    with Project.open(made / ".pdkernel") as project:
        open_journal_reader(project).close()
        project.settings.set("actions", str(write_components(folder / "checkout")))
    return made
