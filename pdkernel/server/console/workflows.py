"""The first page of the console: the workflows with their triggers, URLs, last results and the runs of a day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import format_iso
from pdkernel.common.encode import JsonStruct
from pdkernel.engine.run_context import trigger_keys
from pdkernel.journal import ExecutionQuery, RunSummary
from pdkernel.language.directive import describe_emitters
from pdkernel.model import Trigger
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.console import pages
from pdkernel.server.console.access import Visit, for_visitors
from pdkernel.server.console.live import journal_reader
from pdkernel.storage import TriggerState

HOURS = 24


class TriggerLine(JsonStruct, frozen=True):
    """
    A trigger of a served workflow.

    Attributes:
        type: The type.
        detail: The authorization of an HTTP trigger, the schedule, or what else fires the trigger.
        enabled: Whether the trigger fires; an HTTP trigger does while the workflow is served.
        next_fire: ISO time when the trigger fires next, or None without a timer.
        last_fire: ISO time when the trigger fired last; None if it never did, and for an HTTP trigger.
        result: The result of the source's last run (`2 new events`, `error: ...`), or None.
    """

    type: str
    detail: str
    enabled: bool
    next_fire: str | None = None
    last_fire: str | None = None
    result: str | None = None


class WorkflowLine(JsonStruct, frozen=True):
    """
    A workflow.

    Attributes:
        id: `p_...`; None for a workflow that is not served.
        name: The name.
        url: The URL of the endpoint, or None without an HTTP trigger.
        triggers: The triggers.
        runs: The number of runs in each hour of the last day, oldest first.
        failed: The number of failed runs in each hour.
        last_run: The newest run, or None.
        not_served: The reason why the workflow is not served, or None.
    """

    id: str | None
    name: str
    url: str | None
    triggers: tuple[TriggerLine, ...]
    runs: tuple[int, ...]
    failed: tuple[int, ...]
    last_run: RunSummary | None
    not_served: str | None = None


@for_visitors("page")
async def workflows_page(visit: Visit) -> Response:
    """Answer GET `/-/`: the served workflows, then those that cannot be served."""
    lines = await _load(visit)
    if visit.wants_json:
        return pages.json_response([line.to_json() for line in lines])
    return visit.page("workflows", workflows=lines)


async def _load(visit: Visit) -> list[WorkflowLine]:
    context = visit.state.context
    served = context.workflows.list_workflows()
    found = await run_blocking(context.project.workflow_triggers.list_states)
    states = {(state.workflow_id, state.key): state for state in found}
    refused = context.workflows.not_served
    names = list(dict.fromkeys([*(each.source.workflow.name for each in served), *(each.name for each in refused)]))
    async with journal_reader(context) as reader:
        counts = await reader.count_by_hour(names, context.clock.now(), HOURS)
        newest = {name: await reader.summaries(ExecutionQuery(workflow=name, limit=1)) for name in names}
    past: dict[str, dict[str, Any]] = {
        name: {
            "runs": tuple(runs for runs, _ in counts[name]),
            "failed": tuple(failed for _, failed in counts[name]),
            "last_run": newest[name][0] if newest[name] else None,
        }
        for name in names
    }
    base_url = context.settings.base_url
    return [
        *(_line(each, states, base_url, past[each.source.workflow.name]) for each in served),
        *(WorkflowLine(None, each.name, None, (), **past[each.name], not_served=each.reason) for each in refused),
    ]


def _line(
    served: ServedWorkflow, states: Mapping[tuple[str, str], TriggerState], base_url: str, past: Mapping[str, Any]
) -> WorkflowLine:
    triggers = trigger_keys(served.source.workflow)
    has_endpoint = any(trigger.type == "http" for trigger in triggers.values())
    return WorkflowLine(
        id=served.id,
        name=served.source.workflow.name,
        url=f"{base_url}/{served.endpoint_key}" if has_endpoint else None,
        triggers=tuple(_trigger_line(trigger, states.get((served.id, key))) for key, trigger in triggers.items()),
        **past,
    )


def _trigger_line(trigger: Trigger, state: TriggerState | None) -> TriggerLine:
    if trigger.type == "http" or state is None:
        return TriggerLine(trigger.type, _describe(trigger), trigger.type == "http")
    return TriggerLine(
        trigger.type,
        _describe(trigger),
        state.enabled,
        None if state.due is None else format_iso(state.due),
        None if state.fired is None else format_iso(state.fired),
        state.result,
    )


def _describe(trigger: Trigger) -> str:
    """Return the authorization of an HTTP trigger, the schedule, the source, or the workflows to which the trigger listens."""
    config = trigger.config
    match trigger.type:
        case "http":
            return f"auth {trigger.auth}"
        case "schedule":
            times = f"every {config.get('interval_seconds')} s"
            if "cron" in config:
                times = f"{config['cron']} ({config.get('timezone') or 'UTC'})"
            return times if trigger.for_each is None else f"{times} for {trigger.for_each}"
        case "errors" | "emit":
            return f"of {describe_emitters(trigger)}"
        case _:
            return str(config.get("uses") or "")
