"""
The event fields that a Node.js step, or an expression of a prop, reads.

The trace starts at `run` and follows the functions and methods of the step, in the syntax tree of tree-sitter. Code that is never
called is ignored, and values that are passed to any other function are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from tree_sitter import Node

from pdkernel.language.analysis import node_builtins as words
from pdkernel.language.analysis.trace import (
    LIST_ITEM,
    NO_PATHS,
    UNTRACKED,
    ConditionPaths,
    FieldPath,
    FunctionValue,
    JsonTextValue,
    KnownExports,
    ListValue,
    LiteralValue,
    ObjectValue,
    PathValue,
    PlatformValue,
    StepTracer,
    ValueSet,
    exclude,
    get_paths,
    select,
    union,
)
from pdkernel.language.expression import javascript
from pdkernel.language.expression.javascript import (
    EMPTY_LITERALS,
    SIMPLE_STATEMENTS,
    get_arguments,
    get_code_children,
    get_field,
    get_last_statement,
    get_member_object,
    get_operands,
    get_source,
    infer_default_type,
    infer_literal_type,
    unwrap,
)


class NodeStepTracer(StepTracer):
    """A trace of a Node.js step."""

    methods: ValueSet = UNTRACKED

    def trace_step(self, root: Node) -> None:
        """Trace the step from its entry point."""
        self.bind("steps", (PathValue(()),), new=True)
        self.bind("$", (PlatformValue("$"),), new=True)
        self.evaluate(root)

    def _trace_component(self, component: ValueSet) -> None:
        context: ValueSet = (ObjectValue({"steps": (PathValue(()),), "$": (PlatformValue("$"),)}),)
        for atom in component:
            run: ValueSet = (atom,)
            if isinstance(atom, ObjectValue):
                self.methods = atom.items.get("methods", UNTRACKED)
                run = atom.items.get("run", UNTRACKED)
            self.trace_entry_point(run, context)

    def trace_function(self, function: FunctionValue, arguments: Sequence[ValueSet], _: Mapping[str, ValueSet]) -> None:
        """Bind the parameters and trace the body."""
        node = function.node
        single = get_field(node, "parameter")
        patterns = [single] if single is not None else get_code_children(get_field(node, "parameters") or node)
        for index, pattern in enumerate(patterns):
            value = arguments[index] if index < len(arguments) else UNTRACKED
            self.assign(pattern, value)
        body = get_field(node, "body")
        if body is None or body.type == "statement_block":
            self.evaluate(body)
        else:
            self.add_return(self.evaluate(body))

    # ── statements ─────────────────────────────────────────────────────────────────

    def _program(self, node: Node) -> ValueSet:
        for child in node.named_children:
            if child.type == "function_declaration":
                self._function_declaration(child)
        for child in node.named_children:
            self.evaluate(child)
        return UNTRACKED

    _statement_block = _program

    def _function_declaration(self, node: Node) -> ValueSet:
        self.bind(get_source(get_field(node, "name")), (FunctionValue(node, self.scope),), new=True)
        return UNTRACKED

    def _export_statement(self, node: Node) -> ValueSet:
        value = get_field(node, "value")
        declared = get_field(node, "declaration")
        is_default = any(child.type == "default" for child in node.children)
        if is_default and declared is not None:
            self._trace_component((FunctionValue(declared, self.scope),))
        elif declared is not None:
            self.evaluate(declared)
        elif value is not None:
            self._trace_component(self.evaluate(value))
        return UNTRACKED

    def _expression_statement(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            if child.type == "assignment_expression" and get_source(get_field(child, "left")) in {
                "module.exports",
                "exports.default",
            }:
                self._trace_component(self.evaluate(get_field(child, "right")))
                continue
            value = self.evaluate(child)
            if child.type not in {"assignment_expression", "augmented_assignment_expression"}:
                self.add_use(exclude(value, FunctionValue))
        return UNTRACKED

    def _lexical_declaration(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            if child.type == "variable_declarator":
                self.assign(get_field(child, "name"), self.evaluate(get_field(child, "value")))
        return UNTRACKED

    _variable_declaration = _lexical_declaration

    def _return_statement(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            self.add_return(self.evaluate(child))
        return UNTRACKED

    def _if_statement(self, node: Node) -> ValueSet:
        there, missing = self.evaluate_condition(get_field(node, "condition"))
        body, other = get_field(node, "consequence"), get_field(node, "alternative")
        self.trace_branches(
            (there, missing, lambda: self.evaluate(body)), (missing, there, lambda: self.evaluate(other))
        )
        for branch, known in ((body, missing), (other, there)):
            self._assume_after_exit(branch, known)
        return UNTRACKED

    def _assume_after_exit(self, branch: Node | None, known: frozenset[FieldPath]) -> None:
        last = get_last_statement(branch)
        if last is not None and last.type in words.EXIT_STATEMENTS:
            self.assume(known, required=last.type == "throw_statement")

    def _else_clause(self, node: Node) -> ValueSet:
        for child in get_code_children(node):
            self.evaluate(child)
        return UNTRACKED

    _switch_case = _switch_default = _else_clause

    def _for_in_statement(self, node: Node) -> ValueSet:
        value = self.evaluate(get_field(node, "right"))
        if get_source(get_field(node, "operator")) == "in":
            self.get_dynamic_member(value)
            self.assign(get_field(node, "left"), UNTRACKED)
        else:
            items = self.get_item(value)
            self.assign(get_field(node, "left"), items)
            self.trace_loop(items, lambda: self.evaluate(get_field(node, "body")))
            return UNTRACKED
        return self.evaluate(get_field(node, "body"))

    def _for_statement(self, node: Node) -> ValueSet:
        self.evaluate(get_field(node, "initializer"))
        condition = get_field(node, "condition")
        if condition is not None and condition.type == "expression_statement":
            condition = next(iter(get_code_children(condition)), None)
        self.evaluate_condition(condition)
        self._bind_loop_index(node)
        self.evaluate(get_field(node, "body"))
        return self.evaluate(get_field(node, "increment"))

    def _bind_loop_index(self, node: Node) -> None:
        """Bind the variable of a counting loop as an index."""
        declared = get_field(node, "initializer")
        for child in get_code_children(declared) if declared is not None else ():
            if child.type == "variable_declarator" and infer_literal_type(get_field(child, "value")) == ("number",):
                self.assign(get_field(child, "name"), (PlatformValue("index"),))

    def _while_statement(self, node: Node) -> ValueSet:
        there, missing = self.evaluate_condition(get_field(node, "condition"))
        return self.trace_optional_branch(there, missing, lambda: self.evaluate(get_field(node, "body")))

    def _do_statement(self, node: Node) -> ValueSet:
        self.evaluate(get_field(node, "body"))
        self.evaluate_condition(get_field(node, "condition"))
        return UNTRACKED

    def _try_statement(self, node: Node) -> ValueSet:
        body, handler = get_field(node, "body"), get_field(node, "handler")
        statements = get_code_children(body) if body is not None else []
        last = get_last_statement(get_field(handler, "body")) if handler is not None else None
        simple = len(statements) == 1 and statements[0].type in SIMPLE_STATEMENTS
        if handler is not None and simple and (last is None or last.type != "throw_statement"):
            with self.catching_errors():
                self.evaluate(body)
        else:
            self.evaluate(body)
        if handler is not None:
            self.trace_optional_branch(NO_PATHS, NO_PATHS, lambda: self.evaluate(get_field(handler, "body")))
        return self.evaluate(get_field(node, "finalizer"))

    def _finally_clause(self, node: Node) -> ValueSet:
        return self.evaluate(get_field(node, "body"))

    def _switch_statement(self, node: Node) -> ValueSet:
        value, body = self.evaluate(get_field(node, "value")), get_field(node, "body")
        cases = get_code_children(body) if body is not None else []
        kinds = {infer_literal_type(get_field(case, "value")) for case in cases if case.type == "switch_case"}
        self.add_use(self.expect_type(value, *kinds.pop()) if len(kinds) == 1 else value)
        for case in cases:
            self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self.evaluate, case))
        return UNTRACKED

    # ── expressions: names and keys ────────────────────────────────────────────────

    def evaluate(self, node: Node | None) -> ValueSet:
        """Return the value set of *node*; its accesses are recorded."""
        if node is None:
            return UNTRACKED
        self.set_line(node)
        act: Callable[[Node], ValueSet] | None = getattr(self, f"_{node.type}", None)
        if act is not None:
            return act(node)
        for child in get_code_children(node):
            self.add_use(self.evaluate(child))
        return UNTRACKED

    def set_line(self, node: Node) -> None:
        """Set the current line to that of *node*."""
        self.line = node.start_point[0] + 1

    def _identifier(self, node: Node) -> ValueSet:
        return self.scope.find(get_source(node)) or UNTRACKED

    def _this(self, _: Node) -> ValueSet:
        return (PlatformValue("this"),)

    def _string(self, node: Node) -> ValueSet:
        value = javascript.get_string_literal(node)
        return UNTRACKED if value is None else (LiteralValue(value),)

    def _number(self, node: Node) -> ValueSet:
        return (LiteralValue(int(get_source(node))),) if get_source(node).isdigit() else UNTRACKED

    def _template_string(self, node: Node) -> ValueSet:
        substitutions = [child for child in node.named_children if child.type == "template_substitution"]
        for each in substitutions:
            for inner in get_code_children(each):
                self.add_use(self.evaluate(inner))
        return UNTRACKED if substitutions else self._string(node)

    def _parenthesized_expression(self, node: Node) -> ValueSet:
        return union(*(self.evaluate(child) for child in get_code_children(node)))

    _await_expression = _parenthesized_expression

    def _member_expression(self, node: Node) -> ValueSet:
        owner, name = self.evaluate(get_field(node, "object")), get_source(get_field(node, "property"))
        self.set_line(node)
        chained = get_field(node, "optional_chain") is not None
        known = self._platform_member(owner, name)
        if known is not None:
            return known
        if name == "length":
            self.require_value(owner, chained=chained)
            return UNTRACKED
        return self.get_member(owner, name, chained=chained)

    def _platform_member(self, owner: ValueSet, name: str) -> ValueSet | None:
        for atom in owner:
            if isinstance(atom, PlatformValue):
                method = self.get_member(self.methods, name) if atom.name == "this" else UNTRACKED
                return method or (PlatformValue(f"{atom.name}.{name}"),)
        return None

    def _subscript_expression(self, node: Node) -> ValueSet:
        owner, keys = self.evaluate(get_field(node, "object")), self.evaluate(get_field(node, "index"))
        self.set_line(node)
        chained = get_field(node, "optional_chain") is not None
        if keys == (PlatformValue("index"),):
            return self.get_item(owner, is_optional=chained)
        if keys and all(isinstance(atom, LiteralValue) and isinstance(atom.value, int) for atom in keys):
            self.expect_type(owner, "array")
            return self.get_member(owner, LIST_ITEM, chained=chained)
        return self.get_members(owner, keys, chained=chained)

    def require_value(self, owner: ValueSet, *, chained: bool) -> None:
        """Record a lookup of a built-in member of *owner*, which fails for null and undefined."""
        for atom in owner:
            if isinstance(atom, PathValue):
                self._require_container(atom, chained=chained)

    # ── literals ────────────────────────────────────────────────────────────

    def _object(self, node: Node) -> ValueSet:
        items: dict[Any, ValueSet] = {}
        bases: list[ValueSet] = []
        for child in get_code_children(node):
            if child.type == "spread_element":
                bases += [self.evaluate(inner) for inner in get_code_children(child)]
            elif child.type == "shorthand_property_identifier":
                items[get_source(child)] = self._identifier(child)
            elif child.type == "method_definition":
                items[javascript.get_key(child) or ("?", child.id)] = (FunctionValue(child, self.scope),)
            elif child.type == "pair":
                key = get_field(child, "key")
                if key is not None and key.type == "computed_property_name":
                    self.add_use(self.evaluate(key))
                items[javascript.get_key(child) or ("?", child.id)] = self.evaluate(get_field(child, "value"))
        return (ObjectValue(items, union(*bases)),)

    def _array(self, node: Node) -> ValueSet:
        return (ListValue(union(*self.evaluate_list(get_code_children(node)))),)

    def evaluate_list(self, nodes: Iterable[Node]) -> list[ValueSet]:
        """Return the value set of each of *nodes*, with spread lists."""
        found: list[ValueSet] = []
        for node in nodes:
            if node.type == "spread_element":
                found += [self.get_item(self.evaluate(inner)) for inner in get_code_children(node)]
            else:
                found.append(self.evaluate(node))
        return found

    def _arrow_function(self, node: Node) -> ValueSet:
        return (FunctionValue(node, self.scope),)

    _function_expression = _generator_function = _arrow_function

    def _class(self, _: Node) -> ValueSet:
        return UNTRACKED

    _class_declaration = _import_statement = _comment = _break_statement = _continue_statement = _class

    # ── destructuring ───────────────────────────────────────────────────────────────

    def assign(self, pattern: Node | None, value: ValueSet, *, new: bool = True) -> None:
        """Assign *value* to *pattern*."""
        if pattern is None:
            return
        self.set_line(pattern)
        match pattern.type:
            case "identifier" | "shorthand_property_identifier_pattern":
                self.bind(get_source(pattern), value, new=new)
            case "object_pattern":
                self._destructure(pattern, value, new=new)
            case "array_pattern":
                for index, child in enumerate(get_code_children(pattern)):
                    if child.type == "rest_pattern":
                        self.assign(get_code_children(child)[0], (ListValue(self.get_item(value)),), new=new)
                    else:
                        self.assign(child, self.get_position(value, index), new=new)
            case "assignment_pattern":
                default = get_field(pattern, "right")
                self.assign(
                    get_field(pattern, "left"),
                    union(self.with_default(value), self._evaluate_default(default)),
                    new=new,
                )
            case "member_expression" | "subscript_expression":
                self._store(pattern, value)

    def _destructure(self, pattern: Node, value: ValueSet, *, new: bool) -> None:
        for child in get_code_children(pattern):
            self.set_line(child)
            if child.type == "shorthand_property_identifier_pattern":
                self.bind(get_source(child), self.get_member(value, get_source(child)), new=new)
            elif child.type == "object_assignment_pattern":
                name, default = get_field(child, "left"), get_field(child, "right")
                self.bind(get_source(name), self._get_member_or_default(value, get_source(name), default), new=new)
            elif child.type == "pair_pattern":
                self._destructure_pair(child, value, new=new)
            elif child.type == "rest_pattern":
                self.bind(get_source(get_code_children(child)[0]), (ObjectValue({}, value),), new=new)

    def _destructure_pair(self, pair: Node, value: ValueSet, *, new: bool) -> None:
        key, inner = javascript.get_key(pair), get_field(pair, "value")
        if key is None:
            self.get_dynamic_member(value)
            self.assign(inner, UNTRACKED, new=new)
        elif inner is not None and inner.type == "assignment_pattern":
            self.assign(
                get_field(inner, "left"), self._get_member_or_default(value, key, get_field(inner, "right")), new=new
            )
        else:
            self.assign(inner, self.get_member(value, key), new=new)

    def _get_member_or_default(self, value: ValueSet, key: str, default: Node | None) -> ValueSet:
        found = self.get_member(value, key, is_optional=True, default=True)
        return union(self.expect_type(found, *infer_default_type(default)), self._evaluate_default(default))

    def _evaluate_default(self, node: Node | None) -> ValueSet:
        """Return the value set of a default, which the code evaluates only if the value is missing."""
        return self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self.evaluate, node))

    def _store(self, target: Node, value: ValueSet) -> None:
        owner = self.evaluate(get_field(target, "object"))
        name = javascript.get_member_name(target)
        kept = False
        for atom in owner:
            if isinstance(atom, ObjectValue) and isinstance(atom.items, dict) and name is not None:
                atom.items[name] = union(atom.items.get(name, UNTRACKED), value) if self._branches else value
                kept = True
        if not kept:
            self.add_use(value, "passes_on")

    def _assignment_expression(self, node: Node) -> ValueSet:
        value = self.evaluate(get_field(node, "right"))
        self.assign(get_field(node, "left"), value, new=False)
        return value

    def _augmented_assignment_expression(self, node: Node) -> ValueSet:
        left, sign = get_field(node, "left"), get_source(get_field(node, "operator"))
        before, value = self.evaluate(left), self.evaluate(get_field(node, "right"))
        if sign in {"||=", "??="}:
            self.presence_check(before)
            self.assign(left, union(self.with_default(before), value), new=False)
        else:
            self.add_use(before)
            self.add_use(value)
        return UNTRACKED

    # ── operators ──────────────────────────────────────────────────────────────────

    def _binary_expression(self, node: Node) -> ValueSet:
        sign = get_source(get_field(node, "operator"))
        if sign in {"&&", "||", "??"}:
            return self._evaluate_logical_value(node, sign)
        if sign in words.EQUALITY_OPERATORS or sign in {"in", "instanceof"} or sign in words.NUMERIC_OPERATORS:
            self.evaluate_condition(node)
            return UNTRACKED
        for side in get_operands(node):
            self.add_use(self.evaluate(side))
        return UNTRACKED

    def _evaluate_logical_value(self, node: Node, sign: str) -> ValueSet:
        left, right = get_operands(node)
        if sign == "??":
            value = self.evaluate(left)
            self.presence_check(value)
            there: frozenset[FieldPath] = NO_PATHS
            missing = get_paths(value)
        else:
            there, missing = self.evaluate_condition(left)
            value = self.evaluate_silently(left)
        if sign == "&&":
            return self.optional(self.trace_optional_branch(there, missing, lambda: self.evaluate(right)))
        self.expect_type(value, *infer_default_type(right))
        return union(self.with_default(value), self.trace_optional_branch(missing, there, lambda: self.evaluate(right)))

    def _ternary_expression(self, node: Node) -> ValueSet:
        there, missing = self.evaluate_condition(get_field(node, "condition"))
        return self.trace_branches(
            (there, missing, lambda: self.evaluate(get_field(node, "consequence"))),
            (missing, there, lambda: self.evaluate(get_field(node, "alternative"))),
        )

    def _unary_expression(self, node: Node) -> ValueSet:
        sign, value = get_source(get_field(node, "operator")), get_field(node, "argument")
        if sign == "!":
            self.evaluate_condition(node)
        elif sign == "typeof":
            self.presence_check(self.evaluate(value))
        else:
            self.add_use(
                self.expect_type(self.evaluate(value), "numeric") if sign in {"-", "+"} else self.evaluate(value)
            )
        return UNTRACKED

    # ── conditions ──────────────────────────────────────────────────────────────────────

    def evaluate_condition(self, node: Node | None) -> ConditionPaths:
        """Trace a condition; return the paths that are present if it is true and if it is false."""
        if node is None:
            return NO_PATHS, NO_PATHS
        node = unwrap(node)
        self.set_line(node)
        if node.type == "unary_expression" and get_source(get_field(node, "operator")) == "!":
            there, missing = self.evaluate_condition(get_field(node, "argument"))
            return missing, there
        if node.type == "binary_expression":
            sign = get_source(get_field(node, "operator"))
            if sign in {"&&", "||"}:
                sides = (partial(self.evaluate_condition, side) for side in get_operands(node))
                return self.trace_logical(*sides, is_and=sign == "&&")
            if sign in words.EQUALITY_OPERATORS:
                return self._test_equal(node, sign)
            if sign == "in":
                return self._check_key_in(
                    self.evaluate(get_field(node, "right")), self.evaluate(get_field(node, "left"))
                ), NO_PATHS
            if sign == "instanceof":
                return self.type_check(self.evaluate(get_field(node, "left"))), NO_PATHS
            if sign in words.NUMERIC_OPERATORS:
                return self._test_order(node, sign)
        if node.type == "call_expression" and (found := self._test_call(node)) is not None:
            return found, NO_PATHS
        if node.type == "member_expression" and get_source(get_field(node, "property")) == "length":
            self.evaluate(node)
            return get_paths(self.evaluate_silently(get_member_object(node))), NO_PATHS
        return self.truth_check(self.evaluate(node)), NO_PATHS

    def _test_equal(self, node: Node, sign: str) -> ConditionPaths:
        left, right = get_operands(node)
        for each, other in ((left, right), (right, left)):
            each_bare = unwrap(each)
            if each_bare.type == "unary_expression" and get_source(get_field(each_bare, "operator")) == "typeof":
                places = self.type_check(self.evaluate(get_field(each_bare, "argument")))
                positive = (sign[0] == "=") != (javascript.get_string_literal(other) == "undefined")
                return (places, NO_PATHS) if positive else (NO_PATHS, places)
            if get_source(other) in EMPTY_LITERALS:
                places = self.presence_check(self.evaluate(each))
                return (NO_PATHS, places) if sign[0] == "=" else (places, NO_PATHS)
        for each, other in ((left, right), (right, left)):
            self.add_use(
                self.expect_type(self.evaluate(each), *infer_literal_type(other))
                if len(sign) == 3 or infer_literal_type(other) == ("string",)
                else self.evaluate(each)
            )
        return NO_PATHS, NO_PATHS

    def _test_order(self, node: Node, sign: str) -> ConditionPaths:
        left, right = get_operands(node)
        places = NO_PATHS
        owner = get_member_object(unwrap(left))
        if sign[0] in "<>" and get_source(get_field(unwrap(left), "property")) == "length":
            places = get_paths(self.evaluate_silently(owner))
        for each, other in ((left, right), (right, left)):
            value = self.evaluate(each)
            numeric = sign[0] not in "<>" or infer_literal_type(other) == ("number",)
            self.add_use(self.expect_type(value, "numeric") if numeric else value)
        return (places, NO_PATHS) if sign[0] == ">" else (NO_PATHS, NO_PATHS)

    def _check_key_in(self, value: ValueSet, keys: ValueSet) -> frozenset[FieldPath]:
        found: frozenset[FieldPath] = NO_PATHS
        for atom in keys:
            if isinstance(atom, LiteralValue) and isinstance(atom.value, str):
                found |= self.key_check(value, atom.value)
        if not found:
            self.add_use(keys)
            self.get_dynamic_member(value)
        return found

    def _test_call(self, node: Node) -> frozenset[FieldPath] | None:
        function = get_field(node, "function")
        given = get_arguments(node)
        name = get_source(function)
        if name == "Array.isArray" and given:
            return self.type_check(self.evaluate(given[0]))
        if name == "Boolean" and given:
            return self.evaluate_condition(given[0])[0]
        if name in {"Object.hasOwn", "Object.prototype.hasOwnProperty.call", "_.has"} and len(given) == 2:
            return self._check_key_in(self.evaluate(given[0]), self.evaluate(given[1]))
        if function is not None and get_source(get_field(function, "property")) == "hasOwnProperty" and given:
            return self._check_key_in(self.evaluate(get_field(function, "object")), self.evaluate(given[0]))
        return None

    # ── calls ──────────────────────────────────────────────────────────────────

    def _call_expression(self, node: Node) -> ValueSet:
        function = get_field(node, "function")
        if function is None:
            return UNTRACKED
        if function.type in {"parenthesized_expression", "arrow_function", "function_expression"}:
            return self._trace_own_call(node, self.evaluate(function))
        name = get_source(function).replace("?.", ".").replace(" ", "")
        if function.type == "member_expression":
            first = name.partition(".")[0]
            chained = get_field(function, "optional_chain") is not None or get_field(node, "optional_chain") is not None
            if (
                name.startswith("this.")
                or not first.isidentifier()
                or self.scope.find(first) is not None
                or first == "$"
            ):
                owner = self.evaluate(get_field(function, "object"))
                return self._trace_method(node, owner, get_source(get_field(function, "property")), chained=chained)
            if "(" not in name and "[" not in name:
                return self._function(node, name)
            return self._trace_method(
                node,
                self.evaluate(get_field(function, "object")),
                get_source(get_field(function, "property")),
                chained=chained,
            )
        if function.type == "identifier" and self.scope.find(name) is None:
            return self._function(node, name)
        return self._trace_own_call(node, self.evaluate(function))

    def _trace_own_call(self, node: Node, called: ValueSet) -> ValueSet:
        given = self.evaluate_list(get_arguments(node))
        if not select(called, FunctionValue):
            self._pass_values(given, sent=bool(select(called, PlatformValue)))
        return self.trace_calls(called, given)

    def _pass_values(self, values: Sequence[ValueSet], *, sent: bool) -> None:
        for value in values:
            self.add_use(value, "passes_on" if sent else "escapes")
            if sent:
                self.trace_calls(value, ())

    def _new_expression(self, node: Node) -> ValueSet:
        made = get_source(get_field(node, "constructor"))
        for value in self.evaluate_list(get_arguments(node)):
            self.add_use(value, "uses" if made.rpartition(".")[2] in words.VALUE_CONSTRUCTORS else "escapes")
        return UNTRACKED

    # ── methods ────────────────────────────────────────────────────────────────────

    def _trace_method(self, node: Node, owner: ValueSet, name: str, *, chained: bool) -> ValueSet:
        if select(owner, PlatformValue):
            return self._trace_platform_call(node, owner, name)
        if name in words.CALLBACK_METHODS and get_arguments(node):
            return self._trace_callback_method(node, owner, name, chained=chained)
        inner = self.get_member(select(owner, ObjectValue), name)
        if select(inner, FunctionValue):
            return self._trace_own_call(node, inner)
        self.set_line(node)
        places = select(owner, PathValue)
        if name in {"keys", "values", "entries"} and places:  # methods of lists only
            items = self.get_item(owner, is_optional=chained)
            pair = (ObjectValue({0: UNTRACKED, 1: items}),)
            return UNTRACKED if name == "keys" else (ListValue(items if name == "values" else pair),)
        return self._plain_method(node, owner, places, name, chained=chained)

    def _plain_method(
        self, node: Node, owner: ValueSet, places: tuple[PathValue, ...], name: str, *, chained: bool
    ) -> ValueSet:
        if name in words.TEXT_METHODS:
            self.expect_type(places, "string")
        elif name in words.NUMBER_METHODS:
            self.expect_type(places, "number")
        elif name in words.LIST_METHODS:
            self.expect_type(places, "array")
        self.require_value(owner, chained=chained)
        given = self.evaluate_list(get_arguments(node))
        grows = name in {"push", "unshift", "set", "append", "add"}
        self._pass_values(
            given,
            sent=grows
            or bool(places)
            or get_source(get_field(node, "function")).startswith(words.HTTP_CLIENT_PREFIXES),
        )
        self.set_line(node)
        if name in words.ITEM_METHODS and owner:
            return self.get_member(owner, LIST_ITEM, chained=chained)
        if name in {"slice", "reverse", "flat", "concat", "splice"} and owner:
            return self.optional(owner) if chained else owner
        if name == "join":
            self.add_use(self.get_item(owner, is_optional=chained))
            return UNTRACKED
        used = exclude(owner, FunctionValue)
        self.add_use(self.optional(used) if chained else used)
        return UNTRACKED

    def _trace_callback_method(self, node: Node, owner: ValueSet, name: str, *, chained: bool) -> ValueSet:
        given = self.evaluate_list(get_arguments(node))
        self.set_line(node)
        items = self.get_item(owner, is_optional=chained)
        callback, rest = given[0], given[1:]
        if name.startswith("reduce"):
            before = rest[0] if rest else items
            descends = bool(select(before, PathValue))
            if descends and select(items, LiteralValue):
                return self.get_dynamic_member(before)  # descends by computed keys
            return union(before, self.trace_calls(callback, [before, items, UNTRACKED, owner]))
        if name in {"sort", "toSorted"}:
            self.trace_calls(callback, [items, items])
            return owner
        found = self.trace_calls(callback, [items, UNTRACKED, owner])
        if not select(callback, FunctionValue):
            self.add_use(items)
        if name == "map":
            return (ListValue(found),)
        if name == "flatMap":
            return (ListValue(self.get_item(found)),)
        if name != "forEach":
            self.presence_check(found)
        if name == "filter":
            return (ListValue(items),)
        return self.optional(items) if name in {"find", "findLast"} else UNTRACKED

    def _trace_platform_call(self, node: Node, owner: ValueSet, name: str) -> ValueSet:
        nodes = get_arguments(node)
        if PlatformValue("this") in owner and (methods := self.get_member(self.methods, name)):
            return self._trace_own_call(node, methods)
        given = self.evaluate_list(nodes)
        if PlatformValue("$") in owner and name == "export" and len(given) == 2:
            for atom in given[0]:
                if isinstance(atom, LiteralValue):
                    self.add_export(str(atom.value), given[1])
                    return UNTRACKED
        known = next(atom for atom in owner if isinstance(atom, PlatformValue))
        self._pass_values(given, sent=known.name.startswith("$") or name in {"set", "push", "put"})
        return UNTRACKED

    # ── functions ──────────────────────────────────────────────────────────────────

    def _function(self, node: Node, name: str) -> ValueSet:
        nodes = get_arguments(node)
        if name in {"Array.isArray", "Object.hasOwn", "Object.prototype.hasOwnProperty.call", "_.has"}:
            self.evaluate_condition(node)
            return UNTRACKED
        given = self.evaluate_list(nodes)
        first = given[0] if given else UNTRACKED
        self.set_line(node)
        if name == "JSON.stringify":
            return (JsonTextValue(first),)
        if name in {"JSON.parse", "qs.parse", "querystring.parse"}:
            return self.parse_json(first)
        if name in words.KEY_FUNCTIONS:
            self.require_value(first, chained=False)
            return self._trace_key_function(name, first)
        if name == "Object.assign":
            return (ObjectValue({}, union(*given)),)
        if name in words.IDENTITY_FUNCTIONS or name == "defineComponent":
            return first
        if name == "Array.from":
            items = self.get_item(first)
            return (ListValue(self.trace_calls(given[1], [items]) if len(given) > 1 else items),)
        if name in words.SCALAR_FUNCTIONS or name.startswith("Math."):
            for value in given:
                self.add_use(self.expect_type(value, "numeric") if name.startswith("Math.") else value)
            return UNTRACKED
        self._pass_values(given, sent=name.startswith((*words.HTTP_CLIENT_PREFIXES, *words.LOG_PREFIXES)))
        return UNTRACKED

    def _trace_key_function(self, name: str, value: ValueSet) -> ValueSet:
        found = self.get_dynamic_member(value)
        if name == "Object.keys":
            return UNTRACKED
        return (ListValue(found),) if name == "Object.values" else (ListValue((ListValue(found),)),)


def trace_module(source: str, exports_above: KnownExports | None = None) -> NodeStepTracer:
    """Return the trace of the module *source*."""
    tracer = NodeStepTracer(exports_above)
    tracer.trace_step(javascript.parse_source(source))
    return tracer


def trace_expression(source: str, exports_above: KnownExports | None = None) -> NodeStepTracer:
    """Return the trace of the expression *source*, whose value the prop passes on."""
    tracer = NodeStepTracer(exports_above)
    tracer.bind("steps", (PathValue(()),), new=True)
    node = javascript.parse_expression(source)
    if node is not None:
        tracer.add_use(tracer.evaluate(node), "passes_on")
    return tracer
