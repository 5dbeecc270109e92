"""
What `doctor` finds out about a workflow: what is missing, one external user's look-up, everybody's matrix.

Knows which of them were asked for. What each takes is for `missing` and `matrix` to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pdkernel.actions import Catalog
from pdkernel.definition import Sidecar, lint
from pdkernel.identity import Directory, Environment
from pdkernel.importing import report_on
from pdkernel.lookup import Lookup
from pdkernel.model import Workflow
from pdkernel.readiness.matrix import matrix, what_if
from pdkernel.readiness.missing import Missing, describe_missing, find_missing, missing_answers
from pdkernel.render import import_report
from pdkernel.render import lookup as lookup_view
from pdkernel.render import matrix as matrix_view
from pdkernel.render.files import Finding, findings_lines
from pdkernel.render.import_report import ImportReport
from pdkernel.render.matrix import Matrix


@dataclass(frozen=True)
class Findings:
    """
    What was found; *lookup* and *matrix* are None where they were not asked for or no account is needed.

    The *lint* says what to look at before it is deployed. The *report* says what the workflow consists of; *imported* that it came from a synced folder, so that it is told.
    """

    missing: Sequence[Missing]
    report: ImportReport
    imported: bool = False
    lookup: Lookup | None = None
    matrix: Matrix | None = None
    lint: Sequence[Finding] = ()

    @classmethod
    def of(
        cls,
        workflow: Workflow,
        *,
        directory: Directory,
        catalog: Catalog,
        variables: Mapping[str, str],
        environment: Environment,
        external_user_id: str | None = None,
        test_users: Sequence[str] = (),
        with_matrix: bool = False,
        sidecar: Sidecar | None = None,
    ) -> Self:
        """
        Look at *workflow*; runs no code.

        Args:
            workflow: What is to run.
            directory: Users and accounts of the project.
            catalog: Its pre-built actions.
            variables: Environment variables that are set.
            environment: Of the users.
            external_user_id: Look at this one only, and explain their look-up.
            test_users: The workflow's own, for where no one is named.
            with_matrix: Make the matrix, too.
            sidecar: The `pdkernel.yaml` beside it, which says whose accounts are unanswered.
        """
        named = (external_user_id,) if external_user_id is not None else ()
        explained = None
        if external_user_id is not None:
            explained = what_if(
                workflow,
                directory=directory,
                catalog=catalog,
                environment=environment,
                external_user_id=external_user_id,
            ).lookup
        table = None
        if with_matrix:
            table = matrix(
                workflow,
                directory=directory,
                catalog=catalog,
                environment=environment,
                users=named,
                test_users=test_users,
            )
        missing = find_missing(
            workflow,
            directory=directory,
            catalog=catalog,
            variables=variables,
            users=named or test_users,
            environment=environment,
        )
        choices = {name: said.accounts for name, said in sidecar.steps.items()} if sidecar is not None else None
        report = report_on(workflow, catalog, choices=choices)
        missing += missing_answers(report, sidecar)
        return cls(missing, report, "schema" in workflow.extra, explained, table, lint(workflow, sidecar))

    def to_json(self) -> dict[str, Any]:
        """`{"ready", "missing", "report", "findings"}` and, where they were asked for, "lookup" and "matrix"."""
        return {
            "ready": not self.missing,
            "missing": [item.to_json() for item in self.missing],
            "report": self.report.to_json(),
            "findings": [finding.to_json() for finding in self.lint],
            **({"lookup": self.lookup.to_json()} if self.lookup else {}),
            **({"matrix": self.matrix.to_json()} if self.matrix else {}),
        }

    def describe(self, source: str) -> str:
        """All of it as text, about *source*."""
        needs = f"{source} needs:\n{describe_missing(self.missing)}" if self.missing else f"{source} is ready to run."
        parts = [f"{needs}\n"]
        if self.imported:
            parts.append(f"What it holds:\n{import_report.text(self.report)}")
        if self.lint:
            parts.append("\n".join(["To look at before it is deployed:", *findings_lines(self.lint)]) + "\n")
        if self.lookup is not None:
            parts.append(lookup_view.view(self.lookup).text)
        if self.matrix is not None:
            parts.append(matrix_view.text(self.matrix))
        return "\n".join(parts)
