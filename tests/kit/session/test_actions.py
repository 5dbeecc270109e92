"""Actions in a notebook's session: options of a prop, added props, apps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from pdkernel.accounts.apps import register_app
from pdkernel.errors import LicenceError, RequestError
from pdkernel.kit.session import Session, actions
from pdkernel.workers import OptionsQuery
from tests.actions.checkout import write_checkout
from tests.builders import an_event

PUT = "%%pdstep put --uses depot-put-thing@0.1.2\nthing: box\n"
KEY = "key-0123456789"


@pytest.fixture
def session(make_session: Callable[..., Session], tmp_path: Path) -> Session:
    """A session with actions from a checkout and a step that uses an action, run as Ada."""
    session = make_session()
    write_checkout(tmp_path / "checkout")
    session.catalog.settings.set_sources(["checkout"], base=tmp_path)
    session.record_cell(PUT, cell_id="c1")
    session.choose_user("ada")
    return session


def connect(session: Session) -> None:
    """Give Ada a depot account."""
    session.directory.add_account(app="depot", credentials={"api_key": KEY}, external_user_id="ada")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (OptionsQuery(), ["s00", "s01", "s02"]),
        (OptionsQuery(1), ["s10", "s11", "s12"]),
        (OptionsQuery(text="Shelf 02"), ["s02"]),
    ],
)
def test_choices_come_from_the_account(session: Session, query: OptionsQuery, expected: list[str]) -> None:
    """Pages of options are loaded and searched by the action's own code with the chosen user's account."""
    connect(session)

    page = actions.fetch_options(session, "put", "shelf", query=query)

    assert page.empty_reason is None
    assert [option.value for option in page.options] == expected


def test_no_account_gives_a_reason(session: Session) -> None:
    """Without an account, or a user, there are no options, and the reason has a fix; a prop may have no options at all."""
    page = actions.fetch_options(session, "put", "shelf")
    free = actions.fetch_options(session, "put", "thing")
    session.choose_user(None)
    without_user = actions.fetch_options(session, "put", "shelf")

    assert page.options == ()
    assert page.empty_reason is not None
    assert "ada's depot account" in page.empty_reason
    assert "pdkernel accounts add --external-user ada --app depot" in page.empty_reason
    assert "%pduser" in str(without_user.empty_reason)
    assert free.empty_reason == "thing is string and has no options."


PICK = """
export default {
  key: "depot-pick", version: "0.0.1", type: "action",
  props: {
    shelf: { type: "string" },
    slot: { type: "string", options: ({ shelf }) => [`${shelf}-1`, `${shelf}-2`] },
  },
  async run() {},
};
"""


@pytest.mark.parametrize(
    ("shelf", "options", "why"),
    [
        ("", [], "Choices depend on the prop shelf. Set that prop first."),
        ("shelf: '{{steps.trigger.event.body.shelf}}'", ["top-1", "top-2"], None),
        ("shelf: '{{steps.trigger.event.body.other}}'", [], "prop shelf, whose value is an expression"),
        ("shelf: '{{steps.later.$return_value}}'", [], "prop shelf, whose value is an expression"),
    ],
)
def test_choices_that_depend_on_another_prop(
    session: Session, tmp_path: Path, shelf: str, options: list[str], why: str | None
) -> None:
    """An expression has the value for the chosen event; an unknown value is named."""
    place = tmp_path / "checkout" / "components" / "depot" / "actions" / "pick" / "pick.mjs"
    place.parent.mkdir()
    place.write_text(PICK)
    session.choose_event(an_event({"shelf": "top"}), "hello")
    session.record_cell(f"%%pdstep pick --uses depot-pick@0.0.1\n{shelf}\n", cell_id="c2")

    page = actions.fetch_options(session, "pick", "slot")

    assert [option.value for option in page.options] == options
    assert (why is None) == (page.empty_reason is None)
    assert (why or "") in (page.empty_reason or "")


def test_emptied_fields_replace_the_values_of_the_cell(session: Session, tmp_path: Path) -> None:
    """Options are loaded with the given values, also if there are none; without them, with those of the cell."""
    place = tmp_path / "checkout" / "components" / "depot" / "actions" / "pick" / "pick.mjs"
    place.parent.mkdir()
    place.write_text(PICK)
    session.record_cell("%%pdstep pick --uses depot-pick@0.0.1\nshelf: top\n", cell_id="c2")

    own, given, emptied = (
        actions.fetch_options(session, "pick", "slot", values=values) for values in (None, {"shelf": "low"}, {})
    )

    assert [[option.value for option in page.options] for page in (own, given, emptied)] == [
        ["top-1", "top-2"],
        ["low-1", "low-2"],
        [],
    ]
    assert "Set that prop first." in (emptied.empty_reason or "")


OPTIONS = """
export default {
  key: "depot-list", version: "0.0.1", type: "action",
  props: {
    shelf: { type: "string" },
    page: { type: "string", options: ({ prevContext, page }) => ({ options: [`${page}${prevContext.token ?? ""}`], context: { token: "next" } }) },
    sent: { type: "string", async options() { return [await (await fetch("https://shelves.example.test/")).text()] } },
  },
  async run() {},
};
"""


def test_options_have_the_choices_of_the_notebook(session: Session, tmp_path: Path) -> None:
    """A page has the context of the page before; calls are subject to the outbound policy; exports are those of the last runs."""
    for key, source in (("list", OPTIONS), ("pick", PICK)):
        place = tmp_path / "checkout" / "components" / "depot" / "actions" / key / f"{key}.mjs"
        place.parent.mkdir()
        place.write_text(source)
    session.choose_event(an_event(), "hello")
    session.choose_egress("deny")
    session.record_cell("%%pdstep make\ndef handler(pd):\n    return 'made'\n", cell_id="c0")
    session.record_cell("%%pdstep list --uses depot-list@0.0.1\nshelf: x\n", cell_id="c2")
    session.record_cell("%%pdstep pick --uses depot-pick@0.0.1\nshelf: '{{steps.make.$return_value}}'\n", cell_id="c3")
    session.run(only=frozenset({"make"}))
    fetch = functools.partial(actions.fetch_options, session)

    first = fetch("list", "page")
    second = fetch("list", "page", query=OptionsQuery(1, first.context))

    assert [option.value for page in (first, second) for option in page.options] == ["0", "1next"]
    assert [option.value for option in fetch("pick", "slot").options] == ["made-1", "made-2"]
    assert "the outbound policy is deny" in str(fetch("list", "sent").options)


def test_options_are_those_of_the_environment(session: Session) -> None:
    """In production the account of production is used."""
    session.directory.add_account(
        app="depot", credentials={"api_key": KEY}, external_user_id="ada", environment="production"
    )
    in_development = actions.fetch_options(session, "put", "shelf")
    session.choose_user("ada", "production")

    assert in_development.options == ()
    assert len(actions.fetch_options(session, "put", "shelf").options) == 3


def test_added_props(session: Session) -> None:
    """The action adds props for the current values, with expressions evaluated."""
    connect(session)
    session.record_cell("%%pdstep fill --uses depot-fill-form@0.0.1\ncolumns: '{{1 + 1}}'\n", cell_id="c2")

    added = actions.fetch_additional_props(session, "fill")

    assert [prop.name for prop in added] == ["col_0", "col_1"]


def test_a_new_step_has_a_free_name(session: Session) -> None:
    """The name that is suggested for an action is numbered if other steps have it."""
    name = actions.suggest_step_name(session, "depot-put-thing")
    assert name == "put_thing"
    for number, taken in enumerate((name, f"{name}_1")):
        session.record_cell(f"%%pdstep {taken}\ndef handler(pd):\n    return 1\n", cell_id=f"n{number}")

    assert actions.suggest_step_name(session, "depot-put-thing") == f"{name}_2"


def test_a_step_of_code_has_no_form(session: Session) -> None:
    """Only a step with an action has props to choose."""
    session.record_cell("%%pdstep code\ndef handler(pd): pass\n", cell_id="c2")

    with pytest.raises(RequestError):
        actions.fetch_options(session, "code", "x")


def test_apps_of_action_steps_are_required(session: Session) -> None:
    """An action's app is required of the external user, before and after the action is described."""
    before = session.find_needed_apps()
    actions.describe(session, "depot-put-thing@0.1.2")

    assert before == session.find_needed_apps() == {"depot": ["put"]}


def test_helper_apps_need_no_account(session: Session) -> None:
    """Built-in actions and helper apps need no account."""
    session.record_cell("%%pdstep off --uses filter-end-workflow@0.0.1\n", cell_id="c2")
    session.record_cell("%%pdstep wait --uses helper_functions-delay@0.0.1\n", cell_id="c3")

    assert session.find_needed_apps() == {"depot": ["put"]}


def test_known_apps(session: Session) -> None:
    """The known apps are those of steps, of components, and those added to the project."""
    register_app(session.project, "my_crm", ["token"])

    assert actions.list_apps(session) == ("depot", "my_crm")
    assert session.directory.credential_fields("my_crm") == ("token",)


@pytest.fixture
def unlicensed(make_session: Callable[..., Session], save_notebook: Callable[..., Path], tmp_path: Path) -> Session:
    """A session of a notebook with actions from npm, in a project whose licence setting does not accept them."""
    save_notebook(("c1", "%%pdstep first\ndef handler(pd): return 1\n"), ("c2", PUT))
    (tmp_path / "work.pdkernel.yaml").write_text("actions: npm\n")
    session = make_session("work.ipynb")
    session.choose_event(an_event(), "hello")
    return session


def test_other_steps_run_without_the_licence_of_npm(unlicensed: Session) -> None:
    """Only steps with actions of npm require the licence: other cells run, including built-in actions."""
    unlicensed.record_cell("%%pdstep store --uses data_stores-list-keys@0.0.1 --data-store dataStore=s\n", cell_id="c3")

    code = unlicensed.run(only=frozenset({"first"}))
    own = unlicensed.run(only=frozenset({"store"}))

    assert (code.status, own.status) == ("success", "success")


def test_a_step_of_npm_names_the_command_that_accepts_the_licence(unlicensed: Session) -> None:
    """Running the step, describing it and finding its app have the same error."""
    execution = unlicensed.run(only=frozenset({"put"}))
    with pytest.raises(LicenceError) as described:
        actions.describe(unlicensed, "depot-put-thing@0.1.2")
    with pytest.raises(LicenceError) as searched:
        actions.search(unlicensed, "thing", app="depot")

    assert execution.error is not None
    assert execution.error.code == "licence"
    assert execution.error.message.startswith("Step put: The action depot-put-thing@0.1.2 comes from npm.")
    for error in (execution.error, described.value, searched.value):
        assert "pdkernel project set actions npm --accept-licence" in str(error)


def test_built_in_actions_are_found_without_the_licence(unlicensed: Session) -> None:
    """A search without an app covers local actions."""
    found = actions.search(unlicensed, "end workflow")

    assert "filter-end-workflow" in [component.key for component in found.components]
