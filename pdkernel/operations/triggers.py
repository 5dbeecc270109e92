"""
Triggers of workflows: which fire while `pdkernel serve` runs, and runs of a workflow's event source on request.

A trigger is off until it is enabled in the project.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pdkernel.actions import ActionReference
from pdkernel.common.identity import Environment
from pdkernel.egress import OutboundPolicy
from pdkernel.engine.account_lookup import Interface
from pdkernel.engine.event_sources import SourceRequest, SourceResult, require_source_trigger
from pdkernel.engine.run_context import trigger_keys
from pdkernel.errors import PdkernelError, RequestError, format_count
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource, iter_workflow_paths, load_source
from pdkernel.language.directive import describe_emitters
from pdkernel.model import JSON, Trigger
from pdkernel.storage import Project, Schedule, TriggerState, is_workflow_named

_FOLDER_ID = re.compile(r"-(p_[A-Za-z0-9]+)\Z")


@dataclass(frozen=True)
class TriggerView:
    """
    A trigger that fires without a request to the workflow's endpoint.

    Attributes:
        workflow_id: The workflow's id, `p_...`.
        workflow_name: The workflow's name.
        source: The path of the notebook or folder.
        key: The trigger's key in the workflow.
        trigger: The trigger, or None if the workflow has it no more, or cannot be read.
        state: The trigger's state, or None if it was never enabled.
    """

    workflow_id: str
    workflow_name: str
    source: Path
    key: str
    trigger: Trigger | None
    state: TriggerState | None

    @property
    def is_enabled(self) -> bool:
        """Whether the trigger fires."""
        return self.state is not None and self.state.enabled

    @property
    def description(self) -> str:
        """The trigger's type, and what makes it fire."""
        if self.trigger is None:
            return self.key
        match self.trigger.type:
            case "schedule":
                each = f" for {self.trigger.for_each}" if self.trigger.for_each is not None else ""
                return f"schedule {Schedule.from_trigger(self.trigger.config)}{each}"
            case "source":
                return f"source {self.trigger.config.get('uses', '')}".rstrip()
            case "errors":
                return f"errors of {describe_emitters(self.trigger)}"
            case "emit":
                return f"events of {describe_emitters(self.trigger)}"
            case other:
                return other


def workflow_id(project: Project, source: WorkflowSource) -> str:
    """Return the id of a workflow: at the end of a synced folder's name, else from the project."""
    found = _FOLDER_ID.search(source.path.resolve().name)  # the name of a notebook ends with its suffix
    return found[1] if found else project.endpoint_keys.workflow_id(source.path)


def ensure_endpoint_key(project: Project, path: Path, sidecar: Sidecar | None) -> str:
    """Return the key of the endpoint of the workflow at *path*: that of its `pdkernel.yaml`, else the project's, which the first call creates."""
    written = sidecar.endpoint if sidecar is not None else None
    return written or project.endpoint_keys.ensure_workflow_key(path)


def view_triggers(project: Project, source: WorkflowSource) -> list[TriggerView]:
    """Return the triggers of *source* that fire without a request to the workflow's endpoint."""
    workflow, own_id = source.workflow, workflow_id(project, source)
    states = {state.key: state for state in project.workflow_triggers.list_states() if state.workflow_id == own_id}
    return [
        TriggerView(own_id, workflow.name, source.path, key, trigger, states.get(key))
        for key, trigger in trigger_keys(workflow).items()
        if trigger.type != "http"
    ]


def find_unserved_emitters(view: TriggerView, served: Iterable[tuple[str, WorkflowSource]]) -> list[str]:
    """Return which of the workflows that *view* names are not in *served*, pairs of an id and a source."""
    names = view.trigger.config.get("workflows") if view.trigger is not None else None
    folder = view.source.resolve().parent
    known = [(each.workflow.name, own_id, each.path.resolve()) for own_id, each in served]
    return [
        str(name)
        for name in (names if isinstance(names, list) else ())
        if not any(
            is_workflow_named(str(name), folder, workflow_name=title, workflow_id=own_id, source=path)
            for title, own_id, path in known
        )
    ]


def list_triggers(project: Project, paths: Sequence[Path]) -> list[TriggerView]:
    """
    Return the triggers of the workflows at *paths*, and all others that are on in the project.

    A workflow that cannot be read is left out, unless one of its triggers is on.

    Raises:
        RequestError: A path does not exist.
    """
    for path in paths:
        if not path.exists():
            raise RequestError(
                f"{path} does not exist.", fix="Pass a notebook, a workflow's folder, or a folder of them."
            )
    found = [view for path in paths for source in _readable(path) for view in view_triggers(project, source)]
    known = {(view.workflow_id, view.key) for view in found}
    return found + [
        _view(state)
        for state in project.workflow_triggers.list_states()
        if state.enabled and (state.workflow_id, state.key) not in known
    ]


def enable_triggers(project: Project, name: str, folder: Path) -> list[TriggerView]:
    """
    Turn the triggers of a workflow on; a trigger that is on stays as it is.

    Args:
        project: The project.
        name: The workflow's name, its id, or the path of its notebook or folder.
        folder: The folder in which names and ids are searched.

    Raises:
        RequestError: There is no such workflow, it has only HTTP triggers, or a trigger has no valid times.
    """
    source = _find_source(project, name, folder)
    views = view_triggers(project, source)
    if not views:
        raise RequestError(
            f"{source.workflow.name!r} has only HTTP triggers.",
            fix="An HTTP trigger is on while the workflow is served: pdkernel serve SOURCE",
        )
    changed = [_enable(project, view) for view in views if not view.is_enabled]
    project.workflow_triggers.save(changed)
    return view_triggers(project, source)


def disable_triggers(project: Project, name: str, folder: Path) -> list[TriggerView]:
    """
    Turn the triggers of a workflow off; see `enable_triggers` for the arguments. Events that wait still start their runs.

    Raises:
        RequestError: There is no such workflow, or none of its triggers was ever on.
    """
    states = [state for state in project.workflow_triggers.list_states() if _is_named(state, name, folder)]
    if not states:
        source = _find_source(project, name, folder)
        own_id = workflow_id(project, source)
        states = [state for state in project.workflow_triggers.list_states() if state.workflow_id == own_id]
        if not states:
            raise RequestError(f"No trigger of {source.workflow.name!r} is on.", fix="See: pdkernel triggers list")
    if len({state.workflow_id for state in states}) > 1:
        raise _ambiguous(name, [state.source for state in states])
    changed = [replace(state, enabled=False, due=None) for state in states]
    project.workflow_triggers.save(changed)
    return [_view(state) for state in changed]


def _view(state: TriggerState) -> TriggerView:
    path = Path(state.source)
    sources = _readable(path) if path.exists() else ()
    trigger = next((trigger_keys(source.workflow).get(state.key) for source in sources), None)
    return TriggerView(state.workflow_id, state.workflow_name, path, state.key, trigger, state)


def _enable(project: Project, view: TriggerView) -> TriggerState:
    trigger, now = view.trigger, project.clock.now().replace(microsecond=0)
    assert trigger is not None, "the workflow has the trigger"
    before = view.state
    # a source that the server has not deactivated yet goes on; it activates any other
    is_active = before is not None and before.is_active
    schedule = before.schedule if before is not None and is_active else Schedule()
    if trigger.type == "schedule":
        schedule = Schedule.from_trigger(trigger.config)
        schedule.check(now)
    elif trigger.type == "source":
        ActionReference.parse(str(trigger.config.get("uses") or ""))
    elif trigger.type == "emit" and "workflows" not in trigger.config:
        raise RequestError(
            f"The emit trigger of {view.workflow_name!r} names no workflows.",
            fix="Write workflows: [NAME] into the trigger: the workflows that call $.send.emit.",
        )
    return TriggerState(
        workflow_id=view.workflow_id,
        key=view.key,
        workflow_name=view.workflow_name,
        source=str(view.source.resolve()),
        settings=dict(trigger.config),
        enabled=True,
        since=now,
        schedule=schedule,
        due=schedule.next_after(now, ticked=before.ticked if before is not None else None),
        is_active=is_active,
        fired=before.fired if before is not None else None,
        run_id=before.run_id if before is not None else None,
        type=trigger.type,
        base_url=before.base_url if before is not None else None,
        ticked=before.ticked if before is not None else None,
    )


def _find_source(project: Project, name: str, folder: Path) -> WorkflowSource:
    if (folder / name).exists():
        return load_source(folder / name)
    found = [
        source
        for source in _readable(folder)
        if name in (source.workflow.name, source.path.name, source.path.stem, workflow_id(project, source))
    ]
    if len(found) > 1:
        raise _ambiguous(name, [str(source.path) for source in found])
    if not found:
        raise RequestError(
            f"There is no workflow {name!r} in {folder}.",
            fix="Pass a workflow's name, its id, or the path of its notebook or folder. See: pdkernel triggers list",
        )
    return load_source(found[0].path)


def _ambiguous(name: str, sources: Sequence[str]) -> RequestError:
    places = ", ".join(dict.fromkeys(sources))
    return RequestError(f"Several workflows are called {name!r}: {places}.", fix="Pass the path of one of them.")


def _is_named(state: TriggerState, name: str, folder: Path) -> bool:
    return is_workflow_named(
        name, folder, workflow_name=state.workflow_name, workflow_id=state.workflow_id, source=Path(state.source)
    )


def _readable(path: Path) -> Iterator[WorkflowSource]:
    """Yield the workflows at *path* that can be read."""
    for each in iter_workflow_paths(path) if path.is_dir() else (path,):
        with suppress(PdkernelError):
            yield load_source(each, unanswered="keep")


def build_source_request(
    source: WorkflowSource,
    *,
    policy: OutboundPolicy,
    external_user_id: str | None,
    environment: Environment,
    event: JSON = None,
    install: bool = True,
    interface: Interface = "terminal",
) -> SourceRequest:
    """
    Return the request to run the event source that is the trigger of a workflow.

    Args:
        source: The workflow with its files; their path identifies the state of the event source.
        policy: The policy for outbound calls.
        external_user_id: The external user whose account the event source uses, or None.
        environment: The external user's environment.
        event: The event for the event source, such as a webhook's request; None is a tick of its timer.
        install: Whether the event source and its packages may be installed.
        interface: The interface that starts the run, for messages.

    Raises:
        RequestError: The trigger is not an event source.
    """
    return SourceRequest(
        trigger=require_source_trigger(source.workflow.trigger),
        owner_key=str(source.path.resolve()),
        policy=policy,
        event=event,
        external_user_id=external_user_id,
        environment=environment,
        folder=source.folder.resolve(),
        install=install,
        interface=interface,
        action_sources=source.sidecar.actions if source.sidecar else (),
    )


def describe_events(result: SourceResult) -> list[str]:
    """Return the new events of a run, a line for each, and the number of new and of repeated events."""
    new = len(result.events)
    return [
        *(f"{number}. {found.summary or found.id or 'event'}" for number, found in enumerate(result.events, start=1)),
        f"{format_count(new, 'new event')}, {result.repeated_count} emitted before.",
    ]
