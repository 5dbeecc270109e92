"""
The HTTP server: Connect's API, workflow endpoints and Connect Link.

    app                 the ASGI application
    app_context         the served project and its settings
    app_state           what handlers read from the application
    middleware          Host check, endpoints with a host name of their own
    access_log          one line per request
    authorization       bearer tokens and their scopes
    oauth               OAuth clients: their tokens
    api                 Connect's routes
    passthrough         Connect's routes with a real project: Pipedream's API answers them
    pipedream_tokens    tokens that Pipedream issued
    link                Connect Link: tokens, pages
    forms               fields of forms, protection against cross-site request forgery
    console             pages that show and steer runs
    run_pages           URLs that resume or cancel a run, health checks
    endpoint            requests that start workflows
    run_registry        runs in progress
    batches             ticks of schedules that run a workflow for each external user
    workflow_triggers   triggers of the served workflows
    trigger_runner      runs of deployed triggers
    trigger_events      hands stored events of triggers over to workflows and webhooks
    webhooks            signed requests to webhooks of the product
    uploads             files and large bodies of requests
    rate_limits         the platform's rate limits
    uvicorn_server      sockets, TLS, start and stop
"""

from pdkernel.server.app import create_app
from pdkernel.server.app_context import AppContext, ServeSettings

__all__ = ["AppContext", "ServeSettings", "create_app"]
