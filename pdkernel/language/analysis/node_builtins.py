"""Tables of the operators, functions and methods of JavaScript that reveal the type of a value."""

from __future__ import annotations

TEXT_METHODS = frozenset(
    [
        "toLowerCase",
        "toUpperCase",
        "trim",
        "trimStart",
        "trimEnd",
        "split",
        "replace",
        "replaceAll",
        "startsWith",
        "endsWith",
        "match",
        "matchAll",
        "charAt",
        "charCodeAt",
        "substring",
        "substr",
        "padStart",
        "padEnd",
        "localeCompare",
        "normalize",
        "repeat",
        "toLocaleLowerCase",
    ]
)
NUMBER_METHODS = frozenset({"toFixed", "toPrecision", "toExponential"})
CALLBACK_METHODS = frozenset(
    [
        "map",
        "filter",
        "forEach",
        "flatMap",
        "some",
        "every",
        "find",
        "findLast",
        "findIndex",
        "findLastIndex",
        "reduce",
        "reduceRight",
        "sort",
        "toSorted",
    ]
)
LIST_METHODS = frozenset({"push", "unshift", "splice", "reverse", "flat", "join"})
ITEM_METHODS = frozenset({"pop", "shift", "at"})
LOG_PREFIXES = ("console.",)
HTTP_CLIENT_PREFIXES = (
    "axios",
    "fetch",
    "got",
    "request",
    "superagent",
    "needle",
    "ky",
    "$.",
    "http.",
    "https.",
    "client.",
)
SCALAR_FUNCTIONS = frozenset(
    [
        "Number",
        "String",
        "Boolean",
        "parseInt",
        "parseFloat",
        "Number.parseInt",
        "Number.parseFloat",
        "Number.isInteger",
        "Number.isFinite",
        "isNaN",
        "isFinite",
        "encodeURIComponent",
        "encodeURI",
        "decodeURIComponent",
        "Buffer.from",
        "Date.parse",
        "Number.isNaN",
        "Symbol",
        "BigInt",
        "setTimeout",
    ]
)
VALUE_CONSTRUCTORS = frozenset(
    [
        "Date",
        "Error",
        "TypeError",
        "URL",
        "URLSearchParams",
        "RegExp",
        "Set",
        "Buffer",
        "Number",
        "String",
        "ConfigurationError",
    ]
)
KEY_FUNCTIONS = frozenset(
    {"Object.keys", "Object.values", "Object.entries", "Reflect.ownKeys", "Object.getOwnPropertyNames"}
)
IDENTITY_FUNCTIONS = frozenset(
    {"structuredClone", "Promise.all", "Promise.resolve", "Object.freeze", "_.cloneDeep", "cloneDeep", "Object"}
)
EXIT_STATEMENTS = frozenset({"return_statement", "throw_statement", "continue_statement", "break_statement"})
EQUALITY_OPERATORS = frozenset({"===", "==", "!==", "!="})
NUMERIC_OPERATORS = frozenset({"-", "*", "/", "%", "**", "<", ">", "<=", ">="})
