"""What a team must act on for one step: stored files and state, pauses, and calls of other workflows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pdkernel.annex.migration.migration_report import SHUTDOWN_DAY, ItemKind, MigrationItem
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.identity import Account
from pdkernel.language.analysis import find_rule_problem
from pdkernel.language.analysis.platform_uses import PlatformUse, find_hosts, find_platform_uses
from pdkernel.language.expression import OBSERVED_OPERATORS, RULE_FILTER, RULE_FILTER_PROP, RuleFilter
from pdkernel.model import Step

UNNAMED_STORE = "a data store without a name"
"""The name of the item of a data store that the source does not name."""


@dataclass(frozen=True)
class Surroundings:
    """
    What is known beyond one workflow.

    Attributes:
        names: Names of the report's workflows by their ids.
        endpoints: Names of the report's workflows by the hosts of their endpoints at Pipedream.
        accounts: The accounts that this project has, by the ids that workflows name.
        withheld: Accounts whose credentials Connect withholds, by app.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    withheld: Mapping[str, tuple[Account, ...]] = field(default_factory=dict)


def find_invoked(source: MigrationSource, around: Surroundings) -> frozenset[str]:
    """Names of the report's workflows that *source* calls, by an endpoint URL or an id."""
    steps = source.workflow.steps if source.workflow is not None else ()
    uses = [use for step in steps for use in _uses(step, around)]
    known = {use.name: around.endpoints.get(use.name) for use in uses if use.kind == "endpoint"}
    known |= {use.name: around.names.get(use.name) for use in uses if use.kind == "workflow"}
    return frozenset(name for name in known.values() if name is not None and name != source.name)


def _uses(step: Step, around: Surroundings) -> tuple[PlatformUse, ...]:
    """The uses of the platform by *step*, calls of endpoints on domains of the team included."""
    found = find_platform_uses(step)
    known = {use.name for use in found}
    own = [
        PlatformUse("endpoint", host, line)
        for host, line in find_hosts(step).items()
        if host in around.endpoints and host not in known
    ]
    return (*found, *own)


def find_step_items(step: Step, around: Surroundings) -> Iterator[MigrationItem]:
    """The items of one step; data stores that the source names are items of the workflow."""
    if step.uses == RULE_FILTER and not step.disabled and find_rule_problem(step) is None:
        yield _build_filter_item(step)
    bound = {store.prop for store in step.stores}
    for use in _uses(step, around):
        if use.kind != "data_store" or use.name not in bound:
            yield _use_item(step, use, around)


def _build_filter_item(step: Step) -> MigrationItem:
    rules = RuleFilter.parse(step.props[RULE_FILTER_PROP])
    derived = [json.dumps(code) for code in rules.operator_codes if code not in OBSERVED_OPERATORS]
    return MigrationItem(
        "rule_filter",
        step.name,
        f"Step {step.name} is the builder's Filter step, which is not a file in Git. It runs built in, by the rules in workflow.yaml.",
        f"Compare its decisions with runs at Pipedream: the meaning of {' and '.join(derived)} is derived from the documentation."
        if derived
        else "",
        steps=(step.name,),
    )


def build_store_item(name: str | None, message: str) -> MigrationItem:
    """The item of a data store; *name* is None if the source does not name the store."""
    return MigrationItem(
        "data_store",
        name or UNNAMED_STORE,
        message,
        "The command writes a step to paste into a workflow at Pipedream, which hands out the records.",
        f"pdkernel migrate data {shlex.quote(name or 'NAME')} --to rescued",
    )


def _locate_use(step: Step, use: PlatformUse) -> str:
    file = f" {use.file}" if use.file else ""
    return f"Step {step.name},{file} line {use.line}," if use.line is not None else f"Step {step.name}"


def _use_item(step: Step, use: PlatformUse, around: Surroundings) -> MigrationItem:
    where = _locate_use(step, use)

    def item(kind: ItemKind, name: str, message: str, fix: str, command: str = "") -> MigrationItem:
        return MigrationItem(kind, name, f"{where} {message}", fix, command, (step.name,))

    match use.kind:
        case "file_store":
            return item(
                "file_store",
                "the project's file store",
                "uses the project's file store. Its files are deleted.",
                "Download the files with the step that the command writes.",
                "pdkernel migrate data --files --to rescued",
            )
        case "data_store":
            return build_store_item(None, f"{where} uses a data store as {use.name}, and Git does not hold which one.")
        case "source_state":
            return item(
                "source_state",
                f"{step.name}.{use.name}",
                f"keeps state in $.service.db as {use.name}. The state stays at Pipedream.",
                "If the state matters, export its values there with a step, and set them here in a data store.",
            )
        case "pause":
            return item(
                "paused_runs",
                f"{step.name} ({use.name})",
                f"pauses the run ({use.name}). Runs that wait at Pipedream end with it.",
                "Turn the workflow off there, and let the waiting runs end before you turn it on here.",
            )
        case "resume_url":
            return item(
                "paused_runs",
                f"{step.name} (resume URL)",
                "hands on URLs that resume or cancel a run. URLs that were handed on lead to Pipedream.",
                "URLs of runs here lead to your server: it needs a public address, --public-url.",
            )
        case "attachment":
            return item(
                "attachment",
                step.name,
                "reads the workflow's attachments, which Git does not hold.",
                "Download the attachments in the workflow's settings, and put the files into the workflow's folder.",
            )
        case "error":
            return item(
                "error_handler",
                step.name,
                "reads the event of a failed run: the workflow handles errors of other workflows.",
                "Give it an errors trigger in pdkernel.yaml, and switch it over before the other workflows.",
            )
        case "endpoint" | "workflow":
            kind, what, message, fix = _describe_call(use, around)
            return item(kind, what, message, fix)


def _describe_call(use: PlatformUse, around: Surroundings) -> tuple[ItemKind, str, str, str]:
    """The kind, the name, the message and the fix of the item of a call of another workflow."""
    if use.kind == "endpoint":
        named = around.endpoints.get(use.name)
        whose = f"the endpoint of {named}" if named else "an endpoint of a workflow that is not known by its URL"
        return (
            "caller",
            use.name,
            f"calls https://{use.name}, {whose}. The endpoint ends on {SHUTDOWN_DAY}.",
            "Serve the called workflow first, then write its new URL, best as an environment variable.",
        )
    named, what = around.names.get(use.name), use.name or "another workflow"
    known = f"{what} ({named})" if named else f"{what}, which is not part of this report"
    return (
        "invoked_workflow",
        what,
        f"starts {known}.",
        "Switch the started workflow over first."
        if named
        else "Add the started workflow to the report and to the move.",
    )
