"""
References to actions such as `slack-send-message@0.0.20`: parsing, the app slug, the suggested step name.

On the platform, the key of a public component starts with the slug of its app.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pdkernel.errors import RequestError
from pdkernel.model import get_app_slug

_KEY = re.compile(r"(?:@[\w.-]+/[A-Za-z0-9_][\w.-]*|[a-z0-9_]+(?:-[\w.]+)+)\Z", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+[\w.+-]*\Z")


ACCOUNTLESS_APPS = frozenset(
    {"ai", "data_stores", "delay", "email", "filter", "formatting", "go", "helper_functions", "http", "node"}
    | {"bash", "pipedream_utils", "python", "rss", "schedule"}
)
"""Apps of the platform without accounts; an app prop for one of them needs no account."""


@dataclass(frozen=True, slots=True)
class ActionReference:
    """The parsed value of a step's `uses`; *version* None is the newest version that is locked, else the newest."""

    key: str
    version: str | None

    @classmethod
    def parse(cls, text: str) -> ActionReference:
        """
        Parse `KEY` or `KEY@VERSION`, with an optional prefix `@WORKSPACE/`.

        Raises:
            RequestError: *text* has another form.
        """
        head, at, version = text.rpartition("@")
        key = head if at and head else text
        if not _KEY.match(key) or (at and head and not _VERSION.match(version)):
            raise RequestError(
                f"{text!r} is not an action's key.",
                fix="Write KEY or KEY@VERSION, for example slack-send-message@0.0.20.",
            )
        return cls(key, version if at and head else None)

    @property
    def is_private(self) -> bool:
        """Whether the action is a private component of a workspace (`@WORKSPACE/KEY`)."""
        return self.key.startswith("@")

    @property
    def app(self) -> str:
        """The slug of the app that the key starts with; empty for a private component, whose key names no app."""
        return get_app_slug(self.key)

    def __str__(self) -> str:
        return f"{self.key}@{self.version}" if self.version else self.key


def suggest_step_name(key: str) -> str:
    """The step name that the platform's builder would choose: `send_message` for `slack-send-message`."""
    words = key.rpartition("/")[2].partition("-")[2]
    name = re.sub(r"\W+", "_", words, flags=re.ASCII).strip("_") or "step"
    return f"step_{name}" if name[0].isdigit() else name


def version_sort_key(version: str) -> tuple[tuple[int, str], ...]:
    """A sort key for versions that compares numbers by value: `0.10.0` comes after `0.9.0`."""
    parts = re.split(r"[.+-]", version)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)
