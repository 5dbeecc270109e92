"""
Runs uv, which resolves and installs Python packages, and explains its failures.

uv gets the registries, the proxy and the certificates that the user has configured for pip, in its variables and configuration files.
Messages contain neither addresses of registries nor credentials.
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from uv import find_uv_bin

from pdkernel.errors import PackageInstallError
from pdkernel.language.analysis import PythonRequirement
from pdkernel.language.analysis.python_requirements import normalize_name
from pdkernel.packages.install_progress import Measurement, ProgressCallback
from pdkernel.packages.python_lock import PYTHON_LOCK_NAME, Pin, format_pins, parse_pins

_DROPPED_VARIABLES = re.compile(
    r"PIP_|PYTHON|VIRTUAL_ENV$|UV_(?:BREAK_SYSTEM|BUILD_CONSTRAINT|COMPILE_BYTECODE|CUSTOM_COMPILE|EXCLUDE$|FORK_STRATEGY|"
    r"MANAGED|NO_BINARY|NO_BUILD|NO_MANAGED|NO_VERIFY_HASHES|OVERRIDE|PROJECT|PYTHON|REQUIRE_HASHES|NO_PROGRESS|RESOLUTION|"
    r"SYSTEM_PYTHON|WORKING_DIR)"
)
"""Variables that change what uv installs, how, or for which interpreter."""

_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
_SAME_VALUE = {"index-url": "UV_DEFAULT_INDEX", "client-cert": "SSL_CLIENT_CERT", "retries": "UV_HTTP_RETRIES"}


def map_pip_settings(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """
    Return the variables and the options with which uv uses the registries, the proxy and the certificates of pip.

    uv's own variables have precedence. An address, which may contain a password, is passed in a variable: other users of the
    machine can read options.
    """
    pip = _read_settings(environ)
    variables = {name: value for name, value in environ.items() if not _DROPPED_VARIABLES.match(name)}
    if any(variables.get(name) for name in _INDEX_VARIABLES):
        pip = {name: value for name, value in pip.items() if name not in ("index-url", "extra-index-url")}
    defaults = {
        "UV_HTTP_RETRIES": "2",  # more retries only delay the error
        "UV_LINK_MODE": "clone",  # where files cannot be cloned, uv makes hard links
        "UV_SYSTEM_CERTS": "1",
    }
    for variable in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):  # pip uses them; uv does not
        if bundle := environ.get(variable):
            defaults[_certificates_variable(bundle)] = bundle
    always = {"NO_COLOR": "1", "UV_NO_WRAP": "1", "UV_PYTHON_DOWNLOADS": "never"}
    if bundle := pip.get("cert"):
        always[_certificates_variable(bundle)] = bundle
    if proxy := pip.get("proxy"):
        always |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    options = ["--no-index"] if _is_on(pip.get("no-index", "")) else []
    return {**defaults, **dict(_map_settings(pip)), **variables, **always}, options


def _map_settings(pip: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables of uv for settings of pip that have such a variable."""
    for name, variable in _SAME_VALUE.items():
        if value := pip.get(name):
            yield variable, value
    if extra := pip.get("extra-index-url", "").split():
        yield "UV_INDEX", " ".join(extra)
        # as pip: the best version of all indexes; by default, uv takes a package only from the first index that has it
        yield "UV_INDEX_STRATEGY", "unsafe-best-match"
    if links := [_absolute(each) for each in pip.get("find-links", "").split()]:
        yield "UV_FIND_LINKS", ",".join(each for each in links if "://" in each or Path(each).is_dir())
    if constraints := pip.get("constraint", "").split():
        yield "UV_CONSTRAINT", " ".join(map(_absolute, constraints))
    if timeout := pip.get("timeout") or pip.get("default-timeout"):
        yield "UV_HTTP_TIMEOUT", timeout.partition(".")[0]  # pip's may have a fraction
    if hosts := pip.get("trusted-host", "").split():
        yield "UV_INSECURE_HOST", " ".join(hosts)
    if pip.get("keyring-provider") == "subprocess":
        yield "UV_KEYRING_PROVIDER", "subprocess"
    if _is_on(pip.get("pre", "")):
        yield "UV_PRERELEASE", "allow"
    if _is_on(pip.get("no-cache-dir", "")):
        yield "UV_NO_CACHE", "1"


def _read_settings(environ: Mapping[str, str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for file in _configuration_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue  # pip reports errors of its files
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def _configuration_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the configuration files of pip, those with precedence last."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    home = Path(environ.get("HOME") or "~").expanduser()
    is_mac = sys.platform == "darwin"
    if is_mac:
        yield Path("/Library/Application Support/pip/pip.conf")
    else:
        for each in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep):
            yield Path(each, "pip", "pip.conf")
        yield Path("/etc/pip.conf")
    if not (chosen and Path(chosen).exists()):
        yield home / ".pip" / "pip.conf"
        mac = home / "Library" / "Application Support" / "pip"
        folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip")
        yield (mac if is_mac and mac.is_dir() else folder) / "pip.conf"
    yield Path(sys.prefix, "pip.conf")
    if chosen:
        yield Path(chosen)


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _certificates_variable(place: str) -> str:
    return "SSL_CERT_DIR" if Path(place).is_dir() else "SSL_CERT_FILE"


def _is_on(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on", "y", "t")


_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
_REFUSED = re.compile(r"401 Unauthorized|403 Forbidden|407 Proxy Authentication Required")
_NO_NETWORK = re.compile(r"error sending request|dns error|tcp connect error|operation timed out|network was disabled")
_UNSATISFIABLE = "No solution found"
_DOWNLOAD = re.compile(r"Downloading (\S+) \(([\d.]+)\s*([KMG]iB)\)")
_DOWNLOADED = re.compile(r"\s*Downloaded (\S+)")
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MISSING = re.compile(r"\b([\w.-]+) was not found in the (?:package registry|provided package locations)")
_NO_WHEEL = re.compile(r"\b([\w.-]+?)(?:==\S+)? has no (?:usable )?wheels\b")
_OMITTED_TEXT = re.compile(
    r"^(?:error|cause|[\u00d7\u2570\u2500\u25b6\s]+):? *|No solution found when resolving dependencies:?"
    r"|,? we can conclude that your requirements are unsatisfiable"
)
_URL = re.compile(r"\b[a-z+]+://\S+")
_MAX_ERROR_LINES = 8


class PythonInstallError(PackageInstallError):
    """
    Packages of Python steps cannot be installed.

    Attributes:
        failed_names: The requirements that caused the failure, as `PythonRequirement.name`; may be empty.
    """

    def __init__(self, message: str, *, fix: str = "", failed_names: Iterable[str] = ()) -> None:
        super().__init__(message, fix=fix)
        self.failed_names = frozenset(failed_names)


class UnsatisfiableError(PythonInstallError):
    """The registry has no versions or files that suit."""


class Uv:
    """
    uv for one installation. It uses wheels only: a source archive would run its code during the installation.

    Args:
        environ: Variables with the user's settings: registries, proxies, certificates, cache.
        folder: An existing folder for requirements files.
        wanted: The requirements, for messages.
        progress: Called with a line for each resolution and each large download.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        folder: Path,
        wanted: Sequence[PythonRequirement],
        progress: ProgressCallback,
    ) -> None:
        self._environ, self._options = map_pip_settings(environ)
        constraints = self._environ.pop("UV_CONSTRAINT", "")  # only for resolutions: constraints have no hashes
        self._constraints = constraints.split()
        self._folder = folder
        self._wanted = wanted
        self._progress = progress
        self._stage = "preparing an environment"
        self._sizes: dict[str, int] = {}  # bytes of large downloads
        self._downloaded: set[str] = set()

    async def resolve(
        self,
        wanted: Iterable[PythonRequirement],
        *,
        preferred: Iterable[Pin] = (),
        required: Iterable[Pin] = (),
        is_universal: bool,
    ) -> tuple[Pin, ...]:
        """
        Return the versions and hashes of the packages that *wanted* requires.

        Args:
            wanted: The requirements.
            preferred: Versions that are used if the requirements allow them.
            required: Versions of which no other version is used.
            is_universal: Whether the result serves each platform, and this version of Python and later ones.

        Raises:
            UnsatisfiableError: No versions suit.
            PythonInstallError: The registry cannot be read.
        """
        specifiers = list(dict.fromkeys(requirement.specifier for requirement in wanted))
        self._start_stage(f"resolving {', '.join(specifiers)}")
        self._progress(f"{self._stage} ...")
        status, output, pins = await self._compile(
            specifiers, preferred=preferred, required=required, is_universal=is_universal
        )
        if status and is_universal and _UNSATISFIABLE in output:
            raise UnsatisfiableError("No versions suit each platform.")
        if status:
            raise await self._explain(output)
        return pins

    async def install(self, pins: Iterable[Pin], python: Path) -> None:
        """
        Install exactly *pins* into the environment of the interpreter *python*.

        Raises:
            UnsatisfiableError: A package has no file for this machine.
            PythonInstallError: The installation failed.
        """
        pins = tuple(pins)
        self._start_stage(f"installing {', '.join(pin.name for pin in pins)}")
        file = self._write("installed.txt", format_pins(pins))
        status, output = await self._run("sync", file, "--require-hashes", "--python", str(python))
        if status:
            raise await self._explain(output)

    def measure(self) -> Measurement:
        """Return what uv does, and how much of its large downloads is complete."""
        sizes, downloaded = dict(self._sizes), set(self._downloaded)
        if not sizes:
            return Measurement(self._stage)
        return Measurement(
            f"downloading {', '.join(name for name in sizes if name not in downloaded) or 'packages'}",
            "large package",
            done=len(downloaded),
            total=len(sizes),
            done_bytes=sum(sizes[name] for name in downloaded),
            total_bytes=sum(sizes.values()),
        )

    def _start_stage(self, stage: str) -> None:
        self._stage = stage
        self._sizes, self._downloaded = {}, set()

    async def _compile(
        self,
        specifiers: Iterable[str],
        *,
        preferred: Iterable[Pin] = (),
        required: Iterable[Pin] = (),
        is_universal: bool = False,
    ) -> tuple[int, str, tuple[Pin, ...]]:
        source = self._write("wanted.txt", "".join(f"{each}\n" for each in specifiers))
        pinned = "".join(f"{pin.requirement}\n" for pin in required)
        files = [self._write("constraints.txt", pinned)] if pinned else self._constraints
        constraints = [word for file in files for word in ("--constraints", file)]
        resolved = self._write("resolved.txt", "".join(f"{pin.requirement}\n" for pin in preferred))  # uv prefers these
        status, output = await self._run(
            *("compile", source, *constraints, "--output-file", resolved, "--python", sys.executable),
            *("--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-header"),
            *(("--universal", "--python-version", _PYTHON) if is_universal else ()),
        )
        try:
            return status, output, () if status else parse_pins(Path(resolved).read_text(encoding="utf-8"))
        except ValueError as error:
            raise PythonInstallError(
                f"The packages cannot be installed: {error}.", fix="Use a registry that publishes SHA-256 hashes."
            ) from None

    def _write(self, name: str, text: str) -> str:
        file = self._folder / name
        file.write_text(text, encoding="utf-8")
        return str(file)

    async def _explain(self, output: str) -> PythonInstallError:
        text = " ".join(output.split())
        names = ", ".join(dict.fromkeys(requirement.specifier for requirement in self._wanted))
        if "No space left on device" in text:
            return UnsatisfiableError(
                f"{names} cannot be installed: the disk is full.", fix="Free some space and run again."
            )
        if refused := _REFUSED.search(text):
            return UnsatisfiableError(
                f"{names} cannot be installed: the package registry answered {refused[0]}.",
                fix="Check the user name and the password in PIP_INDEX_URL, pip.conf or .netrc, and run again.",
            )
        if _NO_NETWORK.search(text):
            return PythonInstallError(
                f"{names} could not be installed: the package registry cannot be reached.",
                fix="Check the network, PIP_INDEX_URL and HTTPS_PROXY, and run again.",
            )
        if "Hash mismatch" in text:
            return PythonInstallError(
                f"{names} cannot be installed: the registry's files do not match the hashes in the lock file.\n"
                f"{_errors(output)}",
                fix=f"If the change is intended, delete the lines of these packages in {PYTHON_LOCK_NAME} and run again.",
            )
        if _UNSATISFIABLE in text:
            return await self._explain_resolution(output, text)
        return PythonInstallError(f"{names} could not be installed:\n{_errors(output)}")

    async def _explain_resolution(self, output: str, text: str) -> PythonInstallError:
        words = {normalize_name(word) for word in re.findall(r"[A-Za-z0-9][\w.-]*", text)}
        blamed = [requirement for requirement in self._wanted if requirement.name in words]
        failed = [requirement.name for requirement in blamed]
        if missing := _MISSING.search(text):
            return _missing(missing[1], blamed)
        if len(blamed) == 1 and blamed[0].version and (latest := await self._find_latest(blamed[0])):
            name = re.split(r"[\[=~!<>]", blamed[0].specifier, maxsplit=1)[0]
            return PythonInstallError(
                f"The package {name} has no version {blamed[0].version} for Python {_PYTHON} on this machine. The latest that "
                f"can be installed: {latest}.\n{_errors(output)}",
                fix=f"Write a version that can be installed: # pipedream add-package {name}=={latest}",
                failed_names=failed,
            )
        if without := _NO_WHEEL.search(text):
            return UnsatisfiableError(
                f"The package {without[1]} has no wheel for Python {_PYTHON} on this machine. A source archive is not "
                f"installed, because that would run its code.",
                fix=f"If you trust the package, build a wheel: pip wheel --no-deps {without[1]} -w FOLDER. Then set "
                "PIP_FIND_LINKS=FOLDER.",
                failed_names=failed,
            )
        names = ", ".join(requirement.specifier for requirement in blamed or self._wanted)
        together = " together: all Python steps of a workflow share one environment." if len(failed) > 1 else ":"
        return PythonInstallError(
            f"{names} cannot be installed{together}\n{_errors(output)}",
            fix="Change the versions in `# pipedream add-package NAME==VERSION`.",
            failed_names=failed,
        )

    async def _find_latest(self, requirement: PythonRequirement) -> str:
        """Return the latest version that can be installed on this machine; empty if there is none."""
        _, _, pins = await self._compile([requirement.specifier.removesuffix(requirement.version)])
        return next((pin.version for pin in pins if pin.name == requirement.name), "")

    async def _run(self, *arguments: str) -> tuple[int, str]:
        """Run `uv pip`; returns its exit status and its output."""
        command = (find_uv_bin(), "pip", *arguments, "--only-binary", ":all:", *self._options)
        return await run_command(command, self._environ, self.read_line)

    def read_line(self, line: str) -> None:
        """Read a line of uv's output, for the progress of downloads."""
        if match := _DOWNLOAD.match(line):
            self._sizes[match[1]] = int(float(match[2]) * _UNITS[match[3]])
            self._progress(f"downloading {match[1]} ({match[2]} {match[3]}) ...")
        elif (match := _DOWNLOADED.match(line)) and match[1] in self._sizes:
            self._downloaded.add(match[1])


async def run_command(
    command: Sequence[str], environ: Mapping[str, str], report: Callable[[str], None] = lambda _: None
) -> tuple[int, str]:
    """Run *command*, and return its exit status and what it wrote to stderr, whose lines *report* receives."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        cwd="/",  # uv reads no settings of a project
        start_new_session=True,
        limit=1 << 20,
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        async for raw in process.stderr:
            lines.append(raw.decode("utf-8", "replace").rstrip())
            report(lines[-1])
        return await process.wait(), "\n".join(lines)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _missing(name: str, blamed: Sequence[PythonRequirement]) -> PythonInstallError:
    module = next((requirement.module for requirement in blamed if requirement.module), "")
    required_by = f", which `import {module}` requires" if module else ""
    return PythonInstallError(
        f"The registry has no package {name}{required_by}.",
        fix=f"If another package provides {module}, name it in the step: # pipedream add-package NAME"
        if module
        else f"Check the spelling of {name} in `# pipedream add-package`.",
        failed_names=[requirement.name for requirement in blamed],
    )


def _errors(output: str) -> str:
    """Return the lines of uv's explanation, without URLs."""
    lines = output.splitlines()
    first = next((index for index, line in enumerate(lines) if line.startswith("error:")), 0)
    texts = (_OMITTED_TEXT.sub("", line.strip()).strip() for line in lines[first:] if not line.startswith("hint:"))
    return "\n".join(_URL.sub("(address)", text) for text in list(filter(None, texts))[:_MAX_ERROR_LINES])
