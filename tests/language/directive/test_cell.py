"""`%%pdstep` and `%%pdworkflow` cells, parsed and formatted."""

from __future__ import annotations

import contextlib
import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import DefinitionError, DirectiveError, StepNameError
from pdkernel.language.directive import (
    STEP_OPTIONS,
    build_trigger_mapping,
    format_step_cell,
    format_step_line,
    is_step_cell,
    is_workflow_cell,
    names_protective_setting,
    parse_step_cell,
    parse_workflow_cell,
)
from pdkernel.language.directive.cell import build_unreadable_step
from pdkernel.language.directive.workflow_header import SETTING_RULES
from pdkernel.model import JSON, LANGUAGES, AppBinding, Step, StoreBinding, Trigger

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "trigger")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[JSON] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SOURCES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def error_of(text: str, *, workflow: bool = False) -> DefinitionError:
    """The error that reading the cell *text* raises."""
    with pytest.raises(DefinitionError) as caught:
        parse_workflow_cell(text) if workflow else parse_step_cell(text)
    return caught.value


@st.composite
def steps(draw: st.DrawFn, *, action: bool) -> Step:
    """A step that a cell can show."""
    props = draw(st.lists(NAMES, unique=True, max_size=6))
    apps, stores, rest = props[:2], props[2:3], props[3:]
    language = "node" if action else draw(st.sampled_from(LANGUAGES))
    return Step(
        name=draw(NAMES),
        language=language,
        source="" if action else draw(SOURCES),
        uses="slack-send-message@0.0.20" if action else None,
        apps=tuple(
            AppBinding(prop, draw(st.sampled_from([prop, "slack"])), draw(st.sampled_from([None, "apn_1"])))
            for prop in apps
        ),
        stores=tuple(StoreBinding(prop, draw(st.sampled_from([None, "ds_1", "my store"]))) for prop in stores),
        props={prop: draw(VALUES) for prop in rest},
        timeout_s=draw(st.none() | st.floats(0.001, 750)),
        disabled=draw(st.booleans()),
        debug=language == "python" and draw(st.booleans()),
        line_offset=1,
    )


@given(steps(action=False))
def test_step_line_round_trip(step: Step) -> None:
    """The line that is formatted for a step parses as the step."""
    text = f"{format_step_line(step)}\n{step.source}"

    assert parse_step_cell(text).step == step
    assert format_step_cell(step) == text


@given(steps(action=True))
def test_action_line_round_trip(step: Step) -> None:
    """An action's props may be on its line or in its cell's body."""
    on_the_line = parse_step_cell(format_step_line(step)).step
    in_the_body = parse_step_cell(format_step_cell(step)).step

    assert on_the_line == step
    assert in_the_body == step


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("é", "'x=é'"),
        ("1", "'x=\"1\"'"),
        ("a\u2028b", "'x=\"a\\u2028b\"'"),
        (["é", "\n"], '\'x=["é", "\\n"]\''),
        ({"é": None}, "'x={\"é\": null}'"),
        (True, "x=true"),
        (1.0, "x=1.0"),
    ],
)
def test_text_of_a_prop_on_the_line(value: JSON, written: str) -> None:
    """Letters of every language stay readable; line separators are escaped, and text that reads as JSON is quoted."""
    step = Step("act", "node", uses="slack-send@1.0.0", props={"x": value})

    line = format_step_line(step)

    assert line == f"%%pdstep act --uses slack-send@1.0.0 --prop {written}"
    assert parse_step_cell(line).step.props == {"x": value}


def test_a_prop_keeps_everything_after_its_first_equals_sign() -> None:
    """The value of `--prop` may contain `=`."""
    step = parse_step_cell("%%pdstep s --prop url=https://x/?a=b&c=d==").step

    assert step.props == {"url": "https://x/?a=b&c=d=="}


def test_every_option_is_read() -> None:
    """Every option of the line sets its value of the step."""
    cell = parse_step_cell(
        "%%pdstep send --lang node --app slack --app chat:slack=apn_1 --app gmail=apn_2 --data-store cache "
        "--data-store log=ds_1 --prop text='Hi {{ steps.build.name }}' --prop n=5 --prop 'o={\"a\": [true]}' "
        "--timeout 2.5 --disabled --no-run\ncode()"
    )

    assert cell.no_run
    assert cell.step == Step(
        name="send",
        language="node",
        source="code()",
        apps=(
            AppBinding("slack", "slack"),
            AppBinding("chat", "slack", "apn_1"),
            AppBinding("gmail", "gmail", "apn_2"),
        ),
        stores=(StoreBinding("cache"), StoreBinding("log", "ds_1")),
        props={"text": "Hi {{ steps.build.name }}", "n": 5, "o": {"a": [True]}},
        timeout_s=2.5,
        disabled=True,
        line_offset=1,
    )


def test_python_is_the_default() -> None:
    """A step without --lang is Python, an action is Node.js."""
    assert parse_step_cell("%%pdstep a").step.language == "python"
    assert parse_step_cell("%%pdstep a --uses k-x@1.0.0").step.language == "node"


def test_comments_above() -> None:
    """Comments and blank lines may precede the magic, and line numbers count from the cell's start."""
    text = "# why\n\n// also\n%%pdstep build\nfirst\nsecond"

    step = parse_step_cell(text, cell=4).step

    assert is_step_cell(text)
    assert (step.source, step.line_offset, step.cell_index) == ("first\nsecond", 4, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1",
        "x = 1\n%%pdstep a",
        "%%pdsteps a",
        "%%pdstep?",
        "%load_ext pdkernel",
        "%pdrun",
        "%%bash\n%%pdstep a",
    ],
)
def test_not_a_step(text: str) -> None:
    """Other magics, code and help are not steps."""
    assert not is_step_cell(text)
    assert error_of(text).line == 1


def test_workflow_cell_is_recognized() -> None:
    """A header's cell is recognized by its magic."""
    assert is_workflow_cell("# top\n%%pdworkflow\nname: x")
    assert not is_workflow_cell("%%pdstep a")
    assert not is_workflow_cell("%%pdworkflow?")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "needs the step's name"),
        ("a b", "unexpected word 'b'"),
        ("a --langg node", "there is no option --langg"),
        ("a --langg node", "Did you mean --lang?"),
        ("a --timeout=5 --langg node", "Did you mean --lang?"),
        ("a --timeout 5 --langg=node", "there is no option --langg."),
        ("a --lang javascript", "Did you mean node?"),
        ("a --lang pyton", "Did you mean python?"),
        ("a --lang cobol", "Known: python, node, bash, go."),
        ("a --app", "--app: expected one argument"),
        ("a --app 'my app'", "'my app' is not [PROP:]SLUG[=ACCOUNT]"),
        ("a --app slack=", "'slack=' is not [PROP:]SLUG[=ACCOUNT]"),
        ("a --data-store =x", "'=x' is not PROP[=STORE]"),
        ("a --prop text", "'text' is not NAME=VALUE"),
        ("a --prop text='x", "a quotation mark is not closed"),
        ("a --app slack --app slack=apn_1", "the prop 'slack' is given twice"),
        ("a --prop x=1 --prop x=2", "the prop 'x' is given twice"),
        ("a --data-store x --prop x=2", "the prop 'x' is given twice"),
        ("a --app x --data-store x", "the prop 'x' is given twice"),
        ("a --timeout soon", "'soon' is not a number of seconds from 0 to 750"),
        ("a --timeout nan", "'nan' is not a number of seconds"),
        ("a --timeout 0", "'0' is not a number of seconds"),
        ("a --uses slack", "'slack' is not KEY@VERSION"),
        ("a --uses k@1.0.0 --lang bash", "--lang is bash"),
        ("a --lang bash --debug", "--debug is for Python steps only"),
    ],
)
def test_wrong_line(line: str, says: str) -> None:
    """An invalid line is refused; the error names the word and the cell's line."""
    error = error_of(f"# above\n%%pdstep {line}\ncode")

    assert isinstance(error, DirectiveError)
    assert says in str(error)
    assert error.line == 2


@pytest.mark.parametrize(("name", "better"), [("my-step", "my_step"), ("'my step'", "my_step"), ("1st", "step_1st")])
def test_wrong_name(name: str, better: str) -> None:
    """A name that is not valid in every language is refused with a valid suggestion."""
    error = error_of(f"%%pdstep {name}")

    assert isinstance(error, StepNameError)
    assert better in error.fix
    assert error.line == 1


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("a: 1\nb: [1", 4, "is not YAML"),
        ("- a", 3, "a mapping in YAML"),
        ("a: 1\nb: {{steps.x", 4, "{{steps.x is not closed"),
        ("n: 1", 3, "on the line and in the body"),
    ],
)
def test_wrong_body(body: str, line: int, says: str) -> None:
    """Invalid props are refused with the cell's line and the step."""
    error = error_of(f"# above\n%%pdstep s --uses k@1.0.0 --prop n=1\n{body}")

    assert says in error.message
    assert (error.line, error.step) == (line, "s")


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        ("# above\n%%pdstep ask --uses k@1.0.0\na: 1\na: 2\n", "ask", 4),
        ("# above\n%%pdstep ask --lng node\nx", "ask", 2),
        ("%%pdstep ask-me --uses k@1.0.0\n- a\n", "ask_me", 1),
        ("%%pdstep trigger\nx", "cell_5", 1),
        ("%%pdstep --lang node\nx", "cell_5", 1),
    ],
)
def test_an_unreadable_cell_is_a_step_with_a_problem(text: str, name: str, line: int) -> None:
    """The step has the name of the cell if that is a name, else one by its position; the problem has the line of the error."""
    step = build_unreadable_step(text, error_of(text), cell=4)

    assert (step.name, step.cell_index) == (name, 4)
    assert step.problem is not None
    assert step.problem[1] == line


def test_text_beside_an_expression_stays() -> None:
    """A text that looks like a mark of the formatter is not taken for an expression."""
    step = Step("s", "node", uses="k@1.0.0", props={"x": "xq0x {{steps.a}}"}, line_offset=1)

    assert parse_step_cell(format_step_cell(step)).step == step


@pytest.mark.parametrize(
    "text",
    [
        "a: {{ steps.a ? '' : 1 }}",
        'a: {{ steps.a ? "" : 1 }}',
        "# {{ steps.a['b'] }}",
        '- {{ steps.a["b"].replace("\\n", "") }}',
        "it's: {{ '' }} and {{ 1 }}",
        "{{ steps.a }}\n{{ '' }}",
        " {{ '' }}",
    ],
)
def test_text_that_needs_quotes_beside_an_expression(text: str) -> None:
    """A value that YAML would not read unquoted reads back the same, with the quotation marks of its expressions."""
    step = Step("s", "node", uses="k@1.0.0", props={"x": text, "y": [text]}, line_offset=1)

    assert parse_step_cell(format_step_cell(step)).step.props == step.props


@pytest.mark.parametrize("text", ["5", "true", '"5"', "null", "[1]", "a\nb", "\u2028", "NaN", "1e999", "", " 5 "])
def test_prop_text_stays_text(text: str) -> None:
    """Text that parses as JSON, or does not fit on a line, is written in a form that reads as text."""
    step = Step("s", props={"x": text})

    line = format_step_line(step)

    assert len(line.splitlines()) == 1
    assert parse_step_cell(line).step.props == {"x": text}


@pytest.mark.parametrize(
    "value",
    ['{{steps["a"].b}}', "x{{ steps['a'] + 1 }}y", "{{ `it's ${steps.a}` }}", "{{{a: {b: 1}}}}", "'{{ steps.a }}'"],
)
def test_an_unquoted_expression_keeps_its_quotes(value: str) -> None:
    """An expression on the line needs no quotes, and keeps the quotes inside it."""
    props = parse_step_cell(f"%%pdstep s --prop x={value} --prop n=1").step.props

    assert props == {"x": value.strip("'"), "n": 1}


def test_quoted_expression_is_unquoted() -> None:
    """The shell's rules apply to an expression in quotes."""
    props = parse_step_cell("""%%pdstep s --prop "x={{ steps[\\"a\\"] }}" --prop y={{""").step.props

    assert props == {"x": '{{ steps["a"] }}', "y": "{{"}


def test_prop_numbers_are_finite() -> None:
    """A number that JSON cannot express is text."""
    props = parse_step_cell("%%pdstep s --prop a=Infinity --prop b=-1.5").step.props

    assert props == {"a": "Infinity", "b": -1.5}
    assert not any(isinstance(value, float) and math.isinf(value) for value in props.values())


def test_prop_that_a_line_cannot_hold() -> None:
    """Formatting a prop whose name contains `=` is an error."""
    with pytest.raises(DirectiveError, match="cannot be written on a %%pdstep line"):
        format_step_line(Step("s", props={"a=b": 1}))


def test_options_have_help() -> None:
    """Every option has help, and a placeholder if it takes a value."""
    assert {option.flag for option in STEP_OPTIONS if option.metavar is None} == {"--disabled", "--debug", "--no-run"}
    assert all(option.help.endswith(".") for option in STEP_OPTIONS)
    assert next(option for option in STEP_OPTIONS if option.flag == "--lang").choices == LANGUAGES


def test_header() -> None:
    """A header sets the name, without blanks around it, the trigger and the settings."""
    header = parse_workflow_cell(
        "%%pdworkflow\nname: ' Open issue to Slack '\ntrigger:\n  type: http\n  auth: bearer\n  token_env: TOKEN\n"
        "  response: custom\nsettings:\n  lambda_timeout: 40\n  throttle: {limit: 5, interval: 60}\n"
    )

    assert header.name == "Open issue to Slack"
    assert header.triggers == (Trigger(auth="bearer", token_env="TOKEN", response="custom"),)
    assert header.settings == {"lambda_timeout": 40, "throttle": {"limit": 5, "interval": 60}}


def test_empty_header() -> None:
    """An empty header gives the defaults."""
    header = parse_workflow_cell("%%pdworkflow\n")

    assert (header.name, header.triggers, header.settings) == (None, (Trigger(),), {})


def test_several_triggers() -> None:
    """Each type of trigger keeps its own keys."""
    header = parse_workflow_cell(
        "%%pdworkflow\ntriggers:\n- type: schedule\n  cron: '*/5 * * * *'\n  timezone: Europe/Berlin\n- email\n"
        "- type: source\n  uses: github-new-issue@1.0.0\n  props: {repo: {{process.env.REPO}}}\n"
        "- errors\n- type: errors\n  workflows: [Depot, ./other.ipynb]\n- {type: emit, workflows: [p_a], channel: parcels}\n"
    )

    assert header.triggers == (
        Trigger("schedule", config={"cron": "*/5 * * * *", "timezone": "Europe/Berlin"}),
        Trigger("email"),
        Trigger("source", config={"uses": "github-new-issue@1.0.0", "props": {"repo": "{{process.env.REPO}}"}}),
        Trigger("errors"),
        Trigger("errors", config={"workflows": ["Depot", "./other.ipynb"]}),
        Trigger("emit", config={"workflows": ["p_a"], "channel": "parcels"}),
    )


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("nme: x", 2, "Did you mean name?"),
        ("name: 5", 2, "expected text"),
        ("- a", 2, "expected a mapping"),
        ("trigger: htp", 2, "Did you mean http?"),
        ("trigger:\n  auth: none", 2, "a trigger without type"),
        ("trigger:\n  type: http\n  aut: x", 4, "Did you mean auth?"),
        ("trigger:\n  type: http\n  auth: baerer", 4, "Did you mean bearer?"),
        ("trigger:\n  type: http\n  auth: bearer", 2, "without token_env"),
        ("trigger:\n  type: http\n  token_env: X", 4, "only auth: bearer uses"),
        ("trigger:\n  type: http\n  response: mine", 4, "one of default, custom"),
        ("trigger:\n  type: schedule", 2, "either cron or interval_seconds"),
        ("trigger: {type: schedule, cron: 0 9 * * 1, interval_seconds: 5}", 2, "either cron or interval_seconds"),
        ("trigger:\n  type: schedule\n  cron: soon", 4, "not a cron expression"),
        ("trigger:\n  type: schedule\n  cron: 0 9 * *", 4, "not a cron expression"),
        ("trigger:\n  type: schedule\n  cron: 0 9 * * 1 2 3", 4, "not a cron expression"),
        ("trigger:\n  type: schedule\n  interval_seconds: true", 4, "1 or more"),
        ("trigger:\n  type: schedule\n  interval_seconds: 0", 4, "1 or more"),
        ("trigger:\n  type: schedule\n  interval_seconds: 5\n  timezone: berlin", 5, "Did you mean Europe/Berlin?"),
        ("trigger:\n  type: source", 2, "a source without uses"),
        ("trigger:\n  type: source\n  uses: a-b@1.0.0\n  props: all", 5, "expected a mapping of keys"),
        ("trigger:\n  type: source\n  uses: a-b@1.0.0\n  app: 5", 5, "expected text"),
        ("trigger:\n  type: errors\n  workflows: Depot", 4, "expected a list of names"),
        ("trigger:\n  type: errors\n  workflows: []", 4, "expected a list of names"),
        ("trigger:\n  type: errors\n  workflow: Depot", 4, "Did you mean workflows?"),
        ("trigger: emit", 2, "emit without workflows"),
        ("trigger:\n  type: emit\n  workflows: [5]", 4, "expected a list of names"),
        ("trigger:\n  type: emit\n  workflows: [a]\n  channel: 5", 5, "expected text"),
        ("trigger: http\ntriggers: [http]", 3, "both trigger and triggers"),
        ("trigger: http\ntriggers:", 3, "both trigger and triggers"),
        ("inactive: maybe", 2, "true or false"),
        ("settings:\n  lambda_timeot: 4", 3, "Did you mean lambda_timeout or lambda_memory?"),
        ("settings:\n  lambda_timeout: 900", 3, "a whole number of seconds from 1 to 750"),
        ("settings:\n  memory: big", 3, "megabytes"),
        ("settings:\n  auto_retry: yes", 3, "true or false"),
        ("settings:\n  share_workers: sometimes", 3, "never or always"),
        ("settings:\n  throttle: {limit: 5}", 3, "a throttle without interval"),
        ("settings:\n  throttle: {limit: -5, interval: 1}", 3, "from 0 to 10000"),
        ("a: b: c", 2, "is not YAML"),
    ],
)
def test_wrong_header(body: str, line: int, says: str) -> None:
    """An invalid header is refused with the line and, for an unknown word, the nearest known one."""
    error = error_of(f"%%pdworkflow\n{body}", workflow=True)

    assert says in str(error)
    assert error.line == line


@pytest.mark.parametrize(
    ("setting", "low", "high"),
    [
        ("lambda_timeout", 1, 750),
        ("memory", 256, 10_240),
        ("concurrency", 1, 10_000),
        ("queue", 1, 10_000),
        ("retention", 1, 3650),
    ],
)
def test_the_range_of_a_setting(setting: str, low: int, high: int) -> None:
    """Both ends are valid; the numbers beside them, a fraction and true are not."""
    rule = SETTING_RULES[setting]

    assert [rule.is_valid(value) for value in (low, high)] == [True, True]
    assert [rule.is_valid(value) for value in (low - 1, high + 1, low + 0.5, True)] == [False] * 4


def test_token_written_for_its_variable() -> None:
    """A token in the place of its variable's name is not repeated in the message."""
    error = error_of("%%pdworkflow\ntrigger:\n  type: http\n  auth: bearer\n  token_env: s3cr3t-t0ken", workflow=True)

    assert "s3cr3t" not in str(error)
    assert "pdkernel env set" in error.fix


def test_a_cell_that_is_not_a_header() -> None:
    """A cell without `%%pdworkflow` has an error, and not the default settings."""
    error = error_of("%%pdstep a", workflow=True)

    assert (error.message, error.line) == ("This is not a workflow's header: it does not start with %%pdworkflow.", 1)


def test_text_after_the_header_magic() -> None:
    """Text on the line of `%%pdworkflow` is refused."""
    assert "takes no text on its line" in error_of("%%pdworkflow My flow", workflow=True).message


@given(st.text(string.printable, max_size=60))
def test_any_line_is_parsed_or_refused(line: str) -> None:
    """Any line is parsed, or refused with a `DefinitionError`."""
    with contextlib.suppress(DefinitionError):
        assert parse_step_cell(f"%%pdstep {line}").step.name


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("settings:\n  network: x", True),
        ("settings:\n  netwrok: x", True),
        ("settings:\n  NETWORK = x", True),
        ("settings:\n  where: net_1aB", True),
        ("settings:\n  share_workers: [", True),
        ("settings:\n  share_worker: never", True),
        ("name: Works\nsettings: {memory: 512}", False),
        ("name: net", False),
        ("", False),
    ],
)
def test_a_broken_header_may_set_what_protects(text: str, is_named: bool) -> None:
    """The network and the sharing of workers are recognized in a text that cannot be read, misspelt or not."""
    assert names_protective_setting(f"%%pdworkflow\n{text}") is is_named


def test_options_of_a_language() -> None:
    """The language of Python is not written, and `--debug` is not for actions."""
    assert format_step_cell(parse_step_cell("%%pdstep a --lang python\nx = 1\n").step).startswith("%%pdstep a\n")
    with pytest.raises(DirectiveError, match="--debug is for Python steps only"):
        parse_step_cell("%%pdstep a --uses slack-send@1.0.0 --debug\ntext: x\n")


@pytest.mark.parametrize(("value", "is_inactive"), [("true", True), ("false", False)])
def test_an_inactive_workflow(value: str, is_inactive: bool) -> None:
    """Only `inactive: true` turns a workflow off."""
    assert parse_workflow_cell(f"%%pdworkflow\nname: W\ninactive: {value}").is_inactive is is_inactive


@pytest.mark.parametrize(("fields", "is_valid"), [(4, False), (5, True), (6, True), (7, False)])
def test_the_fields_of_a_schedule(fields: int, is_valid: bool) -> None:
    """A cron expression has five fields, or six with seconds."""
    text = f"%%pdworkflow\ntrigger:\n  type: schedule\n  cron: '{' '.join(['*'] * fields)}'"
    if is_valid:
        assert parse_workflow_cell(text).triggers[0].type == "schedule"
    else:
        with pytest.raises(DirectiveError, match="cron"):
            parse_workflow_cell(text)


def test_a_trigger_is_written_with_or_without_its_id() -> None:
    """The id belongs to a definition in Git, and is left out elsewhere."""
    trigger = Trigger("schedule", config={"id": "ti_1", "cron": "0 9 * * *"})

    assert build_trigger_mapping(trigger) == {"type": "schedule", "id": "ti_1", "cron": "0 9 * * *"}
    assert build_trigger_mapping(trigger, with_id=False) == {"type": "schedule", "cron": "0 9 * * *"}
