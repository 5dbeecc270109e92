"""
Recorded calls without credentials: redaction before a call is stored, and the key that finds its response again.

A credential becomes a placeholder, `{{secret:slack.bot_token}}`. A placeholder of a run names an account; a placeholder of a
recording names app and field only, so that a recording made with one account can be replayed with another. Bodies are searched
for secrets after their content codings and character sets are decoded and their archives are opened. A body above 32 MB is not
searched: its length and its hash are stored.

Files of recorded calls are in `recording`.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import parse_qsl, quote, urlsplit

from pdkernel.common.redaction import Redactor
from pdkernel.common.secret_patterns import REDACTED, SecretPatternRedactor
from pdkernel.egress.message import Headers

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
        """The redacted request. Its key does not depend on the account whose credentials the request carries."""
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
        """The redacted response; *length_only* keeps `content-length` of a response without a body (to HEAD)."""
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
    """*response* with the secrets of the current run in place of the recording's placeholders."""
    body = rewrite_text(
        response.body, _value(response.headers, "content-type"), partial(restore_placeholders, redactor=redactor)
    )
    headers = tuple((name, restore_placeholders(value, redactor)) for name, value in response.headers)
    return replace(response, headers=headers, body=body)


def insert_placeholders(text: str, redactor: Redactor) -> str:
    """*text* with a recording placeholder in place of each secret of *redactor*."""
    # text that looks like a recording placeholder is escaped, so that it is restored unchanged
    hidden = redactor.redact_text(text.replace(_PLACEHOLDER_START, _LITERAL))
    known = set(redactor.secret_refs)

    def named(found: re.Match[str]) -> str:
        return f"{_PLACEHOLDER_START}{_without_account(found[1])}{found[2]}}}}}" if found[1] in known else found[0]

    return _RUN_PLACEHOLDER.sub(named, hidden)


def restore_placeholders(text: str, redactor: Redactor) -> str:
    """*text* from a recording, with the secrets of *redactor*; an unknown placeholder stays."""
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
    *body* before the codings of its `Content-Encoding` were applied.

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
    """*body* with its text rewritten; bytes that are not text stay unchanged."""
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
    """The boundary of a multipart body, or None."""
    found = _BOUNDARY.search(content_type)
    return found[1].encode("latin-1") if found else None


def _without_boundary(content_type: str, body: bytes) -> bytes:
    boundary = _boundary(content_type)
    return body if boundary is None else body.replace(boundary, b"boundary")


def _normalize_placeholders(text: str) -> str:
    """*text* with URL-encoded markers decoded: a step may send a replayed marker back inside a URL."""
    return text.replace(quote(REDACTED), REDACTED)


def _decoded(headers: Headers) -> Sequence[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _value(headers: Sequence[tuple[str, str]], searched_name: str) -> str:
    """All values of the header *searched_name*, joined with commas."""
    return ", ".join(value for name, value in headers if name == searched_name)


def _without_account(ref: str) -> str:
    """`slack/apn_1/bot_token` as `slack.bot_token`, `env/NAME` as `env.NAME`."""
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
    """The names of the members, then the content of each."""
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
