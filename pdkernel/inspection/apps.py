"""
The apps that a step uses: those its directive names and those its code declares.

Knows whose account fills a prop that nobody names: the external user's. Looks nothing up.
"""

from __future__ import annotations

from pdkernel.inspection import node_code
from pdkernel.model import AppBinding, Step


def declared_apps(step: Step) -> tuple[AppBinding, ...]:
    """App props that a Node.js step's code declares with literals, in order, each as the external user's."""
    if step.language != "node" or step.uses:
        return ()
    return tuple(AppBinding(prop, app) for prop, app in node_code.apps(step.source).items())


def apps_of(step: Step) -> tuple[AppBinding, ...]:
    """All app props of *step*: what the directive says, then what only the code declares."""
    named = {binding.prop for binding in step.apps}
    return (*step.apps, *(binding for binding in declared_apps(step) if binding.prop not in named))
