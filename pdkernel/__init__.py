"""
Write Pipedream workflows in a notebook: one cell, one step.

`%load_ext pdkernel` brings the magics; `pdkernel` on the command line does the same acts on files.
Importing the package imports nothing heavy.
"""

from __future__ import annotations

from importlib import metadata

__version__ = metadata.version("pdkernel")
