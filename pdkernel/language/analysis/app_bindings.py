"""
The app props of a step: from its directive and from the declarations in its code.

An app prop that the directive does not name gets the account of the external user.
"""

from __future__ import annotations

from dataclasses import replace

from pdkernel.language.analysis import go_code, node_code
from pdkernel.model import AppBinding, Step

UNKNOWN_APP = "unknown"
"""The app of an app prop that neither the definition nor known code names."""


def find_declared_apps(step: Step) -> tuple[AppBinding, ...]:
    """
    App props that the code of *step* declares with literals, in order, each with the external user's account.

    Node.js code declares app props. Go code has no props and names an app by reading `pd.Accounts["slack"]`.
    """
    if step.uses:
        return ()
    if step.language == "go":
        return tuple(AppBinding(app, app) for app in go_code.find_apps(step.source))
    if step.language != "node":
        return ()
    return tuple(AppBinding(prop, app) for prop, app in node_code.find_apps(step.source).items())


def find_app_bindings(step: Step) -> tuple[AppBinding, ...]:
    """All app props of *step*: those of the directive, then those that only the code declares."""
    return merge_app_bindings(step.apps, find_declared_apps(step))


def merge_app_bindings(directive: tuple[AppBinding, ...], declared: tuple[AppBinding, ...]) -> tuple[AppBinding, ...]:
    """
    The app props of *directive*, then the other *declared* app props. Props match by name, else by app.

    So `--app slack` sets the account of a prop `chat` that the code declares for the app slack.
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
