"""Routes of Connect with a real project: every request goes to Pipedream, except one with a token of this server."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pdkernel.server.app_context import AppContext
from pdkernel.server.oauth.authorization import parse_bearer_token
from pdkernel.server.path_params import rest_of_path

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_WRONG_SERVER_MESSAGE = (
    "This server issued this access token, and the token opens workflow endpoints only. Pipedream answers Connect's routes: "
    "use a token of an OAuth client of your Pipedream workspace."
)


def routes() -> list[BaseRoute]:
    """Every route of Connect; handlers require `AppContext.passthrough` in `request.app.state.context`."""
    return [Route(f"/v1/{rest_of_path()}", _forward, methods=_METHODS)]


async def _forward(request: Request) -> Response:
    context: AppContext = request.app.state.context
    token = parse_bearer_token(request.headers.get("authorization"))
    if token is not None and context.project.access_tokens.verify(token) is not None:
        return JSONResponse({"error": _WRONG_SERVER_MESSAGE}, status_code=401)
    assert context.passthrough is not None
    return await context.passthrough.forward(request)
