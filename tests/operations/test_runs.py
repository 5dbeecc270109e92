"""Requests for runs: steps, external users, pins, and the options of a saved test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.egress import parse_policy
from pdkernel.errors import EventError, RequestError, UnknownStepError
from pdkernel.event import Event
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource
from pdkernel.operations.runs import (
    build_run_request,
    check_test_options,
    list_run_users,
    normalize_test_name,
    parse_pinned_exports,
    select_steps,
    split_names,
)
from pdkernel.storage import Project
from tests.builders import a_block, a_workflow, python_step
from tests.notebook_files import notebook_of

WORKFLOW = a_workflow(*(python_step(name) for name in "abcd"))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, None),
        ({"step": "b"}, {"b"}),
        ({"first": "c"}, {"c", "d"}),
        ({"last": "b"}, {"a", "b"}),
        ({"first": "b", "last": "c"}, {"b", "c"}),
        ({"first": "b", "last": "b"}, {"b"}),
    ],
)
def test_steps_are_selected_by_name_or_range(options: dict[str, str], names: set[str] | None) -> None:
    """A step selects itself, a range selects its steps, and no option selects all."""
    assert select_steps(WORKFLOW, **options) == names


def test_a_range_without_steps_is_refused() -> None:
    """A last step above the first is an error."""
    with pytest.raises(RequestError, match="Step 'a' is above step 'c'"):
        select_steps(WORKFLOW, first="c", last="a")


def test_an_unknown_step_is_refused() -> None:
    """A range that names an unknown step is an error."""
    with pytest.raises(UnknownStepError):
        select_steps(WORKFLOW, first="z")


def test_names_are_separated_by_commas() -> None:
    """Blanks around names and empty names are left out."""
    assert split_names(" ada, ,grace ") == ["ada", "grace"]
    assert split_names(None) == []


def test_users_are_named_or_all(directory: LocalDirectory) -> None:
    """`all` selects the users of the environment; other names are used as they are."""
    for user in ("grace", "ada"):
        directory.add_account(app="slack", credentials={"k": "v"}, external_user_id=user)

    directory.add_account(app="slack", credentials={"k": "v"}, external_user_id="eve", environment="production")

    assert list_run_users("all", directory, "development") == ["ada", "grace"]
    assert list_run_users("all", directory, "production") == ["eve"]
    assert list_run_users("bob, ada", directory, "development") == ["bob", "ada"]


def test_a_user_who_is_named_twice_has_one_run(directory: LocalDirectory) -> None:
    """The workflow runs once for each external user, also for one whose id is given twice."""
    assert list_run_users("bob,ada, bob", directory, "development") == ["bob", "ada"]


def test_an_environment_without_users_is_refused(directory: LocalDirectory) -> None:
    """`all` in an environment without users is an error with the command that creates a user."""
    with pytest.raises(RequestError, match="no external users in production") as caught:
        list_run_users("all", directory, "production")

    assert "pdkernel accounts add" in str(caught.value)


def test_a_list_without_names_is_refused(directory: LocalDirectory) -> None:
    """Commas alone name no user."""
    with pytest.raises(RequestError, match="No external user is named"):
        list_run_users(" , ", directory, "development")


@pytest.mark.parametrize(
    ("text", "exports"),
    [
        ('{"a": 1}', {"a": 1}),
        ("{}", {"$return_value": {}}),
        ("[1]", {"$return_value": [1]}),
        ("null", {"$return_value": None}),
        (b'"x"', {"$return_value": "x"}),
    ],
)
def test_a_pin_is_an_object_of_exports_or_a_return_value(text: str | bytes, exports: dict[str, object]) -> None:
    """An object holds the exports; another value, or an empty object, is the return value."""
    assert parse_pinned_exports(text, label="the pin") == exports


def test_a_pin_that_is_not_json_is_refused() -> None:
    """The error names the pin."""
    with pytest.raises(EventError, match=r"pin\.json is not JSON"):
        parse_pinned_exports("{", label="pin.json")


def test_a_request_has_the_workflow_its_files_and_the_identity(project: Project, tmp_path: Path) -> None:
    """The request has the source's workflow, variables and action source, and the event names the external user."""
    project.variables.set("TOKEN", "abc")
    (tmp_path / ".env").write_text("OWN=1\n")
    source = WorkflowSource(tmp_path / "work.ipynb", "notebook", WORKFLOW, Sidecar(actions=("npm",)))

    request = build_run_request(
        source,
        Event.from_body({}),
        project=project,
        policy=parse_policy("deny"),
        external_user_id="ada",
        environment="production",
        source_argument="work.ipynb",
        pinned_exports={"a": {"x": 1}},
    )

    assert (request.workflow, request.folder, request.source) == (WORKFLOW, tmp_path, "work.ipynb")
    assert request.variables == {"TOKEN": "abc", "OWN": "1"}
    assert request.load_variables is not None
    assert request.load_variables(tmp_path / "other") == {"TOKEN": "abc"}
    assert (request.event.external_user_id, request.event.environment) == ("ada", "production")
    assert (request.external_user_id, request.environment) == ("ada", "production")
    assert (request.action_sources, request.options.pinned_exports) == (("npm",), {"a": {"x": 1}})
    assert (request.options.recording, request.source_path) == (None, source.path)
    assert (request.pause_mode, request.install) == ("skip", True)


def test_a_request_finds_the_workflows_beside_its_source(project: Project, tmp_path: Path) -> None:
    """A step starts the workflow of another notebook in the same folder; given variables are the only ones of both."""
    project.variables.set("TOKEN", "abc")
    notebook_of(tmp_path / "other.ipynb", "%%pdworkflow\nname: Other\n")

    request = build_run_request(
        WorkflowSource(tmp_path / "work.ipynb", "notebook", WORKFLOW),
        Event.from_body({}),
        project=project,
        policy=parse_policy("deny"),
        external_user_id=None,
        environment="development",
        source_argument="work.ipynb",
        variables=lambda _: {},
    )
    found = request.find_workflow("other", request.source_path)

    assert (found and found.workflow.name, request.variables) == ("Other", {})
    assert request.load_variables is not None
    assert request.load_variables(tmp_path) == {}


def test_a_recorded_request_keeps_outbound_calls(project: Project, tmp_path: Path) -> None:
    """A run that can be saved as a test has a recording; pauses, installation and steps are as requested."""
    source = WorkflowSource(tmp_path, "folder", WORKFLOW)

    request = build_run_request(
        source,
        Event.from_body({}),
        project=project,
        policy=parse_policy("deny"),
        external_user_id=None,
        environment="development",
        source_argument=".",
        is_recorded=True,
        pause_mode="wait",
        install=False,
        only_steps=frozenset("a"),
        interface="python",
    )

    assert request.options.recording is not None
    assert (request.pause_mode, request.install, request.options.only_steps, request.interface) == (
        "wait",
        False,
        frozenset("a"),
        "python",
    )


@pytest.mark.parametrize(
    ("name", "plain", "has_several_users", "message"),
    [
        (None, ["NAME"], False, "--plain has no effect without --save-test"),
        ("a b", [], False, "cannot name a test"),
        ("a", [], True, "--save-test saves a single run"),
        ("a", ["NAME"], False, "accepted"),
        (None, [], True, "accepted"),
    ],
)
def test_options_that_save_nothing_are_refused(
    name: str | None, plain: list[str], has_several_users: bool, message: str
) -> None:
    """Names without a test, a name that cannot name a test, and a test of several users are errors before the run."""
    try:
        check_test_options(name, non_secret_names=plain, has_several_users=has_several_users)
        answer = "accepted"
    except RequestError as error:
        answer = error.message

    assert message in answer


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("issue", "issue"),
        (" test_new-issue.py ", "new_issue"),
        ("test_test_x", "test_x"),
        ("1", "1"),
        ("a" * 100, "a" * 100),
    ],
)
def test_the_name_of_a_test(given: str, name: str) -> None:
    """A name is the same with and without `test_`, `.py` and spaces around it; dashes become underscores."""
    assert normalize_test_name(given) == name


@pytest.mark.parametrize("given", ["", "test_", "_a", "a b", "a.b", "é", "../a", "a" * 101, "nul", "COM1"])
def test_what_cannot_name_a_test(given: str) -> None:
    """An empty, long or reserved name, and a name with other characters, is refused."""
    with pytest.raises(RequestError, match="cannot name a test"):
        normalize_test_name(given)


@pytest.mark.parametrize("other", ["first", "last"])
def test_a_step_alone_excludes_a_range(other: str) -> None:
    """A step that runs alone and a first or last step are refused together, instead of one of them without an effect."""
    with pytest.raises(RequestError, match="A step that runs alone excludes --from and --to"):
        select_steps(WORKFLOW, step="b", **{other: "c"})


def test_a_stale_block_decides_for_all_its_branches() -> None:
    """The steps of a stale block without a result are selected, too: the block may take their branch now."""
    workflow = a_workflow(
        a_block("%%pdif triage\nhigh: 'true'\nelse:"),
        python_step("page", options="--in triage.high"),
        a_block("%%pdparallel both --in triage.else\none: always"),
        python_step("mail", options="--in both.one"),
        python_step("last"),
    )

    selected = select_steps(workflow, stale={"triage", "last"}, known={"triage", "page", "last"})

    assert selected == frozenset({"triage", "both", "mail", "last"})


def test_stale_steps_are_selected() -> None:
    """Stale steps are selected by themselves; without one, and together with named steps, the choice is refused."""
    assert select_steps(WORKFLOW, stale={"a", "c"}) == frozenset("ac")
    with pytest.raises(RequestError, match=r"No step is stale\."):
        select_steps(WORKFLOW, stale=set())
    for choice in ("step", "first", "last"):
        with pytest.raises(RequestError, match="--stale chooses the steps by itself"):
            select_steps(WORKFLOW, **{choice: "a"}, stale={"a"})
