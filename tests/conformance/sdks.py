"""
The official SDKs, unmodified: installed from their registries at test time and cached.

Every test run checks the releases in `GATE`; `make conformance` checks those in `EVERY`, or any other release.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from pdkernel.packages.npm_command import find_npm
from pdkernel.packages.uv_command import map_pip_settings
from pdkernel.workers.interpreters import find_node

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("PDKERNEL_SDK_CACHE") or Path(__file__).parents[2] / ".venv" / "sdks")


@dataclass(frozen=True)
class Sdk:
    """
    A release of an SDK.

    Attributes:
        package: The name of the package.
        version: The version of the release.
        driver: The program that runs the checks.
        tls: Whether the SDK requires TLS.
    """

    package: str
    version: str
    driver: str
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def drops_bodies(self) -> bool:
        """Whether errors of workflows have the status only (as in 2.5.0 and 3.1.6)."""
        return self.driver == "drive_node_3.mjs"

    @property
    def folder(self) -> Path:
        """The folder of the installation."""
        return CACHE / f"{self.package.replace('/', '+')}-{self.version}"

    def command(self) -> list[str]:
        """The command of the driver, with the path of the SDK."""
        driver = HERE / self.driver
        if driver.suffix == ".py":
            return [sys.executable, "-I", str(driver), str(self.folder)]
        # a module resolves packages from its own folder
        copy = self.folder / f"{driver.stem}-{os.getpid()}{driver.suffix}"
        shutil.copy(driver, copy)
        copy = copy.replace(self.folder / driver.name)  # atomically: another process may read the file
        return [str(find_node()), str(copy)]

    def install(self) -> None:
        """Install the SDK if it is missing."""
        with _alone(CACHE / ".lock"):
            if (self.folder / "installed").exists():
                return
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            name = (
                f"{self.package}=={self.version}" if self.driver.endswith(".py") else f"{self.package}@{self.version}"
            )
            if self.driver.endswith(".py"):
                environ, options = map_pip_settings(os.environ)  # pip would also compile modules that no check imports
                uv = [find_uv_bin(), "pip", "install", "--quiet", "--python", sys.executable, *options]
                _run([*uv, "--target", str(self.folder), name], environ)
            else:
                node = find_node()
                npm = [str(node), str(find_npm(node, os.environ)), "install", "--no-audit", "--no-fund"]
                _run([*npm, "--ignore-scripts", "--no-package-lock", "--prefix", str(self.folder), name])
            (self.folder / "installed").touch()


def _run(command: list[str], environ: Mapping[str, str] | None = None) -> None:
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _python(version: str) -> Sdk:
    return Sdk("pipedream", version, "drive_python.py")


def _node(version: str) -> Sdk:
    one = version.startswith("1.")
    return Sdk("@pipedream/sdk", version, "drive_node_1.mjs" if one else "drive_node_3.mjs", tls=one)


GATE = (_python("2.3.0"), _python("1.1.12"), _node("3.1.6"), _node("1.8.0"))
NEWEST = (GATE[0], GATE[2])
"""One release for each language: what lies behind an address is the same for all."""
EVERY = (*GATE, _python("2.1.20"), _python("2.0.5"), _python("1.1.11"), _node("2.5.0"), _node("1.6.0"), _node("1.0.7"))


def selected_sdks(words: Sequence[str]) -> list[Sdk]:
    """The SDKs of `EVERY` whose names contain one of *words*, all without words, or other releases such as `pipedream==2.2.0`."""
    named = [_release(word) for word in words]
    known = [sdk for sdk in EVERY if not words or any(word in str(sdk) for word in words)]
    return known + [sdk for sdk in named if sdk is not None and sdk not in known]


def _release(word: str) -> Sdk | None:
    python, _, version = word.partition("==")
    if python == "pipedream" and version:
        return _python(version)
    scope, _, version = word.removeprefix("@").partition("@")
    return _node(version) if scope == "pipedream/sdk" and version else None
