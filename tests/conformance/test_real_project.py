"""The official SDKs against a server that is logged in to another server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from pdkernel.storage import Login, Project
from tests.conformance.driving import Outcome, drive
from tests.conformance.sdks import NEWEST, Sdk
from tests.conformance.site import STEP, TRIGGER, Site, copy_project
from tests.notebook_files import notebook_of
from tests.serve_process import serving

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def behind(served: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A second project that serves the workflow, with the first as its real project."""
    folder = tmp_path_factory.mktemp("behind")
    notebook = notebook_of(folder / "greet.ipynb", TRIGGER, STEP)
    with Project.open(folder / ".pdkernel") as project:
        first = served.plain
        project.login.save(Login(served.client_id, served.client_secret, first["project_id"], base_url=first["url"]))
        project.set_plan("free")
    options = (str(notebook), "--egress", "stand-in=slack")
    with ExitStack() as stack:
        secure, said = stack.enter_context(serving(copy_project(folder), *options, "--tls"))
        plain, _ = stack.enter_context(serving(folder, *options))
        authority = said.partition("NODE_EXTRA_CA_CERTS=")[2].split()[0]
        yield replace(served, plain=_deploys(plain, served), secure=_deploys(secure, served), authority=authority)


def _deploys(given: dict[str, Any], served: Site) -> dict[str, Any]:
    """*given*, with the id of the first server's workflow: sources are deployed at the first server."""
    [mine], [theirs] = given["workflows"], served.plain["workflows"]
    return {**given, "workflows": [{**mine, "id": theirs["id"]}]}


@pytest.mark.parametrize("sdk", NEWEST, ids=str)
@pytest.mark.timeout(300)
def test_sdk_with_one_other_address(behind: Site, driven: Callable[[Sdk], Mapping[str, Outcome]], sdk: Sdk) -> None:
    """With another base URL every call works as at the real project, except for a key's assertion."""
    at_first = {name: outcome.ok for name, outcome in driven(sdk).items()}

    outcomes = drive(sdk, behind)
    # an SDK signs for the address that it calls, and the real project expects its own address
    by_key, signs = outcomes.pop("private_key"), at_first.pop("private_key")

    assert {name: outcome.detail for name, outcome in outcomes.items() if outcome.ok is False} == {}
    assert {name: outcome.ok for name, outcome in outcomes.items()} == at_first
    assert by_key.ok is (False if signs else None)
