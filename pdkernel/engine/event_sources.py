"""
Runs event sources for an external user and turns new emissions into events that start a workflow.

A source's database and the ids of its emissions are stored per workflow and external user, so that an event is dropped if it
repeats an earlier one by the source's strategy (the platform's component API page). The caller decides when a source runs.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection

from pdkernel.actions import ActionReference, Catalog, Component
from pdkernel.actions.prop_binding import resolve_app_bindings
from pdkernel.common.blocking import await_outcome, run_blocking
from pdkernel.common.clock import Clock
from pdkernel.common.identity import DEFAULT_ENVIRONMENT, Directory, Environment
from pdkernel.common.redaction import Redactor, Secret
from pdkernel.egress import CallContext, OutboundPolicy, connection_owner
from pdkernel.engine.account_lookup import Interface, RunIdentity
from pdkernel.engine.account_resolution import AccountResolution, override_accounts, resolve_accounts
from pdkernel.engine.http_response import HttpResponse, build_response
from pdkernel.engine.run_context import derive_id
from pdkernel.engine.step_actions import describe_component
from pdkernel.errors import RequestError, StepProcessExitedError, UnsupportedError
from pdkernel.event import Event
from pdkernel.execution import Response, StepResult
from pdkernel.model import JSON, AppBinding, Step, Trigger
from pdkernel.storage import SourceStateTable
from pdkernel.storage.schedule import DEFAULT_INTERVAL_S
from pdkernel.workers import (
    ComponentDescription,
    Emitted,
    PooledRun,
    PropDeclaration,
    RunSetup,
    SourceCall,
    SourceOutcome,
    StepPool,
    StepRecorder,
)

SourceAct = Literal["run", "deploy", "activate", "deactivate"]
SOURCE_STEP_NAME = "source"
"""The step name of a source, in outbound calls and in errors."""

HTTP_INTERFACE = "$.interface.http"
"""Type of the prop that gives a source an endpoint."""
TIMER_INTERFACE = "$.interface.timer"
"""Type of the prop that gives a source a timer."""
_REQUEST_KEYS = frozenset({"method", "path", "query", "headers", "body", "bodyRaw"})
MAX_REMEMBERED_IDS = 100
"""Ids that `unique` remembers (platform documentation)."""


@dataclass(frozen=True)
class SourceRequest:
    """
    One run of a workflow's event source.

    Attributes:
        trigger: The workflow's trigger of type `source`.
        owner_key: The path of the workflow's notebook or folder; identifies the source's state.
        policy: The policy for outbound calls.
        act: `run`, or a hook.
        event: The request or message for the source's interface; None is a timer's tick.
        external_user_id: The external user whose account the source uses, or None.
        environment: The external user's environment.
        folder: The workflow's folder.
        timeout_s: Time limit in seconds.
        install: Whether the source may be installed.
        endpoint_url: Public URL of the source's HTTP interface, or None.
        account_overrides: Account ids by app, used instead of the newest account of the app.
        on_respond: Receives the response that the source sends by its HTTP interface. It ends before anything of the run is
            stored.
        interface: The interface that starts the run, for the fixes in messages.
        action_sources: Where components run, as set in the workflow's `pdkernel.yaml`; empty for the project's setting.
        store_events: Stores the new events, and what else ends with the run, in the transaction that stores the source's state.
    """

    trigger: Trigger
    owner_key: str
    policy: OutboundPolicy
    act: SourceAct = "run"
    event: JSON = None
    external_user_id: str | None = None
    environment: Environment = DEFAULT_ENVIRONMENT
    folder: Path = field(default_factory=Path.cwd)
    timeout_s: float = 60.0
    install: bool = True
    endpoint_url: str | None = None
    account_overrides: Mapping[str, str] = field(default_factory=dict)
    on_respond: Callable[[HttpResponse], Awaitable[object]] | None = None
    interface: Interface = "terminal"
    action_sources: tuple[str, ...] = ()
    store_events: Callable[[Connection, Sequence[SourceEvent]], object] = lambda _connection, _events: None

    @property
    def uses(self) -> ActionReference:
        """The source's key and version."""
        return ActionReference.parse(str(self.trigger.config.get("uses") or ""))

    @property
    def state_key(self) -> str:
        """The key of the source's state; begins with the owner."""
        return json.dumps([self.owner_key, self.uses.key, self.environment, self.external_user_id])


@dataclass(frozen=True)
class SourceEvent:
    """A new event of a source, redacted."""

    event: Event
    id: str | int | float | None
    summary: str | None
    ts: float | None


@dataclass(frozen=True)
class SourceResult:
    """
    The result of one run of a source.

    Attributes:
        component: The component that ran.
        events: The new events, oldest first.
        repeated_count: Number of emissions that were not new.
        had_hook: Whether the source implements the requested act.
        record: Logs, outbound calls and error, in the form of a step's result.
        response: The redacted response that the HTTP interface sent, or None.
        is_stored: Whether the source's state and its events are stored; False if its process was ended, because its state may
            be half of a change.
    """

    component: Component
    events: tuple[SourceEvent, ...]
    repeated_count: int
    had_hook: bool
    record: StepResult
    response: Response | None
    is_stored: bool = True


class SourceRunner:
    """
    Runs the event sources of a project.

    Args:
        directory: Users and accounts.
        workers: The worker pool.
        catalog: The project's components.
        states: The stored states of sources.
        clock: For time stamps and the timer's tick.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        workers: StepPool,
        catalog: Catalog,
        states: SourceStateTable,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._catalog = catalog
        self._states = states
        self._clock = clock

    async def run(self, request: SourceRequest) -> SourceResult:
        """
        Run a source once. Its database and its events are stored even if its code fails, but not if its process is ended.

        Raises:
            ActionNotFoundError: No source of components has the event source.
            EndUserError: The external user has no account for it.
            UnsupportedError: The component is not an event source, or only Pipedream can run it.
            StepError: The source's module cannot be loaded.
            RequestError: The source needs a request or a message, and the event is missing.
        """
        catalog = self._catalog.with_sources(request.action_sources, base=request.folder)
        component = await self._component(request, catalog)
        context = {"id": derive_id("dc_", request.state_key)}
        setup = RunSetup(
            context["id"],
            f"source {request.uses}",
            {"event": {}, "context": context},
            {},
            request.folder,
            is_sandboxed=request.policy.guarded,
            public_only=request.policy.public_only,
            extra_code_folders=(component.file.path,) if component.file else (),
            environment=request.environment,
            external_user_id=request.external_user_id,
        )
        workers = await self._workers.open_run(setup)
        try:
            description = await describe_component(component, workers, catalog)
            return await self._run(request, component, description, workers, context["id"])
        finally:
            await workers.release()

    async def _component(self, request: SourceRequest, catalog: Catalog) -> Component:
        component = await catalog.resolve_or_install(request.uses, install=request.install)
        if component.kind != "source":
            raise UnsupportedError(
                f"{component.uses} is an action, and the trigger of a workflow is a source.",
                fix="Write the action as a step: %%pdstep NAME --uses " + component.uses,
            )
        if component.file is None:
            raise UnsupportedError(
                f"{component.uses} runs at Pipedream, and this machine cannot run it.",
                fix="Give the workflow a saved event: --event FILE.",
            )
        return component

    async def _run(
        self,
        request: SourceRequest,
        component: Component,
        description: ComponentDescription,
        workers: PooledRun,
        identity: str,
    ) -> SourceResult:
        assert component.file is not None
        if request.act == "run" and request.event is None:
            _check_has_timer(component, description)
        props = request.trigger.config.get("props")
        step = Step(SOURCE_STEP_NAME, "node", uses=component.uses, props=props if isinstance(props, dict) else {})
        apps = resolve_app_bindings(step, description)
        resolution = await self._resolve_accounts(request, apps)
        received = request.event if isinstance(request.event, dict) else {}
        # the record shows no secret headers of a request; its events have them, because the workflow may verify them
        headers = [Secret(f"event/{name}", value) for name, value in Event(received).header_secrets().items()]
        secrets = (*resolution.secrets, *_list_secret_props(step, description))
        redactor, shown = Redactor(secrets), Redactor((*secrets, *headers))
        responding: list[asyncio.Future[object]] = []

        def respond(raw: Mapping[str, Any]) -> None:
            if request.on_respond is not None:
                responding.append(asyncio.ensure_future(request.on_respond(build_response(raw))))

        recorder = StepRecorder(
            SOURCE_STEP_NAME,
            redactor=shown,
            clock=self._clock,
            accounts=resolution.for_step(SOURCE_STEP_NAME).uses,
            on_respond=respond,
        )
        state = await run_blocking(self._states.load, request.state_key)
        bound = {app.prop for app in apps}
        call = SourceCall(
            component.file,
            identity,
            operation=request.act,
            event=self._timer_event(step, description)
            if request.event is None
            else _received(request.event, description),
            endpoint=request.endpoint_url,
            props={name: value for name, value in step.props.items() if name not in bound},
            credentials=resolution.for_step(SOURCE_STEP_NAME).credentials,
            service_db=state.get("db", {}),
            timeout_s=request.timeout_s,
            call_context=_build_call_context(request, resolution, shown, recorder),
        )
        try:
            outcome = await workers.run_source(call, recorder)
        finally:
            await await_outcome(asyncio.gather(*responding))
        is_stored = not isinstance(outcome.error, StepProcessExitedError)
        new: tuple[SourceEvent, ...] = ()
        if is_stored:
            storing = run_blocking(self._store_state, request, description, outcome, redactor)
            new = await await_outcome(storing)  # its sender must not repeat what is stored
        for warning in outcome.warnings:
            recorder.add_note(warning)
        return SourceResult(
            component,
            events=new,
            repeated_count=len(outcome.emitted_events) - len(new) if is_stored else 0,
            had_hook=outcome.is_implemented,
            record=recorder.finish("error" if outcome.error else "success", outcome.error),
            response=build_response(outcome.response).to_record(shown) if outcome.response else None,
            is_stored=is_stored,
        )

    async def _resolve_accounts(self, request: SourceRequest, apps: tuple[AppBinding, ...]) -> AccountResolution:
        """Return the accounts for *apps*; raise the end-user error if an account is missing."""
        if not apps:
            return AccountResolution()
        resolution = await run_blocking(
            resolve_accounts,
            {SOURCE_STEP_NAME: apps},
            RunIdentity(request.external_user_id, request.environment, interface=request.interface),
            directory=override_accounts(self._directory, request.account_overrides),
        )
        if resolution.error is not None:
            raise resolution.error
        return resolution

    def _store_state(
        self, request: SourceRequest, description: ComponentDescription, outcome: SourceOutcome, redactor: Redactor
    ) -> tuple[SourceEvent, ...]:
        """Store the source's state and its new events in one transaction; return the events."""

        def change(state: dict[str, Any]) -> tuple[SourceEvent, ...]:
            state["db"] = dict(outcome.service_db)
            remembered = state.setdefault("dedupe", {})
            new = drop_repeated_events(description.dedupe, outcome.emitted_events, remembered)
            return tuple(_event(emitted, redactor) for emitted in new)

        return self._states.update(request.state_key, change, request.store_events)

    def _timer_event(self, step: Step, description: ComponentDescription) -> JSON:
        """Return the event of a timer's tick."""
        tick: dict[str, JSON] = {"timestamp": int(self._clock.now().timestamp())}
        for prop in description.props:
            if prop.type == TIMER_INTERFACE:
                given = timer_setting(prop, step.props)
                if isinstance(given, dict) and given.get("cron"):
                    # parity[source-cron]: the event of a source's cron timer is not documented
                    return tick | {name: given[name] for name in ("cron", "timezone") if given.get(name)}
                if isinstance(given, dict) and given.get("intervalSeconds"):
                    return tick | {"interval_seconds": given["intervalSeconds"]}
        return tick | {"interval_seconds": int(DEFAULT_INTERVAL_S)}


def timer_setting(timer: PropDeclaration, props: Mapping[str, JSON]) -> JSON:
    """Return the configured value of a source's timer, or the one that the source declares."""
    definition = timer.definition
    return props.get(timer.name) or definition.get("static") or definition.get("default") or {}


def _build_call_context(
    request: SourceRequest, resolution: AccountResolution, redactor: Redactor, recorder: StepRecorder
) -> CallContext:
    """Return the context of the source's outbound calls, which *recorder* records."""
    return CallContext(
        step=SOURCE_STEP_NAME,
        policy=request.policy,
        redactor=redactor,
        owner=connection_owner(request.external_user_id, request.environment, f"of source {request.owner_key}"),
        external_user_id=request.external_user_id,
        environment=request.environment,
        app_by_secret_ref=resolution.app_by_secret,
        proxy_by_secret_ref=resolution.proxy_by_secret,
        on_call_finished=recorder.add_outbound_call,
        on_call_refused=recorder.add_note,
    )


def _check_has_timer(component: Component, description: ComponentDescription) -> None:
    """Raise `RequestError` if the source has no timer: it needs a request or a message of its app."""
    interfaces = {prop.type for prop in description.props if prop.type.startswith("$.interface.")}
    if TIMER_INTERFACE in interfaces or not interfaces:
        return
    if HTTP_INTERFACE in interfaces:
        needed, example = "an HTTP request", 'the request as JSON: {"method": "POST", "headers": {...}, "body": {...}}'
    else:
        needed, example = "a message of its app", "the message as JSON"
    raise RequestError(
        f"{component.uses} needs {needed} to run, and the event is missing.",
        fix=f"Pass {example}: pdkernel source poll SOURCE --event FILE, in a notebook %pdevent FILE --emit.",
    )


def _received(event: JSON, description: ComponentDescription) -> JSON:
    """Return *event*; a request gets the further fields of an HTTP interface (component API page)."""
    is_request = isinstance(event, dict) and not event.keys().isdisjoint(_REQUEST_KEYS)
    if not is_request or not any(prop.type == HTTP_INTERFACE for prop in description.props):
        return event
    assert isinstance(event, dict)
    body, raw = event.get("body"), event.get("bodyRaw")
    if raw is None and body is not None:
        raw = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    elif isinstance(raw, str) and "body" not in event:
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = raw
    headers = event.get("headers")
    lower = {name.lower(): value for name, value in headers.items()} if isinstance(headers, dict) else {}
    method = "GET" if body is None else "POST"
    return {"method": method, "path": "/", "query": {}, **event, "headers": lower, "bodyRaw": raw, "body": body}


def _list_secret_props(step: Step, description: ComponentDescription) -> list[Secret]:
    given = {prop.name: step.props.get(prop.name) for prop in description.props if prop.definition.get("secret")}
    return [Secret(f"prop/{SOURCE_STEP_NAME}/{name}", value) for name, value in given.items() if isinstance(value, str)]


def _event(emitted: Emitted, redactor: Redactor) -> SourceEvent:
    data = redactor.redact_value(emitted.event)
    if not isinstance(data, dict):
        # parity[source-text]: on the platform an emitted text or list starts a workflow; in pdkernel it becomes an object
        data = {"value": data}
    summary = redactor.redact_text(str(emitted.summary)) if emitted.summary is not None else None
    return SourceEvent(Event(data, is_http=False), emitted.id, summary, emitted.ts)


def require_source_trigger(trigger: Trigger) -> Trigger:
    """
    Return *trigger* if it is an event source.

    Raises:
        RequestError: The trigger has another type.
    """
    if trigger.type != "source" or not trigger.config.get("uses"):
        raise RequestError(
            f"The workflow's trigger is of type {trigger.type}, not an event source.",
            fix="Write in %%pdworkflow: trigger: {type: source, uses: KEY@VERSION, props: {...}}",
        )
    return trigger


def drop_repeated_events(strategy: str | None, events: Iterable[Emitted], state: dict[str, Any]) -> list[Emitted]:
    """
    Return the new events, oldest first, and update *state*.

    Args:
        strategy: `unique`, `greatest`, `last`, or None to keep all.
        events: Events in the order of emission; they are sorted by time first, events without a time last.
        state: The state of the last run; `{}` at first. Changed in place.
    """
    ordered = sorted(events, key=lambda event: math.inf if event.ts is None else event.ts)
    match strategy:
        case "unique":
            return _unique(ordered, state)
        case "greatest":
            return _drop_below_greatest(ordered, state)
        case "last":
            return _last(ordered, state)
        case _:
            return ordered


def _unique(emitted: list[Emitted], state: dict[str, Any]) -> list[Emitted]:
    seen = dict.fromkeys(state.get("seen", ()))
    new = []
    for event in emitted:
        if event.id is not None:
            known = str(event.id)
            if known in seen:
                continue
            seen[known] = None
        new.append(event)
    state["seen"] = list(seen)[-MAX_REMEMBERED_IDS:]
    return new


def _drop_below_greatest(emitted: list[Emitted], state: dict[str, Any]) -> list[Emitted]:
    new = []
    for event in emitted:
        number = _number(event.id)
        if number is not None:
            if state.get("greatest") is not None and number <= state["greatest"]:
                continue
            state["greatest"] = number
        new.append(event)
    return new


def _last(emitted: list[Emitted], state: dict[str, Any]) -> list[Emitted]:
    known = state.get("last")
    at = max((index for index, event in enumerate(emitted) if known is not None and str(event.id) == known), default=-1)
    new = emitted[at + 1 :]
    if new and new[-1].id is not None:
        state["last"] = str(new[-1].id)
    return new


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # an arbitrary value from the source
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
