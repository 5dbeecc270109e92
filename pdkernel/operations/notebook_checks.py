"""
The check of a notebook for a pull request: whether its saved outputs belong to its cells, and a summary for the reviewer.

The summary is data, text and Markdown. No code of the notebook runs.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pdkernel.actions import Catalog
from pdkernel.common.encode import JsonStruct
from pdkernel.egress.recording import read_recorded_requests
from pdkernel.errors import DefinitionError, PdkernelError, RequestError, format_count
from pdkernel.files.definition.step_merge import match_steps
from pdkernel.files.notebook import (
    NotebookCell,
    enumerate_cells,
    hash_cell,
    read_cells,
    read_notebook,
    read_output_hash,
)
from pdkernel.files.source import EVENTS_FOLDER, WorkflowSource, load_source, with_files_beside
from pdkernel.language.analysis import check_readable, check_step_order, find_unread_answers
from pdkernel.language.analysis.contract import derive_contract
from pdkernel.language.directive import is_step_cell, parse_step_cell
from pdkernel.model import Step, Workflow
from pdkernel.operations.readiness.matrix import collect_app_bindings
from pdkernel.render.markup import escape_control_characters

_SHOWN_CALL = re.compile(r"^\s+call\s+([A-Z]+) (https?://\S+)", re.MULTILINE)
"""A call in the text of a timeline."""
_GIT_TIMEOUT_S = 60.0
Change = Literal["new", "changed", "renamed", "renamed and changed", "removed", "order", "trigger or settings"]


def check_notebook(path: Path, *, catalog: Catalog, base: str | None = None) -> NotebookCheck:
    """
    Check the notebook at *path*.

    Args:
        path: The notebook.
        catalog: The pre-built actions of the project, for the apps of their props.
        base: A Git revision with which the steps are compared, or None.

    Raises:
        RequestError: The repository has no revision *base*, or *path* is not in a Git repository.
    """
    try:
        source = load_source(path, unanswered="keep", lenient=True)
        cells = read_cells(path, with_outputs=True)
    except PdkernelError as error:
        return NotebookCheck(str(path), error=str(error))
    workflow = source.workflow
    outdated, unmarked = _sort_outputs(cells)
    return NotebookCheck(
        notebook=str(path),
        workflow=workflow.name,
        error=_describe_errors(workflow),
        outdated_outputs=tuple(outdated),
        unmarked_outputs=tuple(unmarked),
        base=base,
        changes=() if base is None else tuple(_list_changes(workflow, _read_base(path, base))),
        accounts=tuple(
            (step, binding.app, binding.account)
            for step, bindings in collect_app_bindings(workflow, _with_own_actions(catalog, source)).items()
            for binding in bindings
        ),
        reads=tuple(field.path for field in derive_contract(workflow).fields),
        unread_answers=tuple(each.step for each in find_unread_answers(workflow)),
        calls=tuple(sorted({*_list_shown_calls(cells), *_list_recorded_calls(workflow, path.parent)})),
    )


def _describe_errors(workflow: Workflow) -> str | None:
    """Return why cells cannot be read, else which conditions and reads of other branches are wrong; None if nothing is."""
    try:
        check_readable(workflow)
        if workflow.blocks:
            check_step_order(workflow)
    except DefinitionError as error:
        return str(error)
    return None


def _with_own_actions(catalog: Catalog, source: WorkflowSource) -> Catalog:
    return catalog.with_sources(source.sidecar.actions if source.sidecar else (), base=source.folder.resolve())


def _sort_outputs(cells: Sequence[NotebookCell]) -> tuple[list[OutputOfCell], list[OutputOfCell]]:
    """Return the step cells whose outputs belong to another text, and those whose outputs have no hash of a text."""
    outdated, unmarked = [], []
    for index, cell in enumerate_cells(cells):
        if cell.type != "code" or not cell.outputs or not is_step_cell(cell.source):
            continue
        try:
            step = parse_step_cell(cell.source, cell=index).step.name
        except DefinitionError:
            continue  # `load_source` reports it
        marks = {mark for mark in map(read_output_hash, cell.outputs) if mark is not None}
        if not marks:
            unmarked.append(OutputOfCell(index + 1, step))
        elif marks != {hash_cell(cell.source)}:
            outdated.append(OutputOfCell(index + 1, step))
    return outdated, unmarked


def _list_changes(workflow: Workflow, base: Workflow | None) -> Iterator[StepChange]:
    if base is None:
        yield from (StepChange(entry.name, "new") for entry in workflow.all_entries)
        return
    matches = match_steps(workflow.steps, base.steps)
    for step in workflow.steps:
        before = matches.get(step.name)
        if before is None:
            yield StepChange(step.name, "new")
        elif before.name != step.name:
            is_changed = _content(before) != _content(replace(step, name=before.name))
            yield StepChange(step.name, "renamed and changed" if is_changed else "renamed", before.name)
        elif _content(before) != _content(step):
            yield StepChange(step.name, "changed")
    kept = {before.name for before in matches.values()}
    yield from (StepChange(step.name, "removed") for step in base.steps if step.name not in kept)
    kept_order = [matches[step.name].name for step in workflow.steps if step.name in matches]
    if kept_order != [step.name for step in base.steps if step.name in kept]:
        yield StepChange("", "order")
    yield from _list_block_changes(workflow, base)
    if (workflow.triggers, workflow.settings) != (base.triggers, base.settings):
        yield StepChange("", "trigger or settings")


def _list_block_changes(workflow: Workflow, base: Workflow) -> Iterator[StepChange]:
    """Yield the blocks that are new, removed, or have other conditions or another branch around them."""
    old = {block.name: replace(block, cell_index=None, line_offset=0, place=0) for block in base.blocks}
    new = {block.name: replace(block, cell_index=None, line_offset=0, place=0) for block in workflow.blocks}
    for name, block in new.items():
        if block != old.get(name):
            yield StepChange(name, "changed" if name in old else "new")
    yield from (StepChange(name, "removed") for name in old if name not in new)


def _content(step: Step) -> Step:
    """Return *step* without its place in the notebook."""
    return replace(step, cell_index=None)


def _read_base(path: Path, base: str) -> Workflow | None:
    """Return the workflow of the notebook at *path* in the Git revision *base*; None if that revision has no such notebook."""
    _git(path.parent, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}", missing=f"Git does not know {base!r}.")
    try:
        text = _git(path.parent, "show", f"{base}:./{path.name}", missing="")
    except RequestError:
        return None
    with tempfile.TemporaryDirectory(prefix="pdkernel-check-") as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(text)
        try:
            return with_files_beside(read_notebook(copy), path.parent)  # the files of today
        except PdkernelError:
            return None  # it was not a workflow then: all steps are new


def _git(folder: Path, *arguments: str, missing: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=False, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise RequestError(f"Git cannot be run: {fault}.", fix="Leave out --base, or install Git.") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise RequestError(
            " ".join(filter(None, (missing, said))), fix="Pass a branch, a tag or a commit: --base origin/main"
        )
    return done.stdout


def _list_shown_calls(cells: Sequence[NotebookCell]) -> Iterator[tuple[str, str]]:
    """Yield the outbound calls that the timelines of the saved outputs show."""
    for cell in cells:
        for output in cell.outputs:
            data = output.get("data")
            text = data.get("text/plain", "") if isinstance(data, dict) else ""
            for method, url in _SHOWN_CALL.findall("".join(text)):
                yield method, _public_part(url)


def _list_recorded_calls(workflow: Workflow, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the outbound calls of the workflow's steps that are recorded beside the saved events in *folder*."""
    steps = {step.name for step in workflow.steps}
    for file in sorted((folder / EVENTS_FOLDER).glob("*.recorded.jsonl")):
        for step, method, url in read_recorded_requests(file):
            if step in steps:  # notebooks of one folder share the events
                yield method, _public_part(url)


def _public_part(url: str) -> str:
    """Return *url* without its user name, password and query, which may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:  # of a recording that was edited by hand
        return "an invalid URL"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


class OutputOfCell(JsonStruct, frozen=True):
    """A step cell with saved outputs; *cell* counts all cells of the notebook from 1."""

    cell: int
    step: str


class StepChange(JsonStruct, frozen=True):
    """A change of a step or block since the base; *step* is empty for a change of the whole workflow, *was* is the name before."""

    step: str
    change: Change
    was: str | None = None


class NotebookCheck(JsonStruct, frozen=True):
    """
    The result of the check of one notebook.

    Attributes:
        notebook: The path of the notebook.
        workflow: The name of its workflow.
        error: Why the notebook, or some of its cells, cannot be read or proved, or which branches are wrong, or None. Without a notebook the other fields are empty.
        outdated_outputs: Step cells whose saved outputs belong to another text of the cell.
        unmarked_outputs: Step cells whose saved outputs have no hash of the text to which they belong.
        base: The Git revision with which the steps were compared, or None.
        changes: The changes since *base*.
        accounts: The step, app and account of each app prop; the account is None for the external user's account.
        reads: The paths of the event that steps read.
        calls: The method and URL, without its query, of each outbound call in saved outputs and recordings.
        unread_answers: Steps that suspend the run, and no later step reads the answer.
        proof: The verdict of a proof, or None if there was none.
        proof_summary: What the proof compared, what it did not compare, and what to do; empty if it compared each step.
    """

    notebook: str
    workflow: str = ""
    error: str | None = None
    outdated_outputs: tuple[OutputOfCell, ...] = ()
    unmarked_outputs: tuple[OutputOfCell, ...] = ()
    base: str | None = None
    changes: tuple[StepChange, ...] = ()
    accounts: tuple[tuple[str, str, str | None], ...] = ()
    reads: tuple[str, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    unread_answers: tuple[str, ...] = ()
    proof: Literal["same", "differs", "not compared"] | None = None
    proof_summary: str = ""

    @property
    def is_passed(self) -> bool:
        """Whether there is no error, no output belongs to another text, and no proof differs."""
        return self.error is None and not self.outdated_outputs and self.proof != "differs"

    @property
    def mark(self) -> tuple[str, str]:
        """The mark of the result, in text and in Markdown: a check that passed with an incomplete proof is not green."""
        return ("✗", "❌") if not self.is_passed else ("!", "⚠️") if self.proof_summary else ("✓", "✅")


def render_text(check: NotebookCheck) -> str:
    """Render the check as text."""
    lines = [f"{check.mark[0]} {check.notebook}"]
    lines += [f"    {heading}: {text.replace(chr(10), f'{chr(10)}      ')}" for heading, text in _rows(check)]
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def render_markdown(check: NotebookCheck) -> str:
    """Render the check as a section of a summary in Markdown."""
    lines = [f"### {check.mark[1]} {_code(check.notebook)}", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {heading} | {_cell(text)} |" for heading, text in _rows(check)]
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def _rows(check: NotebookCheck) -> Iterator[tuple[str, str]]:
    if check.error is not None:
        yield "error", check.error
        if not check.workflow:
            return
    if check.outdated_outputs:
        yield (
            "outputs of other code",
            f"{_cells(check.outdated_outputs)}. Run these cells again, and save the notebook.",
        )
    if check.unmarked_outputs:
        yield "outputs without a mark", f"{_cells(check.unmarked_outputs)}. To mark them, run these cells again."
    if check.unread_answers:
        yield (
            "answers that no step reads",
            f"{', '.join(check.unread_answers)}. To the run, approve and reject are the same; Reject in the console cancels it.",
        )
    if check.base is not None:
        yield f"changes since {check.base}", ", ".join(map(_change, check.changes)) or "none"
    yield (
        "accounts",
        ", ".join(f"{app} in {step} ({account or 'external user'})" for step, app, account in check.accounts) or "none",
    )
    yield "reads of the event", ", ".join(check.reads) or "none"
    yield (
        "outbound calls",
        ", ".join(f"{method} {url}" for method, url in check.calls) or "none in outputs and recordings",
    )
    if check.proof is not None:
        words = {"same": "the export does the same", "differs": "the export differs"}.get(check.proof, check.proof)
        yield "proof", check.proof_summary if check.proof_summary and check.proof != "differs" else words


def _cells(outputs: tuple[OutputOfCell, ...]) -> str:
    named = ", ".join(f"{each.step} (cell {each.cell})" for each in outputs)
    return f"{format_count(len(outputs), 'step cell')}: {named}"


def _change(change: StepChange) -> str:
    if not change.step:
        return "order of the steps" if change.change == "order" else change.change
    was = f", before {change.was}" if change.was else ""
    return f"{change.step} ({change.change}{was})"


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")
