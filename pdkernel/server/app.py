"""
The application, as a value: no socket, no global.

Knows which rooms answer, and in which order they are asked. What they answer is theirs.
"""

from __future__ import annotations

from starlette.applications import Starlette

from pdkernel.server import api, endpoint, link, oauth
from pdkernel.server.serving import Serving


def create_app(serving: Serving) -> Starlette:
    """The application that serves *serving*; it opens and closes nothing."""
    app = Starlette(routes=[*oauth.routes(), *api.routes(), *link.routes(), *endpoint.routes()])
    app.state.serving = serving
    return app
