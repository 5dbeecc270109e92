"""
Runs npm, and explains its failures.

An error message quotes at most one line of npm's output, without URLs, because URLs can contain passwords.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.errors import InterpreterMissingError, PackageInstallError

_NO_GIT = "pdkernel-uses-no-git"
_OPTIONS = (
    "--ignore-scripts",
    # a package may require others from elsewhere: npm runs what the .npmrc of a Git repository names, and reads files of this machine
    "--allow-git=none",
    "--allow-file=none",
    "--allow-directory=none",
    f"--git={_NO_GIT}",  # for older versions of npm: a program that does not exist
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--no-progress",
    "--omit=dev",
    "--package-lock",  # this option and the next two override the user's npm settings
    "--global=false",
    "--install-strategy=hoisted",
    "--omit-lockfile-registry-resolved",
    "--loglevel=silent",
    "--json",
    "--fetch-retries=1",  # a person waits: a missing network is reported within seconds
    "--fetch-retry-mintimeout=500",
    "--fetch-retry-maxtimeout=2000",
)
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+|\S+@\S+\.\S+/\S*", re.IGNORECASE)
_MISSING_PACKAGE = re.compile(r"'(@?[^'@\s]+@?[^']*)' (?:could not be found|is not in)")
_NO_VERSION = re.compile(r"^No (?:matching )?versions? (?:found|available) for (.+?)\.?(?:\n|$)")
_NETWORK_CODES = (
    "EAI_AGAIN EAI_FAIL ECONNABORTED ECONNREFUSED ECONNRESET EHOSTUNREACH ENETDOWN ENETUNREACH ENOTFOUND EPIPE "
    "ERR_SOCKET_TIMEOUT ETIMEDOUT FETCH_ERROR UND_ERR_CONNECT_TIMEOUT"
)
_NO_NETWORK = frozenset(_NETWORK_CODES.split())
_ACCESS_DENIED_CODES = frozenset({"E401", "E403", "ENEEDAUTH", "EOTP"})
_CERTIFICATE_CODE = re.compile(r"CERT|SELF_SIGNED|UNABLE_TO_(GET|VERIFY)")
_FOREIGN_CODES = frozenset({"EALLOWGIT", "EALLOWFILE", "EALLOWDIRECTORY"})
_GIT_FAILED = re.compile(r"\bgit error\b|\b" + _NO_GIT)
_DISK_FULL = frozenset({"ENOSPC", "EDQUOT"})
_PERMISSION_CODES = frozenset({"EACCES", "EPERM", "EROFS"})


class NpmFailedError(Exception):
    """
    npm failed.

    Attributes:
        code: Error code of npm or the system: `E404`, `ETARGET`, `ENOSPC`; or the empty string.
        summary: npm's message, one line without URLs; may be empty.
        missing_package: The package that does not exist, `name@range`, if npm names it; or the empty string.
    """

    def __init__(self, code: str, summary: str = "", detail: str = "") -> None:
        super().__init__(code)
        self.code = code
        found = _MISSING_PACKAGE.search(detail) or _NO_VERSION.search(summary)
        self.missing_package = found[1] if found else ""
        self.summary = _ADDRESS.sub("(URL removed)", summary.strip().split("\n")[0])[:300].rstrip(".")


async def run_npm(
    command: str,
    folder: Path,
    *,
    arguments: Sequence[str] = (),
    node: Path,
    environ: Mapping[str, str],
) -> bytes:
    """
    Run npm in *folder* and return its output, which is JSON. If the task is cancelled, npm is killed first.

    Args:
        command: `install`, `ci`, `view`, `pack`.
        folder: The folder with `package.json`.
        arguments: Arguments of the command.
        node: The Node.js whose npm is used.
        environ: Environment of npm, with the user's registry and proxy.

    Raises:
        NpmFailedError: npm failed.
        InterpreterMissingError: This Node.js has no npm.
    """
    argv = [str(node), str(find_npm(node, environ)), command, *arguments, *_OPTIONS]
    variables = {name: value for name, value in environ.items() if not name.startswith("PDKERNEL_")}
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env=variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    reading = asyncio.ensure_future(process.communicate())
    try:
        await asyncio.wait([reading])
        output, _ = reading.result()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(asyncio.wait([reading]))
        raise
    if process.returncode != 0:
        error = _error_in(output)
        raise NpmFailedError(*(str(error.get(name) or "") for name in ("code", "summary", "detail")))
    return output


def find_npm(node: Path, environ: Mapping[str, str]) -> Path:
    """
    Return the npm program of *node*.

    Raises:
        InterpreterMissingError: This Node.js has no npm.
    """
    for place in (node, node.resolve()):
        beside = place.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if beside.is_file():
            return beside
    for path in (str(node.parent), environ.get("PATH", os.defpath)):
        found = shutil.which("npm", path=path)
        if found and Path(found).resolve().suffix == ".js":
            return Path(found).resolve()
    raise InterpreterMissingError(
        f"Packages are installed with npm, but the Node.js in {node.parent} has no npm.",
        fix=INSTALL_COMMANDS["node"],
    )


def explain_failure(
    failure: NpmFailedError, wanted: Sequence[str], suggestion: Callable[[str], str]
) -> PackageInstallError:
    """
    Return the error for a person that explains *failure*.

    Args:
        failure: The failure of npm.
        wanted: The packages to install, as code imports them.
        suggestion: Returns a sentence with similar package names for a name, or the empty string.
    """
    cannot = f"{', '.join(wanted)} cannot be installed"
    code, package = failure.code, failure.missing_package
    name = re.sub(r"(?<=.)@.*", "", package, flags=re.DOTALL)
    near = [each for each in wanted if each == name or each.startswith(f"{name}@")]
    imported = next((each for each in near if each == package), near[0] if near else None)
    match code:
        case "E404" if package:
            return PackageInstallError(
                f"There is no npm package {name}."
                if imported
                else f"{cannot}: there is no npm package {name}, which is a dependency.",
                fix=(suggestion(name) or "Check the spelling of the name.")
                if imported
                else "Import another version of the package.",
                package=imported,
            )
        case "ETARGET" | "ENOVERSIONS" if package:
            return PackageInstallError(
                f"There is no version of the npm package {name} that is {package[len(name) + 1 :] or 'usable'}"
                + ("." if imported else f": {cannot}."),
                fix=f"`npm view {name} versions` lists the versions.",
                package=imported,
            )
        case "ERESOLVE":
            return PackageInstallError(
                f"{cannot} together: their dependencies conflict.",
                fix='Import other versions ("name@version"), or use them in different steps: each has its own.',
            )
        case "EINTEGRITY":
            return PackageInstallError(
                f"{cannot}: the package from the registry does not match the hash in the lock file.",
                fix="Ask the operator of your registry. If the change is intended, delete the lock file and run again.",
            )
    if code in _FOREIGN_CODES or _GIT_FAILED.search(failure.summary):
        return build_foreign_error(wanted)
    return _build_machine_error(code, cannot) or PackageInstallError(
        f"{cannot}: npm failed{f' with {code}' if code else ''}{f': {failure.summary}' if failure.summary else ''}.",
        fix=f"Run npm yourself: npm install {' '.join(wanted)}",
    )


def build_foreign_error(wanted: Sequence[str], package: str = "") -> PackageInstallError:
    """Return the error for a person if *package* (one of several if it is empty) is in a Git repository, or is a file of this machine."""
    return PackageInstallError(
        f"{', '.join(wanted)} cannot be installed: {package or 'a package that it requires'} is not from a registry, but from a Git"
        " repository or a folder. Its code would run during the installation.",
        fix="Use a version that requires packages of a registry only, or publish the package in a registry of your own.",
    )


def _build_machine_error(code: str, cannot: str) -> PackageInstallError | None:
    if code in _NO_NETWORK:
        return PackageInstallError(
            f"{cannot}: the npm registry does not respond ({code}).",
            fix="Check the network and npm's settings (registry, proxy), and run again.",
        )
    if code in _ACCESS_DENIED_CODES:
        return PackageInstallError(
            f"{cannot}: the npm registry refuses access ({code}).",
            fix="Log in with npm login, or check the token in your .npmrc.",
        )
    if _CERTIFICATE_CODE.search(code):
        return PackageInstallError(
            f"{cannot}: the npm registry's certificate is not trusted ({code}).",
            fix="Pass your organisation's certificates: npm config set cafile FILE, or NODE_EXTRA_CA_CERTS=FILE.",
        )
    if code in _DISK_FULL:
        return PackageInstallError(f"{cannot}: the disk is full.", fix="Free some space and run again.")
    if code in _PERMISSION_CODES:
        return PackageInstallError(
            f"{cannot}: permission to write the project's folder or npm's cache is denied ({code}).",
            fix="Make both writable and run again.",
        )
    return None


def build_disk_error(fault: OSError, wanted: Sequence[str]) -> PackageInstallError:
    """Return the error for a person if *fault* prevented pdkernel from writing a folder or the lock file."""
    code = errno.errorcode.get(fault.errno or 0, "")
    cannot = f"{', '.join(wanted)} cannot be installed"
    reason = (fault.strerror or type(fault).__name__).lower()
    return _build_machine_error(code, cannot) or PackageInstallError(f"{cannot}: {fault.filename}: {reason}.")


def _error_in(output: bytes) -> Mapping[str, Any]:
    # with --json, npm prints one object, or a part of it if npm was killed
    try:
        error = json.loads(output)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
