"""`%pdstore` in a notebook, and the scratch copy that its steps write."""

from __future__ import annotations

from typing import Any

from IPython.core.completer import provisionalcompleter

from tests.builders import an_event
from tests.kit.magics.conftest import Notebook


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


ADD = (
    "%%pdstep {name} --data-store data=totals\ndef handler(pd):\n"
    '    pd.inputs["data"]["sum"] = pd.inputs["data"].get("sum", 0) + 10\n    return pd.inputs["data"]["sum"]\n'
)


def returned(notebook: Notebook, step: str) -> Any:
    """The last return value of a step."""
    result = notebook.session.get_result(step)
    return None if result is None else result.return_value


def test_run_all_twice_counts_once(notebook: Notebook) -> None:
    """Step cells and `%pdrun` write a scratch copy under a stand-in: a step that runs again replaces what it wrote."""
    notebook.session.project.data_stores.set("totals", "sum", 1)
    notebook.session.choose_event(an_event())
    sums = []
    for _ in range(2):
        for cell in ("%pdegress stand-in=slack", ADD.format(name="first"), ADD.format(name="second"), "%pdrun"):
            notebook.run(cell)
            assert notebook.error is None
        sums.append((returned(notebook, "first"), returned(notebook, "second")))
    for _ in range(3):
        notebook.run(ADD.format(name="second"))
    sums.append((returned(notebook, "first"), returned(notebook, "second")))

    assert sums == [(11, 21)] * 3
    assert "sum  1" in " ".join(notebook.run("%pdstore totals").split("\n"))
    assert next(notebook.session.project.data_stores.iter_records("totals")).value == 1


def test_the_scratch_copy_is_shown(notebook: Notebook) -> None:
    """`%pdstore --scratch` shows what the steps wrote; without a name it lists the written stores."""
    notebook.session.choose_event(an_event())
    assert "have written no scratch copy" in notebook.run("%pdstore --scratch")

    shown = "".join(notebook.run(ADD.format(name="first")).split())

    assert "Datastoretotals:writteninascratchcopy,becausetheoutboundpolicyisstand-in." in shown
    assert "totals  1 record" in notebook.run("%pdstore --scratch")
    assert "10" in notebook.run("%pdstore totals --scratch")
    assert "To show the copy: %pdstore totals --scratch" in notebook.run("%pdstore totals")


def test_another_event_or_user_begins_anew(notebook: Notebook) -> None:
    """A scratch copy belongs to an event and an external user, as the results of the cells do."""
    notebook.session.choose_event(an_event())
    notebook.run(ADD.format(name="first"))
    notebook.run(ADD.format(name="second"))
    before = returned(notebook, "second")

    notebook.session.choose_user("grace")
    notebook.run(ADD.format(name="second"))

    assert (before, returned(notebook, "second")) == (20, 10)


def test_live_writes_the_store(notebook: Notebook) -> None:
    """Under `live` each run of a cell adds to the project's store."""
    notebook.session.choose_event(an_event())
    notebook.run("%pdegress live")

    for _ in range(2):
        notebook.run(ADD.format(name="first"))

    assert returned(notebook, "first") == 20
    assert notebook.session.project.data_stores.count("totals") == 1
