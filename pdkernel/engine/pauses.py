"""
Decides what to do about a pause that a step requested: `$.flow.delay`, `suspend` or `rerun`.

Without a server there are three modes: wait for the end of the pause, go on at once, or end the run as `paused`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdkernel.execution import StepResult
from pdkernel.model import JSON
from pdkernel.workers import Pause

PauseMode = Literal["wait", "skip", "park"]
"""`wait` waits for the end of the pause, `skip` goes on at once, `park` ends the run as paused."""

MAX_PAUSE_MS = 366 * 24 * 60 * 60 * 1000
"""The platform's longest delay is a year (its documentation of Delay)."""


@dataclass(frozen=True)
class RerunState:
    """
    The state of a step that reruns itself (`$.context.run`).

    Attributes:
        run_number: 1 for the first attempt.
        context: The context that the last `rerun` passed on.
        previous_result: The record of the attempts before, or None.
        callback: The body of the call that ended the last pause early, or None.
    """

    run_number: int = 1
    context: JSON = None
    previous_result: StepResult | None = None
    callback: JSON = None


@dataclass(frozen=True)
class PauseDecision:
    """
    The decision about a pause.

    Attributes:
        action: Go on to the next step, run the step again, end the run as paused, or cancel the run after the delay.
        delay_s: Seconds to wait first.
        message: A sentence for the step's log.
    """

    action: Literal["go_on", "again", "park", "cancel"]
    delay_s: float
    message: str


def decide_pause(pause: Pause, mode: PauseMode, *, run_number: int, dollar_name: str = "$") -> PauseDecision:
    """
    Decide what to do about *pause* after the step has run *run_number* times.

    A `rerun` beyond its limit goes on to the next step. A skipped `suspend` goes on as if it was resumed without data.
    If the run waits for a `suspend`, the run is cancelled at the end of the pause: only a server can resume it.

    Args:
        pause: The requested pause.
        mode: How pauses are treated.
        run_number: The number of the attempt that requested the pause.
        dollar_name: The name of `$` in the step's language, for the message.
    """
    # parity[pauses]: a builder test on the platform does not pause; a deployed run does, and a server resumes it
    again = pause.kind == "rerun" and run_number <= pause.most
    if pause.kind == "rerun" and not again:
        return PauseDecision(
            "go_on", 0, f"{dollar_name}.flow.rerun: the step has run {run_number} times, the maximum; the run goes on."
        )
    seconds = min(pause.ms, MAX_PAUSE_MS) / 1000
    what = f"{dollar_name}.flow.{pause.kind} for {format_duration(seconds)}"
    if mode == "skip":
        return PauseDecision("again" if again else "go_on", 0, f"{what}: skipped.")
    if mode == "park":
        return PauseDecision(
            "park",
            seconds,
            f"{what}: the run is paused. To wait for the end of the pause, pass --wait; to skip the pause, pass --skip-waits.",
        )
    if pause.kind == "suspend":
        return PauseDecision("cancel", seconds, f"{what}: the run is cancelled after this time, unless it is resumed.")
    return PauseDecision("again" if again else "go_on", seconds, f"{what}: the run waits.")


def build_flow_urls(base: str | None, *, run_id: str, step: str) -> dict[str, str]:
    """
    Build `resume_url` and `cancel_url` of a step in a run.

    Args:
        base: The URL of the endpoint, or None if the workflow is not served.
        run_id: The run's id.
        step: The step's name.
    """
    # parity[pause-urls]: without a server the two URLs name a host that cannot exist (RFC 2606), so no host gets the call
    base = base or "https://not-served.invalid"
    return {f"{verb}_url": f"{base}/{verb}/{run_id}/{step}" for verb in ("resume", "cancel")}


def format_duration(seconds: float) -> str:
    """Format *seconds* in the largest whole unit: `5 minutes`."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds:g} seconds"
