"""Imports of archives: notebooks that appear together, the account of the manifest, and the shapes of what is not understood."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdkernel.actions import Catalog
from pdkernel.errors import ArchiveError, RequestError
from pdkernel.files.notebook import read_notebook
from pdkernel.files.source import load_source
from pdkernel.operations.importer import ArchiveResult, ImportOptions, explain_archive, import_archive
from tests.files.definition.archives import PYTHON, action, manifest, pack, step, workflow
from tests.operations.importer.import_helpers import as_written

BLOCK = {"namespace": "triage", "type": "IfElse", "branches": [{"rules": [{"op": "="}], "steps": [step("page")]}]}
SLACK = {"slack": {"authProvisionId": "apn_Git1"}, "text": "hi", "token": "<redacted>"}
FILES: dict[str, Any] = {
    "Sales/greet.json": workflow(
        "Greet",
        [step("count", PYTHON, lang="python3.12", notes="Counts."), action("send", "slack-send-message", "0.0.20", props=SLACK)],
        workflow_id="p_Ab12Cd3",
        settings={"lambda_timeout": 40},
    ),
    "on-call.json": workflow("On call", [step("check"), BLOCK], workflow_id="p_Zz12Cd3"),
}  # fmt: skip
LISTED = manifest(
    {"id": "p_Ab12Cd3", "name": "Greet", "path": "Sales/greet.json", "status": "exported"},
    {"id": "p_Zz12Cd3", "name": "On call", "status": "exported", "warnings": ["step check: look at it"]},
    {"id": "p_Dr12Cd3", "name": "Draft", "status": "skipped_never_deployed"},
    {"id": "p_Li12Cd3", "name": "Late", "status": "skipped_export_limit"},
    {"id": "p_Lo12Cd3", "name": "Lost", "status": "exported"},
    {"id": "p_Ne12Cd3", "name": "New", "status": "paused"},
    truncated=True,
    truncated_reason="limit of workflows",
)


def run(path: Path, target: Path, *, force: bool = False, **more: Any) -> ArchiveResult:
    """Import an archive, like the command without a terminal."""
    options = ImportOptions(
        build_catalog=lambda _, __: Catalog.without_project(path.parent / ".pdkernel", environ={}),
        ask_accounts=lambda _: {},
        ask_trigger=None,
        force=force,
    )
    return import_archive(path, target, options, **more)


def listing(folder: Path) -> list[str]:
    """All files below a folder, the hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_each_workflow_becomes_a_notebook(tmp_path: Path) -> None:
    """Folders, triggers, settings, code, notes, props and open accounts of the archive are in the notebooks."""
    result = run(pack(tmp_path / "x.zip", FILES, listed=LISTED), tmp_path / "to")

    greet, sidecar = as_written(tmp_path / "to" / "Sales" / "greet-p_Ab12Cd3.ipynb")
    count, send = greet.steps
    assert [one.state for one in result.workflows] == ["new", "new"]
    assert (count.source, count.language, count.notes) == (PYTHON, "python", "Counts.")
    assert (send.uses, send.props["text"]) == ("slack-send-message@0.0.20", "hi")
    assert (sidecar.steps["send"].accounts["slack"].account, sidecar.steps["send"].accounts["slack"].synced) == (
        "unanswered",
        "apn_Git1",
    )
    assert greet.settings == {"lambda_timeout": 40}
    assert [(trigger.type, trigger.config["id"], trigger.response) for trigger in greet.triggers] == [
        ("http", "hi_1", "default")
    ]
    report = result.workflows[0].report
    assert report is not None
    assert [(use.step, use.prop) for use in report.secrets] == [("send", "token")]
    assert report.triggers[0].assumed
    assert any("eo1.m.pipedream.net" in note for note in report.notes)


def test_a_step_with_an_unknown_condition_does_not_run(tmp_path: Path) -> None:
    """The report names the unknown part and the step, and the notebook has both, the step disabled."""
    result = run(pack(tmp_path / "x.zip", FILES), tmp_path / "to")

    on_call = read_notebook(tmp_path / "to" / "on-call-p_Zz12Cd3.ipynb")
    report = result.workflows[1].report
    assert report is not None
    assert [(each.step, each.path) for each in report.conditions] == [("page", "$.steps[1].branches[0].steps[0]")]
    assert [item.name for item in report.cannot] == ["triage"]
    assert report.ready == ("check",)
    assert on_call.step("page").disabled
    assert [(entry.path, entry.entry) for entry in on_call.unsupported_entries] == [("$.steps[1]", BLOCK)]


def test_each_line_of_the_manifest_is_accounted_for(tmp_path: Path) -> None:
    """Exported, skipped and why, missing, unknown, truncated; warnings stay with their workflows."""
    files = {**FILES, "more.json": workflow("More", [])}

    result = run(pack(tmp_path / "x.zip", files, listed=LISTED), tmp_path / "to")

    lines = {line.name: line for line in result.lines}
    assert list(lines) == ["Greet", "On call", "Draft", "Late", "Lost", "New", "more.json"]
    assert lines["Greet"].notebook == tmp_path / "to" / "Sales" / "greet-p_Ab12Cd3.ipynb"
    assert "never deployed" in lines["Draft"].result
    assert "limit" in lines["Late"].result
    assert "not in the archive" in lines["Lost"].result
    assert "'paused'" in lines["New"].result
    assert "not in the manifest" in lines["more.json"].result
    assert lines["On call"].warnings == ("step check: look at it",)
    assert "truncated (limit of workflows)" in result.notes[0]
    assert [line.name for line in result.lines if line.lost] == ["Lost"]
    assert result.exit_status == 2


@pytest.mark.parametrize(
    ("listed", "note"),
    [
        ({}, "no manifest.json"),
        (
            {"listed": {"schema": "project-export/2027.01", "workflows": [{"name": "W", "status": "exported"}]}},
            "2027.01",
        ),
        ({"listed": {"schema": "project-export/2026.01", "items": []}}, "lists no workflow"),
        ({"listed": manifest({"name": "W", "status": "exported"}, {"name": "V"}, warnings=["odd"])}, "odd"),
    ],
    ids=["no manifest", "another schema", "another form", "a warning about nothing"],
)
def test_an_unusual_manifest_is_mentioned(tmp_path: Path, listed: dict[str, Any], note: str) -> None:
    """The workflows are imported all the same, and a note says what is unusual."""
    result = run(pack(tmp_path / "x.zip", {"w.json": workflow("W", [step("a")])}, **listed), tmp_path / "to")

    assert (result.exit_status, [one.state for one in result.workflows]) == (0, ["new"])
    assert any(note in each for each in result.notes)


def test_one_bad_workflow_does_not_stop_the_others(tmp_path: Path) -> None:
    """It is reported with its file, and the others are imported."""
    result = run(pack(tmp_path / "x.zip", {"bad.json": b"[", **FILES}), tmp_path / "to")

    assert [one.error is None for one in result.workflows] == [False, True, True]
    assert "x.zip/bad.json is not JSON" in str(result.workflows[0].error)
    assert result.exit_status == 2
    assert len(listing(tmp_path / "to")) == 4
    assert [one["error"] and one["error"]["code"] for one in result.to_json()["workflows"]] == [
        "not_a_workflow",
        None,
        None,
    ]


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_folder_appears_whole(tmp_path: Path, exists: bool) -> None:
    """Until the last workflow is written, the folder is missing or empty; nothing is left beside it."""
    path, target = pack(tmp_path / "x.zip", FILES), tmp_path / "deep" / "to"
    if exists:
        target.mkdir(parents=True)
    seen = []

    def look(number: int, count: int, file: str) -> None:
        seen.append((number, count, file, target.exists() and listing(target)))

    run(path, target, on_progress=look)

    empty: Any = [] if exists else False
    assert seen == [(1, 2, "Sales/greet.json", empty), (2, 2, "on-call.json", empty)]
    assert [each.name for each in target.parent.iterdir()] == ["to"]
    assert len(listing(target)) == 4


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    """An interrupt before the last workflow removes what was written."""

    def interrupt(number: int, *_: object) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pack(tmp_path / "x.zip", FILES), tmp_path / "to", on_progress=interrupt)

    assert [each.name for each in tmp_path.iterdir()] == ["x.zip"]


def test_a_damaged_archive_writes_nothing(tmp_path: Path) -> None:
    """Damage in the last file is found before the first notebook is written, also in a folder with files."""
    path = pack(tmp_path / "x.zip", FILES)
    content = bytearray(path.read_bytes())
    content[content.index(b"on-call.json") + 30] ^= 0xFF  # a byte of its content
    path.write_bytes(content)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine")

    with pytest.raises(ArchiveError, match="damaged"):
        run(path, tmp_path / "to")

    assert listing(tmp_path) == ["to/mine.txt", "x.zip"]


def test_an_existing_folder_follows_the_rules_of_imports(tmp_path: Path) -> None:
    """The same notebook stays, a changed one is refused, and with force it is kept as a backup; answers stay."""
    path, target = pack(tmp_path / "x.zip", FILES), tmp_path / "to"
    run(path, target)
    notebook = target / "on-call-p_Zz12Cd3.ipynb"
    sidecar = target / "Sales" / "greet-p_Ab12Cd3.pdkernel.yaml"
    sidecar.write_text(sidecar.read_text().replace("account: unanswered", "account: external_user"))
    text = json.loads(notebook.read_text())
    text["cells"][-1]["source"] = ["%%pdstep mine\n"]
    notebook.write_text(json.dumps(text))

    again = run(path, target)
    forced = run(path, target, force=True)

    assert [one.state for one in again.workflows] == ["unchanged", None]
    assert "exists already, and its content differs" in str(again.workflows[1].error)
    assert [one.state for one in forced.workflows] == ["unchanged", "replaced"]
    assert "external_user" in sidecar.read_text()
    assert notebook.with_name(f"{notebook.name}.before-import-1").exists()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A folder of the target that leads elsewhere gets no notebook."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "Sales").symlink_to(tmp_path / "elsewhere")

    result = run(pack(tmp_path / "x.zip", FILES), tmp_path / "to")

    assert "link that leads out" in str(result.workflows[0].error)
    assert listing(tmp_path / "elsewhere") == []


def test_one_workflow_as_one_notebook(tmp_path: Path) -> None:
    """An archive with one workflow may become a notebook of any name, several may not."""
    one = pack(tmp_path / "x.zip", {"w.json": workflow("W", [step("a")])})
    two = pack(tmp_path / "y.zip", FILES)

    run(one, tmp_path / "n.ipynb")

    assert [each.name for each in read_notebook(tmp_path / "n.ipynb").steps] == ["a"]
    with pytest.raises(RequestError, match="holds 2 workflows"):
        run(two, tmp_path / "m.ipynb")


def test_two_workflows_never_become_one_notebook(tmp_path: Path) -> None:
    """A file whose name with the id is another file's name is refused, and the first one stays."""
    files = {"w.json": workflow("W", [], workflow_id="p_Ab12Cd3"), "w-p_Ab12Cd3.json": workflow("V", [])}

    result = run(pack(tmp_path / "x.zip", files), tmp_path / "to")

    assert [one.state for one in result.workflows] == ["new", None]
    assert "would both be" in str(result.workflows[1].error)


def test_settings_of_a_trigger_that_have_no_form_are_left_out(tmp_path: Path) -> None:
    """A cron expression that cannot be read is named; the notebook can be read, and the trigger keeps its id."""
    timer = {"id": "ti_1", "configured_props": {"cron": {"cron": ["not", "text"]}}}
    item = {**workflow("W", [step("a")]), "triggers": [timer, {"key": "x"}]}

    result = run(pack(tmp_path / "x.zip", {"w.json": item}), tmp_path / "to")

    report = result.workflows[0].report
    assert report is not None
    assert any("`ti_1` cannot be read" in note for note in report.notes)
    assert as_written(tmp_path / "to" / "w.ipynb")[0].triggers[0].config == {"id": "ti_1"}


def test_the_shapes_of_what_is_not_understood(tmp_path: Path) -> None:
    """Keys and types without a value, a name of a file, or a key that may be a user's; equal shapes once."""
    secret = {"who are you": {"n": 1}, "list": [1, "x", {"deep": None}], "text": json.dumps({"op": "="})}
    files = {f"{name}.json": workflow("SECRET", [step("a", rules=secret)]) for name in ("SECRET1", "SECRET2")}

    shapes = explain_archive(
        pack(tmp_path / "x.zip", {**files, "odd.json": ["SECRET"]}, listed=manifest(note="SECRET"))
    )

    found = {shape.path: shape for shape in shapes}
    assert list(found) == ["manifest.json", "$.steps[].rules", "$"]
    rules = found["$.steps[].rules"]
    assert (rules.parts, rules.workflows) == (2, 2)
    assert dict(rules.fields) == {
        "(itself)": "object",
        ".<key>": "object",
        ".<key>.n": "number",
        ".list": "list",
        ".list[]": "number or object or text",
        ".list[].deep": "null",
        ".text": "text of JSON",
        ".text.op": "text",
    }
    assert "SECRET" not in json.dumps([shape.to_json() for shape in shapes])


def test_a_key_that_is_declared_harmless_disables_nothing(tmp_path: Path) -> None:
    """With `ignored`, the same archive has enabled steps."""
    path = pack(tmp_path / "x.zip", {"w.json": workflow("W", [step("a", meta={"by": "ada"})])})

    run(path, tmp_path / "strict")
    run(path, tmp_path / "told", ignored=["meta"])

    found = [read_notebook(tmp_path / name / "w.ipynb").step("a").disabled for name in ("strict", "told")]
    assert found == [True, False]


KEYS = st.sampled_from(
    ["steps", "triggers", "namespace", "code", "savedComponent", "configured_props_json", "configured_props", "id", "name",
     "settings", "lang", "component_key", "version", "app", "configurableProps", "authProvisionIdMap", "notes", "x y", "", "_filter"]
)  # fmt: skip
TEXTS = st.sampled_from(
    ["a", "hi_1", "ti_2", "p_Ab12Cd3", "python3.12", "<redacted>", "{{steps.a.x}}", "{{", "```", "x\r\ny", "\ud800", "\ufeffz",
     '{"a": {"authProvisionId": 5}}', '{"s": {"storeId": {}}}', "%%pdstep", "slack-x", "0.0.1", "["]
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        TEXTS, st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(allow_nan=False, allow_infinity=False)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=15,
)
STEPS = st.builds(
    lambda name, key, code, more: {**more, "namespace": name, key: code},
    st.sampled_from(["a", "b", "c", "d e", "trigger"]),
    st.sampled_from(["code", "savedComponent", "configured_props_json", "component_key"]),
    VALUES,
    st.dictionaries(KEYS, VALUES, max_size=4),
)


@settings(max_examples=60)
@given(
    steps=st.lists(st.one_of(STEPS, VALUES), max_size=5), more=st.dictionaries(KEYS, VALUES, max_size=3), listed=VALUES
)
def test_any_json_is_imported_and_read_back(steps: list[Any], more: dict[str, Any], listed: Any) -> None:
    """Whatever a file and the manifest hold, the import ends, and a notebook that it writes can be read and imported again."""
    item = {**more, "name": "W", "triggers": more.get("triggers", []), "steps": steps}
    with TemporaryDirectory() as folder:
        path = pack(Path(folder) / "x.zip", {"w.json": item}, listed={"workflows": listed, "warnings": [listed]})

        result = run(path, Path(folder) / "to")
        again = run(path, Path(folder) / "to")
        explain_archive(path)

        (one,) = result.workflows
        assert one.error is None, one.error
        load_source(one.notebook, unanswered="keep")
        assert again.workflows[0].state == "unchanged"
        assert result.to_json()["workflows"][0]["state"] == "new"
