"""
Write Pipedream workflows in a notebook: one cell, one step.

`%load_ext pdkernel` registers the magics; the `pdkernel` command and `pdkernel.run` work on files.
Importing the package is fast: the magics are imported when the extension is loaded, the Python API at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pdkernel.common.version import VERSION

if TYPE_CHECKING:
    from pdkernel.api import (
        Engine,
        Event,
        Execution,
        PdkernelError,
        RunFailedError,
        WorkflowSource,
        export,
        load,
        run,
        run_async,
        runs,
    )

__all__ = [
    "Engine",
    "Event",
    "Execution",
    "PdkernelError",
    "RunFailedError",
    "WorkflowSource",
    "__version__",
    "export",
    "load",
    "load_ipython_extension",
    "run",
    "run_async",
    "runs",
    "unload_ipython_extension",
]

__version__ = VERSION

if not TYPE_CHECKING:  # for a type checker, a module with `__getattr__` has every attribute

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return getattr(importlib.import_module("pdkernel.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def load_ipython_extension(ip: Any) -> None:
    """Register pdkernel's magics with the IPython shell *ip* (`%load_ext pdkernel`); a second call changes nothing."""
    from pdkernel.kit.magics import register

    register(ip)


def unload_ipython_extension(ip: Any) -> None:
    """Remove pdkernel's magics from the IPython shell *ip* (`%unload_ext pdkernel`)."""
    from pdkernel.kit.magics import unregister

    unregister(ip)
