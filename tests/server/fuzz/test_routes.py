"""The description of the routes is whole: whoever adds a route is told to describe it."""

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
    """Those of a project that is served."""
    async with served(tmp_path) as site:
        return [route for route in create_app(site.context).routes if isinstance(route, Route)]


def _described(route: Route) -> set[tuple[str, str]]:
    path = re.sub(r"{(\w+):\w+}", r"{\1}", route.path)
    methods = set(route.methods) - {"HEAD"} if route.methods else set(ANY)
    return {(method, path) for method in methods}


async def test_each_route_is_described(routes: list[Route]) -> None:
    """Method and path of every route stand in the description, and nothing else does."""
    there = set().union(*map(_described, routes))

    assert {(each.method, each.path) for each in operations()} == there


async def test_a_route_that_is_not_described(routes: list[Route]) -> None:
    """The comparison finds one: a route more is no part of the description."""

    async def answer(_: Any) -> None: ...

    more = _described(Route("/v1/connect/{project_id}/news", answer, methods=["GET"]))

    assert not more <= {(each.method, each.path) for each in operations()}


def test_schemas_are_named() -> None:
    """Every answer and every refusal has a schema."""
    names = {name for each in operations() for name in (each.answer, each.error) if name is not None}

    assert names - set(SCHEMAS) == set()
