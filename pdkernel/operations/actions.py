"""
Pre-built actions: the search, an action's description, and the data of its form: declarations, options and additional props.

For a form, the action's own code answers, with the account of the chosen external user. Its outbound calls follow the outbound
policy. The journal has no record of forms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.actions import ActionReference, Catalog, Component
from pdkernel.actions.npm_source import APPS_ON_NPM, ProgressCallback
from pdkernel.actions.prop_binding import resolve_app_bindings
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND
from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import Environment, ProxyAccess
from pdkernel.common.redaction import Redactor, Secret
from pdkernel.egress import CallContext, OutboundPolicy
from pdkernel.engine.account_lookup import format_connect_account_command
from pdkernel.engine.account_resolution import format_credential_ref, insert_placeholders
from pdkernel.engine.props import evaluate_props
from pdkernel.engine.step_actions import describe_component, is_connect_call_allowed
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import StepError
from pdkernel.language.analysis import fill_secret_props
from pdkernel.language.expression.template import OPENING_BRACES
from pdkernel.model import ACCOUNT_KEY, JSON, AppBinding, Step, require_object
from pdkernel.storage.settings import format_variable_ref, is_secret_prop_name
from pdkernel.workers import (
    FIRST_PAGE,
    ComponentDescription,
    ComponentFile,
    OptionsQuery,
    PooledRun,
    PropDeclaration,
    PropOption,
    PropOptionsPage,
    RunSetup,
)

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.workers import ComponentDescription

_DYNAMIC = "dynamic"


@dataclass(frozen=True)
class FormRequest:
    """
    The step and the user of a form.

    Attributes:
        step: The step with its current values.
        policy: The policy for outbound calls.
        external_user_id: The external user whose accounts are used, or None.
        environment: The external user's environment.
        event: The chosen event's data, for expressions.
        exports: Exports of steps, for expressions.
        variables: Environment variables.
        folder: The workflow's folder.
        action_sources: Where pre-built actions run, as set by the workflow; empty for the project's setting.
    """

    step: Step
    policy: OutboundPolicy
    external_user_id: str | None = None
    environment: Environment = "development"
    event: Mapping[str, JSON] = field(default_factory=dict)
    exports: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    folder: Path = field(default_factory=Path.cwd)
    action_sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class _FormAccounts:
    """The accounts of a form: `$auth` by prop, props without an account, redactor, and withheld secrets."""

    credentials: Mapping[str, Mapping[str, str]]
    missing: tuple[AppBinding, ...]
    redactor: Redactor
    proxied: Mapping[str, ProxyAccess]


class ActionForms:
    """
    Loads the data of forms.

    Args:
        engine: The engine whose users, workers and pre-built actions are used.
    """

    def __init__(self, engine: WorkflowEngine) -> None:
        self._directory = engine.directory
        self._workers = engine.workers
        self._catalog = engine.catalog

    async def describe(
        self,
        uses: ActionReference,
        *,
        catalog: Catalog | None = None,
        install: bool = True,
        progress: ProgressCallback = lambda _: None,
    ) -> tuple[Component, ComponentDescription]:
        """
        Return an action and its declaration, from *catalog* or the project's catalog.

        Raises:
            ActionNotFoundError: No source has the action.
            ActionSourceError: The action's source cannot be reached.
            StepError: The action's module cannot be loaded.
        """
        catalog = catalog or self._catalog
        component = await catalog.resolve_or_install(uses, install=install, progress=progress)
        if component.file is None:
            return await (await catalog.open_connect_source()).fetch_action(component.key, component.version)
        async with self._open_workers(FormRequest(Step("form"), _DENY_POLICY), component.file) as workers:
            return component, await describe_component(component, workers, catalog)

    async def load_options(self, request: FormRequest, prop: str, query: OptionsQuery = FIRST_PAGE) -> PropOptionsPage:
        """
        Load a page of the options of *prop* of an action step.

        Static options are one page, filtered by *query*. Without an account the page has a reason instead of options.

        Raises:
            ActionNotFoundError: No source has the action.
            ActionPropsError: The action has no such prop, or the prop has no options.
        """
        uses = ActionReference.parse(request.step.uses or "")
        component, description = await self.describe(uses, catalog=self._catalog_of(request))
        declared = next((each for each in description.props if each.name == prop), None)
        if declared is not None and not declared.definition.get(_DYNAMIC):
            return _static(declared, query.text)
        if component.file is None:
            remote = await self._remote_props(request, description)
            if isinstance(remote, str):
                return PropOptionsPage(empty_reason=remote)
            source = await self._catalog_of(request).open_connect_source()
            return await source.fetch_options(
                component,
                prop,
                props=remote,
                external_user_id=request.external_user_id or "",
                environment=request.environment,
                query=query,
                is_added_prop=declared is None,
            )
        accounts = await run_blocking(self._accounts, request, resolve_app_bindings(request.step, description))
        async with self._open_workers(request, component.file) as workers:
            found = await workers.options(
                component.file,
                prop,
                values=await self._values(request, description, workers),
                credentials=accounts.credentials,
                query=query,
                call_context=_binding(request, accounts),
            )
        if found.empty_reason and accounts.missing:
            reason = await run_blocking(self._why_missing, request, accounts.missing[0])
            return replace(found, empty_reason=reason)
        return _redacted(found, accounts.redactor)

    async def load_additional_props(self, request: FormRequest) -> tuple[PropDeclaration, ...]:
        """
        Load the props that the step's action adds or redefines for its current values.

        Raises:
            ActionNotFoundError: No source has the action.
            StepError: The action's code failed, or needs an account that does not exist.
        """
        component, description = await self.describe(
            ActionReference.parse(request.step.uses or ""), catalog=self._catalog_of(request)
        )
        if not description.additional:
            return ()
        if component.file is None:
            remote = await self._remote_props(request, description)
            if isinstance(remote, str):
                raise StepError(remote)
            declared = {prop.name: prop for prop in description.props}
            source = await self._catalog_of(request).open_connect_source()
            found = await source.fetch_additional_props(
                component,
                props=remote,
                external_user_id=request.external_user_id or "",
                environment=request.environment,
            )
            return tuple(prop for prop in found if declared.get(prop.name) != prop)
        accounts = await run_blocking(self._accounts, request, resolve_app_bindings(request.step, description))
        async with self._open_workers(request, component.file) as workers:
            with _redacted_errors(accounts.redactor):
                added = await workers.additional_props(
                    component.file,
                    values=await self._values(request, description, workers),
                    credentials=accounts.credentials,
                    call_context=_binding(request, accounts),
                )
        return tuple(_redacted_prop(each, accounts.redactor) for each in added)

    def _catalog_of(self, request: FormRequest) -> Catalog:
        return self._catalog.with_sources(request.action_sources, base=request.folder)

    async def _remote_props(self, request: FormRequest, description: ComponentDescription) -> dict[str, JSON] | str:
        """Return the values for a call to Pipedream, with the ids of the accounts there; or why there can be no call."""
        source, user = await self._catalog_of(request).open_connect_source(), request.external_user_id
        if user is None:
            return "Choices come from the external user's account, and no external user is chosen: %pduser."
        if not is_connect_call_allowed(source, request.policy):
            return f"Choices come from Pipedream, and outbound calls are refused ({request.policy.mode_text})."
        # Pipedream does not have the event and the exports that an expression reads
        props = {name: value for name, value in request.step.props.items() if OPENING_BRACES not in str(value)}
        for binding in resolve_app_bindings(request.step, description):
            account = binding.account or await source.fetch_newest_account(binding.app, user, request.environment)
            if account is None:
                return (
                    f"Choices come from {user}'s {binding.app} account, and the project at Pipedream has no such account in "
                    f"{request.environment}. You can type a text or an expression instead."
                )
            props[binding.prop] = {ACCOUNT_KEY: account}
        return props

    def _accounts(self, request: FormRequest, apps: tuple[AppBinding, ...]) -> _FormAccounts:
        credentials: dict[str, Mapping[str, str]] = {}
        missing: list[AppBinding] = []
        proxied: dict[str, ProxyAccess] = {}
        secrets: list[Secret] = [Secret(format_variable_ref(name), value) for name, value in request.variables.items()]
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
            credentials[binding.prop], refs = insert_placeholders(account, self._directory.credentials(account.id))
            proxied.update(refs)
            secrets += (
                Secret(format_credential_ref(account, name), value) for name, value in credentials[binding.prop].items()
            )
        return _FormAccounts(credentials, tuple(missing), Redactor(secrets), proxied)

    def _why_missing(self, request: FormRequest, binding: AppBinding) -> str:
        if binding.account is not None:
            return f"Choices come from the account {binding.account}, which this project does not have."
        if request.external_user_id is None:
            return (
                f"Choices come from the external user's {binding.app} account, and no external user is chosen: %pduser. "
                "You can type a text or an expression instead."
            )
        command = format_connect_account_command(
            binding.app, request.external_user_id, request.environment, self._directory
        )
        return (
            f"Choices come from {request.external_user_id}'s {binding.app} account, and {request.environment} has no such "
            f"account. Connect an account with %pduser, or: {command}. You can type a text or an expression instead."
        )

    async def _values(
        self, request: FormRequest, description: ComponentDescription, workers: PooledRun
    ) -> dict[str, JSON]:
        """Return the current values; an expression is evaluated on the chosen event, and stays if the result is empty."""
        apps = {binding.prop for binding in description.apps}
        values: dict[str, JSON] = {}
        for name, value in request.step.props.items():
            if name in apps:
                continue
            try:
                found = await evaluate_props(replace(request.step, props={name: value}), workers, request.exports)
            except StepError:
                found = {}
            # an expression without a result gets its value in the run, so it is not an empty prop
            values[name] = value if found.get(name) is None else found[name]
        return fill_secret_props(request.step, values, request.variables)

    @asynccontextmanager
    async def _open_workers(self, request: FormRequest, component: ComponentFile) -> AsyncIterator[PooledRun]:
        setup = RunSetup(
            run_id="form",
            workflow="form",
            environment=request.environment,
            external_user_id=request.external_user_id,
            trigger={"event": dict(request.event), "context": {}},
            variables={name: value for name, value in request.variables.items() if not is_secret_prop_name(name)},
            import_folder=request.folder,
            is_sandboxed=request.policy.guarded,
            public_only=request.policy.public_only,
            extra_code_folders=(component.path,),
        )
        # a person waits for the form, so it does not queue behind runs
        workers = await self._workers.open_run(setup, wait_for_place=False)
        try:
            yield workers
        finally:
            await workers.release()


_DENY_POLICY = OutboundPolicy(mode="deny", mode_text="deny")


def _static(declared: PropDeclaration, query: str | None) -> PropOptionsPage:
    listed = declared.definition.get("options")
    options = tuple(
        PropOption(str(each.get("label", each.get("value"))), each.get("value"))
        if isinstance(each, dict)
        else PropOption(str(each), each)
        for each in (listed if isinstance(listed, list) else ())
    )
    if not options:
        return PropOptionsPage(empty_reason=f"{declared.name} is {declared.type} and has no options.")
    return PropOptionsPage(tuple(each for each in options if not query or query.lower() in each.label.lower()))


def _binding(request: FormRequest, accounts: _FormAccounts) -> CallContext:
    return CallContext(
        step=request.step.name,
        policy=request.policy,
        redactor=accounts.redactor,
        external_user_id=request.external_user_id,
        environment=request.environment,
        proxy_by_secret_ref=accounts.proxied,
        on_call_finished=lambda _: None,
        on_call_refused=lambda _: None,
    )


def _redacted(page: PropOptionsPage, redactor: Redactor) -> PropOptionsPage:
    return PropOptionsPage(
        tuple(PropOption(redactor.redact_text(each.label), redactor.redact_value(each.value)) for each in page.options),
        page.context,
        redactor.redact_text(page.empty_reason) if page.empty_reason else None,
    )


def _redacted_prop(prop: PropDeclaration, redactor: Redactor) -> PropDeclaration:
    return replace(
        prop,
        name=redactor.redact_text(prop.name),
        type=redactor.redact_text(prop.type),
        definition=require_object(redactor.redact_value(dict(prop.definition))),
    )


@contextmanager
def _redacted_errors(redactor: Redactor) -> Iterator[None]:
    try:
        yield
    except StepError as error:
        error.name, error.message = redactor.redact_text(error.name), redactor.redact_text(error.message)
        error.fix, error.stack, error.args = redactor.redact_text(error.fix), None, (error.message,)
        raise


ProgressListener = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ActionSearch:
    """
    The result of a search.

    Attributes:
        components: The actions, best match first.
        advice: Without a match, a sentence that reports it and how to find more; else empty.
    """

    components: tuple[Component, ...]
    advice: str = ""


async def search_actions(
    catalog: Catalog,
    words: str,
    *,
    app: str | None = None,
    limit: int | None = None,
    install: bool = True,
    progress: ProgressListener = lambda _: None,
) -> ActionSearch:
    """
    Actions of *catalog*, of *app* or of all apps, whose key, name or description contains every word; at most *limit*.

    With *install* False, no package of *app* is downloaded for the search.

    Raises:
        ActionSourceError: npm or Pipedream is unreachable.
        LicenceError: *app* comes from npm, whose licence is not accepted.
    """
    found = await catalog.search(words, app=app, limit=limit, install=install, progress=progress)
    return ActionSearch(tuple(found), "" if found else await run_blocking(_build_advice, catalog, app))


def _build_advice(catalog: Catalog, app: str | None) -> str:
    if not catalog.settings.sources or catalog.settings.is_licence_missing:
        more = f"npm has {app}" if app in APPS_ON_NPM else "For more"
        return f"No action matches: this project runs built-in actions only. {more}: {ACCEPT_LICENCE_COMMAND}"
    if catalog.settings.has_source("npm") and app is None:
        return "No action matches in the apps that were used before. To search another app: --app SLUG"
    return "No action matches."


async def describe_action(
    engine: WorkflowEngine, uses: str, *, catalog: Catalog | None = None, progress: ProgressListener = lambda _: None
) -> tuple[Component, ComponentDescription]:
    """
    Return the action `KEY[@VERSION]` and its declared props; the action is installed if necessary.

    Args:
        engine: The engine whose workers load the action's module.
        uses: The action's key, and its version or the newest.
        catalog: The actions of a notebook; None for the project's actions.
        progress: Called with lines about the installation.

    Raises:
        ActionNotFoundError: No source has the action.
        ActionSourceError: The action's source is unreachable.
        StepError: The action's module cannot be loaded.
    """
    return await ActionForms(engine).describe(ActionReference.parse(uses), catalog=catalog, progress=progress)
