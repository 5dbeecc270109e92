"""Facts about the structure: no import circles, replaced names stay away, prose names its subject."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pdkernel"

GONE = [
    "Again",
    "Answering",
    "Asking",
    "Asks",
    "Attempts",
    "AuthorityOf",
    "Bound",
    "Brief",
    "Cassette",
    "CellTexts",
    "ChoiceMagics",
    "Desk",
    "Dialling",
    "Door",
    "FileStep",
    "FileSteps",
    "Fitted",
    "GuestGone",
    "GuestLanguage",
    "GuestProcess",
    "GuestTalk",
    "Guarding",
    "HereSteps",
    "Hiding",
    "Hosts",
    "Lift",
    "Lookups",
    "NotAtHandError",
    "Nobody",
    "NullListener",
    "OutsideCall",
    "OutsideRules",
    "Place",
    "Redacts",
    "RemoteStepListener",
    "RunGuests",
    "Silence",
    "StepDiedError",
    "StepListener",
    "StepRuns",
    "Tape",
    "TellingNames",
    "Ticket",
    "Tickets",
    "Trial",
    "TrialClock",
    "TrialProject",
    "UnknownWaysError",
    "Voice",
    "Ways",
    "Wish",
    "autopsy",
    "cassette",
    "desk",
    "dialling",
    "file_step",
    "file_steps",
    "given_back",
    "lint_rules",
    "pipedreams_tokens",
    "settling",
    "step_files",
    "tape",
    "telling",
    "told_apps",
    "tell_app",
    "trial",
]
"""Classes, functions and modules that were renamed or removed."""
GONE_PACKAGES = {"hosts", "guests", "inspection", "contract", "trial", "importing", "guard", "standins"}


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    names = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return names


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that *file* imports, under `TYPE_CHECKING` and in functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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


def identifiers(file: Path) -> Iterator[str]:
    """Names that *file* defines: classes, functions, variables, attributes, and the module itself."""
    yield file.stem
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name):
                yield name.rpartition(".")[2]


def test_renamed_identifiers_do_not_come_back() -> None:
    """None of the names that were replaced is defined or imported in the package."""
    gone = set(GONE)
    found = {(name, path) for path, file in modules().items() for name in gone & set(identifiers(file))}

    assert found == set()


def test_renamed_packages_do_not_come_back() -> None:
    """No folder of the package has the name of a package that was renamed."""
    assert {path.name for path in PACKAGE.rglob("*") if path.is_dir()} & GONE_PACKAGES == set()


RIDDLE = re.compile(r"^\s*(?:\"\"\")?Knows\b|\bKnows (?:nothing|no)\b|\b(?:nobody|somebody|whoever)\b", re.IGNORECASE)


def test_prose_names_its_subject() -> None:
    """Docstrings, comments and messages have no "Knows ...", "nobody", "somebody" or "whoever"."""
    files = [file for ending in ("*.py", "*.mjs", "*.go") for file in PACKAGE.rglob(ending)]
    lines = {
        f"{file.relative_to(ROOT)}:{number}": line.strip()
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if RIDDLE.search(line)
    }

    assert lines == {}
