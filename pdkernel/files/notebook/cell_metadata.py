"""
The parts of a step that its cell's text cannot show, stored under `pdkernel` in the cell's metadata; both ways.

If text and metadata disagree, the cell's text wins.

    notes     the step's note, shown in a separate Markdown cell
    extra     `Step.extra`: keys that only the platform understands, and data for writing a definition
    source    the code, if the cell shows it without its byte order mark or with other line ends
    stores    data stores whose prop cannot be written on a magic's line
    props     values that cannot be written in a cell, with the order of all props
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.errors import DefinitionError
from pdkernel.language.directive import format_step_cell, parse_step_cell
from pdkernel.model import JSON, Step, StoreBinding

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def encode_mapping(value: Mapping[str, JSON]) -> JSON:
    """*value* for metadata: as JSON text unless its keys are sorted, because Jupyter saves metadata with sorted keys."""
    text = json.dumps(value, ensure_ascii=False)
    return dict(value) if text == json.dumps(value, ensure_ascii=False, sort_keys=True) else text


def decode_mapping(kept: object) -> dict[str, JSON] | None:
    """The reverse of `encode_mapping`; None if *kept* is not a mapping."""
    if isinstance(kept, str):
        try:
            kept = json.loads(kept)
        except ValueError:
            return None
    return kept if isinstance(kept, dict) else None


def normalize_source(source: str) -> str:
    """*source* as a cell shows it: without a byte order mark, with LF as line ends."""
    return source.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


def restore_source(body: str, stored_source: object) -> str:
    """
    The code of a cell, with its original byte order mark and line ends.

    Args:
        body: The cell's text below its magic.
        stored_source: The code in the metadata, if any.

    Returns:
        *stored_source* if the cell still shows it; else *body*, with the original form of each unchanged line.
    """
    if not isinstance(stored_source, str) or not stored_source:
        return body
    if normalize_source(stored_source) == body:
        return stored_source
    before = _LINES.findall(stored_source.removeprefix(BYTE_ORDER_MARK))
    known = [normalize_source(line) for line in before]
    now = _LINES.findall(body)
    end = "\r\n" if sum(line.endswith("\r\n") for line in before) * 2 > len(before) else "\n"
    result: list[str] = []
    matcher = difflib.SequenceMatcher(None, known, now, autojunk=False)
    for kind, start, stop, first, last in matcher.get_opcodes():
        result += before[start:stop] if kind == "equal" else (line.replace("\n", end) for line in now[first:last])
    return (BYTE_ORDER_MARK if stored_source.startswith(BYTE_ORDER_MARK) else "") + "".join(result)


def build_step_cell(step: Step) -> tuple[str, dict[str, JSON]]:
    """
    The text and metadata of *step*'s cell, from which `restore_step` builds *step* again.

    The step's apps are left out: `pdkernel.yaml` stores their account choices.
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
    unwritable = [
        store
        for store in step.stores
        if _format_exact_cell(replace(shown, source="", props={}, stores=(store,))) is None
    ]
    if unwritable or {store.prop for store in step.stores} & step.props.keys():
        hidden["stores"] = [[store.prop, store.store] for store in step.stores]
        shown = replace(shown, stores=())
    text = _format_exact_cell(shown)
    if text is None:
        props = {name: value for name, value in step.props.items() if not _fits_in_cell(shown, name)}
        hidden["props"] = encode_stored_values(props, step.props)
        shown = replace(shown, props={name: value for name, value in step.props.items() if name not in props})
        text = _format_exact_cell(shown)
    if text is None:  # each value reads back alone, but not together with the others
        hidden["props"] = encode_stored_values(step.props, step.props)
        text = format_step_cell(replace(shown, props={}))
    return text, hidden


def _fits_in_cell(step: Step, name: str) -> bool:
    return _format_exact_cell(replace(step, source="", props={name: step.props[name]})) is not None


def _format_exact_cell(step: Step) -> str | None:
    """The cell of *step*, or None if it does not read back as *step*."""
    try:
        text = format_step_cell(step)
        if not _needs_check(step):
            return text
        back = parse_step_cell(text).step
    except DefinitionError:
        return None
    same = back.props == step.props and list(back.props) == list(step.props)
    return text if same and back.stores == step.stores else None


def _needs_check(step: Step) -> bool:
    """Whether the cell might not read back the same (a `{{`, an unusual name); the check itself is slow."""
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
    *step*, completed with the cell's metadata.

    Args:
        step: The step in the cell's text.
        metadata: The cell's metadata under `pdkernel`.
        note: The text of the Markdown cell with the step's note, if any; it wins over the metadata.
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
    """*values*, which a cell cannot show, for metadata, with the *order* of all values."""
    return {"values": encode_mapping(values), "order": list(order)}


def merge_stored_values(shown: Mapping[str, JSON], stored: object) -> Mapping[str, JSON]:
    """The values of a cell's text and its metadata; the text wins."""
    given = decode_mapping(stored.get("values")) if isinstance(stored, dict) else None
    if given is None or not isinstance(stored, dict):
        return shown
    values = {**given, **shown}
    order = [name for name in stored.get("order", []) if name in values]
    return {name: values[name] for name in (*order, *values)}


def _stores(step: Step, kept: object) -> tuple[StoreBinding, ...]:
    shown = {store.prop for store in step.stores}
    read = [StoreBinding(*item) for item in kept if item[0] not in shown] if isinstance(kept, list) else []
    return (*read, *step.stores)
