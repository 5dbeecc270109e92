"""Programs that call an endpoint, run against an endpoint."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pdkernel.model import JSON
from pdkernel.operations.invocation import ClientCredentials, InvokeRequest
from pdkernel.operations.snippets import SnippetRunner, build_invocation, run_snippets
from pdkernel.render.snippets import (
    CLIENT_ID_VARIABLE,
    CLIENT_SECRET_VARIABLE,
    WORKFLOW_TOKEN_VARIABLE,
    Invocation,
    Snippet,
    SnippetKind,
    build_snippets,
)
from pdkernel.storage import Project
from tests.operations.http_endpoint import HttpEndpoint
from tests.process_states import has_ended


@pytest.mark.parametrize(
    ("method", "body", "sent"), [("POST", None, {}), ("GET", None, None), ("PUT", None, None), ("POST", [1], [1])]
)
def test_a_post_has_a_body(method: str, body: JSON, sent: JSON) -> None:
    """A POST without a body sends an empty object."""
    request = InvokeRequest("http://h.test/eo1", body=body, method=method)

    assert build_invocation(request, external_user_id="ada", project_id="proj_1").body == sent


def test_the_query_is_separate_from_the_url() -> None:
    """The query of the URL comes before the query of the request, and the token endpoint is at the origin."""
    request = InvokeRequest("http://h.test/eo1?a=1&b=", query=[("c", "2")], bearer="own")

    invocation = build_invocation(request, external_user_id="ada", project_id="proj_1")

    assert (invocation.url, invocation.query) == ("http://h.test/eo1", (("a", "1"), ("b", ""), ("c", "2")))
    assert (invocation.api_url, invocation.uses_bearer_token) == ("http://h.test", True)


def results(snippets: tuple[Snippet, ...]) -> dict[str, tuple[bool | None, str]]:
    """Success and problem of each snippet."""
    return {snippet.kind: (snippet.succeeded, snippet.problem) for snippet in snippets}


def without_npm(invocation: Invocation) -> tuple[Snippet, ...]:
    """The snippets that run without an installation from npm."""
    return tuple(snippet for snippet in build_snippets(invocation) if snippet.kind != "typescript-3")


async def test_programs_run_with_a_temporary_client(project: Project, endpoint: HttpEndpoint) -> None:
    """Without a client a new one is used and removed; SDK 1.x, which supports HTTPS only, is not run."""
    request = InvokeRequest(endpoint.url, body={"n": 1})
    invocation = build_invocation(request, external_user_id="ada", project_id=project.project_id)

    ran = await run_snippets(project, invocation, without_npm(invocation), client=None)

    assert results(ran) == {
        "curl": (True, ""),
        "python": (True, ""),
        "typescript-1": (None, "this SDK supports HTTPS only: pdkernel serve --tls"),
    }
    calls = [(headers["x-pd-external-user-id"], body) for _, _, headers, body in endpoint.calls]
    assert calls == [("ada", {"n": 1})] * 2
    assert project.oauth_clients.list_clients() == []


async def test_a_failed_program_says_why_without_secrets(project: Project, endpoint: HttpEndpoint) -> None:
    """A status of 400 is the problem of each program, and the client's secret is not part of it."""
    endpoint.status = 400
    request = InvokeRequest(endpoint.url, body={})
    invocation = build_invocation(request, external_user_id="ada", project_id=project.project_id)
    client = ClientCredentials("id", "a-secret-of-a-test")

    ran = await run_snippets(project, invocation, without_npm(invocation), client=client)

    found = results(ran)
    assert [found[kind][0] for kind in ("curl", "python")] == [False, False]
    assert "400" in found["curl"][1]
    assert "a-secret-of-a-test" not in repr(found)


INVOCATION = build_invocation(InvokeRequest("http://127.0.0.1:9/eo1"), external_user_id="ada", project_id="proj_1")
SECRET, TOKEN = "a-secret-of-a-test", "a-token-of-a-test"


async def run_code(folder: Path, code: str, *, kind: SnippetKind = "python", **choices: Any) -> Snippet:
    """Run a snippet of *code* as the client of a project."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "AWS_SECRET": "x"}
    runner = SnippetRunner(folder, "client", SECRET, token=TOKEN, environ=environ, **choices)
    (ran,) = await runner.run((Snippet(kind, code),), INVOCATION)
    return ran


async def test_a_snippet_with_a_problem_is_not_run(tmp_path: Path) -> None:
    """A program that cannot make the call keeps its reason, and does not run."""
    file = tmp_path / "ran"
    snippet = Snippet("python", f"open({str(file)!r}, 'w')", problem="This SDK cannot send a GET.")

    assert await SnippetRunner(tmp_path, "client", SECRET).run((snippet,), INVOCATION) == (snippet,)
    assert not file.exists()


async def test_a_program_gets_only_what_it_needs(tmp_path: Path) -> None:
    """Of the caller's variables, a program has those of any shell, and those that its code names."""
    code = (
        f"import os, sys; sys.exit(' '.join([*sorted(os.environ), str(len(os.environ['{WORKFLOW_TOKEN_VARIABLE}']))]))"
    )

    *names, length = (await run_code(tmp_path, code, ca_file=tmp_path / "ca.pem")).problem.split()

    trust = {"NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CURL_CA_BUNDLE"}
    own = {CLIENT_ID_VARIABLE, CLIENT_SECRET_VARIABLE, WORKFLOW_TOKEN_VARIABLE, "NO_PROXY"}
    assert {*names} - {"LC_CTYPE"} == {"PATH", "HOME", *trust, *own}
    assert int(length) == len(TOKEN)


@pytest.mark.parametrize(
    ("lines", "status", "problem"),
    [
        (
            ["Error: first", "Error: last", "at Error (call.mjs:1)", "statusCode: 401,"],
            1,
            "Error: last, statusCode: 401",
        ),
        (["one", "two"], 2, "two"),
        ([], 3, "it exited with status 3"),
        ([f"Error: {SECRET} {TOKEN}"], 1, "Error: *** ***"),
        (["x" * 400], 1, "x" * 300),
    ],
)
async def test_the_problem_of_a_program(lines: list[str], status: int, problem: str, tmp_path: Path) -> None:
    """The last line about an error is the problem, not a line of a stack; secrets are masked."""
    ran = await run_code(tmp_path, "\n".join([*(f"print({line!r})" for line in lines), f"raise SystemExit({status})"]))

    assert (ran.succeeded, ran.problem) == (False, problem)


async def test_a_program_that_hangs_ends(tmp_path: Path) -> None:
    """A program that exceeds the time limit has failed; a cancelled one ends with the programs that it has started."""
    slow = await run_code(tmp_path, "sleep 600", kind="curl", timeout_s=0.2)
    pid = tmp_path / "pid"
    task = asyncio.ensure_future(run_code(tmp_path, f"sleep 600 & echo $! > {pid}; wait", kind="curl"))
    async with asyncio.timeout(60):
        while not pid.is_file() or not pid.read_text():
            await asyncio.sleep(0.01)
        for _ in range(100):  # until the pipes of the program are connected
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not has_ended(int(pid.read_text())):
            await asyncio.sleep(0.01)

    assert (slow.succeeded, slow.problem) == (False, "The program took longer than 0.2 seconds.")
