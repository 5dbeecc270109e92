"""
The built-in functions and methods of Python and Node.js, and of common packages, by what a trace does with them.

The subject of a call is the owner of a method, or the first argument of a function. A name that is not listed gets its arguments like
any function whose code is not followed.
"""

from __future__ import annotations

_FUNCTION_KINDS = {
    "same": "structuredClone Promise.all Promise.resolve Object.freeze Object.assign _.cloneDeep cloneDeep Object "
    "defineComponent copy.copy copy.deepcopy deepcopy iter dict asyncio.run",
    "loop": "list tuple reversed Array.from map filter sorted set frozenset min max next any all sum",
    "zip": "zip enumerate",
    "index": "range",
    "path": "_.get lodash.get",
    "encode": "json.dumps dumps JSON.stringify",
    "decode": "json.loads loads json.load JSON.parse qs.parse querystring.parse",
    "keys": "Object.keys Object.values Object.entries Reflect.ownKeys Object.getOwnPropertyNames",
    "export": "export",
    "number": "abs round Math.max Math.min Math.round Math.floor Math.ceil Math.abs Math.trunc Math.sqrt Math.pow",
    "scalar": "str int float repr hash id type format ord bytes Number String parseInt parseFloat Number.parseInt "
    "Number.parseFloat Number.isInteger Number.isFinite isNaN isFinite encodeURIComponent encodeURI decodeURIComponent "
    "Buffer.from Date.parse Number.isNaN Symbol BigInt setTimeout",
}
_CONSTRUCTORS = "Date Error TypeError URL URLSearchParams RegExp Set Buffer Number String ConfigurationError"
_METHOD_KINDS = {
    "loop": "map flatMap forEach filter some every find findLast findIndex findLastIndex sort toSorted",
    "reduce": "reduce reduceRight",
    "join": "join",
    "entries": "items keys values entries",
    "get": "get pop setdefault __getitem__",
    "item": "shift at",
    "same": "slice concat copy reverse flat splice",
    "store": "append extend insert push unshift set add update debug info warning error exception critical log",
    "text": "capitalize casefold encode endswith format isalnum isalpha isdigit isnumeric lower lstrip ljust partition "
    "removeprefix removesuffix replace rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title "
    "translate upper zfill toLowerCase toUpperCase trim trimStart trimEnd replaceAll startsWith endsWith match matchAll "
    "charAt charCodeAt substring substr padStart padEnd localeCompare normalize repeat toLocaleLowerCase",
    "number": "toFixed toPrecision toExponential",
}
_WORDS = {
    "array": "append extend insert push unshift reverse flat splice",
    "items": "list tuple reversed sorted set frozenset filter",
    "item": "min max next find findLast",
    "unused": "list tuple reversed Array.from next",
    "tests": "filter some every find findLast findIndex findLastIndex",
    "senders": "requests. httpx. urllib. session. client. http. https. axios fetch got request superagent needle ky print pprint "
    "logging. logger. log. sys.std console.",
}
FUNCTIONS = {name: kind for kind, names in _FUNCTION_KINDS.items() for name in names.split()}
FUNCTIONS |= {f"new {name}": "scalar" for name in _CONSTRUCTORS.split()}
"""Kinds of functions, by the dotted name; a constructor has `new` before its name."""
METHODS = {name: kind for kind, names in _METHOD_KINDS.items() for name in names.split()}
"""Kinds of methods, by name."""
TYPES = {name: "string" if kind == "text" else kind for name, kind in METHODS.items() if kind in {"text", "number"}}
TYPES |= dict.fromkeys(_WORDS["array"].split(), "array")
"""The type that the owner of a method has, by the name of the method."""
LOOP_RESULTS = {"map": "results", **{name: kind for kind in ("items", "item") for name in _WORDS[kind].split()}}
"""What a loop returns: a list of the results of its function, a list of the items, or one item; otherwise nothing that is followed."""
LOOPS_WITHOUT_USE = frozenset(_WORDS["unused"].split())
"""Loops that do not use their items themselves."""
TESTS = frozenset(_WORDS["tests"].split())
"""Loops whose function returns a condition."""
SENDERS = tuple(_WORDS["senders"].split())
"""The beginnings of the names of functions that send or log their arguments."""
