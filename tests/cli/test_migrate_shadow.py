"""`pdkernel migrate shadow`."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from pdkernel.annex.proof.recorded_runs import open_records
from pdkernel.storage import Project
from tests.annex.migration.test_collection import entry
from tests.cli.conftest import Shell
from tests.cli.test_migrate_record import wait_for

HEADER = "%%pdworkflow\nname: Total\ntrigger: {type: http}\n"
STEP = "%%pdstep sum\ndef handler(pd):\n    return sum(pd.steps['trigger']['event']['body'])\n"
SLOW = """%%pdstep sum
import time

def handler(pd):
    time.sleep(pd.steps["trigger"]["event"]["body"][0])
    return 0
"""
NAME = "total-p_Abc1234.ipynb"


def receive(folder: Path, run: str, body: Any, result: Any) -> None:
    """Store the entries of a run in the project in *folder*."""
    with Project.open(folder / ".pdkernel") as project:
        archive = open_records(project)
        event = {"method": "POST", "path": "/", "query": {}, "headers": {}, "body": body}
        archive.add_entry(entry("start", run, event=event))
        archive.add_entry(entry("end", run, steps={"sum": {"$return_value": result}}))


def find_results(folder: Path) -> list[Path]:
    """The stored results, and the marks of comparisons that have begun."""
    return list(folder.glob(".pdkernel/records/*/*.compared.sealed"))


def test_a_project_without_records_is_refused(pdkernel: Shell) -> None:
    """The error says how records come."""
    pdkernel.notebook(HEADER, STEP, name=NAME)

    refused = pdkernel("migrate", "shadow", NAME, "--once")

    assert refused.status == 2
    assert "pdkernel migrate record" in refused.stderr


def test_the_records_that_are_here_are_compared(pdkernel: Shell) -> None:
    """The exit status is 1 for a difference and 0 for none; JSON and page have the counts, and only new records run."""
    pdkernel.notebook(HEADER, STEP, name=NAME)
    receive(pdkernel.folder, "r1", [2, 3], 5)

    same = pdkernel("migrate", "shadow", NAME, "--once")
    receive(pdkernel.folder, "r2", [2, 3], 6)
    differs = pdkernel("migrate", "shadow", NAME, "--once", "--json", "--html", "shadow.html")

    assert (same.status, differs.status) == (0, 1), (same.stderr, differs.stderr)
    assert "1 same, 0 differ" in same.stdout
    (workflow,) = differs.json["workflows"]
    assert workflow["counts"]["recorded"] == 2
    assert workflow["steps"][0]["words"]["differs"] == 1
    assert workflow["steps"][0]["first_difference"]["recorded"] == "6"
    assert "First difference of sum" in (pdkernel.folder / "shadow.html").read_text()


def test_records_are_compared_as_they_arrive_until_an_interrupt(pdkernel: Shell) -> None:
    """After SIGKILL the command continues with what is new; after Ctrl-C it prints the whole result."""
    pdkernel.notebook(HEADER, STEP, name=NAME)
    receive(pdkernel.folder, "r1", [2, 3], 5)
    killed = pdkernel.start("migrate", "shadow", NAME)
    assert wait_for(lambda: bool(find_results(pdkernel.folder)))
    killed.kill()
    killed.communicate(timeout=60)
    shadowing = pdkernel.start("migrate", "shadow", NAME)
    receive(pdkernel.folder, "r2", [2, 3], 6)
    assert shadowing.stderr is not None
    lines: list[str] = []
    while not any("against 2 runs" in line for line in lines):
        lines.append(shadowing.stderr.readline())
    shadowing.send_signal(signal.SIGINT)
    stdout, stderr = shadowing.communicate(timeout=60)

    assert shadowing.returncode == 1, stderr
    assert "1 same, 1 differ" in stdout
    assert any(line.startswith("Total, step sum differs.") for line in lines)


def test_an_interrupt_stores_no_half_result(pdkernel: Shell) -> None:
    """A record that was being compared has no result, and is compared by the next command."""
    pdkernel.notebook(HEADER, SLOW, name=NAME)
    receive(pdkernel.folder, "r1", [5], 0)
    shadowing = pdkernel.start("migrate", "shadow", NAME)
    assert wait_for(lambda: bool(find_results(pdkernel.folder)))
    shadowing.send_signal(signal.SIGINT)
    stdout, stderr = shadowing.communicate(timeout=60)

    done = pdkernel("migrate", "shadow", NAME, "--once")

    assert (shadowing.returncode, done.status) == (0, 0), stderr
    assert "against 0 runs" in stdout
    assert "1 same, 0 differ" in done.stdout


def test_a_policy_that_sends_is_refused(pdkernel: Shell) -> None:
    """Only a stand-in may answer outbound calls."""
    pdkernel.notebook(HEADER, STEP, name=NAME)

    refused = pdkernel("migrate", "shadow", NAME, "--once", "--egress", "live")

    assert refused.status == 2
    assert "stand-in" in refused.stderr


def test_a_record_that_ends_the_process_twice_is_given_up(pdkernel: Shell) -> None:
    """The others are compared afterwards; the report names the reason, and the record stays without a comparison."""
    pdkernel.notebook(HEADER, SLOW, name=NAME)
    receive(pdkernel.folder, "r1", [100], 0)
    for _ in range(2):
        began = time.time_ns()
        killed = pdkernel.start("migrate", "shadow", NAME)
        assert wait_for(lambda: any(mark.stat().st_mtime_ns > began for mark in find_results(pdkernel.folder)))  # noqa: B023
        killed.kill()
        killed.communicate(timeout=60)
    receive(pdkernel.folder, "r2", [0], 0)

    done = pdkernel("migrate", "shadow", NAME, "--once")

    assert done.status == 0, done.stderr
    assert "2 runs at Pipedream: 1 same, 0 differ, 1 not comparable." in done.stdout
    assert "ended twice while it compared the record" in done.stdout
