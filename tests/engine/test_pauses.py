"""Decisions about pauses and retries, and the URLs that end a pause; no step runs."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import pytest

from pdkernel.engine.pauses import (
    MAX_PAUSE_MS,
    FlowVerb,
    PauseMode,
    RerunState,
    build_flow_urls,
    decide_pause,
    format_duration,
    retry_delay_s,
    verify_flow_url,
)
from pdkernel.errors import StepError, StepTimeoutError
from pdkernel.journal import WaitKey
from pdkernel.workers import Pause
from pdkernel.workers.process_memory import StepMemoryError
from tests.builders import a_workflow, python_step

RETRIED = a_workflow(python_step("one", "return 1"), auto_retry=True)
KEY = WaitKey("run1", "ask", number=3)


def sign(text: str) -> bytes:
    """A signature of 32 bytes."""
    return hashlib.sha256(f"key/{text}".encode()).digest()


def test_a_failed_step_is_retried_eight_times_in_ten_hours() -> None:
    """Each wait is twice as long as the one before, and the ninth error fails the run."""
    waits = [retry_delay_s(RETRIED, StepError("no"), RerunState(retries=count)) for count in range(9)]

    seconds = [wait for wait in waits[:8] if wait is not None]
    assert [later / earlier for earlier, later in pairwise(seconds)] == [2.0] * 7
    assert sum(seconds) == pytest.approx(36_000)
    assert waits[8] is None


def test_what_is_not_retried() -> None:
    """A step that exceeded its time or memory fails the run at once, and so does each step without `auto_retry`."""
    plain, odd = a_workflow(python_step("one", "return 1")), a_workflow(python_step("one", "return 1"), auto_retry="no")
    assert retry_delay_s(RETRIED, StepTimeoutError("slow"), RerunState()) is None
    assert retry_delay_s(RETRIED, StepMemoryError("large"), RerunState()) is None
    assert retry_delay_s(plain, StepError("no"), RerunState()) is None
    assert retry_delay_s(odd, StepError("no"), RerunState()) is None
    assert retry_delay_s(RETRIED, StepError("no"), RerunState()) is not None


@pytest.mark.parametrize(
    ("kind", "mode", "runs", "expected"),
    [
        ("rerun", "park", 2, "park"),
        ("rerun", "park", 3, "go_on"),
        ("rerun", "skip", 2, "again"),
        ("rerun", "skip", 3, "go_on"),
        ("delay", "skip", 9, "go_on"),
        ("delay", "wait", 9, "park"),
        ("suspend", "park", 9, "park"),
    ],
)
def test_a_decision(kind: Any, mode: PauseMode, runs: int, expected: str) -> None:
    """A rerun with at most two repetitions runs a third time, and not a fourth time; a skipped pause goes on."""
    assert decide_pause(Pause(kind, ms=1000, most=2), mode, runs=runs).action == expected


@pytest.mark.parametrize(("ms", "seconds"), [(1, 0.001), (MAX_PAUSE_MS, 366 * 86400), (MAX_PAUSE_MS + 1, 366 * 86400)])
def test_a_pause_lasts_a_year_at_most(ms: int, seconds: float) -> None:
    """A longer pause ends after the longest one."""
    assert decide_pause(Pause("delay", ms=ms), "park", runs=1).delay_s == seconds


def test_the_number_of_a_run_of_a_step() -> None:
    """Retries have the number of the run that failed; runs that could not start do not count among those that started."""
    state = RerunState(run_number=5, retries=2, unstarted=1)

    assert (state.runs, state.started_number) == (3, 4)


@pytest.mark.parametrize("verb", ["resume", "cancel"])
def test_a_url_names_its_pause(verb: FlowVerb) -> None:
    """Each URL has a token of its own, for one pause of one step of one run."""
    urls = build_flow_urls("https://hooks.example", KEY, sign)
    url, other = urls[f"{verb}_url"], urls["cancel_url" if verb == "resume" else "resume_url"]
    number, other_number = url.rpartition("/")[2], other.rpartition("/")[2]

    assert url.startswith(f"https://hooks.example/-/{verb}/run1/ask/1.3.")
    assert len(number) == len("1.3.") + 32
    assert verify_flow_url(verb, "run1", "ask", number, sign) == KEY
    assert verify_flow_url(verb, "run1", "ask", other_number, sign) is None
    assert verify_flow_url(verb, "run2", "ask", number, sign) is None
    assert verify_flow_url(verb, "run1", "other", number, sign) is None
    assert verify_flow_url(verb, "run1", "ask", f"1.4.{number[4:]}", sign) is None
    assert verify_flow_url(verb, "run1", "ask", f"2.3.{number[4:]}", sign) is None


@pytest.mark.parametrize("number", ["", "1", "1.3", "1.3.", "x.3.00", "1.²3.00", "-1.3.00", "1.9999999999.00", "1.3.é"])
def test_a_damaged_number_is_refused(number: str) -> None:
    """Another text than `ITERATION.NUMBER.TOKEN` names no pause."""
    assert verify_flow_url("resume", "run1", "ask", number, sign) is None


def test_urls_without_a_server_name_no_host() -> None:
    """The URLs of a run that is not served have a host that cannot exist."""
    assert build_flow_urls(None, KEY, sign)["resume_url"] == "https://not-served.invalid/resume/run1/ask"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 seconds"),
        (1, "1 second"),
        (60, "1 minute"),
        (90, "90 seconds"),
        (7200, "2 hours"),
        (86400, "1 day"),
        (90000, "25 hours"),
    ],
)
def test_a_duration_has_the_largest_whole_unit(seconds: float, text: str) -> None:
    """Seconds, minutes, hours and days."""
    assert format_duration(seconds) == text
