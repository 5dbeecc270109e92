"""Every `uses` of real synced workflows runs, or the message names a source that can run it."""

from __future__ import annotations

import pytest

from pdkernel.actions import ActionReference, Catalog
from pdkernel.errors import ActionNotFoundError
from pdkernel.project import Project

RUNS = [
    "data_stores-add-update-record@0.0.9",
    "data_stores-get-record-or-create@0.0.10",
    "email-send-email-to-self@0.4.4",
    "filter-continue-based-on-condition@0.0.2",
    "filter-end-based-on-condition@0.0.1",
    "http-custom-request@1.1.1",
]
NAMED = [
    ("google_sheets-add-single-row@2.1.2", "pdkernel project set actions connect"),
    ("helper_functions-download-file-to-tmp@0.3.0", "@pipedream/helper_functions"),
    ("helper_functions-random-item-from-list@0.0.3", "@pipedream/helper_functions"),
    ("slack-send-message-public-channel@0.2.17", "@pipedream/slack"),
]


@pytest.mark.parametrize("uses", RUNS)
def test_built_in(project: Project, uses: str) -> None:
    """The action is built in."""
    wanted = ActionReference.parse(uses)

    assert Catalog.for_project(project, environ={}).resolve(wanted.key, wanted.version).source == "built in"


@pytest.mark.parametrize(("uses", "source"), NAMED)
def test_not_built_in(project: Project, uses: str, source: str) -> None:
    """The action is not built in, and the message names a source that can run it."""
    wanted = ActionReference.parse(uses)

    with pytest.raises(ActionNotFoundError) as caught:
        Catalog.for_project(project, environ={}).resolve(wanted.key, wanted.version)

    assert source in caught.value.fix
