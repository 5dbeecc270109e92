"""Views of data stores."""

from __future__ import annotations

import pytest

from pdkernel.common.redaction import Redactor, Secret
from pdkernel.errors import RequestError
from pdkernel.operations.stores import (
    export_records,
    get_record,
    import_records,
    list_stores,
    parse_records,
    set_record,
    view_store,
)
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


def test_a_value_is_json_or_text(project: Project) -> None:
    """The same text is stored as a number or as a string; a text that is not JSON is refused with the option for it."""
    table = project.data_stores

    assert set_record(table, "s", "n", "7", is_json=True).value == 7
    assert set_record(table, "s", "t", "7", is_json=False).value == "7"
    with pytest.raises(RequestError, match="--text"):
        set_record(table, "s", "x", "seven", is_json=True)


def test_a_missing_key_names_the_store(project: Project) -> None:
    """The error has the command that lists the records of the store."""
    project.data_stores.set("my orders", "a", 1)

    with pytest.raises(RequestError, match=r"has no key 'b'") as caught:
        get_record(project.data_stores, "my orders", "b")

    assert "pdkernel store list 'my orders'" in str(caught.value)


def test_an_export_is_imported_again(project: Project) -> None:
    """An import followed by an export gives the same lines; expired records are left out, and a total is not a record."""
    lines = ['{"key":"a","value":[1]}\n', '{"key":"b","value":2,"expires_at":"2100-01-01T00:00:00.000Z"}\n']
    old = '{"key":"c","value":3,"expires_at":"2000-01-01T00:00:00.000Z"}\n'
    records, counted = parse_records("".join([*lines, old, '{"total": 3}\n']).encode(), "f.jsonl")

    done = import_records(project, "s", records, clear_first=False)

    assert (done.imported, done.expired, done.stored, counted) == (2, 1, 2, 3)
    assert list(export_records(project.data_stores, "s")) == lines


@pytest.mark.parametrize(
    "line",
    [
        "no",
        "[1]",
        '{"key": "b"}',
        '{"key": 7, "value": 1}',
        '{"key": "b", "value": 1, "expires_at": "soon"}',
        '{"key": "b", "value": 1, "expires_at": "2099-01-01T00:00:00"}',
        '{"key": "b", "value": 1, "ttl": 60}',
        '{"key": "b", "value": ' + "9" * 100_000 + "}",
        '{"key": "b", "value": ' + "[" * 100_000 + "}",
        '{"key": "", "value": 1}',
        '{"key": "a\\u0000b", "value": 1}',
        '{"key": "\\ud800", "value": 1}',
        '{"key": "' + "k" * 2000 + '", "value": 1}',
    ],
    ids=lambda line: line[:50],
)
def test_a_wrong_line_is_named(line: str) -> None:
    """The error has the file and the number of the line, and is short."""
    with pytest.raises(RequestError) as caught:
        parse_records(f'{{"key":"a","value":1}}\n{line}\n'.encode("utf-8", "surrogatepass"), "wrong.jsonl")

    assert "wrong.jsonl, line 2" in str(caught.value)
    assert "line 1" not in str(caught.value)
    assert len(str(caught.value)) < 1000
