"""
Services that pdkernel can stand in for, by name.

A stand-in answers as the service does and shows what the user would have received; what it does not know it refuses as the
service would, never with a plausible lie.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.egress.standins.base import ReceivedRequest, Several, StandIn, StandInAnswer
from pdkernel.egress.standins.github import GitHubStandIn
from pdkernel.egress.standins.google_sheets import GoogleSheetsStandIn
from pdkernel.egress.standins.openai import OpenAIStandIn
from pdkernel.egress.standins.slack import SlackStandIn

__all__ = [
    "GitHubStandIn",
    "GoogleSheetsStandIn",
    "OpenAIStandIn",
    "ReceivedRequest",
    "SlackStandIn",
    "StandIn",
    "StandInAnswer",
    "built_in",
    "named",
]


def built_in() -> Mapping[str, StandIn]:
    """A fresh set of the stand-ins that come with pdkernel, by the name in `stand-in=NAME[,NAME]`."""
    return {
        "slack": SlackStandIn(),
        "github": GitHubStandIn(),
        "google_sheets": GoogleSheetsStandIn(),
        "openai": OpenAIStandIn(),
    }


def named(stand_ins: Mapping[str, StandIn], names: str) -> StandIn:
    """The stand-in of that name; of several names with commas between, one that answers for each one's hosts."""
    chosen = [stand_ins[name] for name in names.split(",")]
    return chosen[0] if len(chosen) == 1 else Several(chosen)
