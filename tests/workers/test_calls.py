"""What a worker receives for a step, and which runs it may serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID

import pytest

from pdkernel.model import Language, Step
from pdkernel.workers import Determinism, RunSetup, StepCall, WorkerPool
from pdkernel.workers.calls import build_step_input
from tests.workers.conftest import Bench

SETUP = RunSetup(
    "run1",
    "demo",
    {"event": {}, "context": {"id": "ctx1", "ts": 1}},
    {},
    Path("/project"),
    python=Path("/packages/bin/python"),
    is_sandboxed=True,
    public_only=True,
    environment="production",
    external_user_id="ada",
)


def test_spare_workers_belong_to_no_user() -> None:
    """A worker that no run has used fits runs of every user with the same interpreter and the same outbound rules."""
    spare = SETUP.worker_key.spare

    assert spare == replace(SETUP, external_user_id="bob", environment="development", workflow="other").worker_key.spare
    assert spare != replace(SETUP, python=None).worker_key.spare
    assert spare != replace(SETUP, is_sandboxed=False).worker_key.spare
    assert spare != replace(SETUP, public_only=False).worker_key.spare
    assert spare != replace(SETUP, external_user_id=None).worker_key


@pytest.mark.parametrize(
    ("setup", "phrase"),
    [
        (SETUP, "external user 'ada' in production"),
        (replace(SETUP, external_user_id=None), "runs without an external user in production"),
        (replace(SETUP, share_workers=True), "workflow 'demo' in production (share_workers: always)"),
    ],
)
def test_whose_runs_a_worker_serves(setup: RunSetup, phrase: str) -> None:
    """A log names the user, or the workflow whose users share workers; a spare worker has no user yet."""
    assert setup.worker_key.describe() == phrase
    assert setup.worker_key.spare.describe() == "no external user yet"


def test_the_input_of_a_step() -> None:
    """The context of the step adds to that of the run and wins; the props of the directive and of the call are configured."""
    call = StepCall(
        Step("work", props={"a": 1}),
        props={"b": 2},
        credentials={"slack": {"token": "x"}},
        context={"id": "own", "deadline": 2},
        store_names={"data": "orders"},
        flow_urls={"resume_url": "https://a"},
        service_db={"seen": 1},
    )

    assert build_step_input(call, SETUP) == {
        "props": {"b": 2},
        "auth": {"slack": {"token": "x"}},
        "stores": {"data": "orders"},
        "context": {"id": "own", "ts": 1, "deadline": 2},
        "flow": {"resume_url": "https://a"},
        "configured": ["a", "b"],
        "db": {"seen": 1},
    }


AT = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
PYTHON = """
import datetime, os, random, secrets, time, uuid
from datetime import date, datetime as moment

def handler(pd):
    return {
        "time": [time.time(), time.time_ns(), time.strftime("%Y-%m-%d %H:%M:%S"), time.gmtime().tm_year, time.ctime()],
        "moment": [moment.now().isoformat(), datetime.datetime.now(datetime.UTC).isoformat(), str(moment.today())],
        "day": [date.today().isoformat(), str(datetime.date.today())],
        "kinds": [isinstance(moment.now(), moment), isinstance(moment.now(), date), repr(moment.now())],
        "sum": (moment.now() + datetime.timedelta(days=1)).isoformat(),
        "chance": [random.random(), random.Random().random(), random.SystemRandom().random(), secrets.token_hex(4)],
        "ids": [str(uuid.uuid4()), str(uuid.uuid4()), os.urandom(40).hex()],
        "set": list({"a", "b", "c", "d", "e"}),
    }
"""
NODE = """
import { randomUUID, randomInt, randomBytes } from "node:crypto";
export default defineComponent({
  async run({ steps }) {
    class Mine extends Date {}
    return {
      time: [Date.now(), new Date().toISOString(), +new Date(2020, 0, 1), Date().slice(0, 15), new Mine().getTime()],
      kinds: [new Date() instanceof Date, new Mine() instanceof Mine, new Date().constructor === Date, typeof Date.parse("2020")],
      chance: [Math.random(), randomInt(1000), randomBytes(8).toString("hex")],
      ids: [randomUUID(), crypto.randomUUID(), Array.from(crypto.getRandomValues(new Uint8Array(4)))],
    };
  },
});
"""


@asynccontextmanager
async def a_run(folder: Path, *, fixed: Determinism | None) -> AsyncIterator[Bench]:
    """A run with its own processes."""
    pool = WorkerPool(max_active_runs=1, determinism=fixed)
    setup = RunSetup(
        run_id="r",
        workflow="w",
        trigger={"event": {}, "context": {}},
        variables={},
        import_folder=folder,
    )
    workers = await pool.open_run(setup)
    try:
        yield Bench(workers)
    finally:
        await workers.release()
        await pool.close()


async def twice(folder: Path, language: Language, source: str, fixed: Determinism | None) -> list[Any]:
    """Return values of a step in two runs with separate processes."""
    values = []
    for _ in range(2):
        async with a_run(folder, fixed=fixed) as bench:
            outcome = await bench.run(language, source)
            assert outcome.error is None, outcome.error
            values.append(outcome.exports["$return_value"])
    return values


@pytest.mark.parametrize(("language", "source"), [("python", PYTHON), ("node", NODE)])
async def test_two_processes_return_the_same(tmp_path: Path, language: Language, source: str) -> None:
    """With a fixed clock and seed, a step that reads the time and random numbers returns the same in two processes."""
    one, other = await twice(tmp_path, language, source, Determinism(AT, "seed"))

    assert one == other


@pytest.mark.parametrize(("language", "source"), [("python", PYTHON), ("node", NODE)])
async def test_clock_and_random_numbers_are_not_fixed_by_default(
    tmp_path: Path, language: Language, source: str
) -> None:
    """Without the setting, neither the clock nor the random numbers are fixed."""
    one, other = await twice(tmp_path, language, source, None)

    assert one["ids"] != other["ids"]
    assert one["chance"] != other["chance"]
    assert one["time"][0] != AT.timestamp()


@pytest.mark.parametrize(("language", "source"), [("python", PYTHON), ("node", NODE)])
async def test_fixed_ids_are_random_uuids(tmp_path: Path, language: Language, source: str) -> None:
    """With a fixed seed, the ids of a step have the version and the variant of random UUIDs."""
    value, _ = await twice(tmp_path, language, source, Determinism(AT, "seed"))

    ids = [UUID(text) for text in value["ids"][:2]]
    assert [(each.version, each.variant) for each in ids] == [(4, RFC_4122)] * 2
    assert len(set(ids)) == 2


async def test_fixed_clock_in_python(tmp_path: Path) -> None:
    """Every function that reads the time returns the fixed time, and the types stay the same."""
    value, _ = await twice(tmp_path, "python", PYTHON, Determinism(AT, "seed"))

    seconds = int(AT.timestamp())
    assert value["time"] == [seconds, seconds * 10**9, "2026-03-01 12:30:15", 2026, "Sun Mar  1 12:30:15 2026"]
    assert value["moment"] == ["2026-03-01T12:30:15", "2026-03-01T12:30:15+00:00", "2026-03-01 12:30:15"]
    assert value["day"] == ["2026-03-01", "2026-03-01"]
    assert value["kinds"] == [True, True, "datetime.datetime(2026, 3, 1, 12, 30, 15)"]
    assert value["sum"] == "2026-03-02T12:30:15"
    assert len(set(value["ids"])) == 3


async def test_fixed_clock_in_node(tmp_path: Path) -> None:
    """The current time is the fixed time, dates with arguments are unchanged, and `Date` is still a class."""
    value, _ = await twice(tmp_path, "node", NODE, Determinism(AT, "seed"))

    ms = int(AT.timestamp()) * 1000
    assert value["time"] == [ms, "2026-03-01T12:30:15.000Z", 1577836800000, "Sun Mar 01 2026", ms]
    assert value["kinds"] == [True, True, True, "number"]
    assert len({str(each) for each in value["ids"]}) == 3


async def test_all_functions_of_python_have_the_fixed_time(tmp_path: Path) -> None:
    """Functions that format the current time, and time zones, have the fixed time; a given time is used as it is."""
    source = """
import time
from datetime import date, datetime, timedelta, timezone

def handler(pd):
    east = timezone(timedelta(hours=9))
    return [
        [time.asctime(), time.localtime().tm_hour, datetime.utcnow().isoformat(), datetime.now(east).isoformat()],
        [time.strftime("%Y", time.gmtime(0)), time.ctime(0)[-4:], time.asctime(time.gmtime(0))[-4:], time.gmtime(0).tm_year],
        [issubclass(datetime, date), isinstance(date.today(), datetime), type(datetime.now() - datetime.now()).__name__],
    ]
"""

    value, _ = await twice(tmp_path, "python", source, Determinism(AT, "seed"))

    assert value == [
        ["Sun Mar  1 12:30:15 2026", 12, "2026-03-01T12:30:15", "2026-03-01T21:30:15+09:00"],
        ["1970", "1970", "1970", 1970],
        [True, False, "timedelta"],
    ]


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", "import random\ndef handler(pd):\n    return random.random()"),
        ("python", "import os\ndef handler(pd):\n    return os.urandom(100).hex()"),
        ("node", "export default { run: () => Math.random() }"),
        ("node", "import { randomBytes } from 'crypto';\nexport default { run: () => randomBytes(100) }"),
    ],
)
async def test_random_numbers_depend_only_on_the_step(tmp_path: Path, language: Language, source: str) -> None:
    """The random numbers of a step depend on its name, not on earlier steps; another step has other numbers."""
    async with a_run(tmp_path, fixed=Determinism(AT, "seed")) as bench:
        first = (await bench.run(language, source, name="a")).exports
        other = (await bench.run(language, source, name="b")).exports
        again = (await bench.run(language, source, name="a")).exports

    assert first == again != other


async def test_node_functions_fill_the_named_part_of_a_buffer(tmp_path: Path) -> None:
    """A random function of Node.js changes the part of a buffer that it is given, and no other part."""
    source = """
    import { randomFill, randomFillSync } from "node:crypto";
    export default { async run() {
      const buffers = Array.from({ length: 4 }, () => new ArrayBuffer(96));
      randomFillSync(new Uint8Array(buffers[0], 32, 32));
      crypto.getRandomValues(new Uint32Array(buffers[1], 32, 8));
      randomFillSync(Buffer.from(buffers[2]), 32, 32);
      await new Promise((resolve) => randomFill(Buffer.from(buffers[3]), 32, 32, resolve));
      const isFilled = (buffer, from) => new Uint8Array(buffer, from, 32).some((byte) => byte > 0);
      return buffers.map((buffer) => [0, 32, 64].map((from) => isFilled(buffer, from)));
    } }
    """

    value, _ = await twice(tmp_path, "node", source, Determinism(AT, "seed"))

    assert value == [[False, True, False]] * 4


async def test_random_integers_of_node_are_in_their_range(tmp_path: Path) -> None:
    """`randomInt` takes a maximum, or a minimum and a maximum, which is not included, and may have a callback."""
    source = """
    import { randomInt } from "node:crypto";
    export default { async run() {
      const called = await new Promise((resolve) => randomInt(7, 8, (error, value) => resolve([error, value])));
      return [randomInt(1), randomInt(5, 6), ...called, new Set(Array.from({ length: 200 }, () => randomInt(3, 6))).size];
    } }
    """

    value, _ = await twice(tmp_path, "node", source, Determinism(AT, "seed"))

    assert value == [0, 5, None, 7, 3]


async def test_expressions_and_another_seed(tmp_path: Path) -> None:
    """Expressions in props see the same time and random numbers; another seed gives other numbers."""
    results = []
    for seed in ("seed", "seed", "another"):
        async with a_run(tmp_path, fixed=Determinism(AT, seed)) as bench:
            results.append(await bench.workers.evaluate(["new Date().toISOString()", "Math.random()"], {}))

    assert results[0] == results[1]
    assert results[0][0] == {"value": "2026-03-01T12:30:15.000Z"}
    assert results[0][1] != results[2][1]
