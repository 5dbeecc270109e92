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

import pytest

from pdkernel.cli.app import CliContext
from pdkernel.cli.lab import CONFIG_FOLDER, lab_options, set_defaults, set_project
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


def test_lab_is_closed_to_other_users_and_to_registries() -> None:
    """Kernels use sockets in a folder instead of TCP ports, and the extension manager sends no requests."""
    options = lab_options(Path("/w"), None, root=False)

    assert {"--KernelManager.transport=ipc", "--LabApp.extension_manager=readonly"} <= set(options)


def test_other_configuration_comes_first() -> None:
    """The user's configuration folders come first; the default folder follows once."""
    environ = {"JUPYTER_CONFIG_PATH": "/mine"}

    set_defaults(environ)
    set_defaults(environ)

    assert environ["JUPYTER_CONFIG_PATH"] == f"/mine{os.pathsep}{CONFIG_FOLDER}"


def test_kernels_have_the_project_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels, which run in folders of their own, get the absolute path of the project, and its database."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work" / ".pdkernel").mkdir(parents=True)
    (tmp_path / "work" / "deep").mkdir()

    def variables(start: str, project: str | None = None, database: str | None = None, **own: str) -> dict[str, str]:
        state = CliContext()
        state.project_folder, state.database_url = project, database
        set_project(own, state, tmp_path / start)
        return own

    url, named = "postgresql://h.test/db", str(tmp_path / "named")
    assert variables("work/deep") == {"PDKERNEL_PROJECT": str(tmp_path / "work")}
    assert variables("new") == {"PDKERNEL_PROJECT": str(tmp_path / "new")}
    assert variables("work", "named", url) == {"PDKERNEL_PROJECT": named, "PDKERNEL_DATABASE": url}
    assert variables("work", "named", PDKERNEL_PROJECT="mine") == {"PDKERNEL_PROJECT": "mine"}


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
