"""The receiver of recording steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.annex.migration.receiver import RECORDS_PATH, TOKEN_HEADER, build_receiver, get_write_token
from pdkernel.annex.proof.recorded_runs import RECORDS_FOLDER, RECOUNT_S
from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project

LIMIT = 20_000


def entry(run: str, size: int = 5_000) -> dict[str, Any]:
    """A start whose event has *size* characters."""
    return {
        "format": "pdkernel-record/1",
        "part": "start",
        "run": run,
        "workflow": "p_One0000",
        "at": "2026-12-01T00:00:00Z",
        "event": {"body": "x" * size},
        "context": {},
    }


class Receiver:
    """A receiver of *project* with a limit of LIMIT bytes."""

    def __init__(self, project: Project) -> None:
        self.reported: list[str] = []
        app = build_receiver(project, max_bytes=LIMIT, report=self.reported.append)
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver")
        self._token = get_write_token(project)

    async def add(self, run: str) -> tuple[int, Any]:
        """Status and body of the response to an entry."""
        response = await self._http.post(RECORDS_PATH, json=entry(run), headers={TOKEN_HEADER: self._token})
        return response.status_code, response.json()


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the project."""
    return ManualClock()


@pytest.fixture
def receiver(tmp_path: Path, clock: ManualClock) -> Iterator[Receiver]:
    """A receiver with a limit."""
    with Project.open(tmp_path / ".pdkernel", clock=clock) as project:
        yield Receiver(project)


async def test_entries_above_the_limit_are_refused(receiver: Receiver, tmp_path: Path) -> None:
    """The limit bounds the disk space, the step learns that its entry is not stored, and the reason is reported once."""
    answers = [await receiver.add(f"run-{number}") for number in range(8)]

    stored = list((tmp_path / ".pdkernel" / RECORDS_FOLDER).rglob("*.sealed"))
    statuses = [status for status, _ in answers]
    assert statuses == [200] * len(stored) + [507] * (8 - len(stored))
    assert 0 < sum(path.stat().st_size for path in stored) <= LIMIT
    assert "not stored" in answers[-1][1]["error"]
    assert len(receiver.reported) == 1
    assert "--max-size" in receiver.reported[0]


async def test_entries_are_stored_again_where_files_were_removed(
    receiver: Receiver, clock: ManualClock, tmp_path: Path
) -> None:
    """A person who removes records need not start the receiver again."""
    answers = [await receiver.add(f"run-{number}") for number in range(8)]
    assert answers[-1][0] == 507
    for path in (tmp_path / ".pdkernel" / RECORDS_FOLDER).rglob("*.sealed"):
        path.unlink()

    clock.advance(RECOUNT_S + 1)

    assert await receiver.add("later") == (200, {"recorded": True})


async def test_a_disk_that_refuses_is_reported(receiver: Receiver, tmp_path: Path) -> None:
    """An entry that cannot be written is refused like one above the limit, without an error of the receiver itself."""
    (tmp_path / ".pdkernel" / RECORDS_FOLDER).write_text("not a folder")

    status, _ = await receiver.add("run")

    assert status == 507
    assert "cannot be written" in receiver.reported[0]
