"""
What can be asked of a component besides running it as a step: what it declares, options of its props, an event source's run.

Knows the requests and their answers' shapes. How a request reaches a guest is its caller's to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

import msgspec

from pdkernel.errors import StepError
from pdkernel.execution import Stream
from pdkernel.model import JSON, Step
from pdkernel.workers.calls import RunSetup, SourceCall, SourceOutcome
from pdkernel.workers.declarations import ComponentDescription, ComponentFile, PropDeclaration, PropOptionsPage
from pdkernel.workers.protocols import StepListener
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import Done
from pdkernel.workers.step_errors import parse_step_error
from pdkernel.workers.worker_command import WorkerLanguage

_PROPS_HINT = re.compile(r"props|\.\.\.|export\s*\{|require")
"""Code without any of these declares no props, written here or taken from elsewhere: no need to load it to know."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})

T = TypeVar("T")
ComponentTarget = Step | ComponentFile
AccountFields = Mapping[str, Mapping[str, str]]


class SendRequest(Protocol):
    """Sends a request to a guest and waits for its `done`, or says why there is none."""

    async def __call__(
        self,
        language: WorkerLanguage,
        request: dict[str, Any],
        recorder: StepRecorder,
        *,
        target: ComponentTarget | None,
        name: str,
        timeout_s: float,
        binding: Any,
        read: Callable[[JSON], Any],
    ) -> Done | StepError:
        """The guest's `done` with its value as *read* returns it, or how the step failed."""
        ...


class ComponentClient:
    """
    The components of one run.

    Args:
        send_request: How to reach a guest.
        setup: Of the run: where the imports of code steps are resolved.
        description_cache: Descriptions that have been made; added to.
    """

    def __init__(
        self,
        send_request: SendRequest,
        setup: RunSetup,
        *,
        description_cache: MutableMapping[object, ComponentDescription],
    ) -> None:
        self._ask = send_request
        self._setup = setup
        self._known = description_cache

    async def describe(self, target: ComponentTarget, *, timeout_s: float) -> ComponentDescription:
        """What *target* declares. Raises as `RunGuests.describe` says."""
        if isinstance(target, Step) and (
            target.language != "node" or target.uses or not _PROPS_HINT.search(target.source)
        ):
            return ComponentDescription()
        key = self._key(target)
        found = self._known.get(key)
        if found is None:
            found = await self._answer(ComponentDescription, {"op": "describe"}, target, timeout_s=timeout_s)
            self._known[key] = found
        return found

    async def options(
        self,
        target: ComponentTarget,
        prop: str,
        *,
        values: Mapping[str, JSON] = _EMPTY,
        account_fields: AccountFields = _EMPTY,
        page: int = 0,
        context: JSON = None,
        query: str | None = None,
        timeout_s: float = 30.0,
        call_context: Any = None,
    ) -> PropOptionsPage:
        """
        A page of the options of *prop*, from the component's own `options`.

        That there are none, because the account is only known at run time or its code failed, is in the page.

        Args:
            target: The component.
            prop: The prop's name; it may be one that the component adds.
            values: The other props so far, as written: expressions not evaluated.
            account_fields: App prop name or slug to the fields of `$auth`; an app that is not there has no account yet.
            page: Counted from 0.
            context: What the page before gave as its context.
            query: What a person searches for.
            timeout_s: Seconds that it may take.
            call_context: How its outside calls are treated.

        Raises:
            InterpreterMissingError: There is no Node.js.
        """
        request = {"op": "options", "prop": prop, "page": page, "context": context, "query": query}
        request |= {"values": dict(values), "auth": {app: dict(fields) for app, fields in account_fields.items()}}
        try:
            return await self._answer(PropOptionsPage, request, target, timeout_s=timeout_s, binding=call_context)
        except StepError as error:
            return PropOptionsPage(empty_reason=f"{error.name}: {error.message}")

    async def additional_props(
        self,
        target: ComponentTarget,
        *,
        values: Mapping[str, JSON] = _EMPTY,
        account_fields: AccountFields = _EMPTY,
        timeout_s: float = 30.0,
        call_context: Any = None,
    ) -> tuple[PropDeclaration, ...]:
        """
        The props that the component adds, or declares differently, for the values so far.

        Raises:
            StepError: Its code failed, or needs an account that is not there.
            InterpreterMissingError: There is no Node.js.
        """
        request = {
            "op": "additional",
            "values": dict(values),
            "auth": {app: dict(f) for app, f in account_fields.items()},
        }
        added = tuple[PropDeclaration, ...]
        return await self._answer(added, request, target, timeout_s=timeout_s, binding=call_context)

    async def run_source(self, call: SourceCall, listener: StepListener) -> SourceOutcome:
        """What the source did. Raises as `RunGuests.run_source` says."""
        recorder = StepRecorder(listener, call.service_db)
        request: dict[str, Any] = {
            "op": "source",
            "act": call.operation,
            "id": call.id,
            "event": call.event,
            "endpoint": call.endpoint,
            "props": dict(call.props),
            "auth": {app: dict(fields) for app, fields in call.account_fields.items()},
            "stores": {},
            "db": dict(call.service_db),
        }
        done = await self._ask(
            "node",
            request,
            recorder,
            target=call.component,
            name=call.component.key,
            timeout_s=call.timeout_s,
            binding=call.call_context,
            read=partial(msgspec.convert, type=bool | None),
        )
        recorder.outcome()  # what is left of its output
        return SourceOutcome(
            emitted_events=tuple(recorder.emitted_events),
            is_implemented=not isinstance(done, StepError) and done.value is not False,
            service_db=recorder.service_db,
            response=recorder.response,
            warnings=recorder.warnings,
            error=find_error(done),
        )

    async def _answer(
        self, kind: type[T], request: dict[str, Any], target: ComponentTarget, *, timeout_s: float, binding: Any = None
    ) -> T:
        done = await self._ask(
            "node",
            request,
            StepRecorder(NullListener()),
            target=target,
            name=target.name if isinstance(target, Step) else target.key,
            timeout_s=timeout_s,
            binding=binding,
            read=partial(msgspec.convert, type=kind),
        )
        error = find_error(done)
        if error is not None:
            raise error
        assert isinstance(done, Done)
        return cast("T", done.value)

    def _key(self, target: ComponentTarget) -> object:
        if isinstance(target, Step):
            tree = self._setup.node_packages.get(target.name)
            return (target.source, self._setup.import_folder, tree.folder if tree else None)
        try:
            found = target.path.stat()
        except OSError:
            return target.path
        return (target.path, found.st_mtime_ns, found.st_size)


class NullListener:
    """Listens to what is not a step's run."""

    def log(self, stream: Stream, text: str) -> None:
        """Not kept."""

    def report_progress(self, text: str) -> None:
        """Not kept."""

    def export(self, name: str, value: JSON) -> None:
        """Not kept."""

    def respond(self, response: dict[str, Any]) -> None:
        """Not kept."""


def find_error(reply: Done | StepError) -> StepError | None:
    """What a request failed with, or None."""
    if isinstance(reply, StepError):
        return reply
    return parse_step_error(reply.error) if reply.error else None
