"""Notebooks whose exports are proven, each in its own folder and project."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.proof.prover import ExportedNotebook, run_proof
from pdkernel.annex.proof.report import Proof, StepVerdict
from pdkernel.files.definition import DefinitionFile, Sidecar, dump_sidecar, plan_files
from pdkernel.files.source import load_source
from pdkernel.storage import Project
from tests.builders import an_event
from tests.notebook_files import notebook_of

Files = tuple[DefinitionFile, ...]
Mutation = Callable[[Files], Files]


def unchanged(files: Files) -> Files:
    """The planned files, unchanged."""
    return files


class Notebook:
    """A notebook, its events, its project, and the folder of its export."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "work.ipynb"
        self.flow = folder / "flow"
        self.project = Project.open(folder / ".pdkernel")
        self.directory = LocalDirectory(self.project)

    def write(self, *cells: str, sidecar: Sidecar | None = None) -> None:
        """Write the notebook, and the `pdkernel.yaml` beside it."""
        notebook_of(self.path, *cells)
        if sidecar is not None:
            (self.folder / "work.pdkernel.yaml").write_text(dump_sidecar(sidecar), encoding="utf-8")

    def event(self, name: str = "hello", body: Any = None, **keys: Any) -> Path:
        """Save an event."""
        path = self.folder / "events" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(dict(an_event(body, **keys).data)), encoding="utf-8")
        return path

    def record(self, event: str, *calls: Mapping[str, Any]) -> None:
        """Write recorded calls of *event*: `{"step", "method", "url", "body"}`, each with the response *answer*."""
        from pdkernel.common.redaction import Redactor
        from pdkernel.egress.recording import CallRedactor, RecordingFile

        recording = RecordingFile(self.folder / "events" / f"{event}.recorded.jsonl")
        call_redactor, no_secrets = CallRedactor(), Redactor()
        for call in calls:
            headers = [(b"content-type", b"application/json")]
            body = json.dumps(call["body"]).encode() if "body" in call else b""
            asked = call_redactor.redact_request(call["method"], call["url"], headers if body else [], body, no_secrets)
            answer = call_redactor.redact_response(200, b"OK", headers, json.dumps(call["answer"]).encode(), no_secrets)
            recording.add(call["step"], call.get("nth", 0), asked, answer, 1.0)

    def export(self, change: Mutation = unchanged) -> None:
        """Write the planned files, modified by *change*."""
        opened = load_source(self.path)
        for file in change(plan_files(opened.workflow, sidecar=opened.sidecar)):
            path = self.flow / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.text.encode())

    def prove(self, change: Mutation = unchanged, **choices: Any) -> Proof:
        """Export and prove."""
        self.export(change)
        return self.prove_again(**choices)

    def prove_again(self, **choices: Any) -> Proof:
        """Prove the exported files."""
        opened = load_source(self.path)
        exported = ExportedNotebook(self.path, opened.workflow, opened.sidecar, self.project, self.directory, **choices)
        return asyncio.run(run_proof(exported, self.flow))


def verdicts(proof: Proof) -> dict[str, list[str]]:
    """The verdicts of each run, by event and user, the whole run last."""
    return {
        f"{case.event}/{case.external_user or ''}": [step.verdict for step in (*case.steps, case.run_verdict)]
        for case in proof.cases
    }


def found_in(proof: Proof, step: str) -> StepVerdict:
    """The differences of *step* in the first run."""
    case = proof.cases[0]
    return next(each for each in (*case.steps, case.run_verdict) if each.step == step)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    """A notebook in an empty folder."""
    made = Notebook(tmp_path)
    yield made
    made.project.close()
