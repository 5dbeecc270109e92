"""
`pdkernel lab`: JupyterLab on a folder of workflows, ready for the first step.

Options and default settings of JupyterLab. The user's own settings take precedence over these defaults.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from urllib.parse import quote

import click
import cloup

from pdkernel.cli.app import AUTHOR, CliContext, command
from pdkernel.cli.command_help import EXIT_STATUSES
from pdkernel.errors import RequestError

CONFIG_FOLDER = Path(__file__).parent
"""Contains `labconfig/default_setting_overrides.json`, which disables news and update checks."""


@command(
    name="lab",
    section=AUTHOR,
    context_settings={"ignore_unknown_options": True},
    options_metavar="[OPTIONS]",
    examples=("pdkernel lab", "pdkernel lab greet.ipynb --no-browser --port 8890"),
    exit_statuses={**EXIT_STATUSES, 1: "JupyterLab failed"},
)
@cloup.argument("arguments", nargs=-1, metavar="[NOTEBOOK | FOLDER] [JUPYTERLAB OPTIONS]...", type=click.UNPROCESSED)
@cloup.option("--no-browser", is_flag=True, help="Print the address instead of opening a browser.")
@cloup.option("--port", type=click.IntRange(0, 65535), help="Port of JupyterLab; 0 takes a free port. Default: 8888.")
def lab(state: CliContext, arguments: tuple[str, ...], no_browser: bool, port: int | None) -> int:
    """
    Open JupyterLab, with NOTEBOOK or in FOLDER.

    New notebooks use the workflow kernel. Options that the command does not have are passed to JupyterLab.
    """
    is_first_a_path = bool(arguments) and not arguments[0].startswith("-")
    path = Path(arguments[0]) if is_first_a_path else Path.cwd()
    notebook = None if path.is_dir() else path
    if notebook is not None and not notebook.is_file():
        raise RequestError(
            f"Notebook {notebook} does not exist.",
            fix=f"Create it: pdkernel new {shlex.quote(str(notebook.with_suffix('')))}",
        )
    root = notebook.parent if notebook else path
    set_project(os.environ, state, Path.cwd() if notebook else path)
    options = [*arguments[is_first_a_path:]]
    options += ["--no-browser"] if no_browser else []
    options += [] if port is None else [f"--port={port}"]
    return run_lab(options, root, notebook)


def set_project(environ: MutableMapping[str, str], state: CliContext, start: Path) -> None:
    """
    Name the project to kernels, each of which would otherwise search for a project in its notebook's folder, or create one.

    Args:
        environ: The environment variables of the kernels; existing ones stay.
        state: The context with the options of the command.
        start: The folder in which the search begins if no folder is named.
    """
    from pdkernel.storage import find_project

    folder = Path(state.project_folder).resolve() if state.project_folder else find_project(start).parent
    environ.setdefault("PDKERNEL_PROJECT", str(folder))
    if state.database_url:
        environ.setdefault("PDKERNEL_DATABASE", state.database_url)


def lab_options(folder: Path, notebook: Path | None, *, root: bool) -> list[str]:
    """
    Build the command line of JupyterLab.

    Args:
        folder: The root of Lab's file browser.
        notebook: The notebook to open, in *folder*; None restores the last session.
        root: Whether the user is root, which Jupyter refuses without `--allow-root`.
    """
    options = [
        f"--ServerApp.root_dir={folder}",
        "--MultiKernelManager.default_kernel_name=pdkernel",
        # A writable extension manager would request the extension list from a package registry.
        "--LabApp.extension_manager=readonly",
        # Kernels use sockets in the runtime folder: every user of this machine can reach TCP ports.
        "--KernelManager.transport=ipc",
    ]
    if notebook is not None:
        options.append(f"--LabApp.default_url=/lab/tree/{quote(notebook.relative_to(folder).as_posix())}")
    if root:
        options.append("--allow-root")
    return options


def set_defaults(environ: MutableMapping[str, str]) -> None:
    """Append the folder with default Lab settings to Jupyter's configuration path."""
    path = [entry for entry in environ.get("JUPYTER_CONFIG_PATH", "").split(os.pathsep) if entry]
    if str(CONFIG_FOLDER) not in path:
        environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([*path, str(CONFIG_FOLDER)])


def run_lab(args: Sequence[str], folder: Path, notebook: Path | None = None) -> int:
    """
    Run JupyterLab until the user stops it.

    Args:
        args: Further options of JupyterLab; they take precedence.
        folder: The folder to work in.
        notebook: The notebook to open, or None.

    Returns:
        JupyterLab's exit status.
    """
    from jupyterlab.labapp import main

    set_defaults(os.environ)
    folder = folder.resolve()
    notebook = notebook.resolve() if notebook else None
    try:
        main([*lab_options(folder, notebook, root=os.geteuid() == 0), *args])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
