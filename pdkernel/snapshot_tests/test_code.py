"""
The text of a saved test.

Knows what a run is to be held to and how that reads as Python. Knows nothing of where it is written.
"""

from __future__ import annotations

import pprint
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pdkernel.execution import Execution, StepResult
from pdkernel.model import JSON
from pdkernel.snapshot_tests.run_inputs import RunInputs
from pdkernel.snapshot_tests.stable_values import find_unstable_paths, merge_samples, replace_current_dates

_WIDTH = 100


@dataclass(frozen=True)
class StepExpectation:
    """What one step is held to. *output* is None where exports, calls or an error say what it does."""

    name: str
    status: str
    exports: Any
    requests: Any
    error: Any
    output: Any


@dataclass(frozen=True)
class RunExpectation:
    """
    What a run is held to.

    Attributes:
        unstable_paths: Paths of what differs from run to run, only its type being held to.
    """

    status: str
    steps: tuple[StepExpectation, ...]
    response: Any
    sends: Any
    error: Any
    unstable_paths: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotScenario:
    """What a test's text is made of besides its expectation; paths as seen from the test's folder, `../` for above."""

    name: str
    workflow: str
    source: str
    event: str
    recorded: str | None
    external_user: str | None
    environment: str
    needs: RunInputs
    pins: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    only: Sequence[str] | None = None


def build_expectation(samples: Sequence[Execution], *, now: datetime, known_text: str) -> RunExpectation:
    """What all *samples* of one run have in common; *now* and *known_text* as in `without_today`."""

    def held_to(values: Sequence[JSON]) -> Any:
        return replace_current_dates(merge_samples(values), now, known_text)

    steps = []
    differing: list[str] = []
    for number, first in enumerate(samples[0].steps):
        results = [sample.steps[number] for sample in samples]
        silent = not first.exports and not first.requests and first.error is None
        step = StepExpectation(
            first.name,
            first.status,
            held_to([dict(result.exports) for result in results]),
            held_to([_calls(result) for result in results]),
            held_to([_error_summary(result) for result in results]),
            held_to([result.output for result in results]) if silent and first.logs else None,
        )
        steps.append(step)
        for label, value in (("", step.exports), (" calls", step.requests), (" error", step.error)):
            differing += find_unstable_paths(value, f"{first.name}{label}")
    response = held_to([sample.response.to_json() if sample.response else None for sample in samples])
    error = held_to([[s.error.name, s.error.message] if s.error else None for s in samples])
    sends = held_to([[[s.step, s.kind, s.to, s.payload] for s in sample.sends] for sample in samples])
    differing += [*find_unstable_paths(response, "response"), *find_unstable_paths(sends, "sends")]
    return RunExpectation(samples[0].status, tuple(steps), response, sends, error, tuple(differing))


def generate_test_code(scenario: SnapshotScenario, expected: RunExpectation) -> str:
    """The test as a Python module."""
    return "\n".join(_lines(scenario, expected)) + "\n"


def _lines(what: SnapshotScenario, expected: RunExpectation) -> Iterator[str]:
    who = f"as {what.external_user} in {what.environment}" if what.external_user else "on nobody's behalf"
    yield '"""'
    yield _one_line(f"A run of {what.workflow!r}, {who}, saved as a test.")
    yield ""
    if what.recorded:
        yield f"Outside calls are answered from {what.recorded}: nothing is sent. Credentials and variables are made up."
    else:
        yield "The run made no outside calls: they are refused. Credentials and variables are made up."
    yield '"""'
    yield ""
    yield "from pathlib import Path"
    yield ""
    body = list(_body(what, expected))
    if any("differs(" in line for line in body):
        yield "from pdkernel.testing import differs"
        yield ""
    yield 'pytest_plugins = ["pdkernel.testing"]'
    yield ""
    yield "HERE = Path(__file__).parent"
    yield ""
    yield ""
    yield f"def test_{what.name}(pd_project, pd_run):"
    yield '    """Each step does what it did in that run."""'
    yield from (f"    {line}" if line else "" for line in body)


def _body(what: SnapshotScenario, expected: RunExpectation) -> Iterator[str]:
    yield from _setup_lines(what.needs)
    yield "execution = pd_run("
    yield f"    HERE / {what.source!r},"
    yield f"    HERE / {what.event!r},"
    if what.external_user:
        yield f"    external_user={what.external_user!r},"
    yield f"    environment={what.environment!r},"
    if what.recorded:
        yield f'    egress=f"replay={{HERE / {what.recorded!r}}}",'
    if what.only is not None:
        yield f"    only={list(what.only)!r},"
    if what.pins:
        yield from _indented("pins=", {name: dict(exports) for name, exports in what.pins.items()}, ",")
    yield ")"
    yield ""
    if expected.unstable_paths:
        yield "# These differ from run to run, so that only their types are compared:"
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


def _setup_lines(needs: RunInputs) -> Iterator[str]:
    for need in needs.accounts:
        yield "pd_project.connect("
        yield f"    {need.external_user!r},"
        yield f"    {need.app!r},"
        yield f"    environment={need.environment!r},"
        yield f"    account_id={need.account_id!r},"
        yield from _indented("credentials=", dict(need.credentials), ",")
        yield ")"
    if needs.variables:
        yield from _literal("pd_project.set_variables(**", dict(needs.variables), ")")
    if needs.accounts or needs.variables:
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


def _assertion(what: str, value: Any) -> Iterator[str]:
    yield from _literal(f"assert {what} == ", value, "")


def _indented(before: str, value: Any, after: str) -> Iterator[str]:
    yield from (f"    {line}" for line in _literal(before, value, after))


def _literal(before: str, value: Any, after: str) -> Iterator[str]:
    """*value* as Python between two texts, a bracketed one over several lines where it is long."""
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
