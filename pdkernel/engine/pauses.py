"""
What becomes of a pause that a step asked for.

Knows the platform's rules for delay, suspend and rerun, and the three ways to treat a pause without a server: wait for
its end, go on at once, or end here as `paused`. Knows nothing of how steps run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdkernel.execution import StepResult
from pdkernel.model import JSON
from pdkernel.workers import Pause

PauseMode = Literal["wait", "skip", "park"]
"""`wait` waits, `skip` goes on at once, `park` ends the run as paused."""

MAX_PAUSE_MS = 366 * 24 * 60 * 60 * 1000
"""The platform's longest delay is a year (its documentation of Delay)."""


@dataclass(frozen=True)
class RerunState:
    """
    Which run of the same step this is (`$.context.run`).

    Attributes:
        run_number: 1 for the first.
        context: What the last `rerun` passed on.
        previous_result: The record of those before, or None.
    """

    run_number: int = 1
    context: JSON = None
    previous_result: StepResult | None = None


@dataclass(frozen=True)
class PauseDecision:
    """
    What to do about a pause.

    Attributes:
        action: Go on to the next step, run the step again, end as paused, or cancel when the time is over.
        delay_s: To wait first.
        message: A sentence for the step's log.
    """

    action: Literal["go_on", "again", "park", "cancel"]
    delay_s: float
    message: str


def decide_pause(pause: Pause, mode: PauseMode, *, run_number: int, dollar_name: str = "$") -> PauseDecision:
    """
    What becomes of *pause* after the step has run *run_number* times; its language calls `$` *dollar_name*.

    A `rerun` beyond its limit goes on to the next step. A skipped `suspend` goes on as if it had been resumed without
    data; a waited one is cancelled at its end, since nobody can resume it without a server.
    """
    # parity[pauses]: a builder test on the platform does not pause; a deployed run does, which takes a server to resume it
    again = pause.kind == "rerun" and run_number <= pause.most
    if pause.kind == "rerun" and not again:
        return PauseDecision(
            "go_on", 0, f"{dollar_name}.flow.rerun: the step has run {run_number} times, its limit; the run goes on."
        )
    seconds = min(pause.ms, MAX_PAUSE_MS) / 1000
    what = f"{dollar_name}.flow.{pause.kind} for {format_duration(seconds)}"
    if mode == "skip":
        return PauseDecision("again" if again else "go_on", 0, f"{what}: not waited for.")
    if mode == "park":
        return PauseDecision(
            "park", seconds, f"{what}: the run is paused. To wait for it: --wait; to go on at once: --skip-waits."
        )
    if pause.kind == "suspend":
        return PauseDecision("cancel", seconds, f"{what}: cancelled then, unless it is resumed.")
    return PauseDecision("again" if again else "go_on", seconds, f"{what}: waited for.")


def build_flow_urls(base: str | None, *, run_id: str, step: str) -> dict[str, str]:
    """
    `resume_url` and `cancel_url` of a step in a run.

    Args:
        base: Where the endpoint answers, or None where nothing is served.
        run_id: Of the run.
        step: Its name.
    """
    # parity[pause-urls]: without a server the two URLs name a host that cannot exist (RFC 2606), so that nobody calls another's
    where = base or "https://not-served.invalid"
    return {f"{verb}_url": f"{where}/{verb}/{run_id}/{step}" for verb in ("resume", "cancel")}


def format_duration(seconds: float) -> str:
    """*seconds* in words, in the largest whole unit: `5 minutes`."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds:g} seconds"
