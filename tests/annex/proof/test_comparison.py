"""Comparison of definitions: a workflow that is written and read back is equal."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.annex.proof.comparison import (
    MISSING,
    ValueDifference,
    compare_runs,
    compare_workflows,
    find_differences,
    is_refused_before_start,
    separate_flaky,
)
from pdkernel.annex.proof.report import WHOLE_RUN, Difference
from pdkernel.annex.proof.side_runner import SideRun, normalize_for_run, read_exported_folder
from pdkernel.common.redaction import Redactor, Secret
from pdkernel.execution import AccountUse, Delivery, ErrorRecord, Log, OutboundCall, Response, StepResult
from pdkernel.files.definition import Sidecar, export_to_synced_folder, grade_fields, plan_files, write_files
from pdkernel.files.source import load_source
from pdkernel.model import (
    JSON,
    LANGUAGES,
    ROUND_TRIP_KEY,
    AppBinding,
    Branch,
    Step,
    StoreBinding,
    Trigger,
    UnsupportedEntry,
    Workflow,
)
from tests.builders import a_block, a_workflow, with_step
from tests.render.builders import a_call, an_execution
from tests.render.builders import with_step as with_result

PROJECTS = Path(__file__).parents[2] / "files" / "definition" / "projects"
TRIGGERS = (
    Trigger(auth="bearer", token_env="TOKEN", response="custom"),
    Trigger(config={"id": "hi_1"}),
    Trigger("schedule", config={"cron": "0 * * * *", "timezone": "UTC"}),
    Trigger("email", config={"id": "ei_1"}),
)
SETTINGS = {"lambda_timeout": 40, "memory": 512, "concurrency": 2, "error_notification": False}
values = st.sampled_from(
    [1, 1.5, "1", "yes", "on", "null", "", " x ", "a\nb\n", "é 世界 🎉", "{{steps.a.b}}", "# no", "x: y", True, None, [], {}, ["a", ["b"]], {"k": {"l": "~"}}, "2026-03-01", "12:30", "0899", "word " * 40]
)  # fmt: skip


@st.composite
def steps(draw: st.DrawFn, name: str) -> Step:
    """A step that a cell can hold."""
    uses = draw(st.sampled_from([None, None, "slack-send-message@0.0.20"]))
    props = [("a", "slack")] if uses else [("a", "slack"), ("github", "github")]
    account = st.sampled_from([None, "apn_1", "apn_2"])
    return Step(
        name,
        "node" if uses else draw(st.sampled_from(LANGUAGES)),
        "" if uses else draw(st.sampled_from(["def handler(pd):\n    return 1\n", "x = 'é'", "\n\n", "a\r\nb"])),
        uses=uses,
        apps=tuple(AppBinding(prop, app, draw(account)) for prop, app in draw(st.sets(st.sampled_from(props)))),
        stores=tuple(
            StoreBinding(prop, draw(st.sampled_from([None, "mine", "ds_1"])))
            for prop in draw(st.sets(st.sampled_from(["s", "t"])))
        ),
        props=draw(st.dictionaries(st.sampled_from(["x", "yes", "z z"]), values)),
        timeout_s=draw(st.sampled_from([None, 5.0])),
        disabled=draw(st.booleans()),
        debug=draw(st.booleans()),
        notes=draw(st.sampled_from([None, "a\nnote"])),
        line_offset=draw(st.integers(0, 3)),
    )


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """A workflow that a notebook can hold."""
    names = draw(st.lists(st.sampled_from(["a", "b", "off", "No"]), unique=True))
    return Workflow(
        draw(st.sampled_from(["W", "yes", "a: b"])),
        triggers=(draw(st.sampled_from(TRIGGERS)),),
        steps=tuple(draw(steps(name)) for name in names),
        settings={key: SETTINGS[key] for key in draw(st.sets(st.sampled_from(list(SETTINGS))))},
        variables=tuple(draw(st.lists(st.sampled_from(["A", "B"]), unique=True))),
    )


@given(workflows())
def test_a_plan_reads_back_the_same(workflow: Workflow) -> None:
    """A workflow that a notebook can hold has no difference, and both sides run equal workflows."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(plan_files(workflow), Path(folder) / "flow")
        read = read_exported_folder(Path(folder) / "flow", workflow, None)

    assert list(compare_workflows(workflow, read.workflow, folder_sidecar=read.sidecar)) == []
    assert read.unquoted_texts == ()
    assert normalize_for_run(read.workflow, workflow).version == normalize_for_run(workflow, workflow).version


@pytest.mark.parametrize("name", sorted(path.name for path in PROJECTS.iterdir()))
def test_synced_projects(tmp_path: Path, name: str) -> None:
    """An imported synced folder has no difference after it is patched, unchanged or changed."""
    folder = Path(shutil.copytree(PROJECTS / name, tmp_path / name))
    notebook = tmp_path / "made.ipynb"
    ended = CliRunner().invoke(
        importlib.import_module("pdkernel.cli").pdkernel,
        ["--project", str(tmp_path), "import", str(folder), "--to", str(notebook)],
    )
    assert ended.exit_code == 0, ended.output
    opened = load_source(notebook, unanswered="keep")
    changed = with_step(opened.workflow, Step("added", source="def handler(pd):\n    return 1\n", props={"n": "1"}))

    for workflow in (opened.workflow, changed):
        export_to_synced_folder(workflow, folder, sidecar=opened.sidecar)
        read = read_exported_folder(folder, workflow, opened.sidecar)
        differing = compare_workflows(
            workflow, read.workflow, notebook_sidecar=opened.sidecar, folder_sidecar=read.sidecar, is_patched=True
        )
        assert list(differing) == []
        assert {field.grade for field in grade_fields(read.files, workflow)} <= {"observed", "inferred", "documented"}


WHOLE = Workflow(
    "W",
    triggers=(TRIGGERS[0], TRIGGERS[2]),
    steps=(
        Step(
            "a",
            "bash",
            "one\ntwo\n",
            apps=(AppBinding("slack", "slack", "apn_1"),),
            stores=(StoreBinding("db", "mine"),),
            props={"x": 1},
            timeout_s=5.0,
            notes="Note",
            extra={"runtime": "bash"},
        ),
        Step("b"),
    ),
    settings={"lambda_timeout": 40},
    variables=tuple("HGFEDCBA"),
    extra={"schema": "workflow/2022.04", "kept_key": 1},
)
WHOLE = WHOLE.with_unsupported_entries([UnsupportedEntry("a", {"namespace": "branch"})])
LABELLED: dict[str, JSON] = {"__lv": {"label": "One", "value": 1}}
SIDECAR = Sidecar(
    endpoint="eo1",
    actions=("npm",),
    test_users=("ada",),
    test_events=("e.json",),
    path=Path("p"),
    naming_callers=("Caller",),
)


def change(**changes: Any) -> Workflow:
    """The workflow with changes of its step `a`."""
    return with_step(WHOLE, replace(WHOLE.steps[0], **changes))


@pytest.mark.parametrize(
    ("files", "differences"),
    [
        (WHOLE, {}),
        (replace(WHOLE, name="V"), {"name": ("W", "V")}),
        (replace(WHOLE, settings={"lambda_timeout": 41}), {"settings.lambda_timeout": (40, 41)}),
        (replace(WHOLE, variables=tuple("ABCDEFG")), {"variables[7]": ("H", MISSING)}),
        (replace(WHOLE, extra={**WHOLE.extra, "kept_key": True}), {"kept_key": (1, True)}),
        (replace(WHOLE, steps=WHOLE.steps[::-1]), {"steps[0]": ("a", "b"), "steps[1]": ("b", "a")}),
        (WHOLE.with_unsupported_entries([UnsupportedEntry("b", {})]), {"kept[0][0]": ("a", "b"), "kept[0][1].namespace": ("branch", MISSING)}),
        (replace(WHOLE, triggers=(Trigger(), TRIGGERS[2])), {"triggers[0].auth": ("bearer", "none"), "triggers[0].token_env": ("TOKEN", None), "triggers[0].response": ("custom", "default")}),
        (replace(WHOLE, triggers=(TRIGGERS[0], Trigger("email", config={"cron": "0 * * * *", "timezone": "CET"}))), {"triggers[1].type": ("schedule", "email"), "triggers[1].timezone": ("UTC", "CET")}),
        (change(language="python"), {"steps.a.language": ("bash", "python")}),
        (change(uses="slack-send@1.0.0"), {"steps.a.uses": (None, "slack-send@1.0.0")}),
        (change(disabled=True), {"steps.a.disabled": (False, True)}),
        (change(notes=None), {"steps.a.notes": ("Note", None)}),
        (change(timeout_s=6.0), {"steps.a.timeout": (5.0, 6.0)}),
        (change(apps=(AppBinding("slack", "discord"),)), {"steps.a.accounts.slack.app": ("slack", "discord"), "steps.a.accounts.slack.account": ("apn_1", "external_user")}),
        (change(stores=(StoreBinding("db"),)), {"steps.a.stores.db": ("mine", None)}),
        (change(props={"x": 2}), {"steps.a.props.x": (1, 2)}),
        (change(source="one\n2\n"), {"steps.a.code line 2": ("two\n", "2\n")}),
        (change(extra={"runtime": "other"}), {"steps.a.runtime": ("bash", "other")}),
        (change(files={"lib.sh": "1"}), {'steps.a.files["lib.sh"]': (MISSING, "1")}),
        (change(extra={"runtime": "bash", ROUND_TRIP_KEY: {"picked": {"x": {"written": LABELLED, "value": 1}}}}), {"steps.a.picked.x": (MISSING, LABELLED)}),
    ],
)  # fmt: skip
def test_every_field_is_compared(files: Workflow, differences: dict[str, tuple[Any, Any]]) -> None:
    """A change of any field of a workflow or a step is a difference with its path and both values."""
    found = {each.path: (each.notebook, each.files) for each in compare_workflows(WHOLE, files)}

    assert found == differences


def test_blocks_are_compared() -> None:
    """A changed condition is a difference, and so is a step that moved to another branch."""
    block = a_block("%%pdif t\nx: a > 1\nelse:")
    inside = a_workflow(block, Step("a", inside="t.x"), error_notification=True)
    condition = replace(inside, blocks=(replace(block, branches=(Branch("x", "a > 2"), block.branches[1])),))
    moved = a_workflow(block, Step("a", inside="t.else"), error_notification=True)

    assert not list(compare_workflows(inside, inside))
    assert [each.path for each in compare_workflows(inside, condition)] == ["blocks[0].branches[0].condition"]
    assert "steps[0]" in [each.path for each in compare_workflows(inside, moved)]


@pytest.mark.parametrize("patched", [False, True])
def test_keys_of_the_files_only(patched: bool) -> None:
    """After an update of a synced folder, keys that the notebook lacks are not differences."""
    more = replace(
        WHOLE,
        triggers=tuple(replace(trigger, config={**trigger.config, "id": "hi_1"}) for trigger in WHOLE.triggers),
        settings={**WHOLE.settings, "memory": 512},
        extra={**WHOLE.extra, "more": 1},
    )

    found = [each.path for each in compare_workflows(WHOLE, more, is_patched=patched)]

    assert found == ([] if patched else ["triggers[0].id", "triggers[1].id", "settings.memory", "more"])
    lost = replace(WHOLE, triggers=WHOLE.triggers[:1], settings={}, extra={})
    assert [each.path for each in compare_workflows(WHOLE, lost, is_patched=patched)][:2] == [
        "triggers[1]",
        "settings.lambda_timeout",
    ]


def test_entries_of_the_files_only() -> None:
    """An update keeps entries that are not steps, so only a lost entry is a difference."""
    more = WHOLE.with_unsupported_entries([*WHOLE.unsupported_entries, UnsupportedEntry("b", {"namespace": "new"})])
    lost = replace(WHOLE, extra={key: value for key, value in WHOLE.extra.items() if key != ROUND_TRIP_KEY})

    assert list(compare_workflows(WHOLE, more, is_patched=True)) == []
    assert [each.path for each in compare_workflows(WHOLE, more)] == ["kept[1]"]
    assert [each.path for each in compare_workflows(WHOLE, lost, is_patched=True)] == ["kept[0]"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({}, []),
        ({"endpoint": "eo2"}, ["pdkernel.yaml.endpoint"]),
        ({"actions": ("builtin",)}, ["pdkernel.yaml.actions[0]"]),
        ({"test_users": ("bob",)}, ["pdkernel.yaml.test_users[0]"]),
        ({"test_events": ()}, ["pdkernel.yaml.test_events"]),
        ({"naming_callers": ("Other",)}, ['pdkernel.yaml["child_runs.may_name_external_user"][0]']),
        ({"path": Path("q")}, []),
    ],
)
def test_every_field_of_the_sidecar_is_compared(changes: dict[str, Any], path: list[str]) -> None:
    """A change of a field of `pdkernel.yaml` is a difference; a field of the folder's file alone is not."""
    files = replace(SIDECAR, **changes)

    differing = compare_workflows(WHOLE, WHOLE, notebook_sidecar=SIDECAR, folder_sidecar=files)

    assert [each.path for each in differing] == path
    assert list(compare_workflows(WHOLE, WHOLE, folder_sidecar=SIDECAR)) == []
    assert list(compare_workflows(WHOLE, WHOLE, notebook_sidecar=SIDECAR)) == []


def calling(*calls: OutboundCall) -> SideRun:
    """A run whose step `check` has sent *calls*."""
    return SideRun(with_result(an_execution(), "check", requests=calls), {})


def test_the_order_of_outbound_calls_is_ignored() -> None:
    """Concurrent calls may end in any order; another status, or a repeated call, is a difference."""
    first, second = a_call(url="https://one.example/"), a_call(url="https://two.example/")

    reordered = compare_runs(calling(first, second), calling(second, first))
    changed = compare_runs(calling(first, second), calling(first, a_call(url="https://two.example/", status=500)))
    repeated = compare_runs(calling(first), calling(first, first))

    assert not any(reordered.values())
    assert [name for name, differences in changed.items() if differences] == ["check"]
    assert [place.path for place in repeated["check"]] == ["requests[1]"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"status": "error"}, "status"),
        ({"exports": {"a": 2}}, "exports.a"),
        ({"error": ErrorRecord("c", "N", "m")}, "error"),
        ({"accounts": (AccountUse("slack", "slack", "apn_2", "external_user"),)}, "accounts.slack.id"),
        ({"accounts": (AccountUse("slack", "slack", "apn_1", "own"),)}, "accounts.slack.owner"),
        ({"requests": (a_call(),)}, "requests[0]"),
        ({"attempt": 2}, "attempt"),
        ({"duration_ms": 5.0}, None),
        ({"logs": (Log("stdout", "x"),)}, None),
    ],
)
def test_what_a_step_did_is_compared(changes: dict[str, Any], path: str | None) -> None:
    """Status, exports, error, accounts, calls and attempt of a step count; its output and its duration do not."""
    step = StepResult(
        "check", "success", exports={"a": 1}, accounts=(AccountUse("slack", "slack", "apn_1", "external_user"),)
    )
    one, other = (SideRun(an_execution(steps=(each,)), {}) for each in (step, msgspec.structs.replace(step, **changes)))

    found = compare_runs(one, other)

    assert [difference.path for difference in found["check"]] == ([] if path is None else [path])
    assert found[WHOLE_RUN] == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"step": "b"}, 0),
        ({"kind": "http"}, 1),
        ({"outcome": "failed"}, 2),
        ({"to": "you@a"}, 3),
        ({"status": 500}, 4),
        ({"payload": {"subject": "Other"}}, 5),
        ({"note": "Other"}, None),
    ],
)
def test_what_a_message_has_is_compared(changes: dict[str, Any], place: int | None) -> None:
    """Step, kind, outcome, receiver, status and content of a message count."""
    sent = Delivery("a", "email", "sent", to="me@a", status=200, payload={"subject": "One"})
    one, other = (SideRun(an_execution(sends=(each,)), {}) for each in (sent, msgspec.structs.replace(sent, **changes)))

    paths = [difference.path for difference in compare_runs(one, other)[WHOLE_RUN]]

    assert {path.partition(".")[0] for path in paths} == (set() if place is None else {f"sends[0][{place}]"})


@pytest.mark.parametrize(
    ("changes", "stores", "path"),
    [
        ({"status": "exited"}, {}, "status"),
        ({"response": Response(200, {}, "ok")}, {}, "response"),
        ({"error": ErrorRecord("c", "N", "m")}, {}, "error"),
        ({"sends": (Delivery("a", "email", "sent", to="me@a"),)}, {}, "sends[0]"),
        ({}, {"orders": {"a": 1}}, "stores.orders"),
        ({"id": "other", "started_at": "2026-01-01T00:00:00.000Z"}, {}, None),
    ],
)
def test_what_a_run_did_is_compared(changes: dict[str, Any], stores: dict[str, Any], path: str | None) -> None:
    """Status, response, error, messages and data stores of a run count; its id and its time do not."""
    found = compare_runs(SideRun(an_execution(), {}), SideRun(an_execution(**changes), stores))

    assert [difference.path for difference in found.pop(WHOLE_RUN)] == ([] if path is None else [path])
    assert not any(found.values())


def test_a_step_of_one_side_only() -> None:
    """A step that the other side does not have is one difference."""
    found = compare_runs(SideRun(an_execution(), {}), SideRun(an_execution(steps=()), {}))

    assert [each.path for each in found["check"]] == [""]
    assert set(found) == {"check", "build", "count", "send", WHOLE_RUN}


@pytest.mark.parametrize(
    ("statuses", "has_error", "is_refused"),
    [
        (("not_run", "disabled", "not_run"), True, True),
        (("not_run", "not_run"), False, False),
        (("error", "skipped"), True, False),
        (("success", "not_run"), True, False),
    ],
)
def test_a_run_that_is_refused(statuses: tuple[Any, ...], has_error: bool, is_refused: bool) -> None:
    """A run is refused if it has an error and no step has run; a disabled step never runs."""
    steps = tuple(StepResult(f"s{number}", status) for number, status in enumerate(statuses))
    execution = an_execution(steps=steps, error=ErrorRecord("c", "N", "m") if has_error else None)

    assert is_refused_before_start(execution) is is_refused


def test_flaky_places_are_separated() -> None:
    """A place inside or around a flaky place, or equal to it, is flaky; a place with a similar name is not."""
    paths = ["exports.now", "exports.now.at", "exports.list[0]", "exports.text line 2", "exports.nowhere", "exports"]
    differences = {"a": [ValueDifference(path, 1, 2) for path in paths], "b": [ValueDifference("exports.now", 1, 2)]}
    flaky = {"a": [ValueDifference(path, 1, 2) for path in ("exports.now", "exports.list", "exports.text")]}

    stable, unstable = separate_flaky(differences, flaky)

    assert [each.path for each in stable["a"]] == ["exports.nowhere"]
    assert unstable == {"a": [path for path in paths if path != "exports.nowhere"]}
    assert [each.path for each in stable["b"]] == ["exports.now"]
    assert separate_flaky({"a": []}, {}) == ({"a": []}, {})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        (1, 1.0, [("exports", 1, 1.0)]),
        (1, True, [("exports", 1, True)]),
        (0, None, [("exports", 0, None)]),
        ({"a": 1}, {"c": 2}, [("exports.a", 1, MISSING), ("exports.c", MISSING, 2)]),
        ({"a": None}, {}, [("exports.a", None, MISSING)]),
        ([1, 2], [1], [("exports[1]", 2, MISSING)]),
        ([1], [2, 3], [("exports[0]", 1, 2), ("exports[1]", MISSING, 3)]),
        ({"a": [{"b-c": 1}]}, {"a": [{"b-c": 2}]}, [("exports.a[0].b-c", 1, 2)]),
        ({"a b": 1, "": 1}, {"a b": 2, "": 2}, [('exports["a b"]', 1, 2), ('exports[""]', 1, 2)]),
        ({"é": 1}, {"é": 2}, [('exports["é"]', 1, 2)]),
        ([], {}, [("exports", [], {})]),
        ("a", "b", [("exports", "a", "b")]),
        ("a\nb\nc", "a\nx\ny", [("exports line 2", "b\n", "x\n")]),
        ("a\n", "a", [("exports line 1", "a\n", "a")]),
        ("a\nb", "a\n", [("exports line 2", "b", MISSING)]),
        ("a\nb", "a\nb", []),
    ],
)
def test_every_place_is_found(one: Any, other: Any, expected: list[tuple[str, Any, Any]]) -> None:
    """Types count, the order of keys does not; of texts of several lines the first differing line is reported."""
    found = [(each.path, each.notebook, each.files) for each in find_differences("exports", one, other)]

    assert found == expected
    assert [tuple(map(type, each)) for each in found] == [tuple(map(type, each)) for each in expected]


def test_a_path_may_be_empty() -> None:
    """A key of the value itself has no dot before it."""
    assert [each.path for each in find_differences("", {"a": 1, "b c": 1}, {})] == ["a", '["b c"]']


def test_a_report_has_no_secret() -> None:
    """Path and values are redacted JSON texts; a missing value is not null."""
    redactor = Redactor([Secret("env/KEY", "a-planted-secret")])
    found = ValueDifference("exports.a-planted-secret", {"é": "a-planted-secret"}, MISSING).to_difference(redactor)

    assert found == Difference("exports.⟦secret:env/KEY⟧", '{"é": "⟦secret:env/KEY⟧"}', None)
    assert ValueDifference("a", None, "x").to_difference(redactor) == Difference("a", "null", '"x"')
