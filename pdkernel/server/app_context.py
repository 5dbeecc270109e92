"""
What every handler is given: the project, its people, its workflows, and how it is served.

Knows which parts there are. What they do is for their own modules to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from pdkernel.clock import Clock, IdGenerator
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.identity import Directory
from pdkernel.project import Project
from pdkernel.server.passthrough import PipedreamPassthrough
from pdkernel.source import WorkflowSource


@dataclass(frozen=True)
class ServeSettings:
    """
    How a project is served.

    Attributes:
        base_url: The base of every URL that is told to callers, without a slash at its end; `--public-url` or the address.
        policy: What becomes of steps' outside calls.
        allowed_hosts: Names that a request's Host may have besides those of loopback and `*.m.pipedream.net`.
        trusted_proxies: Networks (CIDR) whose `X-Forwarded-For` tells `client_ip`.
        max_development_users: External users that an environment of a project may have in development, or None for any number.
        applies_rate_limits: Whether the platform's rate limits are applied.
        admin_token_hash: SHA-256 of the token that shows run pages to others than loopback, or None.
    """

    base_url: str
    policy: OutboundPolicy
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    max_development_users: int | None = None
    applies_rate_limits: bool = False
    admin_token_hash: bytes | None = field(default=None, repr=False)


class ServedWorkflows(Protocol):
    """The workflows that are served; what one holds may change from request to request (a notebook's draft)."""

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """All of them, as they are now."""
        ...

    def find(self, key: str) -> ServedWorkflow | None:
        """The one of that endpoint key (`eo...`), whatever its case, or None."""
        ...

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """The one of that id (`p_...`), or None; an id opens no endpoint."""
        ...


@dataclass(frozen=True)
class ServedWorkflow:
    """
    A workflow that is served.

    Attributes:
        id: `p_...`.
        endpoint_key: Its endpoint's key.
        source: The notebook or folder that it comes from.
        variables: Environment variables that its steps may see.
        policy: What becomes of its steps' outside calls, where that is not the server's to say; or None.
    """

    id: str
    endpoint_key: str
    source: WorkflowSource
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    policy: OutboundPolicy | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder of its source, as it stands on the disk."""
        return self.source.folder.resolve()


LinkStatus = Literal["opened", "connected", "failed", "cancelled", "expired"]


@dataclass(frozen=True)
class LinkEvent:
    """
    What has become of a Connect token.

    Attributes:
        token_digest: Its digest.
        status: Its page was opened, an account was connected, that failed, the person gave it up, or its time is over.
        detail: The account's id, or why it failed.
    """

    token_digest: str = field(repr=False)
    status: LinkStatus
    detail: str = ""


LinkListener = Callable[[LinkEvent], None]


class LinkContext(Protocol):
    """What the pages of Connect Link are given: all of `Serving`, or `LinkSite`, which serves nothing else."""

    @property
    def project(self) -> Project:
        """Its tables."""
        ...

    @property
    def directory(self) -> Directory:
        """Users and accounts."""
        ...

    @property
    def settings(self) -> ServeSettings:
        """How."""
        ...

    @property
    def clock(self) -> Clock:
        """For every time stamp."""
        ...

    @property
    def ids(self) -> IdGenerator:
        """For every id and token."""
        ...

    @property
    def on_link_event(self) -> LinkListener | None:
        """Told what becomes of tokens, from any thread; None for nobody."""
        ...


@dataclass(frozen=True)
class LinkOnlyContext:
    """A project whose link pages alone are served; implements `Linking`."""

    project: Project
    directory: Directory
    settings: ServeSettings
    clock: Clock
    ids: IdGenerator
    on_link_event: LinkListener | None = None


@dataclass(frozen=True)
class AppContext:
    """
    A project while it is served.

    Attributes:
        project: Its tables.
        directory: Users and accounts.
        engine: Runs workflows.
        workflows: Those that are served.
        settings: How.
        clock: For every time stamp.
        ids: For every id and token.
        on_run: Told each run as it grows, from the event loop; None for nobody.
        write_line: Takes a line for each request; None for nobody.
        passthrough: With a real project, whoever answers Connect's routes; None where they are answered here.
        on_link_event: Told what becomes of Connect tokens, from any thread; None for nobody.
    """

    project: Project
    directory: Directory
    engine: WorkflowEngine
    workflows: ServedWorkflows
    settings: ServeSettings
    clock: Clock
    ids: IdGenerator
    on_run: Callable[[RunRequest, Execution], None] | None = None
    write_line: Callable[[str], None] | None = None
    passthrough: PipedreamPassthrough | None = None
    on_link_event: LinkListener | None = None
