"""
The account lookup of a run, as frozen values with one JSON form: ids, names and times, never a credential.

    header -> environment -> external user -> app -> candidates, newest first -> chosen account, or the failed stage

`engine.account_lookup` does the lookup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

LookupStage = Literal["header", "user", "account", "plan"]

MAX_CANDIDATES = 10
"""Accounts of one app that a lookup lists, newest first; the first is used."""


@dataclass(frozen=True, slots=True)
class AccountCandidate:
    """An account that could be used; *withheld* means that Connect withholds its credentials."""

    id: str
    name: str
    created_at: str
    healthy: bool = True
    withheld: bool = False

    def to_json(self) -> dict[str, Any]:
        """`{"id", "name", "created_at", "healthy", "withheld"}`."""
        return {
            "id": self.id,
            "name": self.name,
            "created_at": self.created_at,
            "healthy": self.healthy,
            "withheld": self.withheld,
        }


@dataclass(frozen=True, slots=True)
class AppLookup:
    """
    The lookup of one app's account.

    Attributes:
        app: The app's slug.
        steps: The steps that need the app.
        candidates: The external user's accounts of the app, newest first, at most `MAX_CANDIDATES`; empty if an earlier
            stage failed.
        chosen: The id of the account that is used, or None.
    """

    app: str
    steps: tuple[str, ...]
    candidates: tuple[AccountCandidate, ...] = ()
    chosen: str | None = None

    @property
    def chosen_account(self) -> AccountCandidate | None:
        """The account that is used, or None."""
        return next((candidate for candidate in self.candidates if candidate.id == self.chosen), None)

    def to_json(self) -> dict[str, Any]:
        """`{"app", "steps", "candidates", "chosen"}`."""
        return {
            "app": self.app,
            "steps": list(self.steps),
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "chosen": self.chosen,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        candidates = tuple(AccountCandidate(**candidate) for candidate in data["candidates"])
        return cls(data["app"], tuple(data["steps"]), candidates, data["chosen"])


@dataclass(frozen=True, slots=True)
class LookupFailure:
    """
    The failed stage of a lookup.

    Attributes:
        link: The stage that failed.
        code: The code of the run's error.
        message: The platform's message.
        fix: How to repair it.
    """

    link: LookupStage
    code: str
    message: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """`{"link", "code", "message", "fix"}`."""
        return {"link": self.link, "code": self.code, "message": self.message, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Lookup:
    """
    The lookup of all accounts of the external user that a run's steps need.

    Attributes:
        external_user: The external user of the run, or None.
        environment: The external user's environment.
        header: The value of `x-pd-external-user-id`, or None if the event has no such header.
        environment_header: The value of `x-pd-environment`, or None.
        user_exists: Whether the user exists in the environment; None if the lookup failed earlier.
        apps: The apps that steps need, in step order.
        plan: The project's plan in production, else None.
        failed: The first stage that failed, or None.
    """

    external_user: str | None
    environment: str
    header: str | None = None
    environment_header: str | None = None
    user_exists: bool | None = None
    apps: tuple[AppLookup, ...] = ()
    plan: str | None = None
    failed: LookupFailure | None = None

    def apps_of_step(self, step: str) -> tuple[AppLookup, ...]:
        """Return the lookups of the apps that *step* needs."""
        return tuple(app for app in self.apps if step in app.steps)

    def to_json(self) -> dict[str, Any]:
        """The lookup as JSON, with the field names as keys."""
        return {
            "external_user": self.external_user,
            "environment": self.environment,
            "header": self.header,
            "environment_header": self.environment_header,
            "user_exists": self.user_exists,
            "apps": [app.to_json() for app in self.apps],
            "plan": self.plan,
            "failed": self.failed.to_json() if self.failed else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        failed = data["failed"]
        return cls(
            external_user=data["external_user"],
            environment=data["environment"],
            header=data["header"],
            environment_header=data["environment_header"],
            user_exists=data["user_exists"],
            apps=tuple(AppLookup.from_json(app) for app in data["apps"]),
            plan=data["plan"],
            failed=LookupFailure(**failed) if failed else None,
        )
