"""The errors for an action that no source of the project has: what is missing, and where it may come from."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.actions.action_reference import ActionReference
from pdkernel.actions.component import Component
from pdkernel.actions.npm_source import APPS_ON_NPM, NPM_SCOPE
from pdkernel.actions.source_settings import ACCEPT_LICENCE_COMMAND, SourceSetting, find_components_folder
from pdkernel.errors import ActionNotFoundError, ActionVersionError

_PIN = "pin the step's exports to run the other steps: --pin STEP=FILE, %pdpin STEP JSON."


def build_missing_action_error(
    uses: ActionReference,
    setting: SourceSetting,
    *,
    other: Component | None = None,
    similar: Sequence[str] = (),
    why: str = "",
) -> ActionNotFoundError:
    """
    Build the error for a missing action.

    Args:
        uses: The reference of the step.
        setting: The source of actions that are not built in.
        other: Another version of the action that the source has, or None.
        similar: Similar actions.
        why: Why the action is missing, as a sentence; by default, that no source has it.
    """
    if other is not None and other.file is not None and other.file.origin == "builtin":
        return ActionVersionError(
            f"The built-in {uses.key} follows version {other.version} of the platform's action and cannot replace version "
            f"{uses.version}, whose props may differ.",
            fix=f"If the props are the same, run: pdkernel actions add {other.uses} --instead-of {uses}",
        )
    if other is not None:
        return ActionVersionError(
            f"{other.source} has version {other.version} of {other.key}, but the step uses version {uses.version}.",
            fix=f"Write @{other.version} in the step, or run: pdkernel actions add {other.uses} --instead-of {uses}",
        )
    if uses.is_private:
        return ActionNotFoundError(
            f"The code of the private component {uses.key} is missing: it is stored at Pipedream, and not in Git.",
            fix=_suggest_private_folder(uses, setting),
        )
    hint = f" Similar: {', '.join(similar)}." if similar else ""
    message = why or f"No source of this project has the action {uses}."
    return ActionNotFoundError(f"{message}{hint}", fix=_suggest_sources(uses, setting))


def _suggest_private_folder(uses: ActionReference, setting: SourceSetting) -> str:
    name = uses.key.rpartition("/")[2]
    module = f"APP/actions/{name}/{name}.mjs"
    if setting.folder is not None:
        where = f"{find_components_folder(setting.folder) or setting.folder}/{module}."
    else:
        where = f"FOLDER/{module}, and write `actions: FOLDER` in pdkernel.yaml."
    return f"Copy its code to {where} Or write the step as code, or {_PIN}"


def _suggest_sources(uses: ActionReference, setting: SourceSetting) -> str:
    sources = []
    if setting.source != "npm" and uses.app in APPS_ON_NPM:
        sources.append(f"npm ({NPM_SCOPE}/{uses.app}), after you accept its licence: {ACCEPT_LICENCE_COMMAND}")
    if setting.source != "folder":
        sources.append("a folder with the layout of a components checkout: pdkernel project set actions FOLDER")
    if setting.source != "connect":
        sources.append("Pipedream, with a Connect project: pdkernel project set actions connect")
    what = "Sources that may have it: " if len(sources) > 1 else "A source that may have it is "
    return what + "; ".join(sources) + f". Or {_PIN}"
