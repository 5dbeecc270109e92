"""
The report about an imported workflow: its requirements on this machine before its first run, found without running code.

As data, text and Markdown, without credentials.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from pdkernel.actions import ActionReference, Catalog
from pdkernel.actions.npm_source import APPS_ON_NPM
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import (
    ActionNotFoundError,
    ActionVersionError,
    EntryPointError,
    ExpressionError,
    LicenceError,
    RequestError,
)
from pdkernel.files.definition import EXTERNAL_USER, UNANSWERED, AccountChoice
from pdkernel.files.definition.api_workflow import UNREAD_KEY
from pdkernel.language.analysis import (
    check_workflow,
    find_app_bindings,
    find_order_warnings,
    find_secret_props,
    find_step_packages,
    find_step_requirements,
    iter_sources,
)
from pdkernel.language.analysis.old_code import OLD_VERSION, find_old_uses
from pdkernel.language.analysis.step_references import find_step_variables
from pdkernel.language.directive import describe_emitters
from pdkernel.language.directive.workflow_header import SETTING_RULES
from pdkernel.model import JSON, LANGUAGE_NAMES, ROUND_TRIP_KEY, Step, Trigger, Workflow
from pdkernel.render.markup import escape_control_characters


class ActionSource(JsonStruct, frozen=True):
    """The source of a step's pre-built action (`built in`, `npm`, ...); *runs* is False if no source has the action."""

    step: str
    uses: str
    source: str
    runs: bool = True


class AccountAssignment(JsonStruct, frozen=True):
    """The account of an app prop: `external_user`, an account's id, or `unanswered`; *synced* is the id at Pipedream, or None."""

    step: str
    prop: str
    app: str
    account: str
    synced: str | None = None


class VariableRead(JsonStruct, frozen=True):
    """An environment variable and the places that read it: `STEP, line N` in code, or `STEP` for a prop."""

    name: str
    places: tuple[str, ...]
    required: bool = True


class SecretUse(JsonStruct, frozen=True):
    """A secret prop: only Pipedream has its value, so that a person must give the value again."""

    step: str
    prop: str


class StoreUse(JsonStruct, frozen=True):
    """A data store and the props that use it; *name* is its local name or its id at Pipedream, None is the project's default store."""

    name: str | None
    props: tuple[str, ...]


class TriggerUse(JsonStruct, frozen=True):
    """A trigger: id, type, settings as text, and whether the settings are assumed because Pipedream's files do not hold them."""

    id: str | None
    type: str
    settings: str
    assumed: bool = False


class PackageUse(JsonStruct, frozen=True):
    """A package that steps import, with the required version or an empty string."""

    language: str
    name: str
    version: str
    steps: tuple[str, ...]


class UnknownCondition(JsonStruct, frozen=True):
    """A step that is disabled because it is unknown when it runs, and the JSON path of the part of the archive that may say so."""

    step: str
    path: str


class UnsupportedItem(JsonStruct, frozen=True):
    """An item that cannot run, and the reason as a sentence without its subject."""

    name: str
    why: str


class ImportReport(JsonStruct, frozen=True):
    """
    The parts of an imported workflow, and what a run of it requires.

    Attributes:
        workflow: Name of the workflow.
        ready: Steps that run unchanged once the requirements are met.
        disabled: Disabled steps.
        conditions: Those of them whose condition is unknown.
        actions: Sources of pre-built actions.
        accounts: Accounts of app props.
        variables: Environment variables.
        secrets: Secret props.
        stores: Data stores.
        triggers: Triggers.
        packages: Packages installed at the first run.
        gone: Sentences about references to missing or later steps.
        cannot: Items that cannot run.
        notes: Other sentences.
    """

    workflow: str
    ready: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    conditions: tuple[UnknownCondition, ...] = ()
    actions: tuple[ActionSource, ...] = ()
    accounts: tuple[AccountAssignment, ...] = ()
    variables: tuple[VariableRead, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    stores: tuple[StoreUse, ...] = ()
    triggers: tuple[TriggerUse, ...] = ()
    packages: tuple[PackageUse, ...] = ()
    gone: tuple[str, ...] = ()
    cannot: tuple[UnsupportedItem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unanswered(self) -> tuple[AccountAssignment, ...]:
        """App props whose account is not known yet."""
        return tuple(use for use in self.accounts if use.account == "unanswered")

    def render_text(self) -> str:
        """Render the report as text: headings, and a line for each item."""
        text: list[str] = []
        for heading, lines in _parts(self):
            text += [f"  {heading}", *(f"    - {line.replace('`', '')}" for line in lines)]
        return escape_control_characters("".join(f"{line}\n" for line in text))

    def render_markdown(self) -> str:
        """Render the report as Markdown for the first cell of the notebook."""
        parts = ["## Requirements of this workflow"]
        for heading, lines in _parts(self):
            parts.append("\n".join([f"**{heading}**", "", *(f"- {line}" for line in lines)]))
        parts.append(
            "This list shows the workflow at its import. `pdkernel doctor` on this notebook shows the current state."
        )
        return "\n\n".join(parts)


def _parts(report: ImportReport) -> Iterator[tuple[str, list[str]]]:
    parts = (
        ("Runs unchanged", [", ".join(map(_code, report.ready))] if report.ready else []),
        ("Cannot run", [f"{_code(item.name)} {_line(item.why)}" for item in report.cannot]),
        ("Accounts", [_account(use) for use in report.accounts]),
        ("Data stores", [_store(use) for use in report.stores]),
        ("Triggers", [_describe_trigger(use) for use in report.triggers]),
        ("Pre-built actions", [f"{_code(use.step)}: {_code(use.uses)}, {_line(use.source)}" for use in report.actions]),
        ("Environment variables", [_variable(use) for use in report.variables]),
        ("Secret props, whose values only Pipedream has", [_secret(use) for use in report.secrets]),
        ("Packages, installed at the first run", [_package(use) for use in report.packages]),
        ("References to missing steps", list(map(_line, report.gone))),
        (
            "Disabled, because their condition is unknown",
            [f"{_code(each.step)}: {_code(each.path)} in Pipedream's JSON" for each in report.conditions],
        ),
        ("Disabled, and not run", [", ".join(map(_code, report.disabled))] if report.disabled else []),
        ("Notes", list(map(_line, report.notes))),
    )
    return ((heading, lines) for heading, lines in parts if lines)


def _account(use: AccountAssignment) -> str:
    whose = {
        "external_user": "the external user's",
        "unanswered": "**unanswered**: set it in the notebook's `pdkernel.yaml` (`external_user`, or an account's id)",
    }.get(use.account, f"your own, {_code(use.account)}")
    synced_account = f" (Pipedream has {_code(use.synced)})" if use.synced and use.synced != use.account else ""
    app = "unknown app" if use.app == "unknown" else _code(use.app)
    return f"{_code(f'{use.step}.{use.prop}')}, {app}: {whose}{synced_account}"


def _store(use: StoreUse) -> str:
    name = _code(use.name) if use.name else "the project's default store"
    command = _code(f"pdkernel store import {shlex.quote(use.name or 'NAME')} FILE")
    way = f"; its id is known, but not its records. Import them: {command}"
    return f"{name}: {', '.join(map(_code, use.props))}{way if (use.name or '').startswith('ds_') else ''}"


def _describe_trigger(use: TriggerUse) -> str:
    name = f"{_code(use.id)}, {use.type}" if use.id else use.type
    return f"{name}: {_line(use.settings)}" + (
        " (assumed, because Pipedream's files do not store it)" if use.assumed else ""
    )


def _variable(use: VariableRead) -> str:
    return f"{_code(use.name)}: read by {'; '.join(use.places)}" + ("" if use.required else " (optional)")


def _secret(use: SecretUse) -> str:
    place = f"{use.step} {shlex.quote(use.prop)}"
    commands = f"{_code(f'%pdsecrets set {place}')}, or {_code(f'pdkernel secrets set SOURCE {place}')}"
    return f"{_code(f'{use.step}.{use.prop}')}: give its value before a run: {commands}"


def _package(use: PackageUse) -> str:
    version = f" {use.version}" if use.version else ", any version"
    return f"{_code(use.name)}{version} ({use.language}): {', '.join(use.steps)}"


def _line(words: str) -> str:
    return " ".join(words.split())


def _code(words: str) -> str:
    """Return *words* as inline code in Markdown, on one line."""
    line = " ".join(words.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


ChoicesByStep = Mapping[str, Mapping[str, AccountChoice]]


def build_import_report(
    workflow: Workflow,
    catalog: Catalog,
    *,
    choices: ChoicesByStep | None = None,
    assumed_triggers: Collection[str] = (),
    notes: tuple[str, ...] = (),
) -> ImportReport:
    """
    Return the report on *workflow*.

    Args:
        workflow: The workflow to run.
        catalog: The catalog of pre-built actions.
        choices: Account choices by step and prop; without a choice the step's own account is reported.
        assumed_triggers: Ids of triggers whose settings are assumed.
        notes: Additional sentences.
    """
    readable, faults = _drop_unreadable_props(workflow)
    actions = tuple(_action(step, catalog) for step in workflow.steps if step.uses)
    cannot = (*_find_blockers(workflow, actions), *faults)
    accounts = tuple(_accounts(workflow, choices or {}))
    stopped = {item.name for item in cannot} | {use.step for use in accounts if use.account == UNANSWERED}
    enabled = [step.name for step in workflow.steps if not step.disabled]
    return ImportReport(
        workflow=workflow.name,
        ready=tuple(name for name in enabled if name not in stopped),
        disabled=tuple(step.name for step in workflow.steps if step.disabled),
        conditions=tuple(
            UnknownCondition(step.name, step.unknown_condition)
            for step in workflow.steps
            if step.disabled and step.unknown_condition is not None
        ),
        actions=actions,
        accounts=accounts,
        variables=_variables(readable),
        secrets=tuple(SecretUse(prop.step, prop.prop) for prop in find_secret_props(workflow)),
        stores=_stores(workflow),
        triggers=tuple(_trigger(trigger, assumed_triggers) for trigger in workflow.triggers),
        packages=_packages(workflow),
        gone=find_order_warnings(readable),
        cannot=cannot,
        notes=(*notes, *_describe_settings(workflow), *_describe_unread(workflow)),
    )


def _describe_settings(workflow: Workflow) -> Iterator[str]:
    """Yield the sentences about what a workflow's triggers and settings mean outside of Pipedream."""
    if not workflow.triggers:
        yield "The workflow has no trigger, so it has no endpoint: other workflows start it with `$.flow.trigger`."
    network = workflow.settings.get("network")
    if isinstance(network, str):
        yield (
            f"On Pipedream, outbound calls leave through the network `{network}` (a VPC). To send them through a proxy: "
            f"`pdkernel serve --via {shlex.quote(network)}=http://HOST:PORT`."
        )
    for name in workflow.settings:
        if name not in SETTING_RULES:
            yield f"The setting `{name}` is unknown: it is kept for exports, and has no effect on runs."


def _describe_unread(workflow: Workflow) -> Iterator[str]:
    """Yield the sentences about what Pipedream's JSON has and pdkernel does not read."""
    for path in _get_unread(workflow.extra):
        yield f"`{path}` in Pipedream's JSON is not read: it names no step, and is kept in the metadata of the header cell."
    for step in workflow.steps:
        if unread := _get_unread(step.extra):
            keys = ", ".join(f"`{key}`" for key in unread)
            yield f"The step `{step.name}` has in Pipedream's JSON, not read and kept in its cell's metadata: {keys}."


def _get_unread(extra: Mapping[str, JSON]) -> Mapping[str, JSON]:
    kept = extra.get(ROUND_TRIP_KEY)
    unread = kept.get(UNREAD_KEY) if isinstance(kept, dict) else None
    return unread if isinstance(unread, dict) else {}


def _drop_unreadable_props(workflow: Workflow) -> tuple[Workflow, list[UnsupportedItem]]:
    """Return *workflow* without the props of steps that have an unreadable expression; and these steps."""
    faults: list[UnsupportedItem] = []
    steps: list[Step] = []
    for step in workflow.steps:
        try:
            find_step_variables(step)
            steps.append(step)
        except ExpressionError as fault:
            faults.append(UnsupportedItem(step.name, f"has a prop that cannot be read: {_sentence(fault.message)}"))
            steps.append(replace(step, props={}))
    return replace(workflow, steps=tuple(steps)), faults


def _sentence(message: str) -> str:
    return " ".join(message.split())


def _action(step: Step, catalog: Catalog) -> ActionSource:
    reference = step.uses or ""
    try:
        uses = ActionReference.parse(reference)
    except RequestError:
        return ActionSource(step.name, reference, "not the key of an action", runs=False)
    try:
        found = catalog.resolve(uses.key, uses.version)
    except LicenceError:
        return ActionSource(
            step.name,
            reference,
            f"possibly on npm, after you accept the licence: {ACCEPT_LICENCE_COMMAND}",
            runs=False,
        )
    except ActionNotFoundError as fault:
        remote = catalog.find_remote_sources(uses)
        if remote:
            name = "npm, resolved at the first run" if remote[0].source == "npm" else "run by Pipedream Connect"
            return ActionSource(step.name, reference, name)
        if isinstance(fault, ActionVersionError):
            return ActionSource(
                step.name, reference, f"available in another version only: {_sentence(fault.message)}", runs=False
            )
        if uses.is_private:
            return ActionSource(
                step.name,
                reference,
                f"a private component whose code is missing. {_sentence(fault.fix).partition(' Or ')[0]}",
                runs=False,
            )
        way = f"; possibly on npm: {ACCEPT_LICENCE_COMMAND}" if uses.app in APPS_ON_NPM else ""
        return ActionSource(step.name, reference, f"not in any source of this project{way}", runs=False)
    instead = f", in version {found.version}" if found.version != uses.version else ""
    return ActionSource(step.name, reference, f"{found.source}{instead}")


def _find_blockers(workflow: Workflow, actions: tuple[ActionSource, ...]) -> Iterator[UnsupportedItem]:
    disabled = {step.name for step in workflow.steps if step.disabled}
    for action in actions:
        if not action.runs and action.step not in disabled:
            yield UnsupportedItem(action.step, f"uses {action.uses}, {action.source}")
    for step in workflow.steps:
        if step.is_code_missing:
            yield UnsupportedItem(step.name, "has no code: its entry file is missing")
        elif not step.disabled and step.language == "node" and not step.uses and _is_old(step):
            yield UnsupportedItem(step.name, f"is written for {OLD_VERSION}; import it with --modernize")
        elif not step.disabled and _lacks_entry_point(step):
            yield UnsupportedItem(step.name, "has nothing to call: no default export, no handler or no main function")
        elif step.stores and step.language in ("bash", "go") and not step.disabled:
            yield UnsupportedItem(
                step.name, "is a Bash or Go step with a data store, which these languages do not support"
            )
    for kept in workflow.unsupported_entries:
        kept_for_export = "; the entry is kept for export" if kept.path is None else ""
        yield UnsupportedItem(kept.name, f"{kept.unsupported_reason}{kept_for_export}")


def _is_old(step: Step) -> bool:
    return bool(find_old_uses(step.source)) and _lacks_entry_point(step)


def _lacks_entry_point(step: Step) -> bool:
    try:
        check_workflow(Workflow(step.name, steps=(replace(step, props={}, inside=None),), extra={"schema": None}))
    except EntryPointError:
        return True
    return False


def _accounts(workflow: Workflow, choices: ChoicesByStep) -> Iterator[AccountAssignment]:
    for step in workflow.steps:
        for app in find_app_bindings(step):
            choice = choices.get(step.name, {}).get(app.prop)
            account = choice.account if choice is not None else app.account or EXTERNAL_USER
            yield AccountAssignment(
                step.name, app.prop, app.app, account, choice.synced if choice is not None else None
            )


def _stores(workflow: Workflow) -> tuple[StoreUse, ...]:
    props: dict[str | None, list[str]] = {}
    for step in workflow.steps:
        for binding in step.stores:
            props.setdefault(binding.store, []).append(f"{step.name}.{binding.prop}")
    return tuple(StoreUse(name, tuple(found)) for name, found in props.items())


def _variables(workflow: Workflow) -> tuple[VariableRead, ...]:
    places: dict[str, list[str]] = {}
    required: set[str] = set()
    for step in workflow.steps:
        found = find_step_variables(step)
        required |= found.required
        for name in sorted(found.required | found.optional):
            places.setdefault(name, []).append(_locate_variable(step, name))
    return tuple(VariableRead(name, tuple(places[name]), name in required) for name in sorted(places))


def _locate_variable(step: Step, name: str) -> str:
    for path, source in iter_sources(step):
        for number, line in enumerate(source.split("\n"), start=1):
            if re.search(rf"\b{re.escape(name)}\b", line):
                return f"{step.name}, {path} line {number}" if path else f"{step.name}, line {number}"
    return step.name


def _trigger(trigger: Trigger, assumed: Collection[str]) -> TriggerUse:
    config = trigger.config
    match trigger.type:
        case "http":
            auth = {"none": "no authorization", "bearer": "a custom token", "oauth": "Pipedream OAuth"}
            response = "a custom response" if trigger.response == "custom" else "the default response"
            settings = f"{auth[trigger.auth]}, {response}"
        case "schedule":
            every = f"every {config['interval_seconds']} seconds" if "interval_seconds" in config else None
            settings = str(config.get("cron") or every or "unknown schedule")
            settings += f", for {trigger.for_each}" if trigger.for_each is not None else ""
        case "email":
            settings = "started by an email"
        case "source":
            settings = str(config.get("uses") or "unknown event source")
        case "errors":
            settings = f"errors of {describe_emitters(trigger)}"
        case "emit":
            settings = f"events of {describe_emitters(trigger)}"
    trigger_id = config.get("id")
    return TriggerUse(
        trigger_id if isinstance(trigger_id, str) else None, trigger.type, settings, trigger_id in assumed
    )


def _packages(workflow: Workflow) -> tuple[PackageUse, ...]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for step in workflow.steps:
        if step.uses:
            continue
        if step.language == "node":
            for package in find_step_packages(step):
                found.setdefault((LANGUAGE_NAMES["node"], package.name, package.version or ""), []).append(step.name)
        elif step.language == "python":
            for asked in find_step_requirements(step):
                found.setdefault((LANGUAGE_NAMES["python"], asked.name, asked.version), []).append(step.name)
    return tuple(PackageUse(*key, tuple(steps)) for key, steps in sorted(found.items()))
