"""The local project, found by its folder or by settings."""

from __future__ import annotations

from pathlib import Path

from pdkernel.operations.projects import open_project


def test_the_nearest_project_is_opened(tmp_path: Path) -> None:
    """The search begins in the start folder and goes up; a project is created if there is none."""
    (tmp_path / "below").mkdir()
    with open_project(tmp_path, {}) as created, open_project(tmp_path / "below", {}) as found:
        assert created.is_new
        assert (found.folder, found.is_new) == (tmp_path / ".pdkernel", False)


def test_a_named_folder_wins_over_the_variable(tmp_path: Path) -> None:
    """The argument wins over PDKERNEL_PROJECT, and either names the `.pdkernel` folder or its parent."""
    environ = {"PDKERNEL_PROJECT": str(tmp_path / "variable" / ".pdkernel")}

    with open_project(tmp_path, environ) as by_variable:
        assert by_variable.folder == tmp_path / "variable" / ".pdkernel"
    with open_project(tmp_path, environ, folder=str(tmp_path / "argument")) as by_argument:
        assert by_argument.folder == tmp_path / "argument" / ".pdkernel"


def test_database_and_key_are_settings(tmp_path: Path) -> None:
    """PDKERNEL_DATABASE and PDKERNEL_KEY_FILE name the database and the key; an argument wins."""
    environ = {
        "PDKERNEL_DATABASE": f"sqlite:///{tmp_path / 'variable.db'}",
        "PDKERNEL_KEY_FILE": str(tmp_path / "keys" / "key"),
    }
    (tmp_path / "keys").mkdir()

    with open_project(tmp_path, environ) as project:
        assert project.sqlite_path == tmp_path / "variable.db"
    with open_project(tmp_path, environ, database_url=f"sqlite:///{tmp_path / 'argument.db'}") as project:
        assert project.sqlite_path == tmp_path / "argument.db"
    assert (tmp_path / "keys" / "key").is_file()
