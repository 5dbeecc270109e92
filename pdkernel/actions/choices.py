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

SETTING = "actions"
LOGIN = "login"
"""The setting of a project that is logged in at Pipedream: there actions run unless something else was chosen."""
LICENCE_SETTING = "actions_licence"
LICENCE = "Pipedream Source Available License 1.0"
ACCEPT_COMMAND = "pdkernel project set actions npm --accept-licence"
LICENCE_TEXT = (
    f"The components that npm has under @pipedream are third-party code under the {LICENCE}, which excludes "
    "commercial use. pdkernel does not hold them: npm installs them into this project's .pdkernel folder."
)


class Settings(Protocol):
    """A project's settings by name (`project.SettingsTable`)."""

    def get(self, name: str, default: JSON = None) -> JSON:
        """The setting, or *default*."""
        ...

    def set(self, name: str, value: JSON) -> None:
        """Store it."""
        ...


class NothingSet:
    """The settings where there is no project yet; what is set is forgotten."""

    def get(self, name: str, default: JSON = None) -> JSON:  # noqa: ARG002
        """Always *default*."""
        return default

    def set(self, name: str, value: JSON) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Where:
    """Where actions run that are not built in."""

    source: SourceName = "builtin"
    folder: Path | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.folder is not None else self.source


class Choices:
    """
    The choices of one project; read anew each time, since another process may have changed them.

    Args:
        settings: The project's settings.
        here: Where actions run whatever the project has chosen: what a workflow's own `pdkernel.yaml` says.
    """

    def __init__(self, settings: Settings, here: Where | None = None) -> None:
        self._settings = settings
        self._here = here

    @property
    def where(self) -> Where:
        """Where actions run that are not built in."""
        if self._here is not None:
            return self._here
        text = self._settings.get(SETTING)
        if text in ("builtin", "npm", "connect"):
            return Where(cast("SourceName", text))
        if isinstance(text, str):
            return Where("folder", Path(text))
        return Where("connect") if self._settings.get(LOGIN) is not None else Where()

    @property
    def licence_accepted(self) -> bool:
        """Whether someone has accepted the licence of the components on npm."""
        return self._settings.get(LICENCE_SETTING) == LICENCE

    @property
    def lacks_licence(self) -> bool:
        """Whether actions run from npm here, and nobody has accepted the licence of what is there."""
        return self.where.source == "npm" and not self.licence_accepted

    def accept_licence(self) -> None:
        """Record that the licence of the components on npm is accepted."""
        self._settings.set(LICENCE_SETTING, LICENCE)

    def choose(self, text: str, *, base: Path) -> Where:
        """
        Set where actions run.

        Args:
            text: `builtin`, `npm`, `connect`, or a folder.
            base: What a folder is relative to.

        Raises:
            LicenceError: `npm`, and its licence is not accepted.
            RequestError: Neither a word nor a folder with components.
        """
        where = self.read(text, base=base)
        if where.source == "npm" and not self.licence_accepted:
            raise licence_error()
        self._settings.set(SETTING, str(where))
        return where

    def read(self, text: str, *, base: Path) -> Where:
        """What *text* means, whatever licence was accepted. Raises `RequestError` as `choose`, which stores it."""
        if text in ("builtin", "npm", "connect"):
            return Where(cast("SourceName", text))
        folder = (base / text).resolve()
        if components_folder(folder) is None:
            raise RequestError(
                f"{text!r} is none of builtin, npm and connect, nor a folder with components "
                "(components/APP/actions/NAME/NAME.mjs, components/APP/sources/NAME/NAME.mjs).",
                fix="Give one of these words, or the folder of a components checkout.",
            )
        return Where("folder", folder)

    def at(self, where: Where) -> Choices:
        """The same choices, with actions running at *where*."""
        return Choices(self._settings, where)


def licence_error(what: str = "") -> LicenceError:
    """What to tell who needs components on npm before their licence is accepted; *what* needs them, as a sentence."""
    return LicenceError(f"{what} {LICENCE_TEXT}".lstrip(), fix=f"To accept it: {ACCEPT_COMMAND}")


def components_folder(folder: Path) -> Path | None:
    """The folder that holds a folder for each app: *folder* itself or its `components`; None if neither does."""
    for place in (folder / "components", folder):
        if any(next(place.glob(f"*/{kind}"), None) for kind in ("actions/*/*.mjs", "sources/*/*.mjs", "*.app.mjs")):
            return place
    return None
