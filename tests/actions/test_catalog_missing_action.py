"""Errors for an action that no source has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from pdkernel.actions import ActionReference
from pdkernel.actions.catalog import build_missing_action_error
from pdkernel.actions.component import Component
from pdkernel.actions.source_settings import SourceName, SourceSetting
from pdkernel.errors import ActionVersionError
from pdkernel.workers import ComponentFile

USES = ActionReference("slack-send", "1.0.0")
OTHER = Component("slack-send", "1.2.3", "slack", "Send", "", "npm @pipedream/slack 0.1.0")


@pytest.mark.parametrize(
    ("source", "key", "names"),
    [
        ("builtin", "slack-send", ["npm (@pipedream/slack)", "a folder", "Pipedream, with"]),
        ("builtin", "rare_app-send", ["a folder", "Pipedream, with"]),
        ("npm", "slack-send", ["a folder", "Pipedream, with"]),
        ("folder", "slack-send", ["npm (@pipedream/slack)", "Pipedream, with"]),
        ("connect", "slack-send", ["npm (@pipedream/slack)", "a folder"]),
        ("connect", "rare_app-send", ["a folder"]),
    ],
)
def test_other_sources_are_suggested(source: SourceName | Literal["builtin"], key: str, names: list[str]) -> None:
    """The fix names each source that may have the action, except the one that was searched; npm only for its known apps."""
    sources = () if source == "builtin" else (SourceSetting(source, Path("/x") if source == "folder" else None),)

    error = build_missing_action_error(ActionReference(key, "1.0.0"), sources, similar=["a-b", "c-d"])

    assert error.message == f"No source of this project has the action {key}@1.0.0. Similar: a-b, c-d."
    said = ("npm (@pipedream/slack)", "a folder", "Pipedream, with")
    assert [name for name in said if name in error.fix] == names
    assert error.fix.startswith("Sources that may have it: " if len(names) > 1 else "A source that may have it is a")
    assert "pin the step's exports" in error.fix


def test_no_other_source_is_left() -> None:
    """If all sources of a project were searched, the fix is to check the key, or to pin the step's exports."""
    sources = (SourceSetting("npm"), SourceSetting("folder", Path("/x")), SourceSetting("connect"))

    error = build_missing_action_error(USES, sources)

    assert error.fix.startswith("Check the key and the version. Or pin the step's exports")


def test_another_version() -> None:
    """The error names the version that the source has, and the command that uses it; a built-in action needs a decision."""
    found = build_missing_action_error(USES, (), other=OTHER)
    own = build_missing_action_error(
        USES, (), other=replace(OTHER, file=ComponentFile(Path("a.mjs"), "slack-send", "1.2.3", "action", "builtin"))
    )

    assert isinstance(found, ActionVersionError)
    assert "has version 1.2.3 of slack-send, but the step uses version 1.0.0" in found.message
    assert "Write @1.2.3 in the step" in found.fix
    assert "follows version 1.2.3" in own.message
    assert own.fix.startswith("If the props are the same, run: ")
    for error in (found, own):
        assert error.fix.endswith("pdkernel actions add slack-send@1.2.3 --instead-of slack-send@1.0.0")


def test_a_private_component(tmp_path: Path) -> None:
    """The code of a private component goes into the project's folder of components, else into a new one."""
    uses = ActionReference("@me/send-it", "1.0.0")
    (tmp_path / "components" / "slack" / "actions" / "a").mkdir(parents=True)
    (tmp_path / "components" / "slack" / "actions" / "a" / "a.mjs").write_text("")

    found = [build_missing_action_error(uses, each).fix for each in ((), (SourceSetting("folder", tmp_path),))]

    assert "FOLDER/APP/actions/send-it/send-it.mjs, and write `actions: FOLDER` in pdkernel.yaml." in found[0]
    assert f"{tmp_path}/components/APP/actions/send-it/send-it.mjs." in found[1]


def test_the_reason_replaces_the_sentence() -> None:
    """If a source has the reason for which an action is missing, the error has it."""
    assert build_missing_action_error(USES, (), why="npm cannot run.").message == "npm cannot run."


def test_several_sources_are_named_in_their_order() -> None:
    """The message has the sources that were tried, and the fix for a private component keeps them."""
    sources = (SourceSetting("npm"), SourceSetting("connect"))
    tried = "Sources that were tried, in this order: npm, Pipedream Connect."

    missing = build_missing_action_error(USES, sources)
    other = build_missing_action_error(USES, sources, other=OTHER)
    private = build_missing_action_error(ActionReference("@me/send", "1.0.0"), sources)

    assert all(error.message.endswith(tried) for error in (missing, other, private))
    assert "A project may have several sources: name all of them" in missing.fix
    assert "write `actions: [FOLDER, npm, connect]` in pdkernel.yaml." in private.fix
