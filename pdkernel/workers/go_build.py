"""
Compiled Go steps: built once for a source and a toolchain, kept in the project.

Knows `go build` and the cache. A program is written aside and renamed into place, so any number of processes may build
the same step at once. Knows nothing of running it.
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
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from pdkernel import runtimes
from pdkernel.analysis.go_code import HELPER_IMPORT_PATH, find_external_packages
from pdkernel.errors import ProjectError
from pdkernel.model import Step
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.runtimes.process_tree import PROCESS_TAG_VARIABLE
from pdkernel.workers.go_errors import STEP_MODULE, parse_compile_error
from pdkernel.workers.go_modules import parse_module_error
from pdkernel.workers.interpreters import GoToolchain, find_go
from pdkernel.workers.warden_client import WARDEN

MAX_CACHED_PROGRAMS = 100
"""Compiled steps that are kept, 2 to 10 MB each; Go itself removes from its cache what was not used for five days."""

GO_LOCK_NAME = "pdkernel-go.mod"
"""The file beside a project that holds the versions of the modules that its steps import; `pdkernel-go.sum` their hashes."""

_HELPER_FOLDER = Path(runtimes.__file__).parent / "go" / "pd_module"
# parity[go-version]: the platform's documentation says Go 1.21.5; a newer Go compiles steps as that language
_GO_MOD = f"module {STEP_MODULE}\n\ngo 1.21\n"
_HELPER_LINES = re.compile(rf"^(?:require |replace )?\s*{re.escape(HELPER_IMPORT_PATH)} .*\n", re.MULTILINE)
_FLAGS = "-mod=mod -modcacherw -trimpath -buildvcs=false"
_NO_SPACE = os.strerror(errno.ENOSPC).lower()  # as Go says it
_LINK = "-s -w"  # no tables for debuggers: linked sooner, and traces need none


class GoBuildCache:
    """
    The compiled steps of one project.

    Args:
        folder: Of the cache: programs, Go's own build cache, downloaded modules. Whatever is in it can be made again.
        lock: The `go.mod` that keeps the versions of the modules that steps import; its `go.sum` stands beside it.
        environ: What `go` is found and run with; `os.environ` by default.

    Attributes:
        folder: Of the cache.
    """

    def __init__(self, folder: Path, *, lock: Path, environ: Mapping[str, str] | None = None) -> None:
        self._programs = folder / "programs"
        self.folder = folder
        self._lock = lock
        self._environ = os.environ if environ is None else environ
        self._building: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def build_program(self, step: Step, *, install: bool, report_progress: Callable[[str], None]) -> Path:
        """
        The compiled program of *step*.

        Args:
            step: A Go step.
            install: Whether modules that it imports may be downloaded.
            report_progress: Told in a sentence what takes long.

        Raises:
            InterpreterMissingError: There is no Go.
            StepCompileError: It does not compile.
            PackageInstallError: It imports what cannot be had.
            ProjectError: The cache cannot be written.
        """
        go = find_go(self._environ)
        imported = find_external_packages(step.source)
        source = f"//line {step.name}.go:{step.line_offset + 1}:1\n{step.source}"
        try:
            if (program := self._find_cached(go, source, imported)) is not None:
                return program
            async with self._building[source]:  # runs of this process wait for one another's; others may build too
                if (program := self._find_cached(go, source, imported)) is not None:
                    return program
                report_progress(self._announcement(step, imported))
                return await self._build(go, source, _import_lines(step, imported), install=install)
        except OSError as error:
            raise ProjectError(
                f"Step {step.name} cannot be compiled: {error.strerror or error} ({self.folder}).",
                fix="Compiled steps are kept in the project's folder: look at its rights and at the space on its disk.",
            ) from None

    def _find_cached(self, go: GoToolchain, source: str, imported: tuple[str, ...]) -> Path | None:
        program = self._programs / self._key(go, source, imported)
        try:
            os.utime(program)  # the last one used is the last one removed
        except FileNotFoundError:
            return None
        return program

    def _key(self, go: GoToolchain, source: str, imported: tuple[str, ...]) -> str:
        parts = [
            go.version,
            _helper_digest(),
            _FLAGS,
            _LINK,
            *map(_text, self._lock_files() if imported else ()),
            source,
        ]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]

    def _lock_files(self) -> tuple[Path, Path]:
        return self._lock, self._lock.with_suffix(".sum")

    def _announcement(self, step: Step, imported: tuple[str, ...]) -> str:
        if not (self.folder / "build").exists():
            return (
                f"compiling {step.name}.go: the first Go step of a project compiles Go's own packages, too, "
                "which takes up to about a minute; edits of it take about a second"
            )
        return f"compiling {step.name}.go" + (f" with {', '.join(imported)}" if imported else "")

    async def _build(self, go: GoToolchain, source: str, lines: Mapping[str, int], *, install: bool) -> Path:
        imported = tuple(lines)
        self._programs.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = self.folder / f"work-{secrets.token_hex(8)}"
        work.mkdir(mode=0o700)
        try:
            _write_module(work, source, imported, self._lock_files())
            command = [str(go.command), "build", "-ldflags", _LINK, "-o", "program", "."]
            status, output = await _run_go(command, work, self._environment(go, download=bool(imported) and install))
            if status != 0 and _NO_SPACE in output:
                raise OSError(errno.ENOSPC, _NO_SPACE)
            if status != 0:
                raise parse_module_error(output, install=install, import_lines=lines) or parse_compile_error(output)
            if imported:
                self._update_lock(work)
            program = self._programs / self._key(go, source, imported)
            (work / "program").replace(program)
        finally:
            remove_tree(work)
        self._trim()
        return program

    def _environment(self, go: GoToolchain, *, download: bool) -> dict[str, str]:
        ours = {
            "CGO_ENABLED": "0",
            "GO111MODULE": "on",
            "GOCACHE": str(self.folder / "build"),
            "GOFLAGS": _FLAGS,
            "GOMODCACHE": str(self.folder / "modules"),
            "GOROOT": str(go.root),
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        }
        if not download:
            ours["GOPROXY"] = "off"
        # the compiler runs none of the step's code: it has the person's own proxies, certificates and private modules
        foreign = ("GOOS", "GOARCH", "GOEXPERIMENT", "GODEBUG", PROCESS_TAG_VARIABLE)
        return {name: value for name, value in self._environ.items() if name not in foreign} | ours

    def _update_lock(self, work: Path) -> None:
        """Write the versions that Go chose into the lock, so that they are chosen again."""
        chosen = (_HELPER_LINES.sub("", _text(work / "go.mod")), _text(work / "go.sum"))
        for path, text in zip(self._lock_files(), chosen, strict=True):
            if text != _text(path):
                aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
                aside.write_text(text, encoding="utf-8")
                aside.replace(path)

    def _trim(self) -> None:
        """Remove the programs used longest ago."""
        found = []
        for path in self._programs.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process trims too
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found, reverse=True)[MAX_CACHED_PROGRAMS:]:
            path.unlink(missing_ok=True)


def _import_lines(step: Step, imported: tuple[str, ...]) -> dict[str, int]:
    """Each of *imported* with the line of the cell that imports it."""
    lines = step.source.split("\n")
    return {
        path: next((n for n, line in enumerate(lines, 1) if re.search(rf'["`]{re.escape(path)}["`]', line)), 1)
        + step.line_offset
        for path in imported
    }


def _write_module(work: Path, source: str, imported: tuple[str, ...], locks: tuple[Path, Path]) -> None:
    """Write the module that is compiled into *work*."""
    (work / "step.go").write_text(source, encoding="utf-8", errors="replace")
    if imported or '"net/http"' in source:
        # what Go does not read from the environment on a Mac
        (work / "rootca_darwin.go").write_text(f'package main\n\nimport _ "{HELPER_IMPORT_PATH}/rootca"\n')
    text, sums = (_text(path) for path in locks) if imported else ("", "")
    text = text or _GO_MOD
    folder = json.dumps(str(_HELPER_FOLDER))
    (work / "go.mod").write_text(
        f"{text}\nrequire {HELPER_IMPORT_PATH} v0.0.0\n\nreplace {HELPER_IMPORT_PATH} => {folder}\n", encoding="utf-8"
    )
    (work / "go.sum").write_text(sums, encoding="utf-8")


async def _run_go(command: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run *command*; returns its status and what it printed. It ends when the task is cancelled or we are gone."""
    mark = secrets.token_hex(16)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**environment, PROCESS_TAG_VARIABLE: mark},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    WARDEN.register(process.pid, mark)
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
