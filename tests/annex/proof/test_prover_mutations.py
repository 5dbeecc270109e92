"""Simulated bugs of an exporter: the proof finds each change of the written files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.annex.proof.report import Proof
from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar
from tests.annex.proof.conftest import Files, Mutation, Notebook, verdicts

HEADER = """%%pdworkflow
name: Orders
trigger:
  type: http
  auth: bearer
  token_env: ORDERS_TOKEN
  response: custom
settings:
  lambda_timeout: 45
  memory: 512
"""
READ = """%%pdstep read --timeout 20
# Ünï code stays: 日本
def handler(pd):
    body = pd.steps["trigger"]["event"]["body"]
    return {"name": body["name"], "items": body["items"], "greeting": "Grüße, 世界 🎉"}
"""
SHAPE = """%%pdstep shape --lang node --app slack=apn_own --prop count=3 --prop 'text="3"' --prop yes="yes" --prop whole={{steps.read.$return_value.items}} --prop ends='"a\\nb\\n"' --prop list='["a", "b", ["c"]]' --prop empty='""' --prop nothing=null --prop on=true --prop 'day="2026-03-01"' --prop 'hours=["12:30"]'
export default defineComponent({
  props: { slack: { type: "app", app: "slack" }, count: { type: "integer" }, text: { type: "string" }, yes: { type: "string" },
    whole: { type: "any" }, ends: { type: "string" }, list: { type: "any" }, empty: { type: "string" }, nothing: { type: "any", optional: true },
    on: { type: "boolean" }, day: { type: "string" }, hours: { type: "string[]" } },
  async run({ steps }) {
    const { count, text, yes, whole, ends, list, empty, nothing, on } = this;
    return { count, text, yes, whole, ends, list, empty, nothing, on, at: new Date().toISOString(), id: crypto.randomUUID() };
  },
});
"""
TELL = """%%pdstep tell --lang bash
echo "name=$(echo $PIPEDREAM_STEPS | head -c 0)said" >> $PIPEDREAM_EXPORTS
printf 'kept=%s\\n' "üñí" >> $PIPEDREAM_EXPORTS
"""
OFF = """%%pdstep off --disabled
def handler(pd):
    raise ValueError("this step is off")
"""
ANSWER = """%%pdstep answer
import random, time, uuid
def handler(pd):
    pd.respond({"status": 201, "headers": {"x-id": str(uuid.uuid4())}, "body": {"at": time.time(), "dice": random.random()}})
    return list({"a", "b", "c"})
"""
CELLS = (HEADER, READ, SHAPE, TELL, OFF, ANSWER)
SIDECAR = Sidecar(
    endpoint="eo123",
    test_users=("ada",),
    test_events=("order", "visit"),
    steps={"answer": StepSidecar(accounts={"github": AccountChoice("external_user")})},
)


def text(path: str, before: str, after: str) -> Mutation:
    """Replace the first *before* in *path* by *after*."""

    def change(files: Files) -> Files:
        found = next(file for file in files if file.path == path)
        assert before in found.text, found.text
        return tuple(
            replace(file, text=file.text.replace(before, after, 1)) if file is found else file for file in files
        )

    return change


def pattern(path: str, before: str, after: str) -> Mutation:
    """Replace the matches of *before* in *path* by *after*."""

    def change(files: Files) -> Files:
        found = next(file for file in files if file.path == path)
        changed = re.sub(before, after, found.text, count=1, flags=re.DOTALL)
        assert changed != found.text, found.text
        return tuple(replace(file, text=changed) if file is found else file for file in files)

    return change


def both(*changes: Mutation) -> Mutation:
    """Apply one change after the other."""

    def change(files: Files) -> Files:
        for each in changes:
            files = each(files)
        return files

    return change


def latin(files: Files) -> Files:
    """Encode the code wrongly, like a writer that reads UTF-8 as Latin-1."""
    return tuple(
        replace(file, text=file.text.encode().decode("latin-1")) if file.path == "read/entry.py" else file
        for file in files
    )


def as_python(files: Files) -> Files:
    """Write a Bash step as Python, in every file with its language."""
    moved = tuple(replace(file, path="tell/entry.py") if file.path == "tell/entry.sh" else file for file in files)
    return both(
        text(WORKFLOW, "./tell/entry.sh", "./tell/entry.py"),
        pattern(BESIDE, r"  tell:\n    language: bash\n    inferred: true\n", ""),
    )(moved)


WORKFLOW = "workflow.yaml"
BESIDE = "pdkernel.yaml"
SEEN_BY_A_RUN: dict[str, Mutation] = {
    "props lost": pattern(WORKFLOW, r"    count: 3\n    text: '3'\n", ""),
    "all props lost": pattern(WORKFLOW, r"  props:\n    slack:.*?(?=- namespace)", ""),
    "steps swapped": pattern(
        WORKFLOW, r"(- namespace: read\n.*?)(- namespace: shape\n.*?)(?=- namespace: tell)", r"\2\1"
    ),
    "disabled lost": text(WORKFLOW, "  disabled: true\n", ""),
    "disabled at another step": both(
        text(WORKFLOW, "  disabled: true\n", ""),
        text(WORKFLOW, "- namespace: answer\n", "- namespace: answer\n  disabled: true\n"),
    ),
    "a text became a number": text(WORKFLOW, "text: '3'", "text: 3"),
    "yes without quotes": text(WORKFLOW, "'yes': 'yes'", "'yes': yes"),
    "a newline at the end lost": pattern(WORKFLOW, r"ends: .*?b\n(?=    list)", 'ends: "a\\\\nb"\n'),
    "a list folded into a text": pattern(WORKFLOW, r"    list:\n    - a\n    - b\n    - - c\n", "    list: a b c\n"),
    "a list within a list flat": text(WORKFLOW, "    - - c\n", "    - c\n"),
    "an empty text became nothing": text(WORKFLOW, "    empty: ''\n", "    empty:\n"),
    "an expression as text": text(WORKFLOW, '"{{steps.read.$return_value.items}}"', "steps.read.$return_value.items"),
    "an expression inside a text": text(
        WORKFLOW, '"{{steps.read.$return_value.items}}"', '" {{steps.read.$return_value.items}}"'
    ),
    "an expression in quotes of its own": text(
        WORKFLOW, '"{{steps.read.$return_value.items}}"', "'\"{{steps.read.$return_value.items}}\"'"
    ),
    "an account swapped": both(text(WORKFLOW, "apn_own", "apn_other"), text(BESIDE, "apn_own", "apn_other")),
    "an account of one's own is the user's": both(
        pattern(WORKFLOW, r"    slack:\n      authProvisionId: apn_own\n", ""), text(BESIDE, "apn_own", "external_user")
    ),
    "a step missing": pattern(WORKFLOW, r"- namespace: tell\n.*?(?=- namespace: 'off')", ""),
    "a step under another name": text(WORKFLOW, "namespace: read\n", "namespace: reads\n"),
    "code of another step": text(WORKFLOW, "./answer/entry.py", "./read/entry.py"),
    "code cut short": pattern("answer/entry.py", r"\n    return list.*", "\n"),
    "unicode in code in another encoding": latin,
    "unicode in code escaped": text("read/entry.py", "世界", r"\\u4e16\\u754c"),
    "another language": as_python,
    "the response is the default": text(BESIDE, "response: custom", "response: default"),
}
SEEN_BY_READING: dict[str, Mutation] = {
    "a number became a text": text(WORKFLOW, "count: 3", "count: '3'"),
    "true became a text": text(WORKFLOW, "    'on': true\n", "    'on': 'true'\n"),
    "a day without quotes": text(WORKFLOW, "day: '2026-03-01'", "day: 2026-03-01"),
    "an hour without quotes": text(WORKFLOW, "'12:30'", "12:30"),
    "a time limit of the workflow lost": pattern(WORKFLOW, r"  lambda_timeout: 45\n", ""),
    "a step's time limit lost": pattern(BESIDE, r"    timeout: 20.*?\n", ""),
    "memory lost": pattern(BESIDE, r"limits:\n  memory: 512\n", ""),
    "the trigger's authorization lost": pattern(BESIDE, r"auth: bearer\n  token_env: ORDERS_TOKEN", "auth: none"),
    "the name changed": text(WORKFLOW, "name: Orders", "name: orders"),
    "the endpoint lost": text(BESIDE, "endpoint: eo123\n", ""),
    "test users lost": pattern(BESIDE, r"test_users:\n- ada\n", ""),
    "test events lost": pattern(BESIDE, r"test_events:\n- order\n- visit\n", ""),
    "a line end added to code": pattern("answer/entry.py", r"\Z", "\n"),
    "line ends changed": pattern("read/entry.py", r"\n", "\r\n"),
    "a comment in another encoding": text("read/entry.py", "日本", "??"),
    "code that is never run on these events": text("off/entry.py", "this step is off", "This step is off"),
    "an alarm switched off": text(WORKFLOW, "error_notification: true", "error_notification: false"),
    "a note added": text(WORKFLOW, "- namespace: read\n", "- namespace: read\n  notes: hm\n"),
    "half a file": pattern(WORKFLOW, r"- namespace: tell.*", '- namespace: "tell'),
}


STORES = """%%pdstep visits --data-store kept=visits
def handler(pd):
    pd.inputs["kept"]["n"] = pd.inputs["kept"].get("n", 0) + 1
    return pd.inputs["kept"]["n"]
"""
GO_ON = """%%pdstep go_on --uses filter-continue-based-on-condition@0.0.2
initialValue: {{steps.visits.$return_value}}
condition: TEXT_EQUALS
secondValue: 1
"""
LAST = "%%pdstep last --lang node --prop n={{steps.visits.$return_value}}\nexport default { props: { n: 'any' }, run() { return this.n } }\n"
OTHER_BUGS: dict[str, Mutation] = {
    "a store lost": pattern(BESIDE, r"steps:\n  visits:\n    stores:\n      kept: visits\n", ""),
    "another store": text(BESIDE, "kept: visits", "kept: default"),
    "an action's prop lost": pattern(WORKFLOW, r"    secondValue: 1\n", ""),
    "an action's prop as another type": text(WORKFLOW, "secondValue: 1", "secondValue: two"),
    "another version of an action": text(WORKFLOW, "@0.0.2", "@9.0.0"),
    "an expression cut short": text(
        WORKFLOW, '    "n": "{{steps.visits.$return_value}}"', '    "n": "{{steps.visits}}"'
    ),
}


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A notebook with a data store and a built-in action."""
    made = Notebook(tmp_path_factory.mktemp("visits"))
    made.write(STORES, GO_ON, LAST)
    made.event("visit")
    yield made
    made.project.close()


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A notebook with Python, Node.js, Bash and disabled steps, props of every kind, and no saved event."""
    made = Notebook(tmp_path_factory.mktemp("orders"))
    made.write(*CELLS, sidecar=SIDECAR)
    yield made
    made.project.close()


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """The same notebook with accounts and an event."""
    made = Notebook(tmp_path_factory.mktemp("orders"))
    made.write(*CELLS, sidecar=SIDECAR)
    for name, user in (("apn_own", None), ("apn_other", None), ("apn_ada", "ada")):
        made.directory.add_account(
            app="slack", credentials={"token": f"made-up-{name}"}, external_user_id=user, account_id=name
        )
    made.directory.add_account(app="github", credentials={"token": "made-up-too"}, external_user_id="ada")
    made.event("order", {"name": "Ada", "items": [1, {"a": None}]})
    yield made
    made.project.close()


def prove(orders: Notebook, folder: Path, change: Mutation | None = None) -> Proof:
    """The proof of the files with *change*, in *folder*."""
    orders.flow = folder / "flow"
    return orders.prove(change) if change else orders.prove()


def test_correct_files_have_no_difference(orders: Notebook, tmp_path: Path) -> None:
    """Correct files have no difference, also with clock and random numbers, and every step that runs is compared."""
    proof = prove(orders, tmp_path)

    assert (proof.verdict, proof.definition_differences) == ("same", ())
    assert verdicts(proof) == {"order/ada": ["same"] * 6}


@pytest.mark.parametrize("name", SEEN_BY_A_RUN)
def test_a_bug_that_a_run_shows(orders: Notebook, tmp_path: Path, name: str) -> None:
    """A bug that changes a step's behaviour is found in the runs and in the definitions."""
    proof = prove(orders, tmp_path, SEEN_BY_A_RUN[name])

    assert proof.verdict == "differs"
    assert proof.definition_differences
    assert all(place.notebook != place.files for place in proof.definition_differences)
    assert any("differs" in row for row in verdicts(proof).values())


@pytest.mark.parametrize("name", SEEN_BY_READING)
def test_a_bug_that_no_run_shows(unseen: Notebook, tmp_path: Path, name: str) -> None:
    """A bug without an effect on a run is found in the definitions."""
    proof = prove(unseen, tmp_path, SEEN_BY_READING[name])

    assert proof.verdict == "differs"
    assert proof.definition_differences


def test_stores_and_actions_are_the_same(visits: Notebook, tmp_path: Path) -> None:
    """A workflow with a data store and an action has no difference."""
    assert verdicts(prove(visits, tmp_path)) == {"visit/": ["same"] * 4}


@pytest.mark.parametrize("name", OTHER_BUGS)
def test_bugs_in_stores_and_actions(visits: Notebook, tmp_path: Path, name: str) -> None:
    """Bugs in stores and actions are found."""
    proof = prove(visits, tmp_path, OTHER_BUGS[name])

    assert proof.verdict == "differs"
    assert proof.definition_differences
    assert "differs" in verdicts(proof)["visit/"]
