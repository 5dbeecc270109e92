"""
A small OAuth 2 provider with an API, on the loopback interface, in place of an app's provider.

The provider is strict: it checks the client, the redirect URI and PKCE, and accepts each code and each refresh token once.
The sign-in page has a link to allow and a link to deny.
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

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.apps import ClientAuth, OAuthProvider, register_provider
from pdkernel.accounts.oauth import OAuthTokens, build_oauth_credentials, store_grant
from pdkernel.storage import Project

CLIENT_ID = "client-of-ours"
CLIENT_SECRET = "secret-of-ours-0123456789"
APP = "my_crm"
"""The app of the provider."""


@dataclass
class Provider:
    """
    A running provider.

    Attributes:
        url: Address of the provider.
        expires_in: Lifetime of access tokens in seconds that the response has; None omits the field.
        requests: Forms that the token endpoint received.
        tokens: Valid access tokens.
        refresh_tokens: Valid refresh tokens.
        down: Whether the token endpoint answers with 503.
        echoes_request: Whether the provider rejects codes, and repeats the whole request in the reason.
        refresh_gate: The endpoint waits for this event before it answers a refresh; None answers at once.
        rotates: Whether a refresh has a new refresh token; otherwise the refresh token stays valid, and is not repeated.
    """

    url: str = ""
    expires_in: float | None = 3600
    requests: list[dict[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refresh_tokens: set[str] = field(default_factory=set)
    down: bool = False
    echoes_request: bool = False
    refresh_gate: threading.Event | None = None
    rotates: bool = True
    _codes: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def app(self) -> Starlette:
        """The application with the provider's routes."""
        return Starlette(
            routes=[
                Route("/authorize", self.authorize),
                Route("/allow", self.allow),
                Route("/token", self.token, methods=["POST"]),
                Route("/api/me", self.me),
            ]
        )

    async def authorize(self, request: Request) -> Response:
        """The sign-in page, with a link to allow and a link to deny."""
        query = request.query_params
        if query.get("client_id") != CLIENT_ID or query.get("response_type") != "code":
            return HTMLResponse("Unknown client.", status_code=400)
        allow = escape(f"/allow?{urlencode(dict(query))}")
        deny = escape(
            f"{query['redirect_uri']}?{urlencode({'error': 'access_denied', 'error_description': 'No <b>thanks</b>', 'state': query['state']})}"
        )
        return HTMLResponse(
            f'<h1>Sign in</h1><a id="allow" href="{allow}">Allow</a> <a id="deny" href="{deny}">Deny</a>'
        )

    async def allow(self, request: Request) -> Response:
        """The user allowed the access: redirect back with a code."""
        query = request.query_params
        code = secrets.token_urlsafe(16)
        self._codes[code] = dict(query)
        back = urlencode({"code": code, "state": query["state"]})
        return RedirectResponse(f"{query['redirect_uri']}?{back}", status_code=302)

    async def token(self, request: Request) -> Response:
        """The token endpoint."""
        form = {name: str(value) for name, value in (await request.form()).items()}
        self.requests.append(form)
        if self.down:
            return JSONResponse({"error": "temporarily_unavailable"}, status_code=503)
        if self._client(request, form) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        if form["grant_type"] == "refresh_token":
            if self.refresh_gate is not None:
                await asyncio.to_thread(self.refresh_gate.wait, 60)
            if form["refresh_token"] not in self.refresh_tokens:
                return JSONResponse({"error": "invalid_grant", "error_description": "used or unknown"}, status_code=400)
            if self.rotates:
                self.refresh_tokens.remove(form["refresh_token"])
            return self._issue_response(has_refresh_token=self.rotates)
        if self.echoes_request:
            return JSONResponse({"error": "invalid_grant", "error_description": str(form)}, status_code=400)
        grant = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if grant is None or grant["redirect_uri"] != form["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        if grant.get("code_challenge_method") != "S256" or grant["code_challenge"] != challenge.decode():
            return JSONResponse({"error": "invalid_grant", "error_description": "PKCE"}, status_code=400)
        return self._issue_response()

    async def me(self, request: Request) -> Response:
        """A route of the app's API, which requires an access token."""
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return JSONResponse({"error": "invalid_token"}, status_code=401)
        return JSONResponse({"name": "Ada"})

    def issue_tokens(self) -> OAuthTokens:
        """Issue new tokens."""
        access, refresh = f"access-{secrets.token_hex(12)}", f"refresh-{secrets.token_hex(12)}"
        self.tokens.add(access)
        self.refresh_tokens.add(refresh)
        return OAuthTokens(access, refresh, self.expires_in)

    def _issue_response(self, *, has_refresh_token: bool = True) -> Response:
        issued = self.issue_tokens()
        fields: dict[str, object] = {"access_token": issued.access_token, "token_type": "bearer"}
        if has_refresh_token:
            fields["refresh_token"] = issued.refresh_token
        return JSONResponse(fields if self.expires_in is None else {**fields, "expires_in": self.expires_in})

    @staticmethod
    def _client(request: Request, form: Mapping[str, str]) -> tuple[str, str]:
        header = request.headers.get("authorization", "")
        if header.startswith("Basic "):
            name, _, secret = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
            return name, secret
        return form.get("client_id", ""), form.get("client_secret", "")


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Serve *app* on a free port of the loopback interface; yields the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def oauth_provider() -> Iterator[Provider]:
    """Run a provider."""
    provider = Provider()
    with running(provider.app()) as url:
        provider.url = url
        yield provider


def register(
    project: Project, provider: Provider, *, secret: str = CLIENT_SECRET, client_auth: ClientAuth = "post"
) -> None:
    """Register *provider* as the provider of `APP` in *project*."""
    scopes = ("contacts.read", "offline")
    urls = (f"{provider.url}/authorize", f"{provider.url}/token")
    register_provider(project, APP, OAuthProvider(*urls, CLIENT_ID, secret, scopes, client_auth))


def connect_account(project: Project, provider: Provider) -> str:
    """Connect ada's account of `APP` with tokens of *provider*; returns the account's id."""
    register(project, provider)
    tokens = provider.issue_tokens()
    directory = LocalDirectory(project)
    account = directory.add_account(app=APP, credentials=build_oauth_credentials(tokens), external_user_id="ada")
    store_grant(project, account.id, tokens)
    return account.id
