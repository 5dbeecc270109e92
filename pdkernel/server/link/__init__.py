"""
Connect Link: tokens, pages where a person connects an account, webhooks.

    tokens      made and looked up
    api         the two routes of the API
    wish        what a person comes for, as the link says it
    page        the page, for credentials or the way to an app's sign-in page
    callback    the way back from there
    choosing    apps that an account can be connected of
    connecting  one token, one account
    browser     that a form comes from a page of ours, and who comes back is who was sent away
    webhooks    what the product's back end is told
    html        the pages
    look        their style and their script
"""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from pdkernel.server.link import connect_page, oauth_callback, token_routes, tokens


def routes() -> list[BaseRoute]:
    """This room's routes; handlers find `Serving` in `request.app.state.context`."""
    return [
        *pages(),
        Route("/v1/connect/tokens/{token}/validate", token_routes.validate_token_route, methods=["GET"]),
        Route("/v1/connect/{project_id}/tokens/{token}/validate", token_routes.validate_token_route, methods=["GET"]),
        Route("/v1/connect/{project_id}/tokens", token_routes.create_token_route, methods=["POST"]),
    ]


def pages() -> list[BaseRoute]:
    """The pages alone; handlers find `Linking` in `request.app.state.context`."""
    return [
        Route(tokens.PAGE_PATH, connect_page.show, methods=["GET"]),
        Route(tokens.PAGE_PATH, connect_page.submit, methods=["POST"]),
        Route(connect_page.CALLBACK_PATH, oauth_callback.handle_oauth_callback, methods=["GET"]),
    ]
