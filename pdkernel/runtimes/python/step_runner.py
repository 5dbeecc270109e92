"""
Runs one Python step: its code, then its `handler(pd)`.

The caller is a worker, or the kernel if the step runs in a debugger. The frames of this folder are left out of the stack of an
error.
"""

from __future__ import annotations

import importlib
import os
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
        request: The request of pdkernel, with `step, file, props, auth, stores, context, flow`, and `files` that the step imports.
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
    files: _StepFiles | None = None
    try:
        if "files" in request:
            files = _StepFiles(module, request["step"], request["files"])
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
        if files is not None:
            files.forget()
        sys.modules.pop(module.__name__, None)
        script_helpers.remove_script_helpers()
    return None


class _StepFiles:
    """
    The files that a step imports, written below the working folder, which the end of the run empties.

    The step's code has the `__file__` and the package of a file in `_workflow_files/STEP`, and imports modules from there and
    from the folders above.

    Args:
        module: The step's module.
        step: The step's name.
        files: The texts by path from the folder of the step's entry file.
    """

    def __init__(self, module: ModuleType, step: str, files: Mapping[str, str]) -> None:
        root = os.path.join(os.getcwd(), ".step_files", step)  # noqa: PTH109, PTH118 - steps may have replaced `pathlib`
        depth = max(path.split("/").count("..") for path in files)
        names = ["_workflow_files", *["_"] * (depth - 1), *[step][:depth]]
        folder = os.path.join(root, *names)  # noqa: PTH118
        for path, text in files.items():
            place = os.path.normpath(os.path.join(folder, path))  # noqa: PTH118
            os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
            with open(place, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
                file.write(text)
        module.__file__ = os.path.join(folder, "entry.py")  # noqa: PTH118
        module.__package__ = ".".join(names)
        paths = [os.path.join(root, *names[:length]) for length in range(len(names), -1, -1)]  # noqa: PTH118
        tops = {name.partition(".")[0] for path in paths if os.path.isdir(path) for name in os.listdir(path)}  # noqa: PTH112, PTH208
        tops.difference_update(sys.stdlib_module_names)
        self._root = root + os.sep
        self._shadowed = {name: found for name, found in sys.modules.items() if name.partition(".")[0] in tops}
        self._writes_bytecode = sys.dont_write_bytecode
        for name in self._shadowed:
            del sys.modules[name]
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True  # a file that is changed within a second would be read from the cache
        sys.path[:0] = paths

    def forget(self) -> None:
        """Forget the modules, so that the next step imports its own."""
        sys.dont_write_bytecode = self._writes_bytecode
        for name in [name for name, module in list(sys.modules.items()) if self._is_own(module)]:
            del sys.modules[name]
        sys.path[:] = [path for path in sys.path if not f"{path}{os.sep}".startswith(self._root)]
        for path in [each for each in sys.path_importer_cache if f"{each}{os.sep}".startswith(self._root)]:
            del sys.path_importer_cache[path]
        sys.modules.update(self._shadowed)

    def _is_own(self, module: ModuleType) -> bool:
        try:  # the path of a folder without `__init__` is computed from its parent
            places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
            return any(f"{place}{os.sep}".startswith(self._root) for place in places)
        except Exception:
            return False


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
