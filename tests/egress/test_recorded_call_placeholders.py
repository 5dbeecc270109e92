"""Placeholders of recordings: credentials are replaced by the app's name, and restored with those of the replaying run."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pdkernel.egress.recorded_call import CallRedactor, insert_placeholders, restore_placeholders, restore_secrets
from pdkernel.egress.recording import RecordingFile
from tests.egress.kit import TOKEN, redactor

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


def test_an_encoded_secret_is_restored_encoded() -> None:
    """A token in base64 is redacted, and restored in base64."""
    import base64

    text = base64.b64encode(b"user:token-of-mine-1").decode()

    assert "token" not in base64.b64decode(insert_placeholders(text, MINE)[:8] + "====").decode("latin-1")
    assert restore_placeholders(insert_placeholders(text, MINE), MINE) == text


def test_an_unknown_secret_stays_a_placeholder() -> None:
    """Without the account the placeholder is not replaced."""
    assert restore_placeholders("{{secret:github.token}}", MINE) == "{{secret:github.token}}"


PIECES = [*"{}|:.[]⟦⟧ab", "secret", "{{secret:", "slack.bot_token", "token-of-mine-1"]


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
