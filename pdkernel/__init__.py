"""
Write Pipedream workflows in a notebook: one cell, one step.

`%load_ext pdkernel` brings the magics; `pdkernel` on the command line does the same acts on files.
Importing the package imports nothing heavy.
"""

from __future__ import annotations

from typing import Any

from pdkernel.version import VERSION

__all__ = ["__version__", "load_ipython_extension", "unload_ipython_extension"]

__version__ = VERSION


def load_ipython_extension(ip: Any) -> None:
    """Bring pdkernel to the IPython shell *ip* (`%load_ext pdkernel`); a second call changes nothing."""
    from pdkernel.magics import register

    register(ip)


def unload_ipython_extension(ip: Any) -> None:
    """Take pdkernel off the IPython shell *ip* (`%unload_ext pdkernel`)."""
    from pdkernel.magics import unregister

    unregister(ip)
