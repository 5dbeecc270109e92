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
from pdkernel.server.serving import ServedWorkflow


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(
    host: str, workflows: Sequence[ServedWorkflow], project: Project, *, real: bool = False
) -> list[str]:
    """
    What is to be said of serving *workflows* at the address *host*, as sentences.

    Args:
        host: Where the server listens.
        workflows: What is served.
        project: Whose clients may call.
        real: Whether clients of a real project at Pipedream may, too.

    Raises:
        RequestError: More people can reach it than may be asked to behave.
    """
    assumed = [served for served in workflows if served.source.kind == "folder" and served.source.sidecar is None]
    if is_loopback(host):
        return [_assumptions(served) for served in assumed]
    if assumed:
        raise RequestError(
            f"{assumed[0].source.path} has no pdkernel.yaml: it is served on this machine only, since "
            + _assumptions(assumed[0]),
            fix="`pdkernel import FOLDER --to NEW_FOLDER` writes one. Or leave --host out.",
        )
    open_ones = [
        served
        for served in workflows
        if any(trigger.type == "http" and trigger.auth == "none" for trigger in served.source.workflow.triggers)
    ]
    if open_ones:
        names = ", ".join(repr(served.source.workflow.name) for served in open_ones)
        raise RequestError(
            f"--host {host} lets other machines call, and anybody could start {names}: the trigger asks for no auth.",
            fix="Write `auth: oauth`, or `auth: bearer` and `token_env: NAME`, in the workflow's trigger.",
        )
    if not real and not project.clients.list():
        raise RequestError(
            f"--host {host} lets other machines call, and there is no OAuth client that may.",
            fix="Make one: pdkernel clients create",
        )
    return []


def _assumptions(served: ServedWorkflow) -> str:
    said = "; ".join(served.source.assumed) or "nothing, as it uses no accounts"
    return f"{served.source.path} has no pdkernel.yaml. Assumed: {said}."
