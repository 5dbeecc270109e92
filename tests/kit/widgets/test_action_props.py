"""The field of one prop: its options, its value, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
import pytest

from pdkernel.kit.widgets.action_props import PropField, format_prop_value, is_shown_prop, parse_prop_value
from pdkernel.model import JSON
from pdkernel.workers import PropDeclaration, PropOption, PropOptionsPage


def prop(kind: str = "string", *, optional: bool = False, **definition: Any) -> PropDeclaration:
    """A prop of an action."""
    return PropDeclaration("thing", kind, optional=optional, definition=definition)


def field(
    kind: str = "string", *, optional: bool = False, load: Callable[[PropField], None] | None = None, **definition: Any
) -> PropField:
    """The field of a prop."""
    declared = prop(kind, optional=optional, **definition)
    return PropField(declared, changed=lambda _: None, entered=lambda: None, load=load)


@pytest.mark.parametrize(
    ("kind", "definition", "is_shown"),
    [
        ("string", {}, True),
        ("data_store", {}, True),
        ("string", {"hidden": True}, False),
        ("alert", {}, False),
        ("dir", {}, False),
        ("$.interface.http", {}, False),
    ],
)
def test_props_with_a_field(kind: str, definition: dict[str, Any], is_shown: bool) -> None:
    """A prop that only displays something, or that pdkernel fills, has no field."""
    assert is_shown_prop(prop(kind, **definition)) is is_shown


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "box", "box"),
        ("string", "5", "5"),
        ("string", "true", "true"),
        ("string", '"a b"', "a b"),
        ("string", "  ", None),
        ("integer", " 5 ", 5),
        ("integer", "-1", -1),
        ("integer", "{{steps.a.n}}", "{{steps.a.n}}"),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("object", '{"a": 1}', {"a": 1}),
        ("object", "{ a: steps.b }", "{ a: steps.b }"),
        ("any", "5", 5),
        ("any", "box", "box"),
        ("string[]", "a\n\n b ", ["a", "b"]),
        ("string[]", '["a", "b"]', ["a", "b"]),
        ("string[]", "{{steps.a.list}}", "{{steps.a.list}}"),
        ("string[]", "{{steps.a}}\nb", ["{{steps.a}}", "b"]),
        ("integer[]", "1\n2", [1, 2]),
    ],
)
def test_a_text_is_a_value_of_the_type(kind: str, text: str, value: JSON) -> None:
    """A text of the field is an expression or a value of the prop's type; a blank text has no value."""
    found = parse_prop_value(prop(kind), text)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("integer", "1.5", "1.5 is not a whole number."),
        ("integer", "true", "true is not a whole number."),
        ("integer", "box", "box is not a whole number."),
        ("boolean", "1", "1 is not true or false."),
        ("boolean", "yes", "yes is not true or false."),
        ("object", "[1]", "Expected a JSON object"),
        ("object", "box", "Expected a JSON object"),
        ("integer[]", "1\nx", "x is not a whole number."),
    ],
)
def test_a_text_of_another_type_is_refused(kind: str, text: str, problem: str) -> None:
    """The message has the text and what was expected."""
    with pytest.raises(ValueError, match=problem):
        parse_prop_value(prop(kind), text)


def test_a_secret_is_not_typed() -> None:
    """A secret prop takes an expression; a value would be saved with the notebook."""
    secret = prop(secret=True)

    assert parse_prop_value(secret, "{{process.env.KEY}}") == "{{process.env.KEY}}"
    with pytest.raises(ValueError, match="Store the value with %pdenv") as caught:
        parse_prop_value(secret, "planted-value")
    assert "planted" not in str(caught.value)
    made = field(secret=True)
    made.value.value = "planted-value"
    made.forget_secret()
    assert (made.text, "Store the value" in made.message.value) == ("", True)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("string", None, ""),
        ("string", "box", "box"),
        ("string", "5", "5"),
        ("any", "5", '"5"'),
        ("string", "a\nb", '"a\\nb"'),
        ("string", '"a"', '"\\"a\\""'),
        ("integer", 5, "5"),
        ("boolean", False, "false"),
        ("string[]", ["a", "b"], "a\nb"),
        ("string[]", ["a", ""], '["a", ""]'),
        ("string[]", "{{steps.a}}", "{{steps.a}}"),
        ("object", {"a": [1]}, '{"a": [1]}'),
    ],
)
def test_a_value_is_shown_as_the_text_that_reads_back(kind: str, value: JSON, text: str) -> None:
    """The field's text for a value of the cell is parsed to the same value."""
    assert format_prop_value(prop(kind), value) == text
    assert parse_prop_value(prop(kind), text) == value


@pytest.mark.parametrize(
    ("kind", "definition", "choices"),
    [
        ("boolean", {}, ("true", "false")),
        ("string", {"options": ["a", "b"]}, ("a", "b")),
        ("integer", {"options": [{"label": "One", "value": 1}, {"value": 2}]}, ("One", "2")),
        ("string", {"options": [{"label": "A", "value": "x"}, {"label": "A", "value": "y"}]}, ("A", "A (y)")),
        ("string", {"options": [{"label": "A", "value": "x"}, {"label": "A", "value": "x"}]}, ("A",)),
    ],
)
def test_declared_options_are_offered(kind: str, definition: dict[str, Any], choices: tuple[str, ...]) -> None:
    """A field offers the options of its prop by label; equal labels of two values are distinguished."""
    made = field(kind, **definition)

    assert isinstance(made.value, ipw.Combobox)
    assert made.value.options == choices
    assert not made.needs_options


def test_a_label_stands_for_its_value() -> None:
    """A chosen label is the option's value; another text is parsed; a value of the cell is shown by its label."""
    made = field("integer", options=[{"label": "One", "value": 1}])

    made.show_value(1)
    assert (made.text, made.parse_value()) == ("One", 1)
    made.value.value = "2"
    assert made.parse_value() == 2
    made.show_value(None)
    assert made.text == ""


def test_a_picked_option_is_added_to_a_list() -> None:
    """A list has a line for each item; a label is replaced by its value, and is added once."""
    made = field("integer[]", options=[{"label": "One", "value": 1}, {"label": "Two", "value": 2}])
    for label in ("One", "Two", "One", "Three"):
        made.picker.value = label

    assert made.text == "One\nTwo"
    made.value.value += "\n3\n"
    assert made.parse_value() == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "optional", "text", "problem"),
    [
        ("string", False, "", "Thing is required"),
        ("string", True, "", ""),
        ("data_store", False, "", ""),
        ("string", False, "x", ""),
        ("integer", True, "x", "x is not a whole number."),
    ],
)
def test_a_problem_is_shown_below_the_field(kind: str, optional: bool, text: str, problem: str) -> None:
    """A required prop needs a value; a data store without a name is the project's own."""
    made = field(kind, optional=optional, label="Thing")
    made.value.value = text

    assert made.show_problem() is bool(problem)
    assert problem in made.message.value
    assert made.find_problem().startswith(problem)
    assert made.value.description.endswith(" *") is (kind == "string" and not optional)


def test_options_are_loaded_page_by_page() -> None:
    """Each page adds options; the last page has none, and a reason is shown."""
    made = field(load=lambda _: None)
    found: list[tuple[Any, ...]] = []
    for page in (
        PropOptionsPage((PropOption("A", "a"),), context="next"),
        PropOptionsPage((PropOption("B", "b"),)),
        PropOptionsPage(()),
        PropOptionsPage((), empty_reason="No account."),
    ):
        made.show_options(page)
        found.append((made.page, made.context, made.more_button.layout.display, made.message.value.partition(">")[2]))

    assert [(each[:3], each[3].removesuffix("</div>")) for each in found] == [
        ((1, "next", None), "1 option."),
        ((2, None, None), "2 options."),
        ((3, None, "none"), "No more options."),
        ((4, None, "none"), "No account."),
    ]


def test_an_answer_for_other_values_is_out_of_date() -> None:
    """Discarded options are loaded anew, from the first page, and the position tells old answers apart."""
    asked: list[tuple[int, JSON, str | None]] = []
    made = field(load=lambda each: asked.append((each.page, each.context, each.query)), useQuery=True)
    made.show_options(PropOptionsPage((PropOption("A", "a"),), context="next"))
    before = made.position

    made.discard_options()
    assert made.position != before
    before = made.position
    made.discard_options()  # the same page of another list
    assert made.position != before
    made.show_options(PropOptionsPage((PropOption("A", "a"),), context="next"))
    before = made.position

    made.more_button.click()
    made.search.value = " box "
    made.load_button.click()

    assert asked == [(1, "next", None), (0, None, "box")]
    assert (made.needs_options, made.has_options, made.position != before) == (True, False, True)


def test_a_prop_is_explained() -> None:
    """The hint has key, type and first paragraph of the description, escaped and shortened."""
    made = field(optional=True, label="The thing", description="Its <name>.\n\nMore.")
    long = field(description="x" * 400)

    assert "thing: string, optional. Its &lt;name&gt;.</div>" in made.view.children[1].value
    assert made.value.description == "The thing"
    assert "thing: string, required. xxx" in long.view.children[1].value
    assert "x" * 300 not in long.view.children[1].value
