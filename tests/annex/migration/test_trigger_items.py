"""What a team must act on for the triggers of a workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdkernel.annex.migration.migration_report import MigrationItem
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.annex.migration.trigger_items import find_trigger_items
from pdkernel.files.definition import Sidecar
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY
from pdkernel.model import Trigger, TriggerType, Workflow


def items(*triggers: Trigger, source: str = "flow", path: Path | None = None, **choices: Any) -> list[MigrationItem]:
    """The items of a workflow with *triggers*."""
    workflow = Workflow("Flow", triggers=triggers)
    return list(find_trigger_items(MigrationSource(source, source, path, workflow, **choices), workflow))


def kinds(*triggers: Trigger) -> list[str]:
    """The kinds of the items."""
    return [item.kind for item in items(*triggers)]


def test_each_trigger_has_its_items() -> None:
    """Two triggers are switched over together; a workflow without one needs a decision."""
    timer, mail = Trigger("schedule", config={"id": "ti_1", "interval_seconds": 60}), Trigger("email")

    assert kinds() == ["no_trigger"]
    assert kinds(timer) == ["schedule"]
    assert kinds(timer, mail) == ["several_triggers", "schedule", "email_address"]
    assert items(timer, mail)[0].message == "The workflow has 2 triggers: ti_1 (schedule), email."


@pytest.mark.parametrize(
    ("type_", "config", "found"),
    [
        ("schedule", {"cron": "0 9 * * *"}, ["schedule"]),
        ("schedule", {"id": "ti_1"}, ["trigger_settings", "schedule"]),
        ("source", {"uses": "github-new-issue@1.0.0"}, ["source", "source_state"]),
        ("source", {"id": "dc_1"}, ["trigger_settings", "source", "source_state"]),
        ("errors", {}, ["error_handler"]),
        ("emit", {"workflows": ["A"]}, ["source"]),
    ],
)
def test_settings_that_git_does_not_hold(type_: TriggerType, config: dict[str, Any], found: list[str]) -> None:
    """The times of a schedule and the component of a source are asked for only if they are not known."""
    assert kinds(Trigger(type_, config=config)) == found


@pytest.mark.parametrize("type_", ["schedule", "source", "email", "errors", "emit"])
def test_the_command_turns_the_trigger_on(type_: TriggerType) -> None:
    """Each trigger that fires by itself is turned on with a command, in which the path is quoted."""
    found = items(Trigger(type_, config={"uses": "a-b@1.0.0", "cron": "* * * * *"}), source="my flows/one")

    assert found[0].command == "pdkernel triggers enable 'my flows/one'"


@pytest.mark.parametrize(
    ("url", "name", "domain"),
    [
        ("https://eoabc.m.pipedream.net/a/b", "https://eoabc.m.pipedream.net/a/b", None),
        ("https://m.pipedream.net", "https://m.pipedream.net", None),
        ("https://Hooks.Acme.example/orders", "https://Hooks.Acme.example/orders", "hooks.acme.example"),
        ("https://evilm.pipedream.net", "https://evilm.pipedream.net", "evilm.pipedream.net"),
        (None, "hi_1 (http)", None),
    ],
)
def test_a_domain_of_the_team(url: str | None, name: str, domain: str | None) -> None:
    """An endpoint is named by its URL if it is known; a host that is not Pipedream's is a domain of the team."""
    endpoint, *domains = items(Trigger(config={"id": "hi_1", ENDPOINT_URL_KEY: url}))

    assert (endpoint.kind, endpoint.name) == ("endpoint", name)
    assert [(item.kind, item.name) for item in domains] == ([] if domain is None else [("custom_domain", domain)])


@pytest.mark.parametrize(
    ("is_folder", "choices", "is_assumed"),
    [
        (True, {}, True),
        (True, {"sidecar": Sidecar(test_users=("ada",))}, True),
        (True, {"sidecar": Sidecar(triggers=(Trigger(),))}, False),
        (True, {"has_api_settings": True}, False),
        (False, {}, False),
    ],
)
def test_assumed_settings_are_to_be_checked(
    tmp_path: Path, is_folder: bool, choices: dict[str, Any], is_assumed: bool
) -> None:
    """Git does not hold how an endpoint authorizes and responds: `pdkernel.yaml`, the API or a notebook does."""
    path = tmp_path if is_folder else tmp_path / "flow.ipynb"

    (endpoint,) = items(Trigger(), path=path, **choices)

    assert ("check them in pdkernel.yaml" in endpoint.message) == is_assumed
