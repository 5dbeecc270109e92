"""Where Jupyter finds this checkout's kernel and Lab extension, whatever is installed."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def jupyter_path(folder: Path) -> Path:
    """Make `kernels/` and `labextensions/` of this checkout in *folder*, for JUPYTER_PATH."""
    source = CHECKOUT / "pdkernel" / "kernel"
    for kind, files in (("kernels", "kernelspec"), ("labextensions", "labextension")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / "pdkernel").symlink_to(source / files, target_is_directory=True)
    return folder


def private_environment(folder: Path) -> dict[str, str]:
    """An environment in which Jupyter reads and writes below *folder* only, and Python imports this checkout."""
    return {
        **os.environ,
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_PATH": str(jupyter_path(folder / "share")),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")])),
    }
