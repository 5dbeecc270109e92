"""What a workflow needs and a project lacks: the whole list, and each account of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND, ActionSettings
from pdkernel.common.identity import Environment
from pdkernel.common.version import INSTALL_COMMANDS
from pdkernel.files.definition import Sidecar
from pdkernel.model import ROUND_TRIP_KEY, AppBinding, Step, StoreBinding, UnsupportedEntry, Workflow
from pdkernel.operations.importer.import_report import AccountAssignment, ImportReport
from pdkernel.operations.readiness import DoctorReport, find_missing_requirements
from pdkernel.operations.readiness.requirements import (
    AppReadiness,
    MissingRequirement,
    check_app_accounts,
    find_unanswered_accounts,
    format_missing_requirements,
    render_accounts_html,
    render_accounts_text,
)
from pdkernel.storage import Project
from tests.builders import a_block, a_workflow, bash_step, go_step, node_step, python_step
from tests.render.reading import EVIL, Page, assert_view

Connect = Callable[..., str]

ADD = "pdkernel accounts add --external-user"
TOKEN = "--credential oauth_access_token"
APPS = a_workflow(
    python_step("one", options="--app slack"),
    python_step("two", options="--app slack --app github"),
    python_step("off", options="--app openai --disabled"),
)


def missing(project: Project, workflow: Workflow, **choices: Any) -> list[tuple[str, str, str, str]]:
    """Kind, name, message and command of each missing requirement."""
    found = find_missing_requirements(
        workflow,
        directory=LocalDirectory(project),
        catalog=Catalog.for_project(project, environ={}),
        variables=choices.pop("variables", {}),
        **choices,
    )
    return [(item.kind, item.name, item.message, item.command) for item in found]


def accounts_of_ada(project: Project, workflow: Workflow) -> list[AppReadiness]:
    """The accounts of a run for ada."""
    return check_app_accounts(
        workflow,
        directory=LocalDirectory(project),
        catalog=Catalog.for_project(project, environ={}),
        user="ada",
        environment="development",
    )


def test_nothing_is_missing(project: Project) -> None:
    """A workflow without accounts and variables requires nothing, and an empty list is an empty text."""
    assert missing(project, a_workflow(python_step())) == []
    assert format_missing_requirements([]) == ""


def test_a_pin_of_the_notebook_is_mentioned(project: Project) -> None:
    """The report on a step without its action names what a pin of the notebook does."""
    report = DoctorReport.collect(
        a_workflow(Step("act", uses="@acme/do_it@0.0.9")),
        directory=LocalDirectory(project),
        catalog=Catalog.for_project(project, environ={}),
        variables={},
        environment="development",
        pinned_steps={"act"},
    )

    (item,) = report.missing_requirements
    assert "pinned in the notebook" in item.message
    assert "--pin act=FILE" in item.message


def test_an_unknown_app_is_asked_for(project: Project) -> None:
    """A prop of an unknown app requires an answer, and no account of that app."""
    step = Step("act", uses="@acme/do_it@0.0.9", apps=(AppBinding("sender", "unknown"),))

    found = [item for item in missing(project, a_workflow(step)) if item[0] != "action"]

    assert [item[:2] for item in found] == [("answer", "act.sender")]
    assert "write `app: SLUG` for steps.act.accounts.sender in pdkernel.yaml" in found[0][2]


def test_every_kind_but_interpreters(project: Project) -> None:
    """The list has actions, accounts, variables and what is not supported, in this order; disabled steps require nothing."""
    reads = "import os\nreturn os.environ['B'] + os.environ['A C']"
    steps = (
        Step("act", uses="hangar-open@1.0.0"),
        Step("chat", uses="slack-send@1.0.0"),
        python_step("read", reads),
        python_step("set", "import os\nreturn os.environ['SET']"),
        Step("gone", extra={ROUND_TRIP_KEY: {"missing": True}}),
        replace(bash_step("shell"), stores=(StoreBinding("db"),)),
        replace(go_step("compiled"), stores=(StoreBinding("db"),)),
        replace(python_step("stored"), stores=(StoreBinding("db"),)),
    )
    off = tuple(replace(step, name=f"{step.name}_off", disabled=True) for step in steps)
    entry = UnsupportedEntry("act", {"namespace": "branch", "type": "ifelse"})

    found = missing(project, a_workflow(*steps, *off).with_unsupported_entries([entry]), variables={"SET": ""})

    assert [(kind, name, command) for kind, name, _, command in found if kind != "interpreter"] == [
        ("action", "act", ""),
        ("action", "chat", "pdkernel project set actions npm --accept-licence"),
        ("external_user", "ID", f"{ADD} ID --app hangar {TOKEN}"),
        ("account", "ID/slack", f"{ADD} ID --app slack {TOKEN}"),
        ("variable", "A C", "pdkernel env set 'A C'"),
        ("variable", "B", "pdkernel env set B"),
        ("unsupported", "branch", ""),
        ("unsupported", "gone", ""),
        ("unsupported", "shell", ""),
        ("unsupported", "compiled", ""),
    ]
    messages = {name: message for _, name, message, _ in found}
    assert messages["act"].startswith("Step act: ")
    assert "--accept-licence" not in messages["chat"]
    assert messages["B"] == "The environment variable B is read by read and not set."
    assert messages["gone"] == "Step gone has no code: its entry file was missing."
    assert messages["shell"] == "Step shell: Bash and Go steps have no data stores."


@pytest.mark.parametrize(
    ("source", "uses", "words", "command"),
    [
        ("npm", "slack-send@1.0.0", "", None),
        ("npm", "@acme/do_it@0.0.9", "@acme/do_it", ""),
        ("connect", "slack-send@1.0.0", "run at Pipedream Connect", ""),
        ("connect", "@acme/do_it@0.0.9", "@acme/do_it", ""),
        ("folder", "slack-send@1.0.0", "slack-send", ""),
        ("npm without the licence", "slack-send@1.0.0", "excludes commercial use", ACCEPT_LICENCE_COMMAND),
    ],
)
def test_a_missing_action_depends_on_the_source(
    project: Project, tmp_path: Path, source: str, uses: str, words: str, command: str | None
) -> None:
    """Npm is searched at the first run, Connect needs a login, and neither has private actions; a command fits the source."""
    settings = ActionSettings(project.settings)
    if source == "folder":
        component = tmp_path / "checkout/components/other/actions/act/act.mjs"
        component.parent.mkdir(parents=True)
        component.touch()
    if source == "npm":
        settings.accept_licence()
    project.settings.set("actions", str(tmp_path / "checkout") if source == "folder" else source.split(maxsplit=1)[0])

    found = [item for item in missing(project, a_workflow(Step("act", uses=uses))) if item[0] == "action"]

    assert [item[3] for item in found] == ([] if command is None else [command])
    assert [item[2] for item in found if words not in item[2]] == []


def test_a_disabled_step_of_an_unknown_app_is_not_asked_for(project: Project) -> None:
    """Neither an unknown app nor an imported file is required by a disabled step."""
    app = Step("act", uses="@acme/do_it@0.0.9", apps=(AppBinding("sender", "unknown"),), disabled=True)
    code = replace(node_step("code"), source='import x from "./x.mjs";\nexport default x;\n')

    assert missing(project, a_workflow(app, replace(code, disabled=True))) == []
    assert [item[:2] for item in missing(project, a_workflow(app, code)) if item[0] != "interpreter"] == [
        ("file", "code")
    ]


def test_a_disabled_step_needs_no_interpreter(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing interpreter is required once, by the steps that run."""
    for language in ("NODE", "GO"):
        monkeypatch.setenv(f"PDKERNEL_{language}", "/nowhere/interpreter")
    node = node_step("off")
    go = [go_step(name) for name in ("one", "two")]

    found = missing(project, a_workflow(python_step(), replace(node, disabled=True), *go))

    assert [(kind, name, command) for kind, name, _, command in found] == [
        ("interpreter", "go", INSTALL_COMMANDS["go"])
    ]
    assert [item[1] for item in missing(project, a_workflow(node))] == ["node"]


def test_the_command_for_a_secret_names_the_source(project: Project) -> None:
    """The command has the path of the workflow, quoted, or a placeholder."""
    workflow = a_workflow(Step("act", "node", source="export default {}", props={"key": {"_enc": "abc"}}))

    def commands(origin: str | None) -> list[str]:
        return [item[3] for item in missing(project, replace(workflow, origin=origin)) if item[0] == "secret"]

    assert commands("my flows/one") == ["pdkernel secrets set 'my flows/one' act key"]
    assert commands(None) == ["pdkernel secrets set SOURCE act key"]


def test_accounts_of_an_empty_environment(project: Project) -> None:
    """Without users, the first command creates the user, and each further app is listed."""
    assert missing(project, APPS, environment="production") == [
        (
            "external_user",
            "ID",
            "Steps use an external user's slack and github account, and production has no external users yet.",
            f"{ADD} ID --app slack --environment production {TOKEN}",
        ),
        (
            "account",
            "ID/github",
            "The external user has no github account in production; step two needs it.",
            f"{ADD} ID --app github --environment production {TOKEN}",
        ),
    ]


def test_accounts_of_every_user(project: Project, connect: Connect) -> None:
    """Every user of the environment is checked, or the named users, of whom an unknown one is created first."""
    connect("ada")
    connect("bob smith", app="github")
    ada = ("account", "ada/github", "ada has no github account in development; step two needs it.", f"{ADD} ada --app github {TOKEN}")  # fmt: skip
    bob = ("account", "bob smith/slack", "bob smith has no slack account in development; step one, two needs it.", f"{ADD} 'bob smith' --app slack {TOKEN}")  # fmt: skip

    assert missing(project, APPS) == [ada, bob]
    assert missing(project, APPS, users=["eve", "ada"]) == [
        (
            "external_user",
            "eve",
            "The external user eve does not exist in development; their first account creates them.",
            f"{ADD} eve --app slack {TOKEN}",
        ),
        ("account", "eve/github", "eve has no github account in development; step two needs it.", f"{ADD} eve --app github {TOKEN}"),
        ada,
    ]  # fmt: skip


def test_the_plan_is_listed_once(project: Project, connect: Connect) -> None:
    """The free plan is one missing requirement, however many users it refuses."""
    environment: Environment = "production"
    for user in ("ada", "bob"):
        for app in ("slack", "github"):
            connect(user, app=app, environment=environment)
    project.set_plan("free")

    found = missing(project, APPS, environment=environment)

    assert [(kind, name, command) for kind, name, _, command in found] == [
        ("plan", "business", "pdkernel project set plan business")
    ]


def test_the_plan_is_listed_beside_the_accounts(project: Project, connect: Connect) -> None:
    """A user who lacks an account does not hide that the plan refuses another user."""
    for user, app in (("ada", "slack"), ("ada", "github"), ("bob", "slack")):
        connect(user, app=app, environment="production")
    project.set_plan("free")

    found = missing(project, APPS, environment="production")

    assert [(kind, name) for kind, name, _, _ in found] == [("account", "bob/github"), ("plan", "business")]


def test_own_accounts(project: Project, connect: Connect) -> None:
    """A missing account of the user's own is listed with the id of the step; an existing one is not."""
    own = connect(None, account_id="apn_own")
    workflow = a_workflow(
        python_step("here", options=f"--app slack={own}"), python_step("gone", options="--app slack=apn_gone")
    )

    assert missing(project, workflow) == [
        (
            "account",
            "apn_gone",
            "Step gone uses your own slack account apn_gone.",
            f"pdkernel accounts add --own --app slack --id apn_gone {TOKEN}",
        )
    ]


def test_an_account_of_one_branch_says_so(project: Project, connect: Connect) -> None:
    """An account that only steps of one branch need names the branch, of nested ones the innermost; one that others need, too, does not."""
    connect("ada", app="github")
    workflow = a_workflow(
        python_step("read", options="--app github"),
        a_block("%%pdif triage\nurgent: 'true'\nelse:"),
        python_step("page", options="--in triage.urgent --app slack --app github"),
        a_block("%%pdparallel tell --in triage.urgent\nsales: always\nteam: always"),
        python_step("sell", options="--in tell.sales --app openai"),
        python_step("post", options="--in tell.team --app slack"),
    )

    found = accounts_of_ada(project, workflow)

    assert {app.app: app.branch for app in found} == {"github": None, "slack": "triage.urgent", "openai": "tell.sales"}
    shown = render_accounts_text(found, external_user_id="ada", environment="development")
    assert "(needed by page and post, in the branch triage.urgent only)" in shown
    said = [message for _, name, message, _ in missing(project, workflow) if name == "ada/openai"]
    assert said == ["ada has no openai account in development; step sell, in the branch tell.sales only, needs it."]


def test_the_accounts_of_a_run(project: Project, connect: Connect) -> None:
    """Each app of a user comes first, then each own account, with its steps, its state and a command."""
    slack, own = connect("ada", name="Ada's"), connect(None, account_id="apn_own", name="Mine")
    workflow = a_workflow(
        *APPS.steps,
        python_step("mine", options=f"--app slack={own}"),
        python_step("also", options=f"--app slack={own}"),
        python_step("gone", options="--app github=apn_gone"),
    )

    found = accounts_of_ada(project, workflow)

    form, add = "Connect one in the form of %pduser, or: ", "pdkernel accounts add --own --app"
    assert found == [
        AppReadiness("slack", ("one", "two"), "external_user", slack, "Ada's", True, f"{form}{ADD} ada --app slack {TOKEN}"),
        AppReadiness("github", ("two",), "external_user", None, "", True, f"{form}{ADD} ada --app github {TOKEN}"),
        AppReadiness("slack", ("mine", "also"), "own", own, "Mine", True, f"Add {own}: {add} slack --id {own} {TOKEN}"),
        AppReadiness("github", ("gone",), "own", None, "", True, f"Add apn_gone: {add} github --id apn_gone {TOKEN}"),
    ]  # fmt: skip


def test_a_run_in_production_needs_the_accounts_of_production(project: Project, connect: Connect) -> None:
    """Accounts of another environment do not count, the command names the environment, and a broken account is shown."""
    connect("ada", app="github")
    broken = connect("ada", environment="production")
    own = connect(None, account_id="apn_own")
    for account in (broken, own):
        project.accounts.mark_unhealthy(account)
    workflow = a_workflow(*APPS.steps, python_step("mine", options=f"--app slack={own}"))

    found = check_app_accounts(
        workflow,
        directory=LocalDirectory(project),
        catalog=Catalog.for_project(project, environ={}),
        user="ada",
        environment="production",
    )

    assert [(each.app, each.account_id, each.healthy) for each in found] == [
        ("slack", broken, False),
        ("github", None, True),
        ("slack", own, False),
    ]
    assert "--environment production" in found[1].fix


def test_unanswered_accounts_name_the_file(tmp_path: Path) -> None:
    """A prop without an answer is listed with the path of the file that holds the answer."""
    uses = [
        AccountAssignment("say", prop, "slack", account) for prop, account in (("chat", "unanswered"), ("own", "apn_1"))
    ]
    report = ImportReport("W", accounts=tuple(uses))
    file = tmp_path / "pdkernel.yaml"

    (found,) = find_unanswered_accounts(report, Sidecar(path=file))
    (without,) = find_unanswered_accounts(report, None)

    sentence = "The owner of the slack account in step say is unknown: write external_user or an account id for steps.say.accounts.chat in"
    assert found == MissingRequirement("answer", "say.chat", f"{sentence} {file}.")
    assert without.message == f"{sentence} pdkernel.yaml."


def test_a_line_for_each_requirement_and_its_command() -> None:
    """The text has a line for each requirement, and a second line for its command, if it has one."""
    listed = [
        MissingRequirement("variable", "A", "Set A.", "pdkernel env set A"),
        MissingRequirement("action", "b", "No b."),
    ]

    assert format_missing_requirements(listed) == "- Set A.\n    pdkernel env set A\n- No b."


DRAWN_APPS = (
    AppReadiness("slack", ("send",), account_id="apn_0000001", account_name="Ada's Slack"),
    AppReadiness(
        "github", ("check", "build"), fix="Connect one: pdkernel accounts add --external-user ada --app github"
    ),
    AppReadiness("google_sheets", ("log",), owner="own", account_id="apn_2", healthy=False, fix="Connect it again."),
)


@pytest.mark.parametrize("form", ["txt", "html"])
def test_accounts_match_the_golden_file(form: str) -> None:
    """Each app has its account or a fix, and the steps that need the account."""
    draw = render_accounts_text if form == "txt" else render_accounts_html

    assert_view(f"accounts.{form}", draw(DRAWN_APPS, external_user_id="ada", environment="development"))


def test_no_missing_account_is_reported() -> None:
    """The text reports that a user has every account, and that a workflow needs none."""
    ready = render_accounts_text(DRAWN_APPS[:1], external_user_id="ada", environment="production")
    none = render_accounts_text([], external_user_id=None, environment="development")

    assert ready.startswith("External user ada, production: every account is connected.\n")
    assert none == "No external user, development: no step needs an account.\n"


@pytest.mark.parametrize("account_id", [None, EVIL])
def test_markup_in_a_field_is_shown_as_text(account_id: str | None) -> None:
    """Markup, quotes and control characters in a field are escaped."""
    app = AppReadiness(EVIL, (EVIL,), account_id=account_id, account_name=EVIL, fix="" if account_id else EVIL)

    drawn = render_accounts_html([app], external_user_id=EVIL, environment=EVIL)

    assert "<b>bold</b></script>" in Page(drawn).text
    assert "\x1b" not in drawn
