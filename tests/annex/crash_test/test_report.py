"""The report of a crash test, as text and JSON."""

from __future__ import annotations

from msgspec.structs import replace

from pdkernel.annex.crash_test.findings import Finding
from pdkernel.annex.crash_test.points import CrashPoint
from pdkernel.annex.crash_test.report import CrashReport, PointResult

TWICE = Finding(
    "done_twice", "no_key", "charge", "POST https://api.example.test/ arrived twice, without an Idempotency-Key."
)
ALL_POINTS = (
    PointResult(CrashPoint("send", "before", "charge", "POST https://api.example.test/"), True, ()),
    *(PointResult(CrashPoint("step", "before", f"s{number}"), True, (TWICE,)) for number in range(5)),
    PointResult(CrashPoint("end", "after"), False, ()),
)


def a_report(*points: PointResult, language: str = "node", left_out: tuple[CrashPoint, ...] = ()) -> CrashReport:
    """A report of *points*."""
    return CrashReport("Order", "deny", "success", points, left_out, {"charge": language})


def test_the_text_has_each_finding_once() -> None:
    """A finding has its step, what mends it, and its first points; the others are counted."""
    text = a_report(*ALL_POINTS).render_text()

    assert text.startswith("Order: 7 crash points, 5 with a finding (outbound calls: deny)\n")
    assert text.count("charge: done twice. POST https://api.example.test/ arrived twice") == 1
    assert text.count("  killed before s") == 3
    assert "and at 2 other points (--all)" in text
    assert "$.context.attempt > 1" in text
    assert "did not reach 1 crash point" in text


def test_all_points_with_their_outcome() -> None:
    """With all points, each has its outcome, in the order of the run."""
    lines = a_report(*ALL_POINTS).render_text(shows_all=True).splitlines()

    assert "     nothing  before POST https://api.example.test/ of charge was sent" in lines
    assert "  done twice  before s4 was recorded" in lines
    assert " not reached  after the end of the run was recorded, with its last step" in lines


def test_a_report_without_findings() -> None:
    """Nothing is found, and the text still says what is not observed and what was left out."""
    report = a_report(ALL_POINTS[0], left_out=(CrashPoint("begin", "after"),))

    assert report.findings == ()
    assert report.render_text() == (
        "Order: 1 crash point, none with a finding (outbound calls: deny)\n"
        "\n"
        "Left out: 1 crash point. Try them, too, with --limit 2.\n"
        "Not observed: everything but HTTP to other machines. What a step does to files, databases, data stores and\n"
        "this machine may be done twice, too.\n"
    )


def test_what_is_not_compared() -> None:
    """The text has a line, and the JSON a list, of what differs without a crash, too."""
    report = replace(a_report(), varying=("the body of calls of charge", "the status of last"))

    line = "Not compared, because it differs without a crash, too: the body of calls of charge, the status of last."
    assert line in report.render_text().splitlines()
    assert report.to_json()["varying"] == list(report.varying)
    assert "Not compared" not in a_report().render_text()


def test_the_json_has_findings_and_points() -> None:
    """The JSON has each finding with its mend and its points, all points, and what is not observed."""
    value = a_report(*ALL_POINTS).to_json()

    (found,) = value["findings"]
    assert (found["step"], found["kind"], len(found["points"])) == ("charge", "done_twice", 5)
    assert found["mend"].startswith("Send the header Idempotency-Key")
    assert value["points"][-1] == {
        "point": "after the end of the run was recorded, with its last step",
        "reached": False,
        "findings": 0,
    }
    assert value["not_observed"].startswith("Not observed")


def test_done_twice_and_lost() -> None:
    """A program reads the two kinds apart."""
    lost = Finding("lost", "call", "charge", "POST https://api.example.test/ was not made.")
    report = a_report(PointResult(CrashPoint("send", "before", "charge"), True, (TWICE, lost)))

    assert (report.done_twice, report.lost) == ((TWICE,), (lost,))
