"""
A fixed clock and fixed random numbers for a Python process, so that two equal runs get equal values.

It replaces functions of `time`, `datetime`, `random`, `uuid`, `secrets` and `os.urandom` before any package is loaded, for the life
of the process. The clock advances in steps of `CLOCK_STEP_S` seconds of real time, so that code that waits for a later time
ends. `time.monotonic` and `time.perf_counter` are not changed. Values that C libraries get from the system, and programs that a
step starts, are not fixed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from datetime import date as real_date
from datetime import datetime as real_datetime
from typing import Any

CLOCK_STEP_S = 10

_real_monotonic = time.monotonic


class _State:
    """The time and the state of the random numbers of this process."""

    at = 0
    seed = ""
    began = 0.0
    block = 0
    left = b""


def install_determinism(start_s: int, seed: str) -> None:
    """
    Fix the clock at *start_s* (seconds since 1970), and the random numbers with *seed*, for the life of the process.

    Call `restart_for_step` before each step.
    """
    first = not _State.seed
    _State.at, _State.seed = start_s, seed
    if first:
        _fix_time()
        _fix_chance()
    restart_for_step("")


def restart_for_step(step: str) -> None:
    """Reset clock and random numbers for a step, so that they do not depend on earlier steps."""
    _State.began = _real_monotonic()
    _State.block = 0
    _State.left = hashlib.sha256(f"{_State.seed}/{step}".encode()).digest()
    number = int.from_bytes(_State.left)
    random.seed(number)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(number % 2**32)


def _now() -> float:
    return float(_State.at + int((_real_monotonic() - _State.began) // CLOCK_STEP_S) * CLOCK_STEP_S)


def _next_random_bytes(size: int) -> bytes:
    """Return the next *size* random bytes."""
    while len(_State.left) < size:
        _State.block += 1
        _State.left += hashlib.sha256(_State.left[-32:] + _State.block.to_bytes(8)).digest()
    chunk, _State.left = _State.left[:size], _State.left[size:]
    if not _State.left:
        _State.left = hashlib.sha256(chunk[-32:] + b"next").digest()
    return chunk


def _fix_time() -> None:
    def at_least_now(real: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap *real*, which takes a time; by default it gets the fixed current time."""

        def fixed(seconds: float | None = None) -> Any:
            return real(_now() if seconds is None else seconds)

        return fixed

    real_strftime, real_asctime, gmtime, localtime = time.strftime, time.asctime, time.gmtime, time.localtime
    fixed: dict[str, Any] = {
        "time": _now,
        "time_ns": lambda: int(_now()) * 10**9,
        "gmtime": at_least_now(gmtime),
        "localtime": at_least_now(localtime),
        "ctime": at_least_now(time.ctime),
        "strftime": lambda form, t=None: real_strftime(form, localtime(_now()) if t is None else t),
        "asctime": lambda t=None: real_asctime(localtime(_now()) if t is None else t),
    }
    for name, function in fixed.items():
        setattr(time, name, function)
    setattr(dt, "date", _FixedDate)  # noqa: B010 - the type stubs forbid assignment
    setattr(dt, "datetime", _FixedDatetime)  # noqa: B010


def _fix_chance() -> None:
    os.urandom = _next_random_bytes
    vars(random)["_urandom"] = _next_random_bytes  # the source of SystemRandom and `secrets`
    real_seed = random.Random.seed

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        real_seed(self, int.from_bytes(_next_random_bytes(16)) if a is None else a, version)

    setattr(random.Random, "seed", seed)  # noqa: B010
    vars(random)["seed"] = random._inst.seed  # noqa: SLF001 - the module function was bound to the old method


class _LikeDate(type):
    """Makes `isinstance` accept dates of the original class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, real_date)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, real_date)


class _LikeDatetime(type):
    """Makes `isinstance` accept datetimes of the original class."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, real_datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, real_datetime)


class _FixedDate(real_date, metaclass=_LikeDate):
    @classmethod
    def today(cls) -> Any:
        """Return the current date in local time."""
        return cls.fromtimestamp(_now())

    def __repr__(self) -> str:
        return f"datetime.{super().__repr__()}"


class _FixedDatetime(real_datetime, metaclass=_LikeDatetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        """Return the current time."""
        return cls.fromtimestamp(_now(), tz)

    @classmethod
    def today(cls) -> Any:
        """Return the current local time."""
        return cls.fromtimestamp(_now())

    @classmethod
    def utcnow(cls) -> Any:
        """Return the current time in UTC, without a time zone."""
        return cls.fromtimestamp(_now(), dt.UTC).replace(tzinfo=None)

    def __repr__(self) -> str:
        return f"datetime.{super().__repr__()}"


for _class, _name in ((_FixedDate, "date"), (_FixedDatetime, "datetime")):
    _class.__name__ = _class.__qualname__ = _name
    _class.__module__ = "datetime"
