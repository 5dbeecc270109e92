"""
The apps that a step uses: those its directive names and those its code declares.

Knows whose account fills a prop that nobody names: the external user's. Looks nothing up.
"""

from __future__ import annotations

from dataclasses import replace

from pdkernel.analysis import go_code, node_code
from pdkernel.model import AppBinding, Step


def find_declared_apps(step: Step) -> tuple[AppBinding, ...]:
    """
    App props that a step's code declares with literals, in order, each as the external user's.

    Node.js code declares them as props; Go code has no props, and names an app when it reads `pd.Accounts["slack"]`.
    """
    if step.uses:
        return ()
    if step.language == "go":
        return tuple(AppBinding(app, app) for app in go_code.find_apps(step.source))
    if step.language != "node":
        return ()
    return tuple(AppBinding(prop, app) for prop, app in node_code.find_apps(step.source).items())


def find_app_bindings(step: Step) -> tuple[AppBinding, ...]:
    """All app props of *step*: what the directive says, then what only the code declares."""
    return merge_app_bindings(step.apps, find_declared_apps(step))


def merge_app_bindings(directive: tuple[AppBinding, ...], declared: tuple[AppBinding, ...]) -> tuple[AppBinding, ...]:
    """
    The directive's app props, then what code declares besides: matched by prop, else by app.

    `--app slack` for code that calls its prop `chat` says whose account `chat` is.
    """
    named = {binding.prop for binding in directive}
    by_app = {binding.app: binding for binding in directive if binding.prop == binding.app}
    merged = list(directive)
    for binding in declared:
        if binding.prop in named:
            continue
        alias = by_app.pop(binding.app, None)
        if alias is None:
            merged.append(binding)
        else:
            merged[merged.index(alias)] = replace(alias, prop=binding.prop)
    return tuple(merged)
