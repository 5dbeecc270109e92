"""
Programs that invoke a workflow for an external user: curl, Python, TypeScript with the official SDK 1.x and 3.x.

Each program reads the client's id and secret, or the endpoint's own token, from the environment and contains no secret.
`operations.snippets` runs the programs.
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
    pill,
    tag,
)

SnippetKind = Literal["curl", "python", "typescript-1", "typescript-3"]
CLIENT_ID_VARIABLE, CLIENT_SECRET_VARIABLE = "PIPEDREAM_CLIENT_ID", "PIPEDREAM_CLIENT_SECRET"  # variables' names
WORKFLOW_TOKEN_VARIABLE = "WORKFLOW_TOKEN"  # noqa: S105  # a variable's name
QUERY_DROPPED_NOTE = "this SDK drops the query"
PATH_CHANGED_NOTE = "this SDK changes the path to lower case and drops all characters but letters, digits, -, _ and ."
SDK_VERSIONS = {"typescript-1": "1.8.0", "typescript-3": "3.1.6"}
"""The releases of `@pipedream/sdk` for the TypeScript snippets."""

_CHANGED_BY_SDK = re.compile(r"[^a-z0-9_\-./:]")
"""Characters that `buildWorkflowUrl` of both SDKs changes in a URL (source, 1.8.0 to 3.1.6)."""
_TITLES: dict[SnippetKind, str] = {
    "curl": "curl",
    "python": "Python",
    "typescript-1": "TypeScript, @pipedream/sdk 1.x",
    "typescript-3": "TypeScript, @pipedream/sdk 3.x",
}


@dataclass(frozen=True, slots=True)
class Invocation:
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
    A program, and the result of running it.

    Attributes:
        kind: Language and SDK of the program.
        code: Text of the program.
        succeeded: Whether the program ran and succeeded; None if it was not run.
        problem: Why the program was not run or failed, or a limitation of the SDK.
    """

    kind: SnippetKind
    code: str
    succeeded: bool | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        """The title, with ✓ or ✗ if the program was run."""
        mark = "✓ " if self.succeeded else "✗ " if self.succeeded is False else ""
        return f"{mark}{_TITLES[self.kind]}"


def build_snippets(call: Invocation) -> tuple[Snippet, ...]:
    """Build the programs that make *call*, without running them."""
    return (
        Snippet("curl", _curl(call)),
        Snippet("python", _python(call)),
        Snippet("typescript-1", _typescript_1(call), problem=QUERY_DROPPED_NOTE if call.query else _path_problem(call)),
        Snippet("typescript-3", _typescript_3(call), problem=_path_problem(call)),
    )


def _path_problem(call: Invocation) -> str:
    return PATH_CHANGED_NOTE if _CHANGED_BY_SDK.search(urlsplit(call.url).path) else ""


def render_text(snippets: tuple[Snippet, ...]) -> str:
    """Render the programs as text."""
    parts = [f"── {each.title}{f': {each.problem}' if each.problem else ''}\n{each.code}" for each in snippets]
    return escape_control_characters("\n".join(parts))


def render_html(snippets: tuple[Snippet, ...]) -> str:
    """Render the programs as collapsible HTML."""
    tones = {True: pill("✓ succeeded", "good"), False: pill("✗ failed", "bad"), None: muted("not run")}
    parts = []
    for each in snippets:
        head = join([tag("strong", _TITLES[each.kind], style="margin-right:8px"), Html(" "), tones[each.succeeded]])
        problem = [Html(" "), muted(each.problem)] if each.problem else []
        parts.append(collapsible(join([head, *problem]), code_block(each.code)))
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-snippets")


def _curl(call: Invocation) -> str:
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


def _python(call: Invocation) -> str:
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
    body = "" if call.body is None else f"    json={_python_value(call.body)},\n"
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


def _typescript_1(call: Invocation) -> str:
    local = ""
    if call.api_url != PIPEDREAM_API_URL:
        host = urlsplit(call.url).hostname or ""
        local = f"  apiHost: {_js(urlsplit(call.api_url).netloc)},\n  workflowDomain: {_js(host)},\n"
    who = "" if call.uses_bearer_token else f"\n  {_js(call.external_user_id)},"
    return f"""\
import {{ createBackendClient, HTTPAuthType }} from "@pipedream/sdk/server";

const pd = createBackendClient({{
{local}  environment: {_js(call.environment)},
  projectId: {_js(call.project_id)},
  credentials: {{
    clientId: process.env.{CLIENT_ID_VARIABLE} ?? "",
    clientSecret: process.env.{CLIENT_SECRET_VARIABLE} ?? "",
  }},
}});

const answer = await pd.{"invokeWorkflow" if call.uses_bearer_token else "invokeWorkflowForExternalUser"}(
  {_js(call.url)},{who}
  {{
{_js_request(call)}  }},
  HTTPAuthType.{"StaticBearer" if call.uses_bearer_token else "OAuth"},
);
console.log(answer);
"""


def _typescript_3(call: Invocation) -> str:
    local = ""
    if call.api_url != PIPEDREAM_API_URL:
        host = urlsplit(call.url).hostname or ""
        local = f"  baseUrl: {_js(call.api_url)},\n  workflowDomain: {_js(host)},\n"
    who = "" if call.uses_bearer_token else f"    externalUserId: {_js(call.external_user_id)},\n"
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
{who}{_js_request(call)}  }},{f"{chr(10)}  HTTPAuthType.StaticBearer," if call.uses_bearer_token else ""}
  {{ {options} }},
);
console.log(answer);
"""


def _js_request(call: Invocation) -> str:
    """Method, body and, for an endpoint with its own token, headers, as properties of a JavaScript object."""
    parts = [f"    method: {_js(call.method)},\n"]
    if call.uses_bearer_token:
        parts.append(
            "    headers: {\n"
            f"      Authorization: `Bearer ${{process.env.{WORKFLOW_TOKEN_VARIABLE}}}`,\n"
            f'      "X-PD-External-User-ID": {_js(call.external_user_id)},\n'
            f'      "X-PD-Environment": {_js(call.environment)},\n'
            "    },\n"
        )
    if call.body is not None:
        parts.append(f"    body: {_js(call.body, indent=4)},\n")
    return "".join(parts)


def _js(value: JSON, *, indent: int = 0) -> str:
    written = json.dumps(value, indent=2) if indent and isinstance(value, dict | list) else json.dumps(value)
    return written.replace("\n", "\n" + " " * indent)


def _python_value(value: JSON) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {_python_value(each)}" for name, each in value.items()) + "}"
    return repr(value)
