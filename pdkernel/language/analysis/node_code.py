"""
Analysis of Node.js code and expressions with tree-sitter: entry point, `process.env`, app props and packages.

Code with a syntax error counts as having an entry point: running the code gives the better message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tree_sitter import Node

from pdkernel.language.analysis.python_code import VariableReferences
from pdkernel.language.expression import find_reference_lines, javascript

ENTRY_POINT_TEMPLATE = (
    "export default defineComponent({\n  async run({ steps, $ }) {\n    return steps.trigger.event;\n  },\n});"
)
_COMPARISONS = frozenset({"===", "!==", "==", "!=", "in"})

_BUILTIN_NAMES = (
    "assert assert/strict async_hooks buffer child_process cluster console constants crypto dgram diagnostics_channel "
    "dns dns/promises domain events fs fs/promises http http2 https inspector inspector/promises module net os path "
    "path/posix path/win32 perf_hooks process punycode querystring readline readline/promises repl stream "
    "stream/consumers stream/promises stream/web string_decoder sys timers timers/promises tls trace_events tty url "
    "util util/types v8 vm wasi worker_threads zlib"
)
NODE_BUILTIN_MODULES = frozenset(_BUILTIN_NAMES.split())
"""Built-in modules that are imported without `node:`, from `module.builtinModules` of Node.js 20, 22 and 24."""

_NAME = re.compile(r"(?:@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*", re.IGNORECASE)
_RANGE = re.compile(r"(?!\.)[\w.~^<>=*|+\- ]+", re.ASCII)  # npm reads a leading dot as a folder
_ARCHIVE = re.compile(r"\.(?:tgz|tar|tar\.gz)", re.IGNORECASE)
_RESERVED = frozenset({"node_modules", "favicon.ico"})
_LOADED = ("node:", "file:", "data:")
"""Schemes of URLs that Node.js imports."""

_SPECIFIER = re.compile(r"(?P<name>(?:@[^/@\s]+/)?[^/@\s][^/@]*)(?:@(?P<version>[^/]+))?(?:/.*)?", re.DOTALL)
_URL = re.compile(r"[a-zA-Z][\w+.-]*:")
_NON_PACKAGE_SPECIFIER = re.compile(rf"[./#]|{_URL.pattern}")
_MAX_FILE_NAME = 200
_MAX_SHOWN = 60
"""Maximum number of characters of an import in a message."""


@dataclass(frozen=True, slots=True)
class PackageImport:
    """
    A package that code imports.

    Attributes:
        name: `axios`, `@scope/name`.
        version: The text after the `@`: `0.19.2`, `~0.20.0`, `latest`; or None.
        line: The line of the source, from 1.
    """

    name: str
    version: str | None
    line: int


def has_entry_point(source: str) -> bool:
    """Return whether *source* has a default export, sets `module.exports`, or has a syntax error."""
    root = javascript.parse_source(source)
    return root.has_error or any(_exports(node) for node in javascript.iter_nodes(root))


def find_unexported_component(source: str) -> int | None:
    """Return the line of a statement `defineComponent(...)`, which lacks `export default`, or None."""
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        called = node.child_by_field_name("function") if node.type == "call_expression" else None
        is_statement = node.parent is not None and node.parent.type == "expression_statement"
        if called is not None and is_statement and javascript.get_source(called) == "defineComponent":
            return node.start_point[0] + 1
    return None


def _exports(node: Node) -> bool:
    if node.type == "export_statement":
        return any(child.type == "default" for child in node.children)
    if node.type == "export_specifier":
        alias = node.child_by_field_name("alias")
        return alias is not None and javascript.get_source(alias) == "default"
    if node.type == "assignment_expression":
        left = node.child_by_field_name("left")
        return left is not None and javascript.get_source(left).startswith(("module.exports", "exports.default"))
    return False


def find_step_references(source: str) -> dict[str, int]:
    """Return the steps that *source* reads by a literal name, each with the line of the first read."""
    return find_reference_lines(source)


def find_variables(source: str) -> VariableReferences:
    """
    Environment variables that *source*, a module or an expression, reads.

    A variable with a default, a test or a comparison is optional. Other variables are required: an
    undefined value breaks the step later without an error message.
    """
    root = javascript.parse_expression(source) or javascript.parse_source(source)
    required: set[str] = set()
    optional: set[str] = set()
    assigned: set[str] = set()
    for node in javascript.iter_nodes(root):
        if _is_env(node.child_by_field_name("object")) and (name := javascript.get_member_name(node)) is not None:
            if _is_target(node):
                assigned.add(name)
            else:
                (optional if _has_fallback(node) else required).add(name)
        elif node.type == "variable_declarator" and _is_env(node.child_by_field_name("value")):
            needed, defaulted = _get_destructured_names(node.child_by_field_name("name"))
            required |= needed
            optional |= defaulted
    return VariableReferences(frozenset(required - assigned - optional), frozenset(optional))


def _is_env(node: Node | None) -> bool:
    return (
        node is not None
        and node.type == "member_expression"
        and javascript.get_source(node).replace("?.", ".").replace(" ", "") == "process.env"
    )


def _is_target(node: Node) -> bool:
    parent = node.parent
    return parent is not None and parent.type == "assignment_expression" and parent.child_by_field_name("left") == node


def _has_fallback(node: Node) -> bool:
    """Return whether the code around *node* handles an undefined value."""
    parent = node.parent
    while parent is not None and parent.type == "parenthesized_expression":
        node, parent = parent, parent.parent
    if parent is None:
        return False
    if parent.type == "binary_expression":
        operator = parent.child_by_field_name("operator")
        sign = "" if operator is None else javascript.get_source(operator)
        return sign in _COMPARISONS or (sign in {"??", "||", "&&"} and parent.child_by_field_name("left") == node)
    if parent.type in {"if_statement", "ternary_expression", "while_statement"}:
        return parent.child_by_field_name("condition") == node
    if parent.type in {"member_expression", "subscript_expression", "call_expression"}:
        return any(child.type == "optional_chain" for child in parent.children)
    return parent.type == "unary_expression" or (
        parent.type == "augmented_assignment_expression" and parent.child_by_field_name("left") == node
    )


def _get_destructured_names(pattern: Node | None) -> tuple[set[str], set[str]]:
    """Return the names of `const { A, B = 1 } = process.env`: those without and those with a default."""
    needed: set[str] = set()
    defaulted: set[str] = set()
    for child in pattern.named_children if pattern is not None and pattern.type == "object_pattern" else ():
        if child.type == "shorthand_property_identifier_pattern":
            needed.add(javascript.get_source(child))
        elif child.type == "object_assignment_pattern" and (left := child.child_by_field_name("left")) is not None:
            defaulted.add(javascript.get_source(left))
        elif child.type == "pair_pattern" and (key := javascript.get_key(child)) is not None:
            value = child.child_by_field_name("value")
            (defaulted if value is not None and value.type == "assignment_pattern" else needed).add(key)
    return needed, defaulted


def find_apps(source: str) -> dict[str, str]:
    """Return the app slugs of the app props that *source* declares with literals under `props`, by prop."""
    found: dict[str, str] = {}
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        if node.type == "pair" and javascript.get_key(node) == "props":
            props = node.child_by_field_name("value")
            for pair in props.named_children if props is not None and props.type == "object" else ():
                prop = javascript.get_key(pair) if pair.type == "pair" else None
                slug = _app_of(pair.child_by_field_name("value"))
                if prop is not None and slug is not None:
                    found.setdefault(prop, slug)
    return found


def _app_of(definition: Node | None) -> str | None:
    if definition is None or definition.type != "object":
        return None
    fields = {
        javascript.get_key(pair): javascript.get_string_literal(pair.child_by_field_name("value"))
        for pair in definition.named_children
        if pair.type == "pair"
    }
    return fields.get("app") if fields.get("type") == "app" else None


@lru_cache(maxsize=500)
def find_packages(source: str) -> tuple[PackageImport, ...]:
    """
    Packages that *source* imports by a literal name, each name and version once with the line of its first import.

    Recognises `import`, `export ... from`, `import("name")` and `require("name")`. Built-in modules, files and URLs are
    not packages.
    """
    found: dict[tuple[str, str | None], PackageImport] = {}
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        specifier = _get_import_specifier(node)
        split = None if specifier is None else parse_specifier(specifier)
        if split is not None:
            found.setdefault(split, PackageImport(*split, line=node.start_point[0] + 1))
    return tuple(found.values())


@lru_cache(maxsize=500)
def find_file_imports(source: str) -> tuple[tuple[str, int, bool], ...]:
    """
    Imports of *source* by a relative path: the path, the line, and whether the code fails without the file.

    A call of `import` or `require` in a `try` may fail.
    """
    return tuple(
        (specifier, node.start_point[0] + 1, not _is_in_try(node))
        for node in javascript.iter_nodes(javascript.parse_source(source))
        if (specifier := _get_import_specifier(node)) is not None
        and (specifier in (".", "..") or specifier.startswith(("./", "../")))
    )


@lru_cache(maxsize=500)
def find_data_files(source: str) -> tuple[tuple[str, int, bool], ...]:
    """
    Names of files beside *source*, if it reads `import.meta` or `__dirname`: the name, the line, and whether it is certain.

    `new URL("NAME", import.meta.url)` certainly names a file. Another text may name a file, also the texts of
    `join(a, "b", "c")`, joined.
    """
    if "import.meta" not in source and "__dirname" not in source:
        return ()
    found: dict[str, tuple[int, bool]] = {}
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        arguments = node.child_by_field_name("arguments")
        texts = [_get_short_text(each) for each in (arguments.named_children if arguments is not None else ())]
        parts = [text for text in texts if text]
        if node.type == "new_expression" and arguments is not None and _is_url_beside(node, arguments):
            found[parts[0].removeprefix("./")] = (node.start_point[0] + 1, not _is_in_try(node))
        elif node.type == "call_expression" and _get_called_name(node) in ("join", "resolve") and parts:
            found.setdefault("/".join(parts), (node.start_point[0] + 1, False))
        elif (text := _get_short_text(node)) and (node.parent is None or node.parent.type != "import_statement"):
            found.setdefault(text, (node.start_point[0] + 1, False))
    return tuple((name, line, is_certain) for name, (line, is_certain) in found.items() if not name.startswith("/"))


def _get_short_text(node: Node) -> str | None:
    """Return the text of a string literal that may be part of a path, else None."""
    text = javascript.get_string_literal(node)
    return text if text is not None and 0 < len(text) <= _MAX_FILE_NAME and text.isprintable() else None


def _get_called_name(node: Node) -> str | None:
    called = node.child_by_field_name("function")
    if called is None:
        return None
    return javascript.get_source(called) if called.type == "identifier" else javascript.get_member_name(called)


def _is_url_beside(node: Node, arguments: Node) -> bool:
    """Return whether *node* is `new URL("NAME", import.meta.url)` with a relative name."""
    constructor, given = node.child_by_field_name("constructor"), arguments.named_children
    if constructor is None or javascript.get_source(constructor) != "URL" or len(given) != 2:
        return False
    name = _get_short_text(given[0])
    is_file = name is not None and not _URL.match(name) and name not in (".", "..") and not name.endswith("/")
    return is_file and javascript.get_source(given[1]) == "import.meta.url"


def _is_in_try(node: Node) -> bool:
    above: Node | None = node
    while above is not None and above.type != "try_statement":
        above = above.parent
    return above is not None


def parse_specifier(specifier: str) -> tuple[str, str | None] | None:
    """Return the package and version of a specifier like `@scope/name@^1/sub/path`; None if it does not name a package."""
    if specifier in NODE_BUILTIN_MODULES or _NON_PACKAGE_SPECIFIER.match(specifier):
        return None
    found = _SPECIFIER.fullmatch(specifier)
    return None if found is None else (found["name"], found["version"])


def package_fault(name: str, version: str | None) -> str | None:
    """Return why *name* and *version* are not valid for an npm package, as the end of a sentence; None if they are valid."""
    if not _NAME.fullmatch(name) or len(name) > 214 or name.lower() in _RESERVED:
        return f"{_short(name)} is not the name of an npm package"
    if version is not None and (not _RANGE.fullmatch(version) or _ARCHIVE.search(version)):
        return f"{_short(version)} is not a version of the npm package {name}"
    return None


def import_faults(source: str) -> Iterator[tuple[str, int]]:
    """Yield the imports of *source* by a literal name that names neither a package nor a file, each with the reason and the line."""
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        specifier = _get_import_specifier(node)
        fault = None if specifier is None else _import_fault(specifier)
        if fault is not None:
            yield fault, node.start_point[0] + 1


def _import_fault(specifier: str) -> str | None:
    if (
        specifier in NODE_BUILTIN_MODULES
        or specifier.startswith(("./", "../", "/", "#", *_LOADED))
        or specifier in (".", "..")
    ):
        return None
    if _URL.match(specifier):
        return f"{_short(specifier)} is a URL and not the name of an npm package"
    split = parse_specifier(specifier)
    if split is None or ".." in specifier.split("/"):
        return f"{_short(specifier)} is not the name of an npm package"
    return package_fault(*split)


def _short(text: str) -> str:
    shown = re.sub(r"://\S*", "://...", text)  # a URL may contain a password
    return repr(shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}...")


def _get_import_specifier(node: Node) -> str | None:
    """Return the literal specifier that *node* imports, or None."""
    if node.type in {"import_statement", "export_statement"}:
        return javascript.get_string_literal(node.child_by_field_name("source"))
    if node.type != "call_expression":
        return None
    called, arguments = node.child_by_field_name("function"), node.child_by_field_name("arguments")
    if called is None or arguments is None or not arguments.named_children:
        return None
    if called.type != "import" and javascript.get_source(called) not in {"require", "require.resolve"}:
        return None
    return javascript.get_string_literal(arguments.named_children[0])
