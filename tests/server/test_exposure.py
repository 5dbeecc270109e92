"""The checks before the server listens at an address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition import Sidecar
from pdkernel.files.source import WorkflowSource
from pdkernel.model import Trigger
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.exposure import check_exposure, check_isolation, is_loopback
from pdkernel.storage import Project
from pdkernel.workers import Isolation
from tests.builders import a_workflow, python_step

OPEN = a_workflow(python_step())
CLOSED = replace(OPEN, triggers=(Trigger(auth="oauth"),))


def notebook(workflow: object) -> ServedWorkflow:
    """Serve *workflow* as a notebook."""
    return ServedWorkflow("p_1", "eo1", WorkflowSource(Path("a.ipynb"), "notebook", workflow))  # type: ignore[arg-type]


def folder(workflow: object, sidecar: Sidecar | None = None) -> ServedWorkflow:
    """Serve *workflow* as a synced folder."""
    return ServedWorkflow(
        "p_1",
        "eo1",
        WorkflowSource(Path("a-p_1"), "folder", workflow, sidecar, ("no account is needed",)),  # type: ignore[arg-type]
    )


PUBLIC = "https://hooks.example.com"


def test_what_is_served_without_a_warning(project: Project) -> None:
    """A trigger without auth on loopback; with auth also behind a public URL, and at another address with an OAuth client."""
    closed, other = [notebook(CLOSED), folder(CLOSED, Sidecar())], "0.0.0.0"

    assert check_exposure("127.0.0.1", [notebook(OPEN)], project) == []
    assert check_exposure("127.0.0.1", closed, project, public_url=PUBLIC) == []
    assert check_exposure(other, closed, project, has_pipedream_login=True) == []
    project.oauth_clients.create("one")
    assert check_exposure(other, closed, project) == []


def test_every_http_trigger_requires_auth(project: Project) -> None:
    """A trigger without auth is refused, and named behind a public URL, also if it is not the first of its workflow."""
    project.oauth_clients.create("one")
    second = notebook(replace(OPEN, triggers=(Trigger("schedule"), Trigger(auth="none"))))

    warnings = check_exposure("127.0.0.1", [second], project, public_url=PUBLIC)
    with pytest.raises(RequestError, match="requires no auth"):
        check_exposure("0.0.0.0", [second], project)

    assert len(warnings) == 1


def test_another_address_requires_an_oauth_client(project: Project) -> None:
    """Without an OAuth client, another address than loopback is refused."""
    with pytest.raises(RequestError, match="no OAuth client"):
        check_exposure("0.0.0.0", [notebook(CLOSED)], project)


def test_a_folder_without_pdkernel_yaml_is_served_on_loopback_only(project: Project) -> None:
    """Each synced folder without pdkernel.yaml is served on loopback with a warning of its own."""
    project.oauth_clients.create("one")
    warnings = check_exposure("127.0.0.1", [folder(CLOSED), folder(CLOSED, Sidecar()), folder(CLOSED)], project)
    with pytest.raises(RequestError, match="on this machine only"):
        check_exposure("192.0.2.1", [folder(CLOSED)], project)

    assert ["no account is needed" in warning for warning in warnings] == [True, True]


COMPLETE = Isolation(namespaces=True, landlock=True)
INCOMPLETE = Isolation(landlock=True, reasons=(("namespaces", "Operation not permitted"),))


def test_complete_isolation_is_no_reason_to_refuse() -> None:
    """With every protection, no address and no option is refused."""
    assert check_isolation("0.0.0.0", COMPLETE, is_required=True, accepts_gaps=False) == []


@pytest.mark.parametrize(("host", "accepts"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_missing_isolation_is_warned_of(host: str, accepts: bool) -> None:
    """On loopback, or if it is accepted, a missing protection is a warning with its reason."""
    (warning,) = check_isolation(host, INCOMPLETE, is_required=False, accepts_gaps=accepts)

    assert warning.startswith("Isolation is incomplete: namespaces are not available (Operation not permitted).")


@pytest.mark.parametrize(("host", "required"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_missing_isolation_is_refused(host: str, required: bool) -> None:
    """A missing protection is refused if isolation is required, or if other machines can call."""
    with pytest.raises(RequestError, match="solation is incomplete"):
        check_isolation(host, INCOMPLETE, is_required=required, accepts_gaps=False)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("", False), ("10.0.0.1", False), ("localhost.example", False), ("box.lan", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    """Loopback addresses and `localhost` are reached by this machine only."""
    assert is_loopback(host) is expected


def test_the_messages_name_every_open_workflow(project: Project) -> None:
    """The refusal and the warning name each workflow that every client could start, and no other."""
    served = [notebook(replace(workflow, name=name)) for name, workflow in (("A", OPEN), ("B", CLOSED), ("C", OPEN))]
    with pytest.raises(RequestError, match=r"every client could start 'A', 'C': ") as refused:
        check_exposure("0.0.0.0", served, project)
    (warning,) = check_exposure("127.0.0.1", served, project, public_url=PUBLIC)

    assert warning.startswith(f"Every client that reaches {PUBLIC} ")
    assert warning.endswith("can start 'A', 'C': the trigger requires no auth.")
    assert "auth: oauth" in (refused.value.fix or "")
