"""Records compared as they arrive: once, with the present text, and with results that stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.migration.pages import render_shadow_page
from pdkernel.annex.migration.shadow import RUN_TIME, Shadow, ShadowReport
from pdkernel.annex.proof.recorded_runs import open_records
from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.storage import Project
from tests.annex.migration.test_collection import entry
from tests.notebook_files import notebook_of

HEADER = "%%pdworkflow\nname: Total\ntrigger: {type: http}\n"
SUM = """%%pdstep sum
def handler(pd):
    return {"total": sum(pd.steps["trigger"]["event"]["body"]["items"])}
"""
WRONG = SUM.replace("sum(pd.", "len(pd.")
SHOW = """%%pdstep show
def handler(pd):
    return "total " + str(pd.steps["sum"]["$return_value"]["total"])
"""
PARALLEL = (
    "%%pdparallel tell\nbig: steps.sum.$return_value.total > 3\nall: always\n",
    "%%pdstep warn --in tell.big\ndef handler(pd):\n    return 'big'\n",
    "%%pdstep note --in tell.all\ndef handler(pd):\n    return pd.steps['sum']['$return_value']['total'] * 2\n",
)
RECORDED_AT = datetime(2026, 12, 1, 10, tzinfo=UTC)
"""The time of the runs of `entry`."""


class Shadowed:
    """A notebook, its project, and what the receiver stores."""

    def __init__(self, folder: Path) -> None:
        self.notebook = folder / "total-p_Abc1234.ipynb"
        self.clock = ManualClock(RECORDED_AT)
        self.project = Project.open(folder / ".pdkernel", clock=self.clock)
        self.archive = open_records(self.project)
        self.compared: list[str] = []
        self.progress: Callable[[str], None] = self.compared.append
        self.differences: list[str] = []

    def write(self, *cells: str) -> None:
        """Write the notebook."""
        notebook_of(self.notebook, HEADER, *cells)

    def receive(self, run: str, body: Any, steps: dict[str, Any] | None = None, **content: Any) -> None:
        """Store the entries of a run; without *steps*, there is no end."""
        event = {"method": "POST", "path": "/", "query": {}, "headers": {}, "body": body}
        self.archive.add_entry(entry("start", run, event=event, **content))
        if steps is not None:
            exports = {name: {"$return_value": value} for name, value in steps.items()}
            self.archive.add_entry(entry("end", run, steps=exports))

    def open(self, *, again: bool = False) -> Shadow:
        """A shadow of the notebook, as a new process has it."""
        return Shadow(
            [self.notebook],
            project=self.project,
            directory=LocalDirectory(self.project),
            environ={},
            again=again,
            progress=self.progress,
            on_difference=lambda workflow, step, found: self.differences.append(f"{workflow} {step} {found.path}"),
        )

    def look(self, *, again: bool = False) -> tuple[int, ShadowReport]:
        """What a new process compares, and its report."""
        shadow = self.open(again=again)
        try:
            return asyncio.run(shadow.compare_new()), shadow.build_report()
        finally:
            shadow.close()


@pytest.fixture
def shadowed(tmp_path: Path) -> Iterator[Shadowed]:
    """A notebook without steps, and a project without records."""
    found = Shadowed(tmp_path)
    yield found
    found.project.close()


def words(report: ShadowReport) -> dict[str, dict[str, int]]:
    """The verdicts on each step of the one workflow, without those that there are not."""
    (workflow,) = report.workflows
    return {step.step: {word: count for word, count in step.words.items() if count} for step in workflow.steps}


def test_equal_and_different_steps_are_counted(shadowed: Shadowed) -> None:
    """Each step has its verdicts, its last event and its first difference; the step below a difference is compared, too."""
    shadowed.write(WRONG, SHOW)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}, "show": "total 5"})
    shadowed.receive("r2", {"items": [1]}, {"sum": {"total": 1}, "show": "total 1"}, at="2026-12-01T11:00:00.000Z")

    count, report = shadowed.look()

    assert count == 2
    assert words(report) == {"sum": {"same": 1, "differs": 1}, "show": {"same": 2}}
    first = report.workflows[0].steps[0].first_difference
    assert first is not None
    assert (first.path, first.recorded, first.here) == ("$return_value.total", "5", "2")
    assert report.workflows[0].steps[0].last_at == "2026-12-01T11:00:00.000Z"
    assert shadowed.differences == ["Total sum $return_value.total"]
    assert report.differs


def test_no_record_is_compared_twice(shadowed: Shadowed) -> None:
    """A new process compares what has arrived since, and its report has the earlier results."""
    shadowed.write(SUM)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}})
    first, _ = shadowed.look()
    shadowed.receive("r2", {"items": [4]}, {"sum": {"total": 4}})

    second, report = shadowed.look()
    third, _ = shadowed.look()

    assert (first, second, third) == (1, 1, 0)
    assert words(report) == {"sum": {"same": 2}}
    assert len(shadowed.compared) == 2


def test_records_that_arrive_meanwhile_are_compared(shadowed: Shadowed) -> None:
    """One shadow compares an entry that arrives after its first look, and nothing else again."""
    shadowed.write(SUM)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}})
    shadow = shadowed.open()
    counts = [asyncio.run(shadow.compare_new()), asyncio.run(shadow.compare_new())]
    shadowed.receive("r2", {"items": [4]}, {"sum": {"total": 4}})

    counts.append(asyncio.run(shadow.compare_new()))
    shadow.close()

    assert counts == [1, 0, 1]


def test_results_of_an_earlier_text_are_counted_apart(shadowed: Shadowed) -> None:
    """A corrected notebook begins without results; `again` compares the records with it."""
    shadowed.write(WRONG)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}})
    shadowed.look()
    shadowed.write(SUM)

    count, report = shadowed.look()
    repeated, corrected = shadowed.look(again=True)

    assert (count, repeated) == (0, 1)
    assert not report.differs
    assert report.workflows[0].earlier == {"differ": 1}
    assert "With an earlier text or earlier rules: 1 run, 1 differ." in report.render_text()
    assert words(corrected) == {"sum": {"same": 1}}
    assert corrected.workflows[0].earlier == {}


def test_a_rule_of_a_person_makes_another_text(shadowed: Shadowed) -> None:
    """The results before a rule are counted apart, and with `again` the place is not comparable."""
    shadowed.write(WRONG)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}})
    shadowed.look()
    shadowed.archive.add_rule("p_Abc1234", "sum.$return_value.total", "counted elsewhere")

    _, before = shadowed.look()
    _, after = shadowed.look(again=True)

    assert before.workflows[0].earlier == {"differ": 1}
    assert words(after) == {"sum": {"not comparable": 1}}


def test_the_end_of_a_run_is_awaited(shadowed: Shadowed) -> None:
    """A start without an end is compared when no run can take so long, and once more when the end arrives after all."""
    shadowed.write(SUM)
    shadowed.receive("r1", {"items": [2, 3]})

    early, waiting = shadowed.look()
    shadowed.clock.advance(RUN_TIME.total_seconds())
    late, without_end = shadowed.look()
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}})
    last, with_end = shadowed.look()

    assert (early, late, last) == (0, 1, 1)
    assert "1 run without an end yet: compared later." in waiting.render_text()
    assert words(without_end) == {"sum": {"not recorded": 1}}
    assert words(with_end) == {"sum": {"same": 1}}


def test_a_process_that_is_killed_keeps_its_results(shadowed: Shadowed) -> None:
    """A comparison that ends in the middle has stored what was compared; only the other records are compared afterwards."""
    shadowed.write(SUM)
    for number in range(3):
        shadowed.receive(f"r{number}", {"items": [number]}, {"sum": {"total": number}})

    def fail(line: str) -> None:
        shadowed.compared.append(line)
        if len(shadowed.compared) == 2:
            raise KeyboardInterrupt

    shadowed.progress = fail
    shadow = shadowed.open()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(shadow.compare_new())
    shadow.close()

    count, report = shadowed.look()

    assert count == 2
    assert words(report) == {"sum": {"same": 3}}


def test_branches_of_a_parallel_block_are_compared(shadowed: Shadowed) -> None:
    """The steps of the branches that ran have verdicts, and one that did not run there or here is not exercised."""
    shadowed.write(SUM, *PARALLEL)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}, "warn": "big", "note": 10})
    shadowed.receive("r2", {"items": [1]}, {"sum": {"total": 1}, "note": 3})

    _, report = shadowed.look()

    assert words(report) == {
        "sum": {"same": 2},
        "warn": {"same": 1, "not exercised": 1},
        "note": {"same": 1, "differs": 1},
    }


def test_a_parallel_branch_without_a_recording_step_is_not_recorded(shadowed: Shadowed) -> None:
    """The end of a run does not see its steps, so that they are missing in the record is not a difference."""
    shadowed.write(SUM, *PARALLEL)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}, "warn": "big"}, branches=["big"])

    _, report = shadowed.look()

    assert words(report) == {"sum": {"same": 1}, "warn": {"same": 1}, "note": {"not recorded": 1}}


def test_secrets_and_markup_are_not_shown(shadowed: Shadowed) -> None:
    """A secret of the project is redacted in values and keys, and markup and control characters of an event are escaped."""
    shadowed.project.secrets.set("TOKEN", "s3cr3t-value-0123456789")
    shadowed.project.variables.set("API_TOKEN", "v4riable-value-0123456789")
    shadowed.write(
        "%%pdstep sum\nimport os\ndef handler(pd):\n    return {'v': pd.steps['trigger']['event']['body'],"
        " os.environ['API_TOKEN']: os.environ['API_TOKEN']}\n"
    )
    shadowed.receive("r1", "<script>alert(1)</script>\x1b[31m", {"sum": {"v": "<b>\x1b[2J"}})

    _, report = shadowed.look()
    shown = report.render_text() + render_shadow_page(report, "now") + str(report.to_json())
    stored = str(shadowed.archive.load_results("p_Abc1234", dict))

    assert report.differs
    assert "v4riable" not in shown + stored
    assert "<script>" not in render_shadow_page(report, "now")
    assert "\x1b" not in report.render_text()


def test_hostile_records_have_a_verdict(shadowed: Shadowed) -> None:
    """A deep, a large and a strange event are compared or refused, stored with bounded results, and keep no other from its turn."""
    shadowed.write("%%pdstep sum\ndef handler(pd):\n    return pd.steps['trigger']['event']['body']\n")
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    shadowed.receive("deep", deep, {"sum": 1})
    shadowed.receive("large", ["x" * 50] * 20_000, {"sum": ["y" * 50] * 20_000})
    shadowed.receive("wide", {f"k{number}": number for number in range(5_000)}, {"sum": {"k": "z" * 2_000_000}})
    shadowed.receive("strange", 1, {"sum": 1}, context={"external_user_environment": "moon", "external_user_id": 7})
    shadowed.receive("good", 1, {"sum": 1})

    count, report = shadowed.look()
    again, _ = shadowed.look()

    (workflow,) = report.workflows
    assert (count, again) == (5, 0)
    assert workflow.proof.counts["same"] == 1
    assert workflow.proof.counts["recorded"] == 5
    results = shadowed.archive.load_results("p_Abc1234", dict)
    assert max(len(str(result)) for result in results.values()) < 100_000


def test_damaged_files_are_problems(shadowed: Shadowed) -> None:
    """A damaged entry is named, and the other records are compared; a damaged result is compared again."""
    shadowed.write(SUM)
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}})
    shadowed.look()
    (stored,) = shadowed.archive.folder.glob("p_Abc1234/*.compared.sealed")
    stored.write_bytes(b"damaged")
    shadowed.receive("r2", {"items": [2]}, {"sum": {"total": 2}})
    damaged = next(
        path
        for path in shadowed.archive.folder.glob("inbox/*/*/*.start.sealed")
        if shadowed.archive.read_entry(path)["run"] == "r2"
    )
    damaged.write_bytes(b"damaged")

    count, report = shadowed.look()

    assert count == 1
    assert words(report) == {"sum": {"same": 1}}
    assert any(str(damaged) in problem for problem in report.problems)


def test_workflows_that_are_not_here_or_unreadable_are_named(shadowed: Shadowed) -> None:
    """Records without a workflow are named, and a notebook that cannot be read keeps its records for later."""
    shadowed.notebook.write_text("{")
    shadowed.receive("r1", {"items": [2, 3]}, {"sum": {"total": 5}})
    shadowed.archive.add_entry(entry("start", "r2", workflow="p_Other12"))

    broken, report = shadowed.look()
    shadowed.write(SUM)
    corrected, _ = shadowed.look()

    assert (broken, corrected) == (0, 1)
    assert report.unreadable == 1
    assert report.unknown == ("p_Abc1234", "p_Other12")
    assert "is not compared" in report.render_text()


def test_one_process_compares(shadowed: Shadowed) -> None:
    """A second shadow of the project is refused until the first has ended."""
    shadowed.write(SUM)
    first = shadowed.open()

    with pytest.raises(RequestError, match="Another"):
        shadowed.open()

    first.close()
    shadowed.open().close()


def test_ids_of_the_other_side_are_learned_over_results(shadowed: Shadowed) -> None:
    """As in the comparison of all records: ids that differ in each record and are one here are not comparable from three on."""
    shadowed.write("%%pdstep sum\ndef handler(pd):\n    return {'id': 'msg-1000000'}\n")
    counts = []
    for number in range(3):
        shadowed.receive(f"r{number}", 1, {"sum": {"id": f"msg-20{number}0001"}})
        counts.append(words(shadowed.look()[1])["sum"])

    assert counts == [{"differs": 1}, {"differs": 2}, {"not comparable": 3}]


def test_events_of_schedules_and_sources_are_compared(shadowed: Shadowed) -> None:
    """They have none of the keys of a request; an event that was too large for the record is still refused."""
    step = "%%pdstep sum\ndef handler(pd):\n    return pd.steps['trigger']['event']['cron']\n"
    notebook_of(shadowed.notebook, '%%pdworkflow\nname: Daily\ntrigger: {type: schedule, cron: "0 9 * * *"}\n', step)
    for run, event in (("r1", {"cron": "0 9 * * *"}), ("r2", {"$pdkernel_omitted": 300_000})):
        shadowed.archive.add_entry(entry("start", run, event=event))
        shadowed.archive.add_entry(entry("end", run, steps={"sum": {"$return_value": "0 9 * * *"}}))

    _, report = shadowed.look()

    counts = report.workflows[0].proof.counts
    assert (counts["same"], counts["not_comparable"]) == (1, 1)
    assert "The event was too large" in report.render_text()
