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
from pdkernel.actions.keys import Uses
from pdkernel.errors import EgressRefusedError, ExpressionError, PdkernelError
from pdkernel.execution import StepResult
from pdkernel.inspection import steps_read
from pdkernel.model import Language, Step, Workflow

_LITERAL = r"""(?!\s*(?:\?\.|\.)\s*[A-Za-z_$]|\s*\[\s*['"`])"""
_WHOLE_STEPS: Mapping[Language, re.Pattern[str]] = {
    "python": re.compile(rf"""\.\s*steps\b{_LITERAL}|["']steps["']"""),
    "node": re.compile(rf"\bsteps\b{_LITERAL}"),
    "bash": re.compile("PIPEDREAM_STEPS"),
    "go": re.compile(rf"\.\s*Steps\b{_LITERAL}"),
}
_PARAMETERS = re.compile(r"\brun\s*(?::\s*(?:async\s*)?)?\(\s*\{[^}]*\}\s*\)")
_COMMENTS = re.compile(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", re.DOTALL)


def not_run_here(workflow: Workflow, catalog: Catalog) -> dict[str, str]:
    """Steps whose action is not on this machine, each with why: a proof asks no service to run one."""
    found: dict[str, str] = {}
    for step in workflow.steps:
        if step.uses is None or step.disabled:
            continue
        uses = Uses.parse(step.uses)
        try:
            component = catalog.resolve(uses.key, uses.version)
        except PdkernelError as fault:
            elsewhere = catalog.choices.where.source == "connect"
            found[step.name] = f"{uses} runs at Pipedream, and a proof never goes out." if elsewhere else str(fault)
            continue
        if component.file is None:
            found[step.name] = f"{uses} is not installed here. Install it: pdkernel actions add {uses}"
    return found


def was_refused(result: StepResult) -> bool:
    """Whether the step asked for an outside call to which there is no recorded answer."""
    if result.error is not None and result.error.code == EgressRefusedError.code:
        return True
    return any(call.outcome == "denied" for call in result.requests)


def unrecorded(result: StepResult, recording: Path, command: str) -> str:
    """Why a step that was refused is not compared, and the command that records."""
    asked = next((f"{call.method} {call.url}" for call in result.requests if call.outcome == "denied"), "a call")
    return f"{asked} is not in events/{recording.name}. Record it: {command}"


def with_dependents(workflow: Workflow, left_out: Mapping[str, str]) -> dict[str, str]:
    """*left_out*, and every step below that needs one of them."""
    found = dict(left_out)
    for step in workflow.steps:
        if step.name in found or step.disabled:
            continue
        above = [other.name for other in workflow.before(step.name) if other.name in found]
        needed = [name for name in above if _needs(step, name)]
        if needed:
            found[step.name] = f"It needs {needed[0]}, which is not compared."
    return found


def _needs(step: Step, name: str) -> bool:
    try:
        if name in steps_read(step):
            return True
    except ExpressionError:
        return True
    if step.uses is not None:
        return False
    code = _PARAMETERS.sub("", _COMMENTS.sub("", step.source)) if step.language == "node" else step.source
    return _WHOLE_STEPS[step.language].search(code) is not None
