"""A project's source of actions, and the accepted licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.actions.source_settings import (
    ACCEPT_LICENCE_COMMAND,
    ActionSettings,
    EmptySettings,
    SourceSetting,
    build_licence_error,
    find_components_folder,
)
from pdkernel.errors import LicenceError, RequestError
from pdkernel.model import JSON


class Settings(dict[str, JSON]):
    """The settings of a project, in memory."""

    def set(self, name: str, value: JSON) -> None:
        """Store the setting."""
        self[name] = value


@pytest.fixture
def settings() -> Settings:
    """The settings of a new project."""
    return Settings()


def checkout(folder: Path, module: str = "slack/actions/send/send.mjs") -> Path:
    """A folder of components with one module."""
    (folder / module).parent.mkdir(parents=True)
    (folder / module).write_text("")
    return folder


def test_the_default_source(settings: Settings) -> None:
    """Without a setting, actions are built in; with a login they run at Pipedream; a setting has precedence."""
    read = ActionSettings(settings)
    found = [read.source_setting]
    settings["login"] = {"project": "proj_1"}
    found.append(read.source_setting)
    settings["actions"] = "builtin"
    found.append(read.source_setting)

    assert [str(each) for each in found] == ["builtin", "connect", "builtin"]
    assert ActionSettings(EmptySettings()).source_setting == SourceSetting()


def test_npm_requires_the_licence(settings: Settings, tmp_path: Path) -> None:
    """The source npm is refused until its licence is accepted; another licence does not count."""
    read = ActionSettings(settings)
    settings["actions_licence"] = "Another License 1.0"

    with pytest.raises(LicenceError, match="excludes commercial use") as caught:
        read.set_source("npm", base=tmp_path)

    assert caught.value.fix.endswith(ACCEPT_LICENCE_COMMAND)
    assert "actions" not in settings
    read.accept_licence()
    assert read.set_source("npm", base=tmp_path) == read.source_setting == SourceSetting("npm")
    assert str(build_licence_error("Why.")).startswith("Why. The components")


def test_a_missing_licence_concerns_npm_only(settings: Settings) -> None:
    """A workflow may choose npm in a project that did not accept the licence."""
    read = ActionSettings(settings)
    chosen = read.with_source(SourceSetting("npm"))

    assert [each.is_licence_missing for each in (read, chosen)] == [False, True]
    chosen.accept_licence()
    assert [read.is_licence_accepted, chosen.is_licence_missing] == [True, False]


def test_a_folder_is_stored_with_its_whole_path(settings: Settings, tmp_path: Path) -> None:
    """A relative path starts from the given folder, and is found from anywhere."""
    folder = checkout(tmp_path / "mine")

    setting = ActionSettings(settings).set_source("mine", base=tmp_path)

    assert (setting, str(setting)) == (SourceSetting("folder", folder), str(folder))
    assert settings["actions"] == str(folder)
    assert ActionSettings(settings).source_setting == setting


def test_the_workflow_overrides_the_project(settings: Settings) -> None:
    """The source of a workflow's `pdkernel.yaml` has precedence, and does not change the project."""
    settings["actions"] = "npm"
    override = SourceSetting("builtin")

    assert ActionSettings(settings, override).source_setting == override
    assert ActionSettings(settings).source_setting == SourceSetting("npm")


def test_a_word_that_is_not_a_source_is_refused(settings: Settings, tmp_path: Path) -> None:
    """A folder without components is not a source; nothing is stored."""
    (tmp_path / "empty").mkdir()

    for text in ("NPM", "empty", "gone"):
        with pytest.raises(RequestError, match="is not a folder with components"):
            ActionSettings(settings).set_source(text, base=tmp_path)
    assert not settings


@pytest.mark.parametrize("module", ["slack/actions/send/send.mjs", "slack/sources/new/new.mjs", "slack/slack.app.mjs"])
def test_the_folder_of_components(tmp_path: Path, module: str) -> None:
    """A checkout has its apps in `components`; a folder of apps is accepted too."""
    checkout(tmp_path / "repository" / "components", module)

    assert find_components_folder(tmp_path / "repository") == tmp_path / "repository" / "components"
    assert find_components_folder(tmp_path / "repository" / "components") == tmp_path / "repository" / "components"
    assert find_components_folder(tmp_path) is None
