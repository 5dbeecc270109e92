"""The outbound policy of a crash test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.annex.crash_test import choose_crash_policy
from pdkernel.egress.outbound_policy import PolicyCell
from pdkernel.errors import RequestError


@pytest.mark.parametrize("given", ["live", "allow=api.example.test"])
def test_real_calls_need_a_permission(given: str) -> None:
    """A policy that sends calls for real is refused with the reason, unless it is permitted."""
    with pytest.raises(RequestError, match=r"would be sent for real: once for each crash point[\s\S]*add --real-calls"):
        choose_crash_policy(given, {})

    assert choose_crash_policy(given, {}, permits_real_calls=True).mode_text == given


def test_a_crash_test_records_nothing(tmp_path: Path) -> None:
    """A recording is made by a run, not by a crash test, also with the permission."""
    with pytest.raises(RequestError, match=r"does not record them[\s\S]*--egress replay="):
        choose_crash_policy(f"record={tmp_path / 'calls.jsonl'}", {}, permits_real_calls=True)


@pytest.mark.parametrize("text", ["live", "stand-in=slack"])
def test_a_cell_that_sends_nothing_decides(text: str, tmp_path: Path) -> None:
    """The notebook's cell decides if it sends nothing; `live` in a cell is not asked for this test, so calls are refused."""
    chosen = choose_crash_policy(None, {}, cells=[PolicyCell(1, text, tmp_path)])

    assert chosen.mode_text == ("deny" if text == "live" else text)


def test_the_environment_does_not_permit_real_calls() -> None:
    """`PDKERNEL_EGRESS=live` is meant for other commands."""
    assert choose_crash_policy(None, {"PDKERNEL_EGRESS": "live"}).mode == "deny"


def test_the_recording_of_the_event_answers(tmp_path: Path) -> None:
    """Without a policy, the recording beside the event answers if there is one."""
    file = tmp_path / "order.recorded.jsonl"
    without = choose_crash_policy(None, {}, recording=file)
    file.touch()

    assert without.mode == "deny"
    assert choose_crash_policy(None, {}, recording=file).recording_file == file
