"""
The action steps of one run: resolves and installs components, loads declarations, and runs remote actions.

The declarations of actions, with directives and code, also tell which accounts the run needs (`find_account_props`).

Errors in action steps are reported before the first step. `actions` resolves components, `workers` runs modules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pdkernel.actions import Catalog, Component, ConnectSource, LockedComponent
from pdkernel.actions.component import ActionReference
from pdkernel.actions.prop_binding import BoundStep, bind_step, resolve_app_bindings
from pdkernel.egress import OutboundPolicy, is_loopback
from pdkernel.engine.account_lookup import user_required_error
from pdkernel.engine.account_resolution import StepAccounts
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import (
    AccountNotFoundError,
    ActionNotFoundError,
    ActionSourceError,
    LicenceError,
    OutboundCallRefusedError,
    PdkernelError,
    StepError,
)
from pdkernel.execution import RETURN_VALUE, AccountUse, OutboundCall
from pdkernel.language.analysis import find_app_bindings, merge_app_bindings
from pdkernel.model import ACCOUNT_KEY, JSON, AppBinding, Step
from pdkernel.workers import ComponentDescription, PooledRun, StepOutcome, StepRecorder


@dataclass(frozen=True)
class StepAction:
    """
    An action step.

    Attributes:
        component: The component.
        fitted_step: The step with the component's declaration, or None if the declaration could not be loaded.
        accounts: For a remote action, accounts by prop.
        has_dynamic_props: For a remote action, whether its props depend on values.
    """

    component: Component
    fitted_step: BoundStep | None = None
    accounts: Mapping[str, AccountUse] = field(default_factory=dict)
    has_dynamic_props: bool = False

    @property
    def remote(self) -> bool:
        """Whether Pipedream runs the action."""
        return self.component.file is None


class StepActions:
    """
    The action steps of one run, by step.

    Args:
        catalog: The project's actions.
        request: The run.
        on_progress: Receives lines about the installation of components, or None.
        locked: The components with which a continued run began, by step; None for a new run.

    Attributes:
        failures: Why the component of a step could not be installed, by step; only for a continued run.
    """

    def __init__(
        self,
        catalog: Catalog,
        request: RunRequest,
        on_progress: Callable[[str], None] | None = None,
        *,
        locked: Mapping[str, LockedComponent] | None = None,
    ) -> None:
        self.failures: dict[str, PdkernelError] = {}
        self._locked = locked
        self._on_progress = on_progress or _ignore_progress
        self._catalog = catalog
        self._request = request
        self._found: dict[str, StepAction] = {}

    async def install(self) -> None:
        """
        Find the component of every selected action step; install missing components if the project allows it.

        An action of a continued run that cannot be found fails its step, and not the run: the steps above it have run.

        Raises:
            ActionNotFoundError: No source has the action.
            LicenceError: The component is on npm, and the project has not accepted its licence.
            ActionSourceError: A source cannot be reached.
        """
        for step in self._request.executed_steps:
            if step.uses is None:
                continue
            try:
                self._found[step.name] = StepAction(await self._component(step))
            except PdkernelError as fault:
                if self._locked is None:
                    raise
                self.failures[step.name] = fault

    async def _component(self, step: Step) -> Component:
        request = self._request
        locked = (self._locked or {}).get(step.name)
        try:
            if locked is not None:
                return await self._catalog.restore(locked, install=request.install, progress=self._on_progress)
            reference = ActionReference.parse(step.uses or "")
            found = await self._catalog.resolve_or_install(
                reference, install=request.install, progress=self._on_progress
            )
            component = self._catalog.lock_version(reference, found)
        except ActionNotFoundError as fault:
            fault.step = fault.step or step.name
            fault.line = fault.line or step.line_offset or None
            fault.message = f"Step {step.name}: {fault.message}"
            raise
        except LicenceError as fault:
            fault.message = f"Step {step.name}: {fault.message}"
            raise
        return component

    @property
    def components(self) -> Mapping[str, Component]:
        """The components that were found, by step."""
        return {step: found.component for step, found in self._found.items()}

    def describe_locks(self) -> Mapping[str, LockedComponent]:
        """Return what a continued run needs to find the same components, by step."""
        locked = self._locked or {}
        return {
            step: locked.get(step) or self._catalog.describe_lock(found.component)
            for step, found in self._found.items()
        }

    @property
    def files(self) -> tuple[Path, ...]:
        """The modules of the actions that run locally."""
        return tuple(found.component.file.path for found in self._found.values() if found.component.file is not None)

    def find(self, step: Step) -> StepAction | None:
        """Return the action of *step*, or None for a code step."""
        return self._found.get(step.name)

    def accounts(self, step: Step) -> StepAccounts | None:
        """Return the accounts of a remote action, for the record; None for any other step."""
        action = self._found.get(step.name)
        return StepAccounts(uses=tuple(action.accounts.values())) if action is not None and action.remote else None

    async def load_declaration(self, step: Step, workers: PooledRun) -> tuple[AppBinding, ...]:
        """
        Load the declaration of the action of *step*; return the app props whose accounts must be resolved locally.

        Raises:
            ActionPropsError: The step does not set a required prop.
            EndUserError: The action is remote, and Pipedream has no account for it.
        """
        action = self._found.get(step.name)
        if action is None:
            return ()  # the step itself fails later
        if action.remote:
            source = await self._catalog.open_connect_source()
            _, description = await source.fetch_action(action.component.key, action.component.version)
            accounts = await self._accounts(step, resolve_app_bindings(step, description))
            fitted = bind_step(step, action.component, description)
            self._found[step.name] = StepAction(
                action.component, fitted, accounts, has_dynamic_props=description.additional
            )
            return ()
        try:
            description = await describe_component(action.component, workers, self._catalog)
        except StepError:
            return ()  # the step itself fails later with the same error
        fitted = bind_step(step, action.component, description)
        self._found[step.name] = StepAction(action.component, fitted)
        return fitted.step.apps

    async def _accounts(self, step: Step, apps: tuple[AppBinding, ...]) -> dict[str, AccountUse]:
        request, found = self._request, {}
        user = request.external_user_id
        if user is None:
            raise user_required_error(
                f"Step {step.name} runs at Pipedream Connect, for an external user.", request.interface
            )
        for binding in apps:
            source = await self._catalog.open_connect_source()
            account = binding.account or await source.fetch_newest_account(binding.app, user, request.environment)
            if account is None:
                raise AccountNotFoundError(
                    f"Required account for {binding.app} not found for external user ID {user} in {request.environment}",
                    fix=f"Step {step.name} runs at Pipedream Connect and needs the account there: connect it in your "
                    "product, with a Connect token of this project.",
                )
            owner = "own" if binding.account else "external_user"
            found[binding.prop] = AccountUse(binding.prop, binding.app, account, owner)  # type: ignore[arg-type]  # one of the two
        return found

    async def run_remote(
        self,
        step: Step,
        action: StepAction,
        props: Mapping[str, JSON],
        recorder: StepRecorder,
        *,
        timeout_s: float,
    ) -> StepOutcome:
        """Let Pipedream run *action* once; *recorder* records the call, the output and the exports."""
        source, request = await self._catalog.open_connect_source(), self._request
        _check_allowed(step, source, request.policy)
        assert request.external_user_id is not None
        assert action.fitted_step is not None
        began = time.monotonic()
        status: int | None = None
        try:
            answer = await source.run_action(
                action.component,
                props={
                    **props,
                    **{prop: {ACCOUNT_KEY: use.id} for prop, use in action.accounts.items()},
                },
                external_user_id=request.external_user_id,
                environment=request.environment,
                timeout_s=timeout_s,
                has_dynamic_props=action.has_dynamic_props,
            )
            status = answer.http_status
        except ActionSourceError as fault:
            return recorder.outcome(StepError(fault.message, name="ConnectError", fix=fault.fix))
        finally:
            recorder.add_outbound_call(
                OutboundCall(
                    method="POST",
                    url=source.run_url,
                    status=status,
                    duration_ms=(time.monotonic() - began) * 1000,
                    safe=False,
                    outcome="sent" if status is not None else "failed",
                    app=action.component.app,
                    note="Pipedream ran the action",
                )
            )
        for text in answer.logs:
            recorder.log("stdout", f"{text}\n")
        recorder.export(answer.exports)
        if answer.return_value is not None:
            recorder.export({RETURN_VALUE: answer.return_value})
        for warning in action.fitted_step.warnings:
            recorder.warn(warning)
        return recorder.outcome(StepError(answer.error[1], name=answer.error[0]) if answer.error else None)


async def describe_component(component: Component, workers: PooledRun, catalog: Catalog) -> ComponentDescription:
    """
    Return the declaration of *component*, a local module; cached until its files change.

    Raises:
        StepError: The module cannot be loaded.
    """
    assert component.file is not None
    known = catalog.descriptions.get(component.file)
    if known is None:
        known = await workers.describe(component.file)
        catalog.descriptions.put(component.file, known)
    return known


def is_connect_call_allowed(source: ConnectSource, policy: OutboundPolicy) -> bool:
    """Return whether *policy* allows calls to Pipedream's API; loopback is always allowed."""
    return policy.allows_host(source.host) or is_loopback(source.host)


def _check_allowed(step: Step, source: ConnectSource, policy: OutboundPolicy) -> None:
    if is_connect_call_allowed(source, policy):
        return
    raise OutboundCallRefusedError(
        f"Step {step.name} runs at Pipedream Connect, and outbound calls are refused ({policy.mode_text}).",
        name="OutboundCallRefused",
        fix=f"Allow them: --egress live, or --egress allow={source.host}. Or pin the step's exports.",
    )


def _ignore_progress(_: str) -> None:
    """Ignore progress."""


async def find_account_props(
    request: RunRequest, workers: PooledRun, actions: StepActions
) -> dict[str, tuple[AppBinding, ...]]:
    """
    Return app props by step: those of the directive, and those that code declares (the external user's).

    Raises:
        ActionPropsError: A step does not set a required prop of its action.
        EndUserError: Pipedream has no account for an action that Pipedream runs.
    """
    bindings: dict[str, tuple[AppBinding, ...]] = {}
    for step in request.executed_steps:
        if step.name not in request.prepared.may_declare_apps:
            continue
        apps = step.apps
        if step.uses is not None:
            apps = await actions.load_declaration(step, workers)
        elif step.language == "node":
            apps = merge_app_bindings(apps, await _declared(step, workers))
        elif step.language == "go":
            apps = find_app_bindings(step)
        bindings[step.name] = apps
    return bindings


def may_have_app_props(request: RunRequest) -> bool:
    """
    Return False if `find_account_props` certainly finds none; a quick check that does not parse code.

    For a run that executes no step, all steps count: its event may have the credentials that they would have used.
    """
    declaring = request.prepared.may_declare_apps
    if request.refusal is not None or request.is_only_recorded:
        return bool(declaring)
    return bool(declaring) and any(step.name in declaring for step in request.executed_steps)


async def _declared(step: Step, workers: PooledRun) -> tuple[AppBinding, ...]:
    try:
        return (await workers.describe(step)).apps
    except StepError:
        return ()  # the step itself fails later with the same error
