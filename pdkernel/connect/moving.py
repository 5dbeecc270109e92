"""
Webhooks of sources that are deployed at Pipedream, led to another endpoint.

Knows which of a source's webhooks are replaced: those of Pipedream's own workflow endpoints, and those that are named; others
stay. Looking changes nothing. Who is asked before anything changes is the command's affair.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pdkernel.connect.sdk import PAGE, JsonObject, Sdk, plain
from pdkernel.errors import RequestError
from pdkernel.identity import Environment

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


class Webhooks:
    """
    The webhooks of the sources of a Connect project; calls raise what `Sdk.call` raises.

    Args:
        sdk: The project.
    """

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk

    def plan(
        self, users: Sequence[str], environment: Environment, *, to: str, instead_of: Collection[str]
    ) -> list[Move]:
        """What leading the sources of *users* to the endpoint *to* would change; *instead_of* are URLs to replace."""
        return [
            self._move(source, user, environment, to, instead_of)
            for user in users
            for source in self._sources(user, environment)
        ]

    def apply(self, move: Move) -> None:
        """Make the change."""
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
        self, source: JsonObject, user: str, environment: Environment, to: str, instead_of: Collection[str]
    ) -> Move:
        options = self._sdk.options(environment)
        key = str(source["id"])
        answer = self._sdk.call(
            lambda client: client.deployed_triggers.list_webhooks(key, external_user_id=user, request_options=options)
        )
        before = tuple(map(str, plain(answer).get("webhook_urls") or ()))
        kept = [url for url in before if not _is_replaced(url, instead_of) and url != to]
        after = before if to in before and len(kept) == len(before) - 1 else (*kept, to)
        return Move(key, str(source.get("name") or key), user, environment, before, after)


def check_target(url: str, *, api: str) -> str:
    """
    Return *url* if Pipedream, whose API is at *api*, can call it.

    Raises:
        RequestError: No URL, or one of this machine only.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise RequestError(
            f"{url!r} is not an endpoint's URL.", fix="Take it from the first lines of: pdkernel serve --public-url URL"
        )
    if parts.hostname in _LOOPBACK and urlsplit(api).hostname not in _LOOPBACK:
        raise RequestError(
            f"Pipedream cannot call {url}: it is this machine's own.",
            fix="Serve under an address that others reach: pdkernel serve --public-url URL",
        )
    return url


def _is_replaced(url: str, instead_of: Collection[str]) -> bool:
    host = (urlsplit(url).hostname or "").lower()
    return url in instead_of or host == WORKFLOW_DOMAIN or host.endswith("." + WORKFLOW_DOMAIN)
