"""What an imported workflow needs here: its steps, accounts, variables, packages and triggers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.actions import Catalog
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND
from pdkernel.files.definition import AccountChoice
from pdkernel.model import JSON, ROUND_TRIP_KEY, Step, StoreBinding, Trigger, Workflow
from pdkernel.operations.importer import build_import_report
from pdkernel.operations.importer.import_report import (
    AccountAssignment,
    ActionSource,
    ImportReport,
    PackageUse,
    SecretUse,
    StoreUse,
    TriggerUse,
    UnsupportedItem,
    VariableRead,
)
from tests.builders import a_workflow, bash_step, go_step, node_step, python_step

CODE = "export default defineComponent({ async run() {} });\n"


def reported(tmp_path: Path, workflow: Workflow, *, actions: str | None = None, **choices: Any) -> ImportReport:
    """The report on *workflow* without a project."""
    catalog = Catalog.without_project(tmp_path / ".pdkernel", environ={}).with_sources(
        [actions] if actions else [], base=tmp_path
    )
    return build_import_report(workflow, catalog, **choices)


def test_steps_that_can_run(tmp_path: Path) -> None:
    """Disabled steps block nothing; a step without code, without an entry point or with a store it cannot have is blocked."""
    steps = (
        python_step("good"),
        Step("gone", extra={ROUND_TRIP_KEY: {"missing": True}}),
        replace(python_step("empty"), source="x = 1\n"),
        replace(bash_step("shell"), stores=(StoreBinding("db"),)),
        replace(go_step("compiled"), stores=(StoreBinding("db"),)),
        replace(python_step("stored"), stores=(StoreBinding("db"),)),
        Step("act", uses="hangar-open@1.0.0"),
    )
    off = tuple(replace(step, name=f"{step.name}_off", disabled=True) for step in steps)

    report = reported(tmp_path, a_workflow(*steps, *off))

    assert (report.ready, report.disabled) == (("good", "stored"), tuple(step.name for step in off))
    assert [item.name for item in report.cannot] == ["act", "gone", "empty", "shell", "compiled", "gone_off"]


def test_an_unanswered_account_blocks_its_step(tmp_path: Path) -> None:
    """A choice has the account and Git's id; without a choice it is the step's own account, or the external user's."""
    steps = (python_step("one", options="--app slack"), python_step("two", options="--app slack=apn_2"), python_step("three", options="--app slack"))  # fmt: skip
    choices = {"one": {"slack": AccountChoice("unanswered", None, "apn_Git")}}

    report = reported(tmp_path, a_workflow(*steps), choices=choices)

    assert report.accounts == (
        AccountAssignment("one", "slack", "slack", "unanswered", "apn_Git"),
        AccountAssignment("two", "slack", "slack", "apn_2"),
        AccountAssignment("three", "slack", "slack", "external_user"),
    )
    assert report.ready == ("two", "three")


@pytest.mark.parametrize(
    ("actions", "uses", "source", "runs"),
    [
        (None, "hangar-open@1.0.0", "not in any source of this project", False),
        (
            None,
            "slack-send@1.0.0",
            f"not in any source of this project; possibly on npm: {ACCEPT_LICENCE_COMMAND}",
            False,
        ),
        ("npm", "slack-send@1.0.0", f"possibly on npm, after you accept the licence: {ACCEPT_LICENCE_COMMAND}", False),
        ("connect", "slack-send@1.0.0", "run by Pipedream Connect", True),
        ("connect", "@acme/send@1.0.0", "a private component whose code is missing.", False),
        (None, "not a key", "not the key of an action", False),
    ],
)
def test_the_source_of_an_action(tmp_path: Path, actions: str | None, uses: str, source: str, runs: bool) -> None:
    """An action runs if a source of the project has the action, or will have it at the first run."""
    (found,) = reported(tmp_path, a_workflow(Step("act", uses=uses)), actions=actions).actions

    assert found.source.startswith(source)
    assert (found.uses, found.runs) == (uses, runs)


def test_variables_and_their_places(tmp_path: Path) -> None:
    """A variable has each step that reads it, with the line of the whole name; one read without a default is required."""
    body = "import os\nx = os.environ.get('KEY_ID')\nreturn os.environ.get('KEY')"
    needs = python_step("needs", "import os\nreturn os.environ['KEY']")
    prop = Step("act", uses="hangar-open@1.0.0", props={"url": "{{process.env.HOST}}"})

    report = reported(tmp_path, a_workflow(python_step("reads", body), needs, prop))

    assert report.variables == (
        VariableRead("HOST", ("act",), True),
        VariableRead("KEY", ("reads, line 4", "needs, line 3"), True),
        VariableRead("KEY_ID", ("reads, line 3",), False),
    )


def test_a_variable_of_an_imported_file_has_its_path(tmp_path: Path) -> None:
    """The place names the file that reads the variable."""
    step = replace(python_step("reads", "from helper import key\nreturn key()"), files={"helper.py": "import os\n\nKEY = os.environ['KEY']\n"})  # fmt: skip

    assert reported(tmp_path, a_workflow(step)).variables[0].places == ("reads, helper.py line 3",)


def test_packages_by_language(tmp_path: Path) -> None:
    """Packages are sorted by language and name, with the steps that import them; actions have none."""
    steps = (
        python_step("py", "# pipedream add-package requests==2.31.0\nimport yaml\nreturn 1"),
        Step("js", "node", source=f'import z from "zod";\nimport a from "axios@1.7.0";\n{CODE}'),
        Step("again", "node", source=f'import z from "zod";\n{CODE}'),
        Step("act", "node", uses="hangar-open@1.0.0", source=f'import b from "bluebird";\n{CODE}'),
    )

    assert reported(tmp_path, a_workflow(*steps)).packages == (
        PackageUse("Node.js", "axios", "1.7.0", ("js",)),
        PackageUse("Node.js", "zod", "", ("js", "again")),
        PackageUse("Python", "pyyaml", "", ("py",)),
        PackageUse("Python", "requests", "==2.31.0", ("py",)),
    )


def test_data_stores_by_name(tmp_path: Path) -> None:
    """A store has all props that use it; the default store has no name."""
    steps = [replace(node_step(name), stores=(StoreBinding("db", store),)) for name, store in (("a", "orders"), ("b", None), ("c", "orders"))]  # fmt: skip

    assert reported(tmp_path, a_workflow(*steps)).stores == (
        StoreUse("orders", ("a.db", "c.db")),
        StoreUse(None, ("b.db",)),
    )


@pytest.mark.parametrize(
    ("trigger", "settings"),
    [
        (Trigger(), "no authorization, the default response"),
        (Trigger(auth="bearer"), "a custom token, the default response"),
        (Trigger(auth="oauth", response="custom"), "Pipedream OAuth, a custom response"),
        (Trigger("schedule", config={"cron": "0 9 * * *", "interval_seconds": 60}), "0 9 * * *"),
        (Trigger("schedule", config={"interval_seconds": 60}), "every 60 seconds"),
        (Trigger("schedule"), "unknown schedule"),
        (Trigger("source", config={"uses": "github-new-issue@1.0.0"}), "github-new-issue@1.0.0"),
        (Trigger("source"), "unknown event source"),
    ],
)
def test_the_settings_of_a_trigger(tmp_path: Path, trigger: Trigger, settings: str) -> None:
    """What starts the workflow, in words."""
    (found,) = reported(tmp_path, replace(a_workflow(), triggers=(trigger,))).triggers

    assert (found.type, found.settings, found.assumed) == (trigger.type, settings, False)


def test_assumed_triggers_are_marked(tmp_path: Path) -> None:
    """Only the triggers whose settings are not stored are assumed."""
    workflow = replace(a_workflow(), triggers=(Trigger(config={"id": "hi_1"}), Trigger("email", config={"id": "em_2"})))

    found = reported(tmp_path, workflow, assumed_triggers=("em_2",)).triggers

    assert [(each.id, each.assumed) for each in found] == [("hi_1", False), ("em_2", True)]


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({}, ["Given."]),
        ({"lambda_timeout": 40, "concurrency": 1}, ["Given."]),
        (
            {"network": "my vpc"},
            [
                "Given.",
                (
                    "On Pipedream, outbound calls leave through the network `my vpc` (a VPC). To send them through a proxy: "
                    "`pdkernel serve --via 'my vpc'=http://HOST:PORT`."
                ),
            ],
        ),
        ({"odd": 1}, ["Given.", "The setting `odd` is unknown"]),
    ],
)
def test_notes_about_settings(tmp_path: Path, settings: dict[str, JSON], notes: list[str]) -> None:
    """Settings that are unknown, or that mean something else here, have a sentence."""
    found = reported(tmp_path, replace(a_workflow(), settings=settings), notes=("Given.",)).notes

    assert all(note.startswith(begin) for note, begin in zip(found, notes, strict=True))


def test_a_prop_that_cannot_be_read_blocks_its_step(tmp_path: Path) -> None:
    """The rest of the report does not need the prop."""
    broken = Step("act", uses="http-custom-request@0.0.1", props={"url": "{{ ( }}"})

    report = reported(tmp_path, a_workflow(broken, python_step("good")))

    assert [item.name for item in report.cannot if "has a prop that cannot be read" in item.why] == ["act"]
    assert report.ready == ("good",)


def test_a_workflow_without_a_trigger_says_so(tmp_path: Path) -> None:
    """A workflow that other workflows start has no endpoint."""
    assert "has no trigger" in reported(tmp_path, replace(a_workflow(), triggers=())).notes[0]


def test_json_of_a_report() -> None:
    """The JSON has every attribute by its name, in order."""
    report = ImportReport(
        "Greet",
        ready=("a",),
        actions=(ActionSource("b", "slack-send-message@0.0.20", "npm"),),
        accounts=(AccountAssignment("b", "slack", "slack", "unanswered"),),
        variables=(VariableRead("TOKEN", ("a, line 1",)),),
        secrets=(SecretUse("a", "key"),),
        stores=(StoreUse(None, ("a.store",)),),
        triggers=(TriggerUse("hi_1", "http", "no authorization"),),
        packages=(PackageUse("node", "axios", "", ("a",)),),
        cannot=(UnsupportedItem("c", "is control flow"),),
    )

    assert json.dumps(report.to_json()) == json.dumps(
        {
            "workflow": "Greet",
            "ready": ["a"],
            "disabled": [],
            "conditions": [],
            "actions": [{"step": "b", "uses": "slack-send-message@0.0.20", "source": "npm", "runs": True}],
            "accounts": [{"step": "b", "prop": "slack", "app": "slack", "account": "unanswered", "synced": None}],
            "variables": [{"name": "TOKEN", "places": ["a, line 1"], "required": True}],
            "secrets": [{"step": "a", "prop": "key"}],
            "stores": [{"name": None, "props": ["a.store"]}],
            "triggers": [{"id": "hi_1", "type": "http", "settings": "no authorization", "assumed": False}],
            "packages": [{"language": "node", "name": "axios", "version": "", "steps": ["a"]}],
            "gone": [],
            "cannot": [{"name": "c", "why": "is control flow"}],
            "notes": [],
        }
    )


def test_the_account_of_a_prop() -> None:
    """An account is the user's, one of the project's own, or unanswered; the account in Git is named if it is another one."""
    uses = (
        AccountAssignment("a", "slack", "slack", "external_user", synced="apn_1"),
        AccountAssignment("a", "sheet", "unknown", "apn_2", synced="apn_2"),
        AccountAssignment("b", "sheet", "sheets", "unanswered"),
    )

    assert ImportReport("Greet", accounts=uses).render_text().splitlines() == [
        "  Accounts",
        "    - a.slack, slack: the external user's (Pipedream has apn_1)",
        "    - a.sheet, unknown app: your own, apn_2",
        "    - b.sheet, sheets: **unanswered**: set it in the notebook's pdkernel.yaml (external_user, or an account's id)",
    ]
    assert [use.step for use in ImportReport("Greet", accounts=uses).unanswered] == ["b"]


def test_the_parts_have_their_words() -> None:
    """Stores of Git have a command, variables say whether they are optional, and packages whether a version is required."""
    report = ImportReport(
        "Greet",
        ready=("a", "b"),
        disabled=("d",),
        variables=(VariableRead("TOKEN", ("a, line 1", "b")), VariableRead("DEBUG", ("a",), required=False)),
        secrets=(SecretUse("a", "my key"),),
        stores=(StoreUse(None, ("a.store",)), StoreUse("ds_1", ("a.x", "b.x")), StoreUse("users", ("b.y",))),
        triggers=(
            TriggerUse("hi_1", "http", "no authorization", assumed=True),
            TriggerUse(None, "schedule", "daily\n# hm"),
        ),
        packages=(PackageUse("node", "axios", "1.2.3", ("a", "b")), PackageUse("python", "httpx", "", ("c",))),
    )

    assert report.render_text().splitlines() == [
        "  Runs unchanged",
        "    - a, b",
        "  Data stores",
        "    - the project's default store: a.store",
        "    - ds_1: a.x, b.x; its id is known, but not its records. Import them: pdkernel store import ds_1 FILE",
        "    - users: b.y",
        "  Triggers",
        "    - hi_1, http: no authorization (assumed, because Pipedream's files do not store it)",
        "    - schedule: daily # hm",
        "  Environment variables",
        "    - TOKEN: read by a, line 1; b",
        "    - DEBUG: read by a (optional)",
        "  Secret props, whose values only Pipedream has",
        "    - a.my key: give its value before a run: %pdsecrets set a 'my key', or pdkernel secrets set SOURCE a 'my key'",
        "  Packages, installed at the first run",
        "    - axios 1.2.3 (node): a, b",
        "    - httpx, any version (python): c",
        "  Disabled, and not run",
        "    - d",
    ]


def test_code_in_markdown_may_contain_backticks() -> None:
    """A name cannot end its own code, or begin another line."""
    report = ImportReport("Greet", cannot=(UnsupportedItem("a`b\nc", "is\ncontrol flow"),))

    assert "- `` a`b c `` is control flow" in report.render_markdown()
