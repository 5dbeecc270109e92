"""
Refusals of outbound calls: status, marking header and message.

A refusal is an HTTP response, so that a client does not report a broken network. The status is 403 and not 5xx: clients
retry every 5xx response, and a dropped connection for minutes. An unreachable host is not a refusal: `client_connection` drops the
client's connection, because the client must see a failed connection.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from pdkernel.egress.message import Response

REFUSAL_HEADER = b"x-pdkernel-egress"

_CHANGE_MODE = (
    "To send it, use `%pdegress live` in the notebook or `--egress live` on the command line; "
    "to answer it locally, use `stand-in=URL`."
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    A refused call.

    Attributes:
        kind: Value of the marking header: `denied`, `miss`, `upgrade`, `no-token` or `proxy`.
        code: A stable code for programs.
        message: The text for a person: method, redacted URL, policy, and what to do.
    """

    kind: str
    code: str
    message: str
    status: ClassVar[int] = 403

    def to_response(self, **more: Any) -> Response:
        """Return the refusal as an HTTP response; *more* is added to its `error` object."""
        body = json.dumps({"error": {"code": self.code, "message": self.message, **more}}, ensure_ascii=False).encode()
        headers = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (REFUSAL_HEADER, self.kind.encode()),
        ]
        return Response(self.status, b"Forbidden", headers, body)


def denied(method: str, url: str, mode: str) -> Refusal:
    """Return the refusal of a call that the policy does not allow."""
    message = f"{method} {url} was not sent: the outbound policy is {mode}.\n{_CHANGE_MODE}"
    return Refusal("denied", "egress_denied", message)


def not_recorded(method: str, url: str, mode: str, why: str) -> Refusal:
    """Return the refusal of a call without a recorded response."""
    message = (
        f"{method} {url} cannot be answered from the recorded calls ({mode}): {why}\n"
        f"Record it with {mode.replace('replay=', 'record=', 1)}."
    )
    return Refusal("miss", "egress_miss", message)


def opaque_protocol(what: str, url: str, mode: str) -> Refusal:
    """Return the refusal of a connection in a protocol that the gateway cannot read, so it can be neither recorded nor answered by a stand-in."""
    message = (
        f"{what} to {url} was not made: the outbound policy is {mode}, and the connection can be neither recorded nor answered by a stand-in.\n"
        "Only `live`, or `allow=` with this host, allows it."
    )
    return Refusal("upgrade", "egress_upgrade", message)


def blocked_by_sandbox(what: str, url: str, mode: str) -> Refusal:
    """Return the refusal of a call that the operating system stopped, because the gateway does not support its protocol."""
    message = (
        f"{what} to {url} was not made: the outbound policy is {mode}, and the gateway supports TCP only.\n"
        "Only `live` allows it."
    )
    return Refusal("denied", "egress_stopped", message)


def not_public(method: str, url: str) -> Refusal:
    """Return the refusal of a call to this machine or a private network, where only public addresses are allowed."""
    message = (
        f"{method} {url} was not sent: a run that a Connect token starts may call public addresses only, and this host is, or "
        "resolves to, this machine or a private network.\n"
        "Call it from a workflow, or start the action or trigger with the access token of an OAuth client."
    )
    return Refusal("denied", "egress_not_public", message)


def step_uses_proxy(method: str, target: str, proxy: str) -> Refusal:
    """
    Return the refusal of a call through a proxy that the step configured, under each policy.

    The gateway would see the proxy only: neither the policy, nor the record, nor a stand-in would have the target.
    """
    message = (
        f"{method} {target} was not sent: the step uses its own proxy ({proxy}), which hides the target from the policy for outbound "
        "calls and from the record of the run.\n"
        "Remove the proxy from the step's code, and pass it to the command: `--via http://HOST:PORT`, in a notebook "
        "`%pdegress live via=http://HOST:PORT`."
    )
    return Refusal("proxy", "egress_proxy", message)


def withheld(method: str, url: str, why: str) -> Refusal:
    """Return the refusal of a call with an account whose credentials Connect does not give out, which Connect's proxy does not support."""
    message = (
        f"{method} {url} was not sent: Connect does not give out this account's credentials, so the call would have to go "
        f"through Connect's proxy, and {why}\n"
        "To have the credentials available, connect the account through your own OAuth client."
    )
    return Refusal("proxy", "egress_withheld", message)


def no_step() -> Refusal:
    """Return the refusal of a call that does not come from a running step."""
    message = "This call was not sent: the step that made it has ended, or it does not come from a step."
    return Refusal("no-token", "egress_no_step", message)
