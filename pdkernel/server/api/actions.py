"""
`POST .../actions/run`: an action, run once for an external user.

Knows how a run's record becomes the API's answer. Running is the engine's: the run is in the history like any other.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pdkernel.engine.request import RunRequest
from pdkernel.event import Event
from pdkernel.execution import RETURN_VALUE, ErrorRecord, StepResult
from pdkernel.model import JSON, Workflow
from pdkernel.server.api.configured import STEP, Configured, read_configured
from pdkernel.server.api.door import ApiError, Call

_KEYS = {"stdout": "console.log", "stderr": "console.error"}
_NOT_FOUND = frozenset({"action_not_found", "action_version"})


async def run(call: Call) -> JSON:
    """Run an action; an error of its own is told in `os`, with status 200, as the platform does."""
    body = await call.body()
    if body.get("stash_id"):
        # parity[file-stash]: the platform keeps files that actions write, and hands them to the next
        raise ApiError(400, "Files of actions are not kept here: leave stash_id out.")
    configured = await read_configured(call, body, "action")
    execution = await call.serving.runtime.run(_request(call, configured))
    step = execution.step(STEP)
    if step.status == "not_run":
        raise _refusal(execution.error)
    exports = dict(step.exports)
    value = exports.pop(RETURN_VALUE, None)
    # parity[redacted-return]: an account's secret in what an action returns is a placeholder
    return {"exports": exports, "os": _observations(step), "ret": value, "stash_id": None}


def _request(call: Call, configured: Configured) -> RunRequest:
    name = f"action {configured.component.key}"
    return RunRequest(
        workflow=Workflow(name=name, steps=(configured.step(),)),
        event=Event(configured.event, http=False),
        policy=call.policy,
        variables=configured.secrets,
        external_user_id=configured.external_user_id,
        environment=call.environment,
        folder=call.serving.project.folder,
        test=False,
        source=name,
        accounts=configured.accounts,
    )


def _refusal(error: ErrorRecord | None) -> ApiError:
    if error is None:
        return ApiError(400, "The action was not run.")
    # the first line says what; what to do about it on this machine is not the caller's business
    text = error.message.splitlines()[0] if error.message else error.name
    return ApiError(404 if error.code in _NOT_FOUND else 400, text)


def _observations(step: StepResult) -> list[dict[str, Any]]:
    at = _milliseconds(step.started_at)
    found: list[dict[str, Any]] = [{"k": _KEYS[log.stream], "msg": log.text, "ts": at} for log in step.logs]
    if step.error is not None:
        error = {"name": step.error.name, "message": step.error.message, "stack": step.error.stack or ""}
        found.append({"k": "error", "err": error, "ts": at + (step.duration_ms or 0)})
    return found


def _milliseconds(iso_time: str | None) -> float:
    return datetime.fromisoformat(iso_time).timestamp() * 1000 if iso_time else 0.0
