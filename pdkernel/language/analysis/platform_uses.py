"""
What the code and the props of a step use of the platform besides props: file stores, pauses, state, endpoints, other workflows.

A use is found by its literal form. Nothing runs, and a use that only a run determines is not found. Of pauses also: which
answer no step reads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, NamedTuple

from tree_sitter import Node

from pdkernel.execution import RESUME_DATA
from pdkernel.language.analysis import python_code
from pdkernel.language.analysis.abstract_values import ValueSet
from pdkernel.language.analysis.imported_files import iter_sources
from pdkernel.language.analysis.python_code import parse_source
from pdkernel.language.analysis.step_reads import collect_step_reads
from pdkernel.language.analysis.step_references import build_condition_step, needs_step
from pdkernel.language.expression import javascript
from pdkernel.model import JSON, Block, Step, Workflow

PlatformUseKind = Literal[
    "file_store",
    "data_store",
    "source_state",
    "pause",
    "resume_url",
    "endpoint",
    "workflow",
    "attachment",
    "error",
]
ENDPOINT_URL = re.compile(r"https?://([\w-]+\.m(?:\.d)?\.pipedream\.net)", re.IGNORECASE)
"""The URL of a workflow's endpoint at Pipedream; the group is the host."""
_URL = re.compile(r"https?://([\w.-]+)", re.IGNORECASE)
_WORKFLOW_ID = re.compile(r"p_[A-Za-z0-9]{4,}\Z")
_RESUME_NAMES = frozenset({"resume_url", "cancel_url"})
_PAUSES = frozenset({"suspend", "rerun", "delay"})
_STATE_TYPE = "$.service.db"


class PlatformUse(NamedTuple):
    """
    A use of the platform by a step.

    Attributes:
        kind: The kind of use.
        name: What is used: a prop, a host, an id of a workflow, a path; empty if the code does not name it.
        line: The line of the code, or None for a prop.
        file: The imported file with the code, as a path of `Step.files`; empty for the step's own code.
    """

    kind: PlatformUseKind
    name: str
    line: int | None
    file: str = ""


def find_platform_uses(step: Step) -> tuple[PlatformUse, ...]:
    """Return the uses of the platform by *step*, each kind and name once, in the order of the code."""
    found: dict[tuple[str, str], PlatformUse] = {}
    for use in (*_code_uses(step), *_prop_uses(step)):
        found.setdefault((use.kind, use.name), use)
    return tuple(found.values())


def find_hosts(step: Step) -> dict[str, int | None]:
    """Return the hosts of the URLs in the code and the props of *step*, each with the line of its first URL."""
    found: dict[str, int | None] = {}
    for _, source in () if step.uses else iter_sources(step):
        for number, line in enumerate(source.split("\n"), start=1):
            for host in _URL.findall(line):
                found.setdefault(host.lower(), number)
    for text in _texts(dict(step.props)):
        for host in _URL.findall(text):
            found.setdefault(host.lower(), None)
    return found


def _code_uses(step: Step) -> Iterator[PlatformUse]:
    if step.uses:
        return
    for path, source in iter_sources(step):
        match step.language:
            case "node":
                uses = _node_uses(source)
            case "python":
                uses = _python_uses(step, source)
            case _:
                uses = iter(())
        yield from (use._replace(file=path) for use in uses)
        for number, line in enumerate(source.split("\n"), start=1):
            yield from (PlatformUse("endpoint", host.lower(), number, path) for host in ENDPOINT_URL.findall(line))


def _prop_uses(step: Step) -> Iterator[PlatformUse]:
    for text in _texts(dict(step.props)):
        yield from (PlatformUse("endpoint", host.lower(), None) for host in ENDPOINT_URL.findall(text))
        if any(name in text for name in _RESUME_NAMES):
            yield PlatformUse("resume_url", "", None)
        if step.uses and _WORKFLOW_ID.match(text):
            yield PlatformUse("workflow", text, None)
        if "context.attachments" in text:
            yield PlatformUse("attachment", "", None)
        if "event.original_event" in text:
            yield PlatformUse("error", "", None)


def _texts(value: JSON) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for item in value.values():
                yield from _texts(item)


def _node_uses(source: str) -> Iterator[PlatformUse]:
    for node in javascript.iter_nodes(javascript.parse_source(source)):
        line = node.start_point[0] + 1
        match node.type:
            case "member_expression" | "subscript_expression":
                yield from _member_uses(node, line)
            case "call_expression":
                yield from _call_uses(node, line)
            case "pair":
                yield from _definition_uses(node, line)
            case "shorthand_property_identifier_pattern" if javascript.get_source(node) in _RESUME_NAMES:
                yield PlatformUse("resume_url", "", line)


def _member_uses(node: Node, line: int) -> Iterator[PlatformUse]:
    name = javascript.get_member_name(node)
    owner = node.child_by_field_name("object")
    of = "" if owner is None else javascript.get_source(owner).replace("?.", ".")
    if name == "files" and of == "$":
        yield PlatformUse("file_store", "", line)
    elif name in _RESUME_NAMES:
        yield PlatformUse("resume_url", "", line)
    elif name == "attachments" and of.endswith("context"):
        yield PlatformUse("attachment", "", line)
    elif name == "original_event":
        yield PlatformUse("error", "", line)


def _call_uses(node: Node, line: int) -> Iterator[PlatformUse]:
    called = node.child_by_field_name("function")
    name = "" if called is None else javascript.get_source(called).replace("?.", ".")
    owner, _, method = name.rpartition(".")
    if owner != "$.flow":
        return
    if method in _PAUSES:
        yield PlatformUse("pause", method, line)
    elif method == "trigger":
        arguments = node.child_by_field_name("arguments")
        first = arguments.named_children[0] if arguments is not None and arguments.named_children else None
        yield PlatformUse("workflow", javascript.get_string_literal(first) or "", line)


def _definition_uses(node: Node, line: int) -> Iterator[PlatformUse]:
    """Yield the uses of a prop's definition: `NAME: "$.service.db"` or `NAME: {type: "data_store"}`."""
    name, value = javascript.get_key(node), node.child_by_field_name("value")
    if name is None or value is None:
        return
    text = javascript.get_string_literal(value)
    if text is not None:
        if text == _STATE_TYPE and name != "type":
            yield PlatformUse("source_state", name, line)
        return
    if value.type == "object":
        types = [
            javascript.get_string_literal(pair.child_by_field_name("value"))
            for pair in value.named_children
            if pair.type == "pair" and javascript.get_key(pair) == "type"
        ]
        if "data_store" in types:
            yield PlatformUse("data_store", name, line)
        elif _STATE_TYPE in types:
            yield PlatformUse("source_state", name, line)


def _python_uses(step: Step, source: str) -> Iterator[PlatformUse]:
    tree = parse_source(source)
    given = {*step.props, *(app.prop for app in step.apps), *(store.prop for store in step.stores)}
    for node in ast.walk(tree) if tree is not None else ():
        line = getattr(node, "lineno", 1)
        match node:
            case ast.Attribute(value=ast.Name(id="pd"), attr="files"):
                yield PlatformUse("file_store", "", line)
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="flow"), attr=method)) if method in _PAUSES:
                yield PlatformUse("pause", method, line)
            case ast.Subscript(value=ast.Attribute(attr="inputs"), slice=ast.Constant(value=str(name))):
                if name.startswith("data_store") and name not in given:
                    yield PlatformUse("data_store", name, line)
            case ast.Constant(value=str(text)) if text in _RESUME_NAMES:
                yield PlatformUse("resume_url", "", line)
            case ast.Constant(value="attachments"):
                yield PlatformUse("attachment", "", line)
            case ast.Constant(value="original_event"):
                yield PlatformUse("error", "", line)


_NAMED_ANSWER = re.compile(
    r"""([A-Za-z_]\w*)[^\w\n;|,(){}]{0,8}(?:\(\s*map\[string\](?:any|interface\{\})\s*\)\s*\[\s*["`])?\\?\$resume_data\b"""
)
"""An answer with the name of its step in Bash (a path of jq) and in Go."""
_COMMENTS: Mapping[str, re.Pattern[str]] = {
    "bash": re.compile(r"(?m)(?:^|(?<=\s))#.*$"),
    "go": re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL),
}


class UnreadAnswer(NamedTuple):
    """A step that suspends its run, the line of its code, and no later step reads the answer."""

    step: str
    line: int | None


def find_answer_readers(workflow: Workflow, name: str) -> tuple[str, ...]:
    """Return the blocks and enabled steps below the step *name* that read its answer, in order; empty if *name* is not a step."""
    if workflow.position(name) is None:
        return ()
    names = frozenset(step.name for step in workflow.steps)
    later = (entry for entry in workflow.all_entries if workflow.sees(entry.name, name))
    steps = (build_condition_step(entry) if isinstance(entry, Block) else entry for entry in later)
    return tuple(step.name for step in steps if not step.disabled and _reads_answer(step, name, names))


def find_unread_answers(workflow: Workflow) -> tuple[UnreadAnswer, ...]:
    """Return the enabled steps that suspend the run and whose answers no later step reads."""
    found = []
    for step in workflow.steps:
        if step.disabled or step.problem is not None:
            continue
        use = next((use for use in find_platform_uses(step) if (use.kind, use.name) == ("pause", "suspend")), None)
        if use is not None and not find_answer_readers(workflow, step.name):
            found.append(UnreadAnswer(step.name, None if use.line is None or use.file else use.line + step.line_offset))
    return tuple(found)


def _reads_answer(step: Step, name: str, names: Collection[str]) -> bool:
    lookups = _Lookups()
    if step.problem is None:
        collect_step_reads(step, lookups)
    named = {read for read, export in lookups.found if export == RESUME_DATA} | set(_list_named_answers(step))
    if named := named.intersection(names):
        return name in named
    # an answer of a step that the code names elsewhere, such as the argument of a function
    return any(map(_has_answer_token, _list_code(step))) and needs_step(step, name)


class _Lookups(Mapping[tuple[str, str], ValueSet]):
    """The exports of earlier steps, none of which is known; records each pair of a step and an export that a trace looks up."""

    def __init__(self) -> None:
        self.found: set[tuple[str, str]] = set()

    def __getitem__(self, key: tuple[str, str]) -> ValueSet:
        self.found.add(key)
        raise KeyError(key)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _list_code(step: Step) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of the step's code and of the files that it imports."""
    if step.uses is None:
        for _, source in iter_sources(step):
            yield step.language, source


def _list_named_answers(step: Step) -> Iterator[str]:
    for language, source in _list_code(step):
        if language in _COMMENTS:
            yield from _NAMED_ANSWER.findall(_COMMENTS[language].sub("", source))


def _has_answer_token(code: tuple[str, str]) -> bool:
    """Return whether the code has the name `$resume_data` outside of comments and of longer texts."""
    language, source = code
    if language == "python":
        tree = python_code.parse_source(source)
        return tree is not None and any(
            isinstance(node, ast.Constant) and node.value == RESUME_DATA for node in ast.walk(tree)
        )
    if language == "node":
        return any(
            not node.children and javascript.get_source(node) == RESUME_DATA
            for node in javascript.iter_nodes(javascript.parse_source(source))
        )
    return RESUME_DATA in _COMMENTS[language].sub("", source)
