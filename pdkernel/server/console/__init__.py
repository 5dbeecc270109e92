"""
The console: pages under `/-/` on which a person sees and steers the runs of a server.

    access       who may open a page or act, and the login
    pages        templates, headers, style sheet and script
    live         server-sent events: changes of the list of runs and of one run
    workflows    the page of workflows
    runs         the list of runs, one run and its actions, and batches of a schedule
    users        external users, their accounts and their readiness
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pdkernel.server.console import access, pages, runs, users, workflows


def routes() -> list[BaseRoute]:
    """Return the routes of the console. They must come before the routes of endpoints, which take any path."""
    return [
        Route("/", front_page, methods=["GET"]),
        Route("/-/", workflows.workflows_page, methods=["GET"]),
        Route("/-/login", access.login_page, methods=["GET"]),
        Route("/-/login", access.log_in, methods=["POST"]),
        Route("/-/login/code", access.print_code, methods=["POST"]),
        Route("/-/logout", access.log_out, methods=["POST"]),
        Route("/-/runs", runs.runs_page, methods=["GET"]),
        Route("/-/runs/{run_id}", runs.run_page, methods=["GET"]),
        *(Route(f"/-/runs/{{run_id}}/{name}", runs.action_endpoint(name), methods=["POST"]) for name in runs.ACTIONS),
        Route("/-/events/runs", runs.runs_stream, methods=["GET"]),
        Route("/-/events/runs/{run_id}", runs.run_stream, methods=["GET"]),
        Route("/-/batches", runs.batches_page, methods=["GET"]),
        Route("/-/batches/{batch_id}", runs.batch_page, methods=["GET"]),
        Route("/-/batches/{batch_id}/retry", runs.retry_batch, methods=["POST"]),
        Route("/-/users", users.users_page, methods=["GET"]),
        Route("/-/static/{name}", pages.static_file, methods=["GET"]),
    ]


async def front_page(request: Request) -> Response:
    """Answer GET `/`: lead to the console."""
    return pages.redirect(request, "/-/")
