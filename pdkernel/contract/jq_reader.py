"""
What a jq filter reads of its input.

Knows jq's own functions as far as they say what they read. A look-up in null gives null, so that a missing field fails
where its value is used, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from pdkernel.contract.jq_syntax import Filter
from pdkernel.contract.trace import NONE, Tested, Trace
from pdkernel.contract.values import (
    ITEM,
    NOTHING,
    At,
    Literally,
    Object,
    Several,
    Text,
    Value,
    either,
)

_TEXT = frozenset(
    [
        "startswith",
        "endswith",
        "ltrimstr",
        "rtrimstr",
        "trim",
        "ltrim",
        "rtrim",
        "ascii_downcase",
        "ascii_upcase",
        "test",
        "match",
        "capture",
        "scan",
        "sub",
        "gsub",
        "split",
        "splits",
        "explode",
        "fromdate",
        "fromdateiso8601",
        "strptime",
    ]
)
_LIST = frozenset(["reverse", "sort", "unique", "flatten", "transpose"])
_BY = frozenset(["sort_by", "unique_by", "group_by", "min_by", "max_by"])
_KEYS = frozenset(
    [
        "keys",
        "keys_unsorted",
        "to_entries",
        "with_entries",
        "map_values",
        "paths",
        "leaf_paths",
        "tostream",
        "getpath",
        "walk",
        "recurse",
        "recurse_down",
        "path",
        "pick",
        "del",
        "delpaths",
        "setpath",
        "env",
        "input",
        "inputs",
    ]
)
_NUMBER = frozenset(["floor", "ceil", "round", "sqrt", "fabs", "todate", "strftime"])


class JqReader(Trace):
    """A walk through jq filters."""

    functions: Mapping[tuple[str, int], tuple[tuple[str, ...], Filter]] = {}

    def apply(self, node: Filter, value: Value) -> Value:
        """What *node* makes of *value*."""
        act: Callable[..., Value] = getattr(self, f"_jq_{node.kind}")
        return act(value, *node.parts)

    # ── paths ──────────────────────────────────────────────────────────────────────

    def _jq_identity(self, value: Value) -> Value:
        return value

    def _jq_recurse(self, value: Value) -> Value:
        return self.dynamic(value)

    def _jq_field(self, value: Value, owner: Filter, name: str) -> Value:
        return self.member(self.apply(owner, value), name)

    def _jq_index(self, value: Value, owner: Filter, key: Filter) -> Value:
        found, keys = self.apply(owner, value), self.apply(key, value)
        if keys and all(isinstance(atom, Literally) and isinstance(atom.value, int) for atom in keys):
            return self.member(self.typed(found, "array"), ITEM)
        if key.kind == "negate":
            return self.member(self.typed(found, "array"), ITEM)
        return self.at_keys(found, keys)

    def _jq_slice(self, value: Value, owner: Filter) -> Value:
        return self.apply(owner, value)

    def _jq_each(self, value: Value, owner: Filter) -> Value:
        return self.iterate(self.apply(owner, value))

    def _jq_maybe(self, value: Value, inner: Filter) -> Value:
        with self.copes():
            return self.softened(self.apply(inner, value))

    # ── what is written ────────────────────────────────────────────────────────────

    def _jq_literal(self, _: Value, written: object) -> Value:
        is_key = isinstance(written, str | int) and not isinstance(written, bool)
        return (Literally(written),) if is_key else NOTHING  # type: ignore[arg-type]  # narrowed above

    def _jq_text(self, value: Value, *inner: Filter) -> Value:
        for each in inner:
            self.use(self.apply(each, value))
        return NOTHING

    def _jq_format(self, value: Value, name: str) -> Value:
        if name in {"@base64", "@base64d", "@text"}:
            return value
        if name == "@json":
            return (Text(value),)
        self.use(self.iterate(value) if name in {"@csv", "@tsv", "@sh"} and _is_made(value) else value)
        return NOTHING

    def _jq_object(self, value: Value, *pairs: tuple[Filter, Filter | None]) -> Value:
        items: dict[object, Value] = {}
        for key, written in pairs:
            names = self._jq_variable(value, *key.parts) if key.kind == "variable" else self.apply(key, value)
            literal = names[0].value if len(names) == 1 and isinstance(names[0], Literally) else None
            if literal is None:
                self.use(names)
            if written is not None:
                items[literal if literal is not None else id(key)] = self.apply(written, value)
            elif literal is not None:
                items[literal] = self.member(value, literal)
        return (Object(items),)

    def _jq_array(self, value: Value, *inner: Filter) -> Value:
        return (Several(either(*(self.apply(each, value) for each in inner))),)

    def _jq_variable(self, _: Value, name: str) -> Value:
        return self.scope.find(f"${name}") or NOTHING

    # ── putting together ───────────────────────────────────────────────────────────

    def _jq_pipe(self, value: Value, left: Filter, right: Filter) -> Value:
        with self.whole_function():  # what `select` finds out holds for what comes behind it
            return self.apply(right, self.apply(left, value))

    def _jq_comma(self, value: Value, left: Filter, right: Filter) -> Value:
        return either(self.apply(left, value), self.apply(right, value))

    def _jq_binary(self, value: Value, sign: str, left: Filter, right: Filter) -> Value:
        if sign == "//":
            found = self.apply(left, value)
            self.glance(found)
            missing = frozenset(atom.place for atom in found if isinstance(atom, At))
            self.typed(found, *_type_of(right))
            return either(self.handed(found), self.alone(NONE, missing, lambda: self.apply(right, value)))
        if sign.endswith("=") and sign not in {"==", "!=", "<=", ">="}:
            self.use(self.apply(right, value if sign != "|=" else self.softened(self.apply(left, value))))
            return value
        if sign in {"and", "or", "==", "!=", "<", "<=", ">", ">="}:
            self.test(Filter("binary", (sign, left, right)), value)
            return NOTHING
        for side, other in ((left, right), (right, left)):
            types = _type_of(other) if sign == "+" else ("number",) if sign != "%" else ()
            self.use(self.typed(self.apply(side, value), *(types if sign != "+" or types != ("object",) else ())))
        return NOTHING

    def _jq_negate(self, value: Value, inner: Filter) -> Value:
        self.use(self.typed(self.apply(inner, value), "number"))
        return NOTHING

    def _jq_if(self, value: Value, test: Filter, then: Filter, other: Filter) -> Value:
        there, missing = self.test(test, value)
        return self.branches(
            (there, missing, lambda: self.apply(then, value)), (missing, there, lambda: self.apply(other, value))
        )

    def _jq_try(self, value: Value, body: Filter, handler: Filter | None) -> Value:
        with self.copes():
            found = self.softened(self.apply(body, value))
        return either(found, self.alone(NONE, NONE, lambda: self.apply(handler, NOTHING)) if handler else NOTHING)

    def _jq_bind(self, value: Value, source: Filter, patterns: tuple[Filter, ...], body: Filter) -> Value:
        found = self.apply(source, value)
        for pattern in patterns:
            self._bind_pattern(pattern, found)
        return self.apply(body, value)

    def _bind_pattern(self, pattern: Filter, value: Value) -> None:
        if pattern.kind == "variable":
            self.bind(f"${pattern.parts[0]}", value, new=True)
        elif pattern.kind == "array":
            for each in pattern.parts:
                self._bind_pattern(each, self.iterate(value))
        elif pattern.kind == "comma":
            for each in pattern.parts:
                self._bind_pattern(each, value)
        elif pattern.kind == "object":
            for key, inner in pattern.parts:
                names = self.apply(key, NOTHING)
                found = self.at_keys(value, names)
                if inner is not None:
                    self._bind_pattern(inner, found)

    def _jq_reduce(self, value: Value, source: Filter, pattern: Filter, parts: tuple[Filter, ...]) -> Value:
        self._bind_pattern(pattern, self.apply(source, value))
        kept = self.apply(parts[0], value)
        for part in parts[1:]:
            kept = either(kept, self.apply(part, kept))
        return kept

    def _jq_define(self, value: Value, name: str, parameters: tuple[str, ...], body: Filter, rest: Filter) -> Value:
        before = self.functions
        self.functions = {**before, (name, len(parameters)): (parameters, body)}
        try:
            return self.apply(rest, value)
        finally:
            self.functions = before

    # ── functions ──────────────────────────────────────────────────────────────────

    def _jq_call(self, value: Value, name: str, given: tuple[Filter, ...]) -> Value:
        defined = self.functions.get((name, len(given)))
        if defined is not None:
            return self._defined(value, name, given, defined)
        if name == "select" and given:
            self.learn(self.test(given[0], value)[0])
            return value
        if name == "map" and given:
            return (Several(self.apply(given[0], self.iterate(value))),)
        if name in _BY and given:
            items = self.iterate(value)
            self.use(self.apply(given[0], items))
            return (
                items
                if name in {"min_by", "max_by"}
                else value
                if name != "group_by"
                else (Several((Several(items),)),)
            )
        if name in {"first", "last", "nth", "limit", "until", "any", "all", "isempty"}:
            return self._some(value, name, given)
        if name in _KEYS:
            return self.dynamic(value)
        if name in {"has", "not", "type"}:
            self.test(Filter("call", (name, given)), value)
            return NOTHING
        return self._plain(value, name, given)

    def _plain(self, value: Value, name: str, given: tuple[Filter, ...]) -> Value:
        for each in given:
            self.use(self.apply(each, value))
        if name in {"empty", "length"}:
            return NOTHING
        if name in _TEXT:
            self.use(self.typed(value, "string"))
            return NOTHING
        if name in _LIST:
            return self.typed(value, "array")
        if name in {"add", "join", "min", "max"}:
            self.use(self.iterate(value))
            return NOTHING
        if name == "fromjson":
            self.use(self.typed(tuple(atom for atom in value if isinstance(atom, At)), "string"))
            return either(*(atom.of for atom in value if isinstance(atom, Text)))
        if name == "tojson":
            return (Text(value),)
        if name in {"values", "strings", "objects", "arrays", "numbers", "scalars", "iterables", "tostring", "ascii"}:
            return self.softened(value) if name != "tostring" else value
        self.use(self.typed(value, "number") if name in _NUMBER else value)
        return NOTHING

    def _some(self, value: Value, name: str, given: tuple[Filter, ...]) -> Value:
        if name in {"any", "all"}:
            items = self.iterate(value)
            self.test(given[-1], items) if given else self.use(items)
            return NOTHING
        if name in {"first", "last"} and not given:
            return self.member(self.typed(value, "array"), ITEM)
        if name == "nth" and len(given) == 1:
            return self.member(self.typed(value, "array"), ITEM)
        found = [self.apply(each, value) for each in given]
        return found[-1] if found else NOTHING

    def _defined(
        self, value: Value, name: str, given: tuple[Filter, ...], defined: tuple[tuple[str, ...], Filter]
    ) -> Value:
        parameters, body = defined
        before = self.functions
        # each parameter is a filter of its own; the function itself is not called again
        own = {(p.lstrip("$"), 0): ((), each) for p, each in zip(parameters, given, strict=True)}
        self.functions = {key: each for key, each in before.items() if key != (name, len(given))} | own
        for parameter, each in zip(parameters, given, strict=True):
            if parameter.startswith("$"):
                self.bind(parameter, self.apply(each, value), new=True)
        try:
            return self.apply(body, value)
        finally:
            self.functions = before

    # ── tests ──────────────────────────────────────────────────────────────────────

    def test(self, node: Filter, value: Value) -> Tested:
        """Follow a test: what is there if it is true, and what if it is false."""
        if node.kind == "pipe" and node.parts[1] == Filter("call", ("not", ())):
            there, missing = self.test(node.parts[0], value)
            return missing, there
        if node.kind == "binary" and node.parts[0] in {"and", "or"}:
            return self._test_both(value, *node.parts)
        if node.kind == "binary" and node.parts[0] in {"==", "!=", "<", "<=", ">", ">="}:
            return self._test_comparison(value, *node.parts)
        if node.kind == "call" and node.parts[0] == "has" and node.parts[1]:
            keys = self.apply(node.parts[1][0], value)
            found = [self.looked_for(value, str(atom.value)) for atom in keys if isinstance(atom, Literally)]
            return NONE.union(*found), NONE
        if node.kind == "call" and node.parts[0] == "type":
            return self.in_any_type(value), NONE
        found_value = self.apply(node, value)
        self.use(tuple(atom for atom in found_value if not isinstance(atom, At)))
        return self.glance(found_value), NONE

    def _test_both(self, value: Value, sign: str, left: Filter, right: Filter) -> Tested:
        return self.both(*(partial(self.test, side, value) for side in (left, right)), is_and=sign == "and")

    def _test_comparison(self, value: Value, sign: str, left: Filter, right: Filter) -> Tested:
        for each, other in ((left, right), (right, left)):
            if other.kind == "literal" and other.parts[0] in (None, ""):
                places = self.glance(self.apply(each, value))
                return (NONE, places) if sign == "==" else (places, NONE)
        for each, other in ((left, right), (right, left)):
            self.use(self.typed(self.apply(each, value), *_type_of(other)))
        return NONE, NONE


def _type_of(node: Filter) -> tuple[str, ...]:
    if node.kind in {"array", "object"}:
        return (node.kind,)
    if node.kind == "text":
        return ("string",)
    if node.kind != "literal" or node.parts[0] is None:
        return ()
    written = node.parts[0]
    if isinstance(written, bool):
        return ("boolean",)
    return ("string",) if isinstance(written, str) else ("number",)


def _is_made(value: Value) -> bool:
    return all(isinstance(atom, Several) for atom in value)
