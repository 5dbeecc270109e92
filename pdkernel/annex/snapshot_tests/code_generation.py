"""The Python text of a saved test, and the expectations in it."""

from __future__ import annotations

import pprint
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pdkernel.annex.snapshot_tests.run_inputs import RunInputs
from pdkernel.annex.snapshot_tests.stable_values import find_unstable_paths, merge_samples, replace_current_dates
from pdkernel.execution import Execution, StepResult
from pdkernel.model import JSON

_WIDTH = 100


@dataclass(frozen=True)
class StepExpectation:
    """Expectations for one step; *output* is None if exports, calls or an error describe the step."""

    name: str
    status: str
    exports: Any
    requests: Any
    error: Any
    output: Any


@dataclass(frozen=True)
class RunExpectation:
    """
    Expectations for a run.

    Attributes:
        unstable_paths: Paths of values that differ from run to run; the test checks only their type.
    """

    status: str
    steps: tuple[StepExpectation, ...]
    response: Any
    sends: Any
    error: Any
    unstable_paths: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotScenario:
    """Inputs of a saved test; paths are relative to the test's folder."""

    name: str
    workflow: str
    source: str
    event: str
    recorded: str | None
    external_user: str | None
    environment: str
    inputs: RunInputs
    pins: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    only: Sequence[str] | None = None


def build_expectation(samples: Sequence[Execution], *, now: datetime, known_text: str) -> RunExpectation:
    """Merge *samples* of one run into expectations; *now* and *known_text* as in `replace_current_dates`."""

    def merge(values: Sequence[JSON]) -> Any:
        return replace_current_dates(merge_samples(values), now, known_text)

    steps = []
    differing: list[str] = []
    for number, first in enumerate(samples[0].steps):
        results = [sample.steps[number] for sample in samples]
        has_only_logs = not first.exports and not first.requests and first.error is None
        step = StepExpectation(
            first.name,
            first.status,
            merge([dict(result.exports) for result in results]),
            merge([_calls(result) for result in results]),
            merge([_error_summary(result) for result in results]),
            merge([result.output for result in results]) if has_only_logs and first.logs else None,
        )
        steps.append(step)
        compared = {"": step.exports, " calls": step.requests, " error": step.error, " output": step.output}
        for label, value in compared.items():
            differing += find_unstable_paths(value, f"{first.name}{label}")
    response = merge([sample.response.to_json() if sample.response else None for sample in samples])
    error = merge([[s.error.name, s.error.message] if s.error else None for s in samples])
    sends = merge([[[s.step, s.kind, s.to, s.payload] for s in sample.sends] for sample in samples])
    differing += [*find_unstable_paths(response, "response"), *find_unstable_paths(sends, "sends")]
    return RunExpectation(samples[0].status, tuple(steps), response, sends, error, tuple(differing))


def generate_test_code(scenario: SnapshotScenario, expected: RunExpectation) -> str:
    """Generate the test as a Python module."""
    return "\n".join(_lines(scenario, expected)) + "\n"


def _lines(scenario: SnapshotScenario, expected: RunExpectation) -> Iterator[str]:
    who = (
        f"as {scenario.external_user} in {scenario.environment}"
        if scenario.external_user
        else "without an external user"
    )
    yield '"""'
    yield _one_line(f"A run of {scenario.workflow!r}, {who}, saved as a test.")
    yield ""
    if scenario.recorded:
        yield f"Outbound calls are replayed from {scenario.recorded}: no request is sent. Credentials and variables are fake."
    else:
        yield "The run made no outbound calls: they are refused. Credentials and variables are fake."
    yield '"""'
    yield ""
    yield "from pathlib import Path"
    yield ""
    body = list(_body(scenario, expected))
    if any("differs(" in line for line in body):
        yield "from pdkernel.testing import differs"
        yield ""
    yield 'pytest_plugins = ["pdkernel.testing"]'
    yield ""
    yield "HERE = Path(__file__).parent"
    yield ""
    yield ""
    yield f"def test_{scenario.name}(pd_project, pd_run):"
    yield '    """Each step does the same as in the saved run."""'
    yield from (f"    {line}" if line else "" for line in body)


def _body(scenario: SnapshotScenario, expected: RunExpectation) -> Iterator[str]:
    yield from _setup_lines(scenario.inputs)
    yield "execution = pd_run("
    yield f"    HERE / {scenario.source!r},"
    yield f"    HERE / {scenario.event!r},"
    if scenario.external_user:
        yield f"    external_user={scenario.external_user!r},"
    yield f"    environment={scenario.environment!r},"
    if scenario.recorded:
        yield f'    egress=f"replay={{HERE / {scenario.recorded!r}}}",'
    if scenario.only is not None:
        yield f"    only={list(scenario.only)!r},"
    if scenario.pins:
        yield from _indented("pins=", {name: dict(exports) for name, exports in scenario.pins.items()}, ",")
    yield ")"
    yield ""
    if expected.unstable_paths:
        yield "# These values differ from run to run: only their types are compared."
        for path in expected.unstable_paths:
            yield f"#   {_one_line(path)}"
    yield f"assert execution.status == {expected.status!r}"
    if expected.error is not None:
        yield from _assertion("[execution.error.name, execution.error.message]", expected.error)
    for step in expected.steps:
        yield ""
        yield from _step(step)
    yield ""
    if expected.response is None:
        yield "assert execution.response is None"
    else:
        yield from _assertion("execution.response.to_json()", expected.response)
    if expected.sends:
        yield from _assertion("[[s.step, s.kind, s.to, s.payload] for s in execution.sends]", expected.sends)


def _setup_lines(inputs: RunInputs) -> Iterator[str]:
    for account in inputs.accounts:
        yield "pd_project.connect("
        yield f"    {account.external_user!r},"
        yield f"    {account.app!r},"
        yield f"    environment={account.environment!r},"
        yield f"    account_id={account.account_id!r},"
        yield from _indented("credentials=", dict(account.credentials), ",")
        yield ")"
    if inputs.variables:
        yield from _literal("pd_project.set_variables(**", dict(inputs.variables), ")")
    if inputs.accounts or inputs.variables:
        yield ""


def _step(step: StepExpectation) -> Iterator[str]:
    yield f"step = execution.step({step.name!r})"
    yield f"assert step.status == {step.status!r}"
    if step.status in ("not_run", "skipped", "disabled"):
        return
    yield from _assertion("step.exports", step.exports)
    yield from _assertion("sorted([call.method, call.url, call.status] for call in step.requests)", step.requests)
    if step.error is not None:
        yield from _assertion("[step.error.name, step.error.message]", step.error)
    if step.output is not None:
        yield from _assertion("step.output", step.output)


def _assertion(expression: str, value: Any) -> Iterator[str]:
    yield from _literal(f"assert {expression} == ", value, "")


def _indented(before: str, value: Any, after: str) -> Iterator[str]:
    yield from (f"    {line}" for line in _literal(before, value, after))


def _literal(before: str, value: Any, after: str) -> Iterator[str]:
    """Format *value* as Python between *before* and *after*; long lists and dicts take several lines."""
    short = f"{before}{value!r}{after}"
    if len(short) <= _WIDTH:
        yield short
        return
    brackets = "{}" if isinstance(value, dict) else "[]" if isinstance(value, list) else ""
    if not brackets:
        lines = pprint.pformat(value, width=_WIDTH, sort_dicts=False).splitlines()
        yield f"{before}("
        yield from (f"    {line.removeprefix('(').removesuffix(')').strip()}" for line in lines)
        yield f"){after}"
        return
    yield before + brackets[0]
    items = value.items() if isinstance(value, dict) else [(None, item) for item in value]
    for key, item in items:
        yield from (f"    {line}" for line in _literal("" if key is None else f"{key!r}: ", item, ","))
    yield brackets[1] + after


def _calls(result: StepResult) -> list[Any]:
    return sorted(([call.method, call.url, call.status] for call in result.requests), key=str)


def _error_summary(result: StepResult) -> list[JSON] | None:
    return [result.error.name, result.error.message] if result.error else None


def _one_line(text: str) -> str:
    return textwrap.shorten(text.replace('"""', "'''").replace("\\", "/"), 110, placeholder=" ...")
