"""Events that the product's back end receives."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pdkernel.server.link.account_connection import connect_account
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.webhooks import get_signing_key
from pdkernel.storage import Project
from tests.oauth_provider import running
from tests.server.link.visitor import Visitor, make
from tests.server.served import Served, served


@dataclass
class BackEnd:
    """A product's back end: responds with the given statuses, then with 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, bytes]] = field(default_factory=list)

    async def hook(self, request: Request) -> Response:
        """Receive an event."""
        self.got.append((request.headers["x-pd-signature"], await request.body()))
        status = self.answers.pop(0) if self.answers else 200
        return Response(status_code=status, headers={"location": self.url} if status == 307 else {})

    @property
    def events(self) -> list[dict[str, Any]]:
        """The parsed events."""
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    """A running back end."""
    back_end = BackEnd()
    with running(Starlette(routes=[Route("/hook", back_end.hook, methods=["POST"])])) as url:
        back_end.url = f"{url}/hook"
        yield back_end


async def connect(site: Served, visitor: Visitor, back_end: BackEnd) -> str:
    """Connect an account; returns the Connect token."""
    made = await make(site, webhook_uri=back_end.url)
    page = await visitor.open(made["connect_link_url"], app="slack")
    await visitor.fill(page, api_key="k-0123456789")
    return str(made["token"])


async def test_a_connected_account_is_reported(site: Served, visitor: Visitor, back_end: BackEnd) -> None:
    """The event has the account, without credentials."""
    token = await connect(site, visitor, back_end)

    account = site.directory.newest_account("ada", "development", "slack")
    assert account is not None
    [event] = back_end.events
    assert event["event"] == "CONNECTION_SUCCESS"
    assert (event["connect_token"], event["environment"]) == (token, "development")
    assert event["connect_session_id"].startswith("cs_")
    assert (event["account"]["id"], event["account"]["external_id"]) == (account.id, "ada")
    assert event["account"]["app"] == {"name_slug": "slack", "name": "Slack"}
    assert b"k-0123456789" not in back_end.got[0][1]


async def test_events_are_signed(site: Served, visitor: Visitor, back_end: BackEnd) -> None:
    """A receiver with the project's key can verify the sender, the time and the body."""
    await connect(site, visitor, back_end)

    header, body = back_end.got[0]
    stamp, _, signed = header.partition(",v1=")
    at = stamp.removeprefix("t=")
    expected = hmac.new(get_signing_key(site.project).encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert signed == expected
    assert int(at) == int(site.context.clock.now().timestamp())


async def test_the_signing_key_is_stored_in_the_project(tmp_path: Path) -> None:
    """The key is the same each time the project is opened."""
    with Project.open(tmp_path / ".pdkernel") as project:
        first = get_signing_key(project)
    with Project.open(tmp_path / ".pdkernel") as project:
        assert get_signing_key(project) == first


async def test_a_failed_connection_is_reported(tmp_path: Path, back_end: BackEnd) -> None:
    """The event has the reason."""
    async with served(tmp_path, max_development_users=0) as site:
        await connect(site, Visitor(site), back_end)

    [event] = back_end.events
    assert event["event"] == "CONNECTION_ERROR"
    assert event["error"] == "You've hit your limit on the number of external users you can connect."


async def test_a_failed_delivery_is_repeated_twice(site: Served, visitor: Visitor, back_end: BackEnd) -> None:
    """A back end that fails twice receives the event at the third attempt; each attempt has its own time."""
    back_end.answers = [500, 503]
    began = int(site.clock.now().timestamp())

    await connect(site, visitor, back_end)

    stamps = [header.partition(",")[0].removeprefix("t=") for header, _ in back_end.got]
    assert [int(at) - began for at in stamps] == [0, 0, 2]
    assert len({body for _, body in back_end.got}) == 1


async def test_a_failing_back_end_does_not_prevent_the_connection(
    site: Served, visitor: Visitor, back_end: BackEnd, caplog: pytest.LogCaptureFixture
) -> None:
    """The account is connected, and the log names the undelivered event without token and URL."""
    back_end.answers = [500, 500, 500]

    token = await connect(site, visitor, back_end)

    assert len(site.directory.accounts()) == 1
    assert "rejected CONNECTION_SUCCESS: status 500" in caplog.text
    assert token not in caplog.text


async def test_a_redirect_is_a_failed_delivery(
    site: Served, visitor: Visitor, back_end: BackEnd, caplog: pytest.LogCaptureFixture
) -> None:
    """An event is sent to the webhook of the token only: a redirect is not followed, and is not a success."""
    back_end.answers = [307, 307, 307]

    await connect(site, visitor, back_end)

    assert len(back_end.got) == 3
    assert "rejected CONNECTION_SUCCESS: status 307" in caplog.text


async def test_a_back_end_that_cannot_be_reached(
    site: Served, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The account is connected, and the log names the kind of the error, and not the URL."""
    made = await make(site, webhook_uri="http://127.0.0.1:9/hook")
    await visitor.fill(await visitor.open(made["connect_link_url"], app="slack"), api_key="k-0123456789")

    assert len(site.directory.accounts()) == 1
    assert "rejected CONNECTION_SUCCESS: ConnectError" in caplog.text
    assert "127.0.0.1:9" not in caplog.text


async def test_an_account_connected_over_the_api_is_reported(site: Served, back_end: BackEnd) -> None:
    """An account that is connected without the pages causes the same event."""
    made = await make(site, webhook_uri=back_end.url)
    body = {"app_slug": "slack", "cfmap_json": '{"api_key": "k-0123456789"}', "connect_token": made["token"]}

    answer = await site.call("POST", "/accounts", json=body, params={"external_user_id": "ada"})

    [event] = back_end.events
    assert answer.status_code == 200
    assert (event["event"], event["connect_token"]) == ("CONNECTION_SUCCESS", made["token"])
    assert event["account"]["id"] == answer.json()["id"]


async def test_an_event_that_a_crash_interrupts_is_sent_by_the_next_process(site: Served, back_end: BackEnd) -> None:
    """An event whose process ended before it was sent is in the database with the account, and is sent once by a later server."""
    made = await make(site, webhook_uri=back_end.url)
    token = site.project.connect_tokens.find(made["token"])
    assert token is not None
    connect_account(
        site.context, token, token_text=made["token"], app="slack", credentials={"api_key": "k-0123456789"}
    )  # and the process ends before its response
    before = len(back_end.got)
    runs = RunRegistry(site.context)
    running = asyncio.create_task(TriggerEvents(site.context, runs).run())
    async with asyncio.timeout(30):
        while site.project.trigger_events.list_targets():
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await runs.close(1)

    assert before == 0
    assert [event["event"] for event in back_end.events] == ["CONNECTION_SUCCESS"]
