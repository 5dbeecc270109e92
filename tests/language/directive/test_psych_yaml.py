"""YAML in the platform's style."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.language.directive import dump_yaml, parse_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LONG = st.lists(
    st.sampled_from(["word", "a", "{{x}}", "it's", '"q"', "#", ":", "-", "\n", "  ", "é", "\t"]), max_size=60
)
STRINGS = (
    TEXT | LONG.map(" ".join) | LONG.map("".join) | st.sampled_from(["y", "<<", "0899", "1e3", "1_000", "---", "..."])
)
VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(STRINGS, VALUES, max_size=5))
def test_values_read_back(value: dict[str, Any]) -> None:
    """A written value reads back the same, as YAML 1.2 and as the platform's YAML."""
    text = dump_yaml(value)

    assert parse_yaml(text, allow_expressions=False).value == value
    assert parse_yaml(text, allow_expressions=False, as_psych=True).value == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Yes", "'Yes'"),
        ("FALSE", "'FALSE'"),
        ("null", "'null'"),
        ("1", "'1'"),
        ("1.5", "'1.5'"),
        ("", "''"),
        ("y", '"y"'),
        ("N", '"N"'),
        ("a #b", "'a #b'"),
        ("a#b", "a#b"),
        ("2024-01-01", "'2024-01-01'"),
        ("[]", '"[]"'),
        ("+1 555", '"+1 555"'),
        ("./build/entry.js", '"./build/entry.js"'),
        ("{{steps.a}}", '"{{steps.a}}"'),
        ('{{ "x" }}', "'{{ \"x\" }}'"),
        ("a: b", "'a: b'"),
        ("https://x.org/a.ico", "https://x.org/a.ico"),
        ("C0612FY89DE", "C0612FY89DE"),
        ("IS_NULL", "IS_NULL"),
        ("it's", "it's"),
        ("😀", '"\\U0001F600"'),
        ("a\tb", '"a\\tb"'),
        (None, ""),
        (True, "true"),
        (1e20, "1.0e+20"),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_scalars(value: Any, text: str) -> None:
    """Each value is quoted as Psych quotes it."""
    assert dump_yaml({"k": value}) == f"k: {text}\n"


@pytest.mark.parametrize(
    ("value", "below", "as_key"),
    [
        ("a\n", "'a\n\n    '", '"a\\n"'),
        ("it's\n", "'it''s\n\n    '", '"it\'s\\n"'),
        ("a\nb", "|-\n    a\n    b", '? "a\\nb"\n'),
        ("a\n\nb\n", "|\n    a\n\n    b", '? "a\\n\\nb\\n"\n'),
        ("\na", "|2-\n\n    a", '? "\\na"\n'),
        (" a\nb", "|2-\n     a\n    b", '? " a\\nb"\n'),
        ("a \nb", '"a \\nb"', '"a \\nb"'),
        ("a\n\n", '"a\\n\\n"', '"a\\n\\n"'),
        ("  ", '"  "', '"  "'),
        ("a" * 75 + " b c", "a" * 75 + " b\n    c", "a" * 75 + " b c"),
        ("a" * 76 + " b c", "a" * 76 + "\n    b c", "a" * 76 + " b c"),
        ("a: " + "b " * 45 + "c", "'a: " + "b " * 36 + "b\n    " + "b " * 8 + "c'", "'a: " + "b " * 45 + "c'"),
    ],
)
def test_lines_of_a_scalar(value: str, below: str, as_key: str) -> None:
    """Lines below the first are indented under their key; a text that is a key is on one line."""
    text, keyed = dump_yaml({"k": {"j": value}}), dump_yaml({value: 1})

    assert text == f"k:\n  j: {below}\n"
    assert keyed == f"{as_key}: 1\n"


def test_blocks_and_folds() -> None:
    """Text of several lines is a block, long text is folded after column 80, lists start at their key's column."""
    value: dict[str, Any] = {
        "steps": [
            {
                "notes": "# hi\n\nagain",
                "text": "word " * 18 + "end",
                "list": [["a"], {"x": 1}],
                "quoted": "{{" + "aa " * 30 + "}}",
            }
        ]
    }

    assert dump_yaml(value) == (
        "steps:\n"
        "- notes: |-\n"
        "    # hi\n"
        "\n"
        "    again\n"
        "  text: word word word word word word word word word word word word word word word\n"
        "    word word word end\n"
        "  list:\n"
        "  - - a\n"
        "  - x: 1\n"
        '  quoted: "{{aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa aa\n'
        '    aa aa aa aa aa aa aa }}"\n'
    )
