"""`%pduser --matrix` and `%pduser --what-if`: previews without a choice or a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.magics.conftest import Notebook

STEP = "%%pdstep say --app slack\ndef handler(pd):\n    raise ValueError('it ran')\n"


def connect(notebook: Notebook, user: str) -> None:
    """Connect a slack account."""
    notebook.session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "a-token-of-a-test"}, external_user_id=user
    )


def test_the_matrix_shows_every_user_and_step(notebook: Notebook) -> None:
    """The matrix has users as rows and steps as columns; no step runs and no user is chosen."""
    connect(notebook, "ada")
    notebook.run(STEP)

    said = notebook.run("%pduser --matrix")

    assert "1 of 1 external user can run it. No code was run." in said
    assert ["ada", "ready", "ready"] in [line.split() for line in said.splitlines()]
    assert notebook.session.external_user_id is None
    assert notebook.session.last_execution is None


def test_the_matrix_shows_the_test_users_beside_the_notebook(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Test users in `NAME.pdkernel.yaml` have a row before they have an account."""
    monkeypatch.setenv("PDKERNEL_NOTEBOOK", str(tmp_path / "work.ipynb"))
    (tmp_path / "work.pdkernel.yaml").write_text("test_users: [grace]\n")
    connect(notebook, "ada")
    notebook.run(STEP)

    said = notebook.run("%pduser --matrix")

    assert "1 of 2 external users can run it" in said
    first = [line.split()[0] for line in said.splitlines() if line.split()]
    assert [word for word in first if word in ("ada", "grace")][:2] == ["grace", "ada"]


def test_what_if_explains_another_user_and_environment(notebook: Notebook) -> None:
    """The lookup for another user is shown, and the choice does not change."""
    connect(notebook, "ada")
    notebook.run(STEP)
    notebook.run("%pduser ada")

    said = notebook.run("%pduser ada --environment production --what-if")

    assert "✗ external user  ada does not exist in production" in said
    assert "'ada' exists in development" in said
    assert (notebook.session.external_user_id, notebook.session.environment) == ("ada", "development")
    assert notebook.session.last_execution is None


def test_what_if_without_accounts(notebook: Notebook) -> None:
    """A workflow without external users' accounts is shown to run for every user."""
    notebook.run("%%pdstep one --no-run\ndef handler(pd):\n    return 1\n")

    assert "No step uses an external user's account" in notebook.run("%pduser --what-if")
