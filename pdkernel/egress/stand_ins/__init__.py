"""
Built-in stand-ins, by name.

A stand-in answers like the service and stores what the user would have received. It refuses unknown requests as the service
does; it does not invent a plausible response.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.egress.stand_ins.base import ReceivedRequest, StandIn, StandInAnswer, StandInGroup
from pdkernel.egress.stand_ins.github import GitHubStandIn
from pdkernel.egress.stand_ins.google_sheets import GoogleSheetsStandIn
from pdkernel.egress.stand_ins.openai import OpenAIStandIn
from pdkernel.egress.stand_ins.slack import SlackStandIn

__all__ = [
    "GitHubStandIn",
    "GoogleSheetsStandIn",
    "OpenAIStandIn",
    "ReceivedRequest",
    "SlackStandIn",
    "StandIn",
    "StandInAnswer",
    "build_stand_ins",
    "select_stand_in",
]


def build_stand_ins() -> Mapping[str, StandIn]:
    """Return a new set of the built-in stand-ins, by their names in `stand-in=NAME[,NAME]`."""
    return {
        "slack": SlackStandIn(),
        "github": GitHubStandIn(),
        "google_sheets": GoogleSheetsStandIn(),
        "openai": OpenAIStandIn(),
    }


def select_stand_in(stand_ins: Mapping[str, StandIn], names: str) -> StandIn:
    """Return the stand-in called *names*; for several names separated by commas, one stand-in that answers for all their hosts."""
    chosen = [stand_ins[name] for name in names.split(",")]
    return chosen[0] if len(chosen) == 1 else StandInGroup(chosen)
