"""
A small OAuth 2 provider with an API, on the loopback interface: an app for Connect Link.

The provider checks the client, the redirect, PKCE, and that codes and refresh tokens are used once. A user signs in
by a link.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID = "client-of-ours"
CLIENT_SECRET = "secret-of-ours-0123456789"


@dataclass
class Provider:
    """
    A running provider.

    Attributes:
        url: The address of the provider.
        expires_in: The announced lifetime of access tokens in seconds; None announces none.
        asked: The forms that the token endpoint received.
        tokens: The valid access tokens.
        down: Whether the token endpoint fails.
        tells_all: Whether the provider refuses codes and repeats the whole request in the reason.
        slowly: The event before the response to a refresh token; None responds at once.
    """

    url: str = ""
    expires_in: float | None = 3600
    asked: list[dict[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    down: bool = False
    tells_all: bool = False
    slowly: threading.Event | None = None
    _codes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _refresh_tokens: set[str] = field(default_factory=set)

    def app(self) -> Starlette:
        """The routes of the provider."""
        return Starlette(
            routes=[
                Route("/authorize", self.authorize),
                Route("/allow", self.allow),
                Route("/token", self.token, methods=["POST"]),
                Route("/api/me", self.me),
            ]
        )

    async def authorize(self, request: Request) -> Response:
        """Ask the person for permission."""
        query = request.query_params
        if query.get("client_id") != CLIENT_ID or query.get("response_type") != "code":
            return HTMLResponse("Who asks?", status_code=400)
        allow = escape(f"/allow?{urlencode(dict(query))}")
        deny = escape(
            f"{query['redirect_uri']}?{urlencode({'error': 'access_denied', 'error_description': 'No <b>thanks</b>', 'state': query['state']})}"
        )
        return HTMLResponse(
            f'<h1>Sign in</h1><a id="allow" href="{allow}">Allow</a> <a id="deny" href="{deny}">Deny</a>'
        )

    async def allow(self, request: Request) -> Response:
        """The answer of a person who allows the access."""
        query = request.query_params
        code = secrets.token_urlsafe(16)
        self._codes[code] = dict(query)
        back = urlencode({"code": code, "state": query["state"]})
        return RedirectResponse(f"{query['redirect_uri']}?{back}", status_code=302)

    async def token(self, request: Request) -> Response:
        """Issue tokens."""
        form = {name: str(value) for name, value in (await request.form()).items()}
        self.asked.append(form)
        if self.down:
            return JSONResponse({"error": "temporarily_unavailable"}, status_code=503)
        if self._client(request, form) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        if form["grant_type"] == "refresh_token":
            if self.slowly is not None:
                await asyncio.to_thread(self.slowly.wait, 10)
            if form["refresh_token"] not in self._refresh_tokens:
                return JSONResponse({"error": "invalid_grant", "error_description": "used or unknown"}, status_code=400)
            self._refresh_tokens.remove(form["refresh_token"])
            return self._hand_out()
        if self.tells_all:
            return JSONResponse({"error": "invalid_grant", "error_description": str(form)}, status_code=400)
        asked = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if asked is None or asked["redirect_uri"] != form["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        if asked.get("code_challenge_method") != "S256" or asked["code_challenge"] != challenge.decode():
            return JSONResponse({"error": "invalid_grant", "error_description": "PKCE"}, status_code=400)
        return self._hand_out()

    async def me(self, request: Request) -> Response:
        """The API of the app."""
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return JSONResponse({"error": "invalid_token"}, status_code=401)
        return JSONResponse({"name": "Ada"})

    def _hand_out(self) -> Response:
        access, refresh = f"access-{secrets.token_hex(12)}", f"refresh-{secrets.token_hex(12)}"
        self.tokens.add(access)
        self._refresh_tokens.add(refresh)
        told = {"access_token": access, "refresh_token": refresh, "token_type": "bearer"}
        return JSONResponse(told if self.expires_in is None else {**told, "expires_in": self.expires_in})

    @staticmethod
    def _client(request: Request, form: Mapping[str, str]) -> tuple[str, str]:
        header = request.headers.get("authorization", "")
        if header.startswith("Basic "):
            name, _, secret = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
            return name, secret
        return form.get("client_id", ""), form.get("client_secret", "")


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Serve *app* on a free port of the loopback interface; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def oauth_provider() -> Iterator[Provider]:
    """A running provider."""
    provider = Provider()
    with running(provider.app()) as url:
        provider.url = url
        yield provider
