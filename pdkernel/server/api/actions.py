"""Route `POST .../actions/run`: runs an action once for an external user. The run is recorded like any other."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pdkernel.engine.run_request import RunRequest
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, UNFINISHED_STATUSES, ErrorRecord, StepResult
from pdkernel.model import JSON, Workflow
from pdkernel.server.api.api_call import ApiCall, ApiError
from pdkernel.server.api.component_request import ACTION_STEP_NAME, ComponentRequest, parse_component_request
from pdkernel.server.run_registry import LOST_MESSAGE

_OBSERVATION_KINDS = {"stdout": "console.log", "stderr": "console.error"}
_NOT_FOUND = frozenset({"action_not_found", "action_version"})


async def run(call: ApiCall) -> JSON:
    """Run an action. An error of the action is in `os`, with status 200, as on the platform."""
    body = await call.read_json()
    if body.get("stash_id"):
        # parity[file-stash]: the platform stores files that actions write, and passes them to later actions
        raise ApiError(400, "pdkernel does not store files of actions: omit stash_id.")
    configured = await parse_component_request(call, body, "action")
    execution = await call.state.runs.run(_request(call, configured))
    if execution.status in UNFINISHED_STATUSES:
        raise ApiError(400, LOST_MESSAGE)
    step = execution.step(ACTION_STEP_NAME)
    if step.status == "not_run":
        raise _refusal(execution.error)
    exports = dict(step.exports)
    value = exports.pop(RETURN_VALUE, None)
    # parity[redacted-return]: in the return value of an action, a secret is a placeholder
    return {"exports": exports, "os": _build_observations(step), "ret": value, "stash_id": None}


def _request(call: ApiCall, configured: ComponentRequest) -> RunRequest:
    name = f"action {configured.component.key}"
    return RunRequest(
        workflow=Workflow(name=name, steps=(configured.to_step(),)),
        event=Event(configured.event_data, is_http=False),
        policy=call.policy,
        variables=configured.secret_variables,
        external_user_id=configured.external_user_id,
        environment=call.environment,
        folder=call.context.project.folder.parent,
        test=False,
        source=name,
        interface="http",
        account_overrides=configured.accounts,
    )


def _refusal(error: ErrorRecord | None) -> ApiError:
    if error is None:
        return ApiError(400, "The action did not run.")
    # only the first line: the fix is for the server's owner
    text = error.message.splitlines()[0] if error.message else error.name
    return ApiError(404 if error.code in _NOT_FOUND else 400, text)


def _build_observations(step: StepResult) -> list[dict[str, Any]]:
    at = _milliseconds(step.started_at)
    found: list[dict[str, Any]] = [
        {"k": _OBSERVATION_KINDS[log.stream], "msg": log.text, "ts": at} for log in step.logs
    ]
    if step.error is not None:
        error = {"name": step.error.name, "message": step.error.message, "stack": step.error.stack or ""}
        found.append({"k": "error", "err": error, "ts": at + (step.duration_ms or 0)})
    return found


def _milliseconds(iso_time: str | None) -> float:
    return datetime.fromisoformat(iso_time).timestamp() * 1000 if iso_time else 0.0
