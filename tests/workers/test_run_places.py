"""The places of runs: turns of users, places lent to child runs, and no run that waits for ever."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from pdkernel.workers.run_places import ENOUGH_IDLE_SHARE, MachineSpare, RunPlace, RunPlaces, StepSequence

LIMIT_S = 60


async def settled() -> None:
    """Let all tasks go on as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Machine:
    """A machine whose idle processors and memory a test sets (`Spare`)."""

    def __init__(self) -> None:
        self.idle, self.memory = 1.0, True

    def idle_share(self) -> float:
        """Return the share that the test has set."""
        return self.idle

    def has_memory(self) -> bool:
        """Return what the test has set."""
        return self.memory


class Turns:
    """Runs of users at one place; notes the users in the order in which their runs begin."""

    def __init__(self, places: RunPlaces) -> None:
        self._places = places
        self.begun: list[str | None] = []

    def start(self, user: str | None, count: int = 1) -> None:
        """Let *count* runs of *user* wait; each ends as soon as other tasks had a chance."""
        self.tasks = [*getattr(self, "tasks", []), *(asyncio.ensure_future(self._run(user)) for _ in range(count))]

    async def _run(self, user: str | None) -> None:
        place = self._places.new(user)
        await place.take()
        self.begun.append(user)
        await settled()
        place.give_back()


async def test_users_take_turns() -> None:
    """A new user's run begins after at most one run of each other user; runs of a user begin in their order."""
    turns = Turns(RunPlaces(1))
    turns.start("ada", 60)
    turns.start("bob", 60)
    turns.start(None, 60)
    while len(turns.begun) < 20:
        await asyncio.sleep(0)
    before = len(turns.begun)

    turns.start("grace", 2)
    await asyncio.wait_for(asyncio.gather(*turns.tasks), LIMIT_S)

    assert "grace" in turns.begun[before : before + 4]
    assert all(set(turns.begun[n : n + 3]) == {"ada", "bob", None} for n in range(3, before - 3))
    assert len(turns.begun) == 182


@pytest.mark.parametrize("seed", range(20))
async def test_no_user_is_served_twice_while_another_waits(seed: int) -> None:
    """Between the arrival of a run and its begin, each other user begins at most one run for each run of its user before it."""
    chance = random.Random(seed)
    places = RunPlaces(1)
    waiting: list[tuple[str, RunPlace]] = []
    begun: list[tuple[str, RunPlace]] = []
    waits: list[tuple[int, int]] = []  # runs of the user before a run; the most runs of another user that overtook it

    async def run(user: str) -> None:
        own = (user, places.new(user))
        ahead = [each for each in waiting if not each[1].is_held]
        waiting.append(own)
        first = len(begun)
        chosen = [each for each in waiting if each[1].is_held]  # they begin as soon as their tasks run
        await own[1].take()
        overtaking = [name for name, place in begun[first:] if name != user and (name, place) not in chosen]
        waits.append((sum(name == user for name, _ in ahead), max(map(overtaking.count, set(overtaking)), default=0)))
        waiting.remove(own)
        begun.append(own)
        for _ in range(chance.randint(0, 5)):
            await asyncio.sleep(0)
        own[1].give_back()

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.ensure_future(run(chance.choice("aaaaaaaabcd"))))
        if chance.random() < 0.4:
            await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)

    assert [each for each in waits if each[1] > each[0] + 1] == []
    assert len(begun) == 200


async def test_a_chain_of_runs_has_one_place() -> None:
    """A run that waits lends its place to its child run, and so on; another run waits until the chain has ended."""
    places, order = RunPlaces(1), []

    async def chain(depth: int, parent: RunPlace | None) -> None:
        place = places.new("ada", parent)
        await place.take()
        order.append(depth)
        if depth < 10:
            async with place.steps.lent():
                await chain(depth + 1, place)
            assert place.is_held
        order.append(-depth)
        place.give_back()

    async def other() -> None:
        place = places.new("bob")
        await place.take()
        order.append(99)
        place.give_back()

    await asyncio.wait_for(asyncio.gather(chain(1, None), other()), LIMIT_S)

    assert order == [*range(1, 11), *range(-10, 0), 99]


async def test_a_run_that_only_waits_for_paused_runs_has_no_place() -> None:
    """A paused child run, and one that is executed elsewhere, leave the place to other runs; so does the chain above."""
    places = RunPlaces(1)
    top = places.new("ada")
    await top.take()
    wakes, order = asyncio.Event(), []

    async def middle() -> None:
        place = places.new("ada", top)
        await place.take()
        async with place.steps.lent():
            with place.sleeping():
                await wakes.wait()
        order.append("middle")
        place.give_back()

    async def wait() -> None:
        async with top.steps.lent():
            await middle()
        order.append("top")
        top.give_back()

    task = asyncio.ensure_future(wait())
    await settled()
    other = places.new("bob")
    await asyncio.wait_for(other.take(), LIMIT_S)
    wakes.set()
    await settled()
    blocked = list(order)
    other.give_back()
    await asyncio.wait_for(task, LIMIT_S)

    assert (blocked, order) == ([], ["middle", "top"])


async def test_a_cancelled_run_gives_its_turn_away() -> None:
    """A run that is cancelled while it waits, also just when its turn has come, leaves the place to the next one."""
    places = RunPlaces(1)
    first, second, third = (places.new(user) for user in ("ada", "bob", "grace"))
    await first.take()
    waits = [asyncio.ensure_future(each.take()) for each in (second, third)]
    await settled()

    first.give_back()
    waits[0].cancel()
    await asyncio.wait_for(waits[1], LIMIT_S)

    assert (second.is_held, third.is_held) == (False, True)


async def test_a_run_waits_for_child_runs_that_it_has_abandoned() -> None:
    """A step that ends before its child runs have ended: the run goes on when they have, with its place."""
    places = RunPlaces(1)
    parent, ends = places.new("ada"), asyncio.Event()
    await parent.take()

    async def child() -> None:
        async with parent.steps.lent():
            place = places.new("ada", parent)
            await place.take()
            try:
                await asyncio.Event().wait()
            finally:
                await ends.wait()  # as a run that records its end
                place.give_back()

    call = asyncio.ensure_future(child())
    await settled()
    call.cancel()
    settle = asyncio.ensure_future(parent.steps.settle())
    await settled()
    waited = not settle.done() and not parent.is_held
    ends.set()
    await asyncio.wait_for(settle, LIMIT_S)

    assert waited
    assert parent.is_held


async def test_a_branch_that_waits_for_a_child_run_leaves_the_place_to_the_other_branches() -> None:
    """While a branch executes, a child run of another branch waits for a place; it has that of the run when no branch executes."""
    places = RunPlaces(1)
    parent = places.new("ada")
    await parent.take()
    child = places.new("ada", parent)
    order, computed = [], asyncio.Event()

    async def call() -> None:
        async with parent.steps.branch() as steps, steps.lent():
            await child.take()
            order.append("child")
            child.give_back()

    async def compute() -> None:
        async with parent.steps.branch():
            await computed.wait()
            order.append("branch")

    async def run() -> None:
        async with parent.steps.split():
            await asyncio.gather(compute(), call())
        order.append("run")
        parent.give_back()

    task = asyncio.ensure_future(run())
    await settled()
    during = (parent.is_held, child.is_held)
    computed.set()
    await asyncio.wait_for(task, LIMIT_S)

    assert during == (True, False)
    assert order == ["branch", "child", "run"]
    assert places.expected == 1


async def test_a_run_has_no_place_while_each_branch_waits_for_a_paused_run() -> None:
    """When the last branch that executes has ended, and child runs of the others are paused, another run has the place."""
    places = RunPlaces(1)
    parent, other = places.new("ada"), places.new("bob")
    await parent.take()
    wakes, computed = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        async with parent.steps.branch() as steps, steps.lent():
            with parent.sleeping():
                await wakes.wait()

    async def compute() -> None:
        async with parent.steps.branch():
            await computed.wait()

    async def run() -> None:
        async with parent.steps.split():
            await asyncio.gather(compute(), wait())
        parent.give_back()

    task = asyncio.ensure_future(run())
    waiting = asyncio.ensure_future(other.take())
    await settled()
    before = other.is_held
    computed.set()
    await asyncio.wait_for(waiting, LIMIT_S)
    other.give_back()
    wakes.set()
    await asyncio.wait_for(task, LIMIT_S)

    assert not before
    assert places.expected == 1


async def test_a_run_that_must_be_alone_executes_alone() -> None:
    """It begins when the runs that execute have ended, no other run begins before it has ended, and then they go on."""
    places = RunPlaces(3, before_alone_s=0)
    first, alone, later = places.new("ada"), places.new("ada", is_alone=True), places.new("bob")
    await first.take()
    waiting = asyncio.ensure_future(alone.take())
    await settled()
    following = asyncio.ensure_future(later.take())
    await settled()
    before = (alone.is_held, later.is_held, places.expected)
    first.give_back()
    await waiting
    await settled()
    during = (alone.is_alone, later.is_held, places.expected)
    alone.give_back()
    await following

    assert before == (False, False, 0)
    assert during == (True, False, 0)
    assert (later.is_held, later.is_alone, places.expected) == (True, False, 2)


async def test_a_run_that_must_be_alone_lets_others_go_first() -> None:
    """Runs that come a moment later than it begin before it: it may end the process."""
    places = RunPlaces(1, before_alone_s=0.05)
    alone, other = places.new("ada", is_alone=True), places.new("bob")
    waiting = asyncio.ensure_future(alone.take())
    await settled()

    await other.take()

    assert (other.is_held, alone.is_held) == (True, False)
    other.give_back()
    await asyncio.wait_for(waiting, LIMIT_S)


async def test_of_runs_that_must_be_alone_the_least_suspect_one_is_first() -> None:
    """The run for which the fewest processes have died begins first."""
    places = RunPlaces(2, before_alone_s=0)
    first = places.new("ada")
    await first.take()
    begun: list[int] = []

    async def run(deaths: int) -> None:
        place = places.new("ada", is_alone=True, deaths=deaths)
        await place.take()
        begun.append(deaths)
        await settled()
        place.give_back()

    tasks = [asyncio.ensure_future(run(deaths)) for deaths in (3, 0, 2)]
    await settled()
    first.give_back()
    await asyncio.wait_for(asyncio.gather(*tasks), LIMIT_S)

    assert begun == [0, 2, 3]


async def test_a_cancelled_run_that_must_be_alone_holds_up_no_other() -> None:
    """If it is cancelled while it waits for the others to end, the runs behind it begin."""
    places = RunPlaces(2, before_alone_s=0)
    first, alone, later = places.new("ada"), places.new("ada", is_alone=True), places.new("bob")
    await first.take()
    waiting = asyncio.ensure_future(alone.take())
    await settled()
    following = asyncio.ensure_future(later.take())
    await settled()

    waiting.cancel()
    await asyncio.wait_for(following, LIMIT_S)

    assert later.is_held


async def test_a_run_is_not_alone_while_its_child_run_executes() -> None:
    """A run that has lent its places is told that it has lost them, and that it has them again; no other run begins."""
    places = RunPlaces(2, before_alone_s=0)
    parent, other = places.new("ada", is_alone=True), places.new("bob")
    seen: list[bool] = []
    parent.on_change = lambda: seen.append(parent.is_alone)
    await parent.take()
    waiting = asyncio.ensure_future(other.take())
    async with parent.steps.lent():
        child = places.new("ada", parent)
        await child.take()
        await settled()
        during = (child.is_held, child.is_alone, parent.is_held, other.is_held)
        child.give_back()
    after = (parent.is_alone, other.is_held)
    parent.give_back()
    await waiting

    assert during == (True, False, False, False)
    assert (after, seen) == ((True, False), [True, False, True])


async def test_reserved_places_are_not_expected_by_others() -> None:
    """As many runs as there are places expect one, until they take it or end."""
    places = RunPlaces(2)
    first, second, third = (places.new("ada") for _ in range(3))
    reserved = [first.reserve(), second.reserve(), third.reserve()]
    await first.take()
    second.give_back()

    assert reserved == [True, True, False]
    assert third.reserve()
    assert places.expected == 0


class Simulation:
    """
    Random trees of runs, which pause, split into branches, start child runs one after another or at once, end early and are cancelled.

    Args:
        seed: Makes the choices.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.count = self.chance.randint(1, 4)
        self.places = RunPlaces(self.count, before_alone_s=0)
        self.executing = Counter[RunPlace]()  # branches
        self.most = 0

    async def execute(self, place: RunPlace) -> None:
        """Execute code of a run, which has a place."""
        assert place.is_held
        self.executing[place] += 1
        self.most = max(self.most, len(self.executing))
        try:
            for _ in range(self.chance.randint(0, 3)):
                assert place.is_held
                assert not place.is_alone or len(self.executing) == 1
                await asyncio.sleep(0)
        finally:
            self.executing[place] -= 1
            self.executing += Counter()  # without the places of zero branches

    async def run(self, depth: int, user: str, parent: RunPlace | None) -> None:
        """One run."""
        place = self.places.new(user, parent, is_alone=parent is None and self.chance.random() < 0.2)
        await place.take()
        try:
            await self.steps(depth, user, place.steps)
        finally:
            place.give_back()

    async def steps(self, depth: int, user: str, sequence: StepSequence, nesting: int = 0) -> None:
        """Up to three steps, or blocks of parallel branches."""
        for _ in range(self.chance.randint(1, 3)):
            await self.execute(sequence.place)
            if nesting < 3 and self.chance.random() < 0.2:
                await self.block(depth, user, sequence, nesting)
            elif depth < 5 and self.chance.random() < 0.5:
                await self.step(depth, user, sequence)

    async def block(self, depth: int, user: str, sequence: StepSequence, nesting: int) -> None:
        """Execute up to three branches at once; one may fail, and then all end."""

        async def branch() -> None:
            async with sequence.branch() as own:
                await self.steps(depth, user, own, nesting + 1)

        async with sequence.split():
            branches = [asyncio.ensure_future(branch()) for _ in range(self.chance.randint(0, 3))]
            try:
                if branches and self.chance.random() < 0.2:
                    await asyncio.sleep(0)
                elif branches:
                    await asyncio.wait(branches)
            finally:
                for each in branches:
                    each.cancel()
                await asyncio.gather(*branches, return_exceptions=True)
            for each in branches:
                assert each.cancelled() or each.exception() is None

    async def step(self, depth: int, user: str, sequence: StepSequence) -> None:
        """A step that starts child runs, and may end before they do."""
        calls = [
            asyncio.ensure_future(self.call(depth, user, sequence)) for _ in range(self.chance.choice([1, 1, 2, 2, 3]))
        ]
        try:
            if self.chance.random() < 0.2:
                await asyncio.sleep(0)
            else:
                await asyncio.wait(calls)
        finally:
            for call in calls:
                call.cancel()
        await sequence.settle()

    async def call(self, depth: int, user: str, sequence: StepSequence) -> None:
        """Start a child run; it may pause, and may continue outside of the tree."""
        place = sequence.place
        async with sequence.lent():
            await asyncio.sleep(0)
            await self.run(depth + 1, user, place)
            if self.chance.random() < 0.3:
                with place.sleeping():
                    for _ in range(self.chance.randint(0, 9)):
                        await asyncio.sleep(0)
                    if self.chance.random() < 0.5:
                        await self.run(depth + 1, user, None)
                        return
                await self.run(depth + 1, user, place)


@pytest.mark.parametrize("seed", range(150))
async def test_no_more_runs_execute_than_places_exist_and_none_waits_for_ever(seed: int) -> None:
    """Whatever runs start, pause, abandon and cancel, each ends, and all places are free in the end."""
    simulation = Simulation(seed)
    chance = simulation.chance
    tasks = [asyncio.ensure_future(simulation.run(1, chance.choice("abc"), None)) for _ in range(12)]
    for _ in range(chance.choice([0, 0, 4])):
        for _ in range(chance.randint(1, 40)):
            await asyncio.sleep(0)
        chance.choice(tasks).cancel()

    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LIMIT_S)
    others = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
    await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), LIMIT_S)

    assert [each for each in done if isinstance(each, Exception)] == []
    assert simulation.most <= simulation.count
    assert (simulation.places._used, simulation.places._turns) == (0, {})


async def count_of(places: RunPlaces, *, wanted: int, within_s: float = LIMIT_S) -> list[RunPlace]:
    """Let runs take places until *wanted* have one, or until *within_s* seconds are over; return those that execute."""
    found = [places.new("ada") for _ in range(wanted + 5)]
    tasks = [asyncio.ensure_future(place.take()) for place in found]
    ends = asyncio.get_running_loop().time() + within_s
    while sum(place.is_held for place in found) < wanted and asyncio.get_running_loop().time() < ends:
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [place for place in found if place.is_held]


async def test_more_runs_execute_while_processors_are_idle() -> None:
    """While runs wait and processors are idle, there are more places, up to the limit; without waiting runs, there are as many as before."""
    places = RunPlaces(2, most=9, spare=Machine())

    executing = await count_of(places, wanted=9)
    assert len(executing) == 9
    for place in executing:
        place.give_back()
    while places.expected > 2:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("idle", "memory"), [(0.0, True), (0.05, True), (1.0, False)])
async def test_no_more_runs_execute_than_the_machine_permits(idle: float, memory: bool) -> None:
    """Without idle processors, or without memory for one more run, there are no more places than at the start."""
    machine = Machine()
    machine.idle, machine.memory = idle, memory
    places = RunPlaces(2, most=9, spare=machine)

    executing = await count_of(places, wanted=3, within_s=0.5)
    assert len(executing) == 2


async def test_runs_that_compute_get_fewer_places_again() -> None:
    """When the processors are busy, as many runs execute as at the start, as soon as others have ended."""
    machine = Machine()
    places = RunPlaces(2, most=9, spare=machine)
    executing = await count_of(places, wanted=9)

    machine.idle = 0.0
    await asyncio.sleep(1)
    for place in executing:
        place.give_back()
    assert len(await count_of(places, wanted=3, within_s=0.3)) == 2


async def test_a_run_that_must_be_alone_is_alone_among_more_places() -> None:
    """A run that must be alone waits for all others, however many places there are, and no other run begins beside it."""
    places = RunPlaces(2, most=9, spare=Machine(), before_alone_s=0)
    executing = await count_of(places, wanted=6)
    alone = places.new("bob", is_alone=True)
    taking = asyncio.ensure_future(alone.take())

    for place in executing[1:]:
        place.give_back()
    await settled()
    assert not alone.is_held
    executing[0].give_back()
    await asyncio.wait_for(taking, LIMIT_S)
    assert alone.is_alone
    assert await count_of(places, wanted=1, within_s=0.3) == []


def test_a_busy_processor_is_not_idle() -> None:
    """While as many processes compute as there are processors, no time is idle; the time before does not count."""
    spare = MachineSpare(lambda: True)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        time.sleep(0.5)  # until they have started
        spare.idle_share()
        time.sleep(1)
        assert spare.idle_share() < ENOUGH_IDLE_SHARE
    finally:
        for process in busy:
            process.kill()
            process.wait()
