"""
Signed requests to webhooks of the product's back end, and the events of Connect Link: an account was connected, or connecting failed.

An event is stored in the transaction that stores the account, so a crash loses none; it is sent after the response, or by the next
process. Signature: `x-pd-signature: t=UNIX,v1=HEX`, HMAC-SHA256 of "t.body" with the project's key. Events do not contain credentials. A
failed delivery is repeated twice. A process that dies meanwhile leaves the event to the next one, which sends it with the same
`Idempotency-Key`.

Only an OAuth client can set the webhook's URL, when it creates the token. The URL may therefore be on this machine or in a private
network.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from starlette.background import BackgroundTask

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import RANDOM_IDS, format_iso
from pdkernel.common.identity import Account
from pdkernel.errors import PdkernelError
from pdkernel.model import JSON
from pdkernel.render.apps import format_app_name
from pdkernel.server.app_context import LinkContext
from pdkernel.server.source_turns import SourceTurns
from pdkernel.storage import ConnectToken, EventTarget, Project, TriggerEvent
from pdkernel.storage.trigger_events import LINK_ID_PREFIX

if TYPE_CHECKING:
    import httpx

SIGNATURE_HEADER = "x-pd-signature"
TIMEOUT_S = 10.0
"""Time limit of a request to a webhook in seconds."""


def build_headers(key: str, at: int, body: bytes) -> dict[str, str]:
    """
    Build the headers of a request to a webhook.

    Args:
        key: The key that signs.
        at: When the request is sent, in seconds since 1970.
        body: The body, JSON.
    """
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"content-type": "application/json", SIGNATURE_HEADER: f"t={at},v1={digest}", "user-agent": "pdkernel"}


SIGNING_KEY_SECRET = "webhook_signing_key"  # noqa: S105 - the name of a secret
# parity[link-webhooks]: the platform's number of retries and its timeout are not documented
RETRY_DELAYS_S = (0.5, 2.0)
_BATCH_SIZE = 20

_log = logging.getLogger(__name__)


def get_signing_key(project: Project) -> str:
    """Return the project's signing key, created at the first call."""
    return project.secrets.get_or_set(SIGNING_KEY_SECRET, RANDOM_IDS.new("whsec_", 43))


def build_success_event(token: ConnectToken, text: str, account: Account) -> dict[str, Any]:
    """Build the event for a connected account."""
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
    """Build the event for a failed connection."""
    return {"event": "CONNECTION_ERROR", **_session(token, text), "error": error}


def store_event(context: LinkContext, token: ConnectToken, event: Mapping[str, Any]) -> None:
    """Store *event* for the token's webhook, if it has one. Blocks; call it in the transaction that makes the event true."""
    if token.terms.webhook_uri is not None:
        data: dict[str, JSON] = {"url": token.terms.webhook_uri, "event": dict(event)}
        context.project.trigger_events.store(_target_of(token), context.ids.new("evt_", 20), data)


def webhook_task(context: LinkContext, token: ConnectToken) -> BackgroundTask | None:
    """Return the task that sends the stored events to the token's webhook after the response; None without a webhook."""
    if token.terms.webhook_uri is None:
        return None
    return BackgroundTask(send_stored_events, context, _target_of(token))


def _target_of(token: ConnectToken) -> EventTarget:
    return EventTarget(f"{LINK_ID_PREFIX}{token.terms.session}", "connect")


def _session(token: ConnectToken, text: str) -> dict[str, Any]:
    return {
        "connect_token": text,
        "environment": token.environment,
        "connect_session_id": token.terms.session,
    }


async def send_stored_events(context: LinkContext, target: EventTarget) -> None:
    """Send the events that wait for *target*, unless this process does so already. One that every attempt failed to deliver is dropped."""
    if target.id in context.link_deliveries:
        return
    context.link_deliveries.add(target.id)
    table = context.project.trigger_events
    try:
        async with SourceTurns(context.project.source_turns, context.ids).take(target.id):
            while events := await run_blocking(table.list_waiting, [target], _BATCH_SIZE):
                for event in events:
                    if event.problem is not None:
                        _log.error("An event of a Connect token was given up: %s", event.problem)
                    else:
                        await _send(context, event)
                    await run_blocking(table.finish, event)
    except PdkernelError as fault:
        _log.warning("The events of a Connect token cannot be sent at the moment: %s", fault.message)
    finally:
        context.link_deliveries.discard(target.id)


async def _send(context: LinkContext, stored: TriggerEvent) -> None:
    import httpx

    url, event = str(stored.data["url"]), cast("Mapping[str, Any]", stored.data["event"])
    body = json.dumps(event).encode()
    key = await run_blocking(get_signing_key, context.project)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client:
        for pause in (0.0, *RETRY_DELAYS_S):
            await context.clock.sleep(pause)
            headers = build_headers(key, int(context.clock.now().timestamp()), body)
            failure = await _post(client, url, body, {**headers, "idempotency-key": stored.dedupe_key})
            if failure is None:
                return
    _log.warning("The webhook of a Connect token rejected %s: %s", event["event"], failure)


async def _post(client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]) -> str | None:
    """Return the reason why the delivery failed, or None."""
    import httpx

    try:
        answer = await client.post(url, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as fault:
        return type(fault).__name__
    return None if answer.is_success else f"status {answer.status_code}"
