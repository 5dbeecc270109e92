"""
Types that a Go step declares, as far as they say what JSON is read into them.

Knows struct tags. Knows nothing of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tree_sitter import Node

_TAG = re.compile(r'json:"([^",]*)((?:,[^"]*)?)"')
_BASIC = {
    "string": "string",
    "bool": "boolean",
    "float32": "number",
    "float64": "number",
    "rune": "number",
    "byte": "number",
}
_WRAPPERS = frozenset({"pointer_type", "parenthesized_type"})
_ONE_WORD = re.compile(r"[A-Z][a-z0-9]*\Z|[A-Z]{1,4}\Z")


@dataclass(frozen=True, slots=True)
class GoField:
    """
    A field of a struct.

    Attributes:
        name: What the code calls it.
        key: What it is called in JSON; None if the code does not say. Go takes a name without a tag in any case: one of
            one word is taken to be in small letters.
        kind: Its type's syntax.
        optional: Whether it says that it may be missing.
    """

    name: str
    key: str | None
    kind: Node | None
    optional: bool


def text_of(node: Node | None) -> str:
    """The source of *node*."""
    return (node.text or b"").decode("utf-8", "replace") if node is not None else ""


def resolved(kind: Node | None, declared: Mapping[str, Node]) -> Node | None:
    """*kind* without pointers, a name replaced by what was declared for it."""
    for _ in range(20):
        if kind is None:
            return None
        if kind.type in _WRAPPERS and kind.named_children:
            kind = kind.named_children[-1]
        elif kind.type == "type_identifier" and text_of(kind) in declared:
            kind = declared[text_of(kind)]
        else:
            return kind
    return kind


def fields_of(struct: Node) -> Iterator[GoField]:
    """The fields of a struct type."""
    for child in struct.named_children:
        for each in child.named_children if child.type == "field_declaration_list" else ():
            if each.type != "field_declaration":
                continue
            kind = each.child_by_field_name("type")
            match = _TAG.search(text_of(each.child_by_field_name("tag")))
            for name in each.children_by_field_name("name"):
                said = text_of(name)
                key = match[1] if match and match[1] else said.lower() if _ONE_WORD.match(said) else None
                optional = (kind is not None and kind.type == "pointer_type") or bool(match and "omitempty" in match[2])
                yield GoField(said, key, kind, optional)


def json_types(kind: Node | None, declared: Mapping[str, Node]) -> tuple[str, ...]:
    """What JSON value a type takes; nothing for one that takes any."""
    found = resolved(kind, declared)
    if found is None:
        return ()
    if found.type in {"slice_type", "array_type"}:
        return () if text_of(found) == "[]byte" else ("array",)
    if found.type in {"map_type", "struct_type"}:
        return ("object",)
    name = text_of(found)
    if re.fullmatch(r"u?int(8|16|32|64)?", name):
        return ("number",)
    return (_BASIC[name],) if name in _BASIC else ()
