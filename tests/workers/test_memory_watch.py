"""Samples of the memory of a step's processes, and the limit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import pytest

from pdkernel.workers.child_process import ChildProcess
from pdkernel.workers.memory_watch import LIMITED_SAMPLE_INTERVAL_S, MemoryWatch, StepMemoryError, build_memory_error
from pdkernel.workers.process_memory import BYTES_PER_MB, resident_bytes

LARGE = 10**6
"""A limit in megabytes that no step exceeds."""


@dataclass
class OwnProcess:
    """This process, as a step's process."""

    pid: int = os.getpid()
    root_pid: int = os.getpid()
    exit_code: int | None = None
    peak_bytes: int = 0
    system_v: tuple[int, ...] = ()


def watch(limit_mb: int | None, on_exceeded: Callable[[StepMemoryError], None] = lambda _: None) -> MemoryWatch:
    """Watch this process."""
    return MemoryWatch(cast("ChildProcess", OwnProcess()), limit_mb, on_exceeded)


@contextmanager
def a_child(megabytes: int) -> Iterator[None]:
    """A child process of this process with so much memory."""
    code = f"data = bytearray(b'x' * {megabytes} * {BYTES_PER_MB}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield
        child.kill()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_peak_has_the_children() -> None:
    """The highest sample counts the processes that the step has started, and stays when these have ended."""
    watching = watch(LARGE)
    with a_child(60):
        await until(lambda: watching.peak_bytes > resident_bytes(os.getpid()) + 40 * BYTES_PER_MB)
    watching.close()

    assert watching.peak_bytes > resident_bytes(os.getpid()) + 30 * BYTES_PER_MB
    assert watching.error is None


async def test_the_limit_is_reported_once() -> None:
    """A step that stays above its limit has one error, which the end of the step does not repeat."""
    errors: list[StepMemoryError] = []
    watching = watch(1, errors.append)
    await until(lambda: bool(errors))
    first = watching.peak_bytes
    with a_child(60):
        await until(lambda: watching.peak_bytes > first + 40 * BYTES_PER_MB)
    watching.close()

    assert errors == [watching.error]
    assert errors[0].message.endswith("settings.lambda_memory allows 1 MB.")


async def test_the_last_sample_counts() -> None:
    """A short step with a limit is sampled at its end, and a step of some hundredths of a second without one too."""
    errors: list[StepMemoryError] = []
    limited, free = watch(1, errors.append), watch(None)
    limited.close()
    await asyncio.sleep(0.05)
    free.close()

    assert len(errors) == 1
    assert (limited.peak_bytes > 0, free.peak_bytes > 0, free.error) == (True, True, None)


@contextmanager
def a_program() -> Iterator[tuple[OwnProcess, Callable[[int], None]]]:
    """A program, and a function that lets it use so many megabytes for a moment."""
    code = "import sys\nfor line in sys.stdin:\n    len(b'x' * (int(line) << 20))\n    print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        stdin, stdout = program.stdin, program.stdout
        assert stdin is not None
        assert stdout is not None

        def grow(megabytes: int) -> None:
            stdin.write(b"%d\n" % megabytes)
            stdin.flush()
            stdout.readline()

        grow(0)
        yield OwnProcess(program.pid, program.pid), grow
        program.kill()


@pytest.mark.parametrize(("limit_mb", "is_exceeded"), [(100, True), (300, False), (None, False)])
async def test_memory_between_two_samples_counts(limit_mb: int | None, is_exceeded: bool) -> None:
    """The highest memory of a process is compared with the limit, though the process has released it before the sample."""
    with a_program() as (process, grow):
        watching = MemoryWatch(cast("ChildProcess", process), limit_mb, lambda _: None)
        grow(200)
        watching.close()

    assert (watching.error is not None) == is_exceeded
    assert (watching.peak_bytes > 200 * BYTES_PER_MB) == (limit_mb is not None)


async def test_memory_of_an_earlier_step_does_not_count() -> None:
    """What the process used before the watch, for a step with another limit, is not memory of the step."""
    with a_program() as (process, grow):
        grow(200)
        watching = MemoryWatch(cast("ChildProcess", process), 100, lambda _: None)
        grow(20)
        watching.close()

    assert watching.error is None
    assert 0 < watching.peak_bytes < 100 * BYTES_PER_MB


async def test_highest_memory_of_an_ended_program_counts() -> None:
    """A program that has ended reports its highest memory; its number may belong to another process by now."""
    process = OwnProcess()
    watching = MemoryWatch(cast("ChildProcess", process), LARGE, lambda _: None)
    process.exit_code, process.peak_bytes = 0, 10**12
    watching.close()

    assert watching.peak_bytes == 10**12


async def test_an_ended_step_is_not_measured_again() -> None:
    """A step that ends while it is measured is not measured again."""
    samples = 0

    class EndsMeanwhile:
        """This process, as that of a step which ends when a sample begins."""

        pid = os.getpid()
        exit_code = None
        peak_bytes = 0
        system_v = ()

        @property
        def root_pid(self) -> int:
            nonlocal samples
            samples += 1
            watching.close()
            return os.getpid()

    watching = MemoryWatch(cast("ChildProcess", EndsMeanwhile()), LARGE, lambda _: None)
    await until(lambda: samples > 0)
    await asyncio.sleep(3 * LIMITED_SAMPLE_INTERVAL_S)

    assert samples == 1


async def test_a_sample_that_fails_is_repeated() -> None:
    """Without free descriptors a sample fails; the limit holds again as soon as there are some."""
    exceeded: list[StepMemoryError] = []
    process = OwnProcess(system_v=(-1,))
    watching = MemoryWatch(cast("ChildProcess", process), 1, exceeded.append)
    await asyncio.sleep(3 * LIMITED_SAMPLE_INTERVAL_S)
    failed = [*exceeded]
    process.system_v = ()
    await until(lambda: bool(exceeded))
    watching.close()

    assert failed == []


async def test_less_than_the_limit_is_allowed() -> None:
    """The limit is in megabytes of 1,048,576 bytes."""
    used_mb = resident_bytes(os.getpid()) / BYTES_PER_MB
    watching = watch(round(used_mb * 1.02) + 1)
    watching.close()

    assert watching.error is None


def test_the_message_begins_as_the_platforms() -> None:
    """The error has both numbers in megabytes."""
    error = build_memory_error(3000 * BYTES_PER_MB, 2048)

    assert error.message == "Out of Memory: the step used 3,000 MB, and settings.lambda_memory allows 2,048 MB."
    assert error.code == "memory"
