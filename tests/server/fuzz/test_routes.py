"""The description of the routes is complete."""

from __future__ import annotations

import re

from starlette.routing import Route

from pdkernel.server import create_app
from tests.server.fuzz.openapi import ANY, operations
from tests.server.served import Served


def _described(route: Route) -> set[tuple[str, str]]:
    path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
    methods = set(route.methods) - {"HEAD"} if route.methods else set(ANY)
    return {(method, path) for method in methods}


async def test_each_route_is_described(site: Served) -> None:
    """The description has the method and path of every route, and no other."""
    routes = [route for route in create_app(site.context).routes if isinstance(route, Route)]

    assert {(each.method, each.path) for each in operations()} == set().union(*map(_described, routes))
