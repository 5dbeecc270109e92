"""
Facts about the structure: circles of imports, long functions, prose, and the places of tests.

The layers and the doors of the annexes are contracts of import-linter, in `pyproject.toml`. How long a module is, how many modules import it and
how many subclasses a base has are observations for a review, without a limit.
"""

from __future__ import annotations

import ast
import functools
import gc
import itertools
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # what takes seconds may take minutes on a busy machine

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pdkernel"
TESTS = ROOT / "tests"
WHOLE_PRODUCT = (
    "benchmarks/",
    "browser/",
    "checklist/",
    "conformance/",
    "durability/",
    "isolation/",
    "product/",
    "server/fuzz/",
    "sweep/",
)
"""Folders of tests that concern no single module."""
LONG_FUNCTION = 60
"""Lines of a function, with its docstring, above which it is counted."""
MANY_PARAMETERS = 8
"""Parameters of a function, without `self`, above which it is counted."""
MAX_LONG_FUNCTIONS = 7
MAX_FUNCTIONS_WITH_MANY_PARAMETERS = 26


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    names = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


@functools.cache
def nodes(file: Path) -> list[ast.AST]:
    """Every node of the syntax tree of *file*."""
    gc.disable()  # a collection visits the nodes of all files, which stay, and takes longer than this
    try:
        return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _without_nodes_afterwards() -> Iterator[None]:
    """Forget the millions of nodes: each garbage collection of the later tests of this process would visit them."""
    yield
    nodes.cache_clear()


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that *file* imports, under `TYPE_CHECKING` and in functions too."""
    for node in nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield from (name for name in ((full,) if full in known else (node.module,)) if name in known)


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The groups of modules that import one another."""
    below: dict[str, set[str]] = {}
    for start, targets in edges.items():
        seen: set[str] = set()
        waiting = [*targets]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += edges[name]
        below[start] = seen
    return [
        group
        for start in edges
        if start == min(group := {name for name in below[start] if start in below[name]} or {start})
        and (len(group) > 1 or start in edges[start])
    ]


def test_no_modules_import_one_another() -> None:
    """No circle of imports exists, type-only and lazy imports included."""
    known = modules()

    edges = {name: set(imports(file, known)) - {name} for name, file in known.items()}

    assert circles(edges) == []


def test_a_circle_is_found() -> None:
    """The search for circles finds one that goes over three modules."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions and methods of *file*."""
    return (node for node in nodes(file) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_functions_do_not_grow() -> None:
    """No more functions than now have over 60 lines, and no more have over eight parameters: who adds one divides another."""
    long, many = [], []
    for name, file in modules().items():
        for function in functions(file):
            place = f"{name}.{function.name}"
            if (function.end_lineno or 0) - function.lineno >= LONG_FUNCTION:
                long.append(place)
            arguments = function.args
            named = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            if len([each for each in named if each not in ("self", "cls")]) > MANY_PARAMETERS:
                many.append(place)

    assert len(long) <= MAX_LONG_FUNCTIONS, long
    assert len(many) <= MAX_FUNCTIONS_WITH_MANY_PARAMETERS, many


def identifiers(file: Path) -> Iterator[str]:
    """Names that *file* defines: classes, functions, variables, attributes, and the module itself."""
    yield file.stem
    for node in nodes(file):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name):
                yield name.rpartition(".")[2]


RIDDLE = re.compile(
    r"^\s*(?:\"\"\")?Knows\b|\bKnows (?:nothing|no)\b|\b(?:nobody|somebody|anybody|whoever)\b",
    re.IGNORECASE | re.MULTILINE,
)
NEGATED_NOUN = re.compile(r"(?<![Tt]here )\b(?:is|are|was|were) (?:no(?! longer\b| more\b)|none)\b")
"""`is no URL`, `is none`, without `there is no file`."""


@functools.cache
def product_texts() -> list[tuple[str, str]]:
    """The package's sources, the documentation and the notebooks, by their places."""
    files = [
        ROOT.glob("*.md"),
        ROOT.glob("docs/**/*.md"),
        ROOT.glob("notebooks/*.ipynb"),
        ROOT.glob("notebooks/*/*.md"),
    ]
    files += [PACKAGE.rglob(f"*.{ending}") for ending in ("py", "mjs", "go", "js", "ipynb", "txt")]
    return [
        (file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
        for file in sorted(itertools.chain(*files))
    ]


def places(pattern: re.Pattern[str]) -> list[str]:
    """The place of each match of *pattern* in the product's texts."""
    return [
        f"{name}:{text.count(chr(10), 0, match.end()) + 1}"
        for name, text in product_texts()
        for match in pattern.finditer(text)
    ]


def test_prose_names_its_subject() -> None:
    """Docstrings, comments, messages and pages have no "Knows ...", "nobody", "somebody", "anybody" or "whoever"."""
    assert places(RIDDLE) == []


def test_prose_negates_verbs() -> None:
    """Docstrings, comments, messages and pages say "is not a URL", and not "is no URL" or "is none"."""
    assert places(NEGATED_NOUN) == []


def prose(file: Path) -> Iterator[str]:
    """Lines of the docstrings and the comments of *file*; the data of a test is not prose."""
    for node in nodes(file):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from node.value.value.splitlines()
    with file.open(encoding="utf-8") as source:
        yield from (
            token.string for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.COMMENT
        )


def test_prose_of_tests_names_its_subject() -> None:
    """Docstrings, comments and names of tests have no riddles, and docstrings and comments no negated nouns."""
    found = []
    for file in sorted(TESTS.rglob("*.py")):
        text = file.read_text(encoding="utf-8").replace("_", " ")
        if file == Path(__file__) or not (RIDDLE.search(text) or NEGATED_NOUN.search(text)):
            continue  # a syntax tree takes long
        lines = [line.strip() for line in prose(file) if RIDDLE.search(line) or NEGATED_NOUN.search(line)]
        lines += [name for name in identifiers(file) if RIDDLE.search(name.replace("_", " "))]
        found += [(file.relative_to(TESTS).as_posix(), line) for line in lines]

    assert found == []


def module_of(test: Path) -> Path | None:
    """The module or package that *test* is named after: `test_MODULE.py`, or `test_MODULE_ASPECT.py` for a part of it."""
    folder = PACKAGE / test.parent.relative_to(TESTS)
    words = test.stem.removeprefix("test_").split("_")
    for count in range(len(words), 0, -1):
        name = "_".join(words[:count])
        for path in (folder / f"{name}.py", folder / name):
            if path.exists():
                return path
    return folder if words == [folder.name] else None


def test_tests_mirror_the_package() -> None:
    """A test file is in the folder of the module's package and is named after the module."""
    stray = {
        name
        for file in TESTS.rglob("test_*.py")
        if not (name := file.relative_to(TESTS).as_posix()).startswith(WHOLE_PRODUCT) and module_of(file) is None
    }

    assert stray == set()
