"""
Outside calls: what becomes of a request that a step makes to another machine.

Knows modes, the gateway that every call passes, sending once, recordings and stand-ins. Knows nothing of notebooks,
accounts or databases: it is handed a binding for each step.
"""

from __future__ import annotations

from pdkernel.egress.gateway import Gateway
from pdkernel.egress.guard.choice import DESCRIPTIONS as GUARDS
from pdkernel.egress.guard.choice import Guard
from pdkernel.egress.guard.choice import available as available_guard
from pdkernel.egress.policy import MODES_TEXT, Policy, default_mode, is_loopback, parse_mode
from pdkernel.egress.sent import Recorded, SentRequests, is_safe
from pdkernel.egress.standins import ReceivedRequest, SlackStandIn
from pdkernel.egress.tickets import Binding, Redacts

__all__ = [
    "GUARDS",
    "MODES_TEXT",
    "Binding",
    "Gateway",
    "Guard",
    "Policy",
    "ReceivedRequest",
    "Recorded",
    "Redacts",
    "SentRequests",
    "SlackStandIn",
    "available_guard",
    "default_mode",
    "is_loopback",
    "is_safe",
    "parse_mode",
]
