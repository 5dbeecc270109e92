"""
Users and accounts as they were at the first question, for as long as a proof lasts.

Knows that both sides must get the same answers, and that a proof renews no token and marks none as refused. Who answers the
first time is the project's own directory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, cast

from pdkernel.identity import Credentials, Directory
from pdkernel.project import Project


def cache_directory(directory: Directory, project: Project) -> Directory:
    """*directory*, each question asked once; accounts that *project* keeps have the credentials that it holds."""
    return cast("Directory", _CachedDirectory(directory, project))


class _CachedDirectory:
    def __init__(self, directory: Directory, project: Project) -> None:
        self._directory = directory
        self._project = project
        self._answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._directory, name)
        if not callable(found):
            return found

        def ask(*args: Any, **kwargs: Any) -> Any:
            return self._cached(f"{name} {args!r} {sorted(kwargs.items())!r}", lambda: found(*args, **kwargs))

        return ask

    def at_hand(self) -> AbstractContextManager[None]:
        """Nothing: what is asked for the first time may be waited for."""
        return nullcontext()

    def credentials(self, account_id: str) -> Credentials:
        """The account's `$auth`, with an access token that may be over: nothing of it is sent."""
        held = self._project.accounts
        asked = held if held.find(account_id) is not None else self._directory
        found: Credentials = self._cached(f"credentials {account_id}", lambda: asked.credentials(account_id))
        return found

    def refuse_token(self, _account_id: str, _since: datetime) -> bool:
        """A recorded 401 says nothing of the account as it is now."""
        return False

    def _cached(self, question: str, ask: Callable[[], Any]) -> Any:
        if question not in self._answers:
            self._answers[question] = ask()
        return self._answers[question]
