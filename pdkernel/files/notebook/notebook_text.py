"""
Writes a workflow as a notebook that reads back as the same workflow, except for account choices (`pdkernel.yaml`).

    title, report        Markdown; the caller passes the report's text
    load, workflow       `%load_ext pdkernel`, and the header with the workflow's name, triggers and settings
    note-STEP            the step's note, as Markdown above the step: {"note": STEP}
    about-, props-STEP   problems of the step, and props that its cell cannot show: {"about": STEP}
    file-HASH            a file that steps import, as a raw cell: {"file": its path in the workflow's folder}
    step-STEP            the step: see `cells`
    block-BLOCK          the block: see `cells`
    kept-N               an unsupported entry, as Markdown: {"kept": the entry}, of an archive also {"path", "why"}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from pdkernel.errors import DefinitionError
from pdkernel.files.definition.api_workflow import shorten_steps
from pdkernel.files.definition.entry_file import detect_language
from pdkernel.files.definition.file_plan import iter_step_files
from pdkernel.files.notebook.cells import (
    METADATA_KEY,
    build_block_cell,
    build_step_cell,
    encode_mapping,
    encode_stored_values,
    merge_stored_values,
    normalize_source,
)
from pdkernel.language.directive import WORKFLOW_MAGIC, build_trigger_mapping, dump_yaml, parse_workflow_cell
from pdkernel.model import JSON, ROUND_TRIP_KEY, Block, Step, UnsupportedEntry, Workflow

_MAX_ID = 64
LANGUAGE_INFO: Mapping[str, Any] = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
    "version": "3",
}
"""
The kernel's language, as the kernel reports it and notebooks store it.

The version has no minor part: JupyterLab marks a notebook as changed if the stored and the reported language differ.
"""
_KERNEL = {
    "kernelspec": {"display_name": "Pipedream workflow (pdkernel)", "language": "python", "name": "pdkernel"},
    "language_info": LANGUAGE_INFO,
}
_VSCODE_LANGUAGES = {"node": "javascript", "bash": "shellscript", "go": "go"}
"""Ids of languages by which VS Code highlights a cell that is not Python."""


class _Cell(NamedTuple):
    """A cell; *hidden* is its metadata under `pdkernel`, *language* VS Code's id, or empty for Python."""

    kind: str
    cell_id: str
    source: str
    hidden: Mapping[str, Any]
    language: str = ""


def format_notebook(workflow: Workflow, *, about: str = "", report: str = "") -> str:
    """
    Return the text of a notebook that `read_notebook` reads as *workflow*, without its apps.

    Args:
        workflow: The workflow to write.
        about: Markdown below the title.
        report: Markdown of a separate cell, marked as a report; no cell if it is empty.
    """
    cells = [_as_json(cell) for cell in _cells(workflow, about, report)]
    data = {"cells": cells, "metadata": _KERNEL, "nbformat": 4, "nbformat_minor": 5}
    # As nbformat writes it. With the extras that JupyterLab installs, importing nbformat compiles grammars for over a second.
    text = json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True)
    # YAML can contain unpaired surrogates, which UTF-8 cannot encode: they are written as JSON escapes.
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def _as_json(cell: _Cell) -> dict[str, Any]:
    metadata = {
        **({METADATA_KEY: dict(cell.hidden)} if cell.hidden else {}),
        **({"vscode": {"languageId": cell.language}} if cell.language else {}),
    }
    source = cell.source.splitlines(keepends=True)
    written: dict[str, Any] = {"cell_type": cell.kind, "id": cell.cell_id, "metadata": metadata, "source": source}
    return {**written, "execution_count": None, "outputs": []} if cell.kind == "code" else written


def _cells(workflow: Workflow, about: str, report: str) -> Iterator[_Cell]:
    title = " ".join(workflow.name.split()) or "Workflow"
    yield _Cell("markdown", "title", f"# {title}\n\n{about}".rstrip(), {})
    if report:
        yield _Cell("markdown", "report", report, {"report": True})
    yield _Cell("code", "load", "%load_ext pdkernel", {})
    yield _Cell("code", "workflow", *build_workflow_cell(workflow), "yaml")
    below: dict[str | None, list[tuple[int, UnsupportedEntry]]] = {}
    for number, kept in enumerate(workflow.unsupported_entries, start=1):
        below.setdefault(kept.after_step, []).append((number, kept))
    yield from _kept(below.get(None, []))
    shown = {path for step in workflow.steps for path, _ in islice(iter_step_files(step), 1)}
    for entry in workflow.all_entries:
        if isinstance(entry, Block):
            yield from _block(entry)
            continue
        yield from _files(entry, shown)
        yield from _step(entry)
        yield from _kept(below.get(entry.name, []))


def _files(step: Step, shown: set[str]) -> Iterator[_Cell]:
    """Yield the cells of the files that *step* imports, without those of *shown*, to which they are added."""
    for path, text in iter_step_files(step):
        if path not in shown:
            shown.add(path)
            source = normalize_source(text)
            language = detect_language(path)
            yield _Cell(
                "raw",
                f"file-{hashlib.sha256(path.encode()).hexdigest()[:12]}",
                source,
                {"file": path, **({"source": text} if source != text else {})},
                _VSCODE_LANGUAGES.get(language, language) if language is not None else "json",
            )


def _step(step: Step) -> Iterator[_Cell]:
    if step.notes:
        yield _Cell("markdown", _id("note", step.name), step.notes, {"note": step.name})
    if step.is_code_missing:
        text = (
            f"**No code:** the entry file of `{step.name}` was missing where this workflow was imported from. Write the "
            "step's code into the cell below; until then the workflow does not run."
        )
        yield _Cell("markdown", _id("about", step.name), text, {"about": step.name})
    if step.unknown_condition is not None:
        text = (
            f"**Condition unknown:** `{step.name}` depends on `{step.unknown_condition}` of Pipedream's archive, which pdkernel does not "
            "understand. The step is disabled, so that it does not run unasked. Look up in the builder when it runs, write "
            "that as a block, and remove `--disabled`."
        )
        yield _Cell("markdown", _id("condition", step.name), text, {"about": step.name})
    text, hidden = build_step_cell(step)
    if "props" in hidden:
        yield _Cell("markdown", _id("props", step.name), _hidden_props(step, hidden["props"]), {"about": step.name})
    language = "yaml" if step.uses else _VSCODE_LANGUAGES.get(step.language, "")
    yield _Cell("code", _id("step", step.name), text, hidden, language)


def _block(block: Block) -> Iterator[_Cell]:
    if block.notes:
        yield _Cell("markdown", _id("note", block.name), block.notes, {"note": block.name})
    text, hidden = build_block_cell(block)
    yield _Cell("code", _id("block", block.name), text, hidden, "yaml")


def _hidden_props(step: Step, kept: object) -> str:
    fenced = _fenced(dump_yaml(merge_stored_values({}, kept)))
    return f"Props of `{step.name}` that a cell cannot show are kept in the cell's metadata:\n\n{fenced}"


def _kept(entries: list[tuple[int, UnsupportedEntry]]) -> Iterator[_Cell]:
    for number, kept in entries:
        why = " ".join(f"{kept.name} {kept.unsupported_reason}".split())
        shown: Mapping[str, JSON] = kept.entry
        if kept.path is None:
            about = f"**Not run by pdkernel:** {why}. An export writes the entry back unchanged, at the same place."
            place = {}
        else:
            about = (
                f"**Not run by pdkernel:** {why}. No step runs while this cell is here. Write what it means as `%%pdif`, "
                "`%%pdswitch`, `%%pdparallel` or code, enable the steps below that belong to it, and delete this cell."
            )
            place = {"path": kept.path, "why": kept.why}
            shown = shorten_steps(kept.entry)
        text = f"{about}\n\n{_fenced(dump_yaml(dict(shown)))}"
        yield _Cell("markdown", f"kept-{number}", text, {"kept": encode_mapping(kept.entry), **place})


def _fenced(yaml: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", yaml)), default=0))
    return f"{fence}yaml\n{yaml}{fence}"


def _id(kind: str, name: str) -> str:
    text = f"{kind}-{name}"
    if len(text) <= _MAX_ID:
        return text
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{text[: _MAX_ID - 13]}-{digest}"


def build_workflow_cell(workflow: Workflow) -> tuple[str, dict[str, Any]]:
    """Return the text and metadata of the `%%pdworkflow` cell."""
    extra = _without_kept(workflow.extra)
    if workflow.is_inactive:
        del extra["inactive"]  # the cell shows it
    hidden: dict[str, Any] = {"extra": encode_mapping(extra)} if extra else {}
    settings = dict(workflow.settings)
    unwritable = {key: value for key, value in settings.items() if not _is_round_trip("settings", {key: value})}
    if unwritable:
        hidden["settings"] = encode_stored_values(unwritable, settings)
    name = workflow.name
    if not _is_round_trip("name", name):
        name = " ".join(name.replace("{{", "{ {").split()) or "Workflow"
        name = name if _is_round_trip("name", name) else "Workflow"
        hidden["name"] = {"is": workflow.name, "shown": name}
    mapping: dict[str, JSON] = {"name": name, **({"inactive": True} if workflow.is_inactive else {})}
    triggers = json.loads(json.dumps([build_trigger_mapping(trigger) for trigger in workflow.triggers]))
    if all(trigger.type == "http" or "id" in trigger.config for trigger in workflow.triggers) or _is_round_trip(
        "triggers", triggers
    ):
        mapping |= {"trigger": triggers[0]} if len(triggers) == 1 else {"triggers": triggers}
    if shown := {key: value for key, value in settings.items() if key not in unwritable}:
        mapping["settings"] = shown
    return f"{WORKFLOW_MAGIC}\n{dump_yaml(mapping)}".rstrip("\n"), hidden


def _without_kept(extra: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return *extra* without the entries that have separate cells."""
    bookkeeping = extra.get(ROUND_TRIP_KEY)
    if not isinstance(bookkeeping, dict) or "kept" not in bookkeeping:
        return dict(extra)
    rest = {key: value for key, value in bookkeeping.items() if key != "kept"}
    others = {key: value for key, value in extra.items() if key != ROUND_TRIP_KEY}
    return {**others, ROUND_TRIP_KEY: rest} if rest else others


def _is_round_trip(key: str, value: JSON) -> bool:
    if key == "name" and isinstance(value, str) and re.fullmatch(r"[\w(][\w ().,!-]*[\w)!.]|\w", value):
        return True  # a shortcut for most names, because parsing YAML is slow
    try:
        header = parse_workflow_cell(f"{WORKFLOW_MAGIC}\n{dump_yaml({key: value})}")
    except DefinitionError:
        return False
    return key == "triggers" or (header.name if key == "name" else header.settings) == value
