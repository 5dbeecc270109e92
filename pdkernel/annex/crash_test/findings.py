"""
What a crash changes: effects that are done twice, and calls, steps and results that are lost.

An effect is an unsafe call. Calls of a step with the same `Idempotency-Key` to the same URL are one effect, because the host recognises the
repetition. Two runs never do the same in every byte, so the calls of a step are matched by method, URL and body first, and then by
less. What differs between runs without a crash, the control runs, is not a finding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from pdkernel.annex.crash_test.points import SeenCall
from pdkernel.common.encode import JsonStruct
from pdkernel.execution import Execution, StepResult
from pdkernel.model import JSON

Kind = Literal["done_twice", "lost"]
Cause = Literal["no_key", "other_key", "call", "step", "result"]

WHOLE_RUN = "whole run"
_MATCHES: tuple[tuple[str, Callable[[SeenCall], Hashable]], ...] = (
    ("", lambda call: (call.method, call.url, call.body)),
    ("body", lambda call: (call.method, call.url)),
    ("URL", lambda call: (call.method, urlsplit(call.url).netloc)),
    ("host", lambda call: call.method),
)
"""What is compared of two calls, from the most to the least, and what each match leaves out in addition."""

Place = tuple[str, str, int]
"""A step of a run or child run: workflow, path and iteration."""


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

    def steps(self) -> dict[Place, StepResult]:
        """Return the steps of all runs."""
        return {(run.workflow, step.path, step.iteration): step for run in self.executions for step in run.steps}


def compare_outcomes(controls: Sequence[RunOutcome], outcome: RunOutcome | None, limit_s: float) -> Iterator[Finding]:
    """
    Yield what is done twice or lost in a run with a crash, compared with what the control runs have in common.

    Args:
        controls: The runs without a crash, at least one.
        outcome: The run with a crash; None if it has not ended within *limit_s* seconds.
        limit_s: The limit.
    """
    if outcome is None:
        yield Finding("lost", "result", WHOLE_RUN, f"The run did not end within {limit_s:.0f} s after the crash.")
        return
    effects, found = [_group(control.calls) for control in controls], _group(outcome.calls)
    for step in _names(*effects, found):
        yield from _compare_effects(step, [each[step] for each in effects], found[step])
    recorded = outcome.steps()
    for place, expected in _find_common_steps(controls).items():
        yield from _compare_step(expected, recorded.get(place))
    root, statuses = outcome.root, [control.root.status for control in controls]
    if len(set(statuses)) == 1 and root.status != statuses[0]:
        why = f": {root.error.message}" if root.error is not None else "."
        yield Finding("lost", "result", WHOLE_RUN, f"The run ends as {root.status}, not as {statuses[0]}{why}")


def find_varying(controls: Sequence[RunOutcome]) -> tuple[str, ...]:
    """Return what differs between the control runs, so that it is not compared, as phrases: `the status of charge`."""
    effects = [_group(control.calls) for control in controls]
    found = [
        f"the {what} of {step}"
        for step in _names(*effects)
        for what in _find_varying_calls([each[step] for each in effects])
    ]
    common = _find_common_steps(controls)
    for control in controls:
        for place, step in control.steps().items():
            if place not in common:
                found.append(f"the status of {step.name}")
                continue
            missing = _compared_exports(step).keys() - common[place].exports.keys()
            found += [f"the export {name} of {step.name}" for name in sorted(missing)]
    if len({control.root.status for control in controls}) > 1:
        found.append("the status of the run")
    return tuple(dict.fromkeys(found))


def _names(*groups: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _find_common_steps(controls: Sequence[RunOutcome]) -> dict[Place, StepResult]:
    """Return the steps that have the same status in each control run, with the exports that all of them have."""
    first, *others = [control.steps() for control in controls]
    common: dict[Place, StepResult] = {}
    for place, step in first.items():
        twins = [each[place] for each in others if place in each and each[place].status == step.status]
        if len(twins) == len(others):
            exports = _compared_exports(step)
            shared = {*exports}.intersection(*map(_compared_exports, twins))
            kept = {name: value for name, value in exports.items() if name in shared}
            common[place] = msgspec.structs.replace(step, exports=kept)
    return common


def _compared_exports(step: StepResult) -> dict[str, JSON]:
    return {name: value for name, value in step.exports.items() if value is not None and not name.startswith("$resume")}


def _compare_step(expected: StepResult, found: StepResult | None) -> Iterator[Finding]:
    status = "not_run" if found is None else found.status
    if status != expected.status:
        error = found.error if found is not None else None
        why = f": {error.message}" if error is not None else "."
        yield Finding("lost", "step", expected.name, f"Its record is {status}, not {expected.status}{why}")
        return
    assert found is not None
    missing = [name for name in expected.exports if found.exports.get(name) is None]
    if missing:
        yield Finding("lost", "step", expected.name, f"It does not export {', '.join(missing)} any more.")


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


def _find_varying_calls(controls: Sequence[Sequence[SeenCall]]) -> list[str]:
    """Return what differs between the calls that a step makes in the control runs: `body`, `URL`, `host`, `number`."""
    found: list[str] = []
    for expected, calls in pairwise(controls):
        missing, extra = list(expected), list(calls)
        for what, match in _MATCHES:
            before = len(extra)
            extra, missing = _take_matches(extra, missing, match)
            if what and len(extra) < before:
                found.append(f"{what} of calls")
        if extra or missing:
            found.append("number of calls")
    return list(dict.fromkeys(found))


def _compare_effects(step: str, controls: Sequence[Sequence[SeenCall]], found: Sequence[SeenCall]) -> Iterator[Finding]:
    """Yield what is done twice or lost compared with each control run, in the words of the one that is closest."""
    varying = _find_varying_calls(controls)
    compared = [list(_compare_calls(step, expected, found, controls, varying)) for expected in controls]
    kinds = {finding.kind for finding in compared[0]}.intersection(
        *({finding.kind for finding in findings} for findings in compared)
    )
    closest = min(zip(controls, compared, strict=True), key=lambda each: abs(len(each[0]) - len(found)))[1]
    yield from (finding for finding in closest if finding.kind in kinds)


def _compare_calls(
    step: str,
    expected: Sequence[SeenCall],
    found: Sequence[SeenCall],
    controls: Sequence[Sequence[SeenCall]],
    varying: Sequence[str],
) -> Iterator[Finding]:
    missing, extra = list(expected), list(found)
    repeated: list[SeenCall] = []
    for what, match in _MATCHES:
        if what == "host" and "host of calls" not in varying:
            break
        extra, missing = _take_matches(extra, missing, match)
        if not what:  # the same bytes again are a repetition, whatever else is missing
            known = _find_constant(controls, match)
            repeated = [call for call in extra if match(call) in known]
            extra = [call for call in extra if match(call) not in known]
    constant = _find_constant(controls, lambda call: call.text)

    def name(call: SeenCall) -> str:
        if call.text in constant or not {"URL of calls", "host of calls"} & {*varying}:
            return call.text
        return call.method if "host of calls" in varying else f"{call.method} to {urlsplit(call.url).netloc}"

    for text, count in Counter(name(call) for call in [*repeated, *extra]).items():
        arrived = [call for call in found if name(call) == text]
        has_key = any(call.key for call in arrived)
        how = "with another Idempotency-Key" if has_key else "without an Idempotency-Key"
        times = _count_times(len(arrived), len(arrived) - count)
        yield Finding("done_twice", "other_key" if has_key else "no_key", step, f"{text} arrived {times}, {how}.")
    for text in dict.fromkeys(name(call) for call in missing):
        yield Finding("lost", "call", step, f"{text} was not made.")


def _find_constant(controls: Sequence[Sequence[SeenCall]], identity: Callable[[SeenCall], Hashable]) -> set[Hashable]:
    """Return the identities that come equally often in each control run."""
    first, *others = [Counter(map(identity, calls)) for calls in controls]
    return {each for each, count in first.items() if all(other[each] == count for other in others)}


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
