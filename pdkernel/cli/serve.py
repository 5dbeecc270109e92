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

from pdkernel.cli.app import State, command, json_option, option

if TYPE_CHECKING:
    from pdkernel.server.serving import ServedWorkflow

ADMIN_VARIABLE = "PDKERNEL_ADMIN_TOKEN"
DEFAULT_PORT = 8765


@command(name="serve")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...", type=click.Path(path_type=Path))
@option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0 takes any free one.")
@option("--tls", is_flag=True, help="HTTPS with a certificate of the project's own; says what clients must be told.")
@option("--public-url", metavar="URL", help="What callers call us: the base of every URL that is handed out.")
@option(
    "--trusted-proxy",
    "proxies",
    metavar="CIDR",
    multiple=True,
    help="Believe X-Forwarded-For and X-Forwarded-Proto of these machines.",
)
@option("--guests", type=click.IntRange(1, 512), default=8, show_default=True, help="Runs that execute at once.")
@option("--egress", metavar="MODE", help="Outside calls: live (default), deny, allow=HOST,..., stand-in=..., ...")
@option("--via", metavar="PROXY", help="Send outside calls through this proxy.")
@option(
    "--user-cap", type=click.IntRange(1), metavar="N", help="External users that development may have (platform: 10)."
)
@option("--rate-limits", is_flag=True, help="Answer 429 where the platform would.")
@json_option
def serve(state: State, sources: tuple[Path, ...], as_json: bool, **chosen: Any) -> int:
    """
    Serve the workflows of SOURCE (notebooks, workflows' folders, or folders of them; default: this folder).

    Run pages are shown to this machine, and with the token in PDKERNEL_ADMIN_TOKEN to others.
    """
    from pdkernel.server.sockets import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(state, sources, chosen, as_json=as_json))
    return 0


async def _serve(state: State, paths: tuple[Path, ...], chosen: dict[str, Any], *, as_json: bool) -> None:
    from pdkernel.server import create_app
    from pdkernel.server.exposure import check_exposure
    from pdkernel.server.hosts import public_base
    from pdkernel.server.served import SourceWorkflows, check_tokens, other_triggers, sources_of
    from pdkernel.server.sockets import Server, bind, quiet_logs, serve_until_told, tls_context, url_of

    project = state.project()
    pipedream = _pipedream(project)

    public = public_base(chosen["public_url"]) if chosen["public_url"] else None

    def check(*served: ServedWorkflow) -> list[str]:
        check_tokens(served)
        return check_exposure(chosen["host"], served, project, real=pipedream is not None, public_url=public)

    workflows = SourceWorkflows(project, sources_of(paths, Path.cwd()), check=check, say=_say_line)
    served = workflows.list()
    exposed = check(*served)
    warnings = [*exposed, *other_triggers(served)]
    opened = bind(chosen["host"], chosen["port"])
    try:
        here = url_of(opened, chosen["host"], tls=chosen["tls"])
        url = public or here
        settings = _settings(chosen, url)
        context, said = None, [f"Listening at {here}"] if public else []
        if chosen["tls"]:
            hosts = list(dict.fromkeys(["localhost", "127.0.0.1", "::1", *_named(chosen["host"], url)]))
            context, ca, bundle = tls_context(project.folder / "egress", hosts, os.environ)
            said = [f"export NODE_EXTRA_CA_CERTS={ca}    # Node.js", f"export SSL_CERT_FILE={bundle}    # Python"]
        runtime = await _runtime(project, state.directory(), chosen["guests"])
        try:
            serving = _serving(state, runtime, workflows, settings, pipedream)
            quiet_logs()
            if pipedream is not None:
                said.append(
                    f"Connect's own routes are answered by {pipedream.login.base_url}: {pipedream.login.project_id}"
                )

            def ready() -> None:
                if as_json:
                    _print_line(_contract(project, state.directory().project_id, url, served))
                _say_start(url, served, [*said, *warnings], as_json=as_json)

            await serve_until_told(Server(create_app(serving), tls=context, on_ready=ready), opened)
        finally:
            await runtime.close()
            if pipedream is not None:
                await pipedream.close()
    finally:
        opened.close()


async def _runtime(project: Any, directory: Any, size: int) -> Any:
    from pdkernel.engine.runtime import Runtime

    return await Runtime.start(project, directory, size=size)


def _pipedream(project: Any) -> Any:
    """Whoever answers Connect's routes with a real project, or None."""
    login = project.login.find(os.environ)
    if login is None:
        return None
    from pdkernel.server.passthrough import Pipedream

    return Pipedream(login, project.issued_tokens, project.clock)


def _serving(state: State, runtime: Any, workflows: Any, settings: Any, pipedream: Any) -> Any:
    from pdkernel.server import Serving

    project = state.project()
    return Serving(
        project=project,
        directory=state.directory(),
        runtime=runtime,
        workflows=workflows,
        settings=settings,
        clock=project.clock,
        ids=project.ids,
        say=_say_line,
        pipedream=pipedream,
    )


def _settings(chosen: dict[str, Any], url: str) -> Any:
    from pdkernel.egress import default_mode, parse_mode
    from pdkernel.server import ServeSettings
    from pdkernel.server.peers import check_networks

    admin = os.environ.get(ADMIN_VARIABLE, "").strip()
    return ServeSettings(
        url=url,
        policy=parse_mode(chosen["egress"] or default_mode(os.environ), via=chosen["via"]),
        hosts=tuple(_named(chosen["host"], url)),
        trusted_proxies=check_networks(chosen["proxies"]),
        user_cap=chosen["user_cap"],
        rate_limits=chosen["rate_limits"],
        admin=hashlib.sha256(admin.encode()).digest() if admin else None,
    )


def _named(*names: str) -> list[str]:
    """The names in *names*, which are hosts and URLs; not the addresses that mean all of this machine's."""
    found = [urlsplit(name).hostname if "://" in name else name for name in names]
    return [name for name in found if name and name not in ("0.0.0.0", "::")]  # noqa: S104


def _contract(project: Any, project_id: str, url: str, served: Any) -> dict[str, Any]:
    file = project.sqlite_path
    return {
        "url": url,
        "project_id": project_id,
        "database": f"sqlite:///{file}" if file else project.database.url.render_as_string(hide_password=True),
        "workflows": [
            {
                "name": each.source.workflow.name,
                "id": each.id,
                "endpoint": each.endpoint,
                "url": f"{url}/{each.endpoint}",
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


def _where(served: Any, url: str) -> str:
    """The URL at which a served workflow is called; none for one that no request starts."""
    called = any(trigger.type == "http" for trigger in served.source.workflow.triggers)
    return f"{url}/{served.endpoint}" if called else "no endpoint"


def _say_start(url: str, served: Any, more: list[str], *, as_json: bool) -> None:
    lines = [] if as_json else [f"Serving at {url} (Ctrl-C stops)"]
    if not as_json:
        width = max((len(each.source.workflow.name) for each in served), default=0)
        lines += [f"  {each.source.workflow.name.ljust(width)}  {_where(each, url)}" for each in served]
        lines += [] if served else ["  no workflows; the Connect API only"]
    click.echo("\n".join([*lines, *more]), err=True, nl=bool(lines or more))
