"""Recorded calls: bodies without secrets, placeholders, the content of the file, and the search for a response."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.egress import parse_policy
from pdkernel.egress.outbound_policy import EgressModeError
from pdkernel.egress.recording import (
    MAX_MEMORY_RECORDING_BYTES,
    CallRedactor,
    LargeBody,
    MemoryRecording,
    NotSearchableError,
    RecordedCall,
    RecordedResponse,
    RecordingError,
    RecordingFile,
    check_archives,
    decode_content_coding,
    insert_placeholders,
    read_recorded_requests,
    restore_placeholders,
    restore_secrets,
    rewrite_text,
)
from tests.egress.kit import REF, TOKEN, ClientProcess, Got, Ledger, OutsideServer, SentMemory, redactor

URL = "https://api.example.test/things"


def lines(file: Path) -> list[dict[str, Any]]:
    """The recorded calls in *file*."""
    return [json.loads(line) for line in file.read_text().splitlines()]


class Tape:
    """
    The recording of a Python step's calls.

    Attributes:
        file: The file of the recording.
    """

    def __init__(self, process: ClientProcess, ledger: Ledger, file: Path) -> None:
        self.file = file
        self._process = process
        self._ledger = ledger

    def start(self, mode: str, **binding: Any) -> ClientProcess:
        """Start a run that records or replays its calls; return its process."""
        self._process.bind(self._ledger.binding(f"{mode}={self.file}", **binding))
        return self._process

    def call(self, mode: str, method: str = "GET", url: str = URL, body: str | None = None, **binding: Any) -> Got:
        """Make the only call of such a run."""
        return self.start(mode, **binding).request("requests", method, url, body)


@pytest.fixture
def tape(python: ClientProcess, outside: OutsideServer, ledger: Ledger, tmp_path: Path) -> Tape:
    """An empty recording."""
    return Tape(python, ledger, tmp_path / "calls.jsonl")


def test_no_credential_is_in_the_file(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger, tmp_path: Path
) -> None:
    """Tokens in headers, URL, body, response and cookie reach the outside server, and not the file."""
    file = tmp_path / "calls.jsonl"
    python.bind(ledger.binding(f"record={file}"))
    python.request(
        "requests",
        "POST",
        f"{URL}?auth={TOKEN}&api_key=unknown-to-us-1",
        json.dumps({"password": "hunter2", "token": TOKEN, "kept": "yes"}),
        {"authorization": f"Bearer {TOKEN}", "x-api-key": TOKEN, "content-type": "application/json"},
    )

    text = file.read_text()

    assert TOKEN in outside.seen[0].path
    assert outside.seen[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert b"hunter2" in outside.seen[0].body
    assert not [
        secret for secret in (TOKEN, "hunter2", "unknown-to-us-1", "set-cookie", "uthorization") if secret in text
    ]
    assert "kept" in text


def test_a_value_under_a_secret_name_is_redacted_everywhere() -> None:
    """A secret that a server returns under another name is redacted too."""
    redaction = CallRedactor()
    redaction.redact_request("POST", "https://a/", [], b"client_secret=s3cr3t-value&x=1", redactor())

    answer = redaction.redact_response(200, b"OK", [], b'{"you_said": "s3cr3t-value"}', redactor())

    assert answer.body == b'{"you_said": "{{redacted}}"}'


def test_a_redacted_value_that_is_sent_finds_its_response() -> None:
    """A token in a recorded response is redacted; a replayed step sends the marker, and its call is found."""
    recording, replaying = CallRedactor(), CallRedactor()
    given = recording.redact_response(200, b"OK", [], b'{"access_token": "made-up-token"}', redactor())
    recorded = recording.redact_request("GET", "https://a/for/made-up-token?t=made-up-token", [], b"", redactor())

    sent_on = quote(json.loads(given.body)["access_token"])
    asked = replaying.redact_request("GET", f"https://a/for/{sent_on}?t={sent_on}", [], b"", redactor())

    assert "made-up-token" not in recorded.url
    assert asked.key == recorded.key


def test_other_credentials_find_the_response(tmp_path: Path) -> None:
    """The key of a call does not depend on the account."""
    mine = redactor({"slack/apn_1/bot_token": "token-of-mine"})
    theirs = redactor({"slack/apn_2/bot_token": "token-of-theirs"})

    one = CallRedactor().redact_request("POST", "https://a/?t=token-of-mine", [], b'{"auth": "token-of-mine"}', mine)
    two = CallRedactor().redact_request(
        "POST", "https://a/?t=token-of-theirs", [], b'{"auth": "token-of-theirs"}', theirs
    )

    assert one.key == two.key


@pytest.mark.parametrize(
    ("query", "is_same"),
    [
        ("b=2&a=1", True),
        ("a=1&b=2&X-Amz-Signature=3&x-amz-date=4", True),
        ("a=1&b=2&x-amazon=3", False),
        ("a=2&b=1", False),
    ],
)
def test_the_order_and_the_signature_of_a_query_do_not_count(query: str, is_same: bool) -> None:
    """A signed URL of AWS has another signature in each run."""
    keys = [
        CallRedactor().redact_request("GET", f"https://a/?{each}", [], b"", redactor()).key
        for each in ("a=1&b=2", query)
    ]

    assert (keys[0] == keys[1]) is is_same


def test_a_recording_that_another_run_extends_is_read_again(tmp_path: Path) -> None:
    """A call is found that was added to the file after the first search; the removed file has no calls."""
    file = tmp_path / "calls.jsonl"
    call = CallRedactor().redact_request("GET", URL, [], b"", redactor())
    reading, writing = RecordingFile(file), RecordingFile(file)

    before = reading.find("step", 0, call, safe=True)
    found = []
    for status in (200, 201):
        writing.add("step", 0, call, RecordedResponse(status, "OK", (), b""), 1.0)
        found.append(reading.find("step", 0, call, safe=True))
    file.unlink()

    assert isinstance(before, str)
    assert [each.status for each in found if isinstance(each, RecordedResponse)] == [200, 201]
    assert isinstance(reading.find("step", 0, call, safe=True), str)


def test_a_recording_in_memory_counts_both_bodies() -> None:
    """The bodies of requests and of responses take room."""
    recording = MemoryRecording()
    call = CallRedactor().redact_request("POST", URL, [], b"x" * 1000, redactor())

    recording.add("step", 0, call, RecordedResponse(200, "OK", (), b"y" * 500), 1.0)

    left = MAX_MEMORY_RECORDING_BYTES - 1500
    assert [recording.has_room_for(size) for size in (left, left + 1)] == [True, False]


def test_calls_that_do_not_fit_in_memory_are_named(
    python: ClientProcess, outside: OutsideServer, ledger: Ledger
) -> None:
    """A call whose request or response is larger than the rest of the room is left out, and is named; a later call may fit."""
    recording, big = MemoryRecording(), "https://api.example.test/big/{}"
    first = CallRedactor().redact_request("GET", URL, [], b"", redactor())
    body = b"x" * (MAX_MEMORY_RECORDING_BYTES - 100)
    recording.add("step", 0, first, RecordedResponse(200, "OK", (), body), 1.0)
    python.bind(ledger.binding("live", memory_recording=recording))

    python.request("requests", "POST", URL, "x" * 101)
    python.request("requests", "GET", big.format(101))
    python.request("requests", "GET", big.format(10))

    assert recording.skipped == [f"POST {URL}", f"GET {big.format(101)}"]
    assert len(recording) == 2
    assert len(outside.seen) == 3


def test_the_length_of_a_body_that_was_not_sent_is_replayed(tape: Tape, outside: OutsideServer) -> None:
    """The response to a HEAD request has the length of the body, and no body, as the host's response."""
    url = "https://api.example.test/big/1000"
    found = [tape.call(mode, "HEAD", url) for mode in ("record", "replay")]

    assert [(got.status, got.headers["content-length"], got.body) for got in found] == [(200, "1000", b"")] * 2
    assert len(outside.seen) == 1


def test_a_replayed_call_is_recorded_in_memory(tape: Tape, outside: OutsideServer, tmp_path: Path) -> None:
    """A run that replays calls can be saved as a test: its calls are in memory, in order, as in the file."""
    recording = MemoryRecording()
    for mode, kept in (("record", None), ("replay", recording)):
        process = tape.start(mode, memory_recording=kept)
        for _ in range(2):
            process.request("requests", "GET", URL)
    recording.append_to(tmp_path / "saved.jsonl")

    saved, recorded = lines(tmp_path / "saved.jsonl"), lines(tape.file)
    assert [each["response"] for each in saved] == [each["response"] for each in recorded]
    assert len(outside.seen) == 2


def test_a_call_to_a_built_in_stand_in_is_recorded_in_memory(
    python: ClientProcess, ledger: Ledger, tmp_path: Path
) -> None:
    """A safe call that a built-in stand-in answers is recorded too."""
    recording = MemoryRecording()
    python.bind(ledger.binding("stand-in=slack", memory_recording=recording))

    answer = python.request(
        "requests", "GET", "https://slack.com/api/auth.test", None, {"authorization": f"Bearer {TOKEN}"}
    )

    assert answer.json()["ok"] is True
    recording.append_to(tmp_path / "saved.jsonl")
    assert [json.loads(each["response"]["body"]["text"])["ok"] for each in lines(tmp_path / "saved.jsonl")] == [True]
    assert TOKEN not in (tmp_path / "saved.jsonl").read_text()


@pytest.mark.parametrize(
    ("content_type", "one", "two"),
    [
        ("application/json", '{"a": 1, "b": [2]}', '{"b":[2],"a":1}'),
        ("application/x-www-form-urlencoded", "a=1&b=2", "b=2&a=1"),
        ("multipart/form-data; boundary=XX", "--XX\r\n\r\nhi\r\n--XX--", None),
    ],
)
def test_two_spellings_of_a_body_have_one_key(content_type: str, one: str, two: str | None) -> None:
    """The order of keys and fields, and a random boundary, do not change the key."""
    other_type, other = (
        (content_type, two) if two is not None else (content_type.replace("XX", "YY"), one.replace("XX", "YY"))
    )

    keys = [
        CallRedactor()
        .redact_request("POST", "https://a/", [(b"Content-Type", kind.encode())], body.encode(), redactor())
        .key
        for kind, body in ((content_type, one), (other_type, other))
    ]

    assert keys[0] == keys[1]


def test_another_body_has_another_key() -> None:
    """Every change of the request changes the key."""
    calls = [
        CallRedactor().redact_request(method, url, [], body, redactor()).key
        for method, url, body in (
            ("POST", "https://a/", b"1"),
            ("POST", "https://a/", b"2"),
            ("PUT", "https://a/", b"1"),
            ("POST", "https://a/?x=1", b"1"),
            ("POST", "http://a/", b"1"),
            ("POST", "https://b/", b"1"),
        )
    ]

    assert len(set(calls)) == len(calls)


def test_repeated_calls_are_answered_in_order(tape: Tape) -> None:
    """The second equal call gets the second response; after the last one, a safe call gets the last one again; a second recording replaces the first."""
    for _ in range(2):
        process = tape.start("record")
        recorded = [process.request("requests", "GET", URL).body for _ in range(2)]
    process = tape.start("replay")
    replayed = [process.request("requests", "GET", URL).body for _ in range(3)]

    assert replayed == [*recorded, recorded[-1]]
    assert recorded[0] != recorded[1]


def test_an_additional_unsafe_call_is_refused(tape: Tape, outside: OutsideServer, ledger: Ledger) -> None:
    """An unsafe call does not get a recorded response twice, and the message gives the reason."""
    tape.call("record", "POST", body="x")
    process = tape.start("replay")
    process.request("requests", "POST", URL, "x")
    got = process.request("requests", "POST", URL, "x")

    assert (got.status, got.headers["x-pdkernel-egress"]) == (403, "miss")
    assert "recorded once, and the step made it twice" in ledger.refused[0]
    assert len(outside.seen) == 1


def test_an_unrecorded_call_names_similar_calls(tape: Tape, outside: OutsideServer, ledger: Ledger) -> None:
    """A call that is not recorded is refused, with similar recorded calls."""
    tape.call("record")
    got = tape.call("replay", url=URL + "/7")

    assert got.json()["error"]["code"] == "egress_miss"
    assert f"GET {URL}" in ledger.refused[0].partition("Similar")[2]
    assert len(outside.seen) == 1


def test_steps_have_their_own_responses(tape: Tape) -> None:
    """The same call of two steps gets each step's response; a renamed step gets them in order."""
    recorded = {step: tape.call("record", step=step).body for step in ("one", "two")}
    replayed = {step: tape.call("replay", step=step).body for step in ("two", "one", "renamed")}

    assert replayed == {**recorded, "renamed": recorded["one"]}


def test_recording_requests_the_identity_coding(tape: Tape, outside: OutsideServer) -> None:
    """Recordings are readable, because responses are not compressed."""
    tape.call("record")

    assert outside.seen[0].headers["accept-encoding"] == "identity"
    assert "text" in lines(tape.file)[0]["response"]["body"]


def test_a_call_that_is_not_sent_again_is_recorded(tape: Tape, outside: OutsideServer) -> None:
    """A deleted recording is recreated from stored responses, without sending again."""
    sent = SentMemory()
    first = tape.call("record", "POST", body="x", sent_requests=sent).body
    tape.file.unlink()
    tape.call("record", "POST", body="x", sent_requests=sent)

    assert tape.call("replay", "POST", body="x").body == first
    assert len(outside.seen) == 1


def test_a_large_body_has_its_own_file(tape: Tape) -> None:
    """A body of more than 64 KB is stored in its own file, and is replayed."""
    url = "https://api.example.test/big/100000"
    tape.call("record", url=url)

    assert tape.call("replay", url=url).body == b"x" * 100_000
    assert list(lines(tape.file)[0]["response"]["body"]) == ["file"]


def test_a_binary_body_is_replayed(tmp_path: Path) -> None:
    """A body that is not UTF-8 is stored as base64."""
    recording_file = RecordingFile(tmp_path / "calls.jsonl")
    call = recording_file.call_redactor.redact_request("GET", "https://a/", [], b"", redactor())
    answer = recording_file.call_redactor.redact_response(200, b"OK", [], b"\xff\x00\xfe", redactor())

    recording_file.add("send", 0, call, answer, 1.0)

    assert lines(recording_file.file)[0]["response"]["body"] == {"base64": base64.b64encode(b"\xff\x00\xfe").decode()}
    assert RecordingFile(recording_file.file).find("send", 0, call, safe=True) == answer


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([], b"\xff\x00 " + TOKEN.encode() + b" \xfe"),
        ([], b"\xff\x00 " + TOKEN.encode().hex().encode() + b" \xfe"),
        ([(b"Content-Type", b"text/csv; charset=utf-16le")], f"a,{TOKEN}".encode("utf-16-le")),
        ([(b"Content-Encoding", b"gzip")], gzip.compress(f'{{"a": "{TOKEN}"}}'.encode())),
        ([(b"Content-Encoding", b"deflate")], zlib.compress(f'{{"a": "{TOKEN}"}}'.encode())),
        (
            [(b"Content-Type", b"multipart/form-data; boundary=XX")],
            b'--XX\r\nContent-Disposition: form-data; name="f"; filename="f.bin"\r\n\r\n\xff\xfe\xfd'
            + TOKEN.encode()
            + b"\r\n--XX--\r\n",
        ),
    ],
    ids=["binary", "hex in binary", "utf-16", "gzip", "deflate", "multipart"],
)
def test_secret_in_a_body_that_is_not_utf8_is_replaced(
    tmp_path: Path, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """A token in a binary body is not in the file; a replay inserts the current token."""
    mine, theirs = redactor({REF: TOKEN}), redactor({REF.replace("apn_1", "apn_2"): "xoxb-of-another-user"})
    recording_file = RecordingFile(tmp_path / "calls.jsonl")
    call = recording_file.call_redactor.redact_request("POST", "https://a/", headers, body, mine)
    recording_file.add(
        "send", 0, call, recording_file.call_redactor.redact_response(200, b"OK", headers, body, mine), 1.0
    )

    found = recording_file.find("send", 0, call, safe=False)

    kept = [lines(recording_file.file)[0][side]["body"] for side in ("request", "response")]
    plain = [base64.b64decode(side["base64"]) if "base64" in side else side["text"].encode() for side in kept]
    for text in plain:
        assert TOKEN.encode() not in text.replace(b"\0", b"")
        assert TOKEN.encode().hex().encode() not in text
    assert not isinstance(found, str)
    assert "content-encoding" not in dict(found.headers)
    given = restore_secrets(found, theirs).body.replace(b"\0", b"")
    assert b"xoxb-of-another-user" in given or b"xoxb-of-another-user".hex().encode() in given


def test_a_multipart_field_with_a_secret_name_is_redacted() -> None:
    """The value of a field such as `password` is redacted in a multipart body, as in a form."""
    body = b'--XX\r\nContent-Disposition: form-data; name="password"\r\n\r\nhunter2\r\n--XX--\r\n\xff'
    headers = [(b"Content-Type", b"multipart/form-data; boundary=XX")]

    call = CallRedactor().redact_request("POST", "https://a/", headers, body, redactor())

    assert call.body == body.replace(b"hunter2", b"{{redacted}}")


@pytest.mark.parametrize(
    ("headers", "body", "why"),
    [
        ([], gzip.compress(TOKEN.encode()), "it is an archive that contains a secret"),
        ([(b"content-encoding", b"br")], b"\x0b\x02\x80abc\x03", "pdkernel does not decode its content coding"),
        ([(b"content-encoding", b"gzip")], b"\x1f\x8b\x08 damaged", "its gzip data cannot be read"),
    ],
    ids=["archive", "unknown coding", "damaged"],
)
def test_body_that_cannot_be_searched_is_left_out(
    tmp_path: Path, headers: list[tuple[bytes, bytes]], body: bytes, why: str
) -> None:
    """The file has a marker with the reason in place of the body, and a replay reports the reason."""
    recording_file = RecordingFile(tmp_path / "calls.jsonl")
    call = recording_file.call_redactor.redact_request("POST", "https://a/", headers, body, redactor())
    recording_file.add(
        "send", 0, call, recording_file.call_redactor.redact_response(200, b"OK", headers, body, redactor()), 1.0
    )

    found = recording_file.find("send", 0, call, safe=False)

    line = lines(recording_file.file)[0]
    assert line["request"]["body"] == line["response"]["body"] == {"text": f"{{{{left out: {why}}}}}"}
    assert found == f"the body of the recorded response was left out: {why}."


def test_secret_in_a_reason_or_a_kept_header_of_a_request_is_replaced() -> None:
    """A token is redacted in the response's reason phrase and in the request's content type."""
    redaction = CallRedactor()

    call = redaction.redact_request("GET", "https://a/", [(b"accept", f"text/{TOKEN}".encode())], b"", redactor())
    answer = redaction.redact_response(200, f"OK {TOKEN}".encode(), [], b"", redactor())

    assert TOKEN not in str(call)
    assert TOKEN not in answer.reason


def test_a_call_follows_a_truncated_line(tmp_path: Path) -> None:
    """After a crash in the middle of a line, the next call gets a new line, and the truncated line is reported."""
    recording_file, call, answer = recorded(tmp_path)
    with recording_file.file.open("a") as file:
        file.write('{"key": "cut sh')

    recording_file.add("send", 1, call, answer, 1.0)

    with pytest.raises(RecordingError, match="line 2, is not a recorded call"):
        RecordingFile(recording_file.file).check(replay=True)
    assert json.loads(recording_file.file.read_text().splitlines()[2])["nth"] == 1


def recorded(folder: Path, body: bytes = b"hi") -> tuple[RecordingFile, RecordedCall, RecordedResponse]:
    """A file with one call of step `send`, the call, and the response."""
    recording_file = RecordingFile(folder / "calls.jsonl")
    call = recording_file.call_redactor.redact_request("GET", "https://a/", [], b"", redactor())
    answer = recording_file.call_redactor.redact_response(200, b"OK", [], body, redactor())
    recording_file.add("send", 0, call, answer, 1.0)
    return recording_file, call, answer


BIG = b"x" * 70_000
"""A body in its own file."""


def changed(path: str, value: Any) -> Callable[[dict[str, Any]], str]:
    """The line with *value* at *path*; `...` removes the key."""

    def change(line: dict[str, Any]) -> str:
        *above, last = path.split(".")
        place = line
        for key in above:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
        return json.dumps(line)

    return change


BENT: dict[str, Callable[[dict[str, Any]], str | bytes]] = {
    "status a text": changed("response.status", "200"),
    "status a fraction": changed("response.status", 200.5),
    "status a truth": changed("response.status", True),
    "status of no answer": changed("response.status", 99_999),
    "status that goes on": changed("response.status", 101),
    "status huge": lambda line: json.dumps(line).replace("200", "9" * 100_000),
    "reason with a line end": changed("response.reason", "OK\r\nx: y"),
    "reason null": changed("response.reason", None),
    "headers an object": changed("response.headers", {"a": "b"}),
    "header of three": changed("response.headers", [["a", "b", "c"]]),
    "header a number": changed("response.headers", [["a", 1]]),
    "header with a line end": changed("response.headers", [["a", "b\r\nx: y"]]),
    "header name with a blank": changed("response.headers", [["a b", "c"]]),
    "header name beyond Latin": changed("response.headers", [["\u20ac", "c"]]),
    "body a list": changed("response.body", ["x"]),
    "body null": changed("response.body", None),
    "body empty": changed("response.body", {}),
    "body of two kinds": changed("response.body", {"text": "a", "base64": "YQ=="}),
    "body a number": changed("response.body", {"text": 5}),
    "base64 wrong": changed("response.body", {"base64": "%%%"}),
    "base64 cut": changed("response.body", {"base64": "YQ"}),
    "half a surrogate pair": changed("response.body", {"text": "\ud800"}),
    "file missing": changed("response.body", {"file": "a" * 64}),
    "file elsewhere": changed("response.body", {"file": "/etc/passwd"}),
    "file above": changed("response.body", {"file": "../calls.jsonl"}),
    "no response": changed("response", ...),
    "response a list": changed("response", []),
    "no request": changed("request", ...),
    "method a number": changed("request.method", 5),
    "key a list": changed("key", []),
    "step a list": changed("step", []),
    "count a text": changed("nth", "0"),
    "count below zero": changed("nth", -1),
    "unknown key": changed("version", 99),
    "a key twice": lambda line: json.dumps(line).replace('"status": 200', '"status": 200, "status": 201'),
    "cut short": lambda line: json.dumps(line)[:80],
    "a list": lambda line: json.dumps([line]),
    "a number": lambda _: "5",
    "null": lambda _: "null",
    "deep": lambda _: "[" * 100_000,
    "deep inside": lambda line: json.dumps(line)[:-1] + ', "x": ' + "[" * 100_000,
    "not UTF-8": lambda line: json.dumps(line).encode().replace(b"hi", b"\xff\xfe"),
    "UTF-16": lambda line: json.dumps(line).encode("utf-16"),
    "NUL": lambda _: b"\0" * 100,
}


@pytest.mark.parametrize("bend", BENT.values(), ids=BENT)
def test_an_invalid_line_is_refused(tmp_path: Path, bend: Callable[[dict[str, Any]], str | bytes]) -> None:
    """A line that is not a recorded call is refused by file and line, and answers no call."""
    recording_file, call, _ = recorded(tmp_path)
    bent = bend(lines(recording_file.file)[0])
    recording_file.file.write_bytes(b"\n" + (bent if isinstance(bent, bytes) else bent.encode()) + b"\n")

    for replay in (True, False):
        with pytest.raises(RecordingError, match=r"calls\.jsonl, line 2, is not a recorded call: ") as caught:
            recording_file.check(replay=replay)
        assert len(str(caught.value)) < 600 + len(str(tmp_path))
    assert "cannot be read" in str(recording_file.find("send", 0, call, safe=True))


@pytest.mark.parametrize("content", [b"", b"\n\n"], ids=["empty", "blank"])
def test_an_empty_recording_can_only_be_extended(tmp_path: Path, content: bytes) -> None:
    """A recording without a call is refused for a replay, and accepted for recording."""
    recording_file = RecordingFile(tmp_path / "calls.jsonl")
    recording_file.file.write_bytes(content)

    recording_file.check(replay=False)
    with pytest.raises(RecordingError, match="contains no recorded call"):
        recording_file.check(replay=True)


@pytest.mark.parametrize("kind", ["link", "link of the folder", "fifo"])
def test_a_body_is_read_from_its_own_file_only(tmp_path: Path, kind: str) -> None:
    """A link or a FIFO in the place of a body, or of the folder of bodies, is refused before and during a run."""
    (tmp_path / "outside").mkdir()
    recording_file, call, answer = recorded(tmp_path, BIG)
    (body,) = (tmp_path / "calls.jsonl.bodies").iterdir()
    recording_file.check(replay=True)
    assert recording_file.find("send", 0, call, safe=True) == answer

    if kind == "link of the folder":
        body.rename(tmp_path / "outside" / body.name)
        body.parent.rmdir()
        body.parent.symlink_to("outside")
    else:
        body.unlink()
        (tmp_path / "outside" / "secret").write_text("a secret of this machine")
        body.symlink_to("../outside/secret") if kind == "link" else os.mkfifo(body)

    assert "the file with the body of its response cannot be read" in str(
        recording_file.find("send", 0, call, safe=True)
    )
    with pytest.raises(RecordingError, match=r"line 1, .* the file of its body in calls\.jsonl\.bodies cannot be read"):
        RecordingFile(recording_file.file).check(replay=True)


def test_a_body_replaces_a_link(tmp_path: Path) -> None:
    """Recording a body does not write through a link in its place."""
    _, call, answer = recorded(tmp_path, BIG)
    (body,) = (tmp_path / "calls.jsonl.bodies").iterdir()
    body.unlink()
    (tmp_path / "outside").write_text("as it was")
    body.symlink_to("../outside")

    RecordingFile(tmp_path / "calls.jsonl").add("send", 1, call, answer, 1.0)

    assert (tmp_path / "outside").read_text() == "as it was"
    assert body.read_bytes() == BIG


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0b"])
def test_a_line_ends_at_a_line_feed_only(tmp_path: Path, separator: str) -> None:
    """Other line separators are part of a line."""
    recording_file, call, answer = recorded(tmp_path, f"one{separator}two".encode())

    assert recording_file.find("send", 0, call, safe=True) == answer


def test_the_recorded_requests_of_a_file(tmp_path: Path) -> None:
    """Each step, method and URL is listed once, in the order of the file."""
    recording_file, call, answer = recorded(tmp_path)
    recording_file.add("send", 1, call, answer, 1.0)
    recording_file.add("other", 0, call, answer, 1.0)

    found = read_recorded_requests(recording_file.file)

    assert found == [("send", call.method, call.url), ("other", call.method, call.url)]


@pytest.mark.parametrize("content", [b'{"key": "\xff"}', b"{", b"[" * 100_000, b"null", None])
def test_a_file_without_recorded_requests_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A file that is not UTF-8 or has another line, and a missing one, is an error that names the file."""
    file = tmp_path / "calls.jsonl"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(RecordingError, match=r"calls\.jsonl cannot be read as recorded calls"):
        read_recorded_requests(file)


@pytest.mark.parametrize("mode", ["record", "replay"])
@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_a_recording_that_is_not_a_file(tmp_path: Path, mode: str, kind: str) -> None:
    """A mode with a path that is not a file is refused."""
    path = tmp_path / "calls.jsonl"
    path.mkdir() if kind == "folder" else os.mkfifo(path)

    with pytest.raises(EgressModeError, match="it is not a file"):
        parse_policy(f"{mode}={path}")


def test_a_call_that_cannot_be_recorded_is_reported(python: ClientProcess, ledger: Ledger, tmp_path: Path) -> None:
    """The call is answered, and the missing record is reported to the step."""
    folder = tmp_path / "made"
    folder.mkdir()
    python.bind(ledger.binding(f"record={folder}/calls.jsonl"))
    folder.rmdir()

    got = python.request("requests", "GET", URL)

    assert got.status == 200
    assert "was sent, but its response cannot be recorded" in ledger.refused[0]


@given(st.binary(max_size=70_000).filter(lambda body: not body.startswith((b"\x1f\x8b", b"PK"))))
def test_a_body_is_replayed_unchanged(body: bytes) -> None:
    """A response is replayed unchanged, unless it was redacted or is a damaged archive."""
    with TemporaryDirectory() as folder:
        recording_file = RecordingFile(Path(folder) / "calls.jsonl")
        call = recording_file.call_redactor.redact_request("GET", "https://a/", [], b"", redactor())
        answer = recording_file.call_redactor.redact_response(200, b"OK", [], body, redactor())
        recording_file.add("send", 0, call, answer, 1.0)

        assert recording_file.find("send", 0, call, safe=True) == answer
        assert answer.body == body


BODY = b'{"token": "made-up"}' * 50
RAW_DEFLATE = zlib.compressobj(wbits=-zlib.MAX_WBITS)
RAW = RAW_DEFLATE.compress(BODY) + RAW_DEFLATE.flush()


def starred(text: str) -> str:
    """*text* without the secret of these tests."""
    return text.replace("pässword", "***")


def zipped(content: bytes, name: str = "a.txt") -> bytes:
    """A ZIP file with one member."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize(
    ("coding", "coded"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY)),
        ("X-GZIP", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:500]) + gzip.compress(BODY[500:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", RAW),
        ("deflate, gzip", gzip.compress(zlib.compress(BODY))),
    ],
    ids=["none", "identity", "gzip", "upper case", "two members", "zlib", "raw", "two codings"],
)
def test_content_coding_is_removed(coding: str, coded: bytes) -> None:
    """Gzip and both kinds of deflate are decoded, also in combination."""
    assert decode_content_coding(coded, coding) == BODY


@pytest.mark.parametrize(
    ("coding", "coded"),
    [
        ("br", BODY),
        ("gzip", BODY),
        ("gzip", gzip.compress(BODY)[:-9]),
        ("deflate", BODY),
        ("deflate", zlib.compress(BODY)[:-9]),
    ],
    ids=["unknown", "not gzip", "half of it", "not deflate", "half of that"],
)
def test_body_that_cannot_be_decoded_is_refused(coding: str, coded: bytes) -> None:
    """A body with an unknown coding or damaged data is refused."""
    with pytest.raises(NotSearchableError):
        decode_content_coding(coded, coding)


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("", zipped)])
def test_body_that_is_too_large_is_refused(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A body of more than 32 MB, and an archive with a member of more than that, is refused."""
    body = compress(bytes(40 << 20))
    with pytest.raises(NotSearchableError):
        decode_content_coding(body, coding) if coding else check_archives(body, "", starred)


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("ö pässword".encode(), "", "ö ***".encode()),
        (b"\xff\x00" + "pässword".encode() + b"\xfe\xc3", "image/png", b"\xff\x00***\xfe\xc3"),
        ("ö pässword".encode("latin-1"), "text/plain; charset=ISO-8859-1", "ö ***".encode("latin-1")),
        ("ö pässword".encode("utf-16-be"), 'text/csv; charset="utf-16be"', "ö ***".encode("utf-16-be")),
        ("ö pässword".encode("utf-16"), "text/csv", "ö ***".encode("utf-16")),
        ("ö pässword".encode(), "text/csv; charset=utf-16", "ö ***".encode()),
        ("ö passwort".encode("utf-16"), "text/csv", "ö passwort".encode("utf-16")),
    ],
    ids=["utf-8", "binary", "latin-1", "utf-16", "byte order mark", "wrong charset", "nothing to do"],
)
def test_text_is_rewritten_in_its_own_character_set(body: bytes, content_type: str, expected: bytes) -> None:
    """A text is changed in its own character set; the bytes around the change stay."""
    assert rewrite_text(body, content_type, starred) == expected


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (zipped("a pässword".encode()), "application/zip"),
        (gzip.compress("a pässword".encode()), ""),
        (zipped(gzip.compress(zipped("a pässword".encode()))), ""),
        (zipped(b"", name="pässword"), ""),
        (b"--x\r\na: b\r\n\r\n" + zipped("a pässword".encode()) + b"\r\n--x--", "multipart/form-data; boundary=x"),
        (zipped(b"a")[:-9], ""),
        (gzip.compress(b"a")[:-9], ""),
    ],
    ids=["zip", "gzip", "three deep", "name of a member", "part", "damaged zip", "damaged gzip"],
)
def test_archive_with_a_secret_or_unreadable_is_refused(body: bytes, content_type: str) -> None:
    """An archive with a secret at any depth, or one that cannot be opened, is refused."""
    with pytest.raises(NotSearchableError):
        check_archives(body, content_type, starred)


def test_members_of_one_archive_share_the_limit() -> None:
    """Two members that are small enough by themselves, and too large together, are refused."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.bin", bytes(17 << 20))
        archive.writestr("b.bin", bytes(17 << 20))

    check_archives(zipped(bytes(17 << 20)), "", starred)
    with pytest.raises(NotSearchableError, match="too large when it is unpacked"):
        check_archives(made.getvalue(), "", starred)


def test_archives_of_one_body_share_the_limit() -> None:
    """Two archives that are small enough by themselves, and too large together, are refused."""
    part = b"--x\r\n\r\n" + gzip.compress(bytes(17 << 20), 1) + b"\r\n"

    check_archives(part + b"--x--", "multipart/form-data; boundary=x", starred)
    with pytest.raises(NotSearchableError, match="too large when it is unpacked"):
        check_archives(part + part + b"--x--", "multipart/form-data; boundary=x", starred)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (zipped(zipped(b"a password")), ""),
        (gzip.compress(b"a password"), ""),
        (b"--x\r\na: b\r\n\r\n" + zipped(b"a") + b"\r\n--x--", "multipart/form-data; boundary=x"),
        (b"--x\r\na: b\r\n\r\n" + gzip.compress(b"a") + b"\r\n--x--", "multipart/form-data; boundary=x"),
        (b"pk", "application/zip"),
    ],
    ids=["zip in zip", "gzip", "zip part", "gzip part", "no archive"],
)
def test_archive_without_secrets_passes(body: bytes, content_type: str) -> None:
    """Every text of an archive is searched, and an archive without secrets passes."""
    searched: list[str] = []

    def search(text: str) -> str:
        searched.append(text)
        return starred(text)

    check_archives(body, content_type, search)

    assert any("a" in text for text in searched) == (body != b"pk")


def test_deeply_nested_archives_are_refused() -> None:
    """A body of very many nested archives is not opened completely."""
    part = b"--x\r\n\r\n" + gzip.compress(b"") + b"\r\n"

    with pytest.raises(NotSearchableError, match="too many"):
        check_archives(part * 2000, "multipart/mixed; boundary=x", starred)


# ── placeholders ────────────────────────────────────────────────────────────────────────────────────────


MINE = redactor({"slack/apn_1/bot_token": "token-of-mine-1", "env/API_KEY": "key-of-mine-123"})
THEIRS = redactor({"slack/apn_2/bot_token": "token-of-theirs", "env/API_KEY": "key-of-theirs-4"})


def test_a_placeholder_names_app_and_field() -> None:
    """A placeholder shows the app and field of the credential, and no account."""
    hidden = insert_placeholders("Bearer token-of-mine-1, key-of-mine-123", MINE)

    assert hidden == "Bearer {{secret:slack.bot_token}}, {{secret:env.API_KEY}}"


def test_a_replay_inserts_the_current_secret() -> None:
    """A recording with one account replays with the token of another account."""
    assert (
        restore_placeholders(insert_placeholders("token-of-mine-1 key-of-mine-123", MINE), THEIRS)
        == "token-of-theirs key-of-theirs-4"
    )


def test_of_two_accounts_the_first_is_inserted() -> None:
    """A placeholder of a recording names an app; of two accounts of the app, the run's first one fills it."""
    accounts = redactor({"slack/apn_1/token": "token-of-the-first", "slack/apn_2/token": "token-of-the-other"})

    assert restore_placeholders("{{secret:slack.token}}", accounts) == "token-of-the-first"


def test_an_encoded_secret_is_restored_encoded() -> None:
    """A token in base64 is redacted, and restored in base64."""
    import base64

    text = base64.b64encode(b"user:token-of-mine-1").decode()

    assert "token" not in base64.b64decode(insert_placeholders(text, MINE)[:8] + "====").decode("latin-1")
    assert restore_placeholders(insert_placeholders(text, MINE), MINE) == text


@pytest.mark.parametrize(("length_only", "more"), [(False, ()), (True, (("content-length", "5"),))])
def test_the_head_of_a_response_has_no_secret(length_only: bool, more: tuple[tuple[str, str], ...]) -> None:
    """Reason and headers have no secret, and headers of one answer or of its connection are left out."""
    headers = [
        (b"Date", b"today"),
        (b"Server", b"nginx"),
        (b"Set-Cookie", b"session=1"),
        (b"Connection", b"close"),
        (b"Keep-Alive", b"timeout=5"),
        (b"X-Token", TOKEN.encode()),
        (b"Content-Length", b"5"),
    ]

    kept = CallRedactor().redact_response(200, TOKEN.encode(), headers, b"", redactor(), length_only=length_only)

    assert kept.reason == "{{secret:slack.bot_token}}"
    assert kept.headers == (("x-token", "{{secret:slack.bot_token}}"), *more)


def test_the_coding_of_a_body_is_kept_without_the_body() -> None:
    """A recorded body is stored decoded, without its coding; the answer to HEAD names the coding, as the host did."""
    headers = [(b"Content-Encoding", b"gzip")]

    answer, head = (
        CallRedactor().redact_response(200, b"OK", headers, body, redactor()) for body in (gzip.compress(b"text"), b"")
    )

    assert (answer.body, answer.headers) == (b"text", ())
    assert (head.body, head.headers) == (b"", (("content-encoding", "gzip"),))


def test_an_unknown_secret_stays_a_placeholder() -> None:
    """Without the account the placeholder is not replaced."""
    assert restore_placeholders("{{secret:github.token}}", MINE) == "{{secret:github.token}}"


PIECES = [*"{}|:.[]⟦⟧ab", "secret", "{{secret:", "slack.bot_token", "token-of-mine-1"]


def test_a_large_body_is_stored_by_its_length_and_hash() -> None:
    """A body that is too long to be searched for secrets is left out of a recording; two of them have two keys."""
    bodies = [LargeBody(40_000_000, digest * 64) for digest in "ab"]

    calls = [CallRedactor().redact_request("POST", "https://a/", [], body, redactor()) for body in bodies]
    response = CallRedactor().redact_response(200, b"OK", [], bodies[0], redactor())

    assert calls[0].key != calls[1].key
    assert calls[0].body == response.body
    assert b"it has 40,000,000 bytes (SHA-256 aaaa" in response.body
    assert b"up to 32 MB" in response.body


def test_a_body_that_is_not_the_json_of_its_type_has_a_key() -> None:
    """A body that is announced as JSON and is not is compared as text."""
    headers = [(b"content-type", b"application/json")]
    keys = {
        CallRedactor().redact_request("POST", "https://a/", headers, body, redactor()).key
        for body in (b"{not json", b"{not  json", b"[" * 100_000)
    }

    assert len(keys) == 3


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_text_like_a_placeholder_is_unchanged(text: str) -> None:
    """Recorded text that looks like a placeholder is replayed unchanged."""
    assert restore_placeholders(insert_placeholders(text, MINE), MINE) == text


def test_a_known_secret_under_a_secret_name_is_restored(tmp_path: Path) -> None:
    """A known token in `access_token` of a response is replayed as the current user's token; an unknown token stays redacted."""
    recording_file = RecordingFile(tmp_path / "calls.jsonl")
    call = recording_file.call_redactor.redact_request("GET", "https://a/", [], b"", MINE)
    body = b'{"access_token": "token-of-mine-1", "refresh_token": "made-up-token"}'
    recording_file.add(
        "send",
        0,
        call,
        recording_file.call_redactor.redact_response(200, b"OK", [(b"x-token", b"token-of-mine-1")], body, MINE),
        1.0,
    )

    found = recording_file.find("send", 0, call, safe=True)
    assert not isinstance(found, str)
    replayed = restore_secrets(found, THEIRS)

    assert replayed.body == b'{"access_token": "token-of-theirs", "refresh_token": "{{redacted}}"}'
    assert replayed.headers == (("x-token", "token-of-theirs"),)
    assert "token-of-mine" not in recording_file.file.read_text()


def test_another_body_is_refused_with_the_recorded_key(tmp_path: Path) -> None:
    """A call with a recorded URL and another body is refused with the recorded key."""
    recording_file = RecordingFile(tmp_path / "calls.jsonl")
    recorded = recording_file.call_redactor.redact_request("POST", "https://a/b", [], b"one", redactor())
    recording_file.add(
        "send", 0, recorded, recording_file.call_redactor.redact_response(200, b"OK", [], b"", redactor()), 1.0
    )

    why = recording_file.find(
        "send", 0, CallRedactor().redact_request("POST", "https://a/b", [], b"two", redactor()), safe=False
    )

    assert f"POST https://a/b is recorded with another body (key {recorded.key[:12]})" in str(why)
    assert TOKEN not in str(why)
