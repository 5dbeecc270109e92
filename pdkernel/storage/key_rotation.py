"""
Replaces the project's key: every encrypted value is encrypted again, in one transaction.

The new key is on disk beside the old one before the transaction commits, and takes its name after that. The database has the
fingerprint of its key, so the next opening can finish or drop the rotation of a process that died at any point.
"""

from __future__ import annotations

import base64
import fcntl
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, delete, func, inspect, select, text, tuple_, update

from pdkernel.errors import ProjectError, RequestError
from pdkernel.storage.database import Database
from pdkernel.storage.folder import KEY_BYTES, decode_key, encode_key, key_file_error, read_key
from pdkernel.storage.login import reseal_login
from pdkernel.storage.schema import meta, settings
from pdkernel.storage.schema import secrets as secrets_table
from pdkernel.storage.statements import upsert_row
from pdkernel.storage.vault import SEALED_COLUMNS, SealedColumn, Vault, locate

OPENING_WAIT_S = 30.0
"""Seconds that the opening of a project waits for the end of a rotation."""

EARLIER_KEY_RETENTION_S = 366 * 24 * 3600.0
"""Seconds for which an earlier key verifies signatures: the longest pause of a run."""

_EARLIER_KEYS = "earlier_signing_keys"
_BATCH_ROWS = 500
_BATCH_BYTES = 4 << 20
_READ_ROWS = 50
_NEW_VALUE = "new_value"


@dataclass(frozen=True, slots=True)
class RotationScope:
    """
    What belongs to the key outside of the project's own tables: the runs in the journal.

    Attributes:
        columns: Encrypted columns.
        check: Is called in the transaction, before any change. It refuses the rotation if another process writes, and returns
            the starts of the oldest and the newest run that have not ended, in seconds since 1970; None if all have ended.
    """

    columns: Sequence[SealedColumn]
    check: Callable[[Connection], tuple[float, float] | None]


@dataclass(frozen=True, slots=True)
class RotationResult:
    """
    What a rotation has done.

    Attributes:
        values: The number of values that were encrypted again.
        key_file: The file with the new key.
        keeps_signing_key: Whether the earlier key still verifies the URLs of runs that have not ended.
        token_key_id: The id of the new key that signs access tokens, or None.
    """

    values: int
    key_file: Path
    keeps_signing_key: bool
    token_key_id: str | None


@dataclass(frozen=True, slots=True)
class EarlierSigningKey:
    """
    The signing key of an earlier key of the project.

    Attributes:
        key: The signing key, in base64.
        replaced: When it was replaced, in seconds since 1970. It verifies signatures about earlier runs only.
    """

    key: str
    replaced: float

    def __repr__(self) -> str:
        return f"EarlierSigningKey(replaced={self.replaced})"


def load_earlier_keys(connection: Connection, vault: Vault, now: float) -> Sequence[EarlierSigningKey]:
    """Return the earlier signing keys that still verify signatures, the newest first."""
    query = select(secrets_table.c.sealed_value).where(secrets_table.c.name == _EARLIER_KEYS)
    sealed = connection.execute(query).scalar_one_or_none()
    if sealed is None:
        return []
    known = vault.unseal_json(sealed, locate(secrets_table.c.sealed_value, name=_EARLIER_KEYS), list[EarlierSigningKey])
    return [each for each in known if each.replaced > now - EARLIER_KEY_RETENTION_S]


def rotate_key(
    database: Database,
    old: Vault,
    key_file: Path,
    project_id: str,
    *,
    now: float,
    scope: RotationScope,
    replace_token_key: Callable[[Connection], str] | None,
    on_progress: Callable[[int, int], object],
) -> RotationResult:
    """
    Replace the key in *key_file* by a new one.

    Args:
        database: The project's database.
        old: The vault of the key in *key_file*.
        key_file: The file with the key.
        project_id: The project's id.
        now: Seconds since 1970.
        scope: What belongs to the key in the journal.
        replace_token_key: Replaces the key that signs access tokens in the same transaction, and returns its id; or None.
        on_progress: Gets the number of values that were encrypted again, and of all values.

    Raises:
        RequestError: Another process uses the project or replaces the key. Nothing was changed.
        ProjectError: A value cannot be decrypted, or a file or the database cannot be written. The key was not replaced.
    """
    key_file = Path(os.path.realpath(key_file))
    pending = _pending_file(key_file, project_id)
    try:
        _settle_left(pending, key_file, database, wait_s=0)
        descriptor, new = _create_pending(pending)
    except (BlockingIOError, FileExistsError):
        raise RequestError(
            "The key was not replaced: another process replaces it now.", fix="Wait until that rotation has ended."
        ) from None
    try:
        with database.transaction() as connection:
            waiting = scope.check(connection)
            columns = _existing(connection, [*SEALED_COLUMNS, *scope.columns])
            _lock_tables(connection, [*dict.fromkeys(sealed.column.table for sealed in columns), settings])
            _expect_fingerprint(connection, old)
            token_key_id = None if replace_token_key is None else replace_token_key(connection)
            values = _reseal_all(connection, columns, old, new, on_progress)
            keeps_key = _keep_signing_key(connection, old, new, now=now, waiting=waiting)
            fingerprint = update(meta).where(meta.c.name == "key_fingerprint")
            connection.execute(fingerprint.values(value=new.fingerprint))
    except BaseException:
        # it is not known whether a failed commit took place; if this fails too, the next opening of the project repeats it
        with suppress(ProjectError):
            _settle(pending, key_file, database)
        raise
    else:
        _settle(pending, key_file, database)
    finally:
        os.close(descriptor)
    _clear_log(database)
    return RotationResult(values, key_file, keeps_key, token_key_id)


def settle_rotation(key_file: Path, project_id: str, database: Database, *, wait_s: float = OPENING_WAIT_S) -> bool:
    """
    Wait for the end of a rotation; finish or drop it if its process has died.

    Returns:
        Whether there was a rotation: then the key and its fingerprint may have changed.

    Raises:
        RequestError: The rotation of another process has not ended after *wait_s* seconds.
        ProjectError: A key file cannot be read or written.
    """
    key_file = Path(os.path.realpath(key_file))
    try:
        return _settle_left(_pending_file(key_file, project_id), key_file, database, wait_s=wait_s)
    except BlockingIOError:
        raise RequestError(
            f"Another process replaces the key of the project in {database.location} (`pdkernel keys rotate`), and has not "
            f"ended after {wait_s:.0f} seconds.",
            fix="Run the command again when the rotation has ended.",
        ) from None


def _pending_file(key_file: Path, project_id: str) -> Path:
    """Return the file with the new key during a rotation. It has the project's id, because projects may share a key file."""
    return key_file.with_name(f"{key_file.name}.{project_id}.new")


def _settle_left(pending: Path, key_file: Path, database: Database, *, wait_s: float) -> bool:
    """Do what `settle_rotation` does. Raises `BlockingIOError` if another process has the pending key for longer."""
    if not os.path.exists(pending):  # noqa: PTH110 - `Path.exists` raises an error if the name is too long
        return False
    try:
        descriptor = _lock_file(pending, os.O_RDONLY, wait_s)
    except FileNotFoundError:  # the rotation has ended meanwhile
        return True
    except PermissionError as fault:
        raise key_file_error(pending, fault) from fault
    try:
        _settle(pending, key_file, database)
    finally:
        os.close(descriptor)
    return True


def _create_pending(pending: Path) -> tuple[int, Vault]:
    """
    Create *pending* with a new key.

    Returns:
        A descriptor, which locks the file until it is closed, and the key's vault.

    Raises:
        FileExistsError: Another process has just created it.
        ProjectError: The file cannot be written.
    """
    key = secrets.token_bytes(KEY_BYTES)
    try:
        descriptor = _lock_file(pending, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0)
    except (BlockingIOError, FileExistsError):
        raise
    except OSError as fault:
        raise key_file_error(pending, fault) from fault
    try:
        os.write(descriptor, encode_key(key))
        os.fsync(descriptor)
        _sync_folder(pending.parent)
    except OSError as fault:
        pending.unlink()
        os.close(descriptor)
        raise key_file_error(pending, fault) from fault
    return descriptor, Vault(key)


def _lock_file(path: Path, flags: int, wait_s: float) -> int:
    """
    Open the file *path* and lock it. Returns its descriptor; the lock ends when the descriptor is closed.

    Raises:
        BlockingIOError: Another process has the lock, and has not released it after *wait_s* seconds.
    """
    ends = time.monotonic() + wait_s
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # another process has removed or renamed the file
            pass
        except BlockingIOError:
            if time.monotonic() >= ends:
                os.close(descriptor)
                raise
            time.sleep(0.02)
        os.close(descriptor)


def _settle(pending: Path, key_file: Path, database: Database) -> None:
    """Let the pending key take the place of the other one if the database is encrypted with it; else remove it."""
    fingerprint = (database.read_meta() or {}).get("key_fingerprint")
    try:
        new, old = decode_key(pending.read_bytes()), read_key(key_file)
        if new is not None and Vault(new).fingerprint == fingerprint:
            pending.replace(key_file)
        elif old is not None and Vault(old).fingerprint == fingerprint:
            pending.unlink()
        _sync_folder(key_file.parent)
    except OSError as fault:
        raise key_file_error(key_file, fault) from fault


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _existing(connection: Connection, columns: Sequence[SealedColumn]) -> Sequence[SealedColumn]:
    """Return the columns whose tables exist: those of the journal are created by the first run."""
    names = set(inspect(connection).get_table_names())
    return [sealed for sealed in columns if sealed.column.table.name in names]


def _lock_tables(connection: Connection, tables: Sequence[Table]) -> None:
    """On Postgres, wait for the writers of these tables, and keep others from writing. SQLite has one writer at a time."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(connection.dialect.identifier_preparer.quote(table.name) for table in tables)
        connection.execute(text(f"lock table {names} in share row exclusive mode"))


def _expect_fingerprint(connection: Connection, vault: Vault) -> None:
    found = connection.execute(select(meta.c.value).where(meta.c.name == "key_fingerprint")).scalar_one()
    if found != vault.fingerprint:
        raise RequestError(
            "The key was not replaced: another process has just replaced it.",
            fix="To replace it again, run the command again.",
        )


def _reseal_all(
    connection: Connection,
    columns: Sequence[SealedColumn],
    old: Vault,
    new: Vault,
    on_progress: Callable[[int, int], object],
) -> int:
    total = sum(connection.execute(select(func.count()).where(_is_sealed(sealed))).scalar_one() for sealed in columns)
    try:
        done = reseal_login(connection, old, new)
    except (ProjectError, ValueError, KeyError):
        raise _damage_error(settings.c.value, {"name": "login"}) from None
    on_progress(done, total + done)
    total += done
    for sealed in columns:
        for count in _reseal_column(connection, sealed, old, new):
            done += count
            on_progress(done, total)
    return done


def _reseal_column(connection: Connection, sealed: SealedColumn, old: Vault, new: Vault) -> Iterator[int]:
    """Encrypt the values of a column again, in the order of the primary key; yield the number of each batch."""
    column, table = sealed.column, sealed.column.table
    key = list(table.primary_key.columns)
    names = [each.name for each in key]
    others = [table.c[name] for name in dict.fromkeys(sealed.names) if name not in names]
    rows = select(*key, *others, column).where(_is_sealed(sealed)).order_by(*key).limit(_BATCH_ROWS)
    change = update(table).where(and_(*(each == bindparam(f"key_{each.name}") for each in key)))
    change = change.values({column: bindparam(_NEW_VALUE)})
    last: Mapping[str, Any] | None = None
    while True:
        page = rows if last is None else rows.where(tuple_(*key) > tuple_(*(last[name] for name in names)))
        changes, size = [], 0
        # a page ends early if its values are large: memory is bounded
        with connection.execute(page, execution_options={"yield_per": _READ_ROWS}) as found:
            for row in found.mappings():
                value = bytes(row[column])
                last = {name: row[name] for name in names}
                changes.append(
                    {**{f"key_{name}": last[name] for name in names}, _NEW_VALUE: _reseal(sealed, row, value, old, new)}
                )
                size += len(value)
                if size > _BATCH_BYTES:
                    break
        if not changes:
            return
        connection.execute(change, changes)
        yield len(changes)


def _is_sealed(sealed: SealedColumn) -> Any:
    return func.length(sealed.column) > 0  # an empty value is not encrypted


def _reseal(sealed: SealedColumn, row: Mapping[Any, Any], value: bytes, old: Vault, new: Vault) -> bytes:
    location = sealed.locate(row)
    try:
        return new.seal(old.unseal(value, location), location)
    except ProjectError:
        names = [*(each.name for each in sealed.column.table.primary_key.columns), *sealed.names]
        raise _damage_error(sealed.column, {name: row[name] for name in names}) from None


def _damage_error(column: Any, row: Mapping[str, object]) -> ProjectError:
    where = ", ".join(f"{name} {value}" for name, value in row.items())
    return ProjectError(
        f"The key was not replaced, because a value cannot be decrypted: {column.table.name}.{column.name} in the row with "
        f"{where}. It is damaged, or was encrypted with another key. Nothing was changed.",
        fix="Restore the project's database from a copy, or remove what the row belongs to. Then run the command again.",
    )


def _keep_signing_key(
    connection: Connection, old: Vault, new: Vault, *, now: float, waiting: tuple[float, float] | None
) -> bool:
    """
    Keep signing keys that runs still need, whose URLs were sent; forget the others. Returns whether *old*'s is kept.

    The clock may have been set back since the newest of the *waiting* runs began, so *old*'s key is replaced after that run.
    """
    oldest, newest = waiting or (math.inf, now)
    own = EarlierSigningKey(base64.b64encode(old.signing_key).decode("ascii"), max(now, newest))
    known = [own, *load_earlier_keys(connection, new, now)]
    kept = [each for each in known if oldest <= each.replaced]
    if kept:
        sealed = new.seal_json(kept, locate(secrets_table.c.sealed_value, name=_EARLIER_KEYS))
        upsert_row(connection, secrets_table, "name", name=_EARLIER_KEYS, sealed_value=sealed)
    else:
        connection.execute(delete(secrets_table).where(secrets_table.c.name == _EARLIER_KEYS))
    return own in kept


def _clear_log(database: Database) -> None:
    """Empty SQLite's log, which has the pages from before the rotation. If another process reads, the log stays for now."""
    if database.sqlite_path is not None:
        with suppress(ProjectError), database.read() as connection:
            connection.exec_driver_sql("pragma wal_checkpoint(truncate)")
