"""Crash points, and what the processes of a crash test report to the process that starts them: points, calls and executions, in files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pdkernel.common.encode import JsonStruct, decode_json, encode_json
from pdkernel.common.safe_files import read_file

PointKind = Literal["claim", "begin", "packages", "call", "send", "step", "pause", "child", "end", "message"]
Side = Literal["before", "after"]

_TEXTS: dict[PointKind, str] = {
    "begin": "the start of the run was recorded",
    "packages": "the packages of the run were recorded",
    "call": "{call} of {step} was recorded as in flight",
    "step": "{step} was recorded",
    "pause": "the pause in {step} was recorded",
    "child": "the run of the workflow {step} was recorded",
    "end": "the end of the run was recorded, with its last step",
    "message": "the delivery of a message of {step} was recorded",
}

T = TypeVar("T")


class CrashPoint(JsonStruct, frozen=True, omit_defaults=True):
    """
    A moment of a run at which its process dies.

    Attributes:
        kind: A write of the journal, or `send`: the outbound call itself.
        side: Whether the process dies before the write or the call, or after it. After a `send`, the call is answered and the step
            has not seen the answer.
        step: The step; of `child`, the other workflow.
        call: Method and URL of a call, which may differ from run to run.
        number: Counts the points of the same kind, side and step, from 1.
    """

    kind: PointKind
    side: Side
    step: str = ""
    call: str = ""
    number: int = 1

    def is_reached_at(self, other: CrashPoint) -> bool:
        """Return whether *other*, a point of another run, is this one."""
        return (self.kind, self.side, self.step, self.number) == (other.kind, other.side, other.step, other.number)

    def describe(self) -> str:
        """Return the moment as the end of a sentence: `before charge was recorded`."""
        again = f" (number {self.number})" if self.number > 1 else ""
        if self.kind == "claim":
            return "after the pause had ended" + (f" (number {self.number - 1})" if self.number > 2 else "")
        if self.kind == "send":
            what = f"{self.call} of {self.step}{again}"
            return (
                f"before {what} was sent" if self.side == "before" else f"when {what} was answered, unseen by the step"
            )
        return f"{self.side} {_TEXTS[self.kind].format(step=self.step, call=self.call)}{again}"


class SeenCall(JsonStruct, frozen=True, omit_defaults=True):
    """
    A call that left a process: to a stand-in, a recording or, with permission, its host.

    Attributes:
        process: The number of the process that sent it, from 1.
        step: The step.
        method: The method, in upper case.
        url: The URL, redacted.
        body: The SHA-256 of the body.
        key: The SHA-256 of the header `Idempotency-Key`; empty without it.
        safe: Whether repeating it changes nothing.
    """

    process: int
    step: str
    method: str
    url: str
    body: str
    key: str = ""
    safe: bool = False

    @property
    def text(self) -> str:
        """Method and URL."""
        return f"{self.method} {self.url}"


class Ledger:
    """
    A file with a JSON line for each entry. What is added stays if the process is killed, because the system has it.

    Args:
        file: The file; created if missing.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def add(self, entry: JsonStruct) -> None:
        """Add an entry."""
        os.write(self._descriptor, encode_json(entry) + b"\n")

    @staticmethod
    def read(file: Path, kind: type[T]) -> Sequence[T]:
        """Return the entries of a file; none if it is missing."""
        if not file.exists():
            return ()
        return [decode_json(line, kind) for line in read_file(file).splitlines()]


class Points:
    """
    The crash points that a process reaches, in order.

    Args:
        act: Called at each point.
    """

    def __init__(self, act: Callable[[CrashPoint], None]) -> None:
        self._act = act
        self._counts = Counter[tuple[str, ...]]()

    def reach(self, kind: PointKind, side: Side, step: str = "", call: str = "") -> None:
        """Reach the next point of that kind."""
        key = (kind, side, step)
        self._counts[key] += 1
        self._act(CrashPoint(kind, side, step, call, self._counts[key]))
