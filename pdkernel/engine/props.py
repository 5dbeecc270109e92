"""
Evaluates the props of a step and selects the environment variables that its workflow names.

A `{{ }}` is evaluated in Python if it is a plain path, else by a Node.js worker. A value that is one whole
expression keeps its type, as on the platform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.actions.prop_binding import add_prop_braces
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import StepError, did_you_mean
from pdkernel.language.expression import UNDEFINED, ValuePath, add_missing_braces, iter_templates, substitute_results
from pdkernel.model import JSON, Step
from pdkernel.workers import PooledRun


class TemplateError(Exception):
    """
    An expression that throws.

    Attributes:
        path: The place of its text in the evaluated value.
        source: The expression.
        name: The class of the JavaScript error.
        message: The message of the JavaScript error.
    """

    def __init__(self, path: ValuePath, source: str, name: str, message: str) -> None:
        super().__init__(f"{{{{{source}}}}} fails with {name}: {message}")
        self.path = path
        self.source = source
        self.name = name
        self.message = message


async def evaluate_templates(
    value: JSON, workers: PooledRun, exports: Mapping[str, Mapping[str, JSON]], *, timeout_s: float
) -> Any:
    """
    Return *value* with every expression evaluated; `UNDEFINED` if it is one whole expression with that result.

    Raises:
        TemplateError: An expression throws.
        StepError: The evaluation takes longer than *timeout_s* seconds.
    """
    found = list(iter_templates(value))
    if not found:
        return value
    expressions = [(path, expression.source) for path, template in found for expression in template.expressions]
    results = await workers.evaluate([source for _, source in expressions], exports, timeout_s=timeout_s)
    for (path, source), result in zip(expressions, results, strict=True):
        if "error" in result:
            raise TemplateError(path, source, result["error"]["name"], result["error"]["message"])
    values = [UNDEFINED if "undefined" in result else result["value"] for result in results]
    if isinstance(value, str) and found[0][1].sole_expression is not None:
        return values[0]
    return substitute_results(value, values)


async def evaluate_props(
    step: Step, workers: PooledRun, exports: Mapping[str, Mapping[str, JSON]], *, timeout_s: float = 30.0
) -> dict[str, JSON]:
    """
    Return the step's props with every expression evaluated.

    Raises:
        StepError: An expression throws (the message names the prop and the expression), or evaluation takes longer
            than *timeout_s* seconds.
    """
    props = await _braced(step, workers)
    try:
        assembled = await evaluate_templates(props, workers, exports, timeout_s=timeout_s)
    except TemplateError as error:
        line, where = step.locate_prop(*error.path)
        raise StepError(
            f"The prop {'.'.join(map(str, error.path))}{where} cannot be evaluated: {error}", name=error.name, line=line
        ) from None
    assert isinstance(assembled, dict)
    return assembled


async def warn_undeclared_props(step: Step, workers: PooledRun) -> list[str]:
    """Return warnings on props that are set for a code step and that its code does not declare; Python has no declarations."""
    if step.uses is not None or step.language == "python" or not step.props:
        return []
    if step.language != "node":
        names = " and ".join(step.props)
        return [f"A {step.language.capitalize()} step has no props: it does not receive {names}."]
    try:
        description = await workers.describe(step)
    except StepError:
        return []  # the step itself fails later with the same error
    known = [*(prop.name for prop in description.props), *(app.prop for app in description.apps)]
    unknown = [] if description.additional else [name for name in step.props if name not in known]
    if unknown and not known:
        return [f"The step's code declares no props, but the step sets {', '.join(unknown)}."]
    return [
        f"The step's code declares no prop {name!r}, but the step sets it. {did_you_mean(name, known)}".rstrip()
        for name in unknown
    ]


def add_option_labels(step: Step, props: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return *props* with the labels of picked options, as the builder saves them: a component may use them (`withLabel`)."""
    if step.language != "node":
        return dict(props)
    picked = {name: value for name, value in step.picked_options.items() if props.get(name) == step.props[name]}
    return {**props, **{name: value for name, value in picked.items() if _is_option(value)}}


def _is_option(written: JSON) -> bool:
    """Return whether the component's process removes the labels itself, which it does not do inside objects."""
    if isinstance(written, list):
        return all(_is_option(item) or not isinstance(item, dict | list) for item in written)
    return isinstance(written, dict) and written.keys() == {"__lv"}


async def _braced(step: Step, workers: PooledRun) -> dict[str, JSON]:
    """Return the step's props; adds missing `{{ }}` to JavaScript values of props whose declaration allows it."""
    props = dict(step.props)
    if (
        step.language != "node"
        or step.uses is not None
        or all(add_missing_braces(value) == value for value in props.values())
    ):
        return props
    try:
        return add_prop_braces(props, (await workers.describe(step)).props)
    except StepError:
        return props  # the step itself fails later with the same error


def select_named_variables(request: RunRequest) -> dict[str, str]:
    """
    Return the environment variables that steps or `pdkernel.yaml` name.

    Steps do not get other variables, so that a leak in their code cannot expose them.
    """
    if not request.variables:
        return {}
    # parity[variables]: on the platform every step sees every variable of the workspace and the project
    words = request.prepared.words
    return {name: value for name, value in request.variables.items() if name in words}
