"""Views of data stores."""

from __future__ import annotations

import pytest

from pdkernel.common.redaction import Redactor, Secret
from pdkernel.operations.stores import list_stores, view_store
from pdkernel.render.stores import RecordRow, StoreSummary
from pdkernel.storage import Project
from pdkernel.storage.data_stores import StoreNotFoundError


def test_stores_are_listed_with_their_sizes(project: Project) -> None:
    """Each store has the number of its records and of their characters."""
    project.data_stores.set("orders", "a", [1, 2])

    assert list_stores(project.data_stores) == [StoreSummary("orders", 1, len("[1,2]"))]


def test_all_records_are_shown_without_a_limit(project: Project) -> None:
    """A record has key, value and the time at which it expires."""
    project.data_stores.set("orders", "a", 1)
    project.data_stores.set("orders", "b", 2, ttl=60)

    shown = view_store(project.data_stores, "orders")

    assert (shown.name, shown.total) == ("orders", 2)
    assert shown.rows[0] == RecordRow("a", 1)
    assert shown.rows[1].expires.endswith("Z")


def test_a_limit_cuts_the_rows_and_not_the_total(project: Project) -> None:
    """The total counts the records that are left out."""
    for key in "abc":
        project.data_stores.set("orders", key, 1)

    shown = view_store(project.data_stores, "orders", limit=1)

    assert ([row.key for row in shown.rows], shown.total) == (["a"], 3)


def test_secrets_are_redacted(project: Project) -> None:
    """A secret in a key or a value is replaced."""
    project.data_stores.set("orders", "of secret-0123456789", {"v": "secret-0123456789"})

    shown = view_store(project.data_stores, "orders", redactor=Redactor([Secret("env/TOKEN", "secret-0123456789")]))

    assert "secret-0123456789" not in repr(shown)
    assert "env/TOKEN" in shown.rows[0].key


def test_an_unknown_store_is_refused(project: Project) -> None:
    """The error lists the existing stores."""
    project.data_stores.set("orders", "a", 1)

    with pytest.raises(StoreNotFoundError, match="There is no data store 'order'") as caught:
        view_store(project.data_stores, "order")

    assert "Existing stores: orders." in str(caught.value)
