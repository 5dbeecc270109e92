"""The manual steps after an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition.checklist import (
    GENERATED_COMMENT,
    README,
    build_checklist,
    build_readme,
    check_readme_replaceable,
    list_omissions,
)
from pdkernel.files.definition.sidecar import AccountChoice, Sidecar, StepSidecar
from pdkernel.model import AppBinding, Step, StoreBinding, Trigger, Workflow
from tests.builders import a_step, a_workflow, bash_step, node_step, python_step
from tests.files.definition.builders import GO

SYNCED = {"schema": "x"}
NO_TRIGGER = Workflow(name="Flow", triggers=(), steps=(), extra=SYNCED)


def with_steps(*steps: Any, **changes: Any) -> Workflow:
    """A synced workflow of *steps* without a trigger."""
    return replace(NO_TRIGGER, steps=steps, **changes)


def test_nothing_to_do() -> None:
    """A synced workflow without triggers, accounts and settings needs no manual step."""
    assert build_checklist(with_steps(python_step("a", "pd.respond({})"))) == ()


def test_a_new_workflow_is_created_first() -> None:
    """Git sync does not create a workflow."""
    found = build_checklist(a_workflow(python_step("a")))

    assert found[0].startswith("Create an empty workflow 'Test' in a Git-backed project first")
    assert found[1] == "Create the HTTP trigger in the builder, with no authorization and the default response."


@pytest.mark.parametrize(
    ("trigger", "sentence"),
    [
        (Trigger(response="custom", auth="bearer", token_env="T"), "Create the HTTP trigger in the builder, with a custom token (the value of T) and a custom response."),
        (Trigger(auth="oauth"), "Create the HTTP trigger in the builder, with Pipedream OAuth and the default response."),
        (Trigger(config={"id": "hi_1"}), None),
        (Trigger(auth="oauth", config={"id": "hi_1"}), "Trigger hi_1: Git holds its id alone. Check in the builder that it is the HTTP trigger, with Pipedream OAuth and the default response."),
        (Trigger("schedule", config={"cron": "0 9 * * *", "timezone": "Europe/Berlin"}), "Create the schedule trigger in the builder: 0 9 * * * in Europe/Berlin."),
        (Trigger("schedule", config={"interval_seconds": 60}), "Create the schedule trigger in the builder: every 60 seconds."),
        (Trigger("schedule", config={}), "Create the schedule trigger in the builder: when it should run."),
        (Trigger("email"), "Create the email trigger in the builder."),
        (Trigger("errors"), "Create the trigger `Workspace $error events` of the Pipedream app in the builder."),
        (Trigger("errors", config={"workflows": ["A", "B"]}), "Create the trigger `Workspace $error events` of the Pipedream app in the builder. It fires for every workflow: let it exit unless the error is of A, B."),
        (Trigger("emit", config={"workflows": ["A"]}), "Create the subscription to events of A with the REST API (POST /v1/subscriptions). A project with GitHub Sync has no subscriptions: there, call $.flow.trigger in the emitting workflow instead."),
        (Trigger("source", config={"uses": "slack-new@1.0.0"}), "Create the trigger slack-new@1.0.0 in the builder, with its props and account."),
    ],
)  # fmt: skip
def test_a_trigger_is_created_in_the_builder(trigger: Trigger, sentence: str | None) -> None:
    """Each kind of trigger has its settings; a trigger whose id is in Git, without settings, needs nothing."""
    assert build_checklist(replace(NO_TRIGGER, triggers=(trigger,))) == ((sentence,) if sentence else ())


def test_accounts_are_chosen_in_the_builder() -> None:
    """An account is the external user's, one of the workspace, or the one that stays in the file."""
    user, own = python_step("a", options="--app slack"), python_step("b", options="--app slack=apn_1")
    kept = {("a", "slack"): "apn_9", ("b", "slack"): "apn_9"}

    assert build_checklist(with_steps(user, own)) == (
        'Step a: for slack, choose "Use end user\'s auth via Connect" in the builder.',
        "Step b: apn_1 must be an account of the workspace, shared with the project.",
    )
    assert [
        sentence.partition(". If")[0] for sentence in build_checklist(with_steps(user, own), kept_accounts=kept)
    ] == ["Step a: the file keeps apn_9 for slack"]
    shell = build_checklist(with_steps(bash_step("a", options="--app slack")), kept_accounts=kept)
    assert "Step a: on Pipedream Bash steps have no accounts." in shell[0]


def test_limitations_of_the_platform_are_named() -> None:
    """Bash and Go steps have no accounts and cannot respond; props of Python steps, time limits and `--debug` are not exported."""
    step = replace(python_step("p", options="--timeout 5 --debug"), props={"x": 1, "y": 2})
    shell = bash_step("b", "echo '{}' > $PIPEDREAM_RESPONSE", options="--app slack")
    compiled = Step("g", "go", GO, apps=(AppBinding("slack", "slack"),))

    assert [sentence.partition(".")[0] for sentence in build_checklist(with_steps(step, shell, compiled))] == [
        "Step p: only Node",
        "Step p: Pipedream has no time limit per step; the workflow's limit applies",
        "Step p: --debug is for the notebook and is not exported",
        "Step b: on Pipedream Bash steps have no accounts",
        "Step b: on Pipedream Bash steps cannot respond",
        "Step b: check it after the sync",
        "Step g: on Pipedream Go steps have no accounts",
        "Step g: on Pipedream Go steps cannot respond",
        "Step g: check it after the sync",
    ]
    assert "; x, y will be ignored." in build_checklist(with_steps(step))[0]
    assert build_checklist(with_steps(replace(node_step("n"), props={"x": 1}))) == ()


def test_stores_are_chosen_in_the_builder() -> None:
    """A store with an id of the platform is in Git; a local name or the default store is not."""
    stores = (StoreBinding("one", None), StoreBinding("two", "orders"), StoreBinding("three", "ds_abc123"))

    assert build_checklist(with_steps(replace(node_step("n"), stores=stores))) == (
        "Step n: choose the data store for one in the builder.",
        "Step n: choose the data store for two in the builder.",
    )


def test_settings_variables_and_pins() -> None:
    """Settings of the platform, variables that steps read, and pinned steps end the list."""
    workflow = with_steps(
        python_step("a", "import os\nreturn os.environ['TOKEN']"),
        python_step("b"),
        settings={"memory": 512, "share_workers": "never", "lambda_timeout": 60},
        variables=("OTHER",),
    )

    found = build_checklist(workflow, pinned_steps=["b", "gone"])

    assert "memory: 512" in found[0]
    assert "share_workers" not in found[0]
    assert found[1:] == (
        "Set these environment variables in the project: OTHER, TOKEN.",
        "Pins are not exported: b will run.",
    )


def test_omissions_of_a_folder_without_a_sidecar() -> None:
    """A sidecar without values omits nothing; each kind of value is named."""
    steps = {
        "a": StepSidecar(accounts={"slack": AccountChoice("external_user"), "mail": AccountChoice("apn_1")}),
        "b": StepSidecar(stores={"db": None}),
    }
    full = Sidecar(
        endpoint="eo1", triggers=(Trigger(auth="oauth"),), steps=steps, limits={"memory": 512}, variables=("X",),
        test_users=("ada",), test_events=("new",), actions=("npm",), naming_callers=("Other",),
    )  # fmt: skip

    assert list_omissions(Sidecar()) == ()
    assert list_omissions(Sidecar(triggers=(Trigger(config={"id": "hi_1"}),))) == ()
    assert list_omissions(full) == (
        (
            "Left out, as the folder has no pdkernel.yaml (--docs writes one): the account choices of a.slack, a.mail; "
            "the data stores of b.db; the key of its endpoint; its limits; its environment variables; its test users; "
            "the names of its test events; the source of actions; the workflows that may name an external user; the trigger's settings."
        ),
    )


def test_a_schedule_for_each_user_is_lost() -> None:
    """Pipedream does not know the key: the sentence has the users, and what to do instead."""
    workflow = replace(
        NO_TRIGGER, triggers=(Trigger("schedule", config={"cron": "0 9 * * *", "for_each": "external_user"}),)
    )

    (sentence,) = build_checklist(workflow)

    assert "Pipedream has no for_each" in sentence
    assert "not one for each external user (development, 10 at once)" in sentence
    assert "pdkernel serve" in sentence


def test_a_readme() -> None:
    """The file has triggers, a table of steps, the variables with their readers, and the manual steps."""
    workflow = a_workflow(
        replace(
            python_step("read", "import os\nreturn os.environ['KEY']", options="--app slack=apn_1"),
            notes="Two\nlines | one\n<b>",
        ),
        replace(node_step("send", options="--app chat:slack"), disabled=True),
        a_step("%%pdstep post --uses slack-send@1.0.0\ntext: Hi\n"),
        name="Orders & *more*",
    )

    assert build_readme(workflow, ["Set `KEY`."]).splitlines() == [
        GENERATED_COMMENT,
        "",
        r"# Orders & \*more\*",
        "",
        "Started by:",
        "",
        "- an HTTP request (auth none, response default)",
        "",
        "| step | runs | accounts | notes |",
        "|---|---|---|---|",
        r"| `read` | Python | slack: apn\_1 | Two lines \| one \<b\> |",
        "| `send` | Node.js, disabled | slack: of the external user |  |",
        "| `post` | `slack-send@1.0.0` |  |  |",
        "",
        "Environment variables:",
        "",
        "- `KEY`, read by read",
        "",
        "Serve this folder:",
        "",
        "    pdkernel serve .",
        "",
        "Set up by hand, because Git sync does not transfer it:",
        "",
        r"- [ ] Set \`KEY\`.",
    ]


def test_triggers() -> None:
    """A trigger has its settings without its id; a workflow without triggers is started by others."""
    triggers = (
        Trigger("schedule", config={"id": "ti_1", "cron": "0 9 * * *", "interval_seconds": 5}),
        Trigger("email"),
        Trigger(auth="bearer", token_env="T", response="custom"),
    )

    assert [
        line for line in build_readme(replace(a_workflow(), triggers=triggers)).splitlines() if line[:1] == "-"
    ] == [
        r"- a schedule (cron 0 9 \* \* \*, interval\_seconds 5)",
        "- an email",
        "- an HTTP request (auth bearer, response custom)",
    ]
    bare = build_readme(replace(a_workflow(), triggers=()))
    assert "- other workflows, by `$.flow.trigger`" in bare
    assert "| step |" not in bare
    assert bare.endswith("\n")


def test_only_a_written_file_is_replaced(tmp_path: Path) -> None:
    """A file of an earlier export is replaced; another file, also an empty one, is refused."""
    check_readme_replaceable(tmp_path)
    (tmp_path / README).write_text(build_readme(a_workflow()))
    check_readme_replaceable(tmp_path)
    for text in ("", "# Mine\n", f"\n{GENERATED_COMMENT}"):
        (tmp_path / README).write_text(text)
        with pytest.raises(RequestError, match="was not written by an export"):
            check_readme_replaceable(tmp_path)
    (tmp_path / README).unlink()
    (tmp_path / README).mkdir()
    with pytest.raises(RequestError, match="cannot be read"):
        check_readme_replaceable(tmp_path)
