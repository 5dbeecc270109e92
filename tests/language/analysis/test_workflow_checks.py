"""Checks of a workflow before a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pdkernel.errors import (
    DirectiveError,
    EntryPointError,
    ExpressionError,
    PackageNameError,
    PdkernelError,
    StepOrderError,
    UnknownStepError,
    UnsupportedError,
)
from pdkernel.files.notebook import NotebookCell, workflow_from_cells
from pdkernel.language.analysis import (
    check_import_complete,
    check_packages,
    check_step_order,
    check_workflow,
    find_blocked_steps,
    find_order_warnings,
    find_reference_errors,
    find_workflow_variables,
)
from pdkernel.model import ROUND_TRIP_KEY, Step, Workflow
from tests.branch_workflows import WORKFLOWS

PYTHON = "def handler(pd):\n    "
NODE = "export default defineComponent({ async run({ steps, $ }) { "


def python(name: str, body: str = "pass", **more: Any) -> Step:
    """A Python step whose handler's body is *body*."""
    return Step(name, source=PYTHON + body, **more)


WRONG_IMPORT = "import x from 'x@..';"


def refusal(check: Callable[[Workflow], object], *steps: Step) -> type[PdkernelError] | None:
    """The error with which *check* refuses a workflow of *steps*, or None."""
    try:
        check(workflow(*steps))
    except PdkernelError as error:
        return type(error)
    return None


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
    """A step that reads a later step is refused; a step that reads an earlier step is not."""
    check_step_order(workflow(python("a"), reader))

    with pytest.raises(StepOrderError, match=r"reads steps\.a, which comes later"):
        check_step_order(workflow(reader, python("a")))


@pytest.mark.parametrize("reader", READERS)
def test_reading_a_missing_step(reader: Step) -> None:
    """The error names the missing step and the earlier steps."""
    with pytest.raises(UnknownStepError) as caught:
        check_step_order(workflow(python("c"), reader))

    assert "no such step" in caught.value.message
    assert (caught.value.fix, caught.value.step) == ("Read an earlier step: c.", "b")
    with pytest.raises(UnknownStepError) as first:
        check_step_order(workflow(reader))
    assert first.value.fix == "Read an earlier step: none."


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("fetch_late", "Did you mean fetch_lately?"),
        (
            "other",
            f"Read an earlier step: fetch_lately, {', '.join(sorted(f's{number}' for number in range(11, 30)))}.",
        ),
    ],
)
def test_a_missing_step_is_compared_with_the_steps_above(name: str, fix: str) -> None:
    """The fix of a message names the nearest of the twenty steps above, or all of them."""
    steps = [python(f"s{number}") for number in range(30)]

    with pytest.raises(UnknownStepError) as caught:
        check_step_order(workflow(*steps, python("fetch_lately"), node("b", f"return steps.{name}"), python("others")))

    assert caught.value.fix == fix


def test_a_step_that_reads_its_own_exports() -> None:
    """A step cannot read its own exports."""
    with pytest.raises(StepOrderError, match="its own exports"):
        check_step_order(workflow(node("a", "return steps.a")))


def test_order_error_names_cell_and_line() -> None:
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
def test_accepted_references(step: Step) -> None:
    """The trigger, computed names, comments, other variables, Bash and disabled steps are accepted."""
    assert refusal(check_step_order, step, python("a")) is None
    assert refusal(check_step_order, step, python("c", 'return pd.steps["a"]'), python("a")) is StepOrderError


def test_stale_reference_of_a_synced_workflow_is_a_warning() -> None:
    """A stale reference in a synced workflow is a warning."""
    synced = workflow(node("b", "return steps.gone"), extra={"schema": "workflow/2022.04"})

    check_step_order(synced)

    assert find_order_warnings(synced) == ("Step b (line 1) reads steps.gone, and the workflow has no such step.",)
    assert find_order_warnings(workflow()) == ()


def test_invalid_expression_of_a_prop() -> None:
    """An invalid expression is refused with step and prop."""
    with pytest.raises(ExpressionError, match=r"Step a: the prop x\.0: \{\{steps is not closed"):
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
    """Python code without a top-level handler is refused, with an example handler as the fix."""
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
    """A handler may be bound in any way; the run reports a syntax error."""
    assert refusal(check_workflow, Step("a", source=source)) is None
    assert refusal(check_workflow, Step("a", source=source), Step("b", source="")) is EntryPointError


@pytest.mark.parametrize("source", ["", "const x = 1", "export const run = 1", "// export default 1", "x.exports = 1"])
def test_no_default_export(source: str) -> None:
    """Node.js code without a default export is refused, with an example export as the fix."""
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
        "exports.default = {}",
        "export default {",
    ],
)
def test_default_export(source: str) -> None:
    """A default export of either module system is an entry point; the run reports a syntax error."""
    assert refusal(check_workflow, Step("a", "node", source)) is None
    assert refusal(check_workflow, Step("a", "node", source), Step("b", "node", "")) is EntryPointError


def test_missing_code_needs_no_entry_point() -> None:
    """A step whose code is missing is refused by the check of an import, and not for its empty code."""
    missing = Step("a", "node", extra={ROUND_TRIP_KEY: {"missing": True}}, line_offset=2)

    assert refusal(check_workflow, missing) is None
    with pytest.raises(EntryPointError, match="has no code: its entry file was missing") as caught:
        check_import_complete(workflow(missing))
    assert (caught.value.step, caught.value.line) == ("a", 3)


def test_component_that_is_not_exported() -> None:
    """The error is at the line of `defineComponent` and names the missing words."""
    step = Step("a", "node", 'import axios from "axios";\n\ndefineComponent({ run() {} });\n', line_offset=1)

    with pytest.raises(EntryPointError) as caught:
        check_workflow(workflow(step))

    assert (caught.value.line, caught.value.fix) == (4, "Write `export default` before `defineComponent`.")


def test_other_steps_need_no_entry_point() -> None:
    """Bash, actions and disabled steps need no entry point."""
    others = [
        Step("a", "bash", "echo"),
        Step("b", "go", GO),
        Step("c", "node", uses="k@1.0.0"),
        Step("d", disabled=True),
    ]

    assert refusal(check_workflow, *others) is None
    assert refusal(check_workflow, *others, Step("e")) is EntryPointError


def test_all_problems_at_once() -> None:
    """One message lists every problem."""
    with pytest.raises(EntryPointError) as caught:
        check_workflow(workflow(Step("a"), node("b", "return steps.c"), python("c")))

    assert "2 problems" in caught.value.message
    assert "Step a has no" in caught.value.message
    assert "reads steps.c" in caught.value.message


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
def test_an_import_of_an_invalid_package_is_refused(specifier: str) -> None:
    """A path, a URL, a link and a source outside the registry are refused; the message names the step and the line."""
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
    """Names with versions and sub-paths, built-in modules, files and URLs that Node.js loads are accepted."""
    source = f"import x from '{specifier}';\nexport default {{}}"

    assert refusal(check_packages, Step("work", "node", source)) is None
    assert (
        refusal(check_packages, Step("work", "node", source), Step("wrong", "node", WRONG_IMPORT)) is PackageNameError
    )


def test_packages_of_a_disabled_step_are_not_checked() -> None:
    """The packages of a disabled step are not checked."""
    refusals = {
        disabled: refusal(check_packages, Step("work", "node", WRONG_IMPORT, disabled=disabled))
        for disabled in (True, False)
    }

    assert refusals == {True: None, False: PackageNameError}


@pytest.mark.parametrize(
    "step",
    [
        Step("work", "node", "\n" + WRONG_IMPORT, line_offset=3),
        Step("work", source="\n# pipedream add-package ./wheel\n", line_offset=3),
    ],
)
def test_the_line_of_a_package_counts_in_the_cell(step: Step) -> None:
    """The line of a wrong package is that of the cell, in the message and in the error."""
    with pytest.raises(PackageNameError, match=r"Step work \(line 5\) ") as caught:
        check_packages(workflow(step))

    assert caught.value.line == 5


def test_an_export_accepts_what_a_synced_workflow_has() -> None:
    """A synced workflow may have invalid expressions and code without an entry point; a run, and another workflow, may not."""
    steps = (Step("a", "node", uses="k@1.0.0", props={"x": "{{steps"}), Step("b", "node", "const x = 1"))
    synced = workflow(*steps, extra={"schema": "workflow/2022.04"})

    check_workflow(synced, to_run=False)

    with pytest.raises(ExpressionError):
        check_workflow(synced)
    with pytest.raises(ExpressionError):
        check_workflow(workflow(*steps), to_run=False)


@pytest.mark.parametrize("name", ["\ud800", "a\udcff"])
def test_a_name_that_is_not_text_is_refused(name: str) -> None:
    """Half a surrogate pair, and a byte of a file's name that is not UTF-8, cannot be recorded."""
    with pytest.raises(UnsupportedError, match="is not text") as caught:
        check_import_complete(Workflow(name, steps=(python("a"),)))

    assert str(caught.value).encode()


def test_steps_that_need_an_unreadable_cell_are_blocked() -> None:
    """Steps that read the exports of an unreadable cell, directly or through another step, are blocked at their line."""
    broken = Step("a", problem=("There is no option --lng.", 1), cell_index=0, execution_count=3)
    direct = python("b", '\n    return pd.steps["a"]', cell_index=1, line_offset=1)
    indirect = Step("c", "bash", "cat $PIPEDREAM_STEPS", cell_index=2)
    free = Step("d", "bash", "true")
    disabled = python("e", 'return pd.steps["a"]', disabled=True)
    flow = workflow(broken, direct, indirect, free, disabled)

    blocked = find_blocked_steps(flow, {"a"})

    assert list(blocked) == ["a", "b", "c"]
    assert blocked["a"] == ("There is no option --lng.", 1)
    assert "needs steps.a, and cell [3], line 1 cannot be read" in blocked["b"][0]
    assert "needs steps.a" in blocked["c"][0]
    assert blocked["b"][1] == 4
    assert find_blocked_steps(flow, set()) == {}


def test_a_definition_with_an_unreadable_cell_is_refused() -> None:
    """An export of a workflow with a cell that cannot be read is refused, and names the cell."""
    broken = Step("a", problem=("There is no option --lng.", 1), cell_index=0)

    with pytest.raises(DirectiveError, match=r"In cell 1, line 1: There is no option --lng\.") as caught:
        check_workflow(workflow(broken), to_run=False)
    assert (caught.value.step, caught.value.line) == ("a", 1)


@pytest.mark.parametrize(
    "source",
    [
        'async (event, steps) => {\n  $end("x")\n}',
        'export default async (event, steps) => { $end("x") }',
        '\n$end("x")',
    ],
)
def test_a_step_of_the_first_version_is_named(source: str) -> None:
    """A step that is written for the first version is refused, with that version, each use, and the line to write instead."""
    with pytest.raises(EntryPointError, match="first version of Pipedream's workflows") as caught:
        check_workflow(Workflow("W", steps=(Step("old", "node", source),)))

    assert "$end" in caught.value.message
    assert 'instead of $end: return $.flow.exit("x")' in str(caught.value)
    assert "--modernize" in str(caught.value)


def test_a_component_with_an_old_call_is_not_refused() -> None:
    """A component that names a function of the first version, perhaps in a branch that never runs, is not refused."""
    source = 'export default defineComponent({ async run() { if (0) $end("x") } })'

    check_workflow(Workflow("W", steps=(Step("mixed", "node", source),)))


def of_cells(*texts: str) -> Workflow:
    """The workflow of these cells."""
    return workflow_from_cells([NotebookCell(text, index=index) for index, text in enumerate(texts)], name="n")


BRANCHES = (
    "%%pdstep check\ndef handler(pd):\n    return 1",
    "%%pdif triage\nurgent: steps.check.$return_value\nelse:",
    "%%pdparallel tell --in triage.urgent\nsms: always\nmail: always",
    "%%pdstep to_sms --in tell.sms\ndef handler(pd):\n    return 1",
    "%%pdstep to_mail --in tell.mail\ndef handler(pd):\n    {to_mail}",
    "%%pdstep close --in triage.urgent\ndef handler(pd):\n    {close}",
    "%%pdstep wait --in triage.else\ndef handler(pd):\n    {wait}",
    "%%pdif last\nyes: {last}",
    "%%pdstep end --lang node\nexport default defineComponent({ async run({ steps }) { return {end} } })",
)


def with_reads(**reads: str) -> Workflow:
    """The workflow with blocks whose steps and condition have *reads*."""
    defaults = {"to_mail": "pass", "close": "pass", "wait": "pass", "last": "1", "end": "1"} | reads
    texts: tuple[str, ...] = BRANCHES
    for name, read in defaults.items():
        texts = tuple(text.replace(f"{{{name}}}", read) for text in texts)
    return of_cells(*texts)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_steps_of_branches_read_what_they_see(name: str) -> None:
    """The steps and conditions of the three workflows read the steps above them, and blocks that have ended."""
    check_workflow(of_cells(*WORKFLOWS[name]))


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        (
            {"end": "steps.close.$return_value"},
            (
                "Step end (cell 9, line 2) reads steps.close, a step of the branch urgent of triage, which does not run for every "
                "event.\nRead the exports of the branch's last step: steps.triage.$return_value"
            ),
        ),
        (
            {"end": "steps.to_sms"},
            (
                "Step end (cell 9, line 2) reads steps.to_sms, a step of the branch urgent of triage, which does not run for every "
                "event.\nRead the exports of the branch's last step: steps.triage.$return_value"
            ),
        ),
        (
            {"close": "return pd.steps['to_sms']"},
            (
                "Step close (cell 6, line 3) reads steps.to_sms, a step of the branch sms of tell, whose exports end with the block."
                "\nRead the exports of the branch's last step: steps.tell.$return_value.sms"
            ),
        ),
        (
            {"to_mail": "return pd.steps['to_sms']"},
            (
                "Step to_mail (cell 5, line 3) reads steps.to_sms, a step of tell.sms, another branch of the same block."
                "\nRead a step above tell, or move to_sms above it."
            ),
        ),
        (
            {"wait": "return pd.steps['to_mail']"},
            (
                "Step wait (cell 7, line 3) reads steps.to_mail, a step of triage.urgent, another branch of the same block."
                "\nRead a step above triage, or move to_mail above it."
            ),
        ),
        (
            {"wait": "return pd.steps['triage']"},
            (
                "Step wait (cell 7, line 3) reads steps.triage, the block around it, whose exports do not exist before it ends."
                "\nRead an earlier step."
            ),
        ),
        ({"last": "steps.close.x > 1"}, "Block last (cell 8, line 2) reads steps.close, a step of the branch urgent"),
        ({"last": "steps.end.x"}, "Block last (cell 8, line 2) reads steps.end, which comes later"),
        ({"last": "steps.last.x"}, "Block last (cell 8, line 2) reads steps.last, its own exports"),
    ],
)
def test_exports_of_other_branches(reads: dict[str, str], message: str) -> None:
    """A read of a step that may not have run is refused before the run, with what to read instead."""
    with pytest.raises(StepOrderError) as caught:
        check_workflow(with_reads(**reads))

    assert str(caught.value).startswith(message)
    assert [str(error) for error, _ in find_reference_errors(with_reads(**reads))] == [str(caught.value)]


def test_the_steps_that_a_branch_sees_are_suggested() -> None:
    """A missing name is compared with the names that the step sees, blocks too."""
    with pytest.raises(UnknownStepError, match=r"(?s)no such step.*mean triage\?"):
        check_workflow(with_reads(end="steps.triag"))
    with pytest.raises(UnknownStepError, match=r"(?s)no such step.*Read an earlier step: check, tell\."):
        check_workflow(with_reads(close="return pd.steps['other']"))


def test_conditions_that_cannot_be_evaluated() -> None:
    """Every wrong condition is named with its block, cell and line, beside wrong reads of the other conditions."""
    workflow = of_cells(
        "%%pdif a\nx: 1 +\ny: {t: and, r: [{op: '~'}]}\nz: steps.b", "%%pdstep b\ndef handler(pd): pass"
    )

    with pytest.raises(ExpressionError) as caught:
        check_workflow(workflow)

    found = caught.value.message.split("\n")
    assert found[0] == "3 problems:"
    assert found[1].startswith(
        "- Block a (cell 1, line 2): x: {{1 +}} does not contain exactly one JavaScript expression."
    )
    assert found[2].startswith(
        "- Block a (cell 1, line 3): y has a rule with the operator '~', which pdkernel does not know."
    )
    assert found[3].startswith("- Block a (cell 1, line 4) reads steps.b, which comes later")


def test_a_synced_workflow_may_not_read_other_branches() -> None:
    """A stale name of a synced workflow is a warning, but the platform, too, has no exports of another branch."""
    read = with_reads(end="[steps.gone, steps.close]")
    synced = Workflow("n", steps=read.steps, blocks=read.blocks, extra={"schema": "x"})

    with pytest.raises(StepOrderError, match=r"^Step end .* reads steps\.close, "):
        check_workflow(synced)

    assert "reads steps.gone, and the workflow has no such step" in find_order_warnings(synced)[0]


def test_variables_of_conditions() -> None:
    """A variable that a condition reads is needed by its block."""
    workflow = of_cells(
        "%%pdswitch a\nexpression: process.env.PLAN\nx: {{process.env.CASE}}", "%%pdif b\ny: process.env.PLAN"
    )

    assert find_workflow_variables(workflow) == {"CASE": ["a"], "PLAN": ["a", "b"]}
