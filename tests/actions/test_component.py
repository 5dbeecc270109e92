"""Headers of components, read from their modules, and the modules of an app's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.actions.component import (
    ActionReference,
    Component,
    ComponentHeader,
    build_component,
    build_component_file,
    filter_components,
    find_declared_apps,
    iter_component_modules,
    parse_header,
    suggest_step_name,
    version_sort_key,
)
from pdkernel.errors import RequestError
from pdkernel.workers import ComponentFile

FIELDS = 'key: "slack-send", version: "1.2.3"'


def test_declared_apps(tmp_path: Path) -> None:
    """App props are read from literals and from imported app files, regardless of the names of the props."""
    (tmp_path / "actions" / "send").mkdir(parents=True)
    (tmp_path / "chat.app.mjs").write_text('export default { type: "app", app: "chat_v2" };\n')
    module = tmp_path / "actions" / "send" / "send.mjs"
    module.write_text(
        'import chat from "../../chat.app.mjs";\nimport gone from "../../gone.app.mjs";\nimport help from "./help.mjs";\n'
        f"export default defineComponent({{ {FIELDS}, props: {{ chat, second: chat, gone, help,\n"
        '  sheets: { type: "app", app: "google_sheets" }, text: { type: "string" } } });\n'
    )

    found = {(binding.prop, binding.app) for binding in find_declared_apps(module)}

    assert found == {("chat", "chat_v2"), ("second", "chat_v2"), ("sheets", "google_sheets")}


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (f"export default {{ {FIELDS} }}", ComponentHeader("slack-send", "1.2.3")),
        (
            f'export default {{ {FIELDS}, name: "Send", description: "Sends.", type: "source" }}',
            ComponentHeader("slack-send", "1.2.3", "Send", "Sends.", "source"),
        ),
        (f"export default defineComponent({{ {FIELDS} }})", ComponentHeader("slack-send", "1.2.3")),
        (f"export default {{ {FIELDS}, name: title() }}", ComponentHeader("slack-send", "1.2.3")),
        (f"const it = {{ {FIELDS} }};\nexport default it;", ComponentHeader("slack-send", "1.2.3")),
        (f"const it = {{ {FIELDS} }};\nexport default other;", None),
        (
            f'export default {{ {FIELDS}, name: "Se" + "nd", description: `A "b"\\n\\`c\\`` }}',
            ComponentHeader("slack-send", "1.2.3", "Send", 'A "b"\n`c`'),
        ),
        (
            f"export default {{ {FIELDS}, name: `S${{x}}`, description: 'a' + b }}",
            ComponentHeader("slack-send", "1.2.3"),
        ),
        (f'export default {{ {FIELDS}, type: "app" }}', None),
        ('export default { key: "slack-send" }', None),
        ('export default { version: "1.2.3" }', None),
        ('export default { key: "", version: "1.2.3" }', None),
        (f"const a = {{ {FIELDS} }}", None),
        ("", None),
    ],
)
def test_a_header(text: str, header: ComponentHeader | None) -> None:
    """A component has a literal key and version; other fields are optional."""
    assert parse_header(text) == header


def test_modules_of_a_folder(tmp_path: Path) -> None:
    """A module is named after its folder; links that lead out of the app's folder are not followed."""
    outside = tmp_path / "outside"
    for place in (outside / "actions" / "out", *(tmp_path / "app" / kind / "one" for kind in ("actions", "sources", "common"))):  # fmt: skip
        place.mkdir(parents=True)
    app = tmp_path / "app"
    (outside / "actions" / "out" / "out.mjs").write_text("")
    (app / "actions" / "out").symlink_to(outside / "actions" / "out")
    for name in ("actions/one/one.mjs", "actions/one/one.js", "actions/one/other.mjs", "sources/one/one.mjs", "common/one/one.mjs", "actions/one/one.ts"):  # fmt: skip
        (app / name).write_text("")

    found = [path.relative_to(app).as_posix() for path in iter_component_modules(app)]

    assert found == ["actions/one/one.mjs", "actions/one/one.js", "actions/one/one.ts", "sources/one/one.mjs"]


def test_a_component_of_a_header(tmp_path: Path) -> None:
    """Component and file have every field of the header."""
    header = ComponentHeader("slack-send", "1.2.3", "Send", "Sends.", "source")
    file = build_component_file(header, tmp_path, "npm")

    assert file == ComponentFile(path=tmp_path, key="slack-send", version="1.2.3", kind="source", origin="npm")
    assert build_component(header, source="npm x", file=file) == Component(
        "slack-send", "1.2.3", "slack", "Send", "Sends.", "npm x", file, "source"
    )


@pytest.mark.parametrize(
    ("origin", "changes", "summary"),
    [
        ("npm", {}, "npm x"),
        ("npm", {"limitations": "no $.flow"}, "npm x; no $.flow"),
        ("npm", {"requested_version": "1.0.0"}, "npm x, version 1.2.3 instead of 1.0.0"),
        (
            "builtin",
            {"requested_version": "1.0.0", "limitations": "no $.flow"},
            "npm x, follows version 1.2.3, used for 1.0.0; no $.flow",
        ),
        (None, {"requested_version": "1.0.0"}, "npm x, version 1.2.3 instead of 1.0.0"),
    ],
)
def test_the_source_in_a_record(tmp_path: Path, origin: Any, changes: dict[str, Any], summary: str) -> None:
    """The record of a step names the source, a replaced version, and limitations."""
    header = ComponentHeader("slack-send", "1.2.3")
    file = build_component_file(header, tmp_path, origin) if origin else None

    component = Component("slack-send", "1.2.3", "slack", "", "", "npm x", file, **changes)

    assert component.source_summary == summary
    assert component.uses == "slack-send@1.2.3"


def test_components_are_found_by_words() -> None:
    """Every word must be in the key, the name or the description, whose matches come last; the newest version is found."""
    component = Component("slack-send", "0.9.0", "slack", "Send", "Sends a text to a channel.", "npm")
    newest = replace(component, version="0.10.0")
    channel = replace(component, key="slack-make-channel", name="Make a Channel", description="Send it a text.")
    other = replace(component, key="github-send", description="Sends to a channel.")

    def found(words: str, app: str | None = None) -> list[str]:
        components = [newest, component, channel, other]
        keys = [each.uses for each in filter_components(components, words, app)]
        assert keys == [each.uses for each in filter_components(reversed(components), words, app)]
        return keys

    assert found("") == ["github-send@0.9.0", "slack-make-channel@0.9.0", "slack-send@0.10.0"]
    assert found("CHANNEL text", "slack") == ["slack-make-channel@0.9.0", "slack-send@0.10.0"]
    assert found("send channel") == ["github-send@0.9.0", "slack-make-channel@0.9.0", "slack-send@0.10.0"]
    assert found("channel") == ["slack-make-channel@0.9.0", "github-send@0.9.0", "slack-send@0.10.0"]
    assert found("send text channel", "github") == []
    assert build_component(ComponentHeader("slack-send", "1.0.0"), source="npm").name == "slack-send"


@pytest.mark.parametrize(
    ("text", "key", "version", "app"),
    [
        ("slack-send-message@0.0.20", "slack-send-message", "0.0.20", "slack"),
        ("slack-send-message", "slack-send-message", None, "slack"),
        ("@acme/send", "@acme/send", None, ""),
        ("@acme/send@1.0.0-rc.1", "@acme/send", "1.0.0-rc.1", ""),
    ],
)
def test_a_reference(text: str, key: str, version: str | None, app: str) -> None:
    """The version may be missing; a private key has a workspace and names no app."""
    found = ActionReference.parse(text)

    assert (found.key, found.version, found.app) == (key, version, app)
    assert (str(found), found.is_private) == (text, text.startswith("@"))


@pytest.mark.parametrize(
    "text", ["", "send", "slack-send@", "slack-send@1.0", "slack-send@latest", "Slack-Send", "@acme", "a-b c"]
)
def test_what_is_not_a_reference(text: str) -> None:
    """A key has a hyphen or a workspace, and a version has three numbers."""
    with pytest.raises(RequestError, match="is not an action's key"):
        ActionReference.parse(text)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("slack-send-message", "send_message"),
        ("@acme/slack-send.it", "send_it"),
        ("helper-2fa-code", "step_2fa_code"),
        ("slack", "step"),
        ("slack--", "step"),
    ],
)
def test_the_name_of_a_step(key: str, name: str) -> None:
    """A step is named after the key without its app; a name does not start with a digit."""
    assert suggest_step_name(key) == name


def test_versions_are_ordered_by_value() -> None:
    """Numbers compare by value, and a pre-release comes before the number that it precedes."""
    versions = ["0.10.0", "0.9.0", "1.0.0", "0.9.10", "0.9.0.1"]

    assert sorted(versions, key=version_sort_key) == ["0.9.0", "0.9.0.1", "0.9.10", "0.10.0", "1.0.0"]
    assert version_sort_key("1.0.rc") < version_sort_key("1.0.0")
