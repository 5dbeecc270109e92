"""
Notebooks, read as workflows.

Knows nbformat and which cells count. Does not write notebooks, run cells or read `pdkernel.yaml`.
"""

from pdkernel.notebook.cells import METADATA_KEY, Cell, read_cells
from pdkernel.notebook.workflow import read_notebook, workflow_from_cells

__all__ = ["METADATA_KEY", "Cell", "read_cells", "read_notebook", "workflow_from_cells"]
