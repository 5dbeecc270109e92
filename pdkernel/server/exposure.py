"""
Checks before the server listens.

At an address other than loopback, every endpoint requires auth, the project requires an OAuth client, and the runs of external
users must be apart.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Sequence
from pathlib import Path

from pdkernel.egress.outbound_policy import hide_password
from pdkernel.errors import RequestError
from pdkernel.files.source import WorkflowSource
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.storage import Project
from pdkernel.workers import Isolation


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_policy_cells(sources: Sequence[WorkflowSource], arguments: Sequence[Path]) -> None:
    """
    Check that no notebook sets an outbound policy other than `live`, because the server's policy is not named.

    Args:
        sources: The sources that are served.
        arguments: The sources in the command line, for the message.

    Raises:
        RequestError: A notebook sets a policy; the message names the cell and the command lines.
    """
    for source in sources:
        cells = [cell for cell in source.policy_cells if cell.text != "live"]
        if not cells:
            continue
        command = shlex.join(["pdkernel", "serve", *map(str, arguments)])
        last = source.policy_cells[-1]
        kept = f"\n  {command} {last.option}   keeps the notebook's policy" if last.option and last.is_test else ""
        names = ", ".join(f"{hide_password(cell.text or 'by code')} in cell {cell.number}" for cell in cells)
        raise RequestError(
            f"{source.path} sets an outbound policy with %pdegress ({names}), but a server sends every call for real unless you "
            "name a policy.",
            fix=f"Name it:\n  {command} --egress live   sends calls for real{kept}",
        )


def check_exposure(
    host: str,
    workflows: Sequence[ServedWorkflow],
    project: Project,
    *,
    has_pipedream_login: bool = False,
    public_url: str | None = None,
) -> list[str]:
    """
    Check that *workflows* may be served at the address *host*; return warnings as sentences.

    Args:
        host: Where the server listens.
        workflows: Served workflows.
        project: The project with the OAuth clients.
        has_pipedream_login: Whether OAuth clients of a real project at Pipedream may call too.
        public_url: URL of a proxy or tunnel in front of the server, or None.

    Raises:
        RequestError: Other machines can reach the server, and a workflow has no auth, no `pdkernel.yaml`, or no client.
    """
    assumed = [served for served in workflows if served.source.kind == "folder" and served.source.sidecar is None]
    open_ones = [
        served
        for served in workflows
        if any(trigger.type == "http" and trigger.auth == "none" for trigger in served.source.workflow.triggers)
    ]
    names = ", ".join(repr(served.source.workflow.name) for served in open_ones)
    if is_loopback(host):
        warnings = [_assumptions(served) for served in assumed if served.source.assumed_settings]
        if public_url is not None and open_ones:
            warnings.append(f"Every client that reaches {public_url} can start {names}: the trigger requires no auth.")
        return warnings
    if assumed:
        raise RequestError(
            f"A folder without pdkernel.yaml is served on this machine only. {_assumptions(assumed[0])}",
            fix="`pdkernel import FOLDER --to NEW_FOLDER` writes one. Or omit --host.",
        )
    if open_ones:
        raise RequestError(
            f"--host {host} lets other machines call, and every client could start {names}: the trigger requires no auth.",
            fix="Write `auth: oauth`, or `auth: bearer` and `token_env: NAME`, in the workflow's trigger.",
        )
    if not has_pipedream_login and not project.oauth_clients.list_clients():
        raise RequestError(
            f"--host {host} lets other machines call, but the project has no OAuth client.",
            fix="Create a client: pdkernel clients create",
        )
    return []


def check_isolation(host: str, isolation: Isolation, *, is_required: bool, accepts_gaps: bool) -> list[str]:
    """
    Check that *isolation* is sufficient for the address *host*; return warnings as sentences.

    Args:
        host: Where the server listens.
        isolation: What this machine permits.
        is_required: Whether every wall must hold (`--require-isolation`).
        accepts_gaps: Whether other machines may call although users are not apart (`--accept-missing-isolation`).

    Raises:
        RequestError: A wall does not hold, and it is required, or it keeps users apart and other machines can reach the server.
    """
    missing = isolation.missing_walls
    warnings = isolation.describe_missing_walls()
    text = " ".join(warnings)
    fix = "Start the server where the system permits it (`pdkernel doctor` shows what holds, and why the rest does not)"
    if missing and is_required:
        raise RequestError(f"{text} --require-isolation is set.", fix=f"{fix}.")
    if any(wall.separates_users for wall in missing) and not is_loopback(host) and not accepts_gaps:
        raise RequestError(
            f"--host {host} lets other machines call. {text}",
            fix=f"{fix}, or accept it: --accept-missing-isolation.",
        )
    return list(warnings)


def _assumptions(served: ServedWorkflow) -> str:
    warnings = "; ".join(served.source.assumed_settings) or "nothing, as it uses no accounts"
    return f"{served.source.path} has no pdkernel.yaml. Assumed: {warnings}."
