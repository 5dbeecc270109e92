"""`pdkernel users`, `accounts` and `apps`."""

from __future__ import annotations

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


def test_the_value_of_a_credential(pdkernel: Shell) -> None:
    """`KEY=@FILE` reads the file, `KEY=-` standard input, and each bare KEY a line of it; no output has the values."""
    pdkernel.write("token.txt", f"{TOKEN}\n")
    add(
        pdkernel, "--own", "--app", "slack", "--id", "apn_1", "--credential", "oauth_access_token=@token.txt",
        "--credential", "key=-", stdin="two\nlines\n",
    )  # fmt: skip
    add(
        pdkernel,
        "--own",
        "--app",
        "db",
        "--id",
        "apn_2",
        "--credential",
        "user",
        "--credential",
        "word",
        stdin="me\nx\n",
    )
    shown = [pdkernel("accounts", "show", "apn_1"), pdkernel("accounts", "list", "--own", "--json")]

    with Project.open(pdkernel.folder / ".pdkernel") as project:
        kept = [project.accounts.credentials(account) for account in ("apn_1", "apn_2")]
    assert kept == [{"oauth_access_token": TOKEN, "key": "two\nlines"}, {"user": "me", "word": "x"}]
    assert all(TOKEN not in ended.stdout for ended in shown)
    assert {tuple(each["fields"]) for each in shown[1].json} == {("oauth_access_token", "key"), ("user", "word")}


def test_an_account_that_cannot_be_added(pdkernel: Shell) -> None:
    """An account needs exactly one valid owner, checked before its credential is read, an id of its own, and text."""
    (pdkernel.folder / "token.bin").write_bytes(b"\xff\xfe")
    missing = "The owner of the account is missing"
    add(pdkernel, "--own", "--app", "slack", "--id", "apn_1", "--credential", "oauth_access_token=-")
    for args, words in (
        (["--credential", "k=v"], missing),
        (["--own", "--external-user", "ada", "--credential", "k=v"], missing),
        (["--external-user", " ", "--credential", "key=@gone"], "cannot be blank"),
        (["--own", "--id", "apn_1", "--credential", "k=v"], "apn_1"),
        (["--own", "--credential", "bot_token=@token.bin"], "from token.bin: the file is not UTF-8 text"),
    ):
        ended = pdkernel("accounts", "add", "--app", "slack", *args)

        assert (ended.status, words in ended.stderr) == (2, True), ended.stderr
    assert pdkernel("accounts", "remove", "apn_1", "--yes").status == 0
    assert pdkernel("accounts", "remove", "apn_1").status == 2


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


def test_a_wrong_provider_is_refused(pdkernel: Shell) -> None:
    """The error names the option."""
    for words, problem in (
        (OAUTH[:4], "OAuth 2 needs --oauth-authorize-url"),
        ((*OAUTH, "--field", "token"), "without --field"),
        (("--oauth-authorize-url", "http://crm.example.com", *OAUTH[2:]), "must begin with https://"),
        ((*OAUTH[:2], "--oauth-token-url", "crm", *OAUTH[4:]), "--oauth-token-url is not a URL"),
        ((), "The app my_crm has no credential fields."),
    ):
        ended = pdkernel("apps", "add", "my_crm", *words, stdin="s-0123456789\n")

        assert (ended.status, problem in ended.stderr) == (2, True), problem


def test_a_client_without_a_secret(pdkernel: Shell) -> None:
    """A public client is added without a question for a secret, and listed with its sign-in; an empty secret is an error."""
    public = pdkernel("apps", "add", "my_crm", *OAUTH, "--oauth-public")
    empty = pdkernel("apps", "add", "my_crm", *OAUTH)
    shown, listed = pdkernel("apps", "list"), pdkernel("apps", "list", "--json")

    assert public.status == 0
    assert (empty.status, "secret is empty" in empty.stderr) == (2, True)
    assert shown.stdout == f"my_crm  oauth_access_token (OAuth 2 at {OAUTH[1]})\n"
    assert listed.json == [{"app": "my_crm", "fields": ["oauth_access_token"], "oauth_authorize_url": OAUTH[1]}]


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
