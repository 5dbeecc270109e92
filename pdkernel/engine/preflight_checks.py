"""
What refuses a run before any step starts, whoever it is for.

Knows the order: the workflow's text, what this version does not run (the README names the same), interpreters,
environment variables. Looks no account up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pdkernel.analysis import check_import_complete, check_packages, check_workflow, find_workflow_variables
from pdkernel.engine.limits import check_props
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import UnsupportedError, VariableMissingError
from pdkernel.expression import iter_templates
from pdkernel.model import ROUND_TRIP_KEY, Workflow
from pdkernel.workers import find_bash, find_go, find_node


class PreflightChecks:
    """The checks of one process: what a workflow's text alone decides is looked at once."""

    def __init__(self) -> None:
        self._needed: dict[object, dict[str, list[str]]] = {}

    def check(self, request: RunRequest) -> None:
        """
        Refuse what cannot run.

        Raises:
            DefinitionError: The workflow is wrong, or needs what is not built.
            InterpreterMissingError: A language's interpreter is not on this machine.
            VariableMissingError: A variable that a step reads is not set.
        """
        complete = (
            request.workflow.unsupported_entries,
            [step.name for step in request.workflow.steps if step.is_code_missing],
        )
        key = (request.workflow.version, str(complete), request.only_steps, frozenset(request.pinned_exports))
        needed = self._needed.get(key)
        if needed is None:
            running = disable_skipped_steps(request)
            check_import_complete(running)
            check_workflow(running)
            check_packages(running)
            check_supported(running)
            check_props(running)
            check_interpreters(running)
            needed = self._needed[key] = find_workflow_variables(running)
        check_variables(needed, request.variables)
        check_debug(request)


def disable_skipped_steps(request: RunRequest) -> Workflow:
    """The workflow with every step disabled that this run does not run: what is wrong there is no matter now."""
    steps = (
        step
        if request.is_selected(step.name) and step.name not in request.pinned_exports
        else replace(step, disabled=True)
        for step in request.workflow.steps
    )
    running = replace(request.workflow, steps=tuple(steps))
    # what is no step stands between steps: a run of some of them passes it by
    return running if request.only_steps is None else replace(running, extra={**running.extra, ROUND_TRIP_KEY: None})


def check_interpreters(workflow: Workflow) -> None:
    """Refuse a workflow whose languages are not on this machine. Raises `InterpreterMissingError`."""
    steps = [step for step in workflow.steps if not step.disabled]
    if any(step.language == "node" or any(True for _ in iter_templates(step.props)) for step in steps):
        find_node()
    if any(step.language == "bash" for step in steps):
        find_bash()
    if any(step.language == "go" and step.uses is None for step in steps):
        find_go()


def check_debug(request: RunRequest) -> None:
    """
    Refuse to debug a step where outside calls are not simply live: those of the kernel itself pass nobody.

    Raises:
        UnsupportedError: Names the step.
    """
    if request.debugger is None or (request.policy.mode == "live" and request.policy.via is None):
        return
    for step in disable_skipped_steps(request).steps:
        if step.debug and not step.disabled:
            raise UnsupportedError(
                f"Step {step.name!r} has --debug: it would run in the kernel, whose outside calls cannot be kept to "
                f"{request.policy.mode_text!r}.",
                fix="Take --debug out of the directive, or let calls through: %pdegress live",
                step=step.name,
            )


def check_variables(required: Mapping[str, list[str]], variables: Mapping[str, str]) -> None:
    """
    Refuse a run whose steps read variables that are not set.

    Args:
        required: Variable to the steps that read it.
        variables: Those that are set.

    Raises:
        VariableMissingError: Names each, its steps, and the command that sets it.
    """
    missing = {name: steps for name, steps in required.items() if name not in variables}
    if not missing:
        return
    names = tuple(sorted(missing))
    reads = "; ".join(f"{name} (read by {', '.join(missing[name])})" for name in names)
    plural = len(names) > 1
    raise VariableMissingError(
        f"The environment variable{'s' if plural else ''} {reads} {'are' if plural else 'is'} not set.",
        names=names,
        fix="\n".join(f"Set it: pdkernel env set {name}" for name in names),
    )


def check_supported(workflow: Workflow) -> None:
    """
    Refuse a workflow that needs what is not built.

    Raises:
        UnsupportedError: Names the step, what it needs, and a way round.
    """
    for step in workflow.steps:
        if step.disabled:
            continue
        if step.stores and step.language in ("bash", "go"):
            language = "Bash" if step.language == "bash" else "Go"
            raise UnsupportedError(
                f"Step {step.name!r} is a {language} step with a data store: on the platform {language} has none.",
                fix="Use a Python or Node.js step.",
                step=step.name,
            )
