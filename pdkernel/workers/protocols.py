"""
Whom the processes of steps deal with: the way out, who listens to a step, who answers it, who debugs it.

Knows what each must do. Everything that passes here is raw: who listens looks for secrets before anything is kept or shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pdkernel.execution import Stream
from pdkernel.model import JSON, Language

if TYPE_CHECKING:
    from pdkernel.workers.calls import RunSetup, StepCall, StepOutcome

StartedT = TypeVar("StartedT")


class OutboundGateway(Protocol):
    """The way out for a step's network traffic (`egress.Gateway`)."""

    def issue_token(self, *, public_only: bool = False) -> str:
        """A fresh opaque word that one process shows with each outside call; *public_only* keeps it from this machine."""
        ...

    async def check(self, policy: Any) -> None:
        """Refuse a mode for outside calls whose file of recorded calls cannot be used."""
        ...

    def bind(self, token: str, context: Any) -> None:
        """From now on, calls with *token* are treated as *context* says."""
        ...

    def unbind(self, token: str) -> None:
        """Calls with *token* belong to no step."""
        ...

    def revoke_token(self, token: str) -> None:
        """The process is gone."""
        ...

    def build_environment(self, token: str, language: Language) -> dict[str, str]:
        """The variables that lead a process of *language* through the gateway."""
        ...

    @property
    def sandbox_kind(self) -> str:
        """What `guarded` does here: `redirect`, `landlock` or `none`."""
        ...

    def start_sandboxed(self, token: str, start_process: Callable[[], StartedT]) -> StartedT:
        """*start_process*'s result; the operating system sees to it that what it starts does not go around the gateway."""
        ...


class StepListener(Protocol):
    """Is told what a step does, as it happens and in order."""

    def log(self, stream: Stream, text: str) -> None:
        """The step printed *text*: any piece of a line or several lines."""
        ...

    def report_progress(self, text: str) -> None:
        """Something of ours is under way for the step, and takes long: *text* is a sentence."""
        ...

    def export(self, name: str, value: JSON) -> None:
        """The step exported *value*; `$return_value` is what it returned."""
        ...

    def respond(self, response: dict[str, Any]) -> None:
        """The step's first response; `{"status", "headers", "body"}`, and `"immediate": True` if it is to go at once."""
        ...


class StepServices(Protocol):
    """What a running step may ask for beyond its own process: its data stores, other workflows."""

    async def call(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """
        The answer to *operation* (`store.get`, `flow.trigger`).

        Raises:
            StepError: Cannot be done; the step's code gets it as an exception at the line that asked.
        """
        ...


class StepDebugger(Protocol):
    """Runs Python steps where a debugger can stop them: in the kernel."""

    async def run_step(self, call: StepCall, setup: RunSetup, listener: StepListener) -> StepOutcome:
        """As `RunGuests.run`; takes as long as the person does."""
        ...
