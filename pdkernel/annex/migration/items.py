"""
What a team must act on for one workflow: answers, data that Pipedream deletes, and what is switched over.

`readiness` finds what the workflow needs here, and `analysis` what its code uses of the platform.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from pdkernel.annex.migration.migration_report import MigrationItem
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.annex.migration.step_items import Surroundings, build_store_item, find_step_items
from pdkernel.annex.migration.trigger_items import find_trigger_items
from pdkernel.errors import format_count
from pdkernel.language.directive.setting_rules import SETTING_RULES
from pdkernel.model import Step, UnsupportedEntry, Workflow
from pdkernel.operations.importer.import_report import AccountAssignment
from pdkernel.operations.readiness import DoctorReport, MissingRequirement

NETWORK_SETTING = "network"
LIMIT_SETTINGS = (
    "concurrency",
    "throttle",
    "queue",
    "rate_limit",
    "rate_limit_bucket_size_seconds",
    "max_event_queue_size",
    "lambda_memory",
    "memory",
)
"""Settings that limit a workflow's runs."""
_SILENT_SETTINGS = frozenset({"error_notification", "lambda_timeout", "name", "auto_deploy"})


def find_items(source: MigrationSource, found: DoctorReport, around: Surroundings) -> tuple[MigrationItem, ...]:
    """
    The items of a workflow that could be read, in the order of the report's kinds.

    Args:
        source: The workflow.
        found: What it needs here.
        around: What is known beyond the workflow.
    """
    workflow = source.workflow
    assert workflow is not None, "a source that cannot be read has one item, its error"
    items = [
        *_requirement_items(workflow, found),
        *_credential_items(found),
        *_account_items(found, around),
        *_setting_items(workflow),
        *find_trigger_items(source, workflow),
        *_store_items(workflow, found),
        *(item for step in workflow.steps for item in find_step_items(step, around)),
        *_history_items(source),
    ]
    unique = {(item.kind, item.name, item.message): item for item in items}
    return tuple(unique.values())


# ── what the workflow needs here ───────────────────────────────────────────────────


def _requirement_items(workflow: Workflow, found: DoctorReport) -> Iterator[MigrationItem]:
    places = {use.name: use.places for use in found.import_report.variables}
    required = {item.name for item in found.missing_requirements if item.kind == "variable"}
    steps = {step.name: step for step in workflow.steps}
    named: set[str] = set()
    for entry in workflow.unsupported_entries:
        named.add(entry.name)
        yield _entry_item(entry)
    for need in found.missing_requirements:
        if need.kind == "account" and need.name.startswith("apn_"):
            continue  # an account of the workspace: `_account_items`
        if need.name in named and need.kind in ("unsupported", "action"):
            continue
        if need.kind in ("unsupported", "action") and need.name in steps:
            named.add(need.name)
        yield _requirement_item(need, steps, places)
    for blocked in found.import_report.cannot:
        if blocked.name not in named:
            yield MigrationItem("unsupported", blocked.name, f"{blocked.name} {blocked.why}.", steps=(blocked.name,))
    for variable in found.import_report.variables:
        if variable.name not in required and not variable.required:
            yield MigrationItem(
                "optional_variable",
                variable.name,
                f"The environment variable {variable.name} has a default in the code: {'; '.join(variable.places)}. "
                "Its value at Pipedream is deleted.",
                "If it has a value there, copy it from the settings of the workspace or project.",
                f"pdkernel env set {shlex.quote(variable.name)}",
            )


def _credential_items(found: DoctorReport) -> Iterator[MigrationItem]:
    for finding in found.lint_findings:
        if finding.rule == "secret" and finding.step is not None:
            yield MigrationItem(
                "plain_secret",
                finding.step,
                f"Step {finding.step}: {_sentence(finding.message)}",
                finding.fix,
                steps=(finding.step,),
            )


def _requirement_item(
    need: MissingRequirement, steps: Mapping[str, Step], places: Mapping[str, tuple[str, ...]]
) -> MigrationItem:
    match need.kind:
        case "variable":
            where = places.get(need.name, ())
            return MigrationItem(
                "variable",
                need.name,
                f"The environment variable {need.name} is read by {'; '.join(where) or 'the workflow'}, and Git does not hold its value.",
                "Copy the value from the settings of the workspace or project at Pipedream.",
                need.command,
                tuple(place.partition(",")[0] for place in where),
            )
        case "action":
            return _action_item(need.name, steps[need.name].uses or "", _sentence(need.message), need.command)
        case "unsupported" if need.name in steps and steps[need.name].is_code_missing:
            return MigrationItem(
                "code",
                need.name,
                f"The code of step {need.name} is missing: only Pipedream has it.",
                "Open the step in the builder, and copy its code into the entry file.",
                steps=(need.name,),
            )
        case "unsupported":
            return MigrationItem("unsupported", need.name, need.message, steps=(need.name,))
        case "secret":
            return MigrationItem(
                "secret",
                need.name,
                need.message,
                "Look up the value in the builder or at its service, and enter it here.",
                need.command,
                (need.name.partition(".")[0],),
            )
        case "file":
            return MigrationItem(
                "sibling",
                need.name,
                _sentence(need.message),
                "Copy the file from the project at Pipedream, or from another branch of the repository.",
                steps=(need.name,),
            )
        case "interpreter":
            return MigrationItem("interpreter", need.name, need.message, "", need.command, tuple(steps))
        case "answer":
            blocked = (need.name.partition(".")[0],)
            return MigrationItem("account", need.name, need.message, "", need.command, blocked)
        case "external_user" | "account" | "plan":
            return MigrationItem("external_user", need.name, need.message, "", need.command)


def _entry_item(entry: UnsupportedEntry) -> MigrationItem:
    uses = entry.entry.get("uses")
    message = f"{entry.name} {entry.unsupported_reason}."
    if not uses:
        return MigrationItem(
            "control_flow",
            entry.name,
            message,
            "Git does not hold the branches. Copy them from the builder, or write them as filter steps or code.",
            steps=(entry.name,),
        )
    if isinstance(uses, str) and not uses.startswith(("./", "../", "/")):
        return _action_item(entry.name, uses, message)
    return MigrationItem("unsupported", entry.name, message, steps=(entry.name,))


def _action_item(step: str, uses: str, message: str, command: str = "") -> MigrationItem:
    if uses.startswith("@"):
        return MigrationItem(
            "private_action",
            step,
            message,
            "Only your workspace has the component: put its code into a folder with the layout of a components checkout.",
            command or "pdkernel project set actions FOLDER",
            (step,),
        )
    fix = "" if "@" in uses else "Look up the version in the builder, and write KEY@VERSION."
    return MigrationItem("action", step, message, fix, command, (step,))


def _account_items(found: DoctorReport, around: Surroundings) -> Iterator[MigrationItem]:
    commands = {need.name: need.command for need in found.missing_requirements if need.kind == "account"}
    own: dict[str, list[AccountAssignment]] = {}
    for use in found.import_report.accounts:
        if use.account.startswith("apn_"):
            own.setdefault(use.account, []).append(use)
    for account_id, uses in own.items():
        steps = tuple(dict.fromkeys(use.step for use in uses))
        known = around.accounts.get(account_id)
        if known is not None and not known.withheld:
            continue
        where = f"step {', '.join(steps)} uses the {uses[0].app} account {account_id}"
        if known is not None:
            yield _withheld_item(account_id, f"Connect withholds its credentials: {where}.", uses[0].app, steps)
            continue
        yield MigrationItem(
            "account",
            account_id,
            f"An account of the workspace: {where}. Git has the id only; the credentials stay at Pipedream.",
            "Add the account here with its credentials. If it stands for the external user's account, write external_user in pdkernel.yaml.",
            commands.get(account_id, f"pdkernel accounts add --own --app {uses[0].app} --id {account_id}"),
            steps,
        )
    apps = dict.fromkeys(use.app for use in found.import_report.accounts if not use.account.startswith("apn_"))
    for app in apps:
        held = around.withheld.get(app, ())
        if held:
            users = ", ".join(sorted({str(account.external_user_id) for account in held})[:5])
            steps = tuple(dict.fromkeys(use.step for use in found.import_report.accounts if use.app == app))
            yield _withheld_item(
                app,
                f"Connect withholds the credentials of {format_count(len(held), f'{app} account')} of external users ({users}).",
                app,
                steps,
            )


def _withheld_item(name: str, message: str, app: str, steps: tuple[str, ...]) -> MigrationItem:
    return MigrationItem(
        "account",
        name,
        message,
        "Calls to the app's API go through Connect's proxy while Connect lives; code that reads the token fails. "
        "To hold the credentials, register your own OAuth client for the app, and let the users connect again.",
        f"pdkernel apps add {app}",
        steps,
    )


def _sentence(message: str) -> str:
    return " ".join(message.split())


# ── settings ───────────────────────────────────────────────────────────────────────


def _setting_items(workflow: Workflow) -> Iterator[MigrationItem]:
    if workflow.is_inactive:
        yield MigrationItem(
            "inactive",
            workflow.name,
            "The workflow is turned off at Pipedream.",
            "Leave it out of the move, or decide why it was turned off.",
        )
    for name, value in workflow.settings.items():
        shown = f"`settings.{name}` is {json.dumps(value)}"
        if name == NETWORK_SETTING:
            yield MigrationItem(
                "network",
                str(value),
                f"{shown}: the workflow's calls leave from a private network with a fixed address.",
                "Allow the address of your server at the services it calls, or send the calls through a proxy: --via PROXY.",
            )
        elif name in LIMIT_SETTINGS:
            honoured = (
                "the same limit applies here."
                if name in SETTING_RULES
                else "this version keeps it, and does not apply it."
            )
            yield MigrationItem(
                "limit", name, f"{shown}: {honoured}", "Check that your server can run as many runs at once."
            )
        elif name not in _SILENT_SETTINGS and name not in SETTING_RULES:
            yield MigrationItem("limit", name, f"{shown}: an unknown setting, which is kept and not applied.")


# ── data that Pipedream deletes ────────────────────────────────────────────────────


def _store_items(workflow: Workflow, found: DoctorReport) -> Iterator[MigrationItem]:
    for use in found.import_report.stores:
        name = use.name or "a data store that is chosen in the builder"
        yield build_store_item(use.name, f"The records of {name} are not in Git: {', '.join(use.props)}.")
    for step in workflow.steps:
        if step.uses and step.uses.startswith("data_stores-") and not step.stores:
            yield build_store_item(None, f"Step {step.name} uses a data store, and Git does not hold which one.")


def _history_items(source: MigrationSource) -> Iterator[MigrationItem]:
    if source.id is not None:
        yield MigrationItem(
            "events",
            source.id,
            "The event history (events, runs, logs) stays at Pipedream.",
            "The command saves the newest events of its sources and of failed runs, as far as the API has them.",
            f"pdkernel migrate events {shlex.quote(source.source)}" + ("" if source.path else " --to FOLDER"),
        )
