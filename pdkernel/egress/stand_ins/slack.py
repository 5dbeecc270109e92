"""
Stand-in for Slack's Web API: sending, changing and finding messages, by GET or POST, as in Slack's documentation.

Slack reports errors, unknown methods included, with status 200 and `"ok": false`. A message that is changed or deleted is
assumed to exist, because an earlier run may have sent it.

The fictional workspace has channels, users and posted messages. Ids and time stamps are derived from names and texts, so that saved
outputs of a notebook do not change.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from pdkernel.egress.stand_ins.base import ReceivedRequest, StandIn, StandInAnswer, shorten

_ID = re.compile(r"[CDGUW][A-Z0-9]{7,}\Z")
_STAMP = re.compile(r"\d{10}\.\d{6}\Z")
_EPOCH = 1_700_000_000
_MAX_MESSAGES = 200

SlackObject = dict[str, Any]


class SlackWorkspace:
    """
    Users, conversations and messages.

    Attributes:
        users: User objects by id.
        channels: Conversation objects by id: the initial ones, and each that was used.
        messages: Messages by conversation and time stamp, oldest first.
    """

    def __init__(self) -> None:
        self.users: dict[str, SlackObject] = {}
        self.channels: dict[str, SlackObject] = {}
        self.messages: dict[tuple[str, str], SlackObject] = {}
        self.team_id = derive_id("T", "team")
        self.own_user_id = self._add_user(derive_id("U", "user"), "stand-in")["id"]
        for name in ("general", "random"):
            self._add_channel(derive_id("C", name), name)

    def find_conversation(self, identifier: str) -> SlackObject | None:
        """Return the conversation of *identifier* (an id, `#name`, `name`, or `@name`); None if *identifier* is invalid."""
        identifier = identifier.strip()
        if identifier in self.channels:
            return self.channels[identifier]
        if identifier.startswith("@") or (identifier[:1] in ("U", "W") and _ID.match(identifier)):
            return self._direct(
                identifier if _ID.match(identifier) else derive_id("U", identifier[1:]), identifier.lstrip("@")
            )
        if _ID.match(identifier):
            return (
                self._add_channel(identifier, identifier.lower())
                if identifier[0] != "D"
                else self._direct(self.own_user_id, "", identifier)
            )
        name = identifier.removeprefix("#")
        return self._add_channel(derive_id("C", name), name) if name else None

    def find_user(self, identifier: str) -> SlackObject | None:
        """Return the user with the id *identifier*, created at the first call; None if the id is malformed."""
        known = self.users.get(identifier)
        if known is None and _ID.match(identifier) and identifier[0] in "UW":
            known = self._add_user(identifier, identifier.lower())
        return known

    def post(self, conversation: SlackObject, text: str, more: Mapping[str, Any], username: str | None) -> SlackObject:
        """Store a message; its time stamp is derived from its content."""
        stamp = derive_timestamp(conversation["id"], text, more)
        message = {
            "type": "message",
            "subtype": "bot_message",
            "text": text,
            "ts": stamp,
            "username": username or "pdkernel stand-in",
            "bot_id": derive_id("B", "bot"),
            **more,
        }
        self.messages[conversation["id"], stamp] = message
        while len(self.messages) > _MAX_MESSAGES:
            del self.messages[next(iter(self.messages))]
        return message

    def messages_in(self, conversation: SlackObject) -> list[SlackObject]:
        """Return the messages of *conversation*, oldest first."""
        return [message for (where, _), message in self.messages.items() if where == conversation["id"]]

    def _direct(self, user: str, name: str, identifier: str | None = None) -> SlackObject:
        self.users.get(user) or self._add_user(user, name.lower())
        found = identifier or derive_id("D", user)
        return self.channels.setdefault(
            found,
            {
                "id": found,
                "created": _EPOCH,
                "is_archived": False,
                "is_im": True,
                "is_org_shared": False,
                "user": user,
                "is_user_deleted": False,
                "priority": 0,
            },
        )

    def _add_channel(self, identifier: str, name: str) -> SlackObject:
        private = identifier.startswith("G")
        described = {"value": "", "creator": "", "last_set": 0}
        return self.channels.setdefault(
            identifier,
            {
                "id": identifier,
                "name": name,
                "is_channel": not private,
                "is_group": private,
                "is_im": False,
                "is_mpim": False,
                "is_private": private,
                "created": _EPOCH,
                "is_archived": False,
                "is_general": name == "general",
                "name_normalized": name,
                "is_shared": False,
                "is_member": True,
                "creator": self.own_user_id,
                "topic": dict(described),
                "purpose": dict(described),
                "num_members": 1,
            },
        )

    def _add_user(self, identifier: str, name: str) -> SlackObject:
        profile = {
            "real_name": name,
            "real_name_normalized": name,
            "display_name": name,
            "display_name_normalized": name,
            "email": f"{name}@stand-in.example",
            "team": self.team_id,
        }
        self.users[identifier] = {
            "id": identifier,
            "team_id": self.team_id,
            "name": name,
            "deleted": False,
            "real_name": name,
            "profile": profile,
            "is_bot": False,
            "is_admin": False,
        }
        return self.users[identifier]


def derive_id(letter: str, seed: str) -> str:
    """Return an id in Slack's format that starts with *letter*, derived from *seed*."""
    digest = hashlib.sha256(f"pdkernel {letter} {seed}".encode()).digest()
    return letter + base64.b32encode(digest).decode()[:10]


def derive_timestamp(*of: object) -> str:
    """Return a time stamp of a message, derived from *of*."""
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).digest()
    return f"{_EPOCH + int.from_bytes(digest[:3], 'big')}.{int.from_bytes(digest[3:6], 'big') % 1_000_000:06d}"


def is_timestamp(text: str) -> bool:
    """Return whether *text* has the format of a message's time stamp."""
    return _STAMP.match(text) is not None


_SCOPES = "channels:history,channels:read,chat:write,groups:read,im:read,reactions:write,search:read,users:read"
_PAGE = 100
_TYPES = {"public_channel": "is_channel", "private_channel": "is_group", "im": "is_im", "mpim": "is_mpim"}


class SlackError(Exception):
    """An error of Slack; the message is Slack's error code."""


class SlackStandIn(StandIn):
    """Answers for slack.com."""

    hosts = ("slack.com",)

    def __init__(self) -> None:
        super().__init__()
        self._workspace = SlackWorkspace()
        self._methods: Mapping[str, Callable[[SlackObject], tuple[SlackObject, str | None]]] = {
            "auth.test": self._auth_test,
            "chat.delete": self._delete,
            "chat.postMessage": self._post,
            "chat.scheduleMessage": self._schedule,
            "chat.update": self._update,
            "conversations.history": self._history,
            "conversations.info": self._info,
            "conversations.list": self._list,
            "conversations.members": self._members,
            "conversations.replies": self._replies,
            "reactions.add": self._react,
            "search.messages": self._search,
            "users.conversations": self._list,
            "users.info": self._user,
            "users.list": self._users,
            "users.profile.get": self._profile,
        }

    def _respond(self, request: ReceivedRequest) -> StandInAnswer:
        named = request.path.removeprefix("/api/")
        unknown = f"{request.method} {request.host}{request.path} is not supported by the Slack stand-in"
        if not _is_slack(request.host) or named == request.path or request.method not in ("GET", "POST"):
            return StandInAnswer(404, {"ok": False, "error": "not_found"}, note=unknown)
        method = self._methods.get(named)
        if method is None:
            return StandInAnswer(200, {"ok": False, "error": "unknown_method", "req_method": named}, note=unknown)
        try:
            if request.token is None:
                raise SlackError("not_authed")
            body, note = method(_arguments(request))
        except SlackError as refused:
            return StandInAnswer(200, {"ok": False, "error": str(refused)}, note=f"Slack {named}: {refused}")
        return StandInAnswer(200, {"ok": True, **body}, note=note, headers={"x-oauth-scopes": _SCOPES})

    def _auth_test(self, _: SlackObject) -> tuple[SlackObject, str | None]:
        return {
            "url": "https://stand-in.slack.com/",
            "team": "Stand-in",
            "user": "stand-in",
            "team_id": self._workspace.team_id,
            "user_id": self._workspace.own_user_id,
        }, None

    def _post(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        where, (text, more) = self._conversation(arguments), _content(arguments)
        if arguments.get("thread_ts"):
            more["thread_ts"] = str(arguments["thread_ts"])
        message = self._workspace.post(where, text, more, arguments.get("username"))
        note = f'Slack message to {_format_channel(str(arguments["channel"]))}: "{shorten(_first_visible_text(text, more))}"'
        return {"channel": where["id"], "ts": message["ts"], "message": message}, note

    def _schedule(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        where, (text, more) = self._conversation(arguments), _content(arguments)
        if not str(arguments.get("post_at") or "").isdigit():
            raise SlackError("invalid_time")
        at = int(arguments["post_at"])
        answer = {
            "channel": where["id"],
            "scheduled_message_id": derive_id("Q", derive_timestamp(where["id"], text, more, at)),
            "post_at": at,
            "message": {"type": "delayed_message", "text": text, "bot_id": derive_id("B", "bot"), **more},
        }
        return (
            answer,
            f'Slack message to {_format_channel(str(arguments["channel"]))}, scheduled: "{shorten(_first_visible_text(text, more))}"',
        )

    def _update(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        where, stamp = self._conversation(arguments), _stamp(arguments)
        text, more = _content(arguments)
        known = self._workspace.messages.get((where["id"], stamp), {"type": "message", "ts": stamp})
        edited = {"user": self._workspace.own_user_id, "ts": stamp}
        message = {**known, "text": text, **more, "edited": edited}
        self._workspace.messages[where["id"], stamp] = message
        note = f'Slack message {stamp} in {_format_channel(str(arguments["channel"]))} changed: "{shorten(_first_visible_text(text, more))}"'
        return {"channel": where["id"], "ts": stamp, "text": text, "message": message}, note

    def _delete(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        where, stamp = self._conversation(arguments), _stamp(arguments)
        self._workspace.messages.pop((where["id"], stamp), None)
        answer = {"channel": where["id"], "ts": stamp}
        return answer, f"Slack message {stamp} in {_format_channel(str(arguments['channel']))} deleted"

    def _react(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        self._conversation(arguments)
        name = str(arguments.get("name") or "").strip(":")
        if not name:
            raise SlackError("invalid_name")
        return {}, f"Slack reaction :{name}: to the message {_stamp(arguments, 'timestamp')}"

    def _info(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        return {"channel": self._conversation(arguments, named=False)}, None

    def _list(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        wanted = [_TYPES.get(word.strip()) for word in str(arguments.get("types") or "public_channel").split(",")]
        if None in wanted:
            raise SlackError("invalid_types")
        found = [each for each in self._workspace.channels.values() if any(each.get(flag) for flag in wanted if flag)]
        return _page("channels", found, arguments), None

    def _history(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        latest_first = self._workspace.messages_in(self._conversation(arguments, named=False))[::-1]
        top = [each for each in latest_first if each.get("thread_ts", each["ts"]) == each["ts"]]
        answer = _page("messages", top, arguments)
        return {**answer, "has_more": bool(answer["response_metadata"]["next_cursor"])}, None

    def _replies(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        there = self._workspace.messages_in(self._conversation(arguments, named=False))
        stamp = _stamp(arguments)
        thread = [each for each in there if stamp in (each["ts"], each.get("thread_ts"))]
        if not thread:
            raise SlackError("thread_not_found")
        answer = _page("messages", thread, arguments)
        return {**answer, "has_more": bool(answer["response_metadata"]["next_cursor"])}, None

    def _members(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        where = self._conversation(arguments, named=False)
        return _page(
            "members",
            list(dict.fromkeys([self._workspace.own_user_id, where.get("user", self._workspace.own_user_id)])),
            arguments,
        ), None

    def _users(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        return _page("members", list(self._workspace.users.values()), arguments), None

    def _user(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        user = self._workspace.find_user(str(arguments.get("user") or ""))
        if user is None:
            raise SlackError("user_not_found")
        return {"user": user}, None

    def _profile(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        user = self._workspace.find_user(str(arguments.get("user") or self._workspace.own_user_id))
        if user is None:
            raise SlackError("user_not_found")
        return {"profile": user["profile"]}, None

    def _search(self, arguments: SlackObject) -> tuple[SlackObject, str | None]:
        words = str(arguments.get("query") or "").lower().split()
        if not words:
            raise SlackError("no_query")
        found = [
            self._match(where, message)
            for (where, _), message in self._workspace.messages.items()
            if all(word in message["text"].lower() for word in words)
        ]
        found.sort(key=lambda match: match["ts"], reverse=arguments.get("sort_dir") != "asc")
        count, page = min(_number(arguments, "count", 20), _PAGE), _number(arguments, "page", 1)
        paging = {"count": count, "total": len(found), "page": page, "pages": -(-len(found) // count)}
        matches = found[(page - 1) * count : page * count]
        return {
            "query": arguments["query"],
            "messages": {"total": len(found), "paging": paging, "matches": matches},
        }, None

    def _match(self, where: str, message: SlackObject) -> SlackObject:
        channel = self._workspace.channels[where]
        return {
            "type": "message",
            "team": self._workspace.team_id,
            "channel": {"id": where, "name": channel.get("name", channel.get("user"))},
            "ts": message["ts"],
            "text": message["text"],
            "username": message.get("username", ""),
            "permalink": f"https://stand-in.slack.com/archives/{where}/p{message['ts'].replace('.', '')}",
        }

    def _conversation(self, arguments: SlackObject, *, named: bool = True) -> SlackObject:
        """Return the conversation of a call; *named*: whether the call may use the conversation's name."""
        text = str(arguments.get("channel") or "")
        known = text if named or text in self._workspace.channels or text[:1] in ("C", "D", "G") else ""
        found = self._workspace.find_conversation(known)
        if found is None:
            raise SlackError("channel_not_found")
        return found


def _is_slack(host: str) -> bool:
    name = host.rstrip(".").lower()
    return name == "slack.com" or name.endswith(".slack.com")


def _arguments(request: ReceivedRequest) -> SlackObject:
    """Return the call's arguments: the query, then the body as JSON or a form by its content type; a form's blocks are JSON text."""
    arguments: SlackObject = dict(parse_qsl(request.query, keep_blank_values=True))
    text = request.body.decode("utf-8", "replace") if request.method == "POST" else ""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        try:
            found = json.loads(text or "{}")
        except ValueError:
            return arguments
        return arguments | (found if isinstance(found, dict) else {})
    arguments |= dict(parse_qsl(text, keep_blank_values=True))
    for name in ("blocks", "attachments"):
        try:
            arguments[name] = json.loads(arguments.get(name) or "null")
        except ValueError:
            arguments[name] = None
    return arguments


def _content(arguments: SlackObject) -> tuple[str, SlackObject]:
    """Return the text, blocks and attachments of a message. Raises `SlackError` if the message is empty."""
    text = str(arguments.get("text") or "")
    more = {name: arguments[name] for name in ("blocks", "attachments") if arguments.get(name)}
    if not text and not more:
        raise SlackError("no_text")
    return text, more


def _stamp(arguments: SlackObject, name: str = "ts") -> str:
    stamp = str(arguments.get(name) or "")
    if not is_timestamp(stamp):
        raise SlackError("message_not_found")
    return stamp


def _page(name: str, everything: list[Any], arguments: SlackObject) -> SlackObject:
    """Return a page of *everything*, from the cursor."""
    start = 0
    if arguments.get("cursor"):
        try:
            start = int(base64.b64decode(str(arguments["cursor"])).decode().removeprefix("next:"))
        except ValueError:
            raise SlackError("invalid_cursor") from None
    end = start + _number(arguments, "limit", _PAGE)
    following = base64.b64encode(f"next:{end}".encode()).decode() if end < len(everything) else ""
    return {name: everything[start:end], "response_metadata": {"next_cursor": following}}


def _number(arguments: SlackObject, name: str, default: int) -> int:
    text = str(arguments.get(name) or "")
    return max(int(text), 1) if text.isdigit() else default


def _format_channel(channel: str) -> str:
    channel = channel.strip()
    plain = channel[:1] in "#@" or (channel.isupper() and channel.isalnum() and len(channel) > len("C1234567"))
    return channel if plain else f"#{channel}"


def _first_visible_text(text: str, more: SlackObject) -> str:
    """Return the first text that a reader sees."""
    return text or _first_text(more.get("blocks")) or _first_text(more.get("attachments")) or "(blocks without text)"


def _first_text(value: Any) -> str:
    """Return the first text in blocks or attachments, at any depth."""
    if isinstance(value, dict):
        for name in ("text", "fallback", "pretext"):
            if isinstance(value.get(name), str) and value[name]:
                return str(value[name])
        value = list(value.values())
    if isinstance(value, list):
        return next(filter(None, map(_first_text, value)), "")
    return ""
