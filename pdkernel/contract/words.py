"""
What a contract says: fields, who reads them, what cannot be known.

Plain values. Knows how a field's path is written; knows nothing of code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pdkernel.contract.values import ITEM, Place
from pdkernel.shape import node_path


@dataclass(frozen=True, slots=True, order=True)
class Reader:
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
        place: Below the event; a list's items are 0.
        required: Whether a step fails, or goes on with nothing, where it is missing.
        types: What steps take it for, as JSON Schema names types, or `numeric`: a number or a text that is one. Empty
            where the code does not tell.
        readers: Where it is read.
    """

    place: Place
    required: bool
    types: tuple[str, ...] = ()
    readers: tuple[Reader, ...] = ()

    @property
    def path(self) -> str:
        """`body.labels[].name`."""
        return path_of(self.place)


@dataclass(frozen=True, slots=True)
class Use:
    """An object of the event that is given on whole, or whose keys only a run knows; *readers* say where."""

    place: Place
    readers: tuple[Reader, ...] = ()

    @property
    def path(self) -> str:
        """`body`; the event itself is `event`."""
        return path_of(self.place) or "event"


@dataclass(frozen=True, slots=True)
class Expected:
    """What stands at a place, fields and what is around them alike; *needed* where what is around it is there."""

    needed: bool
    types: tuple[str, ...] = ()
    readers: tuple[Reader, ...] = ()


@dataclass(frozen=True)
class Contract:
    """
    Which fields an event must have, as far as the steps' code says it.

    Attributes:
        fields: In the order of their paths.
        whole: Objects that are given on as they are: sent, exported, logged.
        unknown: Places whose keys only a run knows, or that are handed to code that is not followed.
        places: Every place on the way to a field, by path.
        unread: Steps whose code cannot be read, or is no code that can be followed.
    """

    fields: tuple[Field, ...] = ()
    whole: tuple[Use, ...] = ()
    unknown: tuple[Use, ...] = ()
    places: Mapping[Place, Expected] = field(default_factory=dict)
    unread: tuple[Reader, ...] = ()

    @cached_property
    def children(self) -> Mapping[Place, tuple[Place, ...]]:
        """The places that stand directly below a place."""
        below: dict[Place, list[Place]] = {}
        for place in self.places:
            below.setdefault(place[:-1], []).append(place)
        return {place: tuple(found) for place, found in below.items()}

    @property
    def required(self) -> tuple[Field, ...]:
        """The fields that are required."""
        return tuple(each for each in self.fields if each.required)

    def readers_below(self, place: Place) -> tuple[Reader, ...]:
        """Who reads *place* or what is in it."""
        fields = {r for each in self.fields if each.place[: len(place)] == place for r in each.readers}
        whole = {r for each in self.whole if each.place[: len(place)] == place for r in each.readers}
        found = fields | whole
        return tuple(sorted(found, key=order_of)) or self.places[place].readers

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
            "whole": list(map(_use, self.whole)),
            "unknown": list(map(_use, self.unknown)),
            "unread": [reader.to_json() for reader in self.unread],
        }


def _use(use: Use) -> dict[str, Any]:
    return {"path": use.path, "readers": [reader.to_json() for reader in use.readers]}


def order_of(reader: Reader) -> tuple[int, str, str, int]:
    """Readers in the order of cells, then of lines."""
    return (reader.cell or 0, reader.step, reader.prop, reader.line or 0)


def path_of(place: Place) -> str:
    """`body.labels[].name`, `headers["user-agent"]`."""
    return "".join(_parts(place))


def _parts(place: Place) -> Iterator[str]:
    for index, segment in enumerate(place):
        if segment == ITEM:
            yield "[]"
        else:
            written = node_path((segment,))
            yield written if not index or written.startswith("[") else f".{written}"
