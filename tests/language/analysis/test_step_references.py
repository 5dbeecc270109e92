"""The steps and the environment variables that steps read."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.errors import ExpressionError
from pdkernel.language.analysis import (
    find_app_bindings,
    find_declared_apps,
    find_step_references,
    find_workflow_variables,
    needs_step,
)
from pdkernel.language.analysis.step_references import find_step_variables
from pdkernel.model import AppBinding, Language, Step, Workflow

NODE = "export default defineComponent({ async run({ steps, $ }) { "


def node(name: str, body: str = "", **more: Any) -> Step:
    """A Node.js step whose run's body is *body*."""
    return Step(name, "node", NODE + body + " } })", **more)


def workflow(*steps: Step, **more: Any) -> Workflow:
    """A workflow of *steps*."""
    return Workflow("w", steps=steps, **more)


GO = 'package main\nimport "os"\nfunc main() {}\n'


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
        ("node", "process.env.A && f(1); x && process.env.B", "B", "A"),
        ("node", "const { A, B = 1, C: c, D: d = 1 } = process.env", "AC", "BD"),
        ("node", "process.env.A = '1'; process.env.A; process.env.B ||= 1", "", "B"),
        ("node", "let x = 1; x ||= process.env.A; process.env.B += 'x'", "A", "B"),
        ("node", "if (!process.env.A) throw 1; f(process.env.A)", "", "A"),
        ("bash", "echo $A ${B} \"$C\" ${D:?no} '$E' \\$F # $G", "ABCD", ""),
        ("bash", "echo ${A:-x} ${B-x} ${C:+x} ${D%x}", "D", "ABC"),
        ("bash", "A=1; for B in x; do read -r C; done; echo $A $B $C $PWD $RANDOM $1 $x", "", ""),
        ("bash", ': "${A:=x}"; echo $A', "", "A"),
        ("bash", 'if [ -z "$A" ]; then exit 1; fi; echo $A', "", ""),
        ("bash", 'x="$(jq -r \'.a + $B\' <<< "$A")"', "A", ""),
        ("bash", "cat <<'END'\n$A it's\nEND\ncat <<END\nit's $B\nEND\necho $C", "BC", ""),
        ("bash", "cat <<-'END'\n\t$A\n\tEND\necho $B", "B", ""),
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
    """Variables with a default or a check are optional; other variables are required."""
    found = find_step_variables(Step("s", language, source))

    assert ("".join(sorted(found.required)), "".join(sorted(found.optional))) == (required, optional)


def test_variables_name_their_steps() -> None:
    """Each variable comes with the steps that read it; props count, disabled steps and standard names do not."""
    flow = workflow(
        node("b", "return process.env.TOKEN"),
        Step("a", "node", uses="k@1.0.0", props={"x": "Bearer {{process.env.TOKEN}}"}),
        node("c", "return process.env.OTHER", disabled=True),
        Step("d", "bash", "echo $HOME $PIPEDREAM_STEPS"),
    )

    assert find_workflow_variables(flow) == {"TOKEN": ["b", "a"]}


def test_variables_beside_a_prop_that_cannot_be_read() -> None:
    """The code of a step is read although an expression of its props is invalid, if the caller wants that."""
    flow = workflow(node("a", "return process.env.TOKEN", props={"x": "{{ ( }}"}))

    assert find_workflow_variables(flow, ignore_bad_props=True) == {"TOKEN": ["a"]}
    with pytest.raises(ExpressionError, match=r"Step a.*the prop x"):
        find_workflow_variables(flow)


def test_reads_have_lines() -> None:
    """A read in code has its own line, the first of several; a read in a prop has the line of the directive."""
    step = node("s", "\nreturn steps.a", line_offset=3, props={"x": "{{steps.b}}"})

    python = Step(
        "s", source="def handler(x, /):\n    a = x.steps['a']\n    if a:\n        return x.steps['a']\n", line_offset=1
    )

    other = Step("s", source="def handler(pd, other):\n    return other.steps['a'], pd.steps['b']\n")

    assert find_step_references(step) == {"a": 5, "b": 3}
    assert find_step_references(python) == {"a": 3}
    assert find_step_references(other) == {"b": 2}


@pytest.mark.parametrize(
    ("step", "needs"),
    [
        (node("s", "return steps.a"), True),
        (node("s", "return steps.b"), False),
        (node("s", "return Object.keys(steps)"), True),
        (node("s", "return steps[name]"), True),
        (node("s", "// all steps\n/* of steps */ return 1"), False),
        (Step("s", source="def handler(pd):\n    return pd.steps[name]"), True),
        (Step("s", source="def handler(pd):\n    return pd.steps['b']"), False),
        (Step("s", source="def handler(pd):\n    return getattr(pd, 'steps')"), True),
        (Step("s", "bash", "cat $PIPEDREAM_STEPS"), True),
        (Step("s", "bash", "echo steps.a"), False),
        (Step("s", "go", "package main\nfunc main() { f(pd.Steps) }"), True),
        (Step("s", "go", 'package main\nfunc main() { f(pd.Steps["b"]) }'), False),
        (Step("s", "node", uses="k@1.0.0", props={"x": "{{ steps.a }}"}), True),
        (Step("s", "node", uses="k@1.0.0", props={"x": "{{ steps.b }}"}), False),
        (Step("s", "node", uses="k@1.0.0", props={"x": "{{ steps.b"}), True),
    ],
)  # fmt: skip
def test_a_step_that_may_need_another(step: Step, needs: bool) -> None:
    """A step needs another if it names it, or reads `steps` without a literal name; an unreadable prop may read any step."""
    assert needs_step(step, "a") is needs


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


def test_go_names_apps_by_reading_them() -> None:
    """`pd.Accounts["slack"]` is the external user's account, unless the directive names an account."""
    code = GO + 'func f() { pd.Accounts["slack"]["token"]; pd.Accounts["github"]; pd.Accounts[x] }'
    own = AppBinding("slack", "slack", "apn_1")

    assert find_app_bindings(Step("a", "go", code, apps=(own,))) == (own, AppBinding("github", "github"))


def test_one_account_belongs_to_one_prop() -> None:
    """`--app slack` sets the account of the first prop of that app; a second prop has the external user's account."""
    source = COMPONENT.replace("{ app: 'gmail', type: `app` }", '{ type: "app", app: "slack" }')
    step = Step("s", "node", source, apps=(AppBinding("slack", "slack", "apn_1"),))

    assert find_app_bindings(step) == (AppBinding("chat", "slack", "apn_1"), AppBinding("mail-box", "slack"))
