"""
`pdkernel serve`: workflows behind HTTP endpoints, with the Connect API beside them.

Options of the command and the output at startup. Sockets, API and endpoints are in `server`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from urllib.parse import urlsplit

import click
import cloup

from pdkernel.cli.app import SERVE, CliContext, command, json_option, parse_size
from pdkernel.cli.terminal import is_interactive, print_text
from pdkernel.common.blocking import run_blocking
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from ssl import SSLContext

    from pdkernel.files.source import RefusedSource
    from pdkernel.server.app_context import ServedWorkflow, ServeSettings
    from pdkernel.server.passthrough import PipedreamPassthrough
    from pdkernel.server.processes import ProcessMembership
    from pdkernel.server.source_workflows import SourceWorkflows
    from pdkernel.storage import Project


DEFAULT_PORT = 8765

_log = logging.getLogger(__name__)


class ServeOptions(TypedDict):
    """Options of `pdkernel serve`."""

    host: str
    port: int
    tls: bool
    public_url: str | None
    proxies: tuple[str, ...]
    max_active_runs: int | None
    server_processes: int
    memory: int | None
    require_isolation: bool
    accept_missing_isolation: bool
    egress: str | None
    via: tuple[str, ...]
    user_cap: int | None
    rate_limits: bool


@command(
    name="serve",
    section=SERVE,
    examples=(
        "pdkernel serve greet.ipynb",
        "pdkernel serve workflows/ --port 0 --json",
        "pdkernel serve --host 0.0.0.0 --public-url https://hooks.example.com --trusted-proxy 10.0.0.0/8",
    ),
)
@cloup.argument("sources", nargs=-1, metavar="[SOURCE]...", type=click.Path(path_type=Path))
@cloup.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@cloup.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=DEFAULT_PORT,
    show_default=True,
    help="0 picks a free port.",
)
@cloup.option(
    "--tls", is_flag=True, help="Serve HTTPS with the project's own certificate; prints the settings that clients need."
)
@cloup.option(
    "--public-url", metavar="URL", help="The base URL that callers use; all URLs in responses start with this base."
)
@cloup.option(
    "--trusted-proxy",
    "proxies",
    metavar="CIDR",
    multiple=True,
    help="Trust X-Forwarded-For and X-Forwarded-Proto from these addresses.",
)
@cloup.option(
    "--max-active-runs",
    type=click.IntRange(1, 512),
    metavar="N",
    help="Runs that execute at once in each server process (default: 8, and up to 128 while processors are idle and memory remains).",
)
@cloup.option(
    "--server-processes",
    type=click.IntRange(1, 64),
    metavar="N",
    default=1,
    show_default=True,
    help="Processes that serve the project; more than 1 need a project on Postgres.",
)
@cloup.option(
    "--memory",
    callback=parse_size,
    metavar="SIZE",
    help="Memory for all workers, such as 512M or 4G: beyond it, idle workers end (default: half of the memory that the system permits).",
)
@cloup.option(
    "--require-isolation",
    is_flag=True,
    help="Refuse to start if a protection between the runs of external users is missing.",
)
@cloup.option(
    "--accept-missing-isolation", is_flag=True, help="Let other machines call although such a protection is missing."
)
@cloup.option(
    "--egress",
    metavar="POLICY",
    help="Outbound calls: live (default), deny, allow=HOST,..., stand-in=..., ... (also PDKERNEL_EGRESS). A notebook with a "
    "%pdegress cell needs it.",
)
@cloup.option(
    "--via",
    metavar="PROXY",
    multiple=True,
    envvar="PDKERNEL_VIA",
    help="Send outbound calls through this proxy; net_ID=PROXY for workflows of that Pipedream network (repeatable; also PDKERNEL_VIA).",
)
@cloup.option(
    "--user-cap",
    type=click.IntRange(1),
    metavar="N",
    help="Maximum number of external users in development (platform: 10).",
)
@cloup.option("--rate-limits", is_flag=True, help="Return 429 where the platform would; each process counts.")
@json_option
def serve(state: CliContext, sources: tuple[Path, ...], as_json: bool, **options: Unpack[ServeOptions]) -> int:
    """
    Serve workflows over HTTP, with the Connect API.

    SOURCE is a notebook, a workflow's folder, or a folder of them; the default is the current folder. The console at /-/
    shows and steers runs: log in with the code that a terminal shows, or with the token in PDKERNEL_ADMIN_TOKEN.
    """
    from pdkernel.server.uvicorn_server import new_event_loop

    site = _prepare(state, sources, options)
    try:
        membership = None
        if options["server_processes"] > 1:
            started = _start_processes(state, site, options, as_json=as_json)
            if isinstance(started, int):
                return started
            membership = started
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_answer_requests(state, site, options, membership, as_json=as_json))
    finally:
        site.listening.close()
    return 0


@dataclass(frozen=True)
class _Site:
    """
    What is served, before the first request.

    Attributes:
        listening: The listening socket.
        url: The base of the URLs that callers use.
        local_url: The URL of the listening socket on this machine.
        console_host: As in `ServeSettings`.
        workflows: The workflows.
        served: The workflows at the start.
        not_served: The workflows that cannot be served.
        notes: Lines that are printed at the start.
        tls: The TLS context, or None.
        pipedream: The passthrough to Pipedream, or None without a login.
    """

    listening: socket.socket
    url: str
    local_url: str
    console_host: str | None
    workflows: SourceWorkflows
    served: Sequence[ServedWorkflow]
    not_served: Sequence[RefusedSource]
    notes: Sequence[str]
    tls: SSLContext | None
    pipedream: PipedreamPassthrough | None

    @property
    def console_url(self) -> str:
        """The base of the console's URLs."""
        from pdkernel.server.host_names import build_console_url

        return build_console_url(self.url, self.console_host)


def _prepare(state: CliContext, paths: tuple[Path, ...], options: ServeOptions) -> _Site:
    """Load and check what is served, and listen."""
    from pdkernel.server.exposure import is_loopback
    from pdkernel.server.host_names import PUBLIC_URL_SETTING, build_console_host, parse_public_url
    from pdkernel.server.uvicorn_server import listen, local_url

    project = state.open_project()
    warnings = _check_isolation(options, project, paths)
    if options["server_processes"] > 1 and project.sqlite_path is not None:
        raise RequestError(
            "Several server processes need a project on Postgres: on SQLite, one process serves a project, because SQLite "
            "lets one process write at a time.",
            fix="Name a database with --database postgresql://..., or omit --server-processes.",
        )
    public = parse_public_url(options["public_url"]) if options["public_url"] else None
    pipedream = _passthrough(project)
    workflows, more_warnings = _load_workflows(state, paths, options, public, pipedream)
    served = workflows.list_workflows()
    listening = listen(options["host"], options["port"])
    try:
        local = local_url(listening, options["host"], tls=options["tls"])
        url = public or local
        if public is not None and public != project.settings.get(PUBLIC_URL_SETTING):
            project.settings.set(PUBLIC_URL_SETTING, public)
        console_host = build_console_host(project) if public is None and is_loopback(options["host"]) else None
        tls, notes = None, [f"Listening at {local}"] if public else []
        if options["tls"]:
            tls, exports = _build_tls(project, options["host"], url, *filter(None, [console_host]))
            notes += exports
        if pipedream is not None:
            login = pipedream.login
            notes.append(f"Requests to Connect's routes go to {login.base_url}, project {login.project_id}")
        notes += [*warnings, *more_warnings, *describe_triggers(project, served, url)]
    except BaseException:
        listening.close()
        raise
    return _Site(listening, url, local, console_host, workflows, served, workflows.not_served, notes, tls, pipedream)


def _check_isolation(options: ServeOptions, project: Project, paths: tuple[Path, ...]) -> list[str]:
    """Check what keeps the runs of external users apart, and protect this process; returns lines for the startup."""
    from pdkernel.engine.step_packages import find_isolation
    from pdkernel.server.exposure import check_isolation
    from pdkernel.workers import protect_process

    isolation = find_isolation(project, paths or (Path.cwd(),))
    required, accepted = options["require_isolation"], options["accept_missing_isolation"]
    warnings = check_isolation(options["host"], isolation, is_required=required, accepts_gaps=accepted)
    protect_process()
    return [*warnings, *isolation.describe_root()]


def _announce(state: CliContext, site: _Site, *, as_json: bool) -> None:
    """Print that requests are answered, and the first code of the console."""
    from pdkernel.server.console_sessions import ConsoleSessions

    project = state.open_project()
    if as_json:
        print_line(startup_json(project, state.open_directory().project_id, site.url, site.served, site.not_served))
    print_startup(site.url, site.served, site.not_served, site.notes, as_json=as_json)
    ConsoleSessions(project, print_code=code_printer(site.console_url, as_json=as_json)).print_new_code()


def _start_processes(
    state: CliContext, site: _Site, options: ServeOptions, *, as_json: bool
) -> ProcessMembership | int:
    """Start the server processes. Returns as `ServerProcesses.run`."""
    from pdkernel.server.processes import ServerProcesses
    from pdkernel.workers import ZYGOTES

    project = state.open_project()

    def announce() -> None:
        _announce(state, site, as_json=as_json)
        project.disconnect()

    project.disconnect()  # a process cannot use the connections of another; each opens its own
    ZYGOTES.close()  # likewise
    count = options["server_processes"]
    return ServerProcesses(count, site.listening, on_ready=announce, write_line=write_line).run()


def _load_workflows(
    state: CliContext,
    paths: tuple[Path, ...],
    options: ServeOptions,
    public: str | None,
    pipedream: PipedreamPassthrough | None,
) -> tuple[SourceWorkflows, list[str]]:
    """
    Load the workflows at *paths*, and check that they may be served on the host and under the outbound policy of *options*.

    Returns:
        The workflows, and warnings for the startup.
    """
    from pdkernel.egress.outbound_policy import MODE_VARIABLE
    from pdkernel.server.exposure import check_exposure, check_policy_cells
    from pdkernel.server.source_workflows import SourceWorkflows, check_values, select_sources

    project, host = state.open_project(), options["host"]
    is_policy_named = options["egress"] is not None or bool(os.environ.get(MODE_VARIABLE, "").strip())

    def check(*served: ServedWorkflow) -> list[str]:
        check_values(served)
        if not is_policy_named:
            check_policy_cells([each.source for each in served], paths)
        return check_exposure(host, served, project, has_pipedream_login=pipedream is not None, public_url=public)

    workflows = SourceWorkflows(project, select_sources(paths, Path.cwd()), check=check, write_line=write_line)
    served = workflows.list_workflows()
    return workflows, check(*served)


def _build_tls(project: Project, *names: str) -> tuple[SSLContext, list[str]]:
    """Return the TLS context with the project's certificate, and the settings that clients need."""
    from pdkernel.server.uvicorn_server import build_tls_context

    hosts = list(dict.fromkeys(["localhost", "127.0.0.1", "::1", *_host_names(*names)]))
    context, authority, bundle = build_tls_context(project.folder / "egress", hosts, os.environ)
    return context, [
        f"export NODE_EXTRA_CA_CERTS={authority}    # Node.js",
        f"export SSL_CERT_FILE={bundle}    # Python",
    ]


async def _answer_requests(
    state: CliContext, site: _Site, options: ServeOptions, membership: ProcessMembership | None, *, as_json: bool
) -> None:
    """Answer requests until a signal ends the server."""
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.journal import mark_dead
    from pdkernel.server import AppContext, create_app
    from pdkernel.server.uvicorn_server import Server, serve_until_signalled, silence_uvicorn_logs
    from pdkernel.workers import default_memory_budget, raise_descriptor_limit

    project, directory = state.open_project(), state.open_directory()
    if membership is not None and membership.predecessor is not None:
        await run_blocking(mark_dead, project, membership.predecessor)
    raise_descriptor_limit()
    budget = (options["memory"] or default_memory_budget()) // options["server_processes"]
    _log.info("Idle workers end when the workers of this process use more than %d MB (--memory).", budget >> 20)
    engine = await WorkflowEngine.start(
        project,
        directory,
        max_active_runs=options["max_active_runs"],
        memory_budget=budget,
        spares=1,
        requires_isolation=options["require_isolation"],
        origin="serve",
    )
    try:
        app_context = AppContext(
            project=project,
            directory=directory,
            engine=engine,
            workflows=site.workflows,
            settings=replace(
                build_settings(options, site.url, os.environ), local_url=site.local_url, console_host=site.console_host
            ),
            clock=project.clock,
            ids=project.ids,
            write_line=write_line,
            passthrough=site.pipedream,
            print_login_code=code_printer(site.console_url, as_json=as_json),
        )

        def report_ready() -> None:
            if membership is None:
                _announce(state, site, as_json=as_json)
            else:
                membership.report_ready(engine.journal.executor_id)

        silence_uvicorn_logs()
        server = Server(
            create_app(app_context),
            tls=site.tls,
            on_ready=report_ready,
            share=None if membership is None else membership.share,
        )
        await serve_until_signalled(server, site.listening, None if membership is None else membership.parent)
    finally:
        await engine.close()
        if site.pipedream is not None:
            await site.pipedream.close()


def _passthrough(project: Project) -> PipedreamPassthrough | None:
    """Return the passthrough to Pipedream for Connect's routes; None without a login."""
    login = project.login.load(os.environ)
    if login is None:
        return None
    from pdkernel.server.passthrough import PipedreamPassthrough

    return PipedreamPassthrough(login, project.pipedream_tokens, project.clock)


def build_settings(options: ServeOptions, url: str, environ: Mapping[str, str]) -> ServeSettings:
    """
    Return the settings of the server at *url*, from the options and the environment.

    Raises:
        RequestError: An option is invalid, or the admin token is weak.
    """
    from pdkernel.egress import choose_policy
    from pdkernel.server import ServeSettings
    from pdkernel.server.client_address import parse_networks
    from pdkernel.server.console_sessions import ADMIN_TOKEN_VARIABLE, hash_admin_token

    admin = environ.get(ADMIN_TOKEN_VARIABLE, "").strip()
    return ServeSettings(
        base_url=url,
        policy=choose_policy(options["egress"], environ, via=options["via"]),
        allowed_hosts=tuple(_host_names(options["host"], url)),
        trusted_proxies=parse_networks(options["proxies"]),
        max_development_users=options["user_cap"],
        applies_rate_limits=options["rate_limits"],
        admin_token_hash=hash_admin_token(admin) if admin else None,
    )


def _host_names(*names: str) -> list[str]:
    """Return the host names in *names* (hosts or URLs), without the wildcard addresses 0.0.0.0 and ::."""
    found = [urlsplit(name).hostname if "://" in name else name for name in names]
    return [name for name in found if name and name not in ("0.0.0.0", "::")]  # noqa: S104


def startup_json(
    project: Project,
    project_id: str,
    url: str,
    served: Sequence[ServedWorkflow],
    not_served: Sequence[RefusedSource],
) -> dict[str, Any]:
    """Return what `--json` prints when the server answers requests. A workflow without an HTTP trigger has no endpoint."""
    return {
        "url": url,
        "project_id": project_id,
        "database": project.location,
        "workflows": [
            {
                "name": each.source.workflow.name,
                "id": each.id,
                "endpoint": each.endpoint_key if _has_endpoint(each) else None,
                "url": f"{url}/{each.endpoint_key}" if _has_endpoint(each) else None,
            }
            for each in served
        ],
        "not_served": [{"name": each.name, "folder": str(each.path), "reason": each.reason} for each in not_served],
    }


def code_printer(url: str, *, as_json: bool) -> Callable[[str], None] | None:
    """Return a function that prints a login code on a terminal; None without a terminal, because a log must not contain codes."""
    return partial(_print_login_code, url) if is_interactive(sys.stderr) and not as_json else None


def _print_login_code(url: str, code: str) -> None:
    write_line(f"Console: {url}/-/login?code={code}    # valid once, for ten minutes")


def write_line(line: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def print_line(value: dict[str, Any]) -> None:
    """Print a JSON value as a line of standard output."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _has_endpoint(served: ServedWorkflow) -> bool:
    """Return whether the workflow has an HTTP trigger."""
    return any(trigger.type == "http" for trigger in served.source.workflow.triggers)


def print_startup(
    url: str,
    served: Sequence[ServedWorkflow],
    not_served: Sequence[RefusedSource],
    more: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Print the URLs of the served workflows, the workflows that are not served, and the lines *more*."""
    lines = [] if as_json else [f"Serving at {url} (Ctrl-C stops)"]
    if not as_json:
        width = max((len(each.source.workflow.name) for each in served), default=0)
        lines += [
            f"  {each.source.workflow.name.ljust(width)}  {f'{url}/{each.endpoint_key}' if _has_endpoint(each) else 'no endpoint'}"
            for each in served
        ]
        lines += [] if served else ["  No workflows: only the Connect API is served."]
    if not_served:
        lines += ["Not served:", *(f"  {each.name} ({each.path}): {each.reason}" for each in not_served)]
    print_text("\n".join([*lines, *more]), err=True, nl=bool(lines or more))


def describe_triggers(project: Project, workflows: Sequence[ServedWorkflow], url: str) -> list[str]:
    """Return the lines about the triggers: when each one fires, and which are off."""
    from pdkernel.cli.triggers import trigger_lines
    from pdkernel.operations.triggers import find_unserved_emitters, view_triggers

    views = [view for served in workflows for view in view_triggers(project, served.source)]
    if not views:
        return []
    lines = [f"  {line}" for line in trigger_lines(project, views, base_url=url)]
    sources = [(each.id, each.source) for each in workflows]
    lines += [
        f"  {view.workflow_name!r} listens to {name!r}, which is not served."
        for view in views
        for name in find_unserved_emitters(view, sources)
    ]
    has_off = not all(view.is_enabled for view in views)
    return [
        "Triggers (off until they are enabled, because Pipedream may still fire them):" if has_off else "Triggers:",
        *lines,
    ]
