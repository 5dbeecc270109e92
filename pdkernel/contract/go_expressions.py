"""
Go expressions, followed through tree-sitter.

Knows `pd.Steps`, type assertions and structs that JSON is read into. A missing key gives nil: it fails where that is
asserted to be something, or is used. Statements are `go_reader`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tree_sitter import Node

from pdkernel.contract.go_types import fields_of, json_types, resolved, text_of
from pdkernel.contract.trace import NONE, Exports, Tested, Trace
from pdkernel.contract.values import (
    ITEM,
    NOTHING,
    At,
    Known,
    Literally,
    Object,
    Routine,
    Several,
    Shaped,
    Text,
    Value,
    either,
)

_LEAVES = frozenset({"return_statement", "continue_statement", "break_statement", "goto_statement"})
_FAILS = ("panic", "log.Fatal", "log.Fatalf", "log.Fatalln", "os.Exit")
_WHOLE = ("fmt.Print", "fmt.Fprint", "log.", "http.", "pd.")
_TEXT = ("strings.", "strconv.Atoi", "strconv.Parse", "url.Parse", "url.QueryEscape", "html.")


class GoExpressions(Trace):
    """A walk through Go expressions."""

    def __init__(self, known: Exports | None = None, *, helper: str = "pd") -> None:
        super().__init__(known)
        self._helper = helper
        self._types: dict[str, Node] = {}

    def of(self, node: Node | None) -> Value:
        """What *node* stands for; what it reads on the way is noted."""
        if node is None:
            return NOTHING
        self.line = node.start_point[0] + 1
        act: Callable[[Node], Value] | None = getattr(self, f"_{node.type}", None)
        if act is not None:
            return act(node)
        for child in node.named_children:
            self.use(self.of(child))
        return NOTHING

    # ── names and keys ─────────────────────────────────────────────────────────────

    def _identifier(self, node: Node) -> Value:
        return self.scope.find(text_of(node)) or NOTHING

    def _interpreted_string_literal(self, node: Node) -> Value:
        said = text_of(node)[1:-1]
        return (Literally(said),) if "\\" not in said else NOTHING

    def _raw_string_literal(self, node: Node) -> Value:
        return (Literally(text_of(node)[1:-1]),)

    def _int_literal(self, node: Node) -> Value:
        return (Literally(int(text_of(node))),) if text_of(node).isdigit() else NOTHING

    def _comment(self, _: Node) -> Value:
        return NOTHING

    def _parenthesized_expression(self, node: Node) -> Value:
        return either(*(self.of(child) for child in node.named_children))

    def _unary_expression(self, node: Node) -> Value:
        if text_of(node.child_by_field_name("operator")) in {"&", "*"}:
            return self.of(node.child_by_field_name("operand"))
        self.use(self.of(node.child_by_field_name("operand")))
        return NOTHING

    def _selector_expression(self, node: Node) -> Value:
        if text_of(node) == f"{self._helper}.Steps":
            return (At(()),)
        owner, name = self.of(node.child_by_field_name("operand")), text_of(node.child_by_field_name("field"))
        found = [self._field(atom, name) for atom in owner if isinstance(atom, Shaped)]
        return either(*found, self.member(tuple(atom for atom in owner if isinstance(atom, Object)), name))

    def _field(self, shaped: Shaped, name: str) -> Value:
        struct = resolved(shaped.kind, self._types)
        for field in fields_of(struct) if struct is not None and struct.type == "struct_type" else ():
            if field.name == name:
                if field.key is None:
                    return self.dynamic(shaped.of)
                found = self.member(shaped.of, field.key, soft=field.optional, default=field.optional)
                return self._shaped(found, field.kind)
        return NOTHING

    def _shaped(self, value: Value, kind: Node | None) -> Value:
        """*value* as it is read into the type *kind*."""
        self.typed(value, *json_types(kind, self._types))
        inner = resolved(kind, self._types)
        holds = inner is not None and inner.type in {"struct_type", "slice_type", "array_type", "map_type"}
        return (Shaped(value, kind),) if holds and value else value

    def _index_expression(self, node: Node) -> Value:
        return self._indexed(node, soft=False)

    def _indexed(self, node: Node, *, soft: bool) -> Value:
        owner = self.of(node.child_by_field_name("operand"))
        keys = self.of(node.child_by_field_name("index"))
        self.line = node.start_point[0] + 1
        plain, kinds = self._without_types(owner)
        index = node.child_by_field_name("index")
        numbered = keys and all(isinstance(atom, Literally) and isinstance(atom.value, int) for atom in keys)
        if numbered or (index is not None and Known("index") in keys):
            return self._shaped_item(self.member(self.typed(plain, "array"), ITEM), kinds)
        return self._shaped_item(self.at_keys(plain, keys, soft=soft), kinds)

    def _without_types(self, value: Value) -> tuple[Value, list[Node]]:
        """*value*, and the types that it was read into."""
        kinds = [atom.kind for atom in value if isinstance(atom, Shaped)]
        return either(*(atom.of if isinstance(atom, Shaped) else (atom,) for atom in value)), kinds

    def _shaped_item(self, value: Value, kinds: Sequence[Node]) -> Value:
        for kind in kinds:
            inner = resolved(kind, self._types)
            element = None
            if inner is not None:
                element = inner.child_by_field_name("element") or inner.child_by_field_name("value")
            if element is not None:
                return self._shaped(value, element)
        return value

    def _slice_expression(self, node: Node) -> Value:
        return self.of(node.child_by_field_name("operand"))

    def _type_assertion_expression(self, node: Node) -> Value:
        return self._asserted(node, soft=False)

    def _asserted(self, node: Node, *, soft: bool) -> Value:
        value = self.of(node.child_by_field_name("operand"))
        self.line = node.start_point[0] + 1
        self.typed(value, *json_types(node.child_by_field_name("type"), self._types))
        if soft:
            self.glance(value)
            return self.softened(value)
        for atom in value:
            if isinstance(atom, At):
                self.need(atom.place)
        return value

    def _type_conversion_expression(self, node: Node) -> Value:
        return self.of(node.child_by_field_name("operand"))

    def _composite_literal(self, node: Node) -> Value:
        items: dict[object, Value] = {}
        body = node.child_by_field_name("body")
        for child in body.named_children if body is not None else ():
            parts = [
                part.named_children[0] if part.type == "literal_element" else part for part in child.named_children
            ]
            if child.type == "keyed_element" and len(parts) == 2:
                key = self.of(parts[0]) if parts[0].type != "identifier" else (Literally(text_of(parts[0])),)
                name = key[0].value if len(key) == 1 and isinstance(key[0], Literally) else id(child)
                items[name] = self.of(parts[1])
            elif child.type == "literal_element" and parts:
                items[child.id] = self.of(parts[0])
        kind = resolved(node.child_by_field_name("type"), self._types)
        if kind is not None and kind.type in {"slice_type", "array_type"}:
            return (Several(either(*items.values())),)
        return (Object(items),)

    def _func_literal(self, node: Node) -> Value:
        return (Routine(node, self.scope),)

    def _binary_expression(self, node: Node) -> Value:
        if text_of(node.child_by_field_name("operator")) in {"&&", "||", "==", "!="}:
            self._test(node)
            return NOTHING
        for side in ("left", "right"):
            self.use(self.of(node.child_by_field_name(side)))
        return NOTHING

    # ── calls ──────────────────────────────────────────────────────────────────────

    def _call_expression(self, node: Node) -> Value:
        function, given = node.child_by_field_name("function"), node.child_by_field_name("arguments")
        nodes = [child for child in given.named_children if child.type != "comment"] if given is not None else []
        name = text_of(function)
        self.line = node.start_point[0] + 1
        if function is not None and function.type in {"func_literal", "identifier"}:
            own = self.of(function)
            if any(isinstance(atom, Routine) for atom in own):
                return self.calls(own, list(map(self.of, nodes)))
        if name.startswith(f"{self._helper}.") or name in {"json.Unmarshal", "mapstructure.Decode"}:
            return self._platform(name, nodes)
        values = list(map(self.of, nodes))
        if name in {"string", "[]byte", "append", "strings.NewReader", "bytes.NewReader", "bytes.NewBuffer"}:
            return either(*values)
        if name.startswith("json.Marshal"):
            return (Text(either(*values[:1])),)
        if name == "os.Getenv" and values and Literally("PIPEDREAM_STEPS") in values[0]:
            return (Known("steps"),)
        if name in {"os.ReadFile", "ioutil.ReadFile", "os.Open"} and any(Known("steps") in value for value in values):
            return (At(()),)
        owner = (
            self.of(function.child_by_field_name("operand"))
            if function is not None and function.type == "selector_expression"
            else NOTHING
        )
        self.use(owner)
        for value in values:
            self._hand(name, value)
        return NOTHING

    def _hand(self, name: str, value: Value) -> None:
        if name.startswith(_TEXT):
            self.use(self.typed(value, "string") if name != "strings.Join" else self.typed(value, "array"))
        elif name in {"len", "cap"}:
            for atom in self._without_types(value)[0]:
                if isinstance(atom, At):
                    self._stand_on(atom, chained=False)
        elif name in {"int", "float64", "int64", "float32"} or name.startswith(("fmt.Sprint", "fmt.Errorf", "math.")):
            self.use(value)
        else:
            self.use(value, "whole" if name.startswith(_WHOLE) else "hands")

    def _platform(self, name: str, nodes: Sequence[Node]) -> Value:
        if name.endswith((".Unmarshal", ".MustUnmarshal", ".Decode")) and nodes:
            source = self.of(nodes[0]) if len(nodes) > 1 else (At(()),)
            if name.startswith(f"{self._helper}."):
                source = (At(()),)
            source = either(*(atom.of if isinstance(atom, Text) else (atom,) for atom in source))
            target = nodes[-1]
            inner = target.child_by_field_name("operand") if target.type == "unary_expression" else target
            declared = self.scope.find(f"type of {text_of(inner)}") or NOTHING
            kinds = [atom.kind for atom in declared if isinstance(atom, Shaped)]
            if kinds:
                self.bind(text_of(inner), self._shaped(source, kinds[0]) or source)
            else:
                self.use(source, "hands")
            return NOTHING
        values = list(map(self.of, nodes))
        if name == f"{self._helper}.Export" and len(values) == 2:
            for atom in values[0]:
                if isinstance(atom, Literally):
                    self.export(str(atom.value), self._without_types(values[1])[0])
                    return NOTHING
        for value in values:
            self.use(value, "whole")
        return NOTHING

    # ── tests ──────────────────────────────────────────────────────────────────────

    def _test(self, node: Node | None) -> Tested:
        if node is None:
            return NONE, NONE
        if node.type == "parenthesized_expression":
            return self._test(node.named_children[0])
        if node.type == "unary_expression" and text_of(node.child_by_field_name("operator")) == "!":
            there, missing = self._test(node.child_by_field_name("operand"))
            return missing, there
        if node.type == "binary_expression":
            return self._test_binary(node)
        value = self.of(node)
        self.use(tuple(atom for atom in value if not isinstance(atom, At | Routine)))
        return self.glance(value), NONE

    def _test_binary(self, node: Node) -> Tested:
        left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
        sign = text_of(node.child_by_field_name("operator"))
        if sign in {"&&", "||"}:
            return self.both(partial(self._test, left), partial(self._test, right), is_and=sign == "&&")
        if sign in {"==", "!="} and text_of(right) in {"nil", '""'}:
            places = self.glance(self.of(left))
            return (NONE, places) if sign == "==" else (places, NONE)
        for each, other in ((left, right), (right, left)):
            types = {"interpreted_string_literal": ("string",), "int_literal": ("number",), "true": ("boolean",)}
            value = self.of(each)
            self.use(self.typed(value, *types.get(other.type if other is not None else "", ())))
        return NONE, NONE
