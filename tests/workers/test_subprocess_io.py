"""The files of a Bash or Go step: what is read of them, how much, and in how much time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pdkernel.errors import StepError
from pdkernel.execution import StepResult
from pdkernel.workers.isolation import NO_PLAN
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import MAX_CONTAINERS
from pdkernel.workers.slot_folder import SlotFolder
from pdkernel.workers.subprocess_io import MAX_EXPORT_LINES, SubprocessIO
from tests.growth import assert_fast, least_seconds

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
