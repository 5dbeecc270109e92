"""
Runs pip, and explains its failures.

Messages contain neither addresses of registries nor credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pdkernel.analysis import PythonRequirement
from pdkernel.errors import PackageInstallError
from pdkernel.packages.python_lock import PYTHON_LOCK_NAME

ProgressCallback = Callable[[str], None]

_PROGRESS_LINE = re.compile(r"(Collecting|Downloading|Installing collected packages)\b")
_DROPPED_VARIABLES = frozenset(
    "PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_REPORT PIP_REQUIREMENT PIP_PYTHON PIP_QUIET PYTHONPATH PYTHONHOME".split()  # noqa: SIM905
)
_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|Failed to (?:establish|resolve)|name resolution|ConnectTimeoutError|"
    r"ReadTimeout|Read timed out|ProxyError|Connection (?:refused|reset|aborted)|Network is unreachable|SSLError"
)
_MISSING = re.compile(
    r"Could not find a version that satisfies the requirement (?P<name>[A-Za-z0-9._-]+)(?P<asked>[^ ]*)"
    r".*\(from versions: (?P<versions>[^)]*)\)"
)
_ADVICE_LINE = re.compile(r"To fix this|\d+\. |ERROR: ResolutionImpossible")
_URL = re.compile(r"\b[a-z+]+://\S+")
_MAX_ERROR_LINES = 8


class PythonInstallError(PackageInstallError):
    """
    Packages of Python steps cannot be installed.

    Attributes:
        failed_names: The requirements that caused the failure, as `PythonRequirement.name`; may be empty.
        retry_without_lock: Whether the versions of the lock file may be the cause, so that a retry without them can work.
    """

    def __init__(
        self, message: str, *, fix: str = "", failed_names: Iterable[str] = (), retry_without_lock: bool = False
    ) -> None:
        super().__init__(message, fix=fix)
        self.failed_names = frozenset(failed_names)
        self.retry_without_lock = retry_without_lock


class Pip:
    """
    pip for one environment.

    Args:
        python: The environment's interpreter. It needs no pip: the pip of this process is used.
        environ: Variables for pip: registries, proxies, cache.
        progress: Called with a line for each action of pip.
    """

    def __init__(self, python: Path, environ: Mapping[str, str], progress: ProgressCallback) -> None:
        self._python = python
        self._environ = {
            "PIP_RETRIES": "2",  # more retries only delay the error
            **{name: value for name, value in environ.items() if name not in _DROPPED_VARIABLES},
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "NO_COLOR": "1",
        }
        self._progress = progress

    async def install(self, arguments: Sequence[str], wanted: Sequence[PythonRequirement]) -> None:
        """
        Install packages, from wheels only: a source archive would run its code during the installation.

        Args:
            arguments: Arguments of `pip install`.
            wanted: The requirements, for messages.

        Raises:
            PythonInstallError: The installation failed.
        """
        wheels = ("--only-binary", ":all:", "--progress-bar", "off", "--no-compile")
        status, output = await self._run("install", *wheels, *arguments)
        if status:
            raise await self._explain(output, wanted)

    async def _explain(self, output: str, wanted: Sequence[PythonRequirement]) -> PythonInstallError:
        names = ", ".join(dict.fromkeys(requirement.specifier for requirement in wanted))
        if "No space left on device" in output:
            return PythonInstallError(
                f"{names} cannot be installed: the disk is full.", fix="Free some space and run again."
            )
        if _NO_NETWORK.search(output):
            return _no_network(names)
        if "DO NOT MATCH THE HASHES" in output:
            return PythonInstallError(
                f"{names} cannot be installed: the registry's files do not match the hashes in the lock file.\n"
                f"{_errors(output)}",
                fix=f"If the change is intended, delete the lines of these packages in {PYTHON_LOCK_NAME} and run again.",
            )
        if "ResolutionImpossible" in output or "conflicting dependencies" in output:
            return PythonInstallError(
                f"{names} cannot be installed together: all Python steps of a workflow share one environment.\n"
                f"{_errors(output)}",
                fix="Change the versions in `# pipedream add-package NAME==VERSION`.",
                retry_without_lock=True,
            )
        if match := _MISSING.search(output):
            return await self._missing(match, wanted)
        return PythonInstallError(f"{names} could not be installed:\n{_errors(output)}", retry_without_lock=True)

    async def _missing(self, match: re.Match[str], wanted: Sequence[PythonRequirement]) -> PythonInstallError:
        name, asked = match["name"], match["asked"]
        key = _canonical(name)
        blamed = [requirement for requirement in wanted if requirement.name == key]
        blamed = blamed or [requirement for requirement in wanted if requirement.name in _canonical(match[0])]
        names = [requirement.name for requirement in blamed]
        versions = [version.strip() for version in match["versions"].split(",")]
        here = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
        if versions != ["none"]:
            return PythonInstallError(
                f"The package {name} has no version {asked or 'that is compatible'} for {here}. "
                f"The latest: {', '.join(versions[-5:])}.",
                fix=f"Write a version that exists: # pipedream add-package {name}=={versions[-1]}",
                failed_names=names,
                retry_without_lock=True,
            )
        status, output = await self._run("index", "versions", "-vv", name)
        if status and _NO_NETWORK.search(output):  # without retries, `pip install` does not report a missing network
            return _no_network(name)
        if status == 0:
            return PythonInstallError(
                f"The package {name}{asked} has no wheel for {here} on this machine. A source archive is not installed, because "
                "that would run its code.",
                fix=f"If you trust the package, build a wheel: pip wheel --no-deps {name} -w FOLDER. Then set "
                "PIP_FIND_LINKS=FOLDER.",
                failed_names=names,
            )
        module = next((requirement.module for requirement in blamed if requirement.module), "")
        required_by = f", which `import {module}` requires" if module else ""
        return PythonInstallError(
            f"The registry has no package {name}{required_by}.",
            fix=f"If another package provides {module}, name it in the step: # pipedream add-package NAME"
            if module
            else f"Check the spelling of {name} in `# pipedream add-package`.",
            failed_names=names,
        )

    async def _run(self, *arguments: str) -> tuple[int, str]:
        """Run pip; returns its exit status and its output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "pip", "--python", str(self._python), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environ,
            start_new_session=True,
            limit=1 << 20,
        )
        assert process.stdout is not None
        lines: list[str] = []
        try:
            async for raw in process.stdout:
                line = raw.decode("utf-8", "replace").strip()
                lines.append(line)
                if _PROGRESS_LINE.match(line) and "://" not in line:
                    self._progress(line.partition(" (from ")[0])
            return await process.wait(), "\n".join(lines)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def _no_network(names: str) -> PythonInstallError:
    return PythonInstallError(
        f"{names} could not be installed: the package registry cannot be reached.",
        fix="Check the network, PIP_INDEX_URL and HTTPS_PROXY, and run again.",
    )


def _errors(output: str) -> str:
    """The lines of pip's output from its first error, without URLs."""
    lines = [line for line in output.splitlines() if line]
    first = next(
        (index for index, line in enumerate(lines) if line.startswith("ERROR:")), len(lines) - _MAX_ERROR_LINES
    )
    errors = [line for line in lines[max(first, 0) :] if not _ADVICE_LINE.match(line)][:_MAX_ERROR_LINES]
    return "\n".join(_URL.sub("(address)", line.removeprefix("ERROR: ")) for line in errors)


def _canonical(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()
