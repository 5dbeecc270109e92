"""The routes of the console. They come before the routes of endpoints, which take any path."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pdkernel.server.console import access, batches, pages, run_actions, runs, users, workflows


def console_routes() -> list[BaseRoute]:
    """The console's pages and actions."""
    return [
        Route("/", front_page, methods=["GET"]),
        Route("/-/", workflows.workflows_page, methods=["GET"]),
        Route("/-/login", access.login_page, methods=["GET"]),
        Route("/-/login", access.log_in, methods=["POST"]),
        Route("/-/login/code", access.print_code, methods=["POST"]),
        Route("/-/logout", access.log_out, methods=["POST"]),
        Route("/-/runs", runs.runs_page, methods=["GET"]),
        Route("/-/runs/{run_id}", runs.run_page, methods=["GET"]),
        *(
            Route(f"/-/runs/{{run_id}}/{name}", run_actions.action_endpoint(name), methods=["POST"])
            for name in run_actions.ACTIONS
        ),
        Route("/-/events/runs", runs.runs_stream, methods=["GET"]),
        Route("/-/events/runs/{run_id}", runs.run_stream, methods=["GET"]),
        Route("/-/batches", batches.batches_page, methods=["GET"]),
        Route("/-/batches/{batch_id}", batches.batch_page, methods=["GET"]),
        Route("/-/batches/{batch_id}/retry", batches.retry_batch, methods=["POST"]),
        Route("/-/users", users.users_page, methods=["GET"]),
        Route("/-/static/{name}", pages.static_file, methods=["GET"]),
    ]


async def front_page(request: Request) -> Response:
    """GET `/`: lead to the console."""
    return pages.redirect(request, "/-/")
