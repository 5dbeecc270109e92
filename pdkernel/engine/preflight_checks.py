"""
Checks that refuse a run before its first step, independent of its external user.

The order is: the workflow's code, unsupported features (listed in docs/reference/parity.md), interpreters,
environment variables, secret props.
`account_lookup` checks the external user and the accounts.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pdkernel.engine.limits import check_props
from pdkernel.errors import RequestError, UnsupportedError
from pdkernel.language.analysis import (
    SecretProp,
    check_import_complete,
    check_packages,
    check_readable,
    check_workflow,
    find_secret_props,
    find_workflow_variables,
)
from pdkernel.language.expression import is_plain_path, iter_condition_sources, iter_templates
from pdkernel.model import JSON, LANGUAGE_NAMES, ROUND_TRIP_KEY, Workflow
from pdkernel.workers import find_bash, find_go, find_node

if TYPE_CHECKING:
    from pdkernel.engine.run_request import RunRequest


class VariableMissingError(RequestError):
    """A step reads environment variables that are not set."""

    code = "variable_missing"


class SecretMissingError(RequestError):
    """A secret prop, whose value only Pipedream has, has no value here."""

    code = "secret_missing"


def check_request(request: RunRequest, *, has_debugger: bool = False) -> None:
    """
    Refuse *request* if it cannot run; *has_debugger* runs its steps with `--debug` in the kernel.

    What depends on the workflow alone is checked once for the steps that a run selects.

    Raises:
        DefinitionError: The workflow is wrong, or needs an unsupported feature.
        InterpreterMissingError: A language's interpreter is not installed.
        VariableMissingError: A variable that a step reads is not set.
        SecretMissingError: A secret prop has no value.
    """
    checked: dict[object, tuple[dict[str, list[str]], Sequence[SecretProp]]] = request.prepared.checked
    key = (
        request.options.only_steps,
        frozenset(request.options.pinned_exports),
        frozenset(request.options.branches),
        request.done_steps,
        frozenset(request.blocked_steps),
    )
    needed = checked.get(key)
    if needed is None:
        running = disable_skipped_steps(request)
        if request.blocked_steps and all(step.disabled for step in running.steps):
            check_readable(request.workflow)  # no step can run: the run is refused
        left_out = {block.name for block in running.blocks if not request.should_execute(block)}
        check_import_complete(running)
        check_workflow(running, left_out=left_out)
        check_packages(running)
        check_supported(running)
        check_props(running)
        check_interpreters(running, left_out)
        needed = checked[key] = (find_workflow_variables(running), find_secret_props(running))
    variables, secrets = needed
    check_variables(variables, request.variables)
    check_secrets(secrets, request.variables, source=None if request.interface == "notebook" else request.source)
    if has_debugger:
        check_debug(request)


def disable_skipped_steps(request: RunRequest) -> Workflow:
    """Return the workflow with all steps disabled that this run does not execute: their errors do not refuse the run."""
    steps = (
        step if step.disabled or request.should_execute(step) else replace(step, disabled=True)
        for step in request.workflow.steps
    )
    running = replace(request.workflow, steps=tuple(steps), problem=None)  # the run has a readable header's settings
    # a run of selected steps skips the unsupported entries between them
    return (
        running
        if request.options.only_steps is None
        else replace(running, extra={**running.extra, ROUND_TRIP_KEY: None})
    )


def check_interpreters(workflow: Workflow, left_out: Collection[str] = ()) -> None:
    """Refuse a workflow whose interpreters are not installed, for its blocks too, without those *left_out*. Raises `InterpreterMissingError`."""
    steps = [step for step in workflow.steps if not step.disabled]
    conditions = (
        source for block in workflow.blocks if block.name not in left_out for _, source in iter_condition_sources(block)
    )
    if any(step.language == "node" or _needs_javascript(step.props) for step in steps) or not all(
        map(is_plain_path, conditions)
    ):
        find_node()
    if any(step.language == "bash" for step in steps):
        find_bash()
    if any(step.language == "go" and step.uses is None for step in steps):
        find_go()


def _needs_javascript(props: Mapping[str, JSON]) -> bool:
    return any(
        not is_plain_path(expression.source)
        for _, template in iter_templates(props)
        for expression in template.expressions
    )


def check_debug(request: RunRequest) -> None:
    """
    Refuse to debug a step unless outbound calls are live: calls of the kernel do not pass the gateway.

    Raises:
        UnsupportedError: A step has `--debug`; the message names it.
    """
    if request.policy.mode == "live" and request.outbound_policy.via is None:
        return
    for step in disable_skipped_steps(request).steps:
        if step.debug and not step.disabled:
            raise UnsupportedError(
                f"Step {step.name!r} has --debug: it would run in the kernel, where the outbound policy "
                f"{request.policy.mode_text!r} does not apply.",
                fix="Remove --debug from the directive, or allow all calls: %pdegress live",
                step=step.name,
            )


def check_variables(required: Mapping[str, list[str]], variables: Mapping[str, str]) -> None:
    """
    Refuse a run whose steps read variables that are not set.

    Args:
        required: The steps that read a variable, by variable.
        variables: The variables that are set.

    Raises:
        VariableMissingError: The message names each variable, its steps and the command that sets it.
    """
    missing = {name: steps for name, steps in required.items() if name not in variables}
    if not missing:
        return
    names = tuple(sorted(missing))
    reads = "; ".join(f"{name} (read by {', '.join(missing[name])})" for name in names)
    plural = len(names) > 1
    raise VariableMissingError(
        f"The environment variable{'s' if plural else ''} {reads} {'are' if plural else 'is'} not set.",
        fix="\n".join(f"Set it: pdkernel env set {shlex.quote(name)}" for name in names),
    )


def check_secrets(props: Sequence[SecretProp], variables: Mapping[str, str], *, source: str | None) -> None:
    """
    Refuse a run or a served workflow whose secret props have no values.

    Args:
        props: The secret props.
        variables: The values that are given.
        source: The workflow as an argument of a command; None for the workflow of a notebook that is open.

    Raises:
        SecretMissingError: The message names each step and prop, and the command that gives the value.
    """
    missing = [prop for prop in props if prop.find_value(variables) is None]
    if not missing:
        return
    names = "; ".join(f"{prop.prop} of step {prop.step}" for prop in missing)
    raise SecretMissingError(
        f"{'These secret props have' if len(missing) > 1 else 'A secret prop has'} no value: {names}. "
        "Pipedream's files hold secrets only encrypted or redacted.",
        fix="\n".join(
            f"Give the value: {format_secret_command(prop, source) if source else format_secret_magic(prop)}"
            for prop in missing
        ),
    )


def format_secret_command(prop: SecretProp, source: str) -> str:
    """Return the command that gives the value of *prop*; *source* is the workflow as an argument of a command."""
    return f"pdkernel secrets set {source} {prop.step} {shlex.quote(prop.prop)}"


def format_secret_magic(prop: SecretProp) -> str:
    """Return the line of a notebook that gives the value of *prop* of its workflow."""
    return f"%pdsecrets set {prop.step} {prop.prop}"


def check_supported(workflow: Workflow) -> None:
    """
    Refuse a workflow that needs an unsupported feature.

    Raises:
        UnsupportedError: The message names the step, the feature and an alternative.
    """
    for step in workflow.steps:
        if step.disabled:
            continue
        if step.stores and step.language in ("bash", "go"):
            language = LANGUAGE_NAMES[step.language]
            raise UnsupportedError(
                f"Step {step.name!r} is a {language} step with a data store: the platform has no data stores for {language}.",
                fix="Use a Python or Node.js step.",
                step=step.name,
            )
