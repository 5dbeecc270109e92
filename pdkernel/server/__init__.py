"""
The endpoint: Connect's API, workflow endpoints and Connect Link over HTTP.

    serving    what every handler is given
    app        the application, as a value
    oauth      clients and their tokens
    api        Connect's routes
    passthrough pipedreams_tokens     with a real project: its API answers Connect's routes; its tokens open endpoints
    link       Connect Link: tokens, pages, webhooks
    endpoint   requests that start workflows
"""

from pdkernel.server.app import create_app
from pdkernel.server.app_context import AppContext, ServeSettings

__all__ = ["AppContext", "ServeSettings", "create_app"]
