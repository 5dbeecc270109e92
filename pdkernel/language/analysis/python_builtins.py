"""Tables of Python's built-in functions and methods that reveal the type of a value."""

from __future__ import annotations

TEXT_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "encode",
        "endswith",
        "format",
        "isalnum",
        "isalpha",
        "isdigit",
        "isnumeric",
        "lower",
        "lstrip",
        "ljust",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rjust",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "translate",
        "upper",
        "zfill",
    ]
)
LIST_METHODS = frozenset(["append", "extend", "insert", "sort", "reverse"])
KEY_METHODS = frozenset(["items", "keys", "values"])
IDENTITY_FUNCTIONS = frozenset(
    [
        "list",
        "sorted",
        "reversed",
        "tuple",
        "set",
        "frozenset",
        "dict",
        "iter",
        "copy.copy",
        "copy.deepcopy",
        "deepcopy",
    ]
)
LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
LOG_PREFIXES = ("print", "pprint", "logging.", "logger.", "log.", "sys.stdout.", "sys.stderr.")
HTTP_CLIENT_PREFIXES = ("requests.", "httpx.", "urllib.", "session.", "client.", "http.")
PAYLOAD_ARGUMENTS = frozenset(
    ["json", "data", "params", "body", "payload", "headers", "files", "content", "text", "message", "blocks"]
)
SCALAR_FUNCTIONS = frozenset(
    [
        "len",
        "str",
        "int",
        "float",
        "bool",
        "repr",
        "hash",
        "id",
        "abs",
        "round",
        "type",
        "format",
        "ord",
        "bytes",
        "any",
        "all",
        "sum",
    ]
)
MISSING_KEY_ERRORS = frozenset(["KeyError", "LookupError", "TypeError", "AttributeError", "IndexError"])
CATCH_ALL_ERRORS = frozenset(["Exception", "BaseException"])
