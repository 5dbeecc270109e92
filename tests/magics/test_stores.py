"""`%pdstore` in a notebook."""

from __future__ import annotations

from IPython.core.completer import provisionalcompleter

from tests.magics.conftest import Notebook


def test_stores_and_records_are_shown(notebook: Notebook) -> None:
    """`%pdstore` lists the stores; with a name it shows records and the number of records left out."""
    notebook.session.project.data_stores.set("orders", "last", {"id": 1})
    notebook.session.project.data_stores.set("orders", "short", 2, ttl=3600)

    assert "orders  2 records" in notebook.run("%pdstore")
    shown = notebook.run("%pdstore orders")
    assert 'last   {"id": 1}' in shown
    assert "short  2  (until 20" in shown
    assert "… 1 more record" in notebook.run("%pdstore orders --rows 1")


def test_an_unknown_store_lists_the_existing_stores(notebook: Notebook) -> None:
    """An unknown store is an error that lists the existing stores."""
    notebook.session.project.data_stores.set("orders", "last", 1)

    assert "Existing stores: orders." in notebook.run("%pdstore order")


def test_a_secret_in_a_store_is_not_shown(notebook: Notebook) -> None:
    """A stored token or variable is redacted in the notebook."""
    session = notebook.session
    session.project.variables.set("TOKEN", "tok-0123456789")
    session.directory.add_account(
        app="slack", credentials={"oauth_access_token": "xoxb-9876543210"}, external_user_id="ada"
    )
    session.project.data_stores.set("s", "key tok-0123456789", {"t": "Bearer xoxb-9876543210"})

    shown = notebook.run("%pdstore s")

    assert "key ⟦secret:env/TOKEN" in shown
    assert "xoxb" not in shown
    assert "tok-" not in shown


def test_names_of_stores_are_completed(notebook: Notebook) -> None:
    """Tab after --data-store PROP= offers the existing stores."""
    notebook.session.project.data_stores.set("orders", "last", 1)
    cell = "%%pdstep one --data-store s=o"

    with provisionalcompleter():
        offered = [completion.text for completion in notebook.shell.Completer.completions(cell, len(cell))]

    assert offered == ["orders"]
