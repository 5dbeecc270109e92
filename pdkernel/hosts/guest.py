"""
A guest that can be asked: one request at a time, with the texts that it has not got.

Knows the protocol: a JSON line out (and one for each new export), lines back until `done`. Knows what the
guest was told already, so that a step's source and exports are sent once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pdkernel.errors import StepDiedError, StepError
from pdkernel.execution import Stream
from pdkernel.hosts.calls import OutsideCalls
from pdkernel.hosts.environment import base_environment
from pdkernel.hosts.faults import died, fault, timed_out
from pdkernel.hosts.languages import GuestLanguage
from pdkernel.hosts.process import GuestProcess
from pdkernel.hosts.recorder import StepRecorder
from pdkernel.model import JSON, Step

START_S = 30.0
"""How long a guest may take to come up on a busy machine; not the step's time."""

_DUMPS = json.JSONEncoder(separators=(",", ":")).encode


def json_text(value: JSON) -> bytes:
    """*value* as one line of JSON; ASCII, so that half a surrogate pair in it harms nobody."""
    return _DUMPS(value).encode()


class Guest:
    """
    A process of one language and what it knows.

    Attributes:
        usable: It can be asked again; a step that failed badly makes it false.
        stale: The next run may not have it.
        ready: It has come up.
        outside: Variables that lead it through the gateway.
    """

    def __init__(
        self, language: GuestLanguage, argv: list[str], environment: Mapping[str, str], gateway: OutsideCalls | None
    ) -> None:
        self.language = language
        self.ticket = gateway.open_ticket() if gateway else None
        self.outside = gateway.environment(self.ticket, language) if gateway and self.ticket else {}
        self._gateway = gateway
        self.process = GuestProcess(argv, {**environment, **self.outside})
        self.usable = True
        self.stale = False
        self.ready = False
        self.run_id: str | None = None
        self._codes: dict[str, int] = {}
        self._known: dict[str, object] = {}

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.alive

    def begin(self, run_id: str, **setup: Any) -> dict[str, Any]:
        """The `begin` of a run, to be sent with its first request; empty if that has been sent."""
        if self.run_id == run_id:
            return {}
        self.run_id = run_id
        self._known = {}
        environment = base_environment(setup["cwd"], self.process.mark)
        return {"begin": {**setup, "cwd": str(setup["cwd"]), "env": environment, "outside": self.outside}}

    def code(self, step: Step) -> dict[str, Any]:
        """The part of a request that says which code; with its source if the guest has not seen it."""
        told: dict[str, Any] = {"step": step.name, "file": step.filename, "offset": step.line_offset}
        number = self._codes.get(step.source)
        if number is None:
            number = self._codes[step.source] = len(self._codes)
            told["source"] = step.source
        told["code"] = number
        return told

    def news(self, steps: Mapping[str, object], texts: Mapping[str, bytes]) -> list[str]:
        """The names in *steps* whose value the guest has not got, which it now has."""
        names = [name for name in texts if self._known.get(name) is not steps[name]]
        for name in names:
            self._known[name] = steps[name]
        return names

    def bind(self, binding: Any) -> None:
        """Outside calls are from now on treated as *binding* says."""
        if self._gateway and self.ticket and binding is not None:
            self._gateway.bind(self.ticket, binding)

    def unbind(self) -> None:
        """Outside calls belong to no step."""
        if self._gateway and self.ticket:
            self._gateway.unbind(self.ticket)

    def kill(self) -> None:
        """End it and everything that it started."""
        if self.process.alive:
            self.process.kill()
        if self._gateway and self.ticket:
            self._gateway.close_ticket(self.ticket)
            self.ticket = None


class GuestTalk:
    """One request to a guest, until its `done` (a `Conversation`)."""

    def __init__(self, guest: Guest, recorder: StepRecorder) -> None:
        self.reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._guest = guest
        self._recorder = recorder
        self._timeout_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, request: Mapping[str, Any], texts: list[bytes], *, timeout_s: float) -> None:
        """Send the request; *timeout_s* counts from when the guest is up."""
        self._timeout_s = timeout_s
        self._arm(0.0 if self._guest.ready else START_S)
        self._guest.process.conversation = self
        self._guest.process.send(b"\n".join([json_text(dict(request)), *texts, b""]))

    def close(self) -> None:
        """Nothing more is waited for."""
        if self._timer:
            self._timer.cancel()
        if not self.reply.done():
            self.reply.cancel()
        if self.reply.cancelled():
            self._guest.usable = False

    def end(self, error: StepError) -> None:
        """The step has failed, whatever it does from now on; the guest is not to be used again."""
        self._guest.usable = False
        if not self.reply.done():
            self.reply.set_exception(error)

    def line(self, line: bytes) -> None:
        """The guest said something."""
        if self.reply.done():
            return
        try:
            told = json.loads(line)
            self._take(told)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.end(
                StepDiedError("The step wrote to a descriptor of its process that is not its own, and was stopped.")
            )
        except RecursionError:
            self.end(fault({"code": "export_not_json", "message": "An export is nested too deeply for JSON."}))

    def output(self, stream: Stream, data: bytes) -> None:
        """User code printed."""
        self._recorder.output(stream, data)

    def gone(self) -> None:
        """The guest is dead: how, is found out by whoever waits."""
        self._guest.usable = False
        if not self.reply.done():
            self.reply.set_exception(GuestGone())

    def _arm(self, allowance_s: float = 0.0) -> None:
        if self._timer:
            self._timer.cancel()
        loop, limit = asyncio.get_running_loop(), self._timeout_s
        self._timer = loop.call_later(limit + allowance_s, lambda: self.end(timed_out(limit)))

    def _take(self, told: dict[str, Any]) -> None:
        match told["t"]:
            case "ready":
                self._guest.ready = True
                self._arm()
            case "export":
                self._recorder.export(told["n"], told["v"])
            case "done":
                if told["spoiled"]:
                    self._guest.usable = False
                if told["dirty"] or told["busy"]:
                    self._guest.stale = True
                self.reply.set_result(told)
            case "respond":
                self._recorder.respond(told["r"])
            case "exit":
                self._recorder.exit(told["reason"])
            case "warn" | "late":
                self._recorder.warn(told["text"])
            case other:
                raise ValueError(other)


class GuestGone(Exception):  # noqa: N818 - not an error of ours until we know how it went
    """The guest closed its side."""


async def autopsy(guest: Guest, recorder: StepRecorder) -> StepError:
    """How the guest died."""
    code = await guest.process.exit_code()
    guest.process.drain()
    return died(code, recorder.last_words())
