"""What a step did, gathered."""

from __future__ import annotations

from pdkernel.workers.recorder import MAX_OUTPUT_BYTES, StepRecorder
from tests.workers.conftest import ListenerSpy


def test_a_character_split_over_two_reads_is_one() -> None:
    """UTF-8 is decoded as it comes, each stream by itself."""
    listener = ListenerSpy()
    recorder = StepRecorder(listener)

    for stream, data in (("stdout", b"\xc3"), ("stderr", b"\xe2\x82"), ("stdout", b"\xa9"), ("stderr", b"\xac")):
        recorder.output(stream, data)  # type: ignore[arg-type]
    recorder.outcome()

    assert listener.logs == [("stdout", "é"), ("stderr", "€")]


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    """Nothing that a step prints stops it from being shown."""
    listener = ListenerSpy()
    recorder = StepRecorder(listener)

    recorder.output("stdout", b"a\xff b\xc3")
    recorder.outcome()

    assert listener.text() == "a� b�"


def test_what_is_kept_ends_with_a_whole_line() -> None:
    """A line cut in the middle could hold half a secret."""
    listener = ListenerSpy()
    recorder = StepRecorder(listener)

    recorder.output("stdout", b"x" * (MAX_OUTPUT_BYTES - 3) + b"\n")
    recorder.output("stdout", b"whole line\nnext line\n")
    recorder.output("stderr", b"more\n")
    outcome = recorder.outcome()

    assert listener.text().endswith("x\nwhole line\n")
    assert outcome.warnings == ("15 more bytes were printed and not kept: the limit is 1,048,576 a step.",)


def test_the_last_words_are_whole_lines() -> None:
    """At most ten, and none that begins in its middle."""
    recorder = StepRecorder(ListenerSpy())

    recorder.output("stderr", b"s" * 5000 + b"\nlast\nwords\n")

    assert recorder.stderr_tail() == "last\nwords"
