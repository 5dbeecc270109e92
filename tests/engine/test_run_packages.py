"""Runs that keep the packages with which they began, whatever the project's lock files say later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.actions.npm_source import LOCK_NAME
from pdkernel.common.clock import ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.run_packages import PackageLock, PackageLocks, PreparedPackages
from pdkernel.engine.run_request import RunRequest, RunWatcher
from pdkernel.engine.step_actions import StepActions
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import (
    ActionNotFoundError,
    ActionSourceError,
    InterpreterMissingError,
    LicenceError,
    PackageInstallError,
    PackageMissingError,
    PdkernelError,
    ProjectError,
)
from pdkernel.execution import Execution
from pdkernel.journal import StoredLock, WaitKey
from pdkernel.model import Step, Workflow
from pdkernel.operations.run_replay import prepare_fork, prepare_replay, start_replay
from pdkernel.packages import NPM_LOCK_NAME, PYTHON_LOCK_NAME, LockBlock, LockedSet, NpmTree, PythonEnvironment
from pdkernel.storage import Project
from pdkernel.workers import GO_LOCK_NAME, GoLock
from tests.actions.registry_server import PackageServer, archive, depot, serving
from tests.actions.test_catalog import PACKAGE
from tests.builders import Gate, a_step, a_workflow, an_event, go_step, node_step, python_step
from tests.npm_registry import NpmRegistry, npm_registry
from tests.wheels import WheelFolder
from tests.workers.test_go_build import MODULE, proxy_with


@dataclass
class Shelf:
    """A registry of each language with the package `tiny`, whose value is its version."""

    wheels: WheelFolder
    npm: NpmRegistry
    home: Path

    def publish(self, version: str) -> None:
        """Add a version."""
        self.wheels.publish("tiny", version)
        self.npm.publish("tiny", version)

    def withdraw(self) -> None:
        """Remove all versions, and what npm has kept of them."""
        for wheel in self.wheels.folder.glob("*.whl"):
            wheel.unlink()
        shutil.rmtree(self.home, ignore_errors=True)
        self.npm.status = 404

    def environ(self) -> dict[str, str]:
        """The environment of pip and npm, without a cache that outlives the registry."""
        pip = {name: value for name, value in self.wheels.environ().items() if name.startswith("PIP_")}
        return {**self.npm.environ(self.home), **pip, "PIP_NO_CACHE_DIR": "1"}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Registries with version 1.0.0."""
    with npm_registry() as npm:
        shelf = Shelf(WheelFolder(tmp_path / "wheels"), npm, tmp_path / "home")
        shelf.publish("1.0.0")
        yield shelf


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the engine."""
    return ManualClock()


@dataclass
class Host:
    """A server's engine on the project in a folder."""

    folder: Path
    project: Project
    engine: WorkflowEngine

    async def start(self, *what: Workflow | Step, hands_over: bool = False, **choices: Any) -> Execution:
        """Run a workflow, or steps, as a served run until its end or its first pause."""
        workflow = what[0] if isinstance(what[0], Workflow) else a_workflow(*(s for s in what if isinstance(s, Step)))
        request = RunRequest(
            workflow,
            an_event(),
            parse_policy("deny"),
            folder=self.folder,
            pause_mode="park",
            source="work.ipynb",
            **choices,
        )
        return await self.engine.run(request, RunWatcher(hands_over=lambda: hands_over))

    async def go_on(self) -> list[Execution]:
        """Continue the ready runs of the journal."""
        await self.engine.journal.wake_due()
        return [await self.engine.continue_run(claimed) for claimed in await self.engine.journal.claim_next(limit=99)]

    async def resume(self, *runs: Execution) -> list[Execution]:
        """Resume the step `ask` of *runs*, and continue them."""
        for run in runs:
            assert await self.engine.resolve_wait(WaitKey(run.id, "ask"), "resume", {"approved": True}) == "done"
        return await self.go_on()

    def forget_locks(self) -> None:
        """Delete the lock files, so that the next run takes the newest packages."""
        for name in (NPM_LOCK_NAME, PYTHON_LOCK_NAME):
            (self.folder / name).unlink(missing_ok=True)

    def remove_packages(self) -> None:
        """Delete what is installed."""
        shutil.rmtree(self.project.folder / "packages")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of *query* in the database."""
        assert self.project.sqlite_path is not None
        with closing(sqlite3.connect(self.project.sqlite_path)) as connection:
            return connection.execute(query).fetchall()


@contextlib.asynccontextmanager
async def host_on(folder: Path, environ: dict[str, str], clock: ManualClock) -> AsyncIterator[Host]:
    """A server on the project in *folder*, until the block ends."""
    folder.mkdir(exist_ok=True)
    with contextlib.closing(Project.open(folder / ".pdkernel")) as project:
        async with await WorkflowEngine.start(
            project, LocalDirectory(project), environ=environ, origin="serve", clock=clock
        ) as engine:
            yield Host(folder, project, engine)


@pytest.fixture
async def host(tmp_path: Path, shelf: Shelf, clock: ManualClock) -> AsyncIterator[Host]:
    """A server that installs from the registries."""
    async with host_on(tmp_path / "ours", shelf.environ(), clock) as host:
        yield host


ASK = python_step("ask", "pd.flow.suspend(60000)")
PYTHON = a_step("%%pdstep py\nimport tiny\ndef handler(pd):\n    return tiny.VERSION\n")
NODE = a_step("%%pdstep js --lang node\nimport tiny from 'tiny';\nexport default { run() { return tiny } }\n")
BOTH = (ASK, PYTHON, NODE)


def versions(execution: Execution) -> list[Any]:
    """The versions of `tiny` that the steps of *execution* have used."""
    assert execution.status == "success", execution.error
    return [step.return_value for step in execution.steps if step.name in ("py", "js")]


async def test_a_paused_run_goes_on_with_its_packages(host: Host, shelf: Shelf) -> None:
    """Other lock files change the packages of new runs, and not those of a paused run, which does not change the files."""
    paused = await host.start(*BOTH)
    shelf.publish("2.0.0")
    host.forget_locks()
    new = await host.start(*BOTH[1:])
    locks = [(host.folder / name).read_bytes() for name in (NPM_LOCK_NAME, PYTHON_LOCK_NAME)]

    (execution,) = await host.resume(paused)

    assert (versions(execution), versions(new)) == (["1.0.0", "1.0.0"], ["2.0.0", "2.0.0"])
    assert [(host.folder / name).read_bytes() for name in (NPM_LOCK_NAME, PYTHON_LOCK_NAME)] == locks


async def test_removed_packages_are_installed_again(host: Host, shelf: Shelf) -> None:
    """Packages that are not installed any more are installed as they were; a damaged lock file does not matter."""
    paused = await host.start(ASK, NODE)
    shelf.publish("2.0.0")
    host.remove_packages()
    (host.folder / NPM_LOCK_NAME).write_text("<<<<<<< HEAD\n")

    (execution,) = await host.resume(paused)

    assert versions(execution) == ["1.0.0"]
    assert (host.folder / NPM_LOCK_NAME).read_text() == "<<<<<<< HEAD\n"


async def test_another_host_installs_the_packages_of_a_run(tmp_path: Path, shelf: Shelf, clock: ManualClock) -> None:
    """A host that has the database, and has never seen the workflow or its lock files, goes on with the same packages."""
    async with host_on(tmp_path / "ours", shelf.environ(), clock) as ours:
        paused = await ours.start(*BOTH)
    shelf.publish("2.0.0")
    ignored = shutil.ignore_patterns("packages", "cache", "executors-*")
    shutil.copytree(ours.project.folder, tmp_path / "theirs" / ".pdkernel", ignore=ignored)

    async with host_on(tmp_path / "theirs", shelf.environ(), clock) as theirs:
        (execution,) = await theirs.resume(paused)

    assert versions(execution) == ["1.0.0", "1.0.0"]
    assert not (tmp_path / "theirs" / PYTHON_LOCK_NAME).exists()


async def test_an_interrupted_run_goes_on_with_its_packages(host: Host, shelf: Shelf, tmp_path: Path) -> None:
    """A run whose process ends during its first step keeps the packages with which the step began."""
    gate = Gate(tmp_path)
    steps = (python_step("hold", gate.code), NODE)
    task = asyncio.ensure_future(host.start(*steps, hands_over=True))
    await gate.wait_until_reached()
    task.cancel()
    await task
    shelf.publish("2.0.0")
    host.forget_locks()
    gate.open()

    (execution,) = await host.go_on()

    assert versions(execution) == ["1.0.0"]


async def test_packages_are_stored_once(host: Host) -> None:
    """Runs with the same packages share a row, which a warm run names in its first row: it costs no further commit."""
    await host.start(NODE)
    commits = []
    for step in (NODE, node_step("js")):
        await host.start(step)
        before = host.engine.journal.commits
        await host.start(step)
        commits.append(host.engine.journal.commits - before)

    assert host.rows("select count(*), count(package_lock), count(distinct package_lock) from runs") == [(5, 3, 1)]
    assert host.rows("select count(*) from package_locks") == [(1,)]
    assert commits[0] == commits[1]


async def test_runs_before_and_after_a_change_keep_their_own(host: Host, shelf: Shelf) -> None:
    """A run that finds other packages than the run of its workflow before it keeps those that it has found."""
    before = await host.start(ASK, NODE)
    shelf.publish("2.0.0")
    host.forget_locks()
    after = await host.start(ASK, NODE)
    shelf.publish("3.0.0")
    host.forget_locks()

    executions = {execution.id: versions(execution) for execution in await host.resume(before, after)}

    assert executions == {before.id: ["1.0.0"], after.id: ["2.0.0"]}


async def test_a_go_step_keeps_its_modules(tmp_path: Path, clock: ManualClock, go_cache: Path) -> None:
    """A Go step after a pause is compiled with the modules with which the run began."""
    cache = tmp_path / "ours" / ".pdkernel" / "cache"
    cache.mkdir(parents=True, mode=0o700)
    (cache / "go").symlink_to(go_cache)
    proxy = proxy_with(tmp_path / "proxy", MODULE, "v1.0.0", 'package words\n\nconst Word = "one"\n')
    step = go_step("words", 'pd.Export("word", words.Word)', MODULE)
    environ = {**os.environ, "GOPROXY": proxy, "GONOSUMDB": "*", "GOFLAGS": ""}
    async with host_on(tmp_path / "ours", environ, clock) as host:
        paused = await host.start(ASK, step)
        proxy_with(tmp_path / "proxy", MODULE, "v1.1.0", 'package words\n\nconst Word = "two"\n')
        (host.folder / GO_LOCK_NAME).unlink()
        new = await host.start(step)
        (execution,) = await host.resume(paused)

    assert [run.step("words").exports.get("word") for run in (execution, new)] == ["one", "two"], execution.error


# ── packages that cannot be installed again ──────────────────────────────────────────────────────────────────────────


async def test_packages_that_are_gone_fail_their_step(host: Host, shelf: Shelf) -> None:
    """The run fails with the package and the command; a fork continues it with its packages once they are there again."""
    paused = await host.start(ASK, PYTHON)
    host.remove_packages()
    shelf.withdraw()

    (failed,) = await host.resume(paused)
    shelf.publish("1.0.0")
    shelf.publish("2.0.0")
    host.forget_locks()
    await start_replay(host.engine, await prepare_fork(host.engine, failed.id, "py"))
    (continued,) = await host.go_on()

    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.error.step) == ("error", "package_install", "py")
    assert failed.error.message == (
        "The registry has no package tiny, which `import tiny` requires. The run keeps the packages with which it began.\n"
        f"To continue the run when its packages can be installed: pdkernel runs fork {failed.id} --from py --send\n"
        f"To continue it with the packages of today: pdkernel runs fork {failed.id} --from py --send work.ipynb"
    )
    assert failed.step("ask").exports["$resume_data"] == {"approved": True}
    assert versions(continued) == ["1.0.0"]


async def test_a_replay_takes_the_packages_of_today(host: Host, shelf: Shelf) -> None:
    """A replay is a new run: it does not keep the packages of its original."""
    original = await host.start(NODE)
    shelf.publish("2.0.0")
    host.forget_locks()

    await start_replay(host.engine, await prepare_replay(host.engine, original.id))
    (replayed,) = await host.go_on()

    assert (versions(original), versions(replayed)) == (["1.0.0"], ["2.0.0"])


async def test_packages_that_must_not_be_installed_fail_their_step(host: Host) -> None:
    """A run that must not install anything names the missing packages of each step, and keeps the approval."""
    await host.start(*BOTH)
    paused = [await host.start(*steps, install=False) for steps in (BOTH, (ASK, NODE))]
    host.remove_packages()

    failed = await host.resume(*paused)

    assert {run.error.step for run in failed if run.error} == {"py", "js"}
    for run in failed:
        assert run.error is not None
        assert run.error.message.startswith("The package tiny is not installed, and nothing was to be installed.")
        assert run.step("ask").status == "success"


async def test_packages_that_are_gone_are_tried_again(host: Host, shelf: Shelf, clock: ManualClock) -> None:
    """With auto-retry, a run whose packages cannot be installed waits, and goes on when they can."""
    paused = await host.start(a_workflow(ASK, NODE, auto_retry=True))
    host.remove_packages()
    shelf.withdraw()

    (waiting,) = await host.resume(paused)
    shelf.npm.status = 200
    clock.advance(3600)
    (execution,) = await host.go_on()

    assert (waiting.status, waiting.error) == ("paused", None)
    assert versions(execution) == ["1.0.0"]


async def test_a_step_without_its_packages_has_not_begun(
    host: Host, shelf: Shelf, clock: ManualClock, tmp_path: Path
) -> None:
    """If an interrupted step waits for its packages, its next attempt is the second one of its first run."""
    gate = Gate(tmp_path)
    held = a_step(
        f"%%pdstep py\nimport tiny\ndef handler(pd):\n    attempt = pd.context.get('attempt')\n    if attempt is None:\n"
        f"        {gate.code}\n    return [attempt, pd.context['run']['runs']]\n"
    )
    running = asyncio.ensure_future(host.start(a_workflow(held, auto_retry=True), hands_over=True))
    await gate.wait_until_reached()
    running.cancel()
    await running
    host.remove_packages()
    shelf.withdraw()
    await host.go_on()
    shelf.publish("1.0.0")
    clock.advance(3600)

    (execution,) = await host.go_on()

    assert execution.step("py").return_value == [2, 1]
    assert execution.step("py").attempt == 2


async def test_a_package_that_was_missing_at_the_start_is_added(host: Host, shelf: Shelf) -> None:
    """A step whose package could not be installed gets the package later; the others keep theirs."""
    late = a_step("%%pdstep late\nimport late\ndef handler(pd):\n    return late.VERSION\n")
    paused = await host.start(ASK, PYTHON, late)
    shelf.publish("2.0.0")
    shelf.wheels.publish("late", "5.0")
    host.forget_locks()

    (execution,) = await host.resume(paused)
    keys = host.rows("select count(*) from package_locks")

    assert versions(execution) == ["1.0.0"]
    assert execution.step("late").return_value == "5.0"
    assert keys == [(2,)]


async def test_an_unreadable_record_of_packages_ends_the_run(host: Host) -> None:
    """A run whose recorded packages are damaged is refused, and does not take others."""
    paused = await host.start(ASK, NODE)
    assert host.project.sqlite_path is not None
    with closing(sqlite3.connect(host.project.sqlite_path)) as connection, connection:
        connection.execute("update package_locks set content = '{'")

    (execution,) = await host.resume(paused)

    assert execution.error is not None
    assert "The packages of the run cannot be read" in execution.error.message
    with pytest.raises(ProjectError):
        PackageLock.decode(StoredLock("", '{"workflow":"Test","node":{"js":"nowhere"}}'))


# ── pre-built actions ────────────────────────────────────────────────────────────────────────────────────────────────

PUT = a_step("%%pdstep put --uses depot-put-thing@0.1.2\nshelf: s1\nthing: box\n")


@pytest.fixture
def actions() -> Iterator[PackageServer]:
    """A registry with one version of a package of actions."""
    with serving({PACKAGE: {"0.10.0": archive(PACKAGE, "0.10.0", depot("0.1.2"))}}) as server:
        yield server


@pytest.fixture
async def action_host(tmp_path: Path, actions: PackageServer, clock: ManualClock) -> AsyncIterator[Host]:
    """A server whose actions come from that registry."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "npm_config_registry": actions.url}
    async with host_on(tmp_path / "ours", environ, clock) as host:
        LocalDirectory(host.project).add_account(
            external_user_id="ada", app="depot", credentials={"api_key": "key-0123456789"}
        )
        host.engine.catalog.settings.accept_licence()
        host.engine.catalog.settings.set_sources(["npm"], base=tmp_path)
        yield host


async def test_a_continued_run_has_the_same_action(action_host: Host, actions: PackageServer) -> None:
    """An action runs from the package with which the run began, also if a newer one has the same version of the action."""
    host = action_host
    paused = await host.start(ASK, PUT, external_user_id="ada")
    packages = {**actions.packages[PACKAGE], "0.11.0": archive(PACKAGE, "0.11.0", depot("0.1.2"))}
    actions.packages = {PACKAGE: packages}
    host.remove_packages()
    (host.folder / LOCK_NAME).write_text("<<<<<<< HEAD\n")

    (execution,) = await host.resume(paused)

    assert execution.status == "success", execution.error
    assert execution.step("put").source == f"npm {PACKAGE} 0.10.0"
    assert host.rows("select count(*) from package_locks") == [(1,)]


async def test_a_new_run_keeps_the_action_of_its_own_start(action_host: Host, actions: PackageServer) -> None:
    """If the lock file names another package of an action, a new run keeps that package, and an earlier run its own."""
    host = action_host
    before = await host.start(ASK, PUT, external_user_id="ada")
    actions.packages = {PACKAGE: {**actions.packages[PACKAGE], "0.11.0": archive(PACKAGE, "0.11.0", depot("0.1.2"))}}
    lock = host.folder / LOCK_NAME
    lock.write_text(lock.read_text().replace('@0.1.2": "0.10.0"', '@0.1.2": "0.11.0"'))
    after = await host.start(ASK, PUT, external_user_id="ada")

    executions = await host.resume(before, after)

    assert {each.id: each.step("put").source for each in executions} == {
        before.id: f"npm {PACKAGE} 0.10.0",
        after.id: f"npm {PACKAGE} 0.11.0",
    }


async def test_an_action_that_is_gone_fails_its_step(action_host: Host, actions: PackageServer) -> None:
    """The approved step is recorded, and the error names the package and the command that continues the run."""
    host = action_host
    paused = await host.start(ASK, PUT, external_user_id="ada")
    host.remove_packages()
    shutil.rmtree(host.folder.parent / ".npm")
    actions.packages = {PACKAGE: {}}

    (failed,) = await host.resume(paused)

    assert failed.error is not None
    assert (failed.error.step, failed.step("ask").status) == ("put", "success")
    assert PACKAGE in failed.error.message
    assert f"pdkernel runs fork {failed.id} --from put --send" in failed.error.message


def test_a_lock_is_that_of_the_installed_packages(tmp_path: Path) -> None:
    """Each change of what is installed for a workflow changes the lock of its next run; the same packages have the same lock."""
    one, two = tmp_path / "one", tmp_path / "two"
    workflow = a_workflow(PYTHON, NODE)
    installed = [
        PreparedPackages(),
        PreparedPackages(python_environment=PythonEnvironment(one, one)),
        *(
            PreparedPackages(python_environment=PythonEnvironment(folder, folder, LockBlock(folder.name, "m", ())))
            for folder in (one, two)
        ),
        *(
            PreparedPackages(node_packages={step: NpmTree(folder, {}, LockedSet({"a": folder.name}, {}))})
            for folder in (one, two)
            for step in ("js", "more")
        ),
        *(PreparedPackages(go_lock=GoLock("mod", text)) for text in ("1", "2")),
    ]
    with Project.open(tmp_path / ".pdkernel") as project:
        request = RunRequest(workflow, an_event(), parse_policy("deny"))
        actions, locks = StepActions(Catalog.for_project(project, environ={}), request), PackageLocks()
        found = [locks.describe(workflow, each, actions, None) for each in installed]
        again = [locks.describe(workflow, each, actions, None) for each in installed]

    assert found[:2] == [None, None]
    assert len({each.hash for each in found[2:] if each}) == len(installed) - 2
    assert again == found
    assert locks.predict(workflow) == found[-1]
    assert locks.predict(a_workflow(PYTHON)) is None


REQUEST = RunRequest(a_workflow(python_step("one")), an_event(), parse_policy("deny"), source="work.ipynb")


def failures() -> dict[str, PdkernelError]:
    """A package that cannot be installed, and an interpreter that is missing."""
    missing = InterpreterMissingError("Node.js is not installed.")
    return {"one": PackageInstallError("There is no package tiny.", package="tiny", line=3), "two": missing}


def test_only_a_run_that_keeps_its_packages_waits_for_them() -> None:
    """A package that a new run cannot install is an error of its step; one with which the run began may come back."""
    new, kept = PreparedPackages(failures=failures()), PreparedPackages(failures=failures(), is_locked=True)

    assert [new.find_temporary_failure(step) for step in ("one", "two", "three")] == [None] * 3
    assert [kept.find_temporary_failure(step) for step in ("one", "two", "three")] == [kept.failures["one"], None, None]


def test_commands_that_continue_a_run() -> None:
    """The failure of a run that keeps its packages names the run, the step and the source in two commands."""
    ready = PreparedPackages(failures=failures())

    ready.explain_lock(replace(REQUEST, run_ids=("run1", "trace")))

    error = ready.find_temporary_failure("one")
    assert error is not None
    assert error.message == "There is no package tiny. The run keeps the packages with which it began."
    assert error.fix == (
        "To continue the run when its packages can be installed: pdkernel runs fork run1 --from one --send\n"
        "To continue it with the packages of today: pdkernel runs fork run1 --from one --send work.ipynb"
    )
    assert (error.package, error.line) == ("tiny", 3)


@pytest.mark.parametrize(
    ("failure", "passes"),
    [
        (InterpreterMissingError("Node.js is not installed.", fix="Install Node.js."), False),
        (PackageMissingError(("tiny",), "pdkernel packages install work.ipynb"), False),
        (ActionNotFoundError("The folder has another version.", fix="Restore the version."), False),
        (LicenceError("The licence is not accepted.", fix="Accept the licence."), False),
        (ActionSourceError("The registry cannot be reached."), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_that_does_not_pass_is_not_waited_for(failure: PdkernelError, passes: bool) -> None:
    """A failure that waiting does not end keeps its kind and its fix, before the commands that continue the run; a registry of actions may answer later."""
    ready, message, fix = PreparedPackages(failures={"one": failure}), failure.message, failure.fix

    ready.explain_lock(replace(REQUEST, run_ids=("run1", "trace")))

    error = ready.find_temporary_failure("one")
    if passes:
        assert error is not None
        assert error.message == f"{message} The run keeps the packages with which it began."
    else:
        assert error is None
        assert ready.failures["one"] is failure
        assert failure.message == message
        assert failure.fix.startswith(
            f"{fix}\nTo continue the run when its packages can be installed: pdkernel runs fork run1"
        )
