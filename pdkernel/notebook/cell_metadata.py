"""
What a cell's text cannot show of a step, kept under `pdkernel` in the cell's metadata, both ways.

Knows that Jupyter has one kind of line end, and that what a person has written in the cell counts. Knows no files.

    notes     the step's note, shown in a Markdown cell of its own
    extra     `Step.extra`: keys that only the platform understands, and what writing a definition needs
    source    the code, where the cell shows it without a byte order mark or with other line ends
    stores    data stores whose prop cannot stand on a magic's line
    props     values that cannot stand in a cell, with the order of all
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pdkernel.directive import format_step_cell, parse_step_cell
from pdkernel.errors import DefinitionError
from pdkernel.model import JSON, Step, StoreBinding

_BYTE_ORDER_MARK = "\ufeff"
_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def encode_mapping(value: Mapping[str, JSON]) -> JSON:
    """*value* for metadata: as JSON text if its keys are not in alphabetical order, in which Jupyter saves them."""
    text = json.dumps(value, ensure_ascii=False)
    return dict(value) if text == json.dumps(value, ensure_ascii=False, sort_keys=True) else text


def decode_mapping(kept: object) -> dict[str, JSON] | None:
    """The mapping that `packed` was given; None if *kept* is none."""
    if isinstance(kept, str):
        try:
            kept = json.loads(kept)
        except ValueError:
            return None
    return kept if isinstance(kept, dict) else None


def normalize_source(source: str) -> str:
    """*source* as a cell shows it: without a byte order mark, with Jupyter's line ends."""
    return source.removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


def restore_source(body: str, stored_source: object) -> str:
    """
    The code that a cell stands for.

    Args:
        body: The cell's text below its magic.
        stored_source: What the metadata keeps of the code, if anything.

    Returns:
        *stored_source* as long as the cell shows it; else the text, each line that was there before as it was.
    """
    if not isinstance(stored_source, str) or not stored_source:
        return body
    if normalize_source(stored_source) == body:
        return stored_source
    before = _LINES.findall(stored_source.removeprefix(_BYTE_ORDER_MARK))
    known = [normalize_source(line) for line in before]
    now = _LINES.findall(body)
    end = "\r\n" if sum(line.endswith("\r\n") for line in before) * 2 > len(before) else "\n"
    made: list[str] = []
    matcher = difflib.SequenceMatcher(None, known, now, autojunk=False)
    for kind, start, stop, first, last in matcher.get_opcodes():
        made += before[start:stop] if kind == "equal" else (line.replace("\n", end) for line in now[first:last])
    return (_BYTE_ORDER_MARK if stored_source.startswith(_BYTE_ORDER_MARK) else "") + "".join(made)


def build_step_cell(step: Step) -> tuple[str, dict[str, JSON]]:
    """
    The text of *step*'s cell, and what its metadata must keep so that `step_of` gives *step* again.

    The step's apps are in neither: `pdkernel.yaml` says whose account fills them.
    """
    hidden: dict[str, Any] = {}
    if step.notes is not None:
        hidden["notes"] = step.notes
    if step.extra:
        hidden["extra"] = encode_mapping(step.extra)
    source = normalize_source(step.source)
    if source != step.source:
        hidden["source"] = step.source
    shown = replace(step, source=source, apps=())
    odd = [
        store
        for store in step.stores
        if _format_exact_cell(replace(shown, source="", props={}, stores=(store,))) is None
    ]
    if odd or {store.prop for store in step.stores} & step.props.keys():
        hidden["stores"] = [[store.prop, store.store] for store in step.stores]
        shown = replace(shown, stores=())
    text = _format_exact_cell(shown)
    if text is None:
        props = {name: value for name, value in step.props.items() if not _can_stand(shown, name)}
        hidden["props"] = encode_stored_values(props, step.props)
        shown = replace(shown, props={name: value for name, value in step.props.items() if name not in props})
        text = _format_exact_cell(shown)
    if text is None:  # values that read well alone and not together
        hidden["props"] = encode_stored_values(step.props, step.props)
        text = format_step_cell(replace(shown, props={}))
    return text, hidden


def _can_stand(step: Step, name: str) -> bool:
    return _format_exact_cell(replace(step, source="", props={name: step.props[name]})) is not None


def _format_exact_cell(step: Step) -> str | None:
    """The cell of *step*, or None if it does not read back as *step*."""
    try:
        text = format_step_cell(step)
        if not _is_doubtful(step):
            return text
        back = parse_step_cell(text).step
    except DefinitionError:
        return None
    same = back.props == step.props and list(back.props) == list(step.props)
    return text if same and back.stores == step.stores else None


def _is_doubtful(step: Step) -> bool:
    """Whether the cell may read back otherwise: a `{{` that is no expression, an odd name. Reading takes long."""
    names = (*step.props, *(store.prop for store in step.stores))
    if not all(name.isidentifier() and name.isascii() for name in names):
        return True
    return any(store.store is not None and not store.store.strip() for store in step.stores) or any(
        _holds_braces(value) for value in step.props.values()
    )


def _holds_braces(value: JSON) -> bool:
    if isinstance(value, dict):
        return any("{{" in key or _holds_braces(item) for key, item in value.items())
    if isinstance(value, list):
        return any(_holds_braces(item) for item in value)
    return isinstance(value, str) and "{{" in value


def restore_step(step: Step, metadata: Mapping[str, Any], *, note: str | None = None) -> Step:
    """
    *step*, as its cell was read, with what the metadata keeps.

    Args:
        step: What the cell's text says.
        metadata: What the metadata says under `pdkernel`.
        note: The text of the Markdown cell that shows its note, if there is one: it counts.
    """
    notes = metadata.get("notes")
    return replace(
        step,
        notes=note if note is not None else notes if isinstance(notes, str) else None,
        extra=decode_mapping(metadata.get("extra")) or {},
        source="" if step.uses else restore_source(step.source, metadata.get("source")),
        props=merge_stored_values(step.props, metadata.get("props")),
        stores=_stores(step, metadata.get("stores")),
    )


def encode_stored_values(values: Mapping[str, JSON], order: Iterable[str]) -> JSON:
    """For metadata, the values of *values*, which a cell cannot show, and the *order* that they have among the others."""
    return {"values": encode_mapping(values), "order": list(order)}


def merge_stored_values(shown: Mapping[str, JSON], stored: object) -> Mapping[str, JSON]:
    """The values that a cell shows with those that its metadata keeps: what is shown counts."""
    given = decode_mapping(stored.get("values")) if isinstance(stored, dict) else None
    if given is None or not isinstance(stored, dict):
        return shown
    values = {**given, **shown}
    order = [name for name in stored.get("order", []) if name in values]
    return {name: values[name] for name in (*order, *values)}


def _stores(step: Step, kept: object) -> tuple[StoreBinding, ...]:
    said = {store.prop for store in step.stores}
    read = [StoreBinding(*item) for item in kept if item[0] not in said] if isinstance(kept, list) else []
    return (*read, *step.stores)
