"""
Services that pdkernel can stand in for, by name.

A stand-in answers as the service does and shows what the user would have received; what it does not know it refuses as the
service would, never with a plausible lie.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.egress.standins.base import ReceivedRequest, StandIn, StandInAnswer
from pdkernel.egress.standins.slack import SlackStandIn

__all__ = ["ReceivedRequest", "SlackStandIn", "StandIn", "StandInAnswer", "built_in"]


def built_in() -> Mapping[str, StandIn]:
    """A fresh set of the stand-ins that come with pdkernel, by the name in `stand-in=NAME`."""
    return {"slack": SlackStandIn()}
