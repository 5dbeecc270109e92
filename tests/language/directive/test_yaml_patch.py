"""Changing single values in YAML text."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pdkernel.errors import DefinitionError, UnsupportedError
from pdkernel.language.directive import dump_yaml, parse_yaml, patch_yaml

WORDS = st.sampled_from(
    ["word", "a b c", "{{steps.a.b}}", "it's", '"q"', "#", ":", "Yes", "1", "é", "line\nline", "x" * 100, "long " * 30]
) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
KEYS = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | WORDS
VALUES: Any = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=4)


def read(text: str) -> Any:
    """The value of *text*."""
    return parse_yaml(text, allow_expressions=False, as_psych=True).value


def by_ruamel(value: Any, style: dict[str, Any]) -> str:
    """*value* formatted by ruamel.yaml in *style*."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = style["flow"]
    yaml.allow_unicode = True
    yaml.width = style["width"]
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in *value* that ends in a scalar."""
    if isinstance(value, dict):
        return [path for key, item in value.items() for path in paths(item, (*above, key))]
    if isinstance(value, list):
        return [path for index, item in enumerate(value) for path in paths(item, (*above, index))]
    return [above]


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A document in the platform's style or another, with either line break, with or without one at its end."""
    value = draw(DOCUMENTS)
    style = {"flow": draw(st.sampled_from([False, None, True])), "width": draw(st.sampled_from([40, 80, 1000]))}
    text = dump_yaml(value) + "\n" if draw(st.booleans()) else by_ruamel(value, style)
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    if draw(st.booleans()) and "|" not in text:
        text = text.rstrip()
    assume(is_read(text))
    return text


def is_read(text: str) -> bool:
    """Whether *text* is valid: inside brackets, ruamel.yaml writes some forms that it cannot read."""
    try:
        return isinstance(read(text), dict)
    except DefinitionError:
        return False


def same_ends(before: str, after: str) -> tuple[int, int]:
    """The number of equal lines from the top, and from the bottom."""
    one, two = before.splitlines(keepends=True), after.splitlines(keepends=True)
    top = next((n for n, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two)))
    rest = zip(reversed(one[top:]), reversed(two[top:]), strict=False)
    bottom = next((n for n, pair in enumerate(rest) if pair[0] != pair[1]), min(len(one), len(two)) - top)
    return top, bottom


@given(texts())
def test_an_unchanged_document_is_the_same_text(text: str) -> None:
    """Patching a document with its own value returns the same text."""
    assert patch_yaml(text, read(text), read(text)) == text


@given(texts(), st.data())
def test_one_scalar_changes_only_its_own_lines(text: str, data: st.DataObject) -> None:
    """A changed scalar reads back, and only the value's own lines differ."""
    old = read(text)
    found = paths(old)
    if not found or text.startswith("{"):
        return
    path = data.draw(st.sampled_from(found))
    new = copy.deepcopy(old)
    place = new
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(SCALARS)

    patched = patch_yaml(text, old, new)

    located = parse_yaml(text, allow_expressions=False, as_psych=True)
    starts = sorted({line for other, line in located.lines.items() if len(other) > 0})
    first = located.get_line(path) or 1
    following = next((line for line in starts if line > first), len(text.splitlines()) + 1)
    top, bottom = same_ends(text, patched)
    assert read(patched) == new
    assert top >= first - 1 or patched == text
    assert bottom >= len(text.splitlines()) - following + 1 or patched == text


@given(texts(), DOCUMENTS)
def test_any_value_becomes_any_other(text: str, new: dict[str, Any]) -> None:
    """The patched text has the requested value, or the change is refused."""
    try:
        patched = patch_yaml(text, read(text), new)
    except UnsupportedError:
        return

    assert read(patched) == new


@given(st.lists(st.dictionaries(KEYS, SCALARS, min_size=1, max_size=3), min_size=1, max_size=5), st.data())
def test_moved_items_keep_their_text(items: list[Any], data: st.DataObject) -> None:
    """Items of a rearranged list keep their text and the comment line above."""
    items = [{**item, "id": number} for number, item in enumerate(items)]
    text = "top: 1\nitems:\n"
    parts = [dump_yaml({"items": [item]}).removeprefix("items:\n") for item in items]
    text += "".join(f"# about {number}\n{part}" for number, part in enumerate(parts)) + "end: 2\n"
    order = data.draw(st.permutations(range(len(items))))[: data.draw(st.integers(1, len(items)))]
    new = {"top": 1, "items": [items[index] for index in order], "end": 2}

    patched = patch_yaml(text, read(text), new, alignments={("items",): order})

    assert patched == "top: 1\nitems:\n" + "".join(f"# about {index}\n{parts[index]}" for index in order) + "end: 2\n"


OLD = "# top\na: 1  # one\nb:\n  - x: >-\n      folded\n      text\n    # of y\n    y: {q: 1, z: [a, 'b c']}  # yy\n\nc: 'last'"


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"a": 2}, {2: "a: 2  # one"}),
        ({"a": True}, {2: "a: true  # one"}),
        ({"a": "two\nlines"}, {2: 'a: "two\\nlines"  # one'}),
        ({"c": "Yes"}, {10: "c: 'Yes'"}),
        ({"b": [{"x": "folded text", "y": {"q": "1, 2", "z": ["a", "b c"]}}]},
         {8: "    y: {q: \"1, 2\", z: [a, 'b c']}  # yy"}),
        ({"b": [{"x": "folded text", "y": {"q": 1}}]}, {8: "    y: {q: 1}  # yy"}),
    ],
)  # fmt: skip
def test_comments_and_styles_stay(change: dict[str, Any], lines: dict[int, str]) -> None:
    """Comments, quotes, folding and brackets around a changed value stay."""
    patched = patch_yaml(OLD, read(OLD), {**read(OLD), **change})

    expected = [lines.get(number, line) for number, line in enumerate(OLD.split("\n"), start=1)]
    assert patched.split("\n") == expected


def test_keys_are_added_and_removed() -> None:
    """A new key follows the key before it, with its indentation and line breaks; a removed key is removed with its lines."""
    text = "a:\n- k: 1\n  l:\n    m: 2\n  n: |\n    text\n\nz: 9\n"

    new = {"a": [{"k": 1, "new": {"deep": [1]}, "n": "text\n"}], "yy": True, "z": 9}

    patched = patch_yaml(text, read(text), new)
    of_windows = patch_yaml(text.replace("\n", "\r\n"), read(text), new)

    assert of_windows == patched.replace("\n", "\r\n")
    assert patched == "a:\n- k: 1\n  new:\n    deep:\n    - 1\n  n: |\n    text\nyy: true\n\nz: 9\n"


@pytest.mark.parametrize(
    ("text", "new", "expected"),
    [
        ("b: 1\n", {"a": 0, "b": 1}, "a: 0\nb: 1\n"),
        ("x:\n- b: 1\n  c: 2\n", {"x": [{"a": [1], "b": 1, "c": 2}]}, "x:\n- a:\n  - 1\n  b: 1\n  c: 2\n"),
        ("x:\n- b: 1\n  c: 2\n", {"x": [{"c": 2}]}, "x:\n- c: 2\n"),
        ("x:\n- b: 1\n  c: 2\n", {"x": [{"d": 2}]}, "x:\n- d: 2\n"),
        ("a: 1\nb: 2", {"a": 1}, "a: 1"),
        ("a: 1\r\nb: 2", {"a": 1}, "a: 1"),
        ("a: 1\nb: 2\n", {"a": 1, "z": 3, "b": 2, "x": 4}, "a: 1\nz: 3\nb: 2\nx: 4\n"),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "z": ["x"], "b": 2}, "a: 1\r\nz:\r\n- x\r\nb: 2\r\n"),
        ("? a\n: 1\nb: 2\n", {"a": 3, "b": 2}, "? a\n: 3\nb: 2\n"),
        ("- 1\n- 2\n", [1, 3, 4], "- 1\n- 3\n- 4\n"),
        ("a:   # note\nb: 1\n", {"a": 5, "b": 1}, "a: 5   # note\nb: 1\n"),
        ("a: |\n  x\n\nb: 1\n", {"a": "y\nz\n", "b": 1}, "a: |\n  y\n  z\n\nb: 1\n"),
        ("a: {b: [1]}\n", {"a": {"b": [], "c": "x y"}}, 'a: {b: [], c: "x y"}\n'),
        ("%YAML 1.1\n--- # one\na: 1\n...\n", {"a": 2}, "%YAML 1.1\n--- # one\na: 2\n...\n"),
    ],
)
def test_a_change_has_a_place(text: str, new: Any, expected: str) -> None:
    """A change is made at its own place: in the first and the last line, after a dash, with every form of line break."""
    assert patch_yaml(text, read(text), new) == expected


@pytest.mark.parametrize(
    ("text", "new", "line"),
    [
        ("b: 2\n? a\n: 1\n", {"b": 2}, 2),
        ("? a\n: 1\nb: 2\n", {"z": 1, "a": 1, "b": 2}, 1),
        ("b: 2\n&x a: 1\n", {"b": 3, "a": 1}, 2),
        ("5\n", 6, 1),
        ("", {"a": 1}, 1),
        ("a: 1\n", {"b": 1}, None),
        ("- 1\n", [], None),
    ],
)
def test_a_change_that_cannot_be_made(text: str, new: Any, line: int | None) -> None:
    """A form that is not supported, and a document that would have no old line, are refused with the name and the line."""
    with pytest.raises(UnsupportedError, match=r"^w\.yaml has a form in which this change cannot be made") as caught:
        patch_yaml(text, read(text), new, name="w.yaml")

    assert (caught.value.line, f"(line {line})" in caught.value.message) == (line, line is not None)


def test_a_file_that_the_platform_does_not_read() -> None:
    """In YAML 1.2, an unquoted text that Ruby would read as another type stays as it is."""
    text = "a: yes\nb: 0o17 # one\n"
    old = parse_yaml(text, allow_expressions=False).value

    assert old == {"a": "yes", "b": 15}
    assert patch_yaml(text, old, {"a": "yes", "b": 16}, psych=False) == "a: yes\nb: 16 # one\n"


def test_empty_brackets_become_a_block() -> None:
    """A value that is no longer empty is written in the platform's style."""
    text = "a: []\nb: {} # none\nc: [1]\n"

    patched = patch_yaml(text, read(text), {"a": [{"x": 1}], "b": {}, "c": [1, "two words"]})

    assert patched == 'a:\n- x: 1\nb: {} # none\nc: [1, "two words"]\n'


@pytest.mark.parametrize(
    "new",
    [
        {"base": {"k": 2}, "other": {"k": 1}, "x": 1},
        {"base": {"k": 1}, "other": {"k": 2}, "x": 1},
        {"base": {"k": 1}, "x": 1},
        {"other": {"k": 1}, "x": 1},
    ],
)
def test_anchors_are_refused(new: dict[str, Any]) -> None:
    """A change that touches an anchor or an alias is refused with its line; other changes are made."""
    text = "base: &a\n  k: 1\nother: *a\nx: 1\n"

    with pytest.raises(UnsupportedError, match=r"anchor or an alias|cannot be made") as caught:
        patch_yaml(text, read(text), new, name="workflow.yaml")

    assert "workflow.yaml" in caught.value.message
    assert patch_yaml(text, read(text), {**read(text), "x": 2}) == text.replace("x: 1", "x: 2")


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("a: 1\nb: &x 2\nc: *x\n", {"a": 1, "c": 2}),
        ("a: 1\nb: &x 2\nc: *x\n", {"a": 1, "b": 3, "c": 2}),
        ("a:\n- &x 1\n- 2\nb: *x\n", {"a": [2], "b": 1}),
        ("a:\n- &x {k: 1}\n- 2\n", {"a": [2]}),
    ],
    ids=["a removed key", "a changed value", "a removed item", "an anchor without an alias"],
)
def test_the_error_of_an_anchor_has_its_line(text: str, new: dict[str, Any]) -> None:
    """The place of the anchor is named, not that of the aliases, which would lose their value."""
    with pytest.raises(
        UnsupportedError, match=r"an anchor or an alias \(& or \*\) at the changed place \(line 2\)"
    ) as caught:
        patch_yaml(text, read(text), new)

    assert caught.value.line == 2
