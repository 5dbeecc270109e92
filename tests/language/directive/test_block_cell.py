"""`%%pdif`, `%%pdswitch` and `%%pdparallel` cells, parsed and formatted."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import DefinitionError
from pdkernel.language.directive import (
    build_unreadable_block,
    format_block_cell,
    format_step_cell,
    is_block_cell,
    is_step_cell,
    parse_block_cell,
    parse_step_cell,
    rename_block,
)
from pdkernel.language.expression import find_condition_errors
from pdkernel.model import BLOCK_TYPES, JSON, Block, Branch, Step
from tests.branch_workflows import WORKFLOWS
from tests.language.directive.test_cell import NAMES, TEXT, VALUES

RULES: st.SearchStrategy[JSON] = st.fixed_dictionaries(
    {"t": st.sampled_from(["and", "or"]), "r": st.lists(st.fixed_dictionaries({"a": VALUES, "op": TEXT}), max_size=2)}
)
SOURCES = st.one_of(
    TEXT,
    st.lists(
        st.sampled_from(
            [
                "!a.b",
                "a ? b : c",
                ' + " # "',
                "'#'",
                "`{{`",
                "}}",
                "[1]",
                "{a: 1}.a",
                "\n  && x",
                "\ny",
                "always",
                " # c",
            ]
        ),
        min_size=1,
        max_size=4,
    ).map("".join),
).filter(lambda source: source.strip() and not source.strip().startswith("{{"))


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """A block that a cell can show."""
    kind = draw(st.sampled_from(BLOCK_TYPES))
    names = draw(
        st.lists(NAMES.filter(lambda name: name not in ("else", "default", "expression")), unique=True, max_size=4)
    )
    conditions = VALUES if kind == "switch" else SOURCES | RULES
    branches = [Branch(name, draw(conditions)) for name in names]
    if kind == "parallel":
        branches = [
            draw(st.sampled_from([each, Branch(each.name, runs="always"), Branch(each.name, runs="never")]))
            for each in branches
        ]
    elif draw(st.booleans()):
        branches.append(Branch("else" if kind == "if" else "default", runs="always"))
    inside = f"{draw(NAMES)}.{draw(NAMES)}" if draw(st.booleans()) else None
    expression = draw(SOURCES) if kind == "switch" else None
    return Block(draw(NAMES), kind, tuple(branches), expression, inside, line_offset=1)


@given(blocks())
def test_block_cell_round_trip(block: Block) -> None:
    """The cell that is formatted for a block parses as the block, and is formatted as the same cell."""
    text = format_block_cell(block)

    read = parse_block_cell(text)

    assert read == block
    assert is_block_cell(text)
    assert format_block_cell(read) == text


@given(NAMES, NAMES, NAMES)
def test_a_step_in_a_branch_round_trip(name: str, block: str, branch: str) -> None:
    """The branch of a step follows its name."""
    step = Step(name, "node", "x", inside=f"{block}.{branch}", line_offset=1)

    assert format_step_cell(step) == f"%%pdstep {name} --in {block}.{branch} --lang node\nx"
    assert parse_step_cell(format_step_cell(step)).step == step


@pytest.mark.parametrize(
    ("line", "condition"),
    [
        ("a: steps.x.y >= 1000      # JavaScript", "steps.x.y >= 1000"),
        ("a: !steps.x.ok", "!steps.x.ok"),
        ("a: x ? y : z", "x ? y : z"),
        ('a: ["de", "at"].includes(steps.x.y)', '["de", "at"].includes(steps.x.y)'),
        ('a: "vip" in steps.x', '"vip" in steps.x'),
        ("a: steps.x.tag === ' # 1' # one", "steps.x.tag === ' # 1'"),
        ("a: `${steps.x} # {{`", "`${steps.x} # {{`"),
        ("a: {{ steps.x.y }}", "steps.x.y"),
        ('a: "{{steps.x.y}}"', "steps.x.y"),
        ("a: 'steps.x.y'   # quoted", "steps.x.y"),
        ("a: |\n  steps.x\n  && y", "steps.x\n&& y"),
        ("a: >-\n  steps.x\n  && y", "steps.x && y"),
        ("a: steps.x\n   && y  # both\n\n   || z\n\n", "steps.x\n   && y\n   || z"),
        ("a:\n  steps.x\n  || y", "steps.x || y"),
        ("on: steps.x", "steps.x"),
        ("a: true", "true"),
        ("a: 'always'", "always"),
        ("a: {a: 1, op: true}", {"a": 1, "op": True}),
        (
            "a: {t: and, r: [{a: {{steps.x}}, op: num>=, b: 1}]}",
            {"t": "and", "r": [{"a": "{{steps.x}}", "op": "num>=", "b": 1}]},
        ),
        ("a:\n  t: or\n  r:\n  - {op: '!exists'}", {"t": "or", "r": [{"op": "!exists"}]}),
        (
            "a: {t: or, r: [{op: !exists, a: 1}, {op: !null}]}",
            {"t": "or", "r": [{"op": "!exists", "a": 1}, {"op": "!null"}]},
        ),
    ],
)
def test_a_condition(line: str, condition: JSON) -> None:
    """A condition in the line of its branch is JavaScript, whatever YAML would read; rules and quoted texts are YAML."""
    found = parse_block_cell(f"%%pdif b\n{line}").branches[0]

    assert found == Branch("on" if line.startswith("on") else "a", condition)


@pytest.mark.parametrize(
    ("cell", "branches"),
    [
        ("%%pdif b", ()),
        ("%%pdif b\nelse:   # otherwise", (Branch("else", runs="always"),)),
        ("%%pdif b\nelse: always", (Branch("else", runs="always"),)),
        ("%%pdparallel b\nx:\ny: never\nz: always", (Branch("x", runs="always"), Branch("y", runs="never"), Branch("z", runs="always"))),
        ("%%pdswitch b\nexpression: x\nnever: always\nzero: 0\ngone: null\ndefault:", (Branch("never", "always"), Branch("zero", 0), Branch("gone"), Branch("default", runs="always"))),
        ("%%pdswitch b\nexpression: x\nall:\n- a\n- b", (Branch("all", ["a", "b"]),)),
        ("%%pdswitch b\nexpression: x\nall: {{steps.a.b}}", (Branch("all", "{{steps.a.b}}"),)),
    ],
)  # fmt: skip
def test_branches_without_a_condition(cell: str, branches: tuple[Branch, ...]) -> None:
    """Nothing, `always` and `never` stand in the place of a condition; in a switch they are values, and a case may be null."""
    assert parse_block_cell(cell).branches == branches


def test_the_place_of_a_block_and_of_its_conditions() -> None:
    """The branch of the block is on its line, comments may be above, and each part of a condition has its line of the cell."""
    block = parse_block_cell(
        "# note\n\n%%pdif triage --in notify.sms\na: x\n  && y\nb: {t: and, r: [\n  {a: 1}]}", cell=4
    )

    assert (block.inside, block.cell_index, block.line_offset) == ("notify.sms", 4, 3)
    assert [block.locate(*path) for path in (("a",), ("b", "r", 0), ("c",))] == [4, 7, 3]


@pytest.mark.parametrize(
    ("cell", "line", "message"),
    [
        ("%%pdif", 1, "%%pdif needs the block's name.\nWrite %%pdif NAME"),
        ("%%pdif a b", 1, "%%pdif a: unexpected word 'b'. A block has one name"),
        ("# x\n%%pdif a --on x", 2, "%%pdif: there is no option --on.\nDid you mean --in?"),
        ("%%pdif a --in triage", 1, "'triage' is not BLOCK.BRANCH, for example triage.urgent"),
        ("%%pdif trigger", 1, "cannot be called 'trigger'"),
        ("%%pdif a\n- x", 2, "The body of the block a is not its branches.\nWrite BRANCH: CONDITION"),
        ("%%pdif a\nx: 1\nx: 2", 3, "The block a has the key 'x' twice (line 3)"),
        ("%%pdif a\ny: z\nx: {t: and", 3, "The block a is not YAML"),
        ("%%pdif a\nx: {op: !date 1}", 2, "a value of the type !date"),
        ("%%pdif a\ny: 1\nurgent case: x", 3, "a branch called 'urgent case'"),
        ("%%pdif a\ny: 1\nx:", 3, "The block a has no condition for x.\nWrite x: CONDITION; only else: has none."),
        ("%%pdif a\nelse:\nx: 1", 2, "The block a has branches below else"),
        ("%%pdif a\nx:\n- 1", 2, "that is neither JavaScript nor rules"),
        ("%%pdswitch a\nx: 1", 1, "no expression to compare with its cases.\nWrite expression: JAVASCRIPT"),
        (
            "%%pdswitch a\nexpression: y\nx:",
            3,
            "The block a has no value for x.\nWrite x: VALUE; x: null if it is null",
        ),
        ("%%pdswitch a\nexpression: y\ndefault: 1", 3, "a value for default, which runs if no other"),
        ("x = 1", 1, "This is not a block's cell"),
    ],
)
def test_a_cell_that_cannot_be_read(cell: str, line: int, message: str) -> None:
    """An error names the line of the cell, what is wrong, and what to write."""
    with pytest.raises(DefinitionError) as caught:
        parse_block_cell(cell)

    assert message in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("%%pdif triage --on", "triage"),
        ("%%pdswitch 'a b", "a"),
        ("%%pdif --in x.y", "cell_3"),
        ("%%pdif trigger", "cell_3"),
    ],
)
def test_a_block_of_a_cell_that_cannot_be_read(cell: str, name: str) -> None:
    """The block has the name that its cell seems to have, else that of the cell's position, and the problem."""
    with pytest.raises(DefinitionError) as caught:
        parse_block_cell(cell)

    block = build_unreadable_block(cell, caught.value, cell=2)

    assert (block.name, block.problem) == (name, (str(caught.value), 1))


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ("%%pdif triage --in triage.urgent\ntriage: steps.triage", "%%pdif sort --in sort.urgent\ntriage: steps.triage"),
        ("# triage\n%%pdswitch  triage  # triage", "# triage\n%%pdswitch  sort  # triage"),
        ("%%pdif triage2 --in triage2.a", "%%pdif triage2 --in triage2.a"),
        ("%%pdstep triage --in=triage.urgent --app slack\n--in triage.x", "%%pdstep triage --in=sort.urgent --app slack\n--in triage.x"),
        ("%%pdstep page --lang node", "%%pdstep page --lang node"),
        ("x = '%%pdif triage'", "x = '%%pdif triage'"),
    ],
)  # fmt: skip
def test_a_renamed_block(text: str, renamed: str) -> None:
    """The block's cell and `--in` of the cells in it get the name; bodies, other names and other cells stay as they are."""
    assert rename_block(text, "triage", "sort") == renamed


@pytest.mark.parametrize("cell", ["%%pdiff x", "%%pdif? ", "x\n%%pdif y", "%%pdstep x", "%pdif x"])
def test_other_cells_are_not_blocks(cell: str) -> None:
    """Only the three magics, below comments, make a block."""
    assert not is_block_cell(cell)


@pytest.mark.parametrize("cell", [cell for cells in WORKFLOWS.values() for cell in cells if is_block_cell(cell)])
def test_blocks_as_a_person_writes_them(cell: str) -> None:
    """The blocks of the three workflows can be evaluated, and are formatted as cells that read the same."""
    block = parse_block_cell(cell)

    assert list(find_condition_errors(block)) == []
    assert parse_block_cell(format_block_cell(block)) == block
    assert not is_step_cell(cell)


@pytest.mark.parametrize(
    "line", ["a" + " " * 200_000, "a: x" + " " * 200_000 + "y", "a: " + "'" * 99_999, "a: " + "`" * 99_999, "a: {op" + ":" * 99_999, "a: '" + "''" * 99_999]
)  # fmt: skip
def test_a_long_line_takes_linear_time(line: str) -> None:
    """A cell of a stranger cannot stop the process: spaces and quotes are read in linear time."""
    started = time.process_time()

    with contextlib.suppress(DefinitionError):
        parse_block_cell(f"%%pdif b\n{line}")

    assert time.process_time() - started < 5
