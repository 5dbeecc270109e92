"""Two kernels on the same project at the same time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pdkernel.engine.journal import SqliteJournal
from pdkernel.execution import Execution
from pdkernel.project import Project
from tests.kernel.conftest import RunningKernel, text_of

Start = Callable[..., RunningKernel]

RUNS = 12
STEP = "%%pdstep {name}\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']['n'] * 2\n"
RUN = "for _ in range({runs}):\n    get_ipython().run_line_magic('pdrun', '')\n"


async def history(folder: Path) -> list[Execution]:
    """Every execution of the project, after reopening it."""
    with Project.open(folder) as project:
        assert project.sqlite_path is not None
        journal = SqliteJournal.open(project.sqlite_path)
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
