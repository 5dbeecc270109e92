"""
The steps that read the answer to a `$.flow.suspend`: `steps.NAME.$resume_data`.

A rejected run ends, unless a later step reads the answer: a step that cannot know of the rejection would act as if the run was
approved. So a read counts only if the code or a prop names `$resume_data`; a comment or a text that mentions it is not a read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from pdkernel.execution import RESUME_DATA
from pdkernel.language.analysis import python_code
from pdkernel.language.analysis.abstract_values import ValueSet
from pdkernel.language.analysis.imported_files import iter_sources
from pdkernel.language.analysis.platform_uses import find_platform_uses
from pdkernel.language.analysis.step_reads import collect_step_reads
from pdkernel.language.analysis.step_references import needs_step
from pdkernel.language.expression import javascript
from pdkernel.model import Step, Workflow

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
    """The enabled steps below the step *name* that read its answer, in order; empty if *name* is not a step."""
    if workflow.position(name) is None:
        return ()
    names = frozenset(step.name for step in workflow.steps)
    later = (step for step in workflow.steps_after(name) if not step.disabled)
    return tuple(step.name for step in later if _reads_answer(step, name, names))


def find_unread_answers(workflow: Workflow) -> tuple[UnreadAnswer, ...]:
    """The enabled steps that suspend the run and whose answers no later step reads."""
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
    """The language and the text of the step's code and of the files that it imports."""
    if step.uses is None:
        for _, source in iter_sources(step):
            yield step.language, source


def _list_named_answers(step: Step) -> Iterator[str]:
    for language, source in _list_code(step):
        if language in _COMMENTS:
            yield from _NAMED_ANSWER.findall(_COMMENTS[language].sub("", source))


def _has_answer_token(code: tuple[str, str]) -> bool:
    """Whether the code has the name `$resume_data` outside of comments and of longer texts."""
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
