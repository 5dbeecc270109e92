"""The failures of packages: which may be temporary, and the commands that continue a run."""

from __future__ import annotations

from dataclasses import replace

from pdkernel.egress import parse_policy
from pdkernel.engine.prepared_packages import PreparedPackages
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import InterpreterMissingError, PackageInstallError, PdkernelError
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
