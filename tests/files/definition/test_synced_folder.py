"""Reading synced folders."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import DefinitionError, DuplicateStepError, NotebookError, RequestError
from pdkernel.files.definition import describe_assumptions, plan_files, read_folder_workflow, write_files
from pdkernel.language.expression import RULE_FILTER
from pdkernel.model import JSON, LANGUAGES, AppBinding, Step, StoreBinding, Trigger, Workflow
from tests.files.definition.builders import GO, NODE, PYTHON, synced, text_of

HEAD = "schema: workflow/2022.04\nname: W\ntriggers:\n- id: hi_1\nsteps:\n"


def step_of(folder: Path, yaml: str, **more: Any) -> Step:
    """The only step of a synced folder with *yaml* as its `steps`."""
    return read_folder_workflow(synced(folder, HEAD + yaml), require_code=False, **more).steps[0]


@pytest.mark.parametrize(
    "uses", ["braze-get-scheduled-messages", "@acme/key_with_underscores@0.0.9", "@acme.team/key_with_underscores"]
)
def test_keys_of_real_files(uses: str, tmp_path: Path) -> None:
    """A key without a version and a private key with underscores are steps, and are written back as they are."""
    step = step_of(tmp_path, f"- namespace: a\n  uses: '{uses}'\n")

    assert step.uses == uses
    written = text_of(plan_files(Workflow("W", steps=(step,))), "workflow.yaml")
    assert f"uses: {uses}\n" in written.replace("'", "").replace('"', "")


def test_the_app_of_a_private_actions_prop(tmp_path: Path) -> None:
    """The app is that of the same account in another step, else unknown, and never named after the key."""
    account = "props:\n    sender:\n      authProvisionId: apn_"
    folder = synced(
        tmp_path,
        f"{HEAD}- namespace: a\n  uses: '@acme/do_it@0.0.9'\n  {account}One\n"
        f"- namespace: b\n  uses: '@acme/do_it@0.0.9'\n  {account}Two\n"
        f"- namespace: c\n  uses: slack_v2-send@0.1.0\n  {account}One\n"
        f"- namespace: d\n  uses: '@acme/do_it@0.0.9'\n  {account}One\n",
    )

    steps = read_folder_workflow(folder).steps

    assert [step.apps for step in steps] == [
        (AppBinding("sender", "slack_v2"),),
        (AppBinding("sender", "unknown"),),
        (AppBinding("sender", "slack_v2"),),
        (AppBinding("sender", "slack_v2"),),
    ]


def test_a_synced_folder(tmp_path: Path) -> None:
    """Steps, code, settings and triggers of a folder are read."""
    folder = synced(
        tmp_path / "w-p_1",
        "schema: workflow/2022.04\nname: My flow\ninactive: true\nsettings:\n  error_notification: true\n"
        "  lambda_timeout: 40\ntriggers:\n- id: ti_1\nsteps:\n"
        '- namespace: a\n  runtime: python3.12\n  uses: "./a/entry.py"\n'
        '- namespace: b\n  disabled: true\n  notes: why\n  runtime: nodejs18.x\n  uses: "./b/entry.js"\n',
        a__entry_DOT_py=PYTHON,
        b__entry_DOT_js=NODE,
    )

    workflow = read_folder_workflow(folder)

    assert workflow == Workflow(
        "My flow",
        triggers=(Trigger("schedule", config={"id": "ti_1"}),),
        steps=(
            Step("a", source=PYTHON),
            Step("b", "node", NODE, disabled=True, notes="why", extra={"runtime": "nodejs18.x"}),
        ),
        settings={"error_notification": True, "lambda_timeout": 40},
        origin=str(folder),
        extra={"schema": "workflow/2022.04", "inactive": True},
    )
    assert workflow.timeout_s(workflow.steps[0]) == 40


def test_prop_shapes(tmp_path: Path) -> None:
    """Accounts, stores and picked options are parsed; other props are unchanged."""
    step = step_of(
        tmp_path,
        "- namespace: a\n  uses: google_sheets-add-single-row@2.1.2\n  _props_cursor: dyp_1\n  props:\n"
        "    googleSheets:\n      authProvisionId: apn_1\n    dataStore:\n      storeId: ds_1\n"
        "    sheet:\n      __lv:\n        label: Guests\n        value: '12'\n"
        "    many:\n    - __lv:\n        label: L\n        value: V\n    flag: 'Yes'\n    empty: \n"
        "    text: \"{{steps.trigger.event.body.name.replace(/<.*?>/g,'')}}\"\n",
        assumed_account="own",
    )

    assert step.apps == (AppBinding("googleSheets", "google_sheets", "apn_1"),)
    assert step.stores == (StoreBinding("dataStore", "ds_1"),)
    assert step.props == {
        "sheet": "12",
        "many": ["V"],
        "flag": "Yes",
        "empty": None,
        "text": "{{steps.trigger.event.body.name.replace(/<.*?>/g,'')}}",
    }
    assert step.extra["_props_cursor"] == "dyp_1"


def test_an_own_account_is_never_assumed(tmp_path: Path) -> None:
    """Without pdkernel.yaml an app prop gets the external user's account, and the assumptions mention it."""
    yaml = "- namespace: a\n  uses: slack-x@1.0.0\n  props:\n    slack:\n      authProvisionId: apn_1\n"

    step = step_of(tmp_path, yaml)
    assumptions = describe_assumptions(tmp_path, read_folder_workflow(tmp_path))

    assert step.apps == (AppBinding("slack", "slack"),)
    assert assumptions == (
        "its HTTP trigger asks for no authorization and gives the default response",
        "the external user's account fills a.slack, never an account of your own",
    )


@pytest.mark.parametrize(("answer", "account"), [("external_user", None), ("apn_2", "apn_2")])
def test_pdkernel_yaml_answers(tmp_path: Path, answer: str, account: str | None) -> None:
    """The choice in pdkernel.yaml decides the account."""
    yaml = "- namespace: a\n  uses: slack-x@1.0.0\n  props:\n    slack:\n      authProvisionId: apn_1\n"
    (tmp_path / "pdkernel.yaml").write_text(f"steps:\n  a:\n    accounts:\n      slack: {answer}\n")

    assert step_of(tmp_path, yaml).apps == (AppBinding("slack", "slack", account),)
    assert describe_assumptions(tmp_path, read_folder_workflow(tmp_path)) == ()


def test_unanswered(tmp_path: Path) -> None:
    """An `unanswered` account is refused with the place for the answer, unless the step is disabled."""
    yaml = "- namespace: a\n  uses: slack-x@1.0.0\n  props:\n    slack:\n      authProvisionId: apn_1\n"
    (tmp_path / "pdkernel.yaml").write_text("steps:\n  a:\n    accounts:\n      slack: unanswered\n")

    with pytest.raises(RequestError, match=r"steps\.a\.accounts\.slack is unanswered") as caught:
        step_of(tmp_path, yaml)

    assert caught.value.exit_status == 2
    assert step_of(tmp_path, yaml.replace("  uses", "  disabled: true\n  uses")).apps == (AppBinding("slack", "slack"),)


def test_node_apps_have_the_slug_of_the_code(tmp_path: Path) -> None:
    """In a Node.js step, the code declares the app of a prop."""
    code = 'export default { props: { chat: { type: "app", app: "slack_v2" } }, run() {} }'
    folder = synced(
        tmp_path,
        HEAD + "- namespace: a\n  uses: ./a/entry.js\n  props:\n    chat:\n      authProvisionId: apn_1\n",
        a__entry_DOT_js=code,
    )

    assert read_folder_workflow(folder).steps[0].apps == (AppBinding("chat", "slack_v2"),)


def test_old_note(tmp_path: Path) -> None:
    """The old key `note` is read, and written as `notes`."""
    step = step_of(tmp_path, "- namespace: a\n  uses: k-x@1.0.0\n  note: |-\n    # hi\n")

    assert step.notes == "# hi"
    assert "notes: " in text_of(plan_files(Workflow("w", steps=(step,))), "workflow.yaml")


def test_both_keys_for_a_note(tmp_path: Path) -> None:
    """The note is that of the new key; the text of the old key is kept for the file."""
    step = step_of(tmp_path, "- namespace: a\n  note: old\n  notes: new\n  uses: k-x@1.0.0\n")

    assert (step.notes, step.extra) == ("new", {"note": "old"})


def test_the_id_of_the_workflow(tmp_path: Path) -> None:
    """The id in .workflow.state is kept, and is not written to workflow.yaml."""
    folder = synced(tmp_path, HEAD)
    (folder / ".workflow.state").write_text("# DO NOT EDIT THIS FILE\n---\nschema: workflow.state/2022.04\nid: p_1\n")

    workflow = read_folder_workflow(folder)

    assert workflow.extra["pdkernel"] == {"id": "p_1"}
    assert "p_1" not in text_of(plan_files(workflow), "workflow.yaml")


def test_optional_keys_may_be_missing(tmp_path: Path) -> None:
    """Settings and steps may be missing; a workflow without triggers has none, in place of an open endpoint."""
    workflow = read_folder_workflow(synced(tmp_path / "flow", "name: x\n"))

    assert (workflow.steps, workflow.triggers, workflow.settings) == ((), (), {})


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    """Unknown keys are written back."""
    yaml = HEAD.replace("- id: hi_1\n", "- id: hi_1\n  new: 1\n").replace("name: W", "name: W\nfuture: x\nlater: false")
    step = "- namespace: a\n  runtime: nodejs20.x\n  uses: k-x@1.0.0\n  odd:\n  - 1\n  flag: false\n  zero: 0\n  notes: 5\n  disabled: maybe\n"
    folder = synced(tmp_path, yaml + step)

    text = text_of(plan_files(read_folder_workflow(folder)), "workflow.yaml")

    for part in (
        "future: x\n",
        "later: false\n",
        "- id: hi_1\n  new: 1\n",
        "  odd:\n  - 1\n",
        "flag: false\n",
        "zero: 0\n",
        "notes: 5\n",
        "disabled: maybe\n",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("yaml", "kind", "says"),
    [
        ("steps: 5", NotebookError, "steps is not a list of mappings (line 1)"),
        ("settings: [1]", NotebookError, "settings is not a mapping (line 1)"),
        (HEAD + "- uses: k@1.0.0", NotebookError, "has no namespace (line 6)"),
        (HEAD + "- namespace: a-b\n  uses: k@1.0.0", DefinitionError, "is not a valid step name"),
        (HEAD + "- namespace: a\n  uses: ./a/entry.js", NotebookError, "there is no such file (line 6)"),
        (HEAD + "- namespace: a\n  uses: ./../x/entry.js", NotebookError, "outside the folder"),
        (HEAD + "- namespace: a\n  uses: k@1.0.0\n  props: 5", NotebookError, "are not a mapping"),
        (HEAD + "- namespace: a\n  uses: k@1.0.0\n- namespace: a\n  uses: k@1.0.0", DuplicateStepError, "in line 6: "),
    ],
)
def test_wrong_files(tmp_path: Path, yaml: str, kind: type[DefinitionError], says: str) -> None:
    """An invalid file is refused with file and line."""
    with pytest.raises(kind) as caught:
        read_folder_workflow(synced(tmp_path, yaml))

    assert says in caught.value.message


def test_settings_belong_to_the_triggers_in_their_order(tmp_path: Path) -> None:
    """Settings without an id belong to the ids of workflow.yaml one after the other; settings with an id keep theirs."""
    folder = synced(
        tmp_path,
        "name: W\ntriggers:\n- id: hi_1\n- id: ti_2\n- id: ti_3\n- id: ei_4\n",
        pdkernel_DOT_yaml=(
            "triggers:\n- type: http\n- {type: schedule, id: ti_2, cron: 0 3 * * *}\n"
            "- {type: schedule, cron: 0 2 * * *}\n"
        ),
    )

    triggers = read_folder_workflow(folder).triggers

    assert [(trigger.config["id"], trigger.config.get("cron")) for trigger in triggers] == [
        ("hi_1", None),
        ("ti_2", "0 3 * * *"),
        ("ti_3", "0 2 * * *"),
        ("ei_4", None),
    ]


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "trigger")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: st.SearchStrategy[JSON] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT.filter(lambda text: "{{" not in text),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            NAMES.filter(lambda name: name not in {"__lv", "storeId", "authProvisionId"}), inner, max_size=3
        )
    ),
    max_leaves=5,
)


@st.composite
def steps(draw: st.DrawFn, name: str) -> Step:
    """A step that a definition can hold."""
    language = draw(st.sampled_from(LANGUAGES))
    uses = "slack-send@0.0.1" if language == "node" and draw(st.booleans()) else None
    props = draw(st.lists(NAMES, unique=True, max_size=5))
    return Step(
        name,
        language,
        "" if uses else draw(TEXT),
        uses,
        apps=tuple(AppBinding(prop, "slack", draw(st.sampled_from([None, "apn_1"]))) for prop in props[:1]),
        stores=tuple(StoreBinding(prop, draw(st.sampled_from([None, "ds_1", "mine"]))) for prop in props[1:2]),
        props={prop: draw(VALUES) for prop in props[2:]},
        timeout_s=draw(st.none() | st.floats(0.001, 750)),
        disabled=draw(st.booleans()),
        notes=draw(st.none() | TEXT),
    )


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """A workflow that a definition can hold."""
    names = draw(st.lists(NAMES, unique_by=str.lower, max_size=4))
    return Workflow(
        draw(TEXT.filter(bool)),
        triggers=tuple(
            draw(
                st.lists(
                    st.sampled_from(
                        [
                            Trigger(),
                            Trigger(auth="bearer", token_env="T", response="custom"),
                            Trigger("schedule", config={"interval_seconds": 5}),
                            Trigger("email"),
                            Trigger("errors"),
                            Trigger("errors", config={"workflows": ["a", "b/c.ipynb"]}),
                            Trigger("emit", config={"workflows": ["a"], "channel": "c"}),
                        ]
                    ),
                    min_size=1,
                    max_size=3,
                )
            )
        ),
        steps=tuple(draw(steps(name)) for name in names),
        settings=draw(
            st.fixed_dictionaries(
                {"error_notification": st.booleans()},
                optional={"lambda_timeout": st.integers(1, 750), "memory": st.integers(256, 10240)},
            )
        ),
    )


def carried(workflow: Workflow) -> Workflow:
    """*workflow* without its origin and its round-trip data."""
    return replace(workflow, origin=None, extra={}, steps=tuple(replace(step, extra={}) for step in workflow.steps))


@given(workflows())
def test_a_written_definition_reads_back(workflow: Workflow) -> None:
    """Reading a written definition gives the workflow; planning that again gives the same files."""
    with tempfile.TemporaryDirectory() as name:
        files = plan_files(workflow)
        write_files(files, Path(name))

        back = read_folder_workflow(Path(name))

    variables = tuple(dict.fromkeys(back.variables))
    assert carried(back) == replace(workflow, variables=variables)
    assert plan_files(back) == files


def test_a_store_of_pdkernel_yaml_replaces_the_stores_id(tmp_path: Path) -> None:
    """The local data store that pdkernel.yaml names is used in place of the platform's; without a name, the id stays."""
    props = "    one:\n      storeId: ds_1\n    two:\n      storeId: ds_2\n"
    folder = synced(
        tmp_path / "flow-p_1",
        f"name: flow\ntriggers: []\nsteps:\n- namespace: a\n  uses: http-custom-request@1.1.1\n  props:\n{props}",
        pdkernel_DOT_yaml="schema: pdkernel/1\nsteps:\n  a:\n    stores:\n      one: mine\n",
    )

    (step,) = read_folder_workflow(folder).steps

    assert step.stores == (StoreBinding("one", "mine"), StoreBinding("two", "ds_2"))


def test_bash_and_go_steps_read_back(tmp_path: Path) -> None:
    """Bash and Go steps keep their language; their account choices are in pdkernel.yaml only."""
    steps = (
        Step("shell", "bash", "true\n", apps=(AppBinding("slack", "slack", "apn_1"),)),
        Step("compiled", "go", GO, apps=(AppBinding("slack", "slack"),)),
    )
    files = plan_files(Workflow("w", steps=steps))
    write_files(files, tmp_path)

    back = read_folder_workflow(tmp_path)

    assert back.steps == steps
    assert (tmp_path / "compiled" / "entry.go").read_text() == GO
    assert (tmp_path / "shell" / "entry.sh").read_text() == "true\n"
    assert "slack" not in text_of(files, "workflow.yaml")


def test_real_files(real_workflow_files: list[Path], tmp_path: Path) -> None:
    """Every real workflow.yaml is read and written again byte for byte, except for the old key `note`."""
    for number, sample in enumerate(real_workflow_files):
        text = sample.read_text()
        folder = synced(tmp_path / str(number), text)

        workflow = read_folder_workflow(folder, require_code=False, assumed_account="own")

        assert workflow.steps
        if "  note: " not in text:
            assert text_of(plan_files(workflow), "workflow.yaml") == text


@pytest.mark.parametrize(
    ("step", "response"),
    [
        ("- namespace: a\n  uses: http-return-http-response@0.0.3\n", "custom"),
        ("- namespace: a\n  disabled: true\n  uses: http-return-http-response@0.0.3\n", "default"),
        ("- namespace: a\n  uses: slack-send-message@0.0.20\n", "default"),
        ("- namespace: a\n  uses: '@acme/do_it@0.0.9'\n", "default"),
        ('- namespace: a\n  uses: "./a/entry.js"\n', "custom"),
        ('- namespace: a\n  uses: "./a/other.js"\n', "default"),
    ],
)
def test_a_workflow_that_responds_is_assumed_to_answer(tmp_path: Path, step: str, response: str) -> None:
    """The assumed response is custom if a step responds, because Git does not store the setting."""
    folder = synced(
        tmp_path / "w-p_1",
        HEAD + step,
        a__entry_DOT_js="export default defineComponent({ async run({ $ }) { await $.respond({ status: 201 }); } })",
        a__other_DOT_js=NODE,
    )

    assert read_folder_workflow(folder).trigger.response == response


@pytest.mark.parametrize(
    ("name", "why"),
    [("../../beside.mjs", "which is outside of the workflow's folder"), ("./link.mjs", "which is a link")],
)
def test_a_file_that_a_step_may_not_import(name: str, why: str, tmp_path: Path) -> None:
    """A file outside of the folder and a link are refused with the file and line of the import."""
    folder = synced(
        tmp_path / "w", HEAD + '- namespace: a\n  uses: "./a/entry.mjs"\n', a__entry_DOT_mjs=f'\nimport "{name}";\n'
    )
    (tmp_path / "beside.mjs").write_text("export {}")
    (folder / "a" / "real.mjs").write_text("export {}")
    (folder / "a" / "link.mjs").symlink_to("real.mjs")

    with pytest.raises(NotebookError) as refused:
        read_folder_workflow(folder, require_code=False)

    assert refused.value.message == f'Step a ({folder}/a/entry.mjs, line 2) imports "{name}", {why}.'.replace(
        "which is a link", "which is a link: a workflow's files are regular files"
    )


def test_a_definition_file_is_not_imported(tmp_path: Path) -> None:
    """`workflow.yaml` and an entry file's own text are never files of a step."""
    code = 'from pathlib import Path\nNAMES = [Path(__file__).parent.parent / "workflow.yaml", "data.txt"]\n'
    folder = synced(
        tmp_path / "w", HEAD + '- namespace: a\n  uses: "./a/entry.py"\n', a__entry_DOT_py=code, a__data_DOT_txt="1"
    )

    assert read_folder_workflow(folder).steps[0].files == {"data.txt": "1"}


FILTER = (
    HEAD
    + """\
- namespace: only
  uses: "./only/entry.js"
  props:
    _filter:
      continue: true
      rules: {t: and, r: [{a: "{{steps.trigger.event.body.name}}", op: str/, b: Proof}]}
"""
)


def test_a_filter_step_needs_no_file(tmp_path: Path) -> None:
    """The builder's Filter step, whose file Git never has, is a built-in action; with a file, the step is the file's code."""
    step = read_folder_workflow(synced(tmp_path / "git", FILTER)).step("only")
    code = read_folder_workflow(synced(tmp_path / "code", FILTER, only__entry_DOT_js="export default {}")).step("only")

    assert (step.uses, step.is_code_missing, list(step.props)) == (RULE_FILTER, False, ["_filter"])
    assert (code.uses, code.source) == (None, "export default {}")


def test_a_step_without_a_file_and_without_rules_has_no_code(tmp_path: Path) -> None:
    """A missing file of a step with other props is missing."""
    folder = synced(tmp_path / "git", FILTER.replace("_filter", "_filters"))

    with pytest.raises(NotebookError, match="there is no such file"):
        read_folder_workflow(folder)
