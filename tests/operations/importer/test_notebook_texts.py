"""The text of an imported notebook."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar
from pdkernel.files.definition.sidecar import parse_sidecar
from pdkernel.files.definition.synced_export import export_to_synced_folder
from pdkernel.files.source import load_source
from pdkernel.language.directive import dump_cell_yaml, parse_yaml
from pdkernel.model import JSON, AppBinding, Trigger
from pdkernel.operations.importer import AccountQuestion, answer_questions, read_for_import
from pdkernel.operations.importer.import_report import ImportReport
from pdkernel.operations.importer.notebook_texts import apply_choices, build_choices, build_notebook_texts
from tests.files.definition.builders import NODE, synced
from tests.golden import assert_golden
from tests.operations.importer.import_helpers import HEAD, PROJECTS, as_written, import_one

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
    assert "no `.workflow.state`" in read.notes[0]
    (tmp_path / "w" / ".workflow.state").write_text("id: p_Ab12Cd3\n")
    assert read_for_import(tmp_path / "w").notes == ()


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


def test_blocks_become_cells(tmp_path: Path) -> None:
    """The blocks of the folder's file are cells of the notebook, and its own file has none."""
    flow = "control_flow: [{name: triage, type: if, branches: [{name: new, condition: x, steps: [send]}]}]\n"
    folder = synced(tmp_path / "w", f"{HEAD}{SEND}", send__entry_DOT_js=NODE, pdkernel_DOT_yaml=flow)

    texts, _ = build_notebook_texts(
        read_for_import(folder),
        {},
        notebook_folder=tmp_path,
        build_report=lambda workflow, _: ImportReport(workflow.name),
    )

    sources = ["".join(cell["source"]) for cell in json.loads(texts.notebook)["cells"]]
    assert sources[-2] == "%%pdif triage\nnew: x"
    assert sources[-1].startswith("%%pdstep send --in triage.new --lang node\n")
    assert "control_flow" not in texts.sidecar


def test_a_trigger_of_another_type_has_no_earlier_settings(tmp_path: Path) -> None:
    """If the trigger at a place has changed its type at Pipedream, the settings of the earlier import do not apply."""
    folder = synced(tmp_path / "w", HEAD.removesuffix("\n") + " []\n")
    earlier = Sidecar(triggers=(Trigger("errors", config={"workflows": ["Other"]}),))

    (trigger,) = read_for_import(folder, earlier_sidecar=earlier).workflow.triggers

    assert (trigger.type, "workflows" in trigger.config) == ("http", False)


def test_an_earlier_import_beats_the_folders_file(tmp_path: Path) -> None:
    """Values that only pdkernel.yaml has are those of the earlier import; else those of the folder's file are taken."""
    own = (
        "endpoint: eofolder\ntest_users: [bob]\ntest_events: [new]\nactions: npm\n"
        "child_runs: {may_name_external_user: [Caller]}\n"
    )
    earlier = Sidecar(
        endpoint="eoearlier",
        test_users=("ada",),
        test_events=("old",),
        actions=("connect",),
        naming_callers=("Other",),
    )

    taken = sidecar_of(tmp_path, None, pdkernel_DOT_yaml=own)
    kept = sidecar_of(tmp_path, earlier, pdkernel_DOT_yaml=own)

    assert (taken.endpoint, taken.test_users, taken.test_events) == ("eofolder", ("bob",), ("new",))
    assert taken.actions == ("npm",)
    assert (taken.naming_callers, kept.naming_callers) == (("Caller",), ("Other",))
    assert (kept.endpoint, kept.test_users, kept.test_events) == ("eoearlier", ("ada",), ("old",))
    assert kept.actions == ("connect",)


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


SLACK = "  uses: slack-send@0.0.1\n  props:\n    slack:\n      authProvisionId: apn_Git\n"
YAML = f"{HEAD}- namespace: one\n{SLACK}- namespace: two\n{SLACK}- namespace: three\n{SLACK.replace('apn_Git', '')}"


@pytest.mark.parametrize(
    ("accounts", "choice", "binding"),
    [
        ("ask", AccountChoice("unanswered", None, "apn_Git"), None),
        ("external-user", AccountChoice("external_user", None, "apn_Git"), None),
        ("own", AccountChoice("apn_Git"), "apn_Git"),
    ],
)
def test_one_answer_for_all(accounts: str, choice: AccountChoice, binding: str | None, tmp_path: Path) -> None:
    """The notebook's pdkernel.yaml stores the answer with the id from Git; without an id it is the external user's account."""
    import_one(synced(tmp_path / "w", YAML), tmp_path / "n.ipynb", accounts=accounts)

    back, sidecar = as_written(tmp_path / "n.ipynb")

    assert [sidecar.steps[name].accounts["slack"] for name in ("one", "two")] == [choice, choice]
    assert sidecar.steps["three"].accounts["slack"] == AccountChoice("external_user")
    assert [step.apps[0].account for step in back.steps] == [binding, binding, None]


@pytest.mark.parametrize(
    ("own", "choice"), [(["apn_mine"], "apn_mine"), ([], "unanswered"), (["apn_1", "apn_2"], "unanswered")]
)
def test_own_accounts_of_props_that_only_code_declares(own: list[str], choice: str, tmp_path: Path) -> None:
    """With `own`, such a prop gets the project's one account of the app, else it is unanswered; Git stays without an id."""
    yaml = f'{HEAD}- namespace: send\n  runtime: nodejs20.x\n  uses: "./send/entry.js"\n'
    folder, notebook = synced(tmp_path / "w", yaml, send__entry_DOT_js=NODE), tmp_path / "n.ipynb"

    import_one(
        folder,
        notebook,
        answers=lambda asked: answer_questions(
            "own", asked, find_own_accounts=lambda app: own if app == "slack" else ()
        ),
        asks_undefined_props=True,
    )
    back, sidecar = as_written(notebook)
    exported = export_to_synced_folder(back, folder, sidecar=sidecar)

    assert sidecar.steps["send"].accounts["slack"] == AccountChoice(choice)
    assert [file.state for file in exported.files if file.path == "workflow.yaml"] == ["unchanged"]


def test_an_unanswered_notebook_does_not_run(tmp_path: Path) -> None:
    """A run is refused with the place for the answer; commands that run nothing can read the notebook."""
    import_one(synced(tmp_path / "w", YAML), tmp_path / "n.ipynb")

    with pytest.raises(RequestError, match=r"n\.pdkernel\.yaml: steps\.one\.accounts\.slack is unanswered") as refused:
        load_source(tmp_path / "n.ipynb")

    assert refused.value.exit_status == 2
    assert len(load_source(tmp_path / "n.ipynb", unanswered="keep").workflow.steps) == 3


def test_each_id_is_asked_for_once(tmp_path: Path) -> None:
    """A question names the app, the id, and every step that uses the id."""
    asked: list[AccountQuestion] = []

    def answers(questions: Sequence[AccountQuestion]) -> dict[tuple[str, str], str]:
        asked.extend(questions)
        return {("slack", "apn_Git"): "apn_here"}

    import_one(synced(tmp_path / "w", YAML), tmp_path / "n.ipynb", answers=answers)

    assert asked == [AccountQuestion("slack", "apn_Git", (("one", "slack"), ("two", "slack")))]
    assert as_written(tmp_path / "n.ipynb")[1].steps["two"].accounts["slack"] == AccountChoice(
        "apn_here", None, "apn_Git"
    )


def test_the_folders_own_answers_are_used(tmp_path: Path) -> None:
    """Choices in the folder's pdkernel.yaml are not asked, and are copied into the notebook's file."""
    folder = synced(tmp_path / "w", YAML)
    (folder / "pdkernel.yaml").write_text(
        "endpoint: eotest\ntest_users: [ada]\nactions: [../parts, builtin]\ntriggers:\n- type: http\n  auth: oauth\n"
        "steps:\n  one:\n    accounts:\n      slack: external_user\n"
    )
    (tmp_path / "parts/components/slack/actions/send").mkdir(parents=True)
    (tmp_path / "parts/components/slack/actions/send/send.mjs").write_text("export default {}\n")

    imported = import_one(folder, tmp_path / "deep" / "n.ipynb", accounts="own")
    back, sidecar = as_written(tmp_path / "deep" / "n.ipynb")

    assert imported.error is None
    assert [step.apps[0].account for step in back.steps] == [None, "apn_Git", None]
    assert (sidecar.endpoint, sidecar.test_users, sidecar.actions) == ("eotest", ("ada",), ("../parts", "builtin"))
    assert back.trigger.auth == "oauth"
    assert imported.report is not None
    assert not imported.report.triggers[0].assumed


def test_an_answer_outlives_the_next_import(tmp_path: Path) -> None:
    """A choice that a person wrote after the first import is not asked again, and the import is unchanged."""
    folder = synced(tmp_path / "w", YAML)
    import_one(folder, tmp_path / "n.ipynb")
    beside = tmp_path / "n.pdkernel.yaml"
    beside.write_text(beside.read_text().replace("unanswered", "external_user"))
    before = beside.read_text()

    again = import_one(folder, tmp_path / "n.ipynb")

    assert again.state == "unchanged"
    assert beside.read_text() == before
    assert again.report is not None
    assert again.report.unanswered == ()


def test_an_answer_beside_the_notebook_beats_the_folders(tmp_path: Path) -> None:
    """A person has changed the choice of the folder's pdkernel.yaml after the first import."""
    folder = synced(tmp_path / "w", YAML)
    (folder / "pdkernel.yaml").write_text("steps:\n  one:\n    accounts:\n      slack: external_user\n")
    import_one(folder, tmp_path / "n.ipynb")
    beside = tmp_path / "n.pdkernel.yaml"
    first = as_written(tmp_path / "n.ipynb")[1].steps["one"].accounts["slack"]
    beside.write_text(beside.read_text().replace("account: external_user", "account: apn_mine", 1))

    again = import_one(folder, tmp_path / "n.ipynb")

    assert again.state == "unchanged"
    assert first.account == "external_user"
    assert as_written(tmp_path / "n.ipynb")[1].steps["one"].accounts["slack"].account == "apn_mine"


def choices_of(folder: Path, earlier: Sidecar | None = None) -> dict[tuple[str, str], AccountChoice]:
    """The choices that need no question."""
    return dict(read_for_import(folder, earlier_sidecar=earlier).known_choices)


def a_sidecar(account: str, synced_id: str | None = None, step: str = "one") -> Sidecar:
    """A `pdkernel.yaml` with one choice."""
    return Sidecar(steps={step: StepSidecar(accounts={"slack": AccountChoice(account, None, synced_id)})})


def test_where_a_choice_is_known_from(tmp_path: Path) -> None:
    """An earlier import beats the folder's file, an unanswered choice is not one, and a prop without an id is the user's."""
    folder = synced(tmp_path / "w", YAML)
    users = AccountChoice("external_user")
    assert choices_of(folder) == {("three", "slack"): users}
    assert choices_of(folder, a_sidecar("apn_mine")) == {("one", "slack"): AccountChoice("apn_mine"), ("three", "slack"): users}  # fmt: skip
    (folder / "pdkernel.yaml").write_text("steps:\n  one:\n    accounts:\n      slack: external_user\n")

    assert choices_of(folder)["one", "slack"] == users
    assert choices_of(folder, a_sidecar("apn_mine"))["one", "slack"].account == "apn_mine"
    assert choices_of(folder, a_sidecar("unanswered"))["one", "slack"] == users


def test_an_unanswered_prop_without_an_id_is_asked_for_again(tmp_path: Path) -> None:
    """A choice that an earlier import left open stays open, also if Git has no id for the prop."""
    folder = synced(tmp_path / "w", YAML)

    again = read_for_import(folder, earlier_sidecar=a_sidecar("unanswered", step="three"))

    assert AccountQuestion("slack", "", (("three", "slack"),)) in again.questions


def test_a_choice_keeps_the_id_of_git(tmp_path: Path) -> None:
    """The id is kept beside another account, also if Git has it no more, and not beside itself."""
    read = read_for_import(synced(tmp_path / "w", YAML))
    known = {("one", "slack"): AccountChoice("apn_Git"), ("three", "slack"): AccountChoice("external_user", None, "apn_Gone")}  # fmt: skip

    choices = build_choices(read.synced, known, {})
    workflow = apply_choices(read.workflow, choices)

    assert [choices[name]["slack"] for name in ("one", "two", "three")] == [
        AccountChoice("apn_Git"),
        AccountChoice("unanswered", None, "apn_Git"),
        AccountChoice("external_user", None, "apn_Gone"),
    ]
    assert [step.apps[0].account for step in workflow.steps] == ["apn_Git", None, None]


def test_one_own_account_of_the_app_answers_a_question_without_an_id() -> None:
    """An id is the answer itself; without one, the project's only account of the app is."""
    asked = [AccountQuestion("slack", "apn_Git", ()), AccountQuestion("slack", "", ())]

    own = answer_questions("own", asked, find_own_accounts=lambda _: ["apn_mine"])
    users = answer_questions("external-user", asked, find_own_accounts=lambda _: ["apn_mine"])

    assert own == {("slack", "apn_Git"): "apn_Git", ("slack", ""): "apn_mine"}
    assert users == {("slack", "apn_Git"): "external_user", ("slack", ""): "external_user"}
