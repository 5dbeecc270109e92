"""Authentication, scopes, environments and errors of the API."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from pdkernel.errors import (
    AccountNotFoundError,
    ActionNotFoundError,
    PdkernelError,
    ProductionPlanError,
    ProjectError,
    RequestError,
    StepError,
)
from pdkernel.server import create_app
from pdkernel.server.api.api_call import MAX_BODY_BYTES, http_status
from pdkernel.server.rate_limits import MAX_REQUESTS_PER_WINDOW
from pdkernel.storage import DeployedTrigger
from tests.actions.checkout import write_checkout
from tests.builders import a_workflow, python_step
from tests.server.deploying import PARCELS, write_sources
from tests.server.served import Served, served
from tests.server.site import Site, site_of


async def test_a_valid_token_is_required(site: Served) -> None:
    """Without a valid token the response is 401 with a JSON error."""
    for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer ctok_x"}):
        answer = await site.http.get(f"/v1/connect/{site.project.project_id}/users", headers=headers)
        assert answer.status_code == 401
        assert set(answer.json()) == {"error"}
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_another_project_is_not_found(site: Served) -> None:
    """A path with the id of another project is answered 404."""
    answer = await site.call("GET", "/v1/connect/proj_other/users")

    assert answer.status_code == 404
    assert site.project.project_id in answer.json()["error"]


async def test_the_environment_header(site: Served) -> None:
    """Another environment is answered 400; a missing header means development, and case is ignored."""
    for environment, status in (("staging", 400), (None, 200), ("Production", 200)):
        assert (await site.call("GET", "/users", environment=environment)).status_code == status


async def test_an_error_has_no_fix_for_the_owner(depot: Served) -> None:
    """A documented error is the platform's message alone: how its fix names users and commands is not for the caller."""
    body = {"external_user_id": "bob", "id": "depot-new-parcel", "configured_props": {}}
    write_sources(Path(str(depot.project.settings.get("actions"))), new_parcel=PARCELS)

    answer = await depot.call("POST", "/triggers/deploy", json=body)

    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "Pipedream Connect Error: No matching external user ID: bob in development"},
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ActionNotFoundError("x"), 404),
        (ProductionPlanError("x", fix="x"), 403),
        (AccountNotFoundError("x", fix="x"), 400),
        (RequestError("x"), 400),
        (StepError("x"), 400),
        (ProjectError("x"), 500),
    ],
)
def test_the_status_of_an_error(error: PdkernelError, status: int) -> None:
    """Only an error that may pass has status 5xx, after which SDKs repeat the request."""
    assert http_status(error) == status


async def test_a_large_body_is_rejected(site: Served) -> None:
    """A body above the limit is answered 413, and a body of that size is read."""
    padding = b" " * (MAX_BODY_BYTES - 2)
    answers = [await site.call("POST", "/actions/run", content=b"{}" + padding + more) for more in (b"", b" ")]

    assert [answer.status_code for answer in answers] == [400, 413]
    assert answers[1].json() == {"error": f"The body has more than {MAX_BODY_BYTES} bytes."}


async def test_a_body_of_very_many_lists_is_rejected(site: Served) -> None:
    """A body with too many lists and objects is answered 413 before it is parsed; brackets in a text do not count."""
    lists, text = b"[" + b"[]," * 100_000 + b"[]]", b'"' + b"[" * 200_000 + b'"'
    answers = [await site.call("POST", "/actions/run", content=b'{"a":%b}' % value) for value in (lists, text)]

    assert [answer.status_code for answer in answers] == [413, 400]
    assert answers[0].json() == {"error": "The body has more than 100,000 lists and objects."}


async def test_a_client_that_disconnects(site: Served) -> None:
    """A request that ends before its body is not an error of the server."""
    messages = iter(
        list[Message]([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    path = f"/v1/connect/{site.project.project_id}/actions/run"
    headers = {**site.headers(), "host": "localhost", "content-length": "10"}
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await create_app(site.context)({**scope, "headers": raw, "client": ("127.0.0.1", 1)}, receive, send)

    assert sent[0]["status"] == 400


async def test_an_invalid_body_is_rejected(site: Served) -> None:
    """A body that is not a JSON object of valid text is answered 400."""
    for body in (b"{", b"[]", b"1", b'"\\ud800"', b'{"id": "\\ud800"}', b"[" * 50_000, b"\xff"):
        answer = await site.call("POST", "/actions/run", content=body, headers={"Content-Type": "application/json"})

        assert answer.status_code == 400
        assert answer.json()["error"] in ("The body is not JSON.", "The body is not a JSON object.")


def count_requests(site: Served, number: int) -> None:
    """Count as many requests for accounts as if they had been sent."""
    for _ in range(number):
        site.state.api_rate_limiter.count("accounts", site.context.clock)


async def test_rate_limits_apply_if_they_are_set(tmp_path: Any) -> None:
    """A request above the limit is answered 429 with the platform's headers; without the setting there is no limit."""
    async with served(tmp_path / "on", applies_rate_limits=True) as site, served(tmp_path / "off") as other:
        path, headers = f"/v1/connect/{site.project.project_id}/accounts/apn_1", site.headers()
        count_requests(site, MAX_REQUESTS_PER_WINDOW["accounts"] - 2)
        for _ in range(2):
            assert (await site.http.get(path, headers=headers)).status_code == 404
        answer = await site.call("GET", "/accounts/apn_1")

        assert (answer.status_code, answer.json()) == (429, {"error": "Throttled"})
        assert answer.headers["x-ratelimit-remaining"] == "0"
        assert answer.headers["x-ratelimit-limit"] == str(MAX_REQUESTS_PER_WINDOW["accounts"])
        now = site.context.clock.now().timestamp()
        site.clock.advance(0.5)
        later = (await site.call("GET", "/accounts/apn_1")).headers
        # a client that waits for `retry-after` seconds sends its next request after the end of the window
        assert int(later["retry-after"]) >= 300 - 0.5
        assert int(later["x-ratelimit-reset"]) >= now + 300
        site.clock.advance(301)
        assert (await site.call("GET", "/accounts/apn_1")).status_code == 404
        assert (await other.call("GET", "/accounts/apn_1")).status_code == 404


async def test_refused_calls_do_not_count(tmp_path: Any) -> None:
    """Calls without a token, the scope, or the project leave the limit of the authorized callers as it is."""
    async with served(tmp_path, applies_rate_limits=True) as site:
        path = f"/v1/connect/{site.project.project_id}/accounts"
        other = "/v1/connect/proj_other/accounts"
        limited, complete = site.headers("connect:triggers:read"), site.headers()
        refused = set()
        count_requests(site, MAX_REQUESTS_PER_WINDOW["accounts"] - 1)
        for _ in range(3):
            refused.add((await site.http.get(path)).status_code)
            refused.add((await site.http.get(path, headers=limited)).status_code)
            refused.add((await site.http.get(other, headers=complete)).status_code)
        last, above = [(await site.call("GET", "/accounts")).status_code for _ in range(2)]

    assert refused == {401, 403, 404}
    assert (last, above) == (200, 429)


async def test_a_web_page_calls_the_api(site: Served) -> None:
    """A page of an allowed origin can call the API and read responses and errors."""
    page = {"Origin": "https://product.example"}
    right = await token_for(site, "https://product.example/")
    other = await token_for(site, "https://elsewhere.example")
    path = f"/v1/connect/{site.project.project_id}/accounts"

    preflight = await site.http.options(path, headers={**page, "Access-Control-Request-Headers": "x-pd-environment"})
    read = await site.http.get(path, headers={**page, "Authorization": f"Bearer {right}"})
    missing = await site.http.get(f"{path}/apn_1", headers={**page, "Authorization": f"Bearer {right}"})
    refused = await site.http.get(path, headers={**page, "Authorization": f"Bearer {other}"})
    backend = await site.call("GET", "/accounts", headers=page)

    assert (preflight.status_code, preflight.headers["access-control-allow-headers"]) == (204, "x-pd-environment")
    assert (read.status_code, missing.status_code, refused.status_code) == (200, 404, 403)
    assert read.headers["access-control-allow-origin"] == "https://product.example"
    assert missing.headers["access-control-allow-origin"] == "https://product.example"
    assert "access-control-allow-origin" not in backend.headers
    assert read.headers["vary"] == missing.headers["vary"] == "Origin"  # a cache keeps a response for each page


async def token_for(site: Served, origin: str) -> str:
    """A Connect token of ada for pages of that origin."""
    made = await site.call("POST", "/tokens", json={"external_user_id": "ada", "allowed_origins": [origin]})
    return str(made.json()["token"])


@pytest.mark.parametrize(
    ("origins", "path", "reason"),
    [
        (["https://elsewhere.example"], "/accounts", "allowed_origins"),
        (None, "/accounts", "allowed_origins"),
        (["https://product.example"], "/users", "not a Connect token"),
        (["https://product.example"], "/triggers", "lacks the scope"),
    ],
)
async def test_a_web_page_can_read_why_its_token_is_refused(
    site: Served, origins: list[str] | None, path: str, reason: str
) -> None:
    """The 403 for a page's origin, for a route of the back end or for a scope allows the page's origin; a back end has none."""
    body = {"external_user_id": "ada", "scope": "connect:accounts:read", "allowed_origins": origins}
    token = (await site.call("POST", "/tokens", json={name: value for name, value in body.items() if value})).json()
    headers = {"Authorization": f"Bearer {token['token']}"}

    answer = await site.call("GET", path, headers={"Origin": "https://product.example", **headers})

    assert answer.status_code == 403
    assert reason in answer.json()["error"]
    assert answer.headers["access-control-allow-origin"] == "https://product.example"
    assert (await site.call("GET", "/accounts", headers=headers)).status_code == 200


async def test_a_web_page_can_read_that_its_token_is_invalid(site: Served) -> None:
    """The 401 for an expired or unknown Connect token allows the page's origin."""
    page = {"Origin": "https://product.example"}
    expired = await token_for(site, "https://product.example")
    site.clock.advance(4 * 3600)

    for text in (expired, "ctok_" + "0" * 32):
        answer = await site.call("GET", "/accounts", headers={**page, "Authorization": f"Bearer {text}"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://product.example"
    other = await site.http.get("/v1/connect/accounts", headers={**page, "Authorization": "Bearer x"})
    assert (other.status_code, "access-control-allow-origin" in other.headers) == (401, False)


USERS = 8


def token(number: int) -> str:
    """A credential that only this user's account has."""
    return f"xoxb-mark-{number:03d}-of-its-user"


def trigger(number: int, now: datetime) -> DeployedTrigger:
    """A deployed trigger of the user, with a mark in each field."""
    mark, props = f"{number:03d}", {"mine": f"props-mark-{number:03d}"}
    name, user = f"trigger-mark-{mark}", f"user-{mark}"
    return DeployedTrigger(
        f"dc_{mark}", user, "development", "depot-new-thing", "0.0.1", name, props, {}, False, now, now
    )


def marks(number: int) -> list[str]:
    """Texts that only the user's accounts, triggers and events have."""
    return [f"{kind}-mark-{number:03d}" for kind in ("name", "trigger", "props", "emitted")]


async def reach(site: Site, number: int, other: int) -> tuple[list[int], str]:
    """Read everything of the user and of *other* with the user's Connect token; returns the statuses and the texts."""
    project = f"/v1/connect/{site.context.project.project_id}"
    made = await site.http.post(
        f"{project}/tokens", json={"external_user_id": f"user-{number:03d}"}, headers=site.token("connect:*")
    )
    headers = {"authorization": f"Bearer {made.json()['token']}"}
    statuses, text = [], ""
    for owner, names_user in ((number, True), (number, False), (other, True)):
        user = {"external_user_id": f"user-{owner:03d}"} if names_user else {}
        for path in (
            "/accounts?include_credentials=true",
            f"/accounts/apn_{owner:03d}",
            f"/users/user-{owner:03d}/accounts",
            "/deployed-triggers",
            f"/deployed-triggers/dc_{owner:03d}",
            f"/deployed-triggers/dc_{owner:03d}/events",
        ):
            answer = await site.http.get(project + path, params=user if "?" not in path else None, headers=headers)
            statuses.append(answer.status_code)
            text += answer.text
    # another user's trigger and account, with the token's user as external_user_id
    for path in (f"/deployed-triggers/dc_{other:03d}/events", f"/accounts/apn_{other:03d}"):
        own_user = {"external_user_id": f"user-{number:03d}"}
        answer = await site.http.get(project + path, params=own_user, headers=headers)
        statuses.append(answer.status_code)
        text += answer.text
    return statuses, text


async def test_a_connect_token_reads_only_its_user(tmp_path: Path) -> None:
    """A token reads its user's accounts, triggers and events, and nothing of another user."""
    checkout = write_checkout(tmp_path / "components")
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        site.context.project.settings.set("actions", str(checkout))
        for number in range(USERS):
            site.connect(
                f"user-{number:03d}",
                "slack",
                {"oauth_access_token": token(number)},
                account_id=f"apn_{number:03d}",
                name=f"name-mark-{number:03d}",
            )
            triggers = site.context.project.deployed_triggers
            triggers.add(trigger(number, site.context.clock.now()))
            triggers.add_events(
                f"dc_{number:03d}", [{"e": f"emitted-mark-{number:03d}", "k": "emit", "ts": 1, "id": "1"}]
            )
        others = [(number, (number * 7 + 3) % USERS) for number in range(USERS)]
        found = await asyncio.gather(*(reach(site, number, other) for number, other in others))

    for (number, other), (statuses, text) in zip(others, found, strict=True):
        assert number != other
        assert [mark for mark in marks(number) if mark not in text] == []
        assert [mark for each in range(USERS) if each != number for mark in marks(each) if mark in text] == []
        assert "xoxb-mark" not in text
        assert set(statuses[:12]) == {200}
        # a list without a user in its query has the token's own user
        assert [status for status in statuses[12:] if status not in (403, 404)] == [200]


def connect(site: Served, *users: str) -> None:
    """Connect an account for each user."""
    for user in users:
        site.connect(user, "slack", {"oauth_access_token": "t-1234567"})


async def ids(site: Served, **params: str) -> tuple[list[str], dict[str, object]]:
    """Ids of a page of users, and the page's info."""
    answer = (await site.call("GET", "/users", params=params)).json()
    return [user["external_id"] for user in answer["data"]], answer["page_info"]


async def test_pages_have_no_gaps(site: Served) -> None:
    """The pages have every item once; the last page has no cursor."""
    names = [f"user-{number:02}" for number in range(23)]
    connect(site, *names)
    found: list[str] = []
    cursor: str | None = ""
    sizes = []
    while cursor is not None:
        page, info = await ids(site, **({"after": cursor} if cursor else {}))
        found += page
        sizes.append(len(page))
        cursor = info["end_cursor"]  # type: ignore[assignment]

    assert found == names
    assert sizes == [10, 10, 3]
    assert info["total_count"] == 23


async def test_the_limit_of_a_page(site: Served) -> None:
    """`limit` sets the size up to 100; an invalid limit is answered 400."""
    connect(site, *[f"user-{number:03}" for number in range(120)])

    some, info = await ids(site, limit="120")
    rest, last = await ids(site, limit="20", after=str(info["end_cursor"]))

    assert (len(some), len(rest), last["end_cursor"]) == (100, 20, None)
    for limit in ("0", "-1", "x", "1" * 50):
        assert (await site.call("GET", "/users", params={"limit": limit})).status_code == 400


async def test_a_deleted_item_leaves_no_gap(site: Served) -> None:
    """If the cursor's item is deleted, the next page begins with the following item."""
    connect(site, "a", "b", "c", "d")
    _, info = await ids(site, limit="2")
    site.directory.delete_user("b", "development")

    rest, _ = await ids(site, limit="2", after=str(info["end_cursor"]))

    assert rest == ["c", "d"]


async def test_before_returns_the_preceding_page(site: Served) -> None:
    """`before` returns the last items before a cursor, and with `after` those between the cursors."""
    connect(site, "a", "b", "c", "d")
    _, first = await ids(site, limit="2")
    _, info = await ids(site, limit="2", after=str(first["end_cursor"]))

    page, _ = await ids(site, limit="1", before=str(info["start_cursor"]))
    all_before, _ = await ids(site, limit="10", before=str(info["start_cursor"]))
    between, _ = await ids(site, after=str(first["start_cursor"]), before=str(info["start_cursor"]))

    assert (page, all_before, between) == (["b"], ["a", "b"], ["b"])


async def test_an_invalid_cursor_is_rejected(site: Served) -> None:
    """A cursor that the API did not create is answered 400."""
    for cursor in ("x", "!!!!", "WyJhIiwgMV0", "e30", "W10", "OTk5"):
        assert (await site.call("GET", "/users", params={"after": cursor})).status_code == 400
