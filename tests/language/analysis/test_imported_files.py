"""Files that steps import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from pdkernel.errors import NotebookError
from pdkernel.language.analysis import (
    StepFileError,
    check_import_complete,
    find_missing_files,
    find_step_packages,
    find_step_requirements,
    find_workflow_variables,
    with_step_files,
)
from pdkernel.model import Language, Step, Workflow


def reading(language: Language, source: str, files: Mapping[str, str], *, depth: int = 1) -> Step:
    """A step whose code is *source*, with those of *files* that it imports."""
    return with_step_files(Step("work", language, source), files.get, depth=depth, place="work/entry")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('import { a } from "./a.mjs"; import b from "pkg"; import "node:fs";', ["a.mjs"]),
        ('export { c } from "../lib/c.js";', ["../lib/c.js"]),
        ('const a = require("./cjs/a"); const d = require("./d.json");', ["cjs/a.cjs", "d.json"]),
        ('const a = await import("./a.mjs?x=1");', ["a.mjs"]),
        ('import "./folder";', ["folder/index.js"]),
        ("import './chain.mjs';", ["../lib/c.js", "chain.mjs"]),
        ("const name = './a.mjs'; await import(name);", []),
        ("this is ( no code: import './a.mjs'", []),
        ('readFileSync(new URL("./d.json", import.meta.url))', ["d.json"]),
        ('readFileSync(new URL("../lib/c.js", import.meta.url))', ["../lib/c.js"]),
        ('readFileSync(join(import.meta.dirname, "cjs", "a.cjs"))', ["cjs/a.cjs"]),
        ('const fs = require("fs"); fs.readFileSync(path.join(__dirname, "d.json"));', ["d.json"]),
        ('const name = "unused.mjs"; readFileSync(`${__dirname}/${name}`);', ["unused.mjs"]),
        ('const here = new URL(".", import.meta.url); new URL("https://x.test/d.json", import.meta.url);', []),
        ('readFileSync("d.json")', []),
    ],
)
def test_files_of_a_node_step(source: str, found: list[str]) -> None:
    """Literal imports are followed: with and without suffix, of a folder, and through other files."""
    files = {
        "a.mjs": "export const a = 1",
        "cjs/a.cjs": "exports.a = 1",
        "../lib/c.js": "export const c = 1",
        "d.json": "{}",
        "folder/index.js": "",
        "chain.mjs": "import { c } from '../lib/c.js'; import fs from 'fs';",
        "unused.mjs": "",
    }

    assert list(reading("node", source, files).files) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from helper import x\nimport json, requests\n", ["helper.py"]),
        ("import pkg.mod\n", ["pkg/__init__.py", "pkg/mod.py"]),
        ("from pkg import mod\n", ["pkg/__init__.py", "pkg/mod.py"]),
        ("from . import helper\nfrom .pkg.mod import x\n", ["helper.py", "pkg/__init__.py", "pkg/mod.py"]),
        ("from ..lib.shared import x\n", ["../lib/shared.py"]),
        ("from lib import shared\n", ["../lib/shared.py"]),
        (
            "import sys, os\nsys.path.append(os.path.join(os.path.dirname(__file__), '..', 'lib'))\nimport shared\n",
            ["../lib/shared.py"],
        ),
        ("NAMES = ['../lib']\nimport shared\n", []),
        ("open(__file__)\nopen('/data/table.json')\nopen(os.path.join('/', 'data', 'table.json'))\n", []),
        ("def handler(pd):\n    from helper import x\n", ["helper.py"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import helper\n", []),
        ("from pathlib import Path\nPath(__file__).parent / 'data' / 'table.json'\n", ["data/table.json"]),
        ("import os\nopen(os.path.join(os.path.dirname(__file__), 'data', 'table.json'))\n", ["data/table.json"]),
        ("'data/table.json'\n", []),
        ("import string\n", []),
    ],
)
def test_files_of_a_python_step(source: str, found: list[str]) -> None:
    """Modules beside the entry file and in folders above are followed, and files that code names beside `__file__`."""
    files = {
        "helper.py": "import os",
        "pkg/__init__.py": "from . import mod",
        "pkg/mod.py": "",
        "../lib/shared.py": "",
        "data/table.json": "[]",
        "/data/table.json": "[]",
        "string.py": "",
    }

    assert list(reading("python", source, files).files) == found


def test_files_of_other_languages_and_actions() -> None:
    """Bash, Go and actions import no files."""
    steps = [Step("a", "bash", "import './a.mjs'"), Step("b", "go", "import"), Step("c", "node", uses="a-b@0.0.1")]

    assert [with_step_files(step, lambda _: "text", depth=1) for step in steps] == steps


@pytest.mark.parametrize(
    ("language", "source", "files", "message"),
    [
        (
            "node",
            "\nimport './a.mjs'",
            {"a.mjs": "import './b.mjs'", "b.mjs": "\n\nimport './a.mjs'"},
            'Step work (b.mjs, line 3) imports "./a.mjs", which imports itself: a.mjs -> b.mjs -> a.mjs.',
        ),
        ("node", "import './a.mjs'", {"a.mjs": "import './a.mjs'"}, "(a.mjs, line 1) imports"),
        (
            "python",
            "import a\n",
            {"a.py": "import b\n", "b.py": "from a import x\n"},
            "Step work (b.py, line 1) imports `a`, which imports itself: a.py -> b.py -> a.py.",
        ),
        (
            "python",
            "from pkg import x\n",
            {"pkg/__init__.py": "from .m import x", "pkg/m.py": "from . import y"},
            "pkg/m.py",
        ),
    ],
)
def test_a_circle_is_refused(language: Language, source: str, files: Mapping[str, str], message: str) -> None:
    """Files that import each other are refused, with the file and the line."""
    with pytest.raises(NotebookError) as refused:
        reading(language, source, files)

    assert message in refused.value.message


@pytest.mark.parametrize("specifier", ["./lib.ts", "./lib", "./lib.js"])
def test_a_file_in_typescript_is_refused(specifier: str) -> None:
    """An import of a file in TypeScript names the file, the line, and what to do, also if the suffix is not written."""
    with pytest.raises(NotebookError) as caught:
        reading("node", f"\nimport {{ x }} from {specifier!r};", {"lib.ts": "export const x: number = 1"})

    assert f'(work/entry, line 2) imports "{specifier}", which is TypeScript' in caught.value.message
    assert "Compile the file to JavaScript" in caught.value.fix


def test_a_file_that_is_not_text_is_refused() -> None:
    """A file of `new URL(NAME, import.meta.url)` that cannot be read is refused; a text that may name it is ignored."""

    def read(path: str) -> str | None:
        if path == "logo.png":
            raise StepFileError("which is not UTF-8 text")
        return None

    certain = Step("work", "node", 'new URL("./logo.png", import.meta.url)')
    possible = Step("work", "node", 'import.meta.dirname; const name = "logo.png";')

    with pytest.raises(NotebookError) as caught:
        with_step_files(certain, read, depth=1)

    assert 'imports "logo.png", which is not UTF-8 text' in caught.value.message
    assert "base64" in caught.value.fix
    assert with_step_files(possible, read, depth=1).files == {}


def test_a_missing_file_that_a_url_names() -> None:
    """A file of `new URL(NAME, import.meta.url)` that does not exist is missing; a text that may name a file is not."""
    step = Step("work", "node", 'new URL("./query.sql", import.meta.url); join(import.meta.dirname, "other.sql");')

    missing = [error.message for error in find_missing_files(step)]

    assert len(missing) == 1
    assert 'imports "query.sql", and there is no such file' in missing[0]


def test_two_ways_to_a_file_are_no_circle() -> None:
    """A file that two others import, and a package whose modules import one another, are not refused."""
    node = {"a.mjs": "import './c.mjs'", "b.mjs": "import './c.mjs'", "c.mjs": ""}
    python = {"pkg/__init__.py": "from .m import x", "pkg/m.py": "from . import n\nfrom .n import y\n", "pkg/n.py": ""}

    assert list(reading("node", "import './a.mjs'; import './b.mjs'", node).files) == ["a.mjs", "b.mjs", "c.mjs"]
    assert list(reading("python", "import pkg\n", python).files) == list(python)


def test_a_file_that_may_not_be_read() -> None:
    """The message names the entry file and the line, or the cell and the line."""

    def read(_: str) -> str:
        raise StepFileError("which is a link")

    step = Step("work", "node", "\nimport './a.mjs'", line_offset=1, cell_index=2)

    with pytest.raises(NotebookError, match=r"\(work/entry, line 3\) imports \"./a.mjs\", which is a link"):
        with_step_files(step, read, depth=1, place="work/entry")
    with pytest.raises(NotebookError, match=r"\(cell 3, line 3\) imports") as refused:
        with_step_files(step, read, depth=1)
    assert (refused.value.step, refused.value.line) == ("work", 3)


def test_too_many_files() -> None:
    """The number of files is limited."""
    files = {f"{number}.mjs": f"import './{number + 1}.mjs'" for number in range(600)}

    with pytest.raises(NotebookError, match="more than 500 files"):
        reading("node", "import './0.mjs'", files)


def test_missing_files() -> None:
    """Missing files are found in the step and in its files; a guarded import may fail."""
    source = "import './a.mjs';\nimport './gone.mjs';\ntry { require('./maybe'); } catch {}\n"
    step = replace(reading("node", source, {"a.mjs": "\nimport './lost.json'"}), line_offset=1)

    assert [(problem.message, problem.line) for problem in find_missing_files(step)] == [
        ('Step work (a.mjs, line 2) imports "./lost.json", and there is no such file.', None),
        ('Step work (line 3) imports "./gone.mjs", and there is no such file.', 3),
    ]
    with pytest.raises(NotebookError, match="2 problems"):
        check_import_complete(Workflow("W", steps=(step,)))


def test_missing_modules() -> None:
    """A missing relative module is found; an absolute one is a package, and a guarded one may fail."""
    source = "import tiny\nfrom .gone import x\ntry:\n    from .maybe import y\nexcept ImportError:\n    pass\n"

    found = list(find_missing_files(Step("work", "python", source, line_offset=1)))

    assert [(problem.message, problem.line) for problem in found] == [
        ("Step work (line 3) imports `.gone`, and there is no such file.", 3)
    ]


def test_packages_of_files() -> None:
    """Packages and variables of imported files are those of the step, required if one file requires them; own modules are not packages."""
    python = reading(
        "python",
        "from lib.tiny import x\nimport helper\ntry:\n    import slim\nexcept ImportError:\n    pass\n",
        {
            "../lib/tiny.py": "\nimport tiny\nimport os\nos.environ['KEY']\n",
            "helper.py": "import lib.tiny\nimport slim\n",
        },
    )
    node = reading("node", "import './a.mjs'; import 'axios@1'", {"a.mjs": "\nimport 'got'; process.env.TOKEN.trim()"})
    workflow = Workflow("W", steps=(python, Step("node", "node", node.source, files=node.files)))

    assert [(each.specifier, each.is_optional) for each in find_step_requirements(python)] == [
        ("slim", False),
        ("tiny", False),
    ]
    assert [(each.name, each.version, each.line) for each in find_step_packages(node)] == [
        ("axios", "1", 1),
        ("got", None, 1),
    ]
    assert find_workflow_variables(workflow) == {"KEY": ["work"], "TOKEN": ["node"]}


def test_a_package_has_the_line_of_the_steps_own_import() -> None:
    """A package that both the step and its file import has the line of the step; one of a file alone has line 1."""
    python = reading("python", "import helper\nimport tiny\n", {"helper.py": "\n\nimport tiny\nimport slim\n"})
    node = reading("node", "import './a.mjs';\nimport 'axios';\n", {"a.mjs": "\n\nimport 'axios';\nimport 'got';\n"})

    assert {each.name: each.line for each in find_step_requirements(python)} == {"tiny": 2, "slim": 1}
    assert {each.name: each.line for each in find_step_packages(node)} == {"axios": 2, "got": 1}


def test_the_version_depends_on_the_files() -> None:
    """Another text of a file is another version, and a stored version has the files."""
    first, second = (
        Workflow("W", steps=(reading("node", "import './a.mjs'", {"a.mjs": text}),)) for text in ("export {}", "1")
    )

    assert first.version != second.version
    assert Workflow.from_versioned_content(first.versioned_content()).steps[0].files == {"a.mjs": "export {}"}
