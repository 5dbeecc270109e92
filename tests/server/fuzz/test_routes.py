"""The description of the routes is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from pdkernel.server import create_app
from tests.server.fuzz.openapi import ANY, SCHEMAS, operations
from tests.server.served import served


@pytest.fixture
async def routes(tmp_path: Path) -> list[Route]:
    """Routes of a served project."""
    async with served(tmp_path) as site:
        return [route for route in create_app(site.context).routes if isinstance(route, Route)]


def _described(route: Route) -> set[tuple[str, str]]:
    path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
    methods = set(route.methods) - {"HEAD"} if route.methods else set(ANY)
    return {(method, path) for method in methods}


async def test_each_route_is_described(routes: list[Route]) -> None:
    """The description has the method and path of every route, and no other."""
    existing = set().union(*map(_described, routes))

    assert {(each.method, each.path) for each in operations()} == existing


async def test_a_missing_route_is_noticed(routes: list[Route]) -> None:
    """The comparison notices a route that is not in the description."""

    async def answer(_: Any) -> None: ...

    more = _described(Route("/v1/connect/{project_id}/news", answer, methods=["GET"]))

    assert not more <= {(each.method, each.path) for each in operations()}


def test_every_response_has_a_schema() -> None:
    """The schema of every response and every error exists."""
    names = {name for each in operations() for name in (each.answer, each.error) if name is not None}

    assert names - set(SCHEMAS) == set()
