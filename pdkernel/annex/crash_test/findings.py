"""
What a crash changes: effects that are done twice, and calls, steps and results that are lost.

An effect is an unsafe call. Calls of a step with the same `Idempotency-Key` to the same URL are one effect, because the host recognises the
repetition. Two runs never do the same in every byte, so the calls of a step are matched by method, URL and body first, and then by
less.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pdkernel.annex.crash_test.points import SeenCall
from pdkernel.common.encode import JsonStruct
from pdkernel.execution import Execution, StepResult

Kind = Literal["done_twice", "lost"]
Cause = Literal["no_key", "other_key", "call", "step", "result"]

WHOLE_RUN = "whole run"
_MATCHES: tuple[Callable[[SeenCall], Hashable], ...] = (
    lambda call: (call.method, call.url, call.body),
    lambda call: (call.method, call.url),
    lambda call: (call.method, urlsplit(call.url).netloc),
)


class Finding(JsonStruct, frozen=True):
    """
    A difference that a crash has made.

    Attributes:
        kind: `done_twice` or `lost`.
        cause: Of `done_twice`: `no_key` or `other_key`. Of `lost`: `call`, `step` or `result`.
        step: The step; `WHOLE_RUN` for the result.
        what: What was done twice or is lost, as a sentence.
    """

    kind: Kind
    cause: Cause
    step: str
    what: str


@dataclass(frozen=True)
class RunOutcome:
    """
    What a run has done.

    Attributes:
        executions: The run, and its child runs.
        calls: The calls that left its processes, in order.
    """

    executions: Sequence[Execution]
    calls: Sequence[SeenCall]

    @property
    def root(self) -> Execution:
        """The run itself."""
        return self.executions[0]

    def steps(self) -> dict[tuple[str, str, int], StepResult]:
        """Return the steps of all runs, by workflow, path and iteration."""
        return {(run.workflow, step.path, step.iteration): step for run in self.executions for step in run.steps}


def compare_outcomes(reference: RunOutcome, outcome: RunOutcome | None, limit_s: float) -> Iterator[Finding]:
    """
    Yield what is done twice or lost in a run with a crash, compared with one without.

    Args:
        reference: The run without a crash.
        outcome: The run with a crash; None if it has not ended within *limit_s* seconds.
        limit_s: The limit.
    """
    if outcome is None:
        yield Finding("lost", "result", WHOLE_RUN, f"The run did not end within {limit_s:.0f} s after the crash.")
        return
    yield from _compare_calls(reference.calls, outcome.calls)
    expected, root = reference.root, outcome.root
    recorded = outcome.steps()
    for place, step in reference.steps().items():
        yield from _compare_step(step, recorded.get(place))
    if root.status != expected.status:
        why = f": {root.error.message}" if root.error is not None else "."
        yield Finding("lost", "result", WHOLE_RUN, f"The run ends as {root.status}, not as {expected.status}{why}")


def _compare_step(expected: StepResult, found: StepResult | None) -> Iterator[Finding]:
    status = "not_run" if found is None else found.status
    if status != expected.status:
        error = found.error if found is not None else None
        why = f": {error.message}" if error is not None else "."
        yield Finding("lost", "step", expected.name, f"Its record is {status}, not {expected.status}{why}")
        return
    assert found is not None
    missing = [
        name
        for name, value in expected.exports.items()
        if value is not None and found.exports.get(name) is None and not name.startswith("$resume")
    ]
    if missing:
        yield Finding("lost", "step", expected.name, f"It does not export {', '.join(missing)} any more.")


def _compare_calls(reference: Sequence[SeenCall], calls: Sequence[SeenCall]) -> Iterator[Finding]:
    expected, found = _group(reference), _group(calls)
    for step in dict.fromkeys([*expected, *found]):
        yield from _compare_effects(step, expected[step], found[step])


def _group(calls: Sequence[SeenCall]) -> defaultdict[str, list[SeenCall]]:
    """Return the effects by step: the unsafe calls, without repetitions that have the same key."""
    grouped: defaultdict[str, list[SeenCall]] = defaultdict(list)
    keys: set[tuple[str, str, str]] = set()
    for call in calls:
        identity = (call.method, call.url, call.key)
        if call.safe or (call.key and identity in keys):
            continue
        keys.add(identity)
        grouped[call.step].append(call)
    return grouped


def _compare_effects(step: str, expected: Sequence[SeenCall], found: Sequence[SeenCall]) -> Iterator[Finding]:
    missing, extra = list(expected), list(found)
    repeated: list[SeenCall] = []
    for level, match in enumerate(_MATCHES):
        extra, missing = _take_matches(extra, missing, match)
        if level == 0:  # the same bytes again are a repetition, whatever else is missing
            known = {match(call) for call in expected}
            repeated = [call for call in extra if match(call) in known]
            extra = [call for call in extra if match(call) not in known]
    for text, count in Counter(call.text for call in [*repeated, *extra]).items():
        arrived = [call for call in found if call.text == text]
        has_key = any(call.key for call in arrived)
        how = "with another Idempotency-Key" if has_key else "without an Idempotency-Key"
        what = f"{text} arrived {_count_times(len(arrived), len(arrived) - count)}, {how}."
        yield Finding("done_twice", "other_key" if has_key else "no_key", step, what)
    for text in dict.fromkeys(call.text for call in missing):
        yield Finding("lost", "call", step, f"{text} was not made.")


def _take_matches(
    found: Sequence[SeenCall], expected: Sequence[SeenCall], match: Callable[[SeenCall], Hashable]
) -> tuple[list[SeenCall], list[SeenCall]]:
    """Match calls one to one; return those of *found* and those of *expected* that have no match."""
    open_calls, extra = list(expected), []
    for call in found:
        place = next((place for place, each in enumerate(open_calls) if match(each) == match(call)), None)
        if place is None:
            extra.append(call)
        else:
            del open_calls[place]
    return extra, open_calls


def _count_times(arrived: int, wanted: int) -> str:
    if wanted == 0:
        return "in addition" if arrived == 1 else f"{arrived} times in addition"
    if wanted == 1:
        return "twice" if arrived == 2 else f"{arrived} times"
    return f"{arrived} times instead of {wanted}"
