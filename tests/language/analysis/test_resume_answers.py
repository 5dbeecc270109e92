"""The steps that read the answer to a suspend, and the answers that no step reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.language.analysis import UnreadAnswer, find_answer_readers, find_unread_answers
from pdkernel.model import Language, Step, Workflow

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
