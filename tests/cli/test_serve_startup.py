"""The output of `pdkernel serve` at its start."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from pdkernel.cli.serve import code_printer, describe_triggers, print_startup, startup_json
from pdkernel.errors import RequestError
from pdkernel.files.source import RefusedSource, load_source
from pdkernel.operations.triggers import enable_triggers
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.storage import Project
from tests.notebook_files import notebook_of

URL = "http://127.0.0.1:8765"
STEP = "%%pdstep one\ndef handler(pd):\n    return 1"
BOTH = "name: Both\ntriggers: [{type: schedule, interval_seconds: 60}, {type: http}]"
TIMER = "name: Hourly report\ntrigger: {type: schedule, interval_seconds: 3600}"


def served(folder: Path, *headers: str) -> list[ServedWorkflow]:
    """Workflows with these headers, with the keys eo0, eo1, ..."""
    paths = [
        notebook_of(folder / f"flow{number}.ipynb", f"%%pdworkflow\n{header}", STEP)
        for number, header in enumerate(headers)
    ]
    return [ServedWorkflow(f"p_{number}", f"eo{number}", load_source(path)) for number, path in enumerate(paths)]


def refused(folder: Path) -> RefusedSource:
    """A workflow that is not served."""
    return RefusedSource(folder / "old.ipynb", "Old", RequestError("It has no steps.", fix="Add one."))


def test_an_endpoint_needs_an_http_trigger(project: Project, tmp_path: Path) -> None:
    """In the JSON a workflow has its endpoint if any of its triggers is HTTP."""
    value = startup_json(project, "proj_1", URL, served(tmp_path, BOTH, TIMER), [refused(tmp_path)])

    assert value == {
        "url": URL,
        "project_id": "proj_1",
        "database": project.location,
        "workflows": [
            {"name": "Both", "id": "p_0", "endpoint": "eo0", "url": f"{URL}/eo0"},
            {"name": "Hourly report", "id": "p_1", "endpoint": None, "url": None},
        ],
        "not_served": [{"name": "Old", "folder": str(tmp_path / "old.ipynb"), "reason": refused(tmp_path).reason}],
    }


def test_the_text_of_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each workflow has its URL, then the text names what is not served, and the notes."""
    print_startup(URL, served(tmp_path, BOTH, TIMER), [refused(tmp_path)], ["A note"], as_json=False)

    assert capsys.readouterr().err.splitlines() == [
        f"Serving at {URL} (Ctrl-C stops)",
        f"  Both           {URL}/eo0",
        "  Hourly report  no endpoint",
        "Not served:",
        f"  Old ({tmp_path / 'old.ipynb'}): {refused(tmp_path).reason}",
        "A note",
    ]


def test_the_start_cannot_control_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in the name of a workflow are shown as text."""
    header = 'name: "\\e]0;owned\\a"\ntrigger: {type: http}'

    print_startup(URL, served(tmp_path, header), [], [], as_json=False)

    shown = capsys.readouterr().err
    assert "  \\x1b]0;owned\\x07  http://127.0.0.1:8765/eo0\n" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_the_text_beside_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the JSON line, standard error has what is not served and the notes; without both it is empty."""
    print_startup(URL, served(tmp_path, BOTH), [], [], as_json=True)
    nothing = capsys.readouterr()
    print_startup(URL, served(tmp_path, BOTH), [refused(tmp_path)], ["A note"], as_json=True)

    assert (nothing.out, nothing.err) == ("", "")
    assert [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        "Not served:",
        "  Old",
        "A note",
    ]


def test_a_server_without_workflows(capsys: pytest.CaptureFixture[str]) -> None:
    """Without workflows, the text names what is served."""
    print_startup(URL, [], [], [], as_json=False)

    assert capsys.readouterr().err.splitlines()[1:] == ["  No workflows: only the Connect API is served."]


def test_the_title_of_the_triggers(project: Project, tmp_path: Path) -> None:
    """The title explains why a trigger is off as long as one of them is off."""
    workflows = served(tmp_path, TIMER, BOTH)
    titles = []
    for name in ("flow0.ipynb", "flow1.ipynb"):
        enable_triggers(project, name, tmp_path)
        titles.append(describe_triggers(project, workflows, URL)[0])

    assert titles == ["Triggers (off until they are enabled, because Pipedream may still fire them):", "Triggers:"]
    assert describe_triggers(project, served(tmp_path, "name: Plain"), URL) == []


class Terminal(io.StringIO):
    """A stream of a person."""

    def isatty(self) -> bool:
        """It is a terminal."""
        return True


def test_codes_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login code is printed on a terminal only, with its URL; never with --json, whose reader may keep a log."""
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    print_code = code_printer(URL, as_json=False)
    assert print_code is not None
    print_code("1234")

    assert shown.getvalue() == f"Console: {URL}/-/login?code=1234    # valid once, for ten minutes\n"
    assert code_printer(URL, as_json=True) is None
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert code_printer(URL, as_json=False) is None
