"""Facts about what steps say without being run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pdkernel.analysis import (
    check_import_complete,
    check_packages,
    check_step_order,
    check_workflow,
    find_app_bindings,
    find_declared_apps,
    find_order_warnings,
    find_step_references,
    find_workflow_variables,
    node_packages,
    responds,
)
from pdkernel.analysis.environment_variables import VariableReferences
from pdkernel.errors import (
    EntryPointError,
    ExpressionError,
    PackageNameError,
    StepOrderError,
    UnknownStepError,
    UnsupportedError,
)
from pdkernel.model import AppBinding, Language, Step, Workflow

PYTHON = "def handler(pd):\n    "
NODE = "export default defineComponent({ async run({ steps, $ }) { "


def python(name: str, body: str = "pass", **more: Any) -> Step:
    """A Python step whose handler's body is *body*."""
    return Step(name, source=PYTHON + body, **more)


def node(name: str, body: str = "", **more: Any) -> Step:
    """A Node.js step whose run's body is *body*."""
    return Step(name, "node", NODE + body + " } })", **more)


def workflow(*steps: Step, **more: Any) -> Workflow:
    """A workflow of *steps*."""
    return Workflow("w", steps=steps, **more)


GO = 'package main\nimport "os"\nfunc main() {}\n'
READERS = [
    python("b", 'return pd.steps["a"]["x"]'),
    python("b", 'return pd.steps.get("a")'),
    python("b", 's = pd.steps\n    return s["a"]'),
    Step("b", source='def handler(p):\n    return p.steps["a"]'),
    Step("b", source='from pipedream.script_helpers import steps\ndef handler(pd):\n    return steps["a"]'),
    node("b", "return steps.a.x"),
    node("b", "return steps['a']"),
    node("b", "const { a } = steps;"),
    Step("b", "go", 'package main\nfunc main() { x := pd.Steps["a"] }'),
    Step(
        "b",
        "go",
        'package main\nimport p "github.com/PipedreamHQ/pipedream-go"\nfunc main() { p.Export("x", p.Steps[`a`]) }',
    ),
    Step("b", "node", uses="k@1.0.0", props={"x": ["{{ steps.a.y }}"]}),
]


@pytest.mark.parametrize("reader", READERS)
def test_reading_a_step_below(reader: Step) -> None:
    """A step that reads a step below it is refused, and one that reads it from below is not."""
    check_step_order(workflow(python("a"), reader))

    with pytest.raises(StepOrderError, match=r"reads steps\.a, which stands below it"):
        check_step_order(workflow(reader, python("a")))


@pytest.mark.parametrize("reader", READERS)
def test_reading_a_step_that_is_not_there(reader: Step) -> None:
    """A step that there is not is named, with those that there are."""
    with pytest.raises(UnknownStepError) as caught:
        check_step_order(workflow(python("c"), reader))

    assert "no such step" in caught.value.message
    assert caught.value.fix == "Steps above it: c."


def test_reading_oneself() -> None:
    """A step cannot read its own exports."""
    with pytest.raises(StepOrderError, match="its own exports"):
        check_step_order(workflow(node("a", "return steps.a")))


def test_order_error_says_where() -> None:
    """The message names the cell and its line."""
    reader = python("b", '\n    x = pd.steps["a"]', cell_index=2, line_offset=1)

    with pytest.raises(StepOrderError) as caught:
        check_step_order(workflow(reader, python("a")))

    assert "Step b (cell 3, line 4)" in caught.value.message
    assert (caught.value.line, caught.value.step) == (4, "b")


@pytest.mark.parametrize(
    "step",
    [
        python("b", 'return pd.steps["trigger"]["event"]'),
        python("b", "name = 'a'\n    return pd.steps[name]"),
        python("b", "\"pd.steps['a']\""),
        python("b", 'steps = {}\n    return steps["a"]'),
        Step("b", source="def handler(pd:"),
        node("b", "return steps.trigger.event"),
        node("b", "// steps.a"),
        Step("b", "bash", "jq .a.x $PIPEDREAM_STEPS"),
        Step("b", "go", GO + '// pd.Steps["a"]\nvar text = `pd.Steps["a"]`\n'),
        node("b", "return steps.a", disabled=True),
    ],
)
def test_nothing_to_refuse(step: Step) -> None:
    """The trigger, computed names, comments, other variables, Bash and disabled steps are left alone."""
    check_step_order(workflow(step, python("a")))


def test_synced_workflow_is_warned_of() -> None:
    """What is stale in a synced workflow is a warning."""
    synced = workflow(node("b", "return steps.gone"), extra={"schema": "workflow/2022.04"})

    check_step_order(synced)

    assert find_order_warnings(synced) == ("Step b (line 1) reads steps.gone, and the workflow has no such step.",)
    assert find_order_warnings(workflow()) == ()


def test_unreadable_prop() -> None:
    """A prop whose expression cannot be read is refused with step and prop."""
    with pytest.raises(ExpressionError, match=r"Step a: the prop x\.0: \{\{steps is never closed"):
        check_workflow(workflow(Step("a", "node", uses="k@1.0.0", props={"x": ["{{steps"]})))


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x = 1",
        "def run(pd): pass",
        "class A:\n    def handler(pd): pass",
        "def f():\n    def handler(pd): pass",
        "# def handler(pd): pass",
    ],
)
def test_no_handler(source: str) -> None:
    """Python code without a top-level handler is refused with one to paste."""
    with pytest.raises(EntryPointError) as caught:
        check_workflow(workflow(Step("a", source=source, line_offset=2, cell_index=0)))

    assert "Step a (cell 1) has no `def handler(pd)`" in caught.value.message
    assert 'def handler(pd: "pipedream"):' in caught.value.fix
    assert caught.value.line == 3


@pytest.mark.parametrize(
    "source",
    [
        PYTHON + "pass",
        "async def handler(pd): pass",
        "handler = lambda pd: 1",
        "handler: object = print",
        "from x import f as handler",
        "try:\n    import x\nexcept ImportError:\n    def handler(pd): pass",
        "if True:\n    def handler(pd): pass",
        "def handler(pd:",
        '"\\d"\ndef handler(pd): pass',
    ],
)
def test_handler(source: str) -> None:
    """A handler may be bound in any way; a syntax error is left to the run."""
    check_workflow(workflow(Step("a", source=source)))


@pytest.mark.parametrize("source", ["", "const x = 1", "export const run = 1", "// export default 1", "x.exports = 1"])
def test_no_default_export(source: str) -> None:
    """Node.js code without a default export is refused with one to paste."""
    with pytest.raises(EntryPointError) as caught:
        check_workflow(workflow(Step("a", "node", source)))

    assert "no default export" in caught.value.message
    assert "export default defineComponent({" in caught.value.fix


@pytest.mark.parametrize(
    "source",
    [
        "export default {}",
        "export default defineComponent({})",
        "const c = {}; export { c as default }",
        "module.exports = {}",
        "module.exports.run = 1",
        "export default {",
    ],
)
def test_default_export(source: str) -> None:
    """A default export, in either module system, is an entry point; a syntax error is left to the run."""
    check_workflow(workflow(Step("a", "node", source)))


def test_no_entry_point_is_asked_of_others() -> None:
    """Bash, actions and disabled steps need none."""
    check_workflow(
        workflow(
            Step("a", "bash", "echo"),
            Step("b", "go", GO),
            Step("c", "node", uses="k@1.0.0"),
            Step("d", disabled=True),
        )
    )


def test_all_problems_at_once() -> None:
    """Every problem is told in one message."""
    with pytest.raises(EntryPointError) as caught:
        check_workflow(workflow(Step("a"), node("b", "return steps.c"), python("c")))

    assert "2 problems" in caught.value.message
    assert "Step a has no" in caught.value.message
    assert "reads steps.c" in caught.value.message


@pytest.mark.parametrize(
    ("language", "source", "required", "optional"),
    [
        ("python", 'os.environ["A"]; os.environ.get("B"); os.getenv("C", "x"); environ["D"]', "AD", "BC"),
        ("python", 'os.environ["A"] = "1"; os.environ["A"]', "", ""),
        ("python", 'if "A" in os.environ: os.environ["A"]', "", ""),
        ("python", 'os.environ.setdefault("A", "1"); os.environ["A"]', "", ""),
        ("python", "# os.environ['A']", "", ""),
        ("node", "f(process.env.A, process.env['B'], `${process.env.C}`)", "ABC", ""),
        ("node", "process.env.A ?? 1; process.env.B || 1; (process.env.C) || 1; x || process.env.D", "D", "ABC"),
        ("node", "if (process.env.A) {} process.env.B ? 1 : 2; !process.env.C; process.env.D === '1'", "", "ABCD"),
        ("node", "process.env.A?.trim(); process.env.B.trim()", "B", "A"),
        ("node", "const { A, B = 1, C: c, D: d = 1 } = process.env", "AC", "BD"),
        ("node", "process.env.A = '1'; process.env.A; process.env.B ||= 1", "", "B"),
        ("node", "if (!process.env.A) throw 1; f(process.env.A)", "", "A"),
        ("bash", "echo $A ${B} \"$C\" ${D:?no} '$E' \\$F # $G", "ABCD", ""),
        ("bash", "echo ${A:-x} ${B-x} ${C:+x} ${D%x}", "D", "ABC"),
        ("bash", "A=1; for B in x; do read -r C; done; echo $A $B $C $PWD $RANDOM $1 $x", "", ""),
        ("bash", ': "${A:=x}"; echo $A', "", "A"),
        ("bash", 'if [ -z "$A" ]; then exit 1; fi; echo $A', "", ""),
        ("bash", 'x="$(jq -r \'.a + $B\' <<< "$A")"', "A", ""),
        ("bash", "cat <<'END'\n$A it's\nEND\ncat <<END\nit's $B\nEND\necho $C", "BC", ""),
        ("go", GO + 'func f() { os.Getenv("A"); os.LookupEnv("B") /* os.Getenv("C") */ }', "A", "B"),
        (
            "go",
            GO + 'func f() { if os.Getenv("A") == "" { panic(1) }; f("" != os.Getenv("B"), os.Getenv("C") == "x") }',
            "C",
            "AB",
        ),
        (
            "go",
            'package main\nimport o "os"\nfunc main() { o.Setenv("A", ""); o.Getenv("A"); o.Getenv("B" + x) }',
            "",
            "",
        ),
    ],
)
def test_variables(language: Language, source: str, required: str, optional: str) -> None:
    """A variable that code cannot do without is told from one that it has a default for."""
    flow = workflow(Step("s", language, source))

    assert "".join(find_workflow_variables(flow)) == required
    assert set(find_workflow_variables(flow, include_optional=True)) >= set(required + optional)


def test_variables_name_their_steps() -> None:
    """Each variable comes with the steps that read it; props count, disabled steps and standard names do not."""
    flow = workflow(
        node("b", "return process.env.TOKEN"),
        Step("a", "node", uses="k@1.0.0", props={"x": "Bearer {{process.env.TOKEN}}"}),
        node("c", "return process.env.OTHER", disabled=True),
        Step("d", "bash", "echo $HOME $PIPEDREAM_STEPS"),
    )

    assert find_workflow_variables(flow) == {"TOKEN": ["b", "a"]}


def test_variables_are_values() -> None:
    """Variables of several pieces of code add up."""
    assert VariableReferences(frozenset("A")) | VariableReferences(
        frozenset("B"), frozenset("C")
    ) == VariableReferences(frozenset("AB"), frozenset("C"))


COMPONENT = """
import x from "x";
export default defineComponent({
  props: {
    chat: { type: "app", app: "slack" },
    "mail-box": { app: 'gmail', type: `app` },
    text: { type: "string" },
    other: imported,
    ["computed"]: { type: "app", app: "no" },
  },
  async run({ steps, $ }) {},
})
"""


def test_declared_apps() -> None:
    """App props written with literals are found without running the code."""
    step = Step("s", "node", COMPONENT, apps=(AppBinding("chat", "slack", "apn_1"),))

    assert find_declared_apps(step) == (AppBinding("chat", "slack"), AppBinding("mail-box", "gmail"))
    assert find_app_bindings(step) == (AppBinding("chat", "slack", "apn_1"), AppBinding("mail-box", "gmail"))
    assert find_declared_apps(Step("s", source=COMPONENT)) == ()


def test_reads_have_lines() -> None:
    """A read in code has its own line, one in a prop the line of the directive."""
    step = node("s", "\nreturn steps.a", line_offset=3, props={"x": "{{steps.b}}"})

    assert find_step_references(step) == {"a": 5, "b": 3}


def test_go_names_apps_by_reading_them() -> None:
    """`pd.Accounts["slack"]` is the external user's, unless the directive says whose."""
    code = GO + 'func f() { pd.Accounts["slack"]["token"]; pd.Accounts["github"]; pd.Accounts[x] }'
    own = AppBinding("slack", "slack", "apn_1")

    assert find_app_bindings(Step("a", "go", code, apps=(own,))) == (own, AppBinding("github", "github"))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step("a", "bash", "echo '{}' > \"$PIPEDREAM_RESPONSE\""), "maybe"),
        (Step("a", "bash", "# $PIPEDREAM_RESPONSE"), "never"),
        (Step("a", "go", GO + "func f() { pd.Respond(200, nil, nil) }"), "maybe"),
        (Step("a", "go", GO + "// pd.Respond(200, nil, nil)"), "never"),
        (Step("a", "node", "$PIPEDREAM_RESPONSE"), "never"),
    ],
)
def test_bash_and_go_steps_that_may_respond(step: Step, expected: str) -> None:
    """A Bash or Go step that names the means to respond may respond; a Node.js step has other means."""
    assert responds(step) == expected


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
    """Literal names, with the version that stands in them, each once; what Node.js brings and files are none."""
    assert [(each.name, each.version, each.line) for each in node_packages(source)] == found


@pytest.mark.parametrize(
    "specifier",
    [
        "evil@../../x",
        "x@..",
        "x@.",
        "x@git+https://host/x",
        "x@file:../x",
        "x@link:../x",
        "x@npm:y@1",
        "x@workspace:*",
        "x@https://host/x.tgz",
        "x@x.tgz",
        "x@x.tar.gz",
        "x@1/../../y",
        "x/../../y",
        "x@--registry=http://host",
        "git+https://user:pa55word@host/x.git",
        "git@host:x",
        "https://host/x.mjs",
        "npm:alias@1",
        "link:../x",
        "workspace:*",
        "left pad",
        " left",
        "",
        "@",
        "@@x",
        "@scope",
        "@../x",
        "@scope/../x",
        "..x",
        ".x",
        "-g",
        "_x",
        "__proto__",
        "x%2f..%2fy",
        "node_modules",
        "\u00e9",
        "a" * 300,
    ],
)
def test_an_import_that_names_no_package_is_refused(specifier: str) -> None:
    """A path, a URL, a link and what npm would look for elsewhere are refused; the message names the step and the line."""
    source = f"import fs from 'fs';\nimport x from {json.dumps(specifier, ensure_ascii=False)};\nexport default {{}}"

    with pytest.raises(PackageNameError, match=r"Step work .*line 2") as caught:
        check_packages(workflow(Step("work", "node", source)))

    assert (caught.value.step, caught.value.line) == ("work", 2)
    assert "pa55word" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "specifier",
    [
        "x",
        "X.y_z-1",
        "@scope/name",
        "@scope/name@^1.2/sub/path.js",
        "x@next",
        "x@1.2.3-beta.1",
        "x@>=1 <2 || 3.x",
        "x@*",
        "fs",
        "fs/promises",
        "node:sqlite",
        "./a.mjs",
        "../b",
        "/c",
        "#d",
        "file:///e",
        "data:text/javascript,1",
    ],
)
def test_an_import_that_can_be_a_package_or_a_file_passes(specifier: str) -> None:
    """Names with versions and sub-paths, what Node.js brings, files and URLs that Node.js loads are taken."""
    source = f"import x from '{specifier}';\nexport default {{}}"

    check_packages(workflow(Step("work", "node", source)))


def test_packages_of_a_disabled_step_are_not_looked_at() -> None:
    """A step that does not run refuses nothing."""
    check_packages(workflow(Step("work", "node", "import x from 'x@..';", disabled=True)))


@pytest.mark.parametrize("name", ["\ud800", "a\udcff"])
def test_a_name_that_is_not_text_is_refused(name: str) -> None:
    """Half a surrogate pair, and a byte of a file's name that is not UTF-8, cannot be recorded."""
    with pytest.raises(UnsupportedError, match="is not text") as caught:
        check_import_complete(Workflow(name, steps=(python("a"),)))

    assert str(caught.value).encode()
