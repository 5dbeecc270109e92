"""
Recorded calls without credentials: redaction before a call is stored, the key that finds its response again, and their files.

A credential becomes a placeholder, `{{secret:slack.bot_token}}`. A placeholder of a run names an account; a placeholder of a
recording names app and field only, so that a recording made with one account can be replayed with another. Bodies are searched
for secrets after their content codings and character sets are decoded and their archives are opened. A body above 32 MB is not
searched: its length and its hash are stored.

A file has JSON lines, one call a line; a recording may also be in memory.

    {"key", "step", "nth", "ms", "request": {"method", "url", "headers", "body"}, "response": {"status", "reason", "headers", "body"}}

A body is `{"text"}`, `{"base64"}`, or, above 64 KB, `{"file"}` with a name in the folder `FILE.bodies`. Content codings are
removed. In place of a body that cannot be searched for secrets, the text is `{{left out: REASON}}`. A run may append to the
file while another reads it; a line replaces an older line with the same step, key and count. The file may come from another
person: it is validated before a run uses it, and no symbolic link in its folder is followed.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlsplit

import h11
import msgspec

from pdkernel.common.redaction import Redactor
from pdkernel.common.safe_files import open_inside, read_file, write_inside
from pdkernel.common.secret_patterns import REDACTED, SecretPatternRedactor
from pdkernel.egress.message import Headers
from pdkernel.errors import RequestError

Rewrite = Callable[[str], str]

LEFT_OUT_START = "{{left out: "
"""Start of the text that is stored instead of a body that cannot be searched for secrets."""
_KEPT_REQUEST_HEADERS = frozenset({"content-type", "accept"})
_DROPPED_RESPONSE_HEADERS = frozenset({"date", "server", "set-cookie", "content-length", "connection", "keep-alive"})
_PLACEHOLDER_START = "{{secret:"
_LITERAL = "{{secret:|literal}}"
_RUN_PLACEHOLDER = re.compile(r"⟦secret:([^⟦⟧\[\]|]*)((?:\|[^⟦⟧\[\]|]+)?(?:\[\d+:\])?)⟧")
_RECORDING_PLACEHOLDER = re.compile(r"\{\{secret:([^{}|\[\]]*)((?:\|[^{}|\[\]]+)?(?:\[\d+:\])?)\}\}")
MAX_RECORDED_BODY_BYTES = 32 << 20
"""The longest body that is recorded, packed and unpacked: a search for secrets needs the whole body in memory."""
_MAX_ARCHIVES = 1000
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_CHARSET = re.compile(r'charset\s*=\s*"?(utf-?(?:16|32)(?:-?[lb]e)?|iso-8859-\d+|windows-125\d)\b', re.IGNORECASE)
_BOUNDARY = re.compile(r'boundary="?([^";,\s]+)', re.IGNORECASE)
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


class NotSearchableError(Exception):
    """A body cannot be searched, or contains a secret that cannot be replaced. The message is the reason."""


@dataclass(frozen=True, slots=True)
class LargeBody:
    """A body above `MAX_RECORDED_BODY_BYTES`, of which only the length and the hash are known."""

    byte_count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A request without credentials; *key* finds its response in a recording."""

    key: str
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """A response without credentials and without headers of the connection."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class CallRedactor:
    """
    Redacts calls before they are stored.

    The run's redactor replaces known secrets; other secrets are recognised by the names of their fields. A value that was
    recognised once is also redacted where it occurs under another name.
    """

    def __init__(self) -> None:
        self._pattern_redactor = SecretPatternRedactor()

    def redact_request(
        self, method: str, url: str, headers: Headers, body: bytes | LargeBody, redactor: Redactor
    ) -> RecordedCall:
        """Return the redacted request. Its key does not depend on the account whose credentials the request carries."""
        sent = _decoded(headers)
        url = self._text(url, redactor)
        stored_body = self._bytes(body, sent, redactor)
        kept_headers = tuple(
            (name, self._text(value, redactor)) for name, value in sent if name in _KEPT_REQUEST_HEADERS
        )
        return RecordedCall(
            key=_key(method, url, _value(kept_headers, "content-type"), stored_body),
            method=method,
            url=url,
            headers=kept_headers,
            body=stored_body,
        )

    def redact_response(
        self,
        status: int,
        reason: bytes,
        headers: Headers,
        body: bytes | LargeBody,
        redactor: Redactor,
        *,
        length_only: bool = False,
    ) -> RecordedResponse:
        """Return the redacted response; *length_only* keeps `content-length` of a response without a body (to HEAD)."""
        received = _decoded(headers)
        dropped = _DROPPED_RESPONSE_HEADERS - ({"content-length"} if length_only else set())
        if body:
            dropped |= {"content-encoding"}
        return RecordedResponse(
            status=status,
            reason=self._text(reason.decode("latin-1"), redactor),
            headers=tuple((name, self._text(value, redactor)) for name, value in received if name not in dropped),
            body=self._bytes(body, received, redactor),
        )

    def _text(self, text: str, redactor: Redactor) -> str:
        return self._pattern_redactor.redact(insert_placeholders(text, redactor))

    def _bytes(self, body: bytes | LargeBody, headers: Sequence[tuple[str, str]], redactor: Redactor) -> bytes:
        if not body:
            return b""
        if isinstance(body, LargeBody):
            return (
                f"{LEFT_OUT_START}it has {body.byte_count:,} bytes (SHA-256 {body.sha256}), and a recording keeps bodies "
                f"up to {MAX_RECORDED_BODY_BYTES >> 20} MB}}}}"
            ).encode()
        content_type = _value(headers, "content-type")
        redact = partial(self._text, redactor=redactor)
        try:
            body = decode_content_coding(body, _value(headers, "content-encoding"))
            check_archives(body, content_type, redact)
        except NotSearchableError as reason:
            return f"{LEFT_OUT_START}{reason}}}}}".encode()
        return rewrite_text(body, content_type, redact)


def restore_secrets(response: RecordedResponse, redactor: Redactor) -> RecordedResponse:
    """Return *response* with the secrets of the current run in place of the recording's placeholders."""
    body = rewrite_text(
        response.body, _value(response.headers, "content-type"), partial(restore_placeholders, redactor=redactor)
    )
    headers = tuple((name, restore_placeholders(value, redactor)) for name, value in response.headers)
    return replace(response, headers=headers, body=body)


def insert_placeholders(text: str, redactor: Redactor) -> str:
    """Return *text* with a recording placeholder in place of each secret of *redactor*."""
    # text that looks like a recording placeholder is escaped, so that it is restored unchanged
    hidden = redactor.redact_text(text.replace(_PLACEHOLDER_START, _LITERAL))
    known = set(redactor.secret_refs)

    def named(found: re.Match[str]) -> str:
        return f"{_PLACEHOLDER_START}{_without_account(found[1])}{found[2]}}}}}" if found[1] in known else found[0]

    return _RUN_PLACEHOLDER.sub(named, hidden)


def restore_placeholders(text: str, redactor: Redactor) -> str:
    """Return *text* from a recording, with the secrets of *redactor*; an unknown placeholder stays."""
    if _PLACEHOLDER_START not in text:
        return text
    refs = {_without_account(ref): ref for ref in reversed(redactor.secret_refs)}

    def present(found: re.Match[str]) -> str:
        ref = refs.get(found[1])
        if ref is None:
            return _PLACEHOLDER_START if found[0] == _LITERAL else found[0]
        return str(redactor.restore(f"⟦secret:{ref}{found[2]}⟧"))

    return _RECORDING_PLACEHOLDER.sub(present, text)


def decode_content_coding(body: bytes, content_encoding: str) -> bytes:
    """
    Return *body* before the codings of its `Content-Encoding` were applied.

    Raises:
        NotSearchableError: The coding is unknown, or *body* does not have it.
    """
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    for coding in reversed(codings):
        match coding:
            case "gzip" | "x-gzip":
                body = _decompress_gzip(body)
            case "deflate":
                body = _decompress_deflate(body)
            case "" | "identity":
                pass
            case _:
                raise NotSearchableError("pdkernel does not decode its content coding")
    return body


def rewrite_text(body: bytes, content_type: str, rewrite: Rewrite) -> bytes:
    """Return *body* with its text rewritten; bytes that are not text stay unchanged."""
    # always UTF-8 as well: many bodies that are not UTF-16 decode as UTF-16 without an error
    for charset in _charsets(body, content_type):
        with contextlib.suppress(ValueError):
            body = _rewrite_as(body, rewrite, charset, "strict", "backslashreplace")
    return _rewrite_as(body, rewrite, "utf-8", "surrogateescape", "surrogateescape")


def check_archives(body: bytes, content_type: str, rewrite: Rewrite) -> None:
    """
    Search ZIP and gzip data in *body* or in its multipart parts, nested archives included.

    Raises:
        NotSearchableError: An archive contains a secret, or cannot be read.
    """
    boundary = _boundary(content_type) if content_type.lower().startswith("multipart/") else None
    parts = [body]
    if boundary is not None:
        parts = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in body.split(b"--" + boundary)]
    left, opened = MAX_RECORDED_BODY_BYTES, 0
    while parts:
        packed = parts.pop()
        if not packed.startswith((_GZIP, _ZIP)):
            continue
        opened += 1
        if opened > _MAX_ARCHIVES:
            raise NotSearchableError("it contains too many archives")
        for content in (
            [_decompress_gzip(packed, left)] if packed.startswith(_GZIP) else _iter_zip_contents(packed, left)
        ):
            left -= len(content)
            if rewrite_text(content, "", rewrite) != content:
                raise NotSearchableError("it is an archive that contains a secret")
            parts.append(content)


def _key(method: str, url: str, content_type: str, body: bytes) -> str:
    """Hash of method, host and path, sorted query and normalised body; headers and credentials are not included."""
    parts = urlsplit(_normalize_placeholders(url))
    query = sorted(
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not name.lower().startswith("x-amz-")
    )
    digest = hashlib.sha256(_normalize_body(content_type, body)).hexdigest()
    text = json.dumps([method, parts.scheme, parts.netloc, parts.path, query, digest])
    return hashlib.sha256(text.encode()).hexdigest()


def _normalize_body(content_type: str, body: bytes) -> bytes:
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


def _boundary(content_type: str) -> bytes | None:
    """Return the boundary of a multipart body, or None."""
    found = _BOUNDARY.search(content_type)
    return found[1].encode("latin-1") if found else None


def _without_boundary(content_type: str, body: bytes) -> bytes:
    boundary = _boundary(content_type)
    return body if boundary is None else body.replace(boundary, b"boundary")


def _normalize_placeholders(text: str) -> str:
    """Return *text* with URL-encoded markers decoded: a step may send a replayed marker back inside a URL."""
    return text.replace(quote(REDACTED), REDACTED)


def _decoded(headers: Headers) -> Sequence[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _value(headers: Sequence[tuple[str, str]], searched_name: str) -> str:
    """Return all values of the header *searched_name*, joined with commas."""
    return ", ".join(value for name, value in headers if name == searched_name)


def _without_account(ref: str) -> str:
    """Return `slack/apn_1/bot_token` as `slack.bot_token`, `env/NAME` as `env.NAME`."""
    first, *rest = ref.split("/")
    return ".".join([first, *(rest[1:] if len(rest) > 1 else rest)])


def _charsets(body: bytes, content_type: str) -> Iterator[str]:
    if declared := _CHARSET.search(content_type):
        yield declared[1]
    if body.startswith(_BYTE_ORDER_MARKS):
        yield "utf-16"


def _rewrite_as(body: bytes, rewrite: Rewrite, charset: str, decode_errors: str, encode_errors: str) -> bytes:
    text = body.decode(charset, decode_errors)
    changed = rewrite(text)
    return body if changed == text else changed.encode(charset, encode_errors)


def _decompress_gzip(body: bytes, limit: int = MAX_RECORDED_BODY_BYTES) -> bytes:
    try:
        return _check_size(limit, gzip.GzipFile(fileobj=io.BytesIO(body)).read(limit + 1))
    except (OSError, EOFError, zlib.error):
        raise NotSearchableError("its gzip data cannot be read") from None


def _decompress_deflate(body: bytes) -> bytes:
    # RFC 9110 requires the zlib header; some servers send raw deflate data
    for window_bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        decoder = zlib.decompressobj(window_bits)
        try:
            data = decoder.decompress(body, MAX_RECORDED_BODY_BYTES + 1)
        except zlib.error:
            continue
        if decoder.eof or len(data) > MAX_RECORDED_BODY_BYTES:
            return _check_size(MAX_RECORDED_BODY_BYTES, data)
    raise NotSearchableError("its deflate data cannot be read")


def _iter_zip_contents(body: bytes, limit: int) -> Iterator[bytes]:
    """Yield the names of the members, then the content of each."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            yield "\n".join(archive.namelist()).encode("utf-8", "surrogatepass")
            for member in archive.infolist():
                with archive.open(member) as opened:
                    content = _check_size(limit, opened.read(limit + 1))
                limit -= len(content)
                yield content
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error):
        raise NotSearchableError("its ZIP data cannot be read") from None


def _check_size(limit: int, data: bytes) -> bytes:
    if len(data) > limit:
        raise NotSearchableError("it is too large when it is unpacked")
    return data


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
    Return the step, method and URL of each call in *file*, without repetitions.

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
        """Return a sentence with the recorded calls that are similar to *call*, and their keys; empty without a similar call."""
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
        """Return the bytes of a body. Raises `OSError`."""
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
        """Return whether *size* more bytes fit."""
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
