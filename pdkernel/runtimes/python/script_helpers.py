"""
The platform's helper module from before there was `pd`: `from pipedream.script_helpers import steps, export`.

Knows its two names. Each step has a module of its own, which is there while the step runs.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

MODULE_NAME = "pipedream.script_helpers"
MODULE_MARKER = "script_helpers"
"""Code without it does not import the module."""

_PACKAGE = MODULE_NAME.partition(".")[0]


def install_script_helpers(pd: Any) -> None:
    """Let the running step import `steps` and `export`, whether the `pipedream` package is installed or not."""
    helpers = ModuleType(MODULE_NAME)
    vars(helpers).update(steps=pd.steps, export=pd.export)
    if _PACKAGE not in sys.modules and importlib.util.find_spec(_PACKAGE) is None:
        parent = ModuleType(_PACKAGE)
        vars(parent).update(__path__=[], script_helpers=helpers, pdkernel_hidden=True)
        sys.modules[_PACKAGE] = parent
    sys.modules[MODULE_NAME] = helpers


def remove_script_helpers() -> None:
    """The step has ended: another has steps of its own."""
    if sys.modules.pop(MODULE_NAME, None) is not None and hasattr(sys.modules.get(_PACKAGE), "pdkernel_hidden"):
        del sys.modules[_PACKAGE]
