"""
Python environments for steps: one for each set of packages, separate from pdkernel's own environment.

The packages of an environment are resolved and installed under a temporary name, and renamed when they are complete. Afterwards only bytecode is added. Workflows
without packages share an environment without packages; it consists of links and is created in a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import importlib.metadata
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import venv
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from venv import EnvBuilder

from pdkernel.common.blocking import run_blocking
from pdkernel.errors import PackageMissingError
from pdkernel.language.analysis import PythonRequirement
from pdkernel.packages.install_progress import ProgressCallback, installation_lock, report_each_second
from pdkernel.packages.python_lock import (
    LockBlock,
    Pin,
    PythonLock,
    describe_machine,
    describe_python,
    format_requirements,
)
from pdkernel.packages.uv_command import PythonInstallError, UnsatisfiableError, Uv, run_command
from pdkernel.runtimes.file_tree import open_to_steps, remove_tree

INSTALL_COMMAND = "pdkernel packages install SOURCE"
"""The command that installs the packages that the steps of a source import."""

_MAX_ENVIRONMENTS = 20
_UNUSED_S = 24 * 3600.0
"""Beyond the `_MAX_ENVIRONMENTS` most recently used, an environment is removed after this time without use."""

_TOUCH_S = 600.0
_BUILDING = "building-"
_UNCOMPILED = "uncompiled"
"""Name of a file in the folder of an environment: some of its modules have no bytecode."""
_BYTECODE_PROGRAM = Path(__file__).with_name("bytecode.py")


@dataclass(frozen=True, slots=True)
class PythonEnvironment:
    """
    An environment for steps.

    Attributes:
        python: The interpreter.
        folder: The environment's folder.
        locked: Its packages; None for an environment without packages.
    """

    python: Path
    folder: Path
    locked: LockBlock | None = field(default=None, repr=False, compare=False)

    @property
    def site(self) -> Path:
        """The folder of its packages."""
        return self.folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def modules_of(self, name: str) -> set[str]:
        """Return the top-level modules of the distribution *name*."""
        found = importlib.metadata.distributions(name=name, path=[str(self.site)])
        files = (Path(file) for each in found for file in each.files or ())
        names = {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}
        return {name for name in names if name.isidentifier()}

    def packages(self) -> dict[str, str]:
        """Return the installed packages: name to version."""
        found = importlib.metadata.distributions(path=[str(self.site)])
        return dict(sorted((each.metadata["Name"], each.version) for each in found))


class PythonPackages:
    """
    The environments of one project. Belongs to one event loop; other processes may use the same folder.

    Args:
        folder: The folder of the environments: `.pdkernel/packages/python`.
        lock: The lock file, for the user to commit.
        environ: Variables with the user's settings of uv and pip.
    """

    def __init__(self, folder: Path, *, lock: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._lock = PythonLock(lock)
        self._environ = environ
        self._known: dict[tuple[PythonRequirement, ...], tuple[object, PythonEnvironment]] = {}
        self._touched: dict[Path, float] = {}
        self._building = asyncio.Lock()
        self._compiling: dict[Path, threading.Thread] = {}

    def locked(self) -> Iterator[tuple[Pin, bool]]:
        """Yield each package in the lock file that this machine needs, with whether it is installed."""
        for requirements in {block.requirements: None for block in self._lock.read()}:
            if block := self._lock.find(requirements):
                is_installed = any(self._folder.glob(f"{block.digest}*"))
                yield from ((pin, is_installed) for pin in block.needed())

    async def ensure(
        self,
        requirements: Iterable[PythonRequirement],
        *,
        install: bool,
        progress: ProgressCallback,
        locked: LockBlock | None = None,
    ) -> PythonEnvironment:
        """
        Return the environment with *requirements*; it is built first if it does not exist.

        Args:
            requirements: The packages that steps import; empty for the environment without packages.
            install: Whether packages may be installed.
            progress: Called with lines of progress, only if something is installed. The last line is
                `installed NAME VERSION, ... in N s`.
            locked: Packages that are used instead of those of the lock file, which is not changed; or None. On another kind
                of machine, their versions are used.

        Raises:
            PackageMissingError: Packages are missing, and *install* is False.
            PythonInstallError: Packages cannot be installed.
            ProjectError: The lock file cannot be read.
        """
        wanted = tuple(sorted(set(requirements)))
        known = self._known.get(wanted) if locked is None else None
        if known and known[0] == self._lock.signature() and os.path.exists(known[1].python):  # noqa: PTH110 - at the start of every run
            self._touch(known[1].folder)
            return known[1]
        try:
            if wanted and install and locked is None and self._lock.has_earlier_format():
                await self._convert_lock(progress)
            found = self._find(wanted, locked) if wanted else self._bare()
            if found is None:
                if not install:
                    names = tuple(sorted({requirement.specifier for requirement in wanted}))
                    raise PackageMissingError(names, INSTALL_COMMAND)
                async with self._building, installation_lock(self._folder, progress):
                    found = self._find(wanted, locked) or await self._build(wanted, progress, locked)
                    self._prune(found)
        except OSError as error:
            texts = ", ".join(requirement.specifier for requirement in wanted)
            raise PythonInstallError(
                f"The Python environment{' for ' + texts if texts else ''} cannot be created: {error.strerror or error}.",
                fix=f"Check that {self._folder} is writable and its disk is not full.",
            ) from None
        if wanted and install:
            self._compile_later(found)
        if locked is None:
            self._known[wanted] = (self._lock.signature(), found)
        self._touch(found.folder)
        return found

    async def finish(self) -> None:
        """Wait until the packages of all environments that `ensure` has returned are compiled to bytecode."""
        for thread in [*self._compiling.values()]:
            await run_blocking(thread.join)

    async def _compile_imported(self, environment: PythonEnvironment, wanted: Iterable[PythonRequirement]) -> None:
        """Compile what the imports of *wanted* load, and mark the environment if other modules remain."""
        modules: dict[str, None] = {}
        for each in wanted:
            modules |= dict.fromkeys([each.module] if each.module else environment.modules_of(each.name))
        status, _ = await run_command((*_compiler(self._environ, environment), *modules), {})
        if status:  # without bytecode, imports are only slower
            (environment.folder / _UNCOMPILED).touch()

    def _compile_later(self, environment: PythonEnvironment) -> None:
        """Compile what the installation left out, while the steps run. If this process ends first, a later one continues."""
        mark = environment.folder / _UNCOMPILED
        if environment.folder in self._compiling or not mark.exists():
            return
        process = subprocess.Popen(
            ("nice", "-n", "19", *_compiler(self._environ, environment)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        weakref.finalize(self, _end_process, process)
        thread = threading.Thread(target=_await_compilation, args=(process, mark), daemon=True)
        self._compiling[environment.folder] = thread
        thread.start()

    def _find(self, wanted: Sequence[PythonRequirement], locked: LockBlock | None) -> PythonEnvironment | None:
        block = self._block(wanted, locked)
        places = sorted(self._folder.glob(f"{block.digest}*")) if block else ()
        return next(filter(None, (self._complete(place, locked or block) for place in places)), None)

    def _block(self, wanted: Sequence[PythonRequirement], locked: LockBlock | None) -> LockBlock | None:
        """Return the block for *wanted*; *locked* if it is for exactly these requirements."""
        words = format_requirements(wanted)
        if locked is not None:
            return locked if locked.requirements == words else None
        return self._lock.find(words)

    async def _convert_lock(self, progress: ProgressCallback) -> None:
        async with self._building, installation_lock(self._folder, progress):
            with contextlib.suppress(OSError):  # a file that cannot be written can still be read
                if self._lock.convert():
                    progress(
                        f"{self._lock.path.name} has the format of uv now, with the same versions and hashes. Commit the file."
                    )

    def _complete(self, folder: Path, block: LockBlock | None = None) -> PythonEnvironment | None:
        found = PythonEnvironment(folder / "bin" / "python", folder, block)
        # in this order, because another process may publish it between the two questions
        exists = folder.exists()
        if found.python.exists():
            return found
        if exists and not remove_tree(folder):  # its base interpreter was removed
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
        return None

    def _bare(self) -> PythonEnvironment:
        base = f"{sys.version} {os.path.realpath(sys.executable)}"
        place = self._folder / f"bare-{hashlib.sha256(base.encode()).hexdigest()[:16]}"
        return self._complete(place) or self._publish(self._make("making-"), place)

    async def _build(
        self, wanted: Sequence[PythonRequirement], progress: ProgressCallback, locked: LockBlock | None
    ) -> PythonEnvironment:
        # only this process builds now, so a killed process has left these
        for left in self._folder.glob(f"{_BUILDING}*"):
            remove_tree(left)
        started = time.monotonic()
        kept = self._block(wanted, locked)
        if kept is not None and kept.rank:
            progress(f"installing {', '.join(pin.name for pin in kept.needed())} ...")
        environment = self._make(_BUILDING)
        uv = Uv(self._environ, environment.folder, wanted, progress)
        build = PythonBuild(environment.python, environment.site, uv, wanted, locked)
        try:
            async with report_each_second(uv.measure, progress):
                block = await build.install(kept, () if locked else self._known_pins(wanted))
                await self._compile_imported(environment, wanted)
            if locked is None and block != kept:
                self._lock.write(block)
            used = kept if locked is not None and kept is not None else block
            # workers that were started with a removed environment must not be used for the new one: another name
            name = f"{used.digest}-{secrets.token_hex(4)}"
            found = replace(self._publish(environment, self._folder / name), locked=used)
            what = ", ".join(f"{pin.name} {pin.version}" for pin in block.needed())
            progress(f"installed {what} in {time.monotonic() - started:.1f} s")
            return found
        finally:
            remove_tree(environment.folder)

    def _known_pins(self, wanted: Sequence[PythonRequirement]) -> list[Pin]:
        """Return the packages of the lock file on which all blocks agree: those of the same requirements, if there are any."""
        blocks = self._lock.read()
        words = format_requirements(wanted)
        known: dict[str, set[tuple[Pin, ...]]] = {}
        for block in [block for block in blocks if block.requirements == words] or blocks:
            by_name: dict[str, tuple[Pin, ...]] = {}
            for pin in block.pins:
                by_name[pin.name] = (*by_name.get(pin.name, ()), replace(pin, hashes=()))
            for name, pins in by_name.items():
                known.setdefault(name, set()).add(pins)
        return [pin for versions in known.values() if len(versions) == 1 for pin in next(iter(versions))]

    def _make(self, prefix: str) -> PythonEnvironment:
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = self._folder / f"{prefix}{os.getpid()}-{time.monotonic_ns()}"
        venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
        return PythonEnvironment(folder / "bin" / "python", folder)

    def _publish(self, environment: PythonEnvironment, place: Path) -> PythonEnvironment:
        _move_scripts(environment.folder, place)
        open_to_steps(environment.folder)
        try:
            environment.folder.rename(place)
        except OSError:
            remove_tree(environment.folder)
            if not place.exists():  # if it exists, another process has published it first
                raise
        return PythonEnvironment(place / "bin" / "python", place)

    def _touch(self, folder: Path) -> None:
        now = time.monotonic()
        if now - self._touched.get(folder, -_TOUCH_S) >= _TOUCH_S:
            self._touched[folder] = now
            with contextlib.suppress(OSError):
                os.utime(folder)

    def _prune(self, used: PythonEnvironment) -> None:
        others = [each for each in self._folder.iterdir() if each.is_dir() and each != used.folder]
        aged = sorted(((each.stat().st_mtime, each) for each in others), reverse=True)
        for at, folder in aged[_MAX_ENVIRONMENTS - 1 :]:
            if time.time() - at > _UNUSED_S:
                remove_tree(folder)


def _compiler(environ: Mapping[str, str], environment: PythonEnvironment) -> tuple[str, ...]:
    """Return the command that compiles the environment's packages."""
    cache = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "~", ".cache"), "pdkernel", "bytecode")
    return (sys.executable, "-I", str(_BYTECODE_PROGRAM), str(cache.expanduser()), str(environment.site))


def _await_compilation(process: subprocess.Popen[bytes], mark: Path) -> None:
    if process.wait() == 0:
        mark.unlink(missing_ok=True)


def _end_process(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _move_scripts(folder: Path, place: Path) -> None:
    """Change the head of each script in *folder* to the interpreter in its final folder beside it, *place*."""
    old, new = f"/{folder.name}/bin/".encode(), f"/{place.name}/bin/".encode()
    for script in (folder / "bin").iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        data = script.read_bytes()
        if data.startswith(b"#!"):
            lines = data.split(b"\n", 2)
            # where the path is long or has a space, the second line names the interpreter, which sh executes
            lines[:2] = [line.replace(old, new) for line in lines[:2]]
            script.write_bytes(b"\n".join(lines))


@dataclass(frozen=True, slots=True)
class PythonBuild:
    """
    The installation of packages into a new environment.

    Attributes:
        python: The environment's interpreter.
        site: The folder of the environment's packages.
        uv: uv for this installation.
        wanted: The requirements.
        locked: The packages whose versions are used in any case, or None.
    """

    python: Path
    site: Path
    uv: Uv
    wanted: Sequence[PythonRequirement]
    locked: LockBlock | None

    async def install(self, block: LockBlock | None, known: Sequence[Pin]) -> LockBlock:
        """Install *block* if it suits this machine, else what is resolved, if possible in the versions *known*; return its block."""
        try:
            if block is None or not block.rank:
                block = await self._resolve(known)
            await self._install(block.pins)
        except UnsatisfiableError:
            if block is not None and block.machine == describe_machine():
                raise
            # a package has no file for this platform, but perhaps another version does
            block = await self._resolve(block.pins if block is not None else known, is_universal=False)
            await self._install(block.pins)
        return block

    async def _install(self, pins: Sequence[Pin]) -> None:
        """Install *pins* into the environment, emptied first: uv runs its interpreter, which would run code of packages."""
        EnvBuilder(symlinks=True, with_pip=False, clear=True).create(self.python.parents[1])
        await self.uv.install(pins, self.python)

    async def _resolve(self, known: Sequence[Pin], *, is_universal: bool = True) -> LockBlock:
        added = [requirement for requirement in self.wanted if not requirement.module]
        imported = [requirement for requirement in self.wanted if requirement.module]
        if added and imported:
            # a package that a comment names may provide an import: `add-package py-foo` for `import foo`
            first = await self._resolve_some(added, known, is_universal=is_universal)
            await self._install(first.pins)
            imported = [each for each in imported if not _is_provided(self.site, each)]
            if not imported:
                return first
            known = first.pins
        return await self._resolve_some([*added, *imported], known, is_universal=is_universal)

    async def _resolve_some(
        self, some: Sequence[PythonRequirement], known: Sequence[Pin], *, is_universal: bool
    ) -> LockBlock:
        required = self.locked.pins if self.locked is not None else ()
        words = format_requirements(self.wanted)
        if is_universal:
            with contextlib.suppress(UnsatisfiableError):
                pins = await self.uv.resolve(some, preferred=known, required=required, is_universal=True)
                return LockBlock(words, describe_python(), pins)
        pins = await self.uv.resolve(some, preferred=known, required=required, is_universal=False)
        return LockBlock(words, describe_machine(), pins)


def _is_provided(site: Path, requirement: PythonRequirement) -> bool:
    place = site.joinpath(*requirement.module.split("."))
    return place.is_dir() or any(place.parent.glob(f"{place.name}.*"))
