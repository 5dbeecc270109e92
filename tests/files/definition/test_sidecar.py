"""The values of `pdkernel.yaml` applied to a workflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar, apply_sidecar, get_notebook_sidecar_path
from pdkernel.files.definition.sidecar import EXTERNAL_USER, UNANSWERED
from pdkernel.model import AppBinding, Step, StoreBinding, Trigger, Workflow
from tests.files.definition.builders import NODE, PYTHON


def applied(step: Step, entry: StepSidecar) -> Step:
    """*step* with the values of *entry*."""
    return apply_sidecar(Workflow("W", steps=(step,)), Sidecar(steps={step.name: entry})).steps[0]


def asking(account: str, *, disabled: bool = False) -> tuple[Workflow, Sidecar]:
    """A workflow with an app prop, and the file that has *account* for it."""
    step = Step("send", "node", NODE, disabled=disabled)
    return Workflow("W", steps=(step,)), Sidecar(
        steps={"send": StepSidecar(accounts={"slack": AccountChoice(account)})}, path=Path("here/w.pdkernel.yaml")
    )


def test_settings_of_the_workflow_win() -> None:
    """A limit of the file applies only if the workflow has no such setting."""
    workflow = Workflow("W", settings={"memory": 256})

    found = apply_sidecar(workflow, Sidecar(limits={"memory": 512, "queue": 3}))

    assert found.settings == {"memory": 256, "queue": 3}


def test_variables_of_both_are_kept() -> None:
    """The variables of the workflow come first, each once."""
    found = apply_sidecar(Workflow("W", variables=("B", "A")), Sidecar(variables=("A", "C")))

    assert found.variables == ("B", "A", "C")


def test_triggers_of_the_workflow_win() -> None:
    """The triggers of the file are for a workflow that names none."""
    email, timer = Trigger("email"), Trigger("schedule", config={"cron": "0 9 * * *"})

    assert apply_sidecar(Workflow("W"), Sidecar(triggers=(email, timer))).triggers == (email, timer)
    assert apply_sidecar(Workflow("W", triggers=(timer,)), Sidecar(triggers=(email,))).triggers == (timer,)
    assert apply_sidecar(Workflow("W"), Sidecar()).triggers == (Trigger(),)


@pytest.mark.parametrize(("of_cell", "of_file", "found"), [(None, 5.0, 5.0), (3.0, 5.0, 3.0), (3.0, None, 3.0)])
def test_the_time_limit_of_the_cell_wins(of_cell: float | None, of_file: float | None, found: float) -> None:
    """A time limit of the file applies only if the cell has none."""
    step = Step("a", source=PYTHON, timeout_s=of_cell)

    assert applied(step, StepSidecar(timeout_s=of_file)).timeout_s == found


def test_accounts_and_stores_of_the_cell_win() -> None:
    """Choices of the file are added for the props that the cell does not name."""
    step = Step(
        "a",
        source=PYTHON,
        apps=(AppBinding("slack", "slack", "apn_cell"), AppBinding("gh", "github")),
        stores=(StoreBinding("seen", "cell"),),
    )
    entry = StepSidecar(
        accounts={
            "slack": AccountChoice("apn_file"),
            "gh": AccountChoice("apn_file"),
            "mail": AccountChoice("apn_file", "gmail", "apn_git"),
        },
        stores={"seen": "file", "kept": None},
    )

    found = applied(step, entry)

    assert found.apps == (
        AppBinding("slack", "slack", "apn_cell"),
        AppBinding("gh", "github"),
        AppBinding("mail", "gmail", "apn_file"),
    )
    assert found.stores == (StoreBinding("seen", "cell"), StoreBinding("kept"))


@pytest.mark.parametrize(
    ("choice", "app"),
    [
        (AccountChoice("apn_1"), AppBinding("chat", "slack", "apn_1")),
        (AccountChoice("apn_1", "slack_bot"), AppBinding("chat", "slack_bot", "apn_1")),
        (AccountChoice(EXTERNAL_USER), AppBinding("chat", "slack")),
    ],
)
def test_the_app_of_a_choice(choice: AccountChoice, app: AppBinding) -> None:
    """A choice without an app is for the app that the code declares for the prop."""
    step = Step("a", "node", NODE.replace("slack:", "chat:"))

    assert applied(step, StepSidecar(accounts={"chat": choice})).apps == (app,)


def test_an_unanswered_account_is_refused() -> None:
    """A run is refused with the file, the step and the prop; a caller that runs nothing, and a disabled step, are not."""
    workflow, sidecar = asking(UNANSWERED)

    with pytest.raises(RequestError, match=r"w\.pdkernel\.yaml: steps\.send\.accounts\.slack is unanswered"):
        apply_sidecar(workflow, sidecar)
    with pytest.raises(RequestError, match=r"^pdkernel\.yaml: steps\.send"):
        apply_sidecar(workflow, replace(sidecar, path=None))

    assert apply_sidecar(workflow, sidecar, unanswered_policy="keep").steps[0].apps == (AppBinding("slack", "slack"),)
    assert apply_sidecar(*asking(UNANSWERED, disabled=True)).steps[0].apps == (AppBinding("slack", "slack"),)
    assert apply_sidecar(*asking("apn_1")).steps[0].apps == (AppBinding("slack", "slack", "apn_1"),)


def test_no_file_changes_nothing() -> None:
    """Without a file, and for a step that the file does not name, the workflow stays."""
    workflow = Workflow("W", steps=(Step("a", source=PYTHON),), settings={"memory": 256})

    assert apply_sidecar(workflow, None) is workflow
    assert apply_sidecar(workflow, Sidecar(steps={"b": StepSidecar(timeout_s=1)})) == workflow


def test_the_file_beside_a_notebook() -> None:
    """The file has the name of the notebook."""
    assert get_notebook_sidecar_path(Path("flows/a.b.ipynb")) == Path("flows/a.b.pdkernel.yaml")
