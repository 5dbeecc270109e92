"""The account that a step gets, and the four documented errors."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import Account, Credentials, Directory
from pdkernel.engine.account_lookup import RunIdentity
from pdkernel.engine.account_resolution import (
    credentials_read_at,
    find_unauthorized_accounts,
    list_account_secrets,
    override_accounts,
    resolve_accounts,
)
from pdkernel.errors import AccountNotFoundError, ProjectError
from pdkernel.execution import AccountUse, StepResult
from pdkernel.model import JSON, AppBinding
from pdkernel.storage import Project
from tests.builders import a_workflow, an_event, node_step, python_step
from tests.engine.conftest import Run, error_of
from tests.render.builders import a_call, an_execution

TOKEN_LENGTH = 'return len(pd.inputs["slack"]["$auth"]["oauth_access_token"])'
Connect = Callable[..., str]


@pytest.mark.parametrize(
    ("user", "environment", "plan", "code", "sentence"),
    [
        (
            None,
            "development",
            "business",
            "external_user_required",
            "Pipedream Connect Error: No external user ID passed, but one or more steps require it",
        ),
        (
            "nobody",
            "development",
            "business",
            "external_user_not_found",
            "Pipedream Connect Error: No matching external user ID: nobody in development",
        ),
        (
            "grace",
            "development",
            "business",
            "account_not_found",
            "Pipedream Connect Error: Required account for slack not found for external user ID grace in development",
        ),
        (
            "grace",
            "production",
            "free",
            "account_not_found",
            "Pipedream Connect Error: Required account for slack not found for external user ID grace in production",
        ),
        (
            "ada",
            "production",
            "free",
            "production_plan",
            "Pipedream Connect Error: Running workflows for your users in production requires a higher tier plan",
        ),
        ("ada", "production", "business", None, None),
        ("ada", "development", "free", None, None),
    ],
)
async def test_the_four_errors(
    run: Run, connect: Connect, project: Project, user: Any, environment: Any, plan: Any, code: Any, sentence: Any
) -> None:
    """Each documented error refuses the run before its first step, with the platform's message on the first line; the first counts."""
    connect("ada")
    connect("ada", environment="production")
    connect("grace", app="github")
    connect("grace", app="github", environment="production")
    project.set_plan(plan)

    execution = await run(
        python_step("say", TOKEN_LENGTH, options="--app slack"), external_user_id=user, environment=environment
    )

    if code is None:
        assert execution.status == "success", execution.error
    else:
        assert execution.error is not None
        assert execution.error.code == code
        assert execution.error.message.splitlines()[0] == sentence
        assert len(execution.error.message.splitlines()) > 1
        assert execution.step("say").status == "not_run"


async def test_custom_response_carries_the_error(shared_run: Run) -> None:
    """With a custom response the caller gets status 400 and the error's text."""
    workflow = a_workflow(python_step("say", TOKEN_LENGTH, options="--app slack"), response="custom")

    execution = await shared_run(workflow)

    assert execution.response is not None
    assert execution.response.status == 400
    assert str(execution.response.body).startswith("Pipedream Connect Error: No external user ID passed")


async def test_workflow_without_accounts_needs_no_user(shared_run: Run) -> None:
    """A workflow without accounts runs for every external user, existing or not."""
    execution = await shared_run(python_step("say"), external_user_id="nobody")

    assert execution.status == "success"


@pytest.mark.parametrize("chosen", [None, 0], ids=["newest", "chosen"])
async def test_newest_account_is_used_unless_another_is_chosen(run: Run, connect: Connect, chosen: int | None) -> None:
    """With several accounts of an app, the account that the run names is used, or else the most recently connected one (platform rule)."""
    tokens = ["xoxb-old-account", "xoxb-new"]
    accounts = [connect("ada", token) for token in tokens]
    overrides = {} if chosen is None else {"slack": accounts[chosen]}

    step = (
        await run(
            python_step("say", TOKEN_LENGTH, options="--app slack"),
            external_user_id="ada",
            account_overrides=overrides,
        )
    ).step("say")

    used = -1 if chosen is None else chosen
    assert (step.accounts[0].id, step.return_value) == (accounts[used], len(tokens[used]))


async def test_environments_are_separate(run: Run, connect: Connect) -> None:
    """A production account is not found in development."""
    connect("ada", environment="production")

    error = error_of(await run(python_step("say", TOKEN_LENGTH, options="--app slack"), external_user_id="ada"))

    assert error.code == "external_user_not_found"
    assert "exists in production" in error.message


async def test_app_prop_in_code_uses_the_account_of_the_external_user(run: Run, connect: Connect) -> None:
    """An app prop that only the Node.js code declares gets the external user's account."""
    account = connect("ada", "xoxb-0123456789")

    execution = await run(
        node_step(
            "say", "return this.chat.$auth.oauth_access_token.length", props='{ chat: { type: "app", app: "slack" } }'
        ),
        external_user_id="ada",
    )

    assert execution.step("say").return_value == 15
    assert execution.step("say").accounts[0].to_json() == {
        "prop": "chat",
        "app": "slack",
        "id": account,
        "owner": "external_user",
        "name": "ada",
    }


async def test_own_account_needs_no_user(run: Run, connect: Connect) -> None:
    """`--app slack=apn_...` uses an account of the author for every external user."""
    own = connect(None, account_id="apn_own1234")

    execution = await run(python_step("say", TOKEN_LENGTH, options=f"--app slack={own}"))

    assert execution.status == "success", execution.error
    assert execution.step("say").accounts[0].owner == "own"


@pytest.mark.parametrize(
    ("app", "credentials"),
    [
        ("openai", "--credential api_key"),
        ("slack", "--credential oauth_access_token"),
        (
            "postgresql",
            "--credential host --credential port --credential user --credential password --credential database",
        ),
    ],
)
async def test_fix_for_a_missing_own_account_names_every_credential(
    shared_run: Run, app: str, credentials: str
) -> None:
    """The command that adds a missing own account names every credential."""
    error = error_of(await shared_run(python_step("send", "return 1", options=f"--app {app}=apn_gone1234")))

    command = f"pdkernel accounts add --own --app {app} --id apn_gone1234 {credentials}"
    assert error.message.splitlines()[-1] == f"Add it: {command}"


async def test_account_of_an_external_user_is_not_an_own_account(run: Run, connect: Connect) -> None:
    """An account of an external user cannot be named as an own account."""
    account = connect("ada")

    error = error_of(await run(python_step("say", TOKEN_LENGTH, options=f"--app slack={account}")))

    assert "belongs to an external user" in error.message


@pytest.mark.parametrize(
    "leak",
    [
        "print(token)",
        "return token",
        'return {"Authorization": f"Bearer {token}"}',
        "return {token: 1}",
        'pd.export("x", token[::-1][::-1])',
        "import base64\nreturn base64.b64encode(b'user:' + token.encode()).decode()",
        "raise ValueError(token)",
        "from urllib.parse import quote\nreturn quote(token + '/x', safe='')",
        "for letter in token:\n    print(letter, end='', flush=True)",
        "pd.respond({'status': 200, 'body': token})",
        "pd.flow.exit(token)",
        "pd.export(token, 1)",
        "pd.export(token.encode().hex(), 1)",
        "raise type(token, (ValueError,), {})()",
        "import base64\nlong = 'x' * 150 + base64.b64encode(b'user:' + token.encode() * 9).decode()\nraise ValueError",
        "import base64\nlong = 'x' * 170 + base64.b64encode(b'user:' + token.encode()).decode() + 'y' * 99\nraise ValueError",
        "from urllib.parse import quote\nlong = 'x' * 185 + quote(token, safe='') + 'y' * 99\nraise ValueError",
    ],
)
async def test_credential_never_reaches_the_record(run: Run, connect: Connect, leak: str) -> None:
    """A credential that a step prints, returns or throws is not in the execution."""
    token = "xoxb-91/x+zqyw-7755"
    connect("ada", token)
    body = f'token = pd.inputs["slack"]["$auth"]["oauth_access_token"]\n{leak}'

    execution = await run(
        a_workflow(python_step("say", body, options="--app slack"), response="custom"),
        external_user_id="ada",
        event=an_event(),
    )

    record = json.dumps(execution.to_json(), ensure_ascii=False)
    assert "secret:slack/" in record or "flow.exit" in leak or "long =" in leak
    assert token not in record
    assert token.encode().hex() not in record
    assert base64.b64encode(b"user:" + token.encode()).decode()[8:16] not in record
    assert quote(token, safe="")[:10] not in record


async def test_next_step_gets_unredacted_exports(run: Run, connect: Connect) -> None:
    """The next step of a run gets an export without redaction."""
    connect("ada", "xoxb-0123456789")

    execution = await run(
        python_step("one", 'return pd.inputs["slack"]["$auth"]["oauth_access_token"]', options="--app slack"),
        node_step("two", "return steps.one.$return_value.length"),
        external_user_id="ada",
    )

    assert execution.step("one").return_value != "xoxb-0123456789"
    assert execution.step("two").return_value == 15


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, {"apn_1"}),
        ({"status": 403}, set()),
        ({"outcome": "stand_in"}, set()),
        ({"outcome": "replayed"}, set()),
        ({"app": "github"}, set()),
        ({"app": None}, set()),
    ],
)
def test_accounts_that_an_app_rejected(change: dict[str, Any], found: set[str]) -> None:
    """Only a 401 of the app itself, to a call with the account's credentials, rejects the account."""
    call = a_call(**{"status": 401, "app": "slack", **change})
    uses = (
        AccountUse("slack", "slack", "apn_1", "external_user"),
        AccountUse("sheet", "google_sheets", "apn_2", "own"),
    )
    step = StepResult("send", "error", accounts=uses, requests=(call,))

    assert find_unauthorized_accounts(an_execution(steps=(step,))) == found


def test_credentials_are_read_before_the_first_step() -> None:
    """A token that was renewed after the first step of a run began is not the one that its steps have."""
    times = ("2026-11-24T10:00:02.000Z", "2026-11-24T10:00:01.000Z", None)
    steps = tuple(StepResult(f"s{number}", "success", started_at=at) for number, at in enumerate(times))

    assert credentials_read_at(an_execution(steps=steps)) == datetime(2026, 11, 24, 10, 0, 1, tzinfo=UTC)
    assert credentials_read_at(an_execution(steps=steps[2:])) == datetime(2026, 11, 24, 10, tzinfo=UTC)


def test_the_fields_of_a_key_file_are_secrets() -> None:
    """A credential that is a JSON object is a secret, and so is each secret text in it."""
    file = json.dumps({"private_key": "-----BEGIN", "client_email": "a@b.example", "private_key_id": 7})
    account = Account("apn_1", "google", "", None, "development", datetime(2026, 1, 1, tzinfo=UTC))

    found = list_account_secrets(account, {"key_file": file, "list": '["x"]', "brace": "{ no JSON"})

    assert [(secret.ref, secret.value) for secret in found] == [
        ("google/apn_1/key_file", file),
        ("google/apn_1/key_file.private_key", "-----BEGIN"),
        ("google/apn_1/list", '["x"]'),
        ("google/apn_1/brace", "{ no JSON"),
    ]


@pytest.mark.parametrize(
    ("typed", "code", "returned"),
    [
        ('{"a":' * 100_000, "return len({})", 500_000),
        ("-----BEGIN\nMIIEv\r\n\n-----END\n", "print({0})\nreturn {0}.split('\\n')[1].strip() == 'MII' + 'Ev'", True),
    ],
    ids=["JSON that no parser reads to its end", "a key of several lines"],
)
async def test_a_credential_of_an_unusual_form(
    run: Run, connect: Connect, typed: str, code: str, returned: JSON
) -> None:
    """What an external user has typed is an ordinary secret, which reaches the step unchanged and is not in the record."""
    connect("ada", typed)
    body = code.format('pd.inputs["slack"]["$auth"]["oauth_access_token"]')

    execution = await run(python_step("say", body, options="--app slack"), external_user_id="ada")

    assert (execution.status, execution.step("say").return_value) == ("success", returned)
    assert typed.splitlines()[1 % len(typed.splitlines())] not in json.dumps(execution.to_json()["steps"][0]["logs"])


class Unreadable(LocalDirectory):
    """A directory whose credentials cannot be read."""

    def credentials(self, account_id: str) -> Credentials:
        """Refuse."""
        raise ProjectError(f"The credentials of {account_id} are damaged.")


@pytest.mark.parametrize("kind", [LocalDirectory, Unreadable])
def test_a_refused_run_knows_whether_it_has_all_secrets(project: Project, kind: type[LocalDirectory]) -> None:
    """A run without one of its accounts has the error of the lookup, and the secrets of the others if these can be read."""
    directory = kind(project)
    directory.add_account(app="slack", credentials={"token": "xoxb-0123456789"}, external_user_id="ada")
    bindings = {"say": (AppBinding("slack", "slack"), AppBinding("github", "github"))}

    found = resolve_accounts(bindings, RunIdentity("ada", "development"), directory=directory)

    assert isinstance(found.error, AccountNotFoundError)
    assert found.lookup is not None
    assert (found.complete, len(found.secrets)) == ((True, 1) if kind is LocalDirectory else (False, 0))


class Racing(LocalDirectory):
    """A directory whose *removals* next accounts are removed by another process just before their credentials are read."""

    removals = 0

    def credentials(self, account_id: str) -> Credentials:
        """Return the credentials of an account that was not removed."""
        if self.removals:
            self.removals -= 1
            self.remove_account(account_id)
        return super().credentials(account_id)


@pytest.mark.parametrize(("removals", "used"), [(0, 2), (1, 1), (2, None)])
def test_an_account_that_is_removed_meanwhile(project: Project, removals: int, used: int | None) -> None:
    """If the account is removed after its lookup, the next newest is used; if that goes too, the run is refused."""
    directory = Racing(project)
    ids = [
        directory.add_account(app="slack", credentials={"token": f"of {number}"}, external_user_id="ada").id
        for number in range(3)
    ]
    directory.removals = removals
    identity = RunIdentity("ada", "development")

    found = resolve_accounts({"say": (AppBinding("slack", "slack"),)}, identity, directory=directory)

    if used is None:
        assert found.error is not None
        assert found.error.message == f"The account {ids[1]} was removed while the run started."
        assert not found.complete
    else:
        (use,) = found.for_step("say").uses
        assert (use.id, use.name, dict(found.for_step("say").credentials["slack"])) == (
            ids[used],
            "ada",
            {"token": f"of {used}"},
        )
        assert found.for_step("other").uses == ()


@pytest.fixture
def choices(tmp_path: Path) -> Iterator[Directory]:
    """A directory: two Slack accounts and one GitHub account of ada, one Slack account of bob, and one of the author."""
    with Project.open(tmp_path / ".pdkernel", clock=ManualClock(), ids=SequentialIds()) as project:
        directory = LocalDirectory(project)
        for user, app, account_id in (
            ("ada", "slack", "apn_old"),
            ("ada", "slack", "apn_new"),
            ("ada", "github", "apn_hub"),
            ("bob", "slack", "apn_bob"),
            (None, "slack", "apn_own"),
        ):
            directory.add_account(
                app=app,
                credentials={"token": "x"},
                external_user_id=user,
                environment="development",
                account_id=account_id,
            )
        yield directory


def ids(directory: Directory, **filters: str) -> set[str]:
    """The ids of the accounts that match *filters*."""
    return {account.id for account in directory.accounts(environment="development", **filters)}  # type: ignore[arg-type]  # names of filters


def test_nothing_chosen(choices: Directory) -> None:
    """Without a choice, the directory itself is used."""
    assert override_accounts(choices, {}) is choices


def test_the_chosen_account_is_used(choices: Directory) -> None:
    """A run uses the chosen account of an app instead of the newest, and the newest account of each other app."""
    chosen = override_accounts(choices, {"slack": "apn_old"})

    newest = [chosen.newest_account("ada", "development", app) for app in ("slack", "github", "notion")]

    assert [account and account.id for account in newest] == ["apn_old", "apn_hub", None]
    assert ids(chosen, external_user_id="ada") == {"apn_old", "apn_hub"}


def test_own_accounts_stay(choices: Directory) -> None:
    """The choice hides accounts of external users only."""
    chosen = override_accounts(choices, {"slack": "apn_old"})

    assert "apn_own" in ids(chosen, app="slack")
    assert chosen.find_account("apn_own") is not None


def test_an_account_of_another_user_is_not_used(choices: Directory) -> None:
    """The id of another user's account does not give access to it."""
    chosen = override_accounts(choices, {"slack": "apn_bob"})

    assert chosen.newest_account("ada", "development", "slack") is None
    assert chosen.newest_accounts(["ada"], "development", ["slack"], limit=1) == []


def test_a_chosen_account_may_be_older_than_the_limit(choices: Directory) -> None:
    """The newest accounts of several users have the chosen one, however many newer ones there are."""
    chosen = override_accounts(choices, {"slack": "apn_old"})

    found = chosen.newest_accounts(["ada", "bob"], "development", ["github", "slack"], limit=1)

    assert sorted(account.id for account in found) == ["apn_hub", "apn_old"]
    assert chosen.newest_accounts(["ada"], "production", ["slack"], limit=1) == []
