"""Calls with the SDK: pages, faults as errors of pdkernel, and a token that was revoked."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pipedream.core.api_error import ApiError

from pdkernel.accounts.sdk import MAX_API_EVENTS, Sdk, WorkflowApi
from pdkernel.errors import ConnectSettingsError, PdkernelError, ProjectError, RequestError
from pdkernel.storage import Login
from tests.accounts.upstream import TOKEN, Upstream

SECRET = "planted-client-secret-0123456789"


@pytest.fixture
def sdk() -> Sdk:
    """A client of an API that no test requests."""
    return Sdk(Login("client-1", SECRET, "proj_1", base_url="http://127.0.0.1:9"), timeout_s=3)


class Answering:
    """Requests that fail with the given faults, then return a value."""

    def __init__(self, *faults: Exception, value: Any = "value") -> None:
        self.faults = list(faults)
        self.value = value
        self.clients: list[Any] = []

    def __call__(self, client: Any) -> Any:
        """Send the request with *client*."""
        self.clients.append(client)
        if self.faults:
            raise self.faults.pop(0)
        return self.value


def fault(status: int, body: Any = None, **headers: str) -> ApiError:
    """A response that the SDK raises."""
    return ApiError(status_code=status, body=body, headers={name.replace("_", "-"): headers[name] for name in headers})


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (fault(400, {"error": "invalid_client"}), ConnectSettingsError, "rejects the OAuth client client-1 (400)"),
        (fault(403), ConnectSettingsError, "lacks a permission in the project proj_1 (403)."),
        (fault(404), ConnectSettingsError, "found nothing at this URL"),
        (
            fault(422, {"error": "invalid_client"}),
            RequestError,
            "rejects the request (422). Pipedream's message: invalid",
        ),
        (fault(422, {"message": "too short"}), RequestError, "(422). Pipedream's message: too short"),
        (fault(422, "<html>nginx</html>"), RequestError, "Pipedream rejects the request (422)."),
        (fault(500), ProjectError, "server error (500)"),
        (fault(503), ProjectError, "server error (503)"),
        (fault(200, {"error": "odd"}), ProjectError, "sent a response that the SDK cannot parse (ApiError)"),
        (ValueError("x"), ProjectError, "sent a response that the SDK cannot parse (ValueError)"),
        (httpx.ConnectTimeout("x"), ProjectError, "127.0.0.1:9 did not answer within 3 s."),
        (httpx.ReadError("x"), ProjectError, "closed the connection too early"),
        (httpx.RemoteProtocolError("x"), ProjectError, "closed the connection too early"),
        (httpx.ConnectError("x"), ProjectError, "is unreachable"),
    ],
    ids=str,
)
def test_a_fault_is_an_error(sdk: Sdk, raised: Exception, kind: type[PdkernelError], message: str) -> None:
    """The status and the API's message decide who can mend the fault; a page of HTML is not shown."""
    with pytest.raises(kind) as caught:
        sdk.call(Answering(raised))

    assert message in caught.value.message
    assert "html" not in caught.value.message


@pytest.mark.parametrize(
    ("retry_after", "fix"), [("17", "Try again in 17 s."), ("Wed, 21 Oct", "Try again in a minute."), ("", "Try again in a minute.")]
)  # fmt: skip
def test_a_rate_limit_has_its_time(sdk: Sdk, retry_after: str, fix: str) -> None:
    """The seconds of the header are shown; another form of the header is a minute."""
    with pytest.raises(ProjectError) as caught:
        sdk.call(Answering(fault(429, Retry_After=retry_after)))

    assert caught.value.fix == fix


def test_a_missing_object_has_a_default(sdk: Sdk) -> None:
    """A 404 returns the default, an empty one too; any other fault is an error."""
    assert sdk.call(Answering(fault(404)), default=[]) == []
    with pytest.raises(ProjectError):
        sdk.call(Answering(fault(500)), default=[])


def test_json_that_the_sdk_rejects_is_used(sdk: Sdk) -> None:
    """A successful response with a field less than the SDK requires is a plain object."""
    assert sdk.call(Answering(fault(200, {"data": []}))) == {"data": []}
    assert sdk.call(Answering(fault(201, {"id": "dc_1"}))) == {"id": "dc_1"}


def test_messages_have_no_secret(sdk: Sdk) -> None:
    """The client's secret and the secrets of the call are masked, and a message has at most two hundred characters."""
    with pytest.raises(RequestError) as caught:
        sdk.call(
            Answering(fault(422, {"error": f"{SECRET} my-own-key-0123456789 {'x' * 500}"})),
            secrets=["my-own-key-0123456789"],
        )

    assert SECRET not in str(caught.value)
    assert "my-own-key-0123456789" not in str(caught.value)
    assert len(caught.value.message.partition("message: ")[2]) <= 200


def test_a_revoked_token_is_requested_anew_once(sdk: Sdk) -> None:
    """A client whose token is rejected is replaced, and the call is repeated with the new one; a second rejection is final."""
    first = sdk.client
    once, twice = Answering(fault(401)), Answering(fault(401), fault(401))

    assert sdk.call(once) == "value"
    with pytest.raises(ConnectSettingsError, match=r"rejects the OAuth client client-1 \(401\)"):
        sdk.call(twice)

    assert once.clients[0] is first
    assert once.clients[1] is not first
    assert len(twice.clients) == 2


def test_a_call_that_is_repeated_with_a_new_token_has_its_default(sdk: Sdk) -> None:
    """If the repeated call gets a 404, it returns the default of the call."""
    first = sdk.client

    assert sdk.call(Answering(fault(401), fault(404)), default=[]) == []
    assert sdk.client is not first


@pytest.mark.parametrize("status", [401, 422])
def test_the_message_of_a_call_that_is_repeated_has_no_secret(sdk: Sdk, status: int) -> None:
    """If the repeated call is rejected, the message masks the secrets of the call."""
    first = sdk.client
    rejected = fault(status, {"error": "the key my-own-key-0123456789 is wrong"})

    with pytest.raises(PdkernelError, match=r"Pipedream's message: the key .* is wrong") as caught:
        sdk.call(Answering(fault(401), rejected), secrets=["my-own-key-0123456789"])

    assert "my-own-key-0123456789" not in str(caught.value)
    assert sdk.client is not first


def test_a_new_token_that_is_rejected_is_final(sdk: Sdk) -> None:
    """The first call of a client is not repeated: its token is new."""
    rejected = Answering(fault(401))

    with pytest.raises(ConnectSettingsError):
        sdk.call(rejected)

    assert len(rejected.clients) == 1


def test_pages_end(sdk: Sdk) -> None:
    """Pages end without a cursor, with an empty page, and with a cursor that was there before."""

    def items(*pages: tuple[list[int], str | None]) -> list[int]:
        left = list(pages)

        def request_page(_: Any, cursor: str | None) -> Any:
            cursors.append(cursor)
            data, following = left.pop(0)
            return {"data": [{"n": number} for number in data], "page_info": {"end_cursor": following}}

        cursors: list[str | None] = []
        found = [each["n"] for each in sdk.iter_items(request_page)]
        assert cursors == [None, *(cursor for _, cursor in pages[: len(cursors) - 1])]
        assert left == []
        return found

    assert items(([1, 2], "a"), ([3], None)) == [1, 2, 3]
    assert items(([1], "a"), ([], "b")) == [1]
    assert items(([1], "a"), ([2], "b"), ([3], "a")) == [1, 2, 3]


def test_the_options_of_a_request(sdk: Sdk) -> None:
    """A request has the environment of its user, whatever the login's is, and is not repeated by the SDK."""
    assert sdk.build_request_options("production") == {
        "additional_headers": {"x-pd-environment": "production"},
        "max_retries": 0,
        "timeout_in_seconds": 3,
    }


def test_a_workflow_is_fetched_with_the_clients_token(upstream: Upstream) -> None:
    """The request has the OAuth client's token and the workspace."""
    upstream.workflows["p_1"] = {"steps": [], "triggers": []}

    found = WorkflowApi(Sdk(upstream.login), org_id="o_1").fetch_workflow("p_1")

    assert found == {"steps": [], "triggers": []}
    assert upstream.asked[-1]["path"] == "/v1/workflows/p_1"
    assert upstream.asked[-1]["query"] == {"org_id": "o_1"}
    assert upstream.asked[-1]["headers"]["authorization"] == f"Bearer {TOKEN}"


def test_an_unknown_workflow_is_refused(upstream: Upstream) -> None:
    """The error names the place of the id."""
    with pytest.raises(RequestError, match=r"no workflow p_1[\s\S]*--org-id"):
        WorkflowApi(Sdk(upstream.login)).fetch_workflow("p_1")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "status", "status": 403, "path": "p_1"}, ConnectSettingsError),
        ({"kind": "status", "status": 429, "path": "p_1"}, ProjectError),
        ({"kind": "html", "path": "p_1"}, ProjectError),
        ({"kind": "cut", "path": "p_1"}, ProjectError),
    ],
)
def test_a_failure_is_an_error_of_the_project(
    upstream: Upstream, fault: dict[str, object], error: type[Exception]
) -> None:
    """A refused, limited, unreadable or interrupted request raises the errors of other requests."""
    upstream.set(fault=fault)

    with pytest.raises(error):
        WorkflowApi(Sdk(upstream.login)).fetch_workflow("p_1")


def test_every_page_of_events_is_read(upstream: Upstream) -> None:
    """Events of all pages are returned whole and in order, at most as many as the API keeps."""
    upstream.events["workflows/p_1/$errors"] = [
        {"id": f"{number}-0", "event": {"original_event": {"body": "x" * 2000}}} for number in range(MAX_API_EVENTS + 5)
    ]

    found = list(WorkflowApi(Sdk(upstream.login)).iter_events("errors", "p_1"))

    assert [item["id"] for item in found] == [f"{number}-0" for number in range(MAX_API_EVENTS)]
    assert all(item["event"]["original_event"]["body"] for item in found)


def test_an_event_that_moves_to_the_next_page_is_returned_once(upstream: Upstream) -> None:
    """An event that comes while the pages are read moves the others down, and none of them is returned twice."""
    upstream.events["sources/dc_1"] = [{"id": str(number)} for number in range(7)]
    events = WorkflowApi(Sdk(upstream.login)).iter_events("source", "dc_1")

    first = next(events)
    upstream.events["sources/dc_1"].insert(0, {"id": "new"})

    assert [item["id"] for item in (first, *events)] == [str(number) for number in range(7)]


def test_an_owner_without_events_has_none(upstream: Upstream) -> None:
    """An unknown source is a source without events."""
    assert list(WorkflowApi(Sdk(upstream.login)).iter_events("source", "dc_1")) == []
