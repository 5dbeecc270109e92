"""The report of `pdkernel doctor` about a workflow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.common.lookup import Lookup
from pdkernel.files.definition import AccountChoice, Sidecar, StepSidecar
from pdkernel.files.definition.lint import Finding
from pdkernel.model import JSON, ROUND_TRIP_KEY, Step, Workflow
from pdkernel.operations.importer.import_report import ImportReport
from pdkernel.operations.readiness import matrix as matrix_view
from pdkernel.operations.readiness.doctor_report import DoctorReport
from pdkernel.operations.readiness.matrix import MatrixCell, MatrixRow, ReadinessMatrix
from pdkernel.operations.readiness.requirements import MissingRequirement
from pdkernel.render import lookup as lookup_view
from pdkernel.storage import Project
from tests.builders import a_workflow, python_step


def test_json_of_a_report() -> None:
    """The lookup and the matrix are in the JSON if they were requested."""
    parts = ImportReport("Greet")
    matrix = ReadinessMatrix("Greet", "development", (), (MatrixRow(None, MatrixCell("", "ready"), ()),))
    lookup = Lookup("ada", "development")
    whole = DoctorReport(
        (MissingRequirement("variable", "TOKEN", "Step a reads TOKEN.", "pdkernel env set TOKEN"),),
        parts,
        lookup=lookup,
        matrix=matrix,
        lint_findings=(Finding("limit", "a", 2, None, "Too long.", "Change it."),),
    )

    assert json.dumps(whole.to_json()) == json.dumps(
        {
            "ready": False,
            "missing": [
                {
                    "kind": "variable",
                    "name": "TOKEN",
                    "message": "Step a reads TOKEN.",
                    "command": "pdkernel env set TOKEN",
                }
            ],
            "report": parts.to_json(),
            "findings": [
                {
                    "rule": "limit",
                    "step": "a",
                    "cell": 2,
                    "line": None,
                    "message": "Too long.",
                    "fix": "Change it.",
                    "file": None,
                }
            ],
            "lookup": lookup.to_json(),
            "matrix": matrix.to_json(),
        }
    )
    assert DoctorReport((), parts, shares_workers=True).to_json()["shares_workers"] is True
    assert DoctorReport((), parts, not_served="It is inactive.").to_json()["not_served"] == "It is inactive."
    assert json.dumps(DoctorReport((), parts).to_json()) == json.dumps(
        {"ready": True, "missing": [], "report": parts.to_json(), "findings": []}
    )


WORKFLOW = a_workflow(python_step("say", options="--app slack"))


def collected(project: Project, workflow: Workflow = WORKFLOW, **choices: Any) -> DoctorReport:
    """The report on *workflow* in *project*."""
    return DoctorReport.collect(
        workflow,
        directory=LocalDirectory(project),
        catalog=Catalog.for_project(project, environ={}),
        variables={},
        environment=choices.pop("environment", "development"),
        **choices,
    )


@pytest.mark.parametrize(
    ("choices", "checked", "rows"),
    [
        ({"external_user_id": "grace", "test_users": ("joan",)}, ["grace"], ["grace"]),
        ({"test_users": ("joan",)}, ["joan"], ["joan", "ada"]),
        ({}, [], ["ada"]),
    ],
)
def test_the_users_of_a_report(
    project: Project, directory: LocalDirectory, choices: dict[str, Any], checked: list[str], rows: list[str]
) -> None:
    """A named user is the only one; else the test users are checked, and the matrix has the project's users too."""
    directory.add_account(app="slack", credentials={"oauth_access_token": "xoxb-0123456789"}, external_user_id="ada")

    report = collected(project, include_matrix=True, **choices)

    assert [item.name for item in report.missing_requirements] == checked
    assert report.matrix is not None
    assert [row.external_user_id for row in report.matrix.rows] == rows
    assert (report.lookup is not None) == ("external_user_id" in choices)


def test_a_report_on_production(project: Project, directory: LocalDirectory) -> None:
    """The lookup, the matrix and the requirements are those of the environment."""
    directory.add_account(
        app="slack",
        credentials={"oauth_access_token": "xoxb-0123456789"},
        external_user_id="ada",
        environment="production",
    )

    report = collected(project, environment="production", external_user_id="ada", include_matrix=True)

    assert report.lookup is not None
    assert report.matrix is not None
    assert (report.lookup.environment, report.lookup.failed, report.matrix.environment) == (
        "production",
        None,
        "production",
    )
    assert list(report.missing_requirements) == []
    text = report.format_text("flow")
    assert lookup_view.render_output(report.lookup).text in text
    assert matrix_view.render_text(report.matrix) in text


def test_only_the_pinned_step_mentions_its_pin(project: Project) -> None:
    """Of the steps without their action or code, only the reports on those that are pinned in the notebook mention the pin."""
    lost: dict[str, JSON] = {ROUND_TRIP_KEY: {"missing": True}}
    workflow = a_workflow(
        Step("act", uses="@acme/do_it@0.0.9"),
        Step("other", uses="@acme/do_it@0.0.9"),
        Step("lost", "node", extra=lost),
        Step("gone", "node", extra=lost),
    )

    missing = collected(project, workflow, pinned_steps={"act", "lost"}).missing_requirements

    assert [(item.name, "is pinned in the notebook" in item.message) for item in missing] == [
        ("act", True),
        ("other", False),
        ("lost", True),
        ("gone", False),
    ]


def test_the_file_beside_the_workflow_answers_for_accounts(project: Project, directory: LocalDirectory) -> None:
    """`pdkernel.yaml` decides whose account a prop has, and whether an answer is missing."""

    def parts(account: str) -> tuple[list[str], list[str]]:
        sidecar = Sidecar(steps={"say": StepSidecar(accounts={"slack": AccountChoice(account)})})
        report = collected(project, sidecar=sidecar)
        return [use.account for use in report.import_report.accounts], [
            item.kind for item in report.missing_requirements if item.kind == "answer"
        ]

    directory.add_account(app="slack", credentials={"oauth_access_token": "xoxb-0123456789"}, external_user_id="ada")
    assert parts("unanswered") == (["unanswered"], ["answer"])
    assert parts("apn_1") == (["apn_1"], [])


def test_what_a_report_says_about_the_workflow(project: Project) -> None:
    """The text lists the contents of a synced folder only, shared workers only if always shared, and why nothing is served."""
    plain = a_workflow(python_step("say"), share_workers="never")
    synced = replace(plain, extra={"schema": "1"}, settings={"share_workers": "always"})

    text = collected(project, replace(plain, extra={"other": 1})).format_text("a.ipynb")
    of_folder = collected(project, synced, not_served="Its secrets have no values.").format_text("folder")

    assert text == "a.ipynb is ready to run.\n"
    assert of_folder.startswith(
        "folder is ready to run.\n\n`pdkernel serve` does not serve it: Its secrets have no values."
    )
    assert "share_workers: always" in of_folder
    assert "Contents:\n" in of_folder


def test_a_report_cannot_control_the_terminal() -> None:
    """Control characters of foreign names are shown as text in requirements, findings and the reason against serving."""
    name = "\x1b]0;owned\x07"
    report = DoctorReport(
        (MissingRequirement("unsupported", name, f"{name} has no uses.", f"fix {name}"),),
        ImportReport("Greet"),
        lint_findings=(Finding("git-form", name, None, None, f"Control flow {name}"),),
        not_served=f"{name} has no uses.",
    )

    text = report.format_text("folder")

    assert text.count("\\x1b]0;owned\\x07") == 5
    assert text.isascii()
    assert all(line.isprintable() for line in text.split("\n"))


def test_findings_do_not_make_a_workflow_unready(project: Project) -> None:
    """A finding is for a deployment: the workflow runs here."""
    report = collected(project, a_workflow(python_step("say", "return pd.steps['gone']")))

    assert [finding.rule for finding in report.lint_findings] == ["reference"]
    assert report.to_json()["ready"] is True
