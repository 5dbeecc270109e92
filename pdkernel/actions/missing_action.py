"""The errors for an action that no source of the project has: what is missing, and where it may come from."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.actions.action_reference import ActionReference
from pdkernel.actions.component import Component
from pdkernel.actions.npm_source import APPS_ON_NPM, NPM_SCOPE
from pdkernel.actions.source_settings import (
    ACCEPT_LICENCE_COMMAND,
    SourceSetting,
    find_components_folder,
    format_tried_sources,
)
from pdkernel.errors import ActionNotFoundError, ActionVersionError

_PIN = "pin the step's exports to run the other steps: --pin STEP=FILE, %pdpin STEP JSON."


def build_missing_action_error(
    uses: ActionReference,
    sources: Sequence[SourceSetting],
    *,
    other: Component | None = None,
    similar: Sequence[str] = (),
    why: str = "",
) -> ActionNotFoundError:
    """
    Build the error for a missing action.

    Args:
        uses: The reference of the step.
        sources: The sources of actions that are not built in, in the order in which they were tried.
        other: Another version of the action that the source has, or None.
        similar: Similar actions.
        why: Why the action is missing, as a sentence; by default, that no source has it.
    """
    tried = format_tried_sources(sources) if len(sources) > 1 else ""
    if other is not None and other.file is not None and other.file.origin == "builtin":
        return ActionVersionError(
            f"The built-in {uses.key} follows version {other.version} of the platform's action and cannot replace version "
            f"{uses.version}, whose props may differ.",
            fix=f"If the props are the same, run: pdkernel actions add {other.uses} --instead-of {uses}",
        )
    if other is not None:
        return ActionVersionError(
            " ".join(
                (
                    f"{other.source} has version {other.version} of {other.key}, but the step uses version {uses.version}.",
                    tried,
                )
            ).strip(),
            fix=f"Write @{other.version} in the step, or run: pdkernel actions add {other.uses} --instead-of {uses}",
        )
    if uses.is_private:
        missing = f"The code of the private component {uses.key} is missing: it is stored at Pipedream, and not in Git."
        return ActionNotFoundError(
            f"{missing} {tried}".strip(),
            fix=_suggest_private_folder(uses, sources),
        )
    hint = f"Similar: {', '.join(similar)}." if similar else ""
    missing = f"No source of this project has the action {uses}." if tried or not why else ""
    return ActionNotFoundError(
        " ".join(part for part in (missing, why, tried, hint) if part), fix=_suggest_sources(uses, sources)
    )


def _suggest_private_folder(uses: ActionReference, sources: Sequence[SourceSetting]) -> str:
    name = uses.key.rpartition("/")[2]
    module = f"APP/actions/{name}/{name}.mjs"
    folder = next((each.folder for each in sources if each.folder is not None), None)
    if folder is not None:
        where = f"{find_components_folder(folder) or folder}/{module}."
    else:
        setting = f"[FOLDER, {', '.join(map(str, sources))}]" if sources else "FOLDER"
        where = f"FOLDER/{module}, and write `actions: {setting}` in pdkernel.yaml."
    return f"Copy its code to {where} Or write the step as code, or {_PIN}"


def _suggest_sources(uses: ActionReference, sources: Sequence[SourceSetting]) -> str:
    names = {each.source for each in sources}
    possible = []
    if "npm" not in names and uses.app in APPS_ON_NPM:
        possible.append(f"npm ({NPM_SCOPE}/{uses.app}), after you accept its licence: {ACCEPT_LICENCE_COMMAND}")
    if "folder" not in names:
        possible.append("a folder with the layout of a components checkout: pdkernel project set actions FOLDER")
    if "connect" not in names:
        possible.append("Pipedream, with a Connect project: pdkernel project set actions connect")
    if not possible:
        return f"Check the key and the version. Or {_PIN}"
    what = "Sources that may have it: " if len(possible) > 1 else "A source that may have it is "
    several = " A project may have several sources: name all of them, in the order of the search." if sources else ""
    return f"{what}{'; '.join(possible)}.{several} Or {_PIN}"
