"""The content of a timeline, before rendering as text or HTML."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Literal

from msgspec import UNSET, UnsetType

from pdkernel.common.lookup import Lookup
from pdkernel.errors import CONNECT_PREFIX, format_count
from pdkernel.execution import (
    NOTE_PREFIX,
    STDERR_INTRODUCTION,
    SUMMARY,
    UNFINISHED_STATUSES,
    ErrorRecord,
    Execution,
    Log,
    OutboundPolicyRecord,
    StepResult,
    milliseconds_between,
)
from pdkernel.language.analysis import describe_error_place, translate_places
from pdkernel.language.expression import describe_rules
from pdkernel.language.shape import StepKind, get_step_kind
from pdkernel.model import JSON, LANGUAGE_NAMES, BlockType, Step, Workflow
from pdkernel.render import formatting

_PANICS = frozenset({"panic", "fatal error"})
"""Errors that the runtime of Go also prints on stderr."""
_RUNNING = frozenset({"executing", "resumed"})
_LIVE_LINES = 11
"""The number of newest log lines that a running step shows."""
MAX_SHOWN_EXPORTS = 100
"""The number of exports that a step shows."""


STALE_MARK, EDITED_MARK = "stale", "edited, not run"
"""The marks of results that are older than their inputs, or of code that was edited since."""


class Label(StrEnum):
    """The names of the parts of a timeline, the same in a cell, a page and a terminal."""

    ACTION = "action"
    ACCOUNT = "account"
    LOOKUP = "lookup"
    BRANCH = "branch"
    INPUT = "input"
    EXPORT = "export"
    CALL = "call"
    LOGS = "logs"
    AFTER_RUN = "after the run"
    RESPONSE = "response to the caller"


@dataclass(frozen=True, slots=True)
class TimelineContext:
    """
    Information for a timeline that is not in the execution.

    Attributes:
        stale: Steps whose results are older than their inputs.
        pinned: Steps with pinned exports.
        running: The name of the running step; None: the step that has started and has no duration yet.
        workflow: The workflow, for the languages of its steps and the places of errors; None if it is not known.
        event_name: Name of the event, or None.
        has_response: False for a workflow without an HTTP trigger.
        warnings: Sentences about the run.
        note: A sentence above the timeline, or None.
        explain_lookup: Whether the text explains each account lookup. HTML and failed lookups always do.
        edited: The stale steps whose code was edited and has not run since.
        now: The time, to show how long the running step has taken so far; or None.
        can_stop: Whether an interrupt of the kernel stops the run; then the HTML has a Stop button.
    """

    stale: Collection[str] = ()
    pinned: Collection[str] = ()
    running: str | None = None
    workflow: Workflow | None = None
    event_name: str | None = None
    has_response: bool = True
    warnings: Sequence[str] = ()
    note: str | None = None
    explain_lookup: bool = False
    edited: Collection[str] = ()
    now: datetime | None = None
    can_stop: bool = False

    def find_step(self, name: str | None) -> Step | None:
        """Return the step *name* of the workflow, or None."""
        is_known = self.workflow is not None and name is not None and self.workflow.position(name) is not None
        return self.workflow.step(name) if self.workflow is not None and name is not None and is_known else None


@dataclass(frozen=True, slots=True)
class ShownError:
    """
    An error as a timeline shows it, each fact once.

    Attributes:
        name: The class of the error.
        place: Where the error is: `line 4 of cell [3]`; empty if it belongs to no step.
        message: The message.
        stack: The frames without the message, or None.
    """

    name: str
    place: str
    message: str
    stack: str | None


NO_CONTEXT = TimelineContext()


@dataclass(frozen=True, slots=True)
class LogBlock:
    """Consecutive log lines of one kind: output on a stream, or notes of pdkernel."""

    label: Literal["stdout", "stderr", "note"]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """
    One step of a timeline.

    Attributes:
        kind: The step's language, or `action`; a block's type; then the branch.
        bar_start: The start of the bar, a fraction from 0 to 1; *bar_width* is its width. Branches of a parallel block begin together.
        level: The number of blocks around the step.
        conditions: Of a block, each evaluated condition with its operands, the branches that run with ✓.
        hidden_exports: The number of exports beyond the shown ones.
        reader: The kind of the step below, whose code reads the exports.
    """

    result: StepResult
    label: formatting.StatusLabel
    kind: str
    badges: tuple[str, ...]
    duration: str
    bar_start: float
    bar_width: float
    summary: str
    props: tuple[tuple[str, JSON], ...]
    exports: tuple[tuple[str, JSON], ...]
    hidden_exports: int
    logs: tuple[LogBlock, ...]
    lookup: Lookup | None = None
    error: ShownError | None = None
    reader: StepKind = "node"
    level: int = 0
    conditions: tuple[str, ...] = ()


def format_hidden_exports(row: TimelineStep) -> str:
    """Return how many exports of *row* are not shown."""
    return f"… {format_count(row.hidden_exports, 'more export')} not shown"


def build_rows(execution: Execution, notes: TimelineContext) -> list[TimelineStep]:
    """Build a row for each step, in order."""
    starts, total = _find_bar_starts(execution.steps)
    rows: list[TimelineStep] = []
    for step, start in zip(execution.steps, starts, strict=True):
        state = _state(step, execution, notes)
        summary = step.exports.get(SUMMARY)
        exports = [name for name in step.exports if name != SUMMARY]
        rows.append(
            TimelineStep(
                result=step,
                label=_label(step, state),
                kind=_describe_kind(step, notes.find_step(step.name)),
                error=build_error(step.error, execution, notes, step.logs) if step.error is not None else None,
                badges=_marks(step, notes),
                duration=formatting.format_elapsed(_elapsed_ms(step, execution, notes))
                if step.duration_ms is None
                else formatting.format_duration(step.duration_ms),
                bar_start=start / total,
                bar_width=(step.duration_ms or 0.0) / total,
                summary=""
                if summary is None
                else summary
                if isinstance(summary, str)
                else formatting.format_json_line(summary),
                props=() if step.props is UNSET else tuple(step.props.items()),
                exports=tuple((name, step.exports[name]) for name in exports[:MAX_SHOWN_EXPORTS]),
                hidden_exports=max(len(exports) - MAX_SHOWN_EXPORTS, 0),
                logs=_keep_newest(_merge_logs(step)) if state == "running" else _merge_logs(step),
                lookup=execution.lookup if execution.lookup and execution.lookup.apps_of_step(step.name) else None,
                reader=_find_reader(step.name, notes),
                level=step.path.count(".") // 2,
                conditions=()
                if isinstance(step.choice, UnsetType)
                else tuple(_describe_condition(step.choice.type, judged) for judged in step.choice.conditions),
            )
        )
    return rows


def _find_bar_starts(steps: Sequence[StepResult]) -> tuple[list[float], float]:
    """
    Return where each of *steps* starts and all end, in milliseconds without the pauses between steps.

    A step starts at the end of the one above in its branch, a branch at the end of its block's decision, and what is below a block at
    the end of its longest branch.
    """
    ends: dict[tuple[str, str] | None, float] = {None: 0.0}  # by branch
    open_blocks: list[tuple[str, tuple[str, str] | None]] = []
    starts: list[float] = []
    for step in steps:
        is_outside = isinstance(step.block, UnsetType) or isinstance(step.branch, UnsetType)
        inside = None if is_outside else (str(step.block), str(step.branch))
        while open_blocks and (inside is None or open_blocks[-1][0] != inside[0]):
            name, outer = open_blocks.pop()
            ends[outer] = max(
                ends[outer], *(end for branch, end in ends.items() if branch is not None and branch[0] == name), 0.0
            )
        if inside not in ends:
            ends[inside] = ends[open_blocks[-1][1]] if open_blocks else 0.0
        starts.append(ends[inside])
        ends[inside] += step.duration_ms or 0.0
        if not isinstance(step.choice, UnsetType):
            open_blocks.append((step.name, inside))
    return starts, max(ends.values()) or 1.0


def _get_reads(judged: Mapping[str, JSON]) -> Mapping[str, JSON]:
    reads = judged.get("reads")
    return reads if isinstance(reads, dict) else {}


def _describe_condition(block_type: BlockType, judged: Mapping[str, JSON]) -> str:
    """Return an evaluated condition of a block: `✓ high: steps.check.$return_value.amount >= 1000 (steps.check.$return_value.amount is 1200)`."""
    branch, holds, rules = judged.get("branch"), judged.get("holds"), judged.get("rules")
    if isinstance(rules, dict):
        what = describe_rules(rules)
    elif "source" in judged:
        values = [f"{path} is {formatting.format_json_line(value)}" for path, value in _get_reads(judged).items()]
        if not isinstance(judged.get("result"), bool):
            result = formatting.format_json_line(judged["result"]) if "result" in judged else "undefined"
            values.append(f"the result is {result}")
        what = f"{judged['source']} ({', '.join(values)})" if values else str(judged["source"])
    elif "case" in judged or "value" in judged:
        value, case = (
            formatting.format_json_line(judged[key]) if key in judged else "undefined" for key in ("value", "case")
        )
        what = f"{value} {'equals' if holds else 'does not equal'} {case}"
    else:
        what = "never" if not holds else "always" if block_type == "parallel" else "otherwise"
    return f"{'✓' if holds else '–'} {branch}: {what}"


def build_error(
    error: ErrorRecord, execution: Execution, notes: TimelineContext, logs: Sequence[Log] = ()
) -> ShownError:
    """Build the error as a timeline shows it beside *logs*, at the place that a person sees."""
    step = notes.find_step(error.step)
    if step is not None and step.file is not None and notes.workflow and notes.workflow.version != execution.version:
        step = None  # the files have changed since
    message, stack = error.message, error.stack
    what, introduction, tail = message.partition(STDERR_INTRODUCTION)
    if introduction and tail.strip() in "".join(log.text for log in logs if log.stream == "stderr"):
        message = f"{what} Its stderr is in the log."
    if stack is not None:
        stack = _remove_message(stack.strip("\n"), error)
    if step is not None:
        message, stack = translate_places(step, message), stack and translate_places(step, stack)
    place = describe_error_place(step, error.step, error.line) if error.step is not None else ""
    return ShownError(error.name, place, message, stack or None)


def _remove_message(stack: str, error: ErrorRecord) -> str:
    """Return *stack* without the message of *error*, at its end in Python and at its start in JavaScript; the message may have a fix."""
    lines = error.message.split("\n")
    for count in range(len(lines), 0, -1):
        whole = "\n".join([f"{error.name}: {lines[0]}".strip(), *lines[1:count]])
        at_end = re.search(rf"(?:\A|\n)(?:\w+\.)*{re.escape(whole)}\Z", stack)
        if at_end is not None or stack.startswith(f"{whole}\n"):
            return (stack[: at_end.start()] if at_end is not None else stack.removeprefix(whole)).strip("\n")
    return stack


def belongs_to_no_row(error: ErrorRecord, execution: Execution) -> bool:
    """Return whether no step of *execution* shows *error*: the run was refused, or the step is not among those that are shown."""
    return all(step.error is None or step.name != error.step for step in execution.steps)


def _find_reader(name: str, notes: TimelineContext) -> StepKind:
    """Return the kind of the step below *name*; of the last step, its own kind."""
    step = notes.find_step(name)
    if step is None or notes.workflow is None:
        return "node"
    return get_step_kind(next(iter(notes.workflow.steps_after(name)), step))


def format_event_source(execution: Execution, notes: TimelineContext) -> str:
    """Format the event: its name, and the method and path of its request."""
    method, path = execution.event.get("method"), execution.event.get("path")
    request = " ".join(str(part) for part in (method, path) if part)
    if notes.event_name and request:
        return f"{notes.event_name} ({request})"
    if execution.trigger.sealed:
        return notes.event_name or "a sealed event (shown once the accounts of the run are known)"
    return notes.event_name or request or "an event without a request"


def format_identity(execution: Execution) -> str:
    """Format the external user and the environment."""
    who = f"external user {execution.external_user}" if execution.external_user else "no external user"
    return f"{who}, {execution.environment}"


def format_total_duration(execution: Execution, notes: TimelineContext | None = None) -> str:
    """
    Format the time from the start of the run to its end.

    Before its end: to now while a step runs, else to the end of the newest step; empty before a step has ended, or has run for a second.
    """
    if execution.duration_ms is not None:
        return formatting.format_run_duration(execution.duration_ms)
    is_running = notes is not None and any(_elapsed_ms(step, execution, notes) >= 1000 for step in execution.steps)
    if is_running and notes is not None and notes.now is not None:
        elapsed = notes.now - datetime.fromisoformat(execution.started_at)
        return f"{formatting.format_elapsed(elapsed.total_seconds() * 1000)} so far"
    ends = [
        milliseconds_between(execution.started_at, step.started_at) + step.duration_ms
        for step in execution.steps
        if step.started_at is not None and step.duration_ms is not None
    ]
    return f"{formatting.format_run_duration(max(ends))} so far" if ends else ""


def format_start(execution: Execution) -> str:
    """Format start time, run id, attempt, replay and outbound policy."""
    facts = [f"started {formatting.format_timestamp(execution.started_at)}", f"run {execution.id}"]
    if execution.attempt > 1:
        facts.append(f"attempt {execution.attempt}")
    if execution.replay_of:
        facts.append(f"replay of {execution.replay_of}")
    if execution.outbound_policy is not None:
        facts.append(describe_policy(execution.outbound_policy))
    return " · ".join(facts)


def describe_policy(policy: OutboundPolicyRecord) -> str:
    """Return the outbound policy and who chose it: `outbound policy stand-in=slack (--egress)`."""
    return f"outbound policy {policy.policy}" + (f" ({policy.origin})" if policy.origin else "")


def collect_warnings(execution: Execution, notes: TimelineContext) -> list[str]:
    """Return the warnings above the steps: the caller's, and one if the outbound policy was not enforced for every program."""
    policy = execution.outbound_policy
    if policy is None or policy.guard != "none":
        return list(notes.warnings)
    warning = "Programs that ignore proxy variables are not stopped, because this system does not support it."
    return [*notes.warnings, f"Outbound policy: {policy.policy}. {warning}"]


def find_failed_lookup(execution: Execution) -> Lookup | None:
    """Return the failed lookup of a refused run, or None."""
    return execution.lookup if execution.lookup and execution.lookup.failed else None


def should_show_response(execution: Execution, notes: TimelineContext) -> bool:
    """
    Return whether to show a response: the workflow's own, or the default response of a finished run.

    A refused run has no response, unless it was refused because of its external user.
    """
    if execution.response is not None:
        return notes.has_response
    is_local_refusal = is_refused(execution) and not _is_end_user_error(execution)
    return notes.has_response and execution.status not in UNFINISHED_STATUSES and not is_local_refusal


def can_stop(execution: Execution, notes: TimelineContext) -> bool:
    """Return whether the run goes on and an interrupt of the kernel stops it."""
    return notes.can_stop and execution.status in UNFINISHED_STATUSES


def is_refused(execution: Execution) -> bool:
    """Return whether the run ended before any step started."""
    return execution.status == "error" and all(step.started_at is None for step in execution.steps)


def _is_end_user_error(execution: Execution) -> bool:
    return execution.error is not None and execution.error.message.startswith(CONNECT_PREFIX)


def _label(step: StepResult, state: formatting.StepState) -> formatting.StatusLabel:
    """Return the label of a step in *state*: not green if a call of the step was not sent again."""
    label = formatting.STEP_LABELS[state]
    return label._replace(tone="warn") if label.tone == "good" and _count_unsent(step) else label


def _count_unsent(step: StepResult) -> int:
    return sum(call.outcome == "not_sent" for call in step.requests)


def _state(step: StepResult, execution: Execution, notes: TimelineContext) -> formatting.StepState:
    if step.is_cancelled:
        return "cancelled"
    if step.status != "not_run" or execution.status not in UNFINISHED_STATUSES:
        return step.status
    if notes.running == step.name:
        return "running"
    started = notes.running is None and step.started_at is not None and step.duration_ms is None
    return "running" if started and execution.status in _RUNNING else "waiting"


def _elapsed_ms(step: StepResult, execution: Execution, notes: TimelineContext) -> float:
    """Return the milliseconds since the start of *step* if it runs, else 0."""
    if notes.now is None or step.started_at is None or _state(step, execution, notes) != "running":
        return 0.0
    return (notes.now - datetime.fromisoformat(step.started_at)).total_seconds() * 1000


def _marks(step: StepResult, notes: TimelineContext) -> tuple[str, ...]:
    marks = []
    if unsent := _count_unsent(step):
        marks.append(f"{format_count(unsent, 'call')} not sent again")
    if step.name in notes.pinned and step.status != "pinned":
        marks.append("pinned")
    if step.name in notes.stale:
        marks.append(EDITED_MARK if step.name in notes.edited else STALE_MARK)
    if step.attempt > 1:
        marks.append(f"attempt {step.attempt}")
    return tuple(marks)


def _describe_kind(result: StepResult, step: Step | None) -> str:
    """Return the language of *step*, or `action`; the type of a block; then the branch. Without the step, what is known."""
    if not isinstance(result.choice, UnsetType):
        kind = str(result.choice.type)
    else:
        kind = "" if step is None or step.problem else "action" if step.uses else LANGUAGE_NAMES[step.language]
    return f"{kind} in {result.branch}".lstrip() if result.branch else kind


def _merge_logs(step: StepResult) -> tuple[LogBlock, ...]:
    """Merge consecutive logs of the same kind, without the report of a panic, which is the step's error."""
    merged = [(label, "".join(log.text for log in pieces)) for label, pieces in groupby(step.logs, key=_label_of)]
    if step.error is not None and step.error.name in _PANICS and merged and merged[-1][0] == "stderr":
        text = merged[-1][1]
        at = text.rfind(f"{step.error.name}: {step.error.message}")
        merged[-1] = ("stderr", text[:at] if at >= 0 else text)
    return tuple(_build_log_block(label, text) for label, text in merged if text)


def _keep_newest(blocks: Sequence[LogBlock]) -> tuple[LogBlock, ...]:
    """Return the last `_LIVE_LINES` lines of *blocks*, below the number of hidden lines."""
    kept: list[LogBlock] = []
    left = _LIVE_LINES
    hidden = sum(len(block.lines) for block in blocks) - left
    for block in reversed(blocks):
        if left > 0:
            kept.insert(0, LogBlock(block.label, block.lines[-left:]))
            left -= len(block.lines)
    if hidden > 0:
        note = f"… {format_count(hidden, 'line')} not shown while the step runs …"
        kept[0] = LogBlock(kept[0].label, (note, *kept[0].lines))
    return tuple(kept)


def _label_of(log: Log) -> Literal["stdout", "stderr", "note"]:
    return "note" if log.is_note else log.stream


def _build_log_block(label: Literal["stdout", "stderr", "note"], text: str) -> LogBlock:
    lines = _resolve_carriage_returns(text).removesuffix("\n").split("\n")
    return LogBlock(label, tuple(line.removeprefix(NOTE_PREFIX) for line in lines) if label == "note" else tuple(lines))


def _resolve_carriage_returns(text: str) -> str:
    """Return *text* as a terminal shows it: the last version of an overwritten line."""
    if "\r" not in text:
        return text
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
