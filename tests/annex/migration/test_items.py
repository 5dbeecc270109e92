"""What a team must act on for one workflow: each item once, with its place and its command."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pdkernel.annex.migration.items import (
    Surroundings,
    build_store_item,
    find_invoked,
    find_items,
    find_step_items,
    find_trigger_items,
)
from pdkernel.annex.migration.migration_report import MigrationItem
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.identity import Account
from pdkernel.files.definition import Sidecar
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY
from pdkernel.files.definition.lint import Finding
from pdkernel.model import ROUND_TRIP_KEY, Step, StoreBinding, Trigger, TriggerType, UnsupportedEntry, Workflow
from pdkernel.operations.importer.import_report import (
    AccountAssignment,
    ImportReport,
    StoreUse,
    UnsupportedItem,
    VariableRead,
)
from pdkernel.operations.readiness import DoctorReport, MissingRequirement
from tests.builders import a_workflow, node_step, python_step

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


@pytest.mark.parametrize(("path", "words"), [(Path("flow"), "'my flow'"), (None, "p_1 --to FOLDER")])
def test_the_history_of_a_workflow_with_an_id(path: Path | None, words: str) -> None:
    """The events of a workflow with an id can be saved: beside the workflow, or by its id in a folder."""
    (item,) = items(source_id="p_1", path=path)

    assert (item.kind, item.command) == ("events", f"pdkernel migrate events {words}")


def trigger_items(
    *triggers: Trigger, source: str = "flow", path: Path | None = None, **choices: Any
) -> list[MigrationItem]:
    """The items of a workflow with *triggers*."""
    workflow = Workflow("Flow", triggers=triggers)
    return list(find_trigger_items(MigrationSource(source, source, path, workflow, **choices), workflow))


def trigger_kinds(*triggers: Trigger) -> list[str]:
    """The kinds of the items."""
    return [item.kind for item in trigger_items(*triggers)]


def test_each_trigger_has_its_items() -> None:
    """Two triggers are switched over together; a workflow without one needs a decision."""
    timer, mail = Trigger("schedule", config={"id": "ti_1", "interval_seconds": 60}), Trigger("email")

    assert trigger_kinds() == ["no_trigger"]
    assert trigger_kinds(timer) == ["schedule"]
    assert trigger_kinds(timer, mail) == ["several_triggers", "schedule", "email_address"]
    assert trigger_items(timer, mail)[0].message == "The workflow has 2 triggers: ti_1 (schedule), email."


@pytest.mark.parametrize(
    ("type_", "config", "found"),
    [
        ("schedule", {"cron": "0 9 * * *"}, ["schedule"]),
        ("schedule", {"id": "ti_1"}, ["trigger_settings", "schedule"]),
        ("source", {"uses": "github-new-issue@1.0.0"}, ["source", "source_state"]),
        ("source", {"id": "dc_1"}, ["trigger_settings", "source", "source_state"]),
        ("errors", {}, ["error_handler"]),
        ("emit", {"workflows": ["A"]}, ["source"]),
    ],
)
def test_settings_that_git_does_not_hold(type_: TriggerType, config: dict[str, Any], found: list[str]) -> None:
    """The times of a schedule and the component of a source are asked for only if they are not known."""
    assert trigger_kinds(Trigger(type_, config=config)) == found


@pytest.mark.parametrize("type_", ["schedule", "source", "email", "errors", "emit"])
def test_the_command_turns_the_trigger_on(type_: TriggerType) -> None:
    """Each trigger that fires by itself is turned on with a command, in which the path is quoted."""
    found = trigger_items(Trigger(type_, config={"uses": "a-b@1.0.0", "cron": "* * * * *"}), source="my flows/one")

    assert found[0].command == "pdkernel triggers enable 'my flows/one'"


@pytest.mark.parametrize(
    ("url", "name", "domain"),
    [
        ("https://eoabc.m.pipedream.net/a/b", "https://eoabc.m.pipedream.net/a/b", None),
        ("https://m.pipedream.net", "https://m.pipedream.net", None),
        ("https://Hooks.Acme.example/orders", "https://Hooks.Acme.example/orders", "hooks.acme.example"),
        ("https://evilm.pipedream.net", "https://evilm.pipedream.net", "evilm.pipedream.net"),
        (None, "hi_1 (http)", None),
    ],
)
def test_a_domain_of_the_team(url: str | None, name: str, domain: str | None) -> None:
    """An endpoint is named by its URL if it is known; a host that is not Pipedream's is a domain of the team."""
    endpoint, *domains = trigger_items(Trigger(config={"id": "hi_1", ENDPOINT_URL_KEY: url}))

    assert (endpoint.kind, endpoint.name) == ("endpoint", name)
    assert [(item.kind, item.name) for item in domains] == ([] if domain is None else [("custom_domain", domain)])


@pytest.mark.parametrize(
    ("is_folder", "choices", "is_assumed"),
    [
        (True, {}, True),
        (True, {"sidecar": Sidecar(test_users=("ada",))}, True),
        (True, {"sidecar": Sidecar(triggers=(Trigger(),))}, False),
        (True, {"has_api_settings": True}, False),
        (False, {}, False),
    ],
)
def test_assumed_settings_are_to_be_checked(
    tmp_path: Path, is_folder: bool, choices: dict[str, Any], is_assumed: bool
) -> None:
    """Git does not hold how an endpoint authorizes and responds: `pdkernel.yaml`, the API or a notebook does."""
    path = tmp_path if is_folder else tmp_path / "flow.ipynb"

    (endpoint,) = trigger_items(Trigger(), path=path, **choices)

    assert ("check them in pdkernel.yaml" in endpoint.message) == is_assumed


AROUND = Surroundings(
    names={"p_Other12": "Other", "p_Self123": "Self"},
    endpoints={"eoaaaaaa.m.pipedream.net": "Endpoint", "hooks.acme.example": "Own domain"},
)


def invoked(*steps: Step) -> set[str]:
    """The workflows that a workflow with *steps* calls."""
    return {*find_invoked(MigrationSource("s", "s", workflow=a_workflow(*steps, name="Self")), AROUND)}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('await fetch("https://EOAAAAAA.m.pipedream.net/x")', {"Endpoint"}),
        ('await fetch("https://hooks.acme.example/x")', {"Own domain"}),
        ('await $.flow.trigger("p_Other12", {})', {"Other"}),
        ('await $.flow.trigger("p_Self123", {})', set()),
        ('await fetch("https://example.com")', set()),
    ],
)
def test_the_workflows_that_a_step_calls(body: str, names: set[str]) -> None:
    """A workflow of the report is called by the host of its endpoint or by its id; a call of itself does not count."""
    assert invoked(node_step(body=body)) == names
    assert invoked() == set()


def test_a_host_of_a_workflow_is_named_once() -> None:
    """A call of an endpoint at Pipedream is one item, although its host is also among the report's endpoints."""
    step = node_step(body='await fetch("https://eoaaaaaa.m.pipedream.net")')

    (item,) = find_step_items(step, AROUND)

    assert (item.kind, item.name, item.steps) == ("caller", "eoaaaaaa.m.pipedream.net", (step.name,))
    assert "the endpoint of Endpoint" in item.message


def test_the_place_of_a_use() -> None:
    """A use in code has its line, a use in an imported file the file too, and a use in a prop only its step."""
    file = replace(
        node_step(body="return 1"), files={"helper.js": 'export const go = () => $.flow.trigger("p_Other12")'}
    )
    action = Step("act", uses="a-b@1.0.0", props={"url": "https://hooks.acme.example/x"})

    messages = [next(iter(find_step_items(step, AROUND))).message for step in (node_step(body="$.flow.delay(1)"), file, action)]  # fmt: skip

    assert messages[0].startswith("Step code, line 3, pauses the run (delay).")
    assert messages[1].startswith("Step code, helper.js line 1, starts p_Other12 (Other).")
    assert messages[2].startswith("Step act calls https://hooks.acme.example")


def test_a_store_that_the_source_names_is_not_unknown() -> None:
    """A data store in code is an item only if the step's directive does not name the store."""
    step = node_step(body="await this.db.get('a')", props='{ db: { type: "data_store" } }')

    assert [item.kind for item in find_step_items(step, AROUND)] == ["data_store"]
    assert list(find_step_items(replace(step, stores=(StoreBinding("db", "orders"),)), AROUND)) == []


def test_the_command_for_a_store_is_quoted() -> None:
    """A store's name is an argument; an unknown store has a placeholder."""
    assert build_store_item("my store", "").command == "pdkernel migrate data 'my store' --to rescued"
    assert build_store_item(None, "").command == "pdkernel migrate data NAME --to rescued"


@pytest.mark.parametrize(
    ("step", "kind", "name", "message"),
    [
        (
            node_step(body="return this.db.get('a')", props='{ db: "$.service.db" }'),
            "source_state",
            "code.db",
            "keeps state in $.service.db as db. The state stays at Pipedream.",
        ),
        (
            node_step(body="return steps.trigger.context.attachments['a.csv']"),
            "attachment",
            "code",
            "reads the workflow's attachments, which Git does not hold.",
        ),
        (
            node_step(body="return $.flow.suspend().resume_url"),
            "paused_runs",
            "code (resume URL)",
            "hands on URLs that resume or cancel a run.",
        ),
    ],
)
def test_what_stays_at_pipedream(step: Step, kind: str, name: str, message: str) -> None:
    """State, attachments and URLs of a step are items that name the step."""
    (found,) = (item for item in find_step_items(step, AROUND) if item.kind == kind and item.name == name)

    assert message in found.message
    assert found.steps == ("code",)
    assert found.fix


def test_a_started_workflow_that_is_not_part_of_the_report() -> None:
    """The item reports whether the started workflow moves too."""
    known, unknown = (
        next(iter(find_step_items(node_step(body=f'$.flow.trigger("{name}")'), AROUND)))
        for name in ("p_Other12", "p_Gone123")
    )

    assert known.fix == "Switch the started workflow over first."
    assert "Add the started workflow" in unknown.fix
    assert [item.kind for item in find_step_items(python_step(body="return pd.files"), AROUND)] == ["file_store"]


@pytest.mark.parametrize(("op", "fix"), [("str/", ""), ("num>", 'the meaning of "num>" is derived')])
def test_the_filter_step_of_the_builder_runs_built_in(op: str, fix: str) -> None:
    """The report has the builder's Filter step, and the operators whose meaning was never observed."""
    rules = {"t": "and", "r": [{"a": "1", "op": op, "b": "1"}]}
    step = Step("only", "node", uses="filter-rules@0.0.1", props={"_filter": {"continue": "true", "rules": rules}})

    (item,) = find_step_items(step, AROUND)

    assert (item.kind, item.group, item.steps) == ("rule_filter", "switch", ("only",))
    assert "runs built in" in item.message
    assert fix in item.fix


def test_a_filter_step_with_an_unknown_operator_does_not_run() -> None:
    """The report does not say that a Filter step runs whose operator is unknown."""
    rules = {"t": "and", "r": [{"a": "1", "op": "geo~", "b": "1"}]}
    step = Step("only", "node", uses="filter-rules@0.0.1", props={"_filter": {"rules": rules}})

    assert list(find_step_items(step, AROUND)) == []
