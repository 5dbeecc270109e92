"""Interfaces that workers call: the gateway for outbound calls, and the services of a step. All values are unredacted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from pdkernel.model import JSON, Language
from pdkernel.runtimes.seccomp import SandboxPlan

StartedT = TypeVar("StartedT")


class OutboundGateway(Protocol):
    """The gateway for the outbound calls of steps (`egress.Gateway`)."""

    def issue_token(self, *, public_only: bool = False) -> str:
        """
        Return a new opaque token, which one process sends with each outbound call.

        With *public_only*, calls with this token reach public addresses only.
        """
        ...

    async def check(self, policy: Any) -> None:
        """Raise an error if the recording that *policy* names is unusable."""
        ...

    def bind(self, token: str, context: Any) -> None:
        """Apply *context* to all later calls with *token*."""
        ...

    def unbind(self, token: str) -> None:
        """Detach *token* from its step."""
        ...

    def revoke_token(self, token: str) -> None:
        """Revoke *token*, because its process has ended."""
        ...

    def build_environment(self, token: str, language: Language) -> dict[str, str]:
        """Return the environment variables that route a process of *language* through the gateway."""
        ...

    @property
    def sandbox_kind(self) -> str:
        """The kind of sandbox that `start_sandboxed` uses on this system: `redirect`, `landlock` or `none`."""
        ...

    def start_sandboxed(self, token: str, start_process: Callable[[], StartedT]) -> StartedT:
        """Call *start_process* and return its result; the operating system stops the new process from bypassing the gateway."""
        ...

    def plan_sandbox(self, token: str) -> SandboxPlan | None:
        """Return how a process with *token* puts itself into the sandbox; None if there is no sandbox."""
        ...


class StepServices(Protocol):
    """Services for a running step: its data stores, and runs of other workflows."""

    async def call(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """
        Return the result of *operation* (`store.get`, `flow.trigger`).

        Raises:
            StepError: The operation failed. The step's code gets it as an exception at the calling line.
        """
        ...
