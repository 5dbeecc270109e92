"""Programs that call an endpoint, run against an endpoint."""

from __future__ import annotations

import pytest

from pdkernel.model import JSON
from pdkernel.operations.invocation import ClientCredentials, InvokeRequest
from pdkernel.operations.snippets import build_invocation, run_snippets
from pdkernel.project import Project
from pdkernel.render.snippets import Invocation, Snippet, build_snippets
from tests.operations.http_endpoint import HttpEndpoint


@pytest.mark.parametrize(("method", "body", "sent"), [("POST", None, {}), ("GET", None, None), ("POST", [1], [1])])
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
