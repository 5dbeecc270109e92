"""Webhooks of deployed sources move to another endpoint, and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pdkernel.accounts.sdk import Sdk
from pdkernel.accounts.webhook_migration import WebhookMigration, WebhookMigrator, check_target_url
from pdkernel.errors import RequestError
from pdkernel.storage import Project
from tests.accounts.upstream import Upstream

TO = "https://flows.example.test/eo1"
OWN, OLD = "https://mine.example.test/hook", "https://eoabc123.m.pipedream.net"


@pytest.fixture
def migrator(home: Project, upstream: Upstream) -> WebhookMigrator:
    """Moves webhooks of the stand-in's two sources of ada."""
    return WebhookMigrator(Sdk(upstream.login), home.settings)


def plan(
    migrator: WebhookMigrator, *source_ids: str, to: str = TO, replaced: tuple[str, ...] = ()
) -> dict[str, WebhookMigration]:
    """The planned migrations by source."""
    found = migrator.plan_migrations(
        ["ada"], "development", target_url=to, replaced_urls=replaced, source_ids=source_ids
    )
    return {each.id: each for each in found}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([OWN, OLD], (OWN, TO)),
        ([OLD, "https://M.Pipedream.net/x"], (TO,)),
        (["https://evilm.pipedream.net"], ("https://evilm.pipedream.net",)),
        ([f"{OLD}:443"], (TO,)),
        ([OWN], (OWN,)),
        ([OWN, TO], (OWN, TO)),
        ([TO, OLD], (TO,)),
        ([TO, OWN], (TO, OWN)),
        (["http://[", OLD], ("http://[", TO)),
    ],
)
def test_the_webhooks_that_are_replaced(
    migrator: WebhookMigrator, upstream: Upstream, before: list[str], after: tuple[str, ...]
) -> None:
    """Webhooks at Pipedream's endpoints are replaced by one; the others stay, and a source without such a webhook too."""
    upstream.webhooks["dc_1"] = before

    found = plan(migrator)["dc_1"]

    assert (found.urls_before, found.urls_after) == (tuple(before), after)
    assert found.has_changes == (tuple(before) != after)


def test_sources_of_each_user(migrator: WebhookMigrator) -> None:
    """The sources of all users are planned, with the user and the name of each."""
    found = migrator.plan_migrations(["ada", "bob"], "development", target_url=TO, replaced_urls=())

    assert [(each.id, each.external_user_id, each.name) for each in found] == [
        ("dc_1", "ada", "Source dc_1"),
        ("dc_2", "ada", "Source dc_2"),
    ]


def test_a_url_that_is_named_is_replaced(migrator: WebhookMigrator) -> None:
    """A webhook elsewhere is replaced if its URL is given."""
    assert plan(migrator, replaced=(OWN,))["dc_1"].urls_after == (TO,)


def test_a_source_that_is_named_gets_the_webhook(migrator: WebhookMigrator, upstream: Upstream) -> None:
    """A named source without a webhook to replace gets one, once; the other sources are not part of the plan."""
    assert [each.urls_after for each in plan(migrator, "dc_2").values()] == [(TO,)]
    upstream.webhooks["dc_2"] = [TO, OWN]
    assert [each.urls_after for each in plan(migrator, "dc_2").values()] == [(TO, OWN)]


def test_sources_of_all_pages(migrator: WebhookMigrator, upstream: Upstream) -> None:
    """The API returns three sources a page."""
    upstream.webhooks = {f"dc_{number}": [OLD] for number in range(7)}

    assert list(plan(migrator)) == [f"dc_{number}" for number in range(7)]
    listed = [each["headers"]["x-pd-environment"] for each in upstream.asked if "deployed-triggers" in each["path"]]
    assert set(listed) == {"development"}


def test_a_plan_changes_nothing(migrator: WebhookMigrator, upstream: Upstream) -> None:
    """Only `apply` sends a change, and its undo restores the webhooks."""
    found = plan(migrator)["dc_1"]
    assert upstream.webhooks["dc_1"] == [OWN, OLD]

    migrator.apply(found)
    assert upstream.webhooks["dc_1"] == [OWN, TO]
    (undone,) = migrator.plan_undo()
    assert (undone.urls_before, undone.urls_after) == ((OWN, TO), (OWN, OLD))

    migrator.undo(undone)
    assert upstream.webhooks["dc_1"] == [OWN, OLD]
    assert migrator.plan_undo() == []


def test_the_undo_of_two_moves_leads_to_the_first_webhooks(migrator: WebhookMigrator, upstream: Upstream) -> None:
    """Of two moves in a row the first webhooks are restored; a move after another change starts anew."""
    migrator.apply(plan(migrator)["dc_1"])
    migrator.apply(plan(migrator, to=f"{TO}2", replaced=(TO,))["dc_1"])
    chained = [each.urls_after for each in migrator.plan_undo()]
    upstream.webhooks["dc_1"] = [OLD]
    changed = [each.urls_after for each in migrator.plan_undo()]
    migrator.apply(plan(migrator)["dc_1"])

    assert (chained, changed) == ([(OWN, OLD)], [(OLD,)])
    assert [each.urls_after for each in migrator.plan_undo()] == [(OLD,)]


def test_the_undo_of_one_source_leaves_the_others(migrator: WebhookMigrator, home: Project, upstream: Upstream) -> None:
    """Each move is stored with its source, its environment and its project of Connect."""
    one, two = plan(migrator, "dc_1")["dc_1"], plan(migrator, "dc_2")["dc_2"]
    for move in (one, two, replace(one, environment="production")):
        migrator.apply(move)
    sent = [each["headers"]["x-pd-environment"] for each in upstream.asked if each["method"] == "PUT"]
    other = WebhookMigrator(Sdk(replace(upstream.login, project_id="proj_other")), home.settings)

    first = migrator.plan_undo()[0]
    migrator.undo(first)

    assert sent == ["development", "development", "production"]
    assert other.plan_undo() == []
    assert [each.key for each in migrator.plan_undo()] == [("dc_2", "development"), ("dc_1", "production")]


def test_the_moves_of_another_project_stay(migrator: WebhookMigrator, home: Project, upstream: Upstream) -> None:
    """A move in one project of Connect does not forget the moves of another."""
    home.settings.set("moved_triggers", {"proj_other": [{"kept": True}]})

    migrator.apply(plan(migrator)["dc_1"])

    stored = home.settings.get("moved_triggers")
    assert isinstance(stored, dict)
    assert stored["proj_other"] == [{"kept": True}]
    assert len(migrator.plan_undo()) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://flows.example.test", "is not the URL of an endpoint"),
        ("https://", "is not the URL of an endpoint"),
        ("https://user@flows.example.test", "is not the URL of an endpoint"),
        ("https://flows.example.test/a b", "is not the URL of an endpoint"),
        ("https://flows.example.test/é", "is not the URL of an endpoint"),
        ("https://flows.example.test/{x}", "is not the URL of an endpoint"),
        ("https://flows.example.test:99999", "is not the URL of an endpoint"),
        ("http://127.0.0.1:8765/eo1", "is reachable from this machine only"),
    ],
)
def test_a_target_that_pipedream_cannot_call(url: str, message: str) -> None:
    """Pipedream needs an http or https URL without a user and without odd letters, at a public address."""
    with pytest.raises(RequestError, match=message):
        check_target_url(url, api_url="https://api.pipedream.com")


def test_a_target_that_pipedream_can_call() -> None:
    """A public URL is returned as it is; a stand-in of the API on this machine can call this machine."""
    assert check_target_url(TO, api_url="https://api.pipedream.com") == TO
    local = "http://127.0.0.1:8765/eo1"
    assert check_target_url(local, api_url="http://127.0.0.1:9000") == local
