"""`%pdactions`, in a real IPython shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.actions.checkout import write_checkout
from tests.kit.magics.conftest import Notebook, Run

PUT = "%%pdstep put --uses depot-put-thing@0.1.2 --no-run\nthing: box\n"


@pytest.fixture(autouse=True)
def checkout(notebook: Notebook, tmp_path: Path) -> None:
    """The notebook's project takes actions from a checkout."""
    write_checkout(tmp_path / "checkout")
    notebook.session.catalog.settings.set_sources(["checkout"], base=tmp_path)


def test_search(run: Run) -> None:
    """Words and an app select actions."""
    shown = run("%pdactions thing --app depot")

    assert "depot-put-thing@0.1.2  Put a Thing" in shown


def test_search_finds_nothing(run: Run) -> None:
    """A search without a result names the sources of actions."""
    assert "No action matches" in run("%pdactions zebra")


def test_key_shows_props_and_writes_the_cell(notebook: Notebook, run: Run) -> None:
    """A key shows the action's props and writes the next cell, which uses the action."""
    shown = run("%pdactions depot-put-thing")

    cell = notebook.shell.rl_next_input
    assert "thing: string, required" in shown
    assert cell.startswith("%%pdstep put_thing --uses depot-put-thing@0.1.2 --app depot\n")
    assert "# string, required: Thing. What is put there\nthing:" in cell


def test_a_second_step_gets_a_number(notebook: Notebook, run: Run) -> None:
    """A second step of the same action gets a number."""
    run(PUT.replace("%%pdstep put ", "%%pdstep put_thing "))
    run("%pdactions depot-put-thing")

    assert notebook.shell.rl_next_input.startswith("%%pdstep put_thing_1 ")
    run("%pdactions depot-put-thing --name other")
    assert notebook.shell.rl_next_input.startswith("%%pdstep other ")
    assert "'2nd' is not a valid step name" in run("%pdactions depot-put-thing --name 2nd")


def test_options_require_an_external_user(run: Run) -> None:
    """Without an external user `--options` gives the reason for the missing options."""
    run(PUT)

    assert "no external user is chosen" in run("%pdactions --options put shelf")


def test_options(notebook: Notebook, run: Run) -> None:
    """With the user's account the options are listed, searched and paged."""
    run(PUT)
    notebook.session.directory.add_account(app="depot", credentials={"api_key": "k-012345"}, external_user_id="ada")
    run("%pduser ada")

    assert '"s00"  Shelf 00 of 345' in run("%pdactions --options put shelf")
    assert '"s12"' in run("%pdactions --options put shelf --page 1")
    assert "--page is below 0" in run("%pdactions --options put shelf --page -1")


def test_form(run: Run) -> None:
    """The saved form of a step names its cell, for a reader without a kernel."""
    run(PUT)

    shown = run("%pdactions --form put")

    assert "%pdactions --form put" in shown
    assert "thing: box" in shown


def test_unknown_key(notebook: Notebook, run: Run) -> None:
    """An unknown key is reported with the most similar keys."""
    shown = run("%pdactions depot-put-thin")

    assert "depot-put-thing@0.1.2" in shown
    assert not hasattr(notebook.shell, "rl_next_input")


def test_help(run: Run) -> None:
    """`--help` prints the arguments and runs nothing."""
    shown = run("%pdactions --help")

    assert "search for, or KEY[@VERSION] to use that" in shown
    assert "show only actions of this app" in shown


def test_form_without_arguments(run: Run) -> None:
    """Without arguments the form's saved output is the list of actions, for a front end without widgets."""
    assert "Actions" in run("%pdactions")


def test_options_are_searched_and_paged(notebook: Notebook, run: Run, tmp_path: Path) -> None:
    """`--query` searches the options, and `--page` loads a page with the context of the page before."""
    place = tmp_path / "checkout" / "components" / "depot" / "actions" / "pages" / "pages.mjs"
    place.parent.mkdir()
    place.write_text(
        'export default { key: "depot-pages", version: "0.0.1", type: "action", props: { at: { type: "string",'
        " async options({ prevContext, query }) { const from = prevContext?.next ?? 0;"
        " return { options: [`${query ?? 'all'} from ${from}`], context: { next: from + 10 } }; } } }, async run() {} };"
    )
    run("%%pdstep pages --uses depot-pages@0.0.1 --no-run\n{}\n")

    assert "all from 0" in run("%pdactions --options pages at")
    assert "all from 20" in run("%pdactions --options pages at --page 2")
    assert "odd from 0" in run("%pdactions --options pages at --query odd")
