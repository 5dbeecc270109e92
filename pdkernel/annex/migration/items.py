"""
What a team must act on for one workflow, its steps and its triggers: answers, data that Pipedream deletes, and what is switched over.

`readiness` finds what the workflow needs here, and `analysis` what its code uses of the platform.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pdkernel.annex.migration.migration_report import SHUTDOWN_DAY, ItemKind, MigrationItem
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.identity import PIPEDREAM_ENDPOINT_DOMAIN, Account
from pdkernel.errors import format_count
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY
from pdkernel.language.analysis import find_rule_problem
from pdkernel.language.analysis.platform_uses import PlatformUse, find_hosts, find_platform_uses
from pdkernel.language.directive import describe_emitters
from pdkernel.language.directive.workflow_header import SETTING_RULES
from pdkernel.language.expression import OBSERVED_OPERATORS, RULE_FILTER, RULE_FILTER_PROP, RuleFilter
from pdkernel.model import JSON, Step, Trigger, UnsupportedEntry, Workflow
from pdkernel.operations.importer.import_report import AccountAssignment
from pdkernel.operations.readiness import DoctorReport, MissingRequirement

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
    """Return the names of the report's workflows that *source* calls, by an endpoint URL or an id."""
    steps = source.workflow.steps if source.workflow is not None else ()
    uses = [use for step in steps for use in _uses(step, around)]
    known = {use.name: around.endpoints.get(use.name) for use in uses if use.kind == "endpoint"}
    known |= {use.name: around.names.get(use.name) for use in uses if use.kind == "workflow"}
    return frozenset(name for name in known.values() if name is not None and name != source.name)


def _uses(step: Step, around: Surroundings) -> tuple[PlatformUse, ...]:
    """Return the uses of the platform by *step*, calls of endpoints on domains of the team included."""
    found = find_platform_uses(step)
    known = {use.name for use in found}
    own = [
        PlatformUse("endpoint", host, line)
        for host, line in find_hosts(step).items()
        if host in around.endpoints and host not in known
    ]
    return (*found, *own)


def find_step_items(step: Step, around: Surroundings) -> Iterator[MigrationItem]:
    """Yield the items of one step; data stores that the source names are items of the workflow."""
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
    """Return the item of a data store; *name* is None if the source does not name the store."""
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
    """Return the kind, the name, the message and the fix of the item of a call of another workflow."""
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


def find_trigger_items(source: MigrationSource, workflow: Workflow) -> Iterator[MigrationItem]:
    """Yield the items of the triggers of *workflow*, that of *source*."""
    triggers = workflow.triggers
    if not triggers:
        yield MigrationItem(
            "no_trigger",
            workflow.name,
            "The workflow does not have a trigger: it was started by hand or by another workflow.",
            "Decide what starts it here: `triggers:` in pdkernel.yaml.",
        )
        return
    if len(triggers) > 1:
        listed = ", ".join(_trigger_name(trigger) for trigger in triggers)
        yield MigrationItem(
            "several_triggers",
            workflow.name,
            f"The workflow has {len(triggers)} triggers: {listed}.",
            "Switch all of them over together, so that no event is handled twice.",
        )
    is_configured = source.has_api_settings or bool(source.sidecar and source.sidecar.triggers)
    is_configured = is_configured or source.path is None or not source.path.is_dir()
    for trigger in triggers:
        yield from _of_trigger(trigger, shlex.quote(source.source), is_configured=is_configured)


def _trigger_name(trigger: Trigger) -> str:
    trigger_id = trigger.config.get("id")
    return f"{trigger_id} ({trigger.type})" if trigger_id else trigger.type


def _of_trigger(trigger: Trigger, place: str, *, is_configured: bool) -> Iterator[MigrationItem]:
    name = _trigger_name(trigger)
    switch = "Turn the workflow off at Pipedream first, then on here: both would handle each event."
    enable = f"pdkernel triggers enable {place}"
    match trigger.type:
        case "http":
            yield from _endpoint_items(trigger, name, is_configured=is_configured)
        case "schedule":
            if not {"cron", "interval_seconds"} & trigger.config.keys():
                yield _unknown_settings(
                    name,
                    f"Git does not hold the times of the schedule {name}.",
                    "the cron expression and the time zone",
                )
            yield MigrationItem("schedule", name, f"The schedule {name} starts the workflow.", switch, enable)
        case "source":
            if not trigger.config.get("uses"):
                yield _unknown_settings(
                    name,
                    f"Git holds only the id of the event source {name}: its component and its props are not known.",
                    "the component's key and its props",
                )
            yield MigrationItem("source", name, f"The event source {name} starts the workflow.", switch, enable)
            yield MigrationItem(
                "source_state",
                name,
                f"The state of the source {name} (ids already handled, last poll, webhooks) stays at Pipedream.",
                "Turn the source off there before its first poll here. Its first poll here may find events that were handled there.",
            )
        case "email":
            yield MigrationItem(
                "email_address",
                name,
                f"The email address of {name} at Pipedream ends on {SHUTDOWN_DAY}.",
                "Give the senders the new address before that day: forward mail from a mailbox of your own.",
                enable,
            )
        case "errors":
            yield MigrationItem(
                "error_handler",
                name,
                f"The workflow handles errors of {describe_emitters(trigger)}.",
                "Switch it over before the workflows whose errors it handles.",
                enable,
            )
        case "emit":
            yield MigrationItem(
                "source", name, f"Events of {describe_emitters(trigger)} start the workflow.", switch, enable
            )


def _unknown_settings(name: str, message: str, missing: str) -> MigrationItem:
    fix = f"Copy {missing} from the builder to `triggers:` in pdkernel.yaml."
    return MigrationItem("trigger_settings", name, message, fix)


def _endpoint_items(trigger: Trigger, name: str, *, is_configured: bool) -> Iterator[MigrationItem]:
    url = trigger.config.get(ENDPOINT_URL_KEY)
    host = _host(url)
    assumed = (
        "" if is_configured else " Its authorization and response mode are not in Git: check them in pdkernel.yaml."
    )
    yield MigrationItem(
        "endpoint",
        str(url) if host else name,
        f"The endpoint {url if host else f'of {name}'} at Pipedream ends on {SHUTDOWN_DAY}.{assumed}",
        "Find its callers in the event history (client_ip, user-agent, referer), and give them the URL that `pdkernel serve` prints.",
    )
    if host and host != PIPEDREAM_ENDPOINT_DOMAIN and not host.endswith(f".{PIPEDREAM_ENDPOINT_DOMAIN}"):
        yield MigrationItem(
            "custom_domain",
            host,
            f"The endpoint has a domain of your own: {host}.",
            "Point the domain to your server (DNS and TLS), and keep the path: its callers need no change.",
        )


def _host(url: JSON) -> str:
    return str(url).partition("://")[2].partition("/")[0].lower() if isinstance(url, str) else ""


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
    Return the items of a workflow that could be read, in the order of the report's kinds.

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
    if entry.path is not None:
        return MigrationItem(
            "control_flow",
            entry.name,
            message,
            "Look it up in the builder, and write it as a block or as code in the notebook. Steps in it are imported, and disabled.",
            steps=(entry.name,),
        )
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
            f"pdkernel migrate events {shlex.quote(source.source if source.path else source.id)}"
            + ("" if source.path else " --to FOLDER"),
        )
