"""The check of a notebook, as data, text and Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pdkernel.encode import JsonStruct
from pdkernel.errors import format_count
from pdkernel.render.markup import escape_control_characters
from pdkernel.render.proof import Verdict

Change = Literal["new", "changed", "renamed", "renamed and changed", "removed", "order", "trigger or settings"]


class OutputOfCell(JsonStruct, frozen=True):
    """A step cell with saved outputs; *cell* counts all cells of the notebook from 1."""

    cell: int
    step: str


class StepChange(JsonStruct, frozen=True):
    """A change since the base; *step* is empty for a change of the whole workflow, *was* is the name before."""

    step: str
    change: Change
    was: str | None = None


class NotebookCheck(JsonStruct, frozen=True):
    """
    The result of the check of one notebook.

    Attributes:
        notebook: The path of the notebook.
        workflow: The name of its workflow.
        error: Why the notebook, or some of its cells, cannot be read or proved, or None. Without a notebook the other fields are empty.
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
    proof: Verdict | None = None
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
