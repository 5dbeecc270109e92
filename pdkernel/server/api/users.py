"""Routes of external users: list and delete."""

from __future__ import annotations

from starlette.responses import Response

from pdkernel.blocking import run_blocking
from pdkernel.model import JSON
from pdkernel.server.api.api_call import ApiCall, ApiError
from pdkernel.server.api.pagination import Page
from pdkernel.server.api.serializers import serialize_user


async def list_users(call: ApiCall) -> JSON:
    """`GET .../users`, by id."""
    users = await run_blocking(call.context.directory.users, call.environment)
    words = call.query_param("q")
    found = [user for user in users if words is None or words.lower() in user.external_id.lower()]
    page = Page(call, found, lambda user: user.external_id)
    return page.to_json([serialize_user(user) for user in page.items])


async def delete_user(call: ApiCall) -> Response:
    """`DELETE .../users/{external_user_id}`, with their accounts and deployed triggers of that environment."""
    user = call.resolve_user(call.path_param("external_user_id"))
    if not await run_blocking(call.context.directory.delete_user, user, call.environment):
        raise ApiError(404, f"There is no external user {user!r} in {call.environment}.")
    return Response(status_code=204)
