"""
Requests about a component: its description, the options of its props, its additional props, and a run of an event source.

The caller passes the function that sends a request to a worker.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar, cast

import msgspec

from pdkernel.errors import StepError
from pdkernel.model import JSON, Step
from pdkernel.workers.calls import RunSetup, SourceCall, SourceOutcome
from pdkernel.workers.declarations import (
    FIRST_PAGE,
    ComponentDescription,
    ComponentFile,
    OptionsQuery,
    PropDeclaration,
    PropOptionsPage,
)
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import Done
from pdkernel.workers.step_errors import parse_step_error
from pdkernel.workers.step_exchange import WorkerRequest

_PROPS_HINT = re.compile(r"props|\.\.\.|export\s*\{|require")
"""Code that matches none of these declares no props, so it need not be loaded."""

_MAX_DESCRIPTIONS = 500  # of the code steps of one slot; each version of a cell has one
_EMPTY: Mapping[str, Any] = MappingProxyType({})

T = TypeVar("T")
ComponentTarget = Step | ComponentFile
CredentialsByProp = Mapping[str, Mapping[str, str]]


class ComponentClient:
    """
    The components of one run.

    Args:
        send_request: Sends a request to a worker; returns its `done`, the value converted by `read`, or the error of the step.
        setup: The setup of the run, with the folders in which imports of code steps are resolved.
        of_steps: Returns the cache of the descriptions of code steps, which this class fills. The process of a user's steps makes
            them, so only runs that may use this process share the cache.
        describe_alone: Describes a component in a process of its own, which has run no other code: everybody shares the result.
    """

    def __init__(
        self,
        send_request: Callable[[WorkerRequest], Awaitable[Done | StepError]],
        setup: RunSetup,
        *,
        of_steps: Callable[[], MutableMapping[object, ComponentDescription]],
        describe_alone: Callable[[ComponentFile, float], Awaitable[ComponentDescription]],
    ) -> None:
        self._send_request = send_request
        self._setup = setup
        self._of_steps = of_steps
        self._describe_alone = describe_alone

    async def describe(self, target: ComponentTarget, *, timeout_s: float) -> ComponentDescription:
        """Return what *target* declares. Raises the errors of `RunWorkers.describe`."""
        if isinstance(target, ComponentFile):
            return await self._describe_alone(target, timeout_s)
        if target.language != "node" or target.uses or not _PROPS_HINT.search(target.source):
            return ComponentDescription()
        tree = self._setup.node_packages.get(target.name)
        files = tuple(target.files.items())
        key = target.source, files, self._setup.import_folder, tree.folder if tree else None
        known = self._of_steps()
        found = known.get(key)
        if found is None:
            if len(known) >= _MAX_DESCRIPTIONS:
                known.clear()
            found = known[key] = await self.describe_here(target, timeout_s=timeout_s)
        return found

    async def describe_here(self, target: ComponentTarget, *, timeout_s: float) -> ComponentDescription:
        """Return what *target* declares, as the process of this run's steps finds it. Raises the errors of `describe`."""
        return await self._request(ComponentDescription, {"op": "describe"}, target, timeout_s=timeout_s)

    async def options(
        self,
        target: ComponentTarget,
        prop: str,
        *,
        values: Mapping[str, JSON] = _EMPTY,
        credentials: CredentialsByProp = _EMPTY,
        query: OptionsQuery = FIRST_PAGE,
        timeout_s: float = 30.0,
        call_context: Any = None,
    ) -> PropOptionsPage:
        """
        Return a page of the options of *prop*, from the component's own `options`.

        If there are no options, for example because its code failed, the page contains the reason.

        Args:
            target: The component.
            prop: The prop's name; it may be an additional prop.
            values: The values of the other props as written; expressions are not evaluated.
            credentials: App prop name or slug to the fields of `$auth`; a missing app has no account yet.
            query: The page, and the text that the user searches for.
            timeout_s: The time limit in seconds.
            call_context: The rules for its outbound calls.

        Raises:
            InterpreterMissingError: Node.js is not installed.
        """
        request: dict[str, Any] = {"op": "options", "prop": prop}
        request |= {"page": query.page, "context": query.context, "query": query.text}
        request |= {"values": dict(values), "auth": {app: dict(fields) for app, fields in credentials.items()}}
        try:
            return await self._request(PropOptionsPage, request, target, timeout_s=timeout_s, call_context=call_context)
        except StepError as error:
            return PropOptionsPage(empty_reason=f"{error.name}: {error.message}")

    async def additional_props(
        self,
        target: ComponentTarget,
        *,
        values: Mapping[str, JSON] = _EMPTY,
        credentials: CredentialsByProp = _EMPTY,
        timeout_s: float = 30.0,
        call_context: Any = None,
    ) -> tuple[PropDeclaration, ...]:
        """
        Return the props that the component adds or changes for *values*.

        Raises:
            StepError: Its code failed, or needs an account that is missing.
            InterpreterMissingError: Node.js is not installed.
        """
        request = {
            "op": "additional",
            "values": dict(values),
            "auth": {app: dict(f) for app, f in credentials.items()},
        }
        added = tuple[PropDeclaration, ...]
        return await self._request(added, request, target, timeout_s=timeout_s, call_context=call_context)

    async def run_source(self, call: SourceCall, recorder: StepRecorder) -> SourceOutcome:
        """Run an event source or one of its hooks. Raises the errors of `RunWorkers.run_source`."""
        recorder.service_db = dict(call.service_db)
        request: dict[str, Any] = {
            "op": "source",
            "act": call.operation,
            "id": call.id,
            "event": call.event,
            "endpoint": call.endpoint,
            "props": dict(call.props),
            "auth": {app: dict(fields) for app, fields in call.credentials.items()},
            "stores": {},
            "db": dict(call.service_db),
        }
        done = await self._send_request(
            WorkerRequest(
                "node",
                request,
                recorder,
                call.timeout_s,
                call.component,
                call.component.key,
                call_context=call.call_context,
                read=partial(msgspec.convert, type=bool | None),
            )
        )
        outcome = recorder.outcome(find_error(done))
        return SourceOutcome(
            emitted_events=tuple(recorder.emitted_events),
            is_implemented=not isinstance(done, StepError) and done.value is not False,
            service_db=recorder.service_db,
            response=outcome.response,
            warnings=outcome.warnings,
            error=outcome.error,
        )

    async def _request(
        self,
        kind: type[T],
        request: dict[str, Any],
        target: ComponentTarget,
        *,
        timeout_s: float,
        call_context: Any = None,
    ) -> T:
        done = await self._send_request(
            WorkerRequest(
                "node",
                request,
                StepRecorder(),
                timeout_s,
                target,
                target.name if isinstance(target, Step) else target.key,
                call_context=call_context,
                read=partial(msgspec.convert, type=kind),
            )
        )
        error = find_error(done)
        if error is not None:
            raise error
        assert isinstance(done, Done)
        return cast("T", done.value)


def find_error(reply: Done | StepError) -> StepError | None:
    """Return the error of a failed request, or None."""
    if isinstance(reply, StepError):
        return reply
    return parse_step_error(reply.error) if reply.error else None
