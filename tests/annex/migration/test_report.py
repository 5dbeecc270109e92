"""The report on a move: seeded omissions, sums, shared resources and the order of the move."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts.remote import RemoteDirectory
from pdkernel.accounts.sdk import Sdk, WorkflowApi
from pdkernel.actions import Catalog
from pdkernel.annex.migration.migration_report import GROUP_HEADINGS, GROUP_OF_KIND, MigrationReport, WorkflowMigration
from pdkernel.annex.migration.report import ReportSettings, build_migration_report
from pdkernel.annex.migration.sources import MigrationSource, read_sources
from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.storage import Project
from tests.accounts.upstream import Upstream, running_upstream
from tests.annex.migration.omissions import (
    API_WORKFLOW,
    API_WORKFLOW_ID,
    CUSTOM_DOMAIN,
    OMISSIONS,
    WORKFLOWS,
    Omission,
    node,
    write_project,
    write_workflow,
)
from tests.files.definition.builders import NODE, synced
from tests.notebook_files import notebook_of


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The API of a real project."""
    with running_upstream() as api:
        yield api


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[ReportSettings]:
    """A project that is logged in at the stand-in of the API."""
    with Project.open(tmp_path_factory.mktemp("project") / ".pdkernel", clock=ManualClock()) as project:
        catalog = Catalog.for_project(project, environ={})
        yield ReportSettings(
            directory=RemoteDirectory(project, Sdk(upstream.login)),
            catalog=lambda _: catalog,
            variables=lambda _: {},
            environment="development",
            clock=project.clock,
        )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, settings: ReportSettings) -> MigrationReport:
    """The report on the project of 40 workflows."""
    root = tmp_path_factory.mktemp("synced")
    write_project(root)
    upstream.workflows[API_WORKFLOW_ID] = API_WORKFLOW
    api = WorkflowApi(Sdk(upstream.login))
    return build_migration_report(read_sources([str(root), API_WORKFLOW_ID], api.fetch_workflow), settings)


def row_of(report: MigrationReport, name: str) -> WorkflowMigration:
    """The row of the workflow with that name."""
    (row,) = (row for row in report.workflows if row.name == name)
    return row


def report_on(settings: ReportSettings, *paths: Path) -> MigrationReport:
    """The report on folders, without the API."""
    return build_migration_report(read_sources([str(path) for path in paths], lambda _: API_WORKFLOW), settings)


@pytest.mark.parametrize("name", OMISSIONS)
def test_a_seeded_omission_is_named(report: MigrationReport, name: str) -> None:
    """The workflow's row has an item of the right kind that names what is left out."""
    omission = OMISSIONS[name]

    items = [item for item in row_of(report, name).items if item.kind == omission.kind]

    assert any(omission.says in f"{item.name} {item.message}" for item in items), row_of(report, name).items


def test_a_domain_of_the_team_is_named(report: MigrationReport) -> None:
    """An endpoint that the API has at another domain than Pipedream's is named: the 25th omission."""
    items = row_of(report, "Called over the API").items

    assert [item.name for item in items if item.kind == "custom_domain"] == [CUSTOM_DOMAIN]
    assert len(OMISSIONS) + 1 == 25


def test_totals_are_the_sums_of_the_rows(report: MigrationReport) -> None:
    """Workflows by state, steps, and items by group and by kind are counted once each."""
    written = report.to_json()
    rows, totals = written["workflows"], written["totals"]

    assert totals["workflows"] == len(rows) == WORKFLOWS
    assert totals["runs"] + totals["needs_answers"] + totals["unreadable"] == WORKFLOWS
    assert Counter(row["state"] for row in rows) == +Counter(
        {state: totals[state] for state in ("runs", "needs_answers", "unreadable")}
    )
    assert totals["steps"] == sum(len(row["steps"]) for row in rows)
    assert totals["ready"] == sum(len(row["ready"]) for row in rows)
    items = [item for row in rows for item in row["items"]]
    for group in GROUP_HEADINGS:
        assert (
            totals[group] == sum(row["counts"][group] for row in rows) == sum(item["group"] == group for item in items)
        )
    assert written["kinds"] == Counter(item["kind"] for item in items)
    assert sum(written["kinds"].values()) == sum(totals[group] for group in GROUP_HEADINGS)


def test_a_plain_workflow_runs_as_it_is(report: MigrationReport) -> None:
    """A workflow that leaves nothing out has its endpoint to switch over and its events to save, and no answer to give."""
    row = row_of(report, "Plain 00")

    assert (row.state, row.ready) == ("runs", ("work",))
    assert Counter(item.kind for item in row.items) == {"endpoint": 1, "events": 1}


def test_a_step_that_needs_an_answer_is_not_ready(report: MigrationReport) -> None:
    """Ready steps are those that no answer concerns."""
    assert row_of(report, "Node variable").ready == ()
    assert row_of(report, "Branches").ready == ()
    assert row_of(report, "Node files").ready == ("work",)


def test_a_file_that_cannot_be_read_is_one_row(tmp_path: Path, settings: ReportSettings) -> None:
    """A workflow with broken YAML is a row with the reason; the other workflows are reported."""
    write_workflow(tmp_path, "Good", Omission("events", ""))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "workflow.yaml").write_text("name: [", encoding="utf-8")

    report = report_on(settings, tmp_path)

    assert sorted((row.name, row.state) for row in report.workflows) == [("Good", "runs"), ("bad", "unreadable")]
    assert "workflow.yaml" in row_of(report, "bad").items[0].message


def test_a_workflow_that_cannot_be_checked_is_one_row(tmp_path: Path, settings: ReportSettings) -> None:
    """A workflow whose check is refused, here for its `.env`, is a row with the reason; the other workflows are reported."""
    write_workflow(tmp_path, "Good", Omission("events", ""))
    write_workflow(tmp_path, "Bad", Omission("events", ""))

    def refuse(source: MigrationSource) -> Mapping[str, str]:
        if source.name == "Bad":
            raise RequestError("The .env, line 1, is not NAME=VALUE.", fix="Correct the line.")
        return {}

    report = report_on(replace(settings, variables=refuse), tmp_path)

    assert sorted((row.name, row.state) for row in report.workflows) == [("Bad", "unreadable"), ("Good", "runs")]
    assert row_of(report, "Bad").items[0].message == "The .env, line 1, is not NAME=VALUE. Correct the line."


def test_an_id_that_the_workspace_does_not_have_is_one_row(upstream: Upstream, settings: ReportSettings) -> None:
    """A wrong id does not stop the report on the other workflows."""
    upstream.workflows[API_WORKFLOW_ID] = API_WORKFLOW
    api = WorkflowApi(Sdk(upstream.login))

    report = build_migration_report(read_sources(["p_Wrong12", API_WORKFLOW_ID], api.fetch_workflow), settings)

    assert [(row.id, row.state) for row in report.workflows] == [
        ("p_Wrong12", "unreadable"),
        (API_WORKFLOW_ID, "runs"),
    ]


def test_a_resource_of_several_workflows_is_saved_once(tmp_path: Path, settings: ReportSettings) -> None:
    """A data store that two workflows use is listed once, with both names."""
    for name in ("One", "Two"):
        write_workflow(tmp_path, name, OMISSIONS["Store by id"])

    report = report_on(settings, tmp_path)

    assert [(each.name, each.workflows) for each in report.shared if each.kind == "data_store"] == [
        ("ds_4kPq7a", ("One", "Two"))
    ]
    assert report.totals()["lost"] == sum(row.count("lost") for row in report.workflows) == 4


def test_what_is_switched_off_there_comes_before_what_is_switched_on_here(report: MigrationReport) -> None:
    """Schedules and sources end at Pipedream, then data is copied again, then triggers are turned on here."""
    titles = [step.title for step in report.order]

    off = next(place for place, title in enumerate(titles) if title.startswith("Turn off at Pipedream"))
    copy = titles.index("Copy data stores and files again")
    on = titles.index("Turn on here")
    assert off < copy < on
    assert {"Schedule: ti_aaaaa1 (schedule)", "Source with state: dc_aaaaa1 (source)"} <= set(
        report.order[off].subjects
    )
    assert all(command.startswith("pdkernel triggers enable ") for command in report.order[on].commands)


def test_a_called_workflow_moves_before_its_callers(report: MigrationReport) -> None:
    """The endpoint that another workflow of the report calls gets its new URL first."""
    urls = next(step for step in report.order if step.title.startswith("Give callers")).subjects

    assert urls.index("Called over the API") < urls.index("Caller")


def test_a_circle_of_calls_keeps_the_given_order(tmp_path: Path, settings: ReportSettings) -> None:
    """Two workflows that call each other have an order, and neither is left out."""
    ids = {"A": "p_0000001", "B": "p_0000002"}
    for name, other in (("A", "B"), ("B", "A")):
        write_workflow(tmp_path, name, Omission("events", "", files=node(f'return $.flow.trigger("{ids[other]}");')))
    for folder, name in zip(sorted(tmp_path.iterdir()), ids, strict=True):
        folder.rename(tmp_path / f"{name.lower()}-{ids[name]}")

    report = report_on(settings, tmp_path)

    assert next(step for step in report.order if step.title.startswith("Give callers")).subjects == ("A", "B")


def test_workflows_with_one_name_have_all_their_calls(tmp_path: Path, settings: ReportSettings) -> None:
    """A workflow that the first of two workflows with one name calls moves before both."""
    for folder, name, code in (
        ("1", "A", 'return $.flow.trigger("p_0000003");'),
        ("2", "A", "return 1;"),
        ("3", "B", "return 2;"),
    ):
        write_workflow(tmp_path, folder, Omission("events", "", files=node(code), top={"name": name}))
        (written,) = tmp_path.glob(f"{folder}-*")
        written.rename(tmp_path / f"{folder}-p_000000{folder}")

    report = report_on(settings, tmp_path)

    assert next(step for step in report.order if step.title.startswith("Give callers")).subjects == ("B", "A")


def test_an_id_adds_the_settings_of_triggers_to_the_folder(tmp_path: Path, settings: ReportSettings) -> None:
    """A workflow that is given as a folder and as an id is one row, with the times of its schedule."""
    write_workflow(tmp_path, "Nightly", OMISSIONS["Schedule"])
    (folder,) = tmp_path.iterdir()
    folder.rename(tmp_path / "nightly-p_Night01")
    timer = {"cron": {"cron": "0 9 * * *", "timezone": "Europe/Berlin"}}
    item = {**API_WORKFLOW, "triggers": [{"id": "ti_aaaaa1", "configured_props": timer}]}

    for sources in ([str(tmp_path), "p_Night01"], ["p_Night01", str(tmp_path)]):
        report = build_migration_report(read_sources(sources, lambda _: item), settings)

        (row,) = report.workflows
        assert (row.name, row.state) == ("Nightly", "runs")
        assert not any(each.kind == "trigger_settings" for each in row.items)


def test_a_workflow_without_a_trigger_needs_an_answer(tmp_path: Path, settings: ReportSettings) -> None:
    """In Git and over the API, the report on a workflow without a trigger mentions it, and has no endpoint."""
    write_workflow(tmp_path, "By hand", Omission("no_trigger", "", triggers=()))
    item = {**API_WORKFLOW, "triggers": []}

    report = build_migration_report(read_sources([str(tmp_path), "p_Api1234"], lambda _: item), settings)

    for row in report.workflows:
        assert "no_trigger" in [each.kind for each in row.items]
        assert "endpoint" not in [each.kind for each in row.items]


def test_every_kind_has_a_group() -> None:
    """The groups of the kinds are the headings of the report."""
    assert set(GROUP_OF_KIND.values()) == set(GROUP_HEADINGS)


def test_commands_of_the_move_name_what_was_given(report: MigrationReport) -> None:
    """Events of a repository are saved by one command, those of ids by another; data by one for all stores."""
    events = next(step for step in report.order if step.title == "Save events").commands
    data = next(step for step in report.order if step.title == "Copy data stores and files").commands

    assert [command.split()[-1] for command in events] == [events[0].split()[3], "FOLDER"]
    assert events[1] == f"pdkernel migrate events {API_WORKFLOW_ID} --to FOLDER"
    assert data == ("pdkernel migrate data ds_4kPq7a --files --to rescued",)


def test_a_workflow_that_is_turned_off_is_not_turned_on(tmp_path: Path, settings: ReportSettings) -> None:
    """An inactive workflow with a schedule has its row, and no command of the move turns it on."""
    write_workflow(tmp_path, "Off", Omission("inactive", "", triggers=("ti_aaaaa1",), top={"inactive": True}))

    report = report_on(settings, tmp_path)

    assert {item.kind for item in report.workflows[0].items} >= {"inactive", "schedule"}
    assert not any("triggers enable" in command for step in report.order for command in step.commands)
    assert not any(step.title.startswith("Turn off at Pipedream") for step in report.order)


def test_a_workflow_that_cannot_be_read_has_no_open_answer(tmp_path: Path, settings: ReportSettings) -> None:
    """The step of the open answers lists the workflows that have some; a disabled step is not ready and needs nothing."""
    disabled = {"namespace": "off", "uses": "nothing-here@1.0.0", "disabled": True}
    write_workflow(
        tmp_path, "Open", Omission("action", "", steps=({"namespace": "act", "uses": "nothing-here@1.0.0"},))
    )
    write_workflow(tmp_path, "Good", Omission("events", "", steps=(disabled,), files=node("return 1;")))
    synced(tmp_path / "bad", "name: [")

    report = report_on(settings, tmp_path)

    answers = next(step for step in report.order if step.title == "Answer what is open")
    assert [subject.partition(":")[0] for subject in answers.subjects] == ["Open"]
    assert row_of(report, "Good").ready == ("work",)


def test_the_command_for_events_quotes_the_path(tmp_path: Path, settings: ReportSettings) -> None:
    """A path with a blank is one argument; the URL of a workflow that is turned off is left out."""
    root = tmp_path / "my flows"
    write_workflow(root, "Off", Omission("inactive", "", top={"inactive": True}))

    order = report_on(settings, root).order

    assert next(step for step in order if step.title == "Save events").commands == (
        f"pdkernel migrate events {shlex.quote(str(root))}",
    )
    assert not any(step.title.startswith("Give callers") for step in order)


def test_the_command_for_data_names_stores_with_spaces(tmp_path: Path, settings: ReportSettings) -> None:
    """The name of a store is quoted; a store whose name is unknown adds no word to the command."""
    notebook = tmp_path / "count.ipynb"
    notebook_of(
        notebook,
        "%%pdstep count --data-store \"kept=My store\"\ndef handler(pd):\n    pd.inputs['data_store']['n'] = 1\n",
    )

    report = build_migration_report(read_sources([str(notebook)], lambda _: {}), settings)

    data = next(step for step in report.order if step.title == "Copy data stores and files")
    assert data.commands == ("pdkernel migrate data 'My store' --to rescued",)
    assert data.subjects == ("count: My store", "count: a data store without a name")


def test_files_alone_are_saved_without_a_name_of_a_store(tmp_path: Path, settings: ReportSettings) -> None:
    """The command for the file store names no data store."""
    write_workflow(tmp_path, "Files", Omission("file_store", "", files=node("return await $.files.dir();")))

    data = next(step for step in report_on(settings, tmp_path).order if step.title == "Copy data stores and files")

    assert data.commands == ("pdkernel migrate data --files --to rescued",)


def test_the_file_beside_a_workflow_has_its_users_and_answers(tmp_path: Path, settings: ReportSettings) -> None:
    """The test users of `pdkernel.yaml` are checked, and an account that is not answered there is an open answer."""
    yaml = "schema: workflow/2022.04\nname: Chat\ntriggers:\n- id: hi_1\nsteps:\n"
    for name in ("say", "tell"):
        yaml += f"- namespace: {name}\n  runtime: nodejs20.x\n  uses: ./{name}/entry.js\n  props:\n    slack:\n      authProvisionId: apn_Git\n"
    answers = (
        "test_users: [zoe]\nsteps:\n  say:\n    accounts:\n      slack: external_user\n"
        "  tell:\n    accounts:\n      slack: unanswered\n"
    )
    synced(tmp_path / "chat", yaml, say__entry_DOT_js=NODE, tell__entry_DOT_js=NODE, pdkernel_DOT_yaml=answers)

    items = report_on(settings, tmp_path).workflows[0].items

    assert {item.name for item in items if item.kind == "external_user"} == {"zoe"}
    assert [item.name for item in items if item.kind == "account"] == ["tell.slack"]


def test_accounts_whose_credentials_connect_withholds(tmp_path: Path) -> None:
    """Each app of external users whose credentials are withheld is an item with the users; other apps are not."""
    code = """
        props: { github: { type: "app", app: "github" }, slack: { type: "app", app: "slack" } },
    """
    write_workflow(tmp_path, "Both", Omission("account", "", files=node("return 1;", code.strip())))
    with running_upstream() as api, Project.open(tmp_path / ".pdkernel", clock=ManualClock()) as project:
        api.set(held=[("apn_held2", "bob", "github")])
        catalog = Catalog.for_project(project, environ={})
        directory = RemoteDirectory(project, Sdk(api.login))
        settings = ReportSettings(directory, lambda _: catalog, lambda _: {}, "development", project.clock)

        items = report_on(settings, tmp_path).workflows[0].items

    withheld = [item for item in items if "withholds" in item.message]
    assert [item.name for item in withheld] == ["github"]
    assert "2 github accounts of external users (ada, bob)" in withheld[0].message
