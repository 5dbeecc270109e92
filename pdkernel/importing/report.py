"""
What a workflow needs here before its first run, found without running anything.

Knows which source of actions a project has, and what Git leaves out. How it is told is for `render` to know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from pdkernel.actions import Catalog, Uses
from pdkernel.actions.choices import ACCEPT_COMMAND
from pdkernel.actions.npm import KNOWN_APPS
from pdkernel.definition import EXTERNAL_USER, UNANSWERED, AccountChoice
from pdkernel.errors import (
    ActionNotFoundError,
    ActionVersionError,
    EntryPointError,
    ExpressionError,
    LicenceError,
    RequestError,
)
from pdkernel.inspection import apps_of, check, node_packages, order_warnings, python_requirements
from pdkernel.inspection.reads import variables_of
from pdkernel.model import Step, Trigger, Workflow
from pdkernel.render.import_report import (
    AccountUse,
    ActionPlace,
    Cannot,
    ImportReport,
    PackageUse,
    StoreUse,
    TriggerUse,
    VariableRead,
)

Choices = Mapping[str, Mapping[str, AccountChoice]]


def report_on(
    workflow: Workflow,
    catalog: Catalog,
    *,
    choices: Choices | None = None,
    assumed: Collection[str] = (),
    notes: tuple[str, ...] = (),
) -> ImportReport:
    """
    The report on *workflow*.

    Args:
        workflow: As it would run here.
        catalog: The pre-built actions that would run.
        choices: Whose account fills which prop, where it is known; else what the steps say.
        assumed: Ids of triggers whose settings are assumed.
        notes: Sentences of the caller's own.
    """
    readable, faults = _readable(workflow)
    actions = tuple(_action(step, catalog) for step in workflow.steps if step.uses)
    cannot = (*_cannot(workflow, actions), *faults)
    accounts = tuple(_accounts(workflow, choices or {}))
    stopped = {item.name for item in cannot} | {use.step for use in accounts if use.account == UNANSWERED}
    enabled = [step.name for step in workflow.steps if not step.disabled]
    return ImportReport(
        workflow=workflow.name,
        ready=tuple(name for name in enabled if name not in stopped),
        disabled=tuple(step.name for step in workflow.steps if step.disabled),
        actions=actions,
        accounts=accounts,
        variables=_variables(readable),
        stores=_stores(workflow),
        triggers=tuple(_trigger(trigger, assumed) for trigger in workflow.triggers),
        packages=_packages(workflow),
        gone=order_warnings(readable),
        cannot=cannot,
        notes=notes,
    )


def _readable(workflow: Workflow) -> tuple[Workflow, list[Cannot]]:
    """*workflow* without the props of steps of which a prop holds a `{{` that is no expression; and these steps."""
    faults: list[Cannot] = []
    steps: list[Step] = []
    for step in workflow.steps:
        try:
            variables_of(step)
            steps.append(step)
        except ExpressionError as fault:
            faults.append(Cannot(step.name, f"has a prop that cannot be read: {_sentence(fault.message)}"))
            steps.append(replace(step, props={}))
    return replace(workflow, steps=tuple(steps)), faults


def _sentence(message: str) -> str:
    return " ".join(message.split())


def _action(step: Step, catalog: Catalog) -> ActionPlace:
    said = step.uses or ""
    try:
        uses = Uses.parse(said)
    except RequestError:
        return ActionPlace(step.name, said, "which is not an action's key", runs=False)
    if uses.private:
        return ActionPlace(step.name, said, "a private component, whose code only Pipedream has", runs=False)
    where = catalog.choices.where
    try:
        found = catalog.resolve(uses.key, uses.version)
    except LicenceError:
        return ActionPlace(
            step.name, said, f"which npm may have, once its licence is accepted: {ACCEPT_COMMAND}", runs=False
        )
    except ActionVersionError as fault:
        return ActionPlace(
            step.name, said, f"of which there is another version only: {_sentence(fault.message)}", runs=False
        )
    except ActionNotFoundError:
        if where.source in ("npm", "connect"):
            name = "npm, looked for at the first run" if where.source == "npm" else "run by Pipedream Connect"
            return ActionPlace(step.name, said, name)
        way = f"; npm may have it: {ACCEPT_COMMAND}" if uses.app in KNOWN_APPS else ""
        return ActionPlace(step.name, said, f"which no source of this project has{way}", runs=False)
    instead = f", in version {found.version}" if found.version != uses.version else ""
    return ActionPlace(step.name, said, f"{found.source}{instead}")


def _cannot(workflow: Workflow, actions: tuple[ActionPlace, ...]) -> Iterator[Cannot]:
    disabled = {step.name for step in workflow.steps if step.disabled}
    for action in actions:
        if not action.runs and action.step not in disabled:
            yield Cannot(action.step, f"uses {action.uses}, {action.source}")
    for step in workflow.steps:
        if step.code_missing:
            yield Cannot(step.name, "has no code: its entry file is missing")
        elif not step.disabled and _lacks_entry_point(step):
            yield Cannot(step.name, "has nothing to call: no default export, no handler or no main function")
        elif step.stores and step.language in ("bash", "go") and not step.disabled:
            yield Cannot(step.name, "is a Bash or Go step with a data store, which these do not have")
    for kept in workflow.kept:
        yield Cannot(kept.name, f"{kept.why}; it is kept for export")


def _lacks_entry_point(step: Step) -> bool:
    try:
        check(Workflow(step.name, steps=(replace(step, props={}),), extra={"schema": None}))
    except EntryPointError:
        return True
    return False


def _accounts(workflow: Workflow, choices: Choices) -> Iterator[AccountUse]:
    for step in workflow.steps:
        for app in apps_of(step):
            choice = choices.get(step.name, {}).get(app.prop)
            account = choice.account if choice is not None else app.account or EXTERNAL_USER
            yield AccountUse(step.name, app.prop, app.app, account, choice.synced if choice is not None else None)


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
        found = variables_of(step)
        required |= found.required
        for name in sorted(found.required | found.optional):
            places.setdefault(name, []).append(_place(step, name))
    return tuple(VariableRead(name, tuple(places[name]), name in required) for name in sorted(places))


def _place(step: Step, name: str) -> str:
    for number, line in enumerate(step.source.split("\n"), start=1):
        if re.search(rf"\b{re.escape(name)}\b", line):
            return f"{step.name}, line {number}"
    return step.name


def _trigger(trigger: Trigger, assumed: Collection[str]) -> TriggerUse:
    config = trigger.config
    match trigger.type:
        case "http":
            auth = {"none": "anybody may call it", "bearer": "a token is needed", "oauth": "OAuth clients may call it"}
            answer = "the workflow answers" if trigger.response == "custom" else "the default response"
            settings = f"{auth[trigger.auth]}, {answer}"
        case "schedule":
            every = f"every {config['interval_seconds']} seconds" if "interval_seconds" in config else None
            settings = str(config.get("cron") or every or "when it fires is not known")
        case "email":
            settings = "an email starts it"
        case "source":
            settings = str(config.get("uses") or "which event source it is, is not known")
    held = config.get("id")
    return TriggerUse(held if isinstance(held, str) else None, trigger.type, settings, held in assumed)


def _packages(workflow: Workflow) -> tuple[PackageUse, ...]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for step in workflow.steps:
        if step.uses:
            continue
        if step.language == "node":
            for package in node_packages(step.source):
                found.setdefault(("Node.js", package.name, package.version or ""), []).append(step.name)
        elif step.language == "python":
            for asked in python_requirements(step.source):
                found.setdefault(("Python", asked.name, asked.version), []).append(step.name)
    return tuple(PackageUse(*key, tuple(steps)) for key, steps in sorted(found.items()))
