"""
The files that the code of a step imports: JavaScript, Python and JSON files inside of the workflow's folder.

Imports with literal names are followed, those of the files included. No code runs. Steps also get the files that they name
beside `__file__`, `import.meta.url` or `__dirname`.
"""

from __future__ import annotations

import ast
import json
import posixpath
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from pdkernel.errors import NotebookError
from pdkernel.language.analysis import node_code, python_code
from pdkernel.language.analysis.node_code import PackageImport
from pdkernel.language.analysis.python_requirements import (
    PythonRequirement,
    find_python_requirements,
    iter_import_nodes,
)
from pdkernel.language.analysis.source_locations import describe_place
from pdkernel.model import Language, Step

ReadFile = Callable[[str], str | None]
"""
Reads a file that a step imports: takes its path, relative to the folder of the step's entry file, and returns its text.

Returns None if the file does not exist. Raises `StepFileError` if the step may not import the file.
"""

_SOURCE_SUFFIXES: Mapping[Language, tuple[str, ...]] = {"python": (".py",), "node": (".js", ".mjs", ".cjs")}
_NODE_SUFFIXES = ("", ".js", ".mjs", ".cjs", ".json", "/index.js", "/index.mjs", "/index.cjs")
_TYPESCRIPT_SUFFIXES = (".ts", ".mts", ".cts", ".tsx")
_MAX_FILES = 500
_MAX_CHARS = 32 * 1024 * 1024
_MAX_NAME = 200


class StepFileError(Exception):
    """A step cannot import a file. The message is the end of a sentence that starts with the file's name."""


@dataclass(frozen=True, slots=True)
class _Import:
    """An import of a file: how the code names it, its line, and the files that it loads; none if they do not exist."""

    name: str
    line: int
    files: tuple[str, ...]
    is_required: bool = True
    is_data: bool = False


def with_step_files(step: Step, read: ReadFile, *, depth: int, place: str = "") -> Step:
    """
    Return *step* with the files that its code imports.

    Args:
        step: A step; only code in Python and Node.js imports files.
        read: Reads a file.
        depth: The number of folders above the entry file's folder that belong to the workflow.
        place: The name of the entry file in messages; the cell by default.

    Raises:
        NotebookError: An imported file may not be read, imports itself through others, or there are too many. The message
            names the file and the line of the import.
    """
    if step.uses or step.language not in ("python", "node") or not _may_import(step.source):
        return replace(step, files={}) if step.files else step
    files = _Files(step, read, depth, place)
    files.follow()
    return replace(step, files=files.texts) if files.texts or step.files else step


def find_missing_files(step: Step) -> Iterator[NotebookError]:
    """Yield an error for each file that the code of *step* imports by a relative path and that *step* does not have."""
    if not step.uses and step.language in ("python", "node") and _may_import(step.source):
        files = _known_files(step)
        files.follow()
        yield from files.missing


def find_step_requirements(step: Step) -> tuple[PythonRequirement, ...]:
    """Return the packages that a Python step and its files require; those of files have line 1."""
    if not step.files:
        return find_python_requirements(step.source)
    files = _known_files(step)
    files.follow()
    found: dict[str, PythonRequirement] = {}
    for path, source in iter_sources(step):
        for requirement in find_python_requirements(source):
            if not requirement.module or not files.is_own_module(requirement.module):
                kept = requirement if not path else replace(requirement, line=1)
                known = found.setdefault(requirement.name, kept)
                if known.is_optional and not kept.is_optional:
                    found[requirement.name] = kept
    return tuple(found.values())


def find_step_packages(step: Step) -> tuple[PackageImport, ...]:
    """Return the npm packages that a Node.js step and its files import; those of files have line 1."""
    found: dict[tuple[str, str | None], PackageImport] = {}
    for path, source in iter_sources(step):
        for each in node_code.find_packages(source):
            found.setdefault((each.name, each.version), replace(each, line=1) if path else each)
    return tuple(found.values())


def iter_sources(step: Step) -> Iterator[tuple[str, str]]:
    """Yield the code of *step*, with an empty path, and the code of its files in the same language by path."""
    yield "", step.source
    suffixes = _SOURCE_SUFFIXES.get(step.language, ())
    yield from ((path, text) for path, text in step.files.items() if path.endswith(suffixes))


def _known_files(step: Step) -> _Files:
    """Return the files that *step* has: no other file is read."""
    return _Files(step, step.files.get, count_parents(step.files), "")


def count_parents(paths: Iterable[str]) -> int:
    """Return how many folders the *paths* of files lead up from the entry file's folder."""
    return max((path.split("/").count("..") for path in paths), default=0)


def _may_import(source: str) -> bool:
    return any(word in source for word in ("import", "require", "export", "__dirname"))


class _Files:
    """
    Follows the imports of a step.

    Attributes:
        texts: The imported files by path.
        missing: Imports of files that do not exist.
    """

    def __init__(self, step: Step, read: ReadFile, depth: int, place: str) -> None:
        self.texts: dict[str, str] = {}
        self.missing: list[NotebookError] = []
        self._step = step
        self._read = read
        self._place = place
        self._parents = [posixpath.normpath("../" * number) if number else "" for number in range(depth + 1)]
        self._roots = list(self._parents)
        self._read_texts: dict[str, str | None] = {}
        self._active: list[str] = []
        self._done: set[str] = set()

    def follow(self) -> None:
        """Collect the files. Raises `NotebookError`."""
        pending = [self._enter("")]
        while pending:
            path = next(pending[-1], None)
            if path is not None:
                pending.append(self._enter(path))
            else:
                pending.pop()
                self._done.add(self._active.pop())
        self.texts = dict(sorted(self.texts.items()))

    def is_own_module(self, module: str) -> bool:
        """Return whether the top of a dotted *module* is a file or folder of the step."""
        top = module.partition(".")[0]
        tops = [posixpath.join(root, top) for root in self._roots]
        return any(path.startswith((f"{each}.py", f"{each}/")) for each in tops for path, _ in iter_sources(self._step))

    def _enter(self, path: str) -> Iterator[str]:
        """Begin to read the code at *path*, and return the files that it imports and that were not followed yet."""
        self._active.append(path)
        source = self.texts[path] if path else self._step.source
        find = self._python_imports if self._step.language == "python" else self._node_imports
        return (target for found in find(path, source) for target in self._add(path, found))

    def _add(self, path: str, found: _Import) -> Iterator[str]:
        """Add the files of an import in *path*, and yield those whose code is to be followed."""
        if not found.files and found.is_required:
            self.missing.append(
                self._error(path, found, "and there is no such file", "Add the file, or remove the import.")
            )
        for target in found.files:
            if target in self._active and not found.is_data:
                circle = [*self._active[self._active.index(target) :], target]
                what = f"which imports itself: {' -> '.join(circle)}"
                raise self._error(path, found, what, "Move what both files use into a third file.")
            text = self._read_texts[target]
            assert text is not None, "only files that exist are imported"
            self.texts[target] = text
            if len(self.texts) > _MAX_FILES or sum(map(len, self.texts.values())) > _MAX_CHARS:
                limits = f"{_MAX_FILES} files and {_MAX_CHARS >> 20} MB"
                what = f"and the step then has more than {limits}"
                raise self._error(path, found, what, "Publish the files as a package.")
            if not found.is_data and not target.endswith(".json") and target not in self._done:
                yield target

    def _error(self, path: str, found: _Import, what: str, fix: str = "") -> NotebookError:
        step = self._step
        line = found.line + (0 if path else step.line_offset)
        where = f" ({path or self._place}, line {line})" if path or self._place else describe_place(step, line)
        return NotebookError(
            f"Step {step.name}{where} imports {found.name}, {what}.",
            fix=fix,
            step=step.name,
            line=None if path else line,
        )

    def _exists(self, path: str, importer: str, found: _Import) -> bool:
        if path not in self._read_texts:
            try:
                self._read_texts[path] = self._read(path)
            except StepFileError as why:
                fix = "Store data that is not text as base64, or load it over HTTP." if found.is_data else ""
                raise self._error(importer, found, str(why), fix) from None
        return self._read_texts[path] is not None

    # ── Node.js ──────────────────────────────────────────────────────

    def _node_imports(self, path: str, source: str) -> Iterator[_Import]:
        for specifier, line, is_required in node_code.find_file_imports(source):
            found = _Import(json.dumps(specifier), line, (), is_required)
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), specifier.partition("?")[0]))
            existing = next(
                (f"{target}{each}" for each in _NODE_SUFFIXES if self._exists(f"{target}{each}", path, found)), None
            )
            self._refuse_typescript(existing, target, path, found)
            yield replace(found, files=() if existing is None else (existing,))
        for name, line, is_certain in node_code.find_data_files(source):
            found = _Import(json.dumps(name), line, (), is_certain, is_data=True)
            yield from self._data_file(name, posixpath.dirname(path), path, found)

    def _refuse_typescript(self, existing: str | None, target: str, path: str, found: _Import) -> None:
        """Raise `NotebookError` if an import finds a file in TypeScript, or would find it with another suffix."""
        stem = target.removesuffix(".js").removesuffix(".mjs")
        names = [existing] if existing else [f"{stem}{suffix}" for suffix in _TYPESCRIPT_SUFFIXES]
        if any(each.endswith(_TYPESCRIPT_SUFFIXES) and self._exists(each, path, found) for each in names):
            what = "which is TypeScript, and Node.js steps run JavaScript"
            raise self._error(path, found, what, "Compile the file to JavaScript, and import that file.")

    # ── Python ───────────────────────────────────────────────────────

    def _python_imports(self, path: str, source: str) -> Iterator[_Import]:
        if "sys.path" in source and (tree := python_code.parse_source(source)) is not None:
            names = {name for name in _short_texts(tree) if not name.startswith("/")}
            self._roots += [
                posixpath.normpath(posixpath.join(parent, name))
                for parent, name in product(self._parents, sorted(names))
                if not posixpath.normpath(posixpath.join(parent, name)).startswith("../" * len(self._parents))
            ]
        for node, is_optional in _python_import_nodes(source):
            for name, folders, modules in self._python_modules(path, node):
                is_relative = name.startswith(".")
                found = _Import(f"`{name}`", node.lineno, (), is_relative and not is_optional)
                files = [file for parts in modules for file in self._module_files(folders, parts, path, found)]
                if any(not each.endswith("__init__.py") for each in files):
                    # a module in a package imports another: Python has begun to import the package's `__init__`
                    files = [each for each in files if not (each.endswith("__init__.py") and each in self._active)]
                if files or is_relative:
                    yield replace(found, files=tuple(dict.fromkeys(files)))
        if "__file__" in source and (tree := python_code.parse_source(source)) is not None:
            yield from self._data_files(path, tree)

    def _python_modules(
        self, path: str, node: ast.Import | ast.ImportFrom
    ) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Yield how *node* names a module, the folders that may hold it, and its possible modules as lists of names."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] not in sys.stdlib_module_names:
                    yield alias.name, self._roots, [alias.name.split(".")]
            return
        module = (node.module or "").split(".") if node.module else []
        names = [[*module, alias.name] for alias in node.names if alias.name != "*"]
        if node.level:
            above = posixpath.join(posixpath.dirname(path), *[".."] * (node.level - 1))
            folder = posixpath.normpath(above) if above else ""
            yield "." * node.level + (node.module or ""), ["" if folder == "." else folder], [module, *names]
        elif module[0] not in sys.stdlib_module_names:
            yield node.module or "", self._roots, [module, *names]

    def _module_files(self, folders: Sequence[str], parts: Sequence[str], path: str, found: _Import) -> list[str]:
        """Return the files that Python loads for the module *parts*, as far as they exist."""
        for folder in folders:
            at, files = folder, list[str]()
            if not parts and self._exists(posixpath.join(folder, "__init__.py"), path, found):
                files.append(posixpath.join(folder, "__init__.py"))
            for part in parts:
                inside = posixpath.join(at, part)
                if self._exists(f"{inside}/__init__.py", path, found):
                    files.append(f"{inside}/__init__.py")
                elif self._exists(f"{inside}.py", path, found):
                    files.append(f"{inside}.py")
                    break
                at = inside
            if files:
                return files
        return []

    def _data_files(self, path: str, tree: ast.Module) -> Iterator[_Import]:
        """Yield the files that code names by literals and that are beside it, or in a folder above."""
        for name, line in _named_paths(tree):
            found = _Import(json.dumps(name), line, (), is_required=False, is_data=True)
            for parent in self._parents:
                files = list(self._data_file(posixpath.join(parent, name), posixpath.dirname(path), path, found))
                if files:
                    yield from files
                    break

    def _data_file(self, name: str, folder: str, path: str, found: _Import) -> Iterator[_Import]:
        """Yield *found* with the file *name* in *folder*; a required file is yielded without its text if it does not exist."""
        target = posixpath.normpath(posixpath.join(folder, name))
        try:
            exists = self._exists(target, path, found)
        except NotebookError:
            if found.is_required:
                raise
            return  # the text need not be the name of a file
        if exists and target not in self._active:
            yield replace(found, files=(target,))
        elif found.is_required:
            yield found


@lru_cache(maxsize=500)
def _python_import_nodes(source: str) -> tuple[tuple[ast.Import | ast.ImportFrom, bool], ...]:
    tree = python_code.parse_source(source)
    return () if tree is None else tuple(iter_import_nodes(tree))


def _short_texts(tree: ast.AST) -> list[str]:
    """Return the literals in *tree* that may be parts of paths, in their order."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    return [
        str(node.value) for node in found if str(node.value).isprintable() and 0 < len(str(node.value)) <= _MAX_NAME
    ]


def _named_paths(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield literals that may name files, those of `a / "b" / "c"` and `join(a, "b", "c")` joined, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(op=ast.Div()) | ast.Constant(value=str()):
                parts = _short_texts(node)
            case ast.Call(func=ast.Attribute(attr="join" | "joinpath") | ast.Name(id="join"), args=arguments):
                parts = [text for argument in arguments for text in _short_texts(argument)]
            case _:
                continue
        if parts and not any(part.startswith("/") for part in parts):
            yield posixpath.join(*parts), node.lineno
