"""The values of `pdkernel.yaml` applied to a workflow."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pdkernel.errors import NotebookError, RequestError
from pdkernel.files.definition import apply_sidecar, get_notebook_sidecar_path
from pdkernel.files.definition.sidecar import (
    EXTERNAL_USER,
    FILE_FIELDS,
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    _fulfils,
    build_sidecar_mapping,
    dump_sidecar,
    load_sidecar_schema,
    merge_sidecars,
    parse_sidecar,
    read_sidecar,
)
from pdkernel.model import JSON, AppBinding, Step, StoreBinding, Trigger, Workflow
from tests.files.definition.builders import NODE, PYTHON


def applied(step: Step, entry: StepSidecar) -> Step:
    """*step* with the values of *entry*."""
    return apply_sidecar(Workflow("W", steps=(step,)), Sidecar(steps={step.name: entry})).steps[0]


def asking(account: str, *, disabled: bool = False) -> tuple[Workflow, Sidecar]:
    """A workflow with an app prop, and the file that has *account* for it."""
    step = Step("send", "node", NODE, disabled=disabled)
    return Workflow("W", steps=(step,)), Sidecar(
        steps={"send": StepSidecar(accounts={"slack": AccountChoice(account)})}, path=Path("here/w.pdkernel.yaml")
    )


def test_settings_of_the_workflow_win() -> None:
    """A limit of the file applies only if the workflow has no such setting."""
    workflow = Workflow("W", settings={"memory": 256})

    found = apply_sidecar(workflow, Sidecar(limits={"memory": 512, "queue": 3}))

    assert found.settings == {"memory": 256, "queue": 3}


def test_variables_of_both_are_kept() -> None:
    """The variables of the workflow come first, each once."""
    found = apply_sidecar(Workflow("W", variables=("B", "A")), Sidecar(variables=("A", "C")))

    assert found.variables == ("B", "A", "C")


def test_triggers_of_the_workflow_win() -> None:
    """The triggers of the file are for a workflow that names none."""
    email, timer = Trigger("email"), Trigger("schedule", config={"cron": "0 9 * * *"})

    assert apply_sidecar(Workflow("W"), Sidecar(triggers=(email, timer))).triggers == (email, timer)
    assert apply_sidecar(Workflow("W", triggers=(timer,)), Sidecar(triggers=(email,))).triggers == (timer,)
    assert apply_sidecar(Workflow("W"), Sidecar()).triggers == (Trigger(),)


@pytest.mark.parametrize(("of_cell", "of_file", "found"), [(None, 5.0, 5.0), (3.0, 5.0, 3.0), (3.0, None, 3.0)])
def test_the_time_limit_of_the_cell_wins(of_cell: float | None, of_file: float | None, found: float) -> None:
    """A time limit of the file applies only if the cell has none."""
    step = Step("a", source=PYTHON, timeout_s=of_cell)

    assert applied(step, StepSidecar(timeout_s=of_file)).timeout_s == found


def test_accounts_and_stores_of_the_cell_win() -> None:
    """Choices of the file are added for the props that the cell does not name."""
    step = Step(
        "a",
        source=PYTHON,
        apps=(AppBinding("slack", "slack", "apn_cell"), AppBinding("gh", "github")),
        stores=(StoreBinding("seen", "cell"),),
    )
    entry = StepSidecar(
        accounts={
            "slack": AccountChoice("apn_file"),
            "gh": AccountChoice("apn_file"),
            "mail": AccountChoice("apn_file", "gmail", "apn_git"),
        },
        stores={"seen": "file", "kept": None},
    )

    found = applied(step, entry)

    assert found.apps == (
        AppBinding("slack", "slack", "apn_cell"),
        AppBinding("gh", "github"),
        AppBinding("mail", "gmail", "apn_file"),
    )
    assert found.stores == (StoreBinding("seen", "cell"), StoreBinding("kept"))


@pytest.mark.parametrize(
    ("choice", "app"),
    [
        (AccountChoice("apn_1"), AppBinding("chat", "slack", "apn_1")),
        (AccountChoice("apn_1", "slack_bot"), AppBinding("chat", "slack_bot", "apn_1")),
        (AccountChoice(EXTERNAL_USER), AppBinding("chat", "slack")),
    ],
)
def test_the_app_of_a_choice(choice: AccountChoice, app: AppBinding) -> None:
    """A choice without an app is for the app that the code declares for the prop."""
    step = Step("a", "node", NODE.replace("slack:", "chat:"))

    assert applied(step, StepSidecar(accounts={"chat": choice})).apps == (app,)


def test_an_unanswered_account_is_refused() -> None:
    """A run is refused with the file, the step and the prop; a caller that runs nothing, and a disabled step, are not."""
    workflow, sidecar = asking(UNANSWERED)

    with pytest.raises(RequestError, match=r"w\.pdkernel\.yaml: steps\.send\.accounts\.slack is unanswered"):
        apply_sidecar(workflow, sidecar)
    with pytest.raises(RequestError, match=r"^pdkernel\.yaml: steps\.send"):
        apply_sidecar(workflow, replace(sidecar, path=None))

    assert apply_sidecar(workflow, sidecar, unanswered_policy="keep").steps[0].apps == (AppBinding("slack", "slack"),)
    assert apply_sidecar(*asking(UNANSWERED, disabled=True)).steps[0].apps == (AppBinding("slack", "slack"),)
    assert apply_sidecar(*asking("apn_1")).steps[0].apps == (AppBinding("slack", "slack", "apn_1"),)


def test_no_file_changes_nothing() -> None:
    """Without a file, and for a step that the file does not name, the workflow stays."""
    workflow = Workflow("W", steps=(Step("a", source=PYTHON),), settings={"memory": 256})

    assert apply_sidecar(workflow, None) is workflow
    assert apply_sidecar(workflow, Sidecar(steps={"b": StepSidecar(timeout_s=1)})) == workflow


def test_the_file_beside_a_notebook() -> None:
    """The file has the name of the notebook."""
    assert get_notebook_sidecar_path(Path("flows/a.b.ipynb")) == Path("flows/a.b.pdkernel.yaml")


SCHEMA = load_sidecar_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
COMPLETE: dict[str, JSON] = {
    "schema": "pdkernel/1",
    "workflow": "Greet",
    "endpoint": "eo1-a",
    "triggers": [
        {"type": "http", "auth": "none"},
        {"type": "schedule", "id": "dc_1", "cron": "0 * * * *", "for_each": {"external_user": ["ada"], "at_once": 3}},
    ],
    "steps": {
        "read": {"language": "bash", "inferred": True, "timeout": 1.5, "stores": {"seen": None, "kept": "Kept"}},
        "post": {
            "accounts": {"slack": "external_user", "gh": {"account": "apn_1", "app": "github", "synced": "apn_2"}}
        },
    },
    "control_flow": [
        {
            "name": "triage",
            "type": "switch",
            "expression": "steps.read.x",
            "after": "read",
            "notes": "Why",
            "extra": {"id": 1},
            "branches": [{"name": "a", "condition": [1], "steps": ["post"]}, {"name": "default", "runs": "always"}],
        }
    ],
    "limits": {
        "memory": 512,
        "concurrency": 1,
        "throttle": {"limit": 0, "interval": 1},
        "queue": 10,
        "auto_retry": True,
        "retention": 30,
        "resume_on_get": True,
        "share_workers": "always",
        "listen": [8080],
    },
    "variables": ["TOKEN", "_URL"],
    "test_users": ["ada", "grace"],
    "actions": ["../components", "npm"],
    "child_runs": {"may_name_external_user": ["p_1", "nightly"]},
}
"""A file with each key of the schema."""
SIDECAR = Sidecar(
    endpoint="eo-old",
    test_users=("grace",),
    test_events=("new",),
    actions=("npm",),
    naming_callers=("p_1",),
)
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 0.5, 1.0, 10_000, 10_241, 10**9, float("inf")]),
    st.sampled_from(["", "http", "never", "pdkernel/2", "a b", "x\n", "x" * 251]),
    st.sampled_from([[], [1], ["a", "a"], [{"type": "http"}], {}, {"type": 1}, {"app": "x"}, {"unknown": 1}]),
)


def places(value: JSON) -> list[tuple[Any, Any]]:
    """Each container in *value* with each of its keys."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in parts for place in ((value, key), *places(part))]


@given(st.data())
def test_decision_is_that_of_jsonschema(data: st.DataObject) -> None:
    """A file that is accepted is valid for jsonschema; only an integer as `1.0` is left to jsonschema."""
    file = deepcopy(COMPLETE)
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(file)
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        if isinstance(container, dict) and data.draw(st.booleans()):
            container[data.draw(st.sampled_from(["schema", "type", "limits", "unknown"]))] = container.pop(key)
        else:
            container[key] = deepcopy(data.draw(WRONG))

    accepted = _fulfils(file, SCHEMA, SCHEMA)

    assert accepted == VALIDATOR.is_valid(file) or (
        not accepted and any(isinstance(holder[key], float) for holder, key in places(file))
    )


def test_complete_file_needs_no_jsonschema() -> None:
    """A file with each key is accepted without jsonschema; a keyword that the check does not support is left to jsonschema."""
    assert _fulfils(COMPLETE, SCHEMA, SCHEMA)
    assert VALIDATOR.is_valid(COMPLETE)
    assert not _fulfils("a", {"format": "email"}, SCHEMA)


def test_every_field_is_kept_or_belongs_to_the_workflow() -> None:
    """A field that the workflow itself does not hold is one of those that imports, exports and proofs take along."""
    of_the_workflow = {"workflow", "triggers", "steps", "limits", "variables", "control_flow", "path"}

    assert {each.name for each in fields(Sidecar)} - of_the_workflow == set(FILE_FIELDS)


@pytest.mark.parametrize(
    ("text", "sources"),
    [("npm", ("npm",)), ("[npm]", ("npm",)), ("\n- ../components\n- npm", ("../components", "npm")), ("[]", ())],
)
def test_sources_of_actions(text: str, sources: tuple[str, ...]) -> None:
    """`actions` is one source, or a list in the order of the search; one source is written without a list."""
    sidecar = parse_sidecar(f"actions: {text}\n")

    assert sidecar.actions == sources
    assert parse_sidecar(dump_sidecar(sidecar)).actions == sources
    assert len(sources) != 1 or build_sidecar_mapping(sidecar)["actions"] == sources[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: pdkernel/1\nlimits: {memory: 1}\n", "limits.memory: 1 is less than the minimum of 256 (line 2)"),
        (
            "schema: pdkernel/1\nstep: {}\n",
            "step: Additional properties are not allowed ('step' was unexpected) (line 2)",
        ),
        (
            "schema: pdkernel/1\nlimits: {memory: 10241}\n",
            "limits.memory: 10241 is greater than the maximum of 10240 (line 2)",
        ),
        ("steps: {a: {timeout: 0}}\n", "steps.a.timeout: 0 is less than or equal to the minimum of 0 (line 1)"),
        ("steps: {a: {timeout: 750.5}}\n", "steps.a.timeout: 750.5 is greater than the maximum of 750 (line 1)"),
        ("actions: [npm, npm]\n", "actions: ['npm', 'npm'] has non-unique elements (line 1)"),
        ("variables: [A, A]\n", "variables: ['A', 'A'] has non-unique elements (line 1)"),
        ("variables: [A-B]\n", "variables.0: 'A-B' does not match"),
        (f"test_users: [{'u' * 251}]\n", "is too long (line 1)"),
        (f"test_events: [{'e' * 251}]\n", "is too long (line 1)"),
        ("test_users: ['']\n", "test_users.0: '' should be non-empty (line 1)"),
        ("endpoint: xx\n", "endpoint: 'xx' does not match"),
        (
            "steps:\n  a:\n    acounts: {}\n",
            "steps.a.acounts: Additional properties are not allowed ('acounts' was unexpected) (line 3)",
        ),
        (
            "triggers:\n- {type: schedule, cron: 0 9 * * 1, interval_seconds: 5}\n",
            "either cron or interval_seconds (line 2)",
        ),
        ("a: [\n", "is not YAML"),
        ("[1]\n", "pdkernel.yaml: the file: [1] is not of type 'object' (line 1)"),
    ],
)
def test_wrong_file_is_refused(text: str, message: str) -> None:
    """The error names the key's path, the reason and the line."""
    with pytest.raises(NotebookError) as caught:
        parse_sidecar(text)

    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("endpont: eo1\n", "Did you mean endpoint?"),
        ("steps: {a: {acounts: {}}}\n", "Did you mean accounts?"),
        ("triggers: [{type: http, auth: baerer}]\n", "Did you mean bearer?"),
    ],
)
def test_a_misspelt_word_has_a_suggestion(text: str, fix: str) -> None:
    """The fix of an unknown key or value is the nearest known one."""
    with pytest.raises(NotebookError) as caught:
        parse_sidecar(text)

    assert caught.value.fix == fix


def test_a_file_that_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are refused by file, byte and line."""
    path = tmp_path / "pdkernel.yaml"
    path.write_bytes(b"# one\nworkflow: \xff\n")

    with pytest.raises(NotebookError, match=r"pdkernel\.yaml is not UTF-8 text \(byte 17, line 2\)") as caught:
        read_sidecar(path)

    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("limits", "low", "high"),
    [
        ("memory: {}", 256, 10_240),
        ("concurrency: {}", 1, 10_000),
        ("throttle: {{limit: {}, interval: 1}}", 0, 10_000),
        ("throttle: {{limit: 1, interval: {}}}", 1, 36_000_000),
        ("queue: {}", 1, 10_000),
        ("retention: {}", 1, 3650),
    ],
)
def test_a_limit_has_a_lowest_and_a_highest_value(limits: str, low: int, high: int) -> None:
    """The lowest and the highest value of a limit are accepted, and the numbers beside them are refused."""
    for value in (low, high):
        assert parse_sidecar(f"schema: pdkernel/1\nlimits: {{{limits.format(value)}}}\n").limits
    for value in (low - 1, high + 1):
        with pytest.raises(NotebookError, match=r"limits\.\w+"):
            parse_sidecar(f"schema: pdkernel/1\nlimits: {{{limits.format(value)}}}\n")


def test_the_id_of_a_trigger_is_written_only_if_another_trigger_has_none() -> None:
    """The order tells which id a trigger has in `workflow.yaml`; if a trigger has no id there, the others carry theirs."""
    first, second, new = Trigger(config={"id": "hi_1"}), Trigger("email", config={"id": "ei_1"}), Trigger("email")

    all_synced = build_sidecar_mapping(Sidecar(triggers=(first, second)))["triggers"]
    with_a_new_one = build_sidecar_mapping(Sidecar(triggers=(first, new, second)))["triggers"]

    assert all_synced == [{"type": "http", "auth": "none", "response": "default"}, {"type": "email"}]
    assert with_a_new_one == [
        {"type": "http", "auth": "none", "response": "default", "id": "hi_1"},
        {"type": "email"},
        {"type": "email", "id": "ei_1"},
    ]


def test_a_complete_file_reads_back() -> None:
    """Every value of a file is read, and written again."""
    sidecar = parse_sidecar(json.dumps(COMPLETE))

    assert sidecar.steps == {
        "read": StepSidecar("bash", 1.5, stores={"seen": None, "kept": "Kept"}),
        "post": StepSidecar(
            accounts={"slack": AccountChoice("external_user"), "gh": AccountChoice("apn_1", "github", "apn_2")}
        ),
    }
    assert build_sidecar_mapping(sidecar, inferred_steps=["read"]) == {
        **COMPLETE,
        "triggers": [{"type": "http", "auth": "none", "response": "default"}, *COMPLETE["triggers"][1:]],  # type: ignore[index]
    }


def test_a_trigger_of_a_definition_may_lack_settings() -> None:
    """Settings that only the platform stores may be missing."""
    found = parse_sidecar("triggers: [{type: source}, {type: schedule}, {type: emit}]\n").triggers

    assert [trigger.type for trigger in found] == ["source", "schedule", "emit"]


def test_a_folders_own_values_are_kept() -> None:
    """Values that only the file of the folder has are kept; the notebook's value comes first."""
    ours = Sidecar(workflow="W", endpoint="eo-new", test_users=("ada",))
    theirs = parse_sidecar(dump_sidecar(SIDECAR))

    merged = merge_sidecars(ours, theirs)

    assert (merged.workflow, merged.endpoint, merged.test_users) == ("W", "eo-new", ("ada",))
    assert (merged.test_events, merged.actions) == (SIDECAR.test_events, SIDECAR.actions)
    assert merge_sidecars(Sidecar(), theirs).endpoint == SIDECAR.endpoint
    assert merge_sidecars(ours, None) is ours


def test_the_file_beside_a_notebook_may_be_a_link(tmp_path: Path) -> None:
    """Notebooks may share a file by a link; a folder's own pdkernel.yaml that leads out of the folder is refused."""
    (tmp_path / "shared.yaml").write_text("endpoint: eo1\n")
    (tmp_path / "flows").mkdir()
    for name in ("work.pdkernel.yaml", "pdkernel.yaml"):
        (tmp_path / "flows" / name).symlink_to("../shared.yaml")

    found = read_sidecar(tmp_path / "flows" / "work.pdkernel.yaml")

    assert found is not None
    assert (found.endpoint, found.path) == ("eo1", tmp_path / "flows" / "work.pdkernel.yaml")
    with pytest.raises(NotebookError, match="a link that leads out of its folder"):
        read_sidecar(tmp_path / "flows" / "pdkernel.yaml")


def test_a_folder_and_a_pipe_are_not_read(tmp_path: Path) -> None:
    """A folder or a pipe in the place of the file is refused, and a missing file is accepted."""
    os.mkfifo(tmp_path / "work.pdkernel.yaml")
    (tmp_path / "pdkernel.yaml").mkdir()

    for name in ("pdkernel.yaml", "work.pdkernel.yaml"):
        with pytest.raises(NotebookError, match=rf"{name} is not a file"):
            read_sidecar(tmp_path / name)
    with pytest.raises(NotebookError, match=r"pdkernel\.yaml cannot be read: File name too long\."):
        read_sidecar(tmp_path / ("n" * 300) / "pdkernel.yaml")
    assert read_sidecar(tmp_path / "other.pdkernel.yaml") is None
    assert read_sidecar(tmp_path / "missing" / "pdkernel.yaml") is None
