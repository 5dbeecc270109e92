"""Planning definition files."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import DefinitionError
from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar, plan_files, read_folder_workflow
from pdkernel.files.definition.file_plan import (
    check_no_credentials,
    find_credential_errors,
    find_credential_named_props,
)
from pdkernel.files.definition.sidecar import parse_sidecar
from pdkernel.model import JSON, ROUND_TRIP_KEY, AppBinding, Step, StoreBinding, Trigger, UnsupportedEntry, Workflow
from tests.builders import a_workflow, node_step, python_step
from tests.files.definition.builders import NODE, PYTHON, quickstart, text_of

ROOT = Path(__file__).parents[3]


def test_workflow_yaml() -> None:
    """workflow.yaml has the platform's keys, in the platform's order and style."""
    assert text_of(plan_files(quickstart()), "workflow.yaml") == (
        "schema: workflow/2022.04\n"
        "name: Open issue to Slack\n"
        "settings:\n"
        "  error_notification: true\n"
        "  lambda_timeout: 40\n"
        "triggers: []\n"
        "steps:\n"
        "- namespace: check\n"
        "  runtime: python3.12\n"
        '  uses: "./check/entry.py"\n'
        "- namespace: build\n"
        "  runtime: nodejs20.x\n"
        '  uses: "./build/entry.js"\n'
        "- namespace: count\n"
        '  uses: "./count/entry.sh"\n'
        "- namespace: send\n"
        "  notes: Says it\n"
        "  runtime: nodejs20.x\n"
        '  uses: "./send/entry.js"\n'
        "\n"
    )


def test_pdkernel_yaml() -> None:
    """pdkernel.yaml has the values that workflow.yaml cannot store."""
    files = plan_files(
        quickstart(), sidecar=Sidecar(endpoint="eo123", test_users=("ada",), test_events=("new",), actions=("npm",))
    )

    assert text_of(files, "pdkernel.yaml") == (
        "schema: pdkernel/1\n"
        "workflow: Open issue to Slack\n"
        "endpoint: eo123\n"
        "triggers:\n"
        "- type: http\n"
        "  auth: oauth\n"
        "  response: custom\n"
        "steps:\n"
        "  count:\n"
        "    language: bash\n"
        "    inferred: true\n"
        "  send:\n"
        "    accounts:\n"
        "      slack: external_user\n"
        "variables:\n"
        "- LIMIT\n"
        "test_users:\n"
        "- ada\n"
        "test_events:\n"
        "- new\n"
        "actions: npm\n"
    )


def test_entry_files_are_the_cells() -> None:
    """An entry file is the cell's text, byte for byte."""
    files = plan_files(quickstart())

    assert [file.path for file in files[2:]] == ["check/entry.py", "build/entry.js", "count/entry.sh", "send/entry.js"]
    assert text_of(files, "check/entry.py") == PYTHON
    assert text_of(files, "send/entry.js") == NODE


def test_two_texts_for_one_file_are_refused() -> None:
    """Two steps that are read from one file share it; if their code differs, no file is planned."""
    renamed = Step("other", source=PYTHON, extra={ROUND_TRIP_KEY: {"entry": "./check/entry.py"}})

    assert len(plan_files(Workflow("W", steps=(Step("check", source=PYTHON), renamed)))) == 3
    with pytest.raises(DefinitionError, match=r"Step other: .* written to check/entry.py, and another step"):
        plan_files(Workflow("W", steps=(Step("check", source="x = 1\n"), renamed)))


def test_a_renamed_step_keeps_the_folder_of_its_files(tmp_path: Path) -> None:
    """A step that imports files stays in its folder under another name, so that its imports are found."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "entry.js").write_text("import './x.mjs'\nexport default {}")
    (tmp_path / "a" / "x.mjs").write_text("1")
    (tmp_path / "workflow.yaml").write_text("name: W\nsteps:\n- namespace: a\n  uses: ./a/entry.js\n")
    (step,) = read_folder_workflow(tmp_path).steps

    files = plan_files(Workflow("W", steps=(replace(step, name="b"),)))

    assert [file.path for file in files[2:]] == ["a/entry.js", "a/x.mjs"]
    assert 'uses: "./a/entry.js"' in text_of(files, "workflow.yaml")


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("./old/code.py", "old/code.py"),
        ("./old/run", "old/run"),
        ("./old/code.mjs", "a/entry.py"),
        (None, "a/entry.py"),
    ],
)
def test_a_step_stays_in_its_file_unless_its_language_changes(entry: JSON, path: str) -> None:
    """The file that a step was read from is kept, except for one of another language."""
    step = Step("a", source=PYTHON, extra={ROUND_TRIP_KEY: {"entry": entry}})

    assert [file.path for file in plan_files(Workflow("W", steps=(step,)))[2:]] == [path]


def test_an_entry_without_a_step_above_is_at_its_end_of_the_file() -> None:
    """An unsupported entry stays at the top; that of a removed step comes last, and that of an archive has no form in Git."""
    entries = [
        UnsupportedEntry(None, {"namespace": "first"}),
        UnsupportedEntry("gone", {"namespace": "last"}),
        UnsupportedEntry("check", {"namespace": "archived"}, "$.steps[1]", "is unknown"),
    ]
    workflow = Workflow("W", steps=(Step("check", source=PYTHON),)).with_unsupported_entries(entries)

    lines = text_of(plan_files(workflow), "workflow.yaml").splitlines()

    assert [line for line in lines if "namespace" in line] == [
        "- namespace: first",
        "- namespace: check",
        "- namespace: last",
    ]


@pytest.mark.parametrize(
    "step",
    [Step("send", "node", uses="slack-send@1.0.0", disabled=True), Step("send", "python", "x = 1\n", disabled=True)],
    ids=["action", "code"],
)
def test_a_disabled_step_stays_disabled(step: Step) -> None:
    """workflow.yaml marks a disabled step, with an action or with code."""
    text = text_of(plan_files(Workflow("W", steps=(step,))), "workflow.yaml")

    assert "- namespace: send\n  disabled: true\n" in text


def test_plan_is_pure() -> None:
    """Processes with different hash seeds plan the same files."""
    program = "from tests.files.definition.test_file_plan import *\nprint(ascii(plan_files(quickstart())))"

    planned = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert planned == [ascii(plan_files(quickstart())) + "\n"] * 2


def test_declared_apps_are_named() -> None:
    """An app prop that only the code declares gets the external user's account in pdkernel.yaml."""
    workflow = Workflow("w", steps=(Step("send", "node", NODE),))

    assert "    accounts:\n      slack: external_user\n" in text_of(plan_files(workflow), "pdkernel.yaml")


def test_accounts_and_stores(tmp_path: Path) -> None:
    """Own accounts and store ids are in workflow.yaml; names of stores and slugs are in pdkernel.yaml; both read back."""
    step = Step(
        "send",
        uses="slack-send-message@0.0.20",
        language="node",
        apps=(AppBinding("chat", "slack", "apn_1"),),
        stores=(StoreBinding("log", "ds_1"), StoreBinding("cache", "my store"), StoreBinding("rest")),
        props={"text": "{{steps.a.b}}", "as_user": False},
        timeout_s=90,
    )

    files = plan_files(Workflow("w", steps=(step,)))

    assert text_of(files, "workflow.yaml").endswith(
        "  props:\n"
        "    chat:\n"
        "      authProvisionId: apn_1\n"
        "    log:\n"
        "      storeId: ds_1\n"
        '    text: "{{steps.a.b}}"\n'
        "    as_user: false\n\n"
    )
    assert text_of(files, "pdkernel.yaml").endswith(
        "  send:\n"
        "    timeout: 90\n"
        "    accounts:\n"
        "      chat:\n"
        "        app: slack\n"
        "        account: apn_1\n"
        "    stores:\n"
        "      cache: my store\n"
        "      rest: \n"
    )
    assert len(files) == 2
    for file in files:
        (tmp_path / file.path).write_text(file.text)
    (back,) = read_folder_workflow(tmp_path).steps
    assert (back.apps, sorted(back.stores, key=str)) == (step.apps, sorted(step.stores, key=str))


def test_limits_are_in_pdkernel_yaml() -> None:
    """Settings without a known key in Git are in pdkernel.yaml only."""
    throttle: JSON = {"limit": 1, "interval": 60}
    workflow = Workflow("w", settings={"memory": 512, "throttle": throttle, "share_workers": "always"})

    files = plan_files(workflow)

    assert "memory" not in text_of(files, "workflow.yaml")
    assert "limits:\n  memory: 512\n  throttle:\n    limit: 1\n    interval: 60\n  share_workers: always\n" in text_of(
        files, "pdkernel.yaml"
    )


def test_a_credential_is_not_planned() -> None:
    """A workflow with a credential in its code has no files."""
    workflow = Workflow("w", steps=(Step("a", source=f"TOKEN = 'ghp_{'a1' * 20}'"),))

    with pytest.raises(DefinitionError, match="Step a: its code holds what looks like a GitHub token"):
        plan_files(workflow)


@pytest.mark.parametrize(
    ("answer", "own", "in_git", "in_file"),
    [
        (AccountChoice("unanswered", synced="apn_git"), None, "apn_git", ["account: unanswered", "synced: apn_git"]),
        (AccountChoice("apn_here", synced="apn_git"), "apn_here", "apn_git", ["account: apn_here", "synced: apn_git"]),
        (AccountChoice("external_user", synced="apn_git"), None, None, ["account: external_user", "synced: apn_git"]),
        (AccountChoice("apn_here", synced="apn_git"), "apn_new", "apn_new", ["slack: apn_new"]),
    ],
    ids=["unanswered", "mapped", "external user's", "named in the cell"],
)
def test_synced_accounts(answer: AccountChoice, own: str | None, in_git: str | None, in_file: list[str]) -> None:
    """The id from Git is written again, unless the cell names another; the choice in pdkernel.yaml stays."""
    step = Step("send", "node", uses="slack-send@0.0.1", apps=(AppBinding("slack", "slack", own),))
    sidecar = Sidecar(steps={"send": StepSidecar(accounts={"slack": answer})})

    files = plan_files(Workflow("w", steps=(step,)), sidecar=sidecar)

    git = text_of(files, "workflow.yaml")
    assert (f"authProvisionId: {in_git}" in git) if in_git else ("authProvisionId" not in git)
    assert all(line in text_of(files, "pdkernel.yaml") for line in in_file)
    assert ("synced" in text_of(files, "pdkernel.yaml")) == (len(in_file) == 2)
    back = parse_sidecar(text_of(files, "pdkernel.yaml"))
    assert back.steps["send"].accounts["slack"].account in {answer.account, own}


def test_later_trigger_keeps_its_id(tmp_path: Path) -> None:
    """If only the second of two triggers is in Git, the second one has the id when the files are read back."""
    triggers = (Trigger("http"), Trigger("http", response="custom", config={"id": "hi_2"}))
    for file in plan_files(Workflow("W", triggers=triggers)):
        (tmp_path / file.path).write_text(file.text)

    assert read_folder_workflow(tmp_path).triggers == triggers


def test_app_of_a_prop_named_like_another_app_is_kept(tmp_path: Path) -> None:
    """An action's prop for another app's account reads back unchanged."""
    step = Step("a", language="node", uses="slack-send@1.0.0", apps=(AppBinding("github", "github"),))
    for file in plan_files(Workflow("W", steps=(step,))):
        (tmp_path / file.path).write_text(file.text)

    assert read_folder_workflow(tmp_path).steps[0].apps == step.apps


TOKEN = "xoxb-" + "1234567890-abcdefghij"
OTHER = "ghp_" + "a" * 36


def with_props(**props: Any) -> Step:
    """A step with *props*."""
    return replace(node_step("send"), props=props)


def test_a_credential_in_code_is_refused_with_its_line() -> None:
    """The message has the step, the kind and the line of the cell, and not the credential."""
    step = python_step("send", f"a = 1\ntoken = '{TOKEN}'\nreturn a")

    with pytest.raises(DefinitionError, match="Step send: its code holds what looks like a Slack token") as caught:
        check_no_credentials(a_workflow(step))

    assert f"(line {2 + step.line_offset + 1})" in caught.value.message
    assert (caught.value.step, caught.value.line) == ("send", 2 + step.line_offset + 1)
    assert TOKEN not in str(caught.value)


def test_a_credential_in_a_prop_is_refused_with_its_path() -> None:
    """Props are searched at any depth, with one error for a place; so are the files of a step, whose lines begin at 1."""
    steps = (
        with_props(a={"b": ["x", f"Bearer {TOKEN} {OTHER}"]}),
        replace(node_step("more"), files={"lib.mjs": f"\n\nexport const key = '{OTHER}';"}),
    )

    messages = [error.message for error in find_credential_errors(a_workflow(*steps))]

    assert len(messages) == 2
    assert "Step send: the prop a.b.1 holds what looks like a Slack token" in messages[0]
    assert "Step more: its file lib.mjs holds what looks like a GitHub token (line 3)" in messages[1]


def test_a_credential_of_the_folder_is_not_refused() -> None:
    """A text that is in Git already may stay, also in another place; a new one beside it is refused."""
    existing = a_workflow(with_props(a=f"Bearer {TOKEN}"))

    check_no_credentials(a_workflow(with_props(b=f"token {TOKEN}")), existing=existing)
    with pytest.raises(DefinitionError, match="a GitHub token"):
        check_no_credentials(a_workflow(with_props(a=f"{TOKEN} {OTHER}")), existing=existing)


def test_another_private_key_is_refused() -> None:
    """The first line of a private key does not identify the key."""
    key = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"
    existing = a_workflow(with_props(a=key.format("one")))

    check_no_credentials(a_workflow(with_props(a=key.format("one"))), existing=existing)
    with pytest.raises(DefinitionError, match="a private key"):
        check_no_credentials(a_workflow(with_props(a=key.format("two"))), existing=existing)


@pytest.mark.parametrize(
    ("props", "paths"),
    [
        ({"api_key": "12345678"}, [("api_key",)]),
        ({"api_key": "1234567"}, []),
        ({"api_key": "{{process.env.KEY}}"}, []),
        ({"api_key": TOKEN}, []),
        ({"text": "12345678"}, []),
        ({"auth": {"password": "correct horse"}, "list": [{"secret": "battery staple"}]}, [("auth", "password"), ("list", 0, "secret")]),
    ],
)  # fmt: skip
def test_a_prop_named_like_a_credential(props: dict[str, Any], paths: list[tuple[str | int, ...]]) -> None:
    """A plain text of eight characters or more is found by the name of its prop, unless its form is found anyway."""
    assert list(find_credential_named_props(with_props(**props))) == paths
