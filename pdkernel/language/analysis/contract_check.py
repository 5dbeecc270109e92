"""
The check of an event against a contract: missing fields and fields of another type.

Fields that no step reads are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pdkernel.common.encode import JsonStruct
from pdkernel.language.analysis.abstract_values import LIST_ITEM, FieldPath
from pdkernel.language.analysis.contract import Contract, format_path
from pdkernel.language.analysis.step_reads import FieldReader
from pdkernel.language.shape.inference import get_type_name
from pdkernel.model import JSON


class ContractViolation(JsonStruct, frozen=True):
    """
    A violation of a contract by an event.

    Attributes:
        kind: `missing`, or `type`: the value has another type than the steps expect.
        segments: The path below the event.
        expected_types: The types that the steps expect.
        actual_type: The type of the value; empty if the value is missing.
        readers: The readers of the path and of the paths below it.
    """

    kind: Literal["missing", "type"]
    segments: FieldPath
    expected_types: tuple[str, ...]
    actual_type: str
    readers: tuple[FieldReader, ...]

    @property
    def path(self) -> str:
        """The path as text: `body.labels[].name`."""
        return format_path(self.segments)

    def json_form(self) -> object:
        """`{"kind", "path", "expected", "found", "readers"}`."""
        return {
            "kind": self.kind,
            "path": self.path,
            "expected": self.expected_types,
            "found": self.actual_type or None,
            "readers": self.readers,
        }


def check_event(contract: Contract, event: Mapping[str, JSON]) -> tuple[ContractViolation, ...]:
    """The violations of *contract* by *event*, the data of an event; each path once."""
    found: dict[tuple[str, FieldPath], ContractViolation] = {}
    for finding in _check_children(contract, (), dict(event)):
        found.setdefault((finding.kind, finding.segments), finding)
    return tuple(found.values())


def _check_children(contract: Contract, place: FieldPath, value: JSON) -> Iterator[ContractViolation]:
    for child in contract.child_paths.get(place, ()):
        expected = contract.expectations[child]
        key = child[-1]
        if key == LIST_ITEM and isinstance(value, list):
            for item in value:
                yield from _check_value(contract, child, item)
            if not value and expected.is_required:
                yield _finding(contract, "missing", child, "")
        elif isinstance(key, str) and isinstance(value, dict):
            if key in value:
                yield from _check_value(contract, child, value[key])
            elif expected.is_required:
                yield _finding(contract, "missing", child, "")


def _check_value(contract: Contract, place: FieldPath, value: JSON) -> Iterator[ContractViolation]:
    expected = contract.expectations[place]
    if value is None:
        if expected.is_required and expected.types and place[-1] != LIST_ITEM:
            yield _finding(contract, "type", place, "null")
        return
    if expected.types and not any(is_of_type(value, name) for name in expected.types):
        yield _finding(contract, "type", place, get_type_name(value))
        return
    yield from _check_children(contract, place, value)


def is_of_type(value: JSON, expected_type: str) -> bool:
    """Whether *value* has the type *expected_type*."""
    kind = get_type_name(value)
    if expected_type == "numeric":
        return kind in {"integer", "number"} or (isinstance(value, str) and _is_numeric(value))
    return kind == expected_type or (expected_type == "number" and kind == "integer")


def _is_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _finding(contract: Contract, kind: Literal["missing", "type"], place: FieldPath, found: str) -> ContractViolation:
    return ContractViolation(kind, place, contract.expectations[place].types, found, contract.readers_below(place))
