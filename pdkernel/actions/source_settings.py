"""A project's settings for actions: their source, and the accepted licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from pdkernel.errors import LicenceError, RequestError
from pdkernel.model import JSON

SourceName = Literal["builtin", "npm", "folder", "connect"]

SOURCE_SETTING_KEY = "actions"
LOGIN_SETTING_KEY = "login"
"""The setting of a login at Pipedream: with a login, actions run at Pipedream unless another source is set."""
LICENCE_SETTING_KEY = "actions_licence"
LICENCE_NAME = "Pipedream Source Available License 1.0"
ACCEPT_LICENCE_COMMAND = "pdkernel project set actions npm --accept-licence"
LICENCE_TEXT = (
    f"The components that npm has under @pipedream are third-party code under the {LICENCE_NAME}, which excludes "
    "commercial use. pdkernel does not contain them: npm installs them into this project's .pdkernel folder."
)


class SettingsStore(Protocol):
    """A project's settings by name (`project.SettingsTable`)."""

    def get(self, name: str, default: JSON = None) -> JSON:
        """The setting, or *default*."""
        ...

    def set(self, name: str, value: JSON) -> None:
        """Store the setting."""
        ...


class EmptySettings:
    """The settings of a folder without a project: always empty."""

    def get(self, name: str, default: JSON = None) -> JSON:  # noqa: ARG002
        """Return *default*."""
        return default

    def set(self, name: str, value: JSON) -> None:
        """Discard *value*."""


@dataclass(frozen=True)
class SourceSetting:
    """The source of actions that are not built in; *folder* is set for the source `folder`."""

    source: SourceName = "builtin"
    folder: Path | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.folder is not None else self.source


class ActionSettings:
    """
    The action settings of one project. Every access reads the store, because another process may have changed a setting.

    Args:
        settings: The project's settings.
        source_override: The source from a workflow's `pdkernel.yaml`, which overrides the project's setting.
    """

    def __init__(self, settings: SettingsStore, source_override: SourceSetting | None = None) -> None:
        self._settings = settings
        self._source_override = source_override

    @property
    def source_setting(self) -> SourceSetting:
        """The source of actions that are not built in."""
        if self._source_override is not None:
            return self._source_override
        text = self._settings.get(SOURCE_SETTING_KEY)
        if text in ("builtin", "npm", "connect"):
            return SourceSetting(cast("SourceName", text))
        if isinstance(text, str):
            return SourceSetting("folder", Path(text))
        return SourceSetting("connect") if self._settings.get(LOGIN_SETTING_KEY) is not None else SourceSetting()

    @property
    def is_licence_accepted(self) -> bool:
        """Whether the licence of the components on npm is accepted."""
        return self._settings.get(LICENCE_SETTING_KEY) == LICENCE_NAME

    @property
    def is_licence_missing(self) -> bool:
        """Whether the source is npm and its licence is not accepted."""
        return self.source_setting.source == "npm" and not self.is_licence_accepted

    def accept_licence(self) -> None:
        """Record that the licence of the components on npm is accepted."""
        self._settings.set(LICENCE_SETTING_KEY, LICENCE_NAME)

    def set_source(self, text: str, *, base: Path) -> SourceSetting:
        """
        Set the source of actions.

        Args:
            text: `builtin`, `npm`, `connect`, or a folder.
            base: The folder that a relative path starts from.

        Raises:
            LicenceError: *text* is `npm`, and its licence is not accepted.
            RequestError: *text* is not the name of a source or a folder with components.
        """
        setting = self.parse_source(text, base=base)
        if setting.source == "npm" and not self.is_licence_accepted:
            raise build_licence_error()
        self._settings.set(SOURCE_SETTING_KEY, str(setting))
        return setting

    def parse_source(self, text: str, *, base: Path) -> SourceSetting:
        """The source that *text* names; the licence is not checked. Raises `RequestError` as `set_source` does."""
        if text in ("builtin", "npm", "connect"):
            return SourceSetting(cast("SourceName", text))
        folder = (base / text).resolve()
        if find_components_folder(folder) is None:
            raise RequestError(
                f"{text!r} is not builtin, npm or connect, and is not a folder with components "
                "(components/APP/actions/NAME/NAME.mjs, components/APP/sources/NAME/NAME.mjs).",
                fix="Pass builtin, npm, connect, or the folder of a components checkout.",
            )
        return SourceSetting("folder", folder)

    def with_source(self, setting: SourceSetting) -> ActionSettings:
        """These settings with *setting* as the source."""
        return ActionSettings(self._settings, setting)


def build_licence_error(reason: str = "") -> LicenceError:
    """The error for components on npm whose licence is not accepted; *reason* is put before the explanation."""
    return LicenceError(f"{reason} {LICENCE_TEXT}".lstrip(), fix=f"To accept the licence: {ACCEPT_LICENCE_COMMAND}")


def find_components_folder(folder: Path) -> Path | None:
    """The folder that contains a folder for each app: `components` in *folder*, or *folder*; None if neither does."""
    for candidate in (folder / "components", folder):
        if any(next(candidate.glob(f"*/{kind}"), None) for kind in ("actions/*/*.mjs", "sources/*/*.mjs", "*.app.mjs")):
            return candidate
    return None
