"""Steps that damage their process, and the step after each of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psutil
import pytest

from pdkernel.errors import InterpreterMissingError
from pdkernel.execution import StepResult
from pdkernel.model import JSON, Language, Step
from pdkernel.workers import StepRecorder, WorkerPool
from pdkernel.workers.replies import WorkerProtocolError
from tests.workers.conftest import Bench, OpenRun

GOOD: dict[Language, str] = {
    "python": "def handler(pd):\n    print('fine')\n    return pd.steps['trigger']['event']['n']\n",
    "node": "export default { run({ steps }) { console.log('fine'); return steps.trigger.event.n } }",
}


@pytest.fixture
def bench(warm_bench: Bench) -> Bench:
    """A run whose processes earlier tests may have used."""
    return warm_bench


async def run_good(bench: Bench, language: Language) -> None:
    """Run the next step, which succeeds."""
    outcome = await bench.run(language, GOOD[language], name="after")

    assert outcome.error is None
    assert outcome.exports == {"$return_value": 7}
    assert bench.printed() == "fine\n"


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", "import os\ndef handler(pd):\n    os.closerange(3, 50)\n"),
        ("node", "import fs from 'fs';\nexport default { run() { fs.closeSync(4) } }"),
        ("node", "export default { run() { process.abort() } }"),
    ],
)
async def test_step_that_breaks_its_process_fails(bench: Bench, language: Language, source: str) -> None:
    """A step that closes the private descriptors or aborts ends itself; a Python step logs no traceback of the runtime."""
    error = await bench.fail(language, source)

    assert error.code == "step_died"
    assert "runtimes/python" not in bench.printed("stderr")
    await run_good(bench, language)


FORGED = {
    "not JSON": "garbage",
    "other JSON": "1 []",
    "unnumbered": '{"t":"exit","reason":null}',
    "response": '1 {"t":"respond","r":{"status":200,"headers":null,"body":1}}',
    "status": '1 {"t":"respond","r":{"status":99,"headers":{},"body":1}}',
    "content type": '1 {"t":"respond","r":{"status":200,"headers":{"content-type":1},"body":{"$base64":"eA=="}}}',
    "effect": '1 {"t":"effect","kind":"http","payload":[1]}',
    "pause": '1 {"t":"pause","kind":"delay","ms":-5}',
    "done": '1 {"t":"done","error":[],"busy":false,"dirty":false,"spoiled":false}',
    "error": '1 {"t":"done","error":{"line":"x"},"busy":false,"dirty":false,"spoiled":false}',
    "number": '1 {"t":"export","n":"a","v":NaN}',
    "another step's": '9 {"t":"export","n":"a","v":1}',
    "time again": '0 {"t":"ready"}',
    "twice done": '1 {"t":"done","error":null,"busy":false,"dirty":false,"spoiled":false}\n'
    '1 {"t":"done","error":null,"busy":false,"dirty":false,"spoiled":false}',
}


@pytest.mark.parametrize("line", FORGED.values(), ids=FORGED.keys())
@pytest.mark.parametrize("language", ["python", "node"])
async def test_step_that_forges_a_reply_fails(bench: Bench, language: Language, line: str) -> None:
    """A line that a step writes to the private descriptor is refused with an error that names the step."""
    text = json.dumps(f"{line}\n")
    source = (
        f"import os\ndef handler(pd):\n    os.write(4, {text}.encode())\n"
        if language == "python"
        else f"import fs from 'fs';\nexport default {{ run() {{ fs.writeSync(4, {text}) }} }}"
    )

    error = await bench.fail(language, source)

    assert error.code == "protocol"
    assert error.message.startswith("Step `work` sent a reply that pdkernel does not understand: ")
    await run_good(bench, language)


@pytest.mark.parametrize(
    ("language", "source", "returned"),
    [
        ("python", "import sys\ndef handler(pd):\n    sys.stdout.close()\n    return 1\n", 1),
        (
            "python",
            "import os\ndef handler(pd):\n    if os.fork() == 0:\n        return 2\n    os.wait()\n    return 1\n",
            1,
        ),
        (
            "python",
            "import multiprocessing as m\ndef f(x):\n    return x * 2\ndef handler(pd):\n    with m.get_context('fork').Pool(2) as p:\n        return p.map(f, [1, 2])\n",
            [2, 4],
        ),
        (
            "python",
            "import os, shutil\ndef handler(pd):\n    shutil.rmtree(os.getcwd(), ignore_errors=True)\n    return 1\n",
            1,
        ),
        ("python", "def handler(pd):\n    return '\\ud800'\n", "\ud800"),
        (
            "node",
            "import fs from 'fs';\nexport default { run() { try { fs.rmSync(process.cwd(), { recursive: true }) } catch {} return 1 } }",
            1,
        ),
        ("node", "export default { run() { process.stdout.end(); return 1 } }", 1),
        ("node", "export default { run() { return '\\ud800' } }", "\ud800"),
        ("node", "export default { run() { process.exitCode = 3; return 1 } }", 1),
        (
            "node",
            "import { Worker } from 'worker_threads';\nexport default { async run() { const w = new Worker('require(\"worker_threads\").parentPort.postMessage(5)', { eval: true }); return await new Promise((r) => w.on('message', r)) } }",
            5,
        ),
        (
            "node",
            "import { spawnSync } from 'child_process';\nexport default { run() { return spawnSync('ls /proc/self/fd', { shell: true }).stdout.toString().includes('4') } }",
            False,
        ),
    ],
)
async def test_unusual_code_succeeds(bench: Bench, language: Language, source: str, returned: JSON) -> None:
    """Unusual code that returns a value does not fail."""
    outcome = await bench.run(language, source)

    assert outcome.error is None
    assert outcome.exports == {"$return_value": returned}
    assert bench.printed("stderr") == ""
    await run_good(bench, language)


async def test_fork_of_a_step_cannot_export(bench: Bench) -> None:
    """A process that a Python step forks has no connection to pdkernel: an export of it fails, and is not recorded."""
    source = (
        "import os\ndef handler(pd):\n    if os.fork() == 0:\n        try:\n            pd.export('of_child', 1)\n"
        "        except OSError:\n            os._exit(3)\n        os._exit(0)\n    return os.waitstatus_to_exitcode(os.wait()[1])\n"
    )

    outcome = await bench.run("python", source)

    assert outcome.error is None
    assert outcome.exports == {"$return_value": 3}


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("language", "close", "write"),
    [
        ("python", "sys.{}.close()", "print('out'); print('err', file=sys.stderr)"),
        ("node", "process.{}.end()", "console.log('out'); console.error('err')"),
    ],
)
async def test_step_after_a_closed_stream_prints(
    bench: Bench, language: Language, close: str, write: str, stream: str
) -> None:
    """A step that closes one of its streams does not take the stream from the next step."""
    form = "import sys\ndef handler(pd):\n    {}\n" if language == "python" else "export default {{ run() {{ {} }} }}"
    await bench.run(language, form.format(close.format(stream)))

    outcome = await bench.run(language, form.format(write), name="after")

    assert outcome.error is None
    assert (bench.printed(), bench.printed("stderr")) == ("out\n", "err\n")


async def test_forged_description_is_refused(bench: Bench) -> None:
    """The description of a component is validated like the replies of a step."""
    forged = '1 {"t":"done","error":null,"busy":false,"dirty":false,"spoiled":false,"value":{"props":[{}]}}\\n'
    source = f"import fs from 'fs';\nfs.writeSync(4, '{forged}');\nexport default {{ props: {{}}, run() {{}} }}"

    with pytest.raises(WorkerProtocolError, match="Step `work` sent a reply that pdkernel does not understand"):
        await bench.workers.describe(Step("work", "node", source))

    await run_good(bench, "node")


@pytest.mark.parametrize(
    "start",
    ["threading.Thread(target=talk, daemon=True).start()", "_thread.start_new_thread(talk, ())"],
)
async def test_running_threads_are_stopped_and_reported(bench: Bench, start: str) -> None:
    """Output of a thread after the end of its step is not in the next step's logs."""
    source = (
        "import _thread, threading, time\nruns = threading.Event()\n"
        "def talk():\n    runs.set()\n    while True:\n        print('late')\n        time.sleep(0.001)\n"
        f"def handler(pd):\n    {start}\n    runs.wait()\n    return 1\n"
    )

    outcome = await bench.run("python", source)

    assert outcome.exports == {"$return_value": 1}
    assert "still running" in outcome.warnings[0]
    await run_good(bench, "python")


async def test_deep_recursion_has_a_short_stack(bench: Bench) -> None:
    """A stack of a thousand frames is shortened in the middle."""
    python = await bench.run("python", "def handler(pd):\n    return handler(pd)\n")
    node = await bench.run("node", "const f = () => f() + 1;\nexport default { run() { f() } }")

    assert python.error is not None
    assert python.error.name == "RecursionError"
    assert "more of your frames" in str(python.error.stack)
    assert node.error is not None
    assert (node.error.name, node.error.line) == ("RangeError", 1)
    assert "more of your frames" in str(node.error.stack)
    assert len(str(node.error.stack).splitlines()) < 40


async def test_exception_of_a_callback_reaches_the_caller(bench: Bench) -> None:
    """An exception of the recorder's `on_change` is not an error of the step."""

    def fail(result: StepResult) -> None:
        if result.exports:
            raise LookupError(*result.exports)

    with pytest.raises(LookupError, match="return_value"):
        await bench.run("python", GOOD["python"], recorder=StepRecorder(on_change=fail))


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", "held = b'x' * (100 << 20)\ndef handler(pd):\n    return 1\n"),
        ("node", "globalThis.held = Buffer.alloc(100 << 20, 1);\nexport default { run() { return 1 } }"),
    ],
)
async def test_memory_of_a_step_is_in_megabytes(bench: Bench, language: Language, source: str) -> None:
    """The outcome has the memory of the process, which holds 100 MB for the step."""
    before = await bench.run(language, GOOD[language], name="before", memory_limit_mb=4000)

    outcome = await bench.run(language, source, memory_limit_mb=4000)

    assert outcome.error is None
    # another unit would be a thousand times as much; a process may have released or kept some tens of megabytes
    assert 50 < outcome.peak_memory_mb - before.peak_memory_mb < 300


@pytest.mark.parametrize("language", ["python", "node"])
async def test_step_that_exceeds_its_memory_at_its_end_fails(bench: Bench, language: Language) -> None:
    """A step that ends before the first sample fails by the last one, with its exports."""
    error = await bench.fail(language, GOOD[language], memory_limit_mb=1)

    assert error.code == "memory"
    await run_good(bench, language)


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", "def handler(pd):\n    len(b'x' * (60 << 20))\n"),
        ("bash", "python3 -c 'len(b\"x\" * (60 << 20))'"),
    ],
)
async def test_memory_that_was_released_counts(bench: Bench, language: Language, source: str) -> None:
    """A step whose process, or a program that it waited for, exceeds the limit between two samples fails at its end."""
    await bench.run("python", GOOD["python"], name="before")

    error = await bench.fail(language, source, memory_limit_mb=60)
    after = await bench.run(language, source, name="after", memory_limit_mb=1000)

    assert error.code == "memory"
    assert after.error is None


async def test_worker_that_is_intruded_before_its_request_runs_nothing(bench: Bench) -> None:
    """A warm worker to whose private pipe code writes while a start is recorded fails the step."""
    await bench.run("python", "def handler(pd):\n    return 1\n", name="first")
    worker = bench.workers._acquired_slot.workers["python"]

    async def intrude() -> None:
        assert worker.process.listener is not None
        worker.process.listener.on_line(b"1 {}")

    error = await bench.fail("python", "def handler(pd):\n    print('ran')\n", before_start=intrude)

    assert error.code == "protocol"
    assert bench.printed() == ""


async def test_worker_that_is_lost_before_its_request_is_replaced(bench: Bench) -> None:
    """If a warm worker ends while a start is recorded, the step runs in another one, and its start is recorded once."""
    await bench.run("python", "def handler(pd):\n    return 1\n", name="first")
    worker, starts = bench.workers._acquired_slot.workers["python"], []

    async def lose() -> None:
        starts.append(1)
        worker.kill()

    outcome = await bench.run("python", "def handler(pd):\n    print('ran')\n", before_start=lose)

    assert outcome.error is None
    assert (bench.printed(), starts) == ("ran\n", [1])


async def test_interpreter_that_does_not_start_is_named(open_run: OpenRun, tmp_path: Path) -> None:
    """A path without a program is a clear error."""
    pool = WorkerPool(python=tmp_path / "nothing")
    bench = await open_run(of=pool)

    with pytest.raises(InterpreterMissingError, match="nothing cannot be started: No such file or directory"):
        await bench.run("python", GOOD["python"])

    await pool.close()


async def test_error_of_fetch_has_cause_and_line(bench: Bench) -> None:
    """The error of a failed `fetch` contains its cause."""
    error = await bench.fail(
        "node", "export default {\n  async run() {\n    await fetch('http://127.0.0.1:9/');\n  }\n}"
    )

    assert error.message.startswith("fetch failed: ")
    assert error.line == 3


async def test_cause_of_an_error_is_reported(bench: Bench) -> None:
    """In both languages the stack has the cause of the error."""
    python = await bench.run(
        "python",
        "def handler(pd):\n    try:\n        1 / 0\n    except Exception as e:\n        raise ValueError('outer') from e\n",
    )
    node = await bench.run(
        "node", "export default { run() {\n  throw new Error('outer', { cause: new TypeError('inner') });\n} }"
    )

    assert python.error is not None
    assert python.error.line == 5
    assert "ZeroDivisionError" in str(python.error.stack)
    assert node.error is not None
    assert "Caused by: TypeError: inner" in str(node.error.stack)


async def stop_worker(bench: Bench, language: Language) -> psutil.Process:
    """Run a step, and stop its worker, which is kept for the next step."""
    await bench.run(language, GOOD[language])
    slot = bench.workers._slot
    assert slot is not None
    pid = slot.workers[language].process.child.pid  # type: ignore[index]
    assert pid is not None
    worker = psutil.Process(pid)
    worker.suspend()
    while worker.status() != psutil.STATUS_STOPPED:
        await asyncio.sleep(0.01)
    return worker


@pytest.mark.parametrize("language", GOOD)
async def test_worker_that_is_killed_before_it_begins_is_replaced(bench: Bench, language: Language) -> None:
    """A request that a killed worker has not read runs in another one, and the record has the cause."""
    worker = await stop_worker(bench, language)
    slot = bench.workers._slot
    assert slot is not None
    process = slot.workers[language].process  # type: ignore[index]
    task = asyncio.ensure_future(bench.run(language, GOOD[language], name="after"))
    async with asyncio.timeout(60):
        while not process.has_unread:
            await asyncio.sleep(0.01)
    worker.kill()
    outcome = await task

    assert outcome.error is None
    assert bench.printed() == "fine\n"
    assert "ended by SIGKILL before the step began. It may have run out of memory." in "".join(
        log.text for log in bench.recorder.logs
    )


@pytest.mark.parametrize("language", GOOD)
async def test_step_that_is_killed_after_it_has_begun_is_not_repeated(
    bench: Bench, language: Language, tmp_path: Path
) -> None:
    """A step that has begun fails, because what it has done cannot be known, even if it has printed nothing."""
    begun = tmp_path / "begun"
    code = {
        "python": f"import time\ndef handler(pd):\n    open({str(begun)!r}, 'a').write('.')\n    time.sleep(1000)\n",
        "node": "import fs from 'fs';\nexport default { async run() {\n"
        f"  fs.appendFileSync({json.dumps(str(begun))}, '.'); await new Promise(() => {{ setTimeout(() => 0, 1e6) }}) }} }}",
    }
    task = asyncio.ensure_future(bench.run(language, code[language]))
    async with asyncio.timeout(60):
        while not begun.exists() or not begun.read_text():
            await asyncio.sleep(0.01)
    slot = bench.workers._slot
    assert slot is not None
    pid = slot.workers[language].process.child.pid  # type: ignore[index]
    assert pid is not None
    psutil.Process(pid).kill()
    outcome = await task

    assert outcome.error is not None
    assert (outcome.error.code, begun.read_text()) == ("step_died", ".")
    await run_good(bench, language)
