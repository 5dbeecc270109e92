"""`pdkernel apps` with OAuth 2."""

from __future__ import annotations

import pytest

from pdkernel.accounts.oauth_providers import find_provider
from pdkernel.storage import Project
from tests.cli.conftest import Shell

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
