"""The engine of a notebook's session, in its own thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest

from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.kit.session.engine_thread import EngineThread
from pdkernel.kit.session.lazy_project import LazyProject

CELL = ContextVar("CELL", default="no cell")
"""As ipykernel keeps the cell that the output of a thread belongs to."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineThread]:
    """The engine of a project whose place `project` is free at first."""
    environ = {"PDKERNEL_PROJECT": str(tmp_path / "project")}
    local = LazyProject(tmp_path, project=None, environ=environ, clock=SYSTEM_CLOCK, ids=RANDOM_IDS)
    engine = EngineThread(local, clock=SYSTEM_CLOCK, ids=RANDOM_IDS)
    yield engine
    engine.close()
    local.close()


async def find_cell(_: WorkflowEngine) -> str:
    """The cell that an operation runs for."""
    return CELL.get()


def test_a_run_that_cannot_start_leaves_the_next_one_free(engine: EngineThread, tmp_path: Path) -> None:
    """If the engine cannot start, each run raises the reason, until the reason is gone."""
    (tmp_path / "project").write_text("not a folder")
    for _ in range(2):
        with pytest.raises(PdkernelError) as refused:
            engine.start(find_cell).result()
        assert not isinstance(refused.value, RequestError), refused.value  # "A run is already in progress"

    (tmp_path / "project").unlink()

    assert engine.start(find_cell).result() == "no cell"


def test_a_followed_run_belongs_to_no_cell(engine: EngineThread) -> None:
    """What goes on in the background is not in the context of the cell that started it, other than a run."""
    token = CELL.set("cell 1")
    try:
        found = [engine.start(find_cell).result(), engine.follow(find_cell).result()]
    finally:
        CELL.reset(token)

    assert found == ["cell 1", "no cell"]
