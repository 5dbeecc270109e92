"""A project's settings for actions: their sources, and the accepted licence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from pdkernel.errors import LicenceError, RequestError
from pdkernel.model import JSON

SourceName = Literal["npm", "folder", "connect"]
BUILTIN_SOURCE_NAME = "builtin"
"""The setting of a project that runs built-in actions only."""

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
        """Return the setting, or *default*."""
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
    """One source of actions that are not built in; *folder* is set for the source `folder`."""

    source: SourceName
    folder: Path | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.folder is not None else self.source

    @property
    def label(self) -> str:
        """The source in a sentence."""
        if self.folder is not None:
            return f"the folder {self.folder.name}"
        return "npm" if self.source == "npm" else "Pipedream Connect"


class ActionSettings:
    """
    The action settings of one project. Every access reads the store, because another process may have changed a setting.

    Args:
        settings: The project's settings.
        override: The sources from a workflow's `pdkernel.yaml`, which replace those of the project.
    """

    def __init__(self, settings: SettingsStore, override: tuple[SourceSetting, ...] | None = None) -> None:
        self._settings = settings
        self._override = override

    @property
    def sources(self) -> tuple[SourceSetting, ...]:
        """The sources of actions that are not built in, in the order in which an action is looked up."""
        if self._override is not None:
            return self._override
        stored = self._settings.get(SOURCE_SETTING_KEY)
        texts = stored if isinstance(stored, list) else [stored] if isinstance(stored, str) else None
        if texts is None:
            return (SourceSetting("connect"),) if self._settings.get(LOGIN_SETTING_KEY) is not None else ()
        return tuple(
            _parse_name(text) or SourceSetting("folder", Path(text))
            for text in map(str, texts)
            if not _is_builtin(text)
        )

    def has_source(self, name: SourceName) -> bool:
        """Return whether *name* is one of the sources."""
        return any(each.source == name for each in self.sources)

    @property
    def is_licence_accepted(self) -> bool:
        """Whether the licence of the components on npm is accepted."""
        return self._settings.get(LICENCE_SETTING_KEY) == LICENCE_NAME

    @property
    def is_licence_missing(self) -> bool:
        """Whether npm is a source and its licence is not accepted."""
        return self.has_source("npm") and not self.is_licence_accepted

    def accept_licence(self) -> None:
        """Record that the licence of the components on npm is accepted."""
        self._settings.set(LICENCE_SETTING_KEY, LICENCE_NAME)

    def set_sources(self, texts: Sequence[str], *, base: Path) -> tuple[SourceSetting, ...]:
        """
        Set the sources of actions, in the order in which an action is looked up.

        Args:
            texts: `builtin`, `npm`, `connect`, or folders.
            base: The folder that a relative path starts from.

        Raises:
            LicenceError: A text is `npm`, and its licence is not accepted.
            RequestError: A text is not the name of a source or a folder with components.
        """
        sources = self.parse_sources(texts, base=base)
        if any(each.source == "npm" for each in sources) and not self.is_licence_accepted:
            raise build_licence_error()
        names: list[JSON] = [str(each) for each in sources]
        self._settings.set(SOURCE_SETTING_KEY, names if len(names) > 1 else format_sources(sources))
        return sources

    def parse_sources(self, texts: Sequence[str], *, base: Path) -> tuple[SourceSetting, ...]:
        """Return the sources that *texts* name; the licence is not checked. Raises `RequestError` as `set_sources` does."""
        found = []
        for text in texts:
            folder = (base / text).resolve()
            setting = _parse_name(text)
            if setting is None and not _is_builtin(text) and find_components_folder(folder) is None:
                raise RequestError(
                    f"{text!r} is not builtin, npm or connect, and is not a folder with components "
                    "(components/APP/actions/NAME/NAME.mjs, components/APP/sources/NAME/NAME.mjs).",
                    fix="Pass builtin, npm, connect, or the folder of a components checkout.",
                )
            if not _is_builtin(text):
                found.append(setting or SourceSetting("folder", folder))
        return tuple(dict.fromkeys(found))

    def with_sources(self, sources: tuple[SourceSetting, ...]) -> ActionSettings:
        """These settings with *sources* instead of the project's sources."""
        return ActionSettings(self._settings, sources)


def format_sources(sources: Sequence[SourceSetting]) -> str:
    """Return the sources as a person writes them, in their order; `builtin` if there is none."""
    return ", ".join(map(str, sources)) or BUILTIN_SOURCE_NAME


def format_tried_sources(sources: Sequence[SourceSetting]) -> str:
    """Return a sentence that names the sources in which an action was looked up."""
    return f"Sources that were tried, in this order: {', '.join(each.label for each in sources)}."


def is_source_name(text: str) -> bool:
    """Return whether *text* is the name of a source, not a folder."""
    return _is_builtin(text) or _parse_name(text) is not None


def _is_builtin(text: object) -> bool:
    return text == BUILTIN_SOURCE_NAME


def _parse_name(text: str) -> SourceSetting | None:
    """Return the source that *text* names, or None if it is not the name of a source."""
    return next((SourceSetting(name) for name in get_args(SourceName) if name == text != "folder"), None)


def build_licence_error(reason: str = "") -> LicenceError:
    """Return the error for components on npm whose licence is not accepted; *reason* is put before the explanation."""
    return LicenceError(f"{reason} {LICENCE_TEXT}".lstrip(), fix=f"To accept the licence: {ACCEPT_LICENCE_COMMAND}")


_COMPONENT_PATTERNS = tuple(
    f"{place}.{suffix}"
    for suffix in ("mjs", "js", "ts", "mts")
    for place in ("actions/*/*", "sources/*/*", "*.app", "app/*.app")
)


def find_components_folder(folder: Path) -> Path | None:
    """Return the folder that contains a folder for each app: `components` in *folder*, or *folder*; None if neither does."""
    for candidate in (folder / "components", folder):
        if any(next(candidate.glob(f"*/{kind}"), None) for kind in _COMPONENT_PATTERNS):
            return candidate
    return None
