"""
Searches the bytes of a recorded body for secrets: decodes content codings and character sets, opens archives.

The caller passes the function that replaces secrets in a text.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator

Rewrite = Callable[[str], str]

_MAX_UNPACKED_BYTES = 32 << 20
_MAX_ARCHIVES = 1000
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_CHARSET = re.compile(r'charset\s*=\s*"?(utf-?(?:16|32)(?:-?[lb]e)?|iso-8859-\d+|windows-125\d)\b', re.IGNORECASE)
_BOUNDARY = re.compile(r'boundary="?([^";,\s]+)', re.IGNORECASE)
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


class NotSearchableError(Exception):
    """A body cannot be searched, or holds a secret in a place that cannot be rewritten. The message is the reason."""


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart body, or None."""
    found = _BOUNDARY.search(content_type)
    return found[1].encode("latin-1") if found else None


def without_coding(body: bytes, content_encoding: str) -> bytes:
    """
    *body* before the codings of its `Content-Encoding` were applied.

    Raises:
        NotSearchableError: The coding is unknown, or *body* does not have it.
    """
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    for coding in reversed(codings):
        match coding:
            case "gzip" | "x-gzip":
                body = _gunzipped(body)
            case "deflate":
                body = _inflated(body)
            case "" | "identity":
                pass
            case _:
                raise NotSearchableError("pdkernel does not decode its content coding")
    return body


def rewritten(body: bytes, content_type: str, rewrite: Rewrite) -> bytes:
    """*body* with its text rewritten; bytes that are not text stay unchanged."""
    # always UTF-8 as well: many bodies that are not UTF-16 decode as UTF-16 without an error
    for charset in _charsets(body, content_type):
        with contextlib.suppress(ValueError):
            body = _rewritten(body, rewrite, charset, "strict", "backslashreplace")
    return _rewritten(body, rewrite, "utf-8", "surrogateescape", "surrogateescape")


def check_archives(body: bytes, content_type: str, rewrite: Rewrite) -> None:
    """
    Search ZIP and gzip data in *body* or in its multipart parts, nested archives included.

    Raises:
        NotSearchableError: An archive holds a secret, or cannot be read.
    """
    boundary = boundary_of(content_type) if content_type.lower().startswith("multipart/") else None
    parts = [body]
    if boundary is not None:
        parts = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in body.split(b"--" + boundary)]
    left, opened = _MAX_UNPACKED_BYTES, 0
    while parts:
        packed = parts.pop()
        if not packed.startswith((_GZIP, _ZIP)):
            continue
        opened += 1
        if opened > _MAX_ARCHIVES:
            raise NotSearchableError("it holds too many archives")
        for content in [_gunzipped(packed, left)] if packed.startswith(_GZIP) else _unzipped(packed, left):
            left -= len(content)
            if rewritten(content, "", rewrite) != content:
                raise NotSearchableError("it is an archive that holds a secret")
            parts.append(content)


def _charsets(body: bytes, content_type: str) -> Iterator[str]:
    if declared := _CHARSET.search(content_type):
        yield declared[1]
    if body.startswith(_BYTE_ORDER_MARKS):
        yield "utf-16"


def _rewritten(body: bytes, rewrite: Rewrite, charset: str, decode_errors: str, encode_errors: str) -> bytes:
    text = body.decode(charset, decode_errors)
    changed = rewrite(text)
    return body if changed == text else changed.encode(charset, encode_errors)


def _gunzipped(body: bytes, limit: int = _MAX_UNPACKED_BYTES) -> bytes:
    try:
        return _at_most(limit, gzip.GzipFile(fileobj=io.BytesIO(body)).read(limit + 1))
    except (OSError, EOFError, zlib.error):
        raise NotSearchableError("its gzip data cannot be read") from None


def _inflated(body: bytes) -> bytes:
    for window_bits in (
        zlib.MAX_WBITS,
        -zlib.MAX_WBITS,
    ):  # RFC 9110 requires the zlib header; some servers send raw deflate data
        decoder = zlib.decompressobj(window_bits)
        try:
            data = decoder.decompress(body, _MAX_UNPACKED_BYTES + 1)
        except zlib.error:
            continue
        if decoder.eof or len(data) > _MAX_UNPACKED_BYTES:
            return _at_most(_MAX_UNPACKED_BYTES, data)
    raise NotSearchableError("its deflate data cannot be read")


def _unzipped(body: bytes, limit: int) -> Iterator[bytes]:
    """The names of the members, then the content of each."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            yield "\n".join(archive.namelist()).encode("utf-8", "surrogatepass")
            for member in archive.infolist():
                with archive.open(member) as opened:
                    content = _at_most(limit, opened.read(limit + 1))
                limit -= len(content)
                yield content
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error):
        raise NotSearchableError("its ZIP data cannot be read") from None


def _at_most(limit: int, data: bytes) -> bytes:
    if len(data) > limit:
        raise NotSearchableError("it is too large when it is unpacked")
    return data
