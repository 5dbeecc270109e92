"""
Webhook events for the product's back end: an account was connected, or connecting failed.

Signature: `x-pd-signature: t=UNIX,v1=HEX`, HMAC-SHA256 of "t.body" with the project's key. Events do not contain credentials. A
failed delivery is repeated twice.

Only an OAuth client can set the webhook's URL, when it creates the token. The URL may therefore be on this machine or in a private
network.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.background import BackgroundTask

from pdkernel.blocking import run_blocking
from pdkernel.clock import RANDOM_IDS, format_iso
from pdkernel.identity import Account
from pdkernel.project import ConnectToken, Project
from pdkernel.render.apps import format_app_name
from pdkernel.server.app_context import LinkContext
from pdkernel.server.webhook_requests import TIMEOUT_S, build_headers

if TYPE_CHECKING:
    import httpx

SIGNING_KEY_SECRET = "webhook_signing_key"  # noqa: S105 - the name of a secret
# parity[link-webhooks]: the platform's number of retries and its timeout are not documented
RETRY_DELAYS_S = (0.5, 2.0)

_log = logging.getLogger(__name__)


def get_signing_key(project: Project) -> str:
    """The project's signing key, created at the first call."""
    return project.secrets.get_or_set(SIGNING_KEY_SECRET, RANDOM_IDS.new("whsec_", 43))


def build_success_event(token: ConnectToken, text: str, account: Account) -> dict[str, Any]:
    """The event for a connected account."""
    return {
        "event": "CONNECTION_SUCCESS",
        **_session(token, text),
        "account": {
            "id": account.id,
            "name": account.name,
            "external_id": account.external_user_id,
            "healthy": account.healthy,
            "dead": not account.healthy,
            "app": {"name_slug": account.app, "name": format_app_name(account.app)},
            "created_at": format_iso(account.created_at),
            "updated_at": format_iso(account.created_at),
        },
    }


def build_error_event(token: ConnectToken, text: str, error: str) -> dict[str, Any]:
    """The event for a failed connection."""
    return {"event": "CONNECTION_ERROR", **_session(token, text), "error": error}


def webhook_task(context: LinkContext, token: ConnectToken, event: Mapping[str, Any]) -> BackgroundTask | None:
    """The task that sends *event* to the token's webhook after the response, or None if the token does not have a webhook."""
    hook = token.terms.webhook_uri
    return None if hook is None else BackgroundTask(send_webhook, context, hook, event)


def _session(token: ConnectToken, text: str) -> dict[str, Any]:
    return {
        "connect_token": text,
        "environment": token.environment,
        "connect_session_id": token.terms.session,
    }


async def send_webhook(context: LinkContext, url: str, event: Mapping[str, Any]) -> bool:
    """Send *event* to *url*; False if every attempt failed or got another status than 2xx. Does not raise."""
    import httpx

    body = json.dumps(event).encode()
    key = await run_blocking(get_signing_key, context.project)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
        for pause in (0.0, *RETRY_DELAYS_S):
            await context.clock.sleep(pause)
            failure = await _post(client, url, body, key, int(context.clock.now().timestamp()))
            if failure is None:
                return True
    _log.warning("The webhook of a Connect token rejected %s: %s", event["event"], failure)
    return False


async def _post(client: httpx.AsyncClient, url: str, body: bytes, key: str, at: int) -> str | None:
    """The reason why the delivery failed, or None."""
    import httpx

    headers = build_headers(key, at, body)
    try:
        answer = await client.post(url, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as fault:
        return type(fault).__name__
    return None if answer.is_success else f"status {answer.status_code}"
