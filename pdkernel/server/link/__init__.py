"""
Connect Link: tokens, and pages where a person connects an account.

    tokens              creation and lookup of Connect tokens, and parameters of a page
    token_routes        the token routes of Connect's API
    connect_page        the page for credentials, the redirect to an app's sign-in, and the return from there
    account_connection  connects an account with a token
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from pdkernel.server.link import connect_page, token_routes, tokens


def routes() -> list[BaseRoute]:
    """Return the routes of the package; handlers require the application of `create_app`."""
    return [
        *pages(),
        Route("/v1/connect/tokens/{token}/validate", token_routes.validate_token_route, methods=["GET"]),
        Route("/v1/connect/{project_id}/tokens/{token}/validate", token_routes.validate_token_route, methods=["GET"]),
        Route("/v1/connect/{project_id}/tokens", token_routes.create_token_route, methods=["POST"]),
    ]


def pages() -> list[BaseRoute]:
    """Return the routes of the pages only; `create_link_app` serves them too."""
    return [
        Route(tokens.PAGE_PATH, connect_page.show, methods=["GET"]),
        Route(tokens.PAGE_PATH, connect_page.submit, methods=["POST"]),
        Route(connect_page.CALLBACK_PATH, connect_page.handle_oauth_callback, methods=["GET"]),
    ]
