"""
Describes an exception of a Python step: the frames of user code with source lines and local variables.

It replaces the values of known secrets. A shortened local variable ends with `…`, and no part of a secret is before the `…`. The
recorder of the run redacts encoded forms of a secret, and their parts before a `…`.
"""

from __future__ import annotations

import linecache
import os
import reprlib
import sys
import traceback
from collections.abc import Iterable
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

_LOCAL_LENGTH = 200
_MAX_LOCALS = 20
_MAX_CHAIN = 3
_OUTER_FRAMES, _INNER_FRAMES = 5, 10
_LIBRARY = tuple(
    os.path.normpath(path) + os.sep
    for path in {sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), os.path.dirname(os.path.abspath(__file__))}  # noqa: PTH100, PTH120
)
_SHORTENED = "…"
_CUT = "\0"  # the repr of a string never contains it
_LONGEST = 20_000


class _Repr(reprlib.Repr):
    """Cuts a long text at its end. `reprlib` removes the middle, so that a part of a secret could follow the cut."""

    def repr_str(self, value: str, level: int) -> str:  # noqa: ARG002
        return repr(value) if len(value) <= _LONGEST else repr(value[:_LONGEST])[:-1] + _CUT

    def repr_instance(self, value: Any, level: int) -> str:  # noqa: ARG002
        try:
            text = repr(value)
        except Exception:
            return f"<{type(value).__name__} instance at {id(value):#x}>"
        return text if len(text) <= _LONGEST else text[:_LONGEST] + _CUT


_REPR = _Repr()
_REPR.maxlong = _LONGEST
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = _REPR.maxset = 20
_REPR.maxlevel = 4

# parity[python-version]: the platform runs Python 3.12, and steps run with the Python of pdkernel
_PLATFORM_VERSION = (3, 12)
_NEW_SYNTAX = r"\s*(?:type\s+\w+\s*(?:\[.*\]\s*)?=|(?:(?:async\s+)?def|class)\s+\w+\s*\[)"
"""Type aliases and type parameters, in a line that Python 3.11 cannot parse."""
_NEW_NAMES = (
    "BufferFlags Buffer Month Day JANUARY FEBRUARY QUOTE_NOTNULL QUOTE_STRINGS TypeAliasType activate_stack_trampoline "
    "batched binomialvariate create_eager_task_factory eager_task_factory getasyncgenlocals getasyncgenstate getconfig "
    "get_original_bases is_junction isjunction last_exc markcoroutinefunction monitoring override pidfd_nonblock setconfig "
    "setns setprofile_all_threads settrace_all_threads splitroot sumprod unshare walk with_segments"
)
_NEW_ARGUMENTS = frozenset({"autocommit", "delete_on_close", "onexc", "walk_up"})
"""Names and arguments of the standard library that are new in Python 3.12 (its page "What's New")."""

PLAIN_CELLS_HINT = (
    "A step cannot see names that plain cells of the notebook define. Import or define the name in this step."
)


def describe_error(error: BaseException, step_file: str, secrets: Iterable[str]) -> dict[str, Any]:
    """Return the error as the worker reports it: code, name, message, line, stack, fix."""
    if isinstance(error, SystemExit):
        return _exited(error, step_file)
    hidden = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)
    line = _line(error.__traceback__, step_file)
    if isinstance(error, SyntaxError) and error.filename == step_file:
        line = error.lineno if isinstance(error.lineno, int) else None
    return {
        "code": str(getattr(error, "pdkernel_code", None) or "step_failed"),
        "name": str(getattr(error, "pdkernel_name", None) or type(error).__name__),
        "message": _message(error),
        "line": line,
        "stack": _stack(error, step_file, hidden, _MAX_CHAIN),
        "fix": _fix(error),
    }


def _exited(error: SystemExit, step_file: str) -> dict[str, Any]:
    status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    text = f" Its message: {error.code}" if isinstance(error.code, str) else ""
    return {
        "code": "step_died",
        "name": "SystemExit",
        "message": f"The step ended its own process with exit status {status}.{text}",
        "line": _line(error.__traceback__, step_file),
        "stack": _stack(error, step_file, [], 1),
        "fix": "Return from the step or raise an error; do not end the process.",
    }


def _message(error: BaseException) -> str:
    try:
        if isinstance(error, SyntaxError):
            return str(error.msg)
        return str(error)
    except Exception:
        return "(the message of the error cannot be read)"


def _fix(error: BaseException) -> str:
    if what := _newer_feature(error):
        running, platform = (".".join(map(str, version[:2])) for version in (sys.version_info, _PLATFORM_VERSION))
        return (
            f"{what} Pipedream runs Python {platform}, and this step runs with the Python {running} of pdkernel. Install "
            f"pdkernel with Python {platform} or newer, for example in an environment of `uv venv --python {platform}`."
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"Name the package that provides the module, at the top of the step: # pipedream add-package {package}"
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
        return PLAIN_CELLS_HINT
    return str(getattr(error, "pdkernel_fix", ""))


def _newer_feature(error: BaseException) -> str:
    """Return a sentence about what *error* needs a newer Python for; empty if it does not, or this Python is new enough."""
    if sys.version_info >= _PLATFORM_VERSION:
        return ""
    import re

    if isinstance(error, SyntaxError):
        text, message = error.text or "", str(error.msg)
        if re.match(_NEW_SYNTAX, text):
            return "Type parameters and `type` statements are syntax of Python 3.12."
        if message.startswith("f-string") or (
            message.startswith("unterminated") and re.search(r"\bf[\"'][^\"']*\{", text)
        ):
            return "Python 3.12 accepts quotes, backslashes, comments and line breaks in the braces of an f-string."
        return ""
    if isinstance(error, AttributeError):
        owner = error.obj if isinstance(error.obj, ModuleType | type) else type(error.obj)
        module, name = getattr(owner, "__module__", None) or owner.__name__, error.name
    elif isinstance(error, ImportError):
        found = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", _message(error))
        name, module = found.groups() if found else (None, "")
    else:
        found = re.search(
            r"unexpected keyword argument '(\w+)'|'(\w+)' is an invalid keyword argument", _message(error)
        )
        is_new = isinstance(error, TypeError) and found is not None and not _NEW_ARGUMENTS.isdisjoint(found.groups())
        return f"The argument `{found[1] or found[2]}` is new in Python 3.12." if found and is_new else ""
    if name in _NEW_NAMES.split() and module.partition(".")[0] in sys.stdlib_module_names:
        return f"`{name}` of `{module}` is new in Python 3.12."
    return ""


def _line(trace: TracebackType | None, step_file: str) -> int | None:
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == step_file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _stack(error: BaseException, step_file: str, hidden: list[str], chain: int) -> str:
    lines: list[str] = []
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None and chain > 1:
        link = "was the cause of" if error.__cause__ else "was being handled at the time of"
        lines += [_stack(earlier, step_file, hidden, chain - 1), "", f"which {link}:", ""]
    frames = []
    trace = error.__traceback__
    while trace is not None:
        if _is_users(trace.tb_frame.f_code.co_filename, step_file):
            frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    for index, (frame, line) in enumerate(frames):
        if index < _OUTER_FRAMES or index >= len(frames) - _INNER_FRAMES:
            lines += _frame(frame, line, hidden)
        elif index == _OUTER_FRAMES:
            lines.append(f"  ... {len(frames) - _OUTER_FRAMES - _INNER_FRAMES} more of your frames ...")
    if hasattr(error, "pdkernel_code"):  # an error of pdkernel: omit its module
        lines.append(f"{type(error).__name__}: {error}")
    else:
        lines += [line.rstrip("\n") for line in traceback.format_exception_only(type(error), error)]
    return "\n".join(lines)


def _is_users(filename: str, step_file: str) -> bool:
    if filename == step_file:
        return True
    is_library = filename.startswith(_LIBRARY) or f"{os.sep}site-packages{os.sep}" in filename
    return os.path.isabs(filename) and not is_library  # noqa: PTH117


def _frame(frame: FrameType, line: int, hidden: list[str]) -> list[str]:
    code = frame.f_code
    lines = [f'  File "{code.co_filename}", line {line}, in {code.co_name}']
    if source := linecache.getline(code.co_filename, line).strip():
        lines.append(f"    {source}")
    shown = [(name, value) for name, value in frame.f_locals.items() if _is_data(name, value)]
    lines += [f"      {name} = {_text(value, hidden)}" for name, value in shown[:_MAX_LOCALS]]
    if len(shown) > _MAX_LOCALS:
        lines.append(f"      ... and {len(shown) - _MAX_LOCALS} more")
    return lines


def _is_data(name: str, value: Any) -> bool:
    if name.startswith("__") or isinstance(value, ModuleType | FunctionType | type):
        return False
    return not hasattr(type(value), "pdkernel_hidden")


def _text(value: Any, hidden: list[str]) -> str:
    try:
        text = _REPR.repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    for secret in hidden:
        text = text.replace(secret, "***")
    text = " ".join(text.split("\n"))
    shown = text.partition(_CUT)[0][:_LOCAL_LENGTH]
    if shown == text:
        return text
    return shown[: len(shown) - _part_of_secret(shown, hidden)] + _SHORTENED


def _part_of_secret(text: str, hidden: list[str]) -> int:
    """Return the number of characters at the end of *text* that are the beginning of a secret."""
    lengths = ((length, secret) for secret in hidden for length in range(1, min(len(secret), len(text) + 1)))
    return max((length for length, secret in lengths if text.endswith(secret[:length])), default=0)
