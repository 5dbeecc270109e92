"""
Files of recorded calls: JSON lines, one call a line, without credentials; and recordings in memory.

    {"key", "step", "nth", "ms", "request": {"method", "url", "headers", "body"}, "response": {"status", "reason", "headers", "body"}}

A body is `{"text"}`, `{"base64"}`, or, above 64 KB, `{"file"}` with a name in the folder `FILE.bodies`. Content codings are
removed. In place of a body that cannot be searched for secrets, the text is `{{left out: REASON}}`. A run may append to the
file while another reads it; a line replaces an older line with the same step, key and count. The file may come from another
person: it is validated before a run uses it, and no symbolic link in its folder is followed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import h11
import msgspec

from pdkernel.common.safe_files import open_inside, read_file, write_inside
from pdkernel.egress.recorded_call import LEFT_OUT_START, CallRedactor, RecordedCall, RecordedResponse
from pdkernel.errors import RequestError

MAX_MEMORY_RECORDING_BYTES = 4 << 20
"""Bytes of bodies that one recording in memory may hold: a notebook keeps several recordings."""
_MAX_INLINE_BODY_BYTES = 64 * 1024
_MAX_SUGGESTIONS = 3


class RecordingError(RequestError):
    """
    A recording cannot be used.

    Attributes:
        line: 1-based line of the error, or None.
    """

    code = "recording"

    def __init__(self, message: str, *, fix: str = "", line: int | None = None) -> None:
        super().__init__(message, fix=fix)
        self.line = line


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body in a line; exactly one of the three fields is set."""

    text: str | None = None
    base64: bytes | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.text, self.base64, self.file)) != 1:
            raise ValueError("Expected one of `text`, `base64` and `file`")


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: _Body | None = None


class _Response(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status: int
    reason: Annotated[str, msgspec.Meta(pattern=r"\A[\t -~\x80-\xff]*\Z")]
    headers: tuple[tuple[str, str], ...]
    body: _Body

    def __post_init__(self) -> None:
        try:
            h11.Response(
                status_code=self.status,
                headers=[(name.encode("latin-1"), value.encode()) for name, value in self.headers],
            )
        except (h11.LocalProtocolError, UnicodeEncodeError):
            raise ValueError("Expected a status and headers that HTTP allows") from None


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the file."""

    key: str
    step: str
    nth: Annotated[int, msgspec.Meta(ge=0)]
    request: _Request
    response: _Response
    ms: float = 0


_decode_line = msgspec.json.Decoder(_Line).decode


def read_recorded_requests(file: Path) -> list[tuple[str, str, str]]:
    """
    The step, method and URL of each call in *file*, without repetitions.

    Raises:
        RecordingError: The file cannot be read, or a line is not a recorded call.
    """
    try:
        calls = [_decode_line(line) for line in read_file(file).split(b"\n") if line.strip()]
    except (OSError, ValueError, RecursionError) as fault:  # errors of msgspec are ValueErrors
        raise RecordingError(f"{file} cannot be read as recorded calls: {fault}.") from None
    return list(dict.fromkeys((call.step, call.request.method, call.request.url) for call in calls))


class RecordingFile:
    """
    One file of recorded calls.

    Attributes:
        file: Path of the file.
        call_redactor: Redacts the calls; shared by all calls of the file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.call_redactor = CallRedactor()
        self._loaded_stamp: tuple[int, int] | None = None
        self._answers: dict[str, dict[str, dict[int, _Response]]] = {}
        self._urls: dict[str, str] = {}

    def add(self, step: str, ordinal: int, call: RecordedCall, response: RecordedResponse, duration_ms: float) -> None:
        """Append one call to the file. Raises `OSError`."""
        line = {
            "key": call.key,
            "step": step,
            "nth": ordinal,
            "ms": round(duration_ms, 1),
            "request": {
                "method": call.method,
                "url": call.url,
                "headers": [list(pair) for pair in call.headers],
                "body": self._encode_body(call.body),
            },
            "response": {
                "status": response.status,
                "reason": response.reason,
                "headers": [list(pair) for pair in response.headers],
                "body": self._encode_body(response.body),
            },
        }
        with self.file.open("ab+", buffering=0) as opened:  # one write: another run may read the file at the same time
            end = opened.seek(0, os.SEEK_END)
            is_cut = end > 0 and os.pread(opened.fileno(), 1, end - 1) != b"\n"
            opened.write((("\n" if is_cut else "") + json.dumps(line, ensure_ascii=False) + "\n").encode())

    def check(self, *, replay: bool) -> None:
        """
        Read the whole file.

        Args:
            replay: Whether calls are answered from the file, which must then contain a call. A missing file counts as empty;
                the caller checks that the file exists.

        Raises:
            RecordingError: The file cannot be read or a line is invalid; the message names file and line.
        """
        self._load()
        if replay and self._loaded_stamp is not None and not self._answers:
            raise RecordingError(f"{self.file} contains no recorded call.", fix=f"Record the calls: record={self.file}")

    def find(self, step: str, ordinal: int, call: RecordedCall, *, safe: bool) -> RecordedResponse | str:
        """
        Find the recorded response to *call*; if there is none, return the reason as a sentence.

        If nothing is recorded for *step*, which may have been renamed, the responses recorded for all steps are used. A safe
        call after the last recorded one gets the last response again; an unsafe call gets none.

        Args:
            step: The step that makes the call.
            ordinal: The number of earlier equal calls of the step.
            call: The redacted call.
            safe: Whether the call's method is safe to repeat.
        """
        try:
            self._load()
        except RecordingError as fault:  # the file has changed since the run began
            return f"the recording cannot be read. {fault.message}"
        by_step = self._answers.get(call.key)
        if by_step is None:
            return f"no such call is recorded (key {call.key[:12]}).{self._nearest(call)}"
        of_all_steps = (line for lines in by_step.values() for _, line in sorted(lines.items()))
        recorded = by_step.get(step) or dict(enumerate(of_all_steps))
        if ordinal not in recorded and not safe:
            return f"it is recorded {_times(len(recorded))}, and the step made it {_times(ordinal + 1)}."
        response = recorded[ordinal if ordinal in recorded else max(recorded)]
        try:
            body = self._decode_body(response.body)
        except OSError as fault:
            return f"the file with the body of its response cannot be read: {fault.strerror}."
        if body.startswith(LEFT_OUT_START.encode()):
            why = body.decode("utf-8", "replace")[len(LEFT_OUT_START) :].removesuffix("}}")
            return f"the body of the recorded response was left out: {why}."
        return RecordedResponse(status=response.status, reason=response.reason, headers=response.headers, body=body)

    def _nearest(self, call: RecordedCall) -> str:
        """A sentence with the recorded calls that are similar to *call*, and their keys; empty without a similar call."""
        request_line = f"{call.method} {call.url}"
        same = [key for key, known in self._urls.items() if known == request_line]
        if same:
            keys = ", ".join(key[:12] for key in same[:_MAX_SUGGESTIONS])
            return f" {request_line} is recorded with another body (key {keys})."
        words = get_close_matches(request_line, set(self._urls.values()), n=_MAX_SUGGESTIONS, cutoff=0.5)
        near = [
            f"{word} (key {next(key for key, known in self._urls.items() if known == word)[:12]})" for word in words
        ]
        return f" Similar recorded calls: {'; '.join(near)}." if near else ""

    def _load(self) -> None:
        """Read the file if it has changed since the last read. Raises `RecordingError`."""
        try:
            stat = self.file.stat()
            if self._loaded_stamp == (stat.st_mtime_ns, stat.st_size):
                return
            content = read_file(self.file)
        except FileNotFoundError:
            self._answers, self._urls, self._loaded_stamp = {}, {}, None
            return
        except OSError as fault:
            raise RecordingError(f"{self.file} cannot be read: {fault.strerror}.") from None
        answers: dict[str, dict[str, dict[int, _Response]]] = {}
        urls: dict[str, str] = {}
        for number, text in enumerate(content.split(b"\n"), 1):
            if text.strip():
                line = self._line(number, text)
                answers.setdefault(line.key, {}).setdefault(line.step, {})[line.nth] = line.response
                urls[line.key] = f"{line.request.method} {line.request.url}"
        self._answers, self._urls, self._loaded_stamp = answers, urls, (stat.st_mtime_ns, stat.st_size)

    def _line(self, number: int, text: bytes) -> _Line:
        """Parse line *number* of the file. Raises `RecordingError`."""
        try:
            line = _decode_line(text)
            json.loads(text, object_pairs_hook=_no_key_twice)
            if line.response.body.file is not None:
                open_inside(self._bodies, line.response.body.file).close()
        except UnicodeDecodeError:
            why = "it is not UTF-8 text"
        except OSError as fault:
            why = f"the file of its body in {self._bodies.name} cannot be read: {fault.strerror}"
        except (ValueError, RecursionError) as fault:  # errors of msgspec are ValueErrors
            why = str(fault)
        else:
            return line
        raise RecordingError(
            f"{self.file}, line {number}, is not a recorded call: {why}.",
            fix="Remove the line, or record the calls again.",
            line=number,
        )

    def _encode_body(self, body: bytes) -> dict[str, str]:
        if len(body) > _MAX_INLINE_BODY_BYTES:
            name = hashlib.sha256(body).hexdigest()
            self._bodies.mkdir(exist_ok=True)
            write_inside(self._bodies, name, body)
            return {"file": name}
        try:
            return {"text": body.decode()}
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(body).decode()}

    def _decode_body(self, encoded: _Body) -> bytes:
        """The bytes of a body. Raises `OSError`."""
        if encoded.file is not None:
            with open_inside(self._bodies, encoded.file) as stream:
                return stream.read()
        return encoded.base64 if encoded.base64 is not None else (encoded.text or "").encode()

    @property
    def _bodies(self) -> Path:
        return self.file.with_name(self.file.name + ".bodies")


class MemoryRecording:
    """
    Recorded calls in memory; a run of any mode can be recorded, and written to a file afterwards.

    Attributes:
        call_redactor: Redacts the calls; shared by all calls of the recording.
        skipped: Calls that were too big to store, as `METHOD URL`, redacted.
    """

    def __init__(self) -> None:
        self.call_redactor = CallRedactor()
        self.skipped: list[str] = []
        self._calls: list[tuple[str, int, RecordedCall, RecordedResponse, float]] = []
        self._bytes_left = MAX_MEMORY_RECORDING_BYTES

    def has_room_for(self, size: int) -> bool:
        """Whether *size* more bytes fit."""
        return size <= self._bytes_left

    def add(self, step: str, ordinal: int, call: RecordedCall, response: RecordedResponse, duration_ms: float) -> None:
        """Store one call, as `RecordingFile.add`."""
        self._bytes_left -= len(call.body) + len(response.body)
        self._calls.append((step, ordinal, call, response, duration_ms))

    def skip(self, method: str, url: str) -> None:
        """Store in `skipped` that a call was too big."""
        self.skipped.append(f"{method} {url}")

    def append_to(self, file: Path) -> None:
        """Append the calls to *file*."""
        recording_file = RecordingFile(file)
        for call in self._calls:
            recording_file.add(*call)

    def __len__(self) -> int:
        return len(self._calls)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of JSON. Raises `ValueError` for a duplicate key: JSON readers differ in which value they use."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.60} occurs twice")
    return found


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
