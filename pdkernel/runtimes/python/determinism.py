"""
A fixed clock and fixed chance for a Python process: two runs that do the same see the same.

Knows `time`, `datetime`, `random`, `uuid`, `secrets` and `os.urandom`. It is put in place before any package is loaded, if the
host asks for it, and stays for as long as the process lives. The time stands still and leaps ahead every `LEAP_S` seconds, so
that code which waits for it comes to an end; `time.monotonic` and `time.perf_counter` go on. Not fixed: what libraries in C
ask the system for, and programs that a step starts.
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
    """When it is and what comes next; one for the process."""

    at = 0
    seed = ""
    began = 0.0
    block = 0
    left = b""


def install_determinism(start_s: int, seed: str) -> None:
    """
    Fix the clock at *start_s* (seconds since 1970) and chance by *seed*, for good.

    `restart` begins a step.
    """
    first = not _State.seed
    _State.at, _State.seed = start_s, seed
    if first:
        _fix_time()
        _fix_chance()
    restart_for_step("")


def restart_for_step(step: str) -> None:
    """A step begins: what it sees does not depend on what ran before it."""
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
    """The next *size* bytes of chance."""
    while len(_State.left) < size:
        _State.block += 1
        _State.left += hashlib.sha256(_State.left[-32:] + _State.block.to_bytes(8)).digest()
    given, _State.left = _State.left[:size], _State.left[size:]
    if not _State.left:
        _State.left = hashlib.sha256(given[-32:] + b"next").digest()
    return given


def _fix_time() -> None:
    def at_least_now(real: Callable[..., Any]) -> Callable[..., Any]:
        """*real*, which takes a time and else means now."""

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
    setattr(dt, "date", _FixedDate)  # noqa: B010 - the types do not know that it may be replaced
    setattr(dt, "datetime", _FixedDatetime)  # noqa: B010


def _fix_chance() -> None:
    os.urandom = _next_random_bytes
    vars(random)["_urandom"] = _next_random_bytes  # what SystemRandom, and with it `secrets`, draws from
    real_seed = random.Random.seed

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        real_seed(self, int.from_bytes(_next_random_bytes(16)) if a is None else a, version)

    setattr(random.Random, "seed", seed)  # noqa: B010
    vars(random)["seed"] = random._inst.seed  # noqa: SLF001 - it was bound to the old one


class _LikeDate(type):
    """Dates that were made elsewhere are dates, too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, real_date)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, real_date)


class _LikeDatetime(type):
    """Moments that were made elsewhere are moments, too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, real_datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, real_datetime)


class _FixedDate(real_date, metaclass=_LikeDate):
    @classmethod
    def today(cls) -> Any:
        """The day, in local time."""
        return cls.fromtimestamp(_now())

    def __repr__(self) -> str:
        return f"datetime.{super().__repr__()}"


class _FixedDatetime(real_datetime, metaclass=_LikeDatetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        """The moment."""
        return cls.fromtimestamp(_now(), tz)

    @classmethod
    def today(cls) -> Any:
        """The moment, in local time."""
        return cls.fromtimestamp(_now())

    @classmethod
    def utcnow(cls) -> Any:
        """The moment in UTC, without a time zone."""
        return cls.fromtimestamp(_now(), dt.UTC).replace(tzinfo=None)

    def __repr__(self) -> str:
        return f"datetime.{super().__repr__()}"


for _class, _name in ((_FixedDate, "date"), (_FixedDatetime, "datetime")):
    _class.__name__ = _class.__qualname__ = _name
    _class.__module__ = "datetime"
