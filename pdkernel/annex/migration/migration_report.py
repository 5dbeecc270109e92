"""
The report on a move away from Pipedream, as data and text, without credentials; `pages` has it as HTML.

The totals are sums of the rows, so they add up by construction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from pdkernel.annex.proof.report import RecordProof
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import format_count
from pdkernel.render.markup import Tone, escape_control_characters

ItemGroup = Literal["answer", "lost", "switch"]
ItemKind = Literal[
    "unreadable",
    "code",
    "action",
    "private_action",
    "control_flow",
    "rule_filter",
    "unsupported",
    "sibling",
    "secret",
    "plain_secret",
    "account",
    "external_user",
    "variable",
    "interpreter",
    "network",
    "limit",
    "trigger_settings",
    "several_triggers",
    "no_trigger",
    "inactive",
    "optional_variable",
    "data_store",
    "file_store",
    "source_state",
    "paused_runs",
    "events",
    "attachment",
    "endpoint",
    "custom_domain",
    "email_address",
    "caller",
    "invoked_workflow",
    "error_handler",
    "schedule",
    "source",
]
WorkflowState = Literal["runs", "needs_answers", "unreadable"]

DELETION_DAY: Final = "April 30, 2027"
SHUTDOWN_DAY: Final = "March 31, 2027"
GROUP_HEADINGS: Final[Mapping[ItemGroup, str]] = {
    "answer": "Needs an answer before it runs here",
    "lost": f"Deleted at Pipedream on {DELETION_DAY}",
    "switch": "Switch over",
}
GROUP_OF_KIND: Final[Mapping[ItemKind, ItemGroup]] = {
    "unreadable": "answer",
    "code": "answer",
    "action": "answer",
    "private_action": "answer",
    "control_flow": "answer",
    "rule_filter": "switch",
    "unsupported": "answer",
    "sibling": "answer",
    "secret": "answer",
    "plain_secret": "switch",
    "account": "answer",
    "external_user": "answer",
    "variable": "answer",
    "interpreter": "answer",
    "network": "answer",
    "limit": "switch",
    "trigger_settings": "answer",
    "several_triggers": "switch",
    "no_trigger": "answer",
    "inactive": "switch",
    "optional_variable": "lost",
    "data_store": "lost",
    "file_store": "lost",
    "source_state": "lost",
    "paused_runs": "lost",
    "events": "lost",
    "attachment": "lost",
    "endpoint": "switch",
    "custom_domain": "switch",
    "email_address": "switch",
    "caller": "switch",
    "invoked_workflow": "switch",
    "error_handler": "switch",
    "schedule": "switch",
    "source": "switch",
}
"""The group of each kind of item."""
STATE_LABELS: Mapping[WorkflowState, tuple[str, Tone]] = {
    "runs": ("runs as it is", "good"),
    "needs_answers": ("needs answers", "warn"),
    "unreadable": ("cannot be read", "bad"),
}


class MigrationItem(JsonStruct, frozen=True):
    """
    One fact about a workflow that a team must act on.

    Attributes:
        kind: The kind of fact; `GROUP_OF_KIND` has its group.
        name: What the fact is about: a store, a variable, a step, a trigger.
        message: The fact as a sentence.
        fix: What to do, or the empty string.
        command: A command that does it, or the empty string.
        steps: The steps that it concerns; an answer keeps these steps from running as they are.
    """

    kind: ItemKind
    name: str
    message: str
    fix: str = ""
    command: str = ""
    steps: tuple[str, ...] = ()

    @property
    def group(self) -> ItemGroup:
        """The group of the item's kind."""
        return GROUP_OF_KIND[self.kind]

    def json_form(self) -> object:
        """Return the fields and the group."""
        return {
            "kind": self.kind,
            "group": self.group,
            "name": self.name,
            "message": self.message,
            "fix": self.fix,
            "command": self.command,
            "steps": self.steps,
        }


class WorkflowMigration(JsonStruct, frozen=True):
    """
    The row of one workflow.

    Attributes:
        source: The path or the id that was given.
        name: The workflow's name.
        id: Pipedream's id (`p_...`), or None if the source does not have it.
        steps: The names of its steps.
        ready: Steps that run here as they are.
        items: What the team must act on.
    """

    source: str
    name: str
    id: str | None = None
    steps: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    items: tuple[MigrationItem, ...] = ()

    @property
    def state(self) -> WorkflowState:
        """Whether the workflow runs here as it is."""
        if any(item.kind == "unreadable" for item in self.items):
            return "unreadable"
        return "needs_answers" if self.count("answer") else "runs"

    def count(self, group: ItemGroup) -> int:
        """Return the number of items of *group*."""
        return sum(item.group == group for item in self.items)

    def json_form(self) -> object:
        """Return the fields, the state, and the number of items in each group."""
        return {
            "source": self.source,
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "steps": self.steps,
            "ready": self.ready,
            "counts": {group: self.count(group) for group in GROUP_HEADINGS},
            "items": [item.json_form() for item in self.items],
        }


class SharedResource(JsonStruct, frozen=True):
    """Something at Pipedream that workflows share, the names of those workflows, and how to save it once."""

    kind: ItemKind
    name: str
    workflows: tuple[str, ...]
    fix: str
    command: str = ""


class MoveStep(JsonStruct, frozen=True):
    """A step of the move, with what the step concerns."""

    title: str
    reason: str
    subjects: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


class MigrationReport(JsonStruct, frozen=True):
    """
    The report on the move of several workflows.

    Attributes:
        workflows: A row for each workflow.
        shared: What to save once.
        order: The steps of the move, in order.
        created_at: The time of the report, ISO 8601.
        records: Workflows compared with their recorded runs.
    """

    workflows: tuple[WorkflowMigration, ...]
    shared: tuple[SharedResource, ...]
    order: tuple[MoveStep, ...]
    created_at: str
    records: tuple[RecordProof, ...] = ()

    def totals(self) -> dict[str, int]:
        """Return the sums over the rows: workflows by state, steps, ready steps, and items by group."""
        rows = self.workflows
        states = Counter(row.state for row in rows)
        return {
            "workflows": len(rows),
            **{state: states[state] for state in STATE_LABELS},
            "steps": sum(len(row.steps) for row in rows),
            "ready": sum(len(row.ready) for row in rows),
            **{group: sum(row.count(group) for row in rows) for group in GROUP_HEADINGS},
        }

    def json_form(self) -> object:
        """Return `{"created_at", "totals", "kinds", "workflows", "shared", "order"}`, with comparisons also "records"; "kinds" counts items by kind."""
        kinds = Counter(item.kind for row in self.workflows for item in row.items)
        return {
            "created_at": self.created_at,
            "shutdown": SHUTDOWN_DAY,
            "deletion": DELETION_DAY,
            "totals": self.totals(),
            "kinds": {kind: kinds[kind] for kind in GROUP_OF_KIND if kinds[kind]},
            "workflows": [row.json_form() for row in self.workflows],
            "shared": self.shared,
            "order": self.order,
            **({"records": [proof.to_json() for proof in self.records]} if self.records else {}),
        }


COLUMNS: Final[Mapping[str, str]] = {
    "workflow": "its name",
    "state": "whether it runs here as it is",
    "steps": "the number of its steps",
    "ready": "the steps that run here as they are",
    "answers": "open points that keep a step from running here",
    "lost": f"things that Pipedream deletes on {DELETION_DAY}: save them before",
    "switch": "things to switch over from Pipedream to here",
}
"""The heads of the table's columns, each with what the column shows."""


def render_text(report: MigrationReport) -> str:
    """Render the report as text: a summary, a table, what to save, the order of the move, and each workflow."""
    heads = [f"  {name}: {meaning}" for name, meaning in COLUMNS.items() if name not in ("workflow", "steps")]
    lines = [format_summary(report), "", *_text_table(report), "", *heads]
    if report.shared:
        lines += ["", f"Save before {DELETION_DAY}, once for all workflows:"]
        for each in report.shared:
            lines += [f"  - {format_shared(each)}", *_fix_lines(each.fix, each.command, indent=6)]
    lines += ["", "Order of the move:"]
    for number, step in enumerate(report.order, start=1):
        lines += [f"  {number}. {step.title}", f"     {step.reason}"]
        lines += [f"       - {subject}" for subject in step.subjects]
        lines += [f"         {command}" for command in step.commands]
    for proof in report.records:
        lines += ["", *proof.render_text().splitlines()]
    for row in report.workflows:
        lines += ["", f"{row.name} ({row.source}): {STATE_LABELS[row.state][0]}"]
        if row.ready:
            lines.append(f"  Runs here as it is: {', '.join(row.ready)}")
        for heading, items in iter_groups(row):
            lines.append(f"  {heading}")
            for item in items:
                lines += [f"    - {item.message}", *_fix_lines(item.fix, item.command, indent=8)]
    return escape_control_characters("".join(f"{line.replace('`', '')}\n" for line in lines))


def format_summary(report: MigrationReport) -> str:
    """Return the report in three sentences."""
    totals = report.totals()
    states = [
        f"{totals['runs']} run here as they are",
        f"{totals['needs_answers']} need answers",
        f"{totals['unreadable']} cannot be read",
    ]
    return (
        f"{format_count(totals['workflows'], 'workflow')}: {', '.join(states)}. "
        f"{totals['ready']} of {format_count(totals['steps'], 'step')} run unchanged. "
        f"Pipedream's Workflows end on {SHUTDOWN_DAY}; their data is deleted on {DELETION_DAY}."
    )


def build_cells(row: WorkflowMigration) -> tuple[str, ...]:
    """Return the cells of a row, in the order of `COLUMNS`."""
    counts = (len(row.steps), len(row.ready), *(row.count(group) for group in GROUP_HEADINGS))
    return (row.name, STATE_LABELS[row.state][0], *map(str, counts))


def build_total_cells(report: MigrationReport) -> tuple[str, ...]:
    """Return the cells of the row of totals, in the order of `COLUMNS`."""
    totals = report.totals()
    return ("Total", "", *(str(totals[key]) for key in ("steps", "ready", *GROUP_HEADINGS)))


def _text_table(report: MigrationReport) -> list[str]:
    table = [tuple(COLUMNS), *map(build_cells, report.workflows), build_total_cells(report)]
    widths = [max(len(line[place]) for line in table) for place in range(len(COLUMNS))]
    return [
        "  ".join(
            f"{cell:<{width}}" if place < 2 else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def format_shared(each: SharedResource) -> str:
    """Return a shared resource with the workflows that use it."""
    kind = "variable" if each.kind == "optional_variable" else each.kind.replace("_", " ")
    name = each.name if kind in each.name else f"{kind} {each.name}"
    return f"{name}, used by {', '.join(each.workflows)}"


def _fix_lines(fix: str, command: str, *, indent: int) -> list[str]:
    return [f"{'':{indent}}{text}" for text in (*fix.splitlines(), command) if text]


def iter_groups(row: WorkflowMigration) -> Iterator[tuple[str, list[MigrationItem]]]:
    """Yield the groups of a row that have items: heading and items."""
    for group, heading in GROUP_HEADINGS.items():
        if items := [item for item in row.items if item.group == group]:
            yield heading, items
