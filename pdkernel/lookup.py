"""
How a run came to the accounts of its external user, as frozen values with one JSON form.

    header seen -> environment -> external user -> app -> candidates, newest first -> chosen, or the first link that failed

Knows the chain's shape: ids, names and times, never a credential. Who walks it is `engine.lookup`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

LookupStage = Literal["header", "user", "account", "plan"]

MAX_CANDIDATES = 10
"""Accounts of one app that a look-up lists: the newest, which is used, and those that it was preferred to."""


@dataclass(frozen=True, slots=True)
class AccountCandidate:
    """An account that could have been used; *withheld* says that Connect does not give its credentials out."""

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
    The look-up of one app's account.

    Attributes:
        app: The app's slug.
        steps: The steps that need it.
        candidates: The external user's accounts of it, newest first, `CANDIDATES` at most; none where the look-up
            failed before it came to them.
        chosen: The id of the one that is used, or None.
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
    Where a look-up ended.

    Attributes:
        link: What failed.
        code: Of the error that the run ends with.
        message: The platform's words.
        fix: What to do.
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
    The look-up of all accounts that a run's steps need of its external user.

    Attributes:
        external_user: Whom it was made for, or None.
        environment: Where.
        header: What `x-pd-external-user-id` said, or None where the event has no such header.
        environment_header: What `x-pd-environment` said, likewise.
        user_exists: Whether the project knows them there; None where the look-up did not come so far.
        apps: The apps that steps need, in their order.
        plan: The project's plan, where it matters: in production.
        failed: The first link that failed, or None.
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
        """The apps that *step* needs."""
        return tuple(app for app in self.apps if step in app.steps)

    def to_json(self) -> dict[str, Any]:
        """The look-up as JSON, its fields by their names."""
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
