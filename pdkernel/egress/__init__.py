"""
Outbound calls of steps: the policy, the gateway that every call passes, sending once, recordings and stand-ins.

The caller binds each step to a `CallContext`; accounts and databases are in higher packages.
"""

from __future__ import annotations

from pdkernel.egress.caller_tokens import CallContext, CallWatch, connection_owner
from pdkernel.egress.gateway import Gateway, ServerGateway
from pdkernel.egress.outbound_policy import (
    MODES_HELP,
    OutboundPolicy,
    PolicyCell,
    choose_policy,
    is_loopback,
    parse_policy,
    split_hosts,
)
from pdkernel.egress.sandbox import SANDBOX_DESCRIPTIONS, SandboxKind, detect_sandbox
from pdkernel.egress.send_once import SentRequestStore, StoredResponse, is_safe_method
from pdkernel.egress.stand_ins import ReceivedRequest, SlackStandIn

__all__ = [
    "MODES_HELP",
    "SANDBOX_DESCRIPTIONS",
    "CallContext",
    "CallWatch",
    "Gateway",
    "OutboundPolicy",
    "PolicyCell",
    "ReceivedRequest",
    "SandboxKind",
    "SentRequestStore",
    "ServerGateway",
    "SlackStandIn",
    "StoredResponse",
    "choose_policy",
    "connection_owner",
    "detect_sandbox",
    "is_loopback",
    "is_safe_method",
    "parse_policy",
    "split_hosts",
]
