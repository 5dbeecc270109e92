"""Checks the auth of a workflow's trigger: none, bearer or OAuth. Tokens are compared in constant time."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from pdkernel.blocking import run_blocking
from pdkernel.model import Trigger
from pdkernel.server.app_context import AppContext, ServedWorkflow
from pdkernel.server.oauth.authorization import UnauthorizedError, authorize, parse_bearer_token
from pdkernel.server.pipedream_tokens import TokenStatus
from pdkernel.server.scopes import INVOKE_SCOPE

_LACKS_SCOPE = f"The access token lacks the scope {INVOKE_SCOPE}."


@dataclass(frozen=True)
class Refusal:
    """The message and status of the response to an unauthorized request."""

    text: str
    status: int = 401


async def check_auth(
    context: AppContext, served: ServedWorkflow, trigger: Trigger, authorization: str | None
) -> Refusal | None:
    """Return the reason why the request may not start the workflow, or None."""
    if trigger.auth == "none":
        return None
    if trigger.auth == "bearer":
        expected = served.variables.get(trigger.token_env or "") or None
        given = parse_bearer_token(authorization) or ""
        same = expected is not None and hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())
        return None if same else Refusal("This endpoint requires its token: Authorization: Bearer TOKEN.")
    try:
        caller = await run_blocking(authorize, context, authorization)
    except UnauthorizedError as why:
        token = parse_bearer_token(authorization)
        if context.passthrough is not None and token is not None:
            return _refusal_for_status(context, await context.passthrough.tokens.check(token))
        where = f"POST {context.settings.base_url}/v1/oauth/token"
        return Refusal(f"{why} This endpoint requires an OAuth access token. Get one with {where}.")
    return None if caller.has_scope(INVOKE_SCOPE) else Refusal(_LACKS_SCOPE)


def _refusal_for_status(context: AppContext, status: TokenStatus) -> Refusal | None:
    match status:
        case "good":
            return None
        case "scope":
            return Refusal(_LACKS_SCOPE)
        case "unchecked":
            return Refusal("The access token could not be checked: Pipedream does not respond. Try again.", 503)
        case "unknown":
            return Refusal(
                "Neither this server nor the workspace of its Connect project issued this access token. "
                f"Get a token with POST {context.settings.base_url}/v1/oauth/token."
            )
