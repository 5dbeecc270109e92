"""What code and props use of the platform besides props."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.language.analysis import UnreadAnswer, find_answer_readers, find_unread_answers
from pdkernel.language.analysis.platform_uses import PlatformUse, find_hosts, find_platform_uses
from pdkernel.model import Language, Step, StoreBinding, Workflow
from tests.builders import a_block, a_step, a_workflow, bash_step, node_step, python_step


@pytest.mark.parametrize(
    ("body", "uses"),
    [
        ("await $.files.open('a').toUrl()", [PlatformUse("file_store", "", 3)]),
        ("const r = $.flow.rerun(1000, {}, 3)", [PlatformUse("pause", "rerun", 3)]),
        ("await fetch(r.resume_url)", [PlatformUse("resume_url", "", 3)]),
        (
            "const { cancel_url } = $.flow.suspend()",
            [PlatformUse("resume_url", "", 3), PlatformUse("pause", "suspend", 3)],
        ),
        ("return $.flow.trigger('p_abc123', {})", [PlatformUse("workflow", "p_abc123", 3)]),
        ("return $.flow.trigger(id)", [PlatformUse("workflow", "", 3)]),
        ("return steps.trigger.context.attachments['a.csv']", [PlatformUse("attachment", "", 3)]),
        ("return steps.trigger.event.original_event", [PlatformUse("error", "", 3)]),
        ("await fetch(`https://EOabc.m.pipedream.net/x`)", [PlatformUse("endpoint", "eoabc.m.pipedream.net", 3)]),
        ("$.flow.exit('done'); files.open('a'); x.suspend(); steps.a.files; $.other.files", []),
    ],
)
def test_uses_of_node_code(body: str, uses: list[PlatformUse]) -> None:
    """Each use is found by its literal form, with its line."""
    assert list(find_platform_uses(node_step("work", body))) == uses


def test_uses_of_node_props() -> None:
    """Data stores and state that the code declares are found with the name of the prop."""
    props = (
        '{ orders: { label: "Orders", type: "data_store" }, db: "$.service.db", state: { type: "$.service.db" }, '
        'name: "string", [computed]: "$.service.db", shared }'
    )
    step = node_step("work", "return 1", props=props)

    assert [use[:2] for use in find_platform_uses(step)] == [
        ("data_store", "orders"),
        ("source_state", "db"),
        ("source_state", "state"),
    ]


def test_uses_of_imported_files() -> None:
    """Files that the code imports are searched too, and the use names the file."""
    files = {
        "../lib/store.mjs": "export const open = ($) => $.files.open('a');",
        "notes.json": '"https://eoa.m.pipedream.net"',
    }
    step = replace(node_step("work", "return 1"), files=files)

    assert find_platform_uses(step) == (PlatformUse("file_store", "", 1, "../lib/store.mjs"),)


def test_uses_of_python_code() -> None:
    """Python code is read by its syntax tree: comments are not uses."""
    step = python_step(
        "work",
        """
        # pd.files and pd.flow.rerun
        pd.files.open("a")
        url = pd.flow.suspend(1000)["resume_url"]
        return pd.inputs["data_store"]["a"], pd.steps["trigger"]["event"]["original_event"]
        """,
    )

    assert [(use.kind, use.name, use.line) for use in sorted(find_platform_uses(step), key=str)] == [
        ("data_store", "data_store", 5),
        ("error", "", 5),
        ("file_store", "", 3),
        ("pause", "suspend", 4),
        ("resume_url", "", 4),
    ]


def test_a_store_that_the_step_has_is_not_unknown() -> None:
    """A data store prop with a store is not a use without a name."""
    step = python_step("work", 'return pd.inputs["data_store"]["a"]')

    assert [use.kind for use in find_platform_uses(step)] == ["data_store"]
    assert find_platform_uses(replace(step, stores=(StoreBinding("data_store", "ds_1"),))) == ()
    assert find_platform_uses(replace(step, props={"data_store": {"a": 1}})) == ()


def test_uses_of_props() -> None:
    """Texts of an action's props are searched: endpoints, ids of workflows, and values of a failed run."""
    step = a_step(
        """
        %%pdstep go --uses helper_functions-trigger-workflow@0.0.1
        workflowId: p_abc123
        url: https://eoabc.m.pipedream.net
        text: "{{steps.wait.$return_value.resume_url}} {{steps.trigger.event.original_event.body}}"
        files: ["{{steps.trigger.context.attachments['a.csv']}}", {from: "https://eodef.m.d.pipedream.net/x"}]
        """
    )

    assert [use[:2] for use in find_platform_uses(step)] == [
        ("workflow", "p_abc123"),
        ("endpoint", "eoabc.m.pipedream.net"),
        ("resume_url", ""),
        ("error", ""),
        ("attachment", ""),
        ("endpoint", "eodef.m.d.pipedream.net"),
    ]
    assert find_hosts(step) == {"eoabc.m.pipedream.net": None, "eodef.m.d.pipedream.net": None}


def test_endpoints_of_bash_code() -> None:
    """URLs are found in every language."""
    step = bash_step(
        "work",
        "curl https://eoabc.m.pipedream.net\ncurl https://hooks.acme.example/x\ncurl https://Hooks.acme.example/y",
    )

    assert find_platform_uses(step) == (PlatformUse("endpoint", "eoabc.m.pipedream.net", 1),)
    assert find_hosts(step) == {"eoabc.m.pipedream.net": 1, "hooks.acme.example": 2}


def test_the_id_of_a_workflow_in_a_prop() -> None:
    """A prop of an action that is a workflow's id names a started workflow; a prop of code may be any text."""
    action = a_step("%%pdstep next --uses a-b@1.0.0\nworkflow: p_Ab12Cd3\n")

    assert find_platform_uses(action) == (PlatformUse("workflow", "p_Ab12Cd3", None),)
    assert find_platform_uses(node_step("next", options="--prop workflow=p_Ab12Cd3")) == ()


ASK = Step("ask", "python", "def handler(pd):\n    pd.flow.suspend(60000)\n", line_offset=1)
OTHER = Step("other", "node", "export default defineComponent({ async run({ $ }) { return $.flow.suspend() } })")
NODE = "export default defineComponent({{ async run({{ steps, $ }}) {{ {} }} }})"
PYTHON = "def handler(pd):\n    {}\n"
BASH = "#!/bin/bash\n{}\n"
GO = "package main\nfunc main() {{\n\tpd := PD()\n\t{}\n}}\n"
TEMPLATES: dict[Language, str] = {"node": NODE, "python": PYTHON, "bash": BASH, "go": GO}


def workflow(*later: Step) -> Workflow:
    """A workflow whose first two steps suspend the run."""
    return Workflow("w", steps=(ASK, OTHER, *later))


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("node", "if (!steps.ask.$resume_data?.approved) return $.flow.exit()"),
        ("node", 'return steps["ask"]["$resume_data"]'),
        ("node", "const { $resume_data } = steps.ask; return $resume_data"),
        ("node", "const { $resume_data: answer } = steps.ask; return answer.approved"),
        ("node", "const asked = steps.ask; return asked?.$resume_data"),
        ("node", "return decide(steps.ask) } , decide(step) { return step.$resume_data.approved"),
        ("python", 'return pd.steps["ask"]["$resume_data"]["approved"]'),
        ("python", 'return pd.steps["ask"].get("$resume_data")'),
        ("python", 'asked = pd.steps["ask"]\n    return asked["$resume_data"]'),
        ("python", 'return "$resume_data" in pd.steps["ask"]'),
        ("python", 'KEY = "$resume_data"\n    return pd.steps["ask"][KEY]'),
        ("bash", """jq '.ask["$resume_data"].approved' <<< "$PIPEDREAM_STEPS" """),
        ("bash", """jq ".ask[\\"\\$resume_data\\"]" <<< "$PIPEDREAM_STEPS" """),
        ("bash", """jq '.ask | ."$resume_data"' <<< "$PIPEDREAM_STEPS" """),
        ("go", 'answer := pd.Steps["ask"].(map[string]any)["$resume_data"]\n\t_ = answer'),
        ("go", 'ask := pd.Steps["ask"].(map[string]any)\n\t_ = ask["$resume_data"]'),
    ],
)
def test_code_that_reads_the_answer(language: Language, code: str) -> None:
    """A step reads the answer by its path, a variable, a pattern, or a function, in each language; that of another step it does not."""
    reader = Step("pay", language, TEMPLATES[language].format(code))

    assert find_answer_readers(workflow(reader), "ask") == ("pay",)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("node", "return steps.ask.$return_value"),
        ("node", "/* steps.ask.$resume_data */ return steps.ask"),
        ("node", "return 'the $resume_data of steps.ask'"),
        ("node", "return steps.other.$resume_data.note + steps.ask.$return_value"),
        ("python", 'return pd.steps["ask"]["$return_value"]  # not $resume_data'),
        ("python", 'return pd.steps["other"]["$resume_data"], pd.steps["ask"]["$return_value"]'),
        ("python", "return dict(pd.steps)"),
        ("bash", '# .ask[$resume_data]\necho "$PIPEDREAM_STEPS"'),
        ("bash", """jq '.other["$resume_data"], .ask["$return_value"]' <<< "$PIPEDREAM_STEPS" """),
        ("go", '// pd.Steps["ask"]["$resume_data"]\n\t_ = pd.Steps["ask"]'),
        ("go", '_ = pd.Steps["other"].(map[string]any)["$resume_data"]\n\t_ = pd.Steps["ask"]'),
    ],
)
def test_code_that_does_not_read_the_answer(language: Language, code: str) -> None:
    """Comments, texts, other exports and the answers to other steps are not the answer; neither is all of `steps`."""
    reader = Step("pay", language, TEMPLATES[language].format(code))

    assert find_answer_readers(workflow(reader), "ask") == ()


@pytest.mark.parametrize(
    ("props", "reads"),
    [
        ({"text": "{{steps.ask.$resume_data.note}}"}, True),
        ({"options": {"deep": ["{{ steps.ask['$resume_data'] ? 1 : 2 }}"]}}, True),
        ({"text": "{{steps.ask.$return_value}}"}, False),
        ({"text": "steps.ask.$resume_data"}, False),
        ({"text": "{{steps.other.$resume_data}}"}, False),
    ],
)
def test_props_that_read_the_answer(props: dict[str, object], reads: bool) -> None:
    """An expression in a prop of code or of an action reads the answer; text outside of `{{ }}` does not."""
    action = Step("post", "node", uses="slack-send-message@0.0.1", props=props)  # type: ignore[arg-type]
    code = replace(action, name="code", uses=None, source=NODE.format(""))

    assert find_answer_readers(workflow(action, code), "ask") == (("post", "code") if reads else ())


def test_only_later_enabled_steps_count() -> None:
    """A step above, the step itself, a disabled step and an unknown name read no answer."""
    reads = Step("early", "python", PYTHON.format('return pd.steps["ask"]["$resume_data"]'))
    disabled = replace(reads, name="off", disabled=True)

    assert find_answer_readers(Workflow("w", steps=(reads, ASK, disabled)), "ask") == ()
    assert find_answer_readers(workflow(reads), "unknown") == ()


def test_unread_answers() -> None:
    """Each suspend whose answer no later step reads is found, with its line; a delay and a disabled step are not."""
    delay = Step("delay", "python", PYTHON.format("pd.flow.delay(1)"))
    disabled = replace(ASK, name="off", disabled=True)
    reads = Step("pay", "node", NODE.format("return steps.other.$resume_data"))

    assert find_unread_answers(workflow(delay, disabled, reads)) == (UnreadAnswer("ask", 3),)
    assert [each.step for each in find_unread_answers(workflow())] == ["ask", "other"]


def test_a_condition_reads_an_answer() -> None:
    """The condition of a block below reads the answer, and so does a step in the block."""
    block = a_block("%%pdif approved\nyes: steps.ask.$resume_data.ok\nelse:")
    with_block = a_workflow(
        ASK, block, python_step("other", "return pd.steps['ask']['$resume_data']", options="--in approved.yes")
    )

    assert find_answer_readers(with_block, "ask") == ("approved", "other")
    assert "ask" not in [each.step for each in find_unread_answers(with_block)]
