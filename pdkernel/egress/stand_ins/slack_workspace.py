"""
The fictional workspace of the Slack stand-in: channels, users and posted messages, as in Slack's documentation.

Ids and time stamps are derived from names and texts, so that saved outputs of a notebook do not change.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

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
        """The conversation of *identifier* (an id, `#name`, `name`, or `@name`); None if *identifier* is invalid."""
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
        """The user with the id *identifier*, created at the first call; None if the id is malformed."""
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
        """The messages of *conversation*, oldest first."""
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
    """An id in Slack's format that starts with *letter*, derived from *seed*."""
    digest = hashlib.sha256(f"pdkernel {letter} {seed}".encode()).digest()
    return letter + base64.b32encode(digest).decode()[:10]


def derive_timestamp(*of: object) -> str:
    """A time stamp of a message, derived from *of*."""
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).digest()
    return f"{_EPOCH + int.from_bytes(digest[:3], 'big')}.{int.from_bytes(digest[3:6], 'big') % 1_000_000:06d}"


def is_timestamp(text: str) -> bool:
    """Whether *text* has the format of a message's time stamp."""
    return _STAMP.match(text) is not None
