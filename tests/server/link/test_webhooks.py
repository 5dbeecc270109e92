"""What the product's back end is told."""

from __future__ import annotations

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

from pdkernel.project import Project
from pdkernel.server.link.webhooks import get_signing_key
from tests.oauth_provider import running
from tests.server.link.conftest import Visitor, make
from tests.server.served import Served, served


@dataclass
class BackEnd:
    """A product's back end; answers the given statuses, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, bytes]] = field(default_factory=list)

    async def hook(self, request: Request) -> Response:
        """Take an event."""
        self.got.append((request.headers["x-pd-signature"], await request.body()))
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What came, read."""
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    """It, on a socket."""
    back_end = BackEnd()
    with running(Starlette(routes=[Route("/hook", back_end.hook, methods=["POST"])])) as url:
        back_end.url = f"{url}/hook"
        yield back_end


async def connect(site: Served, visitor: Visitor, back_end: BackEnd) -> str:
    """Connect an account; the token."""
    made = await make(site, webhook_uri=back_end.url)
    page = await visitor.open(made["connect_link_url"], app="slack")
    await visitor.fill(page, api_key="k-0123456789")
    return str(made["token"])


async def test_success(site: Served, visitor: Visitor, back_end: BackEnd) -> None:
    """The account is told of, without its credentials."""
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


async def test_signature(site: Served, visitor: Visitor, back_end: BackEnd) -> None:
    """Whoever has the project's key can check who sent it, and when."""
    await connect(site, visitor, back_end)

    header, body = back_end.got[0]
    stamp, _, signed = header.partition(",v1=")
    at = stamp.removeprefix("t=")
    expected = hmac.new(get_signing_key(site.project).encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert signed == expected
    assert int(at) == int(site.context.clock.now().timestamp())


async def test_the_key_stays(tmp_path: Path) -> None:
    """The key is the project's: the same whenever it is opened."""
    with Project.open(tmp_path / ".pdkernel") as project:
        first = get_signing_key(project)
    with Project.open(tmp_path / ".pdkernel") as project:
        assert get_signing_key(project) == first


async def test_failure(tmp_path: Path, back_end: BackEnd) -> None:
    """A connection that is refused for good is told of with its reason."""
    async with served(tmp_path, max_development_users=0) as site:
        await connect(site, Visitor(site), back_end)

    [event] = back_end.events
    assert event["event"] == "CONNECTION_ERROR"
    assert event["error"] == "You've hit your limit on the number of external users you can connect."


async def test_it_is_asked_again(site: Served, visitor: Visitor, back_end: BackEnd) -> None:
    """A back end that fails twice gets the event the third time."""
    back_end.answers = [500, 503]

    await connect(site, visitor, back_end)

    assert len(back_end.got) == 3


async def test_a_dead_back_end_hurts_nobody(
    site: Served, visitor: Visitor, back_end: BackEnd, caplog: pytest.LogCaptureFixture
) -> None:
    """The account is connected all the same; the log says what was not told, without token and address."""
    back_end.answers = [500, 500, 500]

    token = await connect(site, visitor, back_end)

    assert len(site.directory.accounts()) == 1
    assert "rejected CONNECTION_SUCCESS: status 500" in caplog.text
    assert token not in caplog.text


async def test_the_api_tells_too(site: Served, back_end: BackEnd) -> None:
    """An account that the product's own page connects, without ours, is told of in the same way."""
    made = await make(site, webhook_uri=back_end.url)
    body = {"app_slug": "slack", "cfmap_json": '{"api_key": "k-0123456789"}', "connect_token": made["token"]}

    answer = await site.call("POST", "/accounts", json=body, params={"external_user_id": "ada"})

    [event] = back_end.events
    assert answer.status_code == 200
    assert (event["event"], event["connect_token"]) == ("CONNECTION_SUCCESS", made["token"])
    assert event["account"]["id"] == answer.json()["id"]
