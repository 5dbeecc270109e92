"""
Components, actions and triggers: which there are, what they declare, what a prop may be, which props they add.

Knows the routes' shapes. What a component answers is its own work, done by the engine's forms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pdkernel.actions import Component, Uses
from pdkernel.actions.component import KINDS, Kind
from pdkernel.errors import StepError
from pdkernel.hosts import Description
from pdkernel.model import JSON
from pdkernel.server.api.component_shapes import TYPES, component_json, props_json
from pdkernel.server.api.configured import find_component, read_configured
from pdkernel.server.api.door import ApiError, Call, Handler, said
from pdkernel.server.api.pages import Page

T = TypeVar("T")

_NAMES: dict[Kind, str] = {"action": "actions", "source": "triggers"}

_REGISTRIES = ("public", "private", "all")
_ALL = 100_000


def scopes(kind: Kind | None, act: str) -> tuple[str, ...]:
    """What a token must be good for, one of them, to do *act* with components of *kind*, or of any."""
    return tuple(f"connect:{name}:{act}" for each, name in _NAMES.items() if kind in (None, each))


def listing(kind: Kind | None) -> Handler:
    """`GET .../{components,actions,triggers}`."""

    async def list_components(call: Call) -> JSON:
        wanted = _kinds(call, kind)
        if kind is None:  # those that its own route would list
            wanted = tuple(each for each in wanted if call.may(*scopes(each, "list")))
        if call.query("registry") not in (None, *_REGISTRIES):
            raise ApiError(400, f"registry is one of {', '.join(_REGISTRIES)}.")
        catalog = call.serving.runtime.catalog
        found: list[Component] = []
        if call.query("registry") != "private":  # a workspace's own components are Pipedream's alone
            for each in wanted:
                found += await catalog.search(call.query("q") or "", app=call.query("app"), kind=each, most=_ALL)
        page = Page(call, found, lambda component: component.key)
        return page.answer([component_json(each, await _known(call, each)) for each in page.items])

    return list_components


def retrieving(kind: Kind | None) -> Handler:
    """`GET .../{components,actions,triggers}/{key}`."""

    async def retrieve(call: Call) -> JSON:
        uses, found = await find_component(call, call.path("key"), call.query("version"), kind)
        call.check_scope(*scopes(found.kind, "retrieve"))
        component, description = await call.serving.runtime.forms.describe(uses)
        return {"data": component_json(component, description)}

    return retrieve


def configuring(kind: Kind | None) -> Handler:
    """`POST .../configure`: a page of what a prop may be."""

    async def configure(call: Call) -> JSON:
        body = await call.body()
        configured = await read_configured(call, body, kind, whole=False)
        call.check_scope(*scopes(configured.component.kind, "configure"))
        prop, page, query = body.get("prop_name"), body.get("page", 0), body.get("query")
        if not isinstance(prop, str):
            raise ApiError(400, "prop_name is missing: which prop is asked about.")
        if prop not in {each.name for each in configured.description.props} and not configured.description.additional:
            raise ApiError(400, f"{configured.component.uses} has no prop {prop[:80]!r} with options.")
        # Python's SDK calls it a float, and writes 1.0
        if (
            not isinstance(page or 0, int | float)
            or (page or 0) % 1
            or (query is not None and not isinstance(query, str))
        ):
            raise ApiError(400, "page is a number, and query a text.")
        ask = call.serving.runtime.forms.options
        found, errors = await _asked(
            lambda: ask(
                configured.form(call), prop, page=int(page or 0), context=body.get("prev_context") or None, query=query
            )
        )
        if found is None:
            return {"options": [], "stringOptions": None, "observations": [], "context": None, "errors": errors}
        return {
            "options": [{"label": option.label, "value": option.value} for option in found.options],
            "stringOptions": None,
            "observations": [],
            "context": found.context if isinstance(found.context, dict) else None,
            "errors": [found.why] if found.why else [],
        }

    return configure


def reloading(kind: Kind | None) -> Handler:
    """`POST .../props`: the props for the values so far."""

    async def reload(call: Call) -> JSON:
        configured = await read_configured(call, await call.body(), kind, whole=False)
        call.check_scope(*scopes(configured.component.kind, "props"))
        added, errors = await _asked(lambda: call.serving.runtime.forms.additional(configured.form(call)))
        props = props_json(configured.description, added or ())
        # which props a component adds is asked again when it runs: the id says only which they were
        mark = hashlib.sha256(json.dumps([configured.component.uses, props], sort_keys=True).encode()).hexdigest()
        return {
            "observations": [],
            "errors": errors,
            "dynamicProps": {"id": f"dyp_{mark[:7]}", "configurableProps": props},
        }

    return reload


async def _asked(ask: Callable[[], Awaitable[T]]) -> tuple[T | None, list[str]]:
    """What a component answers, or why it does not."""
    try:
        return await ask(), []
    except StepError as fault:
        return None, [said(fault)]


async def _known(call: Call, component: Component) -> Description | None:
    """What *component* declares, where it is here; one that cannot be loaded declares nothing."""
    if component.file is None:
        return None
    try:
        _, description = await call.serving.runtime.forms.describe(Uses(component.key, component.version))
    except StepError:
        return None
    return description


def _kinds(call: Call, kind: Kind | None) -> tuple[Kind, ...]:
    asked = call.query("component_type")
    if kind is not None:
        return (kind,)
    if asked is None:
        return KINDS
    found: Any = tuple(each for each, name in TYPES.items() if asked in (each, name))
    if not found:
        raise ApiError(400, "component_type is action or trigger.")
    return tuple(found)
