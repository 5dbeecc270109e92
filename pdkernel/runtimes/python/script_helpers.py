"""
The platform's older helper module: `from pipedream.script_helpers import steps, export`.

Each step gets its own module, which exists while the step runs.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

MODULE_NAME = "pipedream.script_helpers"
MODULE_MARKER = "script_helpers"
"""Code that imports the module contains this word."""

_PACKAGE = MODULE_NAME.partition(".")[0]


def install_script_helpers(pd: Any) -> None:
    """Let the running step import `steps` and `export`, whether or not the package `pipedream` is installed."""
    helpers = ModuleType(MODULE_NAME)
    vars(helpers).update(steps=pd.steps, export=pd.export)
    if _PACKAGE not in sys.modules and importlib.util.find_spec(_PACKAGE) is None:
        parent = ModuleType(_PACKAGE)
        vars(parent).update(__path__=[], script_helpers=helpers, pdkernel_hidden=True)
        sys.modules[_PACKAGE] = parent
    sys.modules[MODULE_NAME] = helpers


def remove_script_helpers() -> None:
    """Remove the module of the step that has ended."""
    if sys.modules.pop(MODULE_NAME, None) is not None and hasattr(sys.modules.get(_PACKAGE), "pdkernel_hidden"):
        del sys.modules[_PACKAGE]
