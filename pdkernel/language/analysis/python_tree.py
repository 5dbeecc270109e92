"""The translation of Python code into the tree of `code_tree`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pdkernel.language.analysis import python_code
from pdkernel.language.analysis.code_tree import (
    ALL_STEPS,
    Array,
    Assign,
    Block,
    Branch,
    Call,
    Comprehension,
    Default,
    Entry,
    Exit,
    Function,
    Literal,
    Loop,
    Member,
    Name,
    Node,
    Object,
    Operation,
    Spread,
    Switch,
    Targets,
    Try,
    get_dotted_name,
    negate,
)

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_SIGNS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Mod: "%", ast.Div: "/", ast.FloorDiv: "/"}
_SIGNS |= {ast.And: "and", ast.Or: "or", ast.Not: "not", ast.UAdd: "-", ast.USub: "-", ast.Invert: "-", ast.Pow: "/"}
_SIGNS |= {ast.Eq: "===", ast.Is: "===", ast.Gt: ">", ast.GtE: ">", ast.Lt: "<", ast.LtE: "<", ast.In: "in"}
_NEGATED: dict[type, str] = {ast.NotEq: "===", ast.IsNot: "===", ast.NotIn: "in"}
_EXIT_CALLS = frozenset({"sys.exit", "exit", "quit", "os._exit"})
_MISSING_KEY_ERRORS = frozenset(["KeyError", "LookupError", "TypeError", "AttributeError", "IndexError"])
_ALL_ERRORS = frozenset(["Exception", "BaseException"])


def translate_module(source: str) -> Node | None:
    """Return the tree of *source*, or None after a syntax error."""
    tree = python_code.parse_source(source)
    return None if tree is None else Block((_block(tree.body), Entry(Name(python_code.ENTRY_FUNCTION))))


def _node(node: Any) -> Node:
    """Return the translation of a statement, an expression, a pattern or None."""
    found = _TRANSLATIONS.get(type(node).__name__, _use)(node)
    found.line = found.line or getattr(node, "lineno", 0)
    return found


def _nodes(nodes: Iterable[Any]) -> tuple[Node, ...]:
    return tuple(map(_node, nodes))


def _use(node: Any, sign: str = "") -> Node:
    """Return an operation that uses the expressions in *node*."""
    children = (
        getattr(each, "value", each) if isinstance(each, ast.FormattedValue) else each for each in _children(node)
    )
    return Operation(sign, _nodes(children))


def _children(node: ast.AST) -> list[ast.expr]:
    is_skipped = isinstance(node, ast.ClassDef | ast.Delete)
    return [] if is_skipped else [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]


def _block(body: Sequence[ast.stmt]) -> Block:
    return Block(_nodes(sorted(body, key=lambda each: not isinstance(each, _FUNCTIONS))))


def _text(text: str) -> Literal:
    return Literal(text, ("string",) if text else ())


def _constant(node: ast.Constant) -> Node:
    match node.value:
        case bool():
            return Literal(None, ("boolean",))
        case str():
            return _text(node.value)
        case int() | float():
            return Literal(node.value if isinstance(node.value, int) else None, ("number",))
    return Literal(None, ()) if node.value is None else Operation("", ())


def _try(node: ast.Try) -> Node:
    is_caught = any(_handles_missing_key(handler, node.body) for handler in node.handlers)
    caught = Try(_block(node.body), is_caught, tuple(_block(handler.body) for handler in node.handlers))
    return Block((caught, _block(node.orelse), _block(node.finalbody)))


def _handles_missing_key(handler: ast.ExceptHandler, body: Sequence[ast.stmt]) -> bool:
    """Return whether *handler* handles a missing key in *body*."""
    if isinstance(handler.body[-1], ast.Raise):
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    # a handler for every exception around the whole step is for other failures
    simple = len(body) == 1 and not isinstance(body[0], ast.If | ast.For | ast.With | ast.Try | ast.While)
    return bool(names & _MISSING_KEY_ERRORS) or (simple and (handler.type is None or bool(names & _ALL_ERRORS)))


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> Function:
    given = node.args
    names = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(names) - len(given.defaults)), *given.defaults]
    parameters = [*map(_parameter, names, defaults), Spread(Name(given.vararg.arg if given.vararg else "_"))]
    parameters += map(_parameter, given.kwonlyargs, given.kw_defaults)
    return Function(tuple(parameters), _node(node.body) if isinstance(node, ast.Lambda) else _block(node.body))


def _parameter(parameter: ast.arg, default: ast.expr | None) -> Node:
    return Name(parameter.arg) if default is None else Default(Name(parameter.arg), _node(default))


def _comprehension(element: ast.expr, generators: Sequence[ast.comprehension], key: ast.expr | None = None) -> Node:
    clauses = ((_node(each.target), _node(each.iter), Operation("and", _nodes(each.ifs))) for each in generators)
    return Comprehension(tuple(clauses), _node(element), None if key is None else _node(key))


def _subscript(node: ast.Subscript) -> Node:
    if isinstance(node.slice, ast.Slice):
        return Call(Member(_node(node.value), _text("slice")), (_use(node.slice),))
    return Member(_node(node.value), _node(node.slice))


def _compare(node: ast.Compare) -> Node:
    operands, kind = _nodes([node.left, *node.comparators]), type(node.ops[0])
    if len(node.ops) > 1:
        return Operation("-", operands)  # only numbers are compared in a chain
    return negate(Operation(_NEGATED[kind], operands)) if kind in _NEGATED else Operation(_SIGNS[kind], operands)


def _call(node: ast.Call) -> Node:
    arguments = _nodes(node.args)
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in {"isinstance", "len"} and arguments:
        return Operation("typeof" if name == "isinstance" else "length", arguments[:1])
    if name == "bool" and arguments:
        return negate(negate(arguments[0]))
    if name in {"map", "filter"}:
        arguments = arguments[::-1]  # as the method of Node.js: the list, then the function
    entries = ((None if each.arg is None else _text(each.arg), _node(each.value)) for each in node.keywords)
    return Call(_node(node.func), arguments, Object(tuple(entries)))


def _statement(node: ast.Expr) -> Node:
    value = _node(node.value)
    is_exit = isinstance(value, Call) and get_dotted_name(value.function) in _EXIT_CALLS
    return Exit("jump", value) if is_exit else value


def _import(node: ast.ImportFrom) -> Node:
    names = node.names if node.module == python_code.LEGACY_HELPER_MODULE else []
    targets = tuple(Name(each.asname or each.name) for each in names if each.name == "steps")
    return Assign(Targets(targets), Name(ALL_STEPS), is_new=True)


def _assigned(target: ast.expr | None, value: ast.expr | None) -> Node:
    return _node(value) if target is None or value is None else Assign(_node(target), _node(value))


_TRANSLATIONS: dict[str, Callable[[Any], Node]] = {
    "NoneType": lambda _: Block(),
    # statements
    "FunctionDef": lambda node: Assign(Name(node.name), _function(node), is_new=True),
    "Assign": lambda node: Assign(Targets(_nodes(node.targets)), _node(node.value)),
    "AnnAssign": lambda node: _assigned(node.target, node.value),
    "AugAssign": lambda node: Operation("", _nodes([node.value, node.target])),
    "Expr": _statement,
    "Return": lambda node: Exit("return", _node(node.value)),
    "Raise": lambda node: Exit("raise", _node(node.exc)),
    "Break": lambda _: Exit("jump", Block()),
    "If": lambda node: Branch(_node(node.test), _block(node.body), _block(node.orelse)),
    "For": lambda node: Block((Loop(_node(node.target), _node(node.iter), _block(node.body)), _block(node.orelse))),
    "While": lambda node: Branch(_node(node.test), Block((_block(node.body), Block())), Block()),
    "With": lambda node: Block(
        (*(_assigned(each.optional_vars, each.context_expr) for each in node.items), _block(node.body))
    ),
    "Try": _try,
    "Assert": lambda node: Branch(_node(node.test), Block(), Exit("raise", Block())),
    "ImportFrom": _import,
    "Match": lambda node: Switch(
        _node(node.subject), tuple((_node(each.pattern), _node(each.guard), _block(each.body)) for each in node.cases)
    ),
    # patterns
    "MatchMapping": lambda node: Object(
        tuple(zip(_nodes(node.keys), (Default(each, Block()) for each in _nodes(node.patterns)), strict=True))
    ),
    "MatchAs": lambda node: Targets((*_nodes([node.pattern] * (node.pattern is not None)), Name(node.name or "_"))),
    "MatchOr": lambda node: Targets(_nodes(node.patterns)),
    "MatchSequence": lambda node: Array(_nodes(node.patterns)),
    "MatchStar": lambda node: Spread(Name(node.name or "_")),
    "MatchValue": lambda node: _node(node.value),
    "MatchClass": lambda _: Targets(()),
    # expressions
    "Name": lambda node: Name(node.id),
    "Constant": _constant,
    "Attribute": lambda node: Member(_node(node.value), _text(node.attr), is_attribute=True),
    "Subscript": _subscript,
    "Starred": lambda node: Spread(_node(node.value)),
    "Await": lambda node: _node(node.value),
    "NamedExpr": lambda node: _assigned(node.target, node.value),
    "Dict": lambda node: Object(
        tuple((key and _node(key), _node(each)) for key, each in zip(node.keys, node.values, strict=True))
    ),
    "List": lambda node: Array(_nodes(node.elts)),
    "Tuple": lambda node: Array(_nodes(node.elts), not any(isinstance(each, ast.Starred) for each in node.elts)),
    "Lambda": _function,
    "ListComp": lambda node: _comprehension(node.elt, node.generators),
    "DictComp": lambda node: _comprehension(node.value, node.generators, node.key),
    "JoinedStr": lambda node: _use(node, "text"),
    "BinOp": lambda node: Operation(_SIGNS.get(type(node.op), ""), _nodes([node.left, node.right])),
    "BoolOp": lambda node: Operation(_SIGNS[type(node.op)], _nodes(node.values)),
    "UnaryOp": lambda node: Operation(_SIGNS[type(node.op)], _nodes([node.operand])),
    "IfExp": lambda node: Branch(_node(node.test), _node(node.body), _node(node.orelse)),
    "Compare": _compare,
    "Call": _call,
}
_TRANSLATIONS |= {f"Async{name}": _TRANSLATIONS[name] for name in ("FunctionDef", "For", "With")}
_TRANSLATIONS |= dict.fromkeys(("SetComp", "GeneratorExp"), _TRANSLATIONS["ListComp"])
_TRANSLATIONS |= {"TryStar": _try, "Continue": _TRANSLATIONS["Break"], "Set": _TRANSLATIONS["List"]}
