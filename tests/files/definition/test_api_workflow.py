"""Workflows of the platform's REST API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY, read_api_workflow
from pdkernel.language.expression import RULE_FILTER
from pdkernel.model import AppBinding, StoreBinding

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
