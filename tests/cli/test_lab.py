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
from tests.cli.conftest import Shell
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
    """`pdkernel lab FOLDER` starts in it, with pdkernel's kernel as the default, no news question, and the user's settings."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "here.txt").write_text("")
    own = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings"
    own.parent.mkdir(parents=True)
    own.write_text('{"theme": "JupyterLab Dark"}')
    command = [sys.executable, "-m", "pdkernel", "lab", "work", "--no-browser", "--port", "0"]
    command += [f"--IdentityProvider.token={TOKEN}"]
    environment = private_environment(tmp_path)

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        url = wait_for_url(tmp_path, process, tmp_path / "log")
        news = _get(f"{url}/lab/api/settings/{NEWS}?token={TOKEN}")
        theme = _get(f"{url}/lab/api/settings/@jupyterlab/apputils-extension:themes?token={TOKEN}")
        kernels = _get(f"{url}/api/kernelspecs?token={TOKEN}")
        files = _get(f"{url}/api/contents?token={TOKEN}")["content"]
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
    finally:
        process.kill()
        process.wait()

    assert kernels["default"] == "pdkernel"
    assert [file["name"] for file in files] == ["here.txt"]
    assert news["schema"]["properties"]["fetchNews"]["default"] == "false"
    assert json.loads(theme["raw"]) == {"theme": "JupyterLab Dark"}
    assert status == 0


def test_an_option_is_not_a_notebook(pdkernel: Shell) -> None:
    """A command line that starts with an option of JupyterLab names no notebook; a missing notebook is reported."""
    version = pdkernel("lab", "--version")
    missing = pdkernel("lab", "missing.ipynb", "--no-browser")

    assert version.status == 0
    assert missing.status == 2
    assert "Notebook missing.ipynb does not exist." in missing.stderr


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)
