"""
Moves webhooks of sources deployed at Pipedream to another endpoint, and undoes the move.

A migration replaces webhooks at Pipedream's workflow endpoints and at given URLs; other webhooks stay. A source without such
a webhook changes only if the caller names the source. A plan changes nothing at Pipedream. The project stores applied
migrations, so that they can be undone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from pdkernel.accounts.sdk import PAGE_SIZE, JsonObject, Sdk, to_json_object
from pdkernel.common.identity import PIPEDREAM_ENDPOINT_DOMAIN, Environment
from pdkernel.errors import RequestError
from pdkernel.model import JSON
from pdkernel.storage.login import LOOPBACK_HOSTS
from pdkernel.storage.settings import SettingsTable

MIGRATION_SETTING = "moved_triggers"


@dataclass(frozen=True)
class WebhookMigration:
    """
    A planned change of one deployed source.

    Attributes:
        id: Id of the source, `dc_...`.
        name: Display name.
        external_user_id: The external user of the source.
        environment: The environment of the source.
        urls_before: Current webhooks.
        urls_after: Webhooks after the change.
    """

    id: str
    name: str
    external_user_id: str
    environment: Environment
    urls_before: tuple[str, ...]
    urls_after: tuple[str, ...]

    @property
    def has_changes(self) -> bool:
        """Whether the webhooks differ."""
        return self.urls_before != self.urls_after

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the source."""
        return self.id, self.environment


class WebhookMigrator:
    """
    Migrates webhooks of the sources of a Connect project. Every method raises the errors of `Sdk.call`.

    Args:
        sdk: SDK client of the Connect project.
        settings: Settings of the local project; they store applied migrations.
    """

    def __init__(self, sdk: Sdk, settings: SettingsTable) -> None:
        self._sdk = sdk
        self._settings = settings

    def plan_migrations(
        self,
        users: Sequence[str],
        environment: Environment,
        *,
        target_url: str,
        replaced_urls: Collection[str],
        source_ids: Collection[str] = (),
    ) -> list[WebhookMigration]:
        """
        Plan to move sources to another endpoint.

        Args:
            users: External users whose sources are considered.
            environment: Environment of the sources.
            target_url: URL of the new endpoint.
            replaced_urls: URLs to replace, besides those of Pipedream's workflow endpoints.
            source_ids: Sources to move, even if they do not have a webhook to replace; empty for all sources.
        """
        return [
            self._move(source, user, environment, target_url, replaced_urls, named=bool(source_ids))
            for user in users
            for source in self._sources(user, environment)
            if not source_ids or source["id"] in source_ids
        ]

    def plan_undo(self) -> list[WebhookMigration]:
        """Plan to undo the stored migrations. A source whose webhooks have changed since then does not change."""
        moves = []
        for kept in self._changes():
            now = self._urls(kept.id, kept.external_user_id, kept.environment)
            moves.append(replace(kept, urls_before=now, urls_after=kept.urls_before if now == kept.urls_after else now))
        return moves

    def apply(self, migration: WebhookMigration) -> None:
        """Apply the migration and store it."""
        self._update(migration)
        others = [kept for kept in self._changes() if kept.key != migration.key]
        first = next((kept for kept in self._changes() if kept.key == migration.key), None)
        # an undo of two consecutive moves restores the webhooks from before the first move
        chained = first is not None and first.urls_after == migration.urls_before
        self._store_changes(
            [*others, replace(migration, urls_before=first.urls_before) if chained and first is not None else migration]
        )

    def undo(self, migration: WebhookMigration) -> None:
        """Undo the migration and delete it from the project."""
        self._update(migration)
        self._store_changes([kept for kept in self._changes() if kept.key != migration.key])

    def _update(self, move: WebhookMigration) -> None:
        options = self._sdk.build_request_options(move.environment)
        self._sdk.call(
            lambda client: client.deployed_triggers.update_webhooks(
                move.id,
                external_user_id=move.external_user_id,
                webhook_urls=list(move.urls_after),
                request_options=options,
            )
        )

    def _sources(self, user: str, environment: Environment) -> list[JsonObject]:
        options = self._sdk.build_request_options(environment)

        def request_page(client: Any, cursor: str | None) -> Any:
            after = {"after": cursor} if cursor else {}
            return client.deployed_triggers.list(
                external_user_id=user, limit=PAGE_SIZE, request_options=options, **after
            )

        return [each for each in self._sdk.iter_items(request_page) if each.get("type") in (None, "DeployedComponent")]

    def _move(
        self,
        source: JsonObject,
        user: str,
        environment: Environment,
        to: str,
        instead_of: Collection[str],
        *,
        named: bool,
    ) -> WebhookMigration:
        key = str(source["id"])
        before = self._urls(key, user, environment)
        kept = [url for url in before if not _is_replaced(url, instead_of) and url != to]
        replaced = len(before) - len(kept) - (to in before)
        after = (*kept, to) if replaced or (named and to not in before) else before
        return WebhookMigration(key, str(source.get("name") or key), user, environment, before, after)

    def _urls(self, key: str, user: str, environment: Environment) -> tuple[str, ...]:
        options = self._sdk.build_request_options(environment)
        answer = self._sdk.call(
            lambda client: client.deployed_triggers.list_webhooks(key, external_user_id=user, request_options=options)
        )
        return tuple(map(str, to_json_object(answer).get("webhook_urls") or ()))

    def _changes(self) -> list[WebhookMigration]:
        """Return the stored migrations of this Connect project."""
        kept = self._settings.get(MIGRATION_SETTING)
        rows = kept.get(self._sdk.login.project_id) if isinstance(kept, dict) else None
        return [
            WebhookMigration(
                row["id"], row["name"], row["user"], row["environment"], tuple(row["before"]), tuple(row["after"])
            )
            for row in cast("list[dict[str, Any]]", rows or [])
        ]

    def _store_changes(self, moves: Sequence[WebhookMigration]) -> None:
        rows: list[JSON] = [
            {
                "id": each.id,
                "name": each.name,
                "user": each.external_user_id,
                "environment": each.environment,
                "before": list(each.urls_before),
                "after": list(each.urls_after),
            }
            for each in moves
        ]
        self._settings.set_item(MIGRATION_SETTING, self._sdk.login.project_id, rows)


def check_target_url(url: str, *, api_url: str) -> str:
    """
    Return *url* if Pipedream, whose API is at *api_url*, can send requests to that URL.

    Raises:
        RequestError: *url* is invalid or leads to this machine only.
    """
    parts = _parts(url)
    odd = any(not 32 < ord(letter) < 127 or letter in '"<>\\^`{|}' for letter in url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.username or odd:
        raise RequestError(
            f"{url!r} is not the URL of an endpoint.",
            fix="Copy the URL from the first lines of: pdkernel serve --public-url URL",
        )
    if parts.hostname in LOOPBACK_HOSTS and urlsplit(api_url).hostname not in LOOPBACK_HOSTS:
        raise RequestError(
            f"Pipedream cannot call {url}: the address is reachable from this machine only.",
            fix="Serve at a public address: pdkernel serve --public-url URL",
        )
    return url


def _parts(url: str) -> SplitResult | None:
    """Return the parts of *url*, or None if *url* is invalid."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_replaced(url: str, instead_of: Collection[str]) -> bool:
    parts = _parts(url)
    host = (parts.hostname or "").lower() if parts else ""
    return url in instead_of or host == PIPEDREAM_ENDPOINT_DOMAIN or host.endswith("." + PIPEDREAM_ENDPOINT_DOMAIN)
