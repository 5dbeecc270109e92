"""
Connect's routes: users, accounts, apps, components, deployed triggers, the proxy.

    door          whose request it is; errors
    browsers      which web pages may call
    pages rates   lists in pages; the platform's rate limits, where they are switched on
    shapes        users, accounts and apps as JSON
    accounts users apps projects     routes of those names
    components actions               what components declare and answer; an action's run
    configured    what a caller gives a component
    triggers deployed trigger_shapes     event sources that run for external users
    emitting      running those, and what becomes of their events
    proxy         requests to apps' APIs with an account
    routing       which path is whose, and what is not served
"""

from pdkernel.server.api.routing import routes, unsupported_routes

__all__ = ["routes", "unsupported_routes"]
