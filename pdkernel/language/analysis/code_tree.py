"""
The syntax tree of a step, in the kinds of nodes that Python and Node.js have in common.

`python_tree` and `node_tree` translate code into it, and `trace` evaluates it. A translation keeps what decides which event fields
the step reads. The same nodes are the patterns of an assignment: `Name`, `Member`, `Array`, `Object`, `Spread`, `Default`, `Targets`.
"""

from __future__ import annotations

import msgspec

LOOP_INDEX = "#index"
"""The name that is bound to the index of a counting loop."""
ALL_STEPS = "#steps"
"""The name that is bound to the exports of all steps."""


class Node(msgspec.Struct, kw_only=True, eq=False):
    """A node; *line* is its first line, from 1, or 0 for the line of the node around it."""

    line: int = 0


class Name(Node):
    """A variable. `new X` is the name of a constructor."""

    name: str


class Literal(Node):
    """A literal: *value* if it can be a key, and its JSON types. Null, `undefined` and the empty text have no types."""

    value: str | int | None
    types: tuple[str, ...]


class Member(Node):
    """The value of *key* in *owner*; *is_chained* for `?.`, *is_attribute* for `x.name` of Python, which does not read keys."""

    owner: Node
    key: Node
    is_chained: bool = False
    is_attribute: bool = False


class Object(Node):
    """An object with keys and values; the values without a key are spread."""

    entries: tuple[tuple[Node | None, Node], ...]


class Array(Node):
    """A list; *is_tuple* if each item keeps its index."""

    items: tuple[Node, ...]
    is_tuple: bool = False


class Spread(Node):
    """The items of a list, or in a pattern the remaining items."""

    value: Node


class Default(Node):
    """A pattern whose value may be missing, and its default."""

    target: Node
    default: Node


class Targets(Node):
    """Several patterns for one value."""

    targets: tuple[Node, ...]


class Function(Node):
    """A function; parameters after a `Spread` are passed by name. *body* is an expression or a block."""

    parameters: tuple[Node, ...]
    body: Node


class Call(Node):
    """A call; *named* are the arguments by name."""

    function: Node
    arguments: tuple[Node, ...]
    named: Object = msgspec.field(default_factory=lambda: Object(()))
    is_chained: bool = False


class Operation(Node):
    """
    An operation with a *sign*.

    `and`, `or`, `??`, `not`; `===`, `==`, `<`, `>`; `in`; `typeof`: a check of the first operand's type; `length`, and `length?` for
    `?.length`; `+`, `-`, `*`, `/`, `%`; `text`: a text with parts. With another sign, the operation only uses the operands.
    """

    sign: str
    operands: tuple[Node, ...]


class Assign(Node):
    """An assignment; *is_new* if it declares the names of *target*."""

    target: Node
    value: Node
    is_new: bool = False


class Branch(Node):
    """A statement or an expression with a condition."""

    test: Node
    body: Node
    other: Node


class Loop(Node):
    """A loop over the items of a list."""

    target: Node
    items: Node
    body: Node


class Comprehension(Node):
    """A list of *element*, or an object with the keys *key*; a clause has a target, items and a condition."""

    clauses: tuple[tuple[Node, Node, Node], ...]
    element: Node
    key: Node | None = None


class Switch(Node):
    """The cases of *subject*: a pattern, a condition and a body."""

    subject: Node
    cases: tuple[tuple[Node, Node, Node], ...]


class Try(Node):
    """A `try` statement; *is_caught* if a handler continues without the value that *body* misses."""

    body: Node
    is_caught: bool
    handlers: tuple[Node, ...]


class Exit(Node):
    """A statement that the code below does not follow: `return`, `raise`, or `jump` for another."""

    kind: str
    value: Node


class Block(Node):
    """Statements, functions first."""

    statements: tuple[Node, ...] = ()


class Entry(Node):
    """The component or function that the platform runs."""

    component: Node


def get_literal_types(node: Node | None) -> tuple[str, ...]:
    """Return the JSON types of the literal *node*; a value that is compared with it or replaced by it has them, too."""
    match node:
        case Literal(types=types):
            return types
        case Operation(sign="text"):
            return ("string",)
        case Array(is_tuple=False):
            return ("array",)
        case Object():
            return ("object",)
    return ()


def get_default_types(node: Node | None) -> tuple[str, ...]:
    """Return the types of a value that the default *node* reveals; for a number also numeric text."""
    return tuple("numeric" if name == "number" else name for name in get_literal_types(node))


def get_exit(node: Node) -> Exit | None:
    """Return the exit at the end of *node*, which the code below never follows."""
    match node:
        case Exit():
            return node
        case Block(statements=(*_, last)):
            return get_exit(last)
        case Branch(body=body, other=other):
            return Exit("jump", node) if get_exit(body) and get_exit(other) else None
    return None


def get_dotted_name(node: Node) -> str:
    """Return the dotted name `a.b.c` of *node*, else empty."""
    parts: list[str] = []
    while isinstance(node, Member) and isinstance(node.key, Literal):
        parts.append(str(node.key.value))
        node = node.owner
    return ".".join(reversed([*parts, node.name])) if isinstance(node, Name) else ""


def negate(node: Node) -> Node:
    """Return the negation of *node*."""
    return Operation("not", (node,))
