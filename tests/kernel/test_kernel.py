"""The kernel: its start, modules and replies, debugging, the end of steps, and two kernels on one project."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from pdkernel.common.version import VERSION
from pdkernel.execution import Execution
from pdkernel.files.notebook.notebook_text import LANGUAGE_INFO
from pdkernel.journal import Journal, SqliteBackend
from pdkernel.kit.session.state import SessionState
from pdkernel.model import Language
from pdkernel.runtimes import process_tree
from pdkernel.storage import Project
from tests.kernel.conftest import TIMEOUT_S, RunningKernel, running_kernels, text_of
from tests.lab_files import CHECKOUT, private_environment

Start = Callable[..., RunningKernel]

EVENT = 'open("event.json", "w").write(\'{"body": {"n": 20}}\');\n%pdevent event.json'
PROVIDER = (
    "from pdkernel.kit.magics.completion import register_matchers\n"
    "register_matchers(get_ipython(), lambda: {'trigger': {'event': {'body': {'title': 'x'}}}})"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the shared kernel."""
    return tmp_path_factory.mktemp("kernel")


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Iterator[RunningKernel]:
    """One kernel with denied outbound calls, for tests that leave no state."""
    with running_kernels(folder) as start:
        yield start("pdkernel", PDKERNEL_EGRESS="deny")


def test_kernelspec_starts_the_kernel(kernel: RunningKernel) -> None:
    """The kernelspec starts the kernel, which reports its name pdkernel and the language Python."""
    info = kernel.client.kernel_info(reply=True, timeout=TIMEOUT_S)["content"]

    assert info["implementation"] == "pdkernel"
    assert info["language_info"] == LANGUAGE_INFO
    assert info["banner"].startswith("Pipedream workflow (pdkernel")


def test_extension_is_loaded_silently(kernel: RunningKernel) -> None:
    """`%load_ext pdkernel` prints nothing in the kernel, also repeatedly; Python still works."""
    [before] = kernel.run("0")

    assert [kernel.run("%load_ext pdkernel") for _ in range(3)] == [[], [], []]
    assert kernel.run("import sys; sys.version_info.major") == [
        {
            "type": "execute_result",
            "data": {"text/plain": "3"},
            "metadata": {},
            "execution_count": before["execution_count"] + 4,
        }
    ]


def test_completion_request(kernel: RunningKernel) -> None:
    """A completion request in a step's cell is answered with the paths of the event."""
    kernel.run(PROVIDER)
    cell = "# sends it\n%%pdstep send --lang node\nreturn steps.trigger.event.body.t"

    assert kernel.complete(cell) == (len(cell) - 1, ["title"])
    assert kernel.complete("%%pdstep send --la") == (len("%%pdstep send "), ["--lang"])
    assert kernel.complete("%%pdstep send --lang bash\nls /et")[1] == []


@pytest.mark.parametrize("name", ["pdkernel", "python3"])
def test_cells_of_the_front_end_are_the_draft(start_kernel: Start, name: str) -> None:
    """The cells in a comm's messages are the draft before a cell runs, also after a reload, until the page leaves."""
    kernel = start_kernel(name)

    def send(kind: str, **content: Any) -> None:
        message = kernel.client.session.msg(kind, {"comm_id": "shown", **content})
        kernel.client.shell_channel.send(message)

    def shows(revision: int, step: str) -> dict[str, Any]:
        cell = {"index": 3, "id": "a", "type": "code", "source": f"%%pdstep {step}\ndef handler(pd): ..."}
        return {"page": "p", "revision": revision, "cells": [cell]}

    def steps() -> str:
        line = "from pdkernel.kit.magics.notebook_context import get_session\n"
        line += "print([step.name for step in get_session(get_ipython()).workflow.steps])"
        return text_of(kernel.run(line)[-1]).strip()

    kernel.run("%load_ext pdkernel")
    send("comm_open", target_name="pdkernel.notebook", data=shows(0, "one"))
    opened = steps()
    send("comm_msg", data=shows(1, "edited"))
    edited = steps()
    kernel.run("%reload_ext pdkernel")
    loaded = steps()
    send("comm_msg", data={"page": "p", "revision": 2, "cells": None})

    assert [opened, edited, loaded, steps()] == ["['one']", "['edited']", "['edited']", "[]"]


def test_kernelspec_is_complete() -> None:
    """The kernelspec has a display name, an icon and no path of this machine."""
    folder = CHECKOUT / "pdkernel" / "kernel" / "kernelspec"
    spec = json.loads((folder / "kernel.json").read_text())

    assert spec["display_name"] == "Pipedream workflow (pdkernel)"
    assert spec["argv"] == ["python", "-m", "pdkernel.kernel", "-f", "{connection_file}"]
    assert (folder / "logo-svg.svg").read_text().startswith("<svg")


def test_lab_accepts_the_extension(tmp_path: Path) -> None:
    """`jupyter labextension list` finds the extension enabled and compatible."""
    command = [sys.executable, "-m", "jupyterlab.labextensions", "list"]

    done = subprocess.run(
        command, cwd=tmp_path, env=private_environment(tmp_path), check=True, capture_output=True, text=True
    )

    line = next(line for line in (done.stdout + done.stderr).splitlines() if "pdkernel v" in line)
    assert "enabled" in line
    assert "OK" in line


def test_versions_agree() -> None:
    """The Lab extension has the package's version."""
    package = json.loads((CHECKOUT / "pdkernel" / "kernel" / "labextension" / "package.json").read_text())

    assert package["version"] == VERSION


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_exported_file_is_the_cell(kernel: RunningKernel, folder: Path, end: str) -> None:
    """A step's file ends like its cell: no newline is added or removed."""
    body = f"def handler(pd):\n    return 1{end}"

    kernel.run(f"%%pdstep only --no-run\n{body}")
    kernel.run(f"%pdexport --to exported{len(end)}")

    assert (folder / f"exported{len(end)}/only/entry.py").read_bytes() == body.encode()


# ── steps with --debug ──────────────────────────────────────────────────────────────────────────────────


CELL = """%%pdstep build --debug
def handler(pd):
    n = pd.steps["trigger"]["event"]["body"]["n"]
    print("n is", n)
    return n + 1"""
LINE_OF_PRINT = 4


class Debugger:
    """The debugging side of a front end (the Debug Adapter Protocol over the control channel)."""

    def __init__(self, kernel: RunningKernel) -> None:
        self._kernel = kernel
        self._numbers = itertools.count(1)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The body of the response to *command*."""
        client = self._kernel.client
        request = {"type": "request", "seq": next(self._numbers), "command": command, "arguments": arguments}
        message = client.session.msg("debug_request", request)
        client.control_channel.send(message)
        while True:
            reply = client.get_control_msg(timeout=TIMEOUT_S)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                content = reply["content"]
                assert content.get("success"), content
                body = content.get("body") or {}
                assert isinstance(body, dict)
                return body

    def attach(self, cell: str, line: int) -> Debugger:
        """Set a breakpoint at *line* of *cell*; return this debugger."""
        self.ask("initialize", clientID="test", adapterID="", linesStartAt1=True, columnsStartAt1=True, locale="en")
        self.ask("attach")
        path = self.ask("dumpCell", code=cell)["sourcePath"]
        self.ask("setBreakpoints", breakpoints=[{"line": line}], source={"path": path}, sourceModified=False)
        self.ask("configurationDone")
        return self


@pytest.fixture(scope="module")
def start_live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RunningKernel]]:
    """Start a kernel that allows outbound calls, with a chosen event."""
    with running_kernels(tmp_path_factory.mktemp("live")) as start:

        def start_live() -> RunningKernel:
            kernel = start("pdkernel", PDKERNEL_EGRESS="live")
            kernel.run(EVENT)
            return kernel

        yield start_live


@pytest.fixture(scope="module")
def live_kernel(start_live: Callable[[], RunningKernel]) -> RunningKernel:
    """One kernel for the steps with --debug."""
    return start_live()


@pytest.fixture(scope="module")
def debugged_kernel(start_live: Callable[[], RunningKernel]) -> tuple[RunningKernel, Debugger]:
    """A kernel with JupyterLab's debugger and a breakpoint in `CELL`."""
    kernel = start_live()
    return kernel, Debugger(kernel).attach(CELL, LINE_OF_PRINT)


def outputs(answers: list[dict[str, Any]]) -> str:
    """All displayed output, as text."""
    return "\n".join(text_of(answer) for answer in answers)


def test_a_breakpoint_set_in_the_cell_stops_the_step(debugged_kernel: tuple[RunningKernel, Debugger]) -> None:
    """JupyterLab's debugger stops at the cell's line, sees the step's variables, and continues."""
    kernel, debugger = debugged_kernel
    cell = kernel.client.execute(CELL)
    while True:
        message = kernel.client.get_iopub_msg(timeout=TIMEOUT_S)
        if message["msg_type"] == "debug_event" and message["content"].get("event") == "stopped":
            break

    thread = message["content"]["body"]["threadId"]
    frame = debugger.ask("stackTrace", threadId=thread)["stackFrames"][0]
    value = debugger.ask("evaluate", expression="n * 2", frameId=frame["id"], context="repl")["result"]
    debugger.ask("continue", threadId=thread)
    shown = outputs(list(kernel.answers(cell)))

    assert (frame["name"], frame["line"], value) == ("handler", LINE_OF_PRINT, "40")
    assert "build" in shown
    assert "n is 20" in shown


def test_other_steps_run_while_a_debugger_is_attached(debugged_kernel: tuple[RunningKernel, Debugger]) -> None:
    """A step without --debug runs in its worker, and the debugger is in no child process of the kernel."""
    kernel, _ = debugged_kernel

    shown = outputs(kernel.run("%%pdstep plain\ndef handler(pd):\n    return 'from a worker'"))

    commands = []
    for child in psutil.Process(kernel.manager.provisioner.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            commands.append(" ".join(child.cmdline()))
    assert "from a worker" in shown
    assert commands
    assert [command for command in commands if "pydevd" in command] == []


def test_breakpoint_hides_secrets(live_kernel: RunningKernel) -> None:
    """`breakpoint()` asks for commands in the cell; its output is redacted, and the step's output is recorded."""
    live_kernel.run('open(".env", "w").write("TOKEN=tok-0123456789abcdef")')
    text = '%%pdstep look --debug\nimport os\ndef handler(pd):\n    token = os.environ["TOKEN"]\n    breakpoint()\n    print("after")\n    return 1'
    cell = live_kernel.client.execute(text, allow_stdin=True)
    for command in ("p token", "c"):
        assert live_kernel.client.get_stdin_msg(timeout=TIMEOUT_S)["msg_type"] == "input_request"
        live_kernel.client.input(command)

    shown = outputs(list(live_kernel.answers(cell)))

    assert "tok-0123456789abcdef" not in shown
    assert "env/TOKEN" in shown
    assert "after" in shown


def test_debug_is_refused_in_the_mode_deny(kernel: RunningKernel) -> None:
    """Calls of the kernel itself cannot be denied, so the step does not run."""
    kernel.run(EVENT)

    shown = outputs(kernel.run(CELL))

    assert "the outbound policy 'deny' does not apply" in " ".join(shown.split())
    assert "The run did not start: see the error above." in shown
    assert "n is 20" not in shown


def test_the_kernel_is_unchanged_after_the_step(live_kernel: RunningKernel) -> None:
    """Variables, folder, import path and streams are restored; later steps get the exports."""
    look = "import os, sys, json; print(json.dumps([sorted(os.environ), os.getcwd(), sys.path, type(sys.stdout).__name__]))"
    before = outputs(live_kernel.run(look))
    live_kernel.run(CELL)
    below = outputs(
        live_kernel.run('%%pdstep below\ndef handler(pd):\n    return {"got": pd.steps["build"]["$return_value"]}')
    )

    assert json.loads(outputs(live_kernel.run(look))) == json.loads(before)
    assert "21" in below


def test_a_failure_is_at_the_cells_line(live_kernel: RunningKernel) -> None:
    """A step that fails in the debugger reports the line and its locals, without frames of pdkernel."""
    shown = outputs(live_kernel.run("%%pdstep bad --debug\nasync def handler(pd):\n    zero = 0\n    return 1 / zero"))

    assert "ZeroDivisionError" in shown
    assert "Cell [" in shown
    assert "zero = 0" in shown
    assert "python_step" not in shown


# ── the end of steps ────────────────────────────────────────────────────────────────────────────────────


LANGUAGES: tuple[Language, ...] = ("python", "node", "bash")
MARK = re.compile(r"\| ([0-9a-f]{32})(?: is up)?$", re.MULTILINE)
"""The first text that a step prints: the mark of its processes."""
TREE = "setsid sleep 1000 & (sleep 1000 & sleep 1000) & sleep 0.2; echo is up; sleep 1000"
"""A shell with children, a grandchild, and a child in its own session."""
GONE_WITHIN_S = 60.0
"""Much shorter than the time limit of the steps, 100 s, which would end them, too."""

PRINT_MARK = r"echo $(cat /proc/$$/environ | tr '\0' '\n' | sed -n s/PDKERNEL_STEP_PROCESS=//p)"

STEPS: dict[str, dict[Language, str]] = {
    "loop": {
        "python": "import os\ndef handler(pd):\n    print(open('/proc/self/environ').read().split('STEP_PROCESS=')[1][:32], 'is up')\n    while True: pass\n",
        "node": "import { readFileSync } from 'fs';\nexport default { run() { console.log(readFileSync('/proc/self/environ', 'utf8').split('STEP_PROCESS=')[1].slice(0, 32), 'is up'); for (;;); } }",
        "bash": f"{PRINT_MARK} is up; while :; do :; done",
    },
    "children": {
        "python": "import os, subprocess\ndef handler(pd):\n"
        f"    print(open('/proc/self/environ').read().split('STEP_PROCESS=')[1][:32], flush=True)\n    subprocess.run('{TREE}', shell=True)\n",
        "node": "import { spawnSync } from 'child_process';\nimport { readFileSync } from 'fs';\nexport default { run() { console.log(readFileSync('/proc/self/environ', 'utf8').split('STEP_PROCESS=')[1].slice(0, 32));\n"
        f"  spawnSync('{TREE}', {{ shell: true, stdio: 'inherit' }}) }} }}",
        "bash": f"{PRINT_MARK}; {TREE}",
    },
}
PROCESSES = {"loop": 1, "children": 5}
"""The minimum number of processes of each kind of step."""

NEXT: dict[Language, str] = {
    "python": "def handler(pd):\n    return 'usable'\n",
    "node": "export default { run() { return 'usable' } }",
    "bash": "echo result=usable >> $PIPEDREAM_EXPORTS",
}

FIRST_THREE = (
    "%%pdstep one\ndef handler(pd):\n    return {'from': 'python'}\n",
    "%%pdstep two --lang node\nexport default { run({ steps, $ }) { $.export('from', 'node') } }",
    "%%pdstep three --lang bash\necho from=bash >> $PIPEDREAM_EXPORTS",
)
FOURTH: dict[Language, str] = {
    "python": "def handler(pd):\n    s = pd.steps\n"
    "    return ' '.join([s['one']['$return_value']['from'], s['two']['from'], s['three']['from'],\n"
    "                     s['trigger']['event']['body']['word'], pd.context['external_user_id']])\n",
    "node": "export default { run({ steps: s, $ }) {\n"
    "  return [s.one.$return_value.from, s.two.from, s.three.from,\n"
    "          s.trigger.event.body.word, $.context.external_user_id].join(' ');\n} }",
    "bash": 'jq -r \'[.one["$return_value"].from, .two.from, .three.from, .trigger.event.body.word,\n'
    '  .trigger.context.external_user_id] | join(" ")\' "$PIPEDREAM_STEPS"',
}


def write_event(folder: Path) -> None:
    """The event of every kernel here."""
    (folder / "events").mkdir()
    (folder / "events" / "word.json").write_text('{"method": "POST", "body": {"word": "remembered"}}')


def start_step(kernel: RunningKernel, kind: str, language: Language) -> tuple[Iterator[str], str, set[int]]:
    """Start a step that does not end; return its later output, its mark and its processes."""
    cell = kernel.client.execute(f"%%pdstep forever --lang {language} --timeout 100\n{STEPS[kind][language]}")
    shown = map(text_of, kernel.answers(cell))
    seen: list[str] = []
    for text in shown:
        seen.append(text)
        is_earlier = "cancelled" in text  # the result of the step's last code, which gets a mark
        if "is up" in text and not is_earlier and (mark := MARK.search(text)):
            return shown, mark[1], processes_of(mark[1], PROCESSES[kind])
    raise AssertionError(f"the step ended by itself: {seen}")


def processes_of(mark: str, count: int) -> set[int]:
    """The processes with *mark*, when there are *count* of them: a shell starts some in the background."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while len(found := process_tree.find_processes([], [mark])) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def left_of(mark: str) -> set[int]:
    """The processes with *mark* that have not ended after `GONE_WITHIN_S` seconds."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := process_tree.find_processes([], [mark])) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.fixture(scope="module")
def interrupted_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    """One kernel for all interrupts, which must survive them; with a chosen event."""
    folder = tmp_path_factory.mktemp("interrupts")
    write_event(folder)
    with running_kernels(folder) as start:
        started = start("pdkernel")
        started.run("%pdevent word")
        yield started


@pytest.mark.parametrize("kind", ["loop", "children"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_interrupt_ends_the_step_and_its_children(
    interrupted_kernel: RunningKernel, language: Language, kind: str
) -> None:
    """An interrupt ends a step with all its processes, its timeline shows it, and the corrected step and Python cells run at once."""
    shown, mark, during = start_step(interrupted_kernel, kind, language)

    interrupted_kernel.manager.interrupt_kernel()
    left = left_of(mark)
    said = list(shown)

    assert len(during) >= PROCESSES[kind]
    assert left == set()
    drawn = [text for text in said if mark in text][-1]  # results of earlier cells are drawn again at any time
    assert "cancelled" in drawn
    assert "The run was cancelled while this step ran." in drawn
    assert "Cancelled: The run was interrupted, and its workers were stopped." in said
    mended = list(map(text_of, interrupted_kernel.run(f"%%pdstep forever --lang {language}\n{NEXT[language]}")))
    assert any("usable" in text and "success" in text for text in mended), mended
    assert [text_of(each) for each in interrupted_kernel.run("1 + 1")] == ["2"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_kill_9_of_the_kernel_leaves_no_process_of_the_step(
    start_kernel: Start, tmp_path: Path, language: Language
) -> None:
    """A killed kernel ends the running step, including grandchildren in other sessions, and the folder with its inputs is removed."""
    write_event(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kernel = start_kernel("pdkernel", TMPDIR=str(temporary))
    kernel.run("%pdevent word")
    _, mark, during = start_step(kernel, "children", language)
    folders = list(temporary.glob("pdkernel-*"))

    os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
    left = left_of(mark)

    assert len(during) >= PROCESSES["children"]
    assert left == set()
    assert folders != []
    assert wait_for_no_folder(temporary) == []


def wait_for_no_folder(temporary: Path) -> list[Path]:
    """The folders of pdkernel in *temporary* that are left after a while."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := list(temporary.glob("pdkernel-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_kernel_that_is_asked_to_end_leaves_no_file_of_a_step(start_kernel: Start, tmp_path: Path) -> None:
    """If a kernel ends during a step, the folder with the inputs of its steps is removed."""
    write_event(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kernel = start_kernel("pdkernel", TMPDIR=str(temporary))
    kernel.run("%pdevent word")
    start_step(kernel, "loop", "bash")
    during = list(temporary.rglob("steps.json"))

    kernel.manager.shutdown_kernel()

    assert len(during) == 1
    assert wait_for_no_folder(temporary) == []


def wait_until_saved(folder: Path, step: str) -> None:
    """Wait until the project has the result of *step* for the next kernel of the notebook."""
    deadline = time.monotonic() + TIMEOUT_S
    with Project.open(folder / ".pdkernel") as project:
        while True:
            state = project.notebook_states.load(str((folder / "work.ipynb").resolve()), SessionState)
            if state is not None and step in state.results:
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    """A saved notebook's kernel, restarted after three steps ran as ada."""
    folder = tmp_path_factory.mktemp("restart")
    write_event(folder)
    cells = [new_code_cell(source) for source in FIRST_THREE]
    nbformat.write(new_notebook(cells=cells), folder / "work.ipynb")
    with running_kernels(folder) as start:
        kernel = start("pdkernel", JPY_SESSION_NAME=str(folder / "work.ipynb"))
        kernel.run("%pduser ada")
        kernel.run("%pdevent word")
        for cell in FIRST_THREE:
            kernel.run(cell)
        wait_until_saved(folder, "three")  # a user's restart comes later than the kernel's save
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=TIMEOUT_S)
        yield kernel


@pytest.mark.parametrize("language", LANGUAGES)
def test_restarted_kernel_runs_step_4_without_the_three_above(restarted: RunningKernel, language: Language) -> None:
    """Event, external user and exports survive the kernel: a step of any language sees the exports of every language."""
    shown = list(map(text_of, restarted.run(f"%%pdstep four_{language} --lang {language}\n{FOURTH[language]}")))

    assert any("python node bash remembered ada" in text for text in shown), shown


# ── two kernels on one project ──────────────────────────────────────────────────────────────────────────


RUNS = 6
STEP = "%%pdstep {name}\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']['n'] * 2\n"
RUN = "for _ in range({runs}):\n    get_ipython().run_line_magic('pdrun', '')\n"


async def history(folder: Path) -> list[Execution]:
    """Every execution of the project, after reopening it."""
    with Project.open(folder) as project:
        assert project.sqlite_path is not None
        journal = Journal.open(SqliteBackend(project.sqlite_path))
        found = await journal.list_executions(limit=1000)
        await journal.close()
    return found


async def test_two_kernels_on_one_project_keep_both_histories(start_kernel: Start, tmp_path: Path) -> None:
    """Two kernels run steps at the same time without waiting for each other, and every execution is stored."""
    (tmp_path / "events").mkdir()
    for number in (1, 2):
        (tmp_path / "events" / f"e{number}.json").write_text(json.dumps({"body": {"n": number}}))
    kernels = [start_kernel("pdkernel", PDKERNEL_NOTEBOOK=f"work{number}.ipynb") for number in (1, 2)]
    for number, kernel in enumerate(kernels, 1):
        kernel.run(f"%%pdworkflow\nname: work {number}")
        kernel.run(STEP.format(name=f"double{number}"))
        kernel.run(f"%pdevent e{number}")

    running = [kernel.client.execute(RUN.format(runs=RUNS)) for kernel in kernels]
    said = [list(kernel.answers(cell)) for kernel, cell in zip(kernels, running, strict=True)]

    found = await history(tmp_path / ".pdkernel")
    assert [text_of(each) for answers in said for each in answers if each["type"] == "error"] == []
    for number in (1, 2):
        own = [execution for execution in found if execution.workflow == f"work {number}"]
        assert len(own) == RUNS
        assert {execution.status for execution in own} == {"success"}
        assert [execution.step(f"double{number}").return_value for execution in own] == [2 * number] * RUNS
