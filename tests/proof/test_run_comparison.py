"""Differences between two recorded runs."""

from __future__ import annotations

from pdkernel.execution import OutboundCall
from pdkernel.proof.run_comparison import compare_runs
from pdkernel.proof.side_runner import SideRun
from tests.render.builders import a_call, an_execution, with_step


def calling(*calls: OutboundCall) -> SideRun:
    """A run whose step `check` has sent *calls*."""
    return SideRun(with_step(an_execution(), "check", requests=calls), {})


def test_the_order_of_outbound_calls_is_ignored() -> None:
    """Concurrent calls may end in any order; another status is a difference."""
    first, second = a_call(url="https://one.example/"), a_call(url="https://two.example/")

    reordered = compare_runs(calling(first, second), calling(second, first))
    changed = compare_runs(calling(first, second), calling(first, a_call(url="https://two.example/", status=500)))

    assert not any(reordered.values())
    assert [name for name, differences in changed.items() if differences] == ["check"]
