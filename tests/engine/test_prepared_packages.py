"""The failures of packages: which may be temporary, and the commands that continue a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.egress import parse_policy
from pdkernel.engine.prepared_packages import PreparedPackages
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import (
    ActionNotFoundError,
    ActionSourceError,
    InterpreterMissingError,
    LicenceError,
    PackageInstallError,
    PackageMissingError,
    PdkernelError,
)
from tests.builders import a_workflow, an_event, python_step

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
    "failure",
    [
        InterpreterMissingError("Node.js is not installed.", fix="Install Node.js."),
        PackageMissingError(("tiny",), "pdkernel packages install work.ipynb"),
        ActionNotFoundError("The folder has another version.", fix="Restore the version."),
        LicenceError("The licence is not accepted.", fix="Accept the licence."),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failure_that_does_not_pass_is_not_waited_for(failure: PdkernelError) -> None:
    """A failure that waiting does not end keeps its kind and its fix, before the commands that continue the run."""
    ready, message, fix = PreparedPackages(failures={"one": failure}), failure.message, failure.fix

    ready.explain_lock(replace(REQUEST, run_ids=("run1", "trace")))

    assert ready.find_temporary_failure("one") is None
    assert ready.failures["one"] is failure
    assert failure.message == message
    assert failure.fix.startswith(
        f"{fix}\nTo continue the run when its packages can be installed: pdkernel runs fork run1"
    )


def test_a_source_of_actions_that_cannot_be_reached_is_waited_for() -> None:
    """The package of an action is a package of the run: its registry may answer later."""
    ready = PreparedPackages(failures={"one": ActionSourceError("The registry cannot be reached.")})

    ready.explain_lock(replace(REQUEST, run_ids=("run1", "trace")))

    error = ready.find_temporary_failure("one")
    assert error is not None
    assert error.message == "The registry cannot be reached. The run keeps the packages with which it began."
