"""`pdkernel new`, `demo` and `lab`."""

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
from pdkernel.cli.new import CONFIG_FOLDER, lab_options, set_defaults, set_project
from tests.cli.conftest import Shell
from tests.lab_files import TOKEN, private_environment, wait_for_url
from tests.private_pytest import run_pytest

NEWS = "@jupyterlab/apputils-extension:notification"


def everything_in(folder: Path) -> dict[str, bytes]:
    """The content of every file by path, without the local project."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".pdkernel" not in path.parts
    }


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


@pytest.mark.parametrize("name", ["hello.ipynb", "deep/er/hello"])
def test_new_makes_a_notebook_an_event_and_a_test(pdkernel: Shell, name: str) -> None:
    """`new` creates the three files, beside one another, and lists them and the next commands."""
    ended = pdkernel("new", name)

    notebook = Path(name.removesuffix(".ipynb") + ".ipynb")
    event = (notebook.parent / "events" / "issues-opened.json").as_posix()
    test = (notebook.parent / "tests" / "test_hello.py").as_posix()
    assert ended.status == 0
    assert sorted(everything_in(pdkernel.folder)) == sorted([notebook.as_posix(), event, test])
    assert f"Run it:  pdkernel run {notebook} --event {event}" in ended.lines
    assert f"Test it: pytest {test}" in ended.lines
    assert f"Open it: pdkernel lab {notebook}" in ended.lines


def test_the_run_and_the_test_of_a_new_notebook_succeed(pdkernel: Shell) -> None:
    """The commands that `new` lists work at once, also below the current folder."""
    pdkernel("new", "deep/hello")

    assert pdkernel("run", "deep/hello.ipynb", "--event", "deep/events/issues-opened.json").status == 0
    assert run_pytest(pdkernel.fork_server, pdkernel.folder / "deep") == {"passed": 1}


def test_new_writes_a_valid_notebook(pdkernel: Shell) -> None:
    """The notebook has pdkernel's kernel and no outputs, and Jupyter can open it."""
    pdkernel("new", "hello")

    notebook = json.loads((pdkernel.folder / "hello.ipynb").read_text())

    assert notebook["metadata"]["kernelspec"]["name"] == "pdkernel"
    assert [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["outputs"]] == []


@pytest.mark.parametrize(
    ("file", "workflow", "test"),
    [
        ("open-issue_to slack", "Open issue to slack", "test_open_issue_to_slack.py"),
        ("true", "My workflow", "test_true.py"),
        ("a: b", "My workflow", "test_a_b.py"),
    ],
)
def test_new_names_the_workflow_after_the_file(pdkernel: Shell, file: str, workflow: str, test: str) -> None:
    """The workflow and the test have the file's name, as far as the name is valid."""
    pdkernel("new", file)

    cells = json.loads((pdkernel.folder / f"{file}.ipynb").read_text())["cells"]
    source = "".join("".join(cell["source"]) for cell in cells)

    assert [path.name for path in (pdkernel.folder / "tests").iterdir()] == [test]
    assert f"name: {workflow}\n" in source
    assert f"# {workflow}\n" in source


def test_new_overwrites_nothing(pdkernel: Shell) -> None:
    """A second `new` is refused with status 2 and changes no byte; an existing event is unchanged."""
    (pdkernel.folder / "events").mkdir()
    pdkernel.write("events/issues-opened.json", '{"mine": true}')
    first = pdkernel("new", "hello")
    pdkernel.write("hello.ipynb", "my own work")
    before = everything_in(pdkernel.folder)

    again = pdkernel("new", "hello.ipynb")
    (pdkernel.folder / "hello.ipynb").rename(pdkernel.folder / "kept")
    of_the_test = pdkernel("new", "hello")
    (pdkernel.folder / "kept").rename(pdkernel.folder / "hello.ipynb")

    assert first.status == 0
    assert before["events/issues-opened.json"] == b'{"mine": true}'
    assert again.status == 2
    assert "hello.ipynb already exists; no file was written." in again.stderr
    assert (of_the_test.status, "test_hello.py already exists; no file" in of_the_test.stderr) == (2, True)
    assert everything_in(pdkernel.folder) == before


def test_new_names_the_test_that_cannot_be_written(pdkernel: Shell) -> None:
    """A file in the place of the folder of tests is named without a traceback."""
    pdkernel.write("tests", "")

    ended = pdkernel("new", "hello")

    assert ended.status == 2
    assert "Cannot create tests/test_hello.py: File exists (tests)." in ended.stderr


@pytest.mark.parametrize("name", ["closed/hello", "file/hello"])
def test_new_in_an_unwritable_folder(pdkernel: Shell, name: str) -> None:
    """A read-only folder, or a file in its place, is named without a traceback."""
    pdkernel.write("file", "")
    (pdkernel.folder / "closed").mkdir(mode=0o500)

    ended = pdkernel("new", name, before=["tests.privileges:drop_override"])

    assert ended.status == 2
    assert f"Cannot create {name}.ipynb" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_demo_requires_an_empty_folder(pdkernel: Shell) -> None:
    """`demo --keep` refuses a file or a folder with content before it does anything."""
    (pdkernel.folder / "full").mkdir()
    pdkernel.write("full/file", "")

    refused = [pdkernel("demo", "--keep", name) for name in ("full", "full/file")]

    assert [ended.status for ended in refused] == [2, 2]
    assert all("no file was written" in ended.stderr for ended in refused)
    assert sorted(everything_in(pdkernel.folder)) == ["full/file"]


def test_demo_ends_with_a_failed_run(pdkernel: Shell) -> None:
    """If the run of the demo fails, its reason is shown, the status is 1, and no further step follows."""
    ended = pdkernel("demo", "--keep", "demo", PATH=str(pdkernel.folder / "nothing"))

    assert ended.status == 1
    assert "bash is not on PATH" in ended.stdout
    assert "5. The event's shape" not in ended.stdout
    assert (pdkernel.folder / "demo" / "quickstart.ipynb").is_file()
