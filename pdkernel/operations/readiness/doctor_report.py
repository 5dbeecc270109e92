"""The report of `pdkernel doctor` about a workflow: missing requirements, a lookup preview and a readiness matrix."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Self

from msgspec.structs import replace

from pdkernel.actions import Catalog
from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import Directory, Environment
from pdkernel.common.lookup import Lookup
from pdkernel.files.definition import Sidecar, lint_workflow
from pdkernel.files.definition.lint import Finding
from pdkernel.model import Workflow
from pdkernel.operations.importer import build_import_report
from pdkernel.operations.importer.import_report import ImportReport
from pdkernel.operations.readiness import matrix as matrix_view
from pdkernel.operations.readiness.matrix import ReadinessMatrix, build_matrix, preview_lookup
from pdkernel.operations.readiness.requirements import (
    MissingRequirement,
    find_missing_requirements,
    find_unanswered_accounts,
    format_missing_requirements,
)
from pdkernel.render import lookup as lookup_view
from pdkernel.render.files import format_findings
from pdkernel.render.markup import escape_control_characters

SHARED_WORKERS_NOTE = (
    "share_workers: always. Runs of this workflow for different external users use the same processes."
)


def _mention_pin(item: MissingRequirement) -> MissingRequirement:
    """Return *item*, a missing action or missing code of a step, with the effect of the step's pin."""
    note = f"The step is pinned in the notebook: %pdrun does not run it, and pdkernel run needs --pin {item.name}=FILE."
    return replace(item, message=f"{item.message} {note}")


class DoctorReport(JsonStruct, frozen=True):
    """
    The findings about a workflow.

    Attributes:
        missing_requirements: What the workflow needs and the project lacks.
        import_report: The parts of the workflow.
        is_imported: Whether the workflow comes from a synced folder; its text then includes *import_report*.
        lookup: The lookup for one external user; None if not requested or no account is needed.
        matrix: The readiness matrix, or None if not requested.
        lint_findings: Findings to check before a deployment.
        shares_workers: Whether the workflow has `share_workers: always`.
        not_served: The reason why `serve` does not serve the workflow, or None.
    """

    missing_requirements: Sequence[MissingRequirement]
    import_report: ImportReport
    is_imported: bool = False
    lookup: Lookup | None = None
    matrix: ReadinessMatrix | None = None
    lint_findings: Sequence[Finding] = ()
    shares_workers: bool = False
    not_served: str | None = None

    @classmethod
    def collect(
        cls,
        workflow: Workflow,
        *,
        directory: Directory,
        catalog: Catalog,
        variables: Mapping[str, str],
        environment: Environment,
        external_user_id: str | None = None,
        test_users: Sequence[str] = (),
        include_matrix: bool = False,
        matrix_search: str = "",
        sidecar: Sidecar | None = None,
        pinned_steps: Collection[str] = (),
        not_served: str | None = None,
    ) -> Self:
        """
        Collect the findings about *workflow* without running code.

        Args:
            workflow: The workflow to check.
            directory: Users and accounts of the project.
            catalog: Pre-built actions of the project.
            variables: Environment variables that are set.
            environment: Environment of the users.
            external_user_id: Check only this user, and include their lookup.
            test_users: The workflow's test users, the default if no user is named.
            include_matrix: Whether to build the matrix.
            matrix_search: The matrix has only users whose id, or the name of one of whose accounts, contains this text.
            sidecar: The `pdkernel.yaml` beside the workflow, with the owners of accounts.
            pinned_steps: Steps that are pinned in the notebook.
            not_served: The reason why `serve` does not serve the workflow, or None.
        """
        named = (external_user_id,) if external_user_id is not None else ()
        explained = None
        if external_user_id is not None:
            explained = preview_lookup(
                workflow,
                directory=directory,
                catalog=catalog,
                environment=environment,
                external_user_id=external_user_id,
            ).lookup
        matrix = None
        if include_matrix:
            matrix = build_matrix(
                workflow,
                directory=directory,
                catalog=catalog,
                environment=environment,
                users=named,
                test_users=test_users,
                search=matrix_search,
            )
        missing = find_missing_requirements(
            workflow,
            directory=directory,
            catalog=catalog,
            variables=variables,
            users=named or test_users,
            environment=environment,
        )
        choices = {name: settings.accounts for name, settings in sidecar.steps.items()} if sidecar is not None else None
        report = build_import_report(workflow, catalog, choices=choices)
        missing += find_unanswered_accounts(report, sidecar)
        missing = [_mention_pin(item) if item.name in pinned_steps else item for item in missing]
        return cls(
            missing,
            report,
            is_imported="schema" in workflow.extra,
            lookup=explained,
            matrix=matrix,
            lint_findings=lint_workflow(workflow, sidecar),
            shares_workers=workflow.settings.get("share_workers") == "always",
            not_served=not_served,
        )

    def json_form(self) -> object:
        """Return `{"ready", "missing", "report", "findings"}`, with "lookup", "matrix", "shares_workers" and "not_served" where they apply."""
        return {
            "ready": not self.missing_requirements,
            "missing": self.missing_requirements,
            "report": self.import_report,
            "findings": self.lint_findings,
            **({"shares_workers": True} if self.shares_workers else {}),
            **({"not_served": self.not_served} if self.not_served else {}),
            **({"lookup": self.lookup} if self.lookup else {}),
            **({"matrix": self.matrix.json_form()} if self.matrix else {}),
        }

    def format_text(self, source: str) -> str:
        """Format the report about *source* as text."""
        needs = (
            f"{source} needs:\n{format_missing_requirements(self.missing_requirements)}"
            if self.missing_requirements
            else f"{source} is ready to run."
        )
        parts = [f"{needs}\n"]
        if self.not_served:
            parts.append(f"`pdkernel serve` does not serve it: {self.not_served}\n")
        if self.shares_workers:
            parts.append(f"{SHARED_WORKERS_NOTE}\n")
        if self.is_imported:
            parts.append(f"Contents:\n{self.import_report.render_text()}")
        if self.lint_findings:
            parts.append("\n".join(format_findings(self.lint_findings)) + "\n")
        if self.lookup is not None:
            parts.append(lookup_view.render_output(self.lookup).text)
        if self.matrix is not None:
            parts.append(matrix_view.render_text(self.matrix))
        return escape_control_characters("\n".join(parts))
