"""The public names of the package, and the modules that importing it loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pdkernel
from pdkernel import api
from pdkernel.common.version import VERSION
from tests.notebook_files import notebook_of

pytestmark = pytest.mark.timeout(300)  # what takes seconds may take minutes on a busy machine

ROOT = Path(__file__).parents[2]
NEVER = ("pandas", "pipedream", "dbos", "starlette")
"""Top-level modules that the extension never loads."""
HEAVY = (
    *NEVER,
    "IPython",
    "ipykernel",
    "ipywidgets",
    "jupyterlab",
    "sqlalchemy",
    "httpx",
    "nbformat",
    "genson",
    "click",
)
LOAD = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
shell.run_line_magic("load_ext", "pdkernel")
for name in before:
    sys.modules.pop(name, None)
"""


def imported_by(program: str, depth: int = 1) -> set[str]:
    """The modules that a fresh Python has after *program*, as the first *depth* parts of their names."""
    code = f"import sys\n{program}\nprint(*{{'.'.join(name.split('.')[:{depth}]) for name in sys.modules}}, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    """`import pdkernel` loads none of the heavy libraries."""
    assert imported_by("import pdkernel").isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["pdkernel.kernel", "pdkernel.cli.new"])
def test_starting_points_are_light(module: str) -> None:
    """The modules that a program starts with load none of the heavy libraries."""
    assert imported_by(f"import {module}").isdisjoint(set(HEAVY) - {"click"})


def test_commands_are_light() -> None:
    """Loading every command loads none of the libraries that only some commands need."""
    loaded = imported_by("import pdkernel.cli")

    assert loaded.isdisjoint(set(HEAVY) - {"click"})


def test_loading_the_extension_is_light() -> None:
    """`%load_ext pdkernel` in a shell loads no pandas, no widgets and no database, and nothing that only a run needs."""
    added = imported_by(LOAD)

    assert "pdkernel" in added
    assert added.isdisjoint({*NEVER, "ipywidgets", "jupyterlab", "sqlalchemy", "httpx", "nbformat", "genson"})
    assert added.isdisjoint({"psutil", "h11", "cryptography"})


def test_export_is_light(tmp_path: Path) -> None:
    """`pdkernel export` of a notebook with a `NAME.pdkernel.yaml` loads no engine, and no library that compiles grammars."""
    notebook_of(tmp_path / "work.ipynb", "%%pdstep one\ndef handler(pd):\n    return 1\n")
    (tmp_path / "work.pdkernel.yaml").write_text("schema: pdkernel/1\ntest_users: [ada]\n")
    words = ["export", str(tmp_path / "work.ipynb"), "--to", str(tmp_path / "flow")]

    loaded = imported_by(
        "from pdkernel.cli import pdkernel\n"
        f"pdkernel({words!r}, standalone_mode=False)\npdkernel({words!r}, standalone_mode=False)"
    )

    assert (tmp_path / "flow" / "pdkernel.yaml").is_file()
    assert loaded.isdisjoint({*HEAVY, "jsonschema", "rfc3987_syntax", "lark", "psutil", "h11"} - {"click"})


def test_import_is_light(tmp_path: Path) -> None:
    """`pdkernel import` of a workflow without actions loads no database, and no library that compiles grammars."""
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "workflow.yaml").write_text("schema: workflow/2022.04\nname: W\nsteps: []\n")
    words = ["import", str(tmp_path / "flow"), "--to", str(tmp_path / "flow.ipynb")]

    loaded = imported_by(f"from pdkernel.cli import pdkernel\npdkernel({words!r}, standalone_mode=False)")

    assert (tmp_path / "flow.ipynb").is_file()
    assert loaded.isdisjoint({*HEAVY, "jsonschema", "rfc3987_syntax", "lark", "psutil", "h11"} - {"click"})


def test_the_history_of_runs_is_light() -> None:
    """Reading runs of a local project loads no dialect of another database, no tokens and no control of processes."""
    loaded = imported_by("import pdkernel.operations.run_history", depth=3)

    assert "sqlalchemy.dialects.sqlite" in loaded
    assert loaded.isdisjoint({"sqlalchemy.dialects.postgresql", "jwt", "psutil", "httpx", "nbformat"})


def test_the_server_loads_no_client() -> None:
    """The server starts without the libraries of outbound calls, which would take a third of the start."""
    added = imported_by("import pdkernel.server, pdkernel.server.uvicorn_server, pdkernel.engine.workflow_engine")

    assert "starlette" in added
    assert added.isdisjoint({"httpx", "rich", "keyring", "pipedream", "pandas", "IPython", "nbformat", "genson"})


def test_every_package_imports_by_itself() -> None:
    """Every package can be imported first."""
    names = {
        f"pdkernel.{path.stem}"
        for path in (ROOT / "pdkernel").iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").is_file()
    }
    program = (
        "import gc, importlib, sys\n"
        "gc.disable()\n"  # a third of the time
        f"for name in {sorted(names)!r}:\n"
        "    for loaded in [each for each in sys.modules if each.partition('.')[0] == 'pdkernel']:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    """The package exports its version, the hooks of IPython and the Python API; each name exists and is listed by `dir`."""
    of_ipython = {"__version__", "load_ipython_extension", "unload_ipython_extension"}

    assert set(pdkernel.__all__) == of_ipython | set(api.__all__)
    assert all(getattr(pdkernel, name) is getattr(api, name) for name in api.__all__)
    assert set(pdkernel.__all__) <= set(dir(pdkernel))
    assert pdkernel.__version__ == VERSION
    with pytest.raises(AttributeError, match="module 'pdkernel' has no attribute 'launch'"):
        getattr(pdkernel, "launch")  # noqa: B009 (a type checker refuses `pdkernel.launch`)


def test_python_m_is_the_command() -> None:
    """`python -m pdkernel` is the command `pdkernel`."""
    done = subprocess.run(
        [sys.executable, "-m", "pdkernel", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert done.stdout.split()[-1] == VERSION
