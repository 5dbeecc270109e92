"""
How a call that nothing may answer is refused: by an answer, so that a client does not take it for a broken network.

Knows statuses, the marking header and the wording. Knows nothing of sockets.
403 and no 5xx: clients were seen to retry every 5xx, and a dropped connection for minutes. A host that cannot be reached is not
refused: its client's connection is dropped (`connection`), because the client has to see a failed connection.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from pdkernel.egress.message import Response

REFUSAL_HEADER = b"x-pdkernel-egress"

_CHANGE_MODE = (
    "To let it out, choose `%pdegress live` in the notebook or `--egress live` on the command line; "
    "to have it answered here, `stand-in=URL`."
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A refused call.

    Attributes:
        kind: Value of the marking header: `denied`, `miss`, `upgrade`, `no-ticket` or `proxy`.
        code: A stable word for programs.
        message: For people: method, redacted URL, mode, what to do.
    """

    kind: str
    code: str
    message: str
    status: ClassVar[int] = 403

    def to_response(self, **more: Any) -> Response:
        """The refusal as an HTTP answer; *more* goes into its `error` object."""
        body = json.dumps({"error": {"code": self.code, "message": self.message, **more}}, ensure_ascii=False).encode()
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (REFUSAL_HEADER, self.kind.encode()),
        ]
        return Response(self.status, b"Forbidden", headers, body)


def denied(method: str, url: str, mode: str) -> Refusal:
    """A call that the mode does not let out."""
    message = f"{method} {url} was not sent: the mode for outbound calls is {mode}.\n{_CHANGE_MODE}"
    return Refusal("denied", "egress_denied", message)


def not_recorded(method: str, url: str, mode: str, why: str) -> Refusal:
    """A call that is not among the recorded ones."""
    message = (
        f"{method} {url} cannot be answered from the recorded calls ({mode}): {why}\n"
        f"Record it with {mode.replace('replay=', 'record=', 1)}."
    )
    return Refusal("miss", "egress_miss", message)


def opaque_protocol(what: str, url: str, mode: str) -> Refusal:
    """Something that only passes where calls go out unread."""
    message = (
        f"{what} to {url} was not made: the mode for outbound calls is {mode}, and it cannot be recorded or stood in for.\n"
        "Only `live`, or `allow=` with that host, lets it through."
    )
    return Refusal("upgrade", "egress_upgrade", message)


def blocked_by_sandbox(what: str, url: str, mode: str) -> Refusal:
    """Something that the operating system stopped, because the gateway cannot carry it."""
    message = (
        f"{what} to {url} was not made: the mode for outbound calls is {mode}, and only TCP can be looked at.\n"
        "Only `live` lets it through."
    )
    return Refusal("denied", "egress_stopped", message)


def not_public(method: str, url: str) -> Refusal:
    """A call to this machine or a private network that may reach public addresses only."""
    message = (
        f"{method} {url} was not sent: what a Connect token starts reaches public addresses only, and this host is, or its "
        "name leads to, this machine or a private network.\n"
        "Call it from a workflow, or start the action or trigger with the access token of an OAuth client."
    )
    return Refusal("denied", "egress_not_public", message)


def step_uses_proxy(method: str, url: str) -> Refusal:
    """A call through a proxy of the step's own: it would hide what is called."""
    message = (
        f"{method} {url} was not sent: the step calls through a proxy of its own, which hides what it calls.\n"
        "Take the proxy out of the step; calls leave through the one given with `--via`."
    )
    return Refusal("proxy", "egress_proxy", message)


def withheld(method: str, url: str, why: str) -> Refusal:
    """A call with an account whose credentials Connect keeps to itself, which Connect's proxy does not carry."""
    message = (
        f"{method} {url} was not sent: Connect does not give out this account's credentials, so the call would have to go "
        f"through Connect's proxy, and {why}\n"
        "Connect the account through an OAuth client of your own to have its credentials here."
    )
    return Refusal("proxy", "egress_withheld", message)


def no_step() -> Refusal:
    """A call that no running step made."""
    message = "This call was not sent: the step that made it has ended, or it does not come from a step."
    return Refusal("no-ticket", "egress_no_step", message)
