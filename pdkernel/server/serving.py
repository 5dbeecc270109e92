"""
What every handler is given: the project, its people, its workflows, and how it is served.

Knows which parts there are. What they do is for their own modules to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pdkernel.clock import Clock, Ids
from pdkernel.egress import Policy
from pdkernel.engine.request import RunRequest
from pdkernel.engine.runtime import Runtime
from pdkernel.execution import Execution
from pdkernel.identity import Directory
from pdkernel.project import Project
from pdkernel.source import Source

if TYPE_CHECKING:
    from pdkernel.server.passthrough import Pipedream


@dataclass(frozen=True)
class ServeSettings:
    """
    How a project is served.

    Attributes:
        url: The base of every URL that is told to callers, without a slash at its end; `--public-url` or the address.
        policy: What becomes of steps' outside calls.
        hosts: Names that a request's Host may have besides those of loopback and `*.m.pipedream.net`.
        trusted_proxies: Networks (CIDR) whose `X-Forwarded-For` tells `client_ip`.
        user_cap: External users that an environment of a project may have in development, or None for any number.
        rate_limits: Whether the platform's rate limits are applied.
        admin: SHA-256 of the token that shows run pages to others than loopback, or None.
    """

    url: str
    policy: Policy
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    user_cap: int | None = None
    rate_limits: bool = False
    admin: bytes | None = field(default=None, repr=False)


class ServedWorkflows(Protocol):
    """The workflows that are served; what one holds may change from request to request (a notebook's draft)."""

    def list(self) -> tuple[ServedWorkflow, ...]:
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
        endpoint: Its endpoint's key.
        source: The notebook or folder that it comes from.
        variables: Environment variables that its steps may see.
        policy: What becomes of its steps' outside calls, where that is not the server's to say; or None.
    """

    id: str
    endpoint: str
    source: Source
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    policy: Policy | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder of its source, as it stands on the disk."""
        return self.source.folder.resolve()


What = Literal["opened", "connected", "failed", "cancelled", "expired"]


@dataclass(frozen=True)
class LinkNews:
    """
    What has become of a Connect token.

    Attributes:
        token: Its digest.
        what: Its page was opened, an account was connected, that failed, the person gave it up, or its time is over.
        said: The account's id, or why it failed.
    """

    token: str = field(repr=False)
    what: What
    said: str = ""


OnLink = Callable[[LinkNews], None]


class Linking(Protocol):
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
    def ids(self) -> Ids:
        """For every id and token."""
        ...

    @property
    def on_link(self) -> OnLink | None:
        """Told what becomes of tokens, from any thread; None for nobody."""
        ...


@dataclass(frozen=True)
class LinkSite:
    """A project whose link pages alone are served; implements `Linking`."""

    project: Project
    directory: Directory
    settings: ServeSettings
    clock: Clock
    ids: Ids
    on_link: OnLink | None = None


@dataclass(frozen=True)
class Serving:
    """
    A project while it is served.

    Attributes:
        project: Its tables.
        directory: Users and accounts.
        runtime: Runs workflows.
        workflows: Those that are served.
        settings: How.
        clock: For every time stamp.
        ids: For every id and token.
        on_run: Told each run as it grows, from the event loop; None for nobody.
        say: Takes a line for each request; None for nobody.
        pipedream: With a real project, whoever answers Connect's routes; None where they are answered here.
        on_link: Told what becomes of Connect tokens, from any thread; None for nobody.
    """

    project: Project
    directory: Directory
    runtime: Runtime
    workflows: ServedWorkflows
    settings: ServeSettings
    clock: Clock
    ids: Ids
    on_run: Callable[[RunRequest, Execution], None] | None = None
    say: Callable[[str], None] | None = None
    pipedream: Pipedream | None = None
    on_link: OnLink | None = None
