"""
`pdkernel lab`: JupyterLab on a folder of workflows, ready for the first step.

Knows JupyterLab's options. Changes none of the user's own settings: what it sets are defaults, which a setting that
the user made in Lab outranks.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from urllib.parse import quote

CONFIG_FOLDER = Path(__file__).parent
"""Holds `labconfig/default_setting_overrides.json`: no question about fetching news, no look-up of updates."""


def lab_options(folder: Path, notebook: Path | None, *, root: bool) -> list[str]:
    """
    JupyterLab's command line.

    Args:
        folder: What Lab's file browser shows.
        notebook: The notebook to open, in *folder*; None opens what was open last.
        root: Whether the user is root, whom Jupyter refuses unless told otherwise.
    """
    options = [
        f"--ServerApp.root_dir={folder}",
        "--MultiKernelManager.default_kernel_name=pdkernel",
        # Installing extensions from Lab would ask a package registry for its list at the first look.
        "--LabApp.extension_manager=readonly",
        # Kernels over sockets in the runtime folder, not over TCP ports that every user of this machine can reach.
        "--KernelManager.transport=ipc",
    ]
    if notebook is not None:
        options.append(f"--LabApp.default_url=/lab/tree/{quote(notebook.relative_to(folder).as_posix())}")
    if root:
        options.append("--allow-root")
    return options


def set_defaults(environ: MutableMapping[str, str]) -> None:
    """Put our defaults for Lab's settings on Jupyter's configuration path, behind any folder named there."""
    path = [entry for entry in environ.get("JUPYTER_CONFIG_PATH", "").split(os.pathsep) if entry]
    if str(CONFIG_FOLDER) not in path:
        environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([*path, str(CONFIG_FOLDER)])


def run_lab(args: Sequence[str], folder: Path, notebook: Path | None = None) -> int:
    """
    Run JupyterLab until the user ends it.

    Args:
        args: More of JupyterLab's options; they outrank ours.
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
