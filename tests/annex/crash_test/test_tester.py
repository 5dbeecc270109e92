"""Crash tests of whole workflows, with processes that are killed, and a stand-in that counts the calls."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pdkernel.annex.crash_test import CrashReport
from pdkernel.annex.crash_test.points import CrashPoint
from pdkernel.annex.crash_test.tester import _choose, _list_points
from pdkernel.common.encode import encode_json
from pdkernel.egress import parse_policy
from pdkernel.errors import RequestError
from pdkernel.storage import Project
from tests.annex.crash_test.conftest import URL, RunCrashTest
from tests.builders import a_block, a_workflow, node_step, python_step
from tests.http_servers import AnsweringServer

POST = f"""\
import urllib.request
request = urllib.request.Request({URL!r}, data=b"20", method="POST", headers=HEADERS)
urllib.request.urlopen(request).read()
"""
CHARGE = "HEADERS = {}\n" + POST
CHARGE_WITH_KEY = "HEADERS = {'Idempotency-Key': pd.steps['trigger']['context']['id'] + '-charge'}\n" + POST

RANDOM = """\
import urllib.request, uuid
value = uuid.uuid4().hex
HEADERS = {KEY}
request = urllib.request.Request({URL}, data=value.encode(), method="POST", headers=HEADERS)
urllib.request.urlopen(request).read()
pd.export("x" + value, 1)
return value
"""
COIN = """\
import itertools, os
for number in itertools.count():
    try:
        os.mkdir(f"{FOLDER}/{number}")
    except FileExistsError:
        continue
    return number % 2 == 0
"""
SLACK = """\
import json, urllib.request
def call(method, **fields):
    request = urllib.request.Request(f"https://slack.com/api/{method}", headers={"Authorization": "Bearer xoxb-made-up"})
    if fields:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(fields).encode()
    return json.load(urllib.request.urlopen(request))
if pd.context.get("attempt", 1) > 1:
    known = call("conversations.history?channel=C0123456789")["messages"]
    if any(message["text"] == "paid" for message in known):
        return "told before"
call("chat.postMessage", channel="C0123456789", text="paid")
"""


def kinds(report: CrashReport) -> set[tuple[str, str, str]]:
    """The findings without their texts."""
    return {(finding.step, finding.kind, finding.cause) for finding in report.findings}


def points_of(report: CrashReport, step: str) -> set[str]:
    """Kind and side of the points at which something was found in *step*."""
    return {
        f"{result.point.side} {result.point.kind}"
        for result in report.points
        if any(finding.step == step for finding in result.findings)
    }


def test_a_call_without_a_key_is_done_twice(crash_test: RunCrashTest, stand_in: AnsweringServer) -> None:
    """A POST whose answer is not recorded arrives twice, and the report has the step, the points and what mends it."""
    workflow = a_workflow(python_step("read"), python_step("charge", CHARGE), python_step("last"))

    report = crash_test(workflow)

    assert kinds(report) == {("charge", "done_twice", "no_key")}
    assert points_of(report, "charge") == {"after send", "before step"}
    assert all(result.is_reached for result in report.points)
    assert (
        len(stand_in.requests) == 2 + len(report.points) + 2
    )  # twice without a crash, once for each point, and twice at two
    assert "Idempotency-Key" in report.mend(report.findings[0])
    assert 'pd.context.get("attempt", 1)' in report.mend(report.findings[0])


def test_a_call_with_a_key_is_done_once(crash_test: RunCrashTest, stand_in: AnsweringServer) -> None:
    """A POST whose key is the same in each attempt is one effect, although it arrives twice."""
    report = crash_test(a_workflow(python_step("charge", CHARGE_WITH_KEY), python_step("last")))

    assert report.findings == ()
    assert len(stand_in.requests) > 2 + len(report.points)


def test_a_key_of_each_attempt_is_no_help(crash_test: RunCrashTest) -> None:
    """A key with a random value is another one in the next attempt, so the host does not recognize the repetition."""
    step = python_step("charge", "import uuid\nHEADERS = {'Idempotency-Key': str(uuid.uuid4())}\n" + POST)

    report = crash_test(a_workflow(step, python_step("last")))

    assert kinds(report) == {("charge", "done_twice", "other_key")}


def test_a_mark_after_the_call_leaves_a_gap(crash_test: RunCrashTest) -> None:
    """A mark in a data store prevents the repetition once it is written, and not before."""
    guarded = (
        "store = pd.inputs['done']\nif 'charged' in store:\n    return 'before'\n" + CHARGE + "store['charged'] = 1"
    )
    workflow = a_workflow(python_step("charge", guarded, options="--data-store done"), python_step("last"))

    report = crash_test(workflow)

    assert kinds(report) == {("charge", "done_twice", "no_key")}
    assert points_of(report, "charge") == {"after send"}


def test_a_mark_before_the_call_loses_it(crash_test: RunCrashTest, project: Project) -> None:
    """With a mark that is written first, the call is lost if the process dies before it; the user's store stays as it is."""
    project.data_stores.set("orders", "old", 1)
    guarded = (
        "store = pd.inputs['done']\nassert store['old'] == 1\nif 'charged' in store:\n    return 'before'\nstore['charged'] = 1\n"
        + CHARGE
    )
    workflow = a_workflow(python_step("charge", guarded, options="--data-store done=orders"), python_step("last"))

    report = crash_test(workflow)

    assert kinds(report) == {("charge", "lost", "call")}
    assert points_of(report, "charge") == {"before call", "after call", "before send"}
    assert [record.key for record in project.data_stores.iter_records("orders")] == ["old"]


def test_a_look_at_the_host_before_a_repetition(crash_test: RunCrashTest) -> None:
    """A built-in stand-in remembers what a killed process has sent, so a step that asks for it before a repetition is done once."""
    step = python_step("tell", SLACK)

    report = crash_test(a_workflow(step, python_step("last")), policy=parse_policy("stand-in=slack"))
    blind = crash_test(
        a_workflow(python_step("tell", SLACK.replace("> 1", "> 99"))), policy=parse_policy("stand-in=slack"), limit=4
    )

    assert report.findings == ()
    assert report.policy == "stand-in=slack"
    assert kinds(blind) == {("tell", "done_twice", "no_key")}


def test_a_second_attempt_that_fails_loses_the_result(crash_test: RunCrashTest, stand_in: AnsweringServer) -> None:
    """A step that refuses to run twice ends the run with its error, which the report has."""
    fails = CHARGE_WITH_KEY + "if pd.context.get('attempt', 1) > 1:\n    raise ValueError('charged already')\nreturn 1"

    report = crash_test(a_workflow(python_step("charge", fails), python_step("last")))

    assert kinds(report) >= {("charge", "lost", "step"), ("whole run", "lost", "result"), ("last", "lost", "step")}
    assert "charged already" in report.lost[0].what


def test_calls_at_the_same_time(crash_test: RunCrashTest) -> None:
    """Of several calls that a step makes at once, those without a key are done twice, and the others are not named."""
    code = f"""
    const post = (item, headers) => fetch({URL!r} + "/" + item, {{ method: "POST", body: item, headers }});
    const id = steps.trigger.context.id;
    await Promise.all([post("a"), post("b", {{ "Idempotency-Key": id }}), post("c")]);
    """

    report = crash_test(a_workflow(node_step("charge", code), python_step("last")))

    assert {finding.what.partition(" arrived")[0] for finding in report.done_twice} == {
        f"POST {URL}/a",
        f"POST {URL}/c",
    }
    assert report.lost == ()


def test_what_varies_by_itself_is_not_reported(crash_test: RunCrashTest) -> None:
    """Random bodies, hosts, exports and results are not reported; a call that the crash repeats is."""
    key = "{'Idempotency-Key': pd.steps['trigger']['context']['id']}"
    with_key = RANDOM.replace("{KEY}", key).replace("{URL}", repr(URL))
    elsewhere = RANDOM.replace("{KEY}", "{}").replace("{URL}", "f'https://h{value}.example.test/'")

    report = crash_test(a_workflow(python_step("charge", with_key), python_step("tell", elsewhere)))

    assert kinds(report) == {("tell", "done_twice", "no_key")}
    assert points_of(report, "tell") == {"after send", "before end"}
    (line,) = (line for line in report.render_text().splitlines() if line.startswith("Not compared"))
    assert "the body of calls of charge, the host of calls of tell, the export x" in line


@pytest.mark.parametrize("url", [repr(URL), "'https://api.example.test/charges/' + value"], ids=["body", "URL"])
def test_what_varies_by_itself_is_counted(crash_test: RunCrashTest, url: str) -> None:
    """A call with a random body or URL that a crash repeats is done twice: one finding, at the points that repeat it."""
    code = RANDOM.replace("{KEY}", "{}").replace("{URL}", url)

    report = crash_test(a_workflow(python_step("charge", code), python_step("last")))

    assert len(report.findings) == 1
    assert "arrived twice, without an Idempotency-Key" in report.findings[0].what
    assert points_of(report, "charge") == {"after send", "before step"}


def test_a_decision_that_varies_by_itself(crash_test: RunCrashTest, tmp_path: Path) -> None:
    """A branch that only every second run takes is not lost where it is not taken, and its call is done twice if it is repeated."""
    folder = tmp_path / "coin"
    folder.mkdir()
    workflow = a_workflow(
        python_step("toss", COIN.replace("{FOLDER}", str(folder))),
        a_block("%%pdif heads\nyes: steps.toss.$return_value"),
        python_step("charge", CHARGE, options="--in heads.yes"),
        python_step("last"),
    )

    report = crash_test(workflow)

    assert kinds(report) <= {("charge", "done_twice", "no_key")}
    assert {"the number of calls of charge", "the status of charge"} <= {*report.varying}


def test_a_point_that_is_not_reached_has_no_finding(crash_test: RunCrashTest, tmp_path: Path) -> None:
    """A run that comes by another way does not crash, so nothing that differs in it is a finding."""
    folder = tmp_path / "runs"
    folder.mkdir()
    third = COIN.replace("{FOLDER}", str(folder)).replace("% 2 == 0", "< 2")
    workflow = a_workflow(
        python_step("first", third),
        a_block("%%pdif early\nyes: steps.first.$return_value"),
        python_step("charge", CHARGE_WITH_KEY, options="--in early.yes"),
    )

    report = crash_test(workflow)

    missed = [result for result in report.points if not result.is_reached]
    assert missed
    assert all(result.findings == () for result in missed)


def test_pauses_take_no_time(crash_test: RunCrashTest) -> None:
    """A delay of an hour and a suspend are crash points; the steps after them are found by their names."""
    workflow = a_workflow(
        python_step("one", CHARGE),
        node_step("nap", "$.flow.delay(3600 * 1000)"),
        python_step("ask", "return pd.flow.suspend(3600000)"),
        python_step("two", CHARGE),
    )

    report = crash_test(workflow)

    assert kinds(report) == {("one", "done_twice", "no_key"), ("two", "done_twice", "no_key")}
    assert {"pause", "claim"} <= {result.point.kind for result in report.points}


def test_other_effects_are_not_observed(crash_test: RunCrashTest, tmp_path: Path) -> None:
    """A file that a step writes twice is not a finding, and the report says that only HTTP is observed."""
    written = tmp_path / "written"
    step = python_step("write", f"with open({str(written)!r}, 'a') as stream:\n    stream.write('x')")

    report = crash_test(a_workflow(step, python_step("last")))

    assert len(written.read_text()) > 2 + len(report.points)
    assert report.findings == ()
    assert "Not observed: everything but HTTP to other machines. What a step does to files" in report.render_text()


def test_an_account_and_a_variable_of_the_user(
    crash_test: RunCrashTest, project: Project, stand_in: AnsweringServer
) -> None:
    """The runs have the external user's account and the project's variables, and no file of the test contains a secret in clear."""
    from pdkernel.accounts import LocalDirectory

    LocalDirectory(project).add_account(
        external_user_id="ada", app="slack", credentials={"oauth_access_token": "xoxb-made-up-for-crashes"}
    )
    project.variables.set("TARIFF", "tariff-made-up")
    header = "import os\nHEADERS = {'Authorization': pd.inputs['slack']['$auth']['oauth_access_token'], 'X-Tariff': os.environ['TARIFF']}\n"
    workflow = a_workflow(python_step("charge", header + POST, options="--app slack"), python_step("last"))

    report = crash_test(workflow, external_user_id="ada")

    assert kinds(report) == {("charge", "done_twice", "no_key")}
    assert {request.headers["authorization"] for request in stand_in.requests} == {"xoxb-made-up-for-crashes"}
    assert {request.headers["x-tariff"] for request in stand_in.requests} == {"tariff-made-up"}
    assert b"made-up" not in encode_json(report)


def test_the_database_of_the_project_is_only_read(crash_test: RunCrashTest, project: Project) -> None:
    """The user's database has the same content after a crash test: no run, no new record."""
    before = dump(project)

    crash_test(a_workflow(python_step("charge", CHARGE)))

    assert dump(project) == before


def dump(project: Project) -> list[str]:
    """The content of the project's database, as SQL."""
    with closing(sqlite3.connect(f"file:{project.sqlite_path}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def test_a_run_that_fails_without_a_crash_is_refused(crash_test: RunCrashTest) -> None:
    """A workflow that fails by itself cannot be tested; the message has the step and its error."""
    with pytest.raises(RequestError, match=r"failed under the outbound policy .*in step charge: wrong"):
        crash_test(a_workflow(python_step("charge", "raise ValueError('wrong')")))


def test_a_limit_keeps_the_points_around_calls() -> None:
    """Of many points, those of calls are tried first, and the kept ones are in the order of the run."""
    steps = [CrashPoint("step", side, f"s{n}") for n in range(50) for side in ("before", "after")]
    sends = [CrashPoint("send", "after", "s7"), CrashPoint("send", "before", "s9")]
    reached = [CrashPoint("claim", "after"), *steps[:20], *sends, *steps[20:]]

    chosen = _choose(_list_points(reached), 10)

    assert len(chosen) == 10
    assert set(sends) < set(chosen)
    assert chosen == sorted(chosen, key=reached.index)


def test_points_that_a_limit_leaves_out_are_reported(crash_test: RunCrashTest) -> None:
    """The report has the points that were not tried, and the option that tries them."""
    report = crash_test(a_workflow(python_step("charge", CHARGE), python_step("last")), limit=2)

    assert len(report.points) == 2
    assert f"Left out: {len(report.left_out)} crash points. Try them, too, with --limit" in report.render_text()


def test_progress(crash_test: RunCrashTest) -> None:
    """The progress begins with the run without a crash, and ends with all points."""
    seen: list[tuple[int, int]] = []

    report = crash_test(a_workflow(python_step("charge")), on_progress=lambda done, total: seen.append((done, total)))

    assert (seen[0], seen[-1]) == ((0, 0), (len(report.points), len(report.points)))
