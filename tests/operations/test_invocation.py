"""Calls of an endpoint: the request, the OAuth client, and the response."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from pdkernel.egress.certificates import CertificateAuthority
from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.operations.invocation import (
    ClientCredentials,
    InvokeError,
    InvokeRequest,
    InvokeResponse,
    build_client,
    build_request_snippets,
    explain_missing_token,
    invoke,
    resolve_token_url,
)
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.operations.http_endpoint import HttpEndpoint
from tests.ports import free_port


def test_a_client_has_an_id_and_a_secret() -> None:
    """Both make a client, neither makes none."""
    assert build_client("id", "secret", "https://x.test/token") == ClientCredentials(
        "id", "secret", "https://x.test/token"
    )
    assert build_client(None, "") is None


@pytest.mark.parametrize(("client_id", "secret"), [("id", None), (None, "secret")])
def test_half_a_client_is_refused(client_id: str | None, secret: str | None) -> None:
    """An id without a secret, or a secret without an id, is an error that does not contain the secret."""
    with pytest.raises(RequestError, match="only one of them is set") as caught:
        build_client(client_id, secret)

    assert "secret'" not in str(caught.value)


def test_the_request_has_identity_body_and_query(endpoint: HttpEndpoint) -> None:
    """The external user and the environment are headers, the body is JSON, and the URL keeps its own query."""
    response = invoke(
        InvokeRequest(
            f"{endpoint.url}?own=1", "ada", "production", {"n": 1}, query=[("q", "a b")], headers={"X-More": "yes"}
        )
    )

    ((method, path, headers, body),) = endpoint.requests
    assert (method, path, body) == ("POST", "/eoabc?own=1&q=a+b", {"n": 1})
    assert (headers["x-pd-external-user-id"], headers["x-pd-environment"]) == ("ada", "production")
    assert (headers["x-more"], "authorization" in headers) == ("yes", False)
    assert (response.status, response.body, response.exit_status) == (200, {"ok": True}, 0)
    assert "x-other" not in response.shown_headers
    assert response.shown_headers["x-pd-status"] == "200"


def test_a_request_without_a_user_has_an_environment(endpoint: HttpEndpoint) -> None:
    """The environment is that of the caller's data, with and without a user."""
    invoke(InvokeRequest(endpoint.url, environment="production"))

    ((_, _, headers, _),) = endpoint.requests
    assert (headers["x-pd-environment"], "x-pd-external-user-id" in headers) == ("production", False)


@pytest.mark.parametrize("body", [False, 0, "", [], {}])
def test_an_empty_body_is_a_body(endpoint: HttpEndpoint, body: JSON) -> None:
    """Only None sends no body."""
    invoke(InvokeRequest(endpoint.url, body=body))

    ((_, _, headers, sent),) = endpoint.requests
    assert (sent, headers["content-type"]) == (body, "application/json")


def test_headers_of_the_caller_win(endpoint: HttpEndpoint) -> None:
    """A header in any case replaces the header for the user, the environment, the token and the body."""
    own = {
        "X-PD-Environment": "production",
        "X-PD-External-User-Id": "grace",
        "Authorization": "Basic x",
        "Content-Type": "application/problem+json",
    }
    invoke(InvokeRequest(endpoint.url, "ada", "development", {}, headers=own, bearer="token"))

    ((_, _, headers, _),) = endpoint.requests
    assert {name: headers[name.lower()] for name in own} == own


def test_the_token_of_the_client_is_sent(endpoint: HttpEndpoint) -> None:
    """A token is fetched at the origin of the endpoint and sent once."""
    invoke(InvokeRequest(endpoint.url, client=ClientCredentials("id", "a-secret")))

    token_request, call = endpoint.requests
    assert token_request[3] == {"grant_type": "client_credentials", "client_id": "id", "client_secret": "a-secret"}
    assert call[2]["authorization"] == "Bearer issued"


def test_a_token_that_is_given_wins(endpoint: HttpEndpoint) -> None:
    """With a token of its own, no token is fetched."""
    invoke(InvokeRequest(endpoint.url, bearer="own", client=ClientCredentials("id", "a-secret")))

    ((_, _, headers, _),) = endpoint.requests
    assert headers["authorization"] == "Bearer own"


def test_a_client_without_a_token_is_refused(endpoint: HttpEndpoint) -> None:
    """The error names the client and not its secret, and the endpoint is not called."""
    endpoint.token = None

    with pytest.raises(RequestError, match="returned no token for the client id: the status was 401") as caught:
        invoke(InvokeRequest(endpoint.url, client=ClientCredentials("id", "a-secret")))

    assert "a-secret" not in str(caught.value)
    assert endpoint.calls == []


@pytest.mark.parametrize(("status", "exit_status"), [(400, 2), (404, 2), (500, 1)])
def test_the_exit_status_follows_the_status(endpoint: HttpEndpoint, status: int, exit_status: int) -> None:
    """A refused request is 2, a failed workflow is 1."""
    endpoint.status = status

    assert invoke(InvokeRequest(endpoint.url)).exit_status == exit_status


def test_an_invalid_user_is_refused_before_the_request(endpoint: HttpEndpoint) -> None:
    """A blank id is an error, and the endpoint is not called."""
    with pytest.raises(RequestError, match="cannot be blank"):
        invoke(InvokeRequest(endpoint.url, " "))

    assert endpoint.requests == []


def test_a_redirect_is_a_response() -> None:
    """The request is sent once, also if the endpoint redirects; the exit status is that of a success."""
    with serve(AnsweringServer(lambda _: (302, {}, {"location": "/elsewhere"}))) as server:
        response = invoke(InvokeRequest(f"{server.url}/eo1"))

    assert [request.path for request in server.requests] == ["/eo1"]
    assert (response.status, response.exit_status) == (302, 0)
    assert response.shown_headers["location"] == "/elsewhere"


def test_a_client_has_a_token_endpoint_of_its_own(endpoint: HttpEndpoint) -> None:
    """A token endpoint that is given replaces the endpoint's origin."""
    issued = {"access_token": "elsewhere"}
    with serve(AnsweringServer(lambda _: (200, issued, {}))) as server:
        invoke(InvokeRequest(endpoint.url, client=ClientCredentials("id", "a-secret", f"{server.url}/token")))

    assert [request.path for request in server.requests] == ["/token"]
    assert [headers["authorization"] for _, _, headers, _ in endpoint.requests] == ["Bearer elsewhere"]


def test_the_json_of_a_response() -> None:
    """A body is JSON only if it can be parsed; the duration has a tenth of a millisecond."""
    response = InvokeResponse(200, "OK", {}, "text", 1.2345)

    assert response.to_json() == {"status": 200, "headers": {}, "body": "text", "duration_ms": 1.2}


def test_a_missing_token_is_explained_once(endpoint: HttpEndpoint) -> None:
    """A 401 is explained only if no token was sent."""
    endpoint.status = 401
    without, own = InvokeRequest(endpoint.url), InvokeRequest(endpoint.url, bearer="own")
    client = InvokeRequest(endpoint.url, client=ClientCredentials("id", "a-secret"))

    assert "PDKERNEL_CLIENT_ID" in (explain_missing_token(without, invoke(without)) or "")
    assert explain_missing_token(own, invoke(own)) is None
    assert explain_missing_token(client, invoke(client)) is None
    endpoint.status = 403
    assert explain_missing_token(without, invoke(without)) is None


@pytest.mark.parametrize(
    ("url", "token_url"),
    [
        ("http://127.0.0.1:8765/eo1?x=1", "http://127.0.0.1:8765/v1/oauth/token"),
        ("https://eo1.m.pipedream.net", "https://api.pipedream.com/v1/oauth/token"),
        ("https://eo1.m.pipedream.net:443/x", "https://api.pipedream.com/v1/oauth/token"),
        ("https://evilm.pipedream.net", "https://evilm.pipedream.net/v1/oauth/token"),
    ],
)
def test_tokens_come_from_the_origin_or_from_pipedream(url: str, token_url: str) -> None:
    """Endpoints of Pipedream have their tokens at Pipedream's API."""
    assert resolve_token_url(url) == token_url


def test_an_authority_is_trusted_besides_the_public_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a certificate authority of its own, a call still trusts the authorities of the system."""
    own, public = (CertificateAuthority(tmp_path / name, environ={}) for name in ("own", "public"))
    monkeypatch.setenv("SSL_CERT_FILE", str(public.certificate_file))
    statuses = []
    for authority in (own, public):
        server = AnsweringServer(lambda _: (200, {}, {}))
        server.socket = authority.server_context("127.0.0.1").wrap_socket(server.socket, server_side=True)
        with serve(server):
            url = server.url.replace("http:", "https:")
            statuses.append(invoke(InvokeRequest(url), ca_file=own.certificate_file).status)

    assert statuses == [200, 200]


def test_an_unknown_certificate_is_explained(tmp_path: Path) -> None:
    """A server with a certificate authority of its own is not called, and the error names the option for its file."""
    server = AnsweringServer(lambda _: (200, {}, {}))
    context = CertificateAuthority(tmp_path, environ={}).server_context("127.0.0.1")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client ends the handshake
    with serve(server), pytest.raises(InvokeError) as refused:
        invoke(InvokeRequest(server.url.replace("http:", "https:")))

    assert server.requests == []
    assert "--ca-file FILE" in (refused.value.fix or "")


@pytest.mark.parametrize("body", ["<p>Sign in", '["access_token"]', '{"access_token": 1}'])
def test_a_token_endpoint_that_issues_no_token(body: str) -> None:
    """A page, or JSON without a token, is an error that names the token endpoint and not the secret."""
    with serve(AnsweringServer(lambda _: (200, body.encode()))) as server:
        request = InvokeRequest(server.url, client=ClientCredentials("id", "planted-secret"))
        with pytest.raises(
            RequestError, match=r"/v1/oauth/token returned no token for the client id: the status was 200\."
        ) as refused:
            invoke(request)

    assert "planted-secret" not in str(refused.value)
    assert [request.path for request in server.requests] == ["/v1/oauth/token"]


@pytest.mark.parametrize("text", [None, "not a certificate"])
def test_a_wrong_file_of_certificates_is_named(tmp_path: Path, text: str | None) -> None:
    """A file that is missing or has no certificate is refused by name."""
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)

    with pytest.raises(RequestError, match=f"Cannot read certificates from {re.escape(str(file))}"):
        invoke(InvokeRequest("https://127.0.0.1:9/eo1"), ca_file=file)


@pytest.mark.parametrize(
    ("kind", "content", "body"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/problem+json", b"[1]", [1]),
        ("application/json", b"{broken", "{broken"),
        ("text/plain", b"7", "7"),
    ],
)
def test_the_body_of_a_response(kind: str, content: bytes, body: JSON) -> None:
    """A body is JSON if its type is and the text can be parsed; any other body is text."""
    with serve(AnsweringServer(lambda _: (200, content, {"content-type": kind}))) as server:
        assert invoke(InvokeRequest(server.url)).body == body


def test_an_address_without_a_server_is_an_error() -> None:
    """The error names the origin and the command that serves."""
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(InvokeError, match=f"Cannot reach {url}") as caught:
        invoke(InvokeRequest(f"{url}/eo1"))

    assert "pdkernel serve SOURCE" in str(caught.value)


def test_the_time_limit_is_that_of_the_caller() -> None:
    """A response after the caller's time limit is an error, and the message names the option."""
    released = threading.Event()

    def wait(_: SentRequest) -> Answer:
        released.wait(2)  # less than the default of httpx: with that limit, the call succeeds
        return 200, {}

    with serve(AnsweringServer(wait)) as server:
        with pytest.raises(InvokeError, match="did not respond in time") as caught:
            invoke(InvokeRequest(f"{server.url}/eo1"), timeout_s=0.1)
        released.set()

    assert "--timeout" in str(caught.value)


@pytest.mark.parametrize("url", ["eoabc123", "ftp://127.0.0.1/x", "http://", "http://[::1"])
def test_a_text_that_is_not_a_url_is_refused(url: str) -> None:
    """Only a complete http or https URL is called."""
    with pytest.raises(RequestError):
        invoke(InvokeRequest(url))


@pytest.mark.parametrize(
    ("method", "body", "sent"),
    [("POST", None, "'{}'"), ("GET", None, None), ("PUT", None, None), ("POST", [1], "'[1]'")],
)
def test_a_snippet_of_a_post_has_a_body(method: str, body: JSON, sent: str | None) -> None:
    """A POST without a body sends an empty object."""
    request = InvokeRequest("http://h.test/eo1", external_user_id="ada", body=body, method=method)

    curl = build_request_snippets(request, project_id="proj_1", fix="")[0].code

    assert (f"--data-binary {sent}" in curl) if sent else ("--data-binary" not in curl)


def test_the_query_of_a_snippet() -> None:
    """The query of the URL comes before the query of the request, and the token endpoint is at the origin."""
    request = InvokeRequest("http://h.test/eo1?a=1&b=", external_user_id="ada", query=[("c", "2")])

    curl, _, typescript = build_request_snippets(request, project_id="proj_1", fix="")

    assert "http://h.test/v1/oauth/token" in curl.code
    assert "'http://h.test/eo1?a=1&b=&c=2'" in curl.code
    assert 'queryParams: {"a": "1", "b": "", "c": "2"}' in typescript.code


def test_snippets_need_an_external_user() -> None:
    """Without an external user the error says how to choose one."""
    with pytest.raises(RequestError, match="none is chosen") as caught:
        build_request_snippets(InvokeRequest("http://h.test/eo1"), project_id="proj_1", fix="Pick a user.")
    assert caught.value.fix == "Pick a user."
