"""`pdkernel lab`: the options for JupyterLab, and their effect."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from pdkernel.cli.lab import CONFIG_FOLDER, lab_options, set_defaults
from tests.lab_files import TOKEN, private_environment, wait_for_url

NEWS = "@jupyterlab/apputils-extension:notification"


def test_notebook_is_opened() -> None:
    """A notebook is passed as a path relative to the folder."""
    options = lab_options(Path("/w"), Path("/w/a b/one.ipynb"), root=False)

    assert "--LabApp.default_url=/lab/tree/a%20b/one.ipynb" in options
    assert "--allow-root" not in options


def test_root_is_allowed_only_for_root() -> None:
    """Jupyter gets `--allow-root` only if the user is root."""
    assert "--allow-root" in lab_options(Path("/w"), None, root=True)
    assert "--allow-root" not in lab_options(Path("/w"), None, root=False)


def test_other_configuration_comes_first() -> None:
    """The user's configuration folders come first; the default folder follows once."""
    environ = {"JUPYTER_CONFIG_PATH": "/mine"}

    set_defaults(environ)
    set_defaults(environ)

    assert environ["JUPYTER_CONFIG_PATH"] == f"/mine{os.pathsep}{CONFIG_FOLDER}"


def test_lab_runs(tmp_path: Path) -> None:
    """Lab starts in the folder with pdkernel's kernel as the default, without the news question, and with the user's settings."""
    (tmp_path / "work").mkdir()
    own = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings"
    own.parent.mkdir(parents=True)
    own.write_text('{"theme": "JupyterLab Dark"}')
    call = "import sys, pathlib; from pdkernel.cli.lab import run_lab; "
    call += "sys.exit(run_lab(sys.argv[1:], pathlib.Path('work')))"
    command = [sys.executable, "-c", call, "--no-browser", "--port=0", f"--IdentityProvider.token={TOKEN}"]
    environment = private_environment(tmp_path)

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        url = wait_for_url(tmp_path, process, tmp_path / "log")
        news = _get(f"{url}/lab/api/settings/{NEWS}?token={TOKEN}")
        theme = _get(f"{url}/lab/api/settings/@jupyterlab/apputils-extension:themes?token={TOKEN}")
        kernels = _get(f"{url}/api/kernelspecs?token={TOKEN}")
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
    finally:
        process.kill()
        process.wait()

    assert kernels["default"] == "pdkernel"
    assert news["schema"]["properties"]["fetchNews"]["default"] == "false"
    assert json.loads(theme["raw"]) == {"theme": "JupyterLab Dark"}
    assert status == 0


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)
