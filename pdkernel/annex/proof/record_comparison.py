"""
A workflow here compared with its recorded runs at Pipedream, step by step.

Every recorded event runs here. A step that is not the same gets the recorded exports, and the run is repeated, so one difference is
reported once, at the step that makes it. A step whose outbound call is not answered offline gets the recorded exports, too.

A place that differs is *not comparable* if it is not determined by what was recorded:
    - a second run with another clock, other random numbers, other text for hidden values and empty data stores changes it;
    - the recorded value is hidden or left out, or the step reads a hidden field and does not hand it on, so it may compare it;
    - it is an id that the other side made: different in every record, and one and the same here;
    - a person declared it.

A run that was not recorded to the end is compared in the steps that the end of a branch recorded. The others are *not recorded*: what
they did there, and which of them ended the run, is not known. So are the steps of a parallel branch without a recording step.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pdkernel.annex.proof.comparison import MISSING, ValueDifference, find_differences, is_refused_before_start
from pdkernel.annex.proof.recorded_runs import OMITTED, RecordArchive, RecordedRun
from pdkernel.annex.proof.report import RecordedPlace, RecordedStep, RecordProof, RecordVerdict
from pdkernel.annex.proof.side_runner import (
    ProofCase,
    ProofRunner,
    ProofSide,
    SideRun,
    cache_directory,
    find_unavailable_actions,
    has_unrecorded_call,
    normalize_for_run,
)
from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import Directory, parse_environment
from pdkernel.common.redaction import Redactor
from pdkernel.common.secret_patterns import REDACTED
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.account_resolution import collect_secrets
from pdkernel.engine.variables import load_variables
from pdkernel.errors import EventError, RequestError
from pdkernel.event import EVENT_KEYS
from pdkernel.execution import BlockChoice, StepResult
from pdkernel.files.source import WorkflowSource
from pdkernel.language.analysis import responds
from pdkernel.model import ROUND_TRIP_KEY, Step, Workflow
from pdkernel.storage import Project

ProgressListener = Callable[[str], None]
_RECORDING_PREFIX = "pd_record_"
_WORKFLOW_ID = re.compile(r"-(p_[A-Za-z0-9]{4,})(?:\.ipynb|\.py)?\Z")
_OTHER_MARK = "another value that is hidden"
_OTHER_SEED = "pdkernel proof, otherwise"
_OTHER_TIME = timedelta(days=397, hours=5, minutes=7, seconds=11)
_MIN_LEARNED_RECORDS = 3
_PLACEHOLDER = re.compile(r"⟦secret:[^⟧]*⟧|\*\*\*|" + re.escape(REDACTED))
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?|\d\d:\d\d(?::\d\d(?:\.\d+)?)?|\b\d{10}(?:\d{3})?(?:\.\d+)?\b"
    r"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? |\b\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{4}"
)
_MIN_ID_CHARS = 8
_MIN_ID_NUMBER = 10_000_000
CHANCE = "differs between two runs here: time, chance, or a hidden value"
_HIDDEN = "hidden in the record"
_LEFT_OUT = "too large for the record"
_OTHER_SIDE = "an id that the other side made: different in every record, the same in every run here"
_SUMMARY = "a sentence for people"


@dataclass(frozen=True)
class RecordTarget:
    """
    A workflow to compare with its records.

    Attributes:
        path: The notebook or folder.
        folder: The folder in which imports of steps are resolved.
        workflow: The workflow.
        actions: The sources of its actions; empty for the project's setting.
    """

    path: Path
    folder: Path
    workflow: Workflow
    actions: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: WorkflowSource) -> RecordTarget:
        """Return the workflow of *source*."""
        return cls(source.path, source.folder, source.workflow, source.sidecar.actions if source.sidecar else ())

    @property
    def moved_workflow(self) -> Workflow:
        """The workflow without recording steps."""
        names = {step.name for step in self.workflow.steps if step.name.startswith(_RECORDING_PREFIX)}
        return self.workflow.without_steps(names)


def find_recorded_id(workflow: Workflow, *paths: Path) -> str | None:
    """Return Pipedream's id of *workflow*: of its definition, or of the name of its folder or notebook among *paths*."""
    kept = workflow.extra.get(ROUND_TRIP_KEY)
    found = kept.get("id") if isinstance(kept, dict) else None
    if isinstance(found, str):
        return found
    named = (_WORKFLOW_ID.search(path.resolve().name) for path in paths)
    return next((each[1] for each in named if each is not None), None)


async def compare_records(
    target: RecordTarget,
    archive: RecordArchive,
    workflow_id: str,
    *,
    project: Project,
    directory: Directory,
    environ: Mapping[str, str],
    policy: OutboundPolicy | None = None,
    progress: ProgressListener = lambda _: None,
) -> RecordProof:
    """
    Run every recorded event of a workflow here, offline, and compare the steps with the recorded ones.

    Args:
        target: The workflow.
        archive: The records.
        workflow_id: Pipedream's id of the workflow.
        project: The project with packages, actions, accounts, variables and data stores; it is not changed.
        directory: Users and accounts.
        environ: Environment variables with settings of package registries.
        policy: A stand-in that answers outbound calls; None refuses them.
        progress: Called with a line for each record.

    Raises:
        DamagedRecordError: A record cannot be decrypted.
        RequestError: The rules of a person cannot be read.
    """
    records = archive.load(workflow_id)
    comparing = iter_verdicts(
        target,
        records,
        archive.load_rules(workflow_id),
        project=project,
        directory=directory,
        environ=environ,
        policy=policy,
        progress=progress,
    )
    verdicts = [verdict async for _, verdict in comparing]
    return build_record_proof(
        target,
        workflow_id,
        verdicts,
        branches=(name for record in records for name in record.branches),
        known_branches=(name for record in records for name in record.known_branches),
    )


def build_record_proof(
    target: RecordTarget,
    workflow_id: str,
    verdicts: Iterable[RecordVerdict],
    *,
    branches: Iterable[str],
    known_branches: Iterable[str],
) -> RecordProof:
    """Return the *verdicts* on runs of one workflow as a proof; the branches are those of its fields, in any order."""
    steps = [step for step in target.moved_workflow.steps if not step.disabled]
    return RecordProof(
        workflow=target.workflow.name,
        workflow_id=workflow_id,
        steps=tuple(step.name for step in steps),
        verdicts=_learn_ids(tuple(verdicts)),
        branches=tuple(sorted(set(branches))),
        known_branches=tuple(sorted(set(known_branches))),
        responding=tuple(step.name for step in steps if responds(step) != "never"),
    )


async def iter_verdicts(
    target: RecordTarget,
    records: Iterable[RecordedRun],
    rules: Mapping[str, str],
    *,
    project: Project,
    directory: Directory,
    environ: Mapping[str, str],
    policy: OutboundPolicy | None = None,
    progress: ProgressListener = lambda _: None,
) -> AsyncGenerator[tuple[RecordedRun, RecordVerdict], None]:
    """
    Yield each of *records* with its verdict, as soon as it is compared; close the iterator, which has worker processes.

    Args:
        target: The workflow.
        records: Its recorded runs, the oldest first; they are read one by one.
        rules: The places that a person declared not comparable, with the reasons.
        project: As in `compare_records`, and so are the others.
        directory: Users and accounts.
        environ: Environment variables with settings of package registries.
        policy: A stand-in that answers outbound calls; None refuses them.
        progress: Called with a line for each record.
    """
    folder, workflow = target.folder.resolve(), target.moved_workflow
    side = ProofSide(
        workflow=normalize_for_run(workflow, workflow),
        folder=folder,
        actions=target.actions,
        load_variables=partial(load_variables, project),
        source=target.path.name,
        source_path=target.path,
    )
    redactor = Redactor(collect_secrets(project, folder))
    start = partial(ProofRunner.start, project, cache_directory(directory, project), environ)
    for _, runs in groupby(records, key=lambda record: record.at[:10]):
        first = next(runs)
        at = first.started_at.replace(microsecond=0)
        # one clock a day: a workflow that reads the date does what it did on that day
        async with await start(frozen_time=at) as runner:
            other = _Lazy(partial(start, frozen_time=at + _OTHER_TIME, seed=_OTHER_SEED))
            try:
                excluded = find_unavailable_actions(
                    side.workflow, runner.catalog.with_sources(side.actions, base=side.folder)
                )
                for record in chain([first], runs):
                    progress(f"comparing {record.name} ...")
                    compared = _RunComparison(
                        side, record, rules, runner, other, excluded, policy, now=project.clock.now()
                    )
                    await compared.run()
                    yield record, compared.build_verdict(redactor)
            finally:
                await other.close()


class _Lazy:
    """A second runner, with another clock and other random numbers, that starts with its first use."""

    def __init__(self, start: Callable[[], Awaitable[ProofRunner]]) -> None:
        self._start = start
        self._runner: ProofRunner | None = None

    async def get(self) -> ProofRunner:
        """Return the runner."""
        if self._runner is None:
            self._runner = await self._start()
        return self._runner

    async def close(self) -> None:
        """Stop the runner, if it was started."""
        if self._runner is not None:
            await self._runner.close()


@dataclass
class _Place:
    path: str
    recorded: Any
    here: Any
    reason: str | None = None

    @property
    def differs(self) -> bool:
        return self.reason is None


@dataclass
class _Step:
    name: str
    verdict: str
    places: list[_Place] = field(default_factory=list)
    reason: str | None = None

    def settle(self) -> None:
        """Derive the verdict from the places."""
        if self.places:
            self.verdict = "differs" if any(place.differs for place in self.places) else "not comparable"
            if self.verdict == "not comparable":
                self.reason = self.places[0].reason


class _RunComparison:
    """One recorded run and its runs here."""

    def __init__(
        self,
        side: ProofSide,
        record: RecordedRun,
        rules: Mapping[str, str],
        runner: ProofRunner,
        other: _Lazy,
        excluded: Mapping[str, str],
        policy: OutboundPolicy | None,
        *,
        now: datetime,
    ) -> None:
        self._side = side
        self.record = record
        self._rules = {place: re.compile(_rule_pattern(place)) for place in rules}
        self._reasons = rules
        self._runner = runner
        self._other = other
        self._policy = policy
        self._now = now
        self._hidden = _find_hidden_fields({"event": record.event, "steps": record.steps})
        self.steps: dict[str, _Step] = {}
        self.refusal: str | None = None
        self.end_here: str | None = None
        self._pins: dict[str, Mapping[str, Any]] = {}
        for name, reason in excluded.items():
            self._set(_Step(name, "not comparable", reason=reason))

    async def run(self) -> None:
        """Run the event until every step is the same or has the recorded exports."""
        try:
            await self._run()
        except RecursionError:
            self.refusal = "The event or an export is nested too deeply to be compared."

    async def _run(self) -> None:
        try:
            event = self.record.build_event(is_http=_is_http(self._side.workflow, self.record.event))
            environment = parse_environment(self.record.environment)
        except EventError:
            self.refusal = "The event was too large for the record, or is not an object."
            return
        except RequestError as fault:
            self.refusal = str(fault)
            return
        case = ProofCase(
            self.record.name,
            Path(f"{self.record.name}.json"),
            event,
            self.record.external_user_id,
            environment,
        )
        while True:
            ran = await self._runner.run(self._side, case, pins=self._pins, policy=self._policy)
            if is_refused_before_start(ran.execution):
                error = ran.execution.error
                self.refusal = error.message if error is not None else "The run does not start here."
                return
            if not await self._compare_next(ran, case):
                if self.record.status != "recorded":
                    self.end_here = _describe_end(ran)
                return

    async def _compare_next(self, ran: SideRun, case: ProofCase) -> bool:
        """Judge steps up to the first that is not the same, which gets the recorded exports; False if there is none."""
        before: StepResult | None = None
        for result in ran.execution.steps:
            name = result.name
            if isinstance(result.choice, BlockChoice) and result.error is None:
                continue  # its exports are those of its steps
            if name in self.steps or result.status == "disabled":
                before = result if result.status == "pinned" else before
                continue
            recorded = self.record.steps.get(name, {})
            if name not in self.record.steps and (self.record.status != "recorded" or self._is_out_of_sight(name)):
                if result.status in ("success", "error"):
                    self.steps[name] = _Step(name, "not recorded")
                continue
            if result.status in ("skipped", "not_run"):
                if not recorded:
                    continue
                ended = before.name if before is not None else name
                self._set(_Step(ended, "differs", reason=f"It ends the run here; there, {name} ran."))
                return True
            if has_unrecorded_call(result):
                call = next(
                    (f"{each.method} {each.url}" for each in result.requests if each.outcome == "denied"), "a call"
                )
                self._set(_Step(name, "not comparable", reason=f"It makes an outbound call: {call}"))
                return True
            if result.error is not None:
                self._set(self._judge_error(result, recorded))
                return True
            exports = _cover_hidden_lists(recorded, dict(result.exports))
            step = _Step(name, "same")
            step.places = [
                _Place(each.path, each.notebook, each.files)
                for each in find_differences("", _split_lines(recorded), _split_lines(exports))
                if not _is_nothing(each)
            ]
            if step.places:
                await self._explain(step, result, case)
                step.settle()
                self._set(step)
                return True
            self.steps[name] = step
            before = result
        return False

    def _is_out_of_sight(self, name: str) -> bool:
        """Return whether the step is in a parallel branch without a recording step: the end of the run does not see its exports."""
        around = list(self._side.workflow.branches_around(name))
        known = {branch for _, branch in around} & set(self.record.known_branches)
        return any(block.type == "parallel" for block, _ in around) and not known

    def _judge_error(self, result: StepResult, recorded: Mapping[str, Any]) -> _Step:
        assert result.error is not None
        message = f"{result.error.name}: {result.error.message}"
        entry = self._side.workflow.entry(result.name)
        field_name = self._find_hidden_field(entry) if isinstance(entry, Step) else None
        if field_name is not None:
            return _Step(
                result.name,
                "not comparable",
                reason=f"It fails here and reads {field_name}, which is hidden: {message}",
            )
        return _Step(result.name, "differs", [_Place("error", recorded.get("$return_value", MISSING), message)])

    def _set(self, step: _Step) -> None:
        self.steps[step.name] = step
        self._pins[step.name] = self.record.steps.get(step.name, {})

    async def _explain(self, step: _Step, result: StepResult, case: ProofCase) -> None:
        """Find the reasons why places of *step* are not comparable."""
        definition = self._side.workflow.step(step.name)
        for place in step.places:
            place.reason = self._find_reason(step.name, place)
        if not any(place.differs for place in step.places):
            return
        other = await self._run_otherwise(step.name, case)
        changed = (
            []
            if other is None
            else list(find_differences("", _split_lines(dict(result.exports)), _split_lines(dict(other.exports))))
        )
        has_store = bool(definition.stores) and not await run_blocking(
            self._runner.has_records, [each.store for each in definition.stores]
        )
        # a step that hands a hidden value on uses it as a value; one that does not may compare it, as a signature or a password
        is_handed_on = REDACTED in json.dumps(dict(result.exports))
        field_name = None if is_handed_on else self._find_hidden_field(definition)
        for place in step.places:
            if not place.differs:
                continue
            moved = next((each for each in changed if _overlaps(place.path, each.path)), None)
            if moved is not None and _could_be(place.recorded, place.here, moved, place.path == moved.path):
                place.reason = CHANCE
            elif has_store:
                place.reason = "depends on a data store that is empty here"
            elif field_name is not None:
                place.reason = f"depends on {field_name}, which is hidden in the record"
            elif _same_but_for_moments(place.recorded, place.here, self.record.started_at, self._now):
                place.reason = "a time"

    def _find_reason(self, step: str, place: _Place) -> str | None:
        full = f"{step}.{place.path}"
        for rule, pattern in self._rules.items():
            if pattern.match(full):
                return f"declared: {self._reasons[rule]}"
        if re.fullmatch(r"\$summary\b.*", place.path):
            return _SUMMARY
        if isinstance(place.recorded, dict) and OMITTED in place.recorded:
            return _LEFT_OUT
        if place.path == OMITTED or place.path.startswith(f"{OMITTED}.") or OMITTED in self.record.steps.get(step, {}):
            return _LEFT_OUT
        return _HIDDEN if _is_hidden(place.recorded, place.here) else None

    async def _run_otherwise(self, name: str, case: ProofCase) -> StepResult | None:
        """Return the step in a run with another clock, other random numbers, other hidden values and empty data stores."""
        runner = await self._other.get()
        event = type(case.event).from_value(_replace_marks(dict(case.event.data)), is_http=case.event.is_http)
        varied = ProofCase(case.name, case.file, event, case.external_user_id, case.environment)
        pins = {step: _replace_marks(dict(exports)) for step, exports in self._pins.items()}
        ran = await runner.run(self._side, varied, pins=pins, empty_stores=True, policy=self._policy)
        return next((step for step in ran.execution.steps if step.name == name), None)

    def _find_hidden_field(self, step: Step) -> str | None:
        """Return the name of a hidden field that the code or the props of *step* mention, or None."""
        text = "\n".join((step.source, json.dumps(dict(step.props)), *map(str, dict(step.files).values())))
        return next((name for name in self._hidden if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)), None)

    def build_verdict(self, redactor: Redactor) -> RecordVerdict:
        """Return the verdict for the report, with redacted values."""
        steps = []
        for step in self._side.workflow.steps:
            found = self.steps.get(step.name)
            if step.disabled:
                continue
            if found is None:
                steps.append(RecordedStep(step.name, "not exercised"))
                continue
            places = tuple(
                RecordedPlace(
                    redactor.redact_text(place.path),
                    _show(place.recorded, redactor),
                    _show(place.here, redactor),
                    redactor.redact_text(place.reason) if place.reason else None,
                    has_ids=_is_id(place.recorded)
                    and _is_id(place.here)
                    and not _is_given(self.record, found.name, place.recorded),
                )
                for place in found.places
            )
            reason = redactor.redact_text(found.reason) if found.reason else None
            steps.append(RecordedStep(step.name, found.verdict, places, reason))
        refusal = redactor.redact_text(self.refusal) if self.refusal else None
        end_here = redactor.redact_text(self.end_here) if self.end_here else None
        return RecordVerdict(self.record.name, self.record.at, self.record.status, tuple(steps), refusal, end_here)


def _is_http(workflow: Workflow, event: Any) -> bool:
    """Return whether *event* is a request; of several triggers, that of the endpoint is told by the keys of a request."""
    types = {trigger.type for trigger in workflow.triggers}
    return types <= {"http"} or (
        "http" in types and isinstance(event, dict) and any(key in event for key in EVENT_KEYS)
    )


def _describe_end(ran: SideRun) -> str:
    """Return how a run ends here that was not recorded to the end there."""
    last = next((step for step in reversed(ran.execution.steps) if step.status in ("success", "error", "pinned")), None)
    if last is None or ran.execution.status not in ("exited", "error", "cancelled"):
        return "it reaches its end here, so a step ended it there, or the record of its end was lost"
    if has_unrecorded_call(last):
        return f"here, it stops at the outbound call of {last.name}"
    return f"here, {last.name} {'fails' if last.error is not None else 'ends it'}"


def _learn_ids(verdicts: tuple[RecordVerdict, ...]) -> tuple[RecordVerdict, ...]:
    """Declare ids that the other side made not comparable: distinct in all records, and one constant id here."""
    groups: dict[tuple[str, str], list[RecordedPlace]] = {}
    for run in verdicts:
        for step in run.steps:
            for place in step.places:
                if place.reason is None:
                    groups.setdefault((step.step, general_path(place.path)), []).append(place)
    learned = {
        key
        for key, group in groups.items()
        if len(group) >= _MIN_LEARNED_RECORDS
        and len({place.recorded for place in group}) == len(group)
        and len({place.here for place in group}) == 1
        and all(place.has_ids for place in group)
    }

    def settle(step: RecordedStep) -> RecordedStep:
        places = tuple(
            replace(place, reason=_OTHER_SIDE)
            if place.reason is None and (step.step, general_path(place.path)) in learned
            else place
            for place in step.places
        )
        if places == step.places or any(place.reason is None for place in places):
            return replace(step, places=places)
        return replace(step, places=places, verdict="not comparable", reason=places[0].reason)

    return tuple(replace(run, steps=tuple(map(settle, run.steps))) for run in verdicts) if learned else verdicts


def general_path(path: str) -> str:
    """Return *path* with `[*]` in place of each index."""
    return re.sub(r"\[\d+\]", "[*]", path)


def _is_given(record: RecordedRun, step: str, value: Any) -> bool:
    """Return whether *value* is in what the step got: then the step did not get it from the other side."""
    inputs = {"event": record.event, "steps": {name: each for name, each in record.steps.items() if name != step}}
    return (
        json.dumps(value)[1:-1] in json.dumps(inputs)
        if isinstance(value, str)
        else json.dumps(value) in json.dumps(inputs)
    )


def _is_id(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return bool(abs(value) >= _MIN_ID_NUMBER)
    return (
        isinstance(value, str)
        and len(value) >= _MIN_ID_CHARS
        and re.fullmatch(r"[A-Za-z0-9_.:/+=-]+", value) is not None
        and any(letter.isdigit() for letter in value)
    )


def _could_be(recorded: Any, here: Any, moved: ValueDifference, is_same_path: bool) -> bool:
    """Return whether *recorded* fits what does not change between two runs here: a text keeps its stable beginning and end."""
    other = moved.files
    if not is_same_path:
        return True
    if not (isinstance(here, str) and isinstance(other, str)):
        kinds = {type(each) for each in (recorded, here, other)}
        return kinds <= {int, float} or type(recorded) in (type(here), type(other))
    if not isinstance(recorded, str):
        return False
    there, one, two = (_MOMENT.sub("\0", each) for each in (recorded, here, other))
    start = _common(one, two)
    end = _common(one[len(start) :][::-1], two[len(start) :][::-1])[::-1]
    start = re.sub(r"[A-Za-z0-9]*\Z", "", start) if start != one else start
    end = re.sub(r"\A[A-Za-z0-9]*", "", end) if end != one else end
    return there.startswith(start) and there.endswith(end)


def _common(one: str, two: str) -> str:
    length = next(
        (place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    return one[:length]


def _same_but_for_moments(recorded: Any, here: Any, then: datetime, now: datetime) -> bool:
    """Return whether two texts or numbers differ only in a time, that of the recorded run and the present one."""
    if isinstance(recorded, str) and isinstance(here, str):
        has_moment = then.strftime("%Y-%m-%d") in recorded or str(int(then.timestamp()))[:5] in recorded
        has_now = now.strftime("%Y-%m-%d") in here or str(int(now.timestamp()))[:5] in here
        return has_moment and has_now and _MOMENT.sub("\0", recorded) == _MOMENT.sub("\0", here)
    if not (isinstance(recorded, int | float) and isinstance(here, int | float)):
        return False
    return any(
        abs(recorded / unit - then.timestamp()) < 86_400 and abs(here / unit - now.timestamp()) < 86_400
        for unit in (1.0, 1e3, 1e6)
    )


def _is_hidden(recorded: Any, here: Any) -> bool:
    """Return whether *recorded* has hidden parts, and *here* has anything there; the other parts are equal."""
    if not isinstance(recorded, str) or (REDACTED not in recorded and "***" not in recorded):
        return isinstance(here, str) and isinstance(recorded, str) and _matches(here, recorded)
    if recorded == REDACTED:
        return True
    return isinstance(here, str) and (_matches(recorded, here) or _matches(here, recorded))


def _matches(pattern: str, text: str) -> bool:
    """Return whether *text* is *pattern* with any text in place of placeholders, of which there is at least one."""
    parts = _PLACEHOLDER.split(pattern)
    return len(parts) > 1 and re.fullmatch(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


def _find_hidden_fields(value: Any) -> tuple[str, ...]:
    """Return the names of the fields whose whole value is hidden, also inside of texts of JSON."""
    found: dict[str, None] = {}

    def search(inside: Any) -> None:
        match inside:
            case dict():
                for key, item in inside.items():
                    if item == REDACTED or (isinstance(item, str) and REDACTED in item):
                        found[str(key)] = None
                    search(item)
            case list():
                for item in inside:
                    search(item)

    search(value)
    return tuple(name for name in found if name not in ("$return_value", "value", "name", "key"))


def _replace_marks(value: Any) -> Any:
    match value:
        case dict():
            return {key: _replace_marks(item) for key, item in value.items()}
        case list():
            return [_replace_marks(item) for item in value]
        case str():
            return value.replace(REDACTED, _OTHER_MARK)
    return value


def _cover_hidden_lists(recorded: Any, here: Any) -> Any:
    """Return *here* with the record's list in place of a list that is hidden as a whole, such as the bytes of a text."""
    match recorded, here:
        case dict(), dict():
            return {key: _cover_hidden_lists(recorded.get(key), item) for key, item in here.items()}
        case list(), list() if recorded == [REDACTED]:
            return recorded
        case list(), list():
            return [
                _cover_hidden_lists(recorded[place], item) if place < len(recorded) else item
                for place, item in enumerate(here)
            ]
    return here


def _split_lines(value: Any) -> Any:
    """Return *value* with lists of lines in place of texts of several lines, so that each line is compared."""
    match value:
        case dict():
            return {key: _split_lines(item) for key, item in value.items()}
        case list():
            return [_split_lines(item) for item in value]
        case str() if "\n" in value:
            return value.splitlines(keepends=True)
    return value


def _is_nothing(place: ValueDifference) -> bool:
    """Return whether the place is null on one side and nothing on the other, which JSON of the platform does not tell apart."""
    return {id(place.notebook), id(place.files)} <= {id(None), id(MISSING)}


def _overlaps(path: str, other: str) -> bool:
    outer, inner = sorted((path, other), key=len)
    return outer == "" or inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


def _rule_pattern(place: str) -> str:
    """Return a pattern for a rule's place and everything in it; `[*]` and `*` stand for any index or key."""
    escaped = re.escape(place).replace(r"\[\*\]", r"\[\d+\]").replace(r"\.\*", r"\.[^.\[]+")
    return rf"{escaped}(?:[.\[ ].*)?\Z"


def _show(value: Any, redactor: Redactor) -> str | None:
    return None if value is MISSING else redactor.redact_text(json.dumps(value, ensure_ascii=False))


def require_recorded_id(source: WorkflowSource, archive: RecordArchive) -> str:
    """
    Pipedream's id of *source*, which has recorded runs.

    Raises:
        RequestError: The id is not known, or there are no records.
    """
    workflow_id = find_recorded_id(source.workflow, source.path)
    if workflow_id is None or workflow_id not in archive.workflow_ids():
        raise RequestError(
            f"There are no recorded runs of {source.workflow.name}.",
            fix="Bring the records home: pdkernel migrate collect",
        )
    return workflow_id
