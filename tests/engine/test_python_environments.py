"""Python packages of steps in whole runs, and steps with `--debug` outside a notebook."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.model import Step
from pdkernel.storage import Project
from tests.builders import a_step, python_step
from tests.engine.conftest import Run
from tests.wheels import WheelFolder


@pytest.fixture
def wheels(tmp_path: Path) -> WheelFolder:
    """An empty registry."""
    return WheelFolder(tmp_path / "wheels")


@pytest.fixture
async def runtime(project: Project, directory: LocalDirectory, wheels: WheelFolder) -> AsyncIterator[WorkflowEngine]:
    """A running engine that installs from the registry."""
    async with await WorkflowEngine.start(project, directory, environ=wheels.environ()) as started:
        yield started


def importing(module: str, name: str = "code", *, above: str = "") -> Step:
    """A step that returns the VERSION of *module*."""
    return a_step(f"%%pdstep {name}\n{above}\nimport {module}\ndef handler(pd):\n    return {module}.VERSION\n")


async def test_python_steps_share_one_environment(run: Run, wheels: WheelFolder) -> None:
    """All Python steps get each package in one version; the first step's log names installed packages, once."""
    wheels.publish("tiny", "1.0")
    wheels.publish("tiny", "2.0")
    steps = importing("tiny", "one"), importing("tiny", "two", above="# pipedream add-package tiny==1.0")

    first, second = await run(*steps), await run(*steps)

    assert [step.return_value for step in first.steps] == ["1.0", "1.0"]
    assert "installed tiny 1.0 in " in "".join(log.text for log in first.step("one").logs)
    assert [log.text for step in second.steps for log in step.logs] == []


async def test_missing_package_fails_only_its_step(run: Run, wheels: WheelFolder) -> None:
    """A step whose package cannot be installed fails; the steps above it run."""
    wheels.publish("tiny")

    execution = await run(importing("tiny", "one"), importing("nosuch", "two"), python_step("three"))

    assert [step.status for step in execution.steps] == ["success", "error", "skipped"]
    assert execution.error is not None
    assert (execution.error.code, execution.error.step) == ("package_install", "two")
    assert execution.error.line == 3


async def test_package_that_is_published_later_is_installed(run: Run, wheels: WheelFolder) -> None:
    """A package that could not be installed is tried again by the next run that needs it."""
    failed = await run(importing("tiny"))
    wheels.publish("tiny")

    execution = await run(importing("tiny"))

    assert failed.step("code").status == "error"
    assert execution.step("code").return_value == "1.0"


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
    steps = python_step("one"), importing("tiny", "two")

    refused = await run(*steps, install=False)
    above = await run(*steps, install=False, only_steps=frozenset({"one"}))

    assert refused.error is not None
    assert (refused.error.code, refused.steps[0].status) == ("package_missing", "not_run")
    assert above.step("one").status == "success"


async def test_conflicting_versions_fail_the_second_step(run: Run, wheels: WheelFolder) -> None:
    """Of two steps that pin different versions the second fails, and its error names the first."""
    wheels.publish("tiny", "1.0")
    steps = [importing("tiny", name, above=f"# pipedream add-package tiny=={at}") for name, at in (("a", 1), ("b", 2))]
    wheels.publish("tiny", "1")

    execution = await run(*steps)

    assert [step.status for step in execution.steps] == ["success", "error"]
    assert execution.error is not None
    assert "requires tiny==2 and step a requires ==1" in execution.error.message


async def test_file_of_a_step_is_not_a_package(run: Run, wheels: WheelFolder) -> None:
    """A file that a step imports is not installed from the registry, and the packages that it imports are."""
    wheels.publish("helpers")
    wheels.publish("tiny", "2.0")
    step = replace(importing("helpers"), files={"helpers.py": "import tiny\nVERSION = ['mine', tiny.VERSION]\n"})

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
