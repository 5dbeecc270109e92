"""Reading YAML with the line of every value and with unquoted expressions."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.errors import DirectiveError, NotebookError
from pdkernel.language.directive.located_yaml import parse_yaml


def read(text: str) -> Any:
    """The value of *text*, which may contain expressions."""
    return parse_yaml(text, allow_expressions=True).value


def error_of(text: str, **options: Any) -> DirectiveError:
    """The error of *text*."""
    with pytest.raises(DirectiveError) as caught:
        parse_yaml(text, allow_expressions=True, **options)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("text: {{steps.a.b}} and {{ {x: {y: 1}} }}", {"text": "{{steps.a.b}} and {{ {x: {y: 1}} }}"}),
        (r'double: "{{steps.a.split(\"}}\")}}"', {"double": '{{steps.a.split("}}")}}'}),
        ('escape: "{{ `a\\tb` }}"', {"escape": "{{ `a\tb` }}"}),
        ("single: '{{steps.a[''b'']}}'", {"single": "{{steps.a['b']}}"}),
        ("list: [1, {{steps.a.x ? 1 : 2}}]", {"list": [1, "{{steps.a.x ? 1 : 2}}"]}),
        ("{{steps.key}}: yes", {"{{steps.key}}": "yes"}),
        ("# {{ a comment\n  # {{ another\na: 1 # {{ a third", {"a": 1}),
        ("a: {{ x }} \ue000 \ue0010\ue001", {"a": "{{ x }} \ue000 \ue0010\ue001"}),
    ],
)  # fmt: skip
def test_an_expression_needs_no_quotes(text: str, value: Any) -> None:
    """An expression is text, and YAML's escapes apply in quotes; a comment has no expressions."""
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: |\n  one {{\n    x\n  }}\n  two\n", "one {{\n  x\n}}\ntwo\n"),
        ("a: >\n  one {{\n    x\n  }}\n  two\n", "one {{\n  x\n}} two\n"),
        ("a: >-\n\n    {{ [1,\n    2] }}\n", "\n{{ [1,\n2] }}"),
        ("a: |\n  {{ `\n x` }}\n", "{{ `\n x` }}\n"),
    ],
    ids=["literal", "folded", "after an empty line", "text left of the block"],
)
def test_an_expression_in_a_block_of_text(text: str, value: str) -> None:
    """The lines of an expression lose the indentation of their block, and keep their breaks also where a block is folded."""
    assert read(text) == {"a": value}


def test_yaml_is_1_2() -> None:
    """`yes`, dates and `1_000` are text, numbers are numbers, and keys are text."""
    text = "a: yes\nb: 2024-01-01\nc: 0o10\nd: 1_000\ne: 1e3\nf: ~\ng: 007\nh: 0x1F\ni: .5\n1: TRUE\n~: -1"

    assert read(text) == {
        "a": "yes", "b": "2024-01-01", "c": 8, "d": "1_000", "e": 1000.0, "f": None, "g": 7, "h": 31, "i": 0.5, "1": True, "~": -1,
    }  # fmt: skip


def test_the_platforms_yaml() -> None:
    """In the platform's files `yes` is true and `0899` is text; texts that Ruby reads as another type are ambiguous."""
    text = "a: yes\nb: OFF\nc: 'yes'\nd: 0899\ne: 1e3\nf: 12:30\ng: [2024-01-01, '2024-01-01']"

    found = parse_yaml(text, allow_expressions=False, as_psych=True)

    assert found.value == {
        "a": True, "b": False, "c": "yes", "d": "0899", "e": "1e3", "f": "12:30", "g": ["2024-01-01", "2024-01-01"],
    }  # fmt: skip
    assert found.ambiguous_paths == (("f",), ("g", 0))


def test_lines_beside_a_long_expression() -> None:
    """A value has the line of its key; expressions of several lines count for the lines below them."""
    found = parse_yaml(
        "a: 1\nb: {{\n 1 +\n 1 }} or {{\n 2 }}\nc: [{{ 2 }},\n {{ 3 }}]\nd:\n  4",
        allow_expressions=True,
        line_offset=10,
    )

    assert found.lines == {
        (): 11, ("a",): 11, ("b",): 12, ("c",): 16, ("c", 0): 16, ("c", 1): 17, ("d",): 18,
    }  # fmt: skip
    assert [found.get_line(path) for path in (("c", 1), ("c", 5, "x"), ("none",))] == [17, 16, 11]


def test_an_empty_document() -> None:
    """An empty text has the value null, and no line."""
    found = parse_yaml("# nothing\n", allow_expressions=True)

    assert (found.value, found.get_line(("a",))) == (None, None)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: [1", 2, "The YAML is not YAML: "),
        ("--- 1\n--- 2", 2, "is not YAML: but found another document"),
        ("a: 1\na: 2", 2, "has the key 'a' twice"),
        ("{a: 1, a: 2}", 1, "has the key 'a' twice"),
        ("a:\n  ? [1]\n  : 2", 2, "has a key that is not text"),
        ("a: {{\n 1 +\n 1 }}\nb: {{steps.x", 4, "cannot be read: {{steps.x is not closed"),
        ("a: {{ }}", 1, "{{ }} is empty"),
        ("a: {{ if (x) }}", 1, "does not contain exactly one JavaScript expression"),
        ("a: {{\n 1 }}\n{{ x: 1", 3, "{{x: 1 is not closed"),
        ("a: .inf", 1, "holds .inf, which is not a number in JSON"),
        ("a: -.INF", 1, "holds -.INF, which is not a number in JSON"),
        ("a: .NaN", 1, "holds .NaN, which is not a number in JSON"),
        ("a: 1e999", 1, "holds 1e999, which is not a number in JSON"),
        ("a: 1" + "0" * 5000, 1, "holds a number that is too long"),
        ("a: !!binary aGk=", 1, "a value of the type binary"),
        ("a: !mine 1", 1, "a value of the type !mine"),
        ("a: &x [*x]", 1, "refers to itself"),
    ],
)
def test_an_invalid_text_is_refused_with_its_line(text: str, line: int, says: str) -> None:
    """The message names the problem and the line, however long the expressions above are."""
    error = error_of(text)

    assert says in error.message
    assert (error.line, f"(line {line})" in error.message) == (line, True)


def test_a_character_that_yaml_does_not_have() -> None:
    """A problem without a place has a message without a line."""
    error = error_of("a: \x01")

    assert error.message == "The YAML is not YAML: unacceptable character #x0001: special characters are not allowed."
    assert error.line is None


def test_an_error_names_the_document() -> None:
    """A message names the step, the document and the line in the cell; the caller chooses the class."""
    of_a_step = error_of("a: b: c", step="s", document_name="The header", line_offset=3)
    with pytest.raises(NotebookError, match=r"^x/workflow\.yaml is not YAML"):
        parse_yaml("a: [", allow_expressions=False, error_class=NotebookError, document_name="x/workflow.yaml")

    assert of_a_step.message == "Step s: the header is not YAML: mapping values are not allowed here (line 4)."
    assert (of_a_step.step, of_a_step.line) == ("s", 4)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("settings:\n" + "  - 1\n" * 150_000, 100_001, "more than 100,000 values"),
        ("settings: [" + "1," * 1_500_000 + "]", 1, "more than 100,000 values"),
        ("settings: {" + ", ".join(f"k{n}: 1" for n in range(200_000)) + "}", 1, "more than 100,000 values"),
        ("settings:\n- [\n" + "  1, 2, 3, 4,\n" * 40_000 + "]", 20_002, "more than 100,000 values"),
        ("settings: " + "[" * 500 + "]" * 500, 1, "nested too deeply"),
        ("".join(" " * n + "k:\n" for n in range(300)), 201, "nested too deeply"),
    ],
    ids=["block", "flow", "flow mapping", "flow of several lines", "brackets", "indentation"],
)
def test_a_huge_text_is_refused(text: str, line: int, says: str) -> None:
    """Too many values, or values too deep, are refused with the line, before the whole text is parsed."""
    error = error_of(text)

    assert says in error.message
    assert error.line == line


def test_repeated_aliases_count_as_values() -> None:
    """A short text whose aliases stand for more values than are read is refused."""
    text = "a: &a [x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{inner}'] * 18)}]\n" for inner, name in ("ab", "bc", "cd", "de")
    )

    assert "is too large" in error_of(text).message
    assert read(text[: text.index("e:")])


def test_a_long_text_is_one_value() -> None:
    """Lines of a block of text are not counted as values."""
    text = "".join(f"    - {n}\n" for n in range(101_000))

    assert read(f"note: |\n{text}after: 1\n") == {"note": text.replace("    ", ""), "after": 1}
