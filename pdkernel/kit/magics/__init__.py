"""
The magics of the IPython extension, completion, and directives below leading comments.

Everything is registered on a shell and can be removed again. Heavy modules are imported when the extension is
registered or at the first use of a magic.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

from pdkernel.kit.magics.completion import Vocabulary, has_matchers, register_matchers, unregister_matchers
from pdkernel.kit.magics.notebook_context import CELL_SOURCES, DirectiveTransformer
from pdkernel.model import JSON, Entry, Step

__all__ = ["register", "unregister"]


def register(ip: Any) -> None:
    """Register pdkernel on the shell *ip*; a second call has no effect."""
    if has_matchers(ip):
        return
    _debug_kernel_only()
    from pdkernel.kit.magics.notebook_context import register_comm_target
    from pdkernel.kit.magics.run import RunMagics
    from pdkernel.kit.magics.run_settings import RunSettingsMagics
    from pdkernel.kit.magics.runs import RunsMagics, StoreMagics
    from pdkernel.kit.magics.serve import InvokeMagics, ServeMagics
    from pdkernel.kit.magics.steps import ActionMagics, StepMagics

    steps = StepMagics(ip)
    for magics in (
        steps,
        RunSettingsMagics,
        RunMagics,
        RunsMagics,
        StoreMagics,
        ActionMagics,
        ServeMagics,
        InvokeMagics,
    ):
        ip.register_magics(magics)
    # Before IPython's own clean-up, which would change whitespace lines and prompts inside a step's code.
    ip.input_transformers_cleanup.insert(0, DirectiveTransformer(CELL_SOURCES))
    register_matchers(ip, lambda: _steps(ip), lambda: _vocabulary(ip), lambda name: _find_scope(ip, name))
    ip.events.register("pre_run_cell", _forget_loaded)
    register_comm_target(ip, steps.run_stale)


def _forget_loaded(info: Any) -> None:
    """Let `%load_ext pdkernel` run again: at each Run All after the first, IPython would print that pdkernel is already loaded."""
    from IPython.core.getipython import get_ipython

    ip = get_ipython()
    if ip is not None and re.search(r"^\s*%load_ext\s+pdkernel\b", info.raw_cell or "", re.MULTILINE):
        ip.extension_manager.loaded.discard("pdkernel")


def _debug_kernel_only() -> None:
    """
    Keep the debugger of ipykernel out of child processes.

    In a worker it would wait for a front end that attaches to the worker, which Jupyter's front ends do not do.
    """
    debugpy = sys.modules.get("debugpy")
    if debugpy is not None:
        debugpy.configure(subProcess=False)


def unregister(ip: Any) -> None:
    """Remove pdkernel from the shell *ip*, and stop its session."""
    from pdkernel.kit.magics.notebook_context import close_session, unregister_comm_target

    transformers = ip.input_transformers_cleanup
    transformers[:] = [transformer for transformer in transformers if not isinstance(transformer, DirectiveTransformer)]
    unregister_matchers(ip)
    if _forget_loaded in ip.events.callbacks["pre_run_cell"]:
        ip.events.unregister("pre_run_cell", _forget_loaded)
    unregister_comm_target(ip)
    close_session(ip)


def _steps(ip: Any) -> Mapping[str, JSON]:
    """Return the trigger and every step and block of the notebook in its order; those that have not run are empty."""
    from pdkernel.kit.magics.notebook_context import get_session

    session = get_session(ip)
    values = session.build_steps_value()
    entries = {entry.name: _build_example(entry) for entry in session.workflow.all_entries}
    return {name: values.get(name, example) for name, example in {"trigger": {}, **entries}.items()}


def _build_example(entry: Entry) -> JSON:
    """Return the form of the exports of a step or block that has not run, as far as it is known."""
    if isinstance(entry, Step):
        return {}
    return {"$return_value": {branch.name: {} for branch in entry.branches} if entry.type == "parallel" else {}}


def _find_scope(ip: Any, name: str) -> Collection[str] | None:
    """Return the steps and blocks that *name* sees; None if the notebook has no such step or block yet."""
    from pdkernel.kit.magics.notebook_context import get_session

    workflow = get_session(ip).workflow
    return workflow.visible_names(name) if any(entry.name == name for entry in workflow.all_entries) else None


def _vocabulary(ip: Any) -> Vocabulary:
    from pdkernel.kit.magics.notebook_context import get_session
    from pdkernel.kit.session import actions

    session = get_session(ip)
    accounts: dict[str, list[str]] = {}
    for account in session.directory.accounts(own=True):
        accounts.setdefault(account.app, []).append(account.id)
    return Vocabulary(
        apps=actions.list_apps(session),
        accounts=accounts,
        stores=session.project.data_stores.names(),
        actions=[f"{each.key}@{each.version}" for each in session.catalog.list_components()],
        branches=[f"{block.name}.{each.name}" for block in session.workflow.blocks for each in block.branches],
    )
