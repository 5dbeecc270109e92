"""Connect Link: tokens, pages where a person connects an account, webhooks."""

from __future__ import annotations

from starlette.routing import BaseRoute


def routes() -> list[BaseRoute]:
    """This room's routes; handlers find `Serving` in `request.app.state.serving`."""
    return []
