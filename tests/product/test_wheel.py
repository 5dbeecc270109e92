"""The wheel: built from an archive, installed into an environment of its own, used from an empty folder."""

from __future__ import annotations

import email
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from build import ProjectBuilder
from packaging.requirements import Requirement

from pdkernel.common.version import INSTALL_COMMANDS, VERSION

pytestmark = pytest.mark.timeout(300)  # what takes seconds may take minutes on a busy machine

ROOT = Path(__file__).parents[2]
NOT_IN_AN_ARCHIVE = shutil.ignore_patterns(
    ".git", ".venv", ".pdkernel", ".*_cache", ".hypothesis", "__pycache__", "dist", "build", "_build"
)
SHARED = f"pdkernel-{VERSION}.data/data/share/jupyter"
NEEDED = {
    "pdkernel/__main__.py",
    "pdkernel/py.typed",
    "pdkernel/runtimes/node/main.mjs",
    "pdkernel/runtimes/node/start.mjs",
    "pdkernel/runtimes/node/egress_hook.mjs",
    "pdkernel/runtimes/warden.py",
    "pdkernel/files/definition/pdkernel.schema.json",
    "pdkernel/cli/labconfig/default_setting_overrides.json",
    "pdkernel/cli/templates/new.ipynb",
    "pdkernel/annex/migration/templates/dump_step.mjs",
    "pdkernel/cli/templates/quickstart.ipynb",
    "pdkernel/cli/templates/events/issues-opened.json",
    "pdkernel/cli/templates/events/LICENSE",
    f"{SHARED}/kernels/pdkernel/kernel.json",
    f"{SHARED}/kernels/pdkernel/logo-svg.svg",
    f"{SHARED}/labextensions/pdkernel/package.json",
    f"{SHARED}/labextensions/pdkernel/static/remoteEntry.js",
    f"pdkernel-{VERSION}.dist-info/licenses/LICENSE",
}
WATCH = """
import os, sys
def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith({checkout!r}) and not path.startswith({libraries!r}):
            descriptor = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, path.encode() + b"\\n")
            os.close(descriptor)
sys.addaudithook(watch)
"""
"""Records the files of the checkout that a Python program of the environment opens."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it."""

    prefix: Path
    log: Path

    def run(self, folder: Path, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in *folder*, with `PATH` as the only inherited variable."""
        return subprocess.run(
            [self.prefix / "bin" / program, *args],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "PDKERNEL_EGRESS": "stand-in=slack"},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )

    def read_in_the_checkout(self) -> list[str]:
        """The files of the checkout that programs have opened so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without Git."""
    folder = tmp_path_factory.mktemp("archive")
    shutil.copytree(ROOT, folder / "pdkernel", ignore=NOT_IN_AN_ARCHIVE)
    return Path(ProjectBuilder(folder / "pdkernel").build("wheel", folder / "dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a fresh environment, with this environment's libraries but without this checkout."""
    prefix = tmp_path_factory.mktemp("installed")
    log = prefix / "read.log"
    venv.create(prefix, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(prefix / "bin" / "python")]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(prefix)}))
    libraries = sysconfig.get_path("purelib")
    # a path in a .pth file adds the packages of that folder, but not the .pth files in it (this checkout)
    (packages / "libraries.pth").write_text(f"{libraries}\nimport watch_checkout\n")
    (packages / "watch_checkout.py").write_text(
        WATCH.format(checkout=f"{ROOT}{os.sep}", libraries=sys.prefix, log=str(log))
    )
    return Installed(prefix, log)


def test_wheel_has_the_required_files(wheel: Path) -> None:
    """The wheel contains the files that steps, notebooks and Jupyter need."""
    assert set(zipfile.ZipFile(wheel).namelist()) >= NEEDED


def test_hints_name_the_packages_of_the_extras(wheel: Path) -> None:
    """The commands that messages show install what the wheel's extras require, and do not name pdkernel."""
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(f"pdkernel-{VERSION}.dist-info/METADATA"))
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist") or ()]
    extras = {
        extra: {
            (each.name, tuple(sorted(each.extras)), each.specifier)
            for each in required
            if each.marker is not None
            and not each.marker.evaluate({"extra": ""})
            and each.marker.evaluate({"extra": extra})
        }
        for extra in INSTALL_COMMANDS
    }

    named = {
        extra: {
            (each.name, tuple(sorted(each.extras)), each.specifier)
            for each in map(Requirement, shlex.split(command.removeprefix("pip install ")))
        }
        for extra, command in INSTALL_COMMANDS.items()
    }
    assert named == extras


def test_no_text_names_the_package_without_its_place() -> None:
    """No message, page or notebook installs pdkernel by its bare name, which no index has."""
    bare = re.compile(
        r"""(?:pip install|uv add|uv tool install|uvx|pipx run|--from)(?:\s+--?[\w-]+)*\s+['"]?pdkernel\b"""
    )
    texts = [path for folder in ("pdkernel", "docs", "notebooks") for path in (ROOT / folder).rglob("*")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in [*texts, ROOT / "README.md", ROOT / "Makefile", ROOT / "CONTRIBUTING.md"]
        if path.suffix in (".py", ".md", ".ipynb", ".json", ".yaml", "")
        and path.is_file()
        and "_build" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if bare.search(line)
    ]

    assert found == []


def test_make_shows_the_steps_of_an_installation(wheel: Path, tmp_path: Path) -> None:
    """The command of `make lab` prints a line for each step with a count; the output of a pip that fails is shown."""
    command = [sys.executable, "-I", "tests/install_progress.py", "--no-index", "--target", str(tmp_path / "site")]

    done = subprocess.run([*command, "--no-deps", str(wheel)], cwd=ROOT, capture_output=True, text=True, check=True)
    failed = subprocess.run([*command, "no-such-package"], cwd=ROOT, capture_output=True, text=True, check=False)

    # a step that takes long has lines while it runs, too
    ends = [re.sub(r"  \d+ s$", "", line) for line in done.stdout.splitlines() if not line.endswith(" ...")]
    assert ends == [
        "[1/3] Read what is required",
        "[2/3] Find and download packages  0",
        "[3/3] Install packages  1 of 1",
    ]
    assert (tmp_path / "site" / "pdkernel").is_dir()
    assert failed.returncode == 1
    assert "No matching distribution found for no-such-package" in failed.stderr


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """The wheel contains every file of the package, and no tests and notebooks."""
    of_package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pdkernel").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = zipfile.ZipFile(wheel).namelist()

    assert {name for name in names if name.startswith("pdkernel/")} == of_package
    assert {name.split("/")[0] for name in names} == {
        "pdkernel",
        f"pdkernel-{VERSION}.data",
        f"pdkernel-{VERSION}.dist-info",
    }


def test_the_installed_package_is_imported(installed: Installed, tmp_path: Path) -> None:
    """The environment's own copy is imported, with the checkout's version."""
    where = installed.run(tmp_path, "python", "-c", "import pdkernel; print(pdkernel.__file__)")
    version = installed.run(tmp_path, "pdkernel", "--version")

    assert where.stdout.startswith(str(installed.prefix))
    assert version.stdout.split()[-1] == VERSION


def test_demo_runs_from_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    """`pdkernel demo` succeeds and leaves the folder unchanged."""
    ended = installed.run(tmp_path, "pdkernel", "demo")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "7. Export" in ended.stdout
    assert "notify/entry.js" in ended.stdout
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert installed.read_in_the_checkout() == []


def test_new_notebook_runs_from_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    """`pdkernel new` and then the command that it names return a response."""
    made = installed.run(tmp_path, "pdkernel", "new", "hello")
    ran = installed.run(tmp_path, "pdkernel", "run", "hello.ipynb", "--event", "events/issues-opened.json", "--json")

    assert made.returncode == 0, made.stderr
    assert "pdkernel run hello.ipynb --event events/issues-opened.json" in made.stdout
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads(ran.stdout)["response"]["status"] == 200
    assert installed.read_in_the_checkout() == []


def test_doctor_finds_the_kernel(installed: Installed, tmp_path: Path) -> None:
    """Jupyter finds the kernel and the Lab extension of the wheel."""
    ended = installed.run(tmp_path, "pdkernel", "doctor", "--json")

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["machine"]["kernel"] == "installed"
    assert (installed.prefix / "share/jupyter/labextensions/pdkernel/package.json").is_file()
    assert installed.read_in_the_checkout() == []


def test_reading_the_checkout_is_recorded(installed: Installed, tmp_path: Path) -> None:
    """A program of the environment that opens a file of the checkout is recorded."""
    watched = installed.log.with_name("control.log")
    program = (installed.prefix / "control.py").resolve()
    program.write_text(WATCH.format(checkout=f"{ROOT}{os.sep}", libraries=sys.prefix, log=str(watched)))

    installed.run(tmp_path, "python", "-c", f"exec(open({str(program)!r}).read()); open({str(ROOT / 'LICENSE')!r})")

    assert watched.read_text().split() == [str(ROOT / "LICENSE")]
