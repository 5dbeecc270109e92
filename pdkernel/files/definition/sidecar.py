"""
`pdkernel.yaml`: workflow data that Git sync does not store, such as account choices, and its application to a workflow.

A value in the notebook wins over the file. The file holds no secret, only ids and names of variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pdkernel.errors import RequestError
from pdkernel.language.analysis import find_app_bindings
from pdkernel.model import JSON, AppBinding, Language, Step, StoreBinding, Trigger, Workflow

SIDECAR_FILE_NAME = "pdkernel.yaml"
EXTERNAL_USER = "external_user"
UNANSWERED = "unanswered"
UnansweredPolicy = Literal["refuse", "keep"]
"""What an unanswered app prop does: `refuse` raises an error; `keep` leaves it (for callers that run nothing)."""


@dataclass(frozen=True, slots=True)
class AccountChoice:
    """
    The choice of account for an app prop.

    Attributes:
        account: `external_user`, `unanswered`, or the id of an account of your own.
        app: The app's slug, or None if it equals the prop's name.
        synced: The account id in the synced file, which is written back there. None if the file holds none, or
            if *account* is that id.
    """

    account: str
    app: str | None = None
    synced: str | None = None


@dataclass(frozen=True, slots=True)
class StepSidecar:
    """The file's entry for one step; in `stores`, None is the project's default store."""

    language: Language | None = None
    timeout_s: float | None = None
    accounts: Mapping[str, AccountChoice] = field(default_factory=dict)
    stores: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """
    The file as a value.

    Attributes:
        workflow: The name of the workflow, or None.
        endpoint: The key of its HTTP endpoint, or None.
        triggers: The triggers' configuration, in order.
        steps: Entries of steps by name.
        limits: Settings without a known key in `workflow.yaml`.
        variables: Names of environment variables.
        test_users: Ids of external users.
        test_events: Names of the saved events that belong to the workflow; empty for all.
        actions: Where pre-built actions run, in the order in which they are looked up; empty for the project's setting.
        naming_callers: The workflows that may start this one for an external user whom they name.
        control_flow: Control-flow entries, unchanged.
        path: The file's path for messages, or None.
    """

    workflow: str | None = None
    endpoint: str | None = None
    triggers: tuple[Trigger, ...] = ()
    steps: Mapping[str, StepSidecar] = field(default_factory=dict)
    limits: Mapping[str, JSON] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    test_users: tuple[str, ...] = ()
    test_events: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    naming_callers: tuple[str, ...] = ()
    control_flow: tuple[JSON, ...] = ()
    path: Path | None = None


def get_notebook_sidecar_path(notebook: Path) -> Path:
    """The path of *notebook*'s file: `NAME.pdkernel.yaml` beside `NAME.ipynb`."""
    return notebook.with_name(f"{notebook.stem}.{SIDECAR_FILE_NAME}")


def merge_sidecars(sidecar: Sidecar, existing: Sidecar | None) -> Sidecar:
    """*sidecar*, completed with values that only *existing*, the folder's file, holds."""
    if existing is None:
        return sidecar
    return replace(
        sidecar,
        endpoint=sidecar.endpoint or existing.endpoint,
        test_users=sidecar.test_users or existing.test_users,
        test_events=sidecar.test_events or existing.test_events,
        actions=sidecar.actions or existing.actions,
        naming_callers=sidecar.naming_callers or existing.naming_callers,
        control_flow=sidecar.control_flow or existing.control_flow,
    )


def apply_sidecar(
    workflow: Workflow, sidecar: Sidecar | None, *, unanswered_policy: UnansweredPolicy = "refuse"
) -> Workflow:
    """
    *workflow* with the values of *sidecar*; a value of the workflow itself wins.

    Args:
        workflow: The workflow of a notebook or `workflow.yaml`.
        sidecar: The content of `pdkernel.yaml`, or None if there is no such file.
        unanswered_policy: `keep` leaves an unanswered app prop without an account: for export and doctor, never for a
            run.

    Raises:
        RequestError: An app prop is unanswered, and the policy is `refuse`.
    """
    if sidecar is None:
        return workflow
    says_nothing = workflow.triggers == (Trigger(),)
    return replace(
        workflow,
        triggers=sidecar.triggers if says_nothing and sidecar.triggers else workflow.triggers,
        steps=tuple(_apply_to_step(step, sidecar, unanswered_policy) for step in workflow.steps),
        settings={**sidecar.limits, **workflow.settings},
        variables=tuple(dict.fromkeys((*workflow.variables, *sidecar.variables))),
    )


def _apply_to_step(step: Step, sidecar: Sidecar, unanswered: UnansweredPolicy) -> Step:
    step_sidecar = sidecar.steps.get(step.name)
    if step_sidecar is None:
        return step
    return replace(
        step,
        apps=_apps(step, step_sidecar, sidecar, unanswered),
        stores=(*step.stores, *_new_stores(step, step_sidecar)),
        timeout_s=step_sidecar.timeout_s if step.timeout_s is None else step.timeout_s,
    )


def _apps(
    step: Step, step_sidecar: StepSidecar, sidecar: Sidecar, unanswered: UnansweredPolicy
) -> tuple[AppBinding, ...]:
    """The directive's apps, then the file's choices for props that the directive does not name."""
    apps = {binding.prop: binding for binding in step.apps}
    declared = {binding.prop: binding.app for binding in find_app_bindings(step)}
    for prop, choice in step_sidecar.accounts.items():
        if prop in apps:
            continue
        app = choice.app or declared.get(prop, prop)
        account = resolve_account(choice, step=step, prop=prop, sidecar=sidecar, unanswered_policy=unanswered)
        apps[prop] = AppBinding(prop, app, account)
    return tuple(apps.values())


def _new_stores(step: Step, step_sidecar: StepSidecar) -> tuple[StoreBinding, ...]:
    known = {binding.prop for binding in step.stores}
    return tuple(StoreBinding(prop, store) for prop, store in step_sidecar.stores.items() if prop not in known)


def resolve_account(
    choice: AccountChoice, *, step: Step, prop: str, sidecar: Sidecar, unanswered_policy: UnansweredPolicy = "refuse"
) -> str | None:
    """
    The id of your own account in *choice*, or None for the external user's account.

    Raises:
        RequestError: The choice is unanswered, the policy is `refuse`, and the step is not disabled.
    """
    if choice.account == UNANSWERED and unanswered_policy == "refuse" and not step.disabled:
        where = SIDECAR_FILE_NAME if sidecar.path is None else str(sidecar.path)
        raise RequestError(
            f"{where}: steps.{step.name}.accounts.{prop} is {UNANSWERED}: the owner of the account is not set.",
            fix=f"Write {EXTERNAL_USER}, or the id of an account of your own (apn_...), in its place.",
        )
    return None if choice.account in {EXTERNAL_USER, UNANSWERED} else choice.account
