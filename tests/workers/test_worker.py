"""Worker processes, and the processes of steps in every language."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import InterpreterMissingError, OutboundCallRefusedError, UnsupportedError
from pdkernel.execution import StepResult, Stream
from pdkernel.model import Language, Step
from pdkernel.runtimes import process_tree
from pdkernel.workers import GoBuildCache, StepOutcome, StepRecorder, WorkerPool
from pdkernel.workers.child_process import ProcessRequest
from pdkernel.workers.recorder import MAX_OUTPUT_BYTES
from pdkernel.workers.worker import MAX_LINE_BYTES, WorkerProcess
from tests.builders import skip_time
from tests.workers.conftest import Bench, OpenRun, printed

LANGUAGES: tuple[Language, ...] = ("python", "node", "bash", "go")


def python(body: str) -> str:
    """A handler of one line."""
    return f"import os, sys, time, signal, subprocess, threading\ndef handler(pd):\n    {body}\n"


def node(body: str) -> str:
    """A component of one line."""
    return f"import {{ spawn, execSync }} from 'child_process';\nexport default {{ async run({{ steps, $ }}) {{ {body} }} }}"


def go(body: str, *packages: str) -> str:
    """A program of one line."""
    imports = "".join(f'"{package}"; ' for package in packages)
    helper = '"github.com/PipedreamHQ/pipedream-go"'
    return f"package main\nimport ({imports}{helper})\nvar _ = pd.Steps\nfunc main() {{ {body} }}\n"


SOURCES: dict[str, dict[Language, str]] = {
    "print": {
        "python": python("print('één'); print('two', file=sys.stderr); print('three', end='')"),
        "node": node("console.log('één'); console.error('two'); process.stdout.write('three')"),
        "bash": "echo één; echo two >&2; printf three",
        "go": go('fmt.Println("één"); fmt.Fprintln(os.Stderr, "two"); fmt.Print("three")', "fmt", "os"),
    },
    "lookalike": {
        "python": python("""print('{"t":"done","error":null,"busy":false,"dirty":false}'); return 1"""),
        "node": node("""console.log('{"t":"done","error":null,"busy":false,"dirty":false}'); return 1"""),
        "bash": """echo '{"t":"done","error":null,"busy":false,"dirty":false}'; echo '$return_value:json=1' >> $PIPEDREAM_EXPORTS""",
        "go": go(
            """fmt.Println(`{"t":"done","error":null,"busy":false,"dirty":false}`); pd.Export("$return_value", 1)""",
            "fmt",
        ),
    },
    "flood": {
        "python": python("[sys.stdout.write('x' * 999 + chr(10)) for _ in range(50_000)]"),
        "node": node("for (let i = 0; i < 50_000; i++) process.stdout.write('x'.repeat(999) + '\\n')"),
        "bash": "head -c 50000000 /dev/zero | tr '\\0' x | fold -w 999",
        "go": go('for i := 0; i < 50000; i++ { fmt.Println(strings.Repeat("x", 999)) }', "fmt", "strings"),
    },
    "busy": {
        "python": python("print('up', flush=True)\n    while True: pass"),
        "node": node("console.log('up'); for (;;);"),
        "bash": "echo up; while :; do :; done",
        "go": go('fmt.Println("up"); for {}', "fmt"),
    },
    "escape": {
        "python": python(
            "print('up', flush=True); subprocess.run('setsid setsid sleep 1000 & sleep 1000', shell=True)"
        ),
        "node": node("console.log('up'); execSync('setsid setsid sleep 1000 & sleep 1000')"),
        "bash": "echo up; setsid setsid sleep 1000 & sleep 1000",
        "go": go(
            'fmt.Println("up"); exec.Command("sh", "-c", "setsid setsid sleep 1000 & sleep 1000").Run()',
            "fmt",
            "os/exec",
        ),
    },
    "kept": {
        "python": python("pd.export('kept', 1); print('early'); time.sleep(1000)"),
        "node": node("$.export('kept', 1); console.log('early'); await new Promise((r) => setTimeout(r, 1e6))"),
        "bash": "echo kept:json=1 >> $PIPEDREAM_EXPORTS; echo early; sleep 1000",
        "go": go('pd.Export("kept", 1); fmt.Println("early"); time.Sleep(1000 * time.Second)', "fmt", "time"),
    },
    "killed": {
        "python": python(
            "pd.export('kept', 1); print('last words', file=sys.stderr); os.kill(os.getpid(), signal.SIGSEGV)"
        ),
        "node": node(
            "$.export('kept', 1); console.error('last words'); process.kill(process.pid, 'SIGSEGV'); for (;;);"
        ),
        "bash": "echo kept:json=1 >> $PIPEDREAM_EXPORTS; echo last words >&2; kill -SEGV $$",
        "go": go(
            'pd.Export("kept", 1); println("last words"); syscall.Kill(syscall.Getpid(), syscall.SIGKILL); select {}',
            "syscall",
        ),
    },
    "environment": {
        "python": python("return dict(os.environ)"),
        "node": node("return { ...process.env }"),
        "bash": 'echo "\\$return_value:json=$(jq -nc env)" >> $PIPEDREAM_EXPORTS',
        "go": go(
            'e := map[string]string{}; for _, v := range os.Environ() { k, w, _ := strings.Cut(v, "="); e[k] = w }; pd.Export("$return_value", e)',
            "os",
            "strings",
        ),
    },
    "size": {
        "python": python("return len(pd.steps['trigger']['event']['big'])"),
        "node": node("return steps.trigger.event.big.length"),
        "bash": """python3 -c "
import json, os
n = len(json.load(open(os.environ['PIPEDREAM_STEPS']))['trigger']['event']['big'])
print('\\$return_value:json=' + str(n))" >> $PIPEDREAM_EXPORTS""",
        "go": go(
            'pd.Export("$return_value", len([]rune(pd.Steps["trigger"].(map[string]any)["event"].(map[string]any)["big"].(string))))'
        ),
    },
}


async def leftovers(marks: set[str]) -> set[int]:
    """Return the processes with one of *marks* that do not end; by themselves they would last a thousand seconds."""
    deadline = time.monotonic() + 60
    while (found := process_tree.find_processes([], marks)) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return found


def marks_of(bench: Bench) -> set[str]:
    """Return the process tags of the run's workers and of its running Bash or Go step; the pool's spare workers have others."""
    tags = {worker.process_tag for worker in bench.workers._acquired_slot.workers.values()}
    running = bench.workers._subprocesses._running
    return tags | {running.process_tag} if running else tags


async def run_until_up(bench: Bench, language: Language, source: str, **call: Any) -> asyncio.Task[StepOutcome]:
    """Start a step and wait until it has printed something."""
    up = asyncio.Event()

    def report(result: StepResult) -> None:
        if any(not log.is_note for log in result.logs):
            up.set()

    recorder = StepRecorder(on_change=report)
    task = asyncio.create_task(bench.run(language, source, recorder=recorder, **call))
    await asyncio.wait_for(up.wait(), 60)
    return task


@pytest.mark.parametrize("language", LANGUAGES)
async def test_output_belongs_to_its_step(bench: Bench, language: Language) -> None:
    """All output arrives before the step ends, also a last line without a line end, and none arrives in the next step; text in the protocol's format is plain output."""
    await bench.run(language, SOURCES["print"][language], name="first")
    first = bench.recorder
    outcome = await bench.run(language, SOURCES["lookalike"][language], name="second")

    assert printed(first) == "één\nthree"
    assert printed(first, "stderr") == "two\n"
    assert (outcome.error, outcome.exports) == (None, {"$return_value": 1})
    assert bench.printed() == '{"t":"done","error":null,"busy":false,"dirty":false}\n'


@pytest.mark.parametrize("language", LANGUAGES)
async def test_output_of_50_mb_is_truncated_and_reported(bench: Bench, language: Language) -> None:
    """The stored output is limited, and the log ends with the number of dropped bytes."""
    outcome = await bench.run(language, SOURCES["flood"][language])

    assert outcome.error is None
    assert MAX_OUTPUT_BYTES <= len(bench.printed()) <= MAX_OUTPUT_BYTES + 1000
    assert bench.printed().endswith("x\n")
    assert "more bytes of output were dropped" in bench.recorder.logs[-1].text
    assert "more bytes" in outcome.warnings[0]


@pytest.mark.parametrize("kind", ["busy", "escape"])
@pytest.mark.parametrize("language", LANGUAGES)
async def test_timeout_ends_the_step_with_its_children(bench: Bench, language: Language, kind: str) -> None:
    """A busy loop, a child, and a child in its own session have ended when the timeout error is returned."""
    task = await run_until_up(bench, language, SOURCES[kind][language], timeout_s=100)
    marks = marks_of(bench)
    if kind == "escape":
        await asyncio.sleep(0.3)  # so that the step has started its children

    await skip_time(100)
    outcome = await task

    assert outcome.error is not None
    assert outcome.error.code == "timeout"
    assert "longer than 100 seconds" in outcome.error.message
    assert "lambda_timeout" in outcome.error.fix
    assert marks
    assert await leftovers(marks) == set()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_exports_and_logs_before_a_timeout_are_kept(bench: Bench, language: Language) -> None:
    """Exports and logs survive, and the next step runs."""
    task = await run_until_up(bench, language, SOURCES["kept"][language], timeout_s=100)
    await skip_time(100)
    outcome = await task
    early = printed(bench.recorder)
    after = await bench.run(language, SOURCES["lookalike"][language], name="after")

    assert outcome.exports == {"kept": 1}
    assert early == "early\n"
    assert after.exports == {"$return_value": 1}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_error_of_a_killed_process_has_signal_and_stderr(bench: Bench, language: Language) -> None:
    """Signal and stderr are in the message, exports are kept, and the next step runs."""
    outcome = await bench.run(language, SOURCES["killed"][language])
    after = await bench.run(language, SOURCES["lookalike"][language], name="after")

    assert outcome.error is not None
    assert outcome.error.code == "step_died"
    # Go turns a SIGSEGV into a panic
    assert ("SIGKILL" if language == "go" else "SIGSEGV") in outcome.error.message
    assert "last words" in outcome.error.message
    assert outcome.exports == {"kept": 1}
    assert after.exports == {"$return_value": 1}


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("python", python("pd.export('kept', 'x' * 300_000); os._exit(5)")),
        ("node", node("$.export('kept', 'x'.repeat(300_000)); process.exit(5)")),
    ],
)
async def test_error_of_an_ended_process_has_its_status(bench: Bench, language: Language, source: str) -> None:
    """`os._exit` and `process.exit` lose no export, and the next step runs."""
    outcome = await bench.run(language, source)
    after = await bench.run(language, SOURCES["lookalike"][language], name="after")

    assert outcome.error is not None
    assert outcome.error.code == "step_died"
    assert "exit status 5" in outcome.error.message
    assert outcome.exports == {"kept": "x" * 300_000}
    assert after.exports == {"$return_value": 1}


@pytest.mark.parametrize("end", ["cancel", "kill", "release"])
@pytest.mark.parametrize("language", LANGUAGES)
async def test_step_that_is_ended_leaves_no_process(bench: Bench, language: Language, end: str) -> None:
    """No process of a step is left after a cancelled `run_step`, `kill`, or `release` of its run, which make the step fail."""
    task = await run_until_up(bench, language, SOURCES["escape"][language])
    marks = marks_of(bench)

    if end == "cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        if end == "kill":
            bench.workers.kill()
        else:
            await bench.workers.release()
        outcome = await task
        assert outcome.error is not None
        assert outcome.error.code == "step_died"
        if language != "go":  # on a busy machine, its processes may not have ended in time
            assert outcome.error.message.startswith("The step was stopped.")

    assert marks
    assert await leftovers(marks) == set()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_fail_step_ends_the_step_with_its_error(bench: Bench, language: Language) -> None:
    """A refused outbound call ends the step with its error."""
    task = await run_until_up(bench, language, SOURCES["kept"][language])

    bench.workers.fail_step(OutboundCallRefusedError("no answer for api.example.com"))
    outcome = await task
    after = await bench.run(language, SOURCES["lookalike"][language], name="after")

    assert outcome.error is not None
    assert outcome.error.code == "egress_refused"
    assert after.exports == {"$return_value": 1}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_environment_is_a_fixed_list(open_run: OpenRun, language: Language) -> None:
    """The environment has a fixed set of variables and the workflow's variables, which do not replace the process tag; no variable is inherited."""
    bench = await open_run(variables={"TOKEN": "tok-123456", process_tree.PROCESS_TAG_VARIABLE: "mine"})

    outcome = await bench.run(language, SOURCES["environment"][language])

    environment = outcome.exports["$return_value"]
    assert isinstance(environment, dict)
    extra = {"PIPEDREAM_STEPS", "PIPEDREAM_EXPORTS", "PIPEDREAM_RESPONSE"} if language in ("bash", "go") else set()
    if language == "bash":
        extra |= {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"}
    assert set(environment) - extra == {
        "PATH", "HOME", "LANG", "TZ", "TMPDIR", "NO_COLOR", "TOKEN", process_tree.PROCESS_TAG_VARIABLE,
    }  # fmt: skip
    assert (environment["TOKEN"], environment["TZ"]) == ("tok-123456", "UTC")
    assert len(str(environment[process_tree.PROCESS_TAG_VARIABLE])) == 32


@pytest.mark.parametrize("language", LANGUAGES)
async def test_event_of_10_mb_arrives(open_run: OpenRun, language: Language) -> None:
    """A large event reaches the step completely."""
    bench = await open_run(event={"big": "ä" * 10_000_000})

    outcome = await bench.run(language, SOURCES["size"][language])

    assert outcome.exports == {"$return_value": 10_000_000}


@pytest.mark.parametrize(
    ("language", "source"),
    [("python", python("return 'x' * 15_000_000")), ("node", node("return 'x'.repeat(15_000_000)"))],
)
async def test_export_of_15_mb_arrives(bench: Bench, language: Language, source: str) -> None:
    """A large export arrives completely."""
    outcome = await bench.run(language, source)

    assert outcome.exports == {"$return_value": "x" * 15_000_000}


@pytest.mark.parametrize(
    ("language", "pid"), [("python", python("return os.getpid()")), ("node", node("return process.pid"))]
)
class TestWarmth:
    """The rules for reusing a process."""

    async def test_next_run_of_the_workflow_reuses_the_worker(
        self, open_run: OpenRun, language: Language, pid: str
    ) -> None:
        """Steps and runs of one workflow share a process, one after the other, also after a step in a process of its own."""
        pids = []
        for _ in range(2):
            bench = await open_run()
            pids += [(await bench.run(language, pid, name=name)).exports["$return_value"] for name in ("a", "b")]
            await bench.run("bash", "true")
            await bench.workers.release()

        assert len(set(pids)) == 1

    async def test_concurrent_runs_have_separate_workers(self, open_run: OpenRun, language: Language, pid: str) -> None:
        """A process serves one run at a time."""
        first, second = await open_run(), await open_run()

        pids = [(await bench.run(language, pid)).exports["$return_value"] for bench in (first, second)]

        assert len(set(pids)) == 2

    async def test_worker_with_children_is_replaced(self, open_run: OpenRun, language: Language, pid: str) -> None:
        """A process with children is not used by the next run, and the children end."""
        spawn = (
            python("subprocess.Popen(['sleep', '1000']); return os.getpid()")
            if language == "python"
            else node("spawn('sleep', ['1000'], { stdio: 'ignore' }).unref(); return process.pid")
        )
        first = await open_run()
        await first.run(language, pid)
        marks = marks_of(first)
        old = (await first.run(language, spawn)).exports["$return_value"]
        await first.workers.release()
        second = await open_run()

        new = (await second.run(language, pid)).exports["$return_value"]

        assert new != old
        assert marks
        assert await leftovers(marks) == set()

    async def test_dead_worker_is_replaced(self, open_run: OpenRun, language: Language, pid: str) -> None:
        """A warm process that was killed is not used by the next run."""
        first = await open_run()
        old = (await first.run(language, pid)).exports["$return_value"]
        marks = marks_of(first)
        worker = first.workers._acquired_slot.workers[language]  # type: ignore[index]
        await first.workers.release()
        for process in process_tree.find_processes([], marks):
            with contextlib.suppress(ProcessLookupError):  # the first process of the namespace has ended the others
                os.kill(process, signal.SIGKILL)
        assert await leftovers(marks) == set()
        async with asyncio.timeout(60):
            while worker.is_alive:  # until the pool has read the end of the worker's pipe
                await asyncio.sleep(0.01)
        second = await open_run()

        new = (await second.run(language, pid)).exports["$return_value"]

        assert new != old

    async def test_worker_with_many_sources_is_replaced(self, open_run: OpenRun, language: Language, pid: str) -> None:
        """A process that has received more than 500 different texts does not serve the next run."""
        pids = []
        for texts in (499, 500, 0):  # besides the step
            bench = await open_run()
            pids.append((await bench.run(language, pid)).exports["$return_value"])
            worker = bench.workers._acquired_slot.workers[language]  # type: ignore[index]
            for number in range(texts):
                worker.build_code(Step("text", language, f"text {number}"))
            await bench.workers.release()

        assert pids[0] == pids[1] != pids[2]

    async def test_stale_worker_serves_its_own_run_only(self, open_run: OpenRun, language: Language, pid: str) -> None:
        """A process that a step left dirty runs the later steps of its run, also new ones, and no step of another run."""
        bench = await open_run()
        pids = [(await bench.run(language, pid)).exports["$return_value"]]
        bench.workers._acquired_slot.workers[language].is_stale = True  # type: ignore[index]
        pids.append((await bench.run(language, f"{pid}\n", name="new")).exports["$return_value"])
        await bench.workers.release()

        after = await (await open_run()).run(language, pid)

        assert pids[0] == pids[1] != after.exports["$return_value"]

    @pytest.mark.parametrize(
        "line",
        [
            b'1 {"t":"export","n":"a","v":%b%b}' % (b"[" * 300_000, b"]" * 300_000),
            b'1 {"t":"exit","reason":null}',
            None,
        ],
        ids=["deep", "shallow", "too long"],
    )
    async def test_worker_that_sends_lines_without_a_request_is_replaced(
        self, bench: Bench, language: Language, pid: str, line: bytes | None
    ) -> None:
        """A process that sends a line that nothing asked for, or a line that is too long, does not run another step."""
        await bench.run(language, pid, name="first")
        worker = bench.workers._acquired_slot.workers[language]  # type: ignore[index]

        listener = worker.process.listener
        assert listener is not None
        if line is None:
            listener.on_line_too_long()
        else:
            listener.on_line(line)
        ended = not worker.is_alive
        outcome = await bench.run(language, SOURCES["lookalike"][language])

        assert ended
        assert worker.intruded
        assert outcome.exports == {"$return_value": 1}


async def test_worker_that_a_step_left_dirty_is_replaced(open_run: OpenRun, tmp_path: Path) -> None:
    """A process that has imported a file of the project does not serve the next run, whatever steps follow in its own run."""
    dirty = "import { x } from './helper.mjs';\nexport default { run() { return process.pid + x } }"
    bench = await open_run()
    (tmp_path / "project" / "helper.mjs").write_text("export const x = 0;\n")
    pids = [
        (await bench.run("node", source, name=name)).exports["$return_value"]
        for name, source in (("dirty", dirty), ("new", node("return process.pid")))
    ]
    await bench.workers.release()

    after = await (await open_run()).run("node", node("return process.pid"))

    assert pids[0] == pids[1] != after.exports["$return_value"]


async def test_run_sees_its_own_event_and_variables(open_run: OpenRun) -> None:
    """A warm process keeps nothing of the run before."""
    seen = []
    for n in (1, 2):
        bench = await open_run(event={"n": n}, variables={"V": f"value{n}"} if n == 1 else {})
        await bench.run("python", "def handler(pd):\n    return 1\n", name=f"only{n}")
        for language, source in (
            ("python", python("return [list(pd.steps), pd.steps['trigger']['event']['n'], os.environ.get('V')]")),
            ("node", node("return [Object.keys(steps), steps.trigger.event.n, process.env.V ?? null]")),
        ):
            seen.append((await bench.run(language, source, name="look")).exports["$return_value"])  # type: ignore[arg-type]
            del bench.steps["look"]
        await bench.workers.release()

    assert seen == [
        [["trigger", "only1"], 1, "value1"],
        [["trigger", "only1"], 1, "value1"],
        [["trigger", "only2"], 2, None],
        [["trigger", "only2"], 2, None],
    ]


@pytest.mark.parametrize("language", ["python", "node", "bash"])
async def test_duration_of_a_step_is_in_seconds(bench: Bench, language: Language) -> None:
    """The outcome has the duration of the step's code: no less than a part of it, and no more than the whole call takes."""
    sources: dict[Language, str] = {
        "python": python("print('up', flush=True)\n    while not os.path.exists('go'): time.sleep(0.001)"),
        "node": "import fs from 'fs';\nexport default { run() { console.log('up'); while (!fs.existsSync('go')); } }",
        "bash": "echo up; until [ -e go ]; do sleep 0.01; done",
    }

    began = time.monotonic()
    task = await run_until_up(bench, language, sources[language])
    up = time.monotonic()
    await asyncio.sleep(0.1)
    part = time.monotonic() - up
    (bench.tmp_folder / "go").touch()
    outcome = await task
    whole = time.monotonic() - began

    assert outcome.error is None
    assert part <= outcome.duration_s <= whole  # it counts from when the server has sent the request


async def test_changed_value_is_sent_again(bench: Bench) -> None:
    """Pinned exports replace exports that a process already has, also with a value that Python compares as equal."""
    look = python("return repr(pd.steps['a']['x'])")
    seen = []
    for number, value in enumerate((1, True, 2, 2.0)):
        bench.steps["a"] = {"x": value}
        seen.append((await bench.run("python", look, name=f"look{number}")).exports["$return_value"])

    assert seen == ["1", "True", "2", "2.0"]


async def test_removed_step_is_removed_in_the_process(bench: Bench) -> None:
    """A step sees exactly the exports of its call."""
    bench.steps["a"] = {"x": 1}
    await bench.run("python", python("return 1"), name="b")
    del bench.steps["a"], bench.steps["b"]

    outcome = await bench.run("python", python("return list(pd.steps)"))

    assert outcome.exports["$return_value"] == ["trigger"]


async def test_action_without_its_component_is_refused(bench: Bench) -> None:
    """A pre-built action without its component is a clear error."""
    with pytest.raises(UnsupportedError, match="cannot run without its component"):
        await bench.run("node", "", step=Step("a", "node", uses="slack-send-message@0.0.20"))


class GatewaySpy:
    """
    A gateway that lists its calls.

    Attributes:
        calls: The name and the arguments of each call.
        public_only: Of each issued token, whether it reaches public addresses only.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.public_only: list[bool] = []

    def issue_token(self, *, public_only: bool = False) -> str:
        """Issue token1, token2 and so on."""
        self.calls.append(("issue",))
        self.public_only.append(public_only)
        return f"token{sum(entry[0] == 'issue' for entry in self.calls)}"

    def bind(self, token: str, context: Any) -> None:
        """Add the call to `calls`."""
        self.calls.append(("bind", token, context))

    def unbind(self, token: str) -> None:
        """Add the call to `calls`."""
        self.calls.append(("unbind", token))

    def revoke_token(self, token: str) -> None:
        """Add the call to `calls`."""
        self.calls.append(("revoke", token))

    def build_environment(self, token: str, language: Language) -> Mapping[str, str]:
        """Return one variable."""
        return {"HTTPS_PROXY": f"http://{token}@{language}"}

    def start_sandboxed(self, token: str, start_process: Callable[[], Any]) -> Any:
        """Add the call to `calls`, and start the process."""
        self.calls.append(("sandboxed", token))
        return start_process()

    def plan_sandbox(self, token: str) -> None:
        """Add the call to `calls`; the process gets no filter."""
        self.calls.append(("sandboxed", token))


@pytest.mark.parametrize("language", LANGUAGES)
async def test_outbound_calls_are_bound_to_the_step(
    open_run: OpenRun, go_programs: GoBuildCache, language: Language
) -> None:
    """A process has a token: bound while the step runs, revoked when the process ends. The workflow's variables do not replace the gateway's."""
    gateway = GatewaySpy()
    pool = WorkerPool(gateway=gateway, go_cache=go_programs)  # type: ignore[arg-type]
    bench = await open_run(of=pool, variables={"HTTPS_PROXY": "http://elsewhere"})

    outcome = await bench.run(language, SOURCES["environment"][language], call_context="the binding")
    await bench.workers.release()
    await pool.close()

    environment = outcome.exports["$return_value"]
    assert isinstance(environment, dict)
    assert environment["HTTPS_PROXY"] == f"http://token1@{language}"
    assert gateway.calls == [("issue",), ("bind", "token1", "the binding"), ("unbind", "token1"), ("revoke", "token1")]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_sandboxed_run_does_not_reuse_a_process_without_a_sandbox(
    open_run: OpenRun, go_programs: GoBuildCache, language: Language
) -> None:
    """A process without a sandbox is not reused by a run that needs a sandbox, nor the other way round."""
    gateway = GatewaySpy()
    pool = WorkerPool(gateway=gateway, go_cache=go_programs)  # type: ignore[arg-type]

    for guarded in (False, True, True):
        bench = await open_run(of=pool, guarded=guarded)
        await bench.run(language, SOURCES["environment"][language])
        await bench.workers.release()
    await pool.close()

    started = [entry for entry in gateway.calls if entry[0] in ("issue", "sandboxed")]
    once_each = [("issue",), ("issue",), ("sandboxed", "token2")]
    assert started == ([*once_each, ("issue",), ("sandboxed", "token3")] if language in ("bash", "go") else once_each)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_run_for_public_addresses_has_processes_of_its_own(
    open_run: OpenRun, go_programs: GoBuildCache, language: Language
) -> None:
    """The token of a process says whether its run reaches public addresses only, and no other run uses the process."""
    gateway = GatewaySpy()
    pool = WorkerPool(gateway=gateway, go_cache=go_programs)  # type: ignore[arg-type]

    for public_only in (False, True):
        bench = await open_run(of=pool, public_only=public_only)
        await bench.run(language, SOURCES["lookalike"][language])
        await bench.workers.release()
    await pool.close()

    assert gateway.public_only == [False, True]


async def test_token_of_a_worker_that_does_not_start_is_revoked(open_run: OpenRun, tmp_path: Path) -> None:
    """A token is not valid without its process."""
    gateway = GatewaySpy()
    pool = WorkerPool(gateway=gateway, python=tmp_path / "nothing")  # type: ignore[arg-type]
    bench = await open_run(of=pool)

    with pytest.raises(InterpreterMissingError, match="nothing cannot be started"):
        await bench.run("python", SOURCES["lookalike"]["python"])
    await pool.close()

    assert gateway.calls == [("issue",), ("revoke", "token1")]


@pytest.mark.parametrize("end", ["fail_step", "kill"])
@pytest.mark.parametrize("language", ["python", "node", "bash"])
async def test_last_output_of_an_ended_step_is_kept(bench: Bench, language: Language, end: str) -> None:
    """What a step printed before it was ended is in its logs, although the event loop has not read it yet."""
    sources = {
        "python": python(
            "print('up', flush=True)\n    while not os.path.exists('go'): time.sleep(0.001)\n"
            "    print('last', flush=True); print('words', file=sys.stderr); open('printed', 'w'); time.sleep(1000)"
        ),
        "node": "import fs from 'fs';\nexport default { run() { console.log('up'); while (!fs.existsSync('go'));"
        " console.log('last'); console.error('words'); fs.writeFileSync('printed', ''); for (;;); } }",
        "bash": "echo up; until [ -e go ]; do sleep 0.01; done; echo last; echo words >&2; touch printed; sleep 1000",
    }
    task = await run_until_up(bench, language, sources[language])
    folder = bench.tmp_folder

    (folder / "go").touch()
    deadline = time.monotonic() + 60
    while not (folder / "printed").exists() and time.monotonic() < deadline:  # the event loop does not turn
        time.sleep(0.001)
    if end == "kill":
        bench.workers.kill()
    else:
        bench.workers.fail_step(OutboundCallRefusedError("no answer for api.example.com"))
    outcome = await task

    assert outcome.error is not None
    assert (bench.printed(), bench.printed("stderr")) == ("up\nlast\n", "words\n")


class Lines:
    """
    A listener of a worker process.

    Attributes:
        lines: The lines of the process.
        too_long: How often a line was too long.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.too_long = 0

    def on_line(self, line: bytes) -> None:
        """Add the line to `lines`."""
        self.lines.append(line)

    def on_output(self, stream: Stream, data: bytes) -> None:
        """Ignore the output."""

    def on_line_too_long(self) -> None:
        """Count the line."""
        self.too_long += 1

    def on_closed(self) -> None:
        """Ignore the end of the process."""


def echo_process(max_line_bytes: int = MAX_LINE_BYTES) -> tuple[WorkerProcess, Lines]:
    """Start a process that returns each line."""
    request = ProcessRequest(["/bin/sh", "-c", "exec cat <&3 >&4"], {"PATH": os.defpath}, secrets.token_hex(16))
    process = WorkerProcess(request, max_line_bytes=max_line_bytes)
    process.listener = listener = Lines()
    return process, listener


async def test_limit_of_a_line_counts_for_each_line() -> None:
    """Lines up to the limit arrive, however many they are; a longer line is reported once, and nothing is read after it."""
    process, echo = echo_process(max_line_bytes=4 << 20)
    line = b"x" * ((4 << 20) - 1)  # several times what one read returns

    for _ in range(3):
        process.send(line + b"\n")
    async with asyncio.timeout(60):
        while len(echo.lines) < 3:
            await asyncio.sleep(0.001)
        process.send(3 * line + b"\nlater\n")
        while not echo.too_long:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    process.kill()

    assert [len(each) for each in echo.lines] == [len(line)] * 3
    assert echo.too_long == 1


async def test_program_that_does_not_start_leaves_no_open_file(tmp_path: Path) -> None:
    """The pipes of a worker are closed if its program cannot be started."""
    request = ProcessRequest([str(tmp_path / "nothing")], {}, secrets.token_hex(16))
    before = set(Path("/proc/self/fd").iterdir())

    with pytest.raises(FileNotFoundError):
        WorkerProcess(request)

    assert set(Path("/proc/self/fd").iterdir()) <= before


async def test_message_to_an_ended_process_is_ignored() -> None:
    """A message after the end of the process is not an error of pdkernel; the end itself is reported."""
    process = WorkerProcess(ProcessRequest(["/bin/true"], {}, secrets.token_hex(16)))
    async with asyncio.timeout(60):
        while not process.child.poll():
            await asyncio.sleep(0.001)

    process.send(b"late\n")
    process.kill()
    process.send(b"later\n")

    assert process.child.exit_code == 0


async def test_later_message_follows_a_large_one() -> None:
    """A message that is sent while the pipe is full arrives after the message before, and then nothing waits for the pipe."""
    process, echo = echo_process()
    large = b"x" * (8 << 20)

    process.send(large + b"\n")
    select.select([], [process._write_fd], [])  # the process has read a part, and the event loop has not turned
    process.send(b"later\n")
    async with asyncio.timeout(60):
        while len(echo.lines) < 2:
            await asyncio.sleep(0.001)
    is_watched = asyncio.get_running_loop().remove_writer(process._write_fd)
    process.kill()

    assert [len(line) for line in echo.lines] == [len(large), len(b"later")]
    assert not is_watched


async def test_command_line_has_no_secret(bench: Bench) -> None:
    """Variables and credentials reach a step by its private pipe only."""
    tasks = await run_until_up(
        bench, "python", SOURCES["kept"]["python"], credentials={"slack": {"token": "xoxb-secret"}}
    )
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in process_tree.find_processes([], marks_of(bench))]
    bench.workers.kill()
    await tasks

    assert any("runtimes/python/" in line for line in lines)
    assert not any("xoxb-secret" in line or "tok-123456" in line for line in lines)
