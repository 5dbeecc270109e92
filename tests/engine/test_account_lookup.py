"""The account lookup in the record of a run."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.identity import Environment
from pdkernel.common.lookup import MAX_CANDIDATES, Lookup
from pdkernel.engine.account_lookup import (
    DirectorySnapshot,
    Interface,
    LookupResult,
    RunIdentity,
    format_connect_account_command,
    look_up_accounts,
    steps_by_external_user_app,
)
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Execution
from pdkernel.model import AppBinding
from pdkernel.storage import Project
from tests.builders import an_event, python_step
from tests.engine.conftest import Run, error_of

Connect = Callable[..., str]
SAY = python_step("say", options="--app slack")


async def test_execution_has_the_lookup(run: Run, connect: Connect) -> None:
    """The execution holds header, environment, user, app, candidates newest first and the chosen account."""
    older = connect("ada", "xoxb-the-older-one", name="old")
    newest = connect("ada", "xoxb-the-newer-one", name="new")
    event = an_event(headers={"X-PD-External-User-ID": "ada", "x-pd-environment": "development"})

    execution = await run(SAY, external_user_id="ada", event=event)

    kept = execution.to_json()["lookup"]
    candidates = kept["apps"][0].pop("candidates")
    assert kept == {
        "external_user": "ada",
        "environment": "development",
        "header": "ada",
        "environment_header": "development",
        "user_exists": True,
        "apps": [{"app": "slack", "steps": ["say"], "chosen": newest}],
        "plan": None,
        "failed": None,
    }
    assert [(each["id"], each["name"]) for each in candidates] == [(newest, "new"), (older, "old")]


BINDINGS = {
    "a": (AppBinding("slack", "slack"), AppBinding("again", "slack")),
    "b": (AppBinding("slack", "slack"), AppBinding("hub", "github")),
    "c": (),
}


def look_up(
    directory: LocalDirectory, user: str | None, environment: Environment = "development", **own: str
) -> LookupResult:
    """Look up the accounts of `BINDINGS`, or the own Slack accounts that the steps *own* name."""
    bindings = {step: (AppBinding("slack", "slack", account),) for step, account in own.items()} or BINDINGS
    users, apps = () if user is None else (user,), steps_by_external_user_app(bindings)
    snapshot = DirectorySnapshot(directory, environment, users, apps)
    return look_up_accounts(bindings, RunIdentity(user, environment, "header", "of the environment"), snapshot)


def test_the_first_of_four_errors(directory: LocalDirectory, project: Project) -> None:
    """A run is refused for its header, its user, an account or the plan, in this order; production alone has a plan."""
    add = directory.add_account
    project.set_plan("free")
    add(app="slack", credentials={"token": "x"}, external_user_id="ada", environment="production")
    found = {"header": look_up(directory, None), "user": look_up(directory, "ada")}
    found["account"] = look_up(directory, "ada", "production")
    for environment in ("development", "production"):
        for app in ("slack", "github"):
            add(app=app, credentials={"token": "x"}, external_user_id="ada", environment=environment)
    found["plan"] = look_up(directory, "ada", "production")
    valid = look_up(directory, "ada")

    lookups = {stage: result.lookup for stage, result in found.items()}
    assert {stage: each and each.failed and each.failed.link for stage, each in lookups.items()} == {
        stage: stage for stage in found
    }
    assert [each and each.user_exists for each in lookups.values()] == [None, False, True, True]
    assert [each and each.plan for each in lookups.values()] == [None, None, "free", "free"]
    assert found["account"].error is not None
    assert "Required account for github not found" in found["account"].error.message
    assert "Required by b." in found["account"].error.fix
    assert (valid.error, set(valid.accounts)) == (None, {("slack", None), ("github", None)})
    assert valid.lookup is not None
    assert [(each.app, each.steps) for each in valid.lookup.apps] == [("slack", ("a", "b")), ("github", ("b",))]
    assert (valid.lookup.header, valid.lookup.environment_header) == ("header", "of the environment")


def test_an_own_account_that_does_not_fit(directory: LocalDirectory) -> None:
    """An own account exists, belongs to no external user, and is one of the app; the first that does not fit is named."""
    own, hub, ada = (
        directory.add_account(app=app, credentials={"token": "x"}, external_user_id=user).id
        for app, user in (("slack", None), ("github", None), ("slack", "ada"))
    )

    errors = [look_up(directory, None, a=own, b=wrong, c="apn_gone").error for wrong in ("apn_none", hub, ada)]

    assert look_up(directory, None, a=own).error is None
    assert [error and error.message for error in errors] == [
        "Step 'b' uses your own slack account apn_none, which this project does not have.",
        f"Step 'b' needs a slack account, and {hub} is a github account.",
        f"Step 'b' names the account {ada} as your own, but it belongs to an external user.",
    ]


async def test_refused_run_has_the_failed_stage(run: Run, connect: Connect) -> None:
    """A refused run records the failed stage with the platform's message and the fix, and no later stage."""
    connect("ada", app="github")

    execution = await run(SAY, external_user_id="ada")

    assert execution.lookup is not None
    assert execution.lookup.failed is not None
    assert (execution.lookup.failed.link, execution.lookup.failed.code) == ("account", "account_not_found")
    assert execution.error is not None
    assert f"{execution.lookup.failed.message}\n{execution.lookup.failed.fix}" == execution.error.message
    assert execution.lookup.user_exists is True


async def test_no_lookup_without_an_account_of_an_external_user(run: Run, connect: Connect) -> None:
    """The JSON of a run has no lookup if its steps use no account, or only accounts of the author."""
    own = connect(None)

    execution = await run(python_step("one"), python_step("two", options=f"--app slack={own}"))

    assert execution.status == "success", execution.error
    assert "lookup" not in execution.to_json()


async def test_journal_returns_the_lookup(run: Run, connect: Connect, runtime: WorkflowEngine) -> None:
    """The journal and the JSON of a run have its lookup, for a success and a refusal; it contains no credential, even as the name of an account."""
    connect("ada", "xoxb-secret-0123456789", name="xoxb-secret-0123456789")

    made = [await run(SAY, external_user_id=user) for user in ("ada", "nobody")]
    read = await runtime.journal.list_executions()

    assert {each.id: each.lookup for each in read} == {each.id: each.lookup for each in made}
    for each in made:
        assert each.lookup is not None
        assert Execution.from_json(json.loads(json.dumps(each.to_json()))).lookup == each.lookup
        assert "xoxb-secret-0123456789" not in json.dumps(each.lookup.to_json())


async def test_listed_candidates_are_limited(run: Run, connect: Connect) -> None:
    """Of very many accounts the newest are listed, and the newest is used."""
    ids = [connect("ada") for _ in range(MAX_CANDIDATES + 3)]

    execution = await run(SAY, external_user_id="ada")

    assert isinstance(execution.lookup, Lookup)
    listed = [candidate.id for candidate in execution.lookup.apps[0].candidates]
    assert listed == ids[::-1][:MAX_CANDIDATES]
    assert execution.step("say").accounts[0].id == ids[-1]


@pytest.mark.parametrize(
    ("interface", "user", "fix"),
    [
        ("terminal", None, "Pass --external-user ID."),
        ("notebook", None, "Select a user with %pduser."),
        ("python", None, "Pass external_user=ID."),
        ("http", None, "Send the header x-pd-external-user-id."),
        ("terminal", "ada", "Connect an account: pdkernel accounts add --external-user ada --app slack"),
        (
            "notebook",
            "ada",
            "Connect an account with %pduser, or: pdkernel accounts add --external-user ada --app slack",
        ),
    ],
)
async def test_the_fix_fits_the_interface(
    run: Run, connect: Connect, interface: Interface, user: str | None, fix: str
) -> None:
    """The fix of an end-user error names what the caller writes: an option, a magic, an argument or a header."""
    connect("ada", app="github")

    error = error_of(await run(SAY, external_user_id=user, interface=interface))

    assert fix in error.message
    assert ("%pd" in error.message) is (interface == "notebook")


def snapshot(directory: LocalDirectory, environment: Environment = "development", *users: str) -> DirectorySnapshot:
    """A snapshot of the Slack accounts of *users*, by default ada."""
    return DirectorySnapshot(directory, environment, users or ("ada",), ("slack",))


def add(directory: LocalDirectory, user: str | None, account_id: str, app: str = "slack", **more: str) -> None:
    """Connect an account."""
    directory.add_account(
        app=app,
        credentials={"oauth_access_token": "x"},
        external_user_id=user,
        account_id=account_id,
        environment="production" if more.get("environment") == "production" else "development",
    )


def test_accounts_of_a_user(directory: LocalDirectory) -> None:
    """A user's accounts of an app are the newest first, and no account of another user, app or environment."""
    add(directory, "ada", "apn_1")
    add(directory, "ada", "apn_2")
    add(directory, "bob", "apn_3")
    add(directory, "ada", "apn_4", app="github")
    add(directory, "ada", "apn_5", environment="production")

    found = snapshot(directory)

    assert {each.id for each in found.accounts("ada", "slack")} == {"apn_1", "apn_2"}
    assert [each.id for each in found.candidates("ada", "slack")] == [
        each.id for each in found.accounts("ada", "slack")
    ]
    assert found.accounts("bob", "slack") == ()
    assert found.accounts("ada", "github") == ()
    assert [each.id for each in snapshot(directory, "production").accounts("ada", "slack")] == ["apn_5"]


def test_a_snapshot_does_not_change(directory: LocalDirectory) -> None:
    """An account that is removed or connected later is not in the snapshot; an own account is read once."""
    add(directory, "ada", "apn_1")
    add(directory, None, "apn_own")
    found = snapshot(directory)
    before = [found.find_account("apn_own"), found.find_account("apn_gone"), found.has_user("bob")]
    directory.remove_account("apn_own")
    add(directory, "ada", "apn_2")
    add(directory, "bob", "apn_3")
    add(directory, None, "apn_gone")

    assert [found.find_account("apn_own"), found.find_account("apn_gone"), found.has_user("bob")] == before
    assert before[0] is not None
    assert before[1:] == [None, False]
    assert [each.id for each in found.accounts("ada", "slack")] == ["apn_1"]


@pytest.mark.parametrize(
    ("environment", "users"),
    [("development", (True, False, True, False)), ("production", (False, True, False, True))],
)
def test_users_of_both_environments(
    directory: LocalDirectory, environment: Environment, users: tuple[bool, ...]
) -> None:
    """A user exists in an environment with an account there, of any app."""
    add(directory, "ada", "apn_1", app="github")
    add(directory, "bob", "apn_2", environment="production")

    found = snapshot(directory, environment, "ada", "bob")

    assert (
        found.has_user("ada"),
        found.has_user("bob"),
        found.has_user_in_other_environment("bob"),
        found.has_user_in_other_environment("ada"),
    ) == users
    assert not found.has_user("eve")


@pytest.mark.parametrize(
    ("count", "ending"),
    [(0, "development has no external users yet."), (1, "development: u00."), (10, "u08, u09."), (11, "u09 and more.")],
)
def test_known_users_are_named(directory: LocalDirectory, count: int, ending: str) -> None:
    """A sentence names ten users, and reports whether there are more."""
    for number in range(count):
        add(directory, f"u{number:02}", f"apn_{number}")

    assert snapshot(directory).describe_known_users("zoe").endswith(ending)


def test_a_mistyped_user_is_named_first(directory: LocalDirectory) -> None:
    """The sentence begins with the user whose id is near the unknown one, wherever that user is in the list."""
    for number, user in enumerate(("ada", "bob", "grace")):
        add(directory, user, f"apn_{number}")

    assert snapshot(directory).describe_known_users("grcae") == (
        "Did you mean grace? External users in development: ada, bob, grace."
    )


def test_commands_that_connect_accounts(directory: LocalDirectory) -> None:
    """The command names user, app, environment and the credentials that the app is known to have."""
    development, production = snapshot(directory), snapshot(directory, "production")
    directory.add_account(app="hub", credentials={"key": "x", "host": "y"}, external_user_id="bob")

    assert development.format_connect_command("hub", "o'hara") == (
        "pdkernel accounts add --external-user 'o'\"'\"'hara' --app hub --credential key --credential host"
    )
    assert production.format_connect_command("rare_app", "ada") == (
        "pdkernel accounts add --external-user ada --app rare_app --environment production --credential oauth_access_token"
    )
    assert development.format_own_account_command(AppBinding("chat", "rare_app", "apn_9")) == (
        "pdkernel accounts add --own --app rare_app --id apn_9 --credential oauth_access_token"
    )
    assert format_connect_account_command("rare_app", "ada", "production", directory) == (
        production.format_connect_command("rare_app", "ada")
    )


def test_a_token_is_asked_alone(directory: LocalDirectory) -> None:
    """An app with a token has further fields, which most steps do not need."""
    add(directory, "bob", "apn_1")

    assert snapshot(directory).format_connect_command("slack", "ada").endswith(" --credential oauth_access_token")
