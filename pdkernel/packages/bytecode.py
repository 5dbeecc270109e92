"""
Compiles installed modules to bytecode, in several processes, without running them.

Run as a program: `python -I bytecode.py CACHE SITE [MODULE...]`. With modules, it compiles what their import loads, and its exit
status is 3 if other modules remain; without, it compiles everything in the folder SITE. Compiling all modules of a large package
takes longer than its installation, so the remaining ones are compiled while the steps run. The folder CACHE has the bytecode by
the hash of the source. The module uses only the standard library.
"""

from __future__ import annotations

import contextlib
import dis
import hashlib
import importlib.util
import marshal
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from types import CodeType

_EXTENDED_ARG, _IMPORT_NAME, _LOAD_CONST = (dis.opmap[name] for name in ("EXTENDED_ARG", "IMPORT_NAME", "LOAD_CONST"))
_LOAD_SMALL_INT = dis.opmap.get("LOAD_SMALL_INT")  # since Python 3.14
_IN_FUNCTION = 0x2  # CO_NEWLOCALS

_FEW = 150
"""Remaining modules up to this number are compiled at once."""

_MAX_CACHED = 100
"""The most files in each of the 256 folders of the cache."""


class BytecodeCompiler:
    """
    Compiles the modules of a folder.

    Args:
        site: The folder.
        cache: The folder with the bytecode by the hash of the source.
    """

    def __init__(self, site: Path, cache: Path) -> None:
        self._site = site
        self._cache = cache

    def compile_imported(self, modules: Iterable[str]) -> bool:
        """
        Compile *modules*, and what the code of each compiled module imports outside functions.

        If few other modules are in the folder, they are compiled too.

        Returns:
            Whether all modules in the folder are compiled.
        """
        found: set[str] = set()
        compiled: set[Path] = set()
        with _process_pool() as pool:
            running: set[Future[list[str]]] = set()
            waiting = list(modules)
            while waiting or running:
                for module in {part for name in waiting for part in _with_parents(name)} - found:
                    found.add(module)
                    file = self._find_file(module)
                    if file is not None:
                        compiled.add(file)
                        running.add(pool.submit(self._compile_module, file, module))
                waiting = []
                if running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    waiting = [name for each in done for name in each.result()]
            others = set(self._site.rglob("*.py")) - compiled
            is_complete = len(others) <= _FEW
            if is_complete:
                wait([pool.submit(self._compile_module, file) for file in others])
        self._limit_cache()
        return is_complete

    def compile_all(self) -> None:
        """Compile all modules in the folder that have no bytecode."""
        with _process_pool() as pool:
            files = self._site.rglob("*.py")
            wait([pool.submit(self._compile_module, file) for file in files if not _bytecode_file(file).exists()])
        self._limit_cache()

    def _find_file(self, module: str) -> Path | None:
        place = self._site.joinpath(*module.split("."))
        files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        return next((file for file in files if file.is_file()), None)

    def _compile_module(self, file: Path, module: str = "") -> list[str]:
        """Compile *file*. Return the names of what *module*, if given, imports: modules, and perhaps attributes of modules."""
        try:
            source = file.read_bytes()
            status = file.stat()
            code = self._compile(file, source)
            header = struct.pack("<III", 0, int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
            _write(_bytecode_file(file), importlib.util.MAGIC_NUMBER + header + marshal.dumps(code))
        except (SyntaxError, OSError, ValueError, RecursionError):
            return []
        if not module:
            return []
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        return list(dict.fromkeys(_imports(code, package.split("."))))

    def _compile(self, file: Path, source: bytes) -> CodeType:
        digest = hashlib.sha256(importlib.util.MAGIC_NUMBER + source).hexdigest()
        stored = self._cache / digest[:2] / digest[2:]
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError):  # not in the cache, or damaged
            code = marshal.loads(stored.read_bytes())  # noqa: S302 - the cache belongs to the user, as the code does
            if isinstance(code, CodeType):
                return code
        code = compile(source, str(file), "exec", dont_inherit=True)
        with contextlib.suppress(OSError):  # without the cache, the next installation is only slower
            _write(stored, marshal.dumps(code))
        return code

    def _limit_cache(self) -> None:
        """Remove the oldest files of full folders of the cache."""
        for folder in self._cache.glob("??"):
            files = list(folder.iterdir())
            if len(files) > _MAX_CACHED:
                for file in sorted(files, key=lambda each: each.lstat().st_mtime)[:-_MAX_CACHED]:
                    file.unlink(missing_ok=True)


def _process_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(mp_context=get_context("fork"))


def _bytecode_file(file: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(file)))


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _imports(code: CodeType, package: list[str]) -> Iterator[str]:
    argument = 0
    constants: list[object] = []
    instructions = code.co_code
    for place in range(0, len(instructions), 2):
        operation = instructions[place]
        argument = argument << 8 | instructions[place + 1]
        if operation == _LOAD_CONST:
            constants.append(code.co_consts[argument])
        elif operation == _LOAD_SMALL_INT:
            constants.append(argument)
        elif operation == _IMPORT_NAME:
            level, names = constants[-2:]
            name = code.co_names[argument]
            if isinstance(level, int) and level:
                base = package[: len(package) - level + 1]
                name = ".".join([*base, name] if name else base)
            yield name
            if isinstance(names, tuple):
                yield from (f"{name}.{each}" for each in names)
        if operation != _EXTENDED_ARG:
            argument = 0
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and not constant.co_flags & _IN_FUNCTION:  # the body of a class
            yield from _imports(constant, package)


def main(cache: str, site: str, *modules: str) -> int:
    """Compile the modules that the command line names; return the exit status."""
    compiler = BytecodeCompiler(Path(site), Path(cache))
    if modules:
        return 0 if compiler.compile_imported(modules) else 3
    compiler.compile_all()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
