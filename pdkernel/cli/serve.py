"""
`pdkernel serve`: workflows behind HTTP endpoints, with the Connect API beside them.

Knows the options and what is said at the start. Sockets, the API and endpoints are the server's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from pdkernel.cli.app import CliContext, command, env_option, json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.identity import Directory
    from pdkernel.project import Project
    from pdkernel.server.app_context import AppContext, ServedWorkflow, ServedWorkflows, ServeSettings
    from pdkernel.server.passthrough import PipedreamPassthrough

ADMIN_TOKEN_VARIABLE = "PDKERNEL_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT_PORT = 8765


@command(name="serve")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", type=click.Path(path_type=Path))
@env_option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@env_option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0 takes any free one."
)
@env_option(
    "--tls", is_flag=True, help="HTTPS with a certificate of the project's own; says what clients must be told."
)
@env_option("--public-url", metavar="URL", help="What callers call us: the base of every URL that is handed out.")
@env_option(
    "--trusted-proxy",
    "proxies",
    metavar="CIDR",
    multiple=True,
    help="Believe X-Forwarded-For and X-Forwarded-Proto of these machines.",
)
@env_option(
    "--max-active-runs", type=click.IntRange(1, 512), default=8, show_default=True, help="Runs that execute at once."
)
@env_option("--egress", metavar="MODE", help="Outside calls: live (default), deny, allow=HOST,..., stand-in=..., ...")
@env_option("--via", metavar="PROXY", help="Send outside calls through this proxy.")
@env_option(
    "--user-cap", type=click.IntRange(1), metavar="N", help="External users that development may have (platform: 10)."
)
@env_option("--rate-limits", is_flag=True, help="Answer 429 where the platform would.")
@json_option
def serve(state: CliContext, sources: tuple[Path, ...], as_json: bool, **chosen: Any) -> int:
    """
    Serve the workflows of SOURCE (notebooks, workflows' folders, or folders of them; default: this folder).

    Run pages are shown to this machine, and with the token in PDKERNEL_ADMIN_TOKEN to others.
    """
    from pdkernel.server.uvicorn_server import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(state, sources, chosen, as_json=as_json))
    return 0


async def _serve(state: CliContext, paths: tuple[Path, ...], chosen: dict[str, Any], *, as_json: bool) -> None:
    from pdkernel.server import create_app
    from pdkernel.server.exposure import check_exposure
    from pdkernel.server.host_names import parse_public_url
    from pdkernel.server.source_workflows import (
        SourceWorkflows,
        check_bearer_tokens,
        load_served_sources,
        warn_unfired_triggers,
    )
    from pdkernel.server.uvicorn_server import (
        Server,
        build_tls_context,
        listen,
        local_url,
        serve_until_signalled,
        silence_uvicorn_logs,
    )

    project = state.open_project()
    pipedream = _pipedream(project)

    public = parse_public_url(chosen["public_url"]) if chosen["public_url"] else None

    def check(*served: ServedWorkflow) -> list[str]:
        check_bearer_tokens(served)
        return check_exposure(
            chosen["host"], served, project, has_pipedream_login=pipedream is not None, public_url=public
        )

    workflows = SourceWorkflows(project, load_served_sources(paths, Path.cwd()), check=check, write_line=_say_line)
    served = workflows.list_workflows()
    exposed = check(*served)
    warnings = [*exposed, *warn_unfired_triggers(served)]
    opened = listen(chosen["host"], chosen["port"])
    try:
        here = local_url(opened, chosen["host"], tls=chosen["tls"])
        url = public or here
        settings = _settings(chosen, url)
        context, said = None, [f"Listening at {here}"] if public else []
        if chosen["tls"]:
            hosts = list(dict.fromkeys(["localhost", "127.0.0.1", "::1", *_host_names(chosen["host"], url)]))
            context, ca, bundle = build_tls_context(project.folder / "egress", hosts, os.environ)
            said = [f"export NODE_EXTRA_CA_CERTS={ca}    # Node.js", f"export SSL_CERT_FILE={bundle}    # Python"]
        runtime = await _runtime(project, state.open_directory(), chosen["max_active_runs"])
        try:
            serving = _serving(state, runtime, workflows, settings, pipedream)
            silence_uvicorn_logs()
            if pipedream is not None:
                said.append(
                    f"Connect's own routes are answered by {pipedream.login.base_url}: {pipedream.login.project_id}"
                )

            def ready() -> None:
                if as_json:
                    _print_line(_startup_json(project, state.open_directory().project_id, url, served))
                _say_start(url, served, [*said, *warnings], as_json=as_json)

            await serve_until_signalled(Server(create_app(serving), tls=context, on_ready=ready), opened)
        finally:
            await runtime.close()
            if pipedream is not None:
                await pipedream.close()
    finally:
        opened.close()


async def _runtime(project: Project, directory: Directory, size: int) -> WorkflowEngine:
    from pdkernel.engine.workflow_engine import WorkflowEngine

    return await WorkflowEngine.start(project, directory, max_active_runs=size)


def _pipedream(project: Project) -> PipedreamPassthrough | None:
    """Whoever answers Connect's routes with a real project, or None."""
    login = project.login.load(os.environ)
    if login is None:
        return None
    from pdkernel.server.passthrough import PipedreamPassthrough

    return PipedreamPassthrough(login, project.pipedream_tokens, project.clock)


def _serving(
    state: CliContext,
    runtime: WorkflowEngine,
    workflows: ServedWorkflows,
    settings: ServeSettings,
    pipedream: PipedreamPassthrough | None,
) -> AppContext:
    from pdkernel.server import AppContext

    project = state.open_project()
    return AppContext(
        project=project,
        directory=state.open_directory(),
        engine=runtime,
        workflows=workflows,
        settings=settings,
        clock=project.clock,
        ids=project.ids,
        write_line=_say_line,
        passthrough=pipedream,
    )


def _settings(chosen: dict[str, Any], url: str) -> ServeSettings:
    from pdkernel.egress import default_mode, parse_policy
    from pdkernel.server import ServeSettings
    from pdkernel.server.client_address import parse_networks

    admin = os.environ.get(ADMIN_TOKEN_VARIABLE, "").strip()
    return ServeSettings(
        base_url=url,
        policy=parse_policy(chosen["egress"] or default_mode(os.environ), via=chosen["via"]),
        allowed_hosts=tuple(_host_names(chosen["host"], url)),
        trusted_proxies=parse_networks(chosen["proxies"]),
        max_development_users=chosen["user_cap"],
        applies_rate_limits=chosen["rate_limits"],
        admin_token_hash=hashlib.sha256(admin.encode()).digest() if admin else None,
    )


def _host_names(*names: str) -> list[str]:
    """The names in *names*, which are hosts and URLs; not the addresses that mean all of this machine's."""
    found = [urlsplit(name).hostname if "://" in name else name for name in names]
    return [name for name in found if name and name not in ("0.0.0.0", "::")]  # noqa: S104


def _startup_json(project: Project, project_id: str, url: str, served: Sequence[ServedWorkflow]) -> dict[str, Any]:
    file = project.sqlite_path
    return {
        "url": url,
        "project_id": project_id,
        "database": f"sqlite:///{file}" if file else project.sqlalchemy_engine.url.render_as_string(hide_password=True),
        "workflows": [
            {
                "name": each.source.workflow.name,
                "id": each.id,
                "endpoint": each.endpoint_key,
                "url": f"{url}/{each.endpoint_key}",
            }
            for each in served
        ],
    }


def _say_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print_line(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _workflow_url(served: ServedWorkflow, url: str) -> str:
    """The URL at which a served workflow is called; none for one that no request starts."""
    called = any(trigger.type == "http" for trigger in served.source.workflow.triggers)
    return f"{url}/{served.endpoint_key}" if called else "no endpoint"


def _say_start(url: str, served: Sequence[ServedWorkflow], more: list[str], *, as_json: bool) -> None:
    lines = [] if as_json else [f"Serving at {url} (Ctrl-C stops)"]
    if not as_json:
        width = max((len(each.source.workflow.name) for each in served), default=0)
        lines += [f"  {each.source.workflow.name.ljust(width)}  {_workflow_url(each, url)}" for each in served]
        lines += [] if served else ["  no workflows; the Connect API only"]
    click.echo("\n".join([*lines, *more]), err=True, nl=bool(lines or more))
