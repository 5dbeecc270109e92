"""
Outside calls: what becomes of a request that a step makes to another machine.

Knows modes, the gateway that every call passes, sending once, recordings and stand-ins. Knows nothing of notebooks,
accounts or databases: it is handed a binding for each step.
"""

from __future__ import annotations

from pdkernel.egress.caller_tokens import CallContext, SecretRedactor
from pdkernel.egress.gateway import Gateway
from pdkernel.egress.outbound_policy import MODES_HELP, OutboundPolicy, default_mode, is_loopback, parse_policy
from pdkernel.egress.sandbox.detection import SANDBOX_DESCRIPTIONS as GUARDS
from pdkernel.egress.sandbox.detection import SandboxKind
from pdkernel.egress.sandbox.detection import detect_sandbox as available_guard
from pdkernel.egress.send_once import SentRequestStore, StoredResponse, is_safe_method
from pdkernel.egress.stand_ins import ReceivedRequest, SlackStandIn

__all__ = [
    "GUARDS",
    "MODES_HELP",
    "CallContext",
    "Gateway",
    "OutboundPolicy",
    "ReceivedRequest",
    "SandboxKind",
    "SecretRedactor",
    "SentRequestStore",
    "SlackStandIn",
    "StoredResponse",
    "available_guard",
    "default_mode",
    "is_loopback",
    "is_safe_method",
    "parse_policy",
]
