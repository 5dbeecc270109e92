"""The form for an action's props, as a front end uses it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import pytest

from pdkernel.kit.session import Session
from pdkernel.kit.widgets import ActionForm
from tests.actions.checkout import write_checkout
from tests.builders import an_event
from tests.kit.widgets.front_end import enter, inside, pick, press, screen, type_into
from tests.waiting import wait_until

WAIT_S = 60
"""Time limit in seconds for what a form loads in the background."""
PUT = "%%pdstep put --uses depot-put-thing@0.1.2\nthing: box\ncount: 3\n"
FILL = "%%pdstep fill --uses depot-fill-form@0.0.1\ncolumns: 2\n"


@pytest.fixture
def session(session: Session, tmp_path: Path) -> Session:
    """A session with actions from a checkout and two steps that use an action."""
    write_checkout(tmp_path / "checkout")
    session.catalog.settings.set_sources(["checkout"], base=tmp_path)
    session.record_cell(PUT, cell_id="c1")
    session.record_cell(FILL, cell_id="c2")
    return session


@pytest.fixture
def make_form(session: Session) -> Iterator[Callable[..., ActionForm]]:
    """Makes forms, waits until what they load is there, and closes them at the end."""
    made: list[ActionForm] = []

    def make(*chosen: str, **search: str) -> ActionForm:
        made.append(ActionForm(session, *chosen, **search))
        made[-1].wait(WAIT_S)
        return made[-1]

    yield make
    for form in made:
        form.close()


@pytest.fixture
def form(make_form: Callable[..., ActionForm]) -> ActionForm:
    """The form of the first step."""
    return make_form("put")


def connect(session: Session) -> None:
    """Run as Ada, who has an account."""
    session.directory.add_account(app="depot", credentials={"api_key": "key-0123456789"}, external_user_id="ada")
    session.choose_user("ada")


def use(form: ActionForm, key: str) -> None:
    """Choose the action *key* of the results."""
    rows = [
        row
        for row in inside(form.search.view)
        if isinstance(row, ipw.HBox) and f"<code>{key}</code>" in screen_html(row)
    ]
    press(rows[-1], "Use")
    form.wait(WAIT_S)


def write_action(checkout: Path, key: str, code: str) -> None:
    """Write the code of the action `depot-KEY` into *checkout*."""
    place = checkout / "components" / "depot" / "actions" / key / f"{key}.mjs"
    place.parent.mkdir()
    place.write_text(code)


def screen_html(widget: Any) -> str:
    """The HTML of all visible texts of *widget*."""
    return "".join(each.value for each in inside(widget) if isinstance(each, ipw.HTML))


# ── search ──────────────────────────────────────────────────────────


def test_typed_words_and_an_app_select_actions(make_form: Callable[..., ActionForm]) -> None:
    """Results follow the typed words and the app's name; each has its title, app, key, version and description."""
    form = make_form()
    assert len(form.search.components) > 2

    type_into(form.search.words, "thing")
    type_into(form.search.app, "Depot")
    form.wait(WAIT_S)

    assert "Put a Thing · Depot · depot-put-thing@0.1.2 Puts a thing on a shelf." in screen(form)
    assert "1 action.\n%pdactions --app depot thing" in form.saved_output.text
    assert form.magic_line == "%pdactions --app depot thing"


def test_a_part_of_an_apps_name_is_not_searched(make_form: Callable[..., ActionForm]) -> None:
    """While the name of an app is typed, no package is looked for: the form names the key that does."""
    form = make_form()

    type_into(form.search.app, "dep")
    form.wait(WAIT_S)

    assert "To search the app dep: press Enter." in screen(form)


def test_enter_searches_and_says_what_was_not_found(make_form: Callable[..., ActionForm]) -> None:
    """Enter searches at once; without a match the form reports it."""
    form = make_form()
    type_into(form.search.words, "zebra")

    enter(form.search.words)
    form.wait(WAIT_S)

    assert "No action matches." in screen(form)


def test_a_page_of_results(make_form: Callable[..., ActionForm]) -> None:
    """The form shows eight actions, and more after a click."""
    form = make_form()
    rows = len([each for each in inside(form) if isinstance(each, ipw.Button) and each.description == "Use"])

    press(form, "More actions")

    more = len([each for each in inside(form) if isinstance(each, ipw.Button) and each.description == "Use"])
    assert (rows, more) == (8, 16)
    press(form, "Search")
    form.wait(WAIT_S)
    assert screen(form).splitlines().count("Use") == 8  # a new search starts with its first actions


def test_saved_search_lists_the_actions(make_form: Callable[..., ActionForm]) -> None:
    """A reader without a kernel sees the actions that were found, as text and as a table."""
    form = make_form(words="thing")

    assert "depot-put-thing@0.1.2  Put a Thing\n1 action.\n%pdactions thing" in form.saved_output.text
    assert 'class="pd-picture"' in form.saved_output.html


# ── from the search to the cell ──────────────────────────────────────────────────────────


def test_chosen_action_writes_a_cell_that_runs(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """Search, choose, fill in, write: the cell is a step that runs with the user's account."""
    connect(session)
    session.choose_event(an_event())
    form = make_form(words="thing")

    use(form, "depot-put-thing@0.1.2")
    type_into(form.get_field("thing").value, "{{steps.trigger.event.method}}")
    type_into(form.get_field("shelf").value, "Shelf 01 of 789")
    press(form, "Write cell")

    cell = form.cell_source
    assert cell == (
        "%%pdstep put_thing --uses depot-put-thing@0.1.2 --app depot\nshelf: s01\nthing: {{steps.trigger.event.method}}\n"
    )
    assert "pd-new-cell" in screen_html(form)
    session.record_cell(cell, cell_id="c3")
    step = session.run(only=frozenset({"put_thing"})).step("put_thing")
    assert step.status == "success"
    assert step.exports["$summary"] == "Put POST on s01"


def test_missing_and_wrong_values_are_reported_below_their_fields(make_form: Callable[..., ActionForm]) -> None:
    """A required prop without a value and a value of another type are reported in place, and no cell is written."""
    form = make_form("depot-put-thing")
    type_into(form.get_field("count").value, "many")

    enter(form.get_field("thing").value)

    assert "Thing is required: type a value or an expression." in screen(form.get_field("thing").view)
    assert "many is not a whole number." in screen(form.get_field("count").view)
    assert "No cell was written: correct 3 fields." in screen(form)
    assert "Hide 2 optional props" in screen(form)  # a wrong value is not hidden
    assert "pd-new-cell" not in screen_html(form)


def test_name_of_another_step_is_refused(make_form: Callable[..., ActionForm]) -> None:
    """A new step needs a name that is valid and that no other step has."""
    form = make_form("depot-put-thing")
    type_into(form.name, "put")
    enter(form.name)
    assert "The workflow has a step put: type another name." in screen(form)

    type_into(form.name, "2nd")
    enter(form.name)
    assert "'2nd' is not a valid step name" in screen(form)


def test_back_to_the_search(make_form: Callable[..., ActionForm]) -> None:
    """*Another action* closes the fields and shows the results again."""
    form = make_form(words="thing")
    use(form, "depot-put-thing@0.1.2")

    press(form, "Another action")
    form.wait(WAIT_S)

    assert "step name" not in screen(form)
    assert "Put a Thing" in screen(form)


def test_optional_props_are_shown_on_request(make_form: Callable[..., ActionForm]) -> None:
    """Optional props without a value are behind a button."""
    form = make_form("depot-put-thing")
    assert "note: string, optional." not in screen(form)

    press(form, "Show 2 optional props")

    assert "note: string, optional." in screen(form)


def test_a_search_replaces_the_choice_of_an_action(make_form: Callable[..., ActionForm], tmp_path: Path) -> None:
    """If a person searches while the chosen action is loading, the form stays with the search."""
    write_action(
        tmp_path / "checkout",
        "slow",
        f"""import {{ existsSync, writeFileSync }} from "fs";
        writeFileSync({str(tmp_path / "loading")!r}, "");
        while (!existsSync({str(tmp_path / "go")!r})) await new Promise((resolve) => setTimeout(resolve, 20));
        export default {{ key: "depot-slow", name: "Slow", version: "0.0.1", type: "action", props: {{}}, run() {{}} }};""",
    )
    form = make_form(app="depot", words="slow")
    rows = [row for row in inside(form.search.view) if isinstance(row, ipw.HBox) and "depot-slow" in screen_html(row)]

    press(rows[-1], "Use")
    loading = next(each for each in threading.enumerate() if each.name == "pdkernel-latest-call")
    assert wait_until((tmp_path / "loading").exists)
    type_into(form.search.words, "thing")
    form.search.wait(WAIT_S)
    (tmp_path / "go").touch()
    loading.join(WAIT_S)

    assert form.magic_line == "%pdactions --app depot thing"
    assert "Put a Thing" in screen(form)


# ── accounts and options ──────────────────────────────────────────────────────────


def test_account_of_the_external_user_or_of_the_author(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """The account field offers the user's account and the author's own accounts; an own account is named on the cell's line."""
    connect(session)
    own = session.directory.add_account(app="depot", credentials={"api_key": "k-own"}, external_user_id=None)
    form = make_form("depot-put-thing")

    pick(form.get_account_field("depot").value, own.id)

    assert f"--app depot={own.id}" in form.cell_source


def test_an_own_account_of_a_step_without_its_app(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """A cell that does not name the app gets it with the author's own account, if that is chosen."""
    own = session.directory.add_account(app="depot", credentials={"api_key": "k-own"}, external_user_id=None)
    session.record_cell(PUT, cell_id="c1")
    form = make_form("put")

    before = form.cell_source
    pick(form.get_account_field("depot").value, own.id)

    assert "--app" not in before
    assert f"--app depot={own.id}" in form.cell_source


def test_missing_account_is_reported_below_its_field(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """Without an account the field reports it; once there is one, the options are loaded."""
    session.choose_user("ada")
    form = make_form("depot-put-thing")
    assert "ada has no Depot account" in screen(form)

    connect(session)
    session.notify_accounts_changed()
    form.wait(WAIT_S)

    assert "ada has no Depot account" not in screen(form)
    assert len(form.get_field("shelf").value.options) == 3


def test_options_follow_the_chosen_user(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """Another user's account lists the options anew."""
    connect(session)
    form = make_form("depot-put-thing")
    session.directory.add_account(app="depot", credentials={"api_key": "k-grace"}, external_user_id="grace")

    session.choose_user("grace")
    form.wait(WAIT_S)

    assert form.get_field("shelf").value.options[0] == "Shelf 00 of ace"


def test_added_props_follow_the_chosen_user(
    session: Session, make_form: Callable[..., ActionForm], tmp_path: Path
) -> None:
    """Props that an action adds for an account are replaced when a person chooses another user, or another account."""
    write_action(
        tmp_path / "checkout",
        "columns",
        """import depot from "../../depot.app.mjs";
        export default {
          key: "depot-columns", version: "0.0.1", type: "action",
          props: { depot, sheet: { type: "string", reloadProps: true } },
          async additionalProps() { return { ["of_" + this.depot.key().slice(2)]: { type: "string" } }; },
          async run() {},
        };""",
    )
    for user in ("ada", "grace", None):
        session.directory.add_account(app="depot", credentials={"api_key": f"k-{user or 'own'}"}, external_user_id=user)
    own = session.directory.accounts(app="depot", own=True)[0]
    session.choose_user("ada")
    form = make_form("depot-columns")
    added = [form.fields[-1].prop.name]

    session.choose_user("grace")
    form.wait(WAIT_S)
    added.append(form.fields[-1].prop.name)
    pick(form.get_account_field("depot").value, own.id)
    form.wait(WAIT_S)

    assert [*added, form.fields[-1].prop.name] == ["of_ada", "of_grace", "of_own"]


def test_an_action_that_is_gone_is_reported(
    session: Session, make_form: Callable[..., ActionForm], tmp_path: Path
) -> None:
    """If an action's options or props cannot be loaded, the reason is shown at their place; the values stay."""
    write_action(
        tmp_path / "checkout",
        "gone",
        """export default { key: "depot-gone", version: "0.0.1", type: "action",
          props: { shelf: { type: "string", async options() { return ["a"]; } }, size: { type: "string", reloadProps: true } },
          async additionalProps() { throw new Error("no columns for " + this.size); }, async run() {} };""",
    )
    form = make_form("depot-gone")
    type_into(form.get_field("size").value, "seven")
    form.wait(WAIT_S)
    reason = screen(form)
    shutil.rmtree(tmp_path / "checkout" / "components" / "depot" / "actions" / "gone")

    press(form.get_field("shelf").view, "Load options")

    assert "no columns for seven" in reason
    assert "depot-gone" in screen(form.get_field("shelf").view)
    assert "size: seven" in form.cell_source


# ── the form of a step ──────────────────────────────────────────────────────────


def test_typed_values_are_in_the_cell(form: ActionForm) -> None:
    """Fields have the values of the cell; a text, a number and an expression are YAML of their types in the cell."""
    assert (form.get_field("thing").value.value, form.get_field("count").value.value) == ("box", "3")
    type_into(form.get_field("thing").value, "{{steps.trigger.event.body.name}}")
    type_into(form.get_field("count").value, "5")

    assert "thing: {{steps.trigger.event.body.name}}" in form.cell_source
    assert "count: 5" in form.cell_source
    type_into(form.get_field("count").value, "")
    assert "count" not in form.cell_source


def test_an_account_that_the_project_does_not_have_stays(
    session: Session, make_form: Callable[..., ActionForm]
) -> None:
    """The account that the cell names is shown and stays in the cell, although this project does not have it."""
    session.record_cell(PUT.replace("put --uses", "put --app depot=apn_else --uses"), cell_id="c1")

    form = make_form("put")

    assert form.get_account_field("depot").value.label == "own account apn_else"
    assert "--app depot=apn_else" in form.cell_source


def test_the_cell_of_a_step_is_written_again(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """A step keeps its name; a new step can be written again after its cell ran; an error of another cell does not count."""
    form, new, last = make_form("put"), make_form("depot-put-thing"), make_form("depot-put-thing")
    type_into(form.get_field("shelf").value, "s77")
    type_into(form.get_field("thing").value, "<b> & co")
    press(form, "Write cell")
    for each in (new, last):
        for prop in ("shelf", "thing"):
            type_into(each.get_field(prop).value, "x")
    type_into(new.name, "fresh")
    press(new, "Write cell")
    session.record_cell(new.cell_source, cell_id="c9")
    press(new, "Write cell")
    session.record_cell("%%pdworkflow\nsettings: {share_workers: sometimes}", cell_id="head")
    press(last, "Write cell")

    assert (form.name.disabled, new.name.disabled) == (True, False)
    assert "thing: &quot;&lt;b&gt; &amp; co&quot;" in screen_html(form)
    assert 'data-number="2"' in screen_html(new)
    assert 'data-number="1"' in screen_html(last)


def test_a_prop_without_a_field_stays_in_the_cell(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """A prop that the action does not declare is kept, at its place."""
    session.record_cell(PUT.replace("thing: box", "older: 5\nthing: box"), cell_id="c1")

    form = make_form("put")
    type_into(form.get_field("thing").value, "bag")

    assert "\nolder: 5\nthing: bag\n" in form.cell_source


def test_an_own_account_is_given_up(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """The external user's account replaces the author's own on the line of the cell."""
    session.record_cell(PUT.replace("put --uses", "put --app depot=apn_else --uses"), cell_id="c1")
    form = make_form("put")

    pick(form.get_account_field("depot").value, "")

    assert "--app depot\n" in form.cell_source


def test_an_account_that_is_not_changed_keeps_the_name_of_its_prop(
    session: Session, make_form: Callable[..., ActionForm]
) -> None:
    """The line of the cell stays as it is, unless another account is picked."""
    session.record_cell(PUT.replace("put --uses", "put --app mine:depot=apn_else --uses"), cell_id="c1")

    assert "--app mine:depot=apn_else\n" in make_form("put").cell_source


def test_options_do_not_depend_on_the_own_text(
    session: Session, make_form: Callable[..., ActionForm], tmp_path: Path
) -> None:
    """The options of a prop are loaded without the text that is typed into its field."""
    write_action(
        tmp_path / "checkout",
        "own",
        'export default { key: "depot-own", version: "0.0.1", type: "action", props: { shelf: { type: "string",'
        ' async options() { return [String(this.shelf ?? "none")] } } }, async run() {} };',
    )
    session.record_cell("%%pdstep own --uses depot-own@0.0.1\n{}\n", cell_id="c5")
    form = make_form("own")
    type_into(form.get_field("shelf").value, "half")

    press(form.get_field("shelf").view, "Load options")

    assert form.get_field("shelf").value.options == ("none",)


def test_cell_is_shown_with_its_lines(form: ActionForm) -> None:
    """The cell is shown below the form as a block with its line breaks."""
    assert 'title="Copy %%pdstep put --uses depot-put-thing@0.1.2\nthing: box\ncount: 3' in form.saved_output.html


def test_options_are_loaded(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """Options are loaded with the account, whose credential is not in the form; the cell holds the value of the picked option."""
    connect(session)
    form = make_form("put")

    type_into(form.get_field("shelf").value, "Shelf 01 of 789")

    assert "shelf: s01" in form.cell_source
    assert "key-0123456789" not in screen(form) + form.saved_output.text + str(form.get_field("shelf").value.options)


def test_more_options(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """Each page adds options, until the last page."""
    connect(session)
    form = make_form("put")

    press(form.get_field("shelf").view, "More")
    press(form.get_field("shelf").view, "More")

    assert len(form.get_field("shelf").value.options) == 6
    assert "No more options" in screen(form)


def test_without_an_account_text_is_accepted(form: ActionForm) -> None:
    """Without an account the field shows the reason for the missing options, and accepts a text."""
    press(form.get_field("shelf").view, "Load options")
    type_into(form.get_field("shelf").value, "s77")

    assert "no external user is chosen" in screen(form)
    assert "shelf: s77" in form.cell_source


def test_added_props(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """Props that the action adds for the current values have their own fields, and follow these values."""
    connect(session)
    form = make_form("fill")
    type_into(form.get_field("col_1").value, "b")
    assert "col_1: b" in form.cell_source

    type_into(form.get_field("columns").value, "1")
    form.wait(WAIT_S)

    assert [field.prop.name for field in form.fields] == ["columns", "col_0"]
    assert "col_1" not in form.cell_source


def test_a_typed_value_stays_if_its_prop_changes(session: Session, make_form: Callable[..., ActionForm]) -> None:
    """A typed value stays in its field if the action declares the added prop with another label."""
    connect(session)
    form = make_form("fill")
    type_into(form.get_field("col_0").value, "a")

    type_into(form.get_field("columns").value, "3")
    form.wait(WAIT_S)

    assert form.get_field("col_0").prop.definition["label"] == "Column 0 of 3"
    assert "col_0: a" in form.cell_source
