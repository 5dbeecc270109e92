"""
Notebooks, read as workflows, and workflows written as notebooks.

Knows nbformat, which cells count, and what their metadata keeps. Does not write files, run cells or read `pdkernel.yaml`.
"""

from pdkernel.notebook.cells import METADATA_KEY, Cell, placed, read_cells
from pdkernel.notebook.workflow import read_notebook, workflow_from_cells
from pdkernel.notebook.write import write_notebook

__all__ = ["METADATA_KEY", "Cell", "placed", "read_cells", "read_notebook", "workflow_from_cells", "write_notebook"]
