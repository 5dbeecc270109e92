"""Crash tests of workflows in a temporary project, whose calls a stand-in answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.crash_test import CrashReport, CrashTest
from pdkernel.egress import parse_policy
from pdkernel.event import Event
from pdkernel.files.source import WorkflowSource
from pdkernel.model import Workflow
from pdkernel.storage import Project
from tests.http_servers import AnsweringServer, serve

RunCrashTest = Callable[..., CrashReport]
URL = "https://api.example.test/charges"


@pytest.fixture
def stand_in() -> Iterator[AnsweringServer]:
    """The host that answers the calls of steps."""
    with serve(AnsweringServer(lambda _: (200, {"id": "ch_1"}))) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """The user's project."""
    with Project.open(tmp_path / "project" / ".pdkernel") as opened:
        yield opened


@pytest.fixture
def crash_test(project: Project, stand_in: AnsweringServer) -> RunCrashTest:
    """A function that tests a workflow; its arguments are fields of `CrashTest`."""

    def run(workflow: Workflow, **fields: Any) -> CrashReport:
        source = WorkflowSource(project.folder.parent / "order.ipynb", "notebook", workflow)
        given: dict[str, Any] = {
            "project": project,
            "directory": LocalDirectory(project),
            "policy": parse_policy(f"stand-in={stand_in.url}"),
            "external_user_id": None,
            "environment": "development",
            "source_argument": "order.ipynb",
            **fields,
        }
        return CrashTest(source, Event.from_body({"total": 20}), **given).run()

    return run
