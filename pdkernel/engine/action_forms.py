"""
What a form for an action's props asks: what it declares, what a prop may be, which props it adds.

Knows that an action answers this itself, with the chosen external user's account and before any run; what it calls
outside for that is treated as a step's outside calls are. Nothing is recorded. Knows nothing of widgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdkernel.actions import Catalog, Component, Uses
from pdkernel.actions.fitting import bound_apps
from pdkernel.actions.npm import Progress
from pdkernel.egress import Binding, Policy
from pdkernel.engine.actions import describe, is_allowed
from pdkernel.engine.facts import connect_command
from pdkernel.engine.props import evaluate_props
from pdkernel.engine.withheld import credential_ref, fill
from pdkernel.errors import StepError
from pdkernel.guests.file_tree import temporary_folder
from pdkernel.hosts import ComponentFile, Description, Hosts, Option, OptionsPage, PropDeclaration, RunGuests, RunSetup
from pdkernel.identity import Directory, Environment, ProxyAccess
from pdkernel.model import JSON, AppBinding, Step
from pdkernel.redaction import Redactor, Secret

_DYNAMIC = "dynamic"


@dataclass(frozen=True)
class FormRequest:
    """
    Whose form it is.

    Attributes:
        step: The step, with the values it has so far.
        policy: What becomes of outside calls.
        external_user_id: Whose accounts are used, or None.
        environment: Of the external user.
        event: The chosen event's data, for expressions.
        exports: What steps have exported, for expressions.
        variables: Environment variables.
        folder: The workflow's folder.
        actions: Where pre-built actions run, as the workflow says it; None is the project's choice.
    """

    step: Step
    policy: Policy
    external_user_id: str | None = None
    environment: Environment = "development"
    event: Mapping[str, JSON] = field(default_factory=dict)
    exports: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    folder: Path = field(default_factory=Path.cwd)
    actions: str | None = None


@dataclass(frozen=True)
class _Accounts:
    """The accounts for a form: `$auth` by prop, whose are missing, their secrets, and which of these Connect keeps."""

    auth: Mapping[str, Mapping[str, str]]
    missing: tuple[AppBinding, ...]
    redactor: Redactor
    proxied: Mapping[str, ProxyAccess]


class ActionForms:
    """
    Answers the questions of forms.

    Args:
        directory: Users and accounts.
        hosts: The processes that run components.
        catalog: The pre-built actions.
        scratch: A folder for temporary folders.
    """

    def __init__(self, *, directory: Directory, hosts: Hosts, catalog: Catalog, scratch: Path) -> None:
        self._directory = directory
        self._hosts = hosts
        self._catalog = catalog
        self._scratch = scratch

    async def describe(
        self,
        uses: Uses,
        *,
        catalog: Catalog | None = None,
        install: bool = True,
        progress: Progress = lambda _: None,
    ) -> tuple[Component, Description]:
        """
        An action and what it declares, from *catalog* or the project's own.

        Raises:
            ActionNotFoundError: No source has it.
            ActionSourceError: Its source cannot be reached.
            StepError: Its module cannot be loaded.
        """
        catalog = catalog or self._catalog
        component = await catalog.obtain(uses, install=install, progress=progress)
        if component.file is None:
            return await catalog.connect.retrieve(component.key, component.version)
        async with self._guests(FormRequest(Step("form"), _NO_CALLS), component.file) as guests:
            return component, await describe(component, guests, catalog)

    async def options(
        self, request: FormRequest, prop: str, *, page: int = 0, context: JSON = None, query: str | None = None
    ) -> OptionsPage:
        """
        A page of what *prop* of an action step may be.

        Static options are one page, filtered by *query* here. Without an account the page says why it has none.

        Raises:
            ActionNotFoundError: No source has the action.
            ActionPropsError: The step's action has no such prop that can be chosen from.
        """
        uses = Uses.parse(request.step.uses or "")
        component, description = await self.describe(uses, catalog=self._catalog_of(request))
        declared = next((each for each in description.props if each.name == prop), None)
        if declared is not None and not declared.definition.get(_DYNAMIC):
            return _static(declared, query)
        accounts = await asyncio.to_thread(self._accounts, request, bound_apps(request.step, description))
        if component.file is None:
            return await self._remote_options(request, component, prop, page=page, context=context, query=query)
        async with self._guests(request, component.file) as guests:
            found = await guests.options(
                component.file,
                prop,
                values=await self._values(request, description, guests),
                auth=accounts.auth,
                page=page,
                context=context,
                query=query,
                binding=_binding(request, accounts),
            )
        if found.why and accounts.missing:
            return replace(found, why=self._why_missing(request, accounts.missing[0]))
        return _redacted(found, accounts.redactor)

    async def additional(self, request: FormRequest) -> tuple[PropDeclaration, ...]:
        """
        The props that the step's action adds, or declares differently, for the values that it has so far.

        Raises:
            ActionNotFoundError: No source has the action.
            StepError: Its code failed, or needs an account that is not there.
        """
        component, description = await self.describe(
            Uses.parse(request.step.uses or ""), catalog=self._catalog_of(request)
        )
        if component.file is None or not description.additional:
            return ()
        accounts = await asyncio.to_thread(self._accounts, request, bound_apps(request.step, description))
        async with self._guests(request, component.file) as guests:
            return await guests.additional_props(
                component.file,
                values=await self._values(request, description, guests),
                auth=accounts.auth,
                binding=_binding(request, accounts),
            )

    def _catalog_of(self, request: FormRequest) -> Catalog:
        return self._catalog.at(request.actions, base=request.folder)

    async def _remote_options(
        self, request: FormRequest, component: Component, prop: str, *, page: int, context: JSON, query: str | None
    ) -> OptionsPage:
        source = self._catalog.connect
        if request.external_user_id is None:
            return OptionsPage(why="Choices come from the external user's account, and none is chosen: %pduser.")
        if not is_allowed(source, request.policy):
            return OptionsPage(
                why=f"Choices come from Pipedream, and outside calls do not go out ({request.policy.text})."
            )
        return await source.options(
            component,
            prop,
            props={name: value for name, value in request.step.props.items() if "{{" not in str(value)},
            external_user_id=request.external_user_id,
            environment=request.environment,
            page=page,
            context=context,
            query=query,
        )

    def _accounts(self, request: FormRequest, apps: tuple[AppBinding, ...]) -> _Accounts:
        auth: dict[str, Mapping[str, str]] = {}
        missing: list[AppBinding] = []
        proxied: dict[str, ProxyAccess] = {}
        secrets: list[Secret] = [Secret(f"env/{name}", value) for name, value in request.variables.items()]
        for binding in apps:
            if binding.account is not None:
                account = self._directory.find_account(binding.account)
            elif request.external_user_id is not None:
                account = self._directory.newest_account(request.external_user_id, request.environment, binding.app)
            else:
                account = None
            if account is None:
                missing.append(binding)
                continue
            auth[binding.prop], refs = fill(account, self._directory.credentials(account.id))
            proxied.update(refs)
            secrets += (Secret(credential_ref(account, name), value) for name, value in auth[binding.prop].items())
        return _Accounts(auth, tuple(missing), Redactor(secrets), proxied)

    def _why_missing(self, request: FormRequest, binding: AppBinding) -> str:
        if binding.account is not None:
            return f"Choices come from the account {binding.account}, which this project does not have."
        if request.external_user_id is None:
            return (
                f"Choices come from the external user's {binding.app} account, and no external user is chosen: %pduser. "
                "A text or an expression can be given without."
            )
        command = connect_command(binding.app, request.external_user_id, request.environment, self._directory)
        return (
            f"Choices come from {request.external_user_id}'s {binding.app} account, and there is none in "
            f"{request.environment}. Connect one with %pduser, or: {command}. A text or an expression can be given without."
        )

    async def _values(self, request: FormRequest, description: Description, guests: RunGuests) -> dict[str, JSON]:
        """The values so far; of an expression what it gives on the chosen event, itself where it gives nothing."""
        apps = {binding.prop for binding in description.apps}
        values: dict[str, JSON] = {}
        for name, value in request.step.props.items():
            if name in apps:
                continue
            try:
                found = await evaluate_props(replace(request.step, props={name: value}), guests, request.exports)
            except StepError:
                found = {}
            # one that gives nothing is not known until the run: that is another thing than an empty prop
            values[name] = value if found.get(name) is None else found[name]
        return values

    @asynccontextmanager
    async def _guests(self, request: FormRequest, component: ComponentFile) -> AsyncIterator[RunGuests]:
        with temporary_folder("form-", inside=self._scratch) as scratch:
            setup = RunSetup(
                run_id="form",
                workflow="form",
                trigger={"event": dict(request.event), "context": {}},
                variables=request.variables,
                folder=request.folder,
                scratch=scratch,
                guarded=request.policy.public_only,
                public_only=request.policy.public_only,
                kept=(component.path,),
            )
            guests = await self._hosts.open(setup, waits=False)  # a person looks at it: it does not queue behind runs
            try:
                yield guests
            finally:
                await guests.release()


_NO_CALLS = Policy(mode="deny", text="deny")


def _static(declared: PropDeclaration, query: str | None) -> OptionsPage:
    listed = declared.definition.get("options")
    options = tuple(
        Option(str(each.get("label", each.get("value"))), each.get("value"))
        if isinstance(each, dict)
        else Option(str(each), each)
        for each in (listed if isinstance(listed, list) else ())
    )
    if not options:
        return OptionsPage(why=f"{declared.name} is {declared.type}: there is nothing to choose from.")
    return OptionsPage(tuple(each for each in options if not query or query.lower() in each.label.lower()))


def _binding(request: FormRequest, accounts: _Accounts) -> Binding:
    return Binding(
        step=request.step.name,
        policy=request.policy,
        redactor=accounts.redactor,
        proxied=accounts.proxied,
        on_call=lambda _: None,
        on_refused=lambda _: None,
    )


def _redacted(page: OptionsPage, redactor: Redactor) -> OptionsPage:
    return OptionsPage(
        tuple(Option(redactor.text(each.label), redactor.value(each.value)) for each in page.options),
        page.context,
        redactor.text(page.why) if page.why else None,
    )
