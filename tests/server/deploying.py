"""Deploys triggers, calls their routes, and receives their webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

from tests.server.served import Served


class Receiver:
    """A back end that receives webhooks."""

    def __init__(self) -> None:
        seen = self.seen = []  # type: list[tuple[dict[str, str], bytes]]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop receiving."""
        self._server.shutdown()
        self._server.server_close()


async def deploy(site: Served, *, status: int = 200, headers: Mapping[str, str] | None = None, **body: Any) -> Any:
    """Deploy a trigger for ada; returns the data of the response, or its error."""
    request = {"external_user_id": "ada", "id": "depot-new-parcel", "configured_props": {}, **body}
    answer = await site.call("POST", "/triggers/deploy", json=request, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()["data"] if status == 200 else answer.json()["error"]


async def call_trigger(site: Served, method: str, path: str, user: str = "ada", **kwargs: Any) -> httpx.Response:
    """Call a route of deployed triggers as *user*."""
    params = {"external_user_id": user, **kwargs.pop("params", {})}
    return await site.call(method, f"/deployed-triggers{path}", params=params, **kwargs)


async def events(site: Served, trigger: str) -> list[Any]:
    """The events that the trigger has emitted, newest first."""
    return [event["e"] for event in (await call_trigger(site, "GET", f"/{trigger}/events")).json()["data"]]
