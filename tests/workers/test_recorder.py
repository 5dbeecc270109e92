"""The record of one attempt at a step: decoding, limits, redaction, reports and results."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pdkernel.common.clock import ManualClock, format_iso
from pdkernel.common.redaction import Redactor, Secret
from pdkernel.errors import StepError
from pdkernel.execution import AccountUse, Log, OutboundCall, StepResult
from pdkernel.model import JSON, MAX_PAYLOAD_BYTES
from pdkernel.packages import ProgressUpdate
from pdkernel.workers import StepRecorder
from pdkernel.workers.recorder import (
    MAX_ERROR_CHARACTERS,
    MAX_MESSAGES,
    MAX_NOTE_CHARACTERS,
    MAX_OUTPUT_BYTES,
    MAX_RECORDED_CALLS_BYTES,
    MAX_WARNINGS,
    MIN_REPORT_INTERVAL_S,
    SHORTENED,
)
from pdkernel.workers.replies import (
    Effect,
    Emitted,
    Exit,
    Export,
    Pause,
    Respond,
    StepReply,
    StepResponse,
    StoreWrite,
    Warn,
)
from tests.workers.conftest import printed

TOKEN = "xoxb-made-up-for-tests"
REF = "slack/apn_1/bot_token"
PLACEHOLDER = f"⟦secret:{REF}⟧"
ENCODED = TOKEN.encode().hex()
REDACTOR = Redactor([Secret(REF, TOKEN), Secret("bank/apn_2/pin", "4711")])
CALL = OutboundCall("GET", "https://api.example.com/", 200, 1.0, True, "sent")


@pytest.fixture
def recorder() -> StepRecorder:
    """The recorder of a step whose run has a token and a short secret."""
    return StepRecorder("code", redactor=REDACTOR)


def test_a_character_split_across_two_reads_is_decoded() -> None:
    """UTF-8 is decoded incrementally, separately for each stream."""
    recorder = StepRecorder()

    recorder.output("stdout", b"\xc3")
    recorder.output("stderr", b"\xe2\x82")
    recorder.output("stdout", b"\xa9")
    recorder.output("stderr", b"\xac")

    assert recorder.logs == (Log("stdout", "é"), Log("stderr", "€"))


def test_invalid_utf8_is_replaced() -> None:
    """Bytes that are not UTF-8 become replacement characters, also at the end of the output."""
    recorder = StepRecorder()

    recorder.output("stdout", b"a\xff b\xc3")
    recorder.outcome()

    assert printed(recorder) == "a� b�"


def test_a_line_without_an_end_is_cut_at_last() -> None:
    """Output without a line's end is dropped from 64 KB above the limit on, and the rest of the output with it."""
    recorder = StepRecorder()

    for _ in range(3):
        recorder.output("stdout", b"x" * (MAX_OUTPUT_BYTES // 2 + 40_000))
    recorder.output("stdout", b"x\n")

    assert len(printed(recorder)) == MAX_OUTPUT_BYTES + 80_000
    assert recorder.outcome().warnings == (
        "564,290 more bytes of output were dropped: the limit is 1,048,576 bytes per step.",
    )


def test_truncated_output_ends_with_a_complete_line() -> None:
    """The size limit does not cut a line, because a partial line may contain a partial secret."""
    recorder = StepRecorder()

    recorder.output("stdout", b"x" * (MAX_OUTPUT_BYTES - 3) + b"\n")
    recorder.output("stdout", b"whole line\nnext line\n")
    recorder.output("stderr", b"more\n")
    outcome = recorder.outcome()

    assert printed(recorder).endswith("x\nwhole line\n")
    assert outcome.warnings == ("15 more bytes of output were dropped: the limit is 1,048,576 bytes per step.",)


@pytest.mark.parametrize(
    ("output", "tail"),
    [
        ("s" * 5000 + "\nlast\nwords\n", "last\nwords"),
        ("".join(f"{number}\n" for number in range(12)), "\n".join(map(str, range(2, 12)))),
    ],
    ids=["only complete lines", "the last ten lines"],
)
def test_tail_of_stderr(output: str, tail: str) -> None:
    """The cause of a crash is at the end of the output; a line whose start is missing is left out."""
    recorder = StepRecorder()

    recorder.output("stderr", output.encode())

    assert recorder.stderr_tail() == tail


def test_a_warning_is_given_once() -> None:
    """Equal warnings are one, in the order of their first occurrence."""
    recorder = StepRecorder()

    for text in ("a", "b", "a"):
        recorder.add_reply(Warn(text))

    assert recorder.outcome().warnings == ("a", "b")


def test_a_database_with_a_deleted_key_is_stored() -> None:
    """A source that only deletes a key changes its database; a source that only reads does not."""
    recorder = StepRecorder()
    recorder.service_db = {"a": 1, "b": 2}
    before = recorder.outcome().service_db

    recorder.add_reply(StoreWrite("a"))

    assert before is None
    assert recorder.outcome().service_db == {"b": 2}


def test_secret_split_across_two_reads_is_redacted(recorder: StepRecorder) -> None:
    """A secret is redacted if its parts arrive in two reads, also with a read of the other stream in between."""
    recorder.output("stdout", TOKEN[:9].encode())
    recorder.output("stderr", TOKEN[:5].encode())
    recorder.output("stdout", TOKEN[9:].encode())
    before_the_end = recorder.logs
    recorder.outcome()

    assert before_the_end == (Log("stdout", PLACEHOLDER),)
    assert recorder.logs == (Log("stdout", PLACEHOLDER), Log("stderr", TOKEN[:5]))


def test_secrets_that_a_step_gets_later_are_redacted(recorder: StepRecorder) -> None:
    """From then on, the new secret is redacted; so is a former one of which a part was held back."""
    other = Secret("bank/apn_3/key", "key-of-another-run")
    recorder.output("stdout", f"{other.value} {TOKEN[:9]}".encode())
    recorder.use_redactor(Redactor([Secret(REF, TOKEN), other]))
    recorder.output("stdout", f"{TOKEN[9:]} {other.value}".encode())
    recorder.outcome()

    assert printed(recorder) == f"{other.value} {PLACEHOLDER} ⟦secret:{other.ref}⟧"


def test_output_precedes_notes_that_follow_the_step(recorder: StepRecorder) -> None:
    """The end of the output, which redaction holds back, is recorded before a note about the finished step."""
    recorder.output("stderr", TOKEN[:5].encode())
    recorder.outcome()
    recorder.add_note("The run ends after this step.")

    assert [log.text for log in recorder.logs] == [TOKEN[:5], "[pdkernel] The run ends after this step.\n"]


def test_exports_are_raw_in_the_outcome_and_redacted_in_the_record(recorder: StepRecorder) -> None:
    """Later steps read the raw value; the growing and the final record have a placeholder, also for the name of an export."""
    recorder.add_reply(Export("token", TOKEN))
    recorder.export({TOKEN: 1})
    snapshot = recorder.snapshot()
    recorder.add_reply(Export("header", f"Bearer {TOKEN}"))

    outcome = recorder.outcome()
    result = recorder.finish("success")

    assert outcome.exports == {"token": TOKEN, TOKEN: 1, "header": f"Bearer {TOKEN}"}
    assert snapshot.exports == {"token": PLACEHOLDER, PLACEHOLDER: 1}
    assert result.exports == {**snapshot.exports, "header": f"Bearer {PLACEHOLDER}"}


def test_short_secret_is_redacted_in_the_export_of_its_name(recorder: StepRecorder) -> None:
    """A short secret is redacted in the export with the name of the secret."""
    recorder.export({"pin": "4711"})
    recorder.export({"count": "4711"})

    assert recorder.finish("success").exports == {"pin": "⟦secret:bank/apn_2/pin⟧", "count": "4711"}


def test_an_error_is_redacted(recorder: StepRecorder) -> None:
    """An error with a token as its class name or in its message has a placeholder there; so has a note."""
    recorder.add_note(f"Sent {TOKEN}.")
    result = recorder.finish("error", StepError(f"No {TOKEN}.", name=f"Error of {TOKEN}", line=3))

    assert result.error is not None
    assert (result.error.name, result.error.message) == (f"Error of {PLACEHOLDER}", f"No {PLACEHOLDER}.")
    assert (result.error.step, result.error.line, result.error.stack) == ("code", 3, None)
    assert result.logs == (Log("stderr", f"[pdkernel] Sent {PLACEHOLDER}.\n"),)


def test_accounts_props_and_source_of_a_step_are_recorded() -> None:
    """The name of an account and the props are redacted; a prop above 64 KB is replaced by its size."""
    account = AccountUse("slack", "slack", "apn_1", "own", f"of {TOKEN}")
    recorder = StepRecorder("code", redactor=REDACTOR, accounts=(account,), source="export default {}")
    recorder.set_props({"text": TOKEN, "fits": "x" * 65_534, "large": "x" * 65_535})

    result = recorder.finish("success")

    assert result.props == {"text": PLACEHOLDER, "fits": "x" * 65_534, "large": "(65,537 bytes, not recorded)"}
    assert [use.name for use in result.accounts] == [f"of {PLACEHOLDER}"]
    assert result.source == "export default {}"


def test_time_and_usage_of_a_step() -> None:
    """The record has the start and the duration by the clock, and none before the end; the outcome has what was measured."""
    clock = ManualClock()
    began = format_iso(clock.now())
    recorder = StepRecorder("code", clock=clock)
    clock.advance(1.5)
    recorder.set_usage(seconds=1.25, memory_mb=30.5)
    snapshot, outcome = recorder.snapshot(), recorder.outcome()
    result = recorder.finish("success")

    assert (snapshot.started_at, snapshot.duration_ms, snapshot.status) == (began, None, "not_run")
    assert (result.started_at, result.duration_ms, result.status) == (began, 1500, "success")
    assert (outcome.duration_s, outcome.peak_memory_mb) == (1.25, 30.5)


@pytest.mark.parametrize("reason", [None, "", "enough"])
def test_the_reason_of_an_exit(reason: str | None) -> None:
    """A step that exits without a reason has exited, too."""
    recorder = StepRecorder()
    before = recorder.outcome()
    recorder.add_reply(Exit(reason))

    assert (before.has_exited, before.exit_reason) == (False, None)
    assert (recorder.outcome().has_exited, recorder.outcome().exit_reason) == (True, reason)


@pytest.mark.parametrize(
    ("content_type", "body", "shown"),
    [
        ("application/vnd.api+json", {"$base64": "w6k="}, "é"),
        ("Text/Plain; charset=UTF-8", {"$base64": "w6k="}, "é"),
        ("text/plain; charset=latin-1", {"$base64": "w6k="}, None),
        ("image/png", {"$base64": "w6k="}, None),
        (None, {"$base64": "w6k="}, None),
        ("text/plain", {"$base64": "/w=="}, None),
        ("text/plain", {"$base64": "w6k=!"}, None),
        ("text/plain", {"$base64": "w6k=", "a": 1}, None),
    ],
)
def test_bytes_of_a_response(content_type: str | None, body: JSON, shown: str | None) -> None:
    """Bytes of a text type in UTF-8 are a text in the response; others stay as they are."""
    recorder = StepRecorder()
    headers: dict[str, str | list[str]] = {} if content_type is None else {"Content-TYPE": content_type}
    recorder.respond(StepResponse(200, headers, body))

    response = recorder.outcome().response
    assert response is not None
    assert response["body"] == (body if shown is None else shown)


@pytest.mark.parametrize("length", range(1, len(ENCODED)))
def test_part_of_a_secret_at_the_end_of_a_shortened_local_is_removed(recorder: StepRecorder, length: int) -> None:
    """No part of an encoded token stays at the end of a shortened local variable."""
    stack = f"      whole = {ENCODED}, half = {ENCODED[:length]}{SHORTENED}\n      n = 1\nValueError: {TOKEN}"

    result = recorder.finish("error", StepError("No.", name="ValueError", stack=stack))

    assert result.error is not None
    assert result.error.stack == (
        f"      whole = ⟦secret:{REF}|hex⟧, half = {SHORTENED}\n      n = 1\nValueError: {PLACEHOLDER}"
    )


def test_ellipsis_inside_a_line_does_not_mark_a_shortened_local(recorder: StepRecorder) -> None:
    """Only a mark at the end of a line means that the line was shortened."""
    stack = f"ValueError: waiting for x{SHORTENED} of y"

    result = recorder.finish("error", StepError("No.", name="ValueError", stack=stack))

    assert result.error is not None
    assert result.error.stack == stack


@pytest.mark.parametrize("is_immediate", [True, False])
def test_only_the_first_response_is_sent(is_immediate: bool) -> None:
    """A second response is a warning; a response that the step wants to be sent before the run ends says so."""
    sent: list[dict[str, Any]] = []
    recorder = StepRecorder(on_respond=sent.append)

    for status in (201, 500):
        recorder.add_reply(Respond(StepResponse(status, {}, None, immediate=is_immediate)))

    outcome = recorder.outcome()
    marked = {"immediate": True} if is_immediate else {}
    assert sent == [outcome.response] == [{"status": 201, "headers": {}, "body": None, **marked}]
    assert outcome.warnings == ("The step responded more than once; the first response was sent.",)


def test_record_of_a_rerun_keeps_logs_and_calls_of_earlier_attempts(recorder: StepRecorder) -> None:
    """The second attempt continues the logs and the outbound calls of the first, and has its own exports."""
    recorder.output("stdout", b"one\n")
    recorder.add_outbound_call(CALL)
    recorder.export({"old": 1})
    second = StepRecorder("code", attempt=2, previous_result=recorder.finish("success"))
    second.output("stdout", b"two\n")

    result = second.finish("success")

    assert "".join(log.text for log in result.logs) == "one\n[pdkernel] Attempt 2:\ntwo\n"
    assert (result.attempt, result.requests, result.exports) == (2, (CALL,), {})
    assert second.logs == (Log("stdout", "two\n"),)


async def test_output_is_reported_at_intervals() -> None:
    """The first output after an interval is reported at once; output within the interval is reported at its end."""
    clock, reports = ManualClock(), list[StepResult]()
    recorder = StepRecorder("code", clock=clock, on_change=reports.append)

    clock.advance(1)
    for text in (b"a", b"b", b"c"):
        recorder.output("stdout", text)
    at_once = [report.logs for report in reports]
    async with asyncio.timeout(60):
        while len(reports) == 1:
            await asyncio.sleep(MIN_REPORT_INTERVAL_S)

    assert at_once == [(Log("stdout", "a"),)]
    assert [report.logs for report in reports[1:]] == [(Log("stdout", "abc"),)]


async def test_nothing_is_reported_after_the_end_of_the_step() -> None:
    """Neither a timer nor a late outbound call replaces the final record by an unfinished record."""
    reports = list[StepResult]()
    recorder = StepRecorder("code", on_change=reports.append)

    recorder.output("stdout", b"a")
    recorder.report_progress("compiling code.go")
    recorder.report_progress(ProgressUpdate("half of code.go"))
    recorder.output("stdout", b"b")
    recorder.outcome()
    recorder.finish("success")
    count = len(reports)
    recorder.add_outbound_call(CALL)
    await asyncio.sleep(
        3 * MIN_REPORT_INTERVAL_S
    )  # the event loop calls a timer of the recorder, which ends earlier, first

    assert count > 0
    assert len(reports) == count
    assert [log.text for log in reports[-1].logs if log.is_note] == ["[pdkernel] compiling code.go\n"]


LARGE = "x" * (MAX_PAYLOAD_BYTES + 1)


@pytest.mark.parametrize(
    "reply",
    [
        Effect("emit", {"event": LARGE}),
        Emitted(LARGE),
        Pause("rerun", 0, LARGE),
        Respond(StepResponse(200, {}, LARGE)),
        StoreWrite("key", LARGE),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_what_a_step_keeps_has_a_limit(reply: StepReply) -> None:
    """A message, an event, a context, a response or a stored value of more than 6 MB is not kept, and the step fails."""
    recorder = StepRecorder()

    recorder.add_reply(Effect("emit", {"event": 1}))
    recorder.add_reply(reply)
    outcome = recorder.outcome()

    assert outcome.error is not None
    assert outcome.error.code == "payload_limit"
    assert (outcome.queued_sends, outcome.response, outcome.pause_request, outcome.service_db) == ((), None, None, None)
    assert recorder.emitted_events == []


def test_messages_are_counted() -> None:
    """A step may queue a thousand messages and events, which count together; with one more, or too large ones, it fails, and none is sent."""
    recorder, fuller, larger = StepRecorder(), StepRecorder(), StepRecorder()
    for _ in range(MAX_MESSAGES):
        recorder.add_reply(Effect("emit", {}))
    for _ in range(MAX_MESSAGES + 1):
        fuller.add_reply(Effect("emit", {}))
    for _ in range(7):
        larger.add_reply(Effect("emit", {"event": "x" * (1 << 20)}))

    enough, too_many = recorder.outcome(), fuller.outcome()

    assert (enough.error, len(enough.queued_sends)) == (None, MAX_MESSAGES)
    assert too_many.queued_sends == ()
    assert "more than 1,000 messages" in str(too_many.error)
    assert larger.outcome().error is not None


def test_error_of_the_step_is_the_error_beside_a_limit() -> None:
    """A step that fails by itself and exceeds a limit keeps its own error."""
    recorder, own = StepRecorder(), StepError("Failed.")

    recorder.add_reply(Emitted(LARGE))

    assert recorder.outcome(own).error is own


def test_long_texts_are_shortened_after_redaction() -> None:
    """Message, stack, name and notes of a step are cut in the record, and a secret at the cut is redacted before."""
    recorder = StepRecorder(redactor=REDACTOR)
    text = "x" * (MAX_ERROR_CHARACTERS - 5) + TOKEN + "y" * MAX_ERROR_CHARACTERS

    recorder.add_note("n" * (MAX_NOTE_CHARACTERS + 7))
    result = recorder.finish("error", StepError(text, name="N" * 1000, stack=text))
    error = result.error

    assert error is not None
    assert error.stack is not None
    assert len(error.name) < 300
    for each in (error.message, error.stack):
        assert len(each) < MAX_ERROR_CHARACTERS + 100
        assert "more characters are left out" in each
        assert TOKEN[:5] not in each
    assert "(7 more characters are left out)" in "".join(log.text for log in result.logs)


def test_many_outbound_calls_are_counted() -> None:
    """Outbound calls beyond a megabyte are not recorded; a warning has their number."""
    recorder = StepRecorder()
    call = OutboundCall(
        "GET", "https://api.example.com/" + "p" * (MAX_RECORDED_CALLS_BYTES // 10), 200, 1.0, True, "sent"
    )

    for _ in range(15):
        recorder.add_outbound_call(call)
    outcome = recorder.outcome()

    assert len(recorder.finish("success").requests) == 9
    assert any("6 more outbound calls are not recorded" in each for each in outcome.warnings)


def test_many_warnings_are_left_out() -> None:
    """Of many different warnings, the last one that is kept says so."""
    recorder = StepRecorder()

    for number in range(MAX_WARNINGS * 2):
        recorder.warn(f"warning {number}")
    warnings = recorder.outcome().warnings

    assert (len(warnings), warnings[-1]) == (MAX_WARNINGS, "More warnings are left out.")


def test_exports_of_a_step_over_the_limit_are_left_out() -> None:
    """The record has the sizes of large exports, and the small exports."""
    recorder = StepRecorder()
    recorder.export({"large": "x" * 100_000, "small": 1})

    recorder.leave_out_exports()

    assert recorder.finish("error").exports == {"large": "(100,002 bytes, not recorded)", "small": 1}


def test_large_headers_of_a_response_fail_the_step() -> None:
    """A response with more than 64 KB of headers is not sent, and the step has an error."""
    responses: list[dict[str, Any]] = []
    recorder = StepRecorder(on_respond=responses.append)

    recorder.respond(StepResponse(200, {f"x-{number}": "a" for number in range(10_000)}, "body"))

    error = recorder.outcome().error
    assert responses == []
    assert error is not None
    assert error.name == "ResponseHeadersTooLarge"
