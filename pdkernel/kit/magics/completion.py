"""
Completion in cells of steps and blocks: event and export paths, and the directive's options with their values.

`complete_cell` is pure. The matcher connects it to IPython's matcher API, version 2; providers supply the values.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, TypeVar

from IPython.core.completer import CompletionContext, SimpleCompletion, completion_matcher

from pdkernel.kit.magics.notebook_context import DirectiveCell, find_directive
from pdkernel.language.directive import INSIDE_OPTION, STEP_OPTIONS, StepOption
from pdkernel.model import JSON

LOOKBACK_CHARACTERS = 2_000
"""Number of characters before the cursor that are searched; paths are shorter."""
MAX_KEY_ITEMS = 200
MAX_INDEX_ITEMS = 10

Syntax = Literal["node", "python", "jq", "go"]

_NAME = r"[A-Za-z_$][\w$]*"
_TEXT = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\\n]|\\.)*`)"""
_BRACKET = rf"\s*(?:\?\.)?\[\s*(?:{_TEXT}|\d+|{_NAME})\s*\]"
_OPEN_BRACKET = r"""\s*(?:\?\.)?\[\s*(?:(?P<quote>["'`])(?P<key>(?:(?!(?P=quote))[^\\\n]|\\.)*)|(?P<index>\d*))"""
_DOTTED = rf"(?P<path>(?:\s*\??\.\s*{_NAME}|{_BRACKET})*)(?:\s*(?P<dot>\??\.)(?P<name>[\w$]*)|{_OPEN_BRACKET})\Z"
_ASSERTION = r"\.\((?:[^()\n])*\)"
_ASSERTED = rf"(?P<path>(?:{_BRACKET}(?:{_ASSERTION})?)*){_OPEN_BRACKET}\Z"
_BRACKETED = rf"(?P<path>(?:{_BRACKET})*){_OPEN_BRACKET}\Z"

_PATH_PATTERNS: Mapping[Syntax, re.Pattern[str]] = {
    "node": re.compile(r"(?<![\w$.])steps" + _DOTTED),
    "python": re.compile(r"(?<![\w.])pd\.steps" + _BRACKETED),
    "go": re.compile(r"(?<![\w.])pd\.Steps" + _ASSERTED),
    "jq": re.compile(r"(?:^|(?<=[\s'\"|(,]))(?=\.)" + _DOTTED),
}
_SEGMENT = re.compile(rf"\.\s*(?P<name>{_NAME})|\[\s*(?:(?P<text>{_TEXT})|(?P<index>\d+)|{_NAME})\s*\]")
_KINDS: Mapping[type, str] = {
    dict: "object",
    list: "list",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
}


@dataclass(frozen=True, slots=True)
class CompletionItem:
    """One completion; *type* is the label that a front end shows beside the text."""

    text: str
    type: str = "property"


@dataclass(frozen=True, slots=True)
class Completion:
    """
    Completions that replace the *fragment* before the cursor.

    Without items, no completion is offered, not even Python names.
    """

    fragment: str = ""
    items: tuple[CompletionItem, ...] = ()


def complete_path(before: str, after: str, steps: Mapping[str, JSON], syntax: Syntax) -> Completion | None:
    """
    Completions of the path that ends at the cursor.

    Args:
        before: The text up to the cursor.
        after: The text after the cursor; an existing quote or bracket is not repeated.
        steps: The exports by step, including `trigger`.
        syntax: The syntax of the path.

    Returns:
        None if no path ends at the cursor. A key that is not a name is offered in brackets, in place of the dot.
    """
    chain = _PATH_PATTERNS[syntax].search(before[-LOOKBACK_CHARACTERS:])
    if chain is None:
        return None
    value: Any = steps
    for segment in _segments(re.sub(_ASSERTION, "", chain["path"]) if syntax == "go" else chain["path"]):
        value = _descend(value, segment)
    groups = chain.groupdict()
    if groups.get("dot") is not None:
        return _after_dot(value, groups["dot"], groups["name"])
    if groups["quote"]:
        return _in_quotes(value, groups["quote"], groups["key"], after)
    return _in_brackets(value, groups["index"], after)


def _segments(path: str) -> Iterator[str | int]:
    """Yield the keys and indexes of a path; a variable in brackets counts as index 0."""
    for found in _SEGMENT.finditer(path):
        if found["name"] is not None:
            yield found["name"]
        elif found["text"] is not None:
            yield re.sub(r"\\(.)", r"\1", found["text"][1:-1])
        else:
            yield int(found["index"] or 0)


def _descend(value: Any, segment: str | int) -> Any:
    """Return the value of *segment*, or None. An index past the end returns the first item."""
    if isinstance(value, list) and isinstance(segment, int) and value:
        return value[segment] if segment < len(value) else value[0]
    if isinstance(value, Mapping):
        return value.get(str(segment))
    return None


def _keys(value: Any, prefix: str) -> list[tuple[str, str]]:
    """Return the keys of an object that start with *prefix*, each with its value's kind, in the object's order."""
    if not isinstance(value, Mapping):
        return []
    found = ((key, _KINDS.get(type(item), "null")) for key, item in value.items() if key.startswith(prefix))
    return list(islice(found, MAX_KEY_ITEMS))


def _indexes(value: Any, prefix: str) -> list[tuple[str, str]]:
    """Return the first indexes of a list that start with *prefix*, with the kind of each item."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    found = [(str(index), _KINDS.get(type(item), "null")) for index, item in enumerate(value[:MAX_INDEX_ITEMS])]
    return [(index, kind) for index, kind in found if index.startswith(prefix)]


def _after_dot(value: Any, dot: str, name: str) -> Completion:
    keys = _keys(value, name)
    indexes = [] if name else _indexes(value, "")
    if not (keys or indexes):
        return Completion(name)
    if keys and all(re.fullmatch(_NAME, key) for key, _ in keys):
        return Completion(name, tuple(CompletionItem(key, kind) for key, kind in keys))
    # Brackets replace a plain dot, and follow an optional dot (`?.`).
    opening = dot if dot == "?." else ""
    items = [
        CompletionItem(dot + key if re.fullmatch(_NAME, key) else f"{opening}[{quote_key(key, chr(34))}]", kind)
        for key, kind in keys
    ]
    items += [CompletionItem(f"{opening}[{index}]", kind) for index, kind in indexes]
    return Completion(dot + name, tuple(items))


def _in_quotes(value: Any, quote: str, key: str, after: str) -> Completion:
    closing = "" if after.startswith(quote) else quote if after.startswith("]") else quote + "]"
    prefix = re.sub(r"\\(.)", r"\1", key)
    return Completion(
        key,
        tuple(CompletionItem(quote_key(found, quote)[1:-1] + closing, kind) for found, kind in _keys(value, prefix)),
    )


def _in_brackets(value: Any, index: str, after: str) -> Completion:
    closing = "" if after.startswith("]") else "]"
    keys = [] if index else [(quote_key(key, '"'), kind) for key, kind in _keys(value, "")]
    return Completion(
        index, tuple(CompletionItem(text + closing, kind) for text, kind in [*keys, *_indexes(value, index)])
    )


def quote_key(key: str, quote: str) -> str:
    """Return *key* as a string literal with the quote *quote*, valid in Node.js, Python and jq."""
    body = json.dumps(key, ensure_ascii=False)[1:-1]
    if quote != '"':
        body = body.replace('\\"', '"').replace(quote, "\\" + quote)
    return quote + body + quote


MATCHER_ID = "pdkernel.steps"
"""The matcher's identifier in IPython's configuration."""

NO_COMPLETION = Completion()
"""No completion, and no Python names either."""

LANGUAGE_MEMBERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "node": {"$": ("context", "export", "flow", "respond"), "$.flow": ("exit",)},
    "go": {
        "pd": ("Accounts", "Export", "MustUnmarshal", "Respond", "Steps", "Unmarshal"),
    },
    "python": {"pd": ("context", "export", "flow", "inputs", "respond", "steps"), "pd.flow": ("exit",)},
}
"""Members of the step API besides `steps`, by language."""

BASH_FILE_VARIABLES = ("PIPEDREAM_STEPS", "PIPEDREAM_EXPORTS", "PIPEDREAM_ACCOUNTS", "PIPEDREAM_RESPONSE")
"""Variables with the paths of a Bash step's files."""

_MEMBER = re.compile(r"(?<![\w$.])(?P<owner>\$|pd)(?P<deeper>\.flow)?\.(?P<part>\w*)\Z")
_ROOT = re.compile(r"(?<![\w$.'\"])(?P<part>[A-Za-z_$][\w$]*|)\Z")
_VARIABLE = re.compile(r"\$\{?(?P<part>\w*)\Z")
_JQ = re.compile(r"\bjq\b(?P<program>(?:[^\n']|'[^']*')*(?:'[^']*)?)\Z")
"""A call of jq up to the cursor; a program in single quotes may have several lines."""
_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"?|'[^']*'?)+""")
ProvidedT = TypeVar("ProvidedT")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """
    Words for completion on a `%%pdstep` line.

    Attributes:
        options: The options, in the order of the completion list.
        apps: Slugs of the known apps.
        accounts: Ids of the developer's own accounts, by app.
        stores: Names of data stores.
        actions: Keys with versions of pre-built actions.
        steps: Names of the notebook's steps.
        branches: The branches of the notebook's blocks, `BLOCK.BRANCH`.
    """

    options: Sequence[StepOption] = STEP_OPTIONS
    apps: Sequence[str] = ()
    accounts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stores: Sequence[str] = ()
    actions: Sequence[str] = ()
    steps: Sequence[str] = ()
    branches: Sequence[str] = ()


StepsProvider = Callable[[], Mapping[str, JSON]]
"""`{"trigger": {"event", "context"}, step: exports}` in the notebook's order, redacted."""
VocabularyProvider = Callable[[], Vocabulary]
ScopeProvider = Callable[[str], Collection[str] | None]
"""The steps and blocks whose exports a step or block sees, by its name; None for an unknown name."""


def _know_no_scope(_name: str) -> None:
    return None


def complete_cell(
    full_text: str,
    cursor: int,
    steps: Mapping[str, JSON],
    vocabulary: Vocabulary,
    scope: ScopeProvider = _know_no_scope,
) -> Completion | None:
    """
    Completions at *cursor* in a cell.

    Args:
        full_text: The whole cell.
        cursor: The cursor's offset in the text.
        steps: The exports by step and block, in the notebook's order; exports of later steps are not offered.
        vocabulary: Words for the directive's line.
        scope: What a step or block sees: exports of another branch are not offered.

    Returns:
        None if IPython's own completion applies: outside step cells, or in Python code without `pd.steps`. A completion
        without items suppresses Python names as well.
    """
    cell = find_directive(full_text)
    if cell is None or cursor < cell.start + len("%%") + len(cell.magic) + 1:
        return None
    if cell.magic == "pdworkflow":
        return NO_COMPLETION
    is_block = cell.magic != "pdstep"
    above = _above(cell, steps, scope)
    after = full_text[cursor:]
    if cursor <= cell.end:
        before = full_text[cell.start : cursor].partition(" ")[2]
        words = replace(vocabulary, options=(INSIDE_OPTION,)) if is_block else vocabulary
        return _in_template(before, after, above) or _directive(before, above, words)
    return _body("conditions" if is_block else _language(cell), full_text[cell.end + 1 : cursor], after, above)


def _above(cell: DirectiveCell, steps: Mapping[str, JSON], scope: ScopeProvider) -> Mapping[str, JSON]:
    """Return the exports that the cell's step or block sees; all exports if it has not run."""
    name = cell.line.split(maxsplit=1)[0] if cell.line else ""
    visible = scope(name)
    if visible is not None:
        return {above: value for above, value in steps.items() if above == "trigger" or above in visible}
    if name not in steps:
        return steps
    names = list(steps)
    return {above: steps[above] for above in names[: names.index(name)]}


def _language(cell: DirectiveCell) -> str:
    if re.search(r"(?:^|\s)--uses[ =]", cell.line):
        return "yaml"
    found = re.search(r"(?:^|\s)--lang[ =]+(\w+)", cell.line)
    return found[1] if found else "python"


def _body(language: str, before: str, after: str, steps: Mapping[str, JSON]) -> Completion | None:
    match language:
        case "node":
            return (
                complete_path(before, after, steps, "node")
                or _member(language, before)
                or _root(before, ("steps",))
                or NO_COMPLETION
            )
        case "conditions":
            return (
                complete_path(before, after, steps, "node") or _root(before, ("steps", "process.env")) or NO_COMPLETION
            )
        case "python":
            return complete_path(before, after, steps, "python") or _member(language, before)
        case "yaml":
            return _in_template(before, after, steps) or NO_COMPLETION
        case "bash":
            return _bash(before, after, steps) or NO_COMPLETION
        case "go":
            return complete_path(before, after, steps, "go") or _member(language, before) or NO_COMPLETION
        case _:
            return NO_COMPLETION


def _member(language: str, before: str) -> Completion | None:
    """Return the members after `$.` and `pd.`."""
    found = _MEMBER.search(before[-80:])
    names = LANGUAGE_MEMBERS[language].get(found["owner"] + (found["deeper"] or ""), ()) if found else ()
    return _completion_of(names, found["part"], "property") if found and names else None


def _root(before: str, names: Sequence[str], *, anything: bool = False) -> Completion | None:
    """Return the names at the start of an expression; with *anything*, also before the first letter."""
    found = _ROOT.search(before[-80:])
    if found is None or not (found["part"] or anything):
        return None
    return _completion_of(names, found["part"], "variable")


def _in_template(before: str, after: str, steps: Mapping[str, JSON]) -> Completion | None:
    """Return the completions inside `{{ }}`; None outside."""
    opened = before.rfind("{{")
    if opened < 0 or "}}" in before[opened:]:
        return None
    expression = before[opened + 2 :]
    return (
        complete_path(expression, after, steps, "node")
        or _root(expression, ("steps", "process.env"), anything=not expression.strip())
        or NO_COMPLETION
    )


def _bash(before: str, after: str, steps: Mapping[str, JSON]) -> Completion | None:
    """Return the file variables of a Bash step, and paths into `steps` in a jq program."""
    if found := _VARIABLE.search(before[-80:]):
        return _completion_of(BASH_FILE_VARIABLES, found["part"], "variable")
    called = _JQ.search(before[-LOOKBACK_CHARACTERS:])
    return complete_path(called["program"], after, steps, "jq") if called else None


def _directive(before: str, steps: Mapping[str, JSON], words: Vocabulary) -> Completion:
    """Return the completions on the directive's line: step names, options, and values of options."""
    found = _WORD.findall(before)
    word = found.pop() if found and not before[-1].isspace() else ""
    takes_value = {option.flag: option for option in words.options if option.metavar}
    flag, equals, value = word.partition("=")
    if equals and flag in takes_value:
        return _value(takes_value[flag], value, words)
    if found and found[-1] in takes_value:
        return _value(takes_value[found[-1]], word, words)
    named = any(
        not text.startswith("-") and (index == 0 or found[index - 1] not in takes_value)
        for index, text in enumerate(found)
    )
    if not named and not word.startswith("-"):
        return _completion_of(
            dict.fromkeys([*(name for name in steps if name != "trigger"), *words.steps]), word, "step"
        )
    used = {text.partition("=")[0] for text in found}
    return _completion_of(
        [option.flag for option in words.options if option.is_repeatable or option.flag not in used], word, "option"
    )


def _value(option: StepOption, text: str, words: Vocabulary) -> Completion:
    left, equals, right = text.partition("=")
    slug = left.rpartition(":")[2]
    match option.flag:
        case _ if option.choices:
            return _completion_of(option.choices, text, "choice")
        case "--in":
            return _completion_of(words.branches, text, "branch")
        case "--uses":
            return _completion_of(words.actions, text, "action")
        case "--app" if equals:
            return _completion_of(words.accounts.get(slug, ()), right, "account")
        case "--app":
            return _completion_of(words.apps, slug, "app")
        case "--data-store" if equals:
            return _completion_of(words.stores, right, "store")
        case _:
            return NO_COMPLETION


def _completion_of(names: Sequence[str] | Mapping[str, Any], part: str, kind: str) -> Completion:
    return Completion(part, tuple(CompletionItem(name, kind) for name in names if name.startswith(part)))


class _SuppressOthers(Sized):
    """
    An empty completion that suppresses the other matchers.

    IPython lets a matcher suppress the others only if its result has a `len` above 0.
    """

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class StepsMatcher:
    """IPython's matcher for cells of steps and blocks; calls the providers only in a cell with a directive."""

    def __init__(self, steps: StepsProvider, words: VocabularyProvider, scope: ScopeProvider = _know_no_scope) -> None:
        self._steps = steps
        self._words = words
        self._scope = scope

    # The first of all matchers, so that suppressed matchers do not run: jedi takes seconds in a Bash body.
    @completion_matcher(identifier=MATCHER_ID, priority=1_000, api_version=2)
    def match(self, context: CompletionContext) -> dict[str, Any]:
        """Return the matcher's result, in the format of IPython's matcher API 2."""
        text = context.full_text
        cell = find_directive(text)
        if cell is None:
            return {"completions": [], "suppress": False}
        cursor = sum(len(line) + 1 for line in text.split("\n")[: context.cursor_line]) + context.cursor_position
        words = _call_provider(self._words, Vocabulary()) if cursor <= cell.end else Vocabulary()
        found = complete_cell(text, cursor, _call_provider(self._steps, {}), words, self._find_scope)
        if found is None:
            return {"completions": [], "suppress": False}
        items = [SimpleCompletion(item.text, type=item.type) for item in found.items]
        return {
            "completions": items or _SuppressOthers(),
            "matched_fragment": found.fragment,
            "suppress": True,
            "ordered": True,
        }

    def _find_scope(self, name: str) -> Collection[str] | None:
        return _call_provider(lambda: self._scope(name), None)


def _call_provider(provider: Callable[[], ProvidedT], default: ProvidedT) -> ProvidedT:
    """Return the value of *provider*, or *default* after an error: a project with an error must not break completion."""
    try:
        return provider()
    except Exception:  # noqa: BLE001  (IPython would print the traceback into the cell)
        _log.debug("no completion from %r", provider, exc_info=True)
        return default


def register_matchers(
    ip: Any,
    steps: StepsProvider,
    vocabulary: VocabularyProvider = Vocabulary,
    scope: ScopeProvider = _know_no_scope,
) -> None:
    """Register completion for the cells of steps and blocks on the shell *ip*; replaces an earlier registration."""
    unregister_matchers(ip)
    ip.Completer.custom_matchers.append(StepsMatcher(steps, vocabulary, scope).match)


def unregister_matchers(ip: Any) -> None:
    """Remove the matcher from the shell *ip*."""
    matchers = ip.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if not _is_steps_matcher(matcher)]


def has_matchers(ip: Any) -> bool:
    """Return whether the matcher is registered on the shell *ip*."""
    return any(_is_steps_matcher(matcher) for matcher in ip.Completer.custom_matchers)


def _is_steps_matcher(matcher: object) -> bool:
    return getattr(matcher, "matcher_identifier", None) == MATCHER_ID
