"""
Connect's routes: users, accounts, apps, components, deployed triggers, the proxy.

    api_call                                authentication, parameters, errors
    cors                                    calls from web pages
    pagination                              pages of lists
    accounts                                external users and their accounts, also as JSON
    apps                                    apps, and the project
    components                              descriptions of components; runs of actions
    component_request                       configuration of a component in a request
    trigger_deployment, deployed_triggers   event sources that run for external users
    component_serializers                   components as JSON
    trigger_serializers                     deployed triggers as JSON
    proxy                                   requests to apps' APIs with an account
    routing                                 the table of routes
"""

from pdkernel.server.api.routing import routes, unsupported_routes

__all__ = ["routes", "unsupported_routes"]
