"""
Runs one Python step: its code, then its `handler(pd)`.

The caller is a worker, or the kernel if the step runs in a debugger. The frames of this folder are left out of the stack of an
error.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, ModuleType
from typing import Any

from . import data_store, error_report, script_helpers, step_api

_MISSING_HANDLER = """The step has no handler(pd).

def handler(pd: "pipedream"):
    return pd.steps["trigger"]["event"]"""


class StepHasNoHandlerError(Exception):
    """The cell defines no `handler`."""

    pdkernel_code = "entry_point"
    pdkernel_fix = "Define `def handler(pd):` in this cell. Its return value is the step's $return_value."


def run_step(
    request: Mapping[str, Any],
    compile_code: Callable[[], CodeType],
    exports_json: Mapping[str, bytes],
    *,
    uses_script_helpers: bool,
    secrets: Iterable[str],
    send_line: Callable[[str], object],
    call_services: Callable[[str, dict[str, Any]], Any],
    send_return_value: Callable[[str], object] | None = None,
) -> dict[str, Any] | None:
    """
    Run a step. Returns the description of its error (`error_report.describe_error`), or None.

    Args:
        request: The request of pdkernel, with `step, file, props, auth, stores, context, flow`.
        compile_code: Compiles the code; an exception that it raises is an error of the step.
        exports_json: The exports of the steps above as JSON, by step.
        uses_script_helpers: Whether the code uses the platform's older helper module; then it needs no handler.
        secrets: Values that are replaced in the local variables of the error's description.
        send_line: Receives each message of the step as a line.
        call_services: Calls a service and waits for the answer.
        send_return_value: Receives the line with the return value; `send_line` by default.
    """
    module = ModuleType(f"step_{request['step']}")
    sys.modules[module.__name__] = module
    try:
        pd = step_api.Pd(
            step_api.Steps(exports_json),
            _inputs(request, call_services),
            request["context"],
            send_line,
            call_services,
            request["flow"],
        )
        if uses_script_helpers:
            script_helpers.install_script_helpers(pd)
        exec(compile_code(), module.__dict__)
        value = _handler(module, is_old=uses_script_helpers)(pd)
        if hasattr(value, "__await__"):
            value = _awaited(value)
        if value is not None:
            line = step_api.encode_export("$return_value", value)
            (send_return_value or send_line)(line)
    except BaseException as raised:
        return error_report.describe_error(raised, request["file"], secrets)
    finally:
        sys.modules.pop(module.__name__, None)
        script_helpers.remove_script_helpers()
    return None


def _inputs(request: Mapping[str, Any], call_services: Callable[[str, dict[str, Any]], Any]) -> dict[str, Any]:
    return {
        **request["props"],
        **{prop: {"$auth": fields} for prop, fields in request["auth"].items()},
        **{prop: data_store.DataStore(store, call_services) for prop, store in request["stores"].items()},
    }


def _handler(module: ModuleType, *, is_old: bool) -> Any:
    handler = vars(module).get("handler")
    if handler is None and is_old:  # such steps do their work at module level
        return lambda _pd: None
    if not callable(handler):
        raise StepHasNoHandlerError(_MISSING_HANDLER)
    return handler


def _awaited(value: Any) -> Any:
    import asyncio  # most steps do not need it, and importing it takes half of the start time of a process

    async def wait() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    outcome: list[Any] = []  # the kernel's event loop uses this thread, so the step's loop gets another thread

    def run_apart() -> None:
        try:
            outcome.append((asyncio.run(wait()), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run_apart)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
