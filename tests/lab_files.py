"""Jupyter with the kernel and the Lab extension of this checkout, in temporary folders."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
TOKEN = "tok"
START_TIMEOUT_S = 100


def jupyter_path(folder: Path) -> Path:
    """Copy `kernels/` and `labextensions/` of this checkout to *folder*, for JUPYTER_PATH."""
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
        "JUPYTER_RUNTIME_DIR": str(folder / "r"),  # short: the path of a socket in it has at most 107 characters
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")])),
    }


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short path: the path of a socket has at most about a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="pdk") as folder:
        yield Path(folder)


def wait_for_url(folder: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    """The address of the server that was started with `private_environment(folder)`, after it responds."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        # The server writes this file shortly before it listens.
        for file in (folder / "r").glob("jpserver-*.json"):
            try:
                url = json.loads(file.read_text())["url"].rstrip("/")
                with urllib.request.urlopen(f"{url}/api/status?token={TOKEN}", timeout=5):
                    return str(url)
            except (OSError, ValueError):
                continue
        time.sleep(0.05)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
