"""Access tokens that an app rejects, in whole runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from pdkernel.project import Grant, Project
from tests.builders import an_event, python_step
from tests.engine.conftest import Run

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


class _Refuses(BaseHTTPRequestHandler):
    """A server that answers 401 to every request."""

    def do_GET(self) -> None:
        """Answer 401."""
        self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def way_out() -> Iterator[str]:
    """A proxy that forwards every host to that server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


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
