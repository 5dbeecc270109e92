"""The table of batches."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select

from pdkernel.accounts import LocalDirectory
from pdkernel.storage import Batch, Project
from pdkernel.storage.schema import metadata
from pdkernel.storage.short_lived_tokens import ConnectToken, TokenTerms


def a_batch(project: Project, number: int = 1) -> Batch:
    """A stored batch, later with a higher number."""
    at = project.clock.now() + timedelta(hours=number)
    batch = Batch(f"batch_{number}", "p_1", "schedule", "Report", "development", at)
    project.batches.add(batch)
    return batch


def test_a_batch_is_stored_once(project: Project) -> None:
    """A second process that stores the same tick changes nothing."""
    batch = a_batch(project)
    assert project.batches.record_page(batch, "ada", {})

    project.batches.add(batch)

    assert project.batches.find(batch.id) == replace(batch, listed_to="ada")


def test_a_page_is_recorded_once(project: Project) -> None:
    """The write of a second server with the same batch is refused, and stores no user twice."""
    batch = a_batch(project)
    skips = {"bob": ("slack", "github"), "zoe": ()}

    recorded = [project.batches.record_page(batch, "zoe", skips) for _ in range(2)]

    assert recorded == [True, False]
    assert project.batches.list_skips(batch.id) == skips


def test_a_late_page_does_not_follow_the_end(project: Project) -> None:
    """A server that was frozen cannot go on with a batch that another one has listed."""
    batch = a_batch(project)
    assert project.batches.set_state(batch, "running")

    assert not project.batches.record_page(batch, "ada", {})
    assert not project.batches.set_state(batch, "done")


def test_a_retry_has_the_next_round(project: Project) -> None:
    """So its end is reported again; of two people who start it, one is first."""
    batch = replace(a_batch(project), state="listing")
    project.batches.set_state(batch, "done")
    done = project.batches.find(batch.id)
    assert done is not None

    started = [project.batches.set_state(done, "retrying") for _ in range(2)]

    again = project.batches.find(batch.id)
    assert again is not None
    assert (started, again.round, again.state) == ([True, False], 1, "retrying")


def test_open_batches_are_listed_oldest_first(project: Project) -> None:
    """Those of commands, and those that are done, are not."""
    first, second, third = (a_batch(project, number) for number in (1, 2, 3))
    project.batches.set_state(second, "done")
    project.batches.add(replace(third, id="batch_terminal", origin="terminal"))

    assert [each.id for each in project.batches.list_open()] == [first.id, third.id]
    assert [each.id for each in project.batches.list_newest(limit=2)] == ["batch_terminal", third.id]
    assert [each.id for each in project.batches.list_done(third.at)] == [second.id]


def test_what_a_killed_command_left_expires(project: Project) -> None:
    """A batch of a command has expired in whatever state it is, and that of a server only if it is done."""
    served, command = a_batch(project, 1), replace(a_batch(project, 2), id="batch_terminal", origin="terminal")
    project.batches.add(command)

    expired = project.batches.list_done(command.at + timedelta(days=1))

    assert served.state == command.state == "listing"
    assert [each.id for each in expired] == ["batch_terminal"]


def test_a_deleted_user_is_forgotten(project: Project) -> None:
    """No table keeps the id of a user whom the environment does not have any more."""
    batch = a_batch(project)
    LocalDirectory(project).add_account(app="github", credentials={"token": "x"}, external_user_id="bob")
    project.batches.record_page(batch, "bob", {"bob": ("slack",)})
    now = project.clock.now()
    terms = TokenTerms("session")
    project.connect_tokens.add(ConnectToken("digest", "bob", "development", now, now + timedelta(hours=4), terms))

    project.accounts.delete_user("bob", "development")

    assert find_tables_of("bob", project) == []


def find_tables_of(user: str, project: Project) -> list[str]:
    """The tables of the project that have a row about the user."""
    found = [table for table in metadata.sorted_tables if "external_user" in table.columns]
    assert len(found) >= 5
    with project.sqlalchemy_engine.connect() as connection:
        return [
            table.name for table in found if connection.execute(select(table).filter_by(external_user=user)).first()
        ]


def test_a_batch_is_removed_with_its_users(project: Project) -> None:
    """Nothing of it stays."""
    batch = a_batch(project)
    project.batches.record_page(batch, "bob", {"bob": ("slack",)})

    project.batches.remove(batch.id)

    assert project.batches.find(batch.id) is None
    assert project.batches.list_skips(batch.id) == {}
