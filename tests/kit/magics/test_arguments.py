"""The arguments of magics, in quotes and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.kit.magics.arguments import remove_quotes
from pdkernel.kit.widgets.components import quote_magic_argument
from tests.kit.magics.conftest import Notebook


@pytest.mark.parametrize(
    ("text", "plain"), [("'a b'", "a b"), ('"a"', "a"), ("'a", "'a"), ("'", "'"), ("a'", "a'"), ("", "")]
)
def test_quotes_around_a_text_are_removed(text: str, plain: str) -> None:
    """A pair of quotes is removed, a single one is part of the text."""
    assert remove_quotes(text) == plain


@pytest.mark.parametrize("user", ["auth0|5f7c", "Jürgen", "Ada Lovelace", "O'Brien", "it's me", "'ada'", "-1", "a#b$c"])
def test_a_user_of_any_id_is_chosen(notebook: Notebook, user: str) -> None:
    """The line that the form shows for a user chooses that user."""
    shown = notebook.run(f"%pduser {quote_magic_argument(user)} --environment production")

    assert notebook.error is None, shown
    assert (notebook.session.external_user_id, notebook.session.environment) == (user, "production")


def test_a_name_with_blanks_is_quoted(notebook: Notebook, tmp_path: Path) -> None:
    """The names of an event and of a folder may have blanks, in single or double quotes."""
    notebook.run("%%pdstep one\ndef handler(pd):\n    return 1\n")
    notebook.run("%pdevent hello")

    notebook.run("%pdevent --save 'new order'")
    notebook.run("%pdevent hello")
    notebook.run('%pdevent "new order"')
    notebook.run("%pdexport --to 'my export'")

    assert notebook.error is None
    assert notebook.session.event_name == "new order"
    assert (tmp_path / "my export" / "workflow.yaml").is_file()


def test_a_blank_user_is_refused(notebook: Notebook) -> None:
    """An empty id, such as that of an empty variable, does not keep the chosen user without a word."""
    notebook.run("%pduser ada")

    assert "An external user's id cannot be blank." in notebook.run("%pduser ''")
