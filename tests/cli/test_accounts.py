"""`pdkernel users`, `accounts` and `apps`."""

from __future__ import annotations

import pytest

from pdkernel.accounts.apps import find_provider
from pdkernel.storage import Project
from tests.cli.conftest import Ended, Shell
from tests.notebook_files import notebook_of

TOKEN = "xoxb-planted-in-a-test"


def add(pdkernel: Shell, *args: str, stdin: str = TOKEN) -> None:
    """Connect an account."""
    ended = pdkernel("accounts", "add", *args, stdin=stdin)
    assert ended.status == 0, ended.stderr


def test_the_first_account_creates_the_user(pdkernel: Shell) -> None:
    """The first account creates the external user; removing the user of one environment removes the accounts there."""
    assert pdkernel("users", "list", "--json").json == []

    add(pdkernel, "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-")
    add(pdkernel, "--external-user", "ada", "--app", "crm", "--credential", "key=-", "--environment", "production", "--name", "Work")  # fmt: skip
    listed, text = pdkernel("users", "list", "--json").json, pdkernel("users", "list").stdout
    unknown = pdkernel("users", "remove", "grace", "--yes")
    removed = pdkernel("users", "remove", "ada", "--yes")
    left = pdkernel("accounts", "list", "--json").json
    in_production = pdkernel("users", "remove", "ada", "--environment", "production", "--yes", "--json").json

    assert [(user["external_user_id"], user["environment"], user["accounts"]) for user in listed] == [
        ("ada", "development", 1),
        ("ada", "production", 1),
    ]
    assert text == "ada  development  slack\nada  production  crm\n"
    assert (unknown.status, "There is no external user 'grace' in development." in unknown.stderr) == (2, True)
    assert removed.stdout == "Removed ada, their accounts and 0 runs in development.\n"
    assert [(each["app"], each["name"]) for each in left] == [("crm", "Work")]
    assert in_production == {"external_user_id": "ada", "environment": "production", "removed": True, "runs": 0}
    assert pdkernel("users", "list", "--json").json == pdkernel("accounts", "list", "--json").json == []


def test_account_is_listed_without_its_credentials(pdkernel: Shell) -> None:
    """Lists and details name the fields of a credential, and show no value."""
    add(pdkernel, "--external-user", "ada", "--app", "slack", "--id", "apn_test123", "--credential", "oauth_access_token=-")  # fmt: skip

    shown = [pdkernel("accounts", "show", "apn_test123"), pdkernel("accounts", "list", "--json")]

    assert all(TOKEN not in ended.stdout for ended in shown)
    account = shown[1].json[0]
    assert (account["id"], account["app"], account["owner"], account["external_user_id"]) == (
        "apn_test123", "slack", "external_user", "ada",
    )  # fmt: skip
    assert account["fields"] == ["oauth_access_token"]


def test_the_filters_of_accounts_and_users(pdkernel: Shell) -> None:
    """Accounts are selected by owner, app and environment, and users by environment."""
    add(pdkernel, "--external-user", "ada", "--app", "slack", "--id", "apn_1", "--credential", "key=-")
    add(pdkernel, "--external-user", "ada", "--app", "crm", "--id", "apn_2", "--environment", "production", "--credential", "key=-")  # fmt: skip
    add(pdkernel, "--external-user", "grace", "--app", "slack", "--id", "apn_3", "--credential", "key=-")
    add(pdkernel, "--own", "--app", "slack", "--id", "apn_4", "--credential", "key=-")
    pdkernel("accounts", "remove", "apn_3", "--yes")

    def ids(*options: str) -> set[str]:
        return {each["id"] for each in pdkernel("accounts", "list", "--json", *options).json}

    assert ids() == {"apn_1", "apn_2", "apn_4"}
    assert ids("--external-user", "ada") == {"apn_1", "apn_2"}
    assert ids("--environment", "production") == {"apn_2", "apn_4"}  # your own accounts have no environment
    assert ids("--app", "slack") == {"apn_1", "apn_4"}
    assert ids("--own") == {"apn_4"}
    assert pdkernel("accounts", "list", "--app", "none").stdout == "No accounts.\n"
    assert pdkernel("accounts", "show", "apn_2").stdout == (
        "apn_2  crm  ada in production  ada\n  credentials: key (values are never shown)\n"
    )
    assert pdkernel("users", "list", "--environment", "production").stdout == "ada  production  crm\n"
    assert pdkernel("users", "list").stdout.splitlines()[1] == "grace  development  no accounts"


def test_users_are_searched(pdkernel: Shell) -> None:
    """`--search` finds users by id and account name, the newest first; `--limit` counts the others; without both they are sorted."""
    for user, name in (("ada", "Acme 100%"), ("grace", "Acme 1000"), ("linus", "")):
        options = ["--name", name] if name else []
        add(pdkernel, "--external-user", user, "--app", "slack", "--credential", "key=-", *options)

    def ids(*options: str) -> list[str]:
        return [each["external_user_id"] for each in pdkernel("users", "list", "--json", *options).json]

    assert ids() == ["ada", "grace", "linus"]
    assert ids("--search", "ACME") == ["grace", "ada"]
    assert ids("--search", "100%") == ["ada"]
    assert ids("--limit", "2") == ["linus", "grace"]
    assert pdkernel("users", "list", "--search", "acme", "--limit", "1").stdout == (
        "grace  development  slack  Acme 1000\n1 more in development. Pass a larger --limit, or narrow the --search.\n"
    )
    assert pdkernel("users", "list", "--search", "eve").stdout == (
        "There are no external users whose id or account name contains 'eve'.\n"
    )


def test_an_owner_is_checked_before_the_prompts(pdkernel: Shell) -> None:
    """An invalid external user is refused before a credential is read."""
    refused = pdkernel("accounts", "add", "--external-user", " ", "--app", "slack", "--credential", "key=@gone")

    assert (refused.status, "cannot be blank" in refused.stderr) == (2, True)


def test_the_help_of_the_list_names_own_accounts(pdkernel: Shell) -> None:
    """The help states that a list for an environment contains your own accounts."""
    ended = pdkernel("accounts", "list", "--help")

    assert "Your own accounts are valid in both environments, and listed for both." in ended.stdout


def test_names_cannot_control_the_terminal(pdkernel: Shell) -> None:
    """Control characters in the id of an external user and in the name of an account are shown as text."""
    add(pdkernel, "--external-user", "a\ada", "--app", "slack", "--id", "apn_1", "--name", "\x1b]0;owned\a", "--credential", "key=-")  # fmt: skip
    line = "apn_1  slack  a\\x07da in development  \\x1b]0;owned\\x07"

    ended = [
        pdkernel("users", "list"),
        pdkernel("accounts", "list"),
        pdkernel("accounts", "show", "apn_1"),
        pdkernel("accounts", "remove", "apn_1", "--yes"),
        pdkernel("users", "remove", "a\ada", "--yes"),
    ]

    assert [each.lines[0] for each in ended] == [
        "a\\x07da  development  slack",
        line,
        line,
        f"Removed {line}",
        "Removed a\\x07da, their accounts and 0 runs in development.",
    ]


def test_a_broken_account_is_marked(pdkernel: Shell) -> None:
    """The list marks the account that must be connected again."""
    add(pdkernel, "--external-user", "ada", "--app", "slack", "--id", "apn_test123", "--credential", "oauth_access_token=-")  # fmt: skip
    with Project.open(pdkernel.folder / ".pdkernel") as project:
        project.accounts.mark_unhealthy("apn_test123")

    listed = pdkernel("accounts", "list")

    assert listed.stdout == ("apn_test123  slack  ada in development  ada  no longer works: connect it again\n")


def test_bare_key_reads_one_line_without_a_terminal(pdkernel: Shell) -> None:
    """Without a terminal, each bare KEY reads a line of standard input."""
    add(pdkernel, "--own", "--app", "db", "--credential", "user", "--credential", "password", stdin="me\nsecret-word\n")

    assert pdkernel("accounts", "list", "--own", "--json").json[0]["fields"] == ["user", "password"]


def test_credential_from_a_file(pdkernel: Shell) -> None:
    """`KEY=@FILE` reads the file's text, `KEY=-` standard input; the newline at the end is not part of the value."""
    pdkernel.write("token.txt", f"{TOKEN}\n")

    add(
        pdkernel, "--own", "--app", "slack", "--id", "apn_1", "--credential", "oauth_access_token=@token.txt",
        "--credential", "key=-", stdin="two\nlines\n",
    )  # fmt: skip

    with Project.open(pdkernel.folder / ".pdkernel") as project:
        assert project.accounts.credentials("apn_1") == {"oauth_access_token": TOKEN, "key": "two\nlines"}


def test_a_credential_file_that_is_not_text_is_refused(pdkernel: Shell) -> None:
    """A file that is not UTF-8 is refused by name."""
    (pdkernel.folder / "token.bin").write_bytes(b"\xff\xfe")

    refused = pdkernel("accounts", "add", "--own", "--app", "slack", "--credential", "bot_token=@token.bin")

    assert refused.status == 2
    assert "Cannot read the credential bot_token from token.bin: the file is not UTF-8 text" in refused.stderr


def test_an_existing_id_is_refused(pdkernel: Shell) -> None:
    """An account id can be used once."""
    args = ("--own", "--app", "slack", "--id", "apn_1", "--credential", "oauth_access_token=-")
    add(pdkernel, *args)

    ended = pdkernel("accounts", "add", *args, stdin=TOKEN)

    assert ended.status == 2
    assert "apn_1" in ended.stderr


def test_removed_account_is_gone(pdkernel: Shell) -> None:
    """`accounts remove` removes the account; a second removal reports an unknown account."""
    add(pdkernel, "--own", "--app", "slack", "--id", "apn_1", "--credential", "oauth_access_token=-")

    assert pdkernel("accounts", "remove", "apn_1", "--yes").status == 0
    assert pdkernel("accounts", "remove", "apn_1").status == 2


@pytest.mark.parametrize("args", [["--app", "slack"], ["--app", "slack", "--own", "--external-user", "ada"]])
def test_an_owner_is_required(pdkernel: Shell, args: list[str]) -> None:
    """An account needs exactly one owner: an external user or `--own`."""
    ended = pdkernel("accounts", "add", *args, "--credential", "k=v")

    assert ended.status == 2
    assert "The owner of the account is missing" in ended.stderr


def test_every_command_has_help(pdkernel: Shell) -> None:
    """`--help` works for every command and subcommand, and shows how to start."""
    for words in (
        [],
        ["run"],
        ["export"],
        ["shape"],
        ["accounts", "add"],
        ["env", "set"],
        ["new"],
        ["doctor"],
        ["lab"],
    ):
        ended = pdkernel(*words, "--help")
        assert ended.status == 0
        assert "Usage: pdkernel" in ended.stdout


def test_runs_of_a_removed_user_are_removed_on_postgres(pdkernel: Shell, postgres_url: str) -> None:
    """In a project on Postgres, a removed user takes their accounts and runs along."""
    notebook_of(pdkernel.folder / "greet.ipynb", "%%pdstep greet\ndef handler(pd):\n    return 1\n")

    def run(*args: str) -> Ended:
        ended = pdkernel(*args, stdin=TOKEN, PDKERNEL_DATABASE=postgres_url)
        assert ended.status == 0, ended.stderr
        return ended

    run("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-")
    run("run", "greet.ipynb", "--body", "{}", "--external-user", "ada")
    before = run("runs", "list", "--json").json

    removed = run("users", "remove", "ada", "--yes", "--json").json

    assert (len(before), removed["runs"]) == (1, 1)
    assert run("runs", "list", "--json").json == run("accounts", "list", "--json").json == []


OAUTH = (
    "--oauth-authorize-url", "https://crm.example.com/authorize", "--oauth-token-url", "https://crm.example.com/token",
    "--oauth-client-id", "client-1",
)  # fmt: skip


def test_a_provider_is_added(pdkernel: Shell) -> None:
    """The secret comes from standard input and is never shown, nor readable in the project."""
    options = ("--oauth-scope", "read", "--oauth-client-auth", "basic")
    added = pdkernel("apps", "add", "my_crm", *OAUTH, *options, stdin="s-0123456789\n")
    shown = pdkernel("project", "show", "--json")

    assert added.status == 0
    assert "Register this redirect URL at the app, after your server's base URL: /_static/connect/callback" in (
        added.stdout
    )
    assert shown.json["oauth_apps"]["my_crm"]["scopes"] == ["read"]
    kept = b"".join(path.read_bytes() for path in pdkernel.folder.rglob("*") if path.is_file())
    assert "s-0123456789" not in added.stdout + added.stderr + shown.stdout
    assert b"s-0123456789" not in kept
    with Project.open(pdkernel.folder / ".pdkernel") as project:
        provider = find_provider(project, "my_crm")
    assert provider is not None
    assert (provider.client_secret, provider.client_auth) == ("s-0123456789", "basic")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (OAUTH[:4], "OAuth 2 needs --oauth-authorize-url"),
        ((*OAUTH, "--field", "token"), "without --field"),
        (("--oauth-authorize-url", "http://crm.example.com", *OAUTH[2:]), "must begin with https://"),
        ((*OAUTH[:2], "--oauth-token-url", "crm", *OAUTH[4:]), "--oauth-token-url is not a URL"),
        ((), "The app my_crm has no credential fields."),
    ],
)
def test_a_wrong_provider_is_refused(pdkernel: Shell, words: tuple[str, ...], problem: str) -> None:
    """The error names the option."""
    ended = pdkernel("apps", "add", "my_crm", *words, stdin="s-0123456789\n")

    assert (ended.status, problem in ended.stderr) == (2, True)


def test_a_client_without_a_secret(pdkernel: Shell) -> None:
    """A public client is added without a question for a secret; an empty secret is an error."""
    public = pdkernel("apps", "add", "my_crm", *OAUTH, "--oauth-public")
    empty = pdkernel("apps", "add", "my_crm", *OAUTH)

    assert public.status == 0
    assert (empty.status, "secret is empty" in empty.stderr) == (2, True)


def test_an_app_with_a_provider_is_listed(pdkernel: Shell) -> None:
    """The list shows the fields of its accounts and the address of the sign-in."""
    pdkernel("apps", "add", "my_crm", *OAUTH, "--oauth-public")

    shown, listed = pdkernel("apps", "list"), pdkernel("apps", "list", "--json")

    assert shown.stdout == "my_crm  oauth_access_token (OAuth 2 at https://crm.example.com/authorize)\n"
    assert listed.json == [
        {"app": "my_crm", "fields": ["oauth_access_token"], "oauth_authorize_url": "https://crm.example.com/authorize"}
    ]


def test_apps_of_accounts_are_listed(pdkernel: Shell) -> None:
    """The list has registered apps and those of accounts, with the fields of their credentials."""
    pdkernel("apps", "add", "acme", "--field", "api_key", "--field", "subdomain")
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "depot", "--credential", "token=a")

    rows = {row["app"]: row["fields"] for row in pdkernel("apps", "list", "--json").json}

    assert (rows["acme"], rows["depot"]) == (["api_key", "subdomain"], ["token"])
    assert "acme  api_key, subdomain\n" in pdkernel("apps", "list").stdout


def test_the_webhooks_key(pdkernel: Shell) -> None:
    """The key of the webhooks is created once."""
    first, second = pdkernel("apps", "webhook-key", "--json"), pdkernel("apps", "webhook-key")

    assert first.json["signing_key"].startswith("whsec_")
    assert second.stdout.strip() == first.json["signing_key"]
