"""
`pdkernel invoke`: call a workflow's endpoint for an external user.

Knows the options and what of the answer is shown. The request is `pdkernel.invoke`'s.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pdkernel.cli.app import CliContext, command, env_option, json_option, print_json

if TYPE_CHECKING:
    from pdkernel.invoke import ClientCredentials, InvokeRequest
    from pdkernel.project import Project
    from pdkernel.render.snippets import Invocation, Snippet


@command(name="invoke")
@click.argument("url")
@env_option("--external-user", metavar="ID", help="On whose behalf the workflow runs.")
@env_option("--environment", metavar="ENV", help="development (default) or production.")
@env_option("--body", metavar="FILE|JSON", help="The body, sent as JSON.")
@env_option("--method", metavar="METHOD", help="Default: POST with a body, else GET; for an external user POST.")
@click.option("--query", metavar="NAME=VALUE", multiple=True, help="Added to the URL's query.")
@click.option("--header", "headers", metavar="NAME: VALUE", multiple=True, help="Sent besides ours.")
@env_option("--client-id", metavar="ID", help="OAuth client whose token is fetched and sent.")
@env_option("--client-secret", metavar="SECRET", help="Its secret; give it as PDKERNEL_CLIENT_SECRET.")
@env_option("--token", metavar="TOKEN", help="A bearer token, sent as it is; give it as PDKERNEL_TOKEN.")
@env_option(
    "--token-url", metavar="URL", help="Where the client gets its tokens; default: at the endpoint's own origin."
)
@env_option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path, resolve_path=True),
    help="Trust this certificate authority, too.",
)
@env_option("--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds to wait.")
@click.option("--snippets", is_flag=True, help="Instead, print programs that make this call: curl, Python, TypeScript.")
@click.option("--run", "run_them", is_flag=True, help="With --snippets: run each, and tick those that succeed.")
@json_option
def invoke(state: CliContext, url: str, as_json: bool, **chosen: Any) -> int:
    """
    Call the endpoint at URL once, and show its answer.

    Ends with 0 for an answer that is no error, 2 for 400 to 499, 1 for 500 and more, 3 where nobody answers.
    """
    from pdkernel.invoke import explain_missing_token
    from pdkernel.invoke import invoke as send

    call = _call(url, chosen)
    if chosen["snippets"]:
        return _snippets(state, call, chosen, as_json=as_json)
    answer = send(call, timeout_s=chosen["timeout"], ca_file=chosen["ca_file"])
    if as_json:
        print_json(answer.to_json())
    else:
        from pdkernel.render.http_response import render_text

        click.echo(
            render_text(answer.status, answer.reason, answer.shown_headers, answer.body, answer.duration_ms), nl=False
        )
        hint = explain_missing_token(call, answer)
        if hint is not None:
            click.echo(f"{hint} For a token of the workflow's own: PDKERNEL_TOKEN", err=True)
    return answer.exit_status


def _snippets(state: CliContext, call: InvokeRequest, chosen: dict[str, Any], *, as_json: bool) -> int:
    from pdkernel.errors import RequestError
    from pdkernel.render.snippets import build_snippets, render_text
    from pdkernel.session.snippet_runner import build_invocation

    if call.external_user_id is None:
        raise RequestError("Snippets invoke a workflow for an external user.", fix="Name one: --external-user ID")
    project = state.open_project()
    does = build_invocation(
        call.url,
        external_user_id=call.external_user_id,
        environment=call.environment,
        project_id=state.open_directory().project_id,
        body=call.body,
        method=call.method,
        query=call.query,
        uses_bearer_token=call.bearer is not None,
    )
    made = build_snippets(does)
    if chosen["run_them"]:
        made = asyncio.run(_run(project, made, does, call.client, chosen))
    if as_json:
        print_json([{"kind": e.kind, "code": e.code, "works": e.succeeded, "said": e.problem} for e in made])
    else:
        click.echo(render_text(made), nl=False)
    return 1 if any(each.succeeded is False for each in made) else 0


async def _run(
    project: Project,
    made: tuple[Snippet, ...],
    does: Invocation,
    client: ClientCredentials | None,
    chosen: dict[str, Any],
) -> tuple[Snippet, ...]:
    from contextlib import nullcontext

    from pdkernel.session.snippet_runner import SnippetRunner, temporary_client

    with nullcontext((client.id, client.secret)) if client else temporary_client(project) as (client_id, secret):
        runner = SnippetRunner(
            project.folder / "packages" / "snippets",
            client_id,
            secret,
            token=chosen["token"],
            ca_file=chosen["ca_file"],
            timeout_s=chosen["timeout"],
            progress=lambda line: click.echo(line, err=True),
        )
        return await runner.run(made, does)


def _call(url: str, chosen: dict[str, Any]) -> InvokeRequest:
    from pdkernel.identity import parse_environment
    from pdkernel.invoke import ClientCredentials, InvokeRequest

    body = _body(chosen["body"])
    plain = body is None and chosen["external_user"] is None
    secret = _client(chosen)
    return InvokeRequest(
        url,
        external_user_id=chosen["external_user"],
        environment=parse_environment(chosen["environment"]),
        body=body,
        method=(chosen["method"] or ("GET" if plain else "POST")).upper(),
        query=[_pair(text, "=", "--query NAME=VALUE") for text in chosen["query"]],
        headers=dict(_pair(text, ":", "--header 'NAME: VALUE'") for text in chosen["headers"]),
        bearer=chosen["token"],
        client=ClientCredentials(chosen["client_id"], secret, chosen["token_url"]) if secret else None,
    )


def _client(chosen: dict[str, Any]) -> str | None:
    from pdkernel.errors import RequestError

    if bool(chosen["client_id"]) != bool(chosen["client_secret"]):
        raise RequestError(
            "An OAuth client has an id and a secret.",
            fix="Set PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET; make one with: pdkernel clients create",
        )
    return str(chosen["client_secret"]) if chosen["client_secret"] else None


def _body(text: str | None) -> Any:
    from pdkernel.event import parse_json

    if text is None:
        return None
    try:
        there = Path(text).is_file()
    except OSError:  # a text that is too long to be a file's name
        there = False
    return parse_json(Path(text).read_bytes() if there else text, label="the body")


def _pair(text: str, mark: str, form: str) -> tuple[str, str]:
    from pdkernel.errors import RequestError

    name, found, value = text.partition(mark)
    if not found or not name.strip():
        raise RequestError(f"{text!r} has no {mark!r}.", fix=f"Write {form}.")
    return name.strip(), value.strip() if mark == ":" else value
