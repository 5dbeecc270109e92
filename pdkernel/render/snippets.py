"""
Programs that invoke a workflow for an external user: curl, Python, and TypeScript with the official SDK 3.x.

Each program reads the client's id and secret, or the endpoint's own token, from the environment and contains no secret.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode, urlsplit

from pdkernel.common.identity import PIPEDREAM_API_URL
from pdkernel.model import JSON
from pdkernel.render.markup import (
    CONTAINER_STYLE,
    Html,
    code_block,
    collapsible,
    escape_control_characters,
    join,
    join_lines,
    muted,
    tag,
)

SnippetKind = Literal["curl", "python", "typescript-3"]
CLIENT_ID_VARIABLE, CLIENT_SECRET_VARIABLE = "PIPEDREAM_CLIENT_ID", "PIPEDREAM_CLIENT_SECRET"  # variables' names
WORKFLOW_TOKEN_VARIABLE = "WORKFLOW_TOKEN"  # noqa: S105  # a variable's name
PATH_CHANGED_NOTE = "this SDK changes the path to lower case and drops all characters but letters, digits, -, _ and ."
_CHANGED_BY_SDK = re.compile(r"[^a-z0-9_\-./:]")
"""Characters that `buildWorkflowUrl` of the SDK changes in a URL (source, 3.1.6)."""
_TITLES: dict[SnippetKind, str] = {"curl": "curl", "python": "Python", "typescript-3": "TypeScript, @pipedream/sdk 3.x"}


@dataclass(frozen=True, slots=True)
class SnippetCall:
    """
    The call that a snippet makes.

    Attributes:
        url: The endpoint's URL, without a query.
        external_user_id: Id of the external user.
        environment: Environment of the external user.
        project_id: Id of the Connect project.
        body: Body, sent as JSON; None sends no body.
        api_url: Base URL of the token endpoint: `https://api.pipedream.com`, or the URL of `pdkernel serve`.
        method: HTTP method in upper case.
        query: Names and values of the query.
        uses_bearer_token: Whether the endpoint requires its own token instead of an OAuth client's.
    """

    url: str
    external_user_id: str
    environment: str
    project_id: str
    body: JSON
    api_url: str = PIPEDREAM_API_URL
    method: str = "POST"
    query: tuple[tuple[str, str], ...] = ()
    uses_bearer_token: bool = False

    @property
    def url_with_query(self) -> str:
        """The URL with the query."""
        return f"{self.url}?{urlencode(self.query)}" if self.query else self.url


@dataclass(frozen=True, slots=True)
class Snippet:
    """
    A program.

    Attributes:
        kind: Language of the program.
        code: Text of the program.
        problem: Why the program makes another call than asked: a limitation of the SDK.
    """

    kind: SnippetKind
    code: str
    problem: str = ""

    @property
    def title(self) -> str:
        """The language and the SDK."""
        return _TITLES[self.kind]


def build_snippets(call: SnippetCall) -> tuple[Snippet, ...]:
    """Build the programs that make *call*."""
    changed = _CHANGED_BY_SDK.search(urlsplit(call.url).path)
    return (
        Snippet("curl", _curl(call)),
        Snippet("python", _python(call)),
        Snippet("typescript-3", _typescript(call), problem=PATH_CHANGED_NOTE if changed else ""),
    )


def render_text(snippets: tuple[Snippet, ...]) -> str:
    """Render the programs as text."""
    parts = [f"── {each.title}{f': {each.problem}' if each.problem else ''}\n{each.code}" for each in snippets]
    return escape_control_characters("\n".join(parts))


def render_html(snippets: tuple[Snippet, ...]) -> str:
    """Render the programs as collapsible HTML."""
    parts = []
    for each in snippets:
        problem = [Html(" "), muted(each.problem)] if each.problem else []
        parts.append(collapsible(join([tag("strong", each.title), *problem]), code_block(each.code)))
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-snippets")


def _curl(call: SnippetCall) -> str:
    fetched = f"""\
token=$(curl -fsS {shlex.quote(f"{call.api_url}/v1/oauth/token")} \\
  -H 'Content-Type: application/json' \\
  -d @- <<JSON | sed -E 's/.*"access_token" *: *"([^"]+)".*/\\1/'
{{"grant_type":"client_credentials","client_id":"${CLIENT_ID_VARIABLE}","client_secret":"${CLIENT_SECRET_VARIABLE}"}}
JSON
)

"""
    words = [
        f"curl -fsS -X {shlex.quote(call.method)} {shlex.quote(call.url_with_query)}",
        f'-H "Authorization: Bearer ${WORKFLOW_TOKEN_VARIABLE if call.uses_bearer_token else "token"}"',
        *(["-H 'Content-Type: application/json'"] if call.body is not None else []),
        f"-H {shlex.quote(f'X-PD-External-User-ID: {call.external_user_id}')}",
        f"-H {shlex.quote(f'X-PD-Environment: {call.environment}')}",
        *([f"--data-binary {shlex.quote(json.dumps(call.body))}"] if call.body is not None else []),
    ]
    request = " \\\n  ".join(words)
    return f"set -euo pipefail\n{'' if call.uses_bearer_token else fetched}{request}\n"


def _python(call: SnippetCall) -> str:
    base = "" if call.api_url == PIPEDREAM_API_URL else f"    base_url={call.api_url!r},\n"
    client = f"""\
pd = Pipedream(
{base}    project_id={call.project_id!r},
    project_environment={call.environment!r},
    client_id=os.environ["{CLIENT_ID_VARIABLE}"],
    client_secret=os.environ["{CLIENT_SECRET_VARIABLE}"],
)
# not pd.workflows.invoke_for_external_user: releases since 1.1.12 call a wrong URL, and send the body as a form
"""
    token = f"os.environ['{WORKFLOW_TOKEN_VARIABLE}']" if call.uses_bearer_token else "pd.raw_access_token"
    # only `request` of httpx sends a body with any method
    ask = "post(" if call.method == "POST" else f"request(\n    {call.method!r},"
    body = "" if call.body is None else f"    json={call.body!r},\n"
    return f"""\
import os

import httpx
{"" if call.uses_bearer_token else "from pipedream import Pipedream"}
{"" if call.uses_bearer_token else f"{chr(10)}{client}"}answer = httpx.{ask}
    {call.url_with_query!r},
    headers={{
        "Authorization": f"Bearer {{{token}}}",
        "X-PD-External-User-ID": {call.external_user_id!r},
        "X-PD-Environment": {call.environment!r},
    }},
{body}    timeout=60,
)
answer.raise_for_status()
print(answer.text)
"""


def _typescript(call: SnippetCall) -> str:
    local = ""
    if call.api_url != PIPEDREAM_API_URL:
        host = urlsplit(call.url).hostname or ""
        local = f"  baseUrl: {_js(call.api_url)},\n  workflowDomain: {_js(host)},\n"
    request = f"    method: {_js(call.method)},\n"
    if call.uses_bearer_token:
        request += f"""\
    headers: {{
      Authorization: `Bearer ${{process.env.{WORKFLOW_TOKEN_VARIABLE}}}`,
      "X-PD-External-User-ID": {_js(call.external_user_id)},
      "X-PD-Environment": {_js(call.environment)},
    }},
"""
    else:
        request = f"    externalUserId: {_js(call.external_user_id)},\n{request}"
    if call.body is not None:
        request += f"    body: {_js(call.body, indent=4)},\n"
    # the SDK drops a query in the URL; a repeated name needs a list of values
    several = {name: [value for each, value in call.query if each == name] for name, _ in call.query}
    query = {name: values if len(values) > 1 else values[0] for name, values in several.items()}
    options = f"maxRetries: 0, queryParams: {_js(query)}" if query else "maxRetries: 0"
    return f"""\
import {{ {"HTTPAuthType, " if call.uses_bearer_token else ""}PipedreamClient }} from "@pipedream/sdk";

const pd = new PipedreamClient({{
{local}  projectId: {_js(call.project_id)},
  projectEnvironment: {_js(call.environment)},
  clientId: process.env.{CLIENT_ID_VARIABLE} ?? "",
  clientSecret: process.env.{CLIENT_SECRET_VARIABLE} ?? "",
}});

// not retried: a POST that failed may have run
const answer = await pd.workflows.{"invoke" if call.uses_bearer_token else "invokeForExternalUser"}(
  {{
    urlOrEndpoint: {_js(call.url)},
{request}  }},{f"{chr(10)}  HTTPAuthType.StaticBearer," if call.uses_bearer_token else ""}
  {{ {options} }},
);
console.log(answer);
"""


def _js(value: JSON, *, indent: int = 0) -> str:
    written = json.dumps(value, indent=2) if indent and isinstance(value, dict | list) else json.dumps(value)
    return written.replace("\n", "\n" + " " * indent)
