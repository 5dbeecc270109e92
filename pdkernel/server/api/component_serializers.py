"""JSON form of components and props in the API. Dynamic options are marked with `remoteOptions`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pdkernel.actions import Component
from pdkernel.model import AppBinding
from pdkernel.workers import ComponentDescription, PropDeclaration

_DYNAMIC = "dynamic"
API_COMPONENT_TYPES = {"action": "action", "source": "trigger"}
"""The API's name of each kind."""


def serialize_component(component: Component, description: ComponentDescription | None) -> dict[str, Any]:
    """Serialize a component; without *description* (module not loaded yet), the list of props is empty."""
    return {
        "key": component.key,
        "name": component.name,
        "version": component.version,
        "description": component.description,
        "component_type": API_COMPONENT_TYPES[component.kind],
        "configurable_props": serialize_props(description) if description is not None else [],
    }


def serialize_props(
    description: ComponentDescription, dynamic_props: Iterable[PropDeclaration] = ()
) -> list[dict[str, Any]]:
    """Serialize all props, apps first; *dynamic_props* are added or replace props with the same name."""
    props = {prop.name: prop for prop in description.props} | {prop.name: prop for prop in dynamic_props}
    return [*map(_app_prop, description.apps), *map(_prop, props.values())]


def _app_prop(binding: AppBinding) -> dict[str, Any]:
    return {"name": binding.prop, "type": "app", "app": binding.app}


def _prop(prop: PropDeclaration) -> dict[str, Any]:
    definition = {name: value for name, value in prop.definition.items() if name != _DYNAMIC}
    shown: dict[str, Any] = {"name": prop.name, **definition, "type": prop.type}
    if prop.definition.get(_DYNAMIC):
        shown["remoteOptions"] = True
    if prop.optional:
        shown["optional"] = True
    return shown
