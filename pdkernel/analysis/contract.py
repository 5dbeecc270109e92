"""
What a contract says: fields, who reads them, what cannot be known.

Plain values. Knows how a field's path is written; knows nothing of code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pdkernel.analysis.abstract_values import LIST_ITEM, FieldPath
from pdkernel.shape import format_node_path


@dataclass(frozen=True, slots=True, order=True)
class FieldReader:
    """
    Where a step reads a field.

    Attributes:
        step: The step.
        cell: The number of its cell, the first being 1; None for a folder.
        line: Of the cell, or of the folder's entry file; None for a prop on the directive.
        prop: The prop whose `{{ }}` reads it; empty for code.
        file: For a folder, the file that holds the prop; empty for code.
    """

    step: str
    cell: int | None = None
    line: int | None = None
    prop: str = ""
    file: str = ""

    def __str__(self) -> str:
        where = [f"cell {self.cell}"] if self.cell is not None else []
        where += [self.file] if self.file else []
        where += [f"prop {self.prop}"] if self.prop else []
        where += [f"line {self.line}"] if self.line is not None else []
        return f"{self.step} ({', '.join(where)})" if where else self.step

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "step": self.step,
            "cell": self.cell,
            "line": self.line,
            "prop": self.prop or None,
            "file": self.file or None,
        }


@dataclass(frozen=True, slots=True)
class Field:
    """
    A field that steps read.

    Attributes:
        segments: Below the event; a list's items are 0.
        required: Whether a step fails, or goes on with nothing, where it is missing.
        types: What steps take it for, as JSON Schema names types, or `numeric`: a number or a text that is one. Empty
            where the code does not tell.
        readers: Where it is read.
    """

    segments: FieldPath
    required: bool
    types: tuple[str, ...] = ()
    readers: tuple[FieldReader, ...] = ()

    @property
    def path(self) -> str:
        """`body.labels[].name`."""
        return format_path(self.segments)


@dataclass(frozen=True, slots=True)
class ObjectUse:
    """An object of the event that is given on whole, or whose keys only a run knows; *readers* say where."""

    segments: FieldPath
    readers: tuple[FieldReader, ...] = ()

    @property
    def path(self) -> str:
        """`body`; the event itself is `event`."""
        return format_path(self.segments) or "event"


@dataclass(frozen=True, slots=True)
class PathExpectation:
    """What stands at a place, fields and what is around them alike; *is_required* where what is around it is there."""

    is_required: bool
    types: tuple[str, ...] = ()
    readers: tuple[FieldReader, ...] = ()


@dataclass(frozen=True)
class Contract:
    """
    Which fields an event must have, as far as the steps' code says it.

    Attributes:
        fields: In the order of their paths.
        passed_on: Objects that are given on as they are: sent, exported, logged.
        dynamic: Places whose keys only a run knows, or that are handed to code that is not followed.
        expectations: Every place on the way to a field, by path.
        unparsed_steps: Steps whose code cannot be read, or is no code that can be followed.
    """

    fields: tuple[Field, ...] = ()
    passed_on: tuple[ObjectUse, ...] = ()
    dynamic: tuple[ObjectUse, ...] = ()
    expectations: Mapping[FieldPath, PathExpectation] = field(default_factory=dict)
    unparsed_steps: tuple[FieldReader, ...] = ()

    @cached_property
    def child_paths(self) -> Mapping[FieldPath, tuple[FieldPath, ...]]:
        """The places that stand directly below a place."""
        below: dict[FieldPath, list[FieldPath]] = {}
        for place in self.expectations:
            below.setdefault(place[:-1], []).append(place)
        return {place: tuple(found) for place, found in below.items()}

    @property
    def required_fields(self) -> tuple[Field, ...]:
        """The fields that are required."""
        return tuple(each for each in self.fields if each.required)

    def readers_below(self, path: FieldPath) -> tuple[FieldReader, ...]:
        """Who reads *path* or what is in it."""
        fields = {r for each in self.fields if each.segments[: len(path)] == path for r in each.readers}
        whole = {r for each in self.passed_on if each.segments[: len(path)] == path for r in each.readers}
        found = fields | whole
        return tuple(sorted(found, key=reader_sort_key)) or self.expectations[path].readers

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "fields": [
                {
                    "path": each.path,
                    "required": each.required,
                    "types": list(each.types),
                    "readers": [reader.to_json() for reader in each.readers],
                }
                for each in self.fields
            ],
            "whole": list(map(_use, self.passed_on)),
            "unknown": list(map(_use, self.dynamic)),
            "unread": [reader.to_json() for reader in self.unparsed_steps],
        }


def _use(use: ObjectUse) -> dict[str, Any]:
    return {"path": use.path, "readers": [reader.to_json() for reader in use.readers]}


def reader_sort_key(reader: FieldReader) -> tuple[int, str, str, int]:
    """Readers in the order of cells, then of lines."""
    return (reader.cell or 0, reader.step, reader.prop, reader.line or 0)


def format_path(path: FieldPath) -> str:
    """`body.labels[].name`, `headers["user-agent"]`."""
    return "".join(_parts(path))


def _parts(place: FieldPath) -> Iterator[str]:
    for index, segment in enumerate(place):
        if segment == LIST_ITEM:
            yield "[]"
        else:
            written = format_node_path((segment,))
            yield written if not index or written.startswith("[") else f".{written}"
