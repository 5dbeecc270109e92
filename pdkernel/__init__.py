"""
Write Pipedream workflows in a notebook: one cell, one step.

`%load_ext pdkernel` registers the magics; the `pdkernel` command works on files.
Importing the package is fast: the magics are imported when the extension is loaded.
"""

from __future__ import annotations

from typing import Any

from pdkernel.version import VERSION

__all__ = ["__version__", "load_ipython_extension", "unload_ipython_extension"]

__version__ = VERSION


def load_ipython_extension(ip: Any) -> None:
    """Register pdkernel's magics with the IPython shell *ip* (`%load_ext pdkernel`); a second call changes nothing."""
    from pdkernel.magics import register

    register(ip)


def unload_ipython_extension(ip: Any) -> None:
    """Remove pdkernel's magics from the IPython shell *ip* (`%unload_ext pdkernel`)."""
    from pdkernel.magics import unregister

    unregister(ip)
