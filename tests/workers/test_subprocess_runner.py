"""Bash steps, and the files of their input and results."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.errors import StepError
from pdkernel.execution import StepResult
from pdkernel.model import JSON
from pdkernel.runtimes import process_tree
from pdkernel.workers import WorkerPool
from pdkernel.workers.isolation import NO_PLAN
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import MAX_CONTAINERS
from pdkernel.workers.slot_folder import SlotFolder
from pdkernel.workers.subprocess_runner import MAX_EXPORT_LINES, SubprocessIO
from pdkernel.workers.zygote import ZYGOTES, Zygotes
from tests.growth import assert_fast, least_seconds
from tests.workers.conftest import Bench, OpenRun


async def test_file_protocol(bench: Bench) -> None:
    """`$PIPEDREAM_STEPS` is a JSON file, `$PIPEDREAM_EXPORTS` accepts text and JSON lines."""
    bench.steps["build"] = {"$return_value": {"text": "hi"}}

    outcome = await bench.run(
        "bash",
        "T=$(jq -r .build.'\"$return_value\"'.text $PIPEDREAM_STEPS)\n"
        'echo "text=$T=there" >> $PIPEDREAM_EXPORTS\necho "list:json=[1, {\\"a\\": null}]" >> $PIPEDREAM_EXPORTS\n'
        'echo "event:json=$(jq -c .trigger.event $PIPEDREAM_STEPS)" >> "$PIPEDREAM_EXPORTS"\n'
        "echo zero:json=-0 >> $PIPEDREAM_EXPORTS\n",
    )

    assert outcome.error is None
    assert str(outcome.exports.pop("zero")) == "-0.0"
    assert outcome.exports == {"text": "hi=there", "list": [1, {"a": None}], "event": {"n": 7, "name": "Ada"}}


async def test_exit_status_is_a_warning(bench: Bench) -> None:
    """`exit 3` ends the step, and the workflow goes on."""
    outcome = await bench.run("bash", "echo a=1 >> $PIPEDREAM_EXPORTS\nexit 3\necho b=1 >> $PIPEDREAM_EXPORTS\n")

    assert outcome.error is None
    assert outcome.exports == {"a": "1"}
    assert outcome.warnings == ("exit status 3",)


async def test_messages_of_bash_have_the_line_of_the_cell(bench: Bench) -> None:
    """A missing command and a syntax error are reported with the step's file and line, once and without a path."""
    outcome = await bench.run("bash", "true\nno_such_command\nif then\n", line_offset=3)

    lines = bench.printed("stderr").splitlines()
    assert lines[0] == "work.sh: line 5: no_such_command: command not found"
    assert lines[1].startswith("work.sh: line 6: syntax error near")
    assert outcome.warnings == ("exit status 2",)


async def test_folder_of_the_script_is_removed_from_split_messages(bench: Bench) -> None:
    """The path is removed however the output is split; a text that only begins like the path is not lost."""
    outcome = await bench.run(
        "bash",
        'head=${0%"${0#???????}"}\nprintf %s "$head" >&2; sleep 0.1; printf %s "${0#"$head"}: here" >&2\n'
        'printf %s " and $head" >&2\n',
    )

    assert bench.printed("stderr") == f"work.sh: here and {str(bench.tmp_folder)[:7]}"
    assert outcome.error is None


async def test_program_that_writes_to_a_closed_pipe_ends_silently(bench: Bench) -> None:
    """Programs of a step have the usual handling of SIGPIPE."""
    outcome = await bench.run("bash", "yes | head -n 1")

    assert (outcome.error, outcome.warnings) == (None, ())
    assert (bench.printed(), bench.printed("stderr")) == ("y\n", "")


async def test_files_of_the_step_are_removed(bench: Bench) -> None:
    """The input files of a step do not stay in the folder of the run."""
    await bench.run("bash", "true")

    assert [path.name for path in bench.tmp_folder.parent.iterdir()] == ["tmp"]


@pytest.mark.parametrize("is_killed", [False, True])
async def test_processes_of_a_step_end_with_it(bench: Bench, is_killed: bool) -> None:
    """A background process does not delay the step, and ends before its results are read, also in a session of its own; so it does if the run is killed."""
    lasts = "wait" if is_killed else "sleep 1000 &"
    code = (
        "setsid sleep 1000 & until [ $(cut -d' ' -f6 /proc/$!/stat) = $! ]; do :; done  # its session is its own\n"
        f"echo ${process_tree.PROCESS_TAG_VARIABLE}; {lasts}"
    )
    task = asyncio.ensure_future(bench.run("bash", code))

    if is_killed:
        while not (mark := bench.printed().strip()):
            await asyncio.sleep(0.01)
        assert len(process_tree.find_processes([], [mark])) >= 2
        bench.workers.kill()
    outcome = await task

    mark = bench.printed().strip()
    assert len(mark) == 32
    assert (outcome.error is not None) == is_killed
    assert process_tree.find_processes([], [mark]) == set()


async def test_end_of_the_process_is_reported_before_an_invalid_export(bench: Bench) -> None:
    """If a process was ended by a signal, this is the error, whatever the process had written until then."""
    error = await bench.fail(
        "bash", "echo 'bad:json={' >> $PIPEDREAM_EXPORTS; echo no > $PIPEDREAM_RESPONSE; kill -9 $$"
    )

    assert error.code == "step_died"


@pytest.mark.parametrize("zygotes", [ZYGOTES, None])
async def test_process_that_cannot_be_started_is_an_error_of_the_step(
    open_run: OpenRun, zygotes: Zygotes | None
) -> None:
    """If the system refuses to start the program, for example because a variable is too long, the reason is in the error."""
    pool = WorkerPool(zygotes=zygotes)
    bench = await open_run(of=pool, variables={"LONG": "x" * 200_000})

    error = await bench.fail("bash", "true")
    await bench.workers.release()
    await pool.close()

    assert error.name == "ProcessNotStarted"
    assert "could not be started: OSError: [Errno 7] Argument list too long" in error.message


@pytest.mark.parametrize("name", ["PIPEDREAM_EXPORTS", "PIPEDREAM_RESPONSE"])
async def test_file_of_a_step_that_is_too_large_is_not_read(bench: Bench, name: str) -> None:
    """A file with exports or a response of more than 19 MB is an error of the step, and is not read to its end."""
    error = await bench.fail("bash", f"truncate -s 20M ${name}")

    assert error.code == "payload_limit"
    assert f"${name} has 20.0 MB" in error.message


async def test_accounts_and_a_response(bench: Bench) -> None:
    """A step with an app reads its credentials from a file, and responds by writing to a file."""
    outcome = await bench.run(
        "bash",
        'jq "{status: 201, body: .slack.token}" $PIPEDREAM_ACCOUNTS > $PIPEDREAM_RESPONSE\n'
        "echo '{}' >> $PIPEDREAM_RESPONSE",
        credentials={"slack": {"token": "xoxb-1"}},
    )

    assert outcome.response == {"status": 201, "headers": {}, "body": "xoxb-1"}
    assert outcome.warnings == ("The step responded more than once; the first response was sent.",)


async def test_no_accounts_file_without_an_app(bench: Bench) -> None:
    """The variable is not set, so that `set -u` reports its use; a step may remove the files that it has."""
    outcome = await bench.run("bash", 'rm $PIPEDREAM_EXPORTS $PIPEDREAM_RESPONSE; set -u; cat "$PIPEDREAM_ACCOUNTS"')

    assert (outcome.error, outcome.exports, outcome.response) == (None, {}, None)
    assert outcome.warnings[0].startswith("exit status 1")


async def test_step_whose_files_cannot_be_created_fails(bench: Bench) -> None:
    """A system that refuses to create the files of a step, here because their folder is gone, is an error of the step."""
    if not bench.workers._acquired_slot.plan.namespaces:
        pytest.skip("without namespaces, the working folder is missing first")
    shutil.rmtree(bench.tmp_folder.parent)

    error = await bench.fail("bash", "true")

    assert "its files could not be created (No such file or directory)" in error.message


Collect = Callable[..., tuple[StepRecorder, StepError | None]]
MAX_GROWTH = 6
"""The longest time for an input of four times the size, against that of the input: a square would be 16."""


@pytest.fixture
def collect(tmp_path: Path) -> Iterator[Collect]:
    """Collects the results of a step that has written the given texts of exports and response."""
    slot = SlotFolder(tmp_path, 1, NO_PLAN)

    def run(
        exports: str = "", response: str = "", recorder: StepRecorder | None = None
    ) -> tuple[StepRecorder, StepError | None]:
        recorder = recorder or StepRecorder()
        files = slot.create_step_files()
        results = SubprocessIO(files, b"{}", {})
        for name, text in {"PIPEDREAM_EXPORTS": exports, "PIPEDREAM_RESPONSE": response}.items():
            Path(results.environment[name]).write_bytes(text.encode(errors="surrogateescape"))
        error = results.collect(recorder)
        files.remove()
        return recorder, error

    yield run
    slot.remove()


IGNORED = "Line {} of $PIPEDREAM_EXPORTS is not NAME=VALUE and was ignored."


@pytest.mark.parametrize(
    ("text", "exports", "warnings"),
    [
        ("a=\udcff!\nb=1\r\n", {"a": "\ufffd!", "b": "1"}, ()),
        ('a=1\r2\r\nb:json={\r"c": 3}\n', {"a": "1\r2", "b": {"c": 3}}, ()),
        ("hello\n=x\n", {}, (IGNORED.format(1), IGNORED.format(2))),
        (
            "junk\n" * 1000,
            {},
            (
                *(IGNORED.format(number) for number in (1, 2, 3)),
                "997 more lines of $PIPEDREAM_EXPORTS are not NAME=VALUE and were ignored.",
            ),
        ),
    ],
    ids=[
        "bytes that are not UTF-8 are replaced",
        "only a line feed ends a line",
        "a line that is not an export is a warning",
        "of many such lines, most are counted",
    ],
)
def test_lines_of_exports(collect: Collect, text: str, exports: dict[str, JSON], warnings: tuple[str, ...]) -> None:
    """Each line is an export, or a warning names it."""
    recorder, error = collect(text)

    outcome = recorder.outcome()
    assert (error, outcome.exports, outcome.warnings) == (None, exports, warnings)


@pytest.mark.parametrize("value", ["{nope", "NaN", "1e999", ""])
def test_export_line_that_is_not_json_is_an_error(collect: Collect, value: str) -> None:
    """The export's name and the line are in the message; the other lines are kept."""
    recorder, error = collect(f"a=1\nbad:json={value}\nc=3\n")

    assert error is not None
    assert error.code == "export_not_json"
    assert "bad is not JSON" in error.message
    assert "line 2 of $PIPEDREAM_EXPORTS" in error.message
    assert recorder.outcome().exports == {"a": "1", "c": "3"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"headers": null, "body": 1}', {"status": 200, "headers": {}, "body": 1}),
        ('{"headers": {}, "body": 1}', {"status": 200, "headers": {}, "body": 1}),
        (
            '{"headers": {"x-a": 1, "x-b": true, "x-c": [2, false, "d"]}}',
            {"status": 200, "headers": {"x-a": "1", "x-b": "true", "x-c": ["2", "false", "d"]}, "body": None},
        ),
        ("nope", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"status": 200} nothing', "$PIPEDREAM_RESPONSE"),
        ("9" * 400, "$PIPEDREAM_RESPONSE"),
        ('{"status": "200"}', "is wrong: expected `int`, got `str` - at `$.status`"),
        ('{"headers": "a: b"}', "is wrong: expected `object`, got `str` - at `$.headers`"),
        ('{"status": 600}', "is wrong: expected `int` <= 599 - at `$.status`"),
        ('{"headers": {"a": {}}}', "is wrong: expected `str | array`, got `object` - at `$.headers[...]`"),
        ('{"body": NaN}', "is not JSON (NaN)"),
    ],
)
def test_response_of_a_step(collect: Collect, text: str, expected: str | dict[str, JSON]) -> None:
    """Headers may be missing and become texts; the error of an invalid response has the reason, and the exports are kept."""
    recorder, error = collect("a=1\n", text)

    outcome = recorder.outcome()
    assert outcome.exports == {"a": "1"}
    if isinstance(expected, str):
        assert error is not None
        assert expected in error.message
        assert "$PIPEDREAM_RESPONSE" in error.message
    else:
        assert (error, outcome.response) == (None, expected)


INPUTS: dict[str, tuple[Callable[[int], dict[str, str]], int]] = {
    "lines that are no exports": (lambda n: {"exports": "junk\n" * n}, 4_000),
    "empty lines": (lambda n: {"exports": "\n" * n}, 4_000),
    "exports": (lambda n: {"exports": "".join(f"name{number}=text\n" for number in range(n))}, 4_000),
    "exports of JSON": (lambda n: {"exports": "".join(f'a{number}:json={{"b": -0}}\n' for number in range(n))}, 4_000),
    "exports that are not JSON": (lambda n: {"exports": "a:json={\n" * n}, 4_000),
    "a line of equals signs": (lambda n: {"exports": "=" * n}, 1_000_000),
    "a long export": (lambda n: {"exports": "a=" + "x" * n}, 1_000_000),
    "small integers": (lambda n: {"exports": f"a:json=[{'1,' * n}1]"}, 100_000),
    "negative zeros": (lambda n: {"exports": f"a:json=[{'-0,' * n}1]"}, 100_000),
    "integers of 300 digits": (lambda n: {"exports": f"a:json=[{'9' * 300 + ','}{('7' * 300 + ',') * n}1]"}, 1_000),
    "an integer of many digits": (lambda n: {"exports": "a:json=" + "9" * n}, 100_000),
    "a fraction of many digits": (lambda n: {"exports": "a:json=0." + "9" * n}, 100_000),
    "an exponent of many digits": (lambda n: {"exports": "a:json=1e" + "9" * n}, 100_000),
    "digits in a text": (lambda n: {"exports": f'a:json="{("9" * 299 + "-") * n}"'}, 1_000),
    "brackets": (lambda n: {"exports": "a:json=" + "[" * n}, 100_000),
    "escapes": (lambda n: {"exports": 'a:json="' + "\\u0041" * n + '"'}, 100_000),
    "responses": (lambda n: {"response": "{}" * n}, 100_000),
    "responses between blanks": (lambda n: {"response": "{} \n " * n}, 100_000),
    "blanks": (lambda n: {"response": " " * n}, 1_000_000),
    "brackets in the response": (lambda n: {"response": "[" * n}, 100_000),
    "an integer in the response": (lambda n: {"response": "9" * n}, 100_000),
}


@pytest.mark.parametrize("name", INPUTS)
def test_time_grows_as_the_size_of_the_input(collect: Collect, name: str) -> None:
    """Four times as much takes about four times as long; the event loop waits so long."""
    make, size = INPUTS[name]

    def run(texts: dict[str, str]) -> None:
        collect(**texts)

    took = least_seconds(run, make(size), tries=3)

    assert_fast(run, make(4 * size), MAX_GROWTH * took + 0.005)  # of other work that does not grow


@pytest.mark.parametrize(
    "texts",
    [
        {"exports": "junk\n" * 80_000},
        {"exports": "a=1\n" * 80_000},
        {"response": "{}" * 450_000},
        {"exports": "a:json=" + "9" * 400_000},
        {"response": '{"status": ' + "9" * 400_000 + "}"},
        {"exports": "a:json=[" + "1," * 500_000 + "1]"},
    ],
    ids=["junk", "exports", "responses", "integer", "status", "integers"],
)
def test_hostile_file_costs_little(collect: Collect, texts: dict[str, str]) -> None:
    """What stopped the event loop for 5 to 80 seconds takes a fraction of a second, also on a slow machine."""
    began = time.process_time()

    collect(**texts)

    assert time.process_time() - began < 0.5


def test_number_of_lines_is_limited(collect: Collect) -> None:
    """A file with too many lines exports nothing, and the error says how to export a list."""
    recorder, error = collect("a=1\n" * (MAX_EXPORT_LINES + 1))
    allowed, no_error = collect("a=1\n" * MAX_EXPORT_LINES)

    assert error is not None
    assert f"more than {MAX_EXPORT_LINES:,} lines" in error.message
    assert error.fix
    assert recorder.outcome().exports == {}
    assert (no_error, allowed.outcome().exports) == (None, {"a": "1"})


def test_exports_are_reported_together(collect: Collect) -> None:
    """Many exports cost one report of the record, not a report for each."""
    reports: list[StepResult] = []

    collect("".join(f"a{number}=1\n" for number in range(100)), recorder=StepRecorder(on_change=reports.append))

    assert [len(report.exports) for report in reports] == [100]


@pytest.mark.parametrize(
    "number", ["9" * 310, "9" * 400_000, "-" + "9" * 310, "1" + "0" * 309, "1e400", "-1e999", "0" * 400]
)
def test_number_beyond_a_double_is_an_error(collect: Collect, number: str) -> None:
    """A number that no other language of a workflow could read is not exported, and other exports are."""
    recorder, error = collect(f"a:json={number}\nb=2\n")

    assert error is not None
    assert error.code == "export_not_json"
    assert len(error.message) < 500
    assert recorder.outcome().exports == {"b": "2"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9" * 308, int("9" * 308)),
        ("-0", -0.0),
        ("-0.0", -0.0),
        ("1e300", 1e300),
        ("1E+3", 1000.0),
        ("0." + "1" * 1000, 0.1111111111111111),
        ('"-0 1e999 ' + "9" * 400 + '"', "-0 1e999 " + "9" * 400),
        ("[1, -0, 2]", [1, -0.0, 2]),
    ],
)
def test_number_within_a_double_is_exact(collect: Collect, text: str, value: object) -> None:
    """Other numbers, and digits in a text, have their value."""
    recorder, error = collect(f"a:json={text}")

    assert error is None
    assert repr(recorder.outcome().exports["a"]) == repr(value)


def test_first_of_many_responses_is_sent(collect: Collect) -> None:
    """Further responses are a warning, whatever they are after the second."""
    recorder, error = collect(response='{"status": 201} {"status": 202} {"status": 203} nothing')

    outcome = recorder.outcome()
    assert error is None
    assert outcome.response == {"status": 201, "headers": {}, "body": None}
    assert outcome.warnings == ("The step responded more than once; the first response was sent.",)


def test_number_of_lists_and_objects_is_limited(collect: Collect) -> None:
    """A file whose lines together have too many lists exports nothing; brackets of plain texts do not count."""
    line = f"a:json=[{'[],' * 100_000}0]\n"

    recorder, error = collect(line * 6)
    text = "[" * (MAX_CONTAINERS + 1)
    plain, no_error = collect(f"a={text}")

    assert error is not None
    assert "600,006 lists and objects; the limit is 500,000" in error.message
    assert recorder.outcome().exports == {}
    assert (no_error, plain.outcome().exports) == (None, {"a": text})
