"""Completion in step cells: a `|` in a cell marks the cursor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from IPython.core.completer import provisionalcompleter

from pdkernel.kit.magics.completion import (
    MAX_INDEX_ITEMS,
    MAX_KEY_ITEMS,
    NO_COMPLETION,
    Vocabulary,
    complete_cell,
    register_matchers,
)
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.model import JSON

STEPS: dict[str, JSON] = {
    "trigger": {
        "event": {
            "method": "POST",
            "headers": {"host": "example.com", "x-github-event": "issues"},
            "body": {"action": "opened", "issue": {"title": "It fails", "labels": [{"name": "bug"}, {"color": "red"}]}},
        },
        "context": {"id": "run_1"},
    },
    "shape": {"$return_value": {"title": "It fails"}, "it's": 1},
    "build": {"text": "..."},
}
WORDS = Vocabulary(
    apps=("slack", "github"),
    accounts={"slack": ("apn_1", "apn_2")},
    stores=("seen",),
    actions=("http-request@0.1.0",),
    steps=("shape", "send"),
)

REPEATABLE = ["--app", "--data-store", "--prop"]
REST = ["--uses", "--in", "--timeout", "--disabled", "--debug", "--no-run"]

NODE = "%%pdstep new --lang node\n"
PYTHON = "%%pdstep new\n"
YAML = "%%pdstep new --uses slack-send-message@0.0.1\n"
GO = "%%pdstep new --lang go\n"
BASH = "%%pdstep new --lang bash\n"


def offered(marked: str) -> tuple[str, list[str]] | None:
    """The fragment and the texts for a cell with a marked cursor; None if IPython completes alone."""
    cursor = marked.index("|")
    found = complete_cell(marked.replace("|", "", 1), cursor, STEPS, WORDS)
    return None if found is None else (found.fragment, [item.text for item in found.items])


@pytest.mark.parametrize(
    ("code", "fragment", "texts"),
    [
        ("return steps.|", "", ["trigger", "shape", "build"]),
        ("return steps.tr|", "tr", ["trigger"]),
        ("return steps.trigger.event.bo|", "bo", ["body"]),
        ("return steps?.trigger?.event?.bo|", "bo", ["body"]),
        ("return `Hello ${steps.trigger.event.body.issue.t|}`", "t", ["title"]),
        ("steps.trigger\n  .event\n  .|", "", ["method", "headers", "body"]),
        ("steps['trigger'][\"event\"].me|", "me", ["method"]),
        ("steps.trigger.event.headers.|", ".", [".host", '["x-github-event"]']),
        ("steps.trigger.event.headers.x|", ".x", ['["x-github-event"]']),
        ("steps.trigger.event.headers?.|", "?.", ["?.host", '?.["x-github-event"]']),
        ("steps.trigger.event.headers[|", "", ['"host"]', '"x-github-event"]']),
        ("steps.trigger.event.headers[|]", "", ['"host"', '"x-github-event"']),
        ('steps.trigger.event.headers["x|', "x", ['x-github-event"]']),
        ("steps.trigger.event.headers['x|']", "x", ["x-github-event"]),
        ("steps.shape['it|", "it", ["it\\'s']"]),
        ("steps.trigger.event.body.issue.labels[|", "", ["0]", "1]"]),
        ("steps.trigger.event.body.issue.labels.|", ".", ["[0]", "[1]"]),
        ("steps.trigger.event.body.issue.labels[1].|", "", ["color"]),
        ("steps.trigger.event.body.issue.labels[i].|", "", ["name"]),
        ("steps.trigger.event.body.issue.labels[2].|", "", ["name"]),  # past the end
        ("steps.shape.$r|", "$r", ["$return_value"]),
        ("const x = st|", "st", ["steps"]),
        ("$.|", "", ["context", "export", "flow", "respond"]),
        ("return $.flow.e|", "e", ["exit"]),
    ],
)
def test_node_paths(code: str, fragment: str, texts: list[str]) -> None:
    """A path into `steps` in JavaScript is completed from the values, with unusual keys and indexes in brackets."""
    assert offered(NODE + code) == (fragment, texts)


@pytest.mark.parametrize(
    "code", ["mysteps.|", "this.steps.|", "steps.unknown.|", "steps.trigger.event.method.|", "|", "import os; os.|"]
)
def test_node_silence(code: str) -> None:
    """JavaScript without a path into `steps` has no completions, also no Python names."""
    assert offered(NODE + code) == ("", [])


@pytest.mark.parametrize(
    ("code", "fragment", "texts"),
    [
        ("x = pd.steps[|", "", ['"trigger"]', '"shape"]', '"build"]']),
        ('x = pd.steps["|', "", ['trigger"]', 'shape"]', 'build"]']),
        ('x = pd.steps["tr|"]', "tr", ["trigger"]),
        ("x = pd.steps['tr|]", "tr", ["trigger'"]),
        ('x = pd.steps["trigger"]["event"]["b|', "b", ['body"]']),
        ('x = pd.steps["trigger"]["event"]["body"]["issue"]["labels"][|', "", ["0]", "1]"]),
        ('x = pd.steps["trigger"]["event"]["body"]["issue"]["labels"][0]["|"]', "", ["name"]),
        ("pd.st|", "st", ["steps"]),
        ("return pd.flow.|", "", ["exit"]),
    ],
)
def test_python_paths(code: str, fragment: str, texts: list[str]) -> None:
    """A path into `pd.steps` in Python is completed by key, with the missing quote and bracket."""
    assert offered(PYTHON + code) == (fragment, texts)


@pytest.mark.parametrize("code", ["import js|", 'x = steps["|', "x = other.|", 'd = {}\nd["|'])
def test_python_is_left_to_ipython(code: str) -> None:
    """Other Python code in a step is completed by IPython itself."""
    assert offered(PYTHON + code) is None


@pytest.mark.parametrize(
    ("cell", "fragment", "texts"),
    [
        (YAML + "text: Hello {{ steps.build.|", "", ["text"]),
        (YAML + "text: Hello {{ steps.build.| }}", "", ["text"]),
        (YAML + "text: {{|", "", ["steps", "process.env"]),
        (YAML + "text: {{ st|", "st", ["steps"]),
        (YAML + "text: {{ steps.a }} {{ steps.trigger.event.headers['x|", "x", ["x-github-event']"]),
        ('%%pdstep new --prop text="Hi {{ steps.build.|', "", ["text"]),
        ("%%pdstep new --prop text={{steps.bu|}}", "bu", ["build"]),
        (YAML + "text: Hello st|", "", []),
        (YAML + "text: {{ steps.build.text }} steps.|", "", []),
    ],
)
def test_templates(cell: str, fragment: str, texts: list[str]) -> None:
    """Inside `{{ }}`, and only there, YAML props and `--prop` values are completed as JavaScript."""
    assert offered(cell) == (fragment, texts)


@pytest.mark.parametrize(
    ("code", "fragment", "texts"),
    [
        ("cat $P|", "P", ["PIPEDREAM_STEPS", "PIPEDREAM_EXPORTS", "PIPEDREAM_ACCOUNTS", "PIPEDREAM_RESPONSE"]),
        ('cat "${PIPEDREAM_E|', "PIPEDREAM_E", ["PIPEDREAM_EXPORTS"]),
        ("jq -r .trigger.event.body.issue.t|", "t", ["title"]),
        ("jq -r '.trigger.event.headers[\"x|", "x", ['x-github-event"]']),
        ("jq -r .trigger.event.body.|", "", ["action", "issue"]),
        ("jq -n '\n  {\n    title: .trigger.event.body.issue.t|", "t", ["title"]),
        ("jq '.a' x && jq -r '.trigger.event.body.issue.labels[0].|", "", ["name"]),
        ('x="$(jq -r .build.|', "", ["text"]),
        ("jq '.a' x\ncat .trigger.|", "", []),
        ("jq '.a\n' x\ncat .trigger.|", "", []),
        ("ls /et|", "", []),
        ("im|", "", []),
        ("cat .|", "", []),
    ],
)
def test_bash(code: str, fragment: str, texts: list[str]) -> None:
    """A Bash step is offered its files and jq's paths, and no Python names."""
    assert offered(BASH + code) == (fragment, texts)


@pytest.mark.parametrize(
    ("code", "fragment", "texts"),
    [
        ('x := pd.Steps["|', "", ['trigger"]', 'shape"]', 'build"]']),
        ("x := pd.Steps[|", "", ['"trigger"]', '"shape"]', '"build"]']),
        ('pd.Steps["trigger"].(map[string]interface{})["e|', "e", ['event"]']),
        (
            'pd.Steps["trigger"].(map[string]any)["event"].(map[string]any)["body"].(map[string]any)["a|',
            "a",
            ['action"]'],
        ),
        ("pd.E|", "E", ["Export"]),
        ("fmt.|", "", []),
        ("im|", "", []),
    ],
)
def test_go(code: str, fragment: str, texts: list[str]) -> None:
    """A Go step is offered the steps' names, paths through type assertions, and what `pd` has."""
    assert offered(GO + code) == (fragment, texts)


@pytest.mark.parametrize(
    ("line", "fragment", "texts"),
    [
        ("|", "", ["shape", "build", "send"]),
        ("sh|", "sh", ["shape"]),
        ("a --lang |", "", ["python", "node", "bash", "go"]),
        ("a --lang=n|", "n", ["node"]),
        ("a --l|", "--l", ["--lang"]),
        ("a --lang node |", "", [*REPEATABLE, *REST]),
        ("a --lang node --app slack --|", "--", [*REPEATABLE, *REST]),
        ("a --app s|", "s", ["slack"]),
        ("a --app chat:s|", "s", ["slack"]),
        ("a --app slack=|", "", ["apn_1", "apn_2"]),
        ("a --app=chat:slack=apn_2|", "apn_2", ["apn_2"]),
        ("a --data-store store=|", "", ["seen"]),
        ("a --uses h|", "h", ["http-request@0.1.0"]),
        ("a --prop channel=|", "", []),
        ("--lang node |", "", ["shape", "build", "send"]),
    ],
)
def test_directive(line: str, fragment: str, texts: list[str]) -> None:
    """The directive's line offers step names, options not yet given, and their values."""
    assert offered(f"# about this step\n%%pdstep {line}\npass") == (fragment, texts)


def test_steps_below_are_not_offered() -> None:
    """A step that has run is offered only the steps above."""
    assert offered("%%pdstep shape --lang node\nsteps.|") == ("", ["trigger"])


@pytest.mark.parametrize(
    "cell", ["import o|", "%%bash\nsteps.|", "x = 1\n%%pdstep a\nsteps.|", "%%pdst|", "# steps.|\n%%pdstep a"]
)
def test_other_cells_are_completed_by_ipython(cell: str) -> None:
    """IPython completes cells without a directive, and the lines above a directive."""
    assert offered(cell) is None


def test_workflow_header_is_silent() -> None:
    """A `%%pdworkflow` cell is YAML and gets no Python names."""
    assert complete_cell("%%pdworkflow\nna", 15, STEPS, WORDS) == NO_COMPLETION


def test_long_values_are_shortened() -> None:
    """Of a long list the first indexes are offered, of a long object the first keys."""
    steps: dict[str, JSON] = {"a": {"list": list(range(20)), "keys": {f"k{number}": 1 for number in range(300)}}}

    for path, count in (("list[", MAX_INDEX_ITEMS), ("keys.", MAX_KEY_ITEMS)):
        cell = f"%%pdstep b --lang node\nsteps.a.{path}"
        found = complete_cell(cell, len(cell), steps, WORDS)
        assert found is not None
        assert len(found.items) == count


def test_completions_have_the_type_of_the_value() -> None:
    """Each key has the type of its value for the front end."""
    values: dict[str, JSON] = {"s": "", "b": True, "i": 1, "f": 1.5, "l": [], "o": {}, "n": None}
    cell = f"{NODE}steps.a."

    found = complete_cell(cell, len(cell), {"a": values}, WORDS)

    assert found is not None
    types = ["string", "boolean", "number", "number", "list", "object", "null"]
    assert [item.type for item in found.items] == types


# ── the matcher in a real IPython shell ─────────────────────────────────────────────────────────────────


SHELL_STEPS: dict[str, JSON] = {"trigger": {"event": {"body": {"title": "x", "a-b": 1}}}}


def completions(shell: Any, text: str) -> list[str]:
    """The completions of the shell at the end of *text*, as whole lines' ends."""
    with provisionalcompleter():
        return [
            f"{text[: found.start]}{found.text}".rsplit("\n", 1)[-1]
            for found in shell.Completer.completions(text, len(text))
        ]


def test_paths_come_from_the_provider(shell: Any) -> None:
    """The provider that was registered last supplies the completions, with odd keys in brackets."""
    register_matchers(shell, lambda: {"other": {}})
    register_matchers(shell, lambda: SHELL_STEPS)

    assert completions(shell, "# c\n%%pdstep a --lang node\nsteps.trigger.event.body.") == [
        "steps.trigger.event.body.title",
        'steps.trigger.event.body["a-b"]',
    ]


def test_python_names_stay_out_of_bash(shell: Any) -> None:
    """A Bash body gets no Python name, magic or file; a Python body has IPython's own completion; a directive has options."""
    assert completions(shell, "%%pdstep a --lang bash\nimp") == []
    assert completions(shell, "%%pdstep a --lang bash\nls /et") == []
    assert "import" in completions(shell, "%%pdstep a\nimpor")
    assert completions(shell, "%%pdstep a --la") == ["%%pdstep a --lang"]


def test_failing_provider_is_silent(shell: Any, capsys: Any) -> None:
    """A failing provider adds no words and prints nothing."""

    def broken() -> NoReturn:
        raise RuntimeError("no")

    register_matchers(shell, broken, broken)

    assert completions(shell, "%%pdstep a --lang node\nsteps.") == []
    assert completions(shell, "%%pdstep a --lang n") == ["%%pdstep a --lang node"]
    assert capsys.readouterr() == ("", "")


def test_providers_are_called_only_if_needed(shell: Any) -> None:
    """Plain cells call no provider; a step's body does not call the directive's provider."""
    asked: list[str] = []

    def steps() -> dict[str, JSON]:
        asked.append("steps")
        return SHELL_STEPS

    def words() -> Vocabulary:
        asked.append("words")
        return Vocabulary()

    register_matchers(shell, steps, words)

    completions(shell, "import o")
    completions(shell, "%%pdstep a --lang node\nsteps.")
    assert asked == ["steps"]


def test_steps_above_are_offered_before_they_run(shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extension's provider offers the steps of registered cells."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second", "third"):
        get_session(shell).record_cell(f"%%pdstep {name}\ndef handler(pd): ...", cell_id=None)

    assert completions(shell, "%%pdstep second --lang node\nsteps.") == ["steps.trigger", "steps.first"]


def test_the_words_of_a_notebook(shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extension's provider offers actions with their versions, apps, the author's own accounts, and data stores."""
    monkeypatch.chdir(tmp_path)
    session = get_session(shell)
    own, _ = [
        session.directory.add_account(app="slack", credentials={"oauth_access_token": "xoxb-1"}, external_user_id=owner)
        for owner in (None, "ada")
    ]
    session.project.data_stores.set("seen", "k", 1)

    actions = completions(shell, "%%pdstep a --uses http-get-")
    others = [completions(shell, f"%%pdstep a {text}") for text in ("--app sla", "--app slack=", "--data-store seen=s")]

    assert [re.sub(r"[\d.]+$", "VERSION", each) for each in actions] == ["%%pdstep a --uses http-get-request@VERSION"]
    assert others == [
        ["%%pdstep a --app slack"],
        [f"%%pdstep a --app slack={own.id}"],
        ["%%pdstep a --data-store seen=seen"],
    ]


SCOPES: Mapping[str, tuple[str, ...]] = {"page": ("shape",), "triage": ("shape", "build")}
"""What two cells see: `page` is in a branch, so a step of another branch above it is left out."""


@pytest.mark.parametrize(
    ("cell", "fragment", "texts"),
    [
        ("%%pdstep page --in triage.urgent --lang node\nsteps.|", "", ["trigger", "shape"]),
        ("%%pdif triage\nurgent: steps.|", "", ["trigger", "shape", "build"]),
        ("%%pdif triage\nurgent: steps.trigger.event.body.a|", "a", ["action"]),
        ("%%pdif triage\nurgent: ste|", "ste", ["steps"]),
        ("%%pdif triage\nurgent: process.|", "", []),
        ("%%pdswitch new\nexpression: steps.|", "", ["trigger", "shape", "build"]),
        ("%%pdparallel triage --|", "--", ["--in"]),
        ("%%pdparallel triage --in tr|", "tr", ["triage.urgent", "triage.else"]),
        ("%%pdstep page --in triage.u|", "triage.u", ["triage.urgent"]),
    ],
)
def test_scope_of_branches(cell: str, fragment: str, texts: list[str]) -> None:
    """A step or condition is offered the exports that it sees, and the branches of the notebook after `--in`."""
    cursor = cell.index("|")
    words = replace(WORDS, branches=("triage.urgent", "triage.else"))

    found = complete_cell(cell.replace("|", ""), cursor, STEPS, words, SCOPES.get)

    assert found is not None
    assert (found.fragment, [item.text for item in found.items]) == (fragment, texts)
