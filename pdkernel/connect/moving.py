"""
Webhooks of sources that are deployed at Pipedream, led to another endpoint.

Knows which of a source's webhooks are replaced: those of Pipedream's own workflow endpoints, and those that are named; others
stay, and a source that has none of these is left alone unless it is named itself. Looking changes nothing. What was changed is
kept in the project, to be undone. Who is asked before anything changes is the command's affair.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from pdkernel.connect.sdk import PAGE, JsonObject, Sdk, plain
from pdkernel.errors import RequestError
from pdkernel.identity import Environment
from pdkernel.model import JSON
from pdkernel.project.settings import SettingsTable

SETTING = "moved_triggers"
WORKFLOW_DOMAIN = "m.pipedream.net"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Move:
    """
    What would change of one deployed source.

    Attributes:
        id: Its id, `dc_...`.
        name: For people.
        external_user: Whose it is.
        environment: Where it is deployed.
        before: The webhooks that it has.
        after: Those that it would have.
    """

    id: str
    name: str
    external_user: str
    environment: Environment
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether anything would be another."""
        return self.before != self.after

    @property
    def key(self) -> tuple[str, str]:
        """By which it is the same source's."""
        return self.id, self.environment


class Webhooks:
    """
    The webhooks of the sources of a Connect project; calls raise what `Sdk.call` raises.

    Args:
        sdk: The project.
        settings: Of the local project, where changes are kept.
    """

    def __init__(self, sdk: Sdk, settings: SettingsTable) -> None:
        self._sdk = sdk
        self._settings = settings

    def plan(
        self,
        users: Sequence[str],
        environment: Environment,
        *,
        to: str,
        instead_of: Collection[str],
        only: Collection[str] = (),
    ) -> list[Move]:
        """
        What leading sources to another endpoint would change.

        Args:
            users: Whose sources.
            environment: Where they are deployed.
            to: The endpoint.
            instead_of: URLs to replace, besides Pipedream's own.
            only: Ids of sources, which are led there even if they have nothing to replace; empty for all sources.
        """
        return [
            self._move(source, user, environment, to, instead_of, named=bool(only))
            for user in users
            for source in self._sources(user, environment)
            if not only or source["id"] in only
        ]

    def plan_undo(self) -> list[Move]:
        """What takes the changes back that are kept; a source whose webhooks are others since then is left as it is."""
        moves = []
        for kept in self._changes():
            now = self._urls(kept.id, kept.external_user, kept.environment)
            moves.append(replace(kept, before=now, after=kept.before if now == kept.after else now))
        return moves

    def apply(self, move: Move) -> None:
        """Make the change, and keep it."""
        self._update(move)
        others = [kept for kept in self._changes() if kept.key != move.key]
        first = next((kept for kept in self._changes() if kept.key == move.key), None)
        # of two moves one after the other, undoing goes back to what was there before the first
        chained = first is not None and first.after == move.before
        self._keep([*others, replace(move, before=first.before) if chained and first is not None else move])

    def undo(self, move: Move) -> None:
        """Take a change back, and forget it."""
        self._update(move)
        self._keep([kept for kept in self._changes() if kept.key != move.key])

    def _update(self, move: Move) -> None:
        options = self._sdk.options(move.environment)
        self._sdk.call(
            lambda client: client.deployed_triggers.update_webhooks(
                move.id, external_user_id=move.external_user, webhook_urls=list(move.after), request_options=options
            )
        )

    def _sources(self, user: str, environment: Environment) -> list[JsonObject]:
        options = self._sdk.options(environment)

        def ask(client: Any, cursor: str | None) -> Any:
            after = {"after": cursor} if cursor else {}
            return client.deployed_triggers.list(external_user_id=user, limit=PAGE, request_options=options, **after)

        return [each for each in self._sdk.pages(ask) if each.get("type") in (None, "DeployedComponent")]

    def _move(
        self,
        source: JsonObject,
        user: str,
        environment: Environment,
        to: str,
        instead_of: Collection[str],
        *,
        named: bool,
    ) -> Move:
        key = str(source["id"])
        before = self._urls(key, user, environment)
        kept = [url for url in before if not _is_replaced(url, instead_of) and url != to]
        replaced = len(before) - len(kept) - (to in before)
        after = (*kept, to) if replaced or (named and to not in before) else before
        return Move(key, str(source.get("name") or key), user, environment, before, after)

    def _urls(self, key: str, user: str, environment: Environment) -> tuple[str, ...]:
        options = self._sdk.options(environment)
        answer = self._sdk.call(
            lambda client: client.deployed_triggers.list_webhooks(key, external_user_id=user, request_options=options)
        )
        return tuple(map(str, plain(answer).get("webhook_urls") or ()))

    def _changes(self) -> list[Move]:
        """The changes that are kept, of this Connect project."""
        kept = self._settings.get(SETTING)
        rows = kept.get(self._sdk.login.project_id) if isinstance(kept, dict) else None
        return [
            Move(row["id"], row["name"], row["user"], row["environment"], tuple(row["before"]), tuple(row["after"]))
            for row in cast("list[dict[str, Any]]", rows or [])
        ]

    def _keep(self, moves: Sequence[Move]) -> None:
        kept = self._settings.get(SETTING)
        rows: list[JSON] = [
            {
                "id": each.id,
                "name": each.name,
                "user": each.external_user,
                "environment": each.environment,
                "before": list(each.before),
                "after": list(each.after),
            }
            for each in moves
        ]
        project = self._sdk.login.project_id
        self._settings.set(SETTING, {**(kept if isinstance(kept, dict) else {}), project: rows})


def check_target(url: str, *, api: str) -> str:
    """
    Return *url* if Pipedream, whose API is at *api*, can call it.

    Raises:
        RequestError: No URL, or one of this machine only.
    """
    parts = _parts(url)
    odd = any(not 32 < ord(letter) < 127 or letter in '"<>\\^`{|}' for letter in url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.username or odd:
        raise RequestError(
            f"{url!r} is not an endpoint's URL.", fix="Take it from the first lines of: pdkernel serve --public-url URL"
        )
    if parts.hostname in _LOOPBACK and urlsplit(api).hostname not in _LOOPBACK:
        raise RequestError(
            f"Pipedream cannot call {url}: it is this machine's own.",
            fix="Serve under an address that others reach: pdkernel serve --public-url URL",
        )
    return url


def _parts(url: str) -> SplitResult | None:
    """*url* taken apart, or None if it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_replaced(url: str, instead_of: Collection[str]) -> bool:
    parts = _parts(url)
    host = (parts.hostname or "").lower() if parts else ""
    return url in instead_of or host == WORKFLOW_DOMAIN or host.endswith("." + WORKFLOW_DOMAIN)
