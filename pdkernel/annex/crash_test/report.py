"""The report of a crash test: its findings by step, each with what mends it, as data and as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from pdkernel.annex.crash_test.findings import Cause, Finding
from pdkernel.annex.crash_test.points import CrashPoint
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import format_count

NOT_OBSERVED = (
    "Not observed: everything but HTTP to other machines. What a step does to files, databases, data stores and this machine may be "
    "done twice, too."
)
MAX_SHOWN_POINTS = 3
"""Crash points that the text shows for a finding, unless all are asked for."""
_WIDTH = 110
_KINDS = {"done_twice": "done twice", "lost": "lost"}
_LOOK = {
    "python": 'if pd.context.get("attempt", 1) > 1',
    "node": "if $.context.attempt > 1",
}
_TRACE = {"python": 'pd.steps["trigger"]["context"]["id"]', "node": "steps.trigger.context.id"}
_MENDS: dict[Cause, str] = {
    "no_key": (
        "Send the header Idempotency-Key with a value that is the same in each attempt ({id} and the step's name), if the host supports it. "
        "Otherwise ask the host first whether it was done: {look}. A mark in a data store after the call makes the gap smaller, and does not "
        "close it."
    ),
    "other_key": "Make the Idempotency-Key of what is the same in each attempt, such as {id}: not of a time or a random value.",
    "call": (
        "The repeated attempt left it out. If a mark in a data store is the reason, write the mark after the call, or ask the host whether it "
        "was done: {look}."
    ),
    "step": "Let the step accept what its first attempt has done: {look}.",
    "result": "Look at the steps above: the run ends in another way if one of them is repeated.",
}


class PointResult(JsonStruct, frozen=True):
    """
    What was found at one crash point.

    Attributes:
        point: The crash point.
        is_reached: Whether the run came to the point and its process died.
        findings: What is done twice or lost.
    """

    point: CrashPoint
    is_reached: bool
    findings: tuple[Finding, ...]


class CrashReport(JsonStruct, frozen=True):
    """
    The result of a crash test.

    Attributes:
        workflow: The workflow's name.
        policy: The outbound policy of the runs.
        status: The status of the first run without a crash.
        points: The crash points that were tried, in the order of the run.
        left_out: Crash points that the limit left out.
        steps: The steps with their languages.
        varying: What differs between two runs without a crash, and is not compared: `the body of calls of charge`.
    """

    workflow: str
    policy: str
    status: str
    points: tuple[PointResult, ...]
    left_out: tuple[CrashPoint, ...]
    steps: Mapping[str, str]
    varying: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is done twice or lost, once each."""
        return tuple(dict.fromkeys(finding for result in self.points for finding in result.findings))

    @property
    def done_twice(self) -> tuple[Finding, ...]:
        """The findings of what is done twice."""
        return tuple(finding for finding in self.findings if finding.kind == "done_twice")

    @property
    def lost(self) -> tuple[Finding, ...]:
        """The findings of what is lost."""
        return tuple(finding for finding in self.findings if finding.kind == "lost")

    def mend(self, finding: Finding) -> str:
        """Return what mends *finding*."""
        language = self.steps.get(finding.step, "")
        look = _LOOK.get(language, "if the attempt of its context is above 1")
        return _MENDS[finding.cause].format(look=look, id=_TRACE.get(language, "the id of the trigger's context"))

    def json_form(self) -> object:
        """Return the report with the findings by step, and the points."""
        return {
            "workflow": self.workflow,
            "egress": self.policy,
            "status": self.status,
            "findings": [
                {
                    "step": finding.step,
                    "kind": finding.kind,
                    "what": finding.what,
                    "mend": self.mend(finding),
                    "points": [result.point.describe() for result in self._points_of(finding)],
                }
                for finding in self.findings
            ],
            "points": [
                {"point": result.point.describe(), "reached": result.is_reached, "findings": len(result.findings)}
                for result in self.points
            ],
            "left_out": [point.describe() for point in self.left_out],
            "varying": list(self.varying),
            "not_observed": NOT_OBSERVED,
        }

    def render_text(self, *, shows_all: bool = False) -> str:
        """Return the report as text; *shows_all* lists every crash point."""
        return "".join(f"{line}\n" for line in self._lines(shows_all=shows_all))

    def __repr__(self) -> str:
        return self.render_text()

    def _points_of(self, finding: Finding) -> Sequence[PointResult]:
        return [result for result in self.points if finding in result.findings]

    def _lines(self, *, shows_all: bool) -> Iterator[str]:
        bad = sum(bool(result.findings) for result in self.points)
        counts = f"{format_count(len(self.points), 'crash point')}, {bad or 'none'} with a finding"
        yield f"{self.workflow}: {counts} (outbound calls: {self.policy})"
        for step in dict.fromkeys(finding.step for finding in self.findings):
            yield ""
            for finding in (each for each in self.findings if each.step == step):
                yield f"{step}: {_KINDS[finding.kind]}. {finding.what}"
                results = self._points_of(finding)
                shown = results if shows_all else results[:MAX_SHOWN_POINTS]
                yield from (f"  killed {result.point.describe()}" for result in shown)
                if len(results) > len(shown):
                    yield f"  and at {format_count(len(results) - len(shown), 'other point')} (--all)"
                yield from _wrap(f"To mend it: {self.mend(finding)}")
        yield ""
        if shows_all:
            for result in self.points:
                kinds = dict.fromkeys(_KINDS[finding.kind] for finding in result.findings)
                outcome = ", ".join(kinds) or ("nothing" if result.is_reached else "not reached")
                yield f"{outcome:>12}  {result.point.describe()}"
            yield ""
        if missed := sum(not result.is_reached for result in self.points):
            yield f"The run came by another way and did not reach {format_count(missed, 'crash point')}."
        if self.left_out:
            yield f"Left out: {format_count(len(self.left_out), 'crash point')}. Try them, too, with --limit {len(self.points) + len(self.left_out)}."
        if self.varying:
            yield f"Not compared, because it differs without a crash, too: {', '.join(self.varying)}."
        yield from textwrap.wrap(NOT_OBSERVED, _WIDTH)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
