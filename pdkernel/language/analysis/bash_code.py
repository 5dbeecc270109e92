"""
Analysis of Bash code: the environment variables that the code reads.

Comments, single quotes and quoted here-documents are skipped. Only names in capitals count as environment variables:
other names are by convention variables of the script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pdkernel.language.analysis.python_code import VariableReferences

_EXPANSION = re.compile(
    r"\$(?:(?P<bare>[A-Z_][A-Z0-9_]*)(?![a-z0-9])|\{(?P<braced>[A-Z_][A-Z0-9_]*)(?![a-z0-9])(?P<operator>:?[-=+?])?)"
)
_SKIPPED = re.compile(r"'[^']*'?|(?:(?<=[\s;&|(])|\A)#[^\n]*")
_DOCUMENT = re.compile(r"(?<!<)<<-?[ \t]*(?P<quote>[\\'\"])?(?P<end>[A-Za-z_]\w*)")
_ASSIGNED = (
    re.compile(r"(?:^|[\s;&|({`!])([A-Za-z_]\w*)(?:\[[^]]*\])?\+?=", re.MULTILINE),
    re.compile(r"\b(?:for|select)\s+([A-Za-z_]\w*)"),
    re.compile(r"\b(?:printf\s+-v|getopts\s+\S+|mapfile(?:\s+-t)?|readarray(?:\s+-t)?)\s+([A-Za-z_]\w*)"),
    re.compile(r"-[zn]\s+\"?\$\{?([A-Za-z_]\w*)"),
    re.compile(r"-v\s+([A-Za-z_]\w*)"),
)
_READ = re.compile(r"\bread\b((?:\s+-\w+(?:\s+\"[^\"]*\")?|\s+[A-Za-z_]\w*)+)")
_SHELL_VARIABLE_PATTERN = re.compile(r"(?:BASH\w*|LC_\w+|PS[0-4]|_)\Z")
_SHELL_VARIABLES = frozenset(
    [
        "COLUMNS",
        "COPROC",
        "DIRSTACK",
        "EPOCHREALTIME",
        "EPOCHSECONDS",
        "EUID",
        "FUNCNAME",
        "GROUPS",
        "HISTFILE",
        "HOSTNAME",
        "HOSTTYPE",
        "IFS",
        "LINENO",
        "LINES",
        "MACHTYPE",
        "MAPFILE",
        "OLDPWD",
        "OPTARG",
        "OPTERR",
        "OPTIND",
        "OSTYPE",
        "PIPESTATUS",
        "PPID",
        "RANDOM",
        "REPLY",
        "SECONDS",
        "SHELLOPTS",
        "SHLVL",
        "SRANDOM",
        "UID",
    ]
)


def find_variables(source: str) -> VariableReferences:
    """Return the environment variables that *source* reads and does not set; `${X:-default}` or a test makes X optional."""
    required: set[str] = set()
    optional: set[str] = set()
    for name, operator in _expansions(source):
        if operator is None or operator.endswith("?"):
            required.add(name)
        else:
            optional.add(name)
    own = (
        _assigned(source)
        | {name for name in required | optional if _SHELL_VARIABLE_PATTERN.match(name)}
        | _SHELL_VARIABLES
    )
    defaulted = {name for name, operator in _expansions(source) if operator in {"=", ":="}}
    return VariableReferences(frozenset(required - own - defaulted), frozenset(optional - own))


def is_variable_read(source: str, name: str) -> bool:
    """Return whether *source* expands the variable *name*."""
    return any(found == name for found, _ in _expansions(source))


def _assigned(source: str) -> set[str]:
    names = {name for pattern in _ASSIGNED for name in pattern.findall(source)}
    for words in _READ.findall(source):
        names.update(word for word in words.split() if not word.startswith(("-", '"')))
    return names


def _expansions(source: str) -> Iterator[tuple[str, str | None]]:
    """Yield every `$NAME` and `${NAME...}` that the shell would expand, with its operator."""
    text = _strip_heredocs(source)
    open_marks: list[str] = []  # a stack of double quotes and parentheses
    position = 0
    while position < len(text):
        char = text[position]
        if char == "$" and (match := _EXPANSION.match(text, position)):
            if name := match["bare"] or match["braced"]:
                yield name, match["operator"]
            position = match.end()
            continue
        quoted = open_marks[-1:] == ['"']
        if char == "\\":
            position += 1
        elif char == '"':
            open_marks.pop() if quoted else open_marks.append('"')
        elif char == "(" and (not quoted or text[position - 1 : position] == "$"):
            open_marks.append("(")
        elif char == ")" and open_marks[-1:] == ["("]:
            open_marks.pop()
        elif not quoted and (skipped := _SKIPPED.match(text, position)):
            position = skipped.end()
            continue
        position += 1


def _strip_heredocs(source: str) -> str:
    """Return *source* without quoted here-documents; in other here-documents, quotes and hashes become blanks."""
    lines: list[str] = []
    waiting: list[tuple[str, bool]] = []
    for line in source.split("\n"):
        if waiting:
            end, is_quoted = waiting[0]
            if line.strip() == end:
                waiting.pop(0)
            elif not is_quoted:
                lines.append(re.sub(r"['\"#()]", " ", line))
            continue
        lines.append(line)
        waiting += [(match["end"], bool(match["quote"])) for match in _DOCUMENT.finditer(line)]
    return "\n".join(lines)
