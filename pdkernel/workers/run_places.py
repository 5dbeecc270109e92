"""
The places of runs: how many runs execute at once, and which run is next.

Free places go to external users in turn, so that the waiting runs of one user do not hold up those of another. A run that waits for a
run that its step has started (a child run) does not execute: it lends its place to the child run, and has it back when the child run
has ended. Only runs that execute have a place, and these end without waiting for another run's place, so no run waits for ever.

Parallel branches of a run share its place: the run executes while at least one of them does, and lends the place when all wait for
child runs.

A run that must be alone needs all places: when it is its turn, no other run gets one until the runs that execute have ended.

Most steps wait for an API, and some compute. So there may be more places than at the start while runs wait for one, as long as the
machine has processors and memory to spare.
"""

# ruff: noqa: SLF001 - the places of a tree of runs and of all runs are one mechanism

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

BEFORE_ALONE_S = 1.0
"""
Seconds for which a run that must be alone lets others go first.

It may end the process, perhaps as soon as it has started, so after each start the runs that need not be alone get further.
"""

_ALONE = object()
"""The turn of the runs that must be alone."""
_ALL = 1 << 30
"""The places that a run needs that must be alone."""

ADJUST_INTERVAL_S = 0.1
"""Seconds between two looks whether there may be more places, or must be fewer."""
_COUNTED_TIMES = 8  # of a processor (Linux): what follows is counted in the first ones, too
MIN_IDLE_SHARE, ENOUGH_IDLE_SHARE = 0.02, 0.1
"""The share of the processors' time that is idle: with less than the first there are fewer places, and with the second there may be more."""


class Spare(Protocol):
    """What a machine has to spare for more runs."""

    def idle_share(self) -> float:
        """Return the share of the processors' time since the last call that was idle, from 0 to 1."""
        ...

    def has_memory(self) -> bool:
        """Return whether the workers of one more run fit into the memory."""
        ...


class MachineSpare:
    """
    `Spare` of this machine.

    Args:
        has_memory: As for `Spare`.
    """

    def __init__(self, has_memory: Callable[[], bool]) -> None:
        self.has_memory = has_memory
        self._idle_s, self._total_s = self._read_times()

    def idle_share(self) -> float:
        """Return the share of the processors' time since the last call that was idle, also while it waited for a disk."""
        idle_s, total_s = self._read_times()
        idle, total = idle_s - self._idle_s, total_s - self._total_s
        self._idle_s, self._total_s = idle_s, total_s
        return idle / total if total > 0 else 0.0

    @staticmethod
    def _read_times() -> tuple[float, float]:
        """Return the seconds that the processors were idle, and all seconds, since the machine started."""
        import psutil  # slow to import, and most commands execute one run at a time

        times = psutil.cpu_times()
        return times.idle + getattr(times, "iowait", 0.0), sum(times[:_COUNTED_TIMES])


class RunPlaces:
    """
    The places of the runs of one event loop.

    Args:
        count: The number of runs that execute at once.
        most: The number that may execute at once as long as *spare* permits it; None for *count*.
        spare: What the machine has to spare.
        before_alone_s: Seconds for which a run that must be alone lets others go first.
    """

    def __init__(
        self,
        count: int,
        *,
        most: int | None = None,
        spare: Spare | None = None,
        before_alone_s: float = BEFORE_ALONE_S,
    ) -> None:
        self.before_alone_s = before_alone_s
        self._count = self._least = count
        self._most = count if most is None or spare is None else most
        self._spare = spare
        self._adjusting: asyncio.TimerHandle | None = None
        self._used = 0
        self._reserved = 0  # free places that runs expect
        self._turns: dict[Hashable, deque[RunPlace]] = {}  # the runs that wait, by turn; the first turn is next

    def new(
        self, turn: Hashable, parent: RunPlace | None = None, *, is_alone: bool = False, deaths: int = 0
    ) -> RunPlace:
        """
        Return the place of a run that has not begun to execute.

        Args:
            turn: The runs of a turn start in their order; turns follow one another with a run each. The external user, or None.
            parent: The place of the run that waits for this one, inside `RunPlace.lent`; or None.
            is_alone: Whether the run executes alone. These runs have a turn of their own.
            deaths: In that turn, the run for which the fewest processes have died is first.
        """
        return RunPlace(self, _ALONE if is_alone else turn, parent, size=_ALL if is_alone else 1, deaths=deaths)

    @property
    def expected(self) -> int:
        """The number of runs that would get a place at once."""
        return 0 if self._turns else max(0, self._count - self._used - self._reserved)

    def _has_free(self, size: int) -> bool:
        return self._used < self._count if size < _ALL else self._used == 0

    def _take_free(self, size: int) -> bool:
        if self._turns or not self._has_free(size):
            return False
        self._used += size
        return True

    def _release(self, size: int) -> None:
        """Give places to the next runs, or keep them free."""
        self._used -= size
        self._fill()

    def _adjust_later(self) -> None:
        """Look in a moment whether there may be more places, or must be fewer; while runs wait, and while there are more than at the start."""
        if self._adjusting is None and (self._count > self._least or (self._turns and self._most > self._least)):
            assert self._spare is not None, "there is more than one number of places"
            self._spare.idle_share()  # what was before does not count at the next look
            self._adjusting = asyncio.get_running_loop().call_later(ADJUST_INTERVAL_S, self._adjust)

    def _adjust(self) -> None:
        self._adjusting = None
        assert self._spare is not None, "there is more than one number of places"
        idle = self._spare.idle_share()
        step = max(1, self._count // 4)
        if idle < MIN_IDLE_SHARE:
            self._count = max(self._least, self._count - step)
        elif not self._turns:
            self._count = max(self._least, min(self._count, self._used + step))
        elif idle >= ENOUGH_IDLE_SHARE and self._spare.has_memory():
            self._count = min(self._most, self._count + step)
            self._fill()
        self._adjust_later()

    def _fill(self) -> None:
        while self._turns:
            turn, queue = next(iter(self._turns.items()))
            if not self._has_free(queue[0].size):  # behind a run that must be alone, no other run gets a place before
                return
            place = queue.popleft()
            del self._turns[turn]
            if queue:
                self._turns[turn] = queue  # after all other turns
            self._used += place.size
            place._receive(place.size)

    def _enqueue(self, place: RunPlace, *, is_first: bool) -> None:
        queue = self._turns.setdefault(place.turn, deque())
        if place.turn is _ALONE:
            ordered = sorted((*queue, place), key=lambda each: each.deaths)
            queue.clear()
            queue.extend(ordered)
        else:
            (queue.appendleft if is_first else queue.append)(place)
        self._adjust_later()

    def _dequeue(self, place: RunPlace) -> None:
        queue = self._turns.get(place.turn)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._turns[place.turn]


class RunPlace:
    """
    The place of one run: it has a place while it executes, and while it keeps the place for its child runs.

    Attributes:
        turn: As for `RunPlaces.new`; runs that must be alone share one.
        size: The places that the run needs: 1, or all.
        deaths: As for `RunPlaces.new`.
        parent: As for `RunPlaces.new`.
        has_begun: Whether the run has had its place.
        steps: The steps outside of parallel branches.
        on_change: Called when the run has got or lost its place, or waits for it, until `give_back`.
    """

    def __init__(self, places: RunPlaces, turn: Hashable, parent: RunPlace | None, *, size: int, deaths: int) -> None:
        self.turn = turn
        self.size = size
        self.deaths = deaths
        self.has_begun = False
        self.steps = StepSequence(self)
        self.on_change: Callable[[], None] | None = None
        self.parent = parent
        self._places = places
        self._held = 0  # places; a run whose place was lent by one that is alone has all
        self._is_reserved = self._has_ended = False
        self._waiters: list[asyncio.Future[None]] = []  # done when the run has a place
        self._waiting: deque[RunPlace] = deque()  # the runs below that wait for a place
        self._held_count = 0  # places of this run and of all runs below it
        self._executing = 1  # sequences of steps that execute, or would if the run had its place
        self._calls = self._sleeping_calls = 0  # child runs that steps wait for, and those of them that need no place
        self._is_asleep = False

    @property
    def is_held(self) -> bool:
        """Whether the run has a place."""
        return self._held > 0

    @property
    def is_alone(self) -> bool:
        """Whether the run executes, and no other run does."""
        return self.turn is _ALONE and self._held >= self.size

    def reserve(self) -> bool:
        """Return whether the run will probably get its place at once; if so, `take` or `give_back` must follow."""
        if self.turn is _ALONE:
            return False
        if self._find_lender() is not None:
            return True
        if self._places.expected == 0:
            return False
        self._reserve(True)
        return True

    def _reserve(self, is_reserved: bool) -> None:
        self._places._reserved += is_reserved - self._is_reserved
        self._is_reserved = is_reserved

    async def take(self) -> None:
        """Wait until the run has its place."""
        self._has_ended = False
        if self.turn is _ALONE and not self.has_begun:
            await asyncio.sleep(self._places.before_alone_s)
        self._reserve(False)
        if self.is_held:
            return
        lender = self._find_lender()
        if lender is not None:
            lender._lend_to(self)
        elif self._places._take_free(self.size):
            self._receive(self.size)
        else:
            await self._wait()

    def _find_lender(self) -> RunPlace | None:
        return next((each for each in self._above() if each._held >= self.size and not each._executing), None)

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            self._places._enqueue(self, is_first=self.has_begun)
            for above in self._above():
                above._waiting.append(self)
            self._update_sleep()
            self._notify()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                if not self._waiters:
                    self._leave_queues()
                    self._places._fill()  # others may have waited behind a run that must be alone
            elif self.is_held and self._executing == 1:  # the run has got its place meanwhile, only for this
                self._pass_on()
            raise

    def give_back(self) -> None:
        """Give the place back, because the run has ended or pauses. A second call does nothing."""
        self.on_change = None
        self._reserve(False)
        self._has_ended = True
        self._update_sleep()
        if self.is_held:
            self._pass_on()

    @contextmanager
    def sleeping(self) -> Iterator[None]:
        """Inside of the context, one of the child runs needs no place of this run: it is paused, or waits elsewhere for its start."""
        self._sleeping_calls += 1
        self._update_sleep()
        try:
            yield
        finally:
            self._sleeping_calls -= 1
            self._update_sleep()

    def _receive(self, held: int) -> None:
        """Let the run have *held* places."""
        self.has_begun = True
        self._hold(held)
        if self._waiters:
            waiters = [each for each in self._waiters if not each.done()]  # the others are being cancelled
            self._waiters = []
            self._leave_queues()
            for waiter in waiters:
                waiter.set_result(None)
            if not waiters and self._executing and self.is_held:
                self._pass_on()
        self._lend()

    def _leave_queues(self) -> None:
        self._places._dequeue(self)
        for above in self._above():
            above._waiting.remove(self)
        self._update_sleep()

    def _lend(self) -> None:
        """Pass the place on to a run below that waits for one, or to other runs if no run below needs it, unless steps execute."""
        if not self.is_held or self._executing:
            return
        if self._waiting:
            self._lend_to(self._waiting[0])
        elif self._is_asleep:
            self._pass_on()

    def _lend_to(self, place: RunPlace) -> None:
        held = self._held
        self._hold(0)
        place._receive(held)

    def _pass_on(self) -> None:
        """Give the place to the nearest run above that needs it, else to the next run in turn."""
        held = self._held
        self._hold(0)
        needing = next((each for each in self._above() if each.size <= held and each._needs_place()), None)
        if needing is not None:
            needing._receive(held)
        else:
            self._places._release(held)

    def _needs_place(self) -> bool:
        if self._has_ended or self.is_held:
            return False
        # without a place below, no child run would go on, and this run would have none when they have ended
        return bool(self._waiters) or (
            not self._executing and self._calls > 0 and self._held_count == 0 and not self._is_asleep
        )

    def _hold(self, held: int) -> None:
        change = bool(held) - self.is_held
        self._held = held
        for place in (self, *self._above()):
            place._held_count += change
        self._notify()

    def _notify(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _above(self) -> Iterator[RunPlace]:
        """Yield the runs that wait for this one, directly or not, nearest first."""
        place = self.parent
        while place is not None:
            yield place
            place = place.parent

    def _update_sleep(self) -> None:
        """Note whether the run only waits for child runs that need no place; the place is then free for other runs."""
        is_idle = not self._executing and 0 < self._calls == self._sleeping_calls
        is_asleep = is_idle and not self._has_ended and not self._waiters
        if is_asleep != self._is_asleep:
            self._is_asleep = is_asleep
            if self.parent is not None:
                self.parent._sleeping_calls += 1 if is_asleep else -1
                self.parent._update_sleep()
        self._lend()

    def _count(self, *, executing: int = 0, calls: int = 0) -> None:
        """Note that so many more sequences of steps execute, and that steps wait for so many more child runs."""
        self._executing += executing
        self._calls += calls
        self._update_sleep()


class StepSequence:
    """
    Steps of a run that run one after another: those of a parallel branch, or those outside of parallel branches.

    Attributes:
        place: The place of the run, which all sequences share.
    """

    def __init__(self, place: RunPlace) -> None:
        self.place = place
        self._calls = 0  # child runs that the present step waits for
        self._no_calls: asyncio.Future[None] | None = None
        self._has_ended = False

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """
        Wait for a child run inside of the context, which ends when the run has its place again.

        While no other sequence of the run executes, child runs have the place.
        """
        self._calls += 1
        self.place._count(executing=-1 if self._calls == 1 else 0, calls=1)
        try:
            yield
        except BaseException:
            self._end_call()
            raise
        self._end_call()
        if self._calls == 0 and not self._has_ended and not self.place._has_ended:
            await self.place.take()

    def _end_call(self) -> None:
        self._calls -= 1
        self.place._count(executing=1 if self._calls == 0 and not self._has_ended else 0, calls=-1)
        if self._calls == 0 and self._no_calls is not None and not self._no_calls.done():
            self._no_calls.set_result(None)

    async def settle(self) -> None:
        """Wait until child runs that the sequence no longer waits for have ended, and the run has its place again."""
        if self.place.is_held and not self._calls:  # as at the end of most steps
            return
        while self._calls:
            self._no_calls = asyncio.get_running_loop().create_future()
            await self._no_calls
        await self.place.take()

    @asynccontextmanager
    async def split(self) -> AsyncIterator[None]:
        """Wait for parallel branches inside of the context, which ends when the run has its place again."""
        self.place._count(executing=-1)
        try:
            yield
        finally:
            self.place._count(executing=1)
        if not self.place._has_ended:
            await self.place.take()

    @asynccontextmanager
    async def branch(self) -> AsyncIterator[StepSequence]:
        """Execute the steps of a branch inside of the context, which begins when the run has its place; inside of `split`."""
        sequence = StepSequence(self.place)
        self.place._count(executing=1)
        try:
            await self.place.take()
            yield sequence
        finally:
            sequence._has_ended = True
            self.place._count(executing=-1 if sequence._calls == 0 else 0)  # it may have abandoned child runs
