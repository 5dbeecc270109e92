"""Steps of the first version of Pipedream's workflows: what they use, and how they are rewritten."""

from __future__ import annotations

import textwrap

import pytest

from pdkernel.language.analysis.old_code import find_old_uses, format_old_uses, has_old_function, modernize


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('$end("enough")', [("$end", 1, 'return $.flow.exit("enough")')]),
        ("const a = 1\n$respond({ status: 200 })", [("$respond", 2, "await $.respond({ status: 200 })")]),
        ("$send.http({})", [("$send", 1, "$.send.http")]),
        ("f(params.id)", [("params", 1, 'this.id, with `props: { id: { type: "string" } }`')]),
        (
            "f(auths.slack.token)",
            [("auths", 1, 'this.slack.$auth, with `props: { slack: { type: "app", app: "slack" } }`')],
        ),
    ],
)
def test_what_to_write_instead(source: str, found: list[tuple[str, int, str]]) -> None:
    """Each name of the first version has its line, and what to write instead with the code's own arguments."""
    assert [(use.name, use.line, use.instead) for use in find_old_uses(source)] == found


@pytest.mark.parametrize("source", ["this.$checkpoint = 1", "f($checkpoint)"])
def test_state_of_a_step_is_a_data_store(source: str) -> None:
    """The checkpoint has no equal today: a data store is named instead."""
    (use,) = find_old_uses(source)

    assert 'type: "data_store"' in use.instead


@pytest.mark.parametrize(
    ("source", "is_old"),
    [
        ("async (event, steps) => {}", True),
        ("export default async (event, steps) => steps.trigger", True),
        ("export default async function (event, steps, params, auths) {}", True),
        ("module.exports = async (event, steps) => event.body", True),
        ("export default (event) => event.body", True),
        ("export default async ({ steps }) => steps.trigger", False),
        ("export default (event) => event.steps.trigger", False),
        ("export default defineComponent({ async run({ steps, $ }) {} })", False),
        ("const f = (event, steps) => event; export default { run() { f() } }", False),
    ],
)
def test_function_of_the_first_version(source: str, is_old: bool) -> None:
    """A step that is a function of an event is old; a function of the arguments of today, or inside of a component, is not."""
    assert has_old_function(source) == is_old


@pytest.mark.parametrize(
    "source",
    [
        "const params = {}; params.x",
        "import { params } from './x.mjs'; params.x",
        "function f({ params }, $end) { params.x; $end() }",
        "[1].map((params) => params.x)",
        "axios({ params: { a: 1 } })",
        "const { auths } = x; auths.y.z",
        "this.params.x; x.auths.y; '$end()'",
    ],
)
def test_names_of_the_code_itself_are_not_old(source: str) -> None:
    """A name that the code declares, a key and a text are not uses of the first version, and the code stays as it is."""
    assert find_old_uses(source) == ()
    assert modernize(source).source == source


def test_old_function_is_rewritten() -> None:
    """Imports, props, exports, responses and ends of the step are rewritten; comments and the other lines stay."""
    old = textwrap.dedent(
        """\
        // ships the order
        async (event, steps, params, auths) => {
          const axios = require("axios");
          const { get } = require("lodash");
          if (!event.body.id) {
            $end("no id");
          }
          this.order = await axios.get(`https://x.example/${params.id}`, { token: auths.shop.oauth_access_token });
          $send.http({ url: "https://y.example" });
          $respond({ status: 200 });
          return get(this.order, "data");
        }
        """
    )

    modern = modernize(old)

    assert modern.left == ()
    assert modern.source == textwrap.dedent(
        """\
        import axios from "axios";
        import lodash_module from "lodash";
        // ships the order

        export default defineComponent({
          props: {
            id: { type: "any" },
            shop: { type: "app", app: "shop" },
          },
          async run({ steps, $ }) {
            const event = steps.trigger.event;
          const { get } = lodash_module;
          if (!event.body.id) {
            return $.flow.exit("no id");
          }
          $.export("order", this.order = await axios.get(`https://x.example/${this.id}`, { token: this.shop.$auth.oauth_access_token }));
          $.send.http({ url: "https://y.example" });
          await $.respond({ status: 200 });
          return get(this.order, "data");
          },
        });
        """
    )


@pytest.mark.parametrize(
    ("old", "line"),
    [
        ("const x = 1\n$respond({ status: x })", "await $.respond({ status: x })"),
        ("export default async (event, steps) => steps.a.b", "return steps.a.b;"),
        ("(event, steps) => ({ a: event.body })", "return ({ a: event.body });"),
        ("module.exports = async function (event, steps) { return event }", "return event"),
    ],
)
def test_other_forms_become_components(old: str, line: str) -> None:
    """Code without a function, and functions in other forms, become components, which need no further translation."""
    modern = modernize(old)

    assert modern.source.startswith("export default defineComponent({")
    assert line in modern.source
    assert find_old_uses(modern.source) == ()


def test_component_keeps_its_form() -> None:
    """In a component, only the calls are rewritten."""
    old = (
        'export default defineComponent({\n  async run({ steps, $ }) {\n    $respond({});\n    $end("x");\n  },\n});\n'
    )

    assert modernize(old).source == old.replace("$respond", "await $.respond").replace("$end", "return $.flow.exit")


def test_what_is_not_mechanical_is_left() -> None:
    """An end in an inner function, and the checkpoint, are not rewritten but listed with the lines of the new code."""
    modern = modernize("async (event, steps) => {\n  [1].map((n) => { $end() });\n  this.$checkpoint = 1;\n}\n")

    assert "=> { $end() }" in modern.source
    assert [(use.name, use.line) for use in modern.left] == [("$end", 3), ("this.$checkpoint", 4)]
    assert format_old_uses(modern.left).startswith("line 3, instead of $end: return $.flow.exit()\n")


def test_text_with_line_breaks_and_other_letters_is_unchanged() -> None:
    """Texts keep their bytes, also behind an edit."""
    modern = modernize("async (event, steps) => {\n  $end(`ä\n  €${params.x}`)\n}\n")

    assert "return $.flow.exit(`ä\n  €${this.x}`)" in modern.source


def test_code_with_a_syntax_error_is_unchanged() -> None:
    """Code that cannot be parsed is not rewritten."""
    assert modernize("async (event, steps) => { $end( }").source == "async (event, steps) => { $end( }"
