"""
A workflow as definition files; pure.

Knows which file says what. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pdkernel.definition.languages import INFERRED, RUNTIMES, entry_path
from pdkernel.definition.literals import check_literals
from pdkernel.definition.sidecar import (
    EXTERNAL_USER,
    FOLDER_SIDECAR,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
)
from pdkernel.definition.sidecar_yaml import dump_sidecar
from pdkernel.definition.step_props import CURSOR, holds_cursor, is_store_id, props_mapping
from pdkernel.directive import dump
from pdkernel.inspection import apps_of, variables_read
from pdkernel.model import BOOKKEEPING, JSON, AppBinding, Step, Workflow

WORKFLOW_FILE = "workflow.yaml"
STATE_FILE = ".workflow.state"
SCHEMA = "workflow/2022.04"
LIMITS = ("memory", "concurrency", "throttle", "queue", "auto_retry", "retention")
"""Settings whose key in `workflow.yaml` nobody has seen: they stand in `pdkernel.yaml`."""


@dataclass(frozen=True, slots=True)
class DefinitionFile:
    """A file of a definition: its path inside the workflow's folder, with slashes, and its text."""

    path: str
    text: str


def plan(workflow: Workflow, *, sidecar: Sidecar | None = None) -> tuple[DefinitionFile, ...]:
    """
    The files of *workflow*: `workflow.yaml`, `pdkernel.yaml`, then one entry file for each code step.

    Args:
        workflow: What to write. Pins are no part of it.
        sidecar: What the workflow itself does not hold (endpoint, test users, actions, control flow).

    Raises:
        DefinitionError: A prop or code holds what looks like a credential; or a prop's expression cannot be read.
    """
    check_literals(workflow)
    base = sidecar or Sidecar()
    inferred = [step.name for step in workflow.steps if step.language in INFERRED]
    files = [
        # Every file that the platform writes ends with one more blank line.
        DefinitionFile(WORKFLOW_FILE, dump(_workflow_mapping(workflow, base)) + "\n"),
        DefinitionFile(FOLDER_SIDECAR, dump_sidecar(_sidecar(workflow, base), inferred=inferred)),
    ]
    code = [step for step in workflow.steps if not step.uses]
    return (*files, *(DefinitionFile(entry_path(step.name, step.language), step.source) for step in code))


def _workflow_mapping(workflow: Workflow, base: Sidecar) -> dict[str, JSON]:
    extra = dict(workflow.extra)
    mapping: dict[str, JSON] = {"schema": extra.pop("schema", SCHEMA), "name": workflow.name}
    if "inactive" in extra:
        mapping["inactive"] = extra.pop("inactive")
    if settings := _git_settings(workflow):
        mapping["settings"] = settings
    ids: list[JSON] = [{"id": trigger.config["id"]} for trigger in workflow.triggers if "id" in trigger.config]
    mapping["triggers"] = extra.pop("triggers", ids)
    if workflow.steps:
        mapping["steps"] = [_step_mapping(step, base.steps.get(step.name)) for step in workflow.steps]
    extra.pop(BOOKKEEPING, None)
    return {**mapping, **extra}


def _git_settings(workflow: Workflow) -> dict[str, JSON]:
    settings = {key: value for key, value in workflow.settings.items() if key not in LIMITS}
    if "schema" in workflow.extra:
        return settings  # as it was read
    return {"error_notification": settings.pop("error_notification", True), **settings}


def _step_mapping(step: Step, said: StepSidecar | None) -> dict[str, JSON]:
    extra = {key: value for key, value in step.extra.items() if key != BOOKKEEPING}
    mapping: dict[str, JSON] = {"namespace": step.name}
    if step.disabled:
        mapping["disabled"] = True
    if step.notes is not None:
        mapping["notes"] = step.notes
    runtime = extra.pop("runtime", RUNTIMES.get(step.language))
    if runtime is not None:
        mapping["runtime"] = runtime
    mapping["uses"] = step.uses or f"./{entry_path(step.name, step.language)}"
    if not holds_cursor(step):
        extra.pop(CURSOR, None)
    mapping.update(extra)
    # Bash and Go have no accounts on the platform: whose account it is stands in pdkernel.yaml alone
    if props := props_mapping(step, () if step.language in INFERRED else _synced_apps(step, said)):
        mapping["props"] = props
    return mapping


def _synced_apps(step: Step, said: StepSidecar | None) -> tuple[AppBinding, ...]:
    """The step's app props with the ids that Git held where the answer is an account of this project, or none yet."""
    choices = said.accounts if said is not None else {}
    return tuple(
        replace(app, account=choice.synced)
        if (choice := choices.get(app.prop)) is not None and choice.synced and _stands_for(choice, app)
        else app
        for app in apps_of(step)
    )


def _stands_for(choice: AccountChoice, app: AppBinding) -> bool:
    return choice.account == (app.account or UNANSWERED)


def _sidecar(workflow: Workflow, base: Sidecar) -> Sidecar:
    """Everything that `workflow.yaml` does not say, on top of what *base* knows alone."""
    variables = dict.fromkeys((*base.variables, *workflow.variables, *variables_read(workflow)))
    return replace(
        base,
        workflow=workflow.name,
        triggers=workflow.triggers,
        steps={step.name: _step_sidecar(step, base.steps.get(step.name)) for step in workflow.steps},
        limits={key: workflow.settings[key] for key in LIMITS if key in workflow.settings},
        variables=tuple(variables),
    )


def _step_sidecar(step: Step, said: StepSidecar | None) -> StepSidecar:
    known = said.accounts if said is not None else {}
    accounts: Mapping[str, AccountChoice] = {app.prop: _choice(app, known.get(app.prop)) for app in apps_of(step)}
    return StepSidecar(
        language=step.language if step.language in INFERRED else None,
        timeout_s=step.timeout_s,
        accounts=accounts,
        stores={
            store.prop: store.store for store in step.stores if store.store is None or not is_store_id(store.store)
        },
    )


def _choice(app: AppBinding, known: AccountChoice | None) -> AccountChoice:
    """Whose account fills *app*; what was *known* of it stays where the step says the same."""
    slug = None if app.app == app.prop else app.app
    account = app.account or EXTERNAL_USER
    if known is None or account not in {known.account, EXTERNAL_USER}:
        return AccountChoice(account, slug)
    return AccountChoice(UNANSWERED if known.account == UNANSWERED else account, slug, known.synced)
