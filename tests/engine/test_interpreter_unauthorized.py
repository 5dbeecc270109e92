"""Access tokens that an app rejects, in whole runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from pdkernel.storage import Grant, Project
from tests.builders import an_event, python_step
from tests.engine.conftest import Run
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

CALL = """
    import urllib.error, urllib.request
    token = pd.inputs["slack"]["$auth"]["oauth_access_token"]
    headers = {"Authorization": "Bearer " + token} if pd.steps["trigger"]["event"]["body"]["carried"] else {}
    request = urllib.request.Request("http://api.my-crm.example/me", headers=headers)
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        return error.code
"""


@pytest.fixture
def way_out() -> Iterator[str]:
    """A proxy that answers 401 for every host."""
    with serve(AnsweringServer(lambda _: (401, b""))) as server:
        yield server.url


@pytest.mark.parametrize("carried", [True, False])
async def test_rejected_token_is_renewed_before_the_next_run(
    run: Run, connect: Callable[..., str], project: Project, way_out: str, carried: bool
) -> None:
    """A 401 to a call with the account's token renews the token before the next run; another 401 does not."""
    account = connect("ada")
    now = datetime.now(UTC)
    project.grants.set(account, Grant("refresh-0123456789", None, now))
    event = an_event({"carried": carried})

    done = await run(
        python_step("call", CALL, options="--app slack"),
        event=event,
        egress=f"live via={way_out}",
        external_user_id="ada",
    )

    grant = project.grants.find(account)
    assert done.step("call").exports == {"$return_value": 401}
    assert grant is not None
    assert grant.is_refused == carried


async def test_a_token_that_was_renewed_meanwhile_stays(
    run: Run, connect: Callable[..., str], project: Project
) -> None:
    """A 401 to a token that another run has renewed since does not renew the new token."""
    account = connect("ada")
    project.grants.set(account, Grant("refresh-0123456789", None, datetime.now(UTC)))

    def renew(_: SentRequest) -> Answer:
        project.grants.set(account, Grant("refresh-9876543210", None, datetime.now(UTC)))
        return 401, b""

    with serve(AnsweringServer(renew)) as server:
        done = await run(
            python_step("call", CALL, options="--app slack"),
            event=an_event({"carried": True}),
            egress=f"live via={server.url}",
            external_user_id="ada",
        )

    grant = project.grants.find(account)
    assert done.step("call").exports == {"$return_value": 401}
    assert grant is not None
    assert not grant.is_refused
