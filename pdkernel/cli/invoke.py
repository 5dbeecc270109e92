"""
`pdkernel invoke`: call a workflow's endpoint for an external user.

Options of the command and the output of the response. The operations are in `operations.invocation`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click
import cloup

from pdkernel.cli.app import SERVE, CliContext, command, environment_option, json_option
from pdkernel.cli.terminal import print_json, read_body
from pdkernel.errors import RequestError

if TYPE_CHECKING:
    from pdkernel.operations.invocation import InvokeRequest


class InvokeOptions(TypedDict):
    """Options of `pdkernel invoke`."""

    external_user: str | None
    environment: str | None
    body: str | None
    method: str | None
    query: tuple[str, ...]
    headers: tuple[str, ...]
    client_id: str | None
    client_secret: str | None
    token: str | None
    token_url: str | None
    ca_file: Path | None
    timeout: float
    snippets: bool


@command(
    name="invoke",
    section=SERVE,
    examples=(
        "pdkernel invoke http://127.0.0.1:8765/eo1a2b3c4d --external-user ada --body event.json",
        "pdkernel invoke http://127.0.0.1:8765/eo1a2b3c4d --external-user ada --snippets",
    ),
    exit_statuses={
        0: "a status below 400",
        1: "a status of 500 or above",
        2: "a status from 400 to 499, or wrong arguments",
        3: "the server does not respond",
    },
)
@cloup.argument("url")
@cloup.option("--external-user", metavar="ID", help="The external user that the workflow runs for.")
@environment_option()
@cloup.option("--body", metavar="FILE|JSON", help="The body, sent as JSON; - reads standard input.")
@cloup.option(
    "--method", metavar="METHOD", help="The HTTP method; default: POST with a body or an external user, else GET."
)
@cloup.option("--query", metavar="NAME=VALUE", multiple=True, help="Added to the URL's query.")
@cloup.option("--header", "headers", metavar="NAME: VALUE", multiple=True, help="An additional header.")
@cloup.option(
    "--client-id",
    metavar="ID",
    envvar="PDKERNEL_CLIENT_ID",
    help="OAuth client whose token is fetched and sent (also PDKERNEL_CLIENT_ID).",
)
@cloup.option(
    "--client-secret",
    metavar="SECRET",
    envvar="PDKERNEL_CLIENT_SECRET",
    help="The client's secret; better set PDKERNEL_CLIENT_SECRET.",
)
@cloup.option(
    "--token",
    metavar="TOKEN",
    envvar="PDKERNEL_TOKEN",
    help="A bearer token, sent unchanged; better set PDKERNEL_TOKEN.",
)
@cloup.option(
    "--token-url",
    metavar="URL",
    envvar="PDKERNEL_TOKEN_URL",
    help="The token endpoint of the OAuth client (also PDKERNEL_TOKEN_URL); default: on the origin of URL.",
)
@cloup.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path, resolve_path=True),
    help="Also trust this certificate authority.",
)
@cloup.option(
    "--timeout",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="How long to wait for the response.",
)
@cloup.option("--snippets", is_flag=True, help="Print programs that make this call instead: curl, Python, TypeScript.")
@json_option
def invoke(state: CliContext, url: str, as_json: bool, **options: Unpack[InvokeOptions]) -> int:
    """
    Call the endpoint of a workflow.

    Sends one request to URL and shows the response.
    """
    from pdkernel.operations.invocation import explain_missing_token
    from pdkernel.operations.invocation import invoke as send

    call = _call(url, options)
    if options["snippets"]:
        return _print_snippets(state, call, as_json=as_json)
    response = send(call, timeout_s=options["timeout"], ca_file=options["ca_file"])
    if as_json:
        print_json(response.to_json())
    else:
        from pdkernel.render.http_response import render_text

        click.echo(
            render_text(response.status, response.reason, response.shown_headers, response.body, response.duration_ms),
            nl=False,
        )
        hint = explain_missing_token(call, response)
        if hint is not None:
            click.echo(f"{hint} To send the workflow's own token, set PDKERNEL_TOKEN.", err=True)
    return response.exit_status


def _print_snippets(state: CliContext, call: InvokeRequest, *, as_json: bool) -> int:
    from pdkernel.operations.invocation import build_request_snippets
    from pdkernel.render.snippets import render_text

    snippets = build_request_snippets(
        call, project_id=state.open_directory().project_id, fix="Pass --external-user ID."
    )
    if as_json:
        print_json([{"kind": each.kind, "code": each.code, "said": each.problem} for each in snippets])
    else:
        click.echo(render_text(snippets), nl=False)
    return 0


def _call(url: str, options: InvokeOptions) -> InvokeRequest:
    from pdkernel.common.identity import parse_environment
    from pdkernel.operations.invocation import InvokeRequest, build_client

    body = read_body(options["body"]) if options["body"] is not None else None
    plain = body is None and options["external_user"] is None
    return InvokeRequest(
        url,
        external_user_id=options["external_user"],
        environment=parse_environment(options["environment"]),
        body=body,
        method=(options["method"] or ("GET" if plain else "POST")).upper(),
        query=[_pair(text, "=", "--query NAME=VALUE") for text in options["query"]],
        headers=dict(_pair(text, ":", "--header 'NAME: VALUE'") for text in options["headers"]),
        bearer=options["token"],
        client=build_client(options["client_id"], options["client_secret"], options["token_url"]),
    )


def _pair(text: str, mark: str, form: str) -> tuple[str, str]:
    name, found, value = text.partition(mark)
    if not found or not name.strip():
        raise RequestError(f"{text!r} has no {mark!r}.", fix=f"Write {form}.")
    return name.strip(), value.strip() if mark == ":" else value
