"""No secret is in a file or a repr."""

from __future__ import annotations

from pdkernel.accounts import LocalDirectory
from pdkernel.execution import StoredResponse
from pdkernel.storage import Project

SECRET = "xoxb-planted-4711-secret"


def test_no_secret_is_in_the_projects_files(sqlite_project: Project) -> None:
    """No file contains credentials, variables, notebook states or answers as text; an account's name is readable."""
    LocalDirectory(sqlite_project).add_account(
        app="slack", credentials={"oauth_access_token": SECRET}, external_user_id="ada", name="plain-to-see"
    )
    sqlite_project.variables.set("TOKEN", SECRET)
    sqlite_project.notebook_states.save("notebook", {"exports": {"a": SECRET}})
    sqlite_project.idempotency.add(
        "key", StoredResponse(200, "", (("x", SECRET),), SECRET.encode(), "2026-01-01T00:00:00.000Z")
    )

    stored = b"".join(path.read_bytes() for path in sqlite_project.folder.iterdir())

    assert b"plain-to-see" in stored
    assert SECRET.encode() not in stored
    assert SECRET[:12].encode() not in stored


def test_no_repr_shows_a_secret(sqlite_project: Project) -> None:
    """No repr shows a secret value or the key."""
    directory = LocalDirectory(sqlite_project)
    account = directory.add_account(app="slack", credentials={"token": SECRET}, external_user_id=None)
    answer = StoredResponse(200, "OK", (("authorization", SECRET),), SECRET.encode(), "2026-01-01T00:00:00.000Z")

    shown = [
        sqlite_project,
        directory,
        sqlite_project.accounts,
        sqlite_project.variables,
        account,
        directory.credentials(account.id),
        answer,
    ]

    assert SECRET not in repr(
        [
            *shown,
            sqlite_project.sqlalchemy_engine,
            sqlite_project.notebook_states,
            sqlite_project.idempotency,
            vars(sqlite_project),
        ]
    )
    assert repr(directory.credentials(account.id)) == "Credentials(token)"
    assert repr(sqlite_project) == f"Project(proj_0000001, {sqlite_project.folder}/project.db)"
