"""Formats values of records for text and HTML views: statuses, durations, accounts, outbound calls, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec import UnsetType

from pdkernel.common.encode import encode_json
from pdkernel.errors import CONNECT_PREFIX, format_count
from pdkernel.execution import AccountUse, Decision, Delivery, OutboundCall, Response
from pdkernel.model import JSON
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import Tone, escape_control_characters

TEXT_COLUMNS = 100
"""Preferred maximum number of columns of text views."""
MAX_LINES = 40
MAX_CHARACTERS = 4000
_LARGE_JSON_BYTES = 100_000
"""Of a larger value, only the beginning is encoded as a person reads it: such an encoder is slow, and stops an event loop."""
_pretty = json.JSONEncoder(ensure_ascii=False, indent=2)
_line = json.JSONEncoder(ensure_ascii=False)

StepState = Literal["success", "error", "skipped", "disabled", "pinned", "not_run", "waiting", "running", "cancelled"]


class StatusLabel(NamedTuple):
    """Display of a status: mark, word and tone."""

    mark: str
    word: str
    tone: Tone

    def __str__(self) -> str:
        return f"{self.mark} {self.word}"


STEP_LABELS: dict[StepState, StatusLabel] = {
    "success": StatusLabel("✓", "success", "good"),
    "error": StatusLabel("✗", "error", "bad"),
    "skipped": StatusLabel("↷", "skipped", "quiet"),
    "disabled": StatusLabel("○", "disabled", "quiet"),
    "pinned": StatusLabel("◆", "pinned", "warn"),
    "not_run": StatusLabel("–", "not run", "quiet"),
    "waiting": StatusLabel("·", "waiting", "quiet"),
    "running": StatusLabel("▶", "running", "busy"),
    "cancelled": StatusLabel("■", "cancelled", "warn"),
}
EXECUTION_LABELS: dict[str, StatusLabel] = {
    "queued": StatusLabel("·", "queued", "quiet"),
    "executing": StatusLabel("▶", "executing", "busy"),
    "resumed": StatusLabel("▶", "resumed", "busy"),
    "paused": StatusLabel("‖", "paused", "warn"),
    "success": StatusLabel("✓", "success", "good"),
    "exited": StatusLabel("↵", "exited", "good"),
    "error": StatusLabel("✗", "error", "bad"),
    "cancelled": StatusLabel("■", "cancelled", "warn"),
}


# prefixes of the platform's texts for a missing custom response (platform documentation)
_NO_RESPONSE_PREFIXES = ("No $.respond called", "$.respond() not called", CONNECT_PREFIX)


def format_duration(milliseconds: float) -> str:
    """Format a duration with a suitable unit."""
    if milliseconds < 100:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s"


def format_run_duration(milliseconds: float) -> str:
    """Format the duration of a run, whose start and end are known in milliseconds, and which may pause for days."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 3_600_000:
        return format_duration(milliseconds)
    hours, minutes = divmod(round(milliseconds / 60_000), 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def format_elapsed(milliseconds: float) -> str:
    """Format the time so far of work that goes on, in whole seconds; empty in the first second."""
    if milliseconds < 1000:
        return ""
    return f"{milliseconds // 1000:.0f} s" if milliseconds < 60_000 else format_duration(milliseconds)


def format_timestamp(iso: str) -> str:
    """Return an ISO time as `2026-11-24 10:00:00 UTC`."""
    return f"{iso[:19].replace('T', ' ')} UTC"


def format_hour_minute(iso: str) -> str:
    """Return an ISO time as hour and minute in UTC: `10:32`."""
    return iso[11:16] or iso


def format_account(use: AccountUse) -> str:
    """Format an account of a step: `Slack Ada's workspace, apn_123 (external user's)`."""
    owner = "external user's" if use.owner == "external_user" else "your own"
    prop = "" if use.prop == use.app else f"{use.prop}: "
    name = f"{use.name}, " if isinstance(use.name, str) else ""
    return f"{prop}{format_app_name(use.app)} {name}{use.id} ({owner})"


def format_outcome(call: OutboundCall) -> str:
    """Format the outcome of an outbound call; empty for a call that was sent."""
    match call.outcome:
        case "sent":
            return ""
        case "not_sent":
            stored = f"answer of {format_hour_minute(call.same_as)}" if call.same_as else "earlier answer"
            return f"NOT SENT AGAIN: {stored}"
        case "stand_in":
            return "STAND-IN answered, nothing was sent"
        case "replayed":
            return "NOT SENT: answered from recorded calls"
        case "denied":
            return "DENIED"
        case "failed":
            return "FAILED" if isinstance(call.attempt, UnsetType) else f"UNKNOWN, attempt {call.attempt}"


def select_outcome_tone(call: OutboundCall) -> Tone:
    """Return the tone in which the outcome of *call* is shown."""
    if call.outcome == "stand_in":
        return "busy"  # intended, unlike a call that was not sent
    return "bad" if call.outcome in ("denied", "failed") else "warn"


def format_call_response(call: OutboundCall) -> str:
    """Format the response to an outbound call: `200, 84.2 ms`; of a call that was not sent: `stored 200`."""
    status = "no response" if call.status is None else str(call.status)
    if call.outcome in ("not_sent", "replayed"):
        return f"stored {status}"
    if not isinstance(call.attempt, UnsetType) and not call.duration_ms:  # what sent it has ended
        return status
    return f"{status}, {format_duration(call.duration_ms)}"


def format_delivery(sent: Delivery) -> str:
    """Format a delivery with its status and note: `HTTP request POST URL: status 200`."""
    kinds = {"http": "HTTP request", "email": "e-mail", "emit": "event", "s3": "S3 object", "sse": "server-sent event"}
    joint = " " if sent.kind == "http" else " to "
    what = kinds.get(sent.kind, sent.kind) + (f"{joint}{sent.to}" if sent.to else "")
    result = ". ".join(str(part) for part in (f"status {sent.status}" if sent.status else "", sent.note) if part)
    return f"{what}: {result}" if result else what


def format_response(response: Response | None, *, refused: bool = False) -> str:
    """Format status and origin of the HTTP response; *refused*: the run was refused before its first step."""
    if response is None:
        late = ", sent at once: the caller does not see the refusal"
        return f"200, the default response{late if refused else ''}"
    if refused or (isinstance(response.body, str) and response.body.startswith(_NO_RESPONSE_PREFIXES)):
        return f"{response.status}, because the workflow sent no response"
    return f"{response.status}, sent by the workflow"


def format_json_line(value: JSON) -> str:
    """Return *value* as JSON in one line; of a very large value, only the beginning."""
    if not isinstance(value, dict | list) or len(encode_json(value)) <= _LARGE_JSON_BYTES:
        return json.dumps(value, ensure_ascii=False)
    return _encode_beginning(_line, value, MAX_CHARACTERS)


def format_json(value: JSON, *, max_lines: int = MAX_LINES, max_characters: int = MAX_CHARACTERS) -> str:
    """Format *value* as indented JSON; a truncated value ends with the length of the hidden part."""
    size = len(encode_json(value))
    if size <= _LARGE_JSON_BYTES:
        return truncate_text(_pretty.encode(value), max_lines=max_lines, max_characters=max_characters)
    lines = _encode_beginning(_pretty, value, max_characters).split("\n")[:max_lines]
    return "\n".join([*lines, f"… the rest of {format_count(size, 'byte')} not shown"])


def _encode_beginning(encoder: json.JSONEncoder, value: JSON, max_characters: int) -> str:
    """At most *max_characters* of *value* as JSON. The time does not depend on the size of the value, but on that of its first texts."""
    beginning, length = list[str](), 0
    for piece in encoder.iterencode(value):
        beginning.append(piece[:max_characters])
        length += len(piece)
        if length >= max_characters:
            break
    return "".join(beginning)[:max_characters]


def truncate_text(text: str, *, max_lines: int = MAX_LINES, max_characters: int = MAX_CHARACTERS) -> str:
    """Truncate *text* to *max_lines* and *max_characters*; a truncated text ends with the length of the hidden part."""
    lines = text[:max_characters].split("\n")
    shown = "\n".join(lines[:max_lines])
    if len(shown) == len(text):
        return text
    hidden_lines = text.count("\n", len(shown))
    what = format_count(hidden_lines, "line") if hidden_lines > 1 else format_count(len(text) - len(shown), "character")
    return f"{shown}\n… {what} more not shown" if hidden_lines > 1 else f"{shown}… {what} more not shown"


def elide_middle(text_lines: Sequence[str], *, head: int = 10, tail: int = 30) -> list[str]:
    """Keep the first *head* and last *tail* lines, with the number of hidden lines between them."""
    hidden = len(text_lines) - head - tail
    if hidden <= 1:
        return list(text_lines)
    return [*text_lines[:head], f"… {format_count(hidden, 'line')} not shown …", *text_lines[-tail:]]


def truncate_line(text: str, width: int) -> str:
    """Return *text* on one line of at most *width* columns."""
    line = " ".join(escape_control_characters(text).split())
    return line if len(line) <= width else f"{line[: max(0, width - 1)]}…"


def format_list(names: Sequence[str]) -> str:
    """Return the names in a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def format_decision(decision: Decision) -> str:
    """Format a decision without its note: `Step ask was approved by admin token at 2026-11-24 10:00:00 UTC`."""
    what = "The run" if decision.step is None else f"Step {decision.step}"
    return f"{what} was {decision.verdict} by {decision.by} at {format_timestamp(decision.at)}"
