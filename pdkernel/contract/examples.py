"""
An event that keeps a contract, and the contract as JSON Schema.

Values come from saved events where these have them; others are made up from what the steps take them for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pdkernel.contract.checking import check
from pdkernel.contract.values import ITEM, Place
from pdkernel.contract.words import Contract
from pdkernel.model import JSON

SCHEMA = "https://json-schema.org/draft/2020-12/schema"
_REQUEST: Mapping[str, JSON] = {
    "method": "POST",
    "path": "/",
    "query": {},
    "headers": {"content-type": "application/json"},
}


def example(
    contract: Contract, saved: Sequence[Mapping[str, JSON]] = (), *, http: bool = True, required: bool = False
) -> dict[str, JSON]:
    """
    An event with every field that is required.

    Args:
        contract: What steps read.
        saved: Data of saved events, masked; fields that they have are taken from the first that has no fault, and those
            that are not required only from them.
        http: Whether it is a request.
        required: True for nothing but what is required.
    """
    sources: list[Any] = sorted(map(dict, saved), key=lambda event: len(check(contract, event)))
    contract = _required_of(contract) if required else contract
    made = _object(contract, (), sources)
    if isinstance(headers := made.get("headers"), dict) and "content-type" not in headers and http:
        made["headers"] = {"content-type": "application/json", **headers}
    return {**_request(contract, sources[0] if sources else {}), **made} if http else made


def _request(contract: Contract, saved: Mapping[str, Any]) -> dict[str, JSON]:
    """A request's line and headers, as *saved* has them, with what is read of each where it is there at all."""
    base: dict[str, JSON] = {key: saved.get(key, value) for key, value in _REQUEST.items()}
    headers = base["headers"] if isinstance(base["headers"], dict) else {}
    # of other headers only what says how the body is written
    kept = {name: value for name, value in headers.items() if name.lower() == "content-type"}
    for key, written in (("query", {}), ("headers", kept)):
        base[key] = {**written, **_object(contract, (key,), [saved[key]] if key in saved else [])}
    return base


def example_body(contract: Contract, saved: Sequence[Mapping[str, JSON]] = (), *, required: bool = False) -> JSON:
    """The body of the example."""
    return example(contract, saved, required=required).get("body")


def _required_of(contract: Contract) -> Contract:
    """*contract* without what is not required."""
    kept = {field.place[:length] for field in contract.required for length in range(1, len(field.place) + 1)}
    needed = {place for place, expected in contract.places.items() if expected.needed and len(place) == 1}
    return replace(contract, places={place: each for place, each in contract.places.items() if place in kept | needed})


def _object(contract: Contract, place: Place, sources: list[Any]) -> dict[str, JSON]:
    made: dict[str, JSON] = {}
    for child in contract.children.get(place, ()):
        key = child[-1]
        if not isinstance(key, str):
            continue
        having = [source[key] for source in sources if isinstance(source, dict) and key in source]
        if having or contract.places[child].needed:
            made[key] = _value(contract, child, having)
    return made


def _value(contract: Contract, place: Place, sources: list[Any]) -> JSON:
    children = contract.children.get(place, ())
    if not children:
        return sources[0] if sources else _made_up(place, contract.places[place].types)
    if any(child[-1] == ITEM for child in children):
        items = [item for source in sources if isinstance(source, list) for item in source]
        return [_value(contract, (*place, ITEM), items)]
    if sources and not any(isinstance(source, dict) for source in sources):
        return sources[0] if "object" not in contract.places[place].types else _object(contract, place, [])
    return _object(contract, place, sources)


def _made_up(place: Place, types: tuple[str, ...]) -> JSON:
    kind = types[0] if types else "object" if place in {("body",), ("headers",), ("query",)} else "string"
    if kind in {"number", "numeric"}:
        return 1
    if kind == "boolean":
        return True
    if kind == "array":
        return []
    if kind == "object":
        return {}
    key = next((str(segment) for segment in reversed(place) if segment != ITEM), "value")
    if "email" in key.lower():
        return "ada@example.com"
    return "https://example.com" if key.lower().endswith(("url", "uri", "link")) else key


def contract_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema of the events that keep *contract*."""
    return {"$schema": SCHEMA, **_schema(contract, (), ("object",))}


def _schema(contract: Contract, place: Place, types: tuple[str, ...]) -> dict[str, Any]:
    names = [name for each in types for name in (("number", "string") if each == "numeric" else (each,))]
    made: dict[str, Any] = {"type": names[0] if len(names) == 1 else names} if names else {}
    children = contract.children.get(place, ())
    properties = {
        str(child[-1]): _schema(contract, child, contract.places[child].types)
        for child in children
        if child[-1] != ITEM
    }
    if properties:
        made["properties"] = properties
        required = [str(child[-1]) for child in children if child[-1] != ITEM and contract.places[child].needed]
        if required:
            made["required"] = required
    item = (*place, ITEM)
    if item in contract.places:
        made["items"] = _schema(contract, item, contract.places[item].types)
        if contract.places[item].needed:
            made["minItems"] = 1
    return made
