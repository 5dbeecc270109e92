"""
The event fields that a Python step reads.

The trace reads the statements of the module, then a call of `handler`, and follows calls of the step's own functions. The body of
a function without a call is ignored, and values that are passed to any other function are not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from pdkernel.language.analysis import python_builtins as words
from pdkernel.language.analysis import python_code
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
    select,
    union,
)

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


class PythonStepTracer(StepTracer):
    """A trace of a Python step."""

    fails_on_missing_key: ClassVar[bool] = True

    def trace_step(self, tree: ast.Module) -> None:
        """Trace the step from its entry point."""
        self._body(tree.body)
        self.trace_entry_point(self.scope.find(python_code.ENTRY_FUNCTION) or UNTRACKED, (PlatformValue("pd"),))

    def trace_function(
        self, function: FunctionValue, arguments: Sequence[ValueSet], named: Mapping[str, ValueSet]
    ) -> None:
        """Bind the parameters and trace the body."""
        given = function.node.args
        parameters = [*given.posonlyargs, *given.args]
        values = list(arguments)
        defaults: dict[str, ast.expr | None] = dict(
            zip([p.arg for p in parameters][len(parameters) - len(given.defaults) :], given.defaults, strict=True)
        )
        defaults |= zip([p.arg for p in given.kwonlyargs], given.kw_defaults, strict=True)
        for index, parameter in enumerate([*parameters, *given.kwonlyargs]):
            if index < len(values) and index < len(parameters):
                value = values[index]
            elif parameter.arg in named:
                value = named[parameter.arg]
            else:
                value = self.evaluate(defaults.get(parameter.arg))
            self.bind(parameter.arg, value, new=True)
        for rest in values[len(parameters) :]:
            self.add_use(rest, "escapes")
        if isinstance(function.node, ast.Lambda):
            self.add_return(self.evaluate(function.node.body))
        else:
            self._body(function.node.body)

    # ── statements ─────────────────────────────────────────────────────────────────

    def _body(self, body: Sequence[ast.stmt]) -> ValueSet:
        for statement in body:
            if isinstance(statement, _FUNCTIONS):
                self.bind(statement.name, (FunctionValue(statement, self.scope, statement.name),), new=True)
        for statement in body:
            self._statement(statement)
        return UNTRACKED

    def _statement(self, node: ast.stmt) -> None:
        self.line = node.lineno
        act: Callable[[Any], object] | None = getattr(self, f"_on_{type(node).__name__.lower()}", None)
        if act is not None:
            act(node)

    def _on_assign(self, node: ast.Assign) -> None:
        found = self.evaluate(node.value)
        for target in node.targets:
            self.assign(target, found)

    def _on_annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.evaluate(node.value))

    def _on_augassign(self, node: ast.AugAssign) -> None:
        added = self.evaluate(node.value)
        kept = self.evaluate(node.target) if isinstance(node.target, ast.Name) else UNTRACKED
        self.add_use(added)
        self.add_use(kept)

    def _on_return(self, node: ast.Return) -> None:
        self.add_return(self.evaluate(node.value))

    def _on_expr(self, node: ast.Expr) -> None:
        self.add_use(exclude(self.evaluate(node.value), FunctionValue))

    def _on_for(self, node: ast.For | ast.AsyncFor) -> None:
        items = self.get_item(self.evaluate(node.iter))
        self.assign(node.target, items)
        self.trace_loop(items, lambda: self._body(node.body))
        self._body(node.orelse)

    _on_asyncfor = _on_for

    def _on_while(self, node: ast.While) -> None:
        there, missing = self.evaluate_condition(node.test)
        self.trace_optional_branch(there, missing, lambda: self._body(node.body))

    def _on_with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            opened = self.evaluate(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, opened)
        self._body(node.body)

    _on_asyncwith = _on_with

    def _on_assert(self, node: ast.Assert) -> None:
        there, _ = self.evaluate_condition(node.test)
        self.assume(there, required=True)

    def _on_importfrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names if node.module == python_code.LEGACY_HELPER_MODULE else ():
            if alias.name == "steps":
                self.bind(alias.asname or alias.name, (PathValue(()),), new=True)

    def _on_raise(self, node: ast.Raise) -> None:
        self.add_use(self.evaluate(node.exc))

    def _on_if(self, node: ast.If) -> None:
        there, missing = self.evaluate_condition(node.test)
        self.trace_branches(
            (there, missing, lambda: self._body(node.body)), (missing, there, lambda: self._body(node.orelse))
        )
        for body, known in ((node.body, missing), (node.orelse, there)):
            if _is_exit(body):
                self.assume(known, required=_is_raise(body))

    def _on_try(self, node: ast.Try | ast.TryStar) -> None:
        if any(_handles_missing_key(handler, node.body) for handler in node.handlers):
            with self.catching_errors():
                self._body(node.body)
        else:
            self._body(node.body)
        for handler in node.handlers:
            self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self._body, handler.body))
        self._body(node.orelse)
        self._body(node.finalbody)

    _on_trystar = _on_try

    def _on_match(self, node: ast.Match) -> None:
        subject = self.evaluate(node.subject)
        patterns = [case.pattern for case in node.cases]
        if any(isinstance(pattern, ast.MatchValue) for pattern in patterns):
            self.add_use(self.expect_type(subject, *_value_types(patterns)))
        for case in node.cases:
            self._pattern(case.pattern, subject)
            self.trace_optional_branch(NO_PATHS, NO_PATHS, partial(self._case, case))

    def _case(self, case: ast.match_case) -> ValueSet:
        there = self.evaluate_condition(case.guard)[0] if case.guard is not None else NO_PATHS
        with self.assuming(there):
            return self._body(case.body)

    def _pattern(self, pattern: ast.pattern, subject: ValueSet) -> None:
        match pattern:
            case ast.MatchMapping(keys=keys, patterns=patterns):
                for key, below in zip(keys, patterns, strict=True):
                    self._pattern(below, self.get_members(subject, self.evaluate(key), is_optional=True, default=True))
            case ast.MatchAs(pattern=inner, name=name):
                if inner is not None:
                    self._pattern(inner, subject)
                if name is not None:
                    self.bind(name, subject, new=True)
            case ast.MatchOr(patterns=patterns):
                for each in patterns:
                    self._pattern(each, subject)
            case ast.MatchSequence(patterns=patterns):
                for each in patterns:
                    self._pattern(each, self.get_item(subject))
            case ast.MatchValue():
                self.add_use(subject)

    # ── expressions: names and keys ────────────────────────────────────────────────

    def evaluate(self, node: ast.expr | None) -> ValueSet:
        """Return the value set of *node*; its accesses are recorded."""
        if node is None:
            return UNTRACKED
        self.line = getattr(node, "lineno", self.line)
        act: Callable[[Any], ValueSet] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if act is not None:
            return act(node)
        self._use_children(node)
        return UNTRACKED

    def _use_children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.add_use(self.evaluate(child))
            elif isinstance(child, ast.keyword | ast.FormattedValue):
                self._use_children(child)

    def _name(self, node: ast.Name) -> ValueSet:
        return self.scope.find(node.id) or UNTRACKED

    def _constant(self, node: ast.Constant) -> ValueSet:
        if isinstance(node.value, bool) or not isinstance(node.value, str | int):
            return UNTRACKED
        return (LiteralValue(node.value),)

    def _attribute(self, node: ast.Attribute) -> ValueSet:
        value = self.evaluate(node.value)
        if PlatformValue("pd") in value:
            return (PathValue(()),) if node.attr == "steps" else (PlatformValue(f"pd.{node.attr}"),)
        self.add_use(exclude(value, FunctionValue))
        return UNTRACKED

    def _subscript(self, node: ast.Subscript) -> ValueSet:
        value = self.evaluate(node.value)
        if isinstance(node.slice, ast.Slice):
            self._use_children(node.slice)
            return value
        keys = self.evaluate(node.slice)
        self.line = node.lineno
        minus = isinstance(node.slice, ast.UnaryOp) and isinstance(node.slice.operand, ast.Constant)
        if minus or (keys and all(isinstance(atom, LiteralValue) and isinstance(atom.value, int) for atom in keys)):
            return self._item(value, None if minus else keys)
        if not keys and _is_calculation(node.slice):
            return self._item(value, None)
        return self.get_members(value, keys)

    def _item(self, value: ValueSet, keys: ValueSet | None) -> ValueSet:
        places = select(value, PathValue)
        self.expect_type(places, "array")
        written = exclude(value, PathValue)
        exact = self.get_members(written, keys) if keys else self.get_dynamic_member(written)
        tuples = union(
            *(
                atom.items.get(key.value, UNTRACKED)
                for atom in written
                for key in keys or ()
                if isinstance(atom, ObjectValue) and isinstance(key, LiteralValue)
            )
        )
        return union(self.get_member(places, LIST_ITEM), exact, tuples)

    def _starred(self, node: ast.Starred) -> ValueSet:
        return (ListValue(self.get_item(self.evaluate(node.value))),)

    def _await(self, node: ast.Await) -> ValueSet:
        return self.evaluate(node.value)

    def _namedexpr(self, node: ast.NamedExpr) -> ValueSet:
        value = self.evaluate(node.value)
        self.bind(node.target.id, value)
        return value

    # ── literals ────────────────────────────────────────────────────────────

    def _dict(self, node: ast.Dict) -> ValueSet:
        items: dict[Any, ValueSet] = {}
        bases: list[ValueSet] = []
        for key, each in zip(node.keys, node.values, strict=True):
            value = self.evaluate(each)
            if key is None:
                bases.append(value)
                continue
            names = self.evaluate(key)
            if len(names) == 1 and isinstance(names[0], LiteralValue):
                items[names[0].value] = value
            else:
                self.add_use(names)
                items[("?", id(key))] = value
        return (ObjectValue(items, union(*bases)),)

    def _list(self, node: ast.List | ast.Set) -> ValueSet:
        return (ListValue(union(*(self._item_of(each) for each in node.elts))),)

    _set = _list

    def _item_of(self, node: ast.expr) -> ValueSet:
        if isinstance(node, ast.Starred):
            return self.get_item(self.evaluate(node.value))
        return self.evaluate(node)

    def _tuple(self, node: ast.Tuple) -> ValueSet:
        if any(isinstance(each, ast.Starred) for each in node.elts):
            return (ListValue(union(*(self._item_of(each) for each in node.elts))),)
        return (ObjectValue({index: self.evaluate(each) for index, each in enumerate(node.elts)}),)

    def _lambda(self, node: ast.Lambda) -> ValueSet:
        return (FunctionValue(node, self.scope),)

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> ValueSet:
        return (ListValue(self._evaluate_comprehension(node.generators, lambda: self.evaluate(node.elt))),)

    _setcomp = _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp) -> ValueSet:
        def act() -> ValueSet:
            self.add_use(self.evaluate(node.key))
            return self.evaluate(node.value)

        return (ObjectValue({("?", id(node)): self._evaluate_comprehension(node.generators, act)}),)

    def _evaluate_comprehension(self, generators: Sequence[ast.comprehension], act: Callable[[], ValueSet]) -> ValueSet:
        if not generators:
            return act()
        first, *rest = generators
        self.assign(first.target, self.get_item(self.evaluate(first.iter)), new=True)
        present = NO_PATHS
        for condition in first.ifs:
            with self.assuming(present):
                present |= self.evaluate_condition(condition)[0]
        with self.assuming(present):
            return self._evaluate_comprehension(rest, act)

    # ── operators ──────────────────────────────────────────────────────────────────

    def _binop(self, node: ast.BinOp) -> ValueSet:
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        self.line = node.lineno
        for value, other in ((left, node.right), (right, node.left)):
            if isinstance(node.op, ast.Add):
                types = _get_literal_types(other)
                if types:
                    self.expect_type(value, *types)
            elif not isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Mult | ast.Mod) or (
                isinstance(node.op, ast.Mult) and _is_number(other)
            ):
                self.expect_type(value, "number")
            self.add_use(value)
        return UNTRACKED

    def _boolop(self, node: ast.BoolOp) -> ValueSet:
        found: list[ValueSet] = []
        present = NO_PATHS
        for index, each in enumerate(node.values):
            last = index == len(node.values) - 1

            def act(each: ast.expr = each, last: bool = last) -> ValueSet:
                nonlocal present
                if last:
                    return self.evaluate(each)
                tested = self.evaluate_condition(each)
                present |= tested[0 if isinstance(node.op, ast.And) else 1]
                return self.evaluate_silently(each)

            value = act() if index == 0 else self.trace_optional_branch(present, NO_PATHS, act)
            if isinstance(node.op, ast.Or) and not last:
                value = self.with_default(value)
            if isinstance(node.op, ast.Or) or last:
                found.append(value)
        return union(*found)

    def _ifexp(self, node: ast.IfExp) -> ValueSet:
        there, missing = self.evaluate_condition(node.test)
        return self.trace_branches(
            (there, missing, lambda: self.evaluate(node.body)), (missing, there, lambda: self.evaluate(node.orelse))
        )

    def _unaryop(self, node: ast.UnaryOp) -> ValueSet:
        if isinstance(node.op, ast.Not):
            self.evaluate_condition(node)
            return UNTRACKED
        self.add_use(self.expect_type(self.evaluate(node.operand), "number"))
        return UNTRACKED

    def _compare(self, node: ast.Compare) -> ValueSet:
        self.evaluate_condition(node)
        return UNTRACKED

    # ── conditions ──────────────────────────────────────────────────────────────────────

    def evaluate_condition(self, node: ast.expr) -> ConditionPaths:
        """Trace a condition."""
        self.line = getattr(node, "lineno", self.line)
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                there, missing = self.evaluate_condition(operand)
                return missing, there
            case ast.BoolOp(op=op, values=values):
                tests = (partial(self.evaluate_condition, each) for each in values)
                return self.trace_logical(*tests, is_and=isinstance(op, ast.And))
            case ast.Compare():
                return self._test_comparison(node)
            case ast.Call(func=ast.Name(id="isinstance"), args=[value, _]):
                return self.type_check(self.evaluate(value)), NO_PATHS
            case ast.Call(func=ast.Name(id="len" | "bool"), args=[value]):
                return self.evaluate_condition(value)[0], NO_PATHS
            case ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp() | ast.ListComp() as each]):
                return self._evaluate_all(each), NO_PATHS
            case ast.NamedExpr():
                return self.presence_check(self.evaluate(node)), NO_PATHS
        return self.truth_check(self.evaluate(node)), NO_PATHS

    def _evaluate_all(self, node: ast.GeneratorExp | ast.ListComp) -> frozenset[FieldPath]:
        found: list[frozenset[FieldPath]] = []

        def act() -> ValueSet:
            found.append(self.evaluate_condition(node.elt)[0])
            return UNTRACKED

        self._evaluate_comprehension(node.generators, act)
        return NO_PATHS.union(*found)

    def _test_comparison(self, node: ast.Compare) -> ConditionPaths:
        left, operator, right = node.left, node.ops[0], node.comparators[0]
        if len(node.ops) > 1:
            for each in (left, *node.comparators):
                self.add_use(self.expect_type(self.evaluate(each), "number"))
            return NO_PATHS, NO_PATHS
        if isinstance(operator, ast.In | ast.NotIn):
            places = self._test_in(left, right)
            return (places, NO_PATHS) if isinstance(operator, ast.In) else (NO_PATHS, places)
        if isinstance(right, ast.Constant) and (right.value is None or right.value == ""):
            places = self.presence_check(self.evaluate(left))
            return (NO_PATHS, places) if isinstance(operator, ast.Is | ast.Eq) else (places, NO_PATHS)
        for each, other in ((left, right), (right, left)):
            value = self.evaluate(each)
            types = _get_literal_types(other)
            if types and isinstance(operator, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
                self.expect_type(value, *types)
            elif _is_number(other):
                self.expect_type(value, "number")
            self.add_use(value)
        return NO_PATHS, NO_PATHS

    def _test_in(self, left: ast.expr, right: ast.expr) -> frozenset[FieldPath]:
        keys, value = self.evaluate(left), self.evaluate(right)
        self.line = left.lineno
        names = [atom.value for atom in keys if isinstance(atom, LiteralValue) and isinstance(atom.value, str)]
        if names and len(names) == len(keys) and select(value, PathValue):
            return frozenset().union(*(self.key_check(value, name) for name in names))
        if isinstance(right, ast.Tuple | ast.List | ast.Set) and right.elts:
            kinds = {_get_literal_types(each) for each in right.elts}
            if len(kinds) == 1 and (types := kinds.pop()):
                self.expect_type(keys, *types)
        self.add_use(keys)
        self.add_use(value)
        return NO_PATHS

    # ── assignments ──────────────────────────────────────────────────────────────────

    def assign(self, target: ast.expr, value: ValueSet, *, new: bool = False) -> None:
        """Assign *value* to *target*."""
        match target:
            case ast.Name(id=name):
                self.bind(name, value, new=new)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                for index, each in enumerate(targets):
                    self.assign(each, self.get_position(value, index), new=new)
            case ast.Starred(value=inner):
                self.assign(inner, (ListValue(value),), new=new)
            case ast.Subscript(value=owner, slice=key):
                self._store(self.evaluate(owner), self.evaluate(key), value)
            case ast.Attribute(value=owner, attr=name):
                self._store(self.evaluate(owner), (LiteralValue(name),), value)

    def _store(self, owner: ValueSet, keys: ValueSet, value: ValueSet) -> None:
        key = keys[0].value if len(keys) == 1 and isinstance(keys[0], LiteralValue) else None
        objects = [atom.items for atom in owner if isinstance(atom, ObjectValue) and isinstance(atom.items, dict)]
        for items in objects if key is not None else ():
            items[key] = value
        if not objects or key is None:
            self.add_use(value, "passes_on")

    # ── calls ──────────────────────────────────────────────────────────────────

    def _call(self, node: ast.Call) -> ValueSet:
        if isinstance(node.func, ast.Attribute):
            name = _get_dotted_name(node.func)
            first = name.partition(".")[0]
            if not first or self.scope.find(first) is not None:
                return self._method(node, self.evaluate(node.func.value), node.func.attr)
            return self._function(node, name)
        if isinstance(node.func, ast.Name) and self.scope.find(node.func.id) is None:
            return self._function(node, node.func.id)
        called = self.evaluate(node.func)
        found = self.trace_calls(called, self._arguments(node), self._evaluate_keywords(node))
        if not select(called, FunctionValue):
            self._pass_arguments(node, "escapes")
        return found

    def _arguments(self, node: ast.Call) -> list[ValueSet]:
        return [
            (ListValue(self.get_item(self.evaluate(each.value))),)
            if isinstance(each, ast.Starred)
            else self.evaluate(each)
            for each in node.args
        ]

    def _evaluate_keywords(self, node: ast.Call) -> dict[str, ValueSet]:
        for each in node.keywords:
            if each.arg is None:
                self.add_use(self.evaluate(each.value), "escapes")
        return {each.arg: self.evaluate(each.value) for each in node.keywords if each.arg is not None}

    def _pass_arguments(self, node: ast.Call, kind: str) -> None:
        for value in self._arguments(node):
            self.add_use(value, "passes_on" if kind == "passes_on" else "escapes")
        for each in node.keywords:
            sent = kind == "passes_on" or each.arg in words.PAYLOAD_ARGUMENTS
            self.add_use(self.evaluate(each.value), "passes_on" if sent else "escapes")

    # ── methods ────────────────────────────────────────────────────────────────────

    def _method(self, node: ast.Call, owner: ValueSet, name: str) -> ValueSet:
        self.line = node.lineno
        if select(owner, PlatformValue):
            return self._platform(node, owner, name)
        if name in {"get", "pop", "setdefault", "__getitem__"} and node.args:
            return self._get_by_method(node, owner, name)
        if name in words.KEY_METHODS and not node.args:
            return self.get_dynamic_member(owner)
        if name == "copy":
            return owner
        places = select(owner, PathValue)
        if name in words.TEXT_METHODS and places:
            self.expect_type(places, "string")
        elif name in words.LIST_METHODS:
            self.expect_type(places, "array")
        self._count_on(places)
        self.add_use(places)
        if name in {"append", "extend", "update", "add", "insert"} or (not places and name in words.LOG_METHODS):
            self._pass_arguments(node, "passes_on")
        elif name == "join" and len(node.args) == 1:
            self.add_use(self.expect_type(self.get_item(self.evaluate(node.args[0])), "string"))
        elif name in {"map", "apply"}:
            self._pass_arguments(node, "escapes")
        else:
            sent = name in words.TEXT_METHODS or _get_dotted_name(node.func).startswith(words.HTTP_CLIENT_PREFIXES)
            self._pass_arguments(node, "passes_on" if sent else "escapes")
        return select(owner, ObjectValue) if name == "update" else UNTRACKED

    def _count_on(self, places: tuple[PathValue, ...]) -> None:
        """Record a method call that fails for None."""
        for at in places:
            if at.presence == "optional":
                self.require_path(at.path)

    def _get_by_method(self, node: ast.Call, owner: ValueSet, name: str) -> ValueSet:
        keys = self.evaluate(node.args[0])
        given = len(node.args) > 1 and not (isinstance(node.args[1], ast.Constant) and node.args[1].value is None)
        other = self.evaluate(node.args[1]) if len(node.args) > 1 else UNTRACKED
        soft = name == "get" or len(node.args) > 1
        self.line = node.lineno
        found = self.get_members(owner, keys, is_optional=soft, default=soft and given)
        if given and found and (types := _default_type(node.args[1])):
            self.expect_type(found, *types)
        return union(found, other)

    def _platform(self, node: ast.Call, owner: ValueSet, name: str) -> ValueSet:
        if PlatformValue("pd") in owner and name == "export" and len(node.args) == 2:
            for atom in select(self.evaluate(node.args[0]), LiteralValue):
                self.add_export(str(atom.value), self.evaluate(node.args[1]))
                return UNTRACKED
        self._pass_arguments(node, "passes_on")
        return UNTRACKED

    # ── functions ──────────────────────────────────────────────────────────────────

    def _function(self, node: ast.Call, name: str) -> ValueSet:
        self.line = node.lineno
        if name in {"map", "filter"} and len(node.args) == 2:
            items = self.get_item(self.evaluate(node.args[1]))
            function = self.evaluate(node.args[0])
            if not select(function, FunctionValue):
                self.add_use(items)
            found = self.trace_calls(function, [items])
            return (ListValue(found if name == "map" else items),)
        if name in {"any", "all", "sum"} and len(node.args) == 1:
            items = self.get_item(self.evaluate(node.args[0]))
            self.add_use(self.expect_type(items, "number") if name == "sum" else items)
            return UNTRACKED
        if name in {"enumerate", "zip"}:
            items_of = [self.get_item(value) for value in self._arguments(node)]
            pair = [UNTRACKED, *items_of[:1]] if name == "enumerate" else items_of
            return (ListValue((ObjectValue(dict(enumerate(pair))),)),)
        if name in words.IDENTITY_FUNCTIONS or name in {"min", "max", "next"}:
            return self._trace_identity_function(node, name)
        if name in {"json.dumps", "dumps"} and node.args:
            return (JsonTextValue(self.evaluate(node.args[0])),)
        if name in {"json.loads", "loads", "json.load"} and node.args:
            return self.parse_json(self.evaluate(node.args[0]))
        if name == "export" and len(node.args) == 2 and isinstance(node.args[0], ast.Constant):
            self.add_export(str(node.args[0].value), self.evaluate(node.args[1]))
            return UNTRACKED
        if name in words.SCALAR_FUNCTIONS or name == "isinstance":
            self.evaluate_condition(node) if name == "isinstance" else self._use_arguments(node)
            return UNTRACKED
        logs = name.startswith(words.LOG_PREFIXES)
        self._pass_arguments(node, "passes_on" if logs or name.startswith(words.HTTP_CLIENT_PREFIXES) else "escapes")
        return UNTRACKED

    def _use_arguments(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "len":
            self._count_on(
                tuple(atom for value in self._arguments(node) for atom in value if isinstance(atom, PathValue))
            )
            return
        for value in [*self._arguments(node), *self._evaluate_keywords(node).values()]:
            self.add_use(self.expect_type(value, "number") if name in {"abs", "round"} else value)

    def _trace_identity_function(self, node: ast.Call, name: str) -> ValueSet:
        named = self._evaluate_keywords(node)
        if name == "dict" and not node.args:
            return (
                ObjectValue(named, union(*(self.evaluate(each.value) for each in node.keywords if each.arg is None))),
            )
        if not node.args:
            return (ListValue(),)
        value = self.evaluate(node.args[0])
        if name in {"dict", "copy.copy", "copy.deepcopy", "deepcopy", "iter"}:
            return value
        if name == "next":
            items = self.get_item(value)
            return union(self.optional(items) if len(node.args) > 1 else items, *map(self.evaluate, node.args[1:]))
        items = self.get_item(value)
        if "key" in named:
            self.trace_calls(named["key"], [items])
        elif name in {"sorted", "set", "frozenset", "min", "max"}:
            self.add_use(items)
        if name in {"min", "max"}:
            self.add_use(union(*map(self.evaluate, node.args[1:])))
            return items
        return (ListValue(items),)


def _is_exit(body: Sequence[ast.stmt]) -> bool:
    """Return whether *body* always ends with a return, an error, or the end of its loop or process: the code below does not run."""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.If):
        return _is_exit(last.body) and _is_exit(last.orelse)
    exits = (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and ast.unparse(last.value.func) in {"sys.exit", "exit", "quit", "os._exit"}
    )
    return exits or isinstance(last, ast.Return | ast.Raise | ast.Continue | ast.Break)


def _is_raise(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise)


def _handles_missing_key(handler: ast.ExceptHandler, body: Sequence[ast.stmt]) -> bool:
    """Return whether *handler* handles a missing key in *body*."""
    if _is_raise(handler.body):
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    if names & words.MISSING_KEY_ERRORS:
        return True
    # a handler for every exception around the whole step is for other failures
    simple = len(body) == 1 and not isinstance(body[0], ast.If | ast.For | ast.With | ast.Try | ast.While)
    return simple and (handler.type is None or bool(names & words.CATCH_ALL_ERRORS))


def _value_types(patterns: Sequence[ast.pattern]) -> tuple[str, ...]:
    values = [pattern.value for pattern in patterns if isinstance(pattern, ast.MatchValue)]
    texts = [isinstance(value, ast.Constant) and isinstance(value.value, str) for value in values]
    return ("string",) if texts and all(texts) else ()


def _default_type(node: ast.expr) -> tuple[str, ...]:
    """Return the types of a value that a default reveals; for a number also numeric text."""
    if isinstance(node, ast.Constant) and node.value == "":
        return ()
    return tuple("numeric" if name == "number" else name for name in _get_literal_types(node))


def _is_calculation(node: ast.expr) -> bool:
    """Return whether *node* can only be a number: `i + 1`, `len(x) - 1`."""
    return isinstance(node, ast.BinOp) and _is_number(node.right)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _get_literal_types(node: ast.expr) -> tuple[str, ...]:
    """Return the types of the literal *node*; a value that is compared with it, or added to it, has these types."""
    match node:
        case ast.JoinedStr():
            return ("string",)
        case ast.Constant(value=bool()):
            return ("boolean",)
        case ast.Constant(value=str()):
            return ("string",)
        case ast.Constant(value=int() | float()):
            return ("number",)
        case ast.List():
            return ("array",)
        case ast.Dict():
            return ("object",)
    return ()


def _get_dotted_name(node: ast.expr) -> str:
    """Return the dotted name `a.b.c` of *node*, else empty."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join(reversed([*parts, node.id]))


def trace_module(source: str, exports_above: KnownExports | None = None) -> PythonStepTracer | None:
    """Return the trace of *source*, or None after a syntax error."""
    tree = python_code.parse_source(source)
    if tree is None:
        return None
    tracer = PythonStepTracer(exports_above)
    tracer.trace_step(tree)
    return tracer
