"""Reads notebooks as workflows, and writes workflows as notebooks. Formats: nbformat 4, and Python files in percent format."""

from pdkernel.files.notebook.cells import (
    MAX_CELLS_BYTES,
    METADATA_KEY,
    CellType,
    NotebookCell,
    build_output_metadata,
    enumerate_cells,
    find_policy_cells,
    hash_cell,
    is_notebook_file,
    read_cells,
    read_output_hash,
)
from pdkernel.files.notebook.notebook_text import format_notebook
from pdkernel.files.notebook.workflow import read_notebook, workflow_from_cells

__all__ = [
    "MAX_CELLS_BYTES",
    "METADATA_KEY",
    "CellType",
    "NotebookCell",
    "build_output_metadata",
    "enumerate_cells",
    "find_policy_cells",
    "format_notebook",
    "hash_cell",
    "is_notebook_file",
    "read_cells",
    "read_notebook",
    "read_output_hash",
    "workflow_from_cells",
]
