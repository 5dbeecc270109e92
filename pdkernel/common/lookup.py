"""
The account lookup of a run, as frozen values: ids, names and times, never a credential.

    header -> environment -> external user -> app -> candidates, newest first -> chosen account, or the failed stage

`engine.account_lookup` does the lookup.
"""

from __future__ import annotations

from typing import Literal

from pdkernel.common.encode import JsonStruct

LookupStage = Literal["header", "user", "account", "plan"]

MAX_CANDIDATES = 10
"""Accounts of one app that a lookup lists, newest first; the first is used."""


class AccountCandidate(JsonStruct, frozen=True):
    """An account that could be used; *withheld* means that Connect withholds its credentials."""

    id: str
    name: str
    created_at: str
    healthy: bool = True
    withheld: bool = False


class AppLookup(JsonStruct, frozen=True):
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


class LookupFailure(JsonStruct, frozen=True):
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


class Lookup(JsonStruct, frozen=True):
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
