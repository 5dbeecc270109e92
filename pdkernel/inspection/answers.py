"""
Whether a workflow sends its custom response on every way.

Knows which module follows which language, and which pre-built actions respond or end a workflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pdkernel.inspection.node_ways import node_answering
from pdkernel.inspection.python_ways import python_answering
from pdkernel.inspection.reads import responds
from pdkernel.inspection.ways import NEVER, UNKNOWN, Answering
from pdkernel.model import Step, Workflow

_RESPOND = "http-return-http-response"
_MAY_LEAVE = frozenset({"filter-continue-based-on-condition", "filter-end-based-on-condition"})
_LEAVES = "filter-end-workflow"


@dataclass(frozen=True, slots=True)
class Silence:
    """
    A way through a workflow that sends no response.

    Attributes:
        step: Where it ends, or of several where it is seen; None if no step sends any.
        line: Of the cell, or None.
        leaves: Whether the workflow ends there, before a step below could respond.
    """

    step: Step | None
    line: int | None = None
    leaves: bool = False


def answering_of(step: Step) -> Answering:
    """How *step* answers; a Bash or Go step that writes a response does so on ways that are not followed."""
    if step.uses:
        return _action(step)
    match step.language:
        case "python":
            return python_answering(step.source)
        case "node":
            return node_answering(step.source)
    return UNKNOWN if responds(step) else NEVER


def may_answer(step: Step) -> bool:
    """Whether *step* sends a custom response on some way; one that cannot be followed must at least name it."""
    answers = answering_of(step).answers
    return "respond" in step.source if answers == "unknown" else answers != "never"


def _action(step: Step) -> Answering:
    key = (step.uses or "").rpartition("@")[0]
    if key == _RESPOND:
        return Answering("always")
    if key in _MAY_LEAVE or key == _LEAVES:
        return Answering("never", leaves=True)
    return UNKNOWN if key.startswith("@") else NEVER


def silences(workflow: Workflow) -> tuple[Silence, ...]:
    """
    Ways on which the enabled steps of *workflow* send no response; none if that cannot be told, or a trigger asks for none.

    A step that raises an error is no such way: the caller gets the platform's answer then.
    """
    if not any(trigger.type == "http" and trigger.response == "custom" for trigger in workflow.triggers):
        return ()
    if workflow.kept:  # control flow may respond in a branch
        return ()
    return tuple(_silences(workflow))


def _silences(workflow: Workflow) -> Iterator[Silence]:
    found: list[Silence] = []
    partly: Silence | None = None
    for step in workflow.steps:
        if step.disabled:
            continue
        answer = answering_of(step)
        if answer.answers == "unknown":
            return
        if answer.leaves:
            found.append(Silence(step, _line(step, answer.leaving_line), leaves=True))
        if answer.answers == "always" or (step.uses or "").startswith(f"{_LEAVES}@"):
            yield from found
            return
        if answer.answers == "sometimes" and partly is None:
            partly = Silence(step, _line(step, answer.silent_line))
    yield from found
    yield partly or Silence(None)


def _line(step: Step, line: int | None) -> int | None:
    return None if line is None else line + step.line_offset
