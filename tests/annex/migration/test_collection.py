"""Records brought home: starts paired with ends, sealed files, and the receiver that stores them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.annex.migration.collection import (
    RECORDS_PATH,
    TOKEN_HEADER,
    build_receiver,
    collect,
    get_read_token,
    get_write_token,
    read_dump,
)
from pdkernel.annex.proof.recorded_runs import RECORDS_FOLDER, RECOUNT_S, RecordArchive, open_records
from pdkernel.common.clock import ManualClock
from pdkernel.errors import DamagedRecordError, RequestError
from pdkernel.storage import Project
from pdkernel.storage.key_rotation import RotationScope


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A new project."""
    with Project.open(tmp_path / ".pdkernel") as opened:
        yield opened


def entry(part: str = "start", run: str = "r1", **content: Any) -> dict[str, Any]:
    """An entry of a recording step."""
    common = {"format": "pdkernel-record/1", "part": part, "run": run, "workflow": "p_Abc1234", "version": "v1"}
    given: dict[str, Any] = {"event": {"body": run}, "context": {}} if part == "start" else {"steps": {}}
    return {**common, "at": "2026-12-01T10:00:00.000Z", "lost": 0, **given, **content}


class Client:
    """A client of the receiver of a project."""

    def __init__(self, project: Project) -> None:
        self._app = build_receiver(project, report=print)

    def send(self, method: str, token: str, body: Any = None) -> httpx.Response:
        """The response to one request."""

        async def request() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
                headers = {"x-pdkernel-token": token}
                return await client.request(method, "/records", json=body, headers=headers)

        return asyncio.run(request())


def add(client: Client, body: Any, token: str) -> httpx.Response:
    """POST an entry."""
    return client.send("POST", token, body)


def test_starts_are_paired_with_ends(project: Project) -> None:
    """A run has the exports of its end and of its branches; a start alone was not recorded to the end; an end alone is counted."""
    archive = open_records(project)
    entries = [
        entry("end", steps={"triage": {"$return_value": 1}}),
        entry("branch/urgent", steps={"page": {"$return_value": 2}}),
        entry(),
        entry(run="r2", at="2026-12-01T11:00:00.000Z", lost=3),
        entry("end", run="r3"),
        {"format": "another"},
    ]

    found = collect(entries, archive)
    first, second = archive.load("p_Abc1234")

    assert (first.run, first.status, first.branches) == ("r1", "recorded", ("urgent",))
    assert first.steps == {"triage": {"$return_value": 1}, "page": {"$return_value": 2}}
    assert first.event == {"body": "r1"}
    assert (second.run, second.status, second.steps) == ("r2", "not recorded to the end", {})
    assert (found.orphans, found.lost, found.skipped) == (1, 3, 1)


def test_records_are_sealed_at_rest(project: Project) -> None:
    """No file has a value of the event in the clear, only its owner can read the file, and another project cannot."""
    archive = open_records(project)
    archive.add_entry(entry(event={"body": "a-private-value"}))
    collect(archive.iter_entries(), archive)

    files = [path for path in archive.folder.rglob("*") if path.is_file()]

    assert len(files) == 3
    assert all(b"private" not in path.read_bytes() and path.stat().st_mode & 0o777 == 0o600 for path in files)
    with Project.open(project.folder.parent / "other" / ".pdkernel") as other, pytest.raises(DamagedRecordError):
        RecordArchive(archive.folder, other.vault).load("p_Abc1234")


def test_a_rotation_of_the_key_leaves_records_readable(project: Project) -> None:
    """The records' key is sealed in the database, which a rotation seals again."""
    collect([entry()], open_records(project))
    project.rotate_key(RotationScope((), lambda _connection: None))

    with Project.open(project.folder) as again:
        assert [run.run for run in open_records(again).load("p_Abc1234")] == ["r1"]


def test_the_receiver_stores_entries(project: Project) -> None:
    """An entry with the token is stored once, whichever way it is repeated, and is read with the other token."""
    client = Client(project)
    token = get_write_token(project)

    answers = [add(client, each, token) for each in (entry(), entry(), entry("end"))]
    page = client.send("GET", get_read_token(project))

    assert [each.json() for each in answers] == [{"recorded": True}] * 3
    assert sorted(each["part"] for each in page.json()["entries"]) == ["end", "start"]
    assert page.json()["next"] is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ([], 400),
        (entry(run=""), 400),
        (entry("end", steps=[]), 400),
        (entry("other"), 400),
        (entry(run="x" * 999), 400),
        (entry(run="one\n"), 400),
        (entry(at="soon"), 400),
        (entry(at="9999-12-31T10:00:00Z"), 400),
        (entry(at="2026-12-01T10:00:00"), 400),
        (entry(branches="urgent"), 400),
    ],
)
def test_the_receiver_refuses_what_is_not_an_entry(project: Project, body: Any, status: int) -> None:
    """Nothing is stored of a body in another form."""
    client = Client(project)

    assert add(client, body, get_write_token(project)).status_code == status
    assert list(open_records(project).iter_entries()) == []


def test_the_tokens_of_the_receiver_differ(project: Project) -> None:
    """The token of the steps cannot read, the other one cannot add, and without a token both are refused."""
    client = Client(project)

    assert add(client, entry(), get_read_token(project)).status_code == 403
    assert add(client, entry(), "").status_code == 403
    assert client.send("GET", get_write_token(project)).status_code == 403


def test_a_day_has_no_more_runs_than_the_steps_ask_for(project: Project) -> None:
    """The receiver counts the starts of a workflow and a day over all processes of the platform."""
    client = Client(project)
    token = get_write_token(project)

    answers = [add(client, entry(run=f"r{number}", first_a_day=2), token).json()["recorded"] for number in range(4)]
    next_day = add(client, entry(run="r9", first_a_day=2, at="2026-12-02T00:00:00.000Z"), token).json()["recorded"]

    assert answers == [True, True, False, False]
    assert next_day is True


def test_a_run_cannot_name_a_path(project: Project) -> None:
    """Names of workflows, days and parts of an entry stay inside the folder of the records."""
    archive = open_records(project)

    archive.add_entry(entry(workflow="../../up", at="../../2026", run="../../x"))

    assert [path.is_relative_to(archive.folder) for path in project.folder.parent.rglob("*.sealed")] == [True]


def test_a_downloaded_store_is_read(tmp_path: Path) -> None:
    """Records of the steps are entries, counts are not, and another file is refused."""
    file = tmp_path / "store.jsonl"
    rows = [{"key": "count", "value": 2}, {"key": "record/r1/start", "value": json.dumps(entry())}, {"total": 2}]
    file.write_text("\n".join(map(json.dumps, rows)))

    assert list(read_dump(file)) == [entry()]
    file.write_text("no")
    with pytest.raises(RequestError, match="not the file of a data store"):
        list(read_dump(file))


def test_a_rule_of_a_person_is_kept(project: Project) -> None:
    """A place is declared not comparable with a reason, in a file that a person may edit."""
    archive = open_records(project)
    archive.add_rule("p_Abc1234", "send.$return_value.ts", "made by Slack")

    file = archive.add_rule("p_Abc1234", "read.$return_value.id", "random")

    assert archive.load_rules("p_Abc1234") == {
        "send.$return_value.ts": "made by Slack",
        "read.$return_value.id": "random",
    }
    file.write_text("[]")
    with pytest.raises(RequestError, match="JSON object"):
        archive.load_rules("p_Abc1234")


LIMIT = 20_000


def large_entry(run: str, size: int = 5_000) -> dict[str, Any]:
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
        response = await self._http.post(RECORDS_PATH, json=large_entry(run), headers={TOKEN_HEADER: self._token})
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
