"""The documentation: its code blocks run and show what they show, and its tables say what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.generated_reference import (
    error_classes,
    layer_rows,
    layers_picture,
    magics,
    option_variables,
    packages_table,
    schema,
)
from tests.cli.fork_server import ForkServer
from tests.docs_pages import DATABASE_URL, WITH_OUTPUT, Block, Reader, matches, merge, read_blocks, reader
from tests.golden import write_golden
from tests.npm_registry import npm_registry
from tests.wheels import WheelFolder

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("**/*.md"))]
MAX_NOT_RUN = 12
PACKAGE = ROOT / "pdkernel"
VARIABLE = re.compile(r"\b(?:PDKERNEL|PIPEDREAM)_[A-Z_]+\b")
INTERNAL_VARIABLES = {"PDKERNEL_STEP_PROCESS"}
"""Set by pdkernel for itself: the mark of a step's processes."""
BASE_CODES = {"error"}
"""The code of the base class, which is not raised."""
MS = "export default (text) => parseInt(text) * 86400000"
"""A package in the place of npm's `ms`, for days."""
SLUGIFY = "def slugify(text):\n    return text.lower().replace(' ', '-')\n"


def follow(page: Path, following: Reader) -> tuple[str, list[str]]:
    """Follow *page*: its text with the outputs of this run, and where these are others than those of the page."""
    text = page.read_text(encoding="utf-8")
    updates: list[tuple[Block, str]] = []
    cell_output: str | None = None
    for block in read_blocks(text):
        if block.reason is not None:
            continue
        if block.kind == "output":
            assert cell_output is not None
            following.remember(block.text, cell_output)
            actual = block.text if matches(block.text, cell_output) else merge(block.text, cell_output)
        else:
            actual = following.follow(block)
            if block.kind in WITH_OUTPUT:
                cell_output, actual = actual, block.text
        if actual != block.text:
            updates.append((block, actual))
    for block, actual in reversed(updates):
        text = text[: block.start] + actual + text[block.start + len(block.text) :]
    return text, [f"{page.relative_to(ROOT)}:{block.line} shows another output:\n{actual}" for block, actual in updates]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_shows_what_happens(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fork_server: ForkServer,
    request: pytest.FixtureRequest,
) -> None:
    """Every block of the page runs, in order and in one folder, and has the output that the page shows."""
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "pdkernel").symlink_to(ROOT)  # the pages' `~/pdkernel`
    wheels = WheelFolder(tmp_path / "wheels")
    wheels.publish("python-slugify", "8.0.4", modules={"slugify.py": SLUGIFY})
    with npm_registry() as registry, reader(folder, monkeypatch, fork_server) as following:
        if DATABASE_URL in page.read_text(encoding="utf-8"):
            following.use_database(request.getfixturevalue("postgres_url"))
        registry.publish("ms", "2.1.3", {"index.mjs": MS}, exports="./index.mjs")
        for name, value in {**registry.environ(tmp_path), **wheels.environ()}.items():
            if name.startswith(("npm_", "PIP_")):
                monkeypatch.setenv(name, value)
        text, differences = follow(page, following)
    if differences:
        write_golden(page, text)

    assert differences == []


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    """A block that is not run has a reason; at most `MAX_NOT_RUN` of all blocks are not run."""
    blocks = [block for page in PAGES for block in read_blocks(page.read_text(encoding="utf-8"))]
    reasons = [block.reason for block in blocks if block.reason is not None]

    assert len(blocks) > 100
    assert len(reasons) <= MAX_NOT_RUN
    assert [reason for reason in reasons if len(reason.split()) < 3] == []


def test_every_fence_of_a_page_is_read() -> None:
    """No fence is missed because it is indented or never closed."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = len(re.findall(r"^[ >]*`{3,}", text, re.MULTILINE))

        assert fences == 2 * (
            len(read_blocks(text)) + len(re.findall(r"^`{3,}\{(?!code-block)", text, re.MULTILINE))
        ), page


@pytest.mark.parametrize(
    ("shown", "actual", "same"),
    [
        ("one\n...\nfour\n", "one\ntwo\nthree\nfour\n", True),
        ("one\n...\nfour\n", "one\nfour\n", True),
        ("one\n...\n", "two\n", False),
        ("key ... end\n", "key value end\n", True),
        ("Connected apn_AbCdEf1\n", "Connected apn_7GhIjK2\n", True),
        ("Connected apn_AbCdEf1\n", "Removed apn_AbCdEf1\n", False),
        ("✓ read  12.5 ms  |████|\n", "✓ read  1.02 s  |██  |\n", True),
        ("1 passed in 0.51s\n", "2 passed in 0.51s\n", False),
        ("", "unexpected\n", False),
        ("expected\n", "", False),
        ("expected\n", "expected\nand more\n", False),
    ],
)
def test_outputs_are_compared(shown: str, actual: str, same: bool) -> None:
    """Times, ids and what `...` matches may differ, and nothing else."""
    assert matches(shown, actual) is same


@pytest.mark.parametrize(
    ("shown", "actual", "merged"),
    [
        ("a\n...\nold\n", "a\nb\nc\nnew\n", "a\n...\nnew\n"),
        ("a\n...\nd\n", "a\nb\nnew\nd\n", "a\n...\nd\n"),
        ("old\n...\n", "new\nb\n", "new\n...\n"),
        ("a\n", "a\nnew\n", "a\nnew\n"),
        ("...\nd\n...\n", "b\nd\n", "...\nd\n...\n"),
        ("a\n", "", ""),
    ],
)
def test_an_update_keeps_what_a_page_leaves_out(shown: str, actual: str, merged: str) -> None:
    """Where an output has changed, the lines `...` of the page stay, and the rest is the new output."""
    assert merge(shown, actual) == merged
    assert matches(merged, actual)


def test_page_that_shows_another_output_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork_server: ForkServer
) -> None:
    """A wrong output, a wrong exit status and a wrong cell output are differences; the reader's own id replaces a shown one."""
    page = ROOT / "docs" / "made-up.md"
    blocks = read_blocks(
        "```console\n$ echo one\ntwo\n```\n\n```console\n$ (exit 3)\n$ echo $?\n0\n```\n\n"
        "```cell\nprint(1 + 1)\n```\n\n```text\n3\n```\n\n<!-- not run: there is no such program -->\n```console\n$ nope\n```\n"
    )
    with reader(tmp_path, monkeypatch, fork_server) as following:
        outputs = [following.follow(block) for block in blocks if block.reason is None and block.kind != "output"]
        following.remember("apn_AbCdEf1", "apn_7GhIjK2")
        own = following.follow(read_blocks("```console\n$ echo apn_AbCdEf1\n```\n")[0])

    assert not page.exists()
    assert outputs == ["$ echo one\none\n", "$ (exit 3)\n$ echo $?\n3\n", "2\n"]
    assert (blocks[3].kind, blocks[4].reason) == ("output", "there is no such program")
    assert own == "$ echo apn_AbCdEf1\napn_AbCdEf1\n"


def variables_in_code() -> set[str]:
    """The environment variables that the package reads: literals, and the settings that have two prefixes."""
    found = {name for file in PACKAGE.rglob("*.mjs") for name in VARIABLE.findall(file.read_text(encoding="utf-8"))}
    for source in (file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")):
        if not re.search("PDKERNEL_|PIPEDREAM_|read_setting", source):
            continue
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Constant(value=str(text)) if VARIABLE.fullmatch(text):
                    found.add(text)
                case ast.Call(func=ast.Name(id="read_setting"), args=[_, ast.Constant(value=str(name))]):
                    found |= {f"PDKERNEL_{name}", f"PIPEDREAM_{name}"}
    return found - INTERNAL_VARIABLES


def test_environment_variables_are_those_of_the_code() -> None:
    """The page names each variable that the package reads, and no other."""
    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    of_options = set(VARIABLE.findall(option_variables()))

    documented, read = set(VARIABLE.findall(page)), variables_in_code()

    assert read - documented - of_options == set()
    assert documented - read - of_options == set()


def test_reference_has_every_magic_and_error() -> None:
    """The generated pages have each magic that the extension registers, and each error code."""
    magics_page, errors_page = magics(), error_classes()
    texts = [file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py") if "runtimes" not in file.parts]
    codes = {code for text in texts for code in re.findall(r'^    code(?:: \S+)? = "(\w+)"', text, re.MULTILINE)}

    for name in ("%%pdstep", "%%pdworkflow", "%pdrun", "%pduser", "%pdevent", "%pdexport", "%pdserve", "%pdstore"):
        assert f"## `{name}`" in magics_page
    assert "`--save-test NAME`" in magics_page
    assert {"usage", "run_lost", "unknown_step"} <= codes
    assert {code for code in codes - BASE_CODES if f"### `{code}`" not in errors_page} == set()
    assert "Choose another name." in errors_page


def test_schema_table_has_every_key() -> None:
    """The table of `pdkernel.yaml` has keys of each depth, with type and meaning."""
    table = schema()

    for key in ("schema", "triggers[].type", "steps.NAME.accounts.NAME.synced", "limits.throttle.interval"):
        assert f"| `{key}` |" in table


def test_each_guarantee_has_its_test() -> None:
    """Each row of the guarantees names a test that exists."""
    _, *rows = [
        line for line in (DOCS / "reference" / "guarantees.md").read_text().splitlines() if line.startswith("| ")
    ]

    for row in rows:
        named = re.search(r"`(?P<file>[\w/]+\.py)::(?P<test>\w+)` \|$", row)
        assert named is not None, row
        assert f"def {named['test']}(" in (ROOT / "tests" / named["file"]).read_text(), row


def test_layer_picture_is_the_contract() -> None:
    """The picture and the table have the packages of the import contract, the highest layer first."""
    rows, picture, table = layer_rows(), layers_picture(), packages_table()

    assert rows[0] == ["kernel"]
    assert "errors" in rows[-1]
    assert [name for row in rows for name in row if f">{name}</text>" not in picture] == []
    assert [name for row in rows for name in row if not re.search(rf"^\| `{name}` \| \S", table, re.MULTILINE)] == []


def test_readme_is_short() -> None:
    """The README has at most 150 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda page: page.stem
)
def test_links_of_pages_outside_the_documentation_lead_to_files(page: Path) -> None:
    """Each relative link of the page is a file of the checkout; Sphinx checks the links inside `docs/`."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_map_of_changes_leads_to_files() -> None:
    """Each path of the package, the tests and the documentation that CONTRIBUTING names exists, and so does each function beside one."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    *_, table = page.partition("## Where to change what")
    paths = re.findall(r"`((?:pdkernel|tests|docs)/[\w./-]*)`", page)
    named = re.findall(r"`(\w+)`(?: and the heads of `\w+`|, all)? (?:in|of) `(pdkernel/\S+\.py)`", table)

    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists() and not path.endswith("text-upper-case.mjs")] == []
    assert [
        (name, path)
        for name, path in named
        if not re.search(rf"(?:def|class) {name}\b", (ROOT / path).read_text(encoding="utf-8"))
    ] == []
