"""A workflow compared with recorded runs: same, differs with the place, and not comparable with the reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.proof.record_comparison import RecordTarget, compare_records, require_recorded_id
from pdkernel.annex.proof.recorded_runs import RecordedRun, open_records
from pdkernel.annex.proof.report import RecordProof
from pdkernel.files.source import load_source
from pdkernel.storage import Project

WORKFLOW_ID = "p_Abc1234"


class Moved:
    """A moved workflow, its project and its records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"moved-{WORKFLOW_ID}"
        self.project = Project.open(folder / ".pdkernel")
        self.archive = open_records(self.project)
        self._number = 0

    def write(self, **steps: str) -> None:
        """Write the steps; the code is that of `run({ steps, $ })`, or a Python handler."""
        self.folder.mkdir(exist_ok=True)
        lines = ["schema: workflow/2022.04", "name: Moved", "triggers:", "- id: hi_1", "steps:"]
        for name, code in steps.items():
            is_python = code.startswith(("def ", "import "))
            file = f"{name}/entry.{'py' if is_python else 'js'}"
            (self.folder / name).mkdir(exist_ok=True)
            whole = (
                code if is_python else f"export default defineComponent({{ async run({{ steps, $ }}) {{ {code} }} }});"
            )
            (self.folder / file).write_text(whole)
            lines += [f"- namespace: {name}", f"  uses: ./{file}"]
        (self.folder / "workflow.yaml").write_text("\n".join(lines) + "\n")

    def record(
        self, body: Any = None, steps: Mapping[str, Any] | None = None, *, at: str = "2026-12-01T10:00:00.000Z"
    ) -> None:
        """Add a recorded run; without steps it was not recorded to the end."""
        self._number += 1
        self.archive.save(
            RecordedRun(
                name=f"run{self._number:03}",
                run=f"r{self._number}",
                workflow=WORKFLOW_ID,
                version="v",
                at=at,
                status="not recorded to the end" if steps is None else "recorded",
                event={"method": "POST", "path": "/", "query": {}, "headers": {}, "body": body},
                context={},
                steps={name: {"$return_value": value} for name, value in (steps or {}).items()},
            )
        )

    def compare(self) -> RecordProof:
        """Compare."""
        return asyncio.run(
            compare_records(
                RecordTarget.of(load_source(self.folder)),
                self.archive,
                WORKFLOW_ID,
                project=self.project,
                directory=LocalDirectory(self.project),
                environ={},
            )
        )


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[Moved]:
    """A moved workflow."""
    found = Moved(tmp_path)
    yield found
    found.project.close()


def words(proof: RecordProof, run: int = 0) -> dict[str, str]:
    """The verdict on each step of a run."""
    return {step.step: step.verdict for step in proof.verdicts[run].steps}


def reasons(proof: RecordProof, run: int = 0) -> dict[str, list[str | None]]:
    """The reasons of the places of each step of a run."""
    return {step.step: [place.reason for place in step.places] for step in proof.verdicts[run].steps if step.places}


DOUBLE = "return { n: steps.trigger.event.body.n * 2 };"
TEXT = "return `n is ${steps.double.$return_value.n}`;"


def test_equal_runs_are_the_same(moved: Moved) -> None:
    """Each step has what the record has; the counts and the text say so."""
    moved.write(double=DOUBLE, text=TEXT)
    moved.record({"n": 2}, {"double": {"n": 4}, "text": "n is 4"})
    moved.record({"n": 3}, {"double": {"n": 6}, "text": "n is 6"})

    proof = moved.compare()

    assert words(proof) == words(proof, 1) == {"double": "same", "text": "same"}
    assert proof.counts == {
        "recorded": 2,
        "ended": 2,
        "same": 2,
        "differs": 0,
        "not_comparable": 0,
        "not_recorded": 0,
    }
    assert "against 2 runs at Pipedream: 2 same, 0 differ, 0 not comparable." in proof.render_text()


def test_a_difference_is_reported_once_where_it_is_made(moved: Moved) -> None:
    """The step that differs is named with both values; the step below gets the recorded value, and is the same."""
    moved.write(double="return { n: steps.trigger.event.body.n * 3 };", text=TEXT)
    moved.record({"n": 2}, {"double": {"n": 4}, "text": "n is 4"})

    proof = moved.compare()

    assert words(proof) == {"double": "differs", "text": "same"}
    (place,) = proof.verdicts[0].steps[0].places
    assert (place.path, place.recorded, place.here) == ("$return_value.n", "4", "6")
    assert "Pipedream  4" in proof.render_text()
    assert "<th" in proof.render_html()


@pytest.mark.parametrize(
    ("code", "recorded"),
    [
        ("return Date.now();", 1_796_119_200_123),
        ("return new Date().toISOString();", "2026-12-01T10:00:03.217Z"),
        (
            "return `order ${steps.trigger.event.body.n} at ${new Date().toISOString()} by us`;",
            "order 2 at 2026-12-01T10:00:03.217Z by us",
        ),
        ("return Math.random();", 0.4711),
        ("return { id: crypto.randomUUID(), n: 2 };", {"id": "0f5f2f6e-5d2d-4c59-9d14-6f0d5b1c3c11", "n": 2}),
        ("return `line 1\\nid ${crypto.randomUUID()}\\nend`;", "line 1\nid 0f5f2f6e-5d2d-4c59-9d14-6f0d5b1c3c11\nend"),
        ("import time\n\ndef handler(pd):\n    return int(time.time())\n", 1_796_119_204),
    ],
)
def test_time_and_chance_are_not_comparable(moved: Moved, code: str, recorded: Any) -> None:
    """A value that changes between two runs here is not compared, and the step below gets the recorded one."""
    moved.write(made=code, below="return JSON.stringify(steps.made.$return_value);")
    moved.record({"n": 2}, {"made": recorded, "below": json.dumps(recorded, separators=(",", ":"))})

    proof = moved.compare()

    assert words(proof) == {"made": "not comparable", "below": "same"}
    assert proof.never_compared == ("made",)


@pytest.mark.parametrize(
    ("code", "recorded"),
    [
        (
            "return `order ${steps.trigger.event.body.n} at ${new Date().toISOString()}`;",
            "order 3 at 2026-12-01T10:00:03.217Z",
        ),
        ("return { id: crypto.randomUUID(), n: 2 };", {"id": "0f5f2f6e-5d2d-4c59-9d14-6f0d5b1c3c11", "n": 3}),
        (
            "return `line 1\\nid ${crypto.randomUUID()}\\nend`;",
            "line 1\nid 0f5f2f6e-5d2d-4c59-9d14-6f0d5b1c3c11\nother",
        ),
        ("return Math.random();", "0.4711"),
    ],
)
def test_a_difference_beside_chance_is_found(moved: Moved, code: str, recorded: Any) -> None:
    """What does not change between two runs here is compared, also in the same text."""
    moved.write(made=code)
    moved.record({"n": 2}, {"made": recorded})

    assert words(moved.compare()) == {"made": "differs"}


def test_the_date_is_that_of_the_record(moved: Moved) -> None:
    """A workflow that reads the day does what it did on that day."""
    moved.write(day="return new Date().toISOString().slice(0, 10);")
    moved.record(None, {"day": "2026-12-01"})
    moved.record(None, {"day": "2026-12-02"}, at="2026-12-02T10:00:00.000Z")

    proof = moved.compare()

    assert words(proof) == words(proof, 1) == {"day": "same"}


def test_hidden_values_are_not_comparable(moved: Moved) -> None:
    """A hidden value, what is computed of it, and a text around it: the rest of the text is compared."""
    moved.write(
        copy="return steps.trigger.event.body.password;",
        hash="return (await import('node:crypto')).createHash('sha256').update(JSON.stringify(steps.trigger.event.body)).digest('hex');",
        check="return steps.trigger.event.body.password === 'right' ? 'ok' : 'refused';",
        text="return `user ${steps.trigger.event.body.user} ${steps.copy.$return_value}`;",
        wrong="return `usr ${steps.trigger.event.body.user} ${steps.copy.$return_value}`;",
    )
    shown = "user ada {{redacted}}"
    moved.record(
        {"user": "ada", "password": "{{redacted}}"},
        {"copy": "{{redacted}}", "hash": "0" * 64, "check": "ok", "text": shown, "wrong": shown},
    )

    found = words(moved.compare())

    assert found["hash"] == found["check"] == "not comparable"
    assert found["wrong"] == "differs"
    assert found["copy"] in ("same", "not comparable")
    assert found["text"] in ("same", "not comparable")


def test_a_difference_beside_a_hidden_value_is_found(moved: Moved) -> None:
    """A step that hands a hidden value on is compared in everything else."""
    moved.write(
        sum="const { items, mail } = steps.trigger.event.body; return { total: items.length, mail, hi: `hi ${mail}` };"
    )
    body = {"items": [2, 3], "mail": "{{redacted}}"}
    moved.record(body, {"sum": {"total": 5, "mail": "{{redacted}}", "hi": "hi {{redacted}}"}})

    proof = moved.compare()

    assert words(proof) == {"sum": "differs"}
    assert [place.path for place in proof.verdicts[0].steps[0].places if place.reason is None] == [
        "$return_value.total"
    ]


def test_an_id_of_the_other_side_is_learned_from_several_records(moved: Moved) -> None:
    """Ids that differ in every record, where a stand-in has one constant, are not comparable; with two records they differ."""
    moved.write(send="return { ok: true, ts: 'constant-1234567' };")
    for number in range(2):
        moved.record({}, {"send": {"ok": True, "ts": f"made-there-{number}{number * 7 + 3}"}})
    few = moved.compare()
    moved.record({}, {"send": {"ok": True, "ts": "made-there-99"}})

    many = moved.compare()

    assert words(few) == {"send": "differs"}
    assert [words(many, run) for run in range(3)] == [{"send": "not comparable"}] * 3
    assert "the other side" in str(reasons(many)["send"][0])


def test_a_value_of_the_event_is_not_learned(moved: Moved) -> None:
    """A constant in place of a value that the event has is a difference, however many records there are."""
    moved.write(send="return 'order-0000000';")
    for number in range(4):
        moved.record({"id": f"order-123456{number}"}, {"send": f"order-123456{number}"})

    assert words(moved.compare()) == {"send": "differs"}


def test_a_constant_of_the_other_side_is_not_learned(moved: Moved) -> None:
    """Another constant here is a difference, however many records have the same value, because no id is the same in all runs."""
    moved.write(send="return 'channel-0000000';")
    for _ in range(4):
        moved.record({}, {"send": "channel-1234567"})

    assert words(moved.compare()) == {"send": "differs"}


def test_a_rule_of_a_person_is_followed(moved: Moved) -> None:
    """A declared place is not comparable, with the reason of the person; another place still differs."""
    moved.write(send="return [{ ts: 1, n: 1 }];")
    moved.record({}, {"send": [{"ts": 2, "n": 1}]})
    moved.record({}, {"send": [{"ts": 2, "n": 2}]})
    moved.archive.add_rule(WORKFLOW_ID, "send.$return_value[*].ts", "made by Slack")

    proof = moved.compare()

    assert words(proof) == {"send": "not comparable"}
    assert words(proof, 1) == {"send": "differs"}
    assert reasons(proof)["send"] == ["declared: made by Slack"]


def test_a_step_with_an_outbound_call_gets_the_recorded_exports(moved: Moved) -> None:
    """No request is sent: the step is not comparable, and the step below is compared with what Pipedream's step exported."""
    moved.write(
        call="const answer = await fetch('https://api.example.test/x'); return await answer.json();",
        below="return steps.call.$return_value.id + 1;",
    )
    moved.record({}, {"call": {"id": 7}, "below": 8})

    proof = moved.compare()

    assert words(proof) == {"call": "not comparable", "below": "same"}
    assert "GET https://api.example.test/x" in str(proof.verdicts[0].steps[0].reason)


def test_a_run_that_ended_early(moved: Moved) -> None:
    """Steps of a run without an end are not recorded, and the report says how the run ends here; an end here where there was none differs."""
    moved.write(
        filter="if (steps.trigger.event.body.n > 1) return $.flow.exit('too large'); return 'ok';",
        below="return 1;",
        never="return 2;",
    )
    moved.record({"n": 5})
    moved.record({"n": 1})
    moved.record({"n": 5}, {"filter": "ok", "below": 1, "never": 2})

    proof = moved.compare()

    assert words(proof) == {"filter": "not recorded", "below": "not exercised", "never": "not exercised"}
    assert set(words(proof, 1).values()) == {"not recorded"}
    assert "1 run not recorded to the end: here, filter ends it." in proof.render_text()
    assert "1 run not recorded to the end: it reaches its end here, so" in proof.render_text()
    assert words(proof, 2) == {"filter": "differs", "below": "same", "never": "same"}
    assert (proof.counts["ended"], proof.counts["not_recorded"], proof.counts["same"]) == (1, 2, 0)


def test_a_run_that_ended_after_a_branch(moved: Moved) -> None:
    """Without an end, the steps that the end of a branch recorded are compared; branches without a recorded end are named."""
    moved.write(double=DOUBLE, text=TEXT, late="throw new Error('late');")
    moved.record({"n": 1})
    run = moved.archive.load(WORKFLOW_ID)[0]
    recorded = {"double": {"$return_value": {"n": 2}}, "text": {"$return_value": "n is 3"}}
    moved.archive.save(
        msgspec.structs.replace(run, steps=recorded, branches=("urgent",), known_branches=("other", "urgent"))
    )

    proof = moved.compare()

    assert words(proof) == {"double": "same", "text": "differs", "late": "not recorded"}
    assert "here, late fails" in proof.render_text()
    assert "Branches never recorded to their end: other." in proof.render_text()


def test_a_response_is_not_recorded(moved: Moved) -> None:
    """The step that responds is the same in its exports, and the report says that its response is not known."""
    moved.write(answer="await $.respond({ status: 201, body: 'made' }); return 1;", below="return 2;")
    moved.record({}, {"answer": 1, "below": 2})

    proof = moved.compare()

    assert words(proof) == {"answer": "same", "below": "same"}
    assert "Not recorded: the response that answer may send" in proof.render_text()


def test_an_error_here_differs(moved: Moved) -> None:
    """A step that fails here and did not there is named with its error; the rest is compared."""
    moved.write(broken="throw new TypeError('no such thing');", below="return steps.broken.$return_value;")
    moved.record({}, {"broken": 3, "below": 3})

    proof = moved.compare()

    assert words(proof) == {"broken": "differs", "below": "same"}
    assert "no such thing" in str(proof.verdicts[0].steps[0].places[0].here)


def test_steps_that_no_run_exercised_are_named(moved: Moved) -> None:
    """A step below an exit of every recorded run was never exercised."""
    moved.write(filter="return $.flow.exit('always');", below="return 1;")
    moved.record({})

    proof = moved.compare()

    assert proof.never_exercised == ("below",)
    assert "Never exercised: below." in proof.render_text()


def test_large_values_and_summaries_are_not_comparable(moved: Moved) -> None:
    """Exports that were left out of the record are named as such."""
    moved.write(large="return 'x'.repeat(10);", below="return 1;")
    moved.record({}, {"large": None, "below": 1})
    run = moved.archive.load(WORKFLOW_ID)[0]
    moved.archive.save(
        type(run)(
            **{
                **{name: getattr(run, name) for name in run.__struct_fields__},
                "steps": {"large": {"$pdkernel_omitted": 900}, "below": {"$return_value": 1}},
            }
        )
    )

    assert words(moved.compare()) == {"large": "not comparable", "below": "same"}


def test_recording_steps_are_not_compared(moved: Moved) -> None:
    """Steps that record do not belong to the workflow."""
    moved.write(pd_record_start="return { recorded: true };", double=DOUBLE)
    moved.record({"n": 1}, {"double": {"n": 2}})

    assert words(moved.compare()) == {"double": "same"}


def test_a_workflow_without_records_is_named(moved: Moved) -> None:
    """The error names the command that brings records home."""
    moved.write(double=DOUBLE)

    with pytest.raises(Exception, match="no recorded runs of Moved"):
        require_recorded_id(load_source(moved.folder), moved.archive)
