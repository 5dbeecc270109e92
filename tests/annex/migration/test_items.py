"""What a team must act on for one workflow: each item once, with its place and its command."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pdkernel.annex.migration.items import find_items
from pdkernel.annex.migration.migration_report import MigrationItem
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.annex.migration.step_items import Surroundings
from pdkernel.common.identity import Account
from pdkernel.files.definition.lint import Finding
from pdkernel.model import ROUND_TRIP_KEY, Step, StoreBinding, UnsupportedEntry, Workflow
from pdkernel.operations.importer.import_report import (
    AccountAssignment,
    ImportReport,
    StoreUse,
    UnsupportedItem,
    VariableRead,
)
from pdkernel.operations.readiness import DoctorReport, MissingRequirement
from tests.builders import a_workflow, python_step

ACCOUNT = Account("apn_1", "slack", "Ada's", "ada", "development", datetime(2026, 1, 1, tzinfo=UTC))


def items(
    *missing: MissingRequirement,
    workflow: Workflow | None = None,
    around: Surroundings | None = None,
    findings: tuple[Finding, ...] = (),
    source_id: str | None = None,
    path: Path | None = None,
    **parts: Any,
) -> list[MigrationItem]:
    """The items of a workflow that needs *missing*, without those of its triggers; *parts* are of the import report."""
    workflow = workflow or a_workflow(python_step("say"))
    found = DoctorReport(missing, ImportReport(workflow.name, **parts), lint_findings=findings)
    source = MigrationSource("my flow", "my flow", path, workflow, source_id)
    return [item for item in find_items(source, found, around or Surroundings()) if item.kind != "endpoint"]


def kinds(*missing: MissingRequirement, **choices: Any) -> list[tuple[str, str]]:
    """Kind and name of each item."""
    return [(item.kind, item.name) for item in items(*missing, **choices)]


def test_equal_items_are_one() -> None:
    """Two items with one message are one; items of one name with different messages are two."""
    say = MissingRequirement("external_user", "ID", "No users.")

    assert kinds(say, say) == [("external_user", "ID")]
    assert len(items(say, MissingRequirement("external_user", "ID", "No plan."))) == 2
    assert len(items(say, MissingRequirement("external_user", "ada", "No users."))) == 2


def test_an_own_account_is_one_item() -> None:
    """A missing account of the workspace is an account to add, with its command; one of a user is not."""
    own = MissingRequirement("account", "apn_1", "Step say uses apn_1.", "pdkernel accounts add --own ...")
    user = MissingRequirement("account", "ada/slack", "ada has no slack account.")
    uses = (AccountAssignment("say", "slack", "slack", "apn_1"), AccountAssignment("also", "slack", "slack", "apn_1"))

    account = next(item for item in items(own, user, accounts=uses) if item.kind == "account")

    assert kinds(own, user, accounts=uses) == [("external_user", "ada/slack"), ("account", "apn_1")]
    assert (account.steps, account.command) == (("say", "also"), own.command)
    assert items(accounts=uses)[0].command == "pdkernel accounts add --own --app slack --id apn_1"


@pytest.mark.parametrize(("withheld", "command"), [(False, None), (True, "pdkernel apps add slack")])
def test_an_account_that_the_project_has(withheld: bool, command: str | None) -> None:
    """An account that is here needs nothing, unless Connect withholds its credentials."""
    around = Surroundings(accounts={"apn_1": replace(ACCOUNT, withheld=withheld)})

    found = items(accounts=(AccountAssignment("say", "slack", "slack", "apn_1"),), around=around)

    assert [item.command for item in found] == ([] if command is None else [command])


def test_withheld_accounts_of_users() -> None:
    """Of the users whose credentials are withheld, five are named; an app that the workflow does not use has no item."""
    held = tuple(replace(ACCOUNT, external_user_id=f"user{number}") for number in range(6))
    uses = (AccountAssignment("say", "slack", "slack", "external_user"), AccountAssignment("get", "github", "github", "external_user"))  # fmt: skip
    own = AccountAssignment("mine", "notion", "notion", "apn_2")

    found = items(accounts=(*uses, own), around=Surroundings(withheld={"slack": held, "notion": held}))

    assert [(item.name, item.steps) for item in found] == [("apn_2", ("mine",)), ("slack", ("say",))]
    assert "6 slack accounts of external users (user0, user1, user2, user3, user4)" in found[1].message


def test_what_cannot_run_is_named_once() -> None:
    """An entry that is not supported, a missing action and a blocked step are each one item, however often they are found."""
    entry = UnsupportedEntry("say", {"namespace": "branch", "type": "ifelse"})
    workflow = a_workflow(python_step("say"), Step("act", uses="slack-send@1.0.0")).with_unsupported_entries([entry])
    missing = (
        MissingRequirement("unsupported", "branch", "branch is control flow."),
        MissingRequirement("action", "act", "Step act: not found."),
        MissingRequirement("unsupported", "act", "Step act has no code."),
    )
    blocked = tuple(UnsupportedItem(name, "cannot run") for name in ("branch", "act", "say"))

    assert kinds(*missing, workflow=workflow, cannot=blocked) == [
        ("control_flow", "branch"),
        ("action", "act"),
        ("unsupported", "say"),
    ]


@pytest.mark.parametrize(
    ("uses", "kind"),
    [
        (None, "control_flow"),
        ("", "control_flow"),
        ("slack-send@1.0.0", "action"),
        ("@acme/send@1.0.0", "private_action"),
        ("./send/entry.rb", "unsupported"),
        ("../send.rb", "unsupported"),
        ("/send.rb", "unsupported"),
    ],
)
def test_an_entry_that_is_not_a_step(uses: str | None, kind: str) -> None:
    """Control flow, an action and a file are distinguished by what the entry uses."""
    entry = UnsupportedEntry("say", {"namespace": "x", "uses": uses})

    assert kinds(workflow=a_workflow(python_step("say")).with_unsupported_entries([entry])) == [(kind, "x")]


@pytest.mark.parametrize(
    ("uses", "command", "found"),
    [
        ("slack-send", "pdkernel project set actions npm", ("action", "pdkernel project set actions npm", True)),
        ("slack-send@1.0.0", "", ("action", "", False)),
        ("@acme/send@1.0.0", "", ("private_action", "pdkernel project set actions FOLDER", True)),
        ("@acme/send@1.0.0", "pdkernel login", ("private_action", "pdkernel login", True)),
    ],
)
def test_a_missing_action(uses: str, command: str, found: tuple[str, str, bool]) -> None:
    """A private action comes from a folder; an action without a version needs one; its own command comes first."""
    workflow = a_workflow(Step("act", uses=uses))

    (item,) = items(MissingRequirement("action", "act", "Step act:\n not found.", command), workflow=workflow)

    assert (item.kind, item.command, bool(item.fix)) == found
    assert item.message == "Step act: not found."


def test_missing_code_is_copied_from_the_builder() -> None:
    """Only a step without code is in the builder alone."""
    workflow = a_workflow(Step("gone", extra={ROUND_TRIP_KEY: {"missing": True}}), python_step("stored"))

    found = kinds(*(MissingRequirement("unsupported", name, name) for name in ("gone", "stored")), workflow=workflow)

    assert found == [("code", "gone"), ("unsupported", "stored")]


@pytest.mark.parametrize(
    ("need", "kind", "steps"),
    [
        (MissingRequirement("file", "say", "No\n helper.py."), "sibling", ("say",)),
        (MissingRequirement("secret", "say.key", "No value.", "pdkernel secrets set"), "secret", ("say",)),
        (MissingRequirement("interpreter", "node", "No Node.js.", "pip install"), "interpreter", ("say",)),
        (MissingRequirement("answer", "say.slack", "Whose?"), "account", ("say",)),
        (MissingRequirement("plan", "business", "Free.", "pdkernel project set plan business"), "external_user", ()),
    ],
)
def test_each_requirement_has_its_kind(need: MissingRequirement, kind: str, steps: tuple[str, ...]) -> None:
    """The item has the steps that cannot run, the message in one line and the command."""
    (item,) = items(need)

    assert (item.kind, item.name, item.steps, item.command) == (kind, need.name, steps, need.command)
    assert item.message == " ".join(need.message.split())


def test_variables_with_and_without_a_default() -> None:
    """A variable that a step requires has the place; one with a default is optional; one that is set has no item."""
    reads = (
        VariableRead("A", ("say, line 2",), True),
        VariableRead("B", ("say, line 3",), False),
        VariableRead("C", ("say, line 4",), True),
    )
    missing = MissingRequirement("variable", "A", "", "pdkernel env set A")

    needed, optional = items(missing, variables=reads)

    assert (needed.kind, needed.name, needed.steps, needed.command) == ("variable", "A", ("say",), "pdkernel env set A")
    assert "read by say, line 2" in needed.message
    assert (optional.kind, optional.name, optional.command) == ("optional_variable", "B", "pdkernel env set B")


def test_only_secrets_of_the_findings_are_items() -> None:
    """A credential in the files is an item, another finding is not."""
    found = (
        Finding("secret", "say", 1, None, "A\n token.", "Store it."),
        Finding("limit", "say", 1, None, "Long.", ""),
    )

    assert [(item.kind, item.message) for item in items(findings=found)] == [("plain_secret", "Step say: A token.")]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"network": "vpc"}, ['network: `settings.network` is "vpc": the workflow\'s calls leave']),
        ({"concurrency": 2}, ["limit: `settings.concurrency` is 2: the same limit applies here."]),
        ({"max_event_queue_size": 2}, ["limit: `settings.max_event_queue_size` is 2: "]),
        ({"new_thing": True}, ["limit: `settings.new_thing` is true: an unknown setting"]),
        ({"lambda_timeout": 40, "error_notification": True, "auto_deploy": True, "retention": 3}, []),
    ],
)
def test_settings(settings: dict[str, Any], found: list[str]) -> None:
    """Limits, networks and unknown settings are items; settings that mean the same here are not."""
    written = [f"{item.kind}: {item.message}" for item in items(workflow=a_workflow(python_step("say"), **settings))]

    assert len(written) == len(found)
    assert all(text.startswith(begin) for text, begin in zip(written, found, strict=True))


def test_a_workflow_that_is_turned_off() -> None:
    """An inactive workflow is an item, and an active one is not."""
    off = replace(a_workflow(python_step("say")), extra={"inactive": True})

    assert kinds(workflow=off) == [("inactive", "Test")]
    assert kinds() == []


def test_data_stores() -> None:
    """A store has its name and its props; an action on a store that the source does not name is one item too."""
    step = Step("put", uses="data_stores-add@0.0.1")
    named = replace(step, name="named", stores=(StoreBinding("dataStore", "ds_1"),))

    found = items(workflow=a_workflow(step, named), stores=(StoreUse("orders", ("say.db", "also.db")),))

    assert [(item.kind, item.name) for item in found] == [("data_store", "orders"), ("data_store", "a data store without a name")]  # fmt: skip
    assert "say.db, also.db" in found[0].message
    assert "Step put uses a data store" in found[1].message


@pytest.mark.parametrize(("path", "end"), [(Path("flow"), ""), (None, " --to FOLDER")])
def test_the_history_of_a_workflow_with_an_id(path: Path | None, end: str) -> None:
    """The events of a workflow with an id can be saved: beside the workflow, or in a folder."""
    (item,) = items(source_id="p_1", path=path)

    assert (item.kind, item.command) == ("events", f"pdkernel migrate events 'my flow'{end}")
