"""
What a project has chosen about actions: where they run, and whose licence was accepted.

Knows the setting's words. Kept in the project's settings; nothing here looks at components.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from pdkernel.errors import LicenceError, RequestError
from pdkernel.model import JSON

SourceName = Literal["builtin", "npm", "folder", "connect"]

SOURCE_SETTING_KEY = "actions"
LOGIN_SETTING_KEY = "login"
"""The setting of a project that is logged in at Pipedream: there actions run unless something else was chosen."""
LICENCE_SETTING_KEY = "actions_licence"
LICENCE_NAME = "Pipedream Source Available License 1.0"
ACCEPT_LICENCE_COMMAND = "pdkernel project set actions npm --accept-licence"
LICENCE_TEXT = (
    f"The components that npm has under @pipedream are third-party code under the {LICENCE_NAME}, which excludes "
    "commercial use. pdkernel does not hold them: npm installs them into this project's .pdkernel folder."
)


class SettingsStore(Protocol):
    """A project's settings by name (`project.SettingsTable`)."""

    def get(self, name: str, default: JSON = None) -> JSON:
        """The setting, or *default*."""
        ...

    def set(self, name: str, value: JSON) -> None:
        """Store it."""
        ...


class EmptySettings:
    """The settings where there is no project yet; what is set is forgotten."""

    def get(self, name: str, default: JSON = None) -> JSON:  # noqa: ARG002
        """Always *default*."""
        return default

    def set(self, name: str, value: JSON) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class SourceSetting:
    """Where actions run that are not built in."""

    source: SourceName = "builtin"
    folder: Path | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.folder is not None else self.source


class ActionSettings:
    """
    The choices of one project; read anew each time, since another process may have changed them.

    Args:
        settings: The project's settings.
        source_override: Where actions run whatever the project has chosen: what a workflow's own `pdkernel.yaml` says.
    """

    def __init__(self, settings: SettingsStore, source_override: SourceSetting | None = None) -> None:
        self._settings = settings
        self._here = source_override

    @property
    def source_setting(self) -> SourceSetting:
        """Where actions run that are not built in."""
        if self._here is not None:
            return self._here
        text = self._settings.get(SOURCE_SETTING_KEY)
        if text in ("builtin", "npm", "connect"):
            return SourceSetting(cast("SourceName", text))
        if isinstance(text, str):
            return SourceSetting("folder", Path(text))
        return SourceSetting("connect") if self._settings.get(LOGIN_SETTING_KEY) is not None else SourceSetting()

    @property
    def is_licence_accepted(self) -> bool:
        """Whether someone has accepted the licence of the components on npm."""
        return self._settings.get(LICENCE_SETTING_KEY) == LICENCE_NAME

    @property
    def is_licence_missing(self) -> bool:
        """Whether actions run from npm here, and nobody has accepted the licence of what is there."""
        return self.source_setting.source == "npm" and not self.is_licence_accepted

    def accept_licence(self) -> None:
        """Record that the licence of the components on npm is accepted."""
        self._settings.set(LICENCE_SETTING_KEY, LICENCE_NAME)

    def set_source(self, text: str, *, base: Path) -> SourceSetting:
        """
        Set where actions run.

        Args:
            text: `builtin`, `npm`, `connect`, or a folder.
            base: What a folder is relative to.

        Raises:
            LicenceError: `npm`, and its licence is not accepted.
            RequestError: Neither a word nor a folder with components.
        """
        where = self.parse_source(text, base=base)
        if where.source == "npm" and not self.is_licence_accepted:
            raise build_licence_error()
        self._settings.set(SOURCE_SETTING_KEY, str(where))
        return where

    def parse_source(self, text: str, *, base: Path) -> SourceSetting:
        """What *text* means, whatever licence was accepted. Raises `RequestError` as `choose`, which stores it."""
        if text in ("builtin", "npm", "connect"):
            return SourceSetting(cast("SourceName", text))
        folder = (base / text).resolve()
        if find_components_folder(folder) is None:
            raise RequestError(
                f"{text!r} is none of builtin, npm and connect, nor a folder with components "
                "(components/APP/actions/NAME/NAME.mjs, components/APP/sources/NAME/NAME.mjs).",
                fix="Give one of these words, or the folder of a components checkout.",
            )
        return SourceSetting("folder", folder)

    def with_source(self, where: SourceSetting) -> ActionSettings:
        """The same choices, with actions running at *where*."""
        return ActionSettings(self._settings, where)


def build_licence_error(reason: str = "") -> LicenceError:
    """What to tell who needs components on npm before their licence is accepted; *reason* needs them, as a sentence."""
    return LicenceError(f"{reason} {LICENCE_TEXT}".lstrip(), fix=f"To accept it: {ACCEPT_LICENCE_COMMAND}")


def find_components_folder(folder: Path) -> Path | None:
    """The folder that holds a folder for each app: *folder* itself or its `components`; None if neither does."""
    for place in (folder / "components", folder):
        if any(next(place.glob(f"*/{kind}"), None) for kind in ("actions/*/*.mjs", "sources/*/*.mjs", "*.app.mjs")):
            return place
    return None
