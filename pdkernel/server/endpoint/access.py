"""
Whether a request may start a workflow: its trigger's auth.

Knows the three kinds. A token is compared in constant time and never told.
"""

from __future__ import annotations

import hmac

from pdkernel.model import Trigger
from pdkernel.server.oauth.access import INVOKE, Unauthorized, authorize, bearer_token
from pdkernel.server.serving import ServedWorkflow, Serving


async def refusal(serving: Serving, served: ServedWorkflow, trigger: Trigger, authorization: str | None) -> str | None:
    """Why the request may not start the workflow, or None if it may."""
    if trigger.auth == "none":
        return None
    if trigger.auth == "bearer":
        expected = served.variables.get(trigger.token_env or "") or None
        given = bearer_token(authorization) or ""
        same = expected is not None and hmac.compare_digest(given.encode("latin-1", "replace"), expected.encode())
        return None if same else "This endpoint needs its token: Authorization: Bearer TOKEN."
    try:
        caller = authorize(serving, authorization)
    except Unauthorized as why:
        token = bearer_token(authorization)
        if serving.pipedream is not None and token is not None:
            return _of_pipedream(await serving.pipedream.knows(token, serving.pipedream.login.environment))
        return f"{why} This endpoint needs an OAuth access token: POST {serving.settings.url}/v1/oauth/token gives one."
    return None if caller.may(INVOKE) else f"The access token lacks the scope {INVOKE}."


def _of_pipedream(known: bool | None) -> str | None:
    if known is None:
        return "The access token cannot be checked: Pipedream gives no answer. Try again."
    if known:
        return None
    return "The access token is neither one of this server's nor one of Pipedream's for its Connect project."
