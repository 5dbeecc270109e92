"""The workflow model: names, versions, limits, and the places of props."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import BlockError, DuplicateStepError, StepNameError, UnknownStepError
from pdkernel.model import (
    JSON,
    ROUND_TRIP_KEY,
    AppBinding,
    Block,
    BlockType,
    Branch,
    Entry,
    Step,
    StoreBinding,
    Trigger,
    TriggerType,
    UnsupportedEntry,
    Workflow,
    check_step_name,
    get_app_slug,
    merge_entries,
)

STEP = Step(
    "a",
    "node",
    "code",
    uses="slack-send@1.0.0",
    apps=(AppBinding("chat", "slack", "apn_1"),),
    stores=(StoreBinding("db", "mine"),),
    props={"x": 1},
    timeout_s=5.0,
    notes="Note",
    line_offset=3,
)
WHOLE = Workflow(
    "W",
    triggers=(Trigger("http", "bearer", "TOKEN", "custom", {"id": "hi_1"}),),
    steps=(STEP, Step("b")),
    settings={"lambda_timeout": 40},
    variables=("A",),
)


def test_the_versioned_content() -> None:
    """The content has every field that affects a run."""
    assert WHOLE.versioned_content() == {
        "name": "W",
        "triggers": [
            {"type": "http", "auth": "bearer", "token_env": "TOKEN", "response": "custom", "config": {"id": "hi_1"}}
        ],
        "settings": {"lambda_timeout": 40},
        "steps": [
            {
                "name": "a",
                "language": "node",
                "source": "code",
                "uses": "slack-send@1.0.0",
                "apps": [["chat", "slack", "apn_1"]],
                "stores": [["db", "mine"]],
                "props": {"x": 1},
                "timeout_s": 5.0,
                "disabled": False,
                "notes": "Note",
                "line_offset": 3,
            },
            {
                "name": "b",
                "language": "python",
                "source": "",
                "uses": None,
                "apps": [],
                "stores": [],
                "props": {},
                "timeout_s": None,
                "disabled": False,
                "notes": None,
                "line_offset": 0,
            },
        ],
        "variables": ["A"],
    }


def test_the_version_is_a_hash_of_the_content() -> None:
    """The version has twelve hex digits, changes with the content, and does not depend on the order of keys."""
    one, other = Workflow("W", settings={"a": 1, "b": 2}), Workflow("W", settings={"b": 2, "a": 1})

    assert one.version == other.version == "".join(c for c in one.version if c in "0123456789abcdef")
    assert len(one.version) == 12
    assert replace(one, name="V").version != one.version
    changed = ({"source": "other"}, {"disabled": True}, {"timeout_s": 6.0}, {"files": {"./x.mjs": "1"}}, {"uses": None})
    versions = [replace(WHOLE, steps=(replace(STEP, **each), Step("b"))).version for each in changed]
    assert len({WHOLE.version, *versions}) == 6
    assert replace(WHOLE, origin="x", extra={"k": 1}, steps=(replace(STEP, cell_index=7, extra={"k": 1}), Step("b"))).version == WHOLE.version  # fmt: skip


@pytest.mark.parametrize(
    ("path", "lines", "file", "found"),
    [
        (("x", "y", 0), {("x", "y", 0): 5, ("x",): 4}, None, (5, "")),
        (("x", "y", 0), {("x", "y"): 6, ("x",): 4}, None, (6, "")),
        (("x", "y", 0), {("x",): 4, (): 1, ("y",): 9}, None, (4, "")),
        (("x",), {}, None, (3, "")),
        (("x",), {("x",): 4}, "workflow.yaml", (None, " (workflow.yaml, line 4)")),
        (("x",), {}, "workflow.yaml", (None, " (workflow.yaml)")),
    ],
)
def test_the_place_of_a_prop(
    path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], file: str | None, found: Any
) -> None:
    """A value has its own line, or that of the nearest value around it, or that of the directive."""
    step = replace(STEP, prop_lines=lines, props_file=file)

    assert step.locate_prop(*path) == found
    assert Step("b").locate_prop("x") == (None, "")


@pytest.mark.parametrize(
    ("kept", "source", "missing"),
    [({"missing": True}, "", True), ({"missing": True}, "x", False), ({"missing": 1}, "", False), ({}, "", False), ("text", "", False)],
)  # fmt: skip
def test_missing_code(kept: Any, source: str, missing: bool) -> None:
    """A step lacks its code if its entry file was missing and no code was written since."""
    assert Step("a", source=source, extra={ROUND_TRIP_KEY: kept}).is_code_missing == missing


@pytest.mark.parametrize(
    ("kept", "options"),
    [
        ({"picked": {"x": {"value": 1, "written": {"__lv": {"label": "One", "value": 1}}}}}, {"x": {"__lv": {"label": "One", "value": 1}}}),
        ({"picked": {"x": {"value": 2, "written": 2}}}, {}),
        ({"picked": {"y": {"value": None, "written": 2}}}, {}),
        ({"picked": {"x": 1}}, {}),
        ({"picked": 1}, {}),
        (1, {}),
    ],
)  # fmt: skip
def test_picked_options(kept: Any, options: dict[str, Any]) -> None:
    """A picked option is known as long as the prop has its value."""
    assert replace(STEP, extra={ROUND_TRIP_KEY: kept}).picked_options == options


@pytest.mark.parametrize(
    ("entry", "name", "reason"),
    [
        ({"namespace": "n"}, "n", "has no uses: it is control flow"),
        ({"namespace": 1, "uses": ""}, "an entry without a name", "has no uses"),
        ({"namespace": "", "uses": "./a/entry.rb"}, "an entry without a name", "is in a language that is not supported: ./a/entry.rb"),
        ({"uses": "../a"}, "an entry without a name", "is in a language"),
        ({"uses": "/a"}, "an entry without a name", "is in a language"),
        ({"uses": ["x"]}, "an entry without a name", 'uses ["x"], which is not KEY@VERSION'),
    ],
)  # fmt: skip
def test_an_unsupported_entry(entry: dict[str, Any], name: str, reason: str) -> None:
    """An entry has a name and the reason for which it does not run."""
    found = UnsupportedEntry(None, entry)

    assert (found.name, found.unsupported_reason[: len(reason)]) == (name, reason)


def test_unsupported_entries_are_stored_beside_other_bookkeeping() -> None:
    """The entries are read back in order, and other data of the definition stays."""
    entries = (UnsupportedEntry(None, {"a": 1}), UnsupportedEntry("a", {}))
    archived = (*entries, UnsupportedEntry("a", {"b": 1}, "$.steps[1]", "is unknown"))
    workflow = replace(WHOLE, extra={"k": 1, ROUND_TRIP_KEY: {"n": 1, "kept": []}})

    kept = workflow.with_unsupported_entries(entries)

    assert kept.unsupported_entries == entries
    assert kept.extra == {"k": 1, ROUND_TRIP_KEY: {"n": 1, "kept": [{"after": None, "entry": {"a": 1}}, {"after": "a", "entry": {}}]}}  # fmt: skip
    assert workflow.with_unsupported_entries(archived).unsupported_entries == archived
    assert (archived[2].name, archived[2].unsupported_reason) == ("$.steps[1]", "is unknown")
    assert WHOLE.with_unsupported_entries([]) is WHOLE
    assert WHOLE.unsupported_entries == ()


def test_steps_of_a_workflow() -> None:
    """A step is found by its name, with the steps above and below it; two steps of one name are refused."""
    steps = tuple(map(Step, "abc"))
    workflow = Workflow("W", steps=steps)

    assert workflow.step("b") is steps[1]
    assert (workflow.steps_before("b"), workflow.steps_after("b")) == (steps[:1], steps[2:])
    assert (workflow.steps_before("a"), workflow.steps_after("c")) == ((), ())
    assert workflow.trigger == Trigger("http", "none", None, "default", {})
    assert Workflow("W", triggers=()).trigger.type == "emit"  # other workflows start it
    with pytest.raises(UnknownStepError, match="Known: a, b, c"):
        workflow.step("d")
    with pytest.raises(DuplicateStepError):
        Workflow("W", steps=(*steps, steps[0]))


@pytest.mark.parametrize(
    ("kind", "settings", "own", "limit"),
    [
        ("http", {}, None, 30),
        ("email", {}, None, 30),
        ("schedule", {}, None, 60),
        ("source", {}, None, 60),
        ("http", {"lambda_timeout": 40}, None, 40),
        ("http", {"lambda_timeout": 0.5}, None, 0.5),
        ("http", {"lambda_timeout": True}, None, 30),
        ("http", {"lambda_timeout": "40"}, None, 30),
        ("http", {"lambda_timeout": 40}, 0.5, 0.5),
    ],
)
def test_the_time_limit_of_a_step(kind: TriggerType, settings: dict[str, Any], own: float | None, limit: float) -> None:
    """The limit is the step's, else the workflow's, else that of the first trigger's type."""
    workflow = Workflow("W", triggers=(Trigger(kind), Trigger("email")), settings=settings)

    assert workflow.timeout_s(Step("a", timeout_s=own)) == limit


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("1st", "'step_1st'"),
        ("my step!", "'my_step'"),
        ("é", "'my_step'"),
        ("", "'my_step'"),
        ("a\n", "'a'"),
        ("trigger", "Choose another name."),
    ],
)
def test_an_invalid_step_name(name: str, fix: str) -> None:
    """A name that `steps.NAME` cannot hold is refused, with a name that fits."""
    with pytest.raises(StepNameError) as caught:
        check_step_name(name)

    assert fix in caught.value.fix
    assert caught.value.step == name
    assert [check_step_name(each) for each in ("_", "A1", "triggers")] == ["_", "A1", "triggers"]


@pytest.mark.parametrize(
    ("key", "slug"),
    [("google_sheets-add-row@2.1.2", "google_sheets"), ("@me/slack-send@1", ""), ("slack", "slack")],
)
def test_the_app_of_a_key(key: str, slug: str) -> None:
    """The slug is the part before the first dash; the key of a private component does not name an app."""
    assert get_app_slug(key) == slug


TRIAGE = Block("triage", "if", (Branch("urgent", "a > 1"), Branch("else", runs="always")), place=1)
ROUTE = Block(
    "route",
    "switch",
    (Branch("free", "free"), Branch("default", runs="always")),
    "steps.check.plan",
    inside="triage.urgent",
    place=2,
)
NESTED = Workflow(
    "W",
    steps=(
        Step("check"),
        Step("page", inside="triage.urgent"),
        Step("offer", inside="route.free"),
        Step("renew", inside="route.default"),
        Step("close", inside="triage.urgent"),
        Step("note", inside="triage.else"),
        Step("report"),
    ),
    blocks=(TRIAGE, ROUTE),
)


def test_entries_of_a_workflow_with_blocks() -> None:
    """Each level has its steps and blocks in order, the flat list has all, and a name leads to its path."""
    assert [entry.name for entry in NESTED.entries()] == ["check", "triage", "report"]
    assert [entry.name for entry in NESTED.entries("triage.urgent")] == ["page", "route", "close"]
    assert [entry.name for entry in NESTED.entries("route.free")] == ["offer"]
    assert [entry.name for entry in NESTED.all_entries] == [
        *("check", "triage", "page", "route", "offer", "renew", "close", "note", "report")
    ]
    assert (NESTED.path("offer"), NESTED.path("route")) == ("triage.urgent.route.free.offer", "triage.urgent.route")
    assert NESTED.path("report") == "report"
    assert NESTED.block("route") is NESTED.entry("route") is ROUTE
    with pytest.raises(BlockError, match=r"(?s)no block 'rout'.*mean route\?"):
        NESTED.block("rout")
    with pytest.raises(BlockError, match=r"(?s)no branch 'urgnt'.*mean urgent\?"):
        NESTED.entries("triage.urgnt")
    with pytest.raises(UnknownStepError):
        NESTED.entry("nobody")


@pytest.mark.parametrize(
    ("name", "visible"),
    [
        ("check", ""),
        ("triage", "check"),
        ("page", "check"),
        ("route", "check page"),
        ("offer", "check page"),
        ("renew", "check page"),
        ("close", "check page route"),
        ("note", "check"),
        ("report", "check triage"),
    ],
)
def test_the_exports_that_an_entry_may_read(name: str, visible: str) -> None:
    """An entry sees the earlier entries of its branch and of the levels around it: no sibling branch, and no step in a block."""
    assert NESTED.visible_names(name) == tuple(visible.split())
    assert [each.name for each in NESTED.all_entries if NESTED.sees(name, each.name)] == visible.split()


def test_a_workflow_without_blocks_has_one_level() -> None:
    """The steps are its entries, and each sees the steps above it."""
    workflow = Workflow("W", steps=tuple(map(Step, "abc")))

    assert workflow.entries() == workflow.all_entries == workflow.steps
    assert (workflow.visible_names("c"), workflow.path("c"), workflow.entry("c")) == (
        ("a", "b"),
        "c",
        workflow.steps[2],
    )
    assert [workflow.sees("b", name) for name in "abcd"] == [True, False, False, False]
    with pytest.raises(BlockError, match="no blocks"):
        workflow.entries("a.b")
    assert "blocks" not in workflow.versioned_content()
    assert "inside" not in workflow.versioned_content()["steps"][0]


def test_the_version_of_a_workflow_with_blocks() -> None:
    """A changed condition, branch or place changes the version, and the content is read back as the same workflow."""
    content = json.loads(json.dumps(NESTED.versioned_content()))
    others = (
        replace(NESTED, blocks=(replace(TRIAGE, branches=(Branch("urgent", "a > 2"), TRIAGE.branches[1])), ROUTE)),
        replace(NESTED, blocks=(TRIAGE, replace(ROUTE, expression="1"))),
        replace(NESTED, steps=(*NESTED.steps[:5], replace(NESTED.steps[5], inside="triage.urgent"), NESTED.steps[6])),
        replace(NESTED, blocks=(TRIAGE, replace(ROUTE, inside="triage.else"))),
    )

    assert Workflow.from_versioned_content(content) == NESTED
    assert len({NESTED.version, *(other.version for other in others)}) == 5


@pytest.mark.parametrize(
    ("steps", "blocks", "message"),
    [
        (
            [("a", "triag.urgent")],
            [],
            r"a is in triag.urgent, and the workflow has no block 'triag'.\nWrite a cell %%pdif",
        ),
        ([("c", None), ("a", "triag.urgent")], [TRIAGE], r"no block 'triag'.\nDid you mean triage\?"),
        ([("c", None), ("a", "triage.urgnt")], [TRIAGE], r"no branch 'urgnt'.\nDid you mean urgent\?"),
        ([("c", None), ("a", "triage")], [TRIAGE], "no branch is named"),
        (
            [("a", "triage.else"), ("c", None)],
            [TRIAGE],
            "triage.else, which comes later.\nMove the block triage above a",
        ),
        (
            [("c", None), ("a", "triage.else"), ("b", None), ("d", "triage.else")],
            [TRIAGE],
            "d is in triage.else, but that block ended above: b is outside of it.\nMove b below the entries of triage",
        ),
        ([("c", None)], [replace(TRIAGE, inside="triage.else")], "Block triage is in triage.else, which is itself"),
        (
            [("c", None)],
            [replace(TRIAGE, inside="route.free"), replace(ROUTE, inside="triage.else")],
            "Block triage is in route.free, which comes later",
        ),
    ],
)
def test_an_entry_at_a_wrong_place(steps: list[tuple[str, str | None]], blocks: list[Block], message: str) -> None:
    """An entry whose block is missing, below it, itself, or has ended above it is refused, with what to do."""
    with pytest.raises(BlockError, match=message):
        Workflow("W", steps=tuple(Step(name, inside=inside) for name, inside in steps), blocks=tuple(blocks))


def test_names_of_steps_and_blocks_are_unique() -> None:
    """Two blocks, or a block and a step, of one name are refused, because `steps.NAME` would be ambiguous."""
    with pytest.raises(DuplicateStepError, match="A step and a block are called 'triage'"):
        Workflow("W", steps=(Step("triage"),), blocks=(TRIAGE,))
    with pytest.raises(DuplicateStepError, match="Two blocks are called 'triage'"):
        Workflow("W", blocks=(TRIAGE, TRIAGE))


@pytest.mark.parametrize(
    ("kind", "branches", "expression", "message"),
    [
        ("if", [Branch("a b", "x")], None, r"called 'a b'.*\nCall it 'a_b'"),
        ("if", [Branch("a", "x"), Branch("a", "y")], None, "two branches called 'a'"),
        ("if", [Branch("a")], None, "condition for a that is neither"),
        ("parallel", [Branch("a", " ")], None, "condition for a that is neither"),
        ("if", [Branch("a", runs="always")], None, r"no condition for a.\nWrite a: CONDITION; only else: has none"),
        ("if", [Branch("a", runs="never")], None, "no condition for a"),
        ("if", [Branch("else", "x")], None, "condition for else, which runs if no other"),
        ("if", [Branch("else", runs="always"), Branch("a", "x")], None, r"below else.*\nWrite else: last"),
        ("switch", [Branch("a", 1)], None, "no expression"),
        ("switch", [Branch("default", 1)], "x", "value for default"),
        ("switch", [Branch("a", runs="always")], "x", "no value for a"),
        ("switch", [Branch("expression", 1)], "x", "called 'expression'"),
    ],
)
def test_a_block_with_wrong_branches(
    kind: BlockType, branches: list[Branch], expression: str | None, message: str
) -> None:
    """Branches that cannot decide what runs are refused; a block whose cell has a problem may have any."""
    with pytest.raises(BlockError, match=message):
        Block("b", kind, tuple(branches), expression)

    assert Block("b", kind, tuple(branches), expression, problem=("wrong", 1)).branches == tuple(branches)


@pytest.mark.parametrize(
    ("kind", "branches"),
    [
        ("if", ()),
        ("if", (Branch("a", {"t": "and", "r": []}), Branch("else", runs="always"))),
        ("switch", (Branch("none"), Branch("zero", 0), Branch("many", [1, {"x": "{{steps.a.b}}"}]))),
        ("parallel", (Branch("a", runs="always"), Branch("b", runs="never"), Branch("else", "steps.a.ok"))),
    ],
)
def test_branches_of_a_block(kind: BlockType, branches: tuple[Branch, ...]) -> None:
    """A branch has JavaScript or rules, a case any value, null too, and those of a parallel block run always, never or on a condition."""
    block = Block("b", kind, branches, "steps.a.b" if kind == "switch" else None)

    assert [block.branch(branch.name) for branch in branches] == list(branches)


def test_the_line_of_a_condition() -> None:
    """A part of a condition is found in its cell, else the part around it, else the first line of the cell's branches."""
    block = Block("b", "if", (Branch("a", "x"),), line_offset=1, lines={("a",): 2, ("a", "r", 0): 4})

    assert [block.locate(*path) for path in (("a", "r", 0, "a"), ("a", "t"), ("z",))] == [4, 2, 1]


def build_entries(draw: st.DrawFn, inside: str | None, depth: int, names: list[str]) -> list[Entry]:
    """Draw the entries of one level, each block followed by those of its branches."""
    found: list[Entry] = []
    for _ in range(draw(st.integers(0, 3))):
        name = f"n{len(names)}"
        names.append(name)
        if depth == 0 or draw(st.booleans()):
            found.append(Step(name, inside=inside))
            continue
        branches = [Branch(f"b{number}", runs="always") for number in range(draw(st.integers(0, 3)))]
        found.append(Block(name, "parallel", tuple(branches), inside=inside))
        for branch in branches:
            found += build_entries(draw, f"{name}.{branch.name}", depth - 1, names)
    return found


@st.composite
def nested_workflows(draw: st.DrawFn) -> tuple[Workflow, list[Entry]]:
    """Workflows with nested blocks, and their entries in the order of the cells."""
    entries = build_entries(draw, None, 3, [])
    steps = [entry for entry in entries if isinstance(entry, Step)]
    blocks, above = [], 0
    for entry in entries:
        if isinstance(entry, Block):
            blocks.append(replace(entry, place=above))
        else:
            above += 1
    return Workflow("W", steps=tuple(steps), blocks=tuple(blocks)), entries


@given(nested_workflows())
def test_nested_blocks(drawn: tuple[Workflow, list[Entry]]) -> None:
    """The order of cells, the scope and the versioned content of any nested blocks agree with the paths of their entries."""
    workflow, entries = drawn
    names = [entry.name for entry in entries]
    paths = {name: workflow.path(name).split(".") for name in names}

    assert [entry.name for entry in merge_entries(workflow.steps, workflow.blocks)] == names
    assert Workflow.from_versioned_content(workflow.versioned_content()) == workflow
    for place, name in enumerate(names):
        around = [tuple(paths[name][:length]) for length in range(0, len(paths[name]), 2)]
        visible = [above for above in names[:place] if tuple(paths[above][:-1]) in around and above not in paths[name]]
        assert workflow.visible_names(name) == tuple(visible)
        assert [other for other in names if workflow.sees(name, other)] == visible
    levels: list[JSON] = [entry.inside for entry in entries]
    assert all(list(workflow.entries(level)) == [e for e in workflow.all_entries if e.inside == level] for level in levels)  # type: ignore[arg-type]  # fmt: skip
