"""
Whether a request may start a workflow: its trigger's auth.

Knows the three kinds. A token is compared in constant time and never told.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from pdkernel.model import Trigger
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.oauth.authorization import UnauthorizedError, authorize, parse_bearer_token
from pdkernel.server.oauth.scopes import INVOKE_SCOPE
from pdkernel.server.pipedream_tokens import TokenStatus

_LACKS_SCOPE = f"The access token lacks the scope {INVOKE_SCOPE}."


@dataclass(frozen=True)
class Refusal:
    """Why a request may not start a workflow, and the answer's status."""

    text: str
    status: int = 401


async def check_auth(
    context: AppContext, served: ServedWorkflow, trigger: Trigger, authorization: str | None
) -> Refusal | None:
    """Why the request may not start the workflow, or None if it may."""
    if trigger.auth == "none":
        return None
    if trigger.auth == "bearer":
        expected = served.variables.get(trigger.token_env or "") or None
        given = parse_bearer_token(authorization) or ""
        same = expected is not None and hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())
        return None if same else Refusal("This endpoint needs its token: Authorization: Bearer TOKEN.")
    try:
        caller = authorize(context, authorization)
    except UnauthorizedError as why:
        token = parse_bearer_token(authorization)
        if context.passthrough is not None and token is not None:
            return _refusal_for_status(context, await context.passthrough.tokens.check(token))
        where = f"POST {context.settings.base_url}/v1/oauth/token"
        return Refusal(f"{why} This endpoint needs an OAuth access token: {where} gives one.")
    return None if caller.has_scope(INVOKE_SCOPE) else Refusal(_LACKS_SCOPE)


def _refusal_for_status(context: AppContext, known: TokenStatus) -> Refusal | None:
    match known:
        case "good":
            return None
        case "scope":
            return Refusal(_LACKS_SCOPE)
        case "unasked":
            return Refusal("The access token cannot be checked: Pipedream gives no answer. Try again.", 503)
        case "unknown":
            return Refusal(
                "The access token is neither one of this server's nor one of the workspace of its Connect project, as "
                f"far as that is known here. POST {context.settings.base_url}/v1/oauth/token gives those of both."
            )
