"""
`pdkernel.yaml`: what Git sync does not hold of a workflow, and applying it to one.

Knows whose account fills which prop, and that what a notebook says itself wins. Holds no secret: names
of variables and ids only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pdkernel.analysis import find_app_bindings
from pdkernel.errors import RequestError
from pdkernel.model import JSON, AppBinding, Language, Step, StoreBinding, Trigger, Workflow

SIDECAR_FILE_NAME = "pdkernel.yaml"
EXTERNAL_USER = "external_user"
UNANSWERED = "unanswered"
UnansweredPolicy = Literal["refuse", "keep"]
"""What becomes of an app prop that no one has answered: it refuses the workflow, or stays (for what runs nothing)."""


@dataclass(frozen=True, slots=True)
class AccountChoice:
    """
    Whose account fills an app prop.

    Attributes:
        account: `external_user`, `unanswered`, or the id of an account of your own.
        app: The app's slug, or None if it is called like the prop.
        synced: The account id that the synced file of the step holds, where the answer is another: what is
            written back there. None if it holds none, or the answer is that id.
    """

    account: str
    app: str | None = None
    synced: str | None = None


@dataclass(frozen=True, slots=True)
class StepSidecar:
    """What the file says of one step; `stores` has None for the project's default store."""

    language: Language | None = None
    timeout_s: float | None = None
    accounts: Mapping[str, AccountChoice] = field(default_factory=dict)
    stores: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """
    The file as a value.

    Attributes:
        workflow: The name of the workflow that it belongs to, or None.
        endpoint: The key of its HTTP endpoint, or None.
        triggers: Their configuration, in order.
        steps: By name.
        limits: Settings that `workflow.yaml` has no known key for.
        variables: Names of environment variables.
        test_users: Ids of external users.
        actions: Where pre-built actions run, or None.
        control_flow: As written.
        path: Where it was read from, for messages, or None.
    """

    workflow: str | None = None
    endpoint: str | None = None
    triggers: tuple[Trigger, ...] = ()
    steps: Mapping[str, StepSidecar] = field(default_factory=dict)
    limits: Mapping[str, JSON] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    test_users: tuple[str, ...] = ()
    actions: str | None = None
    control_flow: tuple[JSON, ...] = ()
    path: Path | None = None


def get_notebook_sidecar_path(notebook: Path) -> Path:
    """Where the file of *notebook* stands: `NAME.pdkernel.yaml` beside `NAME.ipynb`."""
    return notebook.with_name(f"{notebook.stem}.{SIDECAR_FILE_NAME}")


def merge_sidecars(sidecar: Sidecar, existing: Sidecar | None) -> Sidecar:
    """*sidecar* with what it does not say and *existing*, a folder's own file, does: that is nowhere else."""
    if existing is None:
        return sidecar
    return replace(
        sidecar,
        endpoint=sidecar.endpoint or existing.endpoint,
        test_users=sidecar.test_users or existing.test_users,
        actions=sidecar.actions or existing.actions,
        control_flow=sidecar.control_flow or existing.control_flow,
    )


def apply_sidecar(
    workflow: Workflow, sidecar: Sidecar | None, *, unanswered_policy: UnansweredPolicy = "refuse"
) -> Workflow:
    """
    *workflow* with what *sidecar* adds; what the workflow says itself wins.

    Args:
        workflow: What a notebook or `workflow.yaml` says.
        sidecar: What `pdkernel.yaml` says, or None if there is none.
        unanswered_policy: `keep` leaves an app prop that is `unanswered_policy` without an account of one's own: for export and
            doctor, never for a run.

    Raises:
        RequestError: Whose account fills a prop is `unanswered_policy`.
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
    said = sidecar.steps.get(step.name)
    if said is None:
        return step
    return replace(
        step,
        apps=_apps(step, said, sidecar, unanswered),
        stores=(*step.stores, *_new_stores(step, said)),
        timeout_s=said.timeout_s if step.timeout_s is None else step.timeout_s,
    )


def _apps(step: Step, said: StepSidecar, sidecar: Sidecar, unanswered: UnansweredPolicy) -> tuple[AppBinding, ...]:
    """The directive's own words, then what the file says of props that only the code or the file names."""
    apps = {binding.prop: binding for binding in step.apps}
    declared = {binding.prop: binding.app for binding in find_app_bindings(step)}
    for prop, choice in said.accounts.items():
        if prop in apps:
            continue
        app = choice.app or declared.get(prop, prop)
        account = resolve_account(choice, step=step, prop=prop, sidecar=sidecar, unanswered_policy=unanswered)
        apps[prop] = AppBinding(prop, app, account)
    return tuple(apps.values())


def _new_stores(step: Step, said: StepSidecar) -> tuple[StoreBinding, ...]:
    known = {binding.prop for binding in step.stores}
    return tuple(StoreBinding(prop, store) for prop, store in said.stores.items() if prop not in known)


def resolve_account(
    choice: AccountChoice, *, step: Step, prop: str, sidecar: Sidecar, unanswered_policy: UnansweredPolicy = "refuse"
) -> str | None:
    """
    The account of your own that *choice* names, or None for the external user's.

    Raises:
        RequestError: It is `unanswered_policy`, and the step is not disabled.
    """
    if choice.account == UNANSWERED and unanswered_policy == "refuse" and not step.disabled:
        where = SIDECAR_FILE_NAME if sidecar.path is None else str(sidecar.path)
        raise RequestError(
            f"{where}: steps.{step.name}.accounts.{prop} is {UNANSWERED}: whose account the step uses is not decided.",
            fix=f"Write {EXTERNAL_USER}, or the id of an account of your own (apn_...), in its place.",
        )
    return None if choice.account in {EXTERNAL_USER, UNANSWERED} else choice.account
