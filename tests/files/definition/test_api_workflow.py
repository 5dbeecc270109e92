"""Workflows of the platform's REST API, and of its archives: steps at any depth, and parts that are not understood."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import NotebookError, RequestError
from pdkernel.files.definition.api_workflow import (
    ENDPOINT_URL_KEY,
    UNREAD_KEY,
    read_api_workflow,
    read_workflow_json,
)
from pdkernel.files.notebook import format_notebook, read_notebook
from pdkernel.language.analysis import find_secret_props
from pdkernel.language.expression import RULE_FILTER
from pdkernel.model import ROUND_TRIP_KEY, AppBinding, StoreBinding, Workflow
from tests.files.definition.archives import CODE, action, step

ITEM: dict[str, Any] = {
    "triggers": [
        {"id": "hi_1", "endpoint_url": "https://eo1.m.pipedream.net", "custom_response": True},
        {"id": "ti_1", "configured_props_json": json.dumps({"cron": {"intervalSeconds": 900, "timezone": "UTC"}})},
        {"id": "dc_1", "component_key": "slack-new-message@0.0.1"},
    ],
    "steps": [
        {
            "namespace": "code",
            "lang": "nodejs20.x",
            "savedComponent": {
                "code": "export default {}",
                "configurableProps": [{"name": "slack", "type": "app", "app": "slack"}],
            },
            "configured_props_json": json.dumps({"text": "hi", "store": {"storeId": "ds_1"}}),
            "authProvisionIdMap": {"slack": "apn_1", "text": "apn_2"},
        },
        {"namespace": "py", "lang": "python3.12", "disabled": True, "savedComponent": {"code": "def handler(pd): ..."}},
        {
            "namespace": "act",
            "component_key": "http-custom-request",
            "savedComponent": {"key": "http-custom-request", "version": "1.1.1"},
        },
        {"namespace": "gone", "lang": "nodejs20.x", "savedComponent": {"id": "sc_1", "codeHash": "abc"}},
        {"namespace": "branch", "type": "Switch"},
        {"namespace": "last", "lang": "go1.18", "savedComponent": {"code": "package main"}, "params_json": "not JSON"},
    ],
    "settings": {"name": "Orders", "concurrency": 1},
    "active": False,
}


def test_triggers_have_their_settings() -> None:
    """The type is that of the id; the URL, the times and the component are in the trigger's settings."""
    http, schedule, source = read_api_workflow(ITEM, "p_1").triggers

    assert (http.type, http.response, http.config[ENDPOINT_URL_KEY]) == (
        "http",
        "custom",
        "https://eo1.m.pipedream.net",
    )
    assert schedule.type == "schedule"
    assert (schedule.config["interval_seconds"], schedule.config["timezone"]) == (900, "UTC")
    assert (source.type, source.config["uses"]) == ("source", "slack-new-message@0.0.1")


def test_steps_have_code_or_an_action() -> None:
    """Code, language, accounts, stores and props are read; a step without its code is known as such."""
    workflow = read_api_workflow(ITEM, "p_1")
    code, py, act, gone, last = workflow.steps

    assert (code.language, code.source, code.props) == ("node", "export default {}", {"text": "hi"})
    assert code.apps == (AppBinding("slack", "slack", "apn_1"),)
    assert code.stores == (StoreBinding("store", "ds_1"),)
    assert (py.language, py.disabled) == ("python", True)
    assert (act.uses, act.source) == ("http-custom-request@1.1.1", "")
    assert gone.is_code_missing
    assert (last.language, last.props) == ("go", {})
    assert [(entry.name, entry.after_step) for entry in workflow.unsupported_entries] == [("branch", "gone")]
    assert (workflow.name, workflow.settings["concurrency"], workflow.extra["inactive"]) == ("Orders", 1, True)


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"name": "Own", "settings": {"name": "Other"}}, "Own"),
        ({"settings": {"name": "Other"}}, "Other"),
        ({"name": "", "settings": None}, "p_1"),
        ({}, "p_1"),
    ],
)
def test_the_name_of_a_workflow(item: dict[str, Any], name: str) -> None:
    """The workflow's own name counts before that of its settings; without a name the id is the name."""
    assert read_api_workflow({"steps": [], "triggers": [], **item}, "p_1").name == name


def test_triggers_keep_their_ids() -> None:
    """Each trigger has its id."""
    assert [trigger.config["id"] for trigger in read_api_workflow(ITEM, "p_1").triggers] == ["hi_1", "ti_1", "dc_1"]


@pytest.mark.parametrize(("custom", "response"), [(True, "custom"), (False, "default"), (None, "custom")])
def test_the_response_of_a_trigger(custom: bool | None, response: str) -> None:
    """The setting counts; without it the response is custom if a step responds."""
    responds = {"namespace": "a", "component_key": "http-return-http-response", "savedComponent": {"version": "0.0.1"}}

    workflow = read_api_workflow({"steps": [responds], "triggers": [{"id": "hi_1", "custom_response": custom}]}, "p_1")

    assert workflow.trigger.response == response


@pytest.mark.parametrize(
    ("raw", "uses", "source", "is_missing"),
    [
        ({"savedComponent": {"key": "a-b", "version": "1.0.0", "code": "x"}}, "a-b@1.0.0", "", False),
        ({"lang": "python3.12", "code": "x = 1"}, None, "x = 1", False),
        ({"lang": "python3.12", "savedComponent": {"code": ""}}, None, "", False),
        ({"lang": "python3.12", "savedComponent": {"id": "sc_1"}}, None, "", True),
    ],
    ids=["an action of the component", "code of the step", "empty code", "no code"],
)
def test_the_code_of_a_step(raw: dict[str, Any], uses: str | None, source: str, is_missing: bool) -> None:
    """Code is that of the component, else that of the step; a component with a key is an action."""
    (step,) = read_api_workflow({"steps": [{"namespace": "a", **raw}], "triggers": []}, "p_1").steps

    assert (step.uses, step.source, step.is_code_missing) == (uses, source, is_missing)


def test_definitions_of_props_name_the_app() -> None:
    """The app of a prop is that of its definition; a prop without an account is an app prop too."""
    component = {
        "code": "def handler(pd): ...",
        "configurableProps": [
            {"name": "chat", "type": "app", "app": "slack"}, {"name": "mail", "type": "app", "app": "gmail"}, None,
        ],
    }  # fmt: skip
    raw = {"namespace": "a", "lang": "python", "savedComponent": component, "authProvisionIdMap": {"chat": "apn_1"}}

    (step,) = read_api_workflow({"steps": [raw], "triggers": []}, "p_1").steps

    assert step.apps == (AppBinding("chat", "slack", "apn_1"), AppBinding("mail", "gmail"))


def test_what_is_not_a_step_is_kept() -> None:
    """An entry without a name, also at the top, is an unsupported entry; settings that are not an object are ignored."""
    item = {"steps": [{"lang": "python", "code": "x"}, "text"], "triggers": ["text"], "settings": ["x"], "name": "W"}

    workflow = read_api_workflow(item, "p_1")

    assert [entry.after_step for entry in workflow.unsupported_entries] == [None]
    assert (workflow.steps, workflow.triggers, workflow.settings) == ((), (), {})


def test_an_action_without_a_version_is_an_action() -> None:
    """An action whose version the API does not report is a step that uses its key."""
    item = {"steps": [{"namespace": "act", "component_key": "http-custom-request"}], "triggers": []}

    (step,) = read_api_workflow(item, "p_1").steps

    assert (step.uses, step.is_code_missing) == ("http-custom-request", False)


@pytest.mark.parametrize(
    ("state", "is_inactive"),
    [({"active": False}, True), ({"inactive": True}, True), ({"active": True, "inactive": False}, False), ({}, False)],
)
def test_a_workflow_that_is_turned_off(state: dict[str, bool], is_inactive: bool) -> None:
    """Both `active` and `inactive` say that a workflow is turned off; without them the workflow is on."""
    workflow = read_api_workflow({"steps": [], "triggers": [], **state}, "p_1")

    assert workflow.is_inactive is is_inactive


@pytest.mark.parametrize("item", [{}, {"steps": [], "triggers": None}, {"steps": {}, "triggers": []}, {"data": []}])
def test_another_object_is_refused(item: dict[str, Any]) -> None:
    """A response without steps or triggers is not a workflow."""
    with pytest.raises(RequestError, match="not a workflow"):
        read_api_workflow(item, "p_1")


def test_the_filter_step_of_the_builder() -> None:
    """A step without code whose props have rules is the builder's Filter step."""
    rules = {"t": "and", "r": [{"a": "1", "op": "str=", "b": "1"}]}
    raw = {
        "namespace": "only",
        "lang": "nodejs20.x",
        "configured_props_json": json.dumps({"_filter": {"rules": rules}}),
    }

    workflow = read_api_workflow({"steps": [{**raw, "savedComponent": {"id": "sc_1"}}], "triggers": []}, "p_1")

    assert workflow.step("only").uses == RULE_FILTER


def names(workflow: Workflow, *, disabled: bool) -> list[str]:
    """The steps that are disabled, or enabled."""
    return [step.name for step in workflow.steps if step.disabled is disabled]


def kept(workflow: Workflow) -> list[str | None]:
    """The paths of the unsupported entries."""
    return [entry.path for entry in workflow.unsupported_entries]


def test_a_step_in_an_unknown_container_is_disabled_in_its_place() -> None:
    """Steps at any depth of an entry that is not understood stand below it and do not run; the other ones run."""
    block = {"namespace": "triage", "type": "IfElse", "branches": [{"rules": [{"a": "x"}], "steps": [step("page")]}]}

    workflow = read_workflow_json({"steps": [step("first"), block, step("last")], "triggers": []}, "W")

    assert [each.name for each in workflow.steps] == ["first", "page", "last"]
    assert names(workflow, disabled=True) == ["page"]
    assert workflow.step("page").unknown_condition == "$.steps[1].branches[0].steps[0]"
    assert [(each.after_step, each.path, each.entry) for each in workflow.unsupported_entries] == [
        ("first", "$.steps[1]", block)
    ]


@pytest.mark.parametrize(
    ("raw", "more", "path"),
    [
        ({"runs_if": {"left": "x", "op": "="}}, {}, "$.steps[0].runs_if"),
        ({"condition": "{{steps.check.$return_value}}"}, {}, "$.steps[0].condition"),
        ({}, {"graph": {"edges": [{"from": "c_a", "to": "c_b"}]}}, "$.graph"),
        ({}, {"flow": {"triage": ["a"]}}, "$.flow"),
        ({}, {"layout_json": [json.dumps({"branches": [{"then": "c_a"}]})]}, "$.layout_json"),
    ],
    ids=["rules on the step", "an expression on the step", "its id", "its name", "its id in JSON text"],
)
def test_a_step_that_an_unknown_part_may_decide_on_is_disabled(raw: Any, more: Any, path: str) -> None:
    """Rules and expressions of a step that are not documented, and parts that name it, may say when the step runs."""
    workflow = read_workflow_json({"steps": [step("a", **raw)], "triggers": [], **more}, "W")

    assert (names(workflow, disabled=True), workflow.step("a").unknown_condition, kept(workflow)) == (
        ["a"],
        path,
        [path],
    )


def test_a_step_that_names_an_unknown_part_is_disabled() -> None:
    """In a flat list, a key that is not documented may name the branch of a step by its id."""
    block = {"id": "c_9", "type": "Switch", "cases": [{"id": "br_1", "value": "x"}]}

    workflow = read_workflow_json({"steps": [step("a"), block, step("b", branch="br_1")], "triggers": []}, "W")

    assert (names(workflow, disabled=False), names(workflow, disabled=True)) == (["a"], ["b"])


def test_parts_that_name_no_step_are_kept_and_disable_nothing() -> None:
    """Other unknown parts are kept with their paths; so is what the user has declared to be harmless."""
    item = {"steps": [step("a", position={"x": 1}, meta={"by": "ada"})], "triggers": [], "owner": {"id": "o_1"}}

    workflow = read_workflow_json({"data": item, "links": {"self": "u"}}, "W", ignored=["meta"])

    assert (names(workflow, disabled=False), kept(workflow)) == (["a"], [])
    bookkeeping = workflow.extra[ROUND_TRIP_KEY]
    assert isinstance(bookkeeping, dict)
    assert list(bookkeeping[UNREAD_KEY]) == [
        "$.data.steps[0].position", "$.data.steps[0].meta", "$.data.owner", "$.links",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (step("a"), "second step of this name"),
        (step("my step"), "not a valid step name"),
        (step("c", lang="ruby3.2"), "ruby3.2"),
        (action("c", "not a key", "1.0.0"), "not KEY@VERSION"),
    ],
    ids=["name used twice", "no name of a step", "language", "action"],
)
def test_a_step_that_has_no_form_here_is_kept(raw: dict[str, Any], why: str) -> None:
    """A step that no cell can hold is an entry with the reason, and the steps inside of it are imported."""
    raw = {**raw, "on_error": {"steps": [step("inner")]}}

    workflow = read_workflow_json({"steps": [step("a"), raw], "triggers": []}, "W")

    assert [(each.path, why in each.unsupported_reason) for each in workflow.unsupported_entries] == [
        ("$.steps[1]", True)
    ]
    assert (names(workflow, disabled=False), names(workflow, disabled=True)) == (["a"], ["inner"])


def test_redacted_values_are_secrets_of_their_workflow() -> None:
    """Each redacted value is a secret prop; equal steps of two workflows do not share a secret."""
    item = {"steps": [step("a", props={"key": "<redacted>", "auth": {"token": "<redacted>"}})], "triggers": []}

    first, second = (
        find_secret_props(read_workflow_json(item, "W", workflow_id=each)) for each in ("p_1111", "p_2222")
    )

    assert [prop.name for prop in first] == ["a.key", "a.auth.token"]
    assert not {prop.key for prop in first} & {prop.key for prop in second}


@pytest.mark.parametrize("document", [{}, [], "x", {"steps": {"a": 1}}, {"name": "W", "tags": ["a"]}])
def test_a_document_without_steps_is_no_workflow(document: Any) -> None:
    """JSON without a list of steps or triggers, and without a step at any depth, is refused."""
    with pytest.raises(NotebookError, match="neither steps nor triggers"):
        read_workflow_json(document, "W")


def test_a_deep_document_is_refused() -> None:
    """A document that is nested too deeply is an error, and not one of Python's recursion."""
    deep: Any = [step("a")]
    for _ in range(5000):
        deep = [deep]

    with pytest.raises(NotebookError, match="nested deeper"):
        read_workflow_json({"steps": [deep], "triggers": []}, "W")


@pytest.mark.parametrize("part", [{"namespace": "a", "code": ""}, {"x": 1}, [1]], ids=["steps", "objects", "lists"])
def test_a_document_with_too_many_parts_is_refused(part: Any) -> None:
    """A workflow that no notebook could hold is refused before it costs minutes."""
    with pytest.raises(NotebookError, match="more than 10000 steps"):
        read_workflow_json({"steps": [part] * 10_001, "triggers": []}, "W")


@dataclass
class Seen:
    """What a document holds, by the words of the rules: its steps, and the outermost containers that are not understood."""

    steps: dict[str, bool] = field(default_factory=dict)
    containers: list[str] = field(default_factory=list)

    def new_name(self) -> str:
        """The name of the next step."""
        return f"s{len(self.steps)}"


KEYS = st.sampled_from(["branches", "steps", "else", "rules", "body", "x y", "then"])
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.just(("text", "t")), st.just(("number", 1)), st.sampled_from(["inline", "component", "props"]).map(lambda kind: ("step", kind, {}))
)  # fmt: skip
NODES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: ("list", items)),
        st.dictionaries(KEYS, inner, max_size=3).map(lambda items: ("object", items)),
        st.tuples(
            st.just("step"), st.sampled_from(["inline", "component", "props"]),
            st.dictionaries(st.sampled_from(["branches", "else", "runs_if"]), inner, max_size=2),
        ),
    ),
    max_leaves=12,
)  # fmt: skip


def join(path: str, key: str) -> str:
    """The path of a key."""
    return f'{path}["{key}"]' if " " in key else f"{path}.{key}"


def build(node: Any, path: str, seen: Seen, *, is_inside: bool, is_entry: bool = False) -> Any:
    """The JSON of a node, whose steps and outermost unknown containers are added to *seen*."""
    match node:
        case ("step", kind, more):
            is_block = kind == "props" and any(is_container(value) for value in more.values())
            raw: dict[str, Any] = {}
            inner_path = path
            if is_block and not is_inside:
                seen.containers.append(path)
            if not is_block:
                name = seen.new_name()
                seen.steps[name] = is_inside or not is_entry or any(map(has_text, more.values()))
            else:
                name = "block"
            for key, value in more.items():
                part = join(inner_path, key)
                if is_container(value) and not is_inside and not is_block and is_entry:
                    seen.containers.append(part)
                raw[key] = build(value, part, seen, is_inside=True)
            forms: dict[str, dict[str, Any]] = {
                "inline": {"code": CODE},
                "component": {"savedComponent": {"id": "sc", "code": CODE}},
                "props": {"configured_props_json": "{}"},
            }
            return {"namespace": name, **forms[kind], **raw}
        case ("list", items):
            return [build(item, f"{path}[{index}]", seen, is_inside=True) for index, item in enumerate(items)]
        case ("object", items):
            return {key: build(item, join(path, key), seen, is_inside=True) for key, item in items.items()}
    return node[1]


def is_container(node: Any) -> bool:
    """Whether the JSON of a node is a list or an object that is not empty."""
    return node[0] == "step" or (node[0] in ("list", "object") and bool(node[1]))


def has_text(node: Any) -> bool:
    """Whether a container's JSON has a text."""
    if not is_container(node):
        return False
    inner = node[1].values() if node[0] == "object" else node[1]
    return node[0] == "step" or any(each[0] in ("text", "step") or has_text(each) for each in inner)


@given(
    entries=st.lists(NODES, max_size=5),
    more=st.dictionaries(st.sampled_from(["flow", "graph", "x y"]), NODES, max_size=2),
)
def test_each_step_and_each_unknown_container_is_accounted_for_once(entries: list[Any], more: dict[str, Any]) -> None:
    """Any tree becomes a workflow with each step once, each outermost unknown container once, and nothing conditional enabled."""
    seen = Seen()
    steps = []
    for index, node in enumerate(entries):
        path = f"$.steps[{index}]"
        if node[0] != "step" and is_container(node):
            seen.containers.append(path)
        steps.append(build(node, path, seen, is_inside=node[0] != "step", is_entry=True))
    rest = {}
    for key, node in more.items():
        if is_container(node):
            seen.containers.append(join("$", key))
        rest[key] = build(node, join("$", key), seen, is_inside=True)

    workflow = read_workflow_json({"name": "W", "triggers": [], "steps": steps, **rest}, "W")

    bookkeeping = workflow.extra.get(ROUND_TRIP_KEY)
    unread = bookkeeping.get(UNREAD_KEY, {}) if isinstance(bookkeeping, dict) else {}
    assert {each.name: each.disabled for each in workflow.steps} == seen.steps
    assert sorted([*kept(workflow), *unread]) == sorted(seen.containers)
    with TemporaryDirectory() as folder:
        notebook = Path(folder) / "n.ipynb"
        notebook.write_text(format_notebook(workflow))
        back = read_notebook(notebook)
    assert [(each.name, each.disabled, each.source, each.extra) for each in back.steps] == [
        (each.name, each.disabled, each.source, each.extra) for each in workflow.steps
    ]
    assert back.unsupported_entries == workflow.unsupported_entries
