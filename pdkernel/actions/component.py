"""
Components: references such as `slack-send-message@0.0.20`, and key, version, name and description, read without running the module.

On the platform, the key of a public component starts with the slug of its app. The props of a component are known only after a worker
has loaded its module.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tree_sitter import Node

from pdkernel.actions.source_settings import SourceSetting
from pdkernel.errors import RequestError
from pdkernel.language.analysis.node_code import find_apps
from pdkernel.language.expression import javascript
from pdkernel.model import AppBinding, get_app_slug
from pdkernel.workers import ComponentFile

_KEY = re.compile(r"(?:@[\w.-]+/[A-Za-z0-9_][\w.-]*|[a-z0-9_]+(?:-[\w.]+)+)\Z", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+-]*\Z")


ACCOUNTLESS_APPS = frozenset(
    {"ai", "data_stores", "delay", "email", "filter", "formatting", "go", "helper_functions", "http", "node"}
    | {"bash", "pipedream_utils", "python", "rss", "schedule"}
)
"""Apps of the platform without accounts; an app prop for one of them needs no account."""


@dataclass(frozen=True, slots=True)
class ActionReference:
    """The parsed value of a step's `uses`; *version* None is the newest version that is locked, else the newest."""

    key: str
    version: str | None

    @classmethod
    def parse(cls, text: str) -> ActionReference:
        """
        Parse `KEY` or `KEY@VERSION`, with an optional prefix `@WORKSPACE/`.

        Raises:
            RequestError: *text* has another form.
        """
        head, at, version = text.rpartition("@")
        key = head if at and head else text
        if not _KEY.match(key) or (at and head and not _VERSION.match(version)):
            raise RequestError(
                f"{text!r} is not an action's key.",
                fix="Write KEY or KEY@VERSION, for example slack-send-message@0.0.20.",
            )
        return cls(key, version if at and head else None)

    @property
    def is_private(self) -> bool:
        """Whether the action is a private component of a workspace (`@WORKSPACE/KEY`)."""
        return self.key.startswith("@")

    @property
    def app(self) -> str:
        """The slug of the app that the key starts with; empty for a private component, whose key names no app."""
        return get_app_slug(self.key)

    def __str__(self) -> str:
        return f"{self.key}@{self.version}" if self.version else self.key


def suggest_step_name(key: str) -> str:
    """Return the step name that the platform's builder would choose: `send_message` for `slack-send-message`."""
    words = key.rpartition("/")[2].partition("-")[2]
    name = re.sub(r"\W+", "_", words, flags=re.ASCII).strip("_") or "step"
    return f"step_{name}" if name[0].isdigit() else name


def version_sort_key(version: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key for versions that compares numbers by value: `0.10.0` comes after `0.9.0`."""
    parts = re.split(r"[.+-]", version)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


ComponentKind = Literal["action", "source"]
COMPONENT_KINDS: tuple[ComponentKind, ...] = ("action", "source")
_BODY = re.compile(r"^ {1,4}(?:props|methods|hooks|additionalProps|(?:async )?(?:run|deploy))\b", re.MULTILINE)
_SUFFIXES = (".mjs", ".js", ".ts", ".mts")
_APP_FILE = re.compile(r"^\.{1,2}/.*\.app(?:\.(?:mjs|js|cjs|ts|mts))?\Z")


@dataclass(frozen=True, slots=True)
class ComponentHeader:
    """The fields of a component's module that are read without running the module."""

    key: str
    version: str
    name: str = ""
    description: str = ""
    kind: ComponentKind = "action"


@dataclass(frozen=True, slots=True)
class Component:
    """
    A component of one of the project's sources.

    Attributes:
        key: `slack-send-message`.
        version: The version of the component.
        app: The slug of the app, or None for a built-in action, which needs no account.
        name: The display name.
        description: The text for display.
        source: The source for display: `npm @pipedream/slack 0.10.3`.
        file: The module; None if Pipedream runs the action, or if the component is not installed yet.
        kind: `action`, or `source` for an event source.
        limitations: The limitations of the source as a sentence without a full stop, or empty.
        requested_version: The version that the step names, if another version runs; empty if the step names none.
        setting: The project's setting for the source; None for a built-in action.
    """

    key: str
    version: str
    app: str | None
    name: str
    description: str
    source: str
    file: ComponentFile | None = None
    kind: ComponentKind = "action"
    limitations: str = ""
    requested_version: str | None = None
    setting: SourceSetting | None = None

    @property
    def uses(self) -> str:
        """The value of `uses` for this component: `KEY@VERSION`."""
        return f"{self.key}@{self.version}"

    @property
    def source_summary(self) -> str:
        """The source, with a replaced version and limitations, for the record of a step."""
        which = ""
        if self.requested_version is not None:
            own = self.file is not None and self.file.origin == "builtin"
            which = (
                f", version {self.version}, because the step names none"
                if not self.requested_version
                else f", follows version {self.version}, used for {self.requested_version}"
                if own
                else f", version {self.version} instead of {self.requested_version}"
            )
        return f"{self.source}{which}" + (f"; {self.limitations}" if self.limitations else "")


def parse_header(text: str) -> ComponentHeader | None:
    """Return the header of the module *text*; None unless it exports a component with a literal key and version."""
    fields = _read_literal_fields(text)
    if not {"key", "version"} <= fields.keys() and (body := _BODY.search(text)) is not None:
        # code with types below the header, which the parser of JavaScript does not read
        fields = _read_literal_fields(text[: body.start()] + "})")
    key, version, kind = fields.get("key"), fields.get("version"), fields.get("type", "action")
    if not key or not version or kind not in COMPONENT_KINDS:
        return None
    return ComponentHeader(key, version, fields.get("name", ""), fields.get("description", ""), kind)


def _read_literal_fields(text: str) -> dict[str, str]:
    """Return the fields of the module's default export whose values are literal texts, by key."""
    exported = _find_default_export(javascript.parse_source(text))
    return {
        key: value
        for pair in _iter_pairs(exported)
        if (key := javascript.get_key(pair)) is not None
        and (value := _get_literal_text(pair.child_by_field_name("value"))) is not None
    }


def find_declared_apps(module: Path) -> tuple[AppBinding, ...]:
    """
    Return the app props that the component's *module* declares, each with the external user's account, without running code.

    An app prop is written as a literal, or imported from a file such as `../../slack.app.mjs`.
    """
    text = module.read_text(encoding="utf-8", errors="replace")
    root = javascript.parse_source(text)
    exported = _find_default_export(root)
    fields = {javascript.get_key(pair): pair.child_by_field_name("value") for pair in _iter_pairs(exported)}
    props = fields.get("props")
    found = find_apps(text)
    names = {javascript.get_source(each): javascript.get_source(each) for each in _iter_shorthand(props)}
    names |= {
        prop: javascript.get_source(value)
        for pair in _iter_pairs(props)
        if (value := pair.child_by_field_name("value")) is not None
        and value.type == "identifier"
        and (prop := javascript.get_key(pair)) is not None
    }
    imported = _find_app_imports(root, module.parent) if names else {}
    found |= {prop: imported[name] for prop, name in names.items() if name in imported}
    return tuple(AppBinding(prop, app) for prop, app in found.items())


def _iter_pairs(node: Node | None) -> Iterator[Node]:
    return (child for child in (node.named_children if node is not None else ()) if child.type == "pair")


def _iter_shorthand(node: Node | None) -> Iterator[Node]:
    kind = "shorthand_property_identifier"
    return (child for child in (node.named_children if node is not None else ()) if child.type == kind)


def _find_app_imports(root: Node, folder: Path) -> dict[str, str]:
    """Return the slugs of the app files that a module in *folder* imports, by the name of the import."""
    found = {}
    for node in root.named_children:
        specifier = javascript.get_string_literal(node.child_by_field_name("source"))
        if node.type != "import_statement" or specifier is None or not _APP_FILE.search(specifier):
            continue
        clause = next((child for child in node.named_children if child.type == "import_clause"), None)
        name = next((child for child in (clause.named_children if clause else ()) if child.type == "identifier"), None)
        paths = (Path(f"{folder / specifier}{suffix}") for suffix in ("", ".ts", ".mts", ".mjs", ".js"))
        path = next((path for path in paths if path.is_file()), None)
        if name is None or path is None:
            continue
        app = _find_default_export(javascript.parse_source(path.read_text(encoding="utf-8", errors="replace")))
        slug = next(
            (
                _get_literal_text(p.child_by_field_name("value"))
                for p in _iter_pairs(app)
                if javascript.get_key(p) == "app"
            ),
            None,
        )
        if slug:
            found[javascript.get_source(name)] = slug
    return found


def iter_component_modules(folder: Path) -> Iterator[Path]:
    """
    Yield the modules in an app's folder that may be components: `actions/NAME/NAME.mjs`, `sources/NAME/NAME.ts`.

    A link that leads out of *folder* is not followed.
    """
    base = folder.resolve()
    for kind in ("actions", "sources"):
        place = f"{folder}/{kind}"
        try:
            with os.scandir(place) as entries:  # a checkout has thousands of apps: each saved system call counts
                linked = {entry.name: entry.is_symlink() for entry in entries}
        except OSError:
            continue
        for name in sorted(linked):
            for suffix in _SUFFIXES:
                path = f"{place}/{name}/{name}{suffix}"
                try:
                    mode = os.lstat(path).st_mode
                except OSError:
                    continue
                found = Path(path)
                is_plain = stat.S_ISREG(mode) and not linked[name] and not os.path.islink(place)  # noqa: PTH114
                if is_plain or (found.is_file() and found.resolve().is_relative_to(base)):
                    yield found


def build_component_file(
    header: ComponentHeader, path: Path, origin: Literal["builtin", "npm", "folder"]
) -> ComponentFile:
    """Return the component file for the module at *path* with *header*."""
    return ComponentFile(path=path, key=header.key, version=header.version, kind=header.kind, origin=origin)


def build_component(header: ComponentHeader, *, source: str, file: ComponentFile | None = None) -> Component:
    """Return the component of an app with *header* from *source*."""
    return Component(
        key=header.key,
        version=header.version,
        app=get_app_slug(header.key),
        name=header.name or header.key,
        description=header.description,
        source=source,
        file=file,
        kind=header.kind,
    )


def filter_components(components: Iterable[Component], words: str, app: str | None) -> list[Component]:
    """
    Return the newest version of each component of *app* (None: of all apps) that has every one of *words*; best match first.

    A match in the key or the name comes before a match in the description.
    """
    searched_words = words.lower().split()
    found: dict[str, tuple[tuple[int, str], Component]] = {}
    for component in components:
        if app is not None and get_app_slug(component.key) != app:
            continue
        name = f"{component.key} {component.name}".lower()
        text = f"{name} {component.description}".lower()
        if not all(word in text for word in searched_words):
            continue
        rank = sum(word not in name for word in searched_words)
        known = found.get(component.key)
        if known is None or version_sort_key(known[1].version) < version_sort_key(component.version):
            found[component.key] = ((rank, component.key), component)
    return [component for _, component in sorted(found.values(), key=lambda item: item[0])]


def _find_default_export(root: Node) -> Node | None:
    """Return the object of the module's default export, written in the export or in a constant of the module."""
    for node in root.named_children:
        if node.type != "export_statement" or not any(child.type == "default" for child in node.children):
            continue
        value = node.child_by_field_name("value")
        if value is not None and value.type == "call_expression":  # defineComponent({...})
            arguments = value.child_by_field_name("arguments")
            value = next(iter(arguments.named_children), None) if arguments is not None else None
        if value is not None and value.type == "identifier":
            value = _constant(root, javascript.get_source(value))
        return value if value is not None and value.type == "object" else None
    return None


def _constant(root: Node, name: str) -> Node | None:
    for node in root.named_children:
        if node.type == "lexical_declaration":
            for declared in node.named_children:
                named = declared.child_by_field_name("name")
                if named is not None and javascript.get_source(named) == name:
                    return declared.child_by_field_name("value")
    return None


def _get_literal_text(node: Node | None) -> str | None:
    """Return the text of a string literal or of a sum of string literals, else None."""
    if node is None:
        return None
    if node.type == "binary_expression":
        left, right = (
            _get_literal_text(node.child_by_field_name("left")),
            _get_literal_text(node.child_by_field_name("right")),
        )
        return None if left is None or right is None else left + right
    if node.type not in ("string", "template_string"):
        return None
    plain = javascript.get_string_literal(node)
    if plain is not None:
        return plain
    if any(child.type == "template_substitution" for child in node.named_children):
        return None
    return (
        javascript.get_source(node)[1:-1]
        .replace("\\n", "\n")
        .replace('\\"', '"')
        .replace("\\'", "'")
        .replace("\\`", "`")
    )
