"""Objects that every handler receives: project, directory, engine, workflows and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.common.identity import Directory
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.files.source import RefusedSource, WorkflowSource
from pdkernel.operations.actions import ActionForms
from pdkernel.server.passthrough import PipedreamPassthrough
from pdkernel.storage import Project


@dataclass(frozen=True)
class ServeSettings:
    """
    Settings of the server.

    Attributes:
        base_url: Base of every URL in responses, without a slash at its end; `--public-url` or the address.
        policy: Policy for outbound calls of steps.
        allowed_hosts: Accepted Host names, besides loopback and `*.m.pipedream.net`.
        trusted_proxies: Networks (CIDR) whose `X-Forwarded-For` determines `client_ip`.
        max_development_users: Limit of external users in development, or None.
        applies_rate_limits: Whether the server enforces the platform's rate limits.
        admin_token_hash: From `hash_admin_token`, for the token that opens the console; or None.
        console_host: The host name that only the console has, from `build_console_host`; None if it has that of *base_url*.
        local_url: URL of the server's port on this machine; None if *base_url* is that.
    """

    base_url: str
    policy: OutboundPolicy
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    max_development_users: int | None = None
    applies_rate_limits: bool = False
    admin_token_hash: bytes | None = field(default=None, repr=False)
    console_host: str | None = field(default=None, repr=False)
    local_url: str | None = None


class ServedWorkflows(Protocol):
    """The served workflows. A workflow may change between requests (a notebook's draft)."""

    @property
    def not_served(self) -> Sequence[RefusedSource]:
        """The workflows that cannot be served, with the reasons."""
        ...

    async def refresh(self) -> None:
        """Read the current state of the workflows. Raises `ProjectError` if the database cannot be read."""
        ...

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """Return all workflows in their current state."""
        ...

    def find(self, key: str) -> ServedWorkflow | None:
        """Return the workflow with that endpoint key (`eo...`, case-insensitive), or None."""
        ...

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """Return the workflow with that id (`p_...`), or None. An id does not address an endpoint."""
        ...


@dataclass(frozen=True)
class ServedWorkflow:
    """
    A served workflow.

    Attributes:
        id: `p_...`.
        endpoint_key: Key of the workflow's endpoint.
        source: Notebook or folder of the workflow.
        variables: Environment variables of the steps.
        policy: Policy for outbound calls of this workflow, or None for the server's policy.
    """

    id: str
    endpoint_key: str
    source: WorkflowSource
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    policy: OutboundPolicy | None = None

    @cached_property
    def path(self) -> Path:
        """The resolved path of the source."""
        return self.source.path.resolve()

    @cached_property
    def folder(self) -> Path:
        """The resolved folder of the source."""
        return self.source.folder.resolve()


LinkStatus = Literal["opened", "connected", "failed", "cancelled", "expired"]


@dataclass(frozen=True)
class LinkEvent:
    """
    A change of a Connect token's status.

    Attributes:
        token_digest: Digest of the token.
        status: The page was opened, an account was connected, connecting failed, the user cancelled, or the token expired.
        detail: Id of the account, or the reason of the failure.
    """

    token_digest: str = field(repr=False)
    status: LinkStatus
    detail: str = ""


LinkListener = Callable[[LinkEvent], None]


class LinkContext(Protocol):
    """What the pages of Connect Link require: an `AppContext`, or a `LinkOnlyContext` that serves only these pages."""

    @property
    def project(self) -> Project:
        """The project's tables."""
        ...

    @property
    def directory(self) -> Directory:
        """Users and accounts."""
        ...

    @property
    def settings(self) -> ServeSettings:
        """Settings of the server."""
        ...

    @property
    def clock(self) -> Clock:
        """The clock of all time stamps."""
        ...

    @property
    def ids(self) -> IdGenerator:
        """Generates ids and tokens."""
        ...

    @property
    def link_deliveries(self) -> set[str]:
        """The targets to which this process is sending events of Connect Link."""
        ...

    @property
    def on_link_event(self) -> LinkListener | None:
        """Receives status changes of Connect tokens, from any thread; or None."""
        ...


@dataclass(frozen=True)
class LinkOnlyContext:
    """A project of which only the pages of Connect Link are served; implements `LinkContext`."""

    project: Project
    directory: Directory
    settings: ServeSettings
    clock: Clock
    ids: IdGenerator
    on_link_event: LinkListener | None = None
    link_deliveries: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class AppContext:
    """
    A served project.

    Attributes:
        project: The project's tables.
        directory: Users and accounts.
        engine: Runs workflows.
        workflows: Served workflows.
        settings: Settings of the server.
        clock: The clock of all time stamps.
        ids: Generates ids and tokens.
        on_run: Receives each change of a run, in the event loop; or None. The request is None for a run that goes on after a
            pause.
        write_line: Writes one access-log line per request; or None.
        passthrough: With a real project, forwards Connect's routes to Pipedream; None with a local project.
        on_link_event: Receives status changes of Connect tokens, from any thread; or None.
        link_deliveries: The targets to which this process is sending events of Connect Link.
        print_login_code: Prints a one-time code of the console on the terminal of a person; None without such a terminal.
        on_console_code_used: Receives each code with which a person has logged in to the console, from another thread.
    """

    project: Project
    directory: Directory
    engine: WorkflowEngine
    workflows: ServedWorkflows
    settings: ServeSettings
    clock: Clock
    ids: IdGenerator
    on_run: Callable[[RunRequest | None, Execution], None] | None = None
    write_line: Callable[[str], None] | None = None
    passthrough: PipedreamPassthrough | None = None
    on_link_event: LinkListener | None = None
    print_login_code: Callable[[str], None] | None = None
    on_console_code_used: Callable[[str], None] = lambda _: None
    link_deliveries: set[str] = field(default_factory=set)

    @property
    def forms(self) -> ActionForms:
        """The data of the forms of actions and triggers."""
        return ActionForms(self.engine)
