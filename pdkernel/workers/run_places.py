"""
The places of runs: how many runs execute at once, and which run is next.

Free places go to external users in turn, so that the waiting runs of one user do not hold up those of another. A run that waits for a
run that its step has started (a child run) does not execute: it lends its place to the child run, and has it back when the child run
has ended. Only runs that execute have a place, and these end without waiting for another run's place, so no run waits for ever.
"""

# ruff: noqa: SLF001 - the places of a tree of runs and of all runs are one mechanism

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager


class RunPlaces:
    """
    The places of the runs of one event loop.

    Args:
        count: The number of runs that execute at once.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._turns: dict[Hashable, deque[RunPlace]] = {}  # the runs that wait, by turn; the first turn is next

    def new(self, turn: Hashable, parent: RunPlace | None = None) -> RunPlace:
        """
        Return the place of a run that has not begun to execute.

        Args:
            turn: The runs of a turn start in their order; turns follow one another with a run each. The external user, or None.
            parent: The place of the run that waits for this one, inside `RunPlace.lent`; or None.
        """
        return RunPlace(self, turn, parent)

    def _take_free(self) -> bool:
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def _release(self) -> None:
        """Give a place to the next run, or keep it free."""
        if not self._turns:
            self._free += 1
            return
        turn = next(iter(self._turns))
        queue = self._turns.pop(turn)
        place = queue.popleft()
        if queue:
            self._turns[turn] = queue  # after all other turns
        place._receive()

    def _enqueue(self, place: RunPlace, *, is_first: bool) -> None:
        queue = self._turns.setdefault(place.turn, deque())
        (queue.appendleft if is_first else queue.append)(place)

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
        turn: As for `RunPlaces.new`.
        is_held: Whether the run has a place.
    """

    def __init__(self, places: RunPlaces, turn: Hashable, parent: RunPlace | None) -> None:
        self.turn = turn
        self.is_held = False
        self._places = places
        self._parent = parent
        self._has_begun = self._has_ended = False
        self._waiters: list[asyncio.Future[None]] = []  # done when the run has a place
        self._waiting: deque[RunPlace] = deque()  # the runs below that wait for a place
        self._held_count = 0  # places of this run and of all runs below it
        self._calls = self._sleeping_calls = (
            0  # child runs that the step waits for, and those of them that need no place
        )
        self._is_asleep = False
        self._no_calls: asyncio.Future[None] | None = None

    async def take(self) -> None:
        """Wait until the run has a place."""
        if self.is_held:
            return
        lender = next((each for each in self._above() if each.is_held), None)
        if lender is not None:
            lender._hold(False)
            self._receive()
        elif self._places._take_free():
            self._receive()
        else:
            await self._wait()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            self._places._enqueue(self, is_first=self._has_begun)
            for above in self._above():
                above._waiting.append(self)
            self._update_sleep()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                if not self._waiters:
                    self._leave_queues()
            elif self.is_held and not self._calls:  # the run has got its place meanwhile
                self._pass_on()
            raise

    def give_back(self) -> None:
        """The run has ended or pauses."""
        self._has_ended = True
        self._update_sleep()
        if self.is_held:
            self._pass_on()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Lend the place to child runs inside of the context, which ends when this run has its place again."""
        self._calls += 1
        self._update_sleep()
        try:
            yield
        except BaseException:
            self._end_call()
            raise
        self._end_call()
        if self._calls == 0 and not self._has_ended:
            await self.take()

    def _end_call(self) -> None:
        self._calls -= 1
        self._update_sleep()
        if self._calls == 0 and self._no_calls is not None and not self._no_calls.done():
            self._no_calls.set_result(None)

    async def settle(self) -> None:
        """Wait until child runs that the run no longer waits for have ended, and the run has its place again."""
        while self._calls:
            self._no_calls = asyncio.get_running_loop().create_future()
            await self._no_calls
        await self.take()

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

    def _receive(self) -> None:
        """The run has a place."""
        self._hold(True)
        self._has_begun = True
        if self._waiters:
            waiters = [each for each in self._waiters if not each.done()]  # the others are being cancelled
            self._waiters = []
            self._leave_queues()
            for waiter in waiters:
                waiter.set_result(None)
            if not waiters and not self._calls and self.is_held:
                self._pass_on()
        self._lend()

    def _leave_queues(self) -> None:
        self._places._dequeue(self)
        for above in self._above():
            above._waiting.remove(self)
        self._update_sleep()

    def _lend(self) -> None:
        """Pass the place on to a run below that waits for one, or to other runs if no run below needs it."""
        if not self.is_held or not self._calls:
            return
        if self._waiting:
            self._hold(False)
            self._waiting[0]._receive()
        elif self._is_asleep:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the place to the nearest run above that needs it, else to the next run in turn."""
        self._hold(False)
        needing = next((each for each in self._above() if each._needs_place()), None)
        if needing is not None:
            needing._receive()
        else:
            self._places._release()

    def _needs_place(self) -> bool:
        if self._has_ended or self.is_held:
            return False
        # without a place below, no child run would go on, and this run would have none when they have ended
        return bool(self._waiters) or (self._calls > 0 and self._held_count == 0 and not self._is_asleep)

    def _hold(self, is_held: bool) -> None:
        self.is_held = is_held
        for place in (self, *self._above()):
            place._held_count += 1 if is_held else -1

    def _above(self) -> Iterator[RunPlace]:
        """The runs that wait for this one, directly or not, nearest first."""
        place = self._parent
        while place is not None:
            yield place
            place = place._parent

    def _update_sleep(self) -> None:
        """Note whether the run only waits for child runs that need no place; the place is then free for other runs."""
        is_asleep = not self._has_ended and not self._waiters and 0 < self._calls == self._sleeping_calls
        if is_asleep != self._is_asleep:
            self._is_asleep = is_asleep
            if self._parent is not None:
                self._parent._sleeping_calls += 1 if is_asleep else -1
                self._parent._update_sleep()
        self._lend()
