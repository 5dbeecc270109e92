"""The end of steps: interrupted, with a killed kernel, and continued by the next kernel."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from pdkernel.model import Language
from pdkernel.runtimes import process_tree
from pdkernel.session.state_store import SAVE_DELAY_S
from tests.kernel.conftest import RunningKernel, running_kernels, text_of

Start = Callable[..., RunningKernel]

LANGUAGES: tuple[Language, ...] = ("python", "node", "bash")
PID = re.compile(r"\| (\d+)(?: is up)?$", re.MULTILINE)
"""The first text that a step prints: its process id."""
TREE = "setsid sleep 1000 & (sleep 1000 & sleep 1000) & sleep 0.2; echo is up; sleep 1000"
"""A shell with children, a grandchild, and a child in its own session."""
GONE_WITHIN_S = 1.0

STEPS: dict[str, dict[Language, str]] = {
    "loop": {
        "python": "import os\ndef handler(pd):\n    print(os.getpid(), 'is up')\n    while True: pass\n",
        "node": "export default { run() { console.log(process.pid, 'is up'); for (;;); } }",
        "bash": "echo $$ is up; while :; do :; done",
    },
    "children": {
        "python": "import os, subprocess\ndef handler(pd):\n"
        f"    print(os.getpid(), flush=True)\n    subprocess.run('{TREE}', shell=True)\n",
        "node": "import { spawnSync } from 'child_process';\nexport default { run() { console.log(process.pid);\n"
        f"  spawnSync('{TREE}', {{ shell: true, stdio: 'inherit' }}) }} }}",
        "bash": f"echo $$; {TREE}",
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
    cell = kernel.client.execute(f"%%pdstep forever --lang {language} --timeout 20\n{STEPS[kind][language]}")
    shown = map(text_of, kernel.answers(cell))
    seen: list[str] = []
    for text in shown:
        seen.append(text)
        if "is up" in text and (pid := PID.search(text)):
            mark = psutil.Process(int(pid[1])).environ()[process_tree.PROCESS_TAG_VARIABLE]
            return shown, mark, process_tree.find_processes([], [mark])
    raise AssertionError(f"the step ended by itself: {seen}")


def left_of(mark: str) -> set[int]:
    """The processes with *mark* that still exist after a second."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := process_tree.find_processes([], [mark])) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKernel]:
    """One kernel for all interrupts, which must survive them; with a chosen event."""
    folder = tmp_path_factory.mktemp("interrupts")
    write_event(folder)
    with running_kernels(folder) as start:
        started = start("pdkernel")
        started.run("%pdevent word")
        yield started


@pytest.mark.parametrize("kind", ["loop", "children"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_interrupt_ends_the_step_and_its_children(kernel: RunningKernel, language: Language, kind: str) -> None:
    """An interrupt ends a step with all its processes, and its timeline shows the interrupt."""
    shown, mark, during = start_step(kernel, kind, language)

    kernel.manager.interrupt_kernel()
    left = left_of(mark)
    said = list(shown)

    assert len(during) >= PROCESSES[kind]
    assert left == set()
    assert "cancelled" in said[-2]
    assert "The run was cancelled while this step ran." in said[-2]
    assert said[-1] == "Cancelled: The run was interrupted, and its workers were stopped."


@pytest.mark.parametrize("language", LANGUAGES)
def test_next_cell_runs_after_an_interrupt(kernel: RunningKernel, language: Language) -> None:
    """The corrected step runs at once, and so do Python cells."""
    shown, _, _ = start_step(kernel, "loop", language)
    kernel.manager.interrupt_kernel()
    list(shown)

    mended = kernel.run(f"%%pdstep forever --lang {language}\n{NEXT[language]}")
    plain = kernel.run("1 + 1")

    assert "usable" in text_of(mended[-1])
    assert "success" in text_of(mended[-1])
    assert [text_of(each) for each in plain] == ["2"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_kill_9_of_the_kernel_leaves_no_process_of_the_step(
    start_kernel: Start, tmp_path: Path, language: Language
) -> None:
    """A killed kernel ends the running step, including grandchildren in other sessions."""
    write_event(tmp_path)
    kernel = start_kernel("pdkernel")
    kernel.run("%pdevent word")
    _, mark, during = start_step(kernel, "children", language)

    os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
    left = left_of(mark)

    assert len(during) >= PROCESSES["children"]
    assert left == set()


@pytest.mark.parametrize("now", [True, False], ids=["killed", "asked to end"])
def test_kernel_leaves_no_file_of_a_step(start_kernel: Start, tmp_path: Path, now: bool) -> None:
    """If a kernel ends during a step, the folder with the inputs of its steps is removed."""
    write_event(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kernel = start_kernel("pdkernel", TMPDIR=str(temporary))
    kernel.run("%pdevent word")
    start_step(kernel, "loop", "bash")
    during = list(temporary.rglob("steps.json"))

    kernel.manager.shutdown_kernel(now=now)
    deadline = time.monotonic() + 10
    while (left := list(temporary.glob("pdkernel-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert len(during) == 1
    assert left == []


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
        time.sleep(10 * SAVE_DELAY_S)  # the kernel has saved its state before
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=60)
        yield kernel


@pytest.mark.parametrize("language", LANGUAGES)
def test_restarted_kernel_runs_step_4_without_the_three_above(restarted: RunningKernel, language: Language) -> None:
    """Event, external user and exports survive the kernel: a step of any language sees the exports of every language."""
    shown = restarted.run(f"%%pdstep four_{language} --lang {language}\n{FOURTH[language]}")

    assert "python node bash remembered ada" in text_of(shown[-1])
