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


async def test_export_that_is_not_utf8_is_replaced(bench: Bench) -> None:
    """Bytes that are not UTF-8 become replacement characters, and the other exports are kept; a line may end with CRLF."""
    outcome = await bench.run("bash", "printf 'a=\\xff!\\nb=1\\r\\n' >> $PIPEDREAM_EXPORTS\n")

    assert outcome.error is None
    assert outcome.exports == {"a": "\ufffd!", "b": "1"}


@pytest.mark.parametrize("headers", ["null", "{}"])
async def test_response_needs_no_headers(bench: Bench, headers: str) -> None:
    """Headers may be null."""
    outcome = await bench.run("bash", f'echo \'{{"headers": {headers}, "body": 1}}\' >> $PIPEDREAM_RESPONSE\n')

    assert outcome.error is None
    assert outcome.response == {"status": 200, "headers": {}, "body": 1}


async def test_headers_of_a_response_are_texts(bench: Bench) -> None:
    """A number and a boolean in a header are written as in JSON, also in a list."""
    headers = '{"x-a": 1, "x-b": true, "x-c": [2, false, "d"]}'
    outcome = await bench.run("bash", f"echo '{{\"headers\": {headers}}}' >> $PIPEDREAM_RESPONSE\n")

    expected = {"x-a": "1", "x-b": "true", "x-c": ["2", "false", "d"]}
    assert outcome.response == {"status": 200, "headers": expected, "body": None}


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


@pytest.mark.parametrize("value", ["{nope", "NaN", "1e999", ""])
async def test_export_line_that_is_not_json_is_an_error(bench: Bench, value: str) -> None:
    """The export's name and the line are in the message; the other lines are kept."""
    outcome = await bench.run("bash", f"printf 'a=1\\nbad:json={value}\\nc=3\\n' >> $PIPEDREAM_EXPORTS")

    assert outcome.error is not None
    assert outcome.error.code == "export_not_json"
    assert "bad is not JSON" in outcome.error.message
    assert "line 2 of $PIPEDREAM_EXPORTS" in outcome.error.message
    assert outcome.exports == {"a": "1", "c": "3"}


async def test_carriage_return_inside_of_a_text_is_kept(bench: Bench) -> None:
    """Only a line feed ends a line of the exports; a carriage return before it is removed."""
    outcome = await bench.run("bash", "printf 'a=1\\r2\\r\\nb:json={\\r\"c\": 3}\\n' >> $PIPEDREAM_EXPORTS\n")

    assert (outcome.error, outcome.warnings) == (None, ())
    assert outcome.exports == {"a": "1\r2", "b": {"c": 3}}


async def test_program_that_writes_to_a_closed_pipe_ends_silently(bench: Bench) -> None:
    """Programs of a step have the usual handling of SIGPIPE."""
    outcome = await bench.run("bash", "yes | head -n 1")

    assert (outcome.error, outcome.warnings) == (None, ())
    assert (bench.printed(), bench.printed("stderr")) == ("y\n", "")


async def test_line_that_is_not_an_export_is_a_warning(bench: Bench) -> None:
    """An invalid line is not ignored silently."""
    outcome = await bench.run("bash", "echo hello >> $PIPEDREAM_EXPORTS; echo =x >> $PIPEDREAM_EXPORTS")

    assert (outcome.error, outcome.exports) == (None, {})
    assert outcome.warnings == tuple(
        f"Line {number} of $PIPEDREAM_EXPORTS is not NAME=VALUE and was ignored." for number in (1, 2)
    )


async def test_files_of_the_step_are_removed(bench: Bench) -> None:
    """The input files of a step do not stay in the folder of the run."""
    await bench.run("bash", "true")

    assert [path.name for path in bench.tmp_folder.parent.iterdir()] == ["tmp"]


async def test_background_processes_end_with_the_step(bench: Bench) -> None:
    """A background process does not delay the step, and ends before the results of the step are read."""
    outcome = await bench.run(
        "bash",
        "setsid sleep 1000 & until [ $(cut -d' ' -f6 /proc/$!/stat) = $! ]; do :; done  # its session is its own\n"
        f'sleep 1000 & echo "mark=${process_tree.PROCESS_TAG_VARIABLE}" >> $PIPEDREAM_EXPORTS',
    )
    mark = outcome.exports["mark"]

    assert isinstance(mark, str)
    assert process_tree.find_processes([], [mark]) == set()


async def test_kill_ends_what_the_running_step_started(bench: Bench) -> None:
    """When the processes of a run are ended, so are those in a session of their own."""
    task = asyncio.ensure_future(
        bench.run(
            "bash",
            "setsid sleep 1000 & until [ $(cut -d' ' -f6 /proc/$!/stat) = $! ]; do :; done  # its session is its own\n"
            f"echo ${process_tree.PROCESS_TAG_VARIABLE}; sleep 1000",
        )
    )
    while not (mark := bench.printed().strip()):
        await asyncio.sleep(0.01)
    during = process_tree.find_processes([], [mark])

    bench.workers.kill()
    await task

    assert len(during) >= 2
    assert process_tree.find_processes([], [mark]) == set()


async def test_end_of_the_process_is_reported_before_an_invalid_export(bench: Bench) -> None:
    """If a process was ended by a signal, this is the error, whatever the process had written until then."""
    outcome = await bench.run(
        "bash", "echo 'bad:json={' >> $PIPEDREAM_EXPORTS; echo no > $PIPEDREAM_RESPONSE; kill -9 $$"
    )

    assert outcome.error is not None
    assert outcome.error.code == "step_died"


@pytest.mark.parametrize("zygotes", [ZYGOTES, None])
async def test_process_that_cannot_be_started_is_an_error_of_the_step(
    open_run: OpenRun, zygotes: Zygotes | None
) -> None:
    """If the system refuses to start the program, for example because a variable is too long, the reason is in the error."""
    pool = WorkerPool(zygotes=zygotes)
    bench = await open_run(of=pool, variables={"LONG": "x" * 200_000})

    outcome = await bench.run("bash", "true")
    await bench.workers.release()
    await pool.close()

    assert outcome.error is not None
    assert outcome.error.name == "ProcessNotStarted"
    assert "could not be started: OSError: [Errno 7] Argument list too long" in outcome.error.message


@pytest.mark.parametrize("name", ["PIPEDREAM_EXPORTS", "PIPEDREAM_RESPONSE"])
async def test_file_of_a_step_that_is_too_large_is_not_read(bench: Bench, name: str) -> None:
    """A file with exports or a response of more than 19 MB is an error of the step, and is not read to its end."""
    outcome = await bench.run("bash", f"truncate -s 20M ${name}")

    assert outcome.error is not None
    assert outcome.error.code == "payload_limit"
    assert f"${name} has 20.0 MB" in outcome.error.message


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


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nope", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"status": "200"}', "is wrong: expected `int`, got `str` - at `$.status`"),
        ('{"headers": "a: b"}', "is wrong: expected `object`, got `str` - at `$.headers`"),
        ('{"status": 600}', "is wrong: expected `int` <= 599 - at `$.status`"),
        ('{"headers": {"a": {}}}', "is wrong: expected `str | array`, got `object` - at `$.headers[...]`"),
        ('{"body": NaN}', "is not JSON (NaN)"),
    ],
)
async def test_invalid_response_is_reported(bench: Bench, text: str, what: str) -> None:
    """The error has the reason and an example."""
    outcome = await bench.run("bash", f"echo '{text}' > $PIPEDREAM_RESPONSE; echo a=1 >> $PIPEDREAM_EXPORTS")

    assert outcome.error is not None
    assert what in outcome.error.message
    assert outcome.exports == {"a": "1"}
    assert outcome.response is None


async def test_step_whose_files_cannot_be_created_fails(bench: Bench) -> None:
    """A system that refuses to create the files of a step, here because their folder is gone, is an error of the step."""
    if not bench.workers._acquired_slot.plan.namespaces:
        pytest.skip("without namespaces, the working folder is missing first")
    shutil.rmtree(bench.tmp_folder.parent)

    outcome = await bench.run("bash", "true")

    assert outcome.error is not None
    assert "its files could not be created (No such file or directory)" in outcome.error.message


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
        Path(results.environment["PIPEDREAM_EXPORTS"]).write_text(exports)
        Path(results.environment["PIPEDREAM_RESPONSE"]).write_text(response)
        error = results.collect(recorder)
        files.remove()
        return recorder, error

    yield run
    slot.remove()


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


def test_warnings_about_many_lines_are_few(collect: Collect) -> None:
    """The first lines that are not exports are named, and the others are counted."""
    recorder, error = collect("junk\n" * 1000)

    assert error is None
    assert recorder.outcome().warnings == (
        *(f"Line {number} of $PIPEDREAM_EXPORTS is not NAME=VALUE and was ignored." for number in (1, 2, 3)),
        "997 more lines of $PIPEDREAM_EXPORTS are not NAME=VALUE and were ignored.",
    )


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


@pytest.mark.parametrize("text", ['{"status": 200} nothing', "nothing", "[1]", "9" * 400])
def test_response_that_is_not_an_object_is_an_error(collect: Collect, text: str) -> None:
    """Text that is not JSON, also after a response, is an error of the step."""
    _, error = collect(response=text)

    assert error is not None
    assert "$PIPEDREAM_RESPONSE" in error.message


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
