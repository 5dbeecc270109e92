"""
The columns that hold encrypted values, and the location for which each value is encrypted.

A rotation of the key encrypts these columns again. The engine lists the columns of the journal.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column

from pdkernel.storage.schema import (
    account_grants,
    accounts,
    answered_requests,
    connect_tokens,
    deployed_events,
    deployed_triggers,
    link_visits,
    notebooks,
    secrets,
    sent,
    signing_keys,
    source_state,
    trigger_events,
    variables,
    workflow_triggers,
)


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """
    A column of encrypted values.

    Attributes:
        column: The column.
        template: The location of a row's value; the names in braces are columns of the row.
    """

    column: Column[Any]
    template: str

    @property
    def names(self) -> Sequence[str]:
        """The columns that the location names."""
        return [name for _, name, _, _ in string.Formatter().parse(self.template) if name]

    def locate(self, row: Mapping[Any, Any]) -> str:
        """The location of the value in *row*."""
        return self.template.format_map(row)


SEALED_COLUMNS = (
    SealedColumn(accounts.c.sealed_credentials, "accounts/{id}/credentials"),
    SealedColumn(variables.c.sealed_value, "variables/{name}/value"),
    SealedColumn(notebooks.c.sealed_state, "notebooks/{notebook}/state"),
    SealedColumn(sent.c.sealed_answer, "sent/{request}/answer"),
    SealedColumn(source_state.c.sealed_state, "sources/{source}/state"),
    SealedColumn(secrets.c.sealed_value, "secrets/{name}/value"),
    SealedColumn(connect_tokens.c.sealed_terms, "connect_tokens/{digest}/terms"),
    SealedColumn(link_visits.c.sealed_visit, "link_visits/{digest}/visit"),
    SealedColumn(account_grants.c.sealed_refresh_token, "account_grants/{account}/refresh_token"),
    SealedColumn(signing_keys.c.sealed_key, "signing_keys/{id}/key"),
    SealedColumn(deployed_triggers.c.sealed_settings, "deployed_triggers/{id}/settings"),
    SealedColumn(deployed_events.c.sealed_event, "deployed_triggers/{trigger}/events"),
    SealedColumn(workflow_triggers.c.sealed_settings, "workflow_triggers/{workflow}/{trigger}/settings"),
    SealedColumn(trigger_events.c.sealed_event, "trigger_events/{dedupe_key}/event"),
    SealedColumn(answered_requests.c.sealed_event, "answered_requests/{id}/event"),
)
"""The encrypted columns of the project's own tables. A column that is not here is lost with the next rotation of the key."""

_TEMPLATES = {sealed.column: sealed.template for sealed in SEALED_COLUMNS}


def locate(column: Column[Any], **row: str) -> str:
    """The location for which the value of *column* is encrypted in the row with these values."""
    return _TEMPLATES[column].format_map(row)
