"""
Decides what to do about a pause that a step requested: `$.flow.delay`, `suspend` or `rerun`.

A run goes on at once, or is recorded as paused. A paused run is continued by a server, or by `WorkflowEngine.continue_after_pause`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from pdkernel.errors import PdkernelError, format_count
from pdkernel.execution import StepResult
from pdkernel.journal import WaitKey
from pdkernel.model import JSON, Workflow
from pdkernel.workers import Pause

PauseMode = Literal["wait", "skip", "park"]
"""`park` records the pause and leaves the run, `wait` continues the run at the end of the pause, `skip` goes on at once."""

MAX_PAUSE_MS = 366 * 24 * 60 * 60 * 1000
"""The platform's longest delay is a year (its documentation of Delay)."""


class RerunState(msgspec.Struct, frozen=True):
    """
    The state of a step that reruns itself (`$.context.run`).

    Attributes:
        run_number: The number of the step's run, which names its pauses; 1 at first.
        context: The context that the last `rerun` passed on.
        previous_result: The record of the attempts before, or None.
        callback: The body of the call that ended the pause of the last `rerun` early, or None. A retry has it again.
        retries: How often the step was retried after an error.
        unstarted: How many of the runs before could not start, because their packages were missing.
    """

    run_number: int = 1
    context: JSON = None
    previous_result: StepResult | None = None
    callback: JSON = None
    retries: int = 0
    unstarted: int = 0

    @property
    def runs(self) -> int:
        """`$.context.run.runs`: a retry has the number of the run that failed."""
        return self.run_number - self.retries

    @property
    def started_number(self) -> int:
        """The number of the step's run among those that have started."""
        return self.run_number - self.unstarted


@dataclass(frozen=True)
class PauseDecision:
    """
    The decision about a pause.

    Attributes:
        action: Go on to the next step, run the step again, or record the run as paused.
        delay_s: The length of the pause in seconds.
        message: A sentence for the step's log.
    """

    action: Literal["go_on", "again", "park"]
    delay_s: float
    message: str


def decide_pause(pause: Pause, mode: PauseMode, *, runs: int, dollar_name: str = "$", hint: str = "") -> PauseDecision:
    """
    Decide what to do about *pause* after the step has run *runs* times.

    A `rerun` beyond its limit goes on to the next step. A skipped `suspend` goes on as if it was resumed without data.

    Args:
        pause: The requested pause.
        mode: How pauses are treated.
        runs: `RerunState.runs` of the run that requested the pause.
        dollar_name: The name of `$` in the step's language, for the message.
        hint: What to do about a paused run, for the message.
    """
    # parity[pauses]: whether a builder test on the platform pauses is not documented; a deployed run does
    again = pause.kind == "rerun" and runs <= pause.most
    if pause.kind == "rerun" and not again:
        return PauseDecision(
            "go_on", 0, f"{dollar_name}.flow.rerun: the step has run {runs} times, the maximum; the run goes on."
        )
    seconds = min(pause.ms, MAX_PAUSE_MS) / 1000
    what = f"{dollar_name}.flow.{pause.kind} for {format_duration(seconds)}"
    if mode == "skip":
        return PauseDecision("again" if again else "go_on", 0, f"{what}: skipped.")
    if mode == "park":
        return PauseDecision("park", seconds, f"{what}: the run is paused.{hint}")
    ends = "is cancelled after this time, unless it is resumed" if pause.kind == "suspend" else "waits"
    return PauseDecision("park", seconds, f"{what}: the run {ends}.")


FLOW_URL_PATH = "/-/{verb}/{run_id}/{path}/{number}"
"""The path of a URL that resumes or cancels a run; *number* is `ITERATION.NUMBER.TOKEN`."""

FlowVerb = Literal["resume", "cancel"]


MAX_RETRIES = 8
"""Retries of a workflow with `auto_retry` (platform documentation: eight within ten hours)."""
_RETRY_SPAN_S = 36_000.0
_NOT_RETRIED = frozenset({"timeout", "memory"})


def retry_delay_s(workflow: Workflow, error: PdkernelError, state: RerunState) -> float | None:
    """
    Return the seconds until a failed step is retried, or None if the run fails.

    Each wait is twice as long as the one before, and all of them last ten hours. A step that exceeded its time or memory is
    not retried (platform documentation of auto-retry).
    """
    if workflow.settings.get("auto_retry") is not True or error.code in _NOT_RETRIED or state.retries >= MAX_RETRIES:
        return None
    return float(_RETRY_SPAN_S / (2**MAX_RETRIES - 1) * 2**state.retries)


def build_flow_urls(base: str | None, key: WaitKey, sign: Callable[[str], bytes]) -> dict[str, str]:
    """
    Build `resume_url` and `cancel_url` of a step in a run.

    Each has its own token, so neither the run's id nor the other URL opens it. The tokens follow from the project's key: a
    repeated step has the same URLs, and the ones that its earlier attempt sent stay valid.

    Args:
        base: The URL of the endpoint, or None if the workflow is not served.
        key: The pause.
        sign: `Vault.sign`.
    """
    if base is None:
        # parity[pause-urls]: without a server the two URLs name a host that cannot exist (RFC 2606), so no host gets the call
        return {f"{verb}_url": f"https://not-served.invalid/{verb}/{key.run_id}/{key.path}" for verb in _VERBS}
    number = f"{key.iteration}.{key.number}"
    return {
        f"{verb}_url": f"{base}/-/{verb}/{key.run_id}/{key.path}/{number}.{token}"
        for verb, token in zip(_VERBS, _build_tokens(key, sign), strict=True)
    }


def verify_flow_url(
    verb: FlowVerb, run_id: str, path: str, number: str, sign: Callable[[str], bytes]
) -> WaitKey | None:
    """Return the pause that a URL of `build_flow_urls` names; None if its token is wrong."""
    match number.split(".", 2):
        case [iteration, count, token] if _is_count(iteration) and _is_count(count):
            key = WaitKey(run_id, path, int(iteration), int(count))
            expected = _build_tokens(key, sign)[_VERBS.index(verb)]
            return key if hmac.compare_digest(token.encode("utf-8", "replace"), expected.encode()) else None
        case _:
            return None


_VERBS: tuple[FlowVerb, ...] = ("resume", "cancel")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _build_tokens(key: WaitKey, sign: Callable[[str], bytes]) -> tuple[str, str]:
    """Return the tokens of `_VERBS`, 128 bits each: one half of a signature does not reveal the other half."""
    signature = sign(f"flow/{key.run_id}/{key.path}/{key.iteration}/{key.number}")
    return signature[:16].hex(), signature[16:32].hex()


def format_duration(seconds: float) -> str:
    """Format *seconds* in the largest whole unit: `5 minutes`."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size and seconds % size == 0:
            return format_count(int(seconds // size), unit)
    return f"{seconds:g} seconds"
