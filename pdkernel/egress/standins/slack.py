"""
Slack's Web API, as far as sending a message needs it.

Knows `chat.postMessage` and `auth.test` as Slack's documentation describes them. Ids and time stamps follow from the
request, so that a notebook's saved outputs stay the same. Slack says "no" with status 200 and `"ok": false`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import deque
from typing import Any
from urllib.parse import parse_qsl

from pdkernel.egress.standins.base import ReceivedRequest, StandInAnswer, kept, short

_ID = re.compile(r"[CDGU][A-Z0-9]{7,}\Z")
_EPOCH = 1_700_000_000


class SlackStandIn:
    """
    Answers for slack.com.

    Attributes:
        received: The latest requests, oldest first.
    """

    hosts = ("slack.com",)

    def __init__(self) -> None:
        self.received: deque[ReceivedRequest] = kept()

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """Answer *request* as Slack would, and remember it."""
        self.received.append(request)
        method = request.path.removeprefix("/api/")
        known = {("POST", "chat.postMessage"), ("GET", "auth.test"), ("POST", "auth.test")}
        if not _is_slack(request.host) or (request.method, method) not in known or method == request.path:
            unknown = f"{request.method} {request.host}{request.path} is not known to the Slack stand-in"
            return StandInAnswer(404, {"ok": False, "error": "unknown_method"}, note=unknown)
        if request.token is None:
            return StandInAnswer(200, {"ok": False, "error": "not_authed"})
        if method == "auth.test":
            return StandInAnswer(200, _auth_test())
        return _post_message(_arguments(request))


def _is_slack(host: str) -> bool:
    name = host.rstrip(".").lower()
    return name == "slack.com" or name.endswith(".slack.com")


def _arguments(request: ReceivedRequest) -> dict[str, Any]:
    """The call's arguments: JSON or a form, whichever it says it is; a form's blocks are JSON text."""
    text = request.body.decode("utf-8", "replace")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        try:
            found = json.loads(text or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
    form: dict[str, Any] = dict(parse_qsl(text, keep_blank_values=True))
    for name in ("blocks", "attachments"):
        try:
            form[name] = json.loads(form.get(name) or "null")
        except ValueError:
            form[name] = None
    return form


def _post_message(arguments: dict[str, Any]) -> StandInAnswer:
    channel = str(arguments.get("channel") or "").strip()
    if not channel:
        return StandInAnswer(200, {"ok": False, "error": "channel_not_found"})
    text = str(arguments.get("text") or "")
    blocks, attachments = arguments.get("blocks") or [], arguments.get("attachments") or []
    if not (text or blocks or attachments):
        return StandInAnswer(200, {"ok": False, "error": "no_text"})
    digest = hashlib.sha256(json.dumps([channel, text, blocks, attachments], sort_keys=True).encode()).digest()
    stamp = f"{_EPOCH + int.from_bytes(digest[:3], 'big')}.{int.from_bytes(digest[3:6], 'big') % 1_000_000:06d}"
    message: dict[str, Any] = {
        "type": "message",
        "subtype": "bot_message",
        "text": text,
        "ts": stamp,
        "username": str(arguments.get("username") or "pdkernel stand-in"),
        "bot_id": _made_id("B", "bot"),
    }
    message |= {"blocks": blocks} if blocks else {}
    message |= {"attachments": attachments} if attachments else {}
    message |= {"thread_ts": arguments["thread_ts"]} if arguments.get("thread_ts") else {}
    channel_id = channel if _ID.match(channel) else _made_id("C", channel.lstrip("#"))
    shown = text or _first_text(blocks) or _first_text(attachments) or "(blocks without text)"
    return StandInAnswer(
        200,
        {"ok": True, "channel": channel_id, "ts": stamp, "message": message},
        note=f'Slack message to {_shown_channel(channel)}: "{short(shown)}"',
    )


def _auth_test() -> dict[str, Any]:
    return {
        "ok": True,
        "url": "https://stand-in.slack.com/",
        "team": "Stand-in",
        "user": "stand-in",
        "team_id": _made_id("T", "team"),
        "user_id": _made_id("U", "user"),
    }


def _made_id(letter: str, seed: str) -> str:
    digest = hashlib.sha256(f"pdkernel {letter} {seed}".encode()).digest()
    return letter + base64.b32encode(digest).decode()[:10]


def _shown_channel(channel: str) -> str:
    return channel if _ID.match(channel) or channel[0] in "#@" else f"#{channel}"


def _first_text(value: Any) -> str:
    """The first text in blocks or attachments, wherever it stands."""
    if isinstance(value, dict):
        for name in ("text", "fallback", "pretext"):
            if isinstance(value.get(name), str) and value[name]:
                return str(value[name])
        value = list(value.values())
    if isinstance(value, list):
        return next(filter(None, map(_first_text, value)), "")
    return ""
