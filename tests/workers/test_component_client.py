"""Components in files: their declarations, runs and options. The tests write all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.errors import StepError
from pdkernel.model import JSON, AppBinding, Step
from pdkernel.workers import ComponentFile, Emitted, OptionsQuery, PropOption, SourceCall, StepRecorder, WorkerPool
from tests.workers.conftest import Bench, OpenRun
from tests.workers.test_worker import GatewaySpy

APP = """
export default {
  type: "app",
  app: "desk",
  propDefinitions: {
    queue: {
      type: "string", label: "Queue", description: "Where it goes",
      async options({ page, prevContext, query, site }) {
        const { offset = 0 } = prevContext;
        return {
          options: [{ label: `${site ?? "any"} ${this.$auth.token} ${page} ${offset}`, value: offset }],
          context: { offset: offset + 10 },
        };
      },
    },
    color: { type: "string", options: ["red", "green"] },
    shade: { type: "string", label: "Shade" },
  },
  methods: {
    token() { return this.$auth.token },
    _plain: "not a function",
  },
};
"""

ACTION = """
import desk from "../../desk.app.mjs";
export default {
  key: "desk-make-ticket", name: "Make Ticket", description: "Makes one", version: "1.2.3", type: "action",
  props: {
    desk,
    site: { type: "string", optional: true },
    queue: { propDefinition: [desk, "queue", (c) => ({ site: c.site })], label: "Which queue", optional: true },
    color: { propDefinition: [desk, "color"], default: "green" },
    count: { type: "integer", min: 1, max: 5, optional: true },
    notice: { type: "alert", alertType: "info", content: "Mind the gap" },
    detail: { type: "boolean", optional: true, reloadProps: true },
    extra: { type: "string", hidden: true },
  },
  async additionalProps(existing) {
    if (this.detail) existing.extra.hidden = false;
    return this.site ? { fromSite: { type: "string", label: this.site, async options() { return ["a", "b"] } } } : {};
  },
  methods: { shout(text) { return `${text}!` } },
  async run({ $ }) {
    $.export("$summary", this.shout("done"));
    return { ...this, token: this.desk.token(), fields: Object.keys(this.desk.$auth) };
  },
};
"""

Write = Callable[..., ComponentFile]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a component into a package, beside its app."""
    package = tmp_path / "project" / "node_modules" / "@sample" / "desk"

    def write(text: str, *, name: str = "make-ticket", kind: Any = "action", origin: Any = "npm") -> ComponentFile:
        folder = package / f"{kind}s" / name
        folder.mkdir(parents=True, exist_ok=True)
        package.joinpath("package.json").write_text(json.dumps({"name": "@sample/desk", "version": "1.0.0"}))
        package.joinpath("desk.app.mjs").write_text(APP)
        path = folder / f"{name}.mjs"
        path.write_text(text)
        return ComponentFile(path, f"desk-{name}", "1.2.3", kind, origin)

    return write


@pytest.fixture
def bench(warm_bench: Bench) -> Bench:
    """A run whose processes earlier tests may have used."""
    return warm_bench


def action(body: str, props: str = "", extra: str = "") -> str:
    """An action whose run is *body*."""
    return (
        'import desk from "../../desk.app.mjs";\n'
        f'export default {{ key: "desk-x", version: "0.0.1", type: "action", props: {{ desk, {props} }}, {extra}\n'
        f"  async run({{ steps, $ }}) {{\n{body}\n}} }};\n"
    )


async def run(bench: Bench, component: ComponentFile, **call: Any) -> Any:
    """Run *component* as a step with an account of its app."""
    call.setdefault("credentials", {"desk": {"token": "tok-1"}})
    return await bench.run("node", "", step=Step("work", "node", uses="desk-x@1"), component=component, **call)


async def test_description_of_a_component(bench: Bench, write: Write) -> None:
    """A description has the key, version and apps, and the definition of each prop merged with its `propDefinition`."""
    found = await bench.workers.describe(write(ACTION))

    assert (found.key, found.version, found.type, found.additional) == ("desk-make-ticket", "1.2.3", "action", True)
    assert found.apps == (AppBinding("desk", "desk"),)
    props = {prop.name: prop for prop in found.props}
    assert props["queue"].definition == {
        "type": "string",
        "label": "Which queue",
        "description": "Where it goes",
        "optional": True,
        "dynamic": True,
    }
    assert props["color"].definition["options"] == ["red", "green"]
    assert [name for name, prop in props.items() if not prop.optional] == []
    assert props["notice"].definition["content"] == "Mind the gap"


@pytest.mark.parametrize("site", ["a", {"__lv": {"label": "Site A", "value": "a"}}], ids=["plain", "with a label"])
async def test_action_runs_with_its_methods_props_and_account(bench: Bench, write: Write, site: JSON) -> None:
    """The action has its methods, defaults, the methods and account of its app, and values of undeclared props without their labels; its result has no credential."""
    outcome = await run(bench, write(ACTION), props={"count": "3", "fromSite": site})

    assert outcome.error is None
    assert outcome.exports["$summary"] == "done!"
    assert outcome.exports["$return_value"] == {
        "desk": {"_plain": "not a function"},
        "color": "green",
        "count": 3,
        "fromSite": "a",
        "token": "tok-1",
        "fields": ["token"],
    }


async def test_prop_definition_is_followed_through_several_levels(bench: Bench, write: Write) -> None:
    """`propDefinition` is followed to any depth, the nearest definition wins, and every function adds its arguments."""
    text = """
const inner = { type: "app", app: "a", propDefinitions: { x: { type: "integer", label: "Inner", min: 2,
  options({ one, two }) { return [one, two] } } } };
const outer = { type: "app", app: "b", propDefinitions: { y: { propDefinition: [inner, "x", () => ({ one: 1 })], label: "Outer" } } };
export default { key: "k", version: "1", type: "action", run() {},
  props: { z: { propDefinition: [outer, "y", (c) => ({ two: c.given })] }, given: "integer" } };
"""
    component = write(text)

    described = await bench.workers.describe(component)
    page = await bench.workers.options(component, "z", values={"given": 7})

    assert described.props[0].definition == {"type": "integer", "label": "Outer", "min": 2, "dynamic": True}
    assert [option.value for option in page.options] == [1, 7]


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ('[desk, "nothing"]', 'The prop x refers to propDefinition [desk, "nothing"], which does not exist.'),
        ('[undefined, "queue"]', 'The prop x refers to propDefinition [undefined, "queue"], which does not exist.'),
        ('[loop, "y"]', 'The prop x refers to propDefinition [loop, "y"], which refers to itself.'),
    ],
)
async def test_wrong_prop_definition_is_reported(bench: Bench, write: Write, definition: str, message: str) -> None:
    """The error names the prop, the app and the key."""
    loop = 'const loop = { type: "app", app: "loop", propDefinitions: {} };\nloop.propDefinitions.y = { propDefinition: [loop, "y"] };\n'
    component = write(loop + action("", f"x: {{ propDefinition: {definition} }}"))

    with pytest.raises(StepError) as caught:
        await bench.workers.describe(component)

    assert (caught.value.code, caught.value.message) == ("configuration", message)
    assert getattr(caught.value, "prop", None) == "x"


async def test_missing_prop_is_reported_with_a_fix(bench: Bench, write: Write) -> None:
    """A missing prop is an error before the component runs."""
    component = write(
        action("console.log('ran')", 'channel: { type: "string", label: "Send To", options: ["general"] }')
    )

    outcome = await run(bench, component)

    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.name) == ("configuration", "ConfigurationError")
    assert outcome.error.message == 'The prop channel ("Send To") is required, but the step does not set it.'
    assert outcome.error.fix == (
        'Set it in the props of the step (channel: "general"), or in the directive of a code step: --prop channel=VALUE'
    )
    assert bench.printed() == ""


REQUIRED = "The prop x is required, but its expression evaluates to null."
LIMITS = "min: 2, max: 5 }"


@pytest.mark.parametrize(
    ("declared", "given", "value", "warnings"),
    [
        ('"integer"', {"x": "abc"}, "abc", ['The prop x expects a whole number, but its value is "abc".']),
        ('"boolean"', {"x": 1}, 1, ["The prop x expects true or false, but its value is of type number."]),
        ('"integer[]"', {"x": ["1", "x"]}, [1, "x"], ['The prop x expects a whole number, but its value is "x".']),
        (f'{{ type: "integer", {LIMITS}', {"x": 9}, 9, ["The prop x is 9, but its maximum is 5."]),
        (f'{{ type: "integer", {LIMITS}', {"x": 1}, 1, ["The prop x is 1, but its minimum is 2."]),
        (f'{{ type: "integer[]", {LIMITS}', {"x": [2, 5, "6"]}, [2, 5, 6], ["The prop x is 6, but its maximum is 5."]),
        ('{ type: "string", default: "d" }', {}, "d", []),
        ('{ type: "string", default: "d" }', {"x": None}, None, []),
        ('{ type: "string", default: false }', {}, False, []),
        ('{ type: "string", optional: true }', {}, "absent", []),
        ('{ type: "string", optional: true }', {"x": None}, None, []),
        ('{ type: "string", hidden: true }', {}, "absent", []),
        ('{ type: "string", disabled: true }', {}, "absent", []),
        ('"string"', {"x": None}, None, [REQUIRED]),
    ],
)
async def test_value_that_its_prop_does_not_accept(
    bench: Bench, write: Write, declared: str, given: dict[str, JSON], value: JSON, warnings: list[str]
) -> None:
    """The code gets a value of another type, outside its limits or null, and a warning names it; a default replaces only a missing value."""
    component = write(action('return "x" in this ? this.x : "absent"', f"x: {declared}"))

    outcome = await run(bench, component, props=given)

    assert outcome.error is None
    assert outcome.exports["$return_value"] == value
    assert outcome.warnings == tuple(warnings)


async def test_empty_expression_of_a_required_prop_is_a_warning(bench: Bench, write: Write) -> None:
    """A prop without a value is undefined in the component, as on the platform."""
    component = write(action("return typeof this.channel", 'channel: "string"'))
    step = Step("work", "node", uses="desk-x@1", props={"channel": "{{steps.trigger.event.none}}"})

    outcome = await bench.run("node", "", step=step, component=component, props={})

    assert outcome.exports == {"$return_value": "undefined"}
    assert outcome.warnings == ("The prop channel is required, but its expression evaluates to undefined.",)


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        ('"integer"', "12", 12),
        ('"integer"', "12.5", "12.5"),
        ('"boolean"', "false", False),
        ('"string"', 5, 5),
        ('"object"', '{"a": 1}', {"a": 1}),
        ('"object"', "no JSON", "no JSON"),
        ('"string[]"', "one", ["one"]),
        ('"string[]"', '["a", "b"]', ["a", "b"]),
        ('"string[]"', [["a", "b"]], ["a", "b"]),
        ('"integer[]"', ["1", 2], [1, 2]),
        ('"any"', '{"a": 1}', '{"a": 1}'),
        ('"sql"', "select 1", {"query": "select 1", "params": []}),
        ('"sql"', {"query": "select $1", "params": [1]}, {"query": "select $1", "params": [1]}),
        ('"string"', {"__lv": {"label": "One", "value": "1"}}, "1"),
        ('"string[]"', {"__lv": [{"label": "One", "value": "1"}]}, ["1"]),
        ('"string[]"', {"__lv": {"label": ["One", "Two"], "value": ["1", "2"]}}, ["1", "2"]),
        ('"string[]"', [{"__lv": {"label": "One", "value": "1"}}, "2"], ["1", "2"]),
        (
            '{ type: "string[]", withLabel: true }',
            {"__lv": {"label": ["One", "Two"], "value": ["1", "2"]}},
            [{"label": "One", "value": "1"}, {"label": "Two", "value": "2"}],
        ),
        ('"integer"', " -7 ", -7),
        ('"integer"', "9007199254740993", "9007199254740993"),
        ('"boolean"', "true", True),
        ('"boolean"', "True", "True"),
        ('"boolean[]"', "false", [False]),
        ('"object"', "[1]", [1]),
        ('"object"', "5", "5"),
        ('"object[]"', '{"a": 1}', [{"a": 1}]),
        ('"string[]"', "[", ["["]),
        ('"sql"', '{"query": "select $1", "params": [1]}', {"query": "select $1", "params": [1]}),
        ('{ type: "string", default: "d" }', "", ""),
        (
            '{ type: "string", withLabel: true }',
            {"__lv": {"label": "One", "value": "1"}},
            {"label": "One", "value": "1"},
        ),
        ('{ type: "string", withLabel: true }', "1", {"label": "1", "value": "1"}),
        ('{ type: "string[]", withLabel: true }', ["1"], [{"label": "1", "value": "1"}]),
    ],
)
async def test_value_is_converted_to_the_type_of_its_prop(
    bench: Bench, write: Write, declared: str, given: Any, expected: object
) -> None:
    """Labels are removed unless the prop uses labels; a text is converted to the prop's type if the text matches the type."""
    outcome = await run(bench, write(action("return this.x", f"x: {declared}")), props={"x": given})

    assert outcome.error is None
    assert outcome.exports["$return_value"] == expected


async def test_dir_prop_is_a_folder_of_the_run(bench: Bench, write: Write) -> None:
    """A `dir` prop is a path in which the component can write; a given path is used."""
    component = write(action("return [this.d === process.env.TMPDIR, this.d]", 'd: { type: "dir", sync: true }'))

    outcome = await run(bench, component)
    given = await run(bench, component, props={"d": "/given"})

    assert outcome.exports["$return_value"][0] is True
    assert given.exports["$return_value"] == [False, "/given"]


async def test_changes_to_this_do_not_reach_the_next_run(bench: Bench, write: Write) -> None:
    """Changes of a component to `this`, its app or a default do not reach the next run."""
    component = write(
        action(
            "const seen = [this.x, this.desk.y, this.list.length]; this.x = 1; this.desk.y = 1; this.list.push(1); return seen",
            'list: { type: "string[]", default: [] }',
        )
    )

    await run(bench, component)
    outcome = await run(bench, component)

    assert outcome.exports["$return_value"] == [None, None, 0]


@pytest.mark.parametrize(
    ("props", "tokens", "found"),
    [("myDesk", {"desk": "1"}, ["1"]), ("a, b, c", {"a": "1", "desk": "3", "b": "2"}, ["1", "2", "3"])],
    ids=["of the app's slug", "of the prop's name"],
)
async def test_account_of_an_app_prop(
    bench: Bench, write: Write, props: str, tokens: dict[str, str], found: list[str]
) -> None:
    """Each app prop has the account of its name; one without has that of its app."""
    declared = ", ".join(f"{name}: desk" for name in props.split(", "))
    text = (
        f'import desk from "../../desk.app.mjs";\nexport default {{ props: {{ {declared} }}, '
        f"run() {{ return [{', '.join(f'this.{name}' for name in props.split(', '))}].map((one) => one.token()) }} }}"
    )

    outcome = await run(bench, write(text), credentials={name: {"token": token} for name, token in tokens.items()})

    assert (outcome.error, outcome.exports["$return_value"]) == (None, found)


async def test_additional_props_have_the_account(bench: Bench, write: Write) -> None:
    """The code that adds props may call the app with the account of the form."""
    extra = 'async additionalProps() { return { added: { type: "string", label: this.desk.token() } } },'

    (added,) = await bench.workers.additional_props(write(action("", "", extra)), credentials={"desk": {"token": "T"}})

    assert (added.name, added.definition["label"]) == ("added", "T")


async def test_declared_prop_that_a_component_changes_is_still_required(bench: Bench, write: Write) -> None:
    """A prop that is required stays so if `additionalProps` changes it; a prop that it adds may be missing."""
    extra = 'async additionalProps(existing) { existing.team.label = "Crew"; return { added: { type: "string" } } },'
    component = write(action("return 1", 'team: { type: "string" }', extra))

    failed = await run(bench, component)
    outcome = await run(bench, component, props={"team": "t"})

    assert failed.error is not None
    assert failed.error.message == 'The prop team ("Crew") is required, but the step does not set it.'
    assert (outcome.error, outcome.exports["$return_value"]) == (None, 1)


DESK_QUEUE = 'x: { propDefinition: [desk, "queue", (c) => ({ site: c.site })] }'
COPY = '{ type: "app", app: "desk", propDefinitions: { x: { type: "string", options() { return [this.token()] } } } }'


@pytest.mark.parametrize(
    ("props", "call", "labels"),
    [
        pytest.param(
            'site: "string", x: { propDefinition: [desk, "queue"], async options() { return [this.site] } }',
            {"values": {"site": "home"}},
            ["home"],
            id="options beside a propDefinition have the component as this",
        ),
        pytest.param(
            'x: { type: "string[]", async options() { return ["a", "b"].filter((one) => !this.x?.includes(one)) } }',
            {},
            ["a", "b"],
            id="options may read their own prop",
        ),
        pytest.param(
            "x: { type: 'string', useQuery: true, async options({ query }) { return ['one', 'two', query] } }",
            {"query": OptionsQuery(text="w")},
            ["one", "two", "w"],
            id="a function with useQuery filters by itself",
        ),
        pytest.param(
            "x: { type: 'string', async options({ query }) { return ['one', 'two', query] } }",
            {"query": OptionsQuery(text="w")},
            ["two", "w"],
            id="options of other functions are filtered",
        ),
        pytest.param(
            f'x: {{ propDefinition: [{COPY}, "x"] }}', {}, ["T"], id="options of a copy of the app use the own app"
        ),
        pytest.param(
            'x: { propDefinition: [desk, "color"] }',
            {"query": OptionsQuery(text="GRE")},
            ["green"],
            id="a list is filtered",
        ),
        pytest.param(
            'x: { propDefinition: [desk, "color"] }', {"query": OptionsQuery(1)}, [], id="a list has one page"
        ),
        pytest.param(
            f'site: "string", other: "string", {DESK_QUEUE}',
            {"values": {"other": "{{steps.a}}", "site": "s"}},
            ["s T 0 0"],
            id="an expression that is not read does not matter",
        ),
        pytest.param(
            f'site: {{ type: "string", optional: true }}, {DESK_QUEUE}',
            {},
            ["any T 0 0"],
            id="an optional prop may be empty",
        ),
    ],
)
async def test_options_of_a_prop(bench: Bench, write: Write, props: str, call: Any, labels: list[str]) -> None:
    """The options are those that the declaration lists or its function returns, and a query filters them."""
    page = await bench.workers.options(write(action("", props)), "x", credentials={"desk": {"token": "T"}}, **call)

    assert [option.label for option in page.options] == labels


async def test_context_of_a_page_of_options_reaches_the_next_page(bench: Bench, write: Write) -> None:
    """The `options` function of the app gets the account, the arguments of the prop, the page number and the context."""
    component = write(ACTION)
    values = {"site": {"__lv": {"label": "Home", "value": "home"}}}

    first = await bench.workers.options(component, "queue", values=values, credentials={"desk": {"token": "T"}})
    second = await bench.workers.options(
        component, "queue", values=values, credentials={"desk": {"token": "T"}}, query=OptionsQuery(1, first.context)
    )

    assert first.options == (PropOption("home T 0 0", 0),)
    assert second.options == (PropOption("home T 1 10", 10),)
    assert first.empty_reason is None


WITHOUT = "You can type a text or an expression instead."
TEAM = '{ type: "string", label: "The team" }'


@pytest.mark.parametrize(
    ("options", "credentials", "values", "reason"),
    [
        ("return [this.desk.token()]", {}, {}, "The desk account is only known at run time."),
        (
            "try { this.desk.token() } catch (e) { throw new Error('Sign in first') }",
            {},
            {},
            "The desk account is only known at run time.",
        ),
        ("throw new TypeError('no such thing')", {"desk": {}}, {}, "TypeError: no such thing"),
        ("throw 'just text'", {"desk": {}}, {}, "Error: just text"),
        (
            "return [this.site].filter(Boolean)",
            {"desk": {}},
            {"site": "{{steps.a.b}}"},
            f"Choices depend on the prop site, whose value is an expression that is known at run time only. {WITHOUT}",
        ),
        (
            "return [this.team].filter(Boolean)",
            {"desk": {}},
            {"site": "s"},
            f'Choices depend on the prop team ("The team"). Set that prop first. {WITHOUT}',
        ),
        (
            "try { return [this.team] } catch { return ['all'] }",
            {"desk": {}},
            {"team": ""},
            f'Choices depend on the prop team ("The team"). Set that prop first. {WITHOUT}',
        ),
    ],
)
async def test_page_without_options_has_a_reason(
    bench: Bench, write: Write, options: str, credentials: Any, values: Any, reason: str
) -> None:
    """A page without options has the reason: an unknown account, an error of the code, or an unknown value."""
    props = f'site: "string", team: {TEAM}, x: {{ type: "string", async options() {{ {options} }} }}'
    component = write(action("", props))

    page = await bench.workers.options(component, "x", credentials=credentials, values=values)

    assert (page.options, page.empty_reason) == ((), reason)


@pytest.mark.parametrize(("team", "asked"), [(None, []), ("", []), ("{{steps.a.b}}", []), ("blue", ["blue"])])
@pytest.mark.parametrize(
    "how",
    [
        "propDefinition: [desk, 'seat', (c) => ({ group: c.team })]",
        "async options({ team }) { await ask(team); return []; }",
        "async options() { await ask(this.team); return []; }",
    ],
)
async def test_options_wait_for_a_required_prop_that_they_read(
    bench: Bench, write: Write, tmp_path: Path, how: str, team: str | None, asked: list[str]
) -> None:
    """Options that read an empty required prop make no request, and the reason names this prop."""
    note = tmp_path / "asked"
    text = f"""
        import {{ appendFileSync }} from "node:fs";
        const ask = async (what) => appendFileSync({json.dumps(str(note))}, `${{what}}\n`);
        const desk = {{
          type: "app", app: "desk",
          propDefinitions: {{ seat: {{ type: "string", async options({{ group }}) {{ await ask(group); return []; }} }} }},
        }};
        export default {{ props: {{ desk, team: {TEAM}, seat: {{ type: "string", {how} }} }}, async run() {{}} }};
    """
    values = {} if team is None else {"team": team}

    page = await bench.workers.options(write(text), "seat", credentials={"desk": {}}, values=values)

    assert (note.read_text().split() if note.exists() else []) == asked
    assert (page.empty_reason is None) == bool(asked)


async def test_forms_of_options(bench: Bench, write: Write) -> None:
    """An option is a value, or an object with a value, a label or both; the label of a value is its text."""
    listed = "['a', 5, null, { value: 6 }, { label: 'L' }, { label: 'M', value: { n: 1 } }, { value: { n: 2 } }]"
    props = f'x: {{ type: "string", options: {listed} }}, y: {{ type: "string", options() {{ return {{ options: {listed} }} }} }}'
    component = write(action("", props))

    pages = [await bench.workers.options(component, name, credentials={"desk": {}}) for name in ("x", "y")]
    found = await bench.workers.options(component, "x", query=OptionsQuery(text="5"))

    expected = (
        PropOption("a", "a"),
        PropOption("5", 5),
        PropOption("null", None),
        PropOption("6", 6),
        PropOption("L", "L"),
        PropOption("M", {"n": 1}),
        PropOption('{"n":2}', {"n": 2}),
    )
    assert [page.options for page in pages] == [expected, expected]
    assert found.options == (PropOption("5", 5),)


async def test_additional_props_include_changed_and_returned_props(bench: Bench, write: Write) -> None:
    """A component may change its argument or return new props, also with options; the declaration stays unchanged."""
    component = write(ACTION)

    changed = await bench.workers.additional_props(component, values={"detail": True, "site": "Home"})
    page = await bench.workers.options(component, "fromSite", values={"site": "Home"})
    unchanged = await bench.workers.additional_props(component)

    assert [(prop.name, prop.optional, prop.definition.get("label")) for prop in changed] == [
        ("extra", False, None),
        ("fromSite", False, "Home"),
    ]
    assert [option.value for option in page.options] == ["a", "b"]
    assert unchanged == ()


ADDING = """
    wanted: { type: "string", optional: true, reloadProps: true },
    also: { type: "string", optional: true, reloadProps: true },
    mode: { type: "string", hidden: true, default: "plain" },
"""
ADDS = """
  async additionalProps(existing) {
    if (this.wanted === "nothing known") throw new Error("the other side is away");
    existing.mode.default = `${this.wanted} mode`;
    return {
      how: { type: "string", default: "CONTAINS" },
      tags: { type: "string[]", default: ["a"] },
      most: { type: "integer", optional: true },
      asked: { type: "string" },
    };
  },
"""
GIVES_BACK = "const { mode, how, tags, most } = this; return { mode, how, tags, most };"


@pytest.mark.parametrize(
    ("props", "value"),
    [
        ({}, {"mode": "plain"}),
        ({"wanted": "x"}, {"mode": "x mode", "how": "CONTAINS", "tags": ["a"]}),
        (
            {"wanted": "x", "mode": "own", "how": "IS", "tags": "b", "most": "3"},
            {"mode": "own", "how": "IS", "tags": ["b"], "most": 3},
        ),
    ],
)
async def test_run_has_the_defaults_of_additional_props(bench: Bench, write: Write, props: Any, value: Any) -> None:
    """Props that the action adds or changes have their default and type; the action adds none without a value of a prop that reloads them."""
    outcome = await run(bench, write(action(GIVES_BACK, ADDING, ADDS)), props=props)

    assert (outcome.error, outcome.warnings) == (None, ())
    assert outcome.exports["$return_value"] == value


async def test_additional_props_that_need_an_account_have_a_reason(bench: Bench, write: Write) -> None:
    """If an account is not known yet, the error names its app, also if the code replaces the error by its own."""
    for body in ("this.desk.token()", "try { this.desk.token() } catch { throw new Error('Sign in') }"):
        component = write(action("", "", f"async additionalProps() {{ {body}; return {{}} }},"), name=f"n{len(body)}")

        with pytest.raises(StepError, match=r"^The desk account is only known at run time\.$"):
            await bench.workers.additional_props(component)


async def test_outbound_calls_of_a_component_have_the_rules_of_the_caller(open_run: OpenRun, write: Write) -> None:
    """While options, additional props or a source run, the rules of the caller apply to their outbound calls."""
    gateway = GatewaySpy()
    pool = WorkerPool(gateway=gateway)  # type: ignore[arg-type]
    workers = (await open_run(of=pool)).workers
    action_file, source_file = write(ACTION), write(SOURCE, name="new-ticket", kind="source")

    await workers.options(action_file, "fromSite", values={"site": "Home"}, call_context="options")
    await workers.additional_props(action_file, values={"site": "Home"}, call_context="additional")
    await workers.run_source(SourceCall(source_file, "dc_1", operation="deploy", call_context="source"), StepRecorder())
    await workers.release()
    await pool.close()

    bound = [context for kind, _, *contexts in gateway.calls[1:] if kind == "bind" for context in contexts]
    assert bound == ["options", "additional", "source"]


async def test_description_of_an_edited_component_is_new(open_run: OpenRun, write: Write) -> None:
    """A component of a folder is described again after a change that keeps its size."""
    found = []
    for name in ("Make Ticket", "Take Ticket"):
        bench = await open_run()
        component = write(ACTION.replace("Make Ticket", name), origin="folder")
        found.append((await bench.workers.describe(component)).name)
        await bench.workers.release()

    assert found == ["Make Ticket", "Take Ticket"]


PATCH = """
const real = Object.entries;
Object.entries = (value) => real(value).map(([name, each]) => [name, each?.label ? { ...each, label: "forged" } : each]);
const keys = Object.keys;
Object.keys = (value) => keys(value).filter((name) => name !== "count");
JSON.stringify = ((real) => (value) => real(value).replaceAll("Which queue", "forged"))(JSON.stringify);
globalThis.process.env.FORGED = "1";
"""


async def labels(bench: Bench, component: ComponentFile) -> list[Any]:
    """Return the props that *component* is described with."""
    found = await bench.workers.describe(component)
    return [(prop.name, prop.definition.get("label")) for prop in found.props]


@pytest.mark.parametrize("origin", ["npm", "folder"])
async def test_step_does_not_change_what_others_see_of_a_component(
    open_run: OpenRun, write: Write, origin: str
) -> None:
    """A component is described apart from the steps of the run that asks first, whatever they have replaced in their process."""
    ada, bob = await open_run(external_user_id="ada"), await open_run(external_user_id="bob")
    component = write(ACTION, origin=origin)
    pristine = await labels(await open_run(of=(other := WorkerPool())), component)
    await other.close()
    await ada.run("node", PATCH + "export default { run() { return 1 } }")

    first = await labels(ada, component)
    second = await labels(bob, component)

    assert ("queue", "Which queue") in pristine
    assert first == second == pristine


async def test_run_of_no_user_does_not_change_what_others_see(open_run: OpenRun, write: Write) -> None:
    """The process that a run without a user leaves warm is not the process that describes components."""
    bench = await open_run()
    await bench.run("node", PATCH + "export default { run() { return 1 } }")
    await bench.workers.release()

    found = await labels(await open_run(), write(ACTION))

    assert ("queue", "Which queue") in found


async def test_component_does_not_change_what_others_see_of_another(bench: Bench, write: Write) -> None:
    """No component shares a process with the description of another one."""
    hostile = write(PATCH + action("", 'x: "string"'), name="hostile", origin="folder")
    component = write(ACTION)

    await bench.workers.describe(hostile)
    found = await labels(bench, component)

    assert ("queue", "Which queue") in found


async def test_step_does_not_change_what_others_see_of_a_step(open_run: OpenRun) -> None:
    """What a code step declares is found out by the process of the user who runs it, and kept for this user."""
    ada, bob = await open_run(external_user_id="ada"), await open_run(external_user_id="bob")
    step = Step(
        "work", "node", 'export default { props: { queue: { type: "string", label: "Which queue" } }, run() {} }'
    )
    await ada.run("node", PATCH + "export default { run() { return 1 } }", name="patches")

    await ada.workers.describe(step)
    found = await bob.workers.describe(step)

    assert [prop.definition.get("label") for prop in found.props] == ["Which queue"]


async def test_description_has_nothing_of_a_run(open_run: OpenRun, write: Write) -> None:
    """The process that describes a component for all users has no variables, no event and no files of a run."""
    look = 'import fs from "fs";\nconst found = [process.env.MINE ?? "", ...fs.readdirSync("/tmp").filter((n) => n === "mine")].join();\n'
    bench = await open_run(variables={"MINE": "of the run"}, event={"mine": 1})
    await bench.run("node", 'import fs from "fs"; export default { run() { fs.writeFileSync("/tmp/mine", "") } }')

    described = await bench.workers.describe(write(look + action("", 'x: { type: "string", label: `[${found}]` }')))

    assert [prop.definition["label"] for prop in described.props if prop.name == "x"] == ["[]"]


async def test_component_is_described_once(pool: WorkerPool, open_run: OpenRun, write: Write) -> None:
    """The runs of all users share a description, and nothing is left of the process that made it."""
    bench = await open_run(external_user_id="ada")
    component = write(
        "export const started = Date.now();\n" + action("", "at: { type: 'string', label: `${started}` }")
    )

    found = [await labels(each, component) for each in (bench, await open_run(external_user_id="bob"))]

    assert found[0] == found[1]
    assert pool.active_runs == 2
    assert not pool._slots._slots


async def test_description_depends_on_the_files_of_a_step(bench: Bench) -> None:
    """A changed file that a code step imports changes its description."""
    source = "import { props } from './props.mjs';\nexport default { props, run() {} }"
    texts = [f"export const props = {{ {name}: 'string' }}" for name in ("one", "two")]

    found = [await bench.workers.describe(Step("work", "node", source, files={"props.mjs": text})) for text in texts]

    assert [prop.name for each in found for prop in each.props] == ["one", "two"]


async def test_failed_additional_props_are_a_warning(bench: Bench, write: Write) -> None:
    """If additional props fail, the action runs without their defaults."""
    outcome = await run(bench, write(action(GIVES_BACK, ADDING, ADDS)), props={"wanted": "nothing known"})

    assert outcome.exports["$return_value"] == {"mode": "plain"}
    assert outcome.warnings == (
        "The additional props of the action cannot be computed (the other side is away), so they have no defaults.",
    )


async def test_error_of_a_component_that_cannot_be_loaded(bench: Bench, write: Write) -> None:
    """The error names a missing package; a syntax error has its location in the file."""
    with pytest.raises(StepError, match="The package 'not-there' is not installed"):
        await bench.workers.describe(write('import x from "not-there"; export default {}', name="missing"))

    with pytest.raises(StepError) as caught:
        await bench.workers.describe(write("export default {\n  run( {\n};", name="wrong"))

    assert caught.value.name == "SyntaxError"
    assert caught.value.line is None
    assert "^" in str(caught.value.stack)


@pytest.mark.parametrize(
    ("thrown", "name", "message", "stack"),
    [
        ("new TypeError('bad')", "TypeError", "bad", "make-ticket.mjs:4:"),
        (
            (
                'Object.assign(new Error(\'{"error":"no such queue"}\'), '
                "{ name: 'AxiosError - Request failed with status code 404', stack: null })"
            ),
            "AxiosError",
            'Request failed with status code 404\n{\n  "error": "no such queue"\n}',
            "",
        ),
        (
            "Object.assign(new Error('Pick one'), { name: 'ConfigurationError', exposeStack: false })",
            "ConfigurationError",
            "Pick one",
            None,
        ),
    ],
    ids=["frames of its package", "status first of the platform's axios", "no stack of a configuration error"],
)
async def test_error_of_a_component(
    bench: Bench, write: Write, thrown: str, name: str, message: str, stack: str | None
) -> None:
    """An error in a component shows where in its package it was thrown, and has no line of the cell."""
    outcome = await run(bench, write(action(f"throw {thrown}")))

    assert outcome.error is not None
    assert (outcome.error.name, outcome.error.message, outcome.error.line) == (name, message, None)
    assert outcome.error.stack is None if stack is None else stack in (outcome.error.stack or "")


async def test_class_instance_is_exported_as_its_data(bench: Bench, write: Write) -> None:
    """Functions in the result of a client library are dropped without a warning; shared references are not a cycle."""
    component = write(
        action(
            "class Issue { constructor() { this.id = 1; this.send = () => {}; this._same = shared; this.again = shared } }\n"
            "const shared = { a: 1 }; return [new Issue()]"
        )
    )

    outcome = await run(bench, component)

    assert outcome.exports["$return_value"] == [{"id": 1, "_same": {"a": 1}, "again": {"a": 1}}]
    assert outcome.warnings == ()


@pytest.mark.parametrize("exported", ["exports.default = made", "module.exports = made"])
async def test_component_in_common_js(bench: Bench, write: Write, exported: str) -> None:
    """A component may be a CommonJS file, also one that was compiled from a module."""
    written = write("")
    path = written.path.with_suffix(".cjs")
    path.write_text(f"const made = {{ props: {{ n: 'integer' }}, run() {{ return this.n + 1 }} }};\n{exported};")

    outcome = await run(bench, replace(written, path=path), props={"n": 1}, credentials={})

    assert outcome.error is None
    assert outcome.exports["$return_value"] == 2


async def test_component_of_a_folder_is_reloaded_in_each_run(open_run: OpenRun, write: Write) -> None:
    """A component of a folder is loaded again in each run."""
    values = []

    for value in (1, 2):
        bench = await open_run()
        component = write(action(f"return {value}"), origin="folder")
        values.append((await run(bench, component)).exports["$return_value"])
        await bench.workers.release()

    assert values == [1, 2]


async def test_workflow_id_is_in_the_environment(open_run: OpenRun, write: Write) -> None:
    """`PIPEDREAM_WORKFLOW_ID` is set, because components read it."""
    bench = await open_run(context={"workflow_id": "p_1"})

    outcome = await run(bench, write(action("return process.env.PIPEDREAM_WORKFLOW_ID")))

    assert outcome.exports["$return_value"] == "p_1"


async def test_module_of_a_package_is_evaluated_once_per_process(bench: Bench, write: Write) -> None:
    """The module of a package is evaluated once in the life of a process."""
    component = write("globalThis.n = (globalThis.n ?? 0) + 1;\n" + action("return globalThis.n"))

    await run(bench, component)
    outcome = await run(bench, component)

    assert outcome.exports["$return_value"] == 1


async def test_service_db_is_read_and_written_immediately(bench: Bench, write: Write) -> None:
    """`get` after `set` returns a copy of the value; the outcome has the writes even if the run fails."""
    component = write(
        action(
            "const before = this.db.get('a'); this.db.set('b', { n: 1 }); this.db.get('b').n = 2;\n"
            "this.db.set('a', undefined); console.log(before, this.db.get('b'), this.db.get('a')); throw new Error('later')",
            'db: "$.service.db"',
        )
    )

    outcome = await run(bench, component, service_db={"a": 5, "c": [1]})

    assert bench.printed() == "5 { n: 1 } undefined\n"
    assert outcome.service_db == {"c": [1], "b": {"n": 1}}


SOURCE = """
import desk from "../../desk.app.mjs";
export default {
  key: "desk-new-ticket", version: "1.0.0", type: "source", dedupe: "unique",
  props: { desk, db: "$.service.db", http: { type: "$.interface.http", customResponse: true },
    timer: { type: "$.interface.timer", default: { intervalSeconds: 60 } } },
  hooks: {
    async deploy() { this.$emit({ old: true }, { id: 1, summary: "Old", ts: 5 }) },
    async activate() { this.db.set("hook", this.http.endpoint) },
  },
  async run(event) {
    this.http.respond({ status: 200, body: "thanks" });
    const seen = this.db.get("seen") ?? 0;
    this.db.set("seen", seen + 1);
    this.$emit({ n: seen, of: event.body.id, token: this.desk.token(), every: this.timer.intervalSeconds, me: process.env.PD_COMPONENT }, { id: "x" });
    if (event.body.fail) throw new Error("failed after all");
  },
};
"""


async def test_source_responds_and_emits(bench: Bench, write: Write) -> None:
    """A source reads the event, its db, timer and account, responds to the request, and its events are reported."""
    component = write(SOURCE, name="new-ticket", kind="source")

    outcome = await bench.workers.run_source(
        SourceCall(
            component,
            "dc_1",
            event={"body": {"id": 7}},
            credentials={"desk": {"token": "T"}},
            service_db={"seen": 3},
        ),
        bench.recorder,
    )

    assert outcome.error is None
    assert [(found.event, found.id) for found in outcome.emitted_events] == [
        ({"n": 3, "of": 7, "token": "T", "every": 60, "me": "dc_1"}, "x")
    ]
    assert outcome.service_db == {"seen": 4}
    assert outcome.response == {"status": 200, "headers": {}, "body": "thanks"}


@pytest.mark.parametrize(
    ("meta", "emitted"),
    [
        ("{ id: 10, ts: new Date(7) }", Emitted(1, 10, None, None, 7)),
        ("{ id: 1.5, ts: 0 }", Emitted(1, 1.5, None, None, 0)),
        ("{ id: '10', name: null }", Emitted(1, "10")),
        ("{ id: { a: 1 }, name: 2, summary: [3], ts: 'now' }", Emitted(1, '{"a":1}', "2", "[3]", None)),
        ("undefined", Emitted(1)),
    ],
)
async def test_metadata_of_an_event(bench: Bench, write: Write, meta: str, emitted: Emitted) -> None:
    """A number stays a number, because a source with `dedupe: greatest` compares ids; a date is its milliseconds; other values are converted or ignored."""
    source = f"export default {{ key: 'k', version: 1, type: 'source', description: {{}}, run() {{ this.$emit(1, {meta}) }} }}"
    component = write(source, name="meta", kind="source")

    described = await bench.workers.describe(component)
    outcome = await bench.workers.run_source(SourceCall(component, "dc_1"), StepRecorder())

    assert (described.key, described.version, described.description) == ("k", None, None)
    assert (outcome.error, outcome.emitted_events) == (None, (emitted,))


async def test_failed_source_keeps_its_events_and_db(bench: Bench, write: Write) -> None:
    """Emitted events and the db survive a failure."""
    component = write(SOURCE, name="new-ticket", kind="source")

    outcome = await bench.workers.run_source(
        SourceCall(component, "dc_1", event={"body": {"fail": True}}, credentials={"desk": {"token": "T"}}),
        bench.recorder,
    )

    assert outcome.error is not None
    assert outcome.error.message == "failed after all"
    assert (len(outcome.emitted_events), outcome.service_db) == (1, {"seen": 1})


async def test_hooks_of_a_source(bench: Bench, write: Write) -> None:
    """Each hook runs by its name; a missing hook is distinguished from a hook that did nothing."""
    component = write(SOURCE, name="new-ticket", kind="source")

    described = await bench.workers.describe(component)
    deployed = await bench.workers.run_source(SourceCall(component, "dc_1", operation="deploy"), StepRecorder())
    active = await bench.workers.run_source(
        SourceCall(component, "dc_1", operation="activate", endpoint="http://127.0.0.1/x"), StepRecorder()
    )
    none = await bench.workers.run_source(SourceCall(component, "dc_1", operation="deactivate"), StepRecorder())

    assert (described.hooks, described.dedupe) == (("deploy", "activate"), "unique")
    assert [(e.event, e.id, e.summary, e.ts) for e in deployed.emitted_events] == [({"old": True}, 1, "Old", 5)]
    assert active.service_db == {"hook": "http://127.0.0.1/x"}
    assert (deployed.is_implemented, none.is_implemented) == (True, False)


@pytest.mark.parametrize(
    ("declared", "timer"),
    [
        ("default: { intervalSeconds: 60 }", {"intervalSeconds": 60}),
        ("static: { intervalSeconds: 5 }", {"intervalSeconds": 5}),
    ],
)
async def test_timer_of_a_source(bench: Bench, write: Write, declared: str, timer: JSON) -> None:
    """A source reads the default of its timer, or what it declares as static."""
    source = f"""export default {{ key: "k", version: "1", type: "source",
      props: {{ timer: {{ type: "$.interface.timer", {declared} }} }}, run() {{ this.$emit(this.timer) }} }}"""

    outcome = await bench.workers.run_source(
        SourceCall(write(source, name="timer", kind="source"), "dc_1"), StepRecorder()
    )

    assert [each.event for each in outcome.emitted_events] == [timer]


async def test_source_without_a_public_url_fails_when_it_reads_the_url(bench: Bench, write: Write) -> None:
    """A source that would register a webhook without a URL fails with a fix; a source that does not read the URL runs."""
    component = write(SOURCE, name="new-ticket", kind="source")

    active = await bench.workers.run_source(SourceCall(component, "dc_1", operation="activate"), StepRecorder())
    deployed = await bench.workers.run_source(SourceCall(component, "dc_1", operation="deploy"), StepRecorder())

    assert active.error is not None
    assert "reads the public URL of its HTTP interface (endpoint), which is not configured" in active.error.message
    assert "--endpoint URL" in active.error.fix
    assert deployed.error is None


async def test_step_with_an_interface_prop_fails(bench: Bench, write: Write) -> None:
    """A step with a timer prop fails with a clear error."""
    outcome = await run(bench, write(action("", 'timer: "$.interface.timer"')))

    assert outcome.error is not None
    assert (
        outcome.error.message == "A prop of type $.interface.timer (timer) in a step is not supported by this version."
    )


async def test_loading_of_a_component_has_a_time_limit(pool: WorkerPool, bench: Bench, write: Write) -> None:
    """A component that never loads is ended, and a new process answers the next request."""
    with pytest.raises(StepError, match="longer than"):
        await bench.workers.describe(write("for (;;);\nexport default {}", name="stuck"), timeout_s=0.5)

    assert (await bench.workers.describe(write(ACTION))).key == "desk-make-ticket"
