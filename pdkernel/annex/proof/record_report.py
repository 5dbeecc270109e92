"""A workflow compared with its recorded runs at Pipedream, and the view of it: counts for each step, and every difference; values are redacted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pdkernel.common.encode import JsonStruct
from pdkernel.errors import format_count
from pdkernel.render import formatting
from pdkernel.render.markup import Html, Tone, escape_control_characters, join_lines, pill, tag

RecordWord = Literal["same", "differs", "not comparable", "not recorded", "not exercised"]
WORDS: Final[tuple[RecordWord, ...]] = ("same", "differs", "not comparable", "not recorded", "not exercised")
_TONES: Final[Mapping[str, Tone]] = {
    "same": "good",
    "differs": "bad",
    "not comparable": "warn",
    "not recorded": "warn",
    "not exercised": "quiet",
}
MAX_SHOWN_DIFFERENCES = 20
"""Maximum number of differences in text and HTML; the JSON has all."""
_WIDTH = 300


class RecordedPlace(JsonStruct, frozen=True):
    """
    A place where the record and the run here differ.

    Attributes:
        path: Path in the exports: `$return_value.items[2].name`.
        recorded: The recorded value as JSON text; None for no value.
        here: The value here as JSON text; None for no value.
        reason: Why the place is not comparable; None for a difference.
    """

    path: str
    recorded: str | None
    here: str | None
    reason: str | None = None


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
        """The verdicts on *step* over all recorded runs."""
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
        """`{"workflow", "id", "counts", "steps", "never_exercised", "never_compared", "branches", "unrecorded_branches", "responding", "runs"}`."""
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


def _word_of(run: RecordVerdict) -> RecordWord:
    found = {step.verdict for step in run.steps}
    if "differs" in found:
        return "differs"
    if "not recorded" in found and found <= {"not recorded", "not exercised"}:
        return "not recorded"
    # a run of which one step is not comparable is still compared in the others
    return "same" if "same" in found and run.refusal is None else "not comparable"


def summarize(proof: RecordProof) -> list[str]:
    """The comparison in sentences."""
    counts = proof.counts
    parts = [
        f"{counts['same']:,} same",
        f"{counts['differs']:,} differ",
        f"{counts['not_comparable']:,} not comparable",
    ]
    lines = [
        f"{proof.workflow} ({proof.workflow_id}) against {format_count(counts['recorded'], 'run')} at Pipedream: {', '.join(parts)}."
    ]
    early = Counter(run.end_here or "it does not start here" for run in proof.verdicts if run.status != "recorded")
    for end_here, count in early.items():
        lines.append(f"{format_count(count, 'run')} not recorded to the end: {end_here}.")
    if proof.never_exercised:
        lines.append(f"Never exercised: {', '.join(proof.never_exercised)}.")
    if proof.never_compared:
        lines.append(f"Never compared: {', '.join(proof.never_compared)}.")
    if proof.branches:
        lines.append(f"Branches recorded to their end: {', '.join(proof.branches)}.")
    if proof.unrecorded_branches:
        lines.append(f"Branches never recorded to their end: {', '.join(proof.unrecorded_branches)}.")
    if proof.responding:
        lines.append(
            f"Not recorded: the response that {', '.join(proof.responding)} may send, which no step at Pipedream can see."
        )
    return lines


def render_text(proof: RecordProof) -> str:
    """Render the comparison as text: counts, a table of the steps, differences, and reasons."""
    lines = summarize(proof)
    table = [("step", *WORDS), *((step, *(str(proof.count(step)[word]) for word in WORDS)) for step in proof.steps)]
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    lines += [f"  {'  '.join(f'{cell:<{width}}' for cell, width in zip(line, widths, strict=True))}" for line in table]
    shown = list(_iter_differences(proof))
    for run, step, place in shown[:MAX_SHOWN_DIFFERENCES]:
        lines += [
            "",
            f"{run.name}, step {step.step}: {place.path or step.reason}",
            *(f"  {side}" for side in _sides(place)),
        ]
    if len(shown) > MAX_SHOWN_DIFFERENCES:
        lines += [
            "",
            f"{format_count(len(shown) - MAX_SHOWN_DIFFERENCES, 'more difference')} not shown. --json prints all.",
        ]
    reasons = list(_iter_reasons(proof))
    lines += ["", *reasons] if reasons else []
    return escape_control_characters("".join(f"{line.rstrip()}\n" for line in lines))


def render_html(proof: RecordProof) -> Html:
    """Render the comparison as HTML for a page."""
    rows = [tag("tr", *(tag("th", head, scope="col") for head in ("step", *WORDS)))]
    for step in proof.steps:
        counts = proof.count(step)
        cells = (
            tag("td", pill(str(counts[word]), _TONES[word]) if counts[word] else "0", class_="count") for word in WORDS
        )
        rows.append(tag("tr", tag("th", step, scope="row"), *cells))
    parts = [*(tag("p", line) for line in summarize(proof)), tag("table", join_lines(rows))]
    shown = list(_iter_differences(proof))
    for run, found, place in shown[:MAX_SHOWN_DIFFERENCES]:
        parts.append(tag("p", f"{run.name}, step {found.step}: ", tag("code", place.path or found.reason or "")))
        if place.path:
            parts.append(tag("pre", "\n".join(_sides(place))))
    if len(shown) > MAX_SHOWN_DIFFERENCES:
        parts.append(tag("p", f"{format_count(len(shown) - MAX_SHOWN_DIFFERENCES, 'more difference')} not shown."))
    if reasons := list(_iter_reasons(proof)):
        parts.append(tag("ul", *(tag("li", reason) for reason in reasons)))
    return join_lines(parts)


def _iter_differences(proof: RecordProof) -> Iterator[tuple[RecordVerdict, RecordedStep, RecordedPlace]]:
    for run in proof.verdicts:
        for step in run.steps:
            if step.verdict != "differs":
                continue
            places = [place for place in step.places if place.reason is None]
            for place in places or [RecordedPlace("", None, None)]:
                yield run, step, place


def _iter_reasons(proof: RecordProof) -> Iterator[str]:
    """Why steps and runs are not comparable, each reason once with where."""
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


def _sides(place: RecordedPlace) -> list[str]:
    if not place.path:
        return []
    sides: tuple[tuple[str, Any], ...] = (("Pipedream", place.recorded), ("here", place.here))
    return [
        f"{side:<9}  {'nothing' if value is None else formatting.truncate_line(value, _WIDTH)}" for side, value in sides
    ]
