"""
What the IPython extension brings: the magics, completion, and directives below comments.

Everything is registered on a shell and taken off it again. Importing it imports nothing heavy; the magics
themselves wait for their first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.magics.cells import CELL_TEXTS, Lift
from pdkernel.magics.completion import Vocabulary, has_matchers, register_matchers, unregister_matchers
from pdkernel.model import JSON

__all__ = ["register", "unregister"]


def register(ip: Any) -> None:
    """Bring pdkernel to the shell *ip*; a second call changes nothing."""
    if has_matchers(ip):
        return
    from pdkernel.magics.actions import ActionMagics
    from pdkernel.magics.choices import ChoiceMagics
    from pdkernel.magics.invoking import InvokeMagics
    from pdkernel.magics.runs import RunMagics
    from pdkernel.magics.serve import ServeMagics
    from pdkernel.magics.steps import StepMagics
    from pdkernel.magics.stores import StoreMagics

    for magics in (StepMagics, ChoiceMagics, RunMagics, StoreMagics, ActionMagics, ServeMagics, InvokeMagics):
        ip.register_magics(magics)
    # Before IPython's own clean-up, which empties lines of blanks and strips prompts inside a step's code.
    ip.input_transformers_cleanup.insert(0, Lift(CELL_TEXTS))
    register_matchers(ip, lambda: _steps(ip), lambda: _words(ip))


def unregister(ip: Any) -> None:
    """Take pdkernel off the shell *ip* again, and end what it runs."""
    from pdkernel.magics.shell import close_session

    transformers = ip.input_transformers_cleanup
    transformers[:] = [transformer for transformer in transformers if not isinstance(transformer, Lift)]
    unregister_matchers(ip)
    close_session(ip)


def _steps(ip: Any) -> Mapping[str, JSON]:
    """The trigger and every step of the notebook in its order; steps that have not run are empty."""
    from pdkernel.magics.shell import session_of

    session = session_of(ip)
    values = session.steps_value()
    return {name: values.get(name, {}) for name in ("trigger", *(step.name for step in session.workflow.steps))}


def _words(ip: Any) -> Vocabulary:
    from pdkernel.magics.shell import session_of

    session = session_of(ip)
    return Vocabulary(apps=session.actions.apps(), stores=session.project.stores.names())
