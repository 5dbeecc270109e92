"""`pdkernel migrate`."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import Shell
from tests.connect.upstream import Upstream
from tests.migration.omissions import API_WORKFLOW, OMISSIONS, write_workflow


def test_a_report_as_text_json_and_page(pdkernel: Shell) -> None:
    """The three forms have the same workflows; a folder and its report need no login."""
    write_workflow(pdkernel.folder / "synced", "Orders", OMISSIONS["Node variable"])

    text = pdkernel("migrate", "report", "synced", "--html", "report.html")
    written = pdkernel("migrate", "report", "synced", "--json")

    assert (text.status, written.status) == (0, 0)
    assert "pdkernel env set NODE_TOKEN" in text.stdout
    assert [row["name"] for row in written.json["workflows"]] == ["Orders"]
    assert "pdkernel env set NODE_TOKEN" in (pdkernel.folder / "report.html").read_text()


def test_a_report_over_the_api(pdkernel: Shell, upstream: Upstream) -> None:
    """An id is read at Pipedream, with the login of the environment."""
    upstream.workflows["p_Api1234"] = API_WORKFLOW

    environ: Any = upstream.environ
    done = pdkernel("migrate", "report", "p_Api1234", "--json", **environ)

    assert (done.status, done.json["workflows"][0]["id"]) == (0, "p_Api1234")


def test_an_id_without_a_login_is_refused(pdkernel: Shell) -> None:
    """The error names the command that logs in."""
    refused = pdkernel("migrate", "report", "p_Api1234")

    assert refused.status == 2
    assert "pdkernel login" in refused.stderr


def test_a_page_that_cannot_be_written_is_refused(pdkernel: Shell) -> None:
    """A folder that does not exist is named, and the exit status is 2."""
    write_workflow(pdkernel.folder / "synced", "Orders", OMISSIONS["Node variable"])

    refused = pdkernel("migrate", "report", "synced", "--html", "gone/report.html")

    assert refused.status == 2
    assert "gone/report.html" in refused.stderr
