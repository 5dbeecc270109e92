"""Reads notebooks as workflows, and writes workflows as notebooks. Format: nbformat 4."""

from pdkernel.notebook.cells import METADATA_KEY, NotebookCell, enumerate_cells, read_cells
from pdkernel.notebook.notebook_text import format_notebook
from pdkernel.notebook.workflow import read_notebook, workflow_from_cells

__all__ = [
    "METADATA_KEY",
    "NotebookCell",
    "enumerate_cells",
    "format_notebook",
    "read_cells",
    "read_notebook",
    "workflow_from_cells",
]
