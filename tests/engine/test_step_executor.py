"""The steps of a run: pinned, run again, paused; their limits and the lines of their errors."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest, RunWatcher, TestOptions, WorkflowFinder
from pdkernel.engine.step_executor import MAX_PAUSED_RUNS, Service, StepServiceRouter
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import StepError
from pdkernel.execution import Execution
from pdkernel.files.definition import read_folder_workflow
from pdkernel.files.source import WorkflowSource
from pdkernel.journal import WaitKey
from pdkernel.model import JSON, Step, Workflow
from pdkernel.storage import Project
from tests.builders import Gate, a_step, a_workflow, an_event, node_step, python_step, with_step
from tests.engine.conftest import Run, error_of
from tests.files.definition.builders import synced

NEEDS_CHANNEL = (
    'export default defineComponent({\n  props: {\n    channel: { type: "string" },\n  },\n  run() {},\n});\n'
)


def line_of(execution: Execution, step: str = "code") -> int | None:
    """Return the line of the run's error, which belongs to *step*."""
    assert execution.error is not None
    assert execution.error.step == step
    return execution.error.line


RESPONSE = "%%pdstep code --uses http-return-http-response@0.0.3\nresStatusCode: 200\n"


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("// why\n\n%%pdstep code --lang node\n" + NEEDS_CHANNEL, 3),
        ("%%pdstep code --uses data_stores-get-record@0.0.5\ndataStore: cache\n", 1),
        ("%%pdstep code --uses http-custom-request@1.1.1\nhttpRequest:\n  url: x\nmethode: GET\n", 4),
        ("%%pdstep code --lang node --prop 'text={{ steps.x.y.z }}'\nexport default {run() {}}", 1),
        ("# note\n%%pdstep code --prop text={{null.y}}\ndef handler(pd):\n    pass", 2),
        (f"{RESPONSE}resBody:\n  a: 1\n  b: {{{{ null.x }}}}\n", 5),
        ("# note\n%%pdstep code --prop 'text=a {{ b'\ndef handler(pd):\n    pass\n", 2),
        (f"{RESPONSE}resBody: {'x' * 70_000}\n", 3),
        (python_step(body="def inner():\n    return 1\nif pd:\n    return {1, 2}"), 6),
        (node_step(body="const f = () => { return 1; };\nreturn 1n;"), 5),
        ("%%pdstep code --lang node\nexport default {\n  run: async () => 1n,\n};", 3),
        (python_step(body="pd.export('a', object())\nreturn {1}"), 3),
        (python_step(body="if pd is None:\n    return 1\nreturn {1}"), None),
    ],
    ids=[
        "a missing prop of code has the line of the directive",
        "a missing prop of an action has the line of the directive",
        "an unknown prop of an action has its line",
        "an expression of a directive that throws has the line of the directive",
        "lines above the directive count",
        "an expression of an action that throws has its line at every depth",
        "an unclosed expression",
        "a prop that is too large has the first line of its value",
        "the only return of a Python handler",
        "the only return of a Node.js component",
        "the return value of an arrow function",
        "an export",
        "several returns have no line",
    ],
)
async def test_error_has_its_line(shared_run: Run, step: Step | str, line: int | None) -> None:
    """The error of a prop has the line of the directive or of the body, and that of a value that is not JSON the line of its return."""
    execution = await shared_run(python_step("x", "pass"), a_step(step) if isinstance(step, str) else step)

    assert line_of(execution) == line


async def test_errors_of_a_synced_folder_name_its_files(shared_run: Run, tmp_path: Path) -> None:
    """In a synced folder, errors name the entry file for a missing prop and workflow.yaml for a wrong prop."""
    folder = synced(
        tmp_path / "w-p_1",
        "schema: workflow/2022.04\nname: W\ntriggers:\n- id: hi_1\nsteps:\n- namespace: code\n  runtime: nodejs20.x\n"
        '  uses: "./code/entry.js"\n  props:\n    other: "{{ steps.trigger.x.y }}"\n',
        code__entry_DOT_js=NEEDS_CHANNEL,
    )
    workflow = read_folder_workflow(folder)
    missing = with_step(workflow, Step("code", "node", NEEDS_CHANNEL, props_file="workflow.yaml"))

    thrown = await shared_run(workflow)
    absent = await shared_run(missing)

    assert line_of(thrown) is None
    assert thrown.error is not None
    assert "The prop other (workflow.yaml, line 10) cannot be evaluated" in thrown.error.message
    assert line_of(absent) == 3


class Echo:
    """A service that returns what it was asked."""

    async def answer(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """Return the operation and the arguments."""
        return [operation, dict(args)]


async def test_a_call_reaches_its_service() -> None:
    """A call names a service and an operation; services are built once, and an unknown service is an error of the step."""
    built: list[bool] = []

    def build() -> Mapping[str, Service]:
        built.append(True)
        return {"store": Echo()}

    router = StepServiceRouter(build)

    assert [await router.call(call, {"a": 1}) for call in ("store.get", "store.a.b")] == [
        ["get", {"a": 1}],
        ["a.b", {"a": 1}],
    ]
    assert built == [True]
    with pytest.raises(StepError, match=r"This version does not support files\.open\.") as refused:
        await router.call("files.open", {})
    assert refused.value.name == "UnsupportedError"


@pytest.mark.parametrize(("end", "is_paused"), [("raise ValueError('own')", False), ("return 1", True)])
async def test_a_failed_step_does_not_pause(shared_run: Run, end: str, is_paused: bool) -> None:
    """A step that fails after it has requested a pause fails the run, and its log has no word about a pause."""
    execution = await shared_run(python_step("code", f"pd.flow.delay(60000)\n{end}"), pause_mode="park")

    assert execution.status == ("paused" if is_paused else "error")
    assert any("the run is paused" in log.text for log in execution.step("code").logs) == is_paused


PROOF = Path(__file__).parents[1] / "files" / "definition" / "projects" / "proof-filter-p_F1lt3rs"


@pytest.mark.parametrize(
    ("body", "ends_at", "reason"),
    [
        ({"name": "A Proof", "draft": False}, None, None),
        (
            {"name": "None", "draft": "false"},
            "filter",
            'this rule does not hold: "None" contains "Proof" and ("false" is false or undefined equals undefined)',
        ),
        ({"name": "Proof", "draft": True, "kind": 5}, "filter", "does not hold"),
        ({"name": "Proof", "draft": False, "amount": "1000"}, "filter_1", 'holds: "1000" is greater than "100"'),
    ],
)
async def test_filter_steps_of_the_builder(
    shared_run: Run, body: JSON, ends_at: str | None, reason: str | None
) -> None:
    """The builder's Filter steps of a synced folder end the run by their rules, with the evaluated operands as the reason."""
    workflow = read_folder_workflow(PROOF)

    execution = await shared_run(workflow, event=an_event(body, query={}))

    assert execution.status == ("success" if ends_at is None else "exited"), execution.to_json()
    assert (execution.step("notify").status == "skipped") == (ends_at is not None)
    if ends_at is not None:
        assert reason is not None
        assert reason in execution.step(ends_at).logs[-1].text


async def test_unknown_rule_is_refused_before_the_first_step(shared_run: Run) -> None:
    """A cell with an unknown operator is refused with its name, and no step runs."""
    step = a_step("%%pdstep only --uses filter-rules@0.0.1\n_filter:\n  rules: {t: and, r: [{a: 1, op: geo~, b: 2}]}\n")

    execution = await shared_run(python_step("before"), step)

    assert execution.error is not None
    assert "'geo~', which pdkernel does not know" in execution.error.message
    assert execution.step("before").status == "not_run"


async def test_missing_value_of_a_rule_does_not_exist(shared_run: Run) -> None:
    """An operand that the event does not have does not exist, and one that is null does."""
    rules = "{t: and, r: [{a: '{{steps.trigger.event.body.none}}', op: '!exists'}, {a: '{{null}}', op: exists}]}"
    step = a_step(f"%%pdstep only --uses filter-rules@0.0.1\n_filter:\n  rules: {rules}\n")

    assert (await shared_run(step, python_step("after"))).status == "success"


async def test_old_call_of_a_component_has_a_hint(shared_run: Run) -> None:
    """The error of a component that calls a function of the first version says what to write instead, with the cell's line."""
    error = error_of(await shared_run(node_step(body='await 1;\n$end("enough");')))

    fix = getattr(error, "fix", "") or error.message
    assert 'instead of $end: return $.flow.exit("enough")' in fix
    assert f"line {error.line}," in fix


COUNTS = "pd.export('runs', pd.context['run']['runs']); pd.export('had', pd.context['run']['context'])"


class StoppedClock(ManualClock):
    """A clock on which no pause ends."""

    async def sleep(self, seconds: float) -> None:
        """Wait until the task is cancelled."""
        await asyncio.Event().wait()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves only when code waits for it."""
    return ManualClock()


@pytest.fixture
async def runtime(project: Project, directory: LocalDirectory, clock: ManualClock) -> AsyncIterator[WorkflowEngine]:
    """An engine with that clock."""
    async with await WorkflowEngine.start(project, directory, clock=clock, max_active_runs=1) as started:
        yield started


async def until_paused(engine: WorkflowEngine, first: Step) -> asyncio.Task[Execution]:
    """Start the run "the-run" of two steps with `wait`, and return its task when the first step has paused."""
    workflow = a_workflow(first, python_step("b", "return pd.steps['a']"))
    paused = asyncio.Event()
    watcher = RunWatcher(on_change=lambda execution: paused.set() if execution.status == "paused" else None)
    request = RunRequest(
        workflow, an_event(), parse_policy("deny"), run_ids=("the-run", "the-trace"), pause_mode="wait"
    )
    task = asyncio.ensure_future(engine.run(request, watcher))
    await asyncio.wait_for(paused.wait(), 30)
    return task


class TestDelay:
    """`$.flow.delay` pauses the run after its step."""

    @pytest.mark.parametrize(
        ("mode", "waited_s", "published", "note"),
        [("wait", 90, ["paused", "resumed"], ""), ("skip", 0, [], "90 seconds: skipped")],
    )
    async def test_next_step_runs_after_the_delay(
        self, run: Run, clock: ManualClock, mode: str, waited_s: float, published: list[str], note: str
    ) -> None:
        """With `wait` the next step runs after the delay, and watchers see the pause; with `skip` it runs at once, and the log names the skipped delay."""
        before, seen = clock.now(), list[str]()
        execution = await run(
            node_step("a", "$.flow.delay(90_000)"),
            python_step("b"),
            pause_mode=mode,
            on_change=lambda execution: seen.append(execution.status),
        )

        assert (execution.status, execution.step("b").status) == ("success", "success")
        assert (clock.now() - before).total_seconds() == waited_s
        assert [status for status in dict.fromkeys(seen) if status in ("paused", "resumed")] == published
        assert note in "".join(log.text for log in execution.step("a").logs)

    async def test_park_ends_the_run_as_paused(self, run: Run, runtime: WorkflowEngine) -> None:
        """With `park` the run is paused, in the record too, and the steps below have not run."""
        execution = await run(node_step("a", "$.flow.delay(60_000); return 1"), python_step("b"), pause_mode="park")
        assert execution.status == "paused"
        assert execution.finished_at is None
        assert [step.status for step in execution.steps] == ["success", "not_run"]
        kept = await runtime.journal.get_execution(execution.id)
        assert kept is not None
        assert kept.status == "paused"
        assert kept.step("a").return_value == 1

    async def test_pause_can_be_cancelled(self, project: Project, directory: LocalDirectory) -> None:
        """A cancelled run does not wait for the end of its pause (with the system clock)."""
        async with await WorkflowEngine.start(project, directory) as runtime:
            task = await until_paused(runtime, node_step("a", "$.flow.delay(3_600_000)"))
            task.cancel()
            execution = await task
        assert execution.status == "cancelled"
        assert execution.step("b").status == "not_run"


class TestSuspend:
    """`$.flow.suspend` waits until the run is resumed."""

    async def test_end_of_a_suspend_cancels_the_run(self, run: Run, clock: ManualClock) -> None:
        """Without a resume the run is cancelled after the timeout."""
        before = clock.now()
        execution = await run(node_step("a", "$.flow.suspend(60_000)"), python_step("b"), pause_mode="wait")
        assert execution.status == "cancelled"
        assert execution.step("b").status == "not_run"
        assert (clock.now() - before).total_seconds() == 60

    @pytest.mark.parametrize(
        ("choices", "resume", "cancel"),
        [
            (
                {"pause_mode": "skip"},
                "https://not-served.invalid/resume/{}/a",
                "https://not-served.invalid/cancel/{}/a",
            ),
            (
                {"base_url": "https://flows.example.com"},
                "https://flows.example.com/-/resume/{}/a/1.1.",
                "https://flows.example.com/-/cancel/{}/a/1.1.",
            ),
        ],
        ids=["not served", "served"],
    )
    async def test_step_gets_the_two_urls(
        self, shared_run: Run, choices: dict[str, Any], resume: str, cancel: str
    ) -> None:
        """With a server the URLs lead to the endpoint; without one they name a host that cannot exist."""
        execution = await shared_run(node_step("a", "return $.flow.suspend(1)"), **choices)

        returned = execution.step("a").return_value
        assert isinstance(returned, dict)
        assert set(returned) == {"resume_url", "cancel_url"}
        assert returned["resume_url"].startswith(resume.format(execution.id))
        assert returned["cancel_url"].startswith(cancel.format(execution.id))

    async def test_another_process_resumes_a_waiting_run(
        self, runtime: WorkflowEngine, project: Project, directory: LocalDirectory
    ) -> None:
        """A run with `wait` goes on when another process ends its pause, and gets the body of that call."""
        async with await WorkflowEngine.start(project, directory, clock=StoppedClock()) as waiting:
            task = await until_paused(waiting, python_step("a", "pd.flow.suspend(60_000)"))
            resolution = await runtime.resolve_wait(WaitKey("the-run", "a"), "resume", {"ok": True})
            execution = await asyncio.wait_for(task, 30)

        assert resolution == "done"
        assert execution.status == "success"
        assert execution.step("b").return_value == {"$resume_data": {"ok": True}}

    async def test_a_waiting_run_ends_with_its_end_elsewhere(
        self, runtime: WorkflowEngine, project: Project, directory: LocalDirectory
    ) -> None:
        """If another process cancels the paused run, the wait ends with the record of the cancelled run."""
        async with await WorkflowEngine.start(project, directory, clock=StoppedClock()) as waiting:
            task = await until_paused(waiting, python_step("a", "pd.flow.delay(60_000)"))
            await runtime.journal.cancel("the-run")
            execution = await asyncio.wait_for(task, 30)

        assert execution.status == "cancelled"


class TestRerun:
    """`$.flow.rerun` runs the same step again."""

    @pytest.mark.parametrize("mode", ["wait", "skip"])
    async def test_rerun_gets_the_passed_context(self, run: Run, mode: str) -> None:
        """`$.context.run` counts the attempts and holds the last context."""
        body = f"""
            {COUNTS}
            if pd.context["run"]["runs"] < 3:
                pd.flow.rerun(1000, {{"page": pd.context["run"]["runs"]}}, 5)
            """
        execution = await run(python_step("again", body), python_step("after"), pause_mode=mode)
        again = execution.step("again")
        assert again.exports["runs"] == 3
        assert again.exports["had"] == {"page": 2}
        assert again.attempt == 3
        assert execution.step("after").status == "success"

    async def test_logs_of_every_attempt_are_recorded(self, shared_run: Run) -> None:
        """The logs of all attempts are in order and marked, in the growing and in the final record."""
        body = """
            n = pd.context["run"]["runs"]
            print(f"page {n}")
            if n < 3:
                pd.flow.rerun(0)
            """
        execution = await shared_run(python_step("again", body), pause_mode="skip")

        assert execution.step("again").output.splitlines() == [
            "page 1",
            "[pdkernel] pd.flow.rerun for 0 seconds: skipped.",
            "[pdkernel] Attempt 2:",
            "page 2",
            "[pdkernel] pd.flow.rerun for 0 seconds: skipped.",
            "[pdkernel] Attempt 3:",
            "page 3",
        ]

    async def test_outbound_calls_of_every_attempt_are_recorded(self, shared_run: Run) -> None:
        """The step's outbound calls include those of every attempt."""
        body = """
            import urllib.request
            n = pd.context["run"]["runs"]
            try:
                urllib.request.urlopen(f"http://hooks.example.test/{n}")
            except OSError:
                pass  # no stand-in listens
            if n < 2:
                pd.flow.rerun(0)
            """
        execution = await shared_run(
            python_step("again", body), pause_mode="skip", egress="stand-in=http://127.0.0.1:9"
        )

        assert [call.url for call in execution.step("again").requests] == [
            "http://hooks.example.test/1",
            "http://hooks.example.test/2",
        ]

    async def test_run_continues_after_the_maximum_of_reruns(self, shared_run: Run) -> None:
        """With at most N reruns the step runs N + 1 times, and then the next step runs."""
        execution = await shared_run(python_step("again", f"{COUNTS}\npd.flow.rerun(1, None, 2)"), python_step("after"))
        assert execution.step("again").exports["runs"] == 3
        assert execution.step("after").status == "success"

    async def test_failed_step_does_not_rerun(self, shared_run: Run) -> None:
        """A step that throws does not rerun."""
        execution = await shared_run(python_step("again", "pd.flow.rerun(1)\nraise ValueError('no')"))
        assert execution.status == "error"
        assert execution.step("again").attempt == 1


class TestRetry:
    """`auto_retry` pauses a run after an error."""

    FAILING = a_workflow(python_step("a", "import os\nraise ValueError('no ' + os.environ['KEY'])"), auto_retry=True)
    KEY: ClassVar = {"KEY": "key-0123456789"}

    async def test_a_paused_run_shows_its_error_and_its_urls(self, shared_run: Run) -> None:
        """`$attempt` has the redacted error, the time of the retry, and URLs for the pause of this run of the step."""
        execution = await shared_run(
            self.FAILING, pause_mode="park", base_url="https://flows.example.com", variables=self.KEY
        )

        assert (execution.status, execution.error) == ("paused", None)
        assert execution.pause is not None
        assert execution.pause.kind == "retry"
        attempt = execution.step("a").exports["$attempt"]
        assert isinstance(attempt, dict)
        assert attempt["error"] == {"name": "ValueError", "message": "no ⟦secret:env/KEY⟧"}
        assert attempt["resume_ts"] == execution.pause.until
        urls = [str(attempt[name]) for name in ("cancel_url", "rerun_url")]
        start = f"https://flows.example.com/-/{{}}/{execution.id}/a/1.1."
        assert [url.startswith(start.format(verb)) for url, verb in zip(urls, ("cancel", "resume"), strict=True)] == [
            True
        ] * 2

    @pytest.mark.parametrize(
        "choices", [{"pause_mode": "park", "interface": "notebook"}, {"pause_mode": "wait"}, {"pause_mode": "skip"}]
    )
    async def test_a_person_gets_the_error_at_once(self, shared_run: Run, choices: dict[str, Any]) -> None:
        """A run of a notebook, and a run that does not leave its pauses to a server, fails without a retry."""
        execution = await shared_run(self.FAILING, variables=self.KEY, **choices)

        assert execution.status == "error"
        assert "$attempt" not in execution.step("a").exports


def beside(folder: Path, **workflows: Workflow) -> WorkflowFinder:
    """Return a function that finds one of *workflows* by name."""
    return lambda name, _: (
        WorkflowSource(folder / f"{name}.ipynb", "notebook", workflows[name]) if name in workflows else None
    )


@pytest.mark.parametrize("source", ["previous_exports", "pinned_exports"])
async def test_a_step_that_reads_a_secret_of_another_run_has_a_note(
    run: Run, connect: Callable[..., str], source: str
) -> None:
    """A placeholder for a secret of this run is restored; the note names one of another run, and how to get it."""
    account = connect()
    values = {"own": f"⟦secret:slack/{account}/oauth_access_token⟧", "other": "⟦secret:slack/apn_gone/token|hex⟧"}
    choices: dict[str, Any] = {source: {"get": {"$return_value": values}}}
    read = "values = pd.steps['get']['$return_value']\nreturn [len(values['own']), len(values['other'])]"

    execution = await run(
        python_step("get", options="--app slack"),
        python_step("read", read, options="--app slack"),
        python_step("last"),
        external_user_id="ada",
        options=TestOptions(only_steps=frozenset({"read", "last"}), **choices),
        event=None,
    )

    assert execution.step("read").return_value == [len("xoxb-0123456789"), len(values["other"])]
    assert execution.step("read").output == (
        "[pdkernel] The exports of get have placeholders for secrets that this run does not have: slack/apn_gone/token. "
        "Run both steps in one run.\n"
    )
    assert execution.step("last").logs == ()


class TestTrigger:
    """`$.flow.trigger` runs another workflow and waits for it."""

    async def test_result_is_the_return_value_of_the_other_workflow(
        self, run: Run, runtime: WorkflowEngine, tmp_path: Path
    ) -> None:
        """The result is the last return value of the other workflow, which gets the payload as its event, or all exports; the journal has all runs."""
        other = a_workflow(
            python_step("read", "pd.export('x', 1)\nreturn pd.steps['trigger']['event']['n']"),
            node_step("double", "return steps.read.$return_value * 2"),
            name="Other",
        )
        caller = node_step("call", "return await $.flow.trigger('p_other', { n: 21 })")
        all_exports = python_step("all", "return pd.flow.trigger('p_other', {'n': 1}, {'result_type': 'all_exports'})")
        execution = await run(caller, all_exports, find_workflow=beside(tmp_path, p_other=other))
        kept = await runtime.journal.list_executions(limit=10)

        assert execution.step("call").return_value == 42
        assert execution.step("all").return_value == {
            "read": {"x": 1, "$return_value": 1},
            "double": {"$return_value": 2},
            "$context": None,
        }
        assert sorted(each.workflow for each in kept) == ["Other", "Other", "Test"]

    async def test_choices_for_the_caller_do_not_count_for_the_other_workflow(
        self, shared_run: Run, tmp_path: Path
    ) -> None:
        """Pins of the caller and its choice of steps name its own steps; the other workflow may have steps of the same names."""
        other = a_workflow(
            python_step("first", "return 'run'"), python_step("last", "return pd.steps['first']"), name="O"
        )
        pinned = {"first": {"$return_value": "pinned"}}
        execution = await shared_run(
            python_step("first"),
            python_step("call", "return pd.flow.trigger('o')"),
            find_workflow=beside(tmp_path, o=other),
            options=TestOptions(pinned_exports=pinned, only_steps=frozenset({"call"})),
        )
        assert execution.step("first").status == "pinned"
        assert execution.step("call").return_value == {"$return_value": "run"}

    async def test_a_triggered_run_belongs_to_the_user_of_its_caller(
        self, run: Run, runtime: WorkflowEngine, tmp_path: Path
    ) -> None:
        """User and environment are those of the caller, not those of the payload's headers."""
        other = a_workflow(python_step("one"), name="Other")
        headers = {"x-pd-external-user-id": "grace", "x-pd-environment": "development"}
        calls = [f"pd.flow.trigger('o', {payload})" for payload in ({"headers": headers}, {})]
        await run(
            python_step("call", "\n".join(calls)),
            find_workflow=beside(tmp_path, o=other),
            external_user_id="ada",
            environment="production",
        )
        kept = await runtime.journal.list_executions(limit=10)
        users = [(each.external_user, each.environment) for each in kept if each.workflow == "Other"]
        assert users == [("ada", "production")] * 2

    @pytest.mark.parametrize("origin", ["terminal", "serve"])
    async def test_the_other_run_is_cancelled_by_another_process(
        self, runtime: WorkflowEngine, project: Project, directory: LocalDirectory, tmp_path: Path, origin: str
    ) -> None:
        """The other workflow's step ends, though it would run on; so does the step that waits for it, with the reason."""
        gate = Gate(tmp_path)
        other = a_workflow(python_step("long", gate.code), name="Other")
        caller = a_workflow(python_step("call", "pd.flow.trigger('o')"))
        request = RunRequest(caller, an_event(), parse_policy("deny"), find_workflow=beside(tmp_path, o=other))
        async with await WorkflowEngine.start(project, directory, origin=origin) as running:
            task = asyncio.create_task(running.run(request))
            await gate.wait_until_reached()
            (run_id,) = [run.id for run in await runtime.journal.list_executions() if run.workflow == "Other"]
            await runtime.journal.cancel(run_id)
            execution = await asyncio.wait_for(task, 60)
        cancelled = await runtime.journal.get_execution(run_id)

        assert cancelled is not None
        assert cancelled.status == "cancelled"
        assert execution.error is not None
        assert (
            execution.error.message == "The workflow 'Other' did not finish: The run was cancelled while this step ran."
        )

    async def test_a_secret_in_the_payload_is_hidden_in_the_other_run(
        self, run: Run, runtime: WorkflowEngine, connect: Callable[..., str], tmp_path: Path
    ) -> None:
        """The other workflow gets a secret of its caller, which its record does not show."""
        account = connect()
        other = a_workflow(python_step("one", "return len(pd.steps['trigger']['event']['token'])"), name="Other")
        body = (
            "token = pd.inputs['slack']['$auth']['oauth_access_token']\nreturn pd.flow.trigger('o', {'token': token})"
        )

        execution = await run(
            python_step("call", body, options="--app slack"),
            find_workflow=beside(tmp_path, o=other),
            external_user_id="ada",
        )

        kept = next(each for each in await runtime.journal.list_executions(limit=2) if each.workflow == "Other")
        assert execution.step("call").return_value == len("xoxb-0123456789")
        assert kept.event == {"token": f"⟦secret:slack/{account}/oauth_access_token⟧"}

    async def test_a_secret_of_another_workflow_is_hidden_in_a_third_one(
        self, run: Run, runtime: WorkflowEngine, connect: Callable[..., str], tmp_path: Path
    ) -> None:
        """A step gets a secret from one workflow and passes it on to the next; the record of that run does not show it."""
        account = connect("grace")
        first = a_workflow(
            python_step("one", "return pd.inputs['slack']['$auth']['oauth_access_token']", options="--app slack"),
            name="First",
        )
        second = a_workflow(python_step("one", "return len(pd.steps['trigger']['event']['token'])"), name="Second")
        body = (
            "token = pd.flow.trigger('first', external_user_id='grace')\n"
            "return pd.flow.trigger('second', {'token': token})"
        )

        await run(python_step("call", body), find_workflow=beside(tmp_path, first=first, second=second))

        kept = next(each for each in await runtime.journal.list_executions(limit=3) if each.workflow == "Second")
        assert kept.event == {"token": f"⟦secret:slack/{account}/oauth_access_token⟧"}

    async def test_a_secret_in_the_result_is_hidden_in_the_callers_run(
        self, run: Run, connect: Callable[..., str], tmp_path: Path
    ) -> None:
        """The caller gets a secret of the other workflow's account; neither its exports nor its logs and calls show it."""
        account = connect("grace")
        other = a_workflow(
            python_step("one", "return pd.inputs['slack']['$auth']['oauth_access_token']", options="--app slack"),
            name="Other",
        )
        body = """
            import urllib.request
            print("before")
            token = pd.flow.trigger("o", external_user_id="grace")
            print(token)
            try:
                urllib.request.urlopen(f"http://hooks.example.test/{token}")
            except OSError:
                pass  # no stand-in listens
            return token
            """

        execution = await run(
            python_step("call", body),
            python_step("next", "return len(pd.steps['call']['$return_value'])"),
            find_workflow=beside(tmp_path, o=other),
            egress="stand-in=http://127.0.0.1:9",
        )

        hidden = f"⟦secret:slack/{account}/oauth_access_token⟧"
        call = execution.step("call")
        assert call.return_value == hidden
        assert "".join(log.text for log in call.logs).startswith(f"before\n{hidden}\n")
        assert [each.url for each in call.requests] == [f"http://hooks.example.test/{hidden}"]
        assert execution.step("next").return_value == len("xoxb-0123456789")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fails", "'Fails' did not finish: broken"),
            ("p_gone", "There is no workflow 'p_gone' that this workflow can start."),
            ("me", "a chain of triggered workflows has at most 10"),
        ],
        ids=["the other workflow fails", "an unknown workflow", "a cycle"],
    )
    async def test_workflow_that_is_not_run_to_its_end_fails_the_step(
        self, shared_run: Run, tmp_path: Path, name: str, message: str
    ) -> None:
        """The step fails with the reason, also if workflows trigger each other without end."""
        fails = a_workflow(python_step("one", "raise ValueError('broken')"), name="Fails")
        me = a_workflow(python_step("call", "return pd.flow.trigger('me', {})"), name="Me")
        caller = python_step("call", f"pd.flow.trigger({name!r})")
        error = error_of(await shared_run(caller, find_workflow=beside(tmp_path, fails=fails, me=me)))

        assert error.step == "call"
        assert message in error.message

    @pytest.mark.parametrize("mode", ["wait", "park"])
    async def test_the_caller_waits_for_a_paused_workflow(
        self, run: Run, clock: ManualClock, tmp_path: Path, mode: str
    ) -> None:
        """If the other workflow pauses, the step gets its result after the pause."""
        other = a_workflow(python_step("one", "pd.flow.delay(90_000)"), python_step("two", "return 2"), name="Other")
        before = clock.now()
        caller = python_step("call", "return pd.flow.trigger('o')")
        execution = await run(caller, find_workflow=beside(tmp_path, o=other), pause_mode=mode)

        assert execution.step("call").return_value == 2
        assert (clock.now() - before).total_seconds() == 90

    async def test_a_process_without_a_server_applies_no_limits(self, shared_run: Run, tmp_path: Path) -> None:
        """A served run that is replayed here does not wait for a dispatch to start the workflow that its step triggers."""
        other = a_workflow(python_step("one", "return 1"), name="Other", concurrency=1)
        caller = python_step("call", "return pd.flow.trigger('o')")

        execution = await shared_run(
            caller, find_workflow=beside(tmp_path, o=other), interface="http", pause_mode="park"
        )

        assert execution.step("call").return_value == 1


async def test_the_body_that_resumes_a_run_shows_no_secret(
    runtime: WorkflowEngine, project: Project, tmp_path: Path
) -> None:
    """The record has placeholders for secrets in the body of the call, and the steps below have the values."""
    secret = "key-0123456789"
    project.variables.set("KEY", secret)
    steps = (
        python_step("wait", "pd.flow.suspend(60000)"),
        python_step("next", "return len(pd.steps['wait']['$resume_data']['key'])"),
    )
    request = RunRequest(
        a_workflow(*steps),
        an_event(),
        parse_policy("deny"),
        folder=tmp_path,
        pause_mode="park",
        variables={"KEY": secret},
    )
    paused = await runtime.run(request)
    await runtime.resolve_wait(WaitKey(paused.id, "wait"), "resume", {"key": secret})
    (claimed,) = await runtime.journal.claim_next()

    execution = await runtime.continue_run(claimed)

    assert execution.step("wait").exports["$resume_data"] == {"key": "⟦secret:env/KEY⟧"}
    assert execution.step("next").return_value == len(secret)
    assert secret not in str(execution.to_json())


async def test_a_continued_run_counts_its_earlier_steps(runtime: WorkflowEngine, tmp_path: Path) -> None:
    """The limit of a run's payload includes the exports of the steps before a pause."""
    steps = (
        python_step("one", "return 'x' * 4_000_000"),
        python_step("wait", "pd.flow.suspend(60000)"),
        python_step("two", "return 'x' * 3_000_000"),
    )
    request = RunRequest(a_workflow(*steps), an_event(), parse_policy("deny"), folder=tmp_path, pause_mode="park")
    paused = await runtime.run(request)
    await runtime.resolve_wait(WaitKey(paused.id, "wait"), "resume")
    (claimed,) = await runtime.journal.claim_next()

    error = error_of(await runtime.continue_run(claimed))

    assert (error.step, error.name) == ("two", "FunctionPayloadLimitExceeded")


async def test_an_external_user_has_a_number_of_paused_runs(
    project: Project, directory: LocalDirectory, clock: ManualClock
) -> None:
    """A step does not pause a run of an external user who has a thousand paused runs; runs of another user pause."""
    directory.add_account(
        external_user_id="ada", app="slack", credentials={"oauth_access_token": "xoxb-ada-0123456789"}
    )
    directory.add_account(
        external_user_id="bob", app="slack", credentials={"oauth_access_token": "xoxb-bob-0123456789"}
    )
    request = RunRequest(
        a_workflow(node_step("a", "$.flow.delay(90_000)")),
        an_event(),
        parse_policy("deny"),
        external_user_id="ada",
        pause_mode="park",
    )
    async with await WorkflowEngine.start(project, directory, clock=clock) as engine:
        first = await engine.run(request)
        with closing(sqlite3.connect(project.folder / "project.db")) as database, database:
            columns = [name for _, name, *_ in database.execute("pragma table_info(runs)")]
            copied = ", ".join("r.id || n.value" if name == "id" else f"r.{name}" for name in columns)
            copies = f"select {copied} from runs as r, json_each(?) as n where r.id = ?"
            database.execute(
                f"insert into runs ({', '.join(columns)}) {copies}",
                (json.dumps([*range(MAX_PAUSED_RUNS - 1)]), first.id),
            )
        too_many = await engine.run(request)
        other = await engine.run(replace(request, external_user_id="bob"))

    assert (first.status, too_many.status, other.status) == ("paused", "error", "paused")
    assert too_many.error is not None
    assert too_many.error.message.startswith("The run was not paused: 1,000 runs of the external user 'ada' are paused")
