"""The report of `pdkernel doctor` about a workflow."""

from __future__ import annotations

import json

from pdkernel.lookup import Lookup
from pdkernel.readiness.doctor_report import DoctorReport
from pdkernel.readiness.requirements import MissingRequirement
from pdkernel.render.files import Finding
from pdkernel.render.import_report import ImportReport
from pdkernel.render.matrix import MatrixCell, MatrixRow, ReadinessMatrix


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
