"""The replacement of the project's keys: the key that encrypts values, and the key that signs access tokens."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, func, select, text

from pdkernel.common.blocking import run_blocking
from pdkernel.engine.restored_run import CARRY_LOCATION, MESSAGE_LOCATION, PAYLOAD_LOCATION, REQUEST_LOCATION
from pdkernel.errors import RequestError
from pdkernel.journal.schema import executors, outbox, runs, steps, waits
from pdkernel.operations.run_history import open_journal
from pdkernel.storage import Project
from pdkernel.storage.key_rotation import RotationResult, RotationScope
from pdkernel.storage.vault import SealedColumn

JOURNAL_COLUMNS = (
    SealedColumn(runs.c.request, REQUEST_LOCATION),
    SealedColumn(steps.c.carry, CARRY_LOCATION),
    SealedColumn(waits.c.carry, CARRY_LOCATION),
    SealedColumn(waits.c.payload, PAYLOAD_LOCATION),
    SealedColumn(outbox.c.message, MESSAGE_LOCATION),
)
"""The encrypted columns of the journal. A column that is not here is lost with the next rotation of the key."""

_PROCESSES = {
    "serve": "a server (`pdkernel serve`)",
    "notebook": "a notebook",
    "terminal": "another command (such as `pdkernel run`)",
    "python": "a Python program",
}
_UNFINISHED = ("ready", "running", "paused")


async def rotate_encryption_key(
    project: Project, *, access_tokens: bool, on_progress: Callable[[int, int], object]
) -> RotationResult:
    """
    Encrypt every value of the project with a new key. The project must be opened again after that.

    URLs that resume or cancel a run stay valid.

    Args:
        project: The project.
        access_tokens: Whether to replace the key that signs access tokens, too, in the same transaction.
        on_progress: Gets the number of values that were encrypted again, and of all values.

    Raises:
        RequestError: Another process uses the project. Nothing was changed.
        ProjectError: A value cannot be decrypted, or a file or the database cannot be written. Nothing was changed.
    """
    async with open_journal(project) as journal:  # which also creates the journal's tables
        await journal.reap_dead(waits=True)
    scope = RotationScope(JOURNAL_COLUMNS, _check_runs)
    return await run_blocking(project.rotate_key, scope, access_tokens=access_tokens, on_progress=on_progress)


def _check_runs(connection: Connection) -> tuple[float, float] | None:
    """Refuse the rotation while an executor lives; return the starts of the oldest and the newest run that have not ended."""
    if connection.dialect.name == "postgresql":  # an executor that starts now waits, and is refused after the rotation
        connection.execute(text("lock table executors in share row exclusive mode"))
    living = connection.execute(select(executors.c.origin).where(executors.c.alive)).scalars().all()
    if living:
        names = " and ".join(_PROCESSES.get(origin, origin) for origin in sorted(set(living)))
        raise RequestError(
            f"The key was not replaced, because the project is in use by {names}. Nothing was changed.",
            fix="Stop the process (in a notebook: shut the kernel down), and run the command again. To replace only the key "
            "that signs access tokens, no process needs to stop: pdkernel keys rotate --only access-tokens",
        )
    query = select(func.min(runs.c.created), func.max(runs.c.created)).where(runs.c.status.in_(_UNFINISHED))
    oldest, newest = connection.execute(query).one()
    return None if oldest is None else (oldest, newest)
