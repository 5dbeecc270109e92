"""The results of a proof and of a comparison with recorded runs, each with its view: verdicts and differences, redacted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

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
        """Return `{"verdict", "complete", "not_compared", "definition", "cases", "fields", "notes"}`, and "records" if there are records."""
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
            lines += ["", *self.records.render_text().splitlines()]
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
            parts.append(self.records.render_html())
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
    """Yield the notes below the table: hidden differences, reasons for missing comparisons that the summary lacks, inferred fields."""
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


RecordWord = Literal["same", "differs", "not comparable", "not recorded", "not exercised"]
WORDS: Final[tuple[RecordWord, ...]] = ("same", "differs", "not comparable", "not recorded", "not exercised")
_RECORD_TONES: Final[Mapping[str, Tone]] = {
    "same": "good",
    "differs": "bad",
    "not comparable": "warn",
    "not recorded": "warn",
    "not exercised": "quiet",
}


class RecordedPlace(JsonStruct, frozen=True):
    """
    A place where the record and the run here differ.

    Attributes:
        path: Path in the exports: `$return_value.items[2].name`.
        recorded: The recorded value as JSON text; None for no value.
        here: The value here as JSON text; None for no value.
        reason: Why the place is not comparable; None for a difference.
        has_ids: Whether both values look like ids, and the step did not get the recorded one.
    """

    path: str
    recorded: str | None
    here: str | None
    reason: str | None = None
    has_ids: bool = False


class RecordedStep(JsonStruct, frozen=True):
    """
    The verdict on one step of a recorded run.

    Attributes:
        step: The step's name.
        verdict: `same`, `differs`, `not comparable`, `not recorded` (it ran here, and its exports there are not known) or `not exercised`.
        places: The places that are not equal.
        reason: A sentence about the verdict, or None.
    """

    step: str
    verdict: str
    places: tuple[RecordedPlace, ...] = ()
    reason: str | None = None


class RecordVerdict(JsonStruct, frozen=True):
    """
    The verdicts on one recorded run.

    Attributes:
        name: The name of the run's files.
        at: When the run began.
        status: `recorded` or `not recorded to the end`.
        steps: The verdicts on the steps.
        refusal: Why the run as a whole is not comparable, or None.
        end_here: How the run ends here, if it was not recorded to the end there; None otherwise.
    """

    name: str
    at: str
    status: str
    steps: tuple[RecordedStep, ...]
    refusal: str | None = None
    end_here: str | None = None


class RecordProof(JsonStruct, frozen=True):
    """
    A workflow compared with what Pipedream did.

    Attributes:
        workflow: The workflow's name.
        workflow_id: Pipedream's id.
        steps: The enabled steps, in order.
        verdicts: The recorded runs.
        branches: Branches whose end was recorded.
        known_branches: All branches with a recording step at their end.
        responding: Steps that may send the response of a run, which no step at Pipedream can see.
    """

    workflow: str
    workflow_id: str
    steps: tuple[str, ...]
    verdicts: tuple[RecordVerdict, ...]
    branches: tuple[str, ...] = ()
    known_branches: tuple[str, ...] = ()
    responding: tuple[str, ...] = ()

    def count(self, step: str) -> Counter[str]:
        """Return the verdicts on *step* over all recorded runs."""
        return Counter(each.verdict for run in self.verdicts for each in run.steps if each.step == step)

    @property
    def counts(self) -> dict[str, int]:
        """The recorded runs: all, those with an end, and by the word for the whole run."""
        words = Counter(_word_of(run) for run in self.verdicts)
        ended = sum(run.status == "recorded" for run in self.verdicts)
        return {
            "recorded": len(self.verdicts),
            "ended": ended,
            "same": words["same"],
            "differs": words["differs"],
            "not_comparable": words["not comparable"],
            "not_recorded": words["not recorded"],
        }

    @property
    def differs(self) -> bool:
        """Whether a step of a recorded run differs."""
        return self.counts["differs"] > 0

    @property
    def never_exercised(self) -> tuple[str, ...]:
        """Steps that no recorded run exercised."""
        return tuple(step for step in self.steps if set(self.count(step)) <= {"not exercised"})

    @property
    def unrecorded_branches(self) -> tuple[str, ...]:
        """Branches that no run was recorded to the end of."""
        return tuple(name for name in self.known_branches if name not in self.branches)

    @property
    def never_compared(self) -> tuple[str, ...]:
        """Steps that were exercised, and in no recorded run are the same or differ."""
        return tuple(
            step
            for step in self.steps
            if step not in self.never_exercised and not {"same", "differs"} & set(self.count(step))
        )

    def json_form(self) -> object:
        """Return `{"workflow", "id", "counts", "steps", "never_exercised", "never_compared", "branches", "unrecorded_branches", "responding", "runs"}`."""
        return {
            "workflow": self.workflow,
            "id": self.workflow_id,
            "counts": self.counts,
            "steps": {step: {word: self.count(step)[word] for word in WORDS} for step in self.steps},
            "never_exercised": self.never_exercised,
            "never_compared": self.never_compared,
            "branches": self.branches,
            "unrecorded_branches": self.unrecorded_branches,
            "responding": self.responding,
            "runs": self.verdicts,
        }

    def summarize(self) -> list[str]:
        """Sum up the comparison in sentences."""
        counts = self.counts
        parts = [
            f"{counts['same']:,} same",
            f"{counts['differs']:,} differ",
            f"{counts['not_comparable']:,} not comparable",
        ]
        lines = [
            f"{self.workflow} ({self.workflow_id}) against {format_count(counts['recorded'], 'run')} at Pipedream: {', '.join(parts)}."
        ]
        early = Counter(run.end_here or "it does not start here" for run in self.verdicts if run.status != "recorded")
        for end_here, count in early.items():
            lines.append(f"{format_count(count, 'run')} not recorded to the end: {end_here}.")
        if self.never_exercised:
            lines.append(f"Never exercised: {', '.join(self.never_exercised)}.")
        if self.never_compared:
            lines.append(f"Never compared: {', '.join(self.never_compared)}.")
        if self.branches:
            lines.append(f"Branches recorded to their end: {', '.join(self.branches)}.")
        if self.unrecorded_branches:
            lines.append(f"Branches never recorded to their end: {', '.join(self.unrecorded_branches)}.")
        if self.responding:
            lines.append(
                f"Not recorded: the response that {', '.join(self.responding)} may send, which no step at Pipedream can see."
            )
        return lines

    def render_text(self) -> str:
        """Render the comparison as text: counts, a table of the steps, differences, and reasons."""
        lines = self.summarize()
        table = [("step", *WORDS), *((step, *(str(self.count(step)[word]) for word in WORDS)) for step in self.steps)]
        widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
        lines += [
            f"  {'  '.join(f'{cell:<{width}}' for cell, width in zip(line, widths, strict=True))}" for line in table
        ]
        shown = list(_iter_differences(self))
        for run, step, place in shown[:MAX_SHOWN_DIFFERENCES]:
            lines += [
                "",
                f"{run.name}, step {step.step}: {place.path or step.reason}",
                *(f"  {side}" for side in describe_sides(place)),
            ]
        if len(shown) > MAX_SHOWN_DIFFERENCES:
            lines += [
                "",
                f"{format_count(len(shown) - MAX_SHOWN_DIFFERENCES, 'more difference')} not shown. --json prints all.",
            ]
        reasons = list(_iter_reasons(self))
        lines += ["", *reasons] if reasons else []
        return escape_control_characters("".join(f"{line.rstrip()}\n" for line in lines))

    def render_html(self) -> Html:
        """Render the comparison as HTML for a page."""
        rows = [tag("tr", *(tag("th", head, scope="col") for head in ("step", *WORDS)))]
        for step in self.steps:
            counts = self.count(step)
            cells = (
                tag("td", pill(str(counts[word]), _RECORD_TONES[word]) if counts[word] else "0", class_="count")
                for word in WORDS
            )
            rows.append(tag("tr", tag("th", step, scope="row"), *cells))
        parts = [*(tag("p", line) for line in self.summarize()), tag("table", join_lines(rows))]
        shown = list(_iter_differences(self))
        for run, found, place in shown[:MAX_SHOWN_DIFFERENCES]:
            parts.append(tag("p", f"{run.name}, step {found.step}: ", tag("code", place.path or found.reason or "")))
            if place.path:
                parts.append(tag("pre", "\n".join(describe_sides(place))))
        if len(shown) > MAX_SHOWN_DIFFERENCES:
            parts.append(tag("p", f"{format_count(len(shown) - MAX_SHOWN_DIFFERENCES, 'more difference')} not shown."))
        if reasons := list(_iter_reasons(self)):
            parts.append(tag("ul", *(tag("li", reason) for reason in reasons)))
        return join_lines(parts)


def _word_of(run: RecordVerdict) -> RecordWord:
    found = {step.verdict for step in run.steps}
    if "differs" in found:
        return "differs"
    if "not recorded" in found and found <= {"not recorded", "not exercised"}:
        return "not recorded"
    # a run of which one step is not comparable is still compared in the others
    return "same" if "same" in found and run.refusal is None else "not comparable"


def _iter_differences(proof: RecordProof) -> Iterator[tuple[RecordVerdict, RecordedStep, RecordedPlace]]:
    for run in proof.verdicts:
        for step in run.steps:
            if step.verdict != "differs":
                continue
            places = [place for place in step.places if place.reason is None]
            for place in places or [RecordedPlace("", None, None)]:
                yield run, step, place


def _iter_reasons(proof: RecordProof) -> Iterator[str]:
    """Yield why steps and runs are not comparable, each reason once with where."""
    reasons: dict[str, dict[str, int]] = {}
    for run in proof.verdicts:
        if run.refusal is not None:
            found = reasons.setdefault(run.refusal, {})
            found["whole run"] = found.get("whole run", 0) + 1
        for step in run.steps:
            if step.verdict == "not comparable" and not step.places:
                found = reasons.setdefault(step.reason or "", {})
                found[step.step] = found.get(step.step, 0) + 1
            for place in step.places:
                if place.reason is not None:
                    found = reasons.setdefault(place.reason, {})
                    name = f"{step.step}.{place.path}"
                    found[name] = found.get(name, 0) + 1
    for reason, where in reasons.items():
        named = [f"{name} ({format_count(count, 'run')})" for name, count in list(where.items())[:4]]
        more = f" and {len(where) - 4} more" if len(where) > 4 else ""
        yield f"Not comparable: {', '.join(named)}{more}: {reason}"


def describe_sides(place: RecordedPlace) -> list[str]:
    """Return a line for each side of *place*, with the start of its value; none for a place without a path."""
    if not place.path:
        return []
    sides: tuple[tuple[str, Any], ...] = (("Pipedream", place.recorded), ("here", place.here))
    return [
        f"{side:<9}  {'nothing' if value is None else formatting.truncate_line(value, _WIDTH)}" for side, value in sides
    ]
