"""The Python API: what `pdkernel` exports for scripts, tests and notebooks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pdkernel
from pdkernel.cli import pdkernel as command
from pdkernel.errors import (
    DefinitionError,
    EventError,
    NotebookError,
    ProjectError,
    RequestError,
    UnknownStepError,
)
from pdkernel.model import JSON
from pdkernel.runtimes import process_tree
from tests.notebook_files import notebook_of, pin_steps

ROOT = Path(__file__).parents[1]
ECHO = '%%pdstep echo\ndef handler(pd):\n    print("echoing")\n    return pd.steps["trigger"]["event"].get("body")\n'
TWICE = '%%pdstep twice\ndef handler(pd):\n    return [pd.steps["echo"]["$return_value"]] * 2\n'
FAIL = '%%pdstep fail\ndef handler(pd):\n    raise ValueError("wrong on purpose")\n'
SLEEP = "%%pdstep sleep\nimport os, time\ndef handler(pd):\n    print(os.environ['PDKERNEL_STEP_' + 'PROCESS'], flush=True)\n    time.sleep(1000)\n"
SCRIPT = """
import pdkernel

def show(execution):
    for step in execution.steps:
        if step.logs:
            print(step.output.strip(), flush=True)

pdkernel.run("sleep.ipynb", event={}, on_change=show)
print("not reached")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project, notebooks and a saved event."""
    folder = tmp_path_factory.mktemp("api")
    notebook_of(folder / "echo.ipynb", ECHO, TWICE)
    notebook_of(folder / "fail.ipynb", FAIL)
    notebook_of(folder / "sleep.ipynb", SLEEP)
    notebook_of(folder / "timer.ipynb", "%%pdworkflow\ntrigger: {type: schedule, cron: '0 * * * *'}\n", ECHO)
    notebook_of(
        folder / "pause.ipynb",
        "%%pdstep pause\ndef handler(pd):\n    pd.flow.delay(60_000)\n",
        "%%pdstep after --lang bash\n:",
    )
    (folder / "events").mkdir()
    (folder / "events" / "hello.json").write_text('{"method": "POST", "body": "hello"}')
    (folder / "script.py").write_text(SCRIPT)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[pdkernel.Engine]:
    """An engine that the tests share."""
    with pdkernel.Engine(project=folder / ".pdkernel") as engine:
        yield engine


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds, for at most a minute."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_loaded_workflow_shows_no_code(folder: Path) -> None:
    """A loaded workflow has its steps and its folder; its text form has names and no code."""
    source = pdkernel.load(str(folder / "echo.ipynb"))

    assert [step.name for step in source.workflow.steps] == ["echo", "twice"]
    assert source.folder == folder
    assert repr(source) == f"WorkflowSource('echo', path='{folder}/echo.ipynb', steps=[echo, twice])"


def test_folder_of_several_workflows_is_refused(folder: Path) -> None:
    """The error names the workflows and what to pass instead."""
    with pytest.raises(NotebookError, match=r"contains 5 workflows: echo.ipynb, .*\nPass the path of one of them"):
        pdkernel.load(folder)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"event": {"body": {"a": (1, 2)}}}, {"a": [1, 2]}),
        ({"event": pdkernel.Event({"body": 1})}, 1),
        ({"event": "hello"}, "hello"),
        ({"body": [None, "a"]}, [None, "a"]),
    ],
)
def test_event_forms(folder: Path, engine: pdkernel.Engine, arguments: dict[str, Any], expected: JSON) -> None:
    """The event is an object, an `Event`, the name of a saved event, or a payload."""
    execution = pdkernel.run(folder / "echo.ipynb", engine=engine, **arguments)

    assert (execution.status, execution.step("echo").return_value) == ("success", expected)
    assert execution.step("twice").return_value == [expected, expected]


def test_event_file_is_read_from_the_current_folder(
    folder: Path, engine: pdkernel.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path of an event file and of a workflow starts at the current folder, as for the command."""
    monkeypatch.chdir(folder / "events")

    execution = pdkernel.run("../echo.ipynb", event=Path("hello.json"), engine=engine)

    assert execution.step("echo").return_value == "hello"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "The event is missing"),
        ({"event": {}, "body": 1}, "An event and a body exclude each other"),
        ({"event": {"subject": 1}}, "the event is not an event: it has 'subject'"),
        ({"body": {"at": {1}}}, "The body is not JSON: Object of type set is not JSON serializable"),
        ({"body": float("nan")}, "The body is not JSON"),
        ({"event": "absent"}, "There is no event 'absent'. Saved events: hello"),
        ({"event": "x" * 300}, "There is no event 'xxx"),
        ({"body": 1, "environment": "test"}, "test"),
        ({"body": 1, "egress": "some"}, "'some' is not an outbound policy"),
        ({"body": 1, "egress": ""}, "'' is not an outbound policy"),
        ({"body": 1, "external_user": ""}, "An external user's id cannot be blank"),
        ({"body": 1, "variables": {"A": 1}}, "The variable A is not a string"),
        ({"body": 1, "project": "other"}, "An engine has a project already"),
        ({"body": 1, "from_step": "twice", "to_step": "echo"}, "is above step 'twice'"),
    ],
)
def test_wrong_argument_is_refused(
    folder: Path, engine: pdkernel.Engine, arguments: dict[str, Any], message: str
) -> None:
    """A wrong argument raises before any step."""
    with pytest.raises(RequestError, match=message):
        pdkernel.run(folder / "echo.ipynb", engine=engine, **arguments)


@pytest.mark.parametrize("arguments", [{"pins": {"none": 1}}, {"from_step": "none"}, {"to_step": "none"}])
def test_unknown_step_is_refused(folder: Path, engine: pdkernel.Engine, arguments: dict[str, Any]) -> None:
    """A step that the workflow does not have raises."""
    with pytest.raises(UnknownStepError):
        pdkernel.run(folder / "echo.ipynb", event={}, engine=engine, **arguments)


def test_schedule_needs_no_event(folder: Path, engine: pdkernel.Engine) -> None:
    """A scheduled workflow runs on the event of its timer."""
    execution = pdkernel.run(folder / "timer.ipynb", engine=engine)

    assert (execution.status, execution.event["cron"]) == ("success", "0 * * * *")


def test_failed_step_does_not_raise(folder: Path, engine: pdkernel.Engine) -> None:
    """The execution has the error, and `raise_for_status` raises it; the execution of a success returns itself."""
    failed = pdkernel.run(folder / "fail.ipynb", event={}, engine=engine)
    passed = pdkernel.run(folder / "echo.ipynb", body=1, engine=engine)

    with pytest.raises(pdkernel.RunFailedError) as caught:
        failed.raise_for_status()
    assert failed.status == "error"
    assert caught.value.execution is failed
    assert str(caught.value) == "The run of 'fail' failed in step fail: wrong on purpose"
    assert repr(failed) == (
        f"Execution('fail', id='{failed.id}', status='error', steps=[fail: error], error='wrong on purpose')"
    )
    assert passed.raise_for_status() is passed


def test_refused_run_is_an_execution(folder: Path, engine: pdkernel.Engine) -> None:
    """A run that is refused ends before its first step; the execution has the reason and a fix in words of Python."""
    step = "%%pdstep post --app slack\ndef handler(pd):\n    return 1\n"
    source = notebook_of(folder.parent / "post.ipynb", step)

    execution = pdkernel.run(source, event={}, external_user="nobody", engine=engine)
    without_user = pdkernel.run(source, event={}, engine=engine)

    assert execution.error is not None
    assert without_user.error is not None
    assert without_user.error.message.endswith("Pass external_user=ID.")
    assert (execution.status, execution.external_user, execution.steps[0].status) == ("error", "nobody", "not_run")
    assert execution.error.code == "external_user_not_found"


def test_part_of_a_workflow_runs_with_pins(folder: Path, engine: pdkernel.Engine) -> None:
    """`from_step` and `to_step` choose steps; a pin gives the exports of a step that does not run."""
    later = pdkernel.run(folder / "echo.ipynb", event={}, from_step="twice", pins={"echo": "pinned"}, engine=engine)
    first = pdkernel.run(folder / "echo.ipynb", body=1, to_step="echo", engine=engine)

    assert later.step("twice").return_value == ["pinned", "pinned"]
    assert [(step.name, step.status) for step in first.steps] == [("echo", "success"), ("twice", "not_run")]


def test_outbound_calls_are_refused_under_pytest(folder: Path, engine: pdkernel.Engine) -> None:
    """Without `egress` the default of the command applies: `deny` under pytest; `egress` takes the command's texts."""
    code = "import urllib.request\ndef handler(pd):\n    return urllib.request.urlopen('http://api.example.test/').status\n"
    source = notebook_of(folder.parent / "call.ipynb", f"%%pdstep call\n{code}")

    execution = pdkernel.run(source, event={}, engine=engine)
    allowed = pdkernel.run(source, event={}, egress="allow=other.example.test", engine=engine)

    assert [call.outcome for call in execution.requests] == ["denied"]
    assert "the outbound policy is deny" in (execution.requests[0].note or "")
    assert "deny" not in (allowed.requests[0].note or "")


@pytest.mark.parametrize(("mode", "status"), [("park", "paused"), ("skip", "success")])
def test_pauses(folder: Path, engine: pdkernel.Engine, mode: Any, status: str) -> None:
    """A pause ends the run, or is skipped."""
    execution = pdkernel.run(folder / "pause.ipynb", event={}, pause_mode=mode, engine=engine)

    assert execution.status == status
    assert execution.raise_for_status() is execution


def test_variables_and_changes(folder: Path, engine: pdkernel.Engine, capfd: pytest.CaptureFixture[str]) -> None:
    """A step reads a variable of the caller, which wins over `.env`; the caller hears of each change; the API prints nothing."""
    beside = folder.parent / "with_variables"
    beside.mkdir()
    (beside / ".env").write_text("OWN=1\nFILE=123\n")
    source = notebook_of(
        beside / "env.ipynb",
        "%%pdstep env\nimport os\ndef handler(pd):\n    print('of the step')\n"
        "    return [len(os.environ['OWN']), len(os.environ['FILE'])]\n",
    )
    seen: list[pdkernel.Execution] = []

    execution = pdkernel.run(source, event={}, variables={"OWN": "12345"}, on_change=seen.append, engine=engine)

    assert execution.step("env").return_value == [5, 3]
    assert seen[0].status == "executing"
    assert seen[-1] == execution
    assert capfd.readouterr() == ("", "")


def test_a_triggered_workflow_has_the_variables_beside_it(folder: Path, engine: pdkernel.Engine) -> None:
    """A step in another folder reads the `.env` of that folder, and variables of the caller, which win over both files."""
    places = folder.parent / "triggers"
    for name, own in ((".", "1"), ("called", "12")):
        (places / name).mkdir(parents=True, exist_ok=True)
        (places / name / ".env").write_text(f"OWN={own}\nGIVEN=1\n")
    notebook_of(
        places / "called" / "work.ipynb",
        "%%pdstep env\nimport os\ndef handler(pd):\n    return [len(os.environ['OWN']), len(os.environ['GIVEN'])]\n",
    )
    caller = notebook_of(
        places / "call.ipynb",
        "%%pdstep call\ndef handler(pd):\n    return pd.flow.trigger('work.ipynb')\n",
    )

    execution = pdkernel.run(caller, event={}, variables={"GIVEN": "123"}, engine=engine)

    assert execution.step("call").return_value == [2, 3]


def test_a_triggered_workflow_finds_the_workflows_beside_itself(folder: Path, engine: pdkernel.Engine) -> None:
    """A step of the other workflow names a notebook in its own folder, which is not beside the caller."""
    places = folder.parent / "chain"
    (places / "called").mkdir(parents=True)
    notebook_of(places / "called" / "last.ipynb", "%%pdstep a\ndef handler(pd):\n    return 'last'\n")
    trigger = "%%pdstep call\ndef handler(pd):\n    return pd.flow.trigger({!r})\n"
    notebook_of(places / "called" / "first.ipynb", trigger.format("last.ipynb"))
    caller = notebook_of(places / "call.ipynb", trigger.format("first"))

    execution = pdkernel.run(caller, event={}, engine=engine)

    assert execution.step("call").return_value == "last"


def test_the_event_names_the_external_user(folder: Path, engine: pdkernel.Engine) -> None:
    """A run is for the user and the environment that the event names, unless the arguments name others."""
    event: dict[str, JSON] = {"headers": {"x-pd-external-user-id": "ada", "x-pd-environment": "production"}}

    named = pdkernel.run(folder / "echo.ipynb", event=event, engine=engine)
    other = pdkernel.run(
        folder / "echo.ipynb", event=event, external_user="grace", environment="development", engine=engine
    )

    assert [(run.external_user, run.environment) for run in (named, other)] == [
        ("ada", "production"),
        ("grace", "development"),
    ]


def test_nothing_is_installed_on_request(folder: Path, engine: pdkernel.Engine) -> None:
    """With `install=False` a missing package refuses the run."""
    source = notebook_of(
        folder.parent / "package.ipynb",
        "%%pdstep code --lang node\nimport x from 'a-missing-package';\nexport default { run: () => x }",
    )

    execution = pdkernel.run(source, event={}, install=False, engine=engine)

    assert execution.error is not None
    assert execution.error.code == "package_missing"


def test_run_without_an_engine_makes_a_project(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run makes a project in the current folder, records the run there, and uses the project of a folder below."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    first = pdkernel.run(folder / "echo.ipynb", body=1)
    monkeypatch.chdir(tmp_path / "below")

    second = pdkernel.run(folder / "echo.ipynb", body=1)

    assert (first.status, second.status) == ("success", "success")
    assert (tmp_path / ".pdkernel").is_dir()
    assert not (tmp_path / "below" / ".pdkernel").exists()


def test_unusable_project_is_an_error(folder: Path, tmp_path: Path) -> None:
    """A project folder that cannot be used raises."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ProjectError):
        pdkernel.run(folder / "echo.ipynb", body=1, project=tmp_path / "file")


def test_runs_from_several_threads(folder: Path, tmp_path: Path) -> None:
    """Runs in several threads, each with an engine of its own, do not disturb one another."""
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(pdkernel.run, folder / "echo.ipynb", body=number, project=tmp_path / ".pdkernel")
            for number in range(2)
        ]
        values = [run.result().step("echo").return_value for run in runs]

    assert values == [0, 1]


async def test_sync_run_in_a_running_loop(folder: Path, engine: pdkernel.Engine) -> None:
    """`run` works where an event loop is running, as in a notebook."""
    assert asyncio.get_running_loop().is_running()

    assert pdkernel.run(folder / "echo.ipynb", body=1, engine=engine).status == "success"


async def test_async_runs_at_the_same_time(folder: Path, engine: pdkernel.Engine) -> None:
    """Two runs of one engine are active at the same time, and the loop goes on meanwhile."""
    cells = "%%pdstep meet\nimport pathlib, time\ndef handler(pd):\n    {}\n"
    here = folder.parent / "met"
    here.mkdir()
    write = "pathlib.Path(pd.steps['trigger']['event']['body']['own']).touch()\n    "
    wait = "while not pathlib.Path(pd.steps['trigger']['event']['body']['other']).exists(): time.sleep(0.01)"
    source = pdkernel.load(notebook_of(folder.parent / "meet.ipynb", cells.format(write + wait)))
    names = [str(here / name) for name in ("a", "b")]

    runs = await asyncio.gather(
        *(
            pdkernel.run_async(source, body={"own": own, "other": other}, engine=engine)
            for own, other in (names, names[::-1])
        )
    )

    assert [execution.status for execution in runs] == ["success", "success"]


async def test_active_runs_of_an_engine_are_limited(tmp_path: Path) -> None:
    """With `max_active_runs=1` a run begins when the one before has ended; the engine is known as one of a Python program."""
    log = tmp_path / "log"
    step = f"    for mark in '+-':\n        open({str(log)!r}, 'a').write(mark)\n        time.sleep(0.1)\n"
    notebook = notebook_of(tmp_path / "one.ipynb", f"%%pdstep one\nimport time\ndef handler(pd):\n{step}")

    with pdkernel.Engine(project=tmp_path / ".pdkernel", max_active_runs=1) as engine:
        runs = await asyncio.gather(*(pdkernel.run_async(notebook, event={}, engine=engine) for _ in range(3)))
        with closing(sqlite3.connect(tmp_path / ".pdkernel" / "project.db")) as connection:
            origins = connection.execute("select origin from executors where alive").fetchall()

    assert [execution.status for execution in runs] == ["success"] * 3
    assert log.read_text() == "+-" * 3
    assert origins == [("python",)]


async def test_cancelled_task_cancels_the_run(folder: Path, engine: pdkernel.Engine) -> None:
    """If the awaiting task is cancelled, the run ends as cancelled and its step's processes end."""
    seen: list[pdkernel.Execution] = []
    task = asyncio.create_task(
        pdkernel.run_async(folder / "sleep.ipynb", event={}, on_change=seen.append, engine=engine)
    )
    await until(lambda: bool(seen and seen[-1].steps[0].logs))
    mark = seen[-1].steps[0].output.strip()

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[-1].status == "cancelled"
    assert process_tree.find_processes([], [mark]) == set()
    with pytest.raises(pdkernel.RunFailedError, match="The run of 'sleep' was cancelled"):
        seen[-1].raise_for_status()


def test_interrupt_ends_the_script(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C in a script cancels the run, raises `KeyboardInterrupt`, and leaves no process."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PDKERNEL_PROJECT": str(tmp_path / ".pdkernel")}
    script = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with script:
        assert script.stdout is not None
        mark = script.stdout.readline().strip()
        during = process_tree.find_processes([], [mark])

        script.send_signal(signal.SIGINT)
        out, errors = script.communicate(timeout=30)

    assert mark
    assert during != set()
    assert "not reached" not in out
    assert errors.strip().endswith("KeyboardInterrupt")
    assert script.returncode == -signal.SIGINT
    assert process_tree.find_processes([], [mark]) == set()


async def test_closing_an_engine_cancels_its_runs(folder: Path, tmp_path: Path) -> None:
    """The end of the `with` block cancels what is still running, and leaves no process."""
    seen: list[pdkernel.Execution] = []
    with pdkernel.Engine(project=tmp_path / ".pdkernel") as engine:
        task = asyncio.create_task(
            pdkernel.run_async(folder / "sleep.ipynb", event={}, on_change=seen.append, engine=engine)
        )
        await until(lambda: bool(seen and seen[-1].steps[0].logs))

    execution = await task

    assert execution.status == "cancelled"
    assert process_tree.find_processes([], [execution.steps[0].output.strip()]) == set()


def test_closed_engine_refuses_runs(folder: Path, tmp_path: Path) -> None:
    """An engine that never ran can be closed twice; a run on it then raises."""
    engine = pdkernel.Engine(project=tmp_path / ".pdkernel")
    engine.close()
    engine.close()

    with pytest.raises(RequestError, match="The engine is closed"):
        pdkernel.run(folder / "echo.ipynb", body=1, engine=engine)
    assert not (tmp_path / ".pdkernel").exists()


def test_export_is_that_of_the_command(folder: Path, tmp_path: Path) -> None:
    """The export writes the files and returns the result of `pdkernel export --json`."""
    of_command = CliRunner().invoke(
        command, ["export", str(folder / "echo.ipynb"), "--to", str(tmp_path / "a"), "--json"]
    )

    exported = pdkernel.export(folder / "echo.ipynb", to=tmp_path / "b")
    again = pdkernel.export(pdkernel.load(folder / "echo.ipynb"), to=str(tmp_path / "b"), docs=True, dry_run=True)

    assert exported.to_json() == json.loads(of_command.stdout.replace(f"{tmp_path}/a", f"{tmp_path}/b"))
    assert (tmp_path / "b" / "echo" / "entry.py").is_file()
    assert exported.proof is None
    assert again.files.paths("new") == ("README.md",)
    assert not (tmp_path / "b" / "README.md").exists()


def test_export_with_a_proof(folder: Path, tmp_path: Path) -> None:
    """`prove` compares runs of the files with runs of the notebook, in the project that the caller names; pins are reported."""
    project = tmp_path / "elsewhere" / ".pdkernel"
    pin_steps(project, folder / "echo.ipynb", "twice")

    exported = pdkernel.export(folder / "echo.ipynb", to=tmp_path / "flow", prove=True, project=project)

    assert exported.proof is not None
    assert "Pins are ignored: twice ran." in exported.proof.notes
    assert exported.proof.verdict != "differs"


def test_an_unanswered_question_about_an_account(folder: Path, engine: pdkernel.Engine, tmp_path: Path) -> None:
    """A workflow with an unanswered question is exported; a proof is refused, and a run unless the step is pinned."""
    source = notebook_of(
        tmp_path / "send.ipynb",
        "%%pdstep send --lang node\nexport default { props: { slack: { type: 'app', app: 'slack' } }, run() {} }",
    )
    sidecar = "schema: pdkernel/1\nsteps:\n  send:\n    accounts:\n      slack: unanswered\n"
    (tmp_path / "send.pdkernel.yaml").write_text(sidecar)

    assert pdkernel.export(source, to=tmp_path / "exported").files.paths("new")
    pinned = pdkernel.run(source, event={}, pins={"send": 1}, engine=engine)
    assert pinned.step("send").status == "pinned"
    with pytest.raises(RequestError, match="unanswered"):
        pdkernel.run(source, event={}, engine=engine)
    with pytest.raises(RequestError, match="unanswered"):
        pdkernel.export(source, to=tmp_path / "proven", prove=True, project=tmp_path / ".pdkernel")
    assert not (tmp_path / "proven").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"The target folder is missing.\nPass either to=FOLDER"),
        ({"to": "a", "into": "b"}, "exclude each other"),
        ({"to": "a", "prove": True, "dry_run": True}, "needs written files"),
    ],
)
def test_export_refuses_wrong_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    """An export needs one target folder, and a proof needs written files."""
    with pytest.raises(RequestError, match=message):
        pdkernel.export(folder / "echo.ipynb", **arguments)


def test_errors_have_a_common_base() -> None:
    """Each error of the API is a `PdkernelError`."""
    assert issubclass(pdkernel.RunFailedError, pdkernel.PdkernelError)
    assert all(issubclass(each, pdkernel.PdkernelError) for each in (EventError, DefinitionError, RequestError))


def test_runs_are_a_data_frame(folder: Path, tmp_path: Path) -> None:
    """`pdkernel.runs` lists the runs of a project, newest first, and refuses a wrong filter."""
    project = tmp_path / "listed"
    with pdkernel.Engine(project=project) as engine:
        made = [pdkernel.run(folder / "echo.ipynb", body={"name": name}, external_user=name, engine=engine)
                for name in ("ada", "grace")]  # fmt: skip
    frame = pdkernel.runs(project=project)

    assert frame["id"].tolist() == [made[1].id, made[0].id]
    assert pdkernel.runs(project=project, external_user="ada", since="1h")["id"].tolist() == [made[0].id]
    assert len(pdkernel.runs(project=project, limit=1)) == 1
    assert len(pdkernel.runs(project=project, until="1h")) == 0
    with pytest.raises(pdkernel.PdkernelError, match="is not a status"):
        pdkernel.runs(project=project, status="failed")
