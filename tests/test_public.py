"""What the package shows to the outside, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pdkernel
from pdkernel.version import VERSION

ROOT = Path(__file__).parents[1]
NEVER = ("pandas", "pipedream", "dbos", "starlette")
"""Not even asked for by importing anything of ours."""
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


def imported_by(program: str) -> set[str]:
    """The top-level modules that a fresh Python has after *program*."""
    code = f"import sys\n{program}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_the_package_is_light() -> None:
    """`import pdkernel` brings none of the libraries that take time."""
    assert imported_by("import pdkernel").isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["pdkernel.kernel", "pdkernel.cli.lab"])
def test_starting_points_are_light(module: str) -> None:
    """Nor do the modules that a program starts with."""
    assert imported_by(f"import {module}").isdisjoint(set(HEAVY) - {"click"})


def test_command_waits_with_what_it_may_not_need() -> None:
    """Loading every command imports none of the libraries that only some need."""
    loaded = imported_by("import pdkernel.cli.commands")

    assert loaded.isdisjoint(set(HEAVY) - {"click"})


def test_loading_the_extension_is_light() -> None:
    """`%load_ext pdkernel` in a shell brings no pandas, no widgets, no database."""
    added = imported_by(LOAD)

    assert "pdkernel" in added
    assert added.isdisjoint({*NEVER, "ipywidgets", "jupyterlab", "sqlalchemy", "httpx", "nbformat", "genson"})


def test_what_answers_requests_brings_no_client() -> None:
    """The endpoint answers before anything is loaded that only calls of its own need: that is a third of its start."""
    added = imported_by("import pdkernel.server, pdkernel.server.uvicorn_server, pdkernel.engine.workflow_engine")

    assert "starlette" in added
    assert added.isdisjoint({"httpx", "rich", "keyring", "pipedream", "pandas", "IPython", "nbformat", "genson"})


def test_every_room_imports_by_itself() -> None:
    """No room needs another to have been imported before it."""
    rooms = {
        f"pdkernel.{path.stem}"
        for path in (ROOT / "pdkernel").iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").is_file()
    }
    program = (
        "import importlib, sys\n"
        f"for name in {sorted(rooms)!r}:\n"
        "    for loaded in [each for each in sys.modules if each.partition('.')[0] == 'pdkernel']:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_public_names() -> None:
    """The package offers what IPython asks for and its version, and nothing else."""
    assert sorted(pdkernel.__all__) == ["__version__", "load_ipython_extension", "unload_ipython_extension"]
    assert pdkernel.__version__ == VERSION


def test_python_m_is_the_command() -> None:
    """`python -m pdkernel` is `pdkernel`."""
    done = subprocess.run(
        [sys.executable, "-m", "pdkernel", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert done.stdout.split()[-1] == VERSION
