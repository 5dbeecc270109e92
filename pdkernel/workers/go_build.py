"""
Builds Go steps and caches the programs in the project: one program for each source and toolchain.

A program is written to a temporary name and renamed, so several processes may build the same step at once. What Go reports becomes an
error at the line of the cell: compile errors, missing modules, and panics. Messages about modules never contain the address of a proxy
or a credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pdkernel import runtimes
from pdkernel.errors import ExportNotJSONError, PackageInstallError, ProjectError, StepError
from pdkernel.language.analysis.go_code import HELPER_IMPORT_PATH, find_external_packages
from pdkernel.model import Step
from pdkernel.packages import measure_go_modules, report_each_second
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.runtimes.process_tree import PROCESS_TAG_VARIABLE
from pdkernel.workers.interpreters import GoToolchain, find_go
from pdkernel.workers.step_errors import StepCompileError
from pdkernel.workers.warden_client import WARDEN

STEP_MODULE = "step"
"""The module in which a step is compiled; a trace shows its name before the file name."""

_MAX_MESSAGE_LINES = 20
_PANIC_STATUS = 2
_PROGRESS = ("# ", "go: finding", "go: found", "go: downloading")
_SOURCE_LOCATION = re.compile(r"^(?:\./)?(?P<file>[^\s:]+\.go):(?P<line>\d+)(?::\d+)?: (?P<message>.*)", re.MULTILINE)
_PANIC = re.compile(
    r"^(?P<name>panic|fatal error): (?P<message>.*?)\n\n?(?:\[signal [^\n]*\n)?\n?goroutine ", re.MULTILINE | re.DOTALL
)
_FRAME = re.compile(rf"^(?P<call>\S.*)\n\t(?:{STEP_MODULE}/)(?P<file>[^\s:]+\.go):(?P<line>\d+)", re.MULTILINE)
_MISSING = re.compile(
    r"(?:cannot find module providing package |no required module provides package )(?P<package>[^\s:;]+)"
    r"|module (?P<module>[^\s:@]+\.[^\s:@]+)(?:@\S+)?: (?:reading |Get \"|no matching versions|git |invalid version)"
    r"|module \S+ found \(\S+\), but does not contain package (?P<inside>[^\s:;]+)"
    r"|(?P<versioned>[^\s:@]+\.[^\s:@]+)@\S+: (?:module lookup disabled|reading |Get \"|unrecognized import path|invalid version)"
)
_NO_NETWORK = re.compile(
    r"dial tcp|connection re(?:fused|set)|no such host|i/o timeout|TLS handshake|x509:|proxyconnect|"
    r"network is unreachable|context deadline exceeded|: EOF"
)
_UNRECOGNIZED_PATH = "unrecognized import path"
"""Go asked the host that the import path names; the path may be misspelt if this host does not answer."""


def parse_compile_error(output: str) -> StepCompileError:
    """Build the error of a failed build from the output of `go build`."""
    lines = [line.removeprefix("./") for line in output.strip().splitlines() if not line.startswith(_PROGRESS)]
    text = "\n".join(lines[:_MAX_MESSAGE_LINES]) or "go build failed without a message."
    location = _SOURCE_LOCATION.search(text)
    return StepCompileError(text, name="CompileError", line=int(location["line"]) if location else None)


def parse_panic(code: int, stderr: str) -> StepError | None:
    """Build the error of a panic from the end of *stderr*; None for an exit status that the step chose (`os.Exit`)."""
    found = _PANIC.search(stderr) if code == _PANIC_STATUS else None
    if found is None:
        return None
    message = found["message"].strip()
    trace = stderr[found.end() :]
    frames = list(_FRAME.finditer(trace.partition("\n\ngoroutine ")[0]))
    kind = ExportNotJSONError if message.startswith("pd.Export(") else StepError
    return kind(
        message,
        name=found["name"] if kind is StepError else "ExportNotJSONError",
        line=int(frames[0]["line"]) if frames else None,
        stack="\n".join(f"{frame['call']}\n\t{frame['file']}:{frame['line']}" for frame in frames) or None,
    )


def parse_module_error(output: str, *, install: bool, import_lines: Mapping[str, int]) -> PackageInstallError | None:
    """
    Build the error of a build that failed because of a missing module; None if it failed for another reason.

    Args:
        output: The output of `go build`.
        install: Whether downloads were allowed.
        import_lines: The packages of modules that the step imports, each with its line in the cell.
    """
    if not import_lines:
        return None
    if "checksum mismatch" in output:
        return PackageInstallError(
            f"{', '.join(import_lines)}: the registry's files do not match the checksums in the lock file. Nothing was installed.",
            fix="If you expect the change, delete the lines of these modules in pdkernel-go.sum, and run again.",
            line=min(import_lines.values()),
        )
    found = _MISSING.search(output)
    if found is None:
        return None
    wanted = next(group for group in found.groups() if group)
    package = next((path for path in import_lines if path == wanted or path.startswith(f"{wanted}/")), None)
    cannot = f"{package or ', '.join(import_lines)} cannot be installed"
    line = import_lines[package] if package else min(import_lines.values())
    if not install:
        return PackageInstallError(
            f"{cannot}: installation is off.",
            fix="Run the workflow once without --no-install to download the module.",
            package=package,
            line=line,
        )
    if _NO_NETWORK.search(output) and _UNRECOGNIZED_PATH not in output:
        return PackageInstallError(
            f"{cannot}: the Go module proxy cannot be reached.",
            fix="Check the network, GOPROXY and HTTPS_PROXY, and run again.",
            package=package,
            line=line,
        )
    if package is None:
        return PackageInstallError(
            f"{cannot}: the dependency {wanted} cannot be found or reached.",
            fix="Import another version, or check the network and GOPROXY.",
            line=line,
        )
    return PackageInstallError(
        f"The Go module {package} cannot be found or reached.",
        fix="Check the spelling of the import, the network, and GOPROXY (GOPRIVATE for a private module).",
        package=package,
        line=line,
    )


MAX_CACHED_PROGRAMS = 100
"""The number of cached programs, 2 to 10 MB each. Go itself removes entries of its cache after five days without use."""

GO_LOCK_NAME = "pdkernel-go.mod"
"""The lock file beside a project with the versions of the modules that steps import; `pdkernel-go.sum` has their hashes."""

_CONFINE = Path(runtimes.__file__).with_name("confine.py")
_BUILD_NAME, _MODULES_NAME = "build", "modules"
_NEEDED = frozenset({"PATH", "HOME", "LANG", "SYSTEMROOT"})
_HELPER_FOLDER = Path(runtimes.__file__).parent / "go" / "pd_module"
# parity[go-version]: the platform's documentation says Go 1.21.5; a newer Go compiles steps as that language
_GO_MOD = f"module {STEP_MODULE}\n\ngo 1.21\n"
_HELPER_LINES = re.compile(rf"^(?:require |replace )?\s*{re.escape(HELPER_IMPORT_PATH)} .*\n", re.MULTILINE)
_FLAGS = "-mod=mod -modcacherw -trimpath -buildvcs=false"
_NO_SPACE = os.strerror(errno.ENOSPC).lower()  # as in Go's messages
_LINK = "-s -w"  # no debug tables: linking is faster, and traces do not need them


class GoLock(NamedTuple):
    """
    The modules of Go steps, exactly.

    Attributes:
        mod: The text of `go.mod`: versions.
        sum: The text of `go.sum`: hashes.
    """

    mod: str
    sum: str


class GoBuildCache:
    """
    The compiled Go steps of one project.

    Args:
        folder: The folder of the cache: programs, Go's build cache, downloaded modules. All of it can be rebuilt.
        lock: The `go.mod` with the versions of the modules that steps import; its `go.sum` is beside it.
        environ: The environment in which `go` is found and run; `os.environ` by default.

    Attributes:
        folder: The folder of the cache.
        programs: The folder of the programs, which steps execute.
    """

    def __init__(self, folder: Path, *, lock: Path, environ: Mapping[str, str] | None = None) -> None:
        self.programs = folder / "programs"
        self.folder = folder
        self._lock = lock
        self._environ = os.environ if environ is None else environ
        self._building: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def build_program(
        self, step: Step, *, install: bool, report_progress: Callable[[str], None], lock: GoLock | None = None
    ) -> Path:
        """
        Return the program of *step*; compile it if it is not cached.

        Args:
            step: A Go step.
            install: Whether modules that it imports may be downloaded.
            report_progress: Called with a sentence before a slow build.
            lock: The modules that are used instead of those of the lock file, which is not changed; or None.

        Raises:
            InterpreterMissingError: Go is not installed.
            StepCompileError: The step does not compile.
            PackageInstallError: A module that it imports cannot be installed.
            ProjectError: The cache cannot be written.
        """
        go = find_go(self._environ)
        imported = find_external_packages(step.source)
        source = f"//line {step.name}.go:{step.line_offset + 1}:1\n{step.source}"
        try:
            if (program := self._find_cached(go, source, imported, lock)) is not None:
                return program
            async with self._building[source]:  # one build at a time in this process; other processes may build too
                if (program := self._find_cached(go, source, imported, lock)) is not None:
                    return program
                report_progress(self._announcement(step, imported))
                measure = functools.partial(
                    measure_go_modules, self.folder / _MODULES_NAME / "cache", f"compiling {step.name}.go"
                )
                async with report_each_second(measure, report_progress):
                    return await self._build(go, source, _import_lines(step, imported), lock, install=install)
        except OSError as error:
            raise ProjectError(
                f"Step {step.name} cannot be compiled: {error.strerror or error} ({self.folder}).",
                fix="Compiled steps are stored in the project's folder. Check its permissions and the free disk space.",
            ) from None

    def create_programs_folder(self) -> None:
        """Create `programs` if it is missing; users of steps enter it, whatever this process's umask is. Raises `OSError`."""
        self.programs.mkdir(parents=True, exist_ok=True)
        self.programs.chmod(0o755)

    def read_lock(self) -> GoLock:
        """Return the texts of the lock file."""
        return GoLock(*map(_text, self._lock_files()))

    def _find_cached(self, go: GoToolchain, source: str, imported: tuple[str, ...], lock: GoLock | None) -> Path | None:
        program = self.programs / self._key(go, source, imported, lock)
        try:
            os.utime(program)  # programs are removed in order of last use
        except FileNotFoundError:
            return None
        return program

    def _key(self, go: GoToolchain, source: str, imported: tuple[str, ...], lock: GoLock | None) -> str:
        parts = [
            go.version,
            _helper_digest(),
            _FLAGS,
            _LINK,
            *((lock or self.read_lock()) if imported else ()),
            source,
        ]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]

    def _lock_files(self) -> tuple[Path, Path]:
        return self._lock, self._lock.with_suffix(".sum")

    def _announcement(self, step: Step, imported: tuple[str, ...]) -> str:
        if not (self.folder / _BUILD_NAME).exists():
            return (
                f"compiling {step.name}.go: the first Go step of a project also compiles Go's own packages, "
                "which takes up to a minute; later builds take about a second"
            )
        return f"compiling {step.name}.go" + (f" with {', '.join(imported)}" if imported else "")

    async def _build(
        self, go: GoToolchain, source: str, lines: Mapping[str, int], lock: GoLock | None, *, install: bool
    ) -> Path:
        imported = tuple(lines)
        self.create_programs_folder()
        work = self.folder / f"work-{secrets.token_hex(8)}"
        work.mkdir(mode=0o700)
        try:
            _write_module(work, source, imported, lock or self.read_lock())
            status, output = 0, ""
            if imported:  # modules are downloaded with the user's own files, so nothing reads their code then
                command = [str(go.command), "list", "-deps", "-f", "", "."]
                status, output = await _run_go(command, work, self._environment(go, download=install))
            if status == 0:
                status, output = await _run_go(self._build_command(go, work), work, self._build_environment(go, work))
            if status != 0 and _NO_SPACE in output:
                raise OSError(errno.ENOSPC, _NO_SPACE)
            if status != 0:
                raise parse_module_error(output, install=install, import_lines=lines) or parse_compile_error(output)
            if imported and lock is None:
                self._update_lock(work)
            program = self.programs / self._key(go, source, imported, lock)
            (work / "program").chmod(0o755)
            (work / "program").replace(program)
        finally:
            remove_tree(work)
        self._trim()
        return program

    def _build_command(self, go: GoToolchain, work: Path) -> list[str]:
        """Return the command that compiles the module in *work*. Go code can include files, so it sees those of the build only."""
        program = go.root / "bin" / "go"
        command = [str(program if program.exists() else go.command), "build", "-ldflags", _LINK, "-o", "program", "."]
        if sys.platform != "linux":
            return command
        changed = [work, *(self.folder / name for name in (_BUILD_NAME, _MODULES_NAME))]
        for folder in changed:
            folder.mkdir(exist_ok=True)
        files = {"read": [*map(str, (go.root, _HELPER_FOLDER, Path(command[0]).parent))], "write": [*map(str, changed)]}
        return [sys.executable, "-I", "-S", str(_CONFINE), json.dumps(files), *command]

    def _build_environment(self, go: GoToolchain, work: Path) -> dict[str, str]:
        """Return the environment of a build, without what it has no use for: Go code can include its own environment, too."""
        temporary = work / "tmp"
        temporary.mkdir()
        needed = {"GOENV": "off", "GOTMPDIR": str(temporary), "TMPDIR": str(temporary)}
        found = self._environment(go, download=False)
        return {name: value for name, value in found.items() if name.startswith("GO") or name in _NEEDED} | needed

    def _environment(self, go: GoToolchain, *, download: bool) -> dict[str, str]:
        settings = {
            "CGO_ENABLED": "0",
            "GO111MODULE": "on",
            "GOCACHE": str(self.folder / _BUILD_NAME),
            "GOFLAGS": _FLAGS,
            "GOMODCACHE": str(self.folder / _MODULES_NAME),
            "GOROOT": str(go.root),
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        }
        if not download:
            settings["GOPROXY"] = "off"
        # a download runs no code, so it gets the user's own proxies, certificates and private modules
        foreign = ("GOOS", "GOARCH", "GOEXPERIMENT", "GODEBUG", PROCESS_TAG_VARIABLE)
        return {name: value for name, value in self._environ.items() if name not in foreign} | settings

    def _update_lock(self, work: Path) -> None:
        """Write the versions that Go chose into the lock file, so the next build uses them."""
        chosen = (_HELPER_LINES.sub("", _text(work / "go.mod")), _text(work / "go.sum"))
        for path, text in zip(self._lock_files(), chosen, strict=True):
            if text != _text(path):
                aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
                aside.write_text(text, encoding="utf-8")
                aside.replace(path)

    def _trim(self) -> None:
        """Remove the least recently used programs."""
        found = []
        for path in self.programs.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process trims too
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found, reverse=True)[MAX_CACHED_PROGRAMS:]:
            path.unlink(missing_ok=True)


def _import_lines(step: Step, imported: tuple[str, ...]) -> dict[str, int]:
    """Map each of *imported* to the line of the cell that imports it."""
    lines = step.source.split("\n")
    return {
        path: next((n for n, line in enumerate(lines, 1) if re.search(rf'["`]{re.escape(path)}["`]', line)), 1)
        + step.line_offset
        for path in imported
    }


def _write_module(work: Path, source: str, imported: tuple[str, ...], lock: GoLock) -> None:
    """Write the module of the step into *work*."""
    (work / "step.go").write_text(source, encoding="utf-8", errors="replace")
    if imported or '"net/http"' in source:
        # on macOS, Go does not read SSL_CERT_FILE from the environment
        (work / "rootca_darwin.go").write_text(f'package main\n\nimport _ "{HELPER_IMPORT_PATH}/rootca"\n')
    text, sums = lock if imported else ("", "")
    text = text or _GO_MOD
    folder = json.dumps(str(_HELPER_FOLDER))
    (work / "go.mod").write_text(
        f"{text}\nrequire {HELPER_IMPORT_PATH} v0.0.0\n\nreplace {HELPER_IMPORT_PATH} => {folder}\n", encoding="utf-8"
    )
    (work / "go.sum").write_text(sums, encoding="utf-8")


async def _run_go(command: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run *command*, and return its status and output. It ends when the task is cancelled or this process ends."""
    tag = secrets.token_hex(16)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**environment, PROCESS_TAG_VARIABLE: tag},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    WARDEN.register(process.pid, tag)
    try:
        output, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    finally:
        WARDEN.unregister(process.pid)
    assert process.returncode is not None
    return process.returncode, output.decode("utf-8", "replace")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


@functools.cache
def _helper_digest() -> str:
    files = sorted(path for path in _HELPER_FOLDER.rglob("*") if path.suffix in (".go", ".mod"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
