"""The form for an action's props, as a front end uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.session import Session
from pdkernel.widgets import ActionForm
from tests.actions.checkout import write_checkout
from tests.widgets.front_end import press, screen, type_into

PUT = "%%pdstep put --uses depot-put-thing@0.1.2\nthing: box\ncount: 3\n"
FILL = "%%pdstep fill --uses depot-fill-form@0.0.1\ncolumns: 2\n"


@pytest.fixture
def session(session: Session, tmp_path: Path) -> Session:
    """A session with actions from a checkout and two steps that use an action."""
    write_checkout(tmp_path / "checkout")
    session.catalog.settings.set_source("checkout", base=tmp_path)
    session.record_cell(PUT, cell_id="c1")
    session.record_cell(FILL, cell_id="c2")
    return session


@pytest.fixture
def form(session: Session) -> Iterator[ActionForm]:
    """The form of the first step."""
    form = ActionForm(session, "put")
    yield form
    form.close()


def connect(session: Session) -> None:
    """Run as Ada, who has an account."""
    session.directory.add_account(app="depot", credentials={"api_key": "key-0123456789"}, external_user_id="ada")
    session.choose_user("ada")


def test_values_of_the_cell_are_shown(form: ActionForm) -> None:
    """Fields have the values of the cell."""
    assert form.get_field("thing").value.value == "box"
    assert form.get_field("count").value.value == "3"


def test_typed_values_are_in_the_cell(form: ActionForm) -> None:
    """A text, a number and an expression are YAML of their types in the cell."""
    type_into(form.get_field("thing").value, "{{steps.trigger.event.body.name}}")
    type_into(form.get_field("count").value, "5")

    assert "thing: {{steps.trigger.event.body.name}}" in form.cell_source
    assert "count: 5" in form.cell_source


def test_cell_is_shown_with_its_lines(form: ActionForm) -> None:
    """The cell is shown below the form as a block with its line breaks."""
    assert 'title="Copy %%pdstep put --uses depot-put-thing@0.1.2\nthing: box\ncount: 3' in form.saved_output.html


def test_options_are_loaded(session: Session, form: ActionForm) -> None:
    """Options are loaded with the account; the cell holds the value of the picked option."""
    connect(session)

    press(form.get_field("shelf").view, "Look up")
    type_into(form.get_field("shelf").value, "Shelf 01 of 789")

    assert "shelf: s01" in form.cell_source


def test_more_options(session: Session, form: ActionForm) -> None:
    """Each page adds options, until the last page."""
    connect(session)

    press(form.get_field("shelf").view, "Look up")
    press(form.get_field("shelf").view, "More")
    press(form.get_field("shelf").view, "More")

    assert len(form.get_field("shelf").value.options) == 6
    assert "No more options" in screen(form)


def test_without_an_account_text_is_accepted(form: ActionForm) -> None:
    """Without an account the field shows the reason for the missing options, and accepts a text."""
    press(form.get_field("shelf").view, "Look up")
    type_into(form.get_field("shelf").value, "s77")

    assert "no external user is chosen" in screen(form)
    assert "shelf: s77" in form.cell_source


def test_added_props(session: Session) -> None:
    """Props that the action adds for the current values have their own fields."""
    connect(session)
    form = ActionForm(session, "fill")

    press(form, "More props")
    type_into(form.get_field("col_1").value, "b")

    assert "col_1: b" in form.cell_source
    form.close()


def test_no_credential_in_the_form(session: Session, form: ActionForm) -> None:
    """The form contains only the action's results of the account."""
    connect(session)
    press(form.get_field("shelf").view, "Look up")

    assert "key-0123456789" not in screen(form) + form.saved_output.text + str(form.get_field("shelf").value.options)
