"""
On which ways through `handler` a Python step calls `pd.respond`.

Knows Python's statements through `ast`. Takes both sides of every condition as possible; an error that is raised is
no way: the platform answers that by itself. What it cannot follow, it says.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from pdkernel.inspection.python_code import ENTRY, tree_of
from pdkernel.inspection.ways import NEVER, UNKNOWN, Answering, Places, UnknownWaysError, Ways, answering

_MAX_DEPTH = 5
_LATER = (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def python_answering(source: str) -> Answering:
    """How the step with the code *source* answers."""
    tree = tree_of(source)
    if tree is None:
        return UNKNOWN
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    handler = functions.get(ENTRY)
    if handler is None or not handler.args.args:
        return UNKNOWN if "respond" in source else NEVER
    try:
        follower = _Follower(handler.args.args[0].arg, functions, 0)
        return answering(follower.block(handler.body, {False: handler.lineno}))
    except (UnknownWaysError, RecursionError):
        return UNKNOWN


class _Follower:
    """Follows one function in which *pd* is the step's `pd`."""

    def __init__(self, pd: str, functions: dict[str, ast.FunctionDef], depth: int) -> None:
        self._pd = pd
        self._functions = functions
        self._depth = depth

    def block(self, body: Iterable[ast.stmt], start: Places) -> Ways:
        ways = Ways(on=start)
        for statement in body:
            if not ways.on:
                break
            ways = ways.then(self._statement(statement, ways.on))
        return ways

    def _statement(self, node: ast.stmt, start: Places) -> Ways:
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                before = self._expression(test, start)
                either = self.block(body, before.on) | self.block(orelse, before.on)
                return before.then(either)
            case ast.For() | ast.AsyncFor() | ast.While():
                return self._loop(node, start)
            case ast.Try() | ast.TryStar():
                return self._try(node, start)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                before = self._expressions((item.context_expr for item in items), start)
                return before.then(self.block(body, before.on))
            case ast.Match(subject=subject, cases=cases):
                return self._match(subject, cases, start)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._refuse_respond(node)
                return Ways(on=start)
            case ast.Return(value=value):
                before = self._expression(value, start) if value is not None else Ways(on=start)
                return before.then(Ways(back=_at(before.on, node.lineno)))
            case ast.Raise():
                return Ways()
            case ast.Break() | ast.Continue():
                return Ways(broken=_at(start, node.lineno))
        return self._expressions((each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)), start)

    def _match(self, subject: ast.expr, cases: list[ast.match_case], start: Places) -> Ways:
        before = self._expression(subject, start)
        sides = [self.block(case.body, before.on) for case in cases]
        if not any(
            isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None
            for case in cases
        ):
            sides.append(Ways(on=before.on))
        either = sides[0]
        for side in sides[1:]:
            either = either | side
        return before.then(either)

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, start: Places) -> Ways:
        before = self._expression(node.test if isinstance(node, ast.While) else node.iter, start)
        once = self.block(node.body, before.on)
        again = self.block(node.body, {**once.on, **before.on})
        for_ever = isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and bool(node.test.value)
        through = once | again
        over = {} if for_ever else {**through.on, **before.on}
        after = self.block(node.orelse, over)
        on = {**after.on, **through.broken}
        return before.then(Ways(on, {**through.back, **after.back}, {**through.out, **after.out}, after.broken))

    def _try(self, node: ast.Try | ast.TryStar, start: Places) -> Ways:
        body = self.block(node.body, start)
        whole = body.then(self.block(node.orelse, body.on)) if node.orelse else body
        if node.handlers:
            caught = dict(start)
            for count in range(1, len(node.body) + 1):
                caught |= self.block(node.body[:count], start).on
            for handler in node.handlers:
                whole = whole | self.block(handler.body, caught)
        if not node.finalbody:
            return whole
        ending = self.block(node.finalbody, {False: node.finalbody[0].lineno})
        if False not in ending.on and ending.on and not ending.back and not ending.out:
            return whole.all_sent()
        return whole.then(self.block(node.finalbody, whole.on)) if whole.on else whole

    def _expressions(self, nodes: Iterable[ast.expr], start: Places) -> Ways:
        ways = Ways(on=start)
        for node in nodes:
            ways = ways.then(self._expression(node, ways.on))
        return ways

    def _expression(self, node: ast.expr, start: Places) -> Ways:
        match node:
            case ast.IfExp(test=test, body=body, orelse=orelse):
                before = self._expression(test, start)
                return before.then(self._expression(body, before.on) | self._expression(orelse, before.on))
            case ast.BoolOp(values=[first, *rest]):
                before = self._expression(first, start)
                return before.then(self._expressions(rest, before.on) | Ways(on=before.on))
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._refuse_respond(node)
                return Ways(on=start)
            case ast.Call():
                return self._call(node, start)
            case ast.Name(id=name) if name == self._pd:
                raise UnknownWaysError
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self._pd:
                if attr == "respond":
                    raise UnknownWaysError
                return Ways(on=start)
        return self._expressions((each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)), start)

    def _call(self, node: ast.Call, start: Places) -> Ways:
        called = self._called(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if called is not None and called[0] == "respond":
            before = self._expressions(arguments, start)
            return before.then(Ways(on={True: node.lineno} if before.on else {}))
        if called is not None and called[:2] == ["flow", "exit"]:
            return Ways(out=_at(start, node.lineno))
        if isinstance(node.func, ast.Name) and (helper := self._functions.get(node.func.id)) is not None:
            return self._helper(helper, node, start)
        return self._expressions([*([] if called is not None else [node.func]), *arguments], start)

    def _called(self, node: ast.expr) -> list[str] | None:
        """`["flow", "exit"]` for `pd.flow.exit`, else None."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        return names if isinstance(node, ast.Name) and node.id == self._pd else None

    def _helper(self, helper: ast.FunctionDef, node: ast.Call, start: Places) -> Ways:
        """A call of a function of the module, which may be given `pd`."""
        given = [
            parameter.arg
            for parameter, value in zip(helper.args.args, node.args, strict=False)
            if isinstance(value, ast.Name) and value.id == self._pd
        ]
        others = [value for value in node.args if not (isinstance(value, ast.Name) and value.id == self._pd)]
        before = self._expressions([*others, *(keyword.value for keyword in node.keywords)], start)
        if not given:
            return before
        if self._depth >= _MAX_DEPTH or len(given) > 1:
            raise UnknownWaysError
        inside = _Follower(given[0], self._functions, self._depth + 1).block(helper.body, before.on)
        return before.then(Ways(on={**inside.on, **inside.back}, out=inside.out))

    def _refuse_respond(self, node: ast.AST) -> None:
        """Code that runs later, or no one knows how often, must not send the response."""
        for each in _names(node):
            if each == self._pd:
                raise UnknownWaysError


def _names(node: ast.AST) -> Iterator[str]:
    """Names that are used for more than reading what a step is given."""
    reads = {
        id(each.value)
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and each.attr not in {"respond", "flow"}
    }
    return (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and id(each) not in reads)


def _at(places: Places, line: int) -> Places:
    return dict.fromkeys(places, line)
