"""The data classes of a contract: the event fields that steps read, their readers, and paths with unknown keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pdkernel.analysis.abstract_values import LIST_ITEM, FieldPath
from pdkernel.encode import JsonStruct
from pdkernel.shape import format_node_path


class FieldReader(JsonStruct, frozen=True):
    """
    The place in a step that reads a field.

    Attributes:
        step: The name of the step.
        cell: The number of its cell, from 1; None for a synced folder.
        line: The line of the cell, or of the folder's entry file; None for a prop on the directive line.
        prop: The prop whose `{{ }}` reads it; None for code.
        file: For a synced folder, the file that contains the prop; None for code.
    """

    step: str
    cell: int | None = None
    line: int | None = None
    prop: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        where = [self.file] if self.file else []
        where += [f"prop {self.prop}"] if self.prop else []
        where += [f"line {self.line}"] if self.line is not None else []
        return f"{self.step} ({', '.join(where)})" if where else self.step


@dataclass(frozen=True, slots=True)
class Field:
    """
    A field that steps read.

    Attributes:
        segments: The path below the event; an item of a list is 0.
        required: Whether a step fails without the field, or continues with an undefined value.
        types: The types that steps expect, as JSON Schema names, or `numeric`: a number or a numeric text. Empty if the code
            does not show a type.
        readers: The places that read the field.
    """

    segments: FieldPath
    required: bool
    types: tuple[str, ...] = ()
    readers: tuple[FieldReader, ...] = ()

    @property
    def path(self) -> str:
        """The path as text: `body.labels[].name`."""
        return format_path(self.segments)


@dataclass(frozen=True, slots=True)
class ObjectUse:
    """An object of the event that *readers* pass on as a whole, or read with computed keys."""

    segments: FieldPath
    readers: tuple[FieldReader, ...] = ()

    @property
    def path(self) -> str:
        """The path as text: `body`, or `event` for the event itself."""
        return format_path(self.segments) or "event"


@dataclass(frozen=True, slots=True)
class PathExpectation:
    """The expected value at a path of a field or its container; *is_required* applies if the container is present."""

    is_required: bool
    types: tuple[str, ...] = ()
    readers: tuple[FieldReader, ...] = ()


class Contract(JsonStruct, frozen=True, dict=True):
    """
    The fields that an event must have, as far as the code of the steps shows.

    Attributes:
        fields: The fields, in the order of their paths.
        passed_on: Objects that steps pass on as a whole: send, export or log.
        dynamic: Paths that steps read with computed keys, or pass to code that is not followed.
        expectations: The fields and their containers, by path.
        unparsed_steps: Steps with code that cannot be parsed, or in a language that is not followed.
    """

    fields: tuple[Field, ...] = ()
    passed_on: tuple[ObjectUse, ...] = ()
    dynamic: tuple[ObjectUse, ...] = ()
    expectations: Mapping[FieldPath, PathExpectation] = {}
    unparsed_steps: tuple[FieldReader, ...] = ()

    @cached_property
    def child_paths(self) -> Mapping[FieldPath, tuple[FieldPath, ...]]:
        """The expected paths directly below each path."""
        below: dict[FieldPath, list[FieldPath]] = {}
        for place in self.expectations:
            below.setdefault(place[:-1], []).append(place)
        return {place: tuple(found) for place, found in below.items()}

    @property
    def required_fields(self) -> tuple[Field, ...]:
        """The fields that are required."""
        return tuple(each for each in self.fields if each.required)

    def readers_below(self, path: FieldPath) -> tuple[FieldReader, ...]:
        """The readers of *path* and of the paths below it."""
        fields = {r for each in self.fields if each.segments[: len(path)] == path for r in each.readers}
        whole = {r for each in self.passed_on if each.segments[: len(path)] == path for r in each.readers}
        found = fields | whole
        return tuple(sorted(found, key=reader_sort_key)) or self.expectations[path].readers

    def json_form(self) -> object:
        """`{"fields", "whole", "unknown", "unread"}`; paths are texts."""
        return {
            "fields": [
                {"path": each.path, "required": each.required, "types": each.types, "readers": each.readers}
                for each in self.fields
            ],
            "whole": [{"path": use.path, "readers": use.readers} for use in self.passed_on],
            "unknown": [{"path": use.path, "readers": use.readers} for use in self.dynamic],
            "unread": self.unparsed_steps,
        }


def reader_sort_key(reader: FieldReader) -> tuple[int, str, str, int]:
    """The sort key of readers: by cell, then by line."""
    return (reader.cell or 0, reader.step, reader.prop or "", reader.line or 0)


def format_path(path: FieldPath) -> str:
    """*path* as text: `body.labels[].name`, `headers["user-agent"]`."""
    return "".join(_parts(path))


def _parts(place: FieldPath) -> Iterator[str]:
    for index, segment in enumerate(place):
        if segment == LIST_ITEM:
            yield "[]"
        else:
            written = format_node_path((segment,))
            yield written if not index or written.startswith("[") else f".{written}"
