"""Facts about `{{ }}` in values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import ExpressionError
from pdkernel.expression import (
    UNDEFINED,
    add_missing_braces,
    find_closing_braces,
    find_javascript_references,
    iter_templates,
    parse_template,
    substitute_results,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
STRINGS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8).map(json.dumps)
EXPRESSIONS = st.recursive(
    st.sampled_from(["steps.a", "1", "steps['b'].c", "x?.y", "`}}${ {a: 1}.a }`", "/}}/.test(s)"]) | STRINGS,
    lambda inner: st.one_of(
        st.tuples(STRINGS, inner).map(lambda pair: f"{{{pair[0]}: {pair[1]}}}"),
        inner.map(lambda text: f"`a${{{text}}}b`"),
        inner.map(lambda text: f"[{text}]"),
        inner.map(lambda text: f"{{a:{{b:{text}}}}}"),
    ),
    max_leaves=4,
)


@given(TEXT.filter(lambda text: "{{" not in text))
def test_text_without_braces_is_text(text: str) -> None:
    """Text without `{{` is itself."""
    template = parse_template(text)

    assert "".join(part for part in template.parts if isinstance(part, str)) == text
    assert template.expressions == ()
    assert substitute_results(text, []) == text


@given(
    st.lists(st.tuples(st.text("ab c\n.", max_size=4), EXPRESSIONS), min_size=1, max_size=3),
    st.text("ab c", max_size=4),
)
def test_expressions_are_found(pieces: list[tuple[str, str]], rest: str) -> None:
    """Objects, template literals, regexes and strings with `}}` inside do not end an expression."""
    text = "".join(f"{before}{{{{ {source} }}}}" for before, source in pieces) + rest

    template = parse_template(text)

    assert [part.source.strip() for part in template.expressions] == [source for _, source in pieces]
    assert all(text[part.offset :].startswith(part.source) for part in template.expressions)


@given(st.lists(EXPRESSIONS | st.text("ab", min_size=1), max_size=4))
def test_parts_make_the_text(pieces: list[str]) -> None:
    """The parts of a template, put together, are its text."""
    template = parse_template("|".join(f"{{{{{piece}}}}}" for piece in pieces))

    together = "".join(part if isinstance(part, str) else f"{{{{{part.source}}}}}" for part in template.parts)

    assert together == template.text


def test_object_without_blanks() -> None:
    """Braces of an object may touch the expression's."""
    assert parse_template("{{{a:{b:1}}}}").expressions[0].source == "{a:{b:1}}"


def test_whole() -> None:
    """Only an expression that is all of the text is whole; blanks around it make it text."""
    assert parse_template("{{ x }}").sole_expression is not None
    assert parse_template(" {{ x }}").sole_expression is None
    assert parse_template("{{x}}{{y}}").sole_expression is None
    assert parse_template("x").sole_expression is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {{ steps.x", "{{steps.x is never closed"),
        ("{{", "never closed"),
        ("{{}}", "is empty"),
        ("{{ steps.x; }}", "does not hold one JavaScript expression"),
        ("{{ a) + (b }}", "does not hold one JavaScript expression"),
        ("{{ a); (b }}", "does not hold one JavaScript expression"),
        ("{{ let x = 1 }}", "does not hold one JavaScript expression"),
        ("{{ await fetch(1) }}", "awaits"),
        ("{{ " + "x" * 100 + " y }}", "..."),
    ],
)
def test_wrong_expression(text: str, says: str) -> None:
    """What is not one expression is refused with its beginning."""
    with pytest.raises(ExpressionError) as caught:
        parse_template(text)

    assert says in caught.value.message
    assert caught.value.fix or says == "..."


def test_await_in_a_function_of_its_own() -> None:
    """A function in an expression may await; the expression itself does not."""
    assert parse_template("{{ (async () => await x)() }}").sole_expression is not None


def test_comments_in_expressions() -> None:
    """A comment may hold braces, and one to the line's end does not swallow the end."""
    assert parse_template("{{ a /* }} */ }}").sole_expression is not None
    assert parse_template("{{ a // why\n }}").sole_expression is not None


def test_find_end_from_a_position() -> None:
    """The end is looked for from where the source starts."""
    assert find_closing_braces("{{ {a: {b: 1}} }} }}", 2) == 15
    assert find_closing_braces("{{ x", 2) is None


def test_templates_have_paths() -> None:
    """Every text with an expression comes with its path, in order."""
    value: Any = {"a": "{{1}}", "b": [{"c": "x{{2}}{{3}}"}, "plain"], "d": 5}

    found = [(path, [part.source for part in template.expressions]) for path, template in iter_templates(value)]

    assert found == [(("a",), ["1"]), (("b", 0, "c"), ["2", "3"])]


def test_wrong_expression_names_its_path() -> None:
    """An expression that cannot be read is refused with the path of its value."""
    with pytest.raises(ExpressionError, match=r"b\.0\.c: \{\{x is never closed"):
        list(iter_templates({"b": [{"c": "{{x"}]}))


@pytest.mark.parametrize("result", [5, 1.5, True, None, "s", [1, 2], {"a": 1}])
def test_whole_keeps_its_type(result: Any) -> None:
    """A value that is one whole expression is the result itself."""
    assert substitute_results({"x": "{{ a }}"}, [result]) == {"x": result}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (5, "5"),
        (1.0, "1"),
        (1e-7, "1e-7"),
        (True, "true"),
        (None, ""),
        (UNDEFINED, ""),
        ("é", "é"),
        ([1, "é"], '[1,"é"]'),
        ({"a": None}, '{"a":null}'),
    ],
)
def test_text_of_results(result: Any, text: str) -> None:
    """In text a result stands as JavaScript writes it, an object as JSON, null as nothing."""
    assert substitute_results({"x": "n={{ a }}"}, [result]) == {"x": f"n={text}"}


def test_undefined_is_not_set() -> None:
    """A prop whose expression is undefined is not set; in a list it is null."""
    assert substitute_results({"x": "{{a}}", "y": ["{{b}}", 1]}, [UNDEFINED, UNDEFINED]) == {"y": [None, 1]}
    assert substitute_results("{{a}}", [UNDEFINED]) is None
    assert repr(UNDEFINED) == "UNDEFINED"


def test_list_of_one_expression() -> None:
    """A list prop of one expression that gives a list is that list; deeper lists stay."""
    value: Any = {"list": ["{{a}}"], "deep": {"list": ["{{b}}"]}, "one": ["{{c}}"]}

    assert substitute_results(value, [[1, 2], [3], 4]) == {"list": [1, 2], "deep": {"list": [[3]]}, "one": [4]}


def test_results_must_match() -> None:
    """As many results as expressions."""
    with pytest.raises(ValueError, match="more results"):
        substitute_results({"x": "{{a}}"}, [1, 2])


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("steps.a.b + steps['c'] + steps?.d", {"a", "c", "d"}),
        ("`x${steps.a.$return_value}`", {"a"}),
        ("this.steps.a + x.steps.b", set()),
        ("steps[name]", set()),
        ("'steps.a'", set()),
        ("{a: steps.b}", {"b"}),
        (
            "export default { run({ steps }) { const { a, b: c, d = 1 } = steps; return steps.e } } // steps.f",
            {"a", "b", "e"},
        ),
        ("const steps = [1]; steps.length", set()),
        ("function f(steps) { return steps.a }", set()),
        ("x.map(steps => steps.a)", set()),
        ("steps.hasOwnProperty('x')", set()),
    ],
)
def test_references(source: str, names: set[str]) -> None:
    """References are literal names read from the platform's `steps`."""
    assert find_javascript_references(source) == names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{ "photos": steps.a.$return_value }', '{{ { "photos": steps.a.$return_value } }}'),
        ("\n[steps.a.b, 1]", "{{ [steps.a.b, 1] }}"),
        ("{ a: { b: steps.trigger.event }}", "{{ { a: { b: steps.trigger.event }} }}"),
        *(
            (text, text)
            for text in ('{"a": 1}', "[TODO]", "steps.a.b", "{{steps.a}}", "{ steps.a }", "{ a: await steps.a.b }")
        ),
        (["steps.a"], ["steps.a"]),
    ],
)
def test_javascript_without_braces(text: Any, expected: Any) -> None:
    """An object or a list that reads steps gets braces, and means the same; any other value stays as it is."""
    assert add_missing_braces(text) == expected
    if text != expected:
        assert parse_template(expected).sole_expression is not None
