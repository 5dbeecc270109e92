"""
Analysis of Python code with `ast`: entry point, `pd.steps["NAME"]` and `os.environ`.

Code with a syntax error counts as having an entry point: running the code gives the better message.
"""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from pdkernel.common.safe_files import BYTE_ORDER_MARK


@dataclass(frozen=True, slots=True)
class VariableReferences:
    """
    The names of environment variables.

    Attributes:
        required: Variables that the code reads without a default or a check.
        optional: Variables that the code reads with a default or a check.
    """

    required: frozenset[str] = field(default_factory=frozenset)
    optional: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: VariableReferences) -> VariableReferences:
        return VariableReferences(self.required | other.required, self.optional | other.optional)

    def without(self, names: frozenset[str] | set[str]) -> VariableReferences:
        """Return the variables that are not in *names*."""
        return VariableReferences(self.required - names, self.optional - names)


ENTRY_FUNCTION = "handler"
ENTRY_POINT_TEMPLATE = 'def handler(pd: "pipedream"):\n    return pd.steps["trigger"]["event"]'
LEGACY_HELPER_MODULE = "pipedream.script_helpers"
"""The platform's old helper module, which every Python step can import."""


_one_parser = threading.Lock()
"""Python before 3.13 counts the depth of all trees under construction as one, so two threads that parse at once can disturb each other."""
_MAX_TRIES = 5
"""Tries if other threads disturb, because other packages parse without the lock."""


def parse_source(source: str) -> ast.Module | None:
    """Return the syntax tree of *source*, or None after a syntax error."""
    tries = 0
    while True:
        try:
            with _one_parser, warnings.catch_warnings():
                # The run of the step reports invalid escapes.
                warnings.simplefilter("ignore")
                return ast.parse(source.removeprefix(BYTE_ORDER_MARK))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        except SystemError:  # "AST constructor recursion depth mismatch": another thread has parsed, too
            tries += 1
            if tries == _MAX_TRIES:
                raise


def has_entry_point(source: str) -> bool:
    """Return whether *source* binds `handler` at its top level, imports the old helper module, or has a syntax error."""
    tree = parse_source(source)
    if tree is None or any(ENTRY_FUNCTION in _get_bound_names(node) for node in _top_level(tree.body)):
        return True
    return any(_imports_legacy_helpers(node) for node in ast.walk(tree))


def _imports_legacy_helpers(node: ast.AST) -> bool:
    """Return whether *node* imports the old helper module, in one of its three forms."""
    if isinstance(node, ast.Import):
        return any(alias.name == LEGACY_HELPER_MODULE for alias in node.names)
    package, _, module = LEGACY_HELPER_MODULE.partition(".")
    return isinstance(node, ast.ImportFrom) and (
        node.module == LEGACY_HELPER_MODULE
        or (node.module == package and any(alias.name == module for alias in node.names))
    )


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of the module, with those in `if`, `try` and `with`."""
    for statement in body:
        yield statement
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _top_level(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            yield from _top_level(handler.body)


def _get_bound_names(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name for alias in names}
    return set()


def find_step_references(source: str) -> dict[str, int]:
    """Return the steps that *source* reads by a literal name, each with the line of the first read."""
    tree = parse_source(source)
    if tree is None:
        return {}
    nodes = list(ast.walk(tree))
    pds = {"pd"} | {name for node in nodes for name in _first_parameter(node)}
    aliases = {name for node in nodes for name in _aliases(node, pds)}
    lines: dict[str, int] = {}
    for node in nodes:
        name = _step_name(node, pds, aliases)
        if name is not None:
            line = getattr(node, "lineno", 1)
            lines[name] = min(line, lines.get(name, line))
    return lines


def _first_parameter(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == ENTRY_FUNCTION:
        return [parameter.arg for parameter in (*node.args.posonlyargs, *node.args.args)][:1]
    return []


def _aliases(node: ast.AST, pds: set[str]) -> Iterator[str]:
    """Yield the aliases of `pd.steps`: `steps = pd.steps`, or an import from the old helper module."""
    if isinstance(node, ast.Assign) and _is_steps(node.value, pds, set()):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.ImportFrom) and node.module == LEGACY_HELPER_MODULE:
        yield from (alias.asname or alias.name for alias in node.names if alias.name == "steps")


def _is_steps(node: ast.expr, pds: set[str], aliases: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "steps" and isinstance(node.value, ast.Name) and node.value.id in pds
    return isinstance(node, ast.Name) and node.id in aliases


def _step_name(node: ast.AST, pds: set[str], aliases: set[str]) -> str | None:
    match node:
        case ast.Subscript(value=value, slice=ast.Constant(value=str(name)), ctx=ast.Load()):
            return name if _is_steps(value, pds, aliases) else None
        case ast.Call(func=ast.Attribute(value=value, attr="get"), args=[ast.Constant(value=str(name)), *_]):
            return name if _is_steps(value, pds, aliases) else None
    return None


def find_variables(source: str) -> VariableReferences:
    """Return the environment variables that *source* reads; `os.environ["X"]` makes X required, `os.getenv("X")` optional."""
    tree = parse_source(source)
    if tree is None:
        return VariableReferences()
    required: set[str] = set()
    optional: set[str] = set()
    assigned: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=value, slice=ast.Constant(value=str(name)), ctx=context) if _is_environ(value):
                (required if isinstance(context, ast.Load) else assigned).add(name)
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if _is_lookup(func):
                optional.add(name)
            case ast.Call(func=ast.Attribute(value=value, attr="setdefault"), args=[ast.Constant(value=str(name)), *_]):
                if _is_environ(value):
                    assigned.add(name)
            case ast.Compare(left=ast.Constant(value=str(name)), comparators=[right, *_]) if _is_environ(right):
                assigned.add(name)  # `"X" in os.environ`: the code checks the variable
    return VariableReferences(frozenset(required - assigned), frozenset(optional))


def _is_environ(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr="environ") | ast.Name(id="environ"):
            return True
    return False


def _is_lookup(func: ast.expr) -> bool:
    match func:
        case ast.Attribute(value=ast.Name(id="os"), attr="getenv") | ast.Name(id="getenv"):
            return True
        case ast.Attribute(value=value, attr="get"):
            return _is_environ(value)
    return False
