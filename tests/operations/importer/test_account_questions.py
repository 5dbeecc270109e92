"""Account choices of an imported workflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar
from pdkernel.files.definition.synced_export import export_to_synced_folder
from pdkernel.files.source import load_source
from pdkernel.operations.importer import AccountQuestion, answer_questions, read_for_import
from pdkernel.operations.importer.account_questions import apply_choices, build_choices
from tests.files.definition.builders import NODE, synced
from tests.operations.importer.import_helpers import HEAD, as_written, import_one

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
    ("own", "choice"),
    [(["apn_mine"], "apn_mine"), ([], "unanswered"), (["apn_1", "apn_2"], "unanswered")],
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
