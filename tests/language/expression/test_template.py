"""Text with `{{ }}` expressions."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import ExpressionError
from pdkernel.language.expression import (
    add_missing_braces,
    find_closing_braces,
    find_javascript_references,
    iter_templates,
    parse_template,
    substitute_results,
)
from pdkernel.language.expression.template import find_reference_lines
from tests.growth import assert_fast, assert_linear

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
    """Text without `{{` has no expressions."""
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
    """The parts of a template, joined, are its text."""
    template = parse_template("|".join(f"{{{{{piece}}}}}" for piece in pieces))

    together = "".join(part if isinstance(part, str) else f"{{{{{part.source}}}}}" for part in template.parts)

    assert together == template.text


def test_object_without_blanks() -> None:
    """The braces of an object may directly follow the braces of the expression."""
    assert parse_template("{{{a:{b:1}}}}").expressions[0].source == "{a:{b:1}}"


def test_sole_expression() -> None:
    """Only an expression without surrounding text or blanks is the sole expression."""
    assert parse_template("{{ x }}").sole_expression is not None
    assert parse_template(" {{ x }}").sole_expression is None
    assert parse_template("{{x}}{{y}}").sole_expression is None
    assert parse_template("x").sole_expression is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {{ steps.x", "{{steps.x is not closed"),
        ("{{", "not closed"),
        ("{{}}", "is empty"),
        ("{{ steps.x; }}", "does not contain exactly one JavaScript expression"),
        ("{{ a) + (b }}", "does not contain exactly one JavaScript expression"),
        ("{{ a); (b }}", "does not contain exactly one JavaScript expression"),
        ("{{ let x = 1 }}", "does not contain exactly one JavaScript expression"),
        ("{{ await fetch(1) }}", "uses await"),
        ("{{ " + "x" * 100 + " y }}", "..."),
    ],
)
def test_invalid_expression(text: str, says: str) -> None:
    """A text that is not one expression is refused with its beginning."""
    with pytest.raises(ExpressionError) as caught:
        parse_template(text)

    assert says in caught.value.message
    assert caught.value.fix or says == "..."


def test_await_inside_a_function() -> None:
    """A function in an expression may await; the expression itself does not."""
    assert parse_template("{{ (async () => await x)() }}").sole_expression is not None


def test_comments_in_expressions() -> None:
    """A comment may contain braces, and a `//` comment does not hide the closing braces."""
    assert parse_template("{{ a /* }} */ }}").sole_expression is not None
    assert parse_template("{{ a // why\n }}").sole_expression is not None


def test_find_end_from_a_position() -> None:
    """The search for the end starts at the given index."""
    assert find_closing_braces("{{ {a: {b: 1}} }} }}", 2) == 15
    assert find_closing_braces("{{ x", 2) is None


def test_templates_have_paths() -> None:
    """Every text with an expression comes with its path, in order."""
    value: Any = {"a": "{{1}}", "b": [{"c": "x{{2}}{{3}}"}, "plain"], "d": 5}

    found = [(path, [part.source for part in template.expressions]) for path, template in iter_templates(value)]

    assert found == [(("a",), ["1"]), (("b", 0, "c"), ["2", "3"])]


def test_invalid_expression_names_its_path() -> None:
    """An invalid expression is refused with the path of its value."""
    with pytest.raises(ExpressionError, match=r"b\.0\.c: \{\{x is not closed"):
        list(iter_templates({"b": [{"c": "{{x"}]}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{ "photos": steps.a.$return_value }', '{{ { "photos": steps.a.$return_value } }}'),
        ("\n[steps.a.b, 1]", "{{ [steps.a.b, 1] }}"),
        ("{ a: { b: steps.trigger.event }}", "{{ { a: { b: steps.trigger.event }} }}"),
        *(
            (text, text)
            for text in ('{"a": 1}', "[sent]", "steps.a.b", "{{steps.a}}", "{ steps.a }", "{ a: await steps.a.b }")
        ),
        (["steps.a"], ["steps.a"]),
    ],
)
def test_javascript_without_braces(text: Any, expected: Any) -> None:
    """An object or a list that reads steps gets braces; any other value stays unchanged."""
    assert add_missing_braces(text) == expected
    if text != expected:
        assert parse_template(expected).sole_expression is not None


def test_an_invalid_expression_has_its_path() -> None:
    """The error names the prop by its path, which callers use to find the line; the source is shortened to 60 characters."""
    source = "a " * 40

    with pytest.raises(ExpressionError) as caught:
        list(iter_templates({"a": [{"b": f"{{{{ {source} }}}}"}]}))

    assert caught.value.path == ("a", 0, "b")
    assert caught.value.message.startswith("a.0.b: {{")
    shown = caught.value.message.partition("{{")[2].partition("...")[0]
    assert len(shown) == 57


@pytest.mark.parametrize("text", ["{{}}", "{{({}}{}}", "{{'}}}}", "{{{}}}}", "{{`${a}}", "{{/}}/"])
def test_a_text_of_braces_is_refused_in_time(text: str) -> None:
    """A text in which many `}}` may end an expression, and none does, is refused; the time does not grow with its square."""

    def parse(written: str) -> None:
        with suppress(ExpressionError):
            parse_template("{{" + written)

    assert_linear(parse, lambda size: text[2:] * (size // len(text[2:])))
    assert_fast(parse, text[2:] * (64 * 1024 // len(text[2:])), 3)


def test_an_expression_of_many_objects() -> None:
    """A real expression may contain many `}}`."""
    source = "[" + ", ".join("{ a: { b: { c: 1 }}}" for _ in range(30)) + "]"

    assert parse_template("{{" + source + "}}").sole_expression is not None


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


def test_the_first_line_of_each_reference() -> None:
    """A step is listed with the line that reads it first; a key with a default may be missing, and is not a reference."""
    source = "const { a: renamed, b = 1, c: d = 2 } = steps;\nreturn [\n  steps.late,\n  steps.late.again,\n  steps.a];"

    assert find_reference_lines(source) == {"a": 1, "late": 3}


def test_an_escaped_name_is_not_read() -> None:
    """A name with an escape sequence is not a literal name."""
    assert find_javascript_references(r"steps['a\x62'].x + steps['plain']") == {"plain"}
