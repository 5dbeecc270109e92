"""Blocking work is done in threads, and only through one function."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import pytest

from pdkernel.common.blocking import (
    FORBID_VARIABLE,
    MAX_THREADS,
    BlockingCallError,
    await_outcome,
    permit_blocking,
    run_blocking,
    run_blocking_in,
)
from pdkernel.journal import SqliteBackend
from pdkernel.journal.postgres import PostgresBackend
from pdkernel.server.uvicorn_server import new_event_loop
from pdkernel.storage import Project
from pdkernel.storage.sqlite import connect
from tests.one_thread_loop import OneThreadLoop

PACKAGE = Path(__file__).parents[2] / "pdkernel"
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
    "common/blocking.py": "the function itself",
    "accounts/oauth.py": "a time limit for a whole response, of a caller that blocks",
    "accounts/remote.py": "a few requests at once, of a caller that blocks",
    "egress/sandbox.py": "a sandbox concerns a thread, which then ends; its caller blocks",
    "journal/lease.py": "the lease is renewed also while the loop is busy",
    "journal/reader.py": "the one thread of a connection, which `run_blocking_in` uses",
    "journal/writer.py": "the one thread of a connection, which `run_blocking_in` uses",
    "common/loop_thread.py": "the thread that runs a loop",
    "kit/magics/output.py": "draws in a notebook, whose loop is the kernel's",
    "packages/bytecode.py": "compiles in processes, in a process of its own",
    "packages/python_environments.py": "compiles after an installation, and no caller waits",
    "runtimes/python/step_runner.py": "runs in a worker, where no loop serves others",
    "server/database_probe.py": "its one thread, which `run_blocking_in` uses: those for requests may all wait for the database",
    "kit/session/connect_links.py": "a notebook's timers and polls, whose loop is the kernel's",
    "kit/session/state.py": "writes of a notebook, which the exit of the interpreter waits for",
    "kit/widgets/account_forms.py": "a timer in a notebook, whose loop is the kernel's",
    "kit/widgets/form.py": "a run beside a notebook's cells, whose loop is the kernel's",
    "kit/widgets/buttons.py": "a timer in a notebook, whose loop is the kernel's",
    "workers/interpreters.py": "writes a cache of code, and no caller waits",
}
"""Modules that start threads otherwise, and why."""


def test_nothing_else_in_the_package_uses_threads() -> None:
    """Each module that names another way into a thread is listed with its reason, and each listed module does so."""
    named = re.compile("|".join(THREADS))
    sources = {file: file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
    found = {
        str(file.relative_to(PACKAGE))
        for file, source in sources.items()
        if named.search(source) and _names(source) & THREADS  # the search takes less time than a syntax tree
    }

    assert found == EXCEPTIONS.keys()


def _names(source: str) -> set[str]:
    """Every name, attribute and imported name in *source*."""
    names = set()
    for node in ast.walk(ast.parse(source)):
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


def test_the_calls_of_a_server_do_not_wait_for_one_another() -> None:
    """On a server's loop, as many calls as it has threads are in progress at once."""
    together = threading.Barrier(MAX_THREADS)

    async def call() -> int:
        return len(await asyncio.gather(*(run_blocking(together.wait, 30) for _ in range(MAX_THREADS))))

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(call()) == MAX_THREADS


def test_the_loop_decides_when_the_function_runs() -> None:
    """A loop that replaces `run_in_executor` receives every call, and needs no thread."""

    async def call() -> int:
        return await run_blocking(threading.get_ident)

    with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        assert runner.run(call()) == threading.get_ident()


def test_a_thread_that_cannot_be_started_fails_the_future() -> None:
    """A caller that gets the future gets the error from it, as it gets those of the function, and the next call is made."""

    async def call(loop: OneThreadLoop) -> int:
        loop.refusals = 1
        refused = run_blocking(threading.get_ident)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await refused
        return await run_blocking(threading.get_ident)

    with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, OneThreadLoop)
        assert runner.run(call(loop)) == threading.get_ident()


def in_package(call: Callable[[], object], *, module: str = "pdkernel.server.example") -> Callable[[], Any]:
    """A coroutine function of a module of the package, which calls *call* on its event loop."""
    names: dict[str, Any] = {"__name__": module, "call": call}
    exec("async def handler():\n    return call()", names)
    return cast("Callable[[], Any]", names["handler"])


async def test_a_call_of_the_database_on_the_loop_raises(project: Project) -> None:
    """The error names the coroutine that stops its loop, and the statement, without values."""
    handler = in_package(lambda: project.variables.values())

    with pytest.raises(BlockingCallError, match=r"pdkernel\.server\.example\.handler blocks .*SELECT .*run_blocking"):
        await handler()


async def test_every_way_to_the_database_is_checked(project: Project, tmp_path: Path) -> None:
    """Writes, new connections and the journal's own connections raise as well."""
    assert project.sqlite_path is not None
    snapshots = SqliteBackend(project.sqlite_path).open_snapshots()

    for call in (
        lambda: project.variables.set("NAME", "value"),
        lambda: snapshots.read(lambda _: None),
        lambda: connect(tmp_path / "other.db"),
    ):
        with pytest.raises(BlockingCallError):
            await in_package(call)()
    snapshots.close()


async def test_a_callback_of_the_loop_is_checked(project: Project) -> None:
    """A callback without a coroutine raises in the loop."""
    faults: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context.get("exception")))
    names: dict[str, Any] = {"__name__": "pdkernel.server.example", "call": project.variables.values}
    exec("def callback():\n    call()", names)

    loop.call_soon(names["callback"])
    await asyncio.sleep(0)

    assert [type(fault) for fault in faults] == [BlockingCallError]


@pytest.mark.parametrize("module", ["pdkernel.kit.session.example", "pdkernel.cli.example", "somebody.else"])
async def test_a_loop_without_other_clients_is_not_checked(project: Project, module: str) -> None:
    """A command, a notebook's cell and other programs may wait for the database."""
    assert await in_package(project.variables.values, module=module)() == {}


def test_the_way_into_a_thread_permits_the_call_also_on_a_loop_without_threads(project: Project) -> None:
    """A loop that runs blocking work itself is not stopped by the check, but its coroutines are."""
    handler = in_package(project.variables.values)

    async def call() -> object:
        with pytest.raises(BlockingCallError):
            await handler()
        return await run_blocking(project.variables.values)

    with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        assert runner.run(call()) == {}


async def test_a_deliberate_call_is_permitted(project: Project) -> None:
    """Code that was measured may block the loop, and only that code."""

    def call() -> object:
        with permit_blocking():
            return project.variables.values()

    assert await in_package(call)() == {}
    with pytest.raises(BlockingCallError):
        await in_package(project.variables.values)()


async def test_the_calls_of_a_database_on_a_server_are_checked(postgres_url: str, tmp_path: Path) -> None:
    """On PostgreSQL, the project's tables and the journal's connections raise."""
    with Project.open(tmp_path / ".pdkernel", database_url=postgres_url) as project:
        backend = PostgresBackend(project)
        with contextlib.closing(backend.connect()) as connection:
            for call in (project.variables.values, backend.connect, lambda: connection.execute("select 1")):
                with pytest.raises(BlockingCallError):
                    await in_package(call)()


def test_the_check_is_off_by_default(tmp_path: Path) -> None:
    """Without the variable, a process calls its database as it likes."""
    code = "import pdkernel.common.blocking; print(pdkernel.common.blocking.IS_BLOCKING_FORBIDDEN)"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent)}

    printed = [
        subprocess.run(
            [sys.executable, "-c", code], env=environ | more, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout.strip()
        for more in ({}, {FORBID_VARIABLE: "1"})
    ]

    assert printed == ["False", "True"]


async def test_a_cancelled_caller_learns_what_a_thread_has_done() -> None:
    """The result of work that nothing interrupts is returned after it, although the caller was cancelled meanwhile."""
    gate = threading.Event()
    task = asyncio.create_task(await_outcome(run_blocking(gate.wait)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    was_done = task.done()
    gate.set()

    assert await task
    assert not was_done
