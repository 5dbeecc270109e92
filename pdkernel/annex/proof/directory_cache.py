"""
Users and accounts, cached for the duration of a proof so that both sides get the same answers.

A proof does not refresh tokens and does not report tokens as unauthorized.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, cast

from pdkernel.common.identity import Credentials, Directory
from pdkernel.storage import Project


def cache_directory(directory: Directory, project: Project) -> Directory:
    """Wrap *directory* in a cache; accounts stored in *project* return the stored credentials."""
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

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._cached(f"{name} {args!r} {sorted(kwargs.items())!r}", lambda: found(*args, **kwargs))

        return call

    def nonblocking(self) -> AbstractContextManager[None]:
        """None: a first request may block."""
        return nullcontext()

    def credentials(self, account_id: str) -> Credentials:
        """The account's `$auth`, possibly with an expired access token: a proof does not send the token."""
        stored = self._project.accounts
        source = stored if stored.find(account_id) is not None else self._directory
        found: Credentials = self._cached(f"credentials {account_id}", lambda: source.credentials(account_id))
        return found

    def report_unauthorized(self, account_id: str, since: datetime) -> bool:  # noqa: ARG002 - the signature of `Directory`
        """False: a recorded 401 does not describe the account's present state."""
        return False

    def _cached(self, key: str, load: Callable[[], Any]) -> Any:
        if key not in self._answers:
            self._answers[key] = load()
        return self._answers[key]
