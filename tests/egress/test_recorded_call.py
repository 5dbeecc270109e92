"""One recorded call: its body, decoded, rewritten and searched, and its placeholders."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.egress.recorded_call import (
    CallRedactor,
    LargeBody,
    NotSearchableError,
    check_archives,
    decode_content_coding,
    insert_placeholders,
    restore_placeholders,
    restore_secrets,
    rewrite_text,
)
from pdkernel.egress.recording import RecordingFile
from tests.egress.kit import TOKEN, redactor

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


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_body_that_is_too_large_is_refused(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A body of more than 32 MB is refused."""
    with pytest.raises(NotSearchableError):
        decode_content_coding(compress(bytes(40 << 20)), coding)


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


def test_archive_that_is_too_large_is_refused() -> None:
    """An archive with a member of more than 32 MB is refused."""
    with pytest.raises(NotSearchableError):
        check_archives(zipped(bytes(40 << 20)), "", starred)


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
