"""Runs with steps that import packages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.engine.run_request import TestOptions
from pdkernel.engine.step_packages import StepPackages, step_access
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.model import Step
from pdkernel.packages import NPM_LOCK_NAME
from pdkernel.storage import Project
from tests.builders import a_step, a_workflow, an_event, python_step
from tests.engine.conftest import Run, error_of
from tests.npm_registry import NpmRegistry, npm_registry
from tests.wheels import WheelFolder


@pytest.fixture
def registry() -> Iterator[NpmRegistry]:
    """An empty registry."""
    with npm_registry() as running:
        yield running


@pytest.fixture
def wheels(tmp_path: Path) -> WheelFolder:
    """An empty registry."""
    return WheelFolder(tmp_path / "wheels")


@pytest.fixture
async def runtime(
    project: Project, directory: LocalDirectory, registry: NpmRegistry, wheels: WheelFolder, tmp_path: Path
) -> AsyncIterator[WorkflowEngine]:
    """An engine that installs from both registries."""
    environ = {**registry.environ(tmp_path / "home"), **wheels.environ()}
    async with await WorkflowEngine.start(project, directory, environ=environ) as started:
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
    """A package that cannot be installed fails its step at the cell's line; the steps above it run, with packages of their own."""
    registry.publish("tiny", "1.0.0")

    execution = await run(
        importing("tiny", name="above"), importing("tiny", "nowhere@^2", name="code"), python_step("below")
    )

    assert [step.status for step in execution.steps] == ["success", "error", "skipped"]
    error = execution.error
    assert error is not None
    assert (error.code, error.step, error.line) == ("package_install", "code", 3)
    assert error.message.startswith("There is no npm package nowhere.")


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
        options=TestOptions(
            pinned_exports={"one": {"$return_value": 1}}, only_steps=frozenset({"one", "three", "four"})
        ),
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

    error = error_of(await run(importing("tiny")))

    assert NPM_LOCK_NAME in error.message
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


def importing_module(module: str, name: str = "code", *, above: str = "") -> Step:
    """A step that returns the VERSION of *module*."""
    return a_step(f"%%pdstep {name}\n{above}\nimport {module}\ndef handler(pd):\n    return {module}.VERSION\n")


async def test_python_steps_share_one_environment(run: Run, wheels: WheelFolder) -> None:
    """All Python steps get each package in one version; the first step's log names installed packages, once."""
    wheels.publish("tiny", "1.0")
    wheels.publish("tiny", "2.0")
    steps = importing_module("tiny", "one"), importing_module("tiny", "two", above="# pipedream add-package tiny==1.0")

    first, second = await run(*steps), await run(*steps)

    assert [step.return_value for step in first.steps] == ["1.0", "1.0"]
    assert "installed tiny 1.0 in " in "".join(log.text for log in first.step("one").logs)
    assert [log.text for step in second.steps for log in step.logs] == []


async def test_missing_package_fails_only_its_step(run: Run, wheels: WheelFolder) -> None:
    """A step whose package cannot be installed fails; the steps above it run, and the next run tries to install it again."""
    wheels.publish("tiny")
    steps = importing_module("tiny", "one"), importing_module("late", "two"), python_step("three")

    execution = await run(*steps)
    wheels.publish("late")
    again = await run(*steps)

    assert [step.status for step in execution.steps] == ["success", "error", "skipped"]
    assert execution.error is not None
    assert (execution.error.code, execution.error.step) == ("package_install", "two")
    assert execution.error.line == 3
    assert again.step("two").return_value == "1.0"


async def test_each_step_with_a_missing_package_has_its_own_line(run: Run) -> None:
    """Each step with a missing package has the line of its own import or comment."""
    imports = a_step("%%pdstep code\nimport json\n\ndef handler(pd):\n    import nosuch.part\n")
    adds = a_step("# why\n%%pdstep code\n\n# pipedream add-package nosuch==1.0\ndef handler(pd):\n    pass\n")

    first, second = await run(imports), await run(adds)

    assert first.error is not None
    assert second.error is not None
    assert (first.error.line, second.error.line) == (5, 4)


async def test_missing_package_of_a_guarded_import_fails_no_step(run: Run) -> None:
    """A failed package of a guarded import does not fail a step."""
    step = a_step(
        "%%pdstep code\ntry:\n    import nosuch\nexcept ImportError:\n    nosuch = None\n"
        "def handler(pd):\n    return nosuch is None\n"
    )

    assert (await run(step)).step("code").return_value is True


async def test_missing_package_refuses_a_run_without_installation(run: Run, wheels: WheelFolder) -> None:
    """Without permission to install, a missing package refuses the run by name; steps that do not run do not count."""
    wheels.publish("tiny")
    steps = python_step("one"), importing_module("tiny", "two")

    refused = await run(*steps, install=False)
    above = await run(*steps, install=False, options=TestOptions(only_steps=frozenset({"one"})))

    assert refused.error is not None
    assert (refused.error.code, refused.steps[0].status) == ("package_missing", "not_run")
    assert above.step("one").status == "success"


async def test_conflicting_versions_fail_the_second_step(run: Run, wheels: WheelFolder) -> None:
    """Of two steps that pin different versions the second fails, and its error names the first."""
    wheels.publish("tiny", "1.0")
    steps = [
        importing_module("tiny", name, above=f"# pipedream add-package tiny=={at}") for name, at in (("a", 1), ("b", 2))
    ]
    wheels.publish("tiny", "1")

    execution = await run(*steps)

    assert [step.status for step in execution.steps] == ["success", "error"]
    assert execution.error is not None
    assert "requires tiny==2 and step a requires ==1" in execution.error.message


async def test_file_of_a_step_is_not_a_package(run: Run, wheels: WheelFolder) -> None:
    """A file that a step imports is not installed from the registry, and the packages that it imports are."""
    wheels.publish("helpers")
    wheels.publish("tiny", "2.0")
    step = replace(importing_module("helpers"), files={"helpers.py": "import tiny\nVERSION = ['mine', tiny.VERSION]\n"})

    assert (await run(step)).step("code").return_value == ["mine", "2.0"]


async def test_comment_with_a_file_name_refuses_the_run(run: Run) -> None:
    """A wheel in the current folder is not installed: the run is refused with the step and the comment's line."""
    execution = await run(
        a_step("%%pdstep code\n# pipedream add-package tiny-1.0-py3-none-any.whl\ndef handler(pd):\n    return 1\n")
    )

    assert execution.error is not None
    assert (execution.error.code, execution.error.step, execution.error.line) == ("package_name", "code", 2)
    assert execution.step("code").status == "not_run"


async def test_steps_do_not_see_the_packages_of_pdkernel(run: Run) -> None:
    """Neither a step nor a Python process that it starts sees the packages of pdkernel's own environment."""
    body = """
        import importlib.util, subprocess, sys
        there = subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True).returncode == 0
        return [importlib.util.find_spec("pytest") is not None, there]
    """

    assert (await run(python_step(body=body))).step("code").return_value == [False, False]


async def test_debug_has_no_effect_outside_a_notebook(run: Run) -> None:
    """The step's log has a warning, and the outbound policy applies."""
    execution = await run(python_step(options="--debug"))

    assert execution.step("code").return_value == 1
    assert "--debug only has an effect when a notebook runs the step's cell" in "".join(
        log.text for log in execution.step("code").logs
    )
