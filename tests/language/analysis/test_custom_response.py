"""Steps that send a custom response."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.language.analysis import missing_responses, responds
from pdkernel.model import Step, Trigger, UnsupportedEntry
from tests.builders import a_block, a_workflow, node_step, python_step

GO = 'package main\nimport "os"\nfunc main() {}\n'


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
    """A Bash or Go step that names its response call may respond; a Node.js step with the same text does not."""
    assert responds(step) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pd.respond(200)", "always"),
        ("x = pd.respond(200)", "always"),
        ("with open('a') as f:\n    pd.respond(200)", "always"),
        ("try:\n    x = 1\nfinally:\n    pd.respond(200)", "always"),
        ("try:\n    pd.respond(200)\nexcept ValueError:\n    pass", "maybe"),
        ("if pd:\n    pd.respond(200)", "maybe"),
        ("for _ in []:\n    pd.respond(200)", "maybe"),
        ("while pd:\n    pd.respond(200)", "maybe"),
        ("x = lambda: pd.respond(200)", "maybe"),
        ("x = pd and pd.respond(200)", "maybe"),
        ("x = pd.respond(200) if pd else 1", "maybe"),
        ("def answer():\n    pd.respond(200)", "maybe"),
        ("call(pd.respond)", "maybe"),
        ("return 1", "never"),
    ],
)
def test_python_steps(body: str, expected: str) -> None:
    """A call that no condition, loop or `try` decides about is certain; any other call is possible."""
    assert responds(python_step(body=body)) == expected


def test_only_the_handler_that_runs_counts() -> None:
    """Of two handlers Python calls the last one; a call elsewhere in the module is possible."""
    first, last = "def handler(pd):\n    pd.respond(200)\n", "def handler(pd):\n    return 1\n"

    assert responds(Step("a", "python", last + first)) == "always"
    assert responds(Step("a", "python", first + last)) == "maybe"
    assert responds(Step("a", "python", f"async {first}")) == "always"
    assert responds(Step("a", "python", f"{first}async {last}")) == "maybe"
    assert responds(Step("a", "python", "def helper(pd):\n    pd.respond(200)\n")) == "maybe"
    assert responds(Step("a", "python", "def handler(pd):\n    pd.respond(\n")) == "maybe"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("await $.respond({ status: 200 });", "always"),
        ("const sent = $.respond({ status: 200 });", "always"),
        ("return $.respond({ status: 200 });", "always"),
        ("if (steps) { $.respond({ status: 200 }); }", "maybe"),
        ("steps && $.respond({ status: 200 });", "maybe"),
        ("const x = steps ? $.respond({}) : 1;", "maybe"),
        ("const answer = () => $.respond({});", "maybe"),
        ("steps.a.forEach((item) => $.respond(item));", "maybe"),
        ("for (const item of steps.a) { $.respond(item); }", "maybe"),
        ("try { $.respond({}); } catch (error) { console.log(error); }", "maybe"),
        ("switch (steps.a) { case 1: $.respond(1); break; }", "maybe"),
        ("const answer = function () { $.respond({}); };", "maybe"),
        ("respond({});", "maybe"),
        ("return 1;", "never"),
    ],
)
def test_node_steps(body: str, expected: str) -> None:
    """A call in a statement of `run` is certain; a call in a condition or in another function is possible."""
    assert responds(node_step(body=body)) == expected


def test_a_run_without_braces_responds() -> None:
    """The body of an arrow function is its only statement."""
    assert responds(Step("a", "node", "export default { run: async ({ $ }) => $.respond({}) };")) == "always"


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        ("http-return-http-response@0.0.1", "always"),
        ("http-return-http-response", "never"),
        ("@acme/answer@1.0.0", "maybe"),
        ("slack-send@1.0.0", "never"),
    ],
)
def test_actions(uses: str, expected: str) -> None:
    """One action responds; what a private action does is not known."""
    assert responds(Step("act", uses=uses)) == expected


def test_a_file_that_is_imported_may_respond() -> None:
    """A helper with a call makes the response possible."""
    step = replace(python_step(body="from helper import answer\nanswer(pd)"), files={"helper.py": "def answer(pd):\n    pd.respond(200)\n"})  # fmt: skip

    assert responds(step) == "maybe"
    assert responds(replace(step, files={"data.txt": "respond"})) == "never"


ALWAYS, MAYBE, NEVER = python_step("always", "pd.respond(200)"), python_step("maybe", "if pd:\n    pd.respond(200)"), python_step("never")  # fmt: skip
EXIT = python_step("exit", "pd.flow.exit('done')")
ENDS_ITSELF = python_step("both", "if pd:\n    pd.flow.exit('done')\npd.respond(200)")
FILTER = Step("filter", uses="filter-end-workflow@0.0.1")


@pytest.mark.parametrize(
    ("steps", "missing"),
    [
        ((NEVER, ALWAYS), []),
        ((MAYBE, ALWAYS), []),
        ((NEVER,), [(None, False)]),
        ((), [(None, False)]),
        ((replace(ALWAYS, disabled=True), NEVER), [(None, False)]),
        ((NEVER, MAYBE), [("maybe", False)]),
        ((MAYBE, replace(MAYBE, name="second")), [("second", False)]),
        ((Step("act", uses="@acme/answer@1.0.0"),), []),
        ((Step("shell", "bash", 'echo > "$PIPEDREAM_RESPONSE"'),), []),
        ((EXIT, ALWAYS), [("exit", True)]),
        ((ALWAYS, EXIT), []),
        ((ENDS_ITSELF,), [("both", True)]),
        ((FILTER, ALWAYS), [("filter", True)]),
        ((replace(FILTER, disabled=True), ALWAYS), []),
        ((Step("act", uses="slack-send@1.0.0", source="flow.exit"), ALWAYS), []),
        ((Step("shell", "bash", "flow.exit"), ALWAYS), []),
        ((replace(python_step("calls", "import helper"), files={"helper.py": "flow.exit"}), ALWAYS), [("calls", True)]),
    ],
)
def test_why_a_response_may_be_missing(steps: tuple[Step, ...], missing: list[tuple[str | None, bool]]) -> None:
    """No step responds, the step or one above it may end the workflow, or the only call is in a condition."""
    workflow = a_workflow(*steps, response="custom")

    assert [(each.step and each.step.name, each.ends) for each in missing_responses(workflow)] == missing


def test_a_workflow_that_waits_for_no_response() -> None:
    """Only an HTTP trigger with a custom response waits; control flow may respond in one of its branches."""
    waits = a_workflow(NEVER, response="custom")
    entry = UnsupportedEntry(None, {"namespace": "branch", "type": "ifelse"})

    assert list(missing_responses(a_workflow(NEVER))) == []
    assert list(missing_responses(replace(waits, triggers=(Trigger("email", response="custom"),)))) == []
    assert list(missing_responses(waits.with_unsupported_entries([entry]))) == []
    assert len(list(missing_responses(replace(waits, triggers=(Trigger("email"), *waits.triggers))))) == 1


@pytest.mark.parametrize(
    ("block", "branches", "missing"),
    [
        ("%%pdif b\na: x\nelse:", ("a", "else"), []),
        ("%%pdif b\na: x\nelse:", ("a",), [("r_a", False)]),
        ("%%pdif b\na: x\nb: y", ("a", "b"), [("r_b", False)]),
        ("%%pdswitch b\nexpression: x\na: 1\ndefault:", ("a", "default"), []),
        ("%%pdparallel b\na: x\nb: always", ("b",), []),
        ("%%pdparallel b\na: x\nb: never", ("a",), [("r_a", False)]),
    ],
)
def test_responses_of_branches(block: str, branches: tuple[str, ...], missing: list[tuple[str, bool]]) -> None:
    """A response is certain if every branch of an if or switch with a last branch sends one, or a branch that always runs."""
    steps = tuple(replace(ALWAYS, name=f"r_{branch}", inside=f"b.{branch}") for branch in branches)
    workflow = a_workflow(a_block(block), *steps, response="custom")

    assert [(each.step and each.step.name, each.ends) for each in missing_responses(workflow)] == missing
