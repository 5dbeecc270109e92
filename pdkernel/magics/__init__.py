"""
What the IPython extension brings: completion, and directives below comments.

Everything is registered on a shell and taken off it again. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.magics.cells import CELL_TEXTS, Lift, original_cell
from pdkernel.magics.completion import has_matchers, register_matchers, unregister_matchers
from pdkernel.model import JSON

__all__ = ["original_cell", "register", "unregister"]


def register(ip: Any) -> None:
    """Bring pdkernel to the shell *ip*; a second call changes nothing."""
    if has_matchers(ip):
        return
    # Before IPython's own clean-up, which empties lines of blanks and strips prompts inside a step's code.
    ip.input_transformers_cleanup.insert(0, Lift(CELL_TEXTS))
    register_matchers(ip, _no_steps)


def unregister(ip: Any) -> None:
    """Take pdkernel off the shell *ip* again."""
    transformers = ip.input_transformers_cleanup
    transformers[:] = [transformer for transformer in transformers if not isinstance(transformer, Lift)]
    unregister_matchers(ip)


def _no_steps() -> Mapping[str, JSON]:
    return {}
