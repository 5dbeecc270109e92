"""
Connect's routes: users, accounts, apps, components, deployed triggers, the proxy.

    api_call           authentication, parameters, pages of lists, errors, calls from web pages
    accounts           external users and their accounts, also as JSON
    apps               apps, and the project
    components         descriptions of components, configuration of a component in a request, runs of actions
    deployed_triggers  event sources that run for external users
    proxy                  requests to apps' APIs with an account
    routing                the table of routes
"""

from pdkernel.server.api.routing import routes, unsupported_routes

__all__ = ["routes", "unsupported_routes"]
