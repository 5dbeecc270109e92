"""The bytes of recorded bodies: decoded, rewritten, and searched."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib

import pytest

from pdkernel.egress.recorded_call import NotSearchableError, check_archives, decode_content_coding, rewrite_text

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
        ("gzip", gzip.compress(bytes(40 << 20))),
        ("deflate", zlib.compress(bytes(40 << 20))),
    ],
    ids=["unknown", "not gzip", "half of it", "not deflate", "half of that", "much", "much deflate"],
)
def test_body_that_cannot_be_decoded_is_refused(coding: str, coded: bytes) -> None:
    """A body with an unknown coding, damaged data or more than 32 MB is refused."""
    with pytest.raises(NotSearchableError):
        decode_content_coding(coded, coding)


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
        (zipped(bytes(40 << 20)), ""),
    ],
    ids=["zip", "gzip", "three deep", "name of a member", "part", "damaged zip", "damaged gzip", "too large"],
)
def test_archive_with_a_secret_or_unreadable_is_refused(body: bytes, content_type: str) -> None:
    """An archive with a secret at any depth, or one that cannot be opened, is refused."""
    with pytest.raises(NotSearchableError):
        check_archives(body, content_type, starred)


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
    """An archive without secrets is kept unchanged."""
    check_archives(body, content_type, starred)


def test_deeply_nested_archives_are_refused() -> None:
    """A body of very many nested archives is not opened completely."""
    part = b"--x\r\n\r\n" + gzip.compress(b"") + b"\r\n"

    with pytest.raises(NotSearchableError, match="too many"):
        check_archives(part * 2000, "multipart/mixed; boundary=x", starred)
