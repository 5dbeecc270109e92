"""
Example events for a contract, and the contract as JSON Schema.

Values come from saved events if these have the field. Otherwise the expected type determines the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from pdkernel.event import JSON_POST
from pdkernel.language.analysis.abstract_values import LIST_ITEM, FieldPath
from pdkernel.language.analysis.contract import Contract
from pdkernel.language.analysis.contract_check import check_event
from pdkernel.model import JSON

JSON_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def build_example_event(
    contract: Contract,
    saved_events: Sequence[Mapping[str, JSON]] = (),
    *,
    is_http: bool = True,
    only_required: bool = False,
) -> dict[str, JSON]:
    """
    Build an event with every required field.

    Args:
        contract: The contract of the workflow.
        saved_events: Masked data of saved events. Values come from the first event without violations. Optional fields
            come from saved events only.
        is_http: Whether the event is an HTTP request.
        only_required: True leaves out the optional fields.
    """
    sources: list[Any] = sorted(map(dict, saved_events), key=lambda event: len(check_event(contract, event)))
    contract = _required_of(contract) if only_required else contract
    made = _object(contract, (), sources)
    if isinstance(headers := made.get("headers"), dict) and "content-type" not in headers and is_http:
        made["headers"] = {"content-type": "application/json", **headers}
    return {**_request(contract, sources[0] if sources else {}), **made} if is_http else made


def _request(contract: Contract, saved: Mapping[str, Any]) -> dict[str, JSON]:
    """The method, path, query and headers of a request, from *saved* and the fields that steps read."""
    base: dict[str, JSON] = {key: saved.get(key, value) for key, value in JSON_POST.items()}
    headers = base["headers"] if isinstance(base["headers"], dict) else {}
    # of the other headers only the content type matters
    kept = {name: value for name, value in headers.items() if name.lower() == "content-type"}
    for key, written in (("query", {}), ("headers", kept)):
        base[key] = {**written, **_object(contract, (key,), [saved[key]] if key in saved else [])}
    return base


def build_example_body(
    contract: Contract, saved_events: Sequence[Mapping[str, JSON]] = (), *, only_required: bool = False
) -> JSON:
    """Build the body of the example event."""
    return build_example_event(contract, saved_events, only_required=only_required).get("body")


def _required_of(contract: Contract) -> Contract:
    """*contract* with its required fields only."""
    kept = {
        field.segments[:length] for field in contract.required_fields for length in range(1, len(field.segments) + 1)
    }
    needed = {place for place, expected in contract.expectations.items() if expected.is_required and len(place) == 1}
    return replace(
        contract, expectations={place: each for place, each in contract.expectations.items() if place in kept | needed}
    )


def _object(contract: Contract, place: FieldPath, sources: list[Any]) -> dict[str, JSON]:
    made: dict[str, JSON] = {}
    for child in contract.child_paths.get(place, ()):
        key = child[-1]
        if not isinstance(key, str):
            continue
        having = [source[key] for source in sources if isinstance(source, dict) and key in source]
        if having or contract.expectations[child].is_required:
            made[key] = _value(contract, child, having)
    return made


def _value(contract: Contract, place: FieldPath, sources: list[Any]) -> JSON:
    children = contract.child_paths.get(place, ())
    if not children:
        return sources[0] if sources else _invent_value(place, contract.expectations[place].types)
    if any(child[-1] == LIST_ITEM for child in children):
        items = [item for source in sources if isinstance(source, list) for item in source]
        return [_value(contract, (*place, LIST_ITEM), items)]
    if sources and not any(isinstance(source, dict) for source in sources):
        return sources[0] if "object" not in contract.expectations[place].types else _object(contract, place, [])
    return _object(contract, place, sources)


def _invent_value(place: FieldPath, types: tuple[str, ...]) -> JSON:
    kind = types[0] if types else "object" if place in {("body",), ("headers",), ("query",)} else "string"
    if kind in {"number", "numeric"}:
        return 1
    if kind == "boolean":
        return True
    if kind == "array":
        return []
    if kind == "object":
        return {}
    key = next((str(segment) for segment in reversed(place) if segment != LIST_ITEM), "value")
    if "email" in key.lower():
        return "ada@example.com"
    return "https://example.com" if key.lower().endswith(("url", "uri", "link")) else key


def build_contract_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema of events that satisfy *contract*."""
    return {"$schema": JSON_SCHEMA_DIALECT, **_schema(contract, (), ("object",))}


def _schema(contract: Contract, place: FieldPath, types: tuple[str, ...]) -> dict[str, Any]:
    names = [name for each in types for name in (("number", "string") if each == "numeric" else (each,))]
    made: dict[str, Any] = {"type": names[0] if len(names) == 1 else names} if names else {}
    children = contract.child_paths.get(place, ())
    properties = {
        str(child[-1]): _schema(contract, child, contract.expectations[child].types)
        for child in children
        if child[-1] != LIST_ITEM
    }
    if properties:
        made["properties"] = properties
        required = [
            str(child[-1]) for child in children if child[-1] != LIST_ITEM and contract.expectations[child].is_required
        ]
        if required:
            made["required"] = required
    item = (*place, LIST_ITEM)
    if item in contract.expectations:
        made["items"] = _schema(contract, item, contract.expectations[item].types)
        if contract.expectations[item].is_required:
            made["minItems"] = 1
    return made
