"""Blocking work is done in threads, and only through one function."""

from __future__ import annotations

import ast
import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

import pytest

from pdkernel.blocking import run_blocking, run_blocking_in
from tests.one_thread_loop import OneThreadLoop

PACKAGE = Path(__file__).parents[1] / "pdkernel"
THREADS = {
    "ProcessPoolExecutor",
    "Thread",
    "ThreadPoolExecutor",
    "Timer",
    "anyio",
    "run_in_executor",
    "run_in_threadpool",
    "start_new_thread",
    "to_thread",
}
"""Names of other ways into a thread."""
EXCEPTIONS = {
    "blocking.py": "the function itself",
    "connect/oauth.py": "a time limit for a whole response, of a caller that blocks",
    "egress/sandbox/detection.py": "a sandbox concerns a thread, which then ends; its caller blocks",
    "engine/journal/lease.py": "the lease is renewed also while the loop is busy",
    "engine/journal/reader.py": "the one thread of a connection, which `run_blocking_in` uses",
    "engine/journal/writer.py": "the one thread of a connection, which `run_blocking_in` uses",
    "loop_thread.py": "the thread that runs a loop",
    "magics/output.py": "draws in a notebook, whose loop is the kernel's",
    "packages/bytecode.py": "compiles in processes, in a process of its own",
    "packages/python_environments.py": "compiles after an installation, and nobody waits",
    "runtimes/python/step_runner.py": "runs in a worker, where no loop serves others",
    "session/connect_links.py": "a notebook's timers and polls, whose loop is the kernel's",
    "session/state_store.py": "writes of a notebook, which the exit of the interpreter waits for",
    "widgets/account_forms.py": "a timer in a notebook, whose loop is the kernel's",
    "widgets/background_run.py": "a run beside a notebook's cells, whose loop is the kernel's",
    "widgets/link_button.py": "a timer in a notebook, whose loop is the kernel's",
    "workers/worker_command.py": "writes a cache of code, and nobody waits",
}
"""Modules that start threads otherwise, and why."""


def test_nothing_else_in_the_package_uses_threads() -> None:
    """Each module that names another way into a thread is listed with its reason, and each listed module does so."""
    found = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if _names(file) & THREADS}

    assert found == EXCEPTIONS.keys()


def _names(file: Path) -> set[str]:
    """Every name, attribute and imported name in *file*."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                names.add(name)
            case ast.Import(names=imported):
                names |= {part for each in imported for part in each.name.split(".")}
            case ast.ImportFrom(module=module, names=imported):
                names |= {*(module or "").split("."), *(each.name for each in imported)}
    return names


async def test_a_call_runs_in_another_thread_with_the_callers_context() -> None:
    """The function sees the context variables of its caller, and its changes of them stay its own."""
    variable = ContextVar("variable", default="")
    variable.set("caller")

    def call(*, suffix: str) -> tuple[str, int]:
        seen = variable.get() + suffix
        variable.set("callee")
        return seen, threading.get_ident()

    seen, thread = await run_blocking(call, suffix="!")

    assert seen == "caller!"
    assert thread != threading.get_ident()
    assert variable.get() == "caller"


async def test_an_error_of_the_function_reaches_its_caller() -> None:
    """The exception that the function raises is raised where its result is awaited."""

    def fail() -> None:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        await run_blocking(fail)


async def test_a_call_can_be_bound_to_one_thread() -> None:
    """All calls with the same executor run in its threads."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        first, second = [await run_blocking_in(thread, threading.get_ident) for _ in range(2)]

    assert first == second != threading.get_ident()


def test_the_loop_decides_when_the_function_runs() -> None:
    """A loop that replaces `run_in_executor` receives every call, and needs no thread."""

    async def call() -> int:
        return await run_blocking(threading.get_ident)

    with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        assert runner.run(call()) == threading.get_ident()
