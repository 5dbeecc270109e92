"""
What this version does not run, said before any step starts.

Knows the gaps, one place for all of them; the README's table names the same.
"""

from __future__ import annotations

from pdkernel.engine.request import RunRequest
from pdkernel.errors import UnsupportedError


def check_supported(request: RunRequest) -> None:
    """
    Refuse a run that needs what is not built.

    Raises:
        UnsupportedError: Names the step, what it needs, and a way round.
    """
    for step in request.workflow.steps:
        if step.disabled or not request.runs(step.name) or step.name in request.pins:
            continue
        if step.uses is not None:
            raise UnsupportedError(
                f"Step {step.name!r} uses the pre-built action {step.uses}, which this version does not run.",
                fix=f"Pin its exports to run the steps around it: %pdpin {step.name} "
                f"'{{\"$return_value\": ...}}', or --pin {step.name}=FILE.",
                step=step.name,
            )
        if step.language == "go":
            raise UnsupportedError(
                f"Step {step.name!r} is written in Go, which this version does not run.",
                fix=f"Pin its exports to run the steps around it: --pin {step.name}=FILE.",
                step=step.name,
            )
        if step.debug:
            raise UnsupportedError(
                f"Step {step.name!r} has --debug, which this version does not run.",
                fix="Take --debug out of the directive.",
                step=step.name,
            )
        if step.stores:
            raise UnsupportedError(
                f"Step {step.name!r} uses a data store, which this version does not have.",
                fix="Pin its exports to run the steps around it.",
                step=step.name,
            )
        if step.apps and step.language == "bash":
            raise UnsupportedError(
                f"Step {step.name!r} is a Bash step with an account: on the platform Bash has none.",
                fix="Use a Python or Node.js step, or an environment variable.",
                step=step.name,
            )
