"""
Services that pdkernel can stand in for, by name.

A stand-in answers as the service does and shows what the user would have received; what it does not know it refuses as the
service would, never with a plausible lie.
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
    """A fresh set of the stand-ins that come with pdkernel, by the name in `stand-in=NAME[,NAME]`."""
    return {
        "slack": SlackStandIn(),
        "github": GitHubStandIn(),
        "google_sheets": GoogleSheetsStandIn(),
        "openai": OpenAIStandIn(),
    }


def select_stand_in(stand_ins: Mapping[str, StandIn], names: str) -> StandIn:
    """The stand-in of that name; of several names with commas between, one that answers for each one's hosts."""
    chosen = [stand_ins[name] for name in names.split(",")]
    return chosen[0] if len(chosen) == 1 else StandInGroup(chosen)
