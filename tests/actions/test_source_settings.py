"""A project's source of actions, and the accepted licence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.actions.source_settings import (
    ACCEPT_LICENCE_COMMAND,
    ActionSettings,
    EmptySettings,
    SourceSetting,
    build_licence_error,
    find_components_folder,
    format_sources,
)
from pdkernel.errors import LicenceError, RequestError
from pdkernel.storage import Project
from pdkernel.storage.settings import SettingsTable


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[SettingsTable]:
    """The settings of a new project."""
    with Project.open(tmp_path / ".pdkernel") as project:
        yield project.settings


def checkout(folder: Path, module: str = "slack/actions/send/send.mjs") -> Path:
    """A folder of components with one module."""
    (folder / module).parent.mkdir(parents=True)
    (folder / module).write_text("")
    return folder


def test_the_default_source(settings: SettingsTable) -> None:
    """Without a setting, actions are built in; with a login they run at Pipedream; a setting has precedence."""
    read = ActionSettings(settings)
    found = [format_sources(read.sources)]
    settings.set("login", {"project": "proj_1"})
    found.append(format_sources(read.sources))
    settings.set("actions", "builtin")
    found.append(format_sources(read.sources))

    assert found == ["builtin", "connect", "builtin"]
    assert ActionSettings(EmptySettings()).sources == ()


def test_npm_requires_the_licence(settings: SettingsTable, tmp_path: Path) -> None:
    """The source npm is refused until its licence is accepted; another licence does not count."""
    read = ActionSettings(settings)
    settings.set("actions_licence", "Another License 1.0")

    with pytest.raises(LicenceError, match="excludes commercial use") as caught:
        read.set_sources(["npm"], base=tmp_path)

    assert caught.value.fix.endswith(ACCEPT_LICENCE_COMMAND)
    assert settings.get("actions") is None
    read.accept_licence()
    assert read.set_sources(["npm"], base=tmp_path) == read.sources == (SourceSetting("npm"),)
    assert str(build_licence_error("Why.")).startswith("Why. The components")


def test_a_missing_licence_concerns_npm_only(settings: SettingsTable) -> None:
    """A workflow may choose npm in a project that did not accept the licence."""
    read = ActionSettings(settings)
    chosen = read.with_sources((SourceSetting("npm"),))

    assert [each.is_licence_missing for each in (read, chosen)] == [False, True]
    chosen.accept_licence()
    assert [read.is_licence_accepted, chosen.is_licence_missing] == [True, False]


def test_a_folder_is_stored_with_its_whole_path(settings: SettingsTable, tmp_path: Path) -> None:
    """A relative path starts from the given folder, and is found from anywhere."""
    folder = checkout(tmp_path / "mine")

    (setting,) = ActionSettings(settings).set_sources(["mine"], base=tmp_path)

    assert (setting, str(setting)) == (SourceSetting("folder", folder), str(folder))
    assert settings.get("actions") == str(folder)
    assert ActionSettings(settings).sources == (setting,)


def test_several_sources_are_stored_in_their_order(settings: SettingsTable, tmp_path: Path) -> None:
    """A repeated source counts once, and the built-in actions are not a source beside others."""
    chosen = ActionSettings(settings)
    chosen.accept_licence()

    chosen.set_sources(["npm", "builtin", "connect", "npm"], base=tmp_path)
    several = (settings.get("actions"), chosen.sources)
    chosen.set_sources(["connect", "connect"], base=tmp_path)

    assert several == (["npm", "connect"], (SourceSetting("npm"), SourceSetting("connect")))
    assert (settings.get("actions"), chosen.sources) == ("connect", (SourceSetting("connect"),))


def test_the_workflow_overrides_the_project(settings: SettingsTable) -> None:
    """The source of a workflow's `pdkernel.yaml` has precedence, and does not change the project."""
    settings.set("actions", "npm")

    assert ActionSettings(settings, ()).sources == ()
    assert ActionSettings(settings).sources == (SourceSetting("npm"),)


def test_a_word_that_is_not_a_source_is_refused(settings: SettingsTable, tmp_path: Path) -> None:
    """A folder without components is not a source; nothing is stored."""
    (tmp_path / "empty").mkdir()

    for text in ("NPM", "empty", "gone"):
        with pytest.raises(RequestError, match="is not a folder with components"):
            ActionSettings(settings).set_sources([text], base=tmp_path)
    assert settings.get("actions") is None


@pytest.mark.parametrize("module", ["slack/actions/send/send.mjs", "slack/sources/new/new.mjs", "slack/slack.app.mjs"])
def test_the_folder_of_components(tmp_path: Path, module: str) -> None:
    """A checkout has its apps in `components`; a folder of apps is accepted too."""
    checkout(tmp_path / "repository" / "components", module)

    assert find_components_folder(tmp_path / "repository") == tmp_path / "repository" / "components"
    assert find_components_folder(tmp_path / "repository" / "components") == tmp_path / "repository" / "components"
    assert find_components_folder(tmp_path) is None
