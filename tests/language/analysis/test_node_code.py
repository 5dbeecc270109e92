"""Packages that Node.js code imports."""

from __future__ import annotations

import pytest

from pdkernel.language.analysis.node_code import find_apps, find_packages


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('import axios, { get } from "axios@0.19.2";', [("axios", "0.19.2", 1)]),
        ("\nimport '@scope/pkg@^1';", [("@scope/pkg", "^1", 2)]),
        ('import x from "pkg@~0.20.0/sub/path";', [("pkg", "~0.20.0", 1)]),
        ('import x from "range@>=1 <2";', [("range", ">=1 <2", 1)]),
        ("export * from 'a';\nexport { b } from 'b/c.js';", [("a", None, 1), ("b", None, 2)]),
        ("const a = require('a');\nrequire.resolve(`b`)", [("a", None, 1), ("b", None, 2)]),
        ("async () => {\n  await import('a@2');\n}", [("a", "2", 2)]),
        ("import data from 'a/b.json' with { type: 'json' };", [("a", None, 1)]),
        ("import { axios } from '@pipedream/platform';", [("@pipedream/platform", None, 1)]),
        ("import a from 'a';\nimport b from 'a/b';\nimport c from 'a@1';", [("a", None, 1), ("a", "1", 3)]),
        ("import JSONStream from 'JSONStream';", [("JSONStream", None, 1)]),
        ("import p from 'punycode/';", [("punycode", None, 1)]),
        ("const n = 'a'; import(n); import(`a${n}`); require(n);", []),
        ("import 'fs'; import 'fs/promises'; import 'node:path'; require('node:sqlite');", []),
        (
            "import './a.mjs'; import '../b'; import '/c'; import '#d'; import 'file:///e'; import('data:text/javascript,1');",
            [],
        ),
        ("// import a from 'a';\nconst text = \"require('b')\";", []),
        ("import a from 'a';\nconst b = ;", [("a", None, 1)]),
    ],
)
def test_packages_that_node_code_imports(source: str, found: list[tuple[str, str | None, int]]) -> None:
    """Packages are literal names with their version, each once; built-in modules and files are not packages."""
    assert [(each.name, each.version, each.line) for each in find_packages(source)] == found


@pytest.mark.parametrize(
    ("props", "apps"),
    [
        ('slack: { type: "app", app: "slack" }, "my chat": { app: "discord", type: "app" }', {"slack": "slack", "my chat": "discord"}),
        ("slack, ...others, run() {}", {}),
        ('slack: shared, text: "string"', {}),
        ('slack: { type: "app" }, db: { type: "data_store", app: "slack" }, odd: { type: "app", app: name }', {}),
        ('slack: { type: "app", app: "slack" }, slack: { type: "app", app: "other" }', {"slack": "slack"}),
    ],
)  # fmt: skip
def test_apps_of_props(props: str, apps: dict[str, str]) -> None:
    """An app prop is declared with literals; other declarations name no app."""
    assert find_apps(f"export default defineComponent({{ props: {{ {props} }}, run() {{}} }})") == apps
