"""Planning definition files."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.definition import (
    AccountChoice,
    Sidecar,
    StepSidecar,
    build_checklist,
    plan_files,
    read_folder_workflow,
    slugify,
)
from pdkernel.definition.credential_check import check_no_credentials
from pdkernel.definition.sidecar_yaml import parse_sidecar
from pdkernel.errors import DefinitionError
from pdkernel.model import (
    JSON,
    ROUND_TRIP_KEY,
    AppBinding,
    Step,
    StoreBinding,
    Trigger,
    UnsupportedEntry,
    Workflow,
)
from tests.definition.builders import GO, NODE, PYTHON, quickstart, text_of

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(("uses", "is_kept"), [("slack-send@1.0.0", True), ("slack-send@1.0.1", False)])
def test_a_cursor_belongs_to_a_version(uses: str, is_kept: bool) -> None:
    """The platform's id of an action's added props is not written for another version of the action."""
    extra: dict[str, JSON] = {"_props_cursor": "dyp_1", ROUND_TRIP_KEY: {"cursor_of": "slack-send@1.0.0"}}

    text = text_of(plan_files(Workflow("W", steps=(Step("a", "node", uses=uses, extra=extra),))), "workflow.yaml")

    assert ("_props_cursor: dyp_1" in text) is is_kept


def test_an_entry_without_a_step_above_is_at_its_end_of_the_file() -> None:
    """An unsupported entry stays at the top; that of a removed step comes last."""
    entries = [UnsupportedEntry(None, {"namespace": "first"}), UnsupportedEntry("gone", {"namespace": "last"})]
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
    program = "from tests.definition.test_file_plan import *\nprint(ascii(plan_files(quickstart())))"

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


def test_python_apps_are_declared_in_the_file() -> None:
    """A Python step's apps and stores are declared in its props, because its code cannot declare them."""
    step = Step("a", source=PYTHON, apps=(AppBinding("slack", "slack"),), stores=(StoreBinding("data_store", "ds_1"),))

    assert text_of(plan_files(Workflow("w", steps=(step,))), "workflow.yaml").endswith(
        "  props:\n"
        "    __configurableProps:\n"
        "    - app: slack\n"
        "      name: slack\n"
        "      type: app\n"
        "    - name: data_store\n"
        "      type: data_store\n"
        "    data_store:\n"
        "      storeId: ds_1\n\n"
    )


def test_limits_are_in_pdkernel_yaml() -> None:
    """Settings without a known key in Git are in pdkernel.yaml only."""
    throttle: JSON = {"limit": 1, "interval": 60}
    workflow = Workflow("w", settings={"memory": 512, "throttle": throttle, "share_workers": "always"})

    files = plan_files(workflow)

    assert "memory" not in text_of(files, "workflow.yaml")
    assert "limits:\n  memory: 512\n  throttle:\n    limit: 1\n    interval: 60\n  share_workers: always\n" in text_of(
        files, "pdkernel.yaml"
    )


@pytest.mark.parametrize(
    "secret",
    [
        "xoxb-" + "1234567890-abcdefghij",
        "ghp_" + "a1" * 20,
        "AKIA" + "A1B2C3D4" * 2,
        "-----BEGIN " + "PRIVATE KEY-----",
    ],
)
def test_credentials_are_refused(secret: str) -> None:
    """A credential is refused, and the message does not repeat the credential."""
    in_prop = Workflow("w", steps=(Step("a", "node", uses="k@1.0.0", props={"auth": {"token": [f"x {secret}"]}}),))
    in_code = Workflow("w", steps=(Step("a", source=f"\nTOKEN = '{secret}'", line_offset=1),))

    with pytest.raises(DefinitionError, match=r"Step a: the prop auth\.token\.0 holds") as prop_error:
        plan_files(in_prop)
    with pytest.raises(DefinitionError, match=r"its code holds what looks like .* \(line 3\)") as code_error:
        plan_files(in_code)

    assert secret not in str(prop_error.value) + str(code_error.value)
    assert "pdkernel env set" in code_error.value.fix


def test_credentials_of_the_folder_are_not_refused_again() -> None:
    """Git has them already; another private key is refused, although all keys begin with the same line."""
    token, key = "xoxb-" + "1234567890-abcdefghij", "-----BEGIN " + "PRIVATE KEY-----MII"
    existing = Workflow("w", steps=(Step("a", source=f"TOKEN = '{token}'\nKEY = '{key}A'"),))

    check_no_credentials(existing, existing=existing)
    check_no_credentials(Workflow("w", steps=(Step("b", source=f"OTHER = '{token}'"),)), existing=existing)
    with pytest.raises(DefinitionError, match="a private key"):
        check_no_credentials(Workflow("w", steps=(Step("b", source=f"KEY = '{key}B'"),)), existing=existing)


def test_checklist() -> None:
    """The checklist names the manual steps in the builder."""
    said = "\n".join(build_checklist(quickstart(), pinned_steps=["build"]))

    for part in (
        "Create an empty workflow 'Open issue to Slack'",
        "Create the HTTP trigger in the builder, with Pipedream OAuth and a custom response.",
        'Step send: for slack, choose "Use end user\'s auth via Connect"',
        "The form of a Bash step in workflow.yaml is inferred",
        "Set these environment variables in the project: LIMIT.",
        "Pins are not exported: build will run.",
    ):
        assert part in said


def test_checklist_of_other_omissions() -> None:
    """Every other omission of Git sync has a sentence."""
    workflow = Workflow(
        "w",
        triggers=(
            Trigger(auth="bearer", token_env="TOKEN"),
            Trigger("schedule", config={"cron": "* * * * *", "timezone": "UTC"}),
            Trigger("schedule", config={"interval_seconds": 5}),
            Trigger("email"),
            Trigger("source", config={"uses": "github-new-issue@1.0.0"}),
            Trigger("errors", config={"workflows": ["Depot"]}),
            Trigger("emit", config={"workflows": ["Depot"]}),
            Trigger(config={"id": "hi_1"}),
        ),
        settings={"memory": 512},
        steps=(
            Step("a", source=PYTHON, props={"x": 1}, timeout_s=5, debug=True, stores=(StoreBinding("s"),)),
            Step("b", "go", GO, apps=(AppBinding("slack", "slack"),)),
            Step("d", "bash", "echo '{}' > $PIPEDREAM_RESPONSE"),
            Step("c", "node", apps=(AppBinding("slack", "slack", "apn_1"),)),
        ),
    )

    said = build_checklist(workflow)

    for part in (
        "with a custom token (the value of TOKEN) and the default response",
        "* * * * * in UTC",
        "every 5 seconds",
        "Create the email trigger",
        "Create the trigger github-new-issue@1.0.0",
        "Create the trigger `Workspace $error events` of the Pipedream app in the builder. It fires for every workflow",
        "Create the subscription to events of Depot with the REST API (POST /v1/subscriptions)",
        "memory: 512",
        "only Node.js steps have props",
        "no time limit per step",
        "--debug is for the notebook",
        "choose the data store for s",
        "Step b: on Pipedream Go steps have no accounts. slack is not exported",
        "Step b: on Pipedream Go steps cannot respond",
        "Step d: on Pipedream Bash steps cannot respond",
        "apn_1 must be an account of the workspace",
    ):
        assert any(part in sentence for sentence in said)
    assert sum("HTTP trigger" in sentence for sentence in said) == 1


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Random Album Cover (Mastodon)", "random-album-cover-mastodon"),
        ("learning_github_with_pipedream", "learning_github_with_pipedream"),
        ("GetDepecheModeTracks", "getdepechemodetracks"),
        ("CFX Webhooks to Slack", "cfx-webhooks-to-slack"),
        ("a - b", "a-b"),
        ("…", "workflow"),
    ],
)
def test_slug(name: str, folder: str) -> None:
    """A folder's name is derived from its workflow's name by the platform's rule."""
    assert slugify(name) == folder


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


def test_triggers_of_both_files_are_matched_by_id(tmp_path: Path) -> None:
    """A trigger of pdkernel.yaml without an id takes the next id of workflow.yaml that no other trigger has."""
    (tmp_path / "workflow.yaml").write_text("name: W\ntriggers:\n- id: ti_1\n- id: hi_2\n")
    (tmp_path / "pdkernel.yaml").write_text(
        "triggers:\n- type: http\n  id: hi_2\n  auth: oauth\n- type: schedule\n  cron: 0 9 * * *\n"
    )

    assert read_folder_workflow(tmp_path).triggers == (
        Trigger(auth="oauth", config={"id": "hi_2"}),
        Trigger("schedule", config={"id": "ti_1", "cron": "0 9 * * *"}),
    )


def test_app_of_a_prop_named_like_another_app_is_kept(tmp_path: Path) -> None:
    """An action's prop for another app's account reads back unchanged."""
    step = Step("a", language="node", uses="slack-send@1.0.0", apps=(AppBinding("github", "github"),))
    for file in plan_files(Workflow("W", steps=(step,))):
        (tmp_path / file.path).write_text(file.text)

    assert read_folder_workflow(tmp_path).steps[0].apps == step.apps
