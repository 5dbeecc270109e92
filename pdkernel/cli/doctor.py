"""
`pdkernel doctor`: what this machine has and what a workflow lacks.

Output of the command. `readiness` collects the findings.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from pdkernel.cli.app import EXIT_STATUSES, TEST, CliContext, command, environment_option, json_option
from pdkernel.cli.terminal import print_json, print_text
from pdkernel.common.version import VERSION
from pdkernel.errors import PdkernelError

if TYPE_CHECKING:
    from pdkernel.operations.readiness import DoctorReport
    from pdkernel.workers import Isolation

_PLATFORM_PYTHON = "3.12"
"""The version of Python that Pipedream runs (parity `python-version`)."""
_MAX_PYTHON_START_S = 20


@command(
    name="doctor",
    section=TEST,
    examples=(
        "pdkernel doctor",
        "pdkernel doctor greet.ipynb --external-user ada",
        "pdkernel doctor workflows/ --check --json",
    ),
    exit_statuses={**EXIT_STATUSES, 1: "with --check: SOURCE lacks something"},
)
@cloup.argument("source", required=False, type=click.Path(path_type=Path))
@environment_option()
@cloup.option(
    "--external-user", metavar="ID", help="Check this external user only, and explain the lookup of their accounts."
)
@cloup.option("--check", is_flag=True, help="Exit with status 1 if SOURCE lacks something.")
@cloup.option("--matrix", is_flag=True, help="Show for each external user whether each step of SOURCE can run.")
@cloup.option(
    "--search", metavar="TEXT", default="", help="With --matrix: only users whose id or account name contains TEXT."
)
@json_option
def doctor(
    state: CliContext,
    source: Path | None,
    environment: str | None,
    external_user: str | None,
    matrix: bool,
    search: str,
    check: bool,
    as_json: bool,
) -> int:
    """
    Report what SOURCE needs to run.

    Lists the programs of this machine, the settings of the project, and what SOURCE lacks, with a command for each
    requirement. If SOURCE is a folder of workflows, each workflow is checked.
    """
    from pdkernel.engine.step_packages import find_isolation
    from pdkernel.files.source import find_sources

    project = state.open_project()
    isolation = find_isolation(project, [source] if source else [])
    machine = _machine(isolation)
    places = find_sources(source) if source else ()
    look = partial(
        _check_source, state, environment=environment, external_user=external_user, matrix=matrix, search=search
    )
    several = {place: _check_or_error(look, place) for place in places} if len(places) > 1 else {}
    found = look(source) if source and not several else None
    is_ready = all(map(_is_ready, several.values())) and (found is None or _is_ready(found))
    status = 1 if check and not is_ready else 0
    if as_json:
        print_json(
            {
                "machine": machine,
                "walls": [wall.to_json() for wall in isolation.list_walls()],
                "project": {"project_id": project.project_id, "folder": str(project.folder), "plan": project.plan},
                "source": str(source) if source else None,
                **(found.to_json() if found else {"ready": is_ready, "missing": []}),
                **(
                    {"workflows": [{"source": str(place), **_as_json(place, each)} for place, each in several.items()]}
                    if several
                    else {}
                ),
            }
        )
        return status
    _print_machine(machine, isolation)
    print_text(f"\nproject: {project.project_id} in {project.folder} (plan {project.plan})")
    if found is not None:
        click.echo(found.format_text(str(source)), nl=False)
    for place, each in several.items():
        print_text(
            f"\nCannot read {place}: {each}"
            if isinstance(each, PdkernelError)
            else f"\n{each.format_text(str(place))}".rstrip()
        )
    return status


def _because(reason: str | None) -> str:
    return f" Reason: {reason}." if reason else ""


def _check_or_error(collect: Callable[[Path], DoctorReport], source: Path) -> DoctorReport | PdkernelError:
    """Return the report of one of several sources; a source that cannot be read does not stop the check of the others."""
    try:
        return collect(source)
    except PdkernelError as error:
        return error


def _is_ready(found: DoctorReport | PdkernelError) -> bool:
    return not isinstance(found, PdkernelError) and not found.missing_requirements


def _as_json(place: Path, found: DoctorReport | PdkernelError) -> dict[str, Any]:
    if isinstance(found, PdkernelError):
        from pdkernel.files.source import RefusedSource

        reason = RefusedSource(place, place.name, found).reason
        return {
            "ready": False,
            "missing": [],
            "not_served": reason,
            "error": {"code": found.code, "message": str(found)},
        }
    return found.to_json()


def _print_machine(machine: dict[str, Any], isolation: Isolation) -> None:
    """Print the programs of this machine, and the walls between runs that it permits."""
    for key, value in machine.items():
        print_text(f"{key}: {value}")
    print_text("\nWalls on this machine (SECURITY.md explains them):")
    for wall in isolation.list_walls():
        print_text(f"  {'holds:   ' if wall.missing is None else 'MISSING: '}{wall.describe()}{_because(wall.missing)}")


def _machine(isolation: Isolation) -> dict[str, Any]:
    from pdkernel.errors import InterpreterMissingError
    from pdkernel.workers import default_memory_budget, find_go, find_node

    def locate(find: Callable[[], object]) -> str:
        try:
            return str(find())
        except InterpreterMissingError as fault:
            return str(fault).replace("\n", " ")

    import shutil

    from pdkernel.egress import SANDBOX_DESCRIPTIONS, detect_sandbox

    return {
        "pdkernel": VERSION,
        "python": platform.python_version() + ("" if sys.version_info >= (3, 12) else f"; {_advise_python()}"),
        "node": locate(find_node),
        "go": locate(lambda: find_go().command),
        "bash": shutil.which("bash") or "not found",
        "kernel": "installed"
        if _kernel_installed()
        else "not installed: install pdkernel again, with pip install --force-reinstall",
        "chromium": shutil.which("chromium")
        or shutil.which("google-chrome")
        or "not found (only needed for pdkernel's own tests)",
        "outside_calls": SANDBOX_DESCRIPTIONS[detect_sandbox()],
        **isolation.describe(),
        "workers": "one process per external user, unless a workflow has share_workers: always; idle ones end beyond "
        f"{default_memory_budget() >> 20:,} MB (serve --memory)",
    }


def _advise_python() -> str:
    found = find_platform_python(os.environ, Path.home())
    if found is None:
        return f"Pipedream runs Python {_PLATFORM_PYTHON}, and this machine does not have it: uv venv --python {_PLATFORM_PYTHON}"
    return (
        f"Pipedream runs Python {_PLATFORM_PYTHON}, which is at {found}. To run steps with it, make an environment "
        f"({shlex.quote(str(found))} -m venv .venv), and install pdkernel there as you did here."
    )


def find_platform_python(environ: Mapping[str, str], home: Path) -> Path | None:
    """
    Return a Python of the platform's version with which a virtual environment can be made, or None.

    Args:
        environ: PATH, and the folders of pyenv and uv if they are not below *home*.
        home: The home folder.
    """
    name = f"python{_PLATFORM_PYTHON}"
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv")
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    uv = Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    candidates = [
        *(Path(folder) / name for folder in environ.get("PATH", "").split(os.pathsep) if folder),
        *sorted((pyenv / "versions").glob(f"{_PLATFORM_PYTHON}*/bin/{name}")),
        *sorted(uv.glob(f"*-{_PLATFORM_PYTHON}*/bin/{name}")),
    ]
    return next((each for each in dict.fromkeys(candidates) if _makes_environments(each)), None)


def _makes_environments(python: Path) -> bool:
    """Return whether *python* runs and has `venv`; a shim of pyenv for a version that is not selected fails."""
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, timeout=_MAX_PYTHON_START_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0 and done.stdout.strip() == _PLATFORM_PYTHON


def _kernel_installed() -> bool:
    from jupyter_core.paths import jupyter_path  # `jupyter_client` takes ten times as long to import

    return any(Path(folder, "pdkernel", "kernel.json").is_file() for folder in jupyter_path("kernels"))


def _check_source(
    state: CliContext, source: Path, *, environment: str | None, external_user: str | None, matrix: bool, search: str
) -> DoctorReport:
    from pdkernel.actions import Catalog
    from pdkernel.common.identity import check_external_user_id, parse_environment
    from pdkernel.engine.variables import load_variables
    from pdkernel.files.source import load_source
    from pdkernel.kit.session.state import read_pinned_steps
    from pdkernel.operations.readiness import DoctorReport
    from pdkernel.server.source_workflows import find_refusal

    opened = load_source(source, unanswered="keep")
    refused = find_refusal(state.open_project(), opened.path)
    return DoctorReport.collect(
        opened.workflow,
        directory=state.open_directory(),
        catalog=Catalog.for_project(state.open_project(), environ=os.environ).with_sources(
            opened.sidecar.actions if opened.sidecar else (), base=opened.folder.resolve()
        ),
        variables=load_variables(state.open_project(), opened.folder.resolve()),
        environment=parse_environment(environment),
        external_user_id=check_external_user_id(external_user) if external_user is not None else None,
        test_users=opened.sidecar.test_users if opened.sidecar else (),
        include_matrix=matrix,
        matrix_search=search,
        sidecar=opened.sidecar,
        pinned_steps=read_pinned_steps(state.open_project(), opened.path),
        not_served=refused.reason if refused is not None else None,
    )
