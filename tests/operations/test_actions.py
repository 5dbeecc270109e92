"""The search for pre-built actions, and the description of an action."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ActionNotFoundError, ActionSourceError
from pdkernel.operations.actions import describe_action, search_actions
from pdkernel.storage import Project
from tests.actions.checkout import write_checkout


@pytest.fixture
def catalog(project: Project) -> Catalog:
    """The project's actions: the built-in actions only."""
    return Catalog.for_project(project, environ={})


@pytest.fixture
def checkout(catalog: Catalog, tmp_path: Path) -> Catalog:
    """The project's actions with those of a folder of components."""
    write_checkout(tmp_path / "checkout")
    catalog.settings.set_sources(["checkout"], base=tmp_path)
    return catalog


async def test_a_match_needs_no_advice(checkout: Catalog) -> None:
    """Words and an app find actions, and there is no advice."""
    found = await search_actions(checkout, "thing", app="depot")

    assert [component.key for component in found.components] == ["depot-put-thing"]
    assert found.advice == ""


@pytest.mark.parametrize(
    ("app", "advice"),
    [
        ("slack", "npm has slack: pdkernel project set actions npm --accept-licence"),
        (None, "For more: pdkernel project set actions npm --accept-licence"),
    ],
)
async def test_built_in_actions_only(catalog: Catalog, app: str | None, advice: str) -> None:
    """In a project with built-in actions only, the advice has the command for more actions."""
    found = await search_actions(catalog, "zebra", app=app)

    assert found.components == ()
    assert found.advice == f"No action matches: this project runs built-in actions only. {advice}"


async def test_npm_is_searched_further_with_an_app(catalog: Catalog) -> None:
    """Without an app, npm's index of earlier apps is searched, and the advice is to name an app."""
    catalog.settings.accept_licence()
    catalog.settings.set_sources(["npm"], base=Path())

    assert "To search another app: --app SLUG" in (await search_actions(catalog, "zebra")).advice


async def test_a_search_may_stay_offline(project: Project) -> None:
    """Without an installation, the search for an app of npm sends no request."""
    catalog = Catalog.for_project(project, environ={"npm_config_registry": "http://127.0.0.1:9"})
    catalog.settings.accept_licence()
    catalog.settings.set_sources(["npm"], base=Path())

    assert (await search_actions(catalog, "message", app="slack", install=False)).components == ()
    with pytest.raises(ActionSourceError):
        await search_actions(catalog, "message", app="slack")


async def test_a_search_is_limited(checkout: Catalog) -> None:
    """At most so many actions are returned, the best matches first."""
    everything = await search_actions(checkout, "")

    assert (await search_actions(checkout, "", limit=2)).components == everything.components[:2]
    assert len(everything.components) > 2


async def test_a_folder_has_no_more_actions(checkout: Catalog) -> None:
    """A folder is searched completely."""
    assert (await search_actions(checkout, "zebra")).advice == "No action matches."


async def test_an_action_is_described_by_its_key(
    checkout: Catalog, project: Project, directory: LocalDirectory
) -> None:
    """The newest version and its props are found by the key."""
    async with await WorkflowEngine.start(project, directory, max_active_runs=1) as engine:
        component, description = await describe_action(engine, "depot-put-thing", catalog=checkout)
        with pytest.raises(ActionNotFoundError):
            await describe_action(engine, "depot-nothing", catalog=checkout)

    assert component.uses == "depot-put-thing@0.1.2"
    assert [prop.name for prop in description.props][:2] == ["shelf", "thing"]


async def test_an_action_of_a_notebooks_own_source_is_described(
    catalog: Catalog, project: Project, directory: LocalDirectory, tmp_path: Path
) -> None:
    """The sources of a notebook are searched instead of those of the project."""
    write_checkout(tmp_path / "own")
    own = catalog.with_sources(["own"], base=tmp_path)

    async with await WorkflowEngine.start(project, directory, max_active_runs=1) as engine:
        component, _ = await describe_action(engine, "depot-put-thing", catalog=own)
        with pytest.raises(ActionNotFoundError):
            await describe_action(engine, "depot-put-thing")

    assert component.uses == "depot-put-thing@0.1.2"
