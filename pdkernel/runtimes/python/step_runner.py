"""
One Python step: its code, its `handler(pd)`, what that returns, and how it failed.

Knows what a step's code is given. Where it runs (a process for steps, or the kernel for a debugger) and where what it says
goes are for whoever calls. Everything between a caller and the user's frames is in this folder, which no stack shows.
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
    pdkernel_fix = "Define `def handler(pd):` in this cell; what it returns is the step's $return_value."


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
    Run a step; returns why it failed (`error_report.describe_error`), or None.

    Args:
        request: What the host said: `step, file, props, auth, stores, context, flow`.
        compile_code: Compiles it; what goes wrong there is the step's failure too.
        exports_json: Exports of the steps above as JSON, by step.
        uses_script_helpers: The code uses the platform's old helper module, and then needs no handler.
        secrets: Values that no local may show.
        send_line: Takes each line that the step says.
        call_services: Asks the host, and waits for the answer.
        send_return_value: Takes the last line, which says what the step returned; `send_line` by default.
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


def _inputs(told: Mapping[str, Any], ask: Callable[[str, dict[str, Any]], Any]) -> dict[str, Any]:
    return {
        **told["props"],
        **{prop: {"$auth": fields} for prop, fields in told["auth"].items()},
        **{prop: data_store.DataStore(store, ask) for prop, store in told["stores"].items()},
    }


def _handler(module: ModuleType, *, is_old: bool) -> Any:
    handler = vars(module).get("handler")
    if handler is None and is_old:  # such steps did their work at the top level
        return lambda _pd: None
    if not callable(handler):
        raise StepHasNoHandlerError(_MISSING_HANDLER)
    return handler


def _awaited(value: Any) -> Any:
    import asyncio  # most steps do without, and it is half of what a process takes to start

    async def wait() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    outcome: list[Any] = []  # a kernel's own loop is running in this thread: another thread has room for the step's

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
