"""
Steps that a proof cannot compare, and those that need what they export.

Knows why: an outside call that nobody recorded, an action that does not run on this machine. Reads code for literal names,
and takes a step that reaches for `steps` in another way as one that needs them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pdkernel.actions import Catalog
from pdkernel.actions.action_reference import ActionReference
from pdkernel.analysis import find_step_references
from pdkernel.errors import ExpressionError, OutboundCallRefusedError, PdkernelError
from pdkernel.execution import StepResult
from pdkernel.model import Language, Step, Workflow

_NOT_LITERAL_KEY = r"""(?!\s*(?:\?\.|\.)\s*[A-Za-z_$]|\s*\[\s*['"`])"""
_DYNAMIC_STEPS_ACCESS: Mapping[Language, re.Pattern[str]] = {
    "python": re.compile(rf"""\.\s*steps\b{_NOT_LITERAL_KEY}|["']steps["']"""),
    "node": re.compile(rf"\bsteps\b{_NOT_LITERAL_KEY}"),
    "bash": re.compile("PIPEDREAM_STEPS"),
    "go": re.compile(rf"\.\s*Steps\b{_NOT_LITERAL_KEY}"),
}
_PARAMETERS = re.compile(r"\brun\s*(?::\s*(?:async\s*)?)?\(\s*\{[^}]*\}\s*\)")
_COMMENTS = re.compile(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", re.DOTALL)


def find_unavailable_actions(workflow: Workflow, catalog: Catalog) -> dict[str, str]:
    """Steps whose action is not on this machine, each with why: a proof asks no service to run one."""
    found: dict[str, str] = {}
    for step in workflow.steps:
        if step.uses is None or step.disabled:
            continue
        uses = ActionReference.parse(step.uses)
        try:
            component = catalog.resolve(uses.key, uses.version)
        except PdkernelError as fault:
            elsewhere = catalog.settings.source_setting.source == "connect"
            found[step.name] = f"{uses} runs at Pipedream, and a proof never goes out." if elsewhere else str(fault)
            continue
        if component.file is None:
            found[step.name] = f"{uses} is not installed here. Install it: pdkernel actions add {uses}"
    return found


def has_unrecorded_call(result: StepResult) -> bool:
    """Whether the step asked for an outside call to which there is no recorded answer."""
    if result.error is not None and result.error.code == OutboundCallRefusedError.code:
        return True
    return any(call.outcome == "denied" for call in result.requests)


def describe_unrecorded_call(result: StepResult, recording: Path, command: str) -> str:
    """Why a step that was refused is not compared, and the command that records."""
    asked = next((f"{call.method} {call.url}" for call in result.requests if call.outcome == "denied"), "a call")
    return f"{asked} is not in events/{recording.name}. Record it: {command}"


def add_dependents(workflow: Workflow, excluded: Mapping[str, str]) -> dict[str, str]:
    """*excluded*, and every step below that needs one of them."""
    found = dict(excluded)
    for step in workflow.steps:
        if step.name in found or step.disabled:
            continue
        above = [other.name for other in workflow.steps_before(step.name) if other.name in found]
        needed = [name for name in above if _needs(step, name)]
        if needed:
            found[step.name] = f"It needs {needed[0]}, which is not compared."
    return found


def _needs(step: Step, name: str) -> bool:
    try:
        if name in find_step_references(step):
            return True
    except ExpressionError:
        return True
    if step.uses is not None:
        return False
    code = _PARAMETERS.sub("", _COMMENTS.sub("", step.source)) if step.language == "node" else step.source
    return _DYNAMIC_STEPS_ACCESS[step.language].search(code) is not None
