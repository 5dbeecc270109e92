"""
Steps that a proof cannot compare, and the steps that depend on their exports.

A step is excluded because of an unrecorded outbound call or an action that is not installed. A step that accesses
`steps` without a literal name counts as dependent on all steps above.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pdkernel.actions import Catalog
from pdkernel.actions.action_reference import ActionReference
from pdkernel.errors import OutboundCallRefusedError, PdkernelError
from pdkernel.execution import StepResult
from pdkernel.language.analysis import needs_step
from pdkernel.model import Workflow


def find_unavailable_actions(workflow: Workflow, catalog: Catalog) -> dict[str, str]:
    """Steps whose action is not installed, each with the reason: a proof does not run actions at Pipedream."""
    found: dict[str, str] = {}
    for step in workflow.steps:
        if step.uses is None or step.disabled:
            continue
        uses = ActionReference.parse(step.uses)
        try:
            component = catalog.resolve(uses.key, uses.version)
        except PdkernelError as fault:
            remote = catalog.find_remote_sources(uses)
            is_remote = bool(remote) and remote[0].source == "connect"
            found[step.name] = f"{uses} runs at Pipedream, and a proof sends no request." if is_remote else str(fault)
            continue
        if component.file is None:
            found[step.name] = f"{uses} is not installed. Install it: pdkernel actions add {uses}"
    return found


def has_unrecorded_call(result: StepResult) -> bool:
    """Whether the step made an outbound call without a recorded response."""
    if result.error is not None and result.error.code == OutboundCallRefusedError.code:
        return True
    return any(call.outcome == "denied" for call in result.requests)


def describe_unrecorded_call(result: StepResult, recording: Path, command: str) -> str:
    """Explain why a refused step is not compared, with the command that records its call."""
    request = next((f"{call.method} {call.url}" for call in result.requests if call.outcome == "denied"), "a call")
    return f"{request} is not in events/{recording.name}. Record the call: {command}"


def add_dependents(workflow: Workflow, excluded: Mapping[str, str]) -> dict[str, str]:
    """*excluded*, and every later step that depends on one of them."""
    found = dict(excluded)
    for step in workflow.steps:
        if step.name in found or step.disabled:
            continue
        above = [other.name for other in workflow.steps_before(step.name) if other.name in found]
        needed = [name for name in above if needs_step(step, name)]
        if needed:
            found[step.name] = f"The step depends on {needed[0]}, which is not compared."
    return found
