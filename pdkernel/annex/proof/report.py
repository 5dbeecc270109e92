"""The result of a proof, and its view: the verdict for each step and event, and the differences; all values are redacted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from pdkernel.annex.proof import record_report as records
from pdkernel.annex.proof.record_report import RecordProof
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import format_count
from pdkernel.files.definition.field_grades import GRADES, Grade, GradedField
from pdkernel.render import formatting
from pdkernel.render.markup import (
    CELL_STYLE,
    CODE_STYLE,
    Html,
    Tone,
    breakable,
    collapsible,
    escape_control_characters,
    join,
    join_lines,
    multiline,
    pill,
    scrolling_region,
    tag,
)

Verdict = Literal["same", "differs", "not compared"]
WHOLE_RUN = "whole run"
RUN_ENDED_EARLIER = "On this event the run ends before this step."
"""The reason for a step that ran on neither side; its label is `not run`."""
NO_EVENT = "There is no saved event. Save one: %pdevent FILE --save NAME"
NOT_REACHED = "No saved event reaches it. Save one that does: %pdevent FILE --save NAME"
MAX_SHOWN_DIFFERENCES = 20
"""Maximum number of differences in text and HTML; the JSON has all."""

_TONES: dict[Verdict, Tone] = {"same": "good", "differs": "bad", "not compared": "warn"}
NOT_RUN = "not run"
_WORDS = (*_TONES, NOT_RUN)
_GRADE_TONES: dict[Grade, Tone] = {"documented": "good", "observed": "good", "inferred": "warn", "ours": "quiet"}
_WIDTH = 300


class Difference(JsonStruct, frozen=True):
    """
    A difference between the two sides.

    Attributes:
        path: Path in the value: `exports.$return_value.items[2].name`.
        notebook: The notebook's value as JSON text; None for no value.
        files: The files' value as JSON text; None for no value.
    """

    path: str
    notebook: str | None
    files: str | None


class StepVerdict(JsonStruct, frozen=True):
    """
    The verdict on one step of a run, or on the whole run (*step* is `WHOLE_RUN`).

    Attributes:
        step: Name of the step.
        verdict: `same`, `differs`, or `not compared`.
        differences: The differences.
        reason: For `not compared`, the reason and a fix, or None.
    """

    step: str
    verdict: Verdict = "same"
    differences: tuple[Difference, ...] = ()
    reason: str | None = msgspec.field(default=None, name="why")

    @property
    def label(self) -> str:
        """The text that the table shows."""
        return NOT_RUN if self.reason == RUN_ENDED_EARLIER else self.verdict

    @property
    def tone(self) -> Tone:
        """The tone of the label."""
        return "quiet" if self.reason == RUN_ENDED_EARLIER else _TONES[self.verdict]


class CaseVerdict(JsonStruct, frozen=True):
    """The verdicts for one event and external user (None: no user)."""

    event: str
    external_user: str | None
    steps: tuple[StepVerdict, ...]
    run_verdict: StepVerdict = msgspec.field(name="whole")


class Proof(JsonStruct, frozen=True):
    """
    The result of a proof: the files that an export wrote, compared with the notebook.

    Attributes:
        folder: Folder of the files.
        steps: Names of the notebook's steps, in order.
        definition_differences: Differences between the notebook's workflow and the workflow read back.
        cases: Verdicts for each event and external user.
        fields: The fields of the files with their grades.
        notes: Further notes, as sentences.
        records: The files compared with runs that were recorded at Pipedream, or None without records.
    """

    folder: str
    steps: tuple[str, ...]
    definition_differences: tuple[Difference, ...]
    cases: tuple[CaseVerdict, ...]
    fields: tuple[GradedField, ...]
    notes: tuple[str, ...] = ()
    records: RecordProof | None = None

    @property
    def verdict(self) -> Verdict:
        """`differs` if there is any difference; `not compared` if no step was compared."""
        found = {step.verdict for case in self.cases for step in (*case.steps, case.run_verdict)}
        if self.definition_differences or "differs" in found or (self.records is not None and self.records.differs):
            return "differs"
        is_same = "same" in {step.verdict for case in self.cases for step in case.steps} or self._recorded_steps
        return "same" if is_same else "not compared"

    @property
    def _recorded_steps(self) -> tuple[str, ...]:
        """Steps that were compared with a recorded run."""
        if self.records is None:
            return ()
        return tuple(step for step in self.records.steps if {"same", "differs"} & set(self.records.count(step)))

    @property
    def not_compared(self) -> tuple[StepVerdict, ...]:
        """The steps that were compared on no event and with no recorded run, each with the reason on the first event."""
        found = []
        for name in self.steps:
            if name in self._recorded_steps:
                continue
            verdicts = [step for case in self.cases for step in case.steps if step.step == name]
            if all(each.verdict == "not compared" for each in verdicts):
                found.append(verdicts[0] if verdicts else StepVerdict(name, "not compared", reason=NO_EVENT))
        return tuple(found)

    @property
    def is_complete(self) -> bool:
        """Whether each step was compared on an event."""
        return not self.not_compared

    @property
    def label(self) -> str:
        """The verdict in a few words: *same* only if each step was compared."""
        return "not complete" if self.verdict == "same" and not self.is_complete else self.verdict

    @property
    def tone(self) -> Tone:
        """The tone of the label."""
        return _TONES["not compared" if self.verdict == "same" and not self.is_complete else self.verdict]

    def json_form(self) -> object:
        """`{"verdict", "complete", "not_compared", "definition", "cases", "fields", "notes"}`, and "records" if there are records."""
        return {
            "verdict": self.verdict,
            "complete": self.is_complete,
            "not_compared": [step.step for step in self.not_compared],
            "definition": self.definition_differences,
            "cases": self.cases,
            "fields": self.fields,
            "notes": self.notes,
            **({"records": self.records.to_json()} if self.records is not None else {}),
        }

    def summarize(self) -> list[str]:
        """
        Sum up the proof in one or two lines.

        If steps were not compared, a line has the compared steps, those that were not, and what to do. It is the first line
        unless there are differences.
        """
        if self.is_complete:
            return [_title(self)]
        missing = self.not_compared
        names = [step.step for step in missing]
        compared = [name for name in self.steps if name not in names]
        why = NOT_REACHED if missing[0].reason == RUN_ENDED_EARLIER else missing[0].reason or ""
        done = f"Compared: {', '.join(compared)}." if compared else "No step was compared."
        summary = f"Not proven for every step. {done} Not compared: {', '.join(names)}. {' '.join(why.split())}"
        return [_title(self), summary] if self.verdict == "differs" else [summary, _title(self)]

    def render_text(self) -> str:
        """Render the proof as text: what was compared, a table, differences, reasons and notes."""
        lines = [*self.summarize(), *(f"  {line}" for line in _table(self))]
        for where, difference in _shown(self):
            lines += ["", f"{where}: {difference.path}", *(f"  {side}" for side in _sides(difference))]
        lines += [line for footnote in _footnotes(self) for line in ("", *footnote.split("\n"))]
        if self.records is not None:
            lines += ["", *records.render_text(self.records).splitlines()]
        return escape_control_characters("".join(f"{line.rstrip()}\n" for line in lines))

    def render_html(self) -> str:
        """Render the proof as HTML, with a collapsible table of fields and grades."""
        first, *others = self.summarize()
        parts = [
            join([pill(self.label, self.tone), Html(" "), tag("strong", first)]),
            *(tag("div", line) for line in others),
        ]
        if self.cases:
            rows = [tag("tr", *(tag("th", breakable(head), style=CELL_STYLE) for head in _heads(self)))]
            for case in self.cases:
                cells = [tag("td", pill(found.label, found.tone), style=CELL_STYLE) for found in _row(self, case)]
                rows.append(tag("tr", tag("th", _event(case), style=f"{CELL_STYLE};white-space:nowrap"), *cells))
            parts.append(tag("table", join_lines(rows)))
        for where, difference in _shown(self):
            parts.append(tag("div", where, ": ", tag("code", difference.path), style="margin-top:4px"))
            parts.append(tag("pre", "\n".join(_sides(difference)), style=CODE_STYLE))
        parts += [multiline(footnote, style="margin-top:4px") for footnote in _footnotes(self)]
        if self.records is not None:
            parts.append(records.render_html(self.records))
        parts.append(collapsible(tag("span", "Evidence for each field"), _fields(self)))
        return tag("div", join_lines(parts), class_="pd-view pd-proof", **scrolling_region("Proof"))


def _table(proof: Proof) -> Iterator[str]:
    """Yield the table: a row for each event, a column for each step. If it is too wide, list the steps by verdict for each event."""
    if not proof.cases:
        return
    table = [_heads(proof), *([_event(case), *(found.label for found in _row(proof, case))] for case in proof.cases)]
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    if sum(widths) + 2 * len(widths) <= formatting.TEXT_COLUMNS:
        yield from ("  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)) for line in table)
        return
    for case in proof.cases:
        yield f"{_event(case)}:"
        for word in _WORDS:
            named = [found.step for found in _row(proof, case) if found.label == word]
            if named:
                yield f"  {word}: {', '.join(named)}"


def _title(proof: Proof) -> str:
    steps = [step for case in proof.cases for step in case.steps]
    counts = [(word, sum(step.label == word for step in steps)) for word in _WORDS]
    summary = ", ".join(f"{count} {word}" for word, count in counts if count)
    files = (
        f"differs in {format_count(len(proof.definition_differences), 'place')}"
        if proof.definition_differences
        else "same"
    )
    runs = f"{format_count(len(proof.cases), 'run')}, steps: {summary}" if steps else "no run"
    return f"Proof of {proof.folder}: workflow {files}; {runs}."


def _heads(proof: Proof) -> list[str]:
    return ["event", *proof.steps, WHOLE_RUN]


def _event(case: CaseVerdict) -> str:
    who = "" if case.external_user is None else f" as {case.external_user}"
    return formatting.truncate_line(f"{case.event}{who}", 40)


def _row(proof: Proof, case: CaseVerdict) -> list[StepVerdict]:
    found = {step.step: step for step in case.steps}
    return [*(found[name] for name in proof.steps), case.run_verdict]


def _differences(proof: Proof) -> Iterator[tuple[str, Difference]]:
    for difference in proof.definition_differences:
        yield "Workflow", difference
    for case in proof.cases:
        for step in (*case.steps, case.run_verdict):
            for difference in step.differences:
                yield f"{_event(case)}, {WHOLE_RUN if step.step == WHOLE_RUN else f'step {step.step}'}", difference


def _shown(proof: Proof) -> list[tuple[str, Difference]]:
    return list(_differences(proof))[:MAX_SHOWN_DIFFERENCES]


def _sides(difference: Difference) -> list[str]:
    return [
        f"{side:<8}  {'nothing' if value is None else formatting.truncate_line(value, _WIDTH)}"
        for side, value in (("notebook", difference.notebook), ("files", difference.files))
    ]


def _footnotes(proof: Proof) -> Iterator[str]:
    """Notes below the table: hidden differences, reasons for missing comparisons that the summary lacks, inferred fields."""
    hidden = sum(1 for _ in _differences(proof)) - MAX_SHOWN_DIFFERENCES
    if hidden > 0:
        yield f"{format_count(hidden, 'more difference')} not shown. --json prints all."
    missing = proof.not_compared
    summarized = {(step.step, missing[0].reason) for step in missing}
    reasons: dict[str, list[str]] = {}
    for case in proof.cases:
        for step in (*case.steps, case.run_verdict):
            if step.reason and step.label != NOT_RUN and (step.step, step.reason) not in summarized:
                reasons.setdefault(step.reason, []).append(f"{_event(case)}: {step.step}")
    for why, where in reasons.items():
        more = f" and {len(where) - 4} more" if len(where) > 4 else ""
        yield f"Not compared ({', '.join(where[:4])}{more}): {why}"
    guessed = [_named(field) for field in proof.fields if field.grade == "inferred"]
    if guessed:
        yield f"Inferred, not observed in a synced folder: {'; '.join(guessed)}."
    yield from proof.notes


def _named(field: GradedField) -> str:
    steps = f" ({', '.join(field.steps)})" if field.steps else ""
    return f"{field.field or field.file}{steps}"


def _fields(proof: Proof) -> Html:
    rows = []
    for grade in GRADES:
        for field in proof.fields:
            if field.grade == grade:
                where = join([tag("code", field.file), " ", tag("code", field.field) if field.field else Html("")])
                rows.append(
                    tag(
                        "tr",
                        tag("td", pill(grade, _GRADE_TONES[grade]), style=CELL_STYLE),
                        tag("td", where, style=CELL_STYLE),
                        tag("td", ", ".join(field.steps), style=CELL_STYLE),
                    )
                )
    return tag("table", join_lines(rows))
