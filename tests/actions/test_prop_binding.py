"""A step and the component that it uses: app props, data stores, values, missing and unknown props."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.actions.component import Component
from pdkernel.actions.prop_binding import (
    BoundStep,
    add_prop_braces,
    bind_step,
    guess_app_bindings,
    merge_declared_apps,
    resolve_app_bindings,
)
from pdkernel.errors import ActionPropsError
from pdkernel.model import AppBinding, Step, StoreBinding
from pdkernel.workers import ComponentDescription, ComponentFile, PropDeclaration
from tests.builders import a_step

SEND = Component("slack-send", "1.2.3", "slack", "Send", "", "npm @pipedream/slack 0.1.0")
BUILT_IN = replace(SEND, app=None, file=ComponentFile(Path("send.mjs"), "slack-send", "1.2.3", "action", "builtin"))
SLACK = AppBinding("slack", "slack")
DESCRIPTION = ComponentDescription(
    apps=(SLACK,),
    props=(
        PropDeclaration("text", "string", definition={"label": "Message"}),
        PropDeclaration("data", "object", optional=True),
        PropDeclaration("db", "data_store"),
        PropDeclaration("note", "alert"),
        PropDeclaration("timer", "$.interface.timer"),
        PropDeclaration("internal", "string", definition={"hidden": True}),
    ),
)


def step(**props: Any) -> Step:
    """A step that uses the action with *props*."""
    return replace(a_step("%%pdstep send --uses slack-send@1.2.3\ntext: Hi\n"), props=props)


def bind(component: Component = SEND, description: ComponentDescription = DESCRIPTION, **props: Any) -> BoundStep:
    """The bound step with *props*."""
    return bind_step(step(**props), component, description)


def test_a_complete_step() -> None:
    """App and store have bindings; a display prop, an interface and a hidden prop need no value."""
    bound = bind(text="Hi")

    assert bound.step.apps == (SLACK,)
    assert bound.step.stores == (StoreBinding("db", None),)
    assert (bound.step.props, bound.warnings) == ({"text": "Hi"}, ())


@pytest.mark.parametrize(
    ("written", "name"), [("orders", "orders"), ({"storeId": "ds_1"}, "ds_1"), ({}, None), ("", None), (None, None)]
)
def test_the_store_of_a_prop(written: Any, name: str | None) -> None:
    """A store prop is a name or the platform's object; its value is not a prop of the step."""
    bound = bind(text="Hi", db=written)

    assert bound.step.stores == (StoreBinding("db", name),)
    assert bound.step.props == {"text": "Hi"}


def test_the_directive_names_the_store() -> None:
    """`--data-store` has precedence over the value of the prop, and other stores stay."""
    named = replace(step(text="Hi", db="orders"), stores=(StoreBinding("db", "users"), StoreBinding("more", None)))

    assert bind_step(named, SEND, DESCRIPTION).step.stores == (StoreBinding("db", "users"), StoreBinding("more", None))


def test_an_account_in_the_body() -> None:
    """The platform's account object selects the account; it has precedence over the directive, and is not a value."""
    account = {"authProvisionId": "apn_1"}
    bound = bind(text="Hi", slack=account)
    directive = replace(step(slack=account), apps=(AppBinding("slack", "slack", "apn_2"), AppBinding("hub", "github")))

    assert (bound.step.apps, bound.step.props) == ((AppBinding("slack", "slack", "apn_1"),), {"text": "Hi"})
    assert resolve_app_bindings(directive, DESCRIPTION) == (
        AppBinding("hub", "github"),
        AppBinding("slack", "slack", "apn_1"),
    )
    assert resolve_app_bindings(step(slack={"authProvisionId": ""}), DESCRIPTION) == (SLACK,)


def test_the_declared_app_replaces_the_named_one() -> None:
    """The component declares the app of its prop; a prop of an unknown app that is not declared is left out."""
    named = (AppBinding("slack", "chat", "apn_1"), AppBinding("other", "unknown"), AppBinding("hub", "github"))
    declared = (SLACK, AppBinding("web", "http"), AppBinding("sheet", "google_sheets"))

    assert merge_declared_apps(named, declared) == (
        AppBinding("slack", "slack", "apn_1"),
        AppBinding("hub", "github"),
        AppBinding("sheet", "google_sheets"),
    )


@pytest.mark.parametrize("value", [None, ...])
def test_a_missing_prop_is_named(value: Any) -> None:
    """The error has type and label of each missing prop; null counts as missing, empty text and false do not."""
    with pytest.raises(ActionPropsError, match=r"slack-send@1\.2\.3 needs text \(string, Message\), but") as caught:
        bind(**({} if value is ... else {"text": value}))

    assert "text: VALUE" in caught.value.fix
    assert bind(text="").step.props == {"text": ""}
    flag = ComponentDescription(props=(PropDeclaration("on", "boolean", definition={"label": "On"}),))
    assert bind(description=flag, on=False).step.props == {"on": False}
    with pytest.raises(ActionPropsError, match=r"needs on \(boolean\), but"):
        bind(description=flag)


def test_an_unknown_prop_of_an_installed_action() -> None:
    """A prop that the component does not declare is kept with a warning, which suggests a similar name."""
    bound = bind(text="Hi", txet="Ho", quite=1)

    assert bound.step.props == {"text": "Hi", "txet": "Ho", "quite": 1}
    assert bound.warnings == (
        "slack-send@1.2.3 has no prop 'txet'. Did you mean text?",
        "slack-send@1.2.3 has no prop 'quite'.",
    )


def test_a_component_with_dynamic_props_knows_more_props() -> None:
    """A component that adds props at run time is not asked about unknown ones."""
    assert bind(description=replace(DESCRIPTION, additional=True), text="Hi", other=1).warnings == ()


def test_an_unknown_prop_of_a_built_in_action() -> None:
    """A built-in action refuses a prop that it does not have, and names the version that may have it."""
    with pytest.raises(ActionPropsError, match=r"the built-in slack-send@1\.2\.3 has no prop 'txet'\.") as caught:
        bind(BUILT_IN, text="Hi", txet="Ho")

    assert "text (string, Message)" in caught.value.fix
    with pytest.raises(ActionPropsError, match=r", which slack-send 1\.0\.0 may have\. Did you mean text\?"):
        bind(replace(BUILT_IN, requested_version="1.0.0"), text="Hi", txet="Ho")


def test_braces_are_added_in_any_and_object_props() -> None:
    """A bare expression in a prop of any type is an expression; in a string prop it is a text."""
    declared = [PropDeclaration(name, name) for name in ("any", "object", "string", "string[]")]
    values = dict.fromkeys(["any", "object", "string", "string[]", "unknown"], "[steps.trigger.event]")

    assert add_prop_braces(values, declared) == {
        **values,
        "any": "{{ [steps.trigger.event] }}",
        "object": "{{ [steps.trigger.event] }}",
    }


def test_apps_are_guessed_without_the_module() -> None:
    """Before a component is installed, its key names the app, unless the directive names the app; some apps need no account."""
    named = replace(step(), apps=(AppBinding("chat", "slack", "apn_1"),))

    assert guess_app_bindings(step(), None) == (SLACK,)
    assert guess_app_bindings(step(), SEND) == (SLACK,)
    assert guess_app_bindings(step(), BUILT_IN) == ()
    assert guess_app_bindings(named, SEND) == named.apps
    assert guess_app_bindings(replace(step(), uses="@me/send@1.0.0"), None) == ()
    assert guess_app_bindings(replace(step(), uses="http-get@1.0.0"), None) == ()


def test_apps_are_read_from_the_module(tmp_path: Path) -> None:
    """The module of an installed component declares its app props."""
    module = tmp_path / "send.mjs"
    module.write_text(
        'export default { key: "slack-send", version: "1.2.3", props: { bot: { type: "app", app: "slack_bot" } } }'
    )

    found = guess_app_bindings(
        step(), replace(SEND, file=ComponentFile(module, "slack-send", "1.2.3", "action", "npm"))
    )

    assert found == (AppBinding("bot", "slack_bot"),)


def test_null_of_an_unknown_prop_is_left_out() -> None:
    """A prop that the component does not have and whose value is null is left over from another version: no error, no warning."""
    bound = bind(text="Hi", delay=None)

    assert ("delay" in bound.step.props, bound.warnings) == (False, ())
