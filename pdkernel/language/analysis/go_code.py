"""
Analysis of Go code with tree-sitter: entry point, imports, steps, accounts and environment variables.

Code with a syntax error counts as having an entry point: the compiler gives the better message.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import tree_sitter_go
from tree_sitter import Language, Node, Parser

from pdkernel.language.analysis.python_code import VariableReferences

HELPER_IMPORT_PATH = "github.com/PipedreamHQ/pipedream-go"
"""The import path of the helper that gives a step `pd`."""

ENTRY_POINT_TEMPLATE = (
    'package main\n\nimport "github.com/PipedreamHQ/pipedream-go"\n\n'
    'func main() {\n\tpd.Export("event", pd.Steps["trigger"])\n}'
)


@functools.lru_cache(maxsize=1)
def _language() -> Language:
    return Language(tree_sitter_go.language())


@functools.lru_cache(maxsize=64)
def parse_source(source: str) -> Node:
    """Return the root node of the syntax tree of *source*; a syntax error becomes an `ERROR` node."""
    return Parser(_language()).parse(source.encode("utf-8", "replace")).root_node


def _walk(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(reversed(found.named_children))


def _text(node: Node | None) -> str:
    return (node.text or b"").decode() if node is not None else ""


def has_entry_point(source: str) -> bool:
    """Return whether *source* is `package main` with a `func main()`, or has a syntax error."""
    tree = parse_source(source)
    if tree.has_error:
        return True
    packages = [_text(child.named_children[0]) for child in tree.named_children if child.type == "package_clause"]
    functions = {
        _text(child.child_by_field_name("name"))
        for child in tree.named_children
        if child.type == "function_declaration"
    }
    return packages == ["main"] and "main" in functions


def find_imports(source: str) -> dict[str, str]:
    """Return the packages that *source* imports, each with its name in the code; `_` and `.` stay as written."""
    found: dict[str, str] = {}
    for node in _walk(parse_source(source)):
        if node.type == "import_spec":
            path = _string(node.child_by_field_name("path"))
            if path is not None:
                alias = _text(node.child_by_field_name("name"))
                found[path] = alias or ("pd" if path == HELPER_IMPORT_PATH else path.rpartition("/")[2])
    return found


@functools.lru_cache(maxsize=256)
def find_external_packages(source: str) -> tuple[str, ...]:
    """Return the packages that *source* imports outside the standard library and the helper, sorted."""
    # packages of the standard library have no dot in their first path segment
    return tuple(
        sorted(path for path in find_imports(source) if path != HELPER_IMPORT_PATH and "." in path.partition("/")[0])
    )


def find_step_references(source: str) -> dict[str, int]:
    """Return the steps that *source* reads by a literal name, each with the line of the first read."""
    lines: dict[str, int] = {}
    for name, node in _indexed(source, "Steps"):
        lines.setdefault(name, node.start_point[0] + 1)
    return lines


def find_apps(source: str) -> tuple[str, ...]:
    """Return the apps whose accounts *source* reads by a literal name, in order."""
    return tuple(dict.fromkeys(name for name, _ in _indexed(source, "Accounts")))


def has_response_call(source: str) -> bool:
    """Return whether *source* calls `pd.Respond`, or names the file that `pd.Respond` writes."""
    call = f"{find_imports(source).get(HELPER_IMPORT_PATH, 'pd')}.Respond"
    return any(
        (node.type == "call_expression" and _text(node.child_by_field_name("function")) == call)
        or _string(node) == "PIPEDREAM_RESPONSE"
        for node in _walk(parse_source(source))
    )


def find_variables(source: str) -> VariableReferences:
    """
    Environment variables that *source* reads; `os.Getenv("X")` makes X required.

    `os.LookupEnv("X")` and a comparison of the value with "" make X optional.
    """
    found: dict[str, set[str]] = {"Getenv": set(), "LookupEnv": set(), "Setenv": set()}
    package = find_imports(source).get("os", "os")
    for node in _walk(parse_source(source)):
        if node.type != "call_expression":
            continue
        owner, _, function = _text(node.child_by_field_name("function")).rpartition(".")
        arguments = node.child_by_field_name("arguments")
        first = arguments.named_children[0] if arguments is not None and arguments.named_children else None
        name = _string(first)
        if owner == package and function in found and name is not None:
            found["LookupEnv" if function == "Getenv" and _is_compared(node) else function].add(name)
    required = found["Getenv"] - found["LookupEnv"] - found["Setenv"]
    return VariableReferences(frozenset(required), frozenset(found["LookupEnv"]))


def _is_compared(node: Node) -> bool:
    """Return whether *node* is compared with an empty text."""
    around = node.parent
    if around is None or around.type != "binary_expression" or not any(c.type in {"==", "!="} for c in around.children):
        return False
    return any(_string(side) == "" for side in around.named_children)


def _indexed(source: str, member: str) -> Iterator[tuple[str, Node]]:
    """Yield every `pd.<member>["NAME"]`, with its node."""
    owner = f"{find_imports(source).get(HELPER_IMPORT_PATH, 'pd')}.{member}"
    for node in _walk(parse_source(source)):
        if node.type == "index_expression" and _text(node.child_by_field_name("operand")) == owner:
            name = _string(node.child_by_field_name("index"))
            if name is not None:
                yield name, node


def _string(node: Node | None) -> str | None:
    """Return the value of a string literal; None for other nodes."""
    if node is None or node.type not in ("interpreted_string_literal", "raw_string_literal"):
        return None
    text = _text(node)
    if text.startswith("`"):
        return text[1:-1]
    try:
        value = json.loads(text)  # Go has more escapes than JSON, but names do not contain them
    except ValueError:
        return None
    return value if isinstance(value, str) else None
