"""Data stores as tables, in text and in HTML."""

from __future__ import annotations

import pytest

from pdkernel.render import stores
from pdkernel.render.stores import RecordRow, StoreSummary
from tests.render.reading import EVIL, Page, assert_view

STORES = (StoreSummary("default", 1, 5), StoreSummary("ds_l6ujg2", 1234, 567_890))
RECORDS = (
    RecordRow("counter", 41),
    RecordRow("token", "abc", "2026-11-24T10:00:00.000Z"),
    RecordRow("order/17", {"items": ["a", "b"], "paid": True, "note": "x" * 80}),
)


@pytest.mark.parametrize("form", ["txt", "html"])
def test_stores_match_the_golden_file(form: str) -> None:
    """Each store has its number of records and size."""
    assert_view(f"stores.{form}", (stores.render_stores_text if form == "txt" else stores.render_stores_html)(STORES))


@pytest.mark.parametrize("form", ["txt", "html"])
def test_records_match_the_golden_file(form: str) -> None:
    """Each record has key, value and expiry; hidden records are counted."""
    draw = stores.render_records_text if form == "txt" else stores.render_records_html

    assert_view(f"records.{form}", draw("orders", RECORDS, total=5))


def test_no_store() -> None:
    """An empty project shows how to create a store."""
    assert "--data-store PROP=NAME" in stores.render_stores_text([])
    assert "--data-store PROP=NAME" in Page(stores.render_stores_html([])).text


def test_an_empty_store() -> None:
    """A store without records is shown as empty, without a table."""
    assert stores.render_records_text("s", [], total=0) == "Data store s: empty\n"
    assert Page(stores.render_records_html("s", [], total=0)).text == "Data store s: empty"


def test_markup_in_a_store_is_escaped() -> None:
    """Names, keys and values are shown as text."""
    page = Page(stores.render_records_html(EVIL, [RecordRow(EVIL, EVIL, EVIL)], total=9))
    text = stores.render_records_text(EVIL, [RecordRow(EVIL, EVIL, EVIL)], total=9)

    assert page.text.count("<b>bold</b>") == 4 + 1
    assert "\x1b" not in page.text + text


@pytest.mark.parametrize("total", [1, 2])
def test_the_command_for_hidden_records(total: int) -> None:
    """One hidden record is counted too, and the name of the store is quoted for the shell."""
    shown = stores.render_records_text("my store", RECORDS[:1], total=total)

    assert ("… 1 more record: pdkernel store export 'my store'" in shown) == (total == 2)
