"""An event loop in virtual time, on which several simulated processes run; a seed decides their order."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import random
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")

BLOCKING_S = 0.002
"""The average time of a call outside of the loop, in virtual seconds."""
SLOW_BLOCKING_S = 0.2
"""The average time of a slow one; one in twenty is slow."""
LONGEST_BLOCKING_S = 0.9
"""The longest time of a call without a fault: below the second after which a check means that the database does not answer."""
EPOCH = datetime(2027, 1, 1, tzinfo=UTC)


class CallDelay(Protocol):
    """
    What holds up the blocking calls of a process.

    Attributes:
        down_since: The virtual time at which it began to hold them up, `inf` if it does not.
    """

    @property
    def down_since(self) -> float: ...  # noqa: D102 - described above

    def check(self) -> None:
        """Raise an error if the database cannot be reached now."""
        ...

    def wait_s(self, *, retries: bool) -> float:
        """Return for how many virtual seconds a call waits; *retries*: whether it is one of a thread with a task of its own."""
        ...


class SimProcess:
    """
    A simulated process: its callbacks run in their order, between those of other processes.

    Attributes:
        name: For messages.
        ended_at: When it died.
        died: Done when it has died.
        thawed_at: It does not run before that virtual time, since it was frozen last.
        lease_ends_at: The virtual time at which others may take it for dead, unless it extends its lease.
        leases: How often it has lost its lease and begun a new one.
        has_others: Whether another process lived when it extended its lease last: if none did, it keeps its steps without a lease.
        bugs: How many of the next blocking calls end with an unexpected exception.
        step_bugs: How many of the next steps do.
        defect_until: Its commits do before that virtual time.
        blocked_until: It was stopped until that virtual time because it has called a database on its loop.
        link: The way to a database that several hosts share, or None.
    """

    def __init__(self, name: str, died: asyncio.Future[None] | None = None) -> None:
        self.name = name
        self.died = died
        self.ended_at = math.inf
        self.thawed_at = -math.inf
        self.lease_ends_at = math.inf
        self.leases = 0
        self.has_others = True
        self.bugs = self.step_bugs = 0
        self.defect_until = self.blocked_until = -math.inf
        self.link: CallDelay | None = None
        self.ready: deque[Handle] = deque()

    @property
    def is_dead(self) -> bool:
        """Whether nothing of it runs any more: no callback, no `finally`."""
        return self.ended_at < math.inf


PROCESS: ContextVar[SimProcess] = ContextVar("PROCESS")
"""The process of the running callback; a task and what it starts belong to the process in which the task was made."""


class InjectedBug(Exception):  # noqa: N818 - an error of the scenario, not of the code that it simulates
    """The unexpected exception of a blocking call or a step, as from a bug."""


class DeadlockError(AssertionError):
    """No process has anything to do, and no time is awaited."""


class SimLoop(asyncio.BaseEventLoop):
    """
    The loop of all processes.

    Callbacks of one process run in their order, as in each loop of asyncio. Which process is next, and how long a blocking call
    takes, depends on *seed*. If no process has anything to do, the time jumps to the next timer.

    Attributes:
        random: The source of all choices.
        world: The process of everything that is not simulated: clients, and the test itself.
        is_in_call: Whether a blocking call runs now.
        reply_delay_s: How long a caller waits for the results of the running call.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.world = SimProcess("world")
        self.is_in_call = False
        self.reply_delay_s = 0.0
        self._now = 0.0
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._numbers = itertools.count()
        self._processes: list[SimProcess] = [self.world]
        self._clock_resolution = 1e-9
        self._tasks: list[asyncio.Task[Any]] = []  # a task that is forgotten would run its `finally`
        self.set_task_factory(self._make_task)

    def add(self, name: str) -> SimProcess:
        """Add a process."""
        process = SimProcess(name, self.create_future())
        self._processes.append(process)
        return process

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> TimerHandle:
        """Call *callback* at a virtual time."""
        handle = TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> TimerHandle:
        """Call *callback* after a virtual time."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_soon(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None) -> Handle:
        """Call *callback* in its process."""
        handle = Handle(callback, args, self, context)
        self._hand_out(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> Handle:
        """Call *callback* soon, because there are no other threads, or when the result of the running call arrives."""
        if self.reply_delay_s:
            return self.call_later(self.reply_delay_s, callback, *args, context=context)
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Call *func* between other callbacks, at a time of the seed's choice, and return a future of its result."""
        future = self.create_future()
        process = PROCESS.get(self.world)
        if process.bugs:
            process.bugs -= 1
            func, args = _fail, ()
        mean = SLOW_BLOCKING_S if self.random.random() < 0.05 else BLOCKING_S
        begin = self._call if process.link is None else partial(self._call_when_linked, process.link, executor)
        self.call_later(min(self.random.expovariate(1 / mean), LONGEST_BLOCKING_S), begin, future, func, args)
        return future

    def _call_when_linked(
        self,
        link: CallDelay,
        executor: Executor | None,
        future: asyncio.Future[Any],
        func: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        wait_s = link.wait_s(retries=executor is not None)
        if wait_s > 0:
            self.call_later(wait_s, self._call, future, func, args)
        else:
            self._call(future, func, args)

    def _call(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.is_in_call = True
        try:
            result = func(*args)
        except Exception as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)
        finally:
            self.is_in_call, self.reply_delay_s = False, 0.0

    def freeze(self, process: SimProcess, seconds: float) -> None:
        """Stop *process* for a while."""
        process.thawed_at = max(process.thawed_at, self._now + seconds)

    def kill(self, process: SimProcess) -> None:
        """End *process* at once."""
        process.ended_at = self._now
        process.ready.clear()
        if process.died is not None:
            process.died.set_result(None)
        self._processes.remove(process)

    def close(self) -> None:
        """End everything; what did not end is thrown away."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(BaseException):  # of a `finally`: its process has ended
                    task.get_coro().close()
        super().close()

    def _make_task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        self._tasks.append(task)
        return task

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Do nothing: a cancelled timer is skipped."""

    def _write_to_self(self) -> None:
        """Do nothing: the loop waits for no file."""

    def _process_events(self, event_list: Any) -> None:
        """Do nothing: there are no files."""

    def _run_once(self) -> None:
        while True:
            processes = [each for each in self._processes if each.ready and each.thawed_at <= self._now]
            if processes:
                break
            self._jump()
        process = processes[0] if len(processes) == 1 else self.random.choice(processes)
        handle = process.ready.popleft()
        if not handle._cancelled:
            handle._run()

    def _jump(self) -> None:
        """Go on to the next time at which something happens."""
        while self._timers and (self._timers[0][2]._cancelled or self._process_of(self._timers[0][2]).is_dead):
            heapq.heappop(self._timers)
        thaws = [each.thawed_at for each in self._processes if each.ready and each.thawed_at > self._now]
        times = [self._timers[0][0]] if self._timers else []
        if not times and not thaws:
            raise DeadlockError("nothing is left to do")
        self._now = max(self._now, min([*times, *thaws]))
        while self._timers and self._timers[0][0] <= self._now:
            self._hand_out(heapq.heappop(self._timers)[2])

    def _hand_out(self, handle: Handle) -> None:
        process = self._process_of(handle)
        if not process.is_dead:
            process.ready.append(handle)

    def _process_of(self, handle: Handle) -> SimProcess:
        context: Context = handle._context  # type: ignore[attr-defined]
        return context.get(PROCESS, self.world)


def _fail() -> None:
    raise InjectedBug


class HasClock(Protocol):
    """A machine whose wall clock is wrong by `clock_ahead_s` seconds."""

    clock_ahead_s: float


class SimClock:
    """The clock of the processes on one host; implements `Clock`."""

    def __init__(self, loop: SimLoop, host: HasClock) -> None:
        self._loop = loop
        self._host = host

    def now(self) -> datetime:
        """Return the wall time of the host."""
        return EPOCH + timedelta(seconds=self._loop.time() + self._host.clock_ahead_s)

    def monotonic(self) -> float:
        """Return the virtual time."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(seconds)


class SeededIds:
    """Ids that a seed decides; implements `IdGenerator`."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def new(self, prefix: str = "", length: int = 27) -> str:
        """Return the next id."""
        letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        return prefix + "".join(self._random.choices(letters, k=length))

    def new_in_order(self) -> str:
        """Return the next id of a run; the order of ids decides nothing."""
        return self.new()
