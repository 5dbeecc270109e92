"""The process of a step, in every language."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pdkernel.errors import OutboundCallRefusedError, UnsupportedError
from pdkernel.execution import StepResult
from pdkernel.model import Language, Step
from pdkernel.runtimes import process_tree
from pdkernel.workers import GoBuildCache, RunSetup, StepOutcome, StepRecorder, WorkerPool
from pdkernel.workers.recorder import MAX_OUTPUT_BYTES
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
        "python": python("while True: pass"),
        "node": node("for (;;);"),
        "bash": "while :; do :; done",
        "go": go("for {}"),
    },
    "sleep": {
        "python": python("subprocess.run(['sleep', '1000'])"),
        "node": node("execSync('sleep 1000')"),
        "bash": "sleep 1000",
        "go": go('exec.Command("sleep", "1000").Run()', "os/exec"),
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
        "python": python("print('early'); pd.export('kept', 1); time.sleep(1000)"),
        "node": node("console.log('early'); $.export('kept', 1); await new Promise((r) => setTimeout(r, 1e6))"),
        "bash": "echo early; echo kept:json=1 >> $PIPEDREAM_EXPORTS; sleep 1000",
        "go": go('fmt.Println("early"); pd.Export("kept", 1); time.Sleep(1000 * time.Second)', "fmt", "time"),
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
    """Return the processes with one of *marks* that still run after a moment."""
    for _ in range(100):
        found = process_tree.find_processes([], marks)
        if not found:
            return set()
        await asyncio.sleep(0.01)
    return found


def marks_of(bench: Bench) -> set[str]:
    """Return the process tags of the children of this process."""
    marks = set()
    for child in psutil.Process().children(recursive=True):
        try:
            mark = child.environ().get(process_tree.PROCESS_TAG_VARIABLE)
        except psutil.Error:
            continue
        if mark:
            marks.add(mark)
    return marks


async def run_until_up(bench: Bench, language: Language, source: str, **call: Any) -> asyncio.Task[StepOutcome]:
    """Start a step and wait until it has printed something."""
    up = asyncio.Event()

    def report(result: StepResult) -> None:
        if any(not log.is_note for log in result.logs):
            up.set()

    recorder = StepRecorder(on_change=report)
    task = asyncio.create_task(bench.run(language, source, recorder=recorder, **call))
    await asyncio.wait_for(up.wait(), 30)
    return task


@pytest.mark.parametrize("language", LANGUAGES)
async def test_output_belongs_to_its_step(bench: Bench, language: Language) -> None:
    """All output arrives before the step ends, also a last line without a line end, and none arrives in the next step."""
    await bench.run(language, SOURCES["print"][language], name="first")
    first = bench.recorder
    await bench.run(language, SOURCES["print"][language], name="second")

    assert printed(first) == "één\nthree"
    assert printed(first, "stderr") == "two\n"
    assert bench.printed() == "één\nthree"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_output_that_looks_like_the_protocol_is_output(bench: Bench, language: Language) -> None:
    """Text in the protocol's format on standard output is plain output."""
    outcome = await bench.run(language, SOURCES["lookalike"][language])

    assert outcome.error is None
    assert outcome.exports == {"$return_value": 1}
    assert bench.printed() == '{"t":"done","error":null,"busy":false,"dirty":false}\n'


@pytest.mark.parametrize("language", LANGUAGES)
async def test_logs_arrive_while_the_step_runs(bench: Bench, language: Language) -> None:
    """The recorder reports output before the step has ended."""
    task = await run_until_up(bench, language, SOURCES["kept"][language])

    assert not task.done()
    bench.workers.kill()
    await task


@pytest.mark.parametrize("language", LANGUAGES)
async def test_output_of_50_mb_is_truncated_and_reported(bench: Bench, language: Language) -> None:
    """The stored output is limited, and the log ends with the number of dropped bytes."""
    outcome = await bench.run(language, SOURCES["flood"][language])

    assert outcome.error is None
    assert MAX_OUTPUT_BYTES <= len(bench.printed()) <= MAX_OUTPUT_BYTES + 1000
    assert bench.printed().endswith("x\n")
    assert "more bytes of output were dropped" in bench.recorder.logs[-1].text
    assert "more bytes" in outcome.warnings[0]


@pytest.mark.parametrize("kind", ["busy", "sleep", "escape"])
@pytest.mark.parametrize("language", LANGUAGES)
async def test_timeout_ends_the_step_with_its_children(bench: Bench, language: Language, kind: str) -> None:
    """A busy loop, a child, and a child in its own session have ended when the timeout error is returned."""
    of_others = marks_of(bench)
    task = asyncio.create_task(bench.run(language, SOURCES[kind][language], timeout_s=0.6))
    while not (marks := marks_of(bench) - of_others) and not task.done():
        await asyncio.sleep(0.01)

    outcome = await task

    assert outcome.error is not None
    assert outcome.error.code == "timeout"
    assert "longer than 0.6 seconds" in outcome.error.message
    assert "lambda_timeout" in outcome.error.fix
    assert marks
    assert await leftovers(marks) == set()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_exports_and_logs_before_a_timeout_are_kept(bench: Bench, language: Language) -> None:
    """Exports and logs survive, and the next step runs."""
    outcome = await bench.run(language, SOURCES["kept"][language], timeout_s=0.7)
    early = bench.printed()
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


@pytest.mark.parametrize("language", LANGUAGES)
async def test_cancelled_run_step_ends_the_processes(bench: Bench, language: Language) -> None:
    """A cancelled `run_step` leaves no process."""
    of_others = marks_of(bench)
    task = await run_until_up(bench, language, SOURCES["escape"][language])
    marks = marks_of(bench) - of_others

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert marks
    assert await leftovers(marks) == set()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_kill_ends_every_process(bench: Bench, language: Language) -> None:
    """`kill` makes the running step fail, and no process is left."""
    of_others = marks_of(bench)
    task = await run_until_up(bench, language, SOURCES["escape"][language])
    marks = marks_of(bench) - of_others

    bench.workers.kill()
    outcome = await task

    assert outcome.error is not None
    assert outcome.error.code == "step_died"
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
async def test_environment_is_a_fixed_list(bench: Bench, language: Language) -> None:
    """The environment has a fixed set of variables and the workflow's variables; no variable is inherited."""
    outcome = await bench.run(language, SOURCES["environment"][language])

    environment = outcome.exports["$return_value"]
    assert isinstance(environment, dict)
    extra = {"PIPEDREAM_STEPS", "PIPEDREAM_EXPORTS", "PIPEDREAM_RESPONSE"} if language in ("bash", "go") else set()
    if language == "bash":
        extra |= {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"}
    assert set(environment) - extra == {
        "PATH", "HOME", "LANG", "TZ", "TMPDIR", "NO_COLOR", "TOKEN", process_tree.PROCESS_TAG_VARIABLE,
    }  # fmt: skip
    assert environment["TOKEN"] == "tok-123456"
    assert environment["TZ"] == "UTC"


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
        """Steps and runs of one workflow share a process, one after the other."""
        pids = []
        for _ in range(2):
            bench = await open_run()
            pids += [(await bench.run(language, pid, name=name)).exports["$return_value"] for name in ("a", "b")]
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
        old = (await first.run(language, spawn)).exports["$return_value"]
        marks = marks_of(first)
        await first.workers.release()
        second = await open_run()

        new = (await second.run(language, pid)).exports["$return_value"]

        assert new != old
        assert await leftovers(marks - marks_of(second)) == set()

    async def test_dead_worker_is_replaced(self, open_run: OpenRun, language: Language, pid: str) -> None:
        """A warm process that was killed is not used by the next run."""
        first = await open_run()
        of_others = marks_of(first)
        old = (await first.run(language, pid)).exports["$return_value"]
        marks = marks_of(first) - of_others
        await first.workers.release()
        for process in process_tree.find_processes([], marks):
            with contextlib.suppress(ProcessLookupError):  # the first process of the namespace has ended the others
                os.kill(process, signal.SIGKILL)
        assert await leftovers(marks) == set()
        await asyncio.sleep(0.02)  # the pool reads the end of the worker's pipe
        second = await open_run()

        new = (await second.run(language, pid)).exports["$return_value"]

        assert new != old


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


async def test_changed_value_is_sent_again(bench: Bench) -> None:
    """Pinned exports replace exports that a process already has."""
    look = python("return pd.steps['a']['x']")
    bench.steps["a"] = {"x": 1}
    first = await bench.run("python", look, name="look1")
    bench.steps["a"] = {"x": 2}
    second = await bench.run("python", look, name="look2")

    assert (first.exports["$return_value"], second.exports["$return_value"]) == (1, 2)


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
    """A gateway that lists its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def issue_token(self, *, public_only: bool = False) -> str:
        """Issue token1, token2 and so on."""
        self.calls.append(("issue", "public addresses only") if public_only else ("issue",))
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
async def test_limit_to_public_addresses_is_a_property_of_the_token(
    go_programs: GoBuildCache, language: Language, tmp_path: Path
) -> None:
    """The process of a run that reaches public addresses only has a token with this limit."""
    gateway = GatewaySpy()
    pool = WorkerPool(gateway=gateway, go_cache=go_programs)  # type: ignore[arg-type]
    setup = RunSetup("run", "demo", {"event": {}, "context": {}}, {}, tmp_path, public_only=True)
    bench = Bench(await pool.open_run(setup))

    outcome = await bench.run(language, SOURCES["environment"][language])
    await bench.workers.release()
    await pool.close()

    assert outcome.error is None
    assert gateway.calls[0] == ("issue", "public addresses only")


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


async def test_command_line_has_no_secret(bench: Bench) -> None:
    """Variables and credentials reach a step by its private pipe only."""
    tasks = await run_until_up(
        bench, "python", SOURCES["kept"]["python"], account_fields={"slack": {"token": "xoxb-secret"}}
    )
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in process_tree.find_processes([], marks_of(bench))]
    bench.workers.kill()
    await tasks

    assert any("runtimes/python/" in line for line in lines)
    assert not any("xoxb-secret" in line or "tok-123456" in line for line in lines)
