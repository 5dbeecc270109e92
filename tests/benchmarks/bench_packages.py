"""
Installation and first import of pandas, compared with pip, with empty caches and with full ones.

Prints figures and ratios of one run; the packages come from this machine's registry. `python tests/benchmarks/bench_packages.py`
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

from pdkernel.language.analysis import PythonRequirement
from pdkernel.packages import PYTHON_LOCK_NAME, PythonPackages

ROUNDS = 3


def import_it(python: Path) -> None:
    """The first import, in a process of its own."""
    subprocess.run([python, "-I", "-c", "import pandas"], check=True)


def with_pip(folder: Path, environ: Mapping[str, str]) -> float:
    """Seconds with pip, which compiles nothing: the import compiles what it loads."""
    began = time.perf_counter()
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-I", "-m", "pip", "--python", str(python), "install", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*pip, "--no-compile", "--disable-pip-version-check", "pandas"], env=environ, check=True)
    import_it(python)
    return time.perf_counter() - began


def with_pdkernel(folder: Path, environ: Mapping[str, str]) -> float:
    """Seconds with the environments of a new project."""

    async def install() -> float:
        packages = PythonPackages(folder / "python", lock=folder / PYTHON_LOCK_NAME, environ=environ)
        began = time.perf_counter()
        environment = await packages.ensure(
            [PythonRequirement("pandas", "pandas")], install=True, progress=lambda _: None
        )
        import_it(environment.python)
        return time.perf_counter() - began

    folder.mkdir()
    return asyncio.run(install())


def main() -> None:
    """Measure in turns, and print the figures."""
    figures: dict[tuple[str, str], list[float]] = {}
    ways: dict[str, Callable[[Path, Mapping[str, str]], float]] = {"pip": with_pip, "pdkernel": with_pdkernel}
    for _ in range(ROUNDS):
        for way, measure in ways.items():
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                caches = {"PIP_CACHE_DIR": "pip", "UV_CACHE_DIR": "uv", "XDG_CACHE_HOME": "other"}
                environ = {**os.environ, **{variable: str(folder / cache) for variable, cache in caches.items()}}
                for state in ("empty caches", "full caches"):
                    figures.setdefault((state, way), []).append(measure(folder / state, environ))
    for state in ("empty caches", "full caches"):
        pip, ours = (statistics.median(figures[state, way]) for way in ways)
        print(f"pip, {state}       {pip:7.2f} s")
        print(f"pdkernel, {state}  {ours:7.2f} s   {pip / ours:.2f} x faster (goal >= 3)")


if __name__ == "__main__":
    main()
