"""The login at Pipedream: where its values come from, and where a secret may be sent."""

from __future__ import annotations

from collections.abc import Iterator

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring
from keyring.errors import KeyringLocked, PasswordSetError

from pdkernel.common.identity import PIPEDREAM_API_URL
from pdkernel.errors import ConnectSettingsError, RequestError
from pdkernel.storage import Project
from pdkernel.storage.login import Login, check_base_url, read_environment, read_setting

CLIENT = {"PDKERNEL_PROJECT_ID": "proj_1", "PDKERNEL_CLIENT_ID": "id", "PDKERNEL_CLIENT_SECRET": "secret"}


@pytest.fixture(autouse=True)
def no_keyring() -> Iterator[None]:
    """A machine without a keyring: a test does not use that of the person who runs it."""
    own = keyring.get_keyring()
    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]  # the library has no types for it
    yield
    keyring.set_keyring(own)


def use_memory_keyring(usable: bool, longest: int = 1000) -> dict[str, str]:
    """
    Use a keyring that holds its passwords in the returned dictionary.

    One that is not *usable* is not meant for secrets. Passwords of more than *longest* characters are refused.
    """
    passwords: dict[str, str] = {}

    class MemoryKeyring(KeyringBackend):
        priority = 1 if usable else 0

        def set_password(self, service: str, username: str, password: str) -> None:
            if len(password) > longest:
                raise PasswordSetError
            passwords[username] = password

        def get_password(self, service: str, username: str) -> str | None:
            return passwords.get(username)

        def delete_password(self, service: str, username: str) -> None:
            del passwords[username]

    keyring.set_keyring(MemoryKeyring())  # type: ignore[no-untyped-call]  # as above
    return passwords


def test_our_variable_wins() -> None:
    """`PDKERNEL_NAME` wins over `PIPEDREAM_NAME`, unless it is empty."""
    both = {"PDKERNEL_CLIENT_ID": "ours", "PIPEDREAM_CLIENT_ID": "theirs"}

    assert read_setting(both, "CLIENT_ID") == "ours"
    assert read_setting({**both, "PDKERNEL_CLIENT_ID": ""}, "CLIENT_ID") == "theirs"
    assert read_setting({"PIPEDREAM_CLIENT_ID": ""}, "CLIENT_ID") is None


@pytest.mark.parametrize(
    ("environ", "environment"),
    [
        ({}, "development"),
        ({"PIPEDREAM_PROJECT_ENVIRONMENT": "production"}, "production"),
        ({"PDKERNEL_ENVIRONMENT": "production"}, "production"),
        ({"PDKERNEL_ENVIRONMENT": "production", "PIPEDREAM_PROJECT_ENVIRONMENT": "development"}, "development"),
    ],
)
def test_the_environment_of_a_login(environ: dict[str, str], environment: str) -> None:
    """The project's environment wins over the plain one; the default is development."""
    assert read_environment(environ) == environment


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "https://user@api.example.com",
        "https://api.example.com/?a=1",
        "https://api.example.com/#a",
        "ftp://localhost",
        "https://",
        "http://[::1",
        "api.example.com",
    ],
)
def test_a_secret_is_not_sent_there(url: str) -> None:
    """A URL that is not encrypted, or that holds more than a place, is refused."""
    with pytest.raises(RequestError):
        check_base_url(url)


@pytest.mark.parametrize(
    "url", ["https://api.example.com/v1", "http://localhost:8080", "http://127.0.0.1", "http://[::1]:1"]
)
def test_a_secret_may_be_sent_there(url: str) -> None:
    """An https URL and this machine are accepted; slashes at the end are removed."""
    assert check_base_url(url) == check_base_url(f"{url}//") == url


def test_the_environments_login_needs_all_three_values(sqlite_project: Project) -> None:
    """Project, client and secret together win over the stored login; two of the three do not count."""
    login = sqlite_project.login
    assert login.load({}) is None
    where = login.save(Login("stored", "stored-secret", "proj_2", "production", "https://api.example.com"))
    assert where == "project"
    stored = login.load({})

    assert stored == Login("stored", "stored-secret", "proj_2", "production", "https://api.example.com")
    assert login.load(CLIENT) == Login("id", "secret", "proj_1", "development", PIPEDREAM_API_URL)
    production = {**CLIENT, "PDKERNEL_ENVIRONMENT": "production"}
    assert login.load(production) == Login("id", "secret", "proj_1", "production", PIPEDREAM_API_URL)
    for name in CLIENT:
        assert login.load({**CLIENT, name: ""}) == stored
    theirs = {**CLIENT, "PDKERNEL_PROJECT_ID": "", "PIPEDREAM_PROJECT_ID": "proj_1"}
    assert login.load(theirs) == stored


@pytest.mark.parametrize("variable", ["PDKERNEL_BASE_URL", "PIPEDREAM_BASE_URL"])
def test_the_url_of_the_environments_login_is_checked(sqlite_project: Project, variable: str) -> None:
    """The URL in the environment is that of the login; a URL that would send the secret without encryption is refused."""
    found = sqlite_project.login.load({**CLIENT, variable: "https://api.example.com/"})

    assert found is not None
    assert found.base_url == "https://api.example.com"
    with pytest.raises(RequestError, match="without encryption"):
        sqlite_project.login.load({**CLIENT, variable: "http://api.example.com"})


def test_a_secret_in_the_keyring_goes_with_its_login(sqlite_project: Project) -> None:
    """The secret is in the keyring and nowhere else; the removal of the login removes it there."""
    passwords, table, login = use_memory_keyring(usable=True), sqlite_project.login, Login("a", "b", "proj_1")

    assert table.save(login) == "keyring"
    assert (list(passwords.values()), table.load({})) == (["b"], login)
    assert "secret" not in str(sqlite_project.settings.all_settings())
    assert table.remove()
    assert (passwords, table.load({})) == ({}, None)


def test_a_keyring_that_is_missing_or_lost(sqlite_project: Project) -> None:
    """A secret that is not in the keyring any more is an error, and a keyring that is not meant for secrets is not used."""
    table, login = sqlite_project.login, Login("a", "b", "proj_1")
    passwords = use_memory_keyring(usable=True)
    table.save(login)
    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]  # as above
    with pytest.raises(ConnectSettingsError, match="keyring any more"):
        table.load({})

    unusable = use_memory_keyring(usable=False)
    assert (table.save(login), table.load({}), unusable) == ("project", login, {})
    assert list(passwords.values()) == ["b"]


def test_a_keyring_that_fails_is_not_used(sqlite_project: Project) -> None:
    """A keyring that is locked is a missing one: the secret is encrypted in the project."""

    class LockedKeyring(KeyringBackend):
        priority = 1

        def set_password(self, service: str, username: str, password: str) -> None:
            raise KeyringLocked

        get_password = delete_password = set_password  # type: ignore[assignment]  # all of them fail

    keyring.set_keyring(LockedKeyring())  # type: ignore[no-untyped-call]  # as above
    table, login = sqlite_project.login, Login("a", "client-secret", "proj_1")

    assert (table.save(login), table.load({})) == ("project", login)
    assert "client-secret" not in str(sqlite_project.settings.all_settings())


def test_a_secret_that_the_keyring_refuses_replaces_the_last_one(sqlite_project: Project) -> None:
    """If the keyring refuses the secret of the next login, that secret is in the project, and the last one has left the keyring."""
    passwords = use_memory_keyring(usable=True, longest=8)
    table, second = sqlite_project.login, Login("a", "longer-than-8", "proj_1")

    places = [table.save(Login("a", "short", "proj_1")), table.save(second)]

    assert places == ["keyring", "project"]
    assert (passwords, table.load({})) == ({}, second)


def test_a_login_is_removed_once(sqlite_project: Project) -> None:
    """`remove` returns whether there was a login."""
    sqlite_project.login.save(Login("a", "b", "proj_1"))

    assert (sqlite_project.login.remove(), sqlite_project.login.remove()) == (True, False)
    assert sqlite_project.login.load({}) is None
