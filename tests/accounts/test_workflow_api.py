"""Requests of the REST API for workflows."""

from __future__ import annotations

import pytest

from pdkernel.accounts.sdk import Sdk
from pdkernel.accounts.workflow_api import MAX_API_EVENTS, WorkflowApi
from pdkernel.errors import ConnectSettingsError, ProjectError, RequestError
from tests.accounts.upstream import TOKEN, Upstream


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
