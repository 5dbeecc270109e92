"""
Who can reach the server, and what that takes.

Knows that loopback is this machine's own people, and that any other address is everybody: there every endpoint needs auth,
and somebody who can pass it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from pdkernel.errors import RequestError
from pdkernel.project import Project
from pdkernel.server.app_context import ServedWorkflow


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(
    host: str,
    workflows: Sequence[ServedWorkflow],
    project: Project,
    *,
    has_pipedream_login: bool = False,
    public_url: str | None = None,
) -> list[str]:
    """
    What is to be said of serving *workflows* at the address *host*, as sentences.

    Args:
        host: Where the server listens.
        workflows: What is served.
        project: Whose clients may call.
        has_pipedream_login: Whether clients of a real project at Pipedream may, too.
        public_url: Where others reach it by a proxy or a tunnel of one's own, or None.

    Raises:
        RequestError: More people can reach it than may be asked to behave.
    """
    assumed = [served for served in workflows if served.source.kind == "folder" and served.source.sidecar is None]
    open_ones = [
        served
        for served in workflows
        if any(trigger.type == "http" and trigger.auth == "none" for trigger in served.source.workflow.triggers)
    ]
    names = ", ".join(repr(served.source.workflow.name) for served in open_ones)
    if is_loopback(host):
        said = [_assumptions(served) for served in assumed]
        if public_url is not None and open_ones:
            said.append(f"Whoever reaches {public_url} can start {names}: the trigger asks for no auth.")
        return said
    if assumed:
        raise RequestError(
            f"{assumed[0].source.path} has no pdkernel.yaml: it is served on this machine only, since "
            + _assumptions(assumed[0]),
            fix="`pdkernel import FOLDER --to NEW_FOLDER` writes one. Or leave --host out.",
        )
    if open_ones:
        raise RequestError(
            f"--host {host} lets other machines call, and anybody could start {names}: the trigger asks for no auth.",
            fix="Write `auth: oauth`, or `auth: bearer` and `token_env: NAME`, in the workflow's trigger.",
        )
    if not has_pipedream_login and not project.oauth_clients.list_clients():
        raise RequestError(
            f"--host {host} lets other machines call, and there is no OAuth client that may.",
            fix="Make one: pdkernel clients create",
        )
    return []


def _assumptions(served: ServedWorkflow) -> str:
    said = "; ".join(served.source.assumed_settings) or "nothing, as it uses no accounts"
    return f"{served.source.path} has no pdkernel.yaml. Assumed: {said}."
