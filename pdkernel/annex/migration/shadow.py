"""
Records compared as they arrive (`pdkernel migrate shadow`), and what they have shown so far, by workflow and step.

A result is stored in one file before the next record is compared, so a process that is killed repeats at most the record that it was
comparing, and that record once: it may have caused the end, and would keep all others from their turn. A result belongs to the record and to the text of the workflow, `compute_text`: a record that got its end later is compared
again, and results of another text are counted apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from pdkernel.annex.migration.collection import collect
from pdkernel.annex.proof.record_comparison import (
    RecordTarget,
    build_record_proof,
    find_recorded_id,
    general_path,
    iter_verdicts,
)
from pdkernel.annex.proof.recorded_runs import RecordedRun, open_records
from pdkernel.annex.proof.report import (
    WORDS,
    RecordedPlace,
    RecordedStep,
    RecordProof,
    RecordVerdict,
    describe_sides,
)
from pdkernel.common.encode import JsonStruct, encode_json
from pdkernel.common.identity import Directory
from pdkernel.egress import OutboundPolicy
from pdkernel.errors import DamagedRecordError, PdkernelError, RequestError, format_count
from pdkernel.files.source import find_sources, load_source
from pdkernel.render.markup import Html, escape_control_characters, join_lines, tag
from pdkernel.storage import Project

RUN_TIME: Final = timedelta(minutes=15)
"""How long a record without an end is expected to get it: a run at Pipedream takes at most 750 seconds, without its pauses."""
_MAX_ATTEMPTS = 2
_GIVEN_UP = "The process ended twice while it compared the record. Compare it again: --again"
_MAX_PLACES = 20
_MAX_PLACE_CHARS = 1_000
_LOCK_FILE = ".shadow.lock"


class ShadowResult(JsonStruct, frozen=True):
    """
    The stored result of one comparison.

    Attributes:
        text: The text of the workflow that was compared, as `compute_text`.
        record: A hash of the record.
        verdict: The verdict, with at most 20 places of a step; None while the record is compared.
        attempts: How often the comparison was begun without an end.
        branches: Branches whose end was recorded.
        known_branches: All branches that have a recording step at their end.
    """

    text: str
    record: str
    verdict: RecordVerdict | None
    branches: tuple[str, ...] = ()
    known_branches: tuple[str, ...] = ()
    attempts: int = 0


class FirstDifference(JsonStruct, frozen=True):
    """The first difference of a step: the record's name and time, and the place with both values; a sentence if there is no place."""

    record: str
    at: str
    path: str
    recorded: str | None
    here: str | None
    reason: str | None = None

    def describe(self) -> list[str]:
        """Return a line with the place, and a line for each side."""
        place = RecordedPlace(self.path, self.recorded, self.here)
        return [f"{self.record}: {self.path or self.reason or ''}", *(f"  {side}" for side in describe_sides(place))]


class ShadowStep(JsonStruct, frozen=True):
    """
    What the records have shown of one step.

    Attributes:
        step: The step's name.
        words: The number of records by verdict.
        last_at: The time of the last run that exercised the step, or None.
        first_difference: The oldest difference, or None.
    """

    step: str
    words: dict[str, int]
    last_at: str | None = None
    first_difference: FirstDifference | None = None


class ShadowWorkflow(JsonStruct, frozen=True):
    """
    What the records have shown of one workflow.

    Attributes:
        proof: The results of the present text.
        text: The present text, as `compute_text`.
        waiting: Records whose end may still arrive.
        earlier: The number of records by their word that were compared with an earlier text.
    """

    proof: RecordProof
    text: str
    waiting: int = 0
    earlier: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def steps(self) -> tuple[ShadowStep, ...]:
        """The enabled steps, in order."""
        words = {name: Counter[str](dict.fromkeys(WORDS, 0)) for name in self.proof.steps}
        last: dict[str, str] = {}
        first: dict[str, FirstDifference] = {}
        for run in sorted(self.proof.verdicts, key=lambda run: run.at):
            for step in run.steps:
                words[step.step][step.verdict] += 1
                if step.verdict != "not exercised":
                    last[step.step] = run.at
                if step.verdict == "differs" and step.step not in first:
                    first[step.step] = find_first_difference(run, step)
        return tuple(ShadowStep(name, dict(each), last.get(name), first.get(name)) for name, each in words.items())

    def json_form(self) -> object:
        """Return `{"workflow", "id", "text", "counts", "last_at", "waiting", "earlier_text", "steps"}`."""
        return {
            "workflow": self.proof.workflow,
            "id": self.proof.workflow_id,
            "text": self.text,
            "counts": self.proof.counts,
            "last_at": max((run.at for run in self.proof.verdicts), default=None),
            "waiting": self.waiting,
            "earlier_text": self.earlier,
            "steps": [step.to_json() for step in self.steps],
        }

    def summarize(self) -> list[str]:
        """Sum up the results in sentences."""
        lines = self.proof.summarize()
        if self.earlier:
            words = ", ".join(f"{count:,} {word}" for word, count in self.earlier.items())
            lines.append(
                f"With an earlier text or earlier rules: {format_count(sum(self.earlier.values()), 'run')}, {words}. Compare again: --again"
            )
        if self.waiting:
            lines.append(f"{format_count(self.waiting, 'run')} without an end yet: compared later.")
        refusals = Counter(run.refusal for run in self.proof.verdicts if run.refusal is not None)
        lines += [f"Not comparable: {format_count(count, 'run')}: {reason}" for reason, count in refusals.items()]
        return lines

    @property
    def rows(self) -> list[list[str]]:
        """The table: a head, and a row for each step."""
        counts = [[step.step, *(str(step.words[word]) for word in WORDS), step.last_at or "-"] for step in self.steps]
        return [["step", *WORDS, "last event"], *counts]

    @property
    def differing_steps(self) -> tuple[tuple[str, FirstDifference], ...]:
        """The steps that differ, each with its first difference."""
        return tuple((step.step, step.first_difference) for step in self.steps if step.first_difference is not None)


class ShadowReport(JsonStruct, frozen=True):
    """
    What the records have shown.

    Attributes:
        workflows: The workflows that have records.
        unknown: Pipedream's ids of workflows that have records, and are not among the sources.
        problems: Sentences about workflows and records that cannot be read.
        unreadable: The number of workflows that cannot be read.
    """

    workflows: tuple[ShadowWorkflow, ...]
    unknown: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    unreadable: int = 0

    @property
    def differs(self) -> bool:
        """Whether a step of a workflow's present text differs."""
        return any(each.proof.differs for each in self.workflows)

    def json_form(self) -> object:
        """Return `{"differs", "workflows", "unknown", "problems"}`."""
        return {
            "differs": self.differs,
            "workflows": [each.to_json() for each in self.workflows],
            "unknown": self.unknown,
            "problems": self.problems,
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what is not compared."""
        names = f"Records of workflows that are not here: {', '.join(self.unknown)}."
        return (*((names,) if self.unknown else ()), *self.problems)

    def render_text(self) -> str:
        """Render the report as text: for each workflow its counts, a table of the steps, and the first difference of a step."""
        lines: list[str] = []
        for each in self.workflows:
            lines += ["", *each.summarize()]
            rows = each.rows
            widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
            lines += [
                f"  {'  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True))}" for row in rows
            ]
            for step, first in each.differing_steps:
                lines += ["", *(f"First difference of {step}, {first.describe()[0]}", *first.describe()[1:])]
        lines += ["", *self.notes] if self.notes else []
        return escape_control_characters("".join(f"{line.rstrip()}\n" for line in lines[1:]))

    def render_html(self) -> Html:
        """Render the report as HTML for a page."""
        parts: list[Html] = []
        for each in self.workflows:
            head, *rows = each.rows
            table = [tag("tr", *(tag("th", cell, scope="col") for cell in head))]
            for name, *cells in rows:
                table.append(
                    tag("tr", tag("th", name, scope="row"), *(tag("td", cell, class_="count") for cell in cells))
                )
            parts += [
                tag("h2", each.proof.workflow),
                *(tag("p", line) for line in each.summarize()),
                tag("table", join_lines(table)),
            ]
            for step, first in each.differing_steps:
                where, *sides = first.describe()
                parts += [tag("p", f"First difference of {step}, {where}"), tag("pre", "\n".join(sides))]
        parts += [tag("p", note) for note in self.notes]
        return join_lines(parts)


def find_first_difference(run: RecordVerdict, step: RecordedStep) -> FirstDifference:
    """Return the first difference of a *step* that differs in *run*."""
    place = next((each for each in step.places if each.reason is None), RecordedPlace("", None, None))
    return FirstDifference(run.name, run.at, place.path, place.recorded, place.here, step.reason)


def compute_text(target: RecordTarget, rules: Mapping[str, str]) -> str:
    """Return a hash of what a result depends on: the workflow, the files that its steps import, and the rules of a person."""
    return _hash([target.moved_workflow.version, sorted(rules)])


def _hash(value: Any) -> str:
    return hashlib.sha256(encode_json(value)).hexdigest()[:12]


@dataclass
class _Followed:
    """The records of one workflow: the results, and the files that were looked at."""

    results: dict[str, ShadowResult]
    seen: dict[str, int] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)


DifferenceListener = Callable[[str, str, FirstDifference], None]


class Shadow:
    """
    Compares the records of a project with the workflows of *sources*, each record once.

    Args:
        sources: Paths of notebooks, folders and repositories.
        project: The project with the records, packages, actions, accounts, variables and data stores; only results are stored in it.
        directory: Users and accounts.
        environ: Environment variables with settings of package registries.
        policy: A stand-in that answers outbound calls; None refuses them.
        again: Whether records are compared that were compared before.
        progress: Called with a line for each record.
        on_difference: Called with the workflow's name, the step and a difference at a place that has not differed before.

    Raises:
        NotebookError: A source contains no workflow.
        RequestError: Another process compares the records of the project.
    """

    def __init__(
        self,
        sources: Sequence[Path],
        *,
        project: Project,
        directory: Directory,
        environ: Mapping[str, str],
        policy: OutboundPolicy | None = None,
        again: bool = False,
        progress: Callable[[str], None] = lambda _: None,
        on_difference: DifferenceListener = lambda *_: None,
    ) -> None:
        self._sources = sources
        self._project = project
        self._directory = directory
        self._environ = environ
        self._policy = policy
        self._again = again
        self._progress = progress
        self._on_difference = on_difference
        self._archive = open_records(project)
        self._entries: dict[tuple[str, str], tuple[tuple[str, int], ...]] = {}
        self._followed: dict[str, _Followed] = {}
        self._reported: set[tuple[str, str, str, str]] = set()
        self._problems: dict[str, str] = {}
        self.is_stopped = False
        """Whether `compare_new` shall end without the record that it is comparing; set it before its task is cancelled."""
        for source in sources:
            find_sources(source)
        self._lock = _lock(self._archive.folder)

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about workflows and records that cannot be read."""
        return tuple(self._problems.values())

    def close(self) -> None:
        """Let another process compare the records."""
        os.close(self._lock)

    async def compare_new(self) -> int:
        """
        Compare the records that are new since the last call, and those that have changed; returns their number.

        A record and a workflow that cannot be read are problems of the report, and are tried again when they change.
        """
        self._pair_entries()
        count = 0
        targets: dict[str, RecordTarget] | None = None
        for workflow_id in self._archive.workflow_ids():
            followed = self._follow(workflow_id)
            due = self._iter_due(workflow_id, followed)
            if (first := next(due, None)) is None:
                continue
            targets = self._load_targets() if targets is None else targets
            if (target := targets.get(workflow_id)) is not None:
                count += await self._compare_workflow(workflow_id, target, followed, chain([first], due))
        return count

    def build_report(self) -> ShadowReport:
        """Return what the stored results show of the present workflows."""
        targets = self._load_targets()
        ids = self._archive.workflow_ids()
        return ShadowReport(
            tuple(self._build_workflow(each, targets[each]) for each in ids if each in targets),
            tuple(each for each in ids if each not in targets and self._archive.list_runs(each)),
            self.problems,
            sum(key.startswith("source ") for key in self._problems),
        )

    def _pair_entries(self) -> None:
        """Pair the entries of the runs that have new ones."""
        for key, paths in self._archive.list_entries().items():
            stamps = tuple(_stamp(path) for path in paths)
            if self._entries.get(key) == stamps:
                continue
            problem = f"entry {'/'.join(key)}"
            try:
                collect([self._archive.read_entry(path) for path in paths], self._archive)
                self._problems.pop(problem, None)
            except FileNotFoundError:
                continue  # a person removed it
            except DamagedRecordError as error:
                self._problems[problem] = str(error)
            self._entries[key] = stamps

    def _load_targets(self) -> dict[str, RecordTarget]:
        """Return the workflows by Pipedream's id, as they are now."""
        found: dict[str, RecordTarget] = {}
        self._problems = {key: text for key, text in self._problems.items() if not key.startswith("source ")}
        for path in self._iter_sources():
            try:
                loaded = load_source(path)
            except PdkernelError as error:
                self._problems[f"source {path}"] = f"{path} is not compared: {error}"
                continue
            workflow_id = find_recorded_id(loaded.workflow, path)
            if workflow_id is not None:
                found.setdefault(workflow_id, RecordTarget.of(loaded))
        return found

    def _iter_sources(self) -> Iterator[Path]:
        for source in self._sources:
            try:
                yield from find_sources(source)
            except PdkernelError as error:
                self._problems[f"source {source}"] = f"{source} is not compared: {error}"

    def _follow(self, workflow_id: str) -> _Followed:
        if workflow_id not in self._followed:
            self._followed[workflow_id] = _Followed(self._archive.load_results(workflow_id, ShadowResult))
        return self._followed[workflow_id]

    async def _compare_workflow(
        self, workflow_id: str, target: RecordTarget, followed: _Followed, due: Iterable[RecordedRun]
    ) -> int:
        rules = self._archive.load_rules(workflow_id)
        text = compute_text(target, rules)
        begun: list[RecordedRun] = []
        verdicts = iter_verdicts(
            target,
            self._iter_begun(due, followed, text, begun),
            rules,
            project=self._project,
            directory=self._directory,
            environ=self._environ,
            policy=self._policy,
            progress=self._progress,
        )
        count = 0
        try:
            async with aclosing(verdicts):
                async for record, verdict in verdicts:
                    if self.is_stopped:  # the run was cancelled, so its verdict says nothing
                        break
                    self._save(followed, record, _build_result(text, record, _limit(verdict)))
                    begun.clear()
                    count += 1
                    self._report_differences(target.workflow.name, text, verdict)
        finally:
            for record in begun:  # ended by an error or a person, not by the record
                self._archive.remove_result(record)
        return count

    def _iter_begun(
        self, due: Iterable[RecordedRun], followed: _Followed, text: str, begun: list[RecordedRun]
    ) -> Iterator[RecordedRun]:
        """Yield the records of *due* whose comparison begins, which is stored; one that has ended two processes is given up."""
        for record in due:
            earlier = followed.results.get(record.name)
            is_same = earlier is not None and earlier.record == _hash(record) and not self._again
            attempts = earlier.attempts if earlier is not None and is_same else 0
            if attempts >= _MAX_ATTEMPTS:
                refused = RecordVerdict(record.name, record.at, record.status, (), refusal=_GIVEN_UP)
                self._save(followed, record, _build_result(text, record, refused))
                continue
            begun.append(record)
            mark = _build_result(text, record, None)
            self._archive.save_result(record, replace(mark, attempts=attempts + 1))
            yield record

    def _save(self, followed: _Followed, record: RecordedRun, result: ShadowResult) -> None:
        self._archive.save_result(record, result)
        followed.results[record.name] = result

    def _iter_due(self, workflow_id: str, followed: _Followed) -> Iterator[RecordedRun]:
        """Yield the records to compare, the oldest first, one by one: the next is read when the result of the last is stored."""
        followed.waiting.clear()
        for path in self._archive.list_runs(workflow_id):
            stamp = _stamp(path)[1]
            if followed.seen.get(path.name) == stamp:
                continue
            try:
                record = self._archive.load_run(path)
                self._problems.pop(f"record {path}", None)
            except (DamagedRecordError, FileNotFoundError) as error:
                self._problems[f"record {path}"] = str(error)
                followed.seen[path.name] = stamp
                continue
            result = followed.results.get(record.name)
            is_new = result is None or result.verdict is None or result.record != _hash(record)
            is_first_look = path.name not in followed.seen
            if is_new and _may_get_end(record, self._project.clock.now()):
                followed.waiting.add(record.name)
                continue
            if is_new or (self._again and is_first_look):
                yield record
            followed.seen[path.name] = stamp

    def _report_differences(self, workflow: str, text: str, verdict: RecordVerdict) -> None:
        for step in verdict.steps:
            if step.verdict != "differs":
                continue
            found = find_first_difference(verdict, step)
            key = (workflow, text, step.step, general_path(found.path))
            if key not in self._reported:
                self._reported.add(key)
                self._on_difference(workflow, step.step, found)

    def _build_workflow(self, workflow_id: str, target: RecordTarget) -> ShadowWorkflow:
        followed = self._follow(workflow_id)
        text = compute_text(target, self._archive.load_rules(workflow_id))
        results = [result for _, result in sorted(followed.results.items()) if result.verdict is not None]
        present = [result for result in results if result.text == text]
        others = [result for result in results if result.text != text]

        def build(results: Sequence[ShadowResult]) -> RecordProof:
            return build_record_proof(
                target,
                workflow_id,
                (each.verdict for each in results if each.verdict is not None),
                branches=chain.from_iterable(each.branches for each in results),
                known_branches=chain.from_iterable(each.known_branches for each in results),
            )

        counts = build(others).counts if others else {}
        words = {
            "same": "same",
            "differs": "differ",
            "not_comparable": "not comparable",
            "not_recorded": "not recorded",
        }
        earlier = {words[key]: count for key, count in counts.items() if key in words and count}
        return ShadowWorkflow(build(present), text, len(followed.waiting), earlier)


def _build_result(text: str, record: RecordedRun, verdict: RecordVerdict | None) -> ShadowResult:
    return ShadowResult(text, _hash(record), verdict, record.branches, record.known_branches)


def _stamp(path: Path) -> tuple[str, int]:
    """Return the path with the time of its last change, 0 if it was removed."""
    with contextlib.suppress(FileNotFoundError):
        return str(path), path.stat().st_mtime_ns
    return str(path), 0


def _may_get_end(record: RecordedRun, now: datetime) -> bool:
    return record.status != "recorded" and abs(now - record.started_at) < RUN_TIME


def _limit(verdict: RecordVerdict) -> RecordVerdict:
    """Return *verdict* with a bounded size: the first places of each step, those that differ first, with the start of their values."""
    return replace(verdict, steps=tuple(replace(step, places=_limit_places(step.places)) for step in verdict.steps))


def _limit_places(places: Sequence[RecordedPlace]) -> tuple[RecordedPlace, ...]:
    ordered = sorted(places, key=lambda place: place.reason is not None)
    kept = [
        replace(
            place,
            path=_cut(place.path),
            recorded=None if place.recorded is None else _cut(place.recorded),
            here=None if place.here is None else _cut(place.here),
        )
        for place in ordered[:_MAX_PLACES]
    ]
    if rest := ordered[_MAX_PLACES:]:
        kept.append(RecordedPlace(f"({len(rest):,} more)", None, None, rest[0].reason))
    return tuple(kept)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_PLACE_CHARS else f"{text[:_MAX_PLACE_CHARS]}…"


def _lock(folder: Path) -> int:
    """Lock the records for this process; the kernel unlocks them when it ends. Returns the descriptor of the lock."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RequestError(
            "Another `pdkernel migrate shadow` compares the records of this project.",
            fix="End it, or use its output: two would compare each record twice.",
        ) from None
    return descriptor
