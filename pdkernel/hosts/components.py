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
from pdkernel.hosts.calls import RunSetup, SourceCall, SourceOutcome
from pdkernel.hosts.declarations import ComponentFile, Description, OptionsPage, PropDeclaration
from pdkernel.hosts.faults import fault
from pdkernel.hosts.languages import GuestLanguage
from pdkernel.hosts.protocols import StepListener
from pdkernel.hosts.recorder import StepRecorder
from pdkernel.hosts.replies import Done
from pdkernel.model import JSON, Step

_MAY_DECLARE = re.compile(r"props|\.\.\.|export\s*\{|require")
"""Code without any of these declares no props, written here or taken from elsewhere: no need to load it to know."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})

T = TypeVar("T")
Target = Step | ComponentFile
Auth = Mapping[str, Mapping[str, str]]


class Ask(Protocol):
    """Sends a request to a guest and waits for its `done`, or says why there is none."""

    async def __call__(
        self,
        language: GuestLanguage,
        request: dict[str, Any],
        recorder: StepRecorder,
        *,
        target: Target | None,
        name: str,
        timeout_s: float,
        binding: Any,
        read: Callable[[JSON], Any],
    ) -> Done | StepError:
        """The guest's `done` with its value as *read* returns it, or how the step failed."""
        ...


class Components:
    """
    The components of one run.

    Args:
        ask: How to reach a guest.
        setup: Of the run: where the imports of code steps are resolved.
        known: Descriptions that have been made; added to.
    """

    def __init__(self, ask: Ask, setup: RunSetup, *, known: MutableMapping[object, Description]) -> None:
        self._ask = ask
        self._setup = setup
        self._known = known

    async def describe(self, target: Target, *, timeout_s: float) -> Description:
        """What *target* declares. Raises as `RunGuests.describe` says."""
        if isinstance(target, Step) and (
            target.language != "node" or target.uses or not _MAY_DECLARE.search(target.source)
        ):
            return Description()
        key = self._key(target)
        found = self._known.get(key)
        if found is None:
            found = await self._answer(Description, {"op": "describe"}, target, timeout_s=timeout_s)
            self._known[key] = found
        return found

    async def options(
        self,
        target: Target,
        prop: str,
        *,
        values: Mapping[str, JSON] = _NOTHING,
        auth: Auth = _NOTHING,
        page: int = 0,
        context: JSON = None,
        query: str | None = None,
        timeout_s: float = 30.0,
        binding: Any = None,
    ) -> OptionsPage:
        """
        A page of the options of *prop*, from the component's own `options`.

        That there are none, because the account is only known at run time or its code failed, is in the page.

        Args:
            target: The component.
            prop: The prop's name; it may be one that the component adds.
            values: The other props so far, as written: expressions not evaluated.
            auth: App prop name or slug to the fields of `$auth`; an app that is not there has no account yet.
            page: Counted from 0.
            context: What the page before gave as its context.
            query: What a person searches for.
            timeout_s: Seconds that it may take.
            binding: How its outside calls are treated.

        Raises:
            InterpreterMissingError: There is no Node.js.
        """
        request = {"op": "options", "prop": prop, "page": page, "context": context, "query": query}
        request |= {"values": dict(values), "auth": {app: dict(fields) for app, fields in auth.items()}}
        try:
            return await self._answer(OptionsPage, request, target, timeout_s=timeout_s, binding=binding)
        except StepError as error:
            return OptionsPage(why=f"{error.name}: {error.message}")

    async def additional_props(
        self,
        target: Target,
        *,
        values: Mapping[str, JSON] = _NOTHING,
        auth: Auth = _NOTHING,
        timeout_s: float = 30.0,
        binding: Any = None,
    ) -> tuple[PropDeclaration, ...]:
        """
        The props that the component adds, or declares differently, for the values so far.

        Raises:
            StepError: Its code failed, or needs an account that is not there.
            InterpreterMissingError: There is no Node.js.
        """
        request = {"op": "additional", "values": dict(values), "auth": {app: dict(f) for app, f in auth.items()}}
        added = tuple[PropDeclaration, ...]
        return await self._answer(added, request, target, timeout_s=timeout_s, binding=binding)

    async def run_source(self, call: SourceCall, listener: StepListener) -> SourceOutcome:
        """What the source did. Raises as `RunGuests.run_source` says."""
        recorder = StepRecorder(listener, call.db)
        request: dict[str, Any] = {
            "op": "source",
            "act": call.act,
            "id": call.id,
            "event": call.event,
            "endpoint": call.endpoint,
            "props": dict(call.props),
            "auth": {app: dict(fields) for app, fields in call.auth.items()},
            "stores": {},
            "db": dict(call.db),
        }
        done = await self._ask(
            "node",
            request,
            recorder,
            target=call.component,
            name=call.component.key,
            timeout_s=call.timeout_s,
            binding=call.binding,
            read=partial(msgspec.convert, type=bool | None),
        )
        recorder.outcome()  # what is left of its output
        return SourceOutcome(
            emitted=tuple(recorder.emitted),
            performed=not isinstance(done, StepError) and done.value is not False,
            db=recorder.db,
            response=recorder.response,
            warnings=recorder.warnings,
            error=error_of(done),
        )

    async def _answer(
        self, kind: type[T], request: dict[str, Any], target: Target, *, timeout_s: float, binding: Any = None
    ) -> T:
        done = await self._ask(
            "node",
            request,
            StepRecorder(Nobody()),
            target=target,
            name=target.name if isinstance(target, Step) else target.key,
            timeout_s=timeout_s,
            binding=binding,
            read=partial(msgspec.convert, type=kind),
        )
        error = error_of(done)
        if error is not None:
            raise error
        assert isinstance(done, Done)
        return cast("T", done.value)

    def _key(self, target: Target) -> object:
        if isinstance(target, Step):
            tree = self._setup.node_packages.get(target.name)
            return (target.source, self._setup.folder, tree.folder if tree else None)
        try:
            found = target.path.stat()
        except OSError:
            return target.path
        return (target.path, found.st_mtime_ns, found.st_size)


class Nobody:
    """Listens to what is not a step's run."""

    def log(self, stream: Stream, text: str) -> None:
        """Not kept."""

    def say(self, text: str) -> None:
        """Not kept."""

    def export(self, name: str, value: JSON) -> None:
        """Not kept."""

    def respond(self, response: dict[str, Any]) -> None:
        """Not kept."""


def error_of(done: Done | StepError) -> StepError | None:
    """What a request failed with, or None."""
    if isinstance(done, StepError):
        return done
    return fault(done.error) if done.error else None
