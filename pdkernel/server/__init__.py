"""
The endpoint: Connect's API, workflow endpoints and Connect Link over HTTP.

    app                 the ASGI application
    app_context         objects that every handler receives
    middleware          Host check, endpoints with a host name of their own
    access_log          one line per request
    oauth               OAuth clients and access tokens
    api                 Connect's routes
    passthrough         Connect's routes with a real project: Pipedream's API answers them
    pipedream_tokens    checks tokens that Pipedream issued
    link                Connect Link: tokens, pages, webhooks
    endpoint            requests that start workflows
    trigger_runner      runs of deployed triggers
    uvicorn_server      sockets, TLS, start and stop
"""

from pdkernel.server.app import create_app
from pdkernel.server.app_context import AppContext, ServeSettings

__all__ = ["AppContext", "ServeSettings", "create_app"]
