"""Child runs that wait for the turn of a workflow whose run waits for them."""

from __future__ import annotations

import pytest

from pdkernel.journal import Journal
from tests.journal.conftest import new_run


async def start(journal: Journal, run_id: str, queue: str, parent: str | None = None) -> None:
    """Record a run of the workflow *queue* that waits."""
    assert await journal.accept_run(new_run(run_id, queue=queue, workflow=queue, parent=parent))


async def limit(journal: Journal, *queues: str, concurrency: int = 1) -> None:
    """Limit the concurrency of the queues."""
    for queue in queues:
        await journal.set_queue_limits(queue, concurrency=concurrency)


async def test_two_runs_that_start_each_others_workflow(journal: Journal) -> None:
    """Of the two child runs, the later one has the circle; without it, the other is not in one."""
    await limit(journal, "a", "b")
    for run_id in ("a1", "b1"):
        await start(journal, run_id, run_id[0])
        assert await journal.claim(run_id) is not None
    await start(journal, "b2", "b", parent="a1")
    before = await journal.find_circle("b2")
    await start(journal, "a2", "a", parent="b1")
    found = [await journal.find_circle(run_id) for run_id in ("b2", "a2")]
    await journal.cancel("a2")

    assert before == ()
    assert found == [(), ["a", "b"]]
    assert await journal.find_circle("b2") == ()


@pytest.mark.parametrize("free", ["turn", "holder"])
async def test_a_wait_that_ends_is_not_a_circle(journal: Journal, free: str) -> None:
    """Runs do not wait for each other if a turn is free, or if one of those that hold the turns waits for nothing."""
    await limit(journal, "a")
    await limit(journal, "b", concurrency=2)
    for run_id in ("a1", "b1", *(["b9"] if free == "holder" else [])):
        await start(journal, run_id, run_id[0])
        assert await journal.claim(run_id) is not None
    await start(journal, "b2", "b", parent="a1")
    await start(journal, "a2", "a", parent="b1")

    assert [await journal.find_circle(run_id) for run_id in ("a2", "b2")] == [(), ()]


async def test_a_circle_over_a_workflow_without_limits(journal: Journal) -> None:
    """A child run in progress that has started the waiting one is part of the circle; a run behind the circle is not."""
    await limit(journal, "a", "b")
    for run_id in ("a1", "b1", "c1"):
        await start(journal, run_id, run_id[0])
        assert await journal.claim(run_id) is not None
    await journal.accept_run(new_run("x1", workflow="x", parent="a1"))
    await start(journal, "b2", "b", parent="x1")
    await start(journal, "a2", "a", parent="b1")
    await start(journal, "a3", "a", parent="c1")

    assert await journal.find_circle("a2") == ["a", "x", "b"]
    assert await journal.find_circle("a3") == ()
    assert await journal.find_circle("b2") == ()


async def test_a_run_of_an_inner_queue_holds_the_turn_of_the_outer_one(journal: Journal) -> None:
    """A child run that waits for the workflow of its parent's batch is a circle, too."""
    await limit(journal, "a", "b")
    await journal.set_queue_limits("a/each", concurrency=5, within="a")
    assert await journal.accept_run(new_run("a1", queue="a/each", workflow="a"))
    assert await journal.claim("a1") is not None
    await start(journal, "b1", "b", parent="a1")
    assert await journal.claim("b1") is not None
    await start(journal, "a2", "a", parent="b1")

    assert await journal.find_circle("a2") == ["a", "b"]
