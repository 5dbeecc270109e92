"""
Recorded calls: a file of JSON lines, one call a line, without credentials.

Knows the line, the key that finds an answer again, and what is hidden before writing. Knows nothing of sockets or modes.

    {"key", "step", "nth", "ms", "request": {"method", "url", "headers", "body"}, "response": {"status", "reason", "headers", "body"}}

A body is `{"text"}`, `{"base64"}`, or `{"file"}` for more than 64 KB: its name in the folder `FILE.bodies`. Content codings are removed. A
body that cannot be searched for secrets is the text `{{left out: REASON}}`. The file can be added to while a run goes on; a line with
the step, key and count of an older one takes its place. The file may be another person's: it is read typed, before a run counts
on it, and no link in its folder is followed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlsplit

import h11
import msgspec

from pdkernel.egress.body_search import NotSearchableError, boundary_of, check_archives, rewritten, without_coding
from pdkernel.egress.caller_tokens import SecretRedactor
from pdkernel.egress.message import Headers
from pdkernel.egress.recording_placeholders import insert_placeholders, restore_placeholders
from pdkernel.errors import RecordingError
from pdkernel.files import open_inside, read_file, write_inside
from pdkernel.redaction.secret_patterns import REDACTED, SecretPatternRedactor

_KEPT_REQUEST_HEADERS = frozenset({"content-type", "accept"})
_DROPPED_RESPONSE_HEADERS = frozenset({"date", "server", "set-cookie", "content-length", "connection", "keep-alive"})
_MAX_INLINE_BODY_BYTES = 64 * 1024
_MAX_SUGGESTIONS = 3
_LEFT_OUT = "{{left out: "


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body as a line has it: one of the three."""

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
    """A recorded call as the file has it."""

    key: str
    step: str
    nth: Annotated[int, msgspec.Meta(ge=0)]
    request: _Request
    response: _Response
    ms: float = 0


_decode_line = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A request without credentials, ready to be looked up or written."""

    key: str
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """An answer as it is kept: no credentials, no headers of one connection."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class CallRedactor:
    """Takes credentials out of calls: known secrets by the redactor, others by their names, with a memory."""

    def __init__(self) -> None:
        self._telling = SecretPatternRedactor()

    def redact_request(
        self, method: str, url: str, headers: Headers, body: bytes, redactor: SecretRedactor
    ) -> RecordedCall:
        """What is kept of a request. Its key is the same with another person's credentials."""
        sent = _decoded(headers)
        url = self._text(url, redactor)
        body = self._bytes(body, sent, redactor)
        kept = tuple((name, self._text(value, redactor)) for name, value in sent if name in _KEPT_REQUEST_HEADERS)
        return RecordedCall(
            key=_key(method, url, _value(kept, "content-type"), body), method=method, url=url, headers=kept, body=body
        )

    def redact_response(
        self,
        status: int,
        reason: bytes,
        headers: Headers,
        body: bytes,
        redactor: SecretRedactor,
        *,
        length_only: bool = False,
    ) -> RecordedResponse:
        """What is kept of an answer; *length_only* for one that tells a length and has no body (to HEAD)."""
        came = _decoded(headers)
        dropped = _DROPPED_RESPONSE_HEADERS - ({"content-length"} if length_only else set())
        if body:
            dropped |= {"content-encoding"}
        return RecordedResponse(
            status=status,
            reason=self._text(reason.decode("latin-1"), redactor),
            headers=tuple((name, self._text(value, redactor)) for name, value in came if name not in dropped),
            body=self._bytes(body, came, redactor),
        )

    def _text(self, text: str, redactor: SecretRedactor) -> str:
        return self._telling.redact(insert_placeholders(text, redactor))

    def _bytes(self, body: bytes, headers: Sequence[tuple[str, str]], redactor: SecretRedactor) -> bytes:
        if not body:
            return body
        content_type = _value(headers, "content-type")
        hide = partial(self._text, redactor=redactor)
        try:
            body = without_coding(body, _value(headers, "content-encoding"))
            check_archives(body, content_type, hide)
        except NotSearchableError as reason:
            return f"{_LEFT_OUT}{reason}}}}}".encode()
        return rewritten(body, content_type, hide)


def restore_secrets(response: RecordedResponse, redactor: SecretRedactor) -> RecordedResponse:
    """*response* as the present run would have got it: its own secrets in the places of those of the recording."""
    body = rewritten(
        response.body, _value(response.headers, "content-type"), partial(restore_placeholders, redactor=redactor)
    )
    headers = tuple((name, restore_placeholders(value, redactor)) for name, value in response.headers)
    return replace(response, headers=headers, body=body)


class RecordingFile:
    """
    One file of recorded calls.

    Attributes:
        file: Its place.
        call_redactor: What its calls go through; one memory for the whole file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.call_redactor = CallRedactor()
        self._loaded_stamp: tuple[int, int] | None = None
        self._answers: dict[str, dict[str, dict[int, _Response]]] = {}
        self._urls: dict[str, str] = {}

    def add(self, step: str, ordinal: int, call: RecordedCall, response: RecordedResponse, duration_ms: float) -> None:
        """Write one call at the end of the file. Raises `OSError`."""
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
        with self.file.open("ab+", buffering=0) as opened:  # in one piece: another run may read the file meanwhile
            end = opened.seek(0, os.SEEK_END)
            is_cut = end > 0 and os.pread(opened.fileno(), 1, end - 1) != b"\n"
            opened.write((("\n" if is_cut else "") + json.dumps(line, ensure_ascii=False) + "\n").encode())

    def check(self, *, replay: bool) -> None:
        """
        Read the whole file.

        Args:
            replay: Whether calls are to be answered from it; a file that is to be added to may be empty. A missing file
                holds no calls in either case: whether there must be one is for the caller to say.

        Raises:
            RecordingError: The file cannot be used; the message names file and line.
        """
        self._load()
        if replay and self._loaded_stamp is not None and not self._answers:
            raise RecordingError(f"{self.file} holds no recorded call.", fix=f"Record the calls: record={self.file}")

    def find(self, step: str, ordinal: int, call: RecordedCall, *, safe: bool) -> RecordedResponse | str:
        """
        The answer to the *ordinal* (first is 0) such call of *step*'s run, or a sentence that says why there is none.

        Answers recorded for that step come first; a step that was renamed gets those of all steps. After the last one
        a safe call gets it again, and an unsafe one nothing.
        """
        try:
            self._load()
        except RecordingError as fault:  # it has changed since the run began
            return f"the recording cannot be read. {fault.message}"
        by_step = self._answers.get(call.key)
        if by_step is None:
            return f"no such call is recorded (key {call.key[:12]}).{self._nearest(call)}"
        of_all_steps = (line for lines in by_step.values() for _, line in sorted(lines.items()))
        recorded = by_step.get(step) or dict(enumerate(of_all_steps))
        if ordinal not in recorded and not safe:
            return f"it is recorded {_times(len(recorded))}, and asked for {_times(ordinal + 1)}."
        response = recorded[ordinal if ordinal in recorded else max(recorded)]
        try:
            body = self._decode_body(response.body)
        except OSError as fault:
            return f"the file of its answer's body cannot be read: {fault.strerror}."
        if body.startswith(_LEFT_OUT.encode()):
            why = body.decode("utf-8", "replace")[len(_LEFT_OUT) :].removesuffix("}}")
            return f"the body of the recorded answer was left out: {why}."
        return RecordedResponse(status=response.status, reason=response.reason, headers=response.headers, body=body)

    def _nearest(self, call: RecordedCall) -> str:
        """A sentence that names what is recorded and near to *call*, with keys; empty if nothing is."""
        asked = f"{call.method} {call.url}"
        same = [key for key, known in self._urls.items() if known == asked]
        if same:
            keys = ", ".join(key[:12] for key in same[:_MAX_SUGGESTIONS])
            return f" {asked} is recorded with another body (key {keys})."
        words = get_close_matches(asked, set(self._urls.values()), n=_MAX_SUGGESTIONS, cutoff=0.5)
        near = [
            f"{word} (key {next(key for key, known in self._urls.items() if known == word)[:12]})" for word in words
        ]
        return f" The nearest recorded: {'; '.join(near)}." if near else ""

    def _load(self) -> None:
        """Read the file if it has changed. Raises `RecordingError`."""
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
        """Line *number* of the file. Raises `RecordingError`."""
        try:
            line = _decode_line(text)
            json.loads(text, object_pairs_hook=_no_key_twice)
            if line.response.body.file is not None:
                open_inside(self._bodies, line.response.body.file).close()
        except UnicodeDecodeError:
            why = "it is not UTF-8 text"
        except OSError as fault:
            why = f"the file of its body in {self._bodies.name} cannot be read: {fault.strerror}"
        except (ValueError, RecursionError) as fault:  # msgspec's own are ValueErrors
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

    def _decode_body(self, kept: _Body) -> bytes:
        """The bytes of a body. Raises `OSError`."""
        if kept.file is not None:
            with open_inside(self._bodies, kept.file) as stream:
                return stream.read()
        return kept.base64 if kept.base64 is not None else (kept.text or "").encode()

    @property
    def _bodies(self) -> Path:
        return self.file.with_name(self.file.name + ".bodies")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises `ValueError` if a key stands in it twice: readers differ in which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.60} stands in it twice")
    return found


def _key(method: str, url: str, content_type: str, body: bytes) -> str:
    """Method, place, sorted query and normalised body; no headers, and nobody's account."""
    parts = urlsplit(_normalize_placeholders(url))
    query = sorted(
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not name.lower().startswith("x-amz-")
    )
    digest = hashlib.sha256(_normal_body(content_type, body)).hexdigest()
    text = json.dumps([method, parts.scheme, parts.netloc, parts.path, query, digest])
    return hashlib.sha256(text.encode()).hexdigest()


def _normal_body(content_type: str, body: bytes) -> bytes:
    kind = content_type.partition(";")[0].strip().lower()
    try:
        text = _normalize_placeholders(body.decode())
    except UnicodeDecodeError:
        return _without_boundary(content_type, body)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.dumps(json.loads(text), sort_keys=True).encode()
        except (ValueError, RecursionError):
            return text.encode()
    if kind == "application/x-www-form-urlencoded":
        return json.dumps(sorted(parse_qsl(text, keep_blank_values=True))).encode()
    return _without_boundary(content_type, text.encode())


def _without_boundary(content_type: str, body: bytes) -> bytes:
    boundary = boundary_of(content_type)
    return body if boundary is None else body.replace(boundary, b"boundary")


def _normalize_placeholders(text: str) -> str:
    """A step that was replayed a hidden value sends it on as it got it, encoded where it stands in a URL."""
    return text.replace(quote(REDACTED), REDACTED)


def _decoded(headers: Headers) -> Sequence[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _value(headers: Sequence[tuple[str, str]], wanted: str) -> str:
    """All values of the header *wanted*, as one."""
    return ", ".join(value for name, value in headers if name == wanted)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
