"""A new key for a project: files, transactions, other processes, and rotations that were interrupted."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.errors import ProjectError, RequestError
from pdkernel.execution import StoredResponse
from pdkernel.storage import Project, Vault
from pdkernel.storage.database import Database
from pdkernel.storage.folder import encode_key, read_key
from pdkernel.storage.key_rotation import EarlierSigningKey, RotationResult, RotationScope, settle_rotation
from pdkernel.storage.schema import meta, sent, variables

KEY = bytes(range(32))


def rotate(
    project: Project,
    *,
    waiting: tuple[float, float] | None = None,
    on_progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> RotationResult:
    """Replace the key of *project*, whose journal is empty."""
    return project.rotate_key(RotationScope((), lambda _connection: waiting), on_progress=on_progress)


def pending_file(project: Project) -> Path:
    """The file of the new key during a rotation."""
    return project.key_file.with_name(f"key.{project.project_id}.new")


def fingerprint(project: Project) -> str:
    """The fingerprint in the database."""
    with project.sqlalchemy_engine.connect() as connection:
        return str(connection.execute(select(meta.c.value).where(meta.c.name == "key_fingerprint")).scalar_one())


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None for SQLite, or the URL of an empty database on PostgreSQL."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def project(tmp_path: Path, clock: ManualClock) -> Iterator[Project]:
    """A new project on SQLite."""
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as opened:
        yield opened


@pytest.fixture
def other(project: Project) -> Iterator[Project]:
    """The same project, opened by another process."""
    with Project.open(project.folder) as opened:
        yield opened


def test_a_rotation_replaces_the_key(tmp_path: Path, database_url: str | None) -> None:
    """Values are read with the new key, whose file has mode 0600; the old key is refused."""
    key_file = tmp_path / "key"
    with Project.open(tmp_path / ".pdkernel", database_url=database_url, key_file=key_file) as project:
        project.variables.set("A", "1")
        project.idempotency.add("call", StoredResponse(200, "OK", (), b"body", "2026-01-01T00:00:00.000Z"))
        old = key_file.read_bytes()

        result = rotate(project)

    assert (result.values, result.key_file, result.keeps_signing_key) == (2, key_file, False)
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".mark"] == ["key"]
    with Project.open(tmp_path / ".pdkernel", database_url=database_url, key_file=key_file) as project:
        answer = project.idempotency.find("call")
        assert (project.variables.values(), answer.body if answer else None) == ({"A": "1"}, b"body")
    key_file.write_bytes(old)
    with pytest.raises(ProjectError, match="created with another key") as refused:
        Project.open(tmp_path / ".pdkernel", database_url=database_url, key_file=key_file)
    assert "copy the key file of that host" in refused.value.fix


def test_the_log_has_no_value_of_the_earlier_key(project: Project) -> None:
    """After a rotation, no value that was encrypted with the earlier key is left in SQLite's log."""
    project.variables.set("A", "1")
    with project.sqlalchemy_engine.connect() as connection:
        sealed = bytes(connection.execute(select(variables.c.sealed_value)).scalar_one())
    log = project.folder / "project.db-wal"
    was_in_log = sealed in log.read_bytes()

    rotate(project)

    assert was_in_log
    assert sealed not in log.read_bytes()


def test_a_key_behind_a_link_is_replaced(tmp_path: Path) -> None:
    """If the key file is a link, the file that the link names is replaced."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "real").write_bytes(encode_key(KEY))
    (tmp_path / "key").symlink_to(tmp_path / "secrets" / "real")

    with Project.open(tmp_path / ".pdkernel", key_file=tmp_path / "key") as project:
        rotate(project)
        expected = fingerprint(project)

    assert (tmp_path / "key").is_symlink()
    assert Vault(read_key(tmp_path / "secrets" / "real") or b"").fingerprint == expected != Vault(KEY).fingerprint


def test_many_and_large_values(project: Project) -> None:
    """Each value is encrypted once, in batches; the progress ends with all of them."""
    with project.sqlalchemy_engine.begin() as connection:
        for number in range(1200):
            location = f"variables/V{number:04}/value"
            sealed = project.vault.seal(f"value {number}", location)
            connection.execute(variables.insert().values(name=f"V{number:04}", sealed_value=sealed, updated=0.0))
    for number in range(5):
        body = bytes([number]) * 2_000_000
        project.idempotency.add(f"c{number}", StoredResponse(200, "OK", (), body, "2026-01-01T00:00:00.000Z"))
    progress: list[tuple[int, int]] = []

    result = rotate(project, on_progress=lambda done, total: progress.append((done, total)))

    assert result.values == 1205
    assert progress[-1] == (1205, 1205)
    assert len(progress) > 5
    with Project.open(project.folder, clock=project.clock) as again:
        values = again.variables.values()
        answers = [again.idempotency.find(f"c{number}") for number in range(5)]
    assert values == {f"V{number:04}": f"value {number}" for number in range(1200)}
    assert [answer.body[0] if answer and answer.body else None for answer in answers] == [0, 1, 2, 3, 4]


def test_a_damaged_value_is_named(project: Project, other: Project) -> None:
    """The message names the table and the row of a value that cannot be decrypted; nothing has changed."""
    project.variables.set("A", "1")
    project.variables.set("B", "2")
    project.idempotency.add("call", StoredResponse(200, "OK", (), b"", "2026-01-01T00:00:00.000Z"))
    with project.sqlalchemy_engine.begin() as connection:
        connection.execute(update(sent).values(sealed_answer=b"\x01damaged"))
    key = read_key(project.key_file)

    with pytest.raises(ProjectError) as refused:
        rotate(project)

    assert "sent.sealed_answer in the row with request call" in refused.value.message
    assert (read_key(project.key_file), pending_file(project).exists()) == (key, False)
    assert other.variables.values() == {"A": "1", "B": "2"}


def test_a_damaged_login_is_named(project: Project) -> None:
    """A secret of the login that cannot be decrypted is named as the row of its setting."""
    project.settings.set("login", {"kept": "project", "secret": "not base64 !"})

    with pytest.raises(ProjectError, match=r"settings\.value in the row with name login"):
        rotate(project)


def test_a_file_that_cannot_be_written_keeps_the_key(tmp_path: Path) -> None:
    """If the new key cannot be written beside the old one, the message names its file, and nothing has changed."""
    key_file = tmp_path / ("k" * 250)
    key_file.write_bytes(encode_key(KEY))
    with Project.open(tmp_path / ".pdkernel", key_file=key_file) as project:
        with pytest.raises(ProjectError, match=r"k\.proj_\w+\.new cannot be written: file name too long"):
            rotate(project)

        project.variables.set("A", "1")
    assert read_key(key_file) == KEY


@pytest.mark.parametrize("content", [b"", encode_key(KEY)[:20], encode_key(KEY)])
def test_a_rotation_that_did_not_commit_is_dropped(project: Project, content: bytes) -> None:
    """The next opening removes the new key of a process that died before its commit; with a wrong key file both stay."""
    project.variables.set("A", "1")
    pending_file(project).write_bytes(content)

    with Project.open(project.folder) as opened:
        assert opened.variables.values() == {"A": "1"}

    assert not pending_file(project).exists()
    pending_file(project).write_bytes(content)
    project.key_file.write_bytes(encode_key(bytes(32)))
    with pytest.raises(ProjectError, match="created with another key"):
        Project.open(project.folder)
    assert pending_file(project).read_bytes() == content


def test_a_rotation_that_committed_is_finished(project: Project) -> None:
    """The next opening gives the new key its name if a process died between its commit and that."""
    project.variables.set("A", "1")
    old = project.key_file.read_bytes()
    rotate(project)
    project.key_file.rename(pending_file(project))
    project.key_file.write_bytes(old)

    with Project.open(project.folder) as opened:
        assert opened.variables.values() == {"A": "1"}

    assert not pending_file(project).exists()


def test_the_new_key_of_another_project_is_left(tmp_path: Path) -> None:
    """Of two projects with one key file, none touches the half-done rotation of the other."""
    key_file = tmp_path / "key"
    with Project.open(tmp_path / "a" / ".pdkernel", key_file=key_file) as first:
        pending_file(first).write_bytes(encode_key(KEY))
        Project.open(tmp_path / "b" / ".pdkernel", key_file=key_file).close()
        Project.open(tmp_path / "b" / ".pdkernel", key_file=key_file).close()

        assert pending_file(first).exists()


def test_opening_waits_for_a_rotation(project: Project) -> None:
    """A process that opens the project during a rotation waits, and gets the new key; a second rotation is refused."""
    project.variables.set("A", "1")
    reached, goes_on = threading.Event(), threading.Event()

    def hold(_done: int, _total: int) -> None:
        reached.set()
        assert goes_on.wait(60)

    def open_and_read() -> Any:
        with Project.open(project.folder) as opened:
            return opened.variables.values(), opened.vault.fingerprint

    with Project.open(project.folder) as second, ThreadPoolExecutor() as threads:
        rotation = threads.submit(rotate, project, on_progress=hold)
        assert reached.wait(60)
        opening = threads.submit(open_and_read)
        with pytest.raises(RequestError, match="another process replaces it now"):
            rotate(second)
        waits = not opening.done()
        goes_on.set()
        rotation.result()

        assert waits
        assert opening.result() == ({"A": "1"}, fingerprint(project))


def test_opening_gives_up_after_a_while(project: Project) -> None:
    """If a rotation does not end, an opening is refused with the reason."""
    pending_file(project).touch()
    database = Database.open(project.folder, None)
    held = os.open(pending_file(project), os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)

    with pytest.raises(RequestError, match="has not ended after 0 seconds"):
        settle_rotation(project.key_file, project.project_id, database, wait_s=0.05)

    os.close(held)
    database.close()
    assert pending_file(project).exists()


def test_a_process_with_the_old_key_writes_nothing(tmp_path: Path, database_url: str | None) -> None:
    """A process that opened the project before a rotation is refused when it writes."""
    folder, key_file = tmp_path / ".pdkernel", tmp_path / "key"
    with (
        Project.open(folder, database_url=database_url, key_file=key_file) as project,
        Project.open(folder, database_url=database_url, key_file=key_file) as stale,
    ):
        project.variables.set("A", "1")
        rotate(project)

        for write in (stale.variables, project.variables):
            with pytest.raises(RequestError, match="was replaced") as refused:
                write.set("B", "2")
        with pytest.raises(RequestError, match="has just replaced it"):
            rotate(stale)

    assert "restart the kernel" in refused.value.fix
    with Project.open(folder, database_url=database_url, key_file=key_file) as again:
        assert again.variables.values() == {"A": "1"}


def test_a_write_in_progress_is_encrypted_again_or_refused(tmp_path: Path, database_url: str | None) -> None:
    """Processes write while the key is replaced: each value that was stored is read with the new key."""
    folder, key_file = tmp_path / ".pdkernel", tmp_path / "key"
    stored: list[str] = []
    all_write = threading.Barrier(3)  # a writer that opens the project after the rotation is not refused

    def write(number: int) -> None:
        with Project.open(folder, database_url=database_url, key_file=key_file) as opened:
            ends = time.monotonic() + 60
            for count in itertools.takewhile(lambda _: time.monotonic() < ends, itertools.count()):
                try:
                    opened.variables.set(f"V_{number}_{count}", "value")
                except RequestError:
                    return
                stored.append(f"V_{number}_{count}")
                time.sleep(0.001)  # SQLite gives its lock to any of those who wait, and not to the rotation by turns
                if count == 5:
                    all_write.wait(60)
        raise AssertionError("no write was refused")

    with Project.open(folder, database_url=database_url, key_file=key_file) as project, ThreadPoolExecutor() as threads:
        writers = [threads.submit(write, number) for number in range(2)]
        all_write.wait(60)
        rotate(project)
        for writer in writers:
            writer.result()

    with Project.open(folder, database_url=database_url, key_file=key_file) as again:
        assert sorted(again.variables.values()) == sorted(stored)


def test_earlier_signing_keys_end_after_the_longest_pause(project: Project, clock: ManualClock) -> None:
    """The signing key of an earlier key verifies signatures while a run from before it waits, for at most a year."""
    signature, began = project.vault.sign("text"), clock.now().timestamp()
    kept = rotate(project, waiting=(began, began))

    with Project.open(project.folder, clock=clock) as opened:
        ((sign, replaced),) = opened.earlier_signers
        clock.advance(367 * 86400)
    with Project.open(project.folder, clock=clock) as later:
        assert later.earlier_signers == []

    assert (kept.keeps_signing_key, sign("text"), replaced) == (True, signature, began)


def test_a_clock_that_was_set_back_keeps_the_signing_key(project: Project, clock: ManualClock) -> None:
    """A run that began before a rotation keeps its URLs if the clock was set back between the two."""
    newest = clock.now().timestamp() + 3600
    kept = rotate(project, waiting=(newest - 5, newest))

    with Project.open(project.folder, clock=clock) as opened:
        ((_, replaced),) = opened.earlier_signers
    assert kept.keeps_signing_key
    assert replaced >= newest


def test_earlier_signing_keys_are_those_of_runs_that_wait(project: Project, clock: ManualClock) -> None:
    """A rotation keeps the signing keys that were in use after the start of the oldest run, and forgets the others."""
    start, kept = clock.now().timestamp(), []
    for oldest_run in (start, start, start + 15, None):
        clock.advance(10)
        with Project.open(project.folder, clock=clock) as opened:
            rotate(opened, waiting=None if oldest_run is None else (oldest_run, oldest_run))
        with Project.open(project.folder, clock=clock) as opened:
            kept.append([replaced - start for _, replaced in opened.earlier_signers])

    assert kept == [[10], [20, 10], [30, 20], []]


def test_no_repr_shows_a_key(project: Project) -> None:
    """Neither the key nor a signing key is in a repr of what a rotation returns and a project holds."""
    secret = read_key(project.key_file) or b""
    shown = repr([project, vars(project), project.vault, rotate(project, waiting=(0.0, 0.0))])

    with Project.open(project.folder) as opened:
        shown += repr(vars(opened))

    assert encode_key(secret).decode().strip() not in shown
    assert repr(secret)[2:-1] not in shown


def test_a_key_whose_folder_is_gone_is_not_replaced(tmp_path: Path) -> None:
    """If the new key cannot be written, nothing is encrypted again: the project is read with the earlier key."""
    key_file = tmp_path / "keys" / "key"
    with Project.open(tmp_path / ".pdkernel", key_file=key_file) as project:
        project.variables.set("A", "1")
        key = key_file.read_bytes()
        shutil.rmtree(key_file.parent)

        with pytest.raises(ProjectError, match="cannot be written"):
            rotate(project)

    key_file.parent.mkdir()
    key_file.write_bytes(key)
    with Project.open(tmp_path / ".pdkernel", key_file=key_file) as again:
        assert again.variables.values() == {"A": "1"}


def test_an_earlier_signing_key_is_not_shown() -> None:
    """The text form of an earlier signing key has its time, and not the key."""
    assert repr(EarlierSigningKey("c2VjcmV0", 1.0)) == "EarlierSigningKey(replaced=1.0)"
