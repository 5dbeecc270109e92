"""The text of an imported notebook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar
from pdkernel.files.definition.sidecar import parse_sidecar
from pdkernel.language.directive import dump_cell_yaml, parse_yaml
from pdkernel.model import JSON, AppBinding, Trigger
from pdkernel.operations.importer import read_for_import
from pdkernel.operations.importer.import_report import ImportReport
from pdkernel.operations.importer.notebook_texts import build_notebook_texts
from tests.files.definition.builders import NODE, synced
from tests.golden import assert_golden
from tests.operations.importer.import_helpers import HEAD, PROJECTS, import_one

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[3]
WRITTEN = [
    *sorted((ROOT / "pdkernel" / "cli" / "templates").glob("*.ipynb")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]


@pytest.mark.parametrize("name", ["every-shape-p_Ab12Cd3", "odd-entries-p_Qq11Ww2"])
def test_the_cells(name: str, tmp_path: Path) -> None:
    """The cells of a whole workflow, the report first, equal its golden file."""
    import_one(PROJECTS / name, tmp_path / "n.ipynb")
    notebook = nbformat.read(tmp_path / "n.ipynb", 4)

    text = "".join(f"===== {cell.cell_type} {cell.id}\n{cell.source}\n" for cell in notebook.cells)

    assert_golden(GOLDEN / f"{name}.txt", text)


def test_cells_have_their_language(tmp_path: Path) -> None:
    """Each cell that is not Python has the id of its language, by which VS Code highlights it; props are YAML."""
    import_one(PROJECTS / "every-shape-p_Ab12Cd3", tmp_path / "n.ipynb")

    cells = [cell for cell in nbformat.read(tmp_path / "n.ipynb", 4).cells if cell.source.startswith("%%")]

    found = {(_kind(cell.source), cell.metadata.get("vscode", {}).get("languageId")) for cell in cells}
    assert {("workflow", "yaml"), ("uses", "yaml"), ("node", "javascript"), ("python", None)} <= found
    assert len(found) == len({kind for kind, _ in found})


def _kind(source: str) -> str:
    words = source.partition("\n")[0].split()
    if words[0] == "%%pdworkflow":
        return "workflow"
    return "uses" if "--uses" in words else words[words.index("--lang") + 1] if "--lang" in words else "python"


@pytest.mark.parametrize("source", ["imported", *WRITTEN], ids=lambda each: getattr(each, "name", each))
def test_jupyter_saves_the_same_bytes(source: str | Path, tmp_path: Path) -> None:
    """Jupyter's own writer leaves an imported notebook, the templates and the example notebooks unchanged."""
    path = tmp_path / "n.ipynb"
    if isinstance(source, Path):
        path.write_bytes(source.read_bytes())
    else:
        import_one(PROJECTS / "every-shape-p_Ab12Cd3", path)
    before = path.read_text(encoding="utf-8")

    nbformat.write(nbformat.read(path, as_version=4), path)

    assert path.read_text(encoding="utf-8") == before


def test_expressions_are_written_without_quotes() -> None:
    """Expressions have no quotes where a cell can read them; elsewhere they keep the quotes that YAML needs."""
    props: dict[str, JSON] = {
        "whole": "{{steps.a.$return_value}}",
        "mixed": "Hi {{steps.a.name}}, {{steps.b['x']}}",
        "list": ["{{steps.a}}", "plain"],
        "braces": '{{ {a: 1, b: "}}"} }}',
        "colon": "{{steps.a}}: {{steps.b}}",
        "lines": "a\n{{steps.b}}",
        "not one": "{{#each items}}",
    }

    text = dump_cell_yaml(props)

    assert text == (
        "whole: {{steps.a.$return_value}}\n"
        "mixed: Hi {{steps.a.name}}, {{steps.b['x']}}\n"
        "list:\n- {{steps.a}}\n- plain\n"
        'braces: {{ {a: 1, b: "}}"} }}\n'
        'colon: "{{steps.a}}: {{steps.b}}"\n'
        "lines: |-\n  a\n  {{steps.b}}\n"
        'not one: "{{#each items}}"\n'
    )
    del props["not one"]
    assert parse_yaml(dump_cell_yaml(props), allow_expressions=True).value == props


def test_text_of_a_file_is_not_markup(tmp_path: Path) -> None:
    """Text that the report quotes from a file stays on its line, as code."""
    yaml = f'{HEAD}- namespace: a\n  uses: "x` <b>\\n# y@1.0.0"\n- namespace: "``` <script>"\n  type: if\n'
    import_one(synced(tmp_path / "w", yaml), tmp_path / "n.ipynb")

    report = next(cell for cell in nbformat.read(tmp_path / "n.ipynb", 4).cells if cell.id == "report").source

    assert "\n# y" not in report
    assert "- ```` ``` <script> ```` has no uses" in report


SEND = "- namespace: send\n  runtime: nodejs20.x\n  uses: ./send/entry.js\n"
TRIGGERS = HEAD.replace("- id: hi_1", "- id: hi_1\n- id: ti_2\n- id: sub_3")


def test_apps_that_code_declares(tmp_path: Path) -> None:
    """Code names the app of a prop that was guessed, and the props that Git does not have, if they are asked for."""
    yaml = f"{HEAD}{SEND}  props:\n    chat:\n      authProvisionId: apn_Git\n"
    read = read_for_import(synced(tmp_path / "w", yaml, send__entry_DOT_js=NODE))
    declared = [AppBinding("chat", "slack"), AppBinding("sheet", "google_sheets")]

    def bindings(*, include_undefined: bool, earlier: Sidecar | None = None) -> tuple[list[tuple[str, str]], list[str]]:
        source = replace(read, earlier_sidecar=earlier)
        found = source.with_declared_apps(lambda _: declared, include_undefined=include_undefined)
        return [(each.prop, each.app) for each in found.workflow.steps[0].apps], [each.app for each in found.questions]

    assert bindings(include_undefined=False) == ([("chat", "slack")], ["slack"])
    assert bindings(include_undefined=True) == ([("chat", "slack"), ("sheet", "google_sheets")], ["slack", "google_sheets"])  # fmt: skip
    answered = Sidecar(steps={"send": StepSidecar(accounts={"chat": AccountChoice("apn_mine")})})
    assert bindings(include_undefined=False, earlier=answered)[1] == []


def test_triggers_that_are_asked_for(tmp_path: Path) -> None:
    """Only triggers whose settings are assumed are asked for; an answered trigger is not assumed any more."""
    read = read_for_import(synced(tmp_path / "w", f"{TRIGGERS}{SEND}", send__entry_DOT_js=NODE))
    asked: list[object] = []

    def ask(trigger: Trigger) -> Trigger | None:
        asked.append(trigger.config["id"])
        return replace(trigger, auth="oauth") if trigger.type == "http" else None

    found = replace(read, assumed_triggers=("hi_1", "sub_3")).with_triggers(ask)

    assert read.assumed_triggers == ("hi_1", "ti_2", "sub_3")
    assert (asked, found.assumed_triggers) == (["hi_1", "sub_3"], ("sub_3",))
    assert [trigger.auth for trigger in found.workflow.triggers] == ["oauth", "none", "none"]


@pytest.mark.parametrize(("file", "is_assumed"), [("test_users: [ada]\n", True), ("triggers:\n- type: http\n", False)])
def test_a_file_with_triggers_leaves_nothing_assumed(tmp_path: Path, file: str, is_assumed: bool) -> None:
    """The folder's `pdkernel.yaml` has the settings of triggers, if it has triggers; the state file is missing here."""
    read = read_for_import(synced(tmp_path / "w", f"{HEAD}{SEND}", send__entry_DOT_js=NODE, pdkernel_DOT_yaml=file))

    assert bool(read.assumed_triggers) == is_assumed
    assert read.is_state_missing
    (tmp_path / "w" / ".workflow.state").write_text("id: p_Ab12Cd3\n")
    assert not read_for_import(tmp_path / "w").is_state_missing


def test_settings_of_triggers_outlive_the_next_import(tmp_path: Path) -> None:
    """Each trigger keeps the settings of the earlier import at its position, with the id of Git; another type is new."""
    folder = synced(tmp_path / "w", f"{TRIGGERS}{SEND}", send__entry_DOT_js=NODE)
    earlier = Sidecar(triggers=(Trigger("email"), Trigger("schedule", config={"cron": "0 9 * * *"}), Trigger("errors")))

    found = read_for_import(folder, earlier_sidecar=earlier).workflow.triggers

    assert [trigger.type for trigger in found] == ["http", "schedule", "errors"]
    assert found[1].config == {"id": "ti_2", "cron": "0 9 * * *"}
    assert found[2].config["id"] == "sub_3"


def sidecar_of(tmp_path: Path, earlier: Sidecar | None, *, place: str = "deep/er", **files: str) -> Sidecar:
    """The `pdkernel.yaml` of an import after *earlier*."""
    read = read_for_import(synced(tmp_path / "w", f"{HEAD}{SEND}", send__entry_DOT_js=NODE, **files))
    texts, _ = build_notebook_texts(
        read,
        {},
        notebook_folder=tmp_path / place,
        build_report=lambda workflow, _: ImportReport(workflow.name),
        earlier_sidecar=earlier,
    )
    return parse_sidecar(texts.sidecar)


def test_a_trigger_of_another_type_has_no_earlier_settings(tmp_path: Path) -> None:
    """If the trigger at a place has changed its type at Pipedream, the settings of the earlier import do not apply."""
    folder = synced(tmp_path / "w", HEAD.removesuffix("\n") + " []\n")
    earlier = Sidecar(triggers=(Trigger("errors", config={"workflows": ["Other"]}),))

    (trigger,) = read_for_import(folder, earlier_sidecar=earlier).workflow.triggers

    assert (trigger.type, "workflows" in trigger.config) == ("http", False)


def test_an_earlier_import_beats_the_folders_file(tmp_path: Path) -> None:
    """Values that only pdkernel.yaml has are those of the earlier import; else those of the folder's file are taken."""
    own = "endpoint: eofolder\ntest_users: [bob]\ntest_events: [new]\nactions: npm\ncontrol_flow: [{type: branch}]\n"
    earlier = Sidecar(
        endpoint="eoearlier",
        test_users=("ada",),
        test_events=("old",),
        actions=("connect",),
        control_flow=({"type": "delay"},),
    )

    taken = sidecar_of(tmp_path, None, pdkernel_DOT_yaml=own)
    kept = sidecar_of(tmp_path, earlier, pdkernel_DOT_yaml=own)

    assert (taken.endpoint, taken.test_users, taken.test_events) == ("eofolder", ("bob",), ("new",))
    assert (taken.actions, taken.control_flow) == (("npm",), ({"type": "branch"},))
    assert (kept.endpoint, kept.test_users, kept.test_events) == ("eoearlier", ("ada",), ("old",))
    assert (kept.actions, kept.control_flow) == (("connect",), ({"type": "delay"},))


@pytest.mark.parametrize(
    ("actions", "written"),
    [("builtin", "builtin"), ("npm", "npm"), ("connect", "connect"), ("/opt/parts", "/opt/parts"), ("../parts", "../../parts")],
)  # fmt: skip
def test_a_folder_of_actions_is_relative_to_the_notebook(tmp_path: Path, actions: str, written: str) -> None:
    """A relative path leads to the same folder; a source and an absolute path stay."""
    assert sidecar_of(tmp_path, None, pdkernel_DOT_yaml=f"actions: {actions}\n").actions == (written,)


def test_the_first_cell_says_that_the_workflow_is_off(tmp_path: Path) -> None:
    """Only the first cell of a workflow that is turned off on Pipedream reports it."""
    for name, top in (("on", ""), ("off", "inactive: true\n")):
        yaml = HEAD.replace("name: W\n", f"name: W\n{top}")
        import_one(synced(tmp_path / name, f"{yaml}{SEND}", send__entry_DOT_js=NODE), tmp_path / f"{name}.ipynb")

    texts = [(tmp_path / f"{name}.ipynb").read_text() for name in ("on", "off")]
    assert ["this workflow is turned off" in text for text in texts] == [False, True]
