"""External users: those of an environment, and removing one with all that is theirs."""

from __future__ import annotations

from starlette.responses import Response

from pdkernel.model import JSON
from pdkernel.server.api.door import ApiError, Call
from pdkernel.server.api.pages import Page
from pdkernel.server.api.shapes import user_json


async def list_users(call: Call) -> JSON:
    """`GET .../users`, by id."""
    users = await call.ask(call.serving.directory.users, call.environment)
    words = call.query("q")
    found = [user for user in users if words is None or words.lower() in user.external_id.lower()]
    page = Page(call, found, lambda user: user.external_id)
    return page.answer([user_json(user) for user in page.items])


async def delete_user(call: Call) -> Response:
    """`DELETE .../users/{external_user_id}`, with their accounts and deployed triggers of that environment."""
    user = call.user(call.path("external_user_id"))
    if not await call.ask(call.serving.directory.delete_user, user, call.environment):
        raise ApiError(404, f"There is no external user {user!r} in {call.environment}.")
    return Response(status_code=204)
