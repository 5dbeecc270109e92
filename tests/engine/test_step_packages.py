"""Runs with steps that import packages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.engine.step_packages import StepPackages, step_access
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.model import Step
from pdkernel.packages import NPM_LOCK_NAME
from pdkernel.storage import Project
from tests.builders import a_step, a_workflow, an_event, python_step
from tests.engine.conftest import Run
from tests.npm_registry import NpmRegistry, npm_registry


@pytest.fixture
def registry() -> Iterator[NpmRegistry]:
    """An empty registry."""
    with npm_registry() as running:
        yield running


@pytest.fixture
async def runtime(
    project: Project, directory: LocalDirectory, registry: NpmRegistry, tmp_path: Path
) -> AsyncIterator[WorkflowEngine]:
    """An engine that installs from the registry."""
    async with await WorkflowEngine.start(project, directory, environ=registry.environ(tmp_path / "home")) as started:
        yield started


def importing(*specifiers: str, name: str = "code") -> Step:
    """A Node.js step that returns the default exports of *specifiers*."""
    lines = "".join(f"import x{number} from '{each}';\n" for number, each in enumerate(specifiers))
    values = ", ".join(f"x{number}" for number in range(len(specifiers)))
    return a_step(f"%%pdstep {name} --lang node\n{lines}export default {{ run() {{ return [{values}] }} }}\n")


def logged(execution: Execution, step: str) -> str:
    """Return the log of *step*."""
    return "".join(log.text for log in execution.step(step).logs)


async def test_packages_are_installed_for_the_first_run(run: Run, registry: NpmRegistry, tmp_path: Path) -> None:
    """The step's log names the installed packages once; the lock file is beside the project's folder."""
    registry.publish("tiny", "1.0.0")
    step = importing("tiny")

    first, second = await run(step), await run(step)

    assert [each.step("code").return_value for each in (first, second)] == [["1.0.0"]] * 2
    assert logged(first, "code").startswith("[pdkernel] installed tiny@1.0.0 in ")
    assert logged(second, "code") == ""
    assert (tmp_path / NPM_LOCK_NAME).is_file()


async def test_two_versions_in_one_workflow(run: Run, registry: NpmRegistry) -> None:
    """Two versions of a package work in two steps and in one step."""
    for version in ("1.0.0", "2.0.0"):
        registry.publish("tiny", version)

    execution = await run(
        importing("tiny@1.0.0", name="one"),
        importing("tiny", name="two"),
        importing("tiny@^1", "tiny@2.0.0", name="both"),
    )

    assert execution.status == "success", execution.error
    values = [execution.step(name).return_value for name in ("one", "two", "both")]
    assert values == [["1.0.0"], ["2.0.0"], ["1.0.0", "2.0.0"]]


async def test_package_that_cannot_be_installed_fails_its_step(run: Run, registry: NpmRegistry) -> None:
    """A package that cannot be installed fails its step at the cell's line; the steps above it run."""
    registry.publish("tiny", "1.0.0")

    execution = await run(python_step("above"), importing("tiny", "nowhere@^2", name="code"), python_step("below"))

    assert [step.status for step in execution.steps] == ["success", "error", "skipped"]
    error = execution.error
    assert error is not None
    assert (error.code, error.step, error.line) == ("package_install", "code", 3)
    assert error.message.startswith("There is no npm package nowhere.")


async def test_each_step_has_its_own_packages(run: Run, registry: NpmRegistry) -> None:
    """A package of another step does not affect a step."""
    registry.publish("tiny", "1.0.0")

    execution = await run(importing("tiny", name="one"), importing("tiny", "nowhere", name="two"))

    assert [step.status for step in execution.steps] == ["success", "error"]


async def test_no_install_refuses_before_any_step(run: Run, registry: NpmRegistry) -> None:
    """Without permission to install, the run is refused with every missing package and the command."""
    registry.publish("here", "1.0.0")
    await run(importing("here"))

    execution = await run(
        python_step("above"),
        importing("here", name="one"),
        importing("gone", "other@1", name="two"),
        install=False,
        source="work.ipynb",
    )

    assert [step.status for step in execution.steps] == ["not_run"] * 3
    error = execution.error
    assert error is not None
    assert error.code == "package_missing"
    assert error.message == (
        "The packages gone, other@1 are not installed, and nothing was to be installed.\n"
        "Install them: pdkernel packages install work.ipynb"
    )


async def test_only_executed_steps_need_packages(run: Run, registry: NpmRegistry) -> None:
    """Pinned, disabled and unselected steps need no packages."""
    disabled = a_step("%%pdstep three --lang node --disabled\nimport 'nowhere3';\nexport default { run() {} }")

    execution = await run(
        importing("nowhere1", name="one"),
        importing("nowhere2", name="two"),
        disabled,
        python_step("four"),
        pinned_exports={"one": {"$return_value": 1}},
        only_steps=frozenset({"one", "three", "four"}),
        install=False,
    )

    assert execution.status == "success", execution.error
    assert registry.asked == []


async def test_packages_beside_the_notebook_are_not_installed(run: Run, registry: NpmRegistry, tmp_path: Path) -> None:
    """An import without a version uses the node_modules beside the notebook; an import with a version does not."""
    registry.publish("tiny", "1.0.0")
    own = tmp_path / "node_modules" / "tiny"
    own.mkdir(parents=True)
    (own / "index.js").write_text("module.exports = 'own'")

    bare = await run(importing("tiny"))
    asked = list(registry.asked)
    pinned = await run(importing("tiny@1"))

    assert (bare.step("code").return_value, asked) == (["own"], [])
    assert pinned.step("code").return_value == ["1.0.0"]


async def test_progress_is_reported_during_the_installation(run: Run, registry: NpmRegistry) -> None:
    """Progress is reported as lines and in the growing record of the step that waits."""
    registry.publish("tiny", "1.0.0")
    lines: list[str] = []
    seen: list[str] = []

    await run(
        python_step("above"),
        importing("tiny"),
        on_progress=lines.append,
        on_change=lambda execution: seen.append(logged(execution, "code")),
    )

    assert lines[0] == "installing tiny ..."
    assert lines[-1].startswith("installed tiny@1.0.0 in ")
    assert "[pdkernel] installing tiny ...\n" in seen


async def test_updates_of_progress_replace_one_another(run: Run, registry: NpmRegistry) -> None:
    """While npm waits for the registry, the record of the step shows the newest update only."""
    registry.publish("tiny", "1.0.0")
    registry.gate.clear()
    seen: list[str] = []
    update = re.compile(r"\[pdkernel\] installing tiny \.\.\.\n\[pdkernel\] installing tiny: \d+ s\n")

    def shown() -> set[str]:
        return {text for text in seen if update.fullmatch(text)}

    def watch(execution: Execution) -> None:
        seen.append(logged(execution, "code"))
        if len(shown()) == 2:
            registry.gate.set()

    await run(importing("tiny"), on_change=watch)

    assert len(shown()) >= 2
    assert not [text for text in seen if text.count("installing tiny: ") > 1]


async def test_run_can_be_cancelled_during_the_installation(
    runtime: WorkflowEngine, run: Run, registry: NpmRegistry
) -> None:
    """A run that is cancelled during the installation has run no step and is recorded as cancelled."""
    registry.publish("tiny", "1.0.0")
    registry.gate.clear()
    task = asyncio.ensure_future(run(importing("tiny")))
    while not registry.asked:
        await asyncio.sleep(0.01)

    task.cancel()
    execution = await task

    assert execution.status == "cancelled"
    assert [step.status for step in execution.steps] == ["not_run"]


async def test_unreadable_lock_file_refuses_the_run(run: Run, tmp_path: Path) -> None:
    """An unreadable lock file refuses the run and is not changed."""
    (tmp_path / NPM_LOCK_NAME).write_text("<<<<<<< HEAD")

    execution = await run(importing("tiny"))

    assert execution.error is not None
    assert NPM_LOCK_NAME in execution.error.message
    assert (tmp_path / NPM_LOCK_NAME).read_text() == "<<<<<<< HEAD"


async def test_app_prop_from_a_package_uses_the_account_of_the_external_user(
    run: Run, registry: NpmRegistry, connect: Callable[..., str]
) -> None:
    """App props that a package declares are found after its installation."""
    registry.publish("apps", "1.0.0", {"index.js": "module.exports = { type: 'app', app: 'slack' }"}, main="index.js")
    connect()
    step = a_step(
        "%%pdstep code --lang node\nimport app from 'apps';\n"
        "export default { props: { app }, run() { return Object.keys(this.app.$auth) } }"
    )

    execution = await run(step, event=an_event().with_identity("ada", "development"), external_user_id="ada")

    assert execution.status == "success", execution.error
    assert execution.step("code").return_value == ["oauth_access_token"]


def test_workflow_without_packages_installs_nothing(tmp_path: Path) -> None:
    """Without packages nothing is installed: Node.js gets no folder, Python a shared empty environment."""
    with Project.open(tmp_path / ".pdkernel") as project:
        steps = a_workflow(python_step("one"), importing("fs", name="two")).steps
        ready = asyncio.run(StepPackages.for_project(project.folder, {}).prepare(steps, tmp_path))

    assert (ready.node_packages, ready.failures) == ({}, {})
    assert not (tmp_path / ".pdkernel" / "packages" / "node").exists()
    assert ready.python_environment is not None
    assert ready.python_environment.packages() == {}


def test_what_steps_may_see(tmp_path: Path) -> None:
    """Steps read the code, packages and certificates, write the file store, and see neither key nor database, wherever these are."""
    folder, database, key = tmp_path / ".pdkernel", tmp_path / "shared.db", tmp_path / "key"
    with Project.open(folder, database_url=f"sqlite:///{database}", key_file=key) as project:
        access = step_access(folder, [tmp_path / "ca.pem"], project=project)
    with Project.open(tmp_path / "other" / ".pdkernel") as project:
        inside = step_access(project.folder, [], project=project)

    assert access.read == {tmp_path, folder / "packages", folder / "cache" / "go" / "programs", tmp_path / "ca.pem"}
    assert access.write == {folder / "files"}
    assert access.hide == {
        folder,
        key,
        *(tmp_path / f"shared.db{suffix}" for suffix in ("", "-wal", "-shm", "-journal")),
    }
    assert inside.hide == {project.folder}
